//! The seam to whatever is agreed on: validators agree on octets, and an application says what they mean. It is asked
//! from one thread, in an order this page states, and must answer alike on every validator.

use bytes::Bytes;

use super::evidence::{Evidence, Judgement};
use super::header::{Block, Header};
use crate::digest::Digest;
use crate::operation::Validator;

/// What a block that is to be proposed holds
#[derive(Clone, Debug, Default)]
pub struct Proposal {
    /// The operations, in order. They fit into a block ([`Block::has_room`]).
    pub operations: Vec<Bytes>,
    /// The state after them
    pub state_root: Digest,
    /// What is held against validators after them
    pub evidence_root: Digest,
    /// The validators of the next epoch as of the state after this block; none if they stay. Looked at only for the
    /// last block of an epoch.
    pub validators: Option<Vec<Validator>>,
}

/// Why a block is invalid
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invalidity {
    /// In words, for operators
    pub reason: String,
    /// The place of an operation that is invalid in itself, under this header and whatever the state. Evidence of it
    /// is then short, and can be judged by who has no state ([`Application::judge`]).
    pub operation: Option<u32>,
}

impl Invalidity {
    /// Invalid on the state after the parent
    pub fn of_block(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), operation: None }
    }

    /// Invalid by one operation in itself
    pub fn of_operation(place: u32, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), operation: Some(place) }
    }
}

/// What is said of a block
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Validity {
    /// It may be agreed on
    Valid,
    /// It can never be, and every honest validator finds so: whoever votes for it is named for it
    Invalid(Invalidity),
    /// It cannot be said yet. The block is shown again.
    Later,
}

/// What becomes of an operation that was handed in
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Offer {
    /// It waits for a block
    Accepted,
    /// It cannot be agreed on; says why
    Refused(String),
    /// Too many wait already
    Busy {
        /// When it may be handed in again, from now, in milliseconds
        retry_after_ms: u64,
    },
}

/// An operation that was accepted and is given up
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dropped {
    /// Its octets
    pub operation: Bytes,
    /// Why
    pub reason: String,
}

/// What is agreed on.
///
/// Blocks that are not final form a tree over the last final one. The application keeps the state after each block it
/// called valid until that block or another of its height is final. [`Application::propose`] and
/// [`Application::validate`] are called for a block only after its parent was called valid or made final.
/// [`Application::finalise`] is called in the order of heights, each once per process, for a block that
/// [`Application::validate`] called valid in this process.
///
/// Everything but [`Application::offer`], [`Application::backlog`] and the choice of what to propose follows from the
/// blocks and the genesis alone: no clock, no chance, no setting of the node.
pub trait Application: Send {
    /// The height of the last final block the application holds on its own, 0 for none: it is brought up from there
    fn height(&self) -> u64;

    /// The last final block whose state the application would hold on its own after a crash, 0 for none. Blocks above
    /// it are kept, whatever else is forgotten.
    fn durable_height(&self) -> u64;

    /// Takes operations into those that wait, from callers here or from another validator. One answer for each.
    fn offer(&mut self, operations: &[Bytes], now_ms: u64) -> Vec<Offer>;

    /// Operations that were accepted and are given up since this was last asked, for who waits for them here. That
    /// none of the others makes them final is not certain before they have run out.
    fn dropped(&mut self) -> Vec<Dropped> {
        Vec::new()
    }

    /// How many operations wait. With none, blocks come slowly.
    fn backlog(&self) -> usize;

    /// What a block after `parent` at time `now_ms` would hold; none where it has lost the parent's state. An empty
    /// block is always possible otherwise.
    fn propose(&mut self, parent: &Header, now_ms: u64) -> Option<Proposal>;

    /// Whether a block may be agreed on. Its header follows its parent's, and its operations are those the header
    /// commits to; that is not to be judged again.
    fn validate(&mut self, header: &Header, operations: &[Bytes]) -> Validity;

    /// The validators of the next epoch as of the state after this block, which is the last of its epoch and was
    /// called valid; none if they stay
    fn validators(&mut self, header: &Header) -> Option<Vec<Validator>> {
        let _ = header;
        None
    }

    /// The block is final and durable, and `certificate` shows it to anyone
    /// ([`Certificate`](super::certificate::Certificate)). After a crash the same blocks come again, from
    /// [`Application::height`] on.
    fn finalise(&mut self, block: &Block, certificate: &[u8]);

    /// A validator is convicted; the evidence is durable. After a restart all of it comes again.
    fn evidence(&mut self, evidence: &Evidence);

    /// Whether an operation is invalid under this header in itself, whatever the state
    fn judge(&self, header: &Header, operation: &[u8]) -> Judgement {
        let _ = (header, operation);
        Judgement::Unknown
    }
}
