//! The engine of the `copy` service: files and trees over one flow, resumable, each file verified with
//! BLAKE3 before it takes its place. It runs over any asynchronous byte stream and knows neither sessions
//! nor who the peer is: whoever calls [`serve`] has authenticated and authorised it. The bytes on the flow
//! are those of `dataplane/transport/COPY.md`.
//!
//! A transfer has two roles that do not depend on who opened the flow. The sender walks the tree and offers
//! entries ahead; the receiver answers which files it wants and from where. Each role is one blocking thread
//! for file work, joined to the flow by bounded queues, so reading, hashing, sending, receiving and writing
//! overlap and memory stays bounded.
//!
//! Carried: content, permission bits, modification times, symbolic links (as links, never followed). Not
//! carried: owners, access control lists, extended attributes, set-user-id and set-group-id bits, hard links
//! (each becomes a file of its own) and holes (they become zeros).

mod destination;
mod digest;
mod drive;
mod error;
mod existing;
mod metadata;
mod outbox;
mod partial;
mod place;
mod receive;
mod roots;
mod send;
mod session;
mod tally;
#[cfg(test)]
mod tests;
mod walk;

// The one line to change if the codec moves.
use stoq_transport::copy as wire;

pub use error::CopyError;
pub use roots::{Permission, Roots};
pub use session::{pull, push, serve};
pub use tally::{Progress, Summary};

/// What the caller of [`push`] or [`pull`] may choose
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// Files of equal size are compared by content; without it equal size and modification time suffice
    pub verify_existing: bool,
}

/// Octets of one read from a file or, at most, from the flow
const READ_BYTES: usize = 1 << 20;

/// Pieces waiting between the file thread and the flow, each at most [`READ_BYTES`] long
const QUEUE_PIECES: usize = 8;

/// Transfers at work in this process at the same time; a further one is refused as busy
const TRANSFERS_MAX: usize = 64;

/// Files of one transfer that are flushed to stable storage and renamed at the same time
const FINISHERS_MAX: usize = 64;

/// Problems a summary names; further ones are counted
const PROBLEMS_LISTED_MAX: usize = 100;
