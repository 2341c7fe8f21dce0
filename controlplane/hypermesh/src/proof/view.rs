//! What proofs are judged against: finalised state, as it stands before the block that would hold the operation. The
//! registry is one; every validator's must answer alike, or they would not agree.

use crate::digest::Digest;
use crate::operation::RequesterId;

use super::policy::Policy;
use super::replay::SequenceWindow;
use super::ticket::TicketState;

/// Finalised state, and the block under judgement on top of it
pub trait ChainView {
    /// The network: the digest of its genesis
    fn network(&self) -> Digest;

    /// The epoch of the block under judgement
    fn epoch(&self) -> u64;

    /// The height of the block under judgement: one above the last finalised block for a request that waits
    fn height(&self) -> u64;

    /// The digest of the finalised block at a height below; none where it is not known or no longer kept. Kept must
    /// be as many as the largest [`Policy::beacon_age_heights`] in force.
    fn beacon(&self, height: u64) -> Option<Digest>;

    /// The time in the header of the finalised block at a height below, in milliseconds since 1970; known wherever
    /// [`ChainView::beacon`] is. Without it, proofs under a policy with [`Policy::beacon_age_ms`] are refused.
    fn beacon_time_ms(&self, height: u64) -> Option<u64>;

    /// The time of the block under judgement, in milliseconds since 1970
    fn block_time_ms(&self) -> u64;

    /// The root over the [stake leaves](super::stake::StakeLeaf) of an epoch, and how many there are
    fn stake_root(&self, epoch: u64) -> Option<(Digest, u64)>;

    /// The policy of this id, if it is in force
    fn policy(&self, id: u32) -> Option<Policy>;

    /// Whether a statement of this digest was accepted before
    fn is_seen(&self, statement: &Digest) -> bool;

    /// The sequence numbers a requester used; the empty window for one that is not known
    fn last_sequence_window(&self, requester: &RequesterId) -> SequenceWindow;

    /// The ticket of this id
    fn ticket(&self, id: &Digest) -> Option<TicketState>;
}
