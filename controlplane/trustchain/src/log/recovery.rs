//! Start-up: the journal is read from its beginning, every hash is computed again, and whatever does not fit
//! is refused with its own reason. It reads records that are handed to it and writes nothing; published files
//! are checked in `publisher`.

use std::collections::VecDeque;

use boring::sha::sha256;

use super::checkpoint::CheckpointError;
use super::key::LogVerifier;
use super::merkle::{Hash, Tree, TreeHead};
use super::record::Record;
use super::release::{DurableEntry, DurableHead};
use super::sequencer::{HEADLESS_LIMIT_BATCHES, History, Limits, Place, Sequencer};
use super::store::StoreError;
use super::submission::identity_of;
use super::wire::Malformed;
use super::{ISSUERS_LIMIT, LogEntry};
use crate::certificate::hex;

/// Why a log does not start. Each needs a person to look at it; none is repaired by itself.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no log
    #[error("the journal holds no log; if there never was one, make it with `stoqctl log init`")]
    NotCreated,
    /// There is a log already
    #[error("there is a log already; a log is never made anew in the place of another")]
    Exists,
    /// The journal is of another log
    #[error("the journal is of the log `{found}`, configured is `{expected}`")]
    WrongLog {
        /// The configured origin
        expected: String,
        /// The origin in the journal
        found: String,
    },
    /// The key is not the log's
    #[error(
        "the signer's key is {found} and the log's is {expected} (SHA-256 of the public key); give \
         the log its own key back"
    )]
    WrongKey {
        /// Log id in the journal
        expected: String,
        /// Log id of the key
        found: String,
    },
    /// A record does not parse
    #[error("record {record} of the journal is damaged: {reason}; restore the journal")]
    Damaged {
        /// Number of the record, from 1
        record: u64,
        /// What is wrong with it
        reason: Malformed,
    },
    /// Records do not follow each other
    #[error("the journal's history is torn at record {record}: {reason}; restore the journal")]
    Torn {
        /// Number of the record, from 1
        record: u64,
        /// What does not fit
        reason: &'static str,
    },
    /// The entries do not have the root that was recorded with them
    #[error(
        "record {record} of the journal: its entries do not give the root recorded with them, so a \
         bit of them has changed; restore the journal"
    )]
    Root {
        /// Number of the record, from 1
        record: u64,
    },
    /// A signed head in the journal is not this log's
    #[error("record {record} of the journal: {reason}")]
    Head {
        /// Number of the record, from 1
        record: u64,
        /// Why it is not believed
        reason: CheckpointError,
    },
    /// The published checkpoint is not this log's
    #[error("the published checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint was signed for more than the journal has
    #[error(
        "a checkpoint of {checkpoint_size} entries has been signed and the journal has \
         {journal_size}: entries are lost, restore the newest journal; never start an older one"
    )]
    CheckpointBeyondJournal {
        /// Entries under the checkpoint
        checkpoint_size: u64,
        /// Entries in the journal, or under its last signed head
        journal_size: u64,
    },
    /// Two different trees of one size
    #[error(
        "split head at {size} entries: the journal gives the root {journal}, a signed checkpoint \
         says {checkpoint}; this log must not go on, keep both as evidence"
    )]
    SplitHead {
        /// Number of entries
        size: u64,
        /// Root by the journal
        journal: String,
        /// Root by the checkpoint
        checkpoint: String,
    },
    /// The clock shows less than the log has seen
    #[error(
        "the clock went back: the log's last timestamp is {last_ms} ms and it is now {now_ms} ms; \
         correct the clock of this host"
    )]
    ClockWentBack {
        /// The log's last timestamp
        last_ms: u64,
        /// What the clock says
        now_ms: u64,
    },
    /// A published file is missing or not as it should be
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal could not be read or written
    #[error("the log's journal: {0}")]
    Journal(std::io::Error),
}

/// What a record said
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Recovered {
    /// The log was made
    Created,
    /// A certificate of a chain
    Issuer(Vec<u8>),
    /// Entries: hash of the leaf, and the entry as it stands in its data tile
    Entries(Vec<RecoveredEntry>),
    /// A signed head
    Head,
}

/// One entry of the journal
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecoveredEntry {
    /// Hash of its leaf
    pub leaf_hash: Hash,
    /// The entry as it stands in its data tile
    pub tile_leaf: Vec<u8>,
}

