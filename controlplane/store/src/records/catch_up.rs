//! Bringing records up to the journal: reading from the entry behind the last one applied and applying what
//! each amounts to. Also how records are made again from nothing.

use std::error::Error;

use super::{BATCH_LIMIT_CHANGES, Batch, Change, ChangeKind, Records, RecordsError};
use crate::journal::{Journal, JournalEntry, ReadError};

/// Changes of one batch, which is one transaction; one entry can go beyond it
const BATCH_CHANGES: usize = 4_096;
/// Entries of one batch, also those that amount to nothing
const BATCH_ENTRIES: u64 = 65_536;

/// Why records could not be brought up to the journal
#[derive(Debug, thiserror::Error)]
pub enum CatchUpError {
    /// The journal ends before the records do: it is older than they are
    #[error(
        "the records reflect entry {applied} of journal {journal}, which ends with {durable}: an old copy of \
         the journal was restored; restore the newest one"
    )]
    RecordsAhead {
        /// Which journal
        journal: crate::JournalId,
        /// The last entry applied
        applied: u64,
        /// The last entry there is
        durable: u64,
    },
    /// An entry makes no sense to whoever interprets it
    #[error("entry {sequence} of the journal cannot be interpreted: {reason}")]
    Interpret {
        /// The entry
        sequence: u64,
        /// Why
        reason: Box<dyn Error + Send + Sync>,
    },
    /// The records refused a batch
    #[error("entries {first} to {last} of the journal cannot be recorded: {source}")]
    Apply {
        /// The first entry of the batch
        first: u64,
        /// The last entry of the batch
        last: u64,
        /// Why
        source: RecordsError,
    },
    /// The records do not answer
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The journal cannot be read
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// How far records were behind
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CaughtUp {
    /// Entries applied now
    pub entries: u64,
    /// The last entry the records reflect
    pub applied_through: u64,
}

/// Applies every durable entry the records do not reflect yet. `interpret` says what an entry amounts to and
/// must say the same each time. Blocks on the journal's files between two batches.
pub async fn catch_up<R, I>(
    records: &R,
    journal: &Journal,
    mut interpret: I,
) -> Result<CaughtUp, CatchUpError>
where
    R: Records + ?Sized,
    I: FnMut(&JournalEntry) -> Result<Vec<ChangeKind>, Box<dyn Error + Send + Sync>>,
{
    let applied = records.applied_through(journal.id()).await?;
    let durable = journal.durable_sequence();
    if applied > durable {
        return Err(CatchUpError::RecordsAhead { journal: journal.id(), applied, durable });
    }
    let mut reader = journal.read_after(applied)?;
    let mut batch = empty(journal, applied);
    while let Some(entries) = reader.next_group()? {
        for entry in entries {
            let sequence = entry.sequence;
            let kinds = interpret(&entry);
            let kinds = kinds.map_err(|reason| CatchUpError::Interpret { sequence, reason })?;
            if batch.changes.len() + kinds.len() > BATCH_LIMIT_CHANGES {
                batch = apply(records, journal, batch).await?;
            }
            batch.changes.extend(kinds.into_iter().map(|kind| Change { sequence, kind }));
            batch.last = sequence;
            let whole = batch.last - batch.first >= BATCH_ENTRIES;
            if whole || batch.changes.len() >= BATCH_CHANGES {
                batch = apply(records, journal, batch).await?;
            }
        }
    }
    let batch = apply(records, journal, batch).await?;
    Ok(CaughtUp { entries: batch.last - applied, applied_through: batch.last })
}

/// A batch behind an entry, with nothing in it: its end is before its beginning
fn empty(journal: &Journal, after: u64) -> Batch {
    Batch { journal: journal.id(), first: after + 1, last: after, changes: Vec::new() }
}

/// Applies a batch unless it is empty; returns the empty one behind it
async fn apply<R: Records + ?Sized>(
    records: &R,
    journal: &Journal,
    batch: Batch,
) -> Result<Batch, CatchUpError> {
    let (first, last) = (batch.first, batch.last);
    if first <= last {
        let applied = records.apply(batch).await;
        applied.map_err(|source| CatchUpError::Apply { first, last, source })?;
    }
    Ok(empty(journal, last))
}
