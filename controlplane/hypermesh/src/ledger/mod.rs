//! The registry as what is agreed on: it drafts blocks from what waits, judges those of others, and follows what is
//! final. What a block does is the registry's; that all validators do it is `consensus`'s.

mod accusations;
mod application;
mod pool;
mod snapshots;
#[cfg(test)]
mod tests;
mod view;

pub use view::{FinalOutcome, LedgerView, OUTCOME_BLOCKS_LIMIT, OUTCOMES_LIMIT};

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::consensus::evidence::RegistryJudge;
use crate::consensus::{Dropped, Genesis, Header, Invalidity, Offer, Proposal};
use crate::digest::Digest;
use crate::operation::{Candidate, verify_signatures};
use crate::proof::ProofRefusal;
use crate::registry::{
    BLOCK_OPERATIONS_LIMIT, BlockFacts, BlockOutcome, GenesisError, InvalidBlock, Refusal,
    Registry, check_stateless, decode_operations,
};

use accusations::Accusations;
use pool::Pool;
use snapshots::Snapshots;

/// States of blocks that are not final. They share what they have in common.
const STATES_LIMIT: usize = 16_384;
/// Blocks after which an operation that no block here took is tried by itself, so that whoever waits for it is told
const TRY_AGAIN_BLOCKS: u64 = 32;
/// When somebody may try again who found no room, in milliseconds
const BUSY_RETRY_MS: u64 = 100;

/// How much a ledger takes at a time
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LedgerLimits {
    /// Operations that wait
    pub pending_operations: usize,
    /// Their octets
    pub pending_bytes: usize,
    /// Operations of a block proposed here: what all validators can judge well within their patience
    pub block_operations: usize,
    /// Blocks from one snapshot to the next
    pub snapshot_blocks: u64,
}

impl Default for LedgerLimits {
    fn default() -> Self {
        Self {
            pending_operations: 1 << 16,
            pending_bytes: 64 << 20,
            block_operations: 2_048,
            snapshot_blocks: 4_096,
        }
    }
}

/// What a ledger is opened with
pub struct LedgerConfig {
    /// The network
    pub genesis: Arc<Genesis>,
    /// Where its snapshots are; not the directory of the validator, and of no other process
    pub directory: PathBuf,
    /// The secret half of the validator's key, under which it hands in evidence; none where it only follows
    pub validator: Option<[u8; 32]>,
    /// How much it takes
    pub limits: LedgerLimits,
}

/// Why there is no ledger
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The genesis is none
    #[error("the genesis: {0}")]
    Genesis(#[from] GenesisError),
    /// The directory cannot be used
    #[error("{path} cannot be used: {source}")]
    Directory {
        /// The directory
        path: PathBuf,
        /// Why
        source: io::Error,
    },
    /// What it holds is no snapshot
    #[error(
        "{path} is no snapshot ({reason}); remove it, and the blocks are replayed; where they are not kept from the \
         first one on, begin with a copy of another node's blocks and registry"
    )]
    Snapshot {
        /// The file
        path: PathBuf,
        /// Why
        reason: String,
    },
    /// It is of another network
    #[error("{path} holds the registry of another network than the genesis; use another directory")]
    OtherNetwork {
        /// The directory
        path: PathBuf,
    },
}

/// The state after a block that is not final
struct Open {
    height: u64,
    parent: Digest,
    registry: Registry,
    outcome: BlockOutcome,
}

/// A block that was drafted here
struct Drafted {
    facts: BlockFacts,
    operations: Vec<Bytes>,
    registry: Registry,
    outcome: BlockOutcome,
}

/// The registry, for [`crate::consensus::Validator`]
pub struct Ledger {
    judge: RegistryJudge,
    last: (Digest, Registry),
    open: HashMap<Digest, Open>,
    opened: VecDeque<Digest>,
    drafted: Option<Drafted>,
    pool: Pool,
    dropped: Vec<Dropped>,
    accusations: Accusations,
    snapshots: Snapshots,
    view: LedgerView,
    limits: LedgerLimits,
}

