//! Files that survive a crash: each is either there whole or not there. Not a store of records; the modules
//! that own a file decide what it means.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// For keys and for whatever only the owner may read
pub(crate) const PRIVATE: u32 = 0o600;
/// For certificates
pub(crate) const PUBLIC: u32 = 0o644;

/// Creates a directory only its owner may enter, with its parents; one that exists is left as it is
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Creates a file that must not exist yet; `AlreadyExists` if it does
pub(crate) fn create_new(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_temporary(path, mode, bytes)?;
    // Unlike a rename, a link never replaces: of two creators one fails.
    let linked = std::fs::hard_link(&temporary, path);
    let removed = std::fs::remove_file(&temporary);
    linked?;
    removed?;
    sync_directory(parent(path))
}

/// Creates a file or replaces it in one step
pub(crate) fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_temporary(path, mode, bytes)?;
    std::fs::rename(&temporary, path)?;
    sync_directory(parent(path))
}

/// Makes created, renamed and removed entries of a directory durable
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Reads a file of at most `limit_bytes`
pub(crate) fn read_limited(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    read_open_file(File::open(path)?, limit_bytes)
}

/// Reads an open file of at most `limit_bytes`
pub(crate) fn read_open_file(file: File, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        let message = format!("larger than {limit_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn write_temporary(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut random = [0; 8];
    boring::rand::rand_bytes(&mut random).map_err(io::Error::other)?;
    let suffix = u64::from_be_bytes(random);
    let temporary = parent(path).join(format!(".{}.{suffix:016x}", name.to_string_lossy()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // The first error is the one to report; the leftover is only clutter.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(temporary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_new_never_replaces_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        create_new(&path, PRIVATE, b"first").unwrap();
        let second = create_new(&path, PRIVATE, b"second").unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        replace(&path, PRIVATE, b"third").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"third");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        create_new(&path, PUBLIC, &[7; 10]).unwrap();
        assert_eq!(read_limited(&path, 10).unwrap().len(), 10);
        assert!(read_limited(&path, 9).is_err());
    }
}
