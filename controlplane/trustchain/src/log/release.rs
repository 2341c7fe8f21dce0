//! What may be released, as types: an entry that the journal has, a head that may be signed, a signed head that
//! may be published. Only the sequencer makes them, and each leads to the next.

use rcgen::SigningKey;

use super::entry::TimestampedEntry;
use super::key::{LogSigner, SignError};
use super::merkle::{Hash, TreeHead};
use super::record::Record;

/// An entry that waits; the batch that has it names it again
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ticket(pub(super) u64);

/// An entry that the journal has; only such an entry gets an SCT
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DurableEntry {
    pub(super) entry: TimestampedEntry,
    pub(super) leaf_hash: Hash,
}

impl DurableEntry {
    /// The entry
    pub fn entry(&self) -> &TimestampedEntry {
        &self.entry
    }

    /// Hash of its leaf
    pub fn leaf_hash(&self) -> &Hash {
        &self.leaf_hash
    }

    /// An entry of a log that there is not, to be signed in a test
    #[cfg(test)]
    pub(super) fn for_test(entry: TimestampedEntry) -> Self {
        let leaf_hash = entry.leaf_hash().unwrap();
        Self { entry, leaf_hash }
    }
}

/// Entries on their way to the journal. Write `record`, wait until it is durable, give this back to
/// `batch_durable`; if writing fails, call `stop`.
#[derive(Debug)]
#[must_use = "a sealed batch must be written, and the sequencer told"]
pub struct Batch {
    pub(super) number: u64,
    pub(super) first_index: u64,
    pub(super) timestamp_ms: u64,
    pub(super) tickets: Vec<Ticket>,
    pub(super) record: Vec<u8>,
}

impl Batch {
    /// What the journal has to hold
    pub fn record(&self) -> &[u8] {
        &self.record
    }

    /// Index of its first entry
    pub fn first_index(&self) -> u64 {
        self.first_index
    }

    /// Time of all its entries, in milliseconds since 1970
    pub fn timestamp_ms(&self) -> u64 {
        self.timestamp_ms
    }

    /// What its entries were handed in under, in the order of their indices
    pub fn tickets(&self) -> &[Ticket] {
        &self.tickets
    }
}

/// One entry of a durable batch
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Released {
    /// What it was handed in under
    pub ticket: Ticket,
    /// The entry
    pub durable: DurableEntry,
    /// The same as it stands in its data tile
    pub tile_leaf: Vec<u8>,
}

/// A head that may be signed: everything under it is durable. One that will not be signed must be given to
/// `head_abandoned`.
#[derive(Debug)]
#[must_use = "a head that is not signed must be abandoned"]
pub struct UnsignedHead {
    pub(super) head: TreeHead,
    pub(super) timestamp_ms: u64,
}

/// A signed head that nobody may see before the journal has its `record`
#[derive(Debug)]
#[must_use = "a signed head must be written, and the sequencer told"]
pub struct SignedHead {
    pub(super) head: TreeHead,
    pub(super) timestamp_ms: u64,
    pub(super) note: String,
    pub(super) record: Vec<u8>,
}

/// A signed head that may be published
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DurableHead {
    pub(super) head: TreeHead,
    pub(super) timestamp_ms: u64,
    pub(super) note: String,
}

impl UnsignedHead {
    /// Signs it; blocks as long as the signer does
    pub fn sign<S: SigningKey>(&self, signer: &LogSigner<S>) -> Result<SignedHead, SignError> {
        let note = signer.sign_head(self.head, self.timestamp_ms)?.encode();
        let record = Record::Head { note: note.clone().into_bytes() }.encode()?;
        Ok(SignedHead { head: self.head, timestamp_ms: self.timestamp_ms, note, record })
    }
}

impl SignedHead {
    /// What the journal has to hold
    pub fn record(&self) -> &[u8] {
        &self.record
    }
}

impl DurableHead {
    /// Size and root
    pub fn head(&self) -> TreeHead {
        self.head
    }

    /// When it was signed, in milliseconds since 1970
    pub fn timestamp_ms(&self) -> u64 {
        self.timestamp_ms
    }

    /// The checkpoint
    pub fn note(&self) -> &str {
        &self.note
    }
}
