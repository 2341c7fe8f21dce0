//! The journal: the truth of the control plane. Entries are opaque, numbered without gaps, checksummed and
//! chained; an acknowledged entry survives a crash. What an entry means, and what is derived from it, is
//! elsewhere; nothing is ever changed or removed here.

mod copy;
mod disk;
mod error;
mod format;
mod fsck;
mod manifest;
mod open;
mod queue;
mod reader;
mod scan;
mod walk;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

pub use copy::copy;
pub use disk::{Disk, DiskFile, UringDisk, UringFile};
pub use error::{AppendError, Damage, Failure, OpenError, ReadError};
pub use format::{
    ENTRY_LIMIT_BYTES, Entry, EntryKind, FORMAT_VERSION, Fault, GROUP_LIMIT_BYTES,
    GROUP_LIMIT_RECORDS, JournalId, SEGMENTS_LIMIT,
};
pub use fsck::{FINDINGS_LIMIT, Report, fsck, inspect};
pub use queue::{Appended, Appender, JournalCounters, NewEntry, Pending};
pub use reader::{JournalEntry, Reader};
pub use walk::TornTail;

use crate::StartThread;
use queue::{Append, Shared};

/// Longest segment that can be asked for
pub const SEGMENT_LIMIT_BYTES: u64 = 4 << 30;

/// How a journal writes
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// A segment that would grow beyond this is followed by a new one; 4 KiB to [`SEGMENT_LIMIT_BYTES`].
    /// A segment holds one group at least.
    pub segment_bytes: u64,
    /// Most bytes of one group, without its header; 4 KiB to [`GROUP_LIMIT_BYTES`]
    pub group_bytes: usize,
    /// Most entries of one group; 1 to [`GROUP_LIMIT_RECORDS`]
    pub group_records: usize,
    /// Most bytes that wait to be written; from `group_bytes` on
    pub queue_bytes: usize,
    /// Most appends that wait to be written, from 1 on
    pub queue_appends: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            group_bytes: 1 << 20,
            group_records: 4_096,
            queue_bytes: 16 << 20,
            queue_appends: 16_384,
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), OpenError> {
        let within = |condition, text| {
            if condition { Ok(()) } else { Err(OpenError::Options(text)) }
        };
        within(
            (4 << 10..=SEGMENT_LIMIT_BYTES).contains(&self.segment_bytes),
            "segment_bytes must be between 4 KiB and 4 GiB",
        )?;
        within(
            (4 << 10..=GROUP_LIMIT_BYTES).contains(&self.group_bytes),
            "group_bytes must be between 4 KiB and 8 MiB",
        )?;
        within(
            (1..=GROUP_LIMIT_RECORDS).contains(&self.group_records),
            "group_records must be between 1 and 65536",
        )?;
        within(
            (self.group_bytes..=u32::MAX as usize).contains(&self.queue_bytes),
            "queue_bytes must be between group_bytes and 4 GiB",
        )?;
        within(
            (1..=1 << 20).contains(&self.queue_appends),
            "queue_appends must be between 1 and 1048576",
        )
    }
}

/// What opening a journal has found
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Opened {
    /// Entries in it
    pub entries: u64,
    /// Segments
    pub segments: u64,
    /// It was closed in order the last time
    pub closed_cleanly: bool,
    /// A group that a crash had cut short and that was removed; none of its entries was ever acknowledged
    pub torn_tail: Option<TornTail>,
}

/// An open journal. Dropping it closes it as [`Journal::close`] does, but nobody hears how that went.
#[derive(Debug)]
pub struct Journal {
    id: JournalId,
    directory: PathBuf,
    queue: mpsc::Sender<Append>,
    shared: Arc<Shared>,
    done: oneshot::Receiver<Result<(), Failure>>,
    thread: JoinHandle<()>,
}

impl Journal {
    /// Creates an empty journal in a directory, which is created too, without opening it
    pub fn create(directory: &Path) -> Result<JournalId, OpenError> {
        open::create(directory)
    }

    /// Opens a journal: checks every byte of it, shows every entry to `visit` in order, cuts off what a crash
    /// left half-written, and starts the thread that writes. Blocks for as long as reading takes.
    ///
    /// What `visit` has been shown counts only if this succeeds.
    pub fn open<V>(
        directory: &Path,
        options: Options,
        start: StartThread<'_>,
        visit: V,
    ) -> Result<(Self, Opened), OpenError>
    where
        V: FnMut(Entry<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
    {
        Self::open_on(UringDisk, directory, options, start, visit)
    }

    /// Like [`Self::open`], with every later write through `disk`
    pub fn open_on<D, V>(
        disk: D,
        directory: &Path,
        options: Options,
        start: StartThread<'_>,
        visit: V,
    ) -> Result<(Self, Opened), OpenError>
    where
        D: Disk,
        V: FnMut(Entry<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
    {
        options.check()?;
        let found = open::open(directory, visit)?;
        let id = found.journal;
        let (queue, receiver) = mpsc::channel(options.queue_appends);
        let shared = Arc::new(Shared::new(options, found.at.next_sequence - 1));
        let writer = writer::Writer {
            disk,
            directory: directory.to_owned(),
            journal: id,
            at: found.at,
            queue: receiver,
            shared: shared.clone(),
            _lock: found.lock,
        };
        let (sender, done) = oneshot::channel();
        let thread = start("journal", Box::new(move || writer::run(writer, sender)));
        let thread =
            thread.map_err(|source| OpenError::Io { path: directory.to_owned(), source })?;
        let journal = Self { id, directory: directory.to_owned(), queue, shared, done, thread };
        Ok((journal, found.opened))
    }

    /// Which journal this is
    pub fn id(&self) -> JournalId {
        self.id
    }

    /// Something to append with
    pub fn appender(&self) -> Appender {
        Appender { queue: self.queue.downgrade(), shared: self.shared.clone() }
    }

    /// The last entry that is durable; zero if there is none
    pub fn durable_sequence(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// Why nothing is accepted any more, once that is so
    pub fn failure(&self) -> Option<Failure> {
        self.shared.failure.get().cloned()
    }

    /// What has been done since the journal was opened
    pub fn counters(&self) -> JournalCounters {
        self.shared.counters()
    }

    /// Reads what was durable when this was called, from the entry behind `after` on
    pub fn read_after(&self, after: u64) -> Result<Reader, ReadError> {
        Reader::new(&self.directory, self.id, after, self.durable_sequence())
    }

    /// Stops accepting, writes what was accepted, notes the end and lets go of the directory
    pub async fn close(self) -> Result<(), Failure> {
        let Self { directory, queue, done, thread, .. } = self;
        drop(queue);
        finish(&directory, done.await, thread)
    }

    /// [`Self::close`] for threads outside of any runtime
    ///
    /// # Panics
    ///
    /// When called within an asynchronous task.
    pub fn close_blocking(self) -> Result<(), Failure> {
        let Self { directory, queue, done, thread, .. } = self;
        drop(queue);
        finish(&directory, done.blocking_recv(), thread)
    }
}

/// The thread ends right after it has said so; waiting for that lets the directory be opened again at once
fn finish(
    directory: &Path,
    outcome: Result<Result<(), Failure>, oneshot::error::RecvError>,
    thread: JoinHandle<()>,
) -> Result<(), Failure> {
    let joined = thread.join();
    match outcome {
        Ok(outcome) if joined.is_ok() => outcome,
        _ => Err(Failure {
            operation: "the journal's thread",
            path: directory.to_owned(),
            source: Arc::new(std::io::Error::other("it ended early")),
        }),
    }
}