impl RecoveredEntry {
    /// The entry as one that the journal has, which it is
    pub fn durable(&self) -> Result<DurableEntry, Malformed> {
        let mut entries = LogEntry::decode_all(&self.tile_leaf)?;
        match (entries.pop(), entries.is_empty()) {
            (Some(one), true) => {
                Ok(DurableEntry { entry: one.timestamped, leaf_hash: self.leaf_hash })
            }
            _ => Err(Malformed("log entry")),
        }
    }
}

/// Reads a journal record by record
#[derive(Debug)]
pub struct Recovery {
    verifier: LogVerifier,
    limits: Limits,
    history: History,
    created: bool,
    records: u64,
    heads: u64,
    known: VecDeque<TreeHead>,
    known_size: u64,
    /// Sizes and roots at the ends of the batches since the last signed head
    ends: Vec<TreeHead>,
}

/// Whether a journal, by its first record, is of this log and key; to be asked before anything else, so that a
/// wrong key is called a wrong key
pub fn check_identity(first_record: &[u8], verifier: &LogVerifier) -> Result<(), StartError> {
    Recovery::new(verifier.clone(), Limits::default(), &[])?.record(first_record).map(|_| ())
}

impl Recovery {
    /// `known_heads` are heads of this log that somebody has seen: the published checkpoint, and those of
    /// witnesses and peers. The journal must lead through each of them.
    pub fn new(
        verifier: LogVerifier,
        limits: Limits,
        known_heads: &[TreeHead],
    ) -> Result<Self, StartError> {
        let mut known = known_heads.to_vec();
        known.sort_by_key(|head| head.size);
        known.dedup();
        let mut recovery = Self {
            verifier,
            limits,
            history: History::default(),
            created: false,
            records: 0,
            heads: 0,
            known_size: known.last().map_or(0, |head| head.size),
            known: known.into(),
            ends: vec![Tree::default().head()],
        };
        recovery.meet_known(&Tree::default())?;
        Ok(recovery)
    }

    /// Signed heads read so far
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Entries read so far
    pub fn entries(&self) -> u64 {
        self.history.tree.size()
    }

    /// Takes the next record
    pub fn record(&mut self, bytes: &[u8]) -> Result<Recovered, StartError> {
        self.records += 1;
        let record = Record::decode(bytes).map_err(|reason| self.damaged(reason))?;
        if self.created == matches!(record, Record::Created { .. }) {
            return Err(self.torn("the first record, and no other, says which log this is"));
        }
        match record {
            Record::Created { origin, spki_der, created_ms } => {
                self.take_created(origin, &spki_der, created_ms)
            }
            Record::Issuer { der } => {
                if self.history.issuers.len() >= ISSUERS_LIMIT {
                    return Err(self.torn("too many issuing certificates"));
                }
                if !self.history.issuers.insert(sha256(&der)) {
                    return Err(self.torn("an issuing certificate is registered twice"));
                }
                Ok(Recovered::Issuer(der))
            }
            Record::Batch { first_index, root, entries } => {
                self.take_batch(first_index, &root, entries)
            }
            Record::Head { note } => self.take_head(&note),
        }
    }

    /// All records have been read
    pub fn finish(self, now_ms: u64) -> Result<Sequencer, StartError> {
        let journal_size = self.history.tree.size();
        if let Some(ahead) = self.known.back() {
            let checkpoint_size = ahead.size;
            return Err(StartError::CheckpointBeyondJournal { checkpoint_size, journal_size });
        }
        if !self.created {
            return Err(StartError::NotCreated);
        }
        // Whatever was published had been recorded first.
        let signed = self.history.last_head.as_ref().map_or(0, |head| head.head.size);
        if self.known_size > signed {
            let checkpoint_size = self.known_size;
            return Err(StartError::CheckpointBeyondJournal {
                checkpoint_size,
                journal_size: signed,
            });
        }
        let last_ms = self.history.last_ms();
        if now_ms < last_ms {
            return Err(StartError::ClockWentBack { last_ms, now_ms });
        }
        Ok(Sequencer::new(self.history, self.limits))
    }

    fn take_created(
        &mut self,
        origin: String,
        spki_der: &[u8],
        created_ms: u64,
    ) -> Result<Recovered, StartError> {
        if origin != self.verifier.origin() {
            let expected = self.verifier.origin().to_owned();
            return Err(StartError::WrongLog { expected, found: origin });
        }
        if spki_der != self.verifier.spki_der() {
            let (expected, found) = (hex(&sha256(spki_der)), hex(self.verifier.log_id()));
            return Err(StartError::WrongKey { expected, found });
        }
        self.created = true;
        self.history.last_batch_ms = created_ms;
        Ok(Recovered::Created)
    }

