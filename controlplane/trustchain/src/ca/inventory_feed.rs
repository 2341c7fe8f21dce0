//! The inventory's food: what durable entries amount to, handed to the records in the order of the journal. It is
//! kept short: when the records fall behind, what waits is thrown away and read again from the journal, which
//! is the truth. How the inventory is asked is elsewhere.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stoq_store::journal::{Appended, Journal, JournalEntry};
use stoq_store::records::{
    Batch, CatchUpError, Change, ChangeKind, IssuedCertificate, PolicyDocument, RecordsError,
    RevocationReason, Serial, catch_up,
};
use stoq_store::{JournalId, Records};
use tokio::sync::{Notify, watch};

use super::entry::{Entry, Issued, Revoked};

/// Entries that wait before they are thrown away and read again
const WAITING_LIMIT_ENTRIES: usize = 65_536;
/// Entries of one batch of the records
const BATCH_ENTRIES: usize = 4_096;
/// How long entries come together for the next batch, for each entry of the last one and at most. Under load that makes
/// large batches, which write a page of an index once where small ones write it for every entry, on the disk whose
/// syncs certificates wait for. Nobody's certificate waits for the records.
const GATHERING_PER_ENTRY: Duration = Duration::from_millis(1);
const GATHERING: Duration = Duration::from_millis(500);
/// How long until records that did not answer are asked again
const PAUSE: Duration = Duration::from_secs(1);

/// One entry and what it amounts to
type Food = (u64, Vec<ChangeKind>);

/// What waits for the records
#[derive(Debug)]
pub(super) struct Feed {
    waiting: Mutex<VecDeque<Food>>,
    /// Something was thrown away: the journal has to be read
    behind: AtomicBool,
    changed: Notify,
    closing: AtomicBool,
    applied: watch::Sender<u64>,
}

/// What an entry amounts to
pub(super) fn changes(entry: &Entry) -> Result<Vec<ChangeKind>, RecordsError> {
    Ok(match entry {
        Entry::Issued(issued) => vec![ChangeKind::Issued(certificate(issued)?)],
        Entry::Revoked(revoked) if !revoked.serial.is_empty() => vec![revocation(revoked)?],
        Entry::Policy(stored) => vec![ChangeKind::PolicyStored(PolicyDocument {
            name: stored.name.clone(),
            version: stored.version,
            body: stored.body.clone(),
            stored_at: stored.stored_at,
        })],
        _ => Vec::new(),
    })
}

fn certificate(issued: &Issued) -> Result<IssuedCertificate, RecordsError> {
    let invalid = || RecordsError::Invalid("the hash of a key has 32 octets".into());
    Ok(IssuedCertificate {
        serial: Serial::new(&issued.serial)?,
        subject_node: issued.subject.clone(),
        dns_names: issued.dns_names.clone(),
        profile: issued.profile.clone(),
        spki_sha256: issued.spki_sha256.as_slice().try_into().map_err(|_| invalid())?,
        issuer_key_id: issued.issuer_key_id.clone(),
        not_before: issued.not_before,
        not_after: issued.not_after,
        log_index: issued.leaf_index,
    })
}

fn revocation(revoked: &Revoked) -> Result<ChangeKind, RecordsError> {
    let reason = u8::try_from(revoked.reason).ok().and_then(RevocationReason::from_code);
    Ok(ChangeKind::Revoked {
        serial: Serial::new(&revoked.serial)?,
        revoked_at: revoked.revoked_at,
        reason: reason.unwrap_or(RevocationReason::Unspecified),
    })
}

/// The same for entries as a journal has them
pub(super) fn interpret(
    entry: &JournalEntry,
) -> Result<Vec<ChangeKind>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(changes(&Entry::decode(entry.kind, &entry.payload)?)?)
}

impl Feed {
    /// For records that reflect everything up to `applied`
    pub(super) fn new(applied: u64) -> Self {
        Self {
            waiting: Mutex::default(),
            behind: AtomicBool::new(true),
            changed: Notify::new(),
            closing: AtomicBool::new(false),
            applied: watch::Sender::new(applied),
        }
    }

