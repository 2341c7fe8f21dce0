//! What the journal asks of a file system, as a trait so that tests can make each step fail, and the real one:
//! writes and syncs through the thread's io_uring, the rare rest directly. No policy: what follows from an
//! error is decided by the writer.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tokio_uring::buf::BoundedBuf;

use super::manifest;

/// Operations on names. They block the journal's thread, which has nothing else to do meanwhile.
pub trait Disk: Send + 'static {
    /// An open file
    type File: DiskFile;

    /// Creates a file that must not exist, for its owner only; its directory entry is not durable yet
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens an existing file for writing
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Writes a whole file, replacing one that exists, and makes its content durable
    fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Renames a file over another one
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the entries of a directory durable
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// Operations on an open file. Every future is awaited to its end by the journal, never dropped before.
pub trait DiskFile: 'static {
    /// Writes the buffer's bytes behind `from` at a place of the file; returns how many, and the buffer
    fn write_at(
        &self,
        buffer: Vec<u8>,
        from: usize,
        offset: u64,
    ) -> impl Future<Output = (io::Result<usize>, Vec<u8>)>;

    /// Makes everything written so far durable (fdatasync)
    fn sync_data(&self) -> impl Future<Output = io::Result<()>>;

    /// Cuts the file off
    fn set_length(&self, length_bytes: u64) -> io::Result<()>;

    /// Closes the file
    fn close(self) -> impl Future<Output = io::Result<()>>;
}

/// The real file system
#[derive(Clone, Copy, Debug, Default)]
pub struct UringDisk;

/// A file of the real file system
#[derive(Debug)]
pub struct UringFile {
    ring: tokio_uring::fs::File,
    // The same open file: io_uring learned to truncate only with Linux 6.9.
    plain: File,
}

impl UringFile {
    fn new(plain: File) -> io::Result<Self> {
        Ok(Self { ring: tokio_uring::fs::File::from_std(plain.try_clone()?), plain })
    }
}

impl Disk for UringDisk {
    type File = UringFile;

    fn create(&self, path: &Path) -> io::Result<UringFile> {
        UringFile::new(OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?)
    }

    fn open(&self, path: &Path) -> io::Result<UringFile> {
        UringFile::new(OpenOptions::new().write(true).open(path)?)
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        manifest::write_file(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        manifest::sync_directory(path)
    }
}

impl DiskFile for UringFile {
    async fn write_at(
        &self,
        buffer: Vec<u8>,
        from: usize,
        offset: u64,
    ) -> (io::Result<usize>, Vec<u8>) {
        let (written, slice) = self.ring.write_at(buffer.slice(from..), offset).submit().await;
        (written, slice.into_inner())
    }

    async fn sync_data(&self) -> io::Result<()> {
        self.ring.sync_data().await
    }

    fn set_length(&self, length_bytes: u64) -> io::Result<()> {
        self.plain.set_len(length_bytes)
    }

    async fn close(self) -> io::Result<()> {
        self.ring.close().await
    }
}