    fn take_batch(
        &mut self,
        first_index: u64,
        root: &Hash,
        entries: Vec<LogEntry>,
    ) -> Result<Recovered, StartError> {
        if first_index != self.history.tree.size() {
            return Err(self.torn("a batch does not begin where the one before it ends"));
        }
        if self.history.headless_batches > HEADLESS_LIMIT_BATCHES {
            return Err(self.torn("too many batches without a signed head"));
        }
        let mut recovered = Vec::with_capacity(entries.len());
        let batch_ms = entries.first().map_or(0, |entry| entry.timestamped.timestamp_ms);
        if batch_ms < self.history.last_batch_ms {
            return Err(self.torn("a batch is older than the one before it"));
        }
        let mut tree = std::mem::take(&mut self.history.tree);
        for entry in entries {
            let (index, timestamp_ms) =
                (entry.timestamped.leaf_index, entry.timestamped.timestamp_ms);
            if index != tree.size() || timestamp_ms != batch_ms {
                return Err(self.torn("an entry is not at its index or time"));
            }
            if entry.chain.iter().any(|one| !self.history.issuers.contains(one)) {
                return Err(self.torn("an entry names an issuing certificate that is not there"));
            }
            let leaf_hash = entry.timestamped.leaf_hash().map_err(|e| self.damaged(e))?;
            let tile_leaf = entry.encode().map_err(|reason| self.damaged(reason))?;
            tree.push(leaf_hash);
            self.meet_known(&tree)?;
            let place = Place::Logged { index, timestamp_ms };
            let limit = self.limits.remembered_entries;
            self.history.remembered.log(identity_of(&entry), place, limit);
            recovered.push(RecoveredEntry { leaf_hash, tile_leaf });
        }
        let head = tree.head();
        self.history.tree = tree;
        if head.root != *root {
            return Err(StartError::Root { record: self.records });
        }
        self.ends.push(head);
        self.history.headless_batches += 1;
        self.history.last_batch_ms = batch_ms;
        Ok(Recovered::Entries(recovered))
    }

    fn take_head(&mut self, note: &[u8]) -> Result<Recovered, StartError> {
        let record = self.records;
        let verified = self
            .verifier
            .verify_checkpoint(note, &[])
            .map_err(|reason| StartError::Head { record, reason })?;
        let head = verified.head;
        if head.size > self.history.tree.size() {
            let (checkpoint_size, journal_size) = (head.size, self.history.tree.size());
            return Err(StartError::CheckpointBeyondJournal { checkpoint_size, journal_size });
        }
        let at = self.ends.binary_search_by_key(&head.size, |end| end.size);
        let at = at.map_err(|_| self.torn("a signed head does not end with a batch"))?;
        if self.ends[at].root != head.root {
            return Err(split(&self.ends[at], &head));
        }
        if let Some(last) = &self.history.last_head
            && (last.head.size >= head.size || last.timestamp_ms >= verified.timestamp_ms)
        {
            return Err(self.torn("a signed head does not follow the one before it"));
        }
        self.ends.drain(..at);
        self.heads += 1;
        self.history.headless_batches = self.ends.len() - 1;
        let (timestamp_ms, note) = (verified.timestamp_ms, verified.note().to_owned());
        self.history.last_head = Some(DurableHead { head, timestamp_ms, note });
        Ok(Recovered::Head)
    }

    /// Compares the tree with the heads that are known for its size
    fn meet_known(&mut self, tree: &Tree) -> Result<(), StartError> {
        while let Some(known) = self.known.front().filter(|known| known.size == tree.size()) {
            let own = tree.head();
            if own.root != known.root {
                return Err(split(&own, known));
            }
            self.known.pop_front();
        }
        Ok(())
    }

    fn torn(&self, reason: &'static str) -> StartError {
        StartError::Torn { record: self.records, reason }
    }

    fn damaged(&self, reason: Malformed) -> StartError {
        StartError::Damaged { record: self.records, reason }
    }
}

fn split(journal: &TreeHead, checkpoint: &TreeHead) -> StartError {
    StartError::SplitHead {
        size: journal.size,
        journal: hex(&journal.root),
        checkpoint: hex(&checkpoint.root),
    }
}
