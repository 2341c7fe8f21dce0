//! What stands where an entry is to go, and what that means: nothing to do, a content to compare, an entry
//! to replace, or a refusal. It changes nothing but permission bits.

use std::fs::File;
use std::os::fd::AsFd as _;

use rustix::fs::{self, FileType, Mode, OFlags};

use super::digest::FileDigest;
use super::error::Failure;
use super::metadata::{self, Metadata, special_name};
use super::partial::{Target, hash_prefix};
use super::wire::{ErrorCode, Held};

/// A file that stands at its place already and may be what the sender offers. It is not kept open while
/// the sender compares: many may wait at a time.
#[derive(Clone, Copy)]
pub(super) struct Existing {
    found: Metadata,
    pub held: Held,
}

/// What was found at a file's place
pub(super) enum Found {
    /// Nothing, or something a rename may replace
    Free,
    /// The same file
    Same,
    /// A file of the same size, to be compared by content
    Candidate(Existing),
}

/// Refuses what a rename must not, or could not, replace
pub(super) fn refuse_irreplaceable(target: &Target, found: &Metadata) -> Result<(), Failure> {
    let path = &target.path;
    match found.kind {
        FileType::RegularFile | FileType::Symlink => Ok(()),
        FileType::Directory => {
            let text = format_args!("'{path}' is a directory at the destination");
            Err(Failure::new(ErrorCode::IsADirectory, text))
        }
        special => {
            let what = special_name(special);
            let text = format_args!("'{path}' is {what} at the destination and is not replaced");
            Err(Failure::new(ErrorCode::SpecialFile, text))
        }
    }
}

/// Looks at a file's place
pub(super) fn look(target: &Target, verify_existing: bool) -> Result<Found, Failure> {
    let failed = |error| Failure::io("read", &target.path, error);
    let Some(found) = Metadata::at(&target.parent, &target.name).map_err(failed)? else {
        return Ok(Found::Free);
    };
    refuse_irreplaceable(target, &found)?;
    let comparable = found.kind == FileType::RegularFile && found.size == target.size;
    if !comparable || !(verify_existing || found.modified == target.modified) {
        return Ok(Found::Free);
    }
    if !verify_existing {
        if !metadata::has_file_mode(&found, target.mode) {
            let file = open(target)?;
            metadata::set_file_mode(file.as_fd(), target.mode).map_err(failed)?;
        }
        return Ok(Found::Same);
    }
    if target.size == 0 {
        // Nothing to compare: writing it anew is cheaper than asking.
        return Ok(Found::Free);
    }
    let file = open(target)?;
    let mut digest = FileDigest::new();
    let failed = |error| Failure::io("read", &target.path, error);
    if !hash_prefix(&file, target.size, &mut digest).map_err(failed)? {
        return Ok(Found::Free);
    }
    let held = Held { bytes: target.size, digest: digest.current().map_err(failed)? };
    Ok(Found::Candidate(Existing { found, held }))
}

fn open(target: &Target) -> Result<File, Failure> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::openat(&target.parent, &*target.name, flags, Mode::empty())
        .map(File::from)
        .map_err(|error| Failure::io("open", &target.path, error))
}

impl Existing {
    /// The sender holds the same content: mode and time become the sender's
    pub fn confirm(&self, target: &Target) -> Result<(), Failure> {
        let failed = |error| Failure::io("set mode and time of", &target.path, error);
        let file = open(target)?;
        if Metadata::of(&file).map_err(failed)? != self.found {
            let text = format_args!("'{}' changed while it was compared", target.path);
            return Err(Failure::new(ErrorCode::Busy, text));
        }
        metadata::apply_to_file(&file, target.mode, target.modified).map_err(failed)
    }
}
