//! The registry itself under agreement: real proofs, real blocks, four validators on threads of their own, one of which
//! comes back from its snapshot, and one of which proposes what was never proven.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ed25519_consensus::SigningKey;
use futures_util::future::join_all;
use stoq_hypermesh::consensus::evidence::{Judgement, RegistryJudge};
use stoq_hypermesh::consensus::{
    Application, Block, Dropped, Evidence, Genesis, Header, Offence, Offer, Proposal, Settings,
    SubmitError, Timing, Validator, ValidatorConfig, Validity,
};
use stoq_hypermesh::digest::Digest;
use stoq_hypermesh::ledger::{Ledger, LedgerConfig, LedgerLimits, LedgerView};
use stoq_hypermesh::operation::{
    self, AssetId, AssetKind, AssetName, AssetOperation, Authorisation, Operation, OperationBody,
    Registration, Sharing, requester_id,
};
use stoq_hypermesh::proof::{FourProof, Plot, PlotOrder, Policy, Prover};
use stoq_hypermesh::receipt::{Receipt, Verifier};
use stoq_hypermesh::registry::{Effect, GenesisStake, Registry};
use stoq_interface::NodeId;

use super::ledger::lock;
use super::process::{Hub, Port, runtime};
use super::world::{secret, validator};

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    since.as_millis() as u64
}

/// Somebody with a stake and a plot
pub struct Requester {
    key: SigningKey,
    prover: Prover,
}

impl Requester {
    fn public(&self) -> [u8; 32] {
        self.key.verification_key().to_bytes()
    }

    /// With four proofs for the next blocks
    pub fn proven(&self, registry: &Registry, sequence: u64, body: OperationBody) -> Operation {
        let proof = FourProof {
            policy: Policy::TEST_ID,
            epoch: registry.next_epoch(),
            beacon_height: registry.last_height(),
            beacon_hash: registry.tip().expect("it is sealed"),
            space: None,
            work: None,
            time: None,
            stake: None,
        };
        let mut operation = Operation {
            network: registry.network(),
            requester_key: self.public(),
            sequence,
            not_after_height: registry.last_height() + 1_000,
            body,
            authorisation: Authorisation::Full(Box::new(proof)),
        };
        let statement = operation.statement().expect("it is to be proven");
        let holding = registry.stake_holding(&operation.requester()).expect("it has a stake");
        let go_on = &mut |_: _| ControlFlow::Continue(());
        let proof = self.prover.prove(&statement, &Policy::TEST, &holding, now_ms(), go_on);
        operation.authorisation = Authorisation::Full(Box::new(proof.expect("proofs can be made")));
        operation
    }

    fn ticketed(
        &self,
        registry: &Registry,
        ticket: Digest,
        sequence: u64,
        body: OperationBody,
    ) -> Bytes {
        let until = registry.last_height() + 1_000;
        let network = registry.network();
        let operation = Operation::by_ticket(&self.key, network, ticket, sequence, until, body);
        Bytes::from(operation.encode())
    }
}

pub struct Scene {
    pub genesis: Arc<Genesis>,
    pub alice: Requester,
    pub hub: Arc<Hub>,
    directory: tempfile::TempDir,
}

impl Scene {
    pub fn new(epoch_blocks: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let key = SigningKey::from([1; 32]);
        let public = key.verification_key().to_bytes();
        let genesis = Genesis::new(
            NodeId::new("agreed").expect("a label"),
            now_ms() - 1_000,
            epoch_blocks,
            (0..4).map(validator).collect(),
        )
        .and_then(|it| it.with_stakes(vec![GenesisStake { key: public, amount: 100 }]))
        .and_then(|it| it.with_policies(vec![Policy::TEST]))
        .expect("a genesis");
        let order = PlotOrder {
            path: directory.path().join("alice.plot"),
            network: genesis.network(),
            requester: requester_id(&public),
            salt: [1; 32],
            k: 18,
            strength: 2,
        };
        let plot = Plot::make(&order, &mut |_| ControlFlow::Continue(())).expect("a plot");
        let alice = Requester { prover: Prover::new(plot, key.clone()), key };
        Self { genesis: Arc::new(genesis), alice, hub: Arc::default(), directory }
    }

    fn ledger(&self, number: u64) -> (Ledger, LedgerView) {
        Ledger::open(LedgerConfig {
            genesis: Arc::clone(&self.genesis),
            directory: self.directory.path().join(format!("ledger-{number}")),
            validator: Some(secret(number).to_bytes()),
            limits: LedgerLimits { snapshot_blocks: 8, ..LedgerLimits::default() },
        })
        .expect("it opens")
    }

    fn start(&self, number: u64, application: Box<dyn Application>) -> Validator {
        let config = ValidatorConfig {
            genesis: Arc::clone(&self.genesis),
            secret: secret(number).to_bytes(),
            directory: self.directory.path().join(number.to_string()),
            settings: settings(),
            contacts: Vec::new(),
            threads: 1,
        };
        let key = validator(number).key;
        let port = Port::new(key, &self.hub);
        let started = Validator::start(config, application, Arc::new(port)).expect("it starts");
        self.hub.add(key, started.inbox());
        started
    }

