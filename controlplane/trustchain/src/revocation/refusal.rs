//! Why a deny-list is not taken. Each refusal has one stable label for logs, counters and JSON.

use super::document::{DOCUMENT_LIMIT_BYTES, ENTRIES_LIMIT, VALIDITY_LIMIT};
use super::entry::EntryError;

/// Why a document is refused
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Too many octets
    #[error("the deny-list has {0} octets; at most {DOCUMENT_LIMIT_BYTES} are read")]
    TooLarge(usize),
    /// No protobuf of this schema
    #[error("the deny-list does not parse: {0}")]
    Malformed(&'static str),
    /// Signed by a key of no authority in force
    #[error("the deny-list is signed by key {0}, which is no key of an authority in force here")]
    UnknownSigner(String),
    /// The signature does not verify
    #[error("the deny-list's signature does not verify; it was changed under way or is forged")]
    BadSignature,
    /// The key belongs to another instance
    #[error("the deny-list is for instance {claimed}, and its key is one of instance {owner}")]
    WrongInstance {
        /// What it says
        claimed: String,
        /// Whose key signed it
        owner: String,
    },
    /// A version this host does not know
    #[error("the deny-list has version {0}; this host knows version 1")]
    Version(u32),
    /// Too many entries in one list, or in all
    #[error(
        "the deny-list would have {0} entries; at most {ENTRIES_LIMIT} are kept: taint the issuing \
         key and have its holders renew"
    )]
    TooManyEntries(usize),
    /// An entry makes no sense
    #[error("entry {index} of the deny-list is refused: {error}")]
    Entry {
        /// From zero
        index: usize,
        /// Why
        error: EntryError,
    },
    /// Entries out of order or twice
    #[error("entry {0} of the deny-list is out of order")]
    Order(usize),
    /// Times that cannot be
    #[error(
        "the deny-list's times cannot be: it must end after it was issued and within {} hours",
        VALIDITY_LIMIT.as_secs() / 3_600
    )]
    Times,
    /// Issued in the future
    #[error(
        "the deny-list was issued {ahead_seconds} s in the future; check the clocks of this host \
         and of the authority"
    )]
    Future {
        /// How far ahead
        ahead_seconds: u64,
    },
    /// Count or hash do not fit the entries
    #[error("the deny-list contradicts itself: its entries do not have the hash it names")]
    Inconsistent,
    /// An older issue
    #[error("epoch {offered} of the deny-list is a replay: this host has seen epoch {held}")]
    Replayed {
        /// The highest epoch seen
        held: u64,
        /// What came
        offered: u64,
    },
    /// Another content under the same number
    #[error(
        "epoch {0} of the deny-list was issued twice with different content; the authority was \
         restored without its latest state, or its key is in other hands"
    )]
    Equivocation(u64),
    /// Issued before the one held, though numbered after it
    #[error(
        "epoch {0} of the deny-list was issued before the one held; the authority's clock went back"
    )]
    TimeWentBack(u64),
    /// An issue is missing
    #[error("the change builds on epoch {base} and this host has {held}; the full list is needed")]
    Gap {
        /// What is held; zero for nothing
        held: u64,
        /// What it builds on
        base: u64,
    },
    /// After the change the lists differ
    #[error("after the change this host's list is not the authority's; the full list is needed")]
    Diverged,
    /// Revocations are missing that still count
    #[error(
        "epoch {epoch} of the deny-list lacks {missing} revocations that still count; the authority \
         was restored from an old backup: let it adopt the list of a node"
    )]
    UnRevokes {
        /// The epoch
        epoch: u64,
        /// How many at least
        missing: usize,
    },
}

impl Refusal {
    /// Every label, for counters that start at zero
    pub const LABELS: [&'static str; 18] = [
        "too_large",
        "malformed",
        "unknown_signer",
        "bad_signature",
        "wrong_instance",
        "version",
        "too_many_entries",
        "entry",
        "order",
        "times",
        "future",
        "inconsistent",
        "replayed",
        "equivocation",
        "time_went_back",
        "gap",
        "diverged",
        "un_revokes",
    ];

    /// The label used in logs, metrics and JSON
    pub const fn label(&self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// Position in [`Self::LABELS`]
    pub const fn index(&self) -> usize {
        match self {
            Self::TooLarge(_) => 0,
            Self::Malformed(_) => 1,
            Self::UnknownSigner(_) => 2,
            Self::BadSignature => 3,
            Self::WrongInstance { .. } => 4,
            Self::Version(_) => 5,
            Self::TooManyEntries(_) => 6,
            Self::Entry { .. } => 7,
            Self::Order(_) => 8,
            Self::Times => 9,
            Self::Future { .. } => 10,
            Self::Inconsistent => 11,
            Self::Replayed { .. } => 12,
            Self::Equivocation(_) => 13,
            Self::TimeWentBack(_) => 14,
            Self::Gap { .. } => 15,
            Self::Diverged => 16,
            Self::UnRevokes { .. } => 17,
        }
    }
}
