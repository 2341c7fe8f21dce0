//! The journal's thread: takes what waits, writes it as one group, makes it durable with one fdatasync, and
//! only then answers. Every operation on the ring is awaited before the runtime ends, because tokio-uring frees
//! the buffers of unfinished operations when it is dropped while the kernel still uses them.
//!
//! What follows from an error:
//! * no space while writing: the group is refused, the tail is cut off again, the journal goes on;
//! * no space while a new segment is begun: the new file is removed, the group is refused, the journal goes on;
//! * everything else, any failed sync first of all: the journal accepts nothing more. A failed sync is never
//!   tried again, because the kernel marks the pages clean and the second one would succeed without writing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};

use super::disk::{Disk, DiskFile};
use super::error::{AppendError, Failure};
use super::format::{
    Chain, EntryKind, GROUP_HEADER_BYTES, JournalId, SEGMENT_HEADER_BYTES, SEGMENTS_LIMIT,
    SegmentHeader, encode_group, marker,
};
use super::manifest::{self, Manifest};
use super::queue::{Append, Appended, Shared};
use super::scan::segment_path;
use crate::lock::Lock;

/// A group is one write and one sync, one after the other; the ring never holds more
const RING_ENTRIES: u32 = 8;

/// Where the next group goes
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Position {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) next_sequence: u64,
    pub(super) chain: Chain,
}

/// Why a group was not written
enum Refused {
    NoSpace(io::Error),
    Failed(Failure),
}

pub(super) struct Writer<D: Disk> {
    pub(super) disk: D,
    pub(super) directory: PathBuf,
    pub(super) journal: JournalId,
    pub(super) at: Position,
    pub(super) queue: mpsc::Receiver<Append>,
    pub(super) shared: Arc<Shared>,
    // Let go of when the thread ends.
    pub(super) _lock: Lock,
}

/// Unwinding would drop the runtime with an operation in flight, and the kernel would read a buffer that was
/// freed and used again: that ends the process instead.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the journal's thread panicked; the process ends here, see above");
            std::process::abort();
        }
    }
}

/// The thread's whole life
pub(super) fn run<D: Disk>(mut writer: Writer<D>, done: oneshot::Sender<Result<(), Failure>>) {
    let outcome = match tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES)) {
        Ok(runtime) => {
            // Declared after the runtime, so dropped before it.
            let _abort = AbortOnPanic;
            runtime.block_on(writer.serve())
        }
        Err(error) => {
            let failure = writer.failure("setting up io_uring", &writer.directory, error);
            writer.fail(&failure);
            while let Some(append) = writer.queue.blocking_recv() {
                refuse(append, AppendError::Failed(failure.clone()));
            }
            Err(failure)
        }
    };
    drop(writer);
    // Nobody may be waiting any more, and that is fine.
    let _ = done.send(outcome);
}

impl<D: Disk> Writer<D> {
    async fn serve(&mut self) -> Result<(), Failure> {
        let path = segment_path(&self.directory, self.at.segment);
        let mut file = match self.disk.open(&path) {
            Ok(file) => file,
            Err(error) => {
                let failure = self.failure("opening", &path, error);
                return self.refuse_all(failure, Vec::new()).await;
            }
        };
        let (mut group, mut carried, mut buffer) = (Vec::new(), None, Vec::new());
        loop {
            let first = match carried.take() {
                Some(append) => append,
                None => match self.queue.recv().await {
                    Some(append) => append,
                    None => break,
                },
            };
            carried = self.gather(first, &mut group);
            match self.commit(&mut file, &group, &mut buffer).await {
                Ok(()) => self.acknowledge(&mut group),
                Err(Refused::NoSpace(error)) => {
                    tracing::warn!(path = %self.directory.display(), %error, "no space for the journal");
                    self.shared.groups_without_space.fetch_add(1, Ordering::Relaxed);
                    let error = Arc::new(error);
                    for append in group.drain(..) {
                        refuse(append, AppendError::NoSpace(error.clone()));
                    }
                }
                Err(Refused::Failed(failure)) => {
                    group.extend(carried.take());
                    let outcome = self.refuse_all(failure, group).await;
                    close(file, &self.directory).await;
                    return outcome;
                }
            }
        }
        close(file, &self.directory).await;
        self.write_manifest(true).map_err(|(operation, path, error)| {
            let failure = self.failure(operation, &path, error);
            self.fail(&failure);
            failure
        })
    }

