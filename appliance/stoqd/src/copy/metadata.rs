//! What this service reads of and writes to a file's inode: kind, size, permission bits, modification time.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::wire::Modified;

/// Set-user-id and set-group-id never travel into effect: the owner does not travel either.
const FILE_MODE_MASK: u16 = 0o777;

/// Directories may keep the sticky bit, which gives nobody more than before.
const DIRECTORY_MODE_MASK: u16 = 0o1777;

/// What is known of an inode
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Metadata {
    pub kind: FileType,
    pub size: u64,
    pub mode: u16,
    pub modified: Modified,
    pub inode: (u64, u64),
    pub links: u64,
    pub owner: u32,
}

impl Metadata {
    /// Of an open file
    pub fn of(file: impl AsFd) -> Result<Self, Errno> {
        fs::fstat(file).map(|stat| Self::from(&stat))
    }

    /// Of a name in a directory, without following it; `None` if nothing is there
    pub fn at(directory: impl AsFd, name: &[u8]) -> Result<Option<Self>, Errno> {
        match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Self::from(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl From<&Stat> for Metadata {
    #[expect(clippy::unnecessary_cast, reason = "the field types differ between architectures")]
    fn from(stat: &Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode as _),
            // The kernel never reports a negative size of a regular file.
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: (stat.st_mode & 0o7777) as u16,
            modified: Modified {
                seconds: stat.st_mtime as i64,
                nanoseconds: stat.st_mtime_nsec as u32,
            },
            inode: (stat.st_dev as u64, stat.st_ino as u64),
            links: stat.st_nlink as u64,
            owner: stat.st_uid as u32,
        }
    }
}

/// The times to set: the modification time as given, the access time as it is
fn timestamps(modified: Modified) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: modified.seconds,
            tv_nsec: modified.nanoseconds.into(),
        },
    }
}

/// Gives a file its permission bits and time
pub(super) fn apply_to_file(file: impl AsFd, mode: u16, modified: Modified) -> Result<(), Errno> {
    let file = file.as_fd();
    set_file_mode(file, mode)?;
    fs::futimens(file, &timestamps(modified))
}

/// Gives a file its permission bits, if it has others
pub(super) fn set_file_mode(file: BorrowedFd<'_>, mode: u16) -> Result<(), Errno> {
    fs::fchmod(file, Mode::from_raw_mode(u32::from(mode & FILE_MODE_MASK)))
}

/// Whether a file already has the permission bits it would be given
pub(super) fn has_file_mode(metadata: &Metadata, mode: u16) -> bool {
    metadata.mode == mode & FILE_MODE_MASK
}

/// Gives a directory its permission bits and time; a set-group-id bit inherited from the directory above
/// stays, as it decides the group of later files
pub(super) fn apply_to_directory(
    directory: impl AsFd,
    mode: u16,
    modified: Modified,
) -> Result<(), Errno> {
    let directory = directory.as_fd();
    let inherited = Metadata::of(directory)?.mode & 0o2000;
    let mode = mode & DIRECTORY_MODE_MASK | inherited;
    fs::fchmod(directory, Mode::from_raw_mode(u32::from(mode)))?;
    fs::futimens(directory, &timestamps(modified))
}

/// Gives a symbolic link its time
pub(super) fn apply_to_link(
    directory: impl AsFd,
    name: &[u8],
    modified: Modified,
) -> Result<(), Errno> {
    fs::utimensat(directory, name, &timestamps(modified), AtFlags::SYMLINK_NOFOLLOW)
}

/// How an operator calls a kind of file that has no content to copy
pub(super) fn special_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        _ => "of an unknown kind",
    }
}
