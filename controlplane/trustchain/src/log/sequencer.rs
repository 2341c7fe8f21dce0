//! The sequencer: the one place where entries get their index and their time. A state machine that is told the
//! time and what has become durable; it writes nothing itself. Of a log there is one sequencer and at most one
//! batch on its way to the journal.
//!
//! ```text
//! submit -> pool -> seal -> Batch  --journal--> batch_durable -> DurableEntry -> SCT
//!                  next_head -> UnsignedHead -> sign -> SignedHead --journal--> head_durable -> DurableHead
//! ```

use std::collections::{HashMap, HashSet, VecDeque};

use super::merkle::{Hash, Tree, TreeHead};
use super::record::{self, BATCH_OVERHEAD_BYTES, RECORD_LIMIT_BYTES};
use super::release::{
    Batch, DurableEntry, DurableHead, Released, SignedHead, Ticket, UnsignedHead,
};
use super::submission::Submission;
use super::wire::Malformed;
use super::{ISSUERS_LIMIT, LOG_LIMIT_ENTRIES};
use crate::certificate::hex;

/// Batches that may follow each other without a signed head; a log that cannot sign must not grow for ever
pub const HEADLESS_LIMIT_BATCHES: usize = 1 << 20;

/// How much the sequencer holds
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Entries that wait for a batch
    pub pool_entries: usize,
    /// Entries of one batch
    pub batch_entries: usize,
    /// Sequenced entries that are remembered, so that handing one in again gives the same place
    pub remembered_entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pool_entries: 4_096, batch_entries: 256, remembered_entries: 262_144 }
    }
}

/// Why the sequencer refuses
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SequencerError {
    /// The pool is full
    #[error("the log is busy; try again in {retry_after_ms} ms")]
    Busy {
        /// When there may be room again
        retry_after_ms: u64,
    },
    /// The chain refers to a certificate that was not registered
    #[error(
        "the log does not know the issuing certificate {fingerprint}; register its chain first"
    )]
    UnknownIssuer {
        /// SHA-256 in hexadecimal
        fingerprint: String,
    },
    /// Too many issuing certificates
    #[error("the log knows {ISSUERS_LIMIT} issuing certificates already; begin a new log")]
    TooManyIssuers,
    /// The clock shows less than before
    #[error(
        "the clock went back: the log's last timestamp is {last_ms} ms and it is now {now_ms} ms; \
         nothing is logged until the clock is past it, correct the clock of this host"
    )]
    ClockWentBack {
        /// The last timestamp that was given
        last_ms: u64,
        /// What the clock says
        now_ms: u64,
    },
    /// No head was signed for too long
    #[error(
        "the log has signed no tree head for {HEADLESS_LIMIT_BATCHES} batches; check its signer"
    )]
    HeadOverdue,
    /// The log has no more indices
    #[error("the log is full; begin a new one")]
    Full,
    /// Something that had been started elsewhere or was finished already
    #[error("this batch or head is not the one that is on its way")]
    NotInFlight,
    /// A write failed before
    #[error(
        "an earlier write of the log failed, so what the disk holds is not known; nothing is logged \
         until the daemon is restarted"
    )]
    Stopped,
    /// An entry could not be encoded
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// What became of a submission
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Submitted {
    /// It waits for its batch, possibly since it was handed in before
    Waiting(Ticket),
    /// It is in the log already
    Logged(DurableEntry),
}

/// What a sequencer goes on from; made by `recovery`
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) tree: Tree,
    pub(super) last_batch_ms: u64,
    pub(super) last_head: Option<DurableHead>,
    pub(super) headless_batches: usize,
    pub(super) issuers: HashSet<Hash>,
    pub(super) remembered: Remembered,
}

impl History {
    /// The latest time that was given to anything
    pub(super) fn last_ms(&self) -> u64 {
        let head_ms = self.last_head.as_ref().map_or(0, |head| head.timestamp_ms);
        self.last_batch_ms.max(head_ms)
    }
}

/// The state machine
#[derive(Debug)]
pub struct Sequencer {
    limits: Limits,
    history: History,
    pool: VecDeque<(Ticket, Submission)>,
    sealed: Option<Sealed>,
    head_in_flight: bool,
    tickets: u64,
    batches: u64,
    durable_after_ms: u64,
    stopped: bool,
}

#[derive(Debug)]
struct Sealed {
    number: u64,
    tree: Tree,
    timestamp_ms: u64,
    entries: Vec<(Hash, Released)>,
}