/// What is held against a block: where one of its operations is invalid in itself, that operation
fn invalidity(
    facts: &BlockFacts,
    network: &Digest,
    operations: &[Bytes],
    fault: InvalidBlock,
) -> Invalidity {
    let place = match &fault {
        InvalidBlock::Encoding { index, .. } | InvalidBlock::Operation { index, .. } => *index,
        _ => return Invalidity::of_block(fault.to_string()),
    };
    let by_itself = operations
        .get(place)
        .map(|octets| check_stateless(network, facts.epoch, facts.height, octets));
    match (by_itself, u32::try_from(place)) {
        (Some(Err(refusal)), Ok(place)) => Invalidity::of_operation(place, refusal.to_string()),
        _ => Invalidity::of_block(fault.to_string()),
    }
}

/// A refusal for people, with the label that programs go by
fn told(refusal: &Refusal) -> String {
    format!("{refusal} [{}]", refusal.label())
}

/// Whether a refusal may be over with the next block, so that the operation may wait for it
fn may_pass(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Proof(
            ProofRefusal::TimeBeaconAhead { .. }
                | ProofRefusal::TimeBeaconUnknown { .. }
                | ProofRefusal::TimeClaimAhead { .. }
        )
    )
}

impl Ledger {
    /// Opens the registry of a network as of its last snapshot, or as of its genesis
    pub fn open(config: LedgerConfig) -> Result<(Self, LedgerView), LedgerError> {
        let LedgerConfig { genesis, directory, validator, limits } = config;
        let (snapshots, kept) = Snapshots::open(&directory, limits.snapshot_blocks)?;
        let judge = RegistryJudge::new(Arc::clone(&genesis));
        let last = match kept {
            Some((header, registry)) if registry.network() == genesis.network() => {
                (header.digest(), registry.with_judge(Arc::new(judge.clone())))
            }
            Some(_) => return Err(LedgerError::OtherNetwork { path: directory }),
            None => {
                let mut registry =
                    Registry::genesis(&genesis.registry())?.with_judge(Arc::new(judge.clone()));
                let digest = genesis.header().digest();
                registry.seal(digest);
                (digest, registry)
            }
        };
        let view = LedgerView::new(&last.1, snapshots.failure());
        let ledger = Self {
            judge,
            last,
            open: HashMap::new(),
            opened: VecDeque::new(),
            drafted: None,
            pool: Pool::new(limits.pending_operations, limits.pending_bytes),
            dropped: Vec::new(),
            accusations: Accusations::new(validator),
            snapshots,
            view: view.clone(),
            limits,
        };
        Ok((ledger, view))
    }

    fn registry(&self, block: &Digest) -> Option<&Registry> {
        if *block == self.last.0 {
            return Some(&self.last.1);
        }
        self.open.get(block).map(|open| &open.registry)
    }

    /// Operations of the blocks from the last final one up to this
    fn ancestors_operations(&self, block: &Digest) -> HashSet<Digest> {
        let mut operations = HashSet::new();
        let mut at = block;
        while let Some(open) = self.open.get(at) {
            operations.extend(open.outcome.operations.iter().map(|outcome| outcome.operation));
            at = &open.parent;
        }
        operations
    }

    fn keep_open(&mut self, block: Digest, open: Open) {
        self.open.insert(block, open);
        self.opened.push_back(block);
        while self.open.len() > STATES_LIMIT
            && let Some(oldest) = self.opened.pop_front()
        {
            self.open.remove(&oldest);
        }
    }

    fn draft(&mut self, parent: &Header, time_ms: u64) -> Option<Proposal> {
        let digest = parent.digest();
        let registry = self.registry(&digest)?;
        let facts = BlockFacts {
            epoch: registry.next_epoch(),
            height: parent.height + 1,
            parent: digest,
            time_ms,
        };
        let before = self.ancestors_operations(&digest);
        let limit = self.limits.block_operations.min(BLOCK_OPERATIONS_LIMIT);
        let candidates: Vec<&Candidate> = self
            .pool
            .iter()
            .filter(|candidate| !before.contains(candidate.id()))
            .take(limit)
            .collect();
        let draft = match registry.draft_block(&facts, candidates.iter().copied()) {
            Ok(draft) => draft,
            Err(fault) => {
                tracing::error!(%fault, "no block can be drafted");
                return None;
            }
        };
        let operations: Vec<Bytes> =
            draft.included.iter().map(|place| candidates[*place].octets().clone()).collect();
        let refused: Vec<_> = draft
            .refused
            .into_iter()
            .filter(|(_, refusal)| !may_pass(refusal))
            .map(|(place, refusal)| (*candidates[place].id(), refusal))
            .collect();
        for (operation, refusal) in refused {
            self.drop_operation(&operation, &refusal);
        }
        let proposal = Proposal {
            operations: operations.clone(),
            state_root: draft.outcome.state_root,
            evidence_root: draft.outcome.evidence_root,
            validators: Some(draft.registry.validators().to_vec()),
        };
        self.drafted =
            Some(Drafted { facts, operations, registry: draft.registry, outcome: draft.outcome });
        Some(proposal)
    }

