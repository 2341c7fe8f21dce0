//! A network of three requesters with real plots, and operations as they would make them.

use std::ops::ControlFlow;

use ed25519_consensus::SigningKey;
use stoq_hypermesh::digest::{Digest, derive};
use stoq_hypermesh::operation::{
    AssetId, AssetKind, AssetName, AssetOperation, Authorisation, Candidate, Operation,
    OperationBody, Registration, RequesterId, Sharing, Validator, ValidatorKey, requester_id,
    ticket_message,
};
use stoq_hypermesh::proof::{FourProof, Plot, PlotOrder, Policy, Prover};
use stoq_hypermesh::registry::{
    BlockFacts, BlockOutcome, Effect, GenesisStake, InvalidBlock, Parameters, Registry,
    RegistryGenesis,
};
use stoq_interface::NodeId;

pub const NETWORK: Digest = [0xcc; 32];
pub const EPOCH_BLOCKS: u64 = 1_000;

/// Somebody with a key and a plot
pub struct Member {
    pub key: SigningKey,
    prover: Prover,
}

impl Member {
    pub fn public(&self) -> [u8; 32] {
        self.key.verification_key().to_bytes()
    }

    pub fn id(&self) -> RequesterId {
        requester_id(&self.public())
    }

    /// With four proofs, made for the next block
    pub fn proven(&self, registry: &Registry, sequence: u64, body: OperationBody) -> Operation {
        let mut operation = unauthorised(&self.key, registry, sequence, body);
        let statement = operation.statement().expect("it is to be proven");
        let holding = registry.stake_holding(&self.id()).expect("the member has a stake");
        let now_ms = registry.last_time_ms() + 1;
        let proof = self
            .prover
            .prove(&statement, &Policy::TEST, &holding, now_ms, &mut |_| ControlFlow::Continue(()))
            .expect("proofs can be made");
        operation.authorisation = Authorisation::Full(Box::new(proof));
        operation
    }

    /// With a ticket
    pub fn ticketed(
        &self,
        registry: &Registry,
        ticket: Digest,
        sequence: u64,
        body: OperationBody,
    ) -> Operation {
        ticketed(&self.key, registry, ticket, sequence, body)
    }
}

fn unauthorised(
    key: &SigningKey,
    registry: &Registry,
    sequence: u64,
    body: OperationBody,
) -> Operation {
    let proof = FourProof {
        policy: Policy::TEST_ID,
        epoch: registry.next_epoch(),
        beacon_height: registry.last_height(),
        beacon_hash: registry.tip().expect("the registry is sealed"),
        space: None,
        work: None,
        time: None,
        stake: None,
    };
    Operation {
        network: NETWORK,
        requester_key: key.verification_key().to_bytes(),
        sequence,
        not_after_height: registry.last_height() + 200,
        body,
        authorisation: Authorisation::Full(Box::new(proof)),
    }
}

/// An operation under a ticket, whether or not the ticket is the signer's
pub fn ticketed(
    key: &SigningKey,
    registry: &Registry,
    ticket: Digest,
    sequence: u64,
    body: OperationBody,
) -> Operation {
    let mut operation = unauthorised(key, registry, sequence, body);
    let message = ticket_message(&ticket, &operation.subject());
    let signature = key.sign(&message).to_bytes();
    operation.authorisation = Authorisation::Ticket { ticket, signature };
    operation
}

pub struct World {
    _directory: tempfile::TempDir,
    pub alice: Member,
    pub bob: Member,
    pub carol: Member,
    pub registry: Registry,
}

impl World {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let member = |seed: u8| {
            let key = SigningKey::from([seed; 32]);
            let order = PlotOrder {
                path: directory.path().join(format!("{seed}.plot")),
                network: NETWORK,
                requester: requester_id(&key.verification_key().to_bytes()),
                salt: [seed; 32],
                k: 18,
                strength: 2,
            };
            let plot = Plot::make(&order, &mut |_| ControlFlow::Continue(()));
            Member { prover: Prover::new(plot.expect("a plot can be made"), key.clone()), key }
        };
        let (alice, bob, carol) = (member(1), member(2), member(3));
        let stake = |member: &Member| GenesisStake { key: member.public(), amount: 100 };
        let validator = SigningKey::from([9; 32]).verification_key().to_bytes();
        let genesis = RegistryGenesis {
            network: NETWORK,
            time_ms: 1_700_000_000_000,
            epoch_blocks: EPOCH_BLOCKS,
            validators: vec![Validator {
                name: NodeId::new("alpha").expect("a label"),
                key: ValidatorKey(validator),
            }],
            stakes: [&alice, &bob, &carol].map(stake).to_vec(),
            policies: vec![Policy::TEST],
            parameters: Parameters::for_policies(&[Policy::TEST]),
        };
        let mut registry = Registry::genesis(&genesis).expect("a sound genesis");
        registry.seal(NETWORK);
        Self { _directory: directory, alice, bob, carol, registry }
    }

    /// One block
    pub fn apply(&mut self, operations: &[Operation]) -> Result<BlockOutcome, InvalidBlock> {
        apply(&mut self.registry, operations)
    }

    /// A ticket for a member
    pub fn ticket(&mut self, of: fn(&Self) -> &Member, sequence: u64) -> Digest {
        let body = OperationBody::RequestTicket;
        let operation = of(self).proven(&self.registry, sequence, body);
        let outcome = self.apply(std::slice::from_ref(&operation)).expect("a sound block");
        assert!(matches!(
            outcome.operations[0].effects.as_slice(),
            [Effect::TicketGranted { ticket, .. }] if *ticket == operation.id()
        ));
        operation.id()
    }
}

pub fn facts(registry: &Registry) -> BlockFacts {
    BlockFacts {
        epoch: registry.next_epoch(),
        height: registry.last_height() + 1,
        parent: registry.tip().expect("the registry is sealed"),
        time_ms: registry.last_time_ms() + 10,
    }
}

pub fn candidates(operations: &[Operation]) -> Vec<Candidate> {
    operations.iter().map(|one| Candidate::new(one).expect("within limits")).collect()
}

/// One block, sealed with a header that follows from its state
pub fn apply(
    registry: &mut Registry,
    operations: &[Operation],
) -> Result<BlockOutcome, InvalidBlock> {
    let outcome = registry.apply_block(&facts(registry), &candidates(operations))?;
    registry.seal(derive("hypermesh v1 test header", &[&outcome.state_root]));
    Ok(outcome)
}

pub fn register(name: &str, capacity: u64, sharing: Sharing) -> OperationBody {
    OperationBody::RegisterAsset(Registration {
        kind: AssetKind::Memory,
        name: AssetName::new(name).expect("a label"),
        node: NodeId::new("alpha").expect("a label"),
        capacity,
        sharing,
    })
}

pub fn asset(owner: &Member, name: &str) -> AssetId {
    let name = AssetName::new(name).expect("a label");
    AssetId::derive(&NETWORK, &owner.id(), AssetKind::Memory, &name)
}

pub fn allocate(asset: AssetId, quantity: u64, holder: RequesterId) -> OperationBody {
    OperationBody::Operate(AssetOperation::Allocate { asset, quantity, holder })
}