impl Sequencer {
    pub(super) fn new(history: History, limits: Limits) -> Self {
        Self {
            limits,
            history,
            pool: VecDeque::new(),
            sealed: None,
            head_in_flight: false,
            tickets: 0,
            batches: 0,
            durable_after_ms: 1,
            stopped: false,
        }
    }

    /// Size and root of what is durable
    pub fn head(&self) -> TreeHead {
        self.history.tree.head()
    }

    /// The last signed head that is durable
    pub fn last_head(&self) -> Option<&DurableHead> {
        self.history.last_head.as_ref()
    }

    /// Entries that wait for a batch
    pub fn waiting(&self) -> usize {
        self.pool.len()
    }

    /// Nothing more is accepted: a write failed, and what the disk holds is not known
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether a certificate is known, so that chains may refer to it
    pub fn knows_issuer(&self, fingerprint: &Hash) -> bool {
        self.history.issuers.contains(fingerprint)
    }

    /// Whether one more issuing certificate may be registered
    pub fn check_issuers(&self) -> Result<(), SequencerError> {
        self.check_running()?;
        let room = self.history.issuers.len() < ISSUERS_LIMIT;
        if room { Ok(()) } else { Err(SequencerError::TooManyIssuers) }
    }

    /// The journal has an issuing certificate, as `Record::Issuer`
    pub fn issuer_durable(&mut self, fingerprint: Hash) {
        self.history.issuers.insert(fingerprint);
    }

    /// Takes something to be logged
    pub fn submit(&mut self, submission: Submission) -> Result<Submitted, SequencerError> {
        self.check_running()?;
        if let Some(unknown) = submission.chain().iter().find(|one| !self.knows_issuer(one)) {
            return Err(SequencerError::UnknownIssuer { fingerprint: hex(unknown) });
        }
        match self.history.remembered.places.get(submission.identity()) {
            Some(Place::Waiting(ticket)) => return Ok(Submitted::Waiting(*ticket)),
            Some(Place::Logged { index, timestamp_ms }) => {
                let entry = submission.into_entry(*timestamp_ms, *index).timestamped;
                let leaf_hash = entry.leaf_hash()?;
                return Ok(Submitted::Logged(DurableEntry { entry, leaf_hash }));
            }
            None => {}
        }
        if self.pool.len() >= self.limits.pool_entries {
            let batches = self.pool.len() / self.limits.batch_entries.max(1) + 1;
            let retry_after_ms = self.durable_after_ms.saturating_mul(batches as u64);
            return Err(SequencerError::Busy { retry_after_ms });
        }
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        self.history.remembered.wait(*submission.identity(), ticket);
        self.pool.push_back((ticket, submission));
        Ok(Submitted::Waiting(ticket))
    }

    /// Closes a batch: its entries have their index and time from now on. `None` while another batch is on
    /// its way or when nothing waits.
    pub fn seal(&mut self, now_ms: u64) -> Result<Option<Batch>, SequencerError> {
        self.check_running()?;
        if self.sealed.is_some() || self.pool.is_empty() {
            return Ok(None);
        }
        self.check_clock(now_ms)?;
        if self.history.headless_batches >= HEADLESS_LIMIT_BATCHES {
            return Err(SequencerError::HeadOverdue);
        }
        let first_index = self.history.tree.size();
        if LOG_LIMIT_ENTRIES - first_index < self.limits.batch_entries as u64 {
            return Err(SequencerError::Full);
        }
        let sealed = self.fill(now_ms).inspect_err(|_| self.stopped = true)?;
        let leaves: Vec<_> =
            sealed.entries.iter().map(|(_, one)| one.tile_leaf.as_slice()).collect();
        let record = record::encode_batch(first_index, &sealed.tree.root(), &leaves);
        let (number, timestamp_ms) = (sealed.number, sealed.timestamp_ms);
        let tickets = sealed.entries.iter().map(|(_, one)| one.ticket).collect();
        self.sealed = Some(sealed);
        Ok(Some(Batch { number, first_index, timestamp_ms, tickets, record }))
    }

