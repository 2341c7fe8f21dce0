//! The registry: a deterministic state machine over finalised blocks. The same genesis and the same blocks give the
//! same state root on every validator, always; nothing here reads a clock, a file or a random number. What is agreed
//! on and how is `consensus`; who keeps blocks and snapshots is the caller.
//!
//! A [`Registry`] is a value. A copy shares what it has in common with the original, so a validator keeps one for the
//! last finalised block and tries others on copies: a block that is refused has changed nothing.
//!
//! ```text
//! let mut next = registry.clone();
//! let outcome = next.apply_block(&facts, &operations)?;   // facts and operations of a header; outcome.state_root
//! next.seal(header_digest);                               // so that the next block can name it as its parent
//! ```

mod asset_operations;
mod authorise;
mod block;
mod epoch;
mod evidence;
mod execute;
mod grants;
mod parameters;
mod records;
mod refusal;
mod snapshot;
mod stateless;
#[cfg(test)]
mod tests;
mod tree;
mod validator_records;
mod view;
mod vote;

pub use block::{BlockFacts, BlockOutcome, Draft, Effect, OperationOutcome, decode_operations};
pub use epoch::EpochStart;
pub use evidence::{EvidenceJudge, EvidenceRecord, Finding, Offence};
pub use parameters::{
    ALLOCATIONS_LIMIT, ALLOCATIONS_PER_REQUESTER_LIMIT, ASSETS_LIMIT, ASSETS_PER_REQUESTER_LIMIT,
    BALLOTS_PER_VALIDATOR_LIMIT, BLOCK_LIMIT_BYTES, BLOCK_OPERATIONS_LIMIT, BLOCK_PARTS_LIMIT,
    EVIDENCE_PER_VALIDATOR_LIMIT, GenesisError, GenesisStake, KEPT_HEIGHTS, PERIODS_LIMIT,
    POLICIES_LIMIT, Parameters, ParametersError, REQUESTERS_LIMIT, RegistryGenesis, SEEN_LIMIT,
    TICKETS_LIMIT, VALIDATOR_RECORDS_LIMIT, VALIDATORS_LIMIT,
};
pub use records::{Allocation, AllocationState, Asset, AssetCertificate, AssetState, Requester};
pub use refusal::{InvalidBlock, Refusal, SnapshotError};
pub use snapshot::SNAPSHOT_LIMIT_BYTES;
pub use stateless::check_stateless;
pub use validator_records::{Ballot, Period, ValidatorRecord};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ed25519_consensus::VerificationKey;

use crate::digest::{Digest, Domain};
use crate::operation::{Change, NetworkId, RequesterId, Validator, ValidatorKey, requester_id};
use crate::proof::{Policy, TicketState};
use crate::wire::{Reader, WireError, Writer};

use epoch::StakeTable;
use records::{Beacon, Expiries, Seen};
use tree::{Tree, Value};

static STATE: Domain = Domain::new("hypermesh v1 state");
static VALIDATOR: Domain = Domain::new("hypermesh v1 validator");
static BLOCK: Domain = Domain::new("hypermesh v1 state block");

/// The state after a block
#[derive(Clone)]
pub struct Registry {
    network: NetworkId,
    /// Of the last block; 0 before the first
    height: u64,
    /// Of the last block
    time_ms: u64,
    /// The digest of the last block's header, once [`Registry::seal`] told it. Not part of the root: the header holds
    /// the root.
    tip: Option<Digest>,
    /// Of the next block
    epoch: u64,
    /// The last block of the epoch before
    epoch_base_height: u64,
    /// Of every epoch
    epoch_blocks: u64,
    parameters: Parameters,
    policies: Arc<BTreeMap<u32, Policy>>,
    /// Those of the epoch, in the order of their keys
    active: Arc<Vec<Validator>>,
    /// What will be changed when the next epoch begins
    adopted: Arc<Vec<Change>>,
    /// Those of the epoch
    stakes: Arc<StakeTable>,
    /// All beacons from here on are kept
    beacons_from_height: u64,
    assets: Tree<Asset>,
    allocations: Tree<Allocation>,
    requesters: Tree<Requester>,
    tickets: Tree<TicketState>,
    seen: Tree<Seen>,
    beacons: Tree<Beacon>,
    expiries: Tree<Expiries>,
    validators: Tree<ValidatorRecord>,
    ballots: Tree<Ballot>,
    evidence: Tree<EvidenceRecord>,
    /// Who can tell whether evidence holds. Part of the program, not of the state.
    judge: Option<Arc<dyn EvidenceJudge>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("height", &self.height)
            .field("epoch", &self.epoch)
            .field("assets", &self.assets.len())
            .field("allocations", &self.allocations.len())
            .field("requesters", &self.requesters.len())
            .finish_non_exhaustive()
    }
}

impl Value for TicketState {
    fn encode(&self, writer: &mut Writer) {
        self.encode(writer);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Self::decode(reader)
    }
}

/// Where the state keeps a validator
fn validator_place(key: &ValidatorKey) -> Digest {
    VALIDATOR.hash(&key.0)
}

/// Where the state keeps what belongs to a height
fn height_place(height: u64) -> Digest {
    BLOCK.hash(&height.to_be_bytes())
}

