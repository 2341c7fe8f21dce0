//! The registry by what it does. Rights are granted here without proofs, which have tests of their own; what needs real
//! proofs, tickets and signatures is in `tests/registry.rs`.

mod agreement;
mod assets;
mod certificates;
mod epochs;
mod lifetime;
mod random;
mod validators;

use std::collections::BTreeMap;

use stoq_interface::NodeId;

use super::authorise::{Basis, Right};
use super::execute::Execution;
use super::*;
use crate::digest::derive;
use crate::operation::testing::{public, unproven, with_validator};
use crate::operation::{
    AssetId, AssetKind, AssetName, AssetOperation, Authorisation, Candidate, CertificateRequest,
    Operation, OperationBody, Registration, Sharing, StakeOperation,
};
use crate::proof::Verified;

const NETWORK: NetworkId = [0xaa; 32];
const EPOCH_BLOCKS: u64 = 8;
/// Requesters with stake at first
const ALICE: u8 = 1;
const BOB: u8 = 2;
const CAROL: u8 = 3;
/// The first of four validators
const VALIDATOR: u8 = 10;

fn id(seed: u8) -> RequesterId {
    requester_id(&public(seed))
}

fn validator(seed: u8) -> Validator {
    let name = NodeId::new(&format!("node-{seed}")).unwrap();
    Validator { name, key: ValidatorKey(public(seed)) }
}

fn genesis() -> RegistryGenesis {
    let stake = |seed| GenesisStake { key: public(seed), amount: 100 };
    RegistryGenesis {
        network: NETWORK,
        time_ms: 1_000,
        epoch_blocks: EPOCH_BLOCKS,
        validators: (VALIDATOR..VALIDATOR + 4).map(validator).collect(),
        stakes: vec![stake(ALICE), stake(BOB), stake(CAROL), stake(VALIDATOR)],
        policies: vec![Policy::TEST],
        parameters: Parameters::for_policies(&[Policy::TEST]),
    }
}

/// A registry and what a test needs to give it blocks
#[derive(Clone)]
struct World {
    registry: Registry,
    time_ms: u64,
    sequences: BTreeMap<u8, u64>,
    /// What the last block did
    last: Option<BlockOutcome>,
}

type Results = Vec<Result<Vec<Effect>, Refusal>>;

impl World {
    fn new() -> Self {
        Self::from(&genesis())
    }

    fn from(genesis: &RegistryGenesis) -> Self {
        let mut registry = Registry::genesis(genesis).unwrap();
        registry.seal(genesis.network);
        Self { registry, time_ms: genesis.time_ms, sequences: BTreeMap::new(), last: None }
    }

    /// The operation as this requester asks it next: votes and evidence signed, everything else without its proofs
    fn operation(&mut self, seed: u8, body: OperationBody) -> Candidate {
        let sequence = self.sequences.entry(seed).or_default();
        *sequence += 1;
        let operation = Operation {
            sequence: *sequence,
            not_after_height: self.registry.height + 100,
            ..unproven(NETWORK, seed, body)
        };
        let operation = match operation.body {
            OperationBody::Vote(_) | OperationBody::Evidence(_) => with_validator(operation, seed),
            _ => operation,
        };
        Candidate::new(&operation).unwrap()
    }

    fn facts(&self) -> BlockFacts {
        let registry = &self.registry;
        BlockFacts {
            epoch: registry.epoch,
            height: registry.height + 1,
            parent: registry.tip.unwrap(),
            time_ms: self.time_ms,
        }
    }

    /// One block with these operations; what is refused is left out
    fn block(&mut self, operations: Vec<(u8, OperationBody)>) -> Results {
        let candidates: Vec<_> =
            operations.into_iter().map(|(seed, body)| self.operation(seed, body)).collect();
        self.block_of(&candidates)
    }

    fn block_of(&mut self, candidates: &[Candidate]) -> Results {
        self.time_ms += 10;
        let facts = self.facts();
        let mut execution = self.registry.begin(&facts).unwrap();
        let results = candidates.iter().map(|candidate| perform(&mut execution, candidate));
        let results = results.collect();
        let (registry, outcome) = execution.end(Vec::new());
        self.registry = registry;
        self.registry.seal(derive("hypermesh v1 test header", &[&outcome.state_root]));
        self.last = Some(outcome);
        results
    }

