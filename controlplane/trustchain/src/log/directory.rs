//! Published files in a directory of a file system: written beside, made durable, then renamed into place. It
//! knows nothing of what the files say; one process at a time may write.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::store::{FILE_LIMIT_BYTES, Published};
use crate::files;

/// What is published is for everyone
const DIRECTORY_MODE: u32 = 0o755;
/// Files that are being written; whatever is here at the start is left of a crash
const STAGING: &str = ".staging";
const LOCK: &str = ".lock";
/// Files one listing returns
pub const LISTING_LIMIT: usize = 4_000_000;

/// A directory of published files, open for writing; the lock lasts as long as this
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    staged: u64,
    _lock: File,
}

/// A directory of published files, for reading only
#[derive(Clone, Debug)]
pub struct DirectoryReader {
    root: PathBuf,
}

impl Directory {
    /// Opens or makes the directory, locks it against other processes and clears what a crash left half done
    pub fn open(root: &Path) -> io::Result<Self> {
        create_directories(root)?;
        let path = root.join(LOCK);
        let lock = OpenOptions::new().create(true).append(true).mode(files::PUBLIC).open(&path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("{} is in use by another process", root.display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let staging = root.join(STAGING);
        create_directories(&staging)?;
        for leftover in fs::read_dir(&staging)? {
            fs::remove_file(leftover?.path())?;
        }
        Ok(Self { root: root.into(), staged: 0, _lock: lock })
    }

    /// The same files for reading, which needs no lock
    pub fn reader(&self) -> DirectoryReader {
        DirectoryReader { root: self.root.clone() }
    }

    fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let target = resolve(&self.root, path)?;
        let parent = files::parent(&target);
        create_directories(parent)?;
        self.staged += 1;
        let staged = self.root.join(STAGING).join(self.staged.to_string());
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(files::PUBLIC).open(&staged)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&staged, &target)?;
        files::sync_directory(parent)
    }
}

impl DirectoryReader {
    /// Files below `root`, whoever writes them
    pub fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }
}

impl Published for Directory {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        read(&self.root, path)
    }

    fn create(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        // The lock makes this process the only writer, so nothing can appear in between.
        if resolve(&self.root, path)?.try_exists()? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.put(path, bytes)
    }

    fn replace(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.put(path, bytes)
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        fs::remove_file(resolve(&self.root, path)?)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        list(&self.root, prefix)
    }
}

impl Published for DirectoryReader {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        read(&self.root, path)
    }

    fn create(&mut self, _: &str, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn replace(&mut self, _: &str, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&mut self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        list(&self.root, prefix)
    }
}

/// A path below the root and nowhere else
fn resolve(root: &Path, path: &str) -> io::Result<PathBuf> {
    let relative = Path::new(path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !path.is_empty() {
        Ok(root.join(relative))
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

fn read(root: &Path, path: &str) -> io::Result<Option<Vec<u8>>> {
    match files::read_limited(&resolve(root, path)?, FILE_LIMIT_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        // A directory of that name, or a file in the place of one, is as good as nothing there.
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory => Ok(None),
            _ => Err(error),
        },
    }
}

fn list(root: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut pending = vec![if prefix.is_empty() { root.into() } else { resolve(root, prefix)? }];
    while let Some(directory) = pending.pop() {
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if directory == root && [STAGING, LOCK].iter().any(|own| path.ends_with(own)) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                pending.push(path);
                continue;
            }
            let relative = path.strip_prefix(root).map_err(io::Error::other)?;
            found.push(relative.to_string_lossy().into_owned());
            if found.len() > LISTING_LIMIT {
                let message = format!("more than {LISTING_LIMIT} files below {}", root.display());
                return Err(io::Error::other(message));
            }
        }
    }
    Ok(found)
}

/// Makes a directory and its parents; each name is durable before the next is made in it
fn create_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = files::parent(path);
    if parent != path {
        create_directories(parent)?;
    }
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    files::sync_directory(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_once_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Directory::open(&directory.path().join("log")).unwrap();
        assert_eq!(store.read("tile/0/x001/000").unwrap(), None);
        store.create("tile/0/x001/000", b"one").unwrap();
        let again = store.create("tile/0/x001/000", b"two").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(store.read("tile/0/x001/000").unwrap().unwrap(), b"one");
        assert_eq!(store.read("tile/0").unwrap(), None);
        assert_eq!(store.read("tile/0/x001/000/deeper").unwrap(), None);
        store.replace("checkpoint", b"one").unwrap();
        store.replace("checkpoint", b"two").unwrap();
        let mut all = store.reader().list("").unwrap();
        all.sort();
        assert_eq!(all, ["checkpoint", "tile/0/x001/000"]);
        assert_eq!(store.list("tile/").unwrap(), ["tile/0/x001/000"]);
        assert!(store.list("issuer/").unwrap().is_empty());
        store.remove("tile/0/x001/000").unwrap();
        assert!(store.list("tile/").unwrap().is_empty());
    }

    #[test]
    fn no_path_leads_out_of_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("secret"), b"secret").unwrap();
        let mut store = Directory::open(&directory.path().join("log")).unwrap();
        for path in ["../secret", "/etc/hostname", "", ".", "tile/../../secret"] {
            assert!(store.read(path).is_err(), "{path}");
            assert!(store.create(path, b"").is_err(), "{path}");
        }
    }

    #[test]
    fn one_process_writes_and_what_a_crash_left_is_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let store = Directory::open(directory.path()).unwrap();
        let second = Directory::open(directory.path()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::ResourceBusy);
        drop(store);
        let leftover = directory.path().join(STAGING).join("1");
        fs::write(&leftover, b"half").unwrap();
        let mut store = Directory::open(directory.path()).unwrap();
        assert!(!leftover.exists());
        store.create("checkpoint", b"whole").unwrap();
    }
}