    /// Takes a durable group
    pub(super) fn put(&self, entries: &[Entry], appended: Appended) {
        let mut waiting = self.waiting();
        for (entry, sequence) in entries.iter().zip(appended.first..) {
            match changes(entry) {
                Ok(kinds) => waiting.push_back((sequence, kinds)),
                // The journal says so, and reading it again says why.
                Err(_) => self.behind.store(true, Ordering::Release),
            }
        }
        if waiting.len() > WAITING_LIMIT_ENTRIES || self.behind.load(Ordering::Acquire) {
            waiting.clear();
            self.behind.store(true, Ordering::Release);
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// What the records reflect
    pub(super) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Ends [`Self::run`] when the records have everything, or do not take it
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Feeds the records until closed. The error is why they may not be used with this journal at all.
    pub(super) async fn run(
        self: Arc<Self>,
        journal: Arc<Journal>,
        records: Arc<dyn Records>,
    ) -> Result<(), CatchUpError> {
        loop {
            let fed = self.feed(&journal, &records).await;
            let closing = self.closing.load(Ordering::Acquire);
            match fed {
                Ok(Some(_)) if closing => {}
                Ok(Some(entries)) => {
                    let gathering = GATHERING_PER_ENTRY.saturating_mul(entries);
                    tokio::time::sleep(gathering.min(GATHERING)).await;
                }
                Ok(None) if closing => return Ok(()),
                Ok(None) => self.changed.notified().await,
                Err(
                    error @ (CatchUpError::RecordsAhead { .. } | CatchUpError::Interpret { .. }),
                ) => {
                    tracing::error!(%error, "the inventory cannot follow the journal");
                    return Err(error);
                }
                Err(error) if closing => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "the inventory is behind the journal; trying again");
                    self.behind.store(true, Ordering::Release);
                    // There is no event for records that answer again.
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Feeds what waits, once; how many entries that were
    async fn feed(
        &self,
        journal: &Arc<Journal>,
        records: &Arc<dyn Records>,
    ) -> Result<Option<u32>, CatchUpError> {
        if self.behind.swap(false, Ordering::AcqRel) {
            // From here on the queue fills again; what it has from before is read from the journal as well.
            self.waiting().clear();
            let (journal, records) = (journal.clone(), records.clone());
            let runtime = tokio::runtime::Handle::current();
            let read = move || runtime.block_on(catch_up(&*records, &journal, interpret));
            let caught = tokio::task::spawn_blocking(read).await;
            let caught = caught.map_err(|error| RecordsError::Failed(error.to_string()))??;
            self.applied.send_replace(caught.applied_through);
            return Ok(Some(0));
        }
        let applied = *self.applied.borrow();
        let Some(batch) = self.next_batch(journal.id(), applied) else { return Ok(None) };
        let (first, last) = (batch.first, batch.last);
        if first != applied + 1 {
            self.behind.store(true, Ordering::Release);
            return Ok(Some(0));
        }
        let taken = records.apply(batch).await;
        taken.map_err(|source| CatchUpError::Apply { first, last, source })?;
        self.applied.send_replace(last);
        Ok(Some(u32::try_from(last - first + 1).unwrap_or(u32::MAX)))
    }

    fn next_batch(&self, journal: JournalId, applied: u64) -> Option<Batch> {
        let mut waiting = self.waiting();
        while waiting.front().is_some_and(|(sequence, _)| *sequence <= applied) {
            waiting.pop_front();
        }
        let count = waiting.len().min(BATCH_ENTRIES);
        let food: Vec<Food> = waiting.drain(..count).collect();
        let (first, last) = (food.first()?.0, food.last()?.0);
        let changes = food
            .into_iter()
            .flat_map(|(sequence, kinds)| {
                kinds.into_iter().map(move |kind| Change { sequence, kind })
            })
            .collect();
        Some(Batch { journal, first, last, changes })
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Food>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
