//! Blocks: a list of operations, done in order, all or none. The proposer drafts one from what waits and leaves out
//! what is refused; every other validator applies it and refuses the block for the first operation that is.

use bytes::Bytes;

use super::execute::Execution;
use super::parameters::{
    BLOCK_LIMIT_BYTES, BLOCK_OPERATIONS_LIMIT, BLOCK_PARTS_LIMIT, KEPT_HEIGHTS,
};
use super::records::{Beacon, Expiries, Expiry, forgotten_at};
use super::refusal::{InvalidBlock, Refusal};
use super::{EpochStart, Finding, Registry, authorise::authorise, height_place};
use crate::digest::Digest;
use crate::operation::{AllocationId, AssetId, Candidate, OperationBody, RequesterId};
use crate::proof::TicketState;

/// Beacons forgotten with one block at most, should a policy let fewer count than before
const BEACONS_FORGOTTEN_LIMIT: usize = 64;

/// What of a header the registry goes by
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlockFacts {
    /// The epoch it is in: [`Registry::next_epoch`]
    pub epoch: u64,
    /// One above the last block
    pub height: u64,
    /// The digest of the last block's header
    pub parent: Digest,
    /// Later than the last block, in milliseconds since 1970
    pub time_ms: u64,
}

/// What one part of an operation did
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// There is a new asset
    Registered {
        /// Which
        asset: AssetId,
        /// Whose
        owner: RequesterId,
    },
    /// Something was taken of an asset
    Allocated {
        /// What
        allocation: AllocationId,
        /// Of which asset
        asset: AssetId,
        /// Whose it is now
        holder: RequesterId,
        /// How much
        quantity: u64,
    },
    /// What was taken is in use
    InUse {
        /// What
        allocation: AllocationId,
        /// Of which asset
        asset: AssetId,
    },
    /// It is available again
    Released {
        /// What
        allocation: AllocationId,
        /// Of which asset
        asset: AssetId,
        /// How much
        quantity: u64,
    },
    /// It does not work
    Failed {
        /// What
        allocation: AllocationId,
        /// Of which asset
        asset: AssetId,
        /// How much
        quantity: u64,
    },
    /// What had failed is available again
    Restored {
        /// Of which asset
        asset: AssetId,
        /// How much
        quantity: u64,
    },
    /// An asset was taken out
    Retired {
        /// Which
        asset: AssetId,
        /// What it was certified for, to be revoked
        ended_certificate: Option<Digest>,
    },
    /// An asset has another owner
    Transferred {
        /// Which
        asset: AssetId,
        /// Whose it was
        from: RequesterId,
        /// Whose it is
        to: RequesterId,
        /// What it was certified for, to be revoked
        ended_certificate: Option<Digest>,
    },
    /// TrustChain may issue a certificate
    CertificateGranted {
        /// For which asset, if for one
        asset: Option<AssetId>,
        /// To whom
        requester: RequesterId,
        /// For exactly this request
        csr_statement: Digest,
        /// How long it counts, in milliseconds since 1970
        expires_ms: u64,
    },
    /// A certificate ended before its time, to be revoked
    CertificateEnded {
        /// Of which asset
        asset: AssetId,
        /// What was certified
        csr_statement: Digest,
    },
    /// There is a ticket
    TicketGranted {
        /// Under which it is used: the operation that asked for it
        ticket: Digest,
        /// What it is good for
        granted: TicketState,
    },
    /// Stake has another owner
    StakeGiven {
        /// Whose it was
        from: RequesterId,
        /// Whose it is
        to: RequesterId,
        /// How much
        amount: u64,
    },
    /// A validator voted
    Voted {
        /// For which change: its digest
        change: Digest,
        /// How many want it by now
        votes: usize,
        /// How many must
        quorum: usize,
        /// Whether it will be made
        adopted: bool,
    },
    /// A validator is shown to have broken the protocol
    EvidenceRecorded {
        /// Who and how
        finding: Finding,
        /// How much stake it lost
        slashed: u64,
    },
}

