//! Creating a journal, and opening one: lock, check, cut off what a crash left half-written, and write down
//! what is durable now.

use std::error::Error;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use super::Opened;
use super::error::{Damage, OpenError};
use super::format::{Chain, Entry, Fault, JournalId, SegmentHeader};
use super::manifest::{self, Manifest};
use super::scan::segment_path;
use super::walk::{TornTail, Visitor, Walked, is_begun, walk};
use super::writer::Position;
use crate::lock::Lock;

/// A journal whose files are in order and whose end is known
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) journal: JournalId,
    pub(super) at: Position,
    pub(super) opened: Opened,
    pub(super) lock: Lock,
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> OpenError + '_ {
    |source| OpenError::Io { path: path.to_owned(), source }
}

fn lock(directory: &Path) -> Result<Lock, OpenError> {
    let path = directory.join("lock");
    let lock = Lock::take(&path).map_err(io_error(&path))?;
    lock.ok_or_else(|| OpenError::Locked(directory.to_owned()))
}

pub(super) fn create(directory: &Path) -> Result<JournalId, OpenError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(io_error(directory))?;
    let _lock = lock(directory)?;
    let manifest_path = manifest::path(directory);
    let there = manifest_path.try_exists().map_err(io_error(&manifest_path))?;
    // A first segment without entries can be what a crash left of an earlier attempt.
    if there || is_begun(directory).map_err(io_error(directory))? {
        return Err(OpenError::Exists(directory.to_owned()));
    }
    let journal = JournalId::random();
    let header = SegmentHeader { journal, index: 1, first_sequence: 1, previous: Chain::default() };
    let (bytes, known_chain) = header.encode();
    let path = segment_path(directory, 1);
    manifest::write_file(&path, &bytes).map_err(io_error(&path))?;
    manifest::sync_directory(directory).map_err(io_error(directory))?;
    let manifest =
        Manifest { journal, last_segment: 1, known_sequence: 0, known_chain, clean: true };
    write_manifest(directory, &manifest)?;
    // The directory itself may be new, and its entry is in the one above.
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    manifest::sync_directory(parent).map_err(io_error(parent))?;
    Ok(journal)
}

pub(super) fn open<V>(directory: &Path, visit: V) -> Result<Ready, OpenError>
where
    V: FnMut(Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>>,
{
    if !directory.is_dir() {
        return Err(OpenError::NotThere(directory.to_owned()));
    }
    // Before anything is created in a directory that may be another one's.
    read_manifest(directory)?;
    let lock = lock(directory)?;
    let manifest = read_manifest(directory)?;
    forget_cached(&segment_path(directory, manifest.last_segment))?;
    let walked = walk(directory, &manifest, &mut Opening(visit))?;
    remove_leftovers(directory, &manifest, &walked)?;
    let at = walked.end;
    let now_known = Manifest {
        last_segment: at.segment,
        known_sequence: at.next_sequence - 1,
        known_chain: at.chain,
        clean: false,
        ..manifest
    };
    write_manifest(directory, &now_known)?;
    let opened = Opened {
        entries: walked.entries,
        segments: walked.segments,
        closed_cleanly: manifest.clean,
        torn_tail: walked.torn,
    };
    Ok(Ready { journal: manifest.journal, at, opened, lock })
}

fn read_manifest(directory: &Path) -> Result<Manifest, OpenError> {
    let path = manifest::path(directory);
    match Manifest::read(directory) {
        Ok(Ok(manifest)) => Ok(manifest),
        Ok(Err(fault)) => Err(Damage { file: path, offset: 0, fault }.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if is_begun(directory).map_err(io_error(directory))? {
                return Err(Damage { file: path, offset: 0, fault: Fault::Manifest }.into());
            }
            Err(OpenError::NotThere(directory.to_owned()))
        }
        Err(error) => Err(io_error(&path)(error)),
    }
}

/// Makes the last segment be read from the disk. After a failed sync the page cache can hold, marked clean,
/// what the disk does not: whoever reads that back takes lost entries for durable ones. Older segments need
/// none of it: the manifest that names a later one was written when they were durable.
fn forget_cached(path: &Path) -> Result<(), OpenError> {
    let file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        // The walk says which segment is missing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(path)(error)),
    };
    // What a killed process wrote and never synced is shown to the caller below: it has to be durable by then.
    file.sync_all().map_err(io_error(path))?;
    let dropped = fadvise(&file, 0, None, Advice::DontNeed);
    dropped.map_err(|error| io_error(path)(error.into()))
}

/// Removes what a crash left: half a group, or a segment that never came into use
fn remove_leftovers(
    directory: &Path,
    manifest: &Manifest,
    walked: &Walked,
) -> Result<(), OpenError> {
    if let Some(TornTail { file: path, offset, bytes, fault }) = &walked.torn {
        tracing::warn!(path = %path.display(), offset, bytes, %fault, "unfinished group cut off");
        let file = OpenOptions::new().write(true).open(path).map_err(io_error(path))?;
        file.set_len(*offset).map_err(io_error(path))?;
        file.sync_all().map_err(io_error(path))?;
    }
    if let Some(path) = &walked.unborn {
        let after = manifest.last_segment;
        tracing::warn!(path = %path.display(), after, "segment that never came into use removed");
        std::fs::remove_file(path).map_err(io_error(path))?;
        File::open(directory).and_then(|file| file.sync_all()).map_err(io_error(directory))?;
    }
    Ok(())
}

fn write_manifest(directory: &Path, manifest: &Manifest) -> Result<(), OpenError> {
    let (next, path): (PathBuf, PathBuf) =
        (manifest::next_path(directory), manifest::path(directory));
    manifest::write_file(&next, &manifest.encode()).map_err(io_error(&next))?;
    std::fs::rename(&next, &path).map_err(io_error(&path))?;
    manifest::sync_directory(directory).map_err(io_error(directory))
}

/// Stops at the first damage
struct Opening<V>(V);

impl<V> Visitor for Opening<V>
where
    V: FnMut(Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>>,
{
    type Stop = OpenError;

    fn entry(&mut self, entry: Entry<'_>) -> Result<(), OpenError> {
        let sequence = entry.sequence;
        (self.0)(entry).map_err(|reason| OpenError::Refused { sequence, reason })
    }

    fn damage(&mut self, damage: Damage) -> Result<(), OpenError> {
        Err(damage.into())
    }

    fn unreadable(&mut self, path: &Path, error: io::Error) -> OpenError {
        io_error(path)(error)
    }
}