    fn drop_operation(&mut self, operation: &Digest, refusal: &Refusal) {
        let Some(candidate) = self.pool.remove(operation) else { return };
        if self.accusations.refused(&candidate, refusal) {
            return;
        }
        self.dropped.push(Dropped { operation: candidate.octets().clone(), reason: told(refusal) });
    }

    /// Does a block on the state of its parent, with what is known of its operations already
    fn execute(
        &self,
        registry: &Registry,
        facts: &BlockFacts,
        operations: &[Bytes],
    ) -> Result<(Registry, BlockOutcome), InvalidBlock> {
        let mut candidates = decode_operations(operations)?;
        for candidate in &mut candidates {
            if let Some(known) = self.pool.get(candidate.id()) {
                *candidate = known.clone();
            }
        }
        verify_signatures(&mut candidates);
        let mut next = registry.clone();
        let outcome = next.apply_block(facts, &candidates)?;
        Ok((next, outcome))
    }

    /// What a block does, from its draft where it was drafted here
    fn result(
        &mut self,
        header: &Header,
        operations: &[Bytes],
    ) -> Option<Result<(Registry, BlockOutcome), Invalidity>> {
        let registry = self.registry(&header.parent)?;
        let facts = BlockFacts {
            epoch: header.epoch,
            height: header.height,
            parent: header.parent,
            time_ms: header.time_ms,
        };
        let is_draft = |draft: &&Drafted| draft.facts == facts && draft.operations == operations;
        if let Some(draft) = self.drafted.as_ref().filter(is_draft) {
            return Some(Ok((draft.registry.clone(), draft.outcome.clone())));
        }
        let network = registry.network();
        let done = self.execute(registry, &facts, operations);
        Some(done.map_err(|fault| invalidity(&facts, &network, operations, fault)))
    }

    /// Hands evidence in that is not on record yet
    fn accuse(&mut self) {
        let due = self.accusations.due(&self.last.1);
        for operation in &due.settled {
            self.pool.remove(operation);
        }
        for candidate in due.new {
            // There is room for what a validator has to say.
            self.pool.insert(candidate, self.last.1.last_height());
        }
        self.view.set_pending(self.pool.len());
    }

    /// Tries by themselves what waited through many blocks, for whoever waits for it here
    fn try_again(&mut self) {
        let height = self.last.1.last_height();
        let since = height.saturating_sub(TRY_AGAIN_BLOCKS);
        let due = self.pool.untried_since(since, height);
        if due.is_empty() {
            return;
        }
        let facts = BlockFacts {
            epoch: self.last.1.next_epoch(),
            height: height + 1,
            parent: self.last.0,
            time_ms: self.last.1.last_time_ms() + 1,
        };
        for some in due.chunks(BLOCK_OPERATIONS_LIMIT) {
            match self.last.1.draft_block(&facts, some) {
                Ok(draft) => {
                    for (place, refusal) in draft.refused {
                        if !may_pass(&refusal) {
                            self.drop_operation(some[place].id(), &refusal);
                        }
                    }
                }
                Err(fault) => tracing::error!(%fault, "what waits cannot be tried"),
            }
        }
    }

    fn admit(&mut self, candidate: Candidate, now_ms: u64) -> Offer {
        if self.pool.get(candidate.id()).is_some() {
            return Offer::Accepted;
        }
        if !self.pool.has_room(&candidate) {
            return Offer::Busy { retry_after_ms: BUSY_RETRY_MS };
        }
        match self.last.1.check(&candidate, now_ms) {
            Ok(()) => {}
            Err(refusal) if may_pass(&refusal) => {}
            Err(refusal) => return Offer::Refused(told(&refusal)),
        }
        self.pool.insert(candidate, self.last.1.last_height());
        self.view.set_pending(self.pool.len());
        Offer::Accepted
    }
}