impl Registry {
    /// The state before the first block.
    ///
    /// [`Registry::seal`] it with the digest of the genesis header, which proofs in the first block take as beacon.
    pub fn genesis(genesis: &RegistryGenesis) -> Result<Self, GenesisError> {
        let policies = genesis_policies(genesis)?;
        if genesis.epoch_blocks == 0 {
            return Err(GenesisError::NoBlocks { epoch_blocks: 0 });
        }
        genesis.parameters.validate(|policy| policies.contains_key(&policy))?;
        let mut registry = Self {
            network: genesis.network,
            height: 0,
            time_ms: genesis.time_ms,
            tip: None,
            epoch: 0,
            epoch_base_height: 0,
            epoch_blocks: genesis.epoch_blocks,
            parameters: genesis.parameters.clone(),
            policies: Arc::new(policies),
            active: Arc::default(),
            adopted: Arc::default(),
            stakes: Arc::default(),
            beacons_from_height: 0,
            assets: Tree::default(),
            allocations: Tree::default(),
            requesters: Tree::default(),
            tickets: Tree::default(),
            seen: Tree::default(),
            beacons: Tree::default(),
            expiries: Tree::default(),
            validators: Tree::default(),
            ballots: Tree::default(),
            evidence: Tree::default(),
            judge: None,
        };
        registry.genesis_validators(&genesis.validators)?;
        registry.genesis_stakes(&genesis.stakes)?;
        registry.set_active();
        registry.set_stakes();
        Ok(registry)
    }

    fn genesis_validators(&mut self, validators: &[Validator]) -> Result<(), GenesisError> {
        if validators.is_empty() {
            return Err(GenesisError::NoValidators);
        }
        if validators.len() > VALIDATORS_LIMIT {
            return Err(GenesisError::TooMany { what: "validators", limit: VALIDATORS_LIMIT });
        }
        let mut names = BTreeSet::new();
        for Validator { name, key } in validators {
            if !is_key(&key.0) {
                return Err(GenesisError::BadKey { name: name.clone() });
            }
            let record = ValidatorRecord {
                name: name.clone(),
                key: *key,
                periods: vec![Period { first_epoch: 0, last_epoch: None }],
                offences: 0,
            };
            let twice = self.validators.insert(validator_place(key), record).is_some();
            if twice || !names.insert(name.clone()) {
                return Err(GenesisError::Twice { what: format!("validator {name}") });
            }
        }
        Ok(())
    }

    fn genesis_stakes(&mut self, stakes: &[GenesisStake]) -> Result<(), GenesisError> {
        if stakes.len() > REQUESTERS_LIMIT {
            return Err(GenesisError::TooMany { what: "stakes", limit: REQUESTERS_LIMIT });
        }
        let mut total = 0u64;
        for GenesisStake { key, amount } in stakes {
            let min = self.parameters.stake_min;
            if *amount < min {
                return Err(GenesisError::StakeTooSmall { amount: *amount, min });
            }
            total = total.checked_add(*amount).ok_or(GenesisError::StakeOverflow)?;
            let requester = Requester { stake: *amount, ..Requester::new(*key) };
            if self.requesters.insert(requester_id(key), requester).is_some() {
                let key = crate::digest::to_hex(key);
                return Err(GenesisError::Twice { what: format!("the stake of key {key}") });
            }
        }
        Ok(())
    }

    /// With somebody who can tell whether evidence holds. All validators must have one that decides alike; without
    /// one, blocks with evidence are refused.
    #[must_use]
    pub fn with_judge(mut self, judge: Arc<dyn EvidenceJudge>) -> Self {
        self.judge = Some(judge);
        self
    }

    /// Tells the digest of the last block's header: the next block must name it as its parent, and it is a beacon
    /// from then on
    pub fn seal(&mut self, header: Digest) {
        self.tip = Some(header);
    }

    /// The digest of the state. The validators of a network agree on it with every block.
    ///
    /// What has changed since it was last asked for is hashed again, the rest is not.
    pub fn state_root(&self) -> Digest {
        let mut writer = Writer::with_capacity(2_048);
        self.encode_head(&mut writer);
        for root in [
            self.assets.root(),
            self.allocations.root(),
            self.requesters.root(),
            self.tickets.root(),
            self.seen.root(),
            self.beacons.root(),
            self.expiries.root(),
            self.validators.root(),
            self.ballots.root(),
            self.evidence.root(),
        ] {
            writer.fixed(&root);
        }
        STATE.hash(writer.as_slice())
    }

    /// The digest of all evidence on record
    pub fn evidence_root(&self) -> Digest {
        self.evidence.root()
    }
}

fn genesis_policies(genesis: &RegistryGenesis) -> Result<BTreeMap<u32, Policy>, GenesisError> {
    if genesis.policies.len() > POLICIES_LIMIT {
        return Err(GenesisError::TooMany { what: "policies", limit: POLICIES_LIMIT });
    }
    let mut policies = BTreeMap::new();
    for policy in &genesis.policies {
        policy.validate()?;
        if policies.insert(policy.id, *policy).is_some() {
            return Err(GenesisError::Twice { what: format!("policy {}", policy.id) });
        }
    }
    Ok(policies)
}

/// Whether signatures can be checked with it
fn is_key(key: &[u8; 32]) -> bool {
    VerificationKey::try_from(*key).is_ok()
}

/// What a requester has that outlives an epoch
fn is_idle(requester: &Requester) -> bool {
    requester.stake == 0 && requester.assets == 0 && requester.allocations == 0
}

/// The identity under which a validator acts
fn validator_requester(key: &ValidatorKey) -> RequesterId {
    requester_id(&key.0)
}