/// What one operation did
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OperationOutcome {
    /// Which
    pub operation: Digest,
    /// Who asked
    pub requester: RequesterId,
    /// One for each part of a batch, else one
    pub effects: Vec<Effect>,
}

/// What a block did
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BlockOutcome {
    /// Its height
    pub height: u64,
    /// The state after it: what its header must say
    pub state_root: Digest,
    /// All evidence on record after it: what its header must say
    pub evidence_root: Digest,
    /// What its operations did, in their order
    pub operations: Vec<OperationOutcome>,
    /// The epoch that the next block begins, if one does
    pub epoch_start: Option<EpochStart>,
}

/// A block made from what waits
#[derive(Clone, Debug)]
pub struct Draft {
    /// The state after it
    pub registry: Registry,
    /// What it does
    pub outcome: BlockOutcome,
    /// Which candidates it holds, in their order, counted from 0
    pub included: Vec<usize>,
    /// Which are refused for this block, and why
    pub refused: Vec<(usize, Refusal)>,
}

/// Reads the operations of a block, within the limits of one
pub fn decode_operations(operations: &[Bytes]) -> Result<Vec<Candidate>, InvalidBlock> {
    let mut room = Room::default();
    let mut candidates = Vec::with_capacity(operations.len().min(BLOCK_OPERATIONS_LIMIT));
    for (index, octets) in operations.iter().enumerate() {
        let candidate =
            Candidate::decode(octets).map_err(|reason| InvalidBlock::Encoding { index, reason })?;
        room = room.with(&candidate)?;
        candidates.push(candidate);
    }
    Ok(candidates)
}

/// What of a block is taken
#[derive(Default)]
struct Room {
    operations: usize,
    parts: usize,
    octets: usize,
}

impl Room {
    /// What is taken with one more
    fn with(&self, candidate: &Candidate) -> Result<Self, InvalidBlock> {
        let parts = match candidate.body() {
            OperationBody::Batch(parts) => parts.len(),
            _single => 1,
        };
        let next = Self {
            operations: self.operations + 1,
            parts: self.parts + parts,
            octets: self.octets + candidate.octets().len(),
        };
        for (count, what, limit) in [
            (next.operations, "operations", BLOCK_OPERATIONS_LIMIT),
            (next.parts, "parts of batches", BLOCK_PARTS_LIMIT),
            (next.octets, "octets", BLOCK_LIMIT_BYTES),
        ] {
            if count > limit {
                return Err(InvalidBlock::TooLarge { what, limit });
            }
        }
        Ok(next)
    }
}

impl Registry {
    /// Whether an operation would be taken by its right in a block at this time; what it asks for may still be
    /// refused by what else is in the block
    pub fn check(&self, candidate: &Candidate, time_ms: u64) -> Result<(), Refusal> {
        authorise(&self.judged(time_ms.max(self.time_ms.saturating_add(1))), candidate)
            .map(|_right| ())
    }

    /// Does a block, or nothing.
    ///
    /// Signatures that [`crate::operation::verify_signatures`] has not checked yet are checked here, one by one.
    pub fn apply_block(
        &mut self,
        facts: &BlockFacts,
        operations: &[Candidate],
    ) -> Result<BlockOutcome, InvalidBlock> {
        let mut execution = self.begin(facts)?;
        let mut room = Room::default();
        let mut outcomes = Vec::with_capacity(operations.len());
        for (index, candidate) in operations.iter().enumerate() {
            room = room.with(candidate)?;
            let effects = execution
                .apply(candidate)
                .map_err(|reason| InvalidBlock::Operation { index, reason })?;
            outcomes.push(outcome(candidate, effects));
        }
        let (state, outcome) = execution.end(outcomes);
        *self = state;
        Ok(outcome)
    }