    /// One block with one operation
    fn one(&mut self, seed: u8, body: OperationBody) -> Result<Effect, Refusal> {
        self.block(vec![(seed, body)]).remove(0).map(|mut effects| effects.remove(0))
    }

    fn refused(&mut self, seed: u8, body: OperationBody) -> Refusal {
        self.one(seed, body).unwrap_err()
    }

    /// To the first block of the next epoch
    fn next_epoch(&mut self) -> EpochStart {
        loop {
            self.block(Vec::new());
            if let Some(start) = self.last.as_ref().and_then(|last| last.epoch_start.clone()) {
                return start;
            }
        }
    }

    /// An asset of ten processors
    fn asset(&mut self, owner: u8, name: &str, sharing: Sharing) -> AssetId {
        match self.one(owner, register(name, 10, sharing)) {
            Ok(Effect::Registered { asset, .. }) => asset,
            other => panic!("{other:?}"),
        }
    }

    fn allocation(&mut self, asker: u8, asset: AssetId, quantity: u64, holder: u8) -> Digest {
        match self.one(asker, allocate(asset, quantity, holder)) {
            Ok(Effect::Allocated { allocation, .. }) => allocation,
            other => panic!("{other:?}"),
        }
    }

    fn state(&self, asset: &AssetId) -> (AssetState, u64) {
        let asset = self.registry.asset(asset).unwrap();
        (asset.state(), asset.available())
    }
}

/// As `Execution::apply` does, but with four proofs taken for granted
fn perform(execution: &mut Execution<'_>, candidate: &Candidate) -> Result<Vec<Effect>, Refusal> {
    let operation = candidate.operation();
    if !matches!(operation.authorisation, Authorisation::Full(_)) {
        return execution.apply(candidate);
    }
    let known = execution.state.requesters.get(candidate.requester());
    let mut window = known.map(|known| known.window).unwrap_or_default();
    window.mark(operation.sequence).map_err(crate::proof::ProofRefusal::from)?;
    let verified = Verified {
        statement: candidate.statement().unwrap().digest(),
        requester: *candidate.requester(),
        policy: Policy::TEST_ID,
        epoch: execution.state.epoch,
        weight: 1,
        stake_key: operation.requester_key,
    };
    execution.perform(candidate, &Right { basis: Basis::Full(verified), window })
}

fn register(name: &str, capacity: u64, sharing: Sharing) -> OperationBody {
    OperationBody::RegisterAsset(Registration {
        kind: AssetKind::Cpu,
        name: AssetName::new(name).unwrap(),
        node: NodeId::new("alpha").unwrap(),
        capacity,
        sharing,
    })
}

fn allocate(asset: AssetId, quantity: u64, holder: u8) -> OperationBody {
    let holder = id(holder);
    OperationBody::Operate(AssetOperation::Allocate { asset, quantity, holder })
}

fn begin_use(allocation: Digest) -> OperationBody {
    OperationBody::Operate(AssetOperation::Use { allocation })
}

fn release(allocation: Digest) -> OperationBody {
    OperationBody::Operate(AssetOperation::Release { allocation })
}

fn fail(allocation: Digest) -> OperationBody {
    OperationBody::Operate(AssetOperation::Fail { allocation })
}

fn restore(asset: AssetId) -> OperationBody {
    OperationBody::Operate(AssetOperation::Restore { asset })
}

fn retire(asset: AssetId) -> OperationBody {
    OperationBody::Operate(AssetOperation::Retire { asset })
}

fn transfer(asset: AssetId, to: u8) -> OperationBody {
    OperationBody::Transfer { asset, to: id(to) }
}

fn certify(asset: Option<AssetId>, csr: u8) -> OperationBody {
    OperationBody::RequestCertificate(CertificateRequest { asset, csr_statement: [csr; 32] })
}

fn give(to: u8, amount: u64) -> OperationBody {
    OperationBody::Stake(StakeOperation::Give { to_key: public(to), amount })
}
