//! Writing the log: one task has the chain's end, so that records are numbered in the order they become durable.
//! Records that wait are written in one group, together with the entries they speak of.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};

use super::chain::{AuditError, AuditRecord, Chain, Head};
use super::event::AuditEvent;
use crate::ca::append::AppendEntries;
use crate::ca::entry::{Audit, Entry};
use crate::ca::{Clock, Refusal};

/// Records kept in memory for those who ask for the latest
pub const RECENT_RECORDS: usize = 1_024;
/// Callers that wait
const QUEUE: usize = 1_024;
/// Callers served by one group
const GROUP_CALLERS: usize = 128;

/// Why something was not recorded
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecordError {
    /// Too many wait
    #[error("the audit log is behind; try again later")]
    Busy,
    /// The authority stops
    #[error("the audit log is closed")]
    Closed,
    /// It cannot be written as a record
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The journal refused
    #[error(transparent)]
    Journal(#[from] Refusal),
}

struct Command {
    entries: Vec<Entry>,
    events: Vec<AuditEvent>,
    done: oneshot::Sender<Result<u64, RecordError>>,
}

struct Shared {
    head: watch::Sender<Chain>,
    recent: RwLock<VecDeque<AuditRecord>>,
}

/// Writes the audit log. Cheap to clone; the task ends with the last clone.
#[derive(Clone)]
pub struct AuditLog {
    queue: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuditLog({})", self.head().count)
    }
}

impl AuditLog {
    /// Goes on where the journal ends, in a task of the current runtime
    pub fn start(append: Arc<dyn AppendEntries>, chain: Chain, clock: Clock) -> Self {
        let (queue, commands) = mpsc::channel(QUEUE);
        let recent = RwLock::new(VecDeque::new());
        let shared = Arc::new(Shared { head: watch::Sender::new(chain), recent });
        tokio::spawn(run(append, clock, commands, shared.clone()));
        Self { queue, shared }
    }

    /// Records an event; durable when this returns its journal sequence. Waits for room.
    pub async fn record(&self, event: AuditEvent) -> Result<u64, RecordError> {
        self.append_with(Vec::new(), vec![event]).await
    }

    /// Hands an event over without waiting for it to be durable. `Busy` when too many wait: whoever refuses
    /// strangers counts that instead.
    pub fn submit(&self, event: AuditEvent) -> Result<(), RecordError> {
        let (done, _nobody_waits) = oneshot::channel();
        let command = Command { entries: Vec::new(), events: vec![event], done };
        self.queue.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RecordError::Busy,
            mpsc::error::TrySendError::Closed(_) => RecordError::Closed,
        })
    }

    /// Appends entries and the events that speak of them in one group, all or none; durable when this returns
    /// the sequence of the first. A caller that stops waiting does not take them back.
    pub async fn append_with(
        &self,
        entries: Vec<Entry>,
        events: Vec<AuditEvent>,
    ) -> Result<u64, RecordError> {
        let (done, answer) = oneshot::channel();
        let command = Command { entries, events, done };
        self.queue.send(command).await.map_err(|_closed| RecordError::Closed)?;
        answer.await.map_err(|_closed| RecordError::Closed)?
    }

    /// Where the log ends
    pub fn head(&self) -> Head {
        self.shared.head.borrow().head()
    }

    /// Records that an anchor covers
    pub fn anchored(&self) -> u64 {
        self.shared.head.borrow().anchored()
    }

    /// The latest records since the start, the newest last, at most `limit` and [`RECENT_RECORDS`]. Older ones
    /// are in the journal: `audit::export`.
    pub fn recent(&self, limit: usize) -> Vec<AuditRecord> {
        let recent = self.shared.recent.read().unwrap_or_else(PoisonError::into_inner);
        recent.iter().skip(recent.len().saturating_sub(limit)).cloned().collect()
    }
}

async fn run(
    append: Arc<dyn AppendEntries>,
    clock: Clock,
    mut commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
) {
    let mut chain = shared.head.borrow().clone();
    let mut waiting = Vec::new();
    while commands.recv_many(&mut waiting, GROUP_CALLERS).await > 0 {
        let mut entries = Vec::new();
        let mut written = Vec::new();
        let mut next = chain.clone();
        let mut callers = Vec::new();
        for command in waiting.drain(..) {
            match stage(&next, &command.events, clock()) {
                Ok((behind, records)) => {
                    // Where this caller's entries begin within the group
                    callers.push((command.done, entries.len() as u64));
                    entries.extend(command.entries);
                    for (line, record) in records {
                        entries.push(Entry::Audit(Audit { record: line }));
                        written.push(record);
                    }
                    next = behind;
                }
                // Whoever no longer waits has said that it does not want to know.
                Err(error) => drop(command.done.send(Err(error.into()))),
            }
        }
        if entries.is_empty() {
            for (done, _) in callers {
                // As above
                let _ = done.send(Ok(0));
            }
            continue;
        }
        match append.append_entries(entries).await {
            Ok(first) => {
                chain = next;
                shared.head.send_replace(chain.clone());
                let mut recent = shared.recent.write().unwrap_or_else(PoisonError::into_inner);
                recent.extend(written);
                let surplus = recent.len().saturating_sub(RECENT_RECORDS);
                recent.drain(..surplus);
                drop(recent);
                for (done, at) in callers {
                    // As above
                    let _ = done.send(Ok(first + at));
                }
            }
            Err(refusal) => {
                for (done, _) in callers {
                    // As above
                    let _ = done.send(Err(refusal.clone().into()));
                }
            }
        }
    }
}

type Staged = (Chain, Vec<(Vec<u8>, AuditRecord)>);

fn stage(chain: &Chain, events: &[AuditEvent], now: SystemTime) -> Result<Staged, AuditError> {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let mut chain = chain.clone();
    let mut records = Vec::new();
    for event in events {
        // The order of the records is their order in time, also where the clock was set back.
        let line = chain.next(event, now_ms.max(chain.head().time_ms))?;
        let record = chain.take(&line)?;
        records.push((line, record));
    }
    Ok((chain, records))
}