    pub fn honest(&self, number: u64) -> (Validator, LedgerView) {
        let (ledger, view) = self.ledger(number);
        (self.start(number, Box::new(ledger)), view)
    }
}

fn settings() -> Settings {
    let timing =
        Timing { leader_ms: 1_000, certification_ms: 2_000, skip_ms: 4_000, ..Timing::default() };
    Settings { timing, idle_ms: 50, ..Settings::default() }
}

pub fn memory(alice: &Requester, registry: &Registry) -> (AssetId, OperationBody) {
    let name = AssetName::new("memory").expect("a label");
    let owner = requester_id(&alice.public());
    let asset = AssetId::derive(&registry.network(), &owner, AssetKind::Memory, &name);
    let registration = Registration {
        kind: AssetKind::Memory,
        name,
        node: NodeId::new("alpha").expect("a label"),
        capacity: 100,
        sharing: Sharing::Anyone,
    };
    (asset, OperationBody::RegisterAsset(registration))
}

fn allocate(asset: AssetId, quantity: u64, alice: &Requester) -> OperationBody {
    let holder = requester_id(&alice.public());
    OperationBody::Operate(AssetOperation::Allocate { asset, quantity, holder })
}

fn refusal(answer: Result<impl std::fmt::Debug, SubmitError>) -> String {
    match answer {
        Err(SubmitError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn proven_operations_are_agreed_on_and_everything_else_is_refused_by_name() {
    let scene = Scene::new(1_000);
    let mut nodes: Vec<_> = (0..4).map(|number| scene.honest(number)).collect();
    let clients: Vec<_> = nodes.iter().map(|(validator, _)| validator.client()).collect();
    let views: Vec<_> = nodes.iter().map(|(_, view)| view.clone()).collect();
    let (asset, body) = memory(&scene.alice, &views[0].registry());
    let (first, ticket, places) = runtime().block_on(async {
        let register = scene.alice.proven(&views[0].registry(), 1, body);
        let first = Bytes::from(register.encode());
        let place = clients[1].submit(first.clone()).await.expect("agreed on");
        let outcome = views[1].outcome(place.height).expect("it is remembered when it is told of");
        let effect = &outcome.outcome.operations[place.index as usize].effects[0];
        assert!(matches!(effect, Effect::Registered { asset: found, .. } if *found == asset));

        let registry = views[1].registry();
        let request = scene.alice.proven(&registry, 2, OperationBody::RequestTicket);
        let ticket = request.id();
        clients[1].submit(Bytes::from(request.encode())).await.expect("agreed on");
        let submits = (0..40).map(|number| {
            let body = allocate(asset, 2, &scene.alice);
            let operation = scene.alice.ticketed(&registry, ticket, 3 + number, body);
            // One after the other at one validator: the ticket is known there by now.
            let client = clients[1].clone();
            async move { client.submit(operation).await.expect("agreed on") }
        });
        (first, ticket, join_all(submits).await)
    });
    let height = places.iter().map(|place| place.height).max().expect("forty");
    runtime().block_on(async {
        let registry = views[1].registry();
        let over = scene.alice.ticketed(&registry, ticket, 60, allocate(asset, 21, &scene.alice));
        let reason = refusal(clients[1].submit(over).await);
        assert!(reason.contains("[E_ALLOCATION_TOTAL]"), "{reason}");
        let reason = refusal(clients[1].submit(first.clone()).await);
        assert!(reason.contains("[E_REPLAY"), "{reason}");
        let unproven = scene.alice.proven(&registry, 61, OperationBody::RequestTicket);
        let Authorisation::Full(mut proof) = unproven.authorisation.clone() else { panic!() };
        proof.work = None;
        let unproven = Operation { authorisation: Authorisation::Full(proof), ..unproven };
        let reason = refusal(clients[1].submit(Bytes::from(unproven.encode())).await);
        assert!(reason.contains("[E_WORK"), "{reason}");
    });
    // Receipts of another validator, judged offline, cold and warm.
    let mut verifier = Verifier::new(Arc::clone(&scene.genesis));
    runtime().block_on(async {
        reached(&clients[2], height).await;
        for place in &places {
            let receipt = clients[2].receipt(place.height, place.index).await.expect("it has it");
            let read = Receipt::decode(&receipt.to_vec()).expect("a receipt");
            let cold = read.verify(&scene.genesis).expect("it holds");
            assert_eq!(verifier.verify(&read), Ok(cold.clone()));
            assert_eq!(cold.block, place.block);
        }
    });
    // One goes away, and comes back from its snapshot.
    runtime().block_on(reached(&clients[0], 20));
    let (stopped, _) = nodes.remove(0);
    scene.hub.remove(&validator(0).key);
    stopped.stop().expect("it ran until it was stopped");
    let (ledger, view) = scene.ledger(0);
    let (from, total) = (ledger.height(), view.registry().asset(&asset).map(|it| it.capacity));
    assert!(from >= 8 && total == Some(100), "{from}");
    let again = scene.start(0, Box::new(ledger));
    runtime().block_on(async {
        let registry = views[1].registry();
        let body = allocate(asset, 1, &scene.alice);
        let last = scene.alice.ticketed(&registry, ticket, 70, body);
        let place = again.client().submit(last).await.expect("agreed on");
        let own = view.outcome(place.height).expect("it is remembered").header.state_root;
        reached(&clients[3], place.height).await;
        assert_eq!(views[3].outcome(place.height).expect("here too").header.state_root, own);
    });
    again.stop().expect("it ran until it was stopped");
    for (validator, _) in nodes {
        validator.stop().expect("it ran until it was stopped");
    }
}

pub async fn reached(client: &stoq_hypermesh::consensus::Client, height: u64) {
    let mut blocks = client.subscribe(4_096).await;
    let mut at = client.status().await.expect("it runs").height;
    while at < height {
        at = blocks.recv().await.expect("it runs").block.header.height;
    }
}

/// Puts an operation that nobody proved into every block it proposes
struct Corrupt {
    ledger: Ledger,
    forged: Bytes,
    own: Arc<Mutex<Vec<Digest>>>,
}

impl Application for Corrupt {
    fn height(&self) -> u64 {
        self.ledger.height()
    }

    fn durable_height(&self) -> u64 {
        self.ledger.durable_height()
    }

    fn offer(&mut self, operations: &[Bytes], now_ms: u64) -> Vec<Offer> {
        self.ledger.offer(operations, now_ms)
    }

    fn backlog(&self) -> usize {
        self.ledger.backlog()
    }

    fn dropped(&mut self) -> Vec<Dropped> {
        self.ledger.dropped()
    }

    fn propose(&mut self, parent: &Header, now_ms: u64) -> Option<Proposal> {
        let mut proposal = self.ledger.propose(parent, now_ms)?;
        proposal.operations.push(self.forged.clone());
        Some(proposal)
    }

    fn validate(&mut self, header: &Header, operations: &[Bytes]) -> Validity {
        if operations.contains(&self.forged) {
            lock(&self.own).push(header.digest());
            return Validity::Valid;
        }
        self.ledger.validate(header, operations)
    }

    fn validators(&mut self, header: &Header) -> Option<Vec<operation::Validator>> {
        self.ledger.validators(header)
    }

    fn finalise(&mut self, block: &Block, certificate: &[u8]) {
        self.ledger.finalise(block, certificate);
    }

    fn evidence(&mut self, evidence: &Evidence) {
        self.ledger.evidence(evidence);
    }

    fn judge(&self, header: &Header, operation: &[u8]) -> Judgement {
        self.ledger.judge(header, operation)
    }
}

#[test]
fn who_proposes_what_was_never_proven_is_put_on_record_and_out() {
    let scene = Scene::new(16);
    let (ledger, _) = scene.ledger(3);
    let own = Arc::new(Mutex::new(Vec::new()));
    let forged = {
        let (asset, _) = memory(&scene.alice, &ledger_registry(&scene));
        let body = allocate(asset, 1, &scene.alice);
        let mut forged = scene.alice.ticketed(&ledger_registry(&scene), [7; 32], 1, body).to_vec();
        *forged.last_mut().expect("a signature") ^= 1;
        Bytes::from(forged)
    };
    let corrupt = Corrupt { ledger, forged, own: Arc::clone(&own) };
    let culprit = validator(3).key;
    let nodes: Vec<_> = (0..3).map(|number| scene.honest(number)).collect();
    let corrupt = scene.start(3, Box::new(corrupt));
    let deadline = Instant::now() + Duration::from_secs(120);
    runtime().block_on(async {
        // Beyond the end of the epoch in which it was recorded
        for (validator, view) in &nodes {
            let client = validator.client();
            let mut blocks = client.subscribe(4_096).await;
            while view.registry().is_validator(&culprit) {
                let block = tokio::time::timeout_at(deadline.into(), blocks.recv()).await;
                block.expect("in time").expect("it runs");
            }
            let registry = view.registry();
            let found: Vec<_> = registry.evidence().map(|record| record.finding).collect();
            assert!(!found.is_empty() && found.iter().all(|it| it.culprit == culprit));
            assert!(found.iter().all(|it| it.offence == Offence::InvalidProposal), "{found:?}");
            assert_eq!(registry.validators().len(), 3);
            let status = client.status().await.expect("it runs");
            assert!(status.validators.iter().all(|it| it.key != culprit));
            // The rest of the world needs only the genesis to see it.
            for case in client.evidence().await {
                let file = client.evidence_file(case.id).await.expect("it is kept");
                let mut judge = RegistryJudge::new(Arc::clone(&scene.genesis));
                let finding = file.verify(&scene.genesis, &mut judge).expect("it holds");
                assert_eq!(finding.validator.key, culprit);
            }
        }
    });
    assert!(!lock(&own).is_empty(), "it proposed what nobody proved");
    let _ = corrupt.stop();
    for (validator, _) in nodes {
        validator.stop().expect("it ran until it was stopped");
    }
}

fn ledger_registry(scene: &Scene) -> Registry {
    let mut registry = Registry::genesis(&scene.genesis.registry()).expect("a sound genesis");
    registry.seal(scene.genesis.header().digest());
    registry
}
