//! The transparency log: every certificate is an entry before anyone holds it. Compatible with C2SP
//! static-ct-api (tiles, data tiles, checkpoints as signed notes, the leaf_index extension) over RFC 6962
//! hashing. A state machine with the time passed in, and two thin traits for what lasts: `Journal`, which is
//! the truth, and `Published`, which is derived from it. It knows neither sockets nor who may ask for a
//! certificate.
//!
//! What may be released is a matter of types: an SCT is made of a `DurableEntry`, which only comes out of a
//! batch that the journal has, and a checkpoint of an `UnsignedHead`, which only comes out of such a tree.

pub mod checkpoint;
pub mod der;
pub mod directory;
pub mod driver;
pub mod entry;
pub mod fsck;
pub mod key;
pub mod merkle;
pub mod note;
pub mod proof;
pub mod publisher;
pub mod record;
pub mod recovery;
pub mod release;
pub mod sct;
pub mod sequencer;
pub mod serve;
pub mod store;
pub mod submission;
pub mod tile;
pub mod verify;
mod wire;

#[cfg(test)]
mod testing;

pub use checkpoint::{Checkpoint, VerifiedCheckpoint, WitnessKey};
pub use directory::Directory;
pub use driver::{Log, LogError, Outcome, Release, Settings};
pub use entry::{LogEntry, SignedEntry, TimestampedEntry};
pub use fsck::{FsckReport, fsck};
pub use key::{LogSigner, LogVerifier};
pub use merkle::{Hash, TreeHead};
pub use proof::ProofBundle;
pub use publisher::{Publisher, Start};
pub use recovery::{Recovery, StartError};
pub use release::{DurableEntry, DurableHead, Ticket};
pub use sct::{EmbeddedSct, Sct, SctError};
pub use sequencer::{Limits, Sequencer};
pub use store::{Journal, Published};
pub use submission::{IssuerChain, IssuerSignature, Submission};
pub use wire::Malformed;

/// Entries one log can hold: the leaf index of static-ct-api has 40 bits
pub const LOG_LIMIT_ENTRIES: u64 = 1 << 40;
/// Size of the largest certificate or precertificate that is logged
pub const CERTIFICATE_LIMIT_BYTES: usize = 16 << 10;
/// Certificates one chain may have, without the logged one
pub const CHAIN_LIMIT: usize = 4;
/// Different issuing certificates one log knows
pub const ISSUERS_LIMIT: usize = 1_024;
/// Length of the longest log or witness name
pub const NAME_LIMIT_BYTES: usize = 255;
