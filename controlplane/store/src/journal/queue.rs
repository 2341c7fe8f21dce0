//! The way into the journal: from any thread, with or without a runtime, bounded in appends and in bytes. What
//! is appended together is written together: all of it is in the journal afterwards, or none.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot};

use super::Options;
use super::error::{AppendError, Failure, check_payload};
use super::format::EntryKind;
use super::scan::framed_bytes;

/// An entry that is to be written
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewEntry {
    /// What it is
    pub kind: EntryKind,
    /// Its content, at most [`super::ENTRY_LIMIT_BYTES`]
    pub payload: Vec<u8>,
}

/// Where entries that are durable now stand
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Appended {
    /// Sequence of the first
    pub first: u64,
    /// Sequence of the last
    pub last: u64,
}

/// What the journal has done since it was opened
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct JournalCounters {
    /// Groups made durable; one write and one fdatasync each
    pub groups: u64,
    /// Entries made durable
    pub entries: u64,
    /// Bytes written, with headers
    pub bytes: u64,
    /// Groups refused because no space was left
    pub groups_without_space: u64,
}

/// One caller's entries on their way to the writer
#[derive(Debug)]
pub(super) struct Append {
    pub(super) entries: Vec<NewEntry>,
    /// What they take in a group
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Result<Appended, AppendError>>,
    // Room in the queue, given back when this is dropped.
    _room: OwnedSemaphorePermit,
}

/// What the writer and its callers both see
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) room: Arc<Semaphore>,
    pub(super) failure: OnceLock<Failure>,
    pub(super) durable: AtomicU64,
    pub(super) groups: AtomicU64,
    pub(super) entries: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) groups_without_space: AtomicU64,
}

impl Shared {
    pub(super) fn new(options: Options, durable: u64) -> Self {
        Self {
            options,
            room: Arc::new(Semaphore::new(options.queue_bytes)),
            failure: OnceLock::new(),
            durable: AtomicU64::new(durable),
            groups: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            groups_without_space: AtomicU64::new(0),
        }
    }

    pub(super) fn counters(&self) -> JournalCounters {
        JournalCounters {
            groups: self.groups.load(Ordering::Relaxed),
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            groups_without_space: self.groups_without_space.load(Ordering::Relaxed),
        }
    }

    /// Why an append cannot be taken: it failed, or else it was closed
    pub(super) fn refusal(&self) -> AppendError {
        self.failure.get().cloned().map_or(AppendError::Closed, AppendError::Failed)
    }
}

/// Appends to the journal; cheap to clone, and it does not keep the journal open
#[derive(Clone, Debug)]
pub struct Appender {
    pub(super) queue: mpsc::WeakSender<Append>,
    pub(super) shared: Arc<Shared>,
}

impl Appender {
    /// Appends one entry; it is durable when this returns its sequence. Waits for room in the queue.
    ///
    /// A caller that stops waiting does not take the entry back: it may be written all the same.
    pub async fn append(&self, kind: EntryKind, payload: Vec<u8>) -> Result<u64, AppendError> {
        Ok(self.append_all(vec![NewEntry { kind, payload }]).await?.first)
    }

    /// Appends entries as one group, all or none; they are durable when this returns. Waits for room in the
    /// queue; see [`Self::append`] about not waiting to the end.
    pub async fn append_all(&self, entries: Vec<NewEntry>) -> Result<Appended, AppendError> {
        let (bytes, permits) = self.check(&entries)?;
        let room = self.shared.room.clone().acquire_many_owned(permits).await;
        let room = room.map_err(|_closed| self.shared.refusal())?;
        let queue = self.queue.upgrade().ok_or_else(|| self.shared.refusal())?;
        let (append, pending) = self.pack(entries, bytes, room);
        if queue.send(append).await.is_err() {
            return Err(self.shared.refusal());
        }
        drop(queue);
        pending.await
    }

    /// Puts entries into the queue without waiting, all or none; the order of the calls of one thread is the
    /// order in the journal. `Busy` when the queue is full.
    pub fn submit(&self, entries: Vec<NewEntry>) -> Result<Pending, AppendError> {
        let (bytes, permits) = self.check(&entries)?;
        let room = self.shared.room.clone().try_acquire_many_owned(permits);
        let room = room.map_err(|error| match error {
            TryAcquireError::NoPermits => AppendError::Busy,
            TryAcquireError::Closed => self.shared.refusal(),
        })?;
        let queue = self.queue.upgrade().ok_or_else(|| self.shared.refusal())?;
        let (append, pending) = self.pack(entries, bytes, room);
        queue.try_send(append).map_err(|error| match error {
            TrySendError::Full(_) => AppendError::Busy,
            TrySendError::Closed(_) => self.shared.refusal(),
        })?;
        Ok(pending)
    }

    /// How many bytes of a group the entries take, and the same as the queue counts it
    fn check(&self, entries: &[NewEntry]) -> Result<(usize, u32), AppendError> {
        if entries.is_empty() {
            return Err(AppendError::Empty);
        }
        if entries.len() > self.shared.options.group_records {
            return Err(AppendError::TooMany(entries.len()));
        }
        for entry in entries {
            check_payload(entry.payload.len())?;
        }
        let payload_bytes = entries.iter().map(|entry| entry.payload.len()).sum();
        let bytes = framed_bytes(entries.len(), payload_bytes);
        let limit_bytes = self.shared.options.group_bytes;
        // A group's limit is below 2^32, so the second condition follows from the first.
        match u32::try_from(bytes) {
            Ok(permits) if bytes <= limit_bytes => Ok((bytes, permits)),
            _ => Err(AppendError::TooLarge { bytes, limit_bytes }),
        }
    }

    fn pack(
        &self,
        entries: Vec<NewEntry>,
        bytes: usize,
        room: OwnedSemaphorePermit,
    ) -> (Append, Pending) {
        let (answer, result) = oneshot::channel();
        let append = Append { entries, bytes, answer, _room: room };
        (append, Pending { result, shared: self.shared.clone() })
    }
}

/// Entries that are on their way; resolves when they are durable or refused
#[derive(Debug)]
#[must_use = "entries are durable only when this has resolved"]
pub struct Pending {
    result: oneshot::Receiver<Result<Appended, AppendError>>,
    shared: Arc<Shared>,
}

impl Pending {
    /// Blocks until the entries are durable or refused; for threads outside of any runtime
    ///
    /// # Panics
    ///
    /// When called within an asynchronous task.
    pub fn wait(self) -> Result<Appended, AppendError> {
        let Self { result, shared } = self;
        result.blocking_recv().unwrap_or_else(|_gone| Err(shared.refusal()))
    }
}

impl Future for Pending {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.result).poll(context));
        Poll::Ready(answer.unwrap_or_else(|_gone| Err(self.shared.refusal())))
    }
}