    /// The journal has the batch: its entries are in the log for good
    pub fn batch_durable(
        &mut self,
        batch: Batch,
        now_ms: u64,
    ) -> Result<Vec<Released>, SequencerError> {
        self.check_running()?;
        let sealed = self.sealed.take_if(|sealed| sealed.number == batch.number);
        let sealed = sealed.ok_or(SequencerError::NotInFlight)?;
        self.durable_after_ms = now_ms.saturating_sub(sealed.timestamp_ms).max(1);
        let history = &mut self.history;
        history.tree = sealed.tree;
        history.last_batch_ms = sealed.timestamp_ms;
        history.headless_batches += 1;
        let mut released = Vec::with_capacity(sealed.entries.len());
        for (identity, one) in sealed.entries {
            let entry = &one.durable.entry;
            let place = Place::Logged { index: entry.leaf_index, timestamp_ms: entry.timestamp_ms };
            history.remembered.log(identity, place, self.limits.remembered_entries);
            released.push(one);
        }
        Ok(released)
    }

    /// The head to be signed next; `None` when the last one covers everything, one is on its way, or the
    /// clock has not moved since the last one
    pub fn next_head(&mut self, now_ms: u64) -> Result<Option<UnsignedHead>, SequencerError> {
        self.check_running()?;
        let head = self.history.tree.head();
        if self.head_in_flight {
            return Ok(None);
        }
        if let Some(last) = &self.history.last_head
            && (last.head.size == head.size || now_ms == last.timestamp_ms)
        {
            return Ok(None);
        }
        self.check_clock(now_ms)?;
        self.head_in_flight = true;
        Ok(Some(UnsignedHead { head, timestamp_ms: now_ms }))
    }

    /// A head could not be signed
    pub fn head_abandoned(&mut self, _head: UnsignedHead) {
        self.head_in_flight = false;
    }

    /// The journal has the signed head: it may be published
    pub fn head_durable(&mut self, signed: SignedHead) -> Result<DurableHead, SequencerError> {
        self.check_running()?;
        let SignedHead { head, timestamp_ms, note, record: _ } = signed;
        if !std::mem::take(&mut self.head_in_flight) {
            return Err(SequencerError::NotInFlight);
        }
        let durable = DurableHead { head, timestamp_ms, note };
        self.history.headless_batches = 0;
        self.history.last_head = Some(durable.clone());
        Ok(durable)
    }

    /// Takes entries out of the pool, as many as one record holds
    fn fill(&mut self, timestamp_ms: u64) -> Result<Sealed, SequencerError> {
        let mut tree = self.history.tree.clone();
        let (mut entries, mut bytes) = (Vec::new(), BATCH_OVERHEAD_BYTES);
        while entries.len() < self.limits.batch_entries {
            match self.pool.front() {
                Some((_, next)) if bytes + next.encoded_bytes() <= RECORD_LIMIT_BYTES => {}
                _ => break,
            }
            let Some((ticket, submission)) = self.pool.pop_front() else { break };
            bytes += submission.encoded_bytes();
            let identity = *submission.identity();
            let entry = submission.into_entry(timestamp_ms, tree.size());
            let tile_leaf = entry.encode()?;
            let leaf_hash = entry.timestamped.leaf_hash()?;
            tree.push(leaf_hash);
            let durable = DurableEntry { entry: entry.timestamped, leaf_hash };
            entries.push((identity, Released { ticket, durable, tile_leaf }));
        }
        self.batches += 1;
        Ok(Sealed { number: self.batches, tree, timestamp_ms, entries })
    }

    fn check_running(&self) -> Result<(), SequencerError> {
        if self.stopped { Err(SequencerError::Stopped) } else { Ok(()) }
    }

    fn check_clock(&self, now_ms: u64) -> Result<(), SequencerError> {
        let sealed_ms = self.sealed.as_ref().map_or(0, |sealed| sealed.timestamp_ms);
        let last_ms = self.history.last_ms().max(sealed_ms);
        if now_ms < last_ms {
            return Err(SequencerError::ClockWentBack { last_ms, now_ms });
        }
        Ok(())
    }
}

/// Which submissions are where; of those in the log the latest ones
#[derive(Clone, Debug, Default)]
pub(super) struct Remembered {
    places: HashMap<Hash, Place>,
    logged: VecDeque<Hash>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Waiting(Ticket),
    Logged { index: u64, timestamp_ms: u64 },
}

impl Remembered {
    fn wait(&mut self, identity: Hash, ticket: Ticket) {
        self.places.insert(identity, Place::Waiting(ticket));
    }

    pub(super) fn log(&mut self, identity: Hash, place: Place, limit: usize) {
        self.places.insert(identity, place);
        self.logged.push_back(identity);
        while self.logged.len() > limit {
            if let Some(oldest) = self.logged.pop_front() {
                self.places.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
#[path = "sequencer_tests.rs"]
mod tests;