    /// Fills `group` with what waits, within the limits; returns one that did not fit any more
    fn gather(&mut self, first: Append, group: &mut Vec<Append>) -> Option<Append> {
        let options = self.shared.options;
        let (mut bytes, mut records) = (first.bytes, first.entries.len());
        group.push(first);
        while let Ok(append) = self.queue.try_recv() {
            bytes += append.bytes;
            records += append.entries.len();
            if bytes > options.group_bytes || records > options.group_records {
                return Some(append);
            }
            group.push(append);
        }
        None
    }

    /// Makes a group durable
    async fn commit(
        &mut self,
        file: &mut D::File,
        group: &[Append],
        buffer: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let body: usize = group.iter().map(|append| append.bytes).sum();
        let after = self.at.offset + (GROUP_HEADER_BYTES + body) as u64;
        let has_groups = self.at.offset > SEGMENT_HEADER_BYTES as u64;
        if has_groups && after > self.shared.options.segment_bytes {
            let old = std::mem::replace(file, self.begin_segment().await?);
            close(old, &self.directory).await;
        }
        let entries = group.iter().flat_map(|append| &append.entries);
        let entries = entries.map(|entry| (entry.kind, entry.payload.as_slice()));
        let entries: Vec<(EntryKind, &[u8])> = entries.collect();
        let records = entries.len() as u64;
        let Position { segment, offset, next_sequence, chain } = self.at;
        let chain =
            encode_group(buffer, &marker(&self.journal), next_sequence, chain, entries.into_iter());
        let path = segment_path(&self.directory, segment);
        let bytes = buffer.len() as u64;
        if let Err(error) = write_all(file, buffer, offset).await {
            return Err(self.give_up_tail(file, &path, error));
        }
        if let Err(error) = file.sync_data().await {
            return Err(Refused::Failed(self.failure("fdatasync", &path, error)));
        }
        self.at.offset = offset + bytes;
        self.at.next_sequence = next_sequence + records;
        self.at.chain = chain;
        self.shared.durable.store(self.at.next_sequence - 1, Ordering::Release);
        self.shared.groups.fetch_add(1, Ordering::Relaxed);
        self.shared.entries.fetch_add(records, Ordering::Relaxed);
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// After a write that failed. Without space, what was written of the group is cut off; that needs no sync,
    /// because half a group is not taken for one, whenever the system crashes.
    fn give_up_tail(&self, file: &D::File, path: &Path, error: io::Error) -> Refused {
        if !is_no_space(&error) {
            return Refused::Failed(self.failure("writing", path, error));
        }
        match file.set_length(self.at.offset) {
            Ok(()) => Refused::NoSpace(error),
            Err(error) => Refused::Failed(self.failure("cutting off half a group", path, error)),
        }
    }

    /// Creates the next segment, durably and known to the manifest, before anything is written into it
    async fn begin_segment(&mut self) -> Result<D::File, Refused> {
        let index = self.at.segment + 1;
        if index > SEGMENTS_LIMIT {
            let text = format!("the journal has its {SEGMENTS_LIMIT} segments");
            return Err(Refused::NoSpace(io::Error::new(io::ErrorKind::StorageFull, text)));
        }
        let path = segment_path(&self.directory, index);
        let header = SegmentHeader {
            journal: self.journal,
            index,
            first_sequence: self.at.next_sequence,
            previous: self.at.chain,
        };
        let file = match self.disk.create(&path) {
            Ok(file) => file,
            Err(error) if is_no_space(&error) => return Err(Refused::NoSpace(error)),
            Err(error) => return Err(Refused::Failed(self.failure("creating", &path, error))),
        };
        let (mut bytes, chain) = header.encode();
        let begun = Position { segment: index, offset: bytes.len() as u64, chain, ..self.at };
        if let Err(error) = write_all(&file, &mut bytes, 0).await {
            return Err(self.give_up_segment(file, &path, "writing", error).await);
        }
        if let Err(error) = file.sync_data().await {
            return Err(Refused::Failed(self.failure("fdatasync", &path, error)));
        }
        if let Err(error) = self.disk.sync_directory(&self.directory) {
            return Err(Refused::Failed(self.failure("fsync", &self.directory, error)));
        }
        let next = manifest::next_path(&self.directory);
        if let Err(error) = self.disk.write_file(&next, &self.manifest(index, false).encode()) {
            return Err(self
                .give_up_segment(file, &path, "writing a manifest beside", error)
                .await);
        }
        if let Err((operation, path, error)) = self.install_manifest(&next) {
            return Err(Refused::Failed(self.failure(operation, &path, error)));
        }
        self.at = begun;
        Ok(file)
    }

    /// After a new segment could not be begun. Without space it is removed, and the old one stays in use.
    async fn give_up_segment(
        &self,
        file: D::File,
        path: &Path,
        operation: &'static str,
        error: io::Error,
    ) -> Refused {
        close(file, &self.directory).await;
        if !is_no_space(&error) {
            return Refused::Failed(self.failure(operation, path, error));
        }
        match self.disk.remove(path) {
            Ok(()) => Refused::NoSpace(error),
            Err(error) => Refused::Failed(self.failure("removing", path, error)),
        }
    }

    fn manifest(&self, last_segment: u64, clean: bool) -> Manifest {
        Manifest {
            journal: self.journal,
            last_segment,
            known_sequence: self.at.next_sequence - 1,
            known_chain: self.at.chain,
            clean,
        }
    }

    fn write_manifest(&self, clean: bool) -> Result<(), (&'static str, PathBuf, io::Error)> {
        let next = manifest::next_path(&self.directory);
        let bytes = self.manifest(self.at.segment, clean).encode();
        let written = self.disk.write_file(&next, &bytes);
        written.map_err(|error| ("writing", next.clone(), error))?;
        self.install_manifest(&next)
    }

    fn install_manifest(&self, next: &Path) -> Result<(), (&'static str, PathBuf, io::Error)> {
        let path = manifest::path(&self.directory);
        let renamed = self.disk.rename(next, &path);
        renamed.map_err(|error| ("renaming", path, error))?;
        let synced = self.disk.sync_directory(&self.directory);
        synced.map_err(|error| ("fsync", self.directory.clone(), error))
    }

    fn acknowledge(&self, group: &mut Vec<Append>) {
        let records: usize = group.iter().map(|append| append.entries.len()).sum();
        let mut first = self.at.next_sequence - records as u64;
        for append in group.drain(..) {
            let after = first + append.entries.len() as u64;
            // A caller that no longer waits has said that it does not want to know.
            let _ = append.answer.send(Ok(Appended { first, last: after - 1 }));
            first = after;
        }
    }

    fn failure(&self, operation: &'static str, path: &Path, error: io::Error) -> Failure {
        Failure { operation, path: path.to_owned(), source: Arc::new(error) }
    }

    /// From here on everything is refused
    fn fail(&mut self, failure: &Failure) {
        tracing::error!(%failure, "the journal has failed");
        // Only this thread sets it, and only once: it ends afterwards.
        let _ = self.shared.failure.set(failure.clone());
        self.queue.close();
    }

    async fn refuse_all(&mut self, failure: Failure, group: Vec<Append>) -> Result<(), Failure> {
        self.fail(&failure);
        for append in group {
            refuse(append, AppendError::Failed(failure.clone()));
        }
        while let Some(append) = self.queue.recv().await {
            refuse(append, AppendError::Failed(failure.clone()));
        }
        Err(failure)
    }
}

fn refuse(append: Append, error: AppendError) {
    // A caller that no longer waits has said that it does not want to know.
    let _ = append.answer.send(Err(error));
}

/// Everything a file was to hold was synced before, so an error tells nothing about the journal's content
async fn close<F: DiskFile>(file: F, directory: &Path) {
    if let Err(error) = file.close().await {
        tracing::warn!(path = %directory.display(), %error, "closing a journal segment");
    }
}

/// Writes the whole buffer, which is given back with its content
async fn write_all<F: DiskFile>(file: &F, buffer: &mut Vec<u8>, offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        let (written, returned) =
            file.write_at(std::mem::take(buffer), done, offset + done as u64).await;
        *buffer = returned;
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