    /// Makes a block of what waits: in order, without what is refused, up to the limits of a block
    pub fn draft_block<'a>(
        &self,
        facts: &BlockFacts,
        candidates: impl IntoIterator<Item = &'a Candidate>,
    ) -> Result<Draft, InvalidBlock> {
        let mut execution = self.begin(facts)?;
        let mut room = Room::default();
        let (mut included, mut refused) = (Vec::new(), Vec::new());
        let mut outcomes = Vec::new();
        for (index, candidate) in candidates.into_iter().enumerate() {
            let Ok(with) = room.with(candidate) else { break };
            match execution.apply(candidate) {
                Ok(effects) => {
                    room = with;
                    included.push(index);
                    outcomes.push(outcome(candidate, effects));
                }
                Err(reason) => refused.push((index, reason)),
            }
        }
        let (registry, outcome) = execution.end(outcomes);
        Ok(Draft { registry, outcome, included, refused })
    }

    /// Checks what of the header does not need its operations, and forgets what is out of date
    pub(super) fn begin<'a>(&self, facts: &'a BlockFacts) -> Result<Execution<'a>, InvalidBlock> {
        let BlockFacts { epoch, height, parent, time_ms } = *facts;
        let expected = self.height + 1;
        if height != expected {
            return Err(InvalidBlock::Height { found: height, expected });
        }
        if self.tip.is_some_and(|tip| tip != parent) {
            return Err(InvalidBlock::Parent);
        }
        if epoch != self.epoch {
            return Err(InvalidBlock::Epoch { found: epoch, expected: self.epoch });
        }
        if time_ms <= self.time_ms {
            return Err(InvalidBlock::Time { found: time_ms, last: self.time_ms });
        }
        let mut state = self.clone();
        // What the operations of this block may take as beacon, the parent included
        let parent_beacon = Beacon { hash: parent, time_ms: self.time_ms };
        state.beacons.insert(height_place(self.height), parent_beacon);
        state.forget(height);
        Ok(Execution { state, facts, expiries: Vec::new() })
    }

    /// Forgets what nobody can need from this height on
    fn forget(&mut self, height: u64) {
        if let Some(source) = height.checked_sub(KEPT_HEIGHTS + 1) {
            debug_assert_eq!(forgotten_at(source), height);
            let due = self.expiries.remove(&height_place(source));
            for expiry in due.iter().flat_map(|due| &due.0) {
                match expiry {
                    Expiry::Seen(statement) => drop(self.seen.remove(statement)),
                    Expiry::Allocation(allocation) => drop(self.allocations.remove(allocation)),
                    Expiry::Asset(asset) => drop(self.assets.remove(&asset.key())),
                }
            }
        }
        let ages = self.policies.values().map(|policy| policy.beacon_age_heights);
        let lowest = height.saturating_sub(ages.max().unwrap_or(0));
        for _forgotten in 0..BEACONS_FORGOTTEN_LIMIT {
            if self.beacons_from_height >= lowest {
                break;
            }
            self.beacons.remove(&height_place(self.beacons_from_height));
            self.beacons_from_height += 1;
        }
    }
}

fn outcome(candidate: &Candidate, effects: Vec<Effect>) -> OperationOutcome {
    OperationOutcome { operation: *candidate.id(), requester: *candidate.requester(), effects }
}

impl Execution<'_> {
    pub(super) fn end(self, operations: Vec<OperationOutcome>) -> (Registry, BlockOutcome) {
        let BlockFacts { height, time_ms, .. } = *self.facts;
        let mut state = self.state;
        if !self.expiries.is_empty() {
            state.expiries.insert(height_place(height), Expiries(self.expiries));
        }
        state.height = height;
        state.time_ms = time_ms;
        state.tip = None;
        let last = height >= state.epoch_end_height();
        let epoch_start = last.then(|| state.begin_epoch(height));
        let outcome = BlockOutcome {
            height,
            state_root: state.state_root(),
            evidence_root: state.evidence_root(),
            operations,
            epoch_start,
        };
        (state, outcome)
    }
}
