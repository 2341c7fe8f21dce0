//! A program with a node's certificate asks a daemon over STOQ: operations by the hundred, what became final as it does,
//! receipts; and it is told when it may not ask, asks wrongly or asks too much at a time.

use std::net::SocketAddrV6;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;
use stoq::{CallError, CallStatus, ControlSnapshot, Endpoint, Identity, NodeId, Session};
use stoq_admin::{decode_pem, encode_pem};
use stoq_appliance_tests::{Node, shared};
use stoq_hypermesh::calls::{FOLLOW, GROUND, RECEIPT, STATUS, SUBMIT, SUBMIT_LIMIT, wire};
use stoq_hypermesh::consensus::Genesis;
use stoq_hypermesh::digest::Digest;
use stoq_hypermesh::operation::{
    AssetKind, AssetName, Operation, OperationBody, Registration, Sharing,
};
use stoq_hypermesh::proof::{Plot, Prover};
use stoq_hypermesh::receipt::Receipt;
use stoq_hypermesh::requester::{Ground, Maker, RequesterKey};
use stoq_trustchain::key_slots::KeySlots;
use stoq_trustchain::{KeyKind, KeyPair, csr};

use super::scene::{PATIENCE, alone, assets, register, text};

/// Calls that the daemon answers at a time
const CALLS_LIMIT: usize = 4_096;
/// Calls on one connection: the transport takes 256
const EACH: usize = 250;
/// Connections with so many questions for news ask for more than the daemon answers at a time
const CONNECTIONS: usize = CALLS_LIMIT / EACH + 1;

/// A node's certificate of alpha's authority
fn issued(alpha: &Node, name: &str) -> Identity {
    let key = KeyPair::generate(KeyKind::P256).unwrap();
    let at = |kind: &str| alpha.path(&format!("{name}.{kind}")).display().to_string();
    let pem = encode_pem("CERTIFICATE REQUEST", &csr::request(&key).unwrap());
    std::fs::write(at("csr"), pem).unwrap();
    alpha.ask(&["ca", "register", "node", name]);
    let words = ["certificate", "issue", "--profile", "node", "--subject", name];
    let issued = alpha.ask(&[&words[..], &["--request", &at("csr"), "--out", &at("pem")]].concat());
    let chain = std::fs::read_to_string(at("pem")).unwrap();
    Identity {
        node: NodeId::new(name).unwrap(),
        chain_der: vec![decode_pem("CERTIFICATE", &chain).unwrap().swap_remove(0)],
        key: key.to_private_key().unwrap(),
        not_after: SystemTime::now() + Duration::from_secs(86_400),
        serial: text(&issued, "serial"),
    }
}

/// A program with a certificate, and its session with alpha
struct Program {
    endpoint: Endpoint,
    alpha: SocketAddrV6,
    session: Session,
}

impl Program {
    async fn start(alpha: &Node, name: &str) -> Self {
        let found = KeySlots::of(alpha.state().join("identity")).find(SystemTime::now()).unwrap();
        let trust = found.turns(SystemTime::now()).0.unwrap().identity.trust();
        let identity = Some(issued(alpha, name));
        let snapshot = ControlSnapshot { epoch: 1, identity, trust, ..ControlSnapshot::default() };
        let builder = Endpoint::builder().listen("[::1]:0".parse().unwrap());
        let endpoint = builder.snapshot(snapshot).build().unwrap();
        let alpha = alpha.stoq_address().parse().unwrap();
        let session = endpoint.connect(alpha, &NodeId::new("alpha").unwrap()).await.unwrap();
        Self { endpoint, alpha, session }
    }

    /// One more connection
    async fn again(&self) -> Session {
        self.endpoint.connect(self.alpha, &NodeId::new("alpha").unwrap()).await.unwrap()
    }

    async fn call(&self, method: &str, body: &impl Message) -> Result<Bytes, CallError> {
        let timer = tokio::time::sleep(PATIENCE);
        self.session.call(method, body.encode_to_vec().into(), PATIENCE, timer).await
    }

    async fn ask<R: Message + Default>(&self, method: &str, body: &impl Message) -> R {
        R::decode(self.call(method, body).await.unwrap()).unwrap()
    }

    async fn submit(&self, operations: &[Operation]) -> Vec<wire::Outcome> {
        let operations = operations.iter().map(Operation::encode).collect();
        let reply: wire::SubmitReply = self.ask(SUBMIT, &wire::SubmitRequest { operations }).await;
        reply.outcomes
    }
}

fn status_of(outcome: Result<Bytes, CallError>) -> CallStatus {
    match outcome {
        Ok(_) => CallStatus::Ok,
        Err(CallError::Status(status, _)) => status,
        Err(other) => panic!("no answer: {other}"),
    }
}

fn registration(name: &str) -> OperationBody {
    OperationBody::RegisterAsset(Registration {
        kind: AssetKind::Container,
        name: AssetName::new(name).unwrap(),
        node: NodeId::new("alpha").unwrap(),
        capacity: 1,
        sharing: Sharing::Owner,
    })
}

/// Whoever has alpha's key and plot
struct Asker {
    key: RequesterKey,
    prover: Prover,
    sequence: u64,
}

impl Asker {
    fn of(alpha: &Node) -> Self {
        let home = alpha.state().join("hypermesh");
        let key = RequesterKey::read(&home.join("node.key")).unwrap();
        let plot = Plot::open(&home.join("node.plot")).unwrap();
        let prover = Prover::new(plot, key.signing());
        Self { key, prover, sequence: 100 }
    }

    async fn ground(&self, program: &Program) -> Ground {
        let request = wire::GroundRequest { requester: self.key.requester().to_vec() };
        let reply: wire::GroundReply = program.ask(GROUND, &request).await;
        Ground::read(&reply.ground).unwrap()
    }

    async fn proven(&mut self, program: &Program, body: OperationBody) -> Operation {
        let ground = self.ground(program).await;
        self.sequence += 1;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now_ms = u64::try_from(since.as_millis()).unwrap().max(ground.beacon_time_ms);
        let maker = Maker::new(&self.key, &ground);
        let mut patient = |_| ControlFlow::Continue(());
        maker.proven(body, self.sequence, &self.prover, now_ms, &mut patient).unwrap()
    }

    fn with_ticket(&mut self, ground: &Ground, ticket: Digest, name: &str) -> Operation {
        self.sequence += 1;
        let body = registration(name);
        Maker::new(&self.key, ground).with_ticket(body, self.sequence, ticket)
    }
}

/// What became final above a height, until there are so many registrations
async fn follow(session: Session, after_height: u64, count: usize) -> Vec<wire::FinalOperation> {
    let (mut after_height, mut from_index, mut seen) = (after_height, 0, Vec::new());
    while seen.len() < count {
        let body = wire::FollowRequest { after_height, from_index }.encode_to_vec();
        let timer = tokio::time::sleep(PATIENCE);
        let reply = session.watch(FOLLOW, body.into(), PATIENCE, timer).await.unwrap();
        let reply = wire::FollowReply::decode(reply).unwrap();
        let reached = (reply.height, reply.next_index);
        assert!(reached > (after_height, from_index), "nothing new is no answer");
        (after_height, from_index) = reached;
        let registered =
            |one: &wire::FinalOperation| one.effects.iter().any(|it| it == "registered");
        seen.extend(reply.operations.into_iter().filter(registered));
    }
    seen
}

/// Runs a test beside others that share the machine
fn in_turn(test: impl Future<Output = ()>) {
    let _turn = shared();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}

#[test]
fn programs_hand_in_many_follow_what_becomes_final_and_hold_receipts() {
    in_turn(async {
        let alpha = alone("alpha", "clients = [\"beta\"]\n");
        // Having something agreed on shows that the plot is there.
        register(&alpha, "first", 1);
        let beta = Program::start(&alpha, "beta").await;
        let status: wire::StatusReply = beta.ask(STATUS, &wire::StatusRequest {}).await;
        assert_eq!((status.quorum, status.votes, status.halted.as_str()), (1, true, ""));

        let mut asker = Asker::of(&alpha);
        let ticket = asker.proven(&beta, OperationBody::RequestTicket).await;
        let granted = beta.submit(std::slice::from_ref(&ticket)).await;
        assert!(granted[0].agreed, "{granted:?}");

        // A hundred in one call, each final by itself; whoever follows sees each once, in the order of the blocks
        let following = tokio::spawn(follow(beta.session.clone(), granted[0].height, 100));
        let ground = asker.ground(&beta).await;
        let hundred: Vec<Operation> = (0..100)
            .map(|number| asker.with_ticket(&ground, ticket.id(), &format!("many-{number}")))
            .collect();
        let outcomes = beta.submit(&hundred).await;
        assert!(outcomes.iter().all(|one| one.agreed), "{outcomes:?}");
        let seen = tokio::time::timeout(PATIENCE, following).await.unwrap().unwrap();
        let places: Vec<_> = seen.iter().map(|one| (one.height, one.index)).collect();
        assert!(places.is_sorted_by(|one, next| one < next), "{places:?}");
        for (operation, outcome) in hundred.iter().zip(&outcomes) {
            let of = seen.iter().find(|one| one.operation == operation.id()).unwrap();
            assert_eq!((of.height, of.index), (outcome.height, outcome.index));
            assert_eq!(of.requester, asker.key.requester());
        }

        // The receipt of any of them, judged here with nothing but the genesis
        let genesis = std::fs::read(alpha.state().join("hypermesh/genesis.json")).unwrap();
        let genesis = std::sync::Arc::new(Genesis::read(&genesis).unwrap());
        let wire::Outcome { height, index, .. } = outcomes[42];
        let reply: wire::ReceiptReply =
            beta.ask(RECEIPT, &wire::ReceiptRequest { height, index }).await;
        let receipt = Receipt::decode(&reply.receipt).unwrap().verify(&genesis).unwrap();
        assert_eq!(receipt.operation, hundred[42].encode());
        let unknown = beta.call(RECEIPT, &wire::ReceiptRequest { height, index: 1 << 20 }).await;
        assert_eq!(status_of(unknown), CallStatus::Invalid);

        // Once more, and what is no operation: each with its own word
        let again = beta.submit(&hundred[..1]).await;
        assert!(!again[0].agreed && again[0].code.starts_with("E_REPLAY"), "{again:?}");
        let operations = vec![b"no operation".to_vec()];
        let junk: wire::SubmitReply = beta.ask(SUBMIT, &wire::SubmitRequest { operations }).await;
        assert_eq!(junk.outcomes[0].code, "E_ENCODING", "{junk:?}");
    });
}

#[test]
fn a_batch_is_agreed_on_as_a_whole_or_not_at_all() {
    in_turn(async {
        let alpha = alone("alpha", "clients = \"any-enrolled\"\n");
        register(&alpha, "taken", 1);
        let beta = Program::start(&alpha, "beta").await;
        let mut asker = Asker::of(&alpha);
        let batch = |names: &[&str]| {
            OperationBody::Batch(names.iter().map(|name| registration(name)).collect())
        };
        let whole = asker.proven(&beta, batch(&["one", "two"])).await;
        let outcome = beta.submit(&[whole]).await;
        assert!(outcome[0].agreed, "{outcome:?}");
        let broken = asker.proven(&beta, batch(&["three", "taken"])).await;
        let outcome = beta.submit(&[broken]).await;
        assert!(!outcome[0].agreed && outcome[0].refusal.contains("registered"), "{outcome:?}");
        assert_eq!(assets(&alpha), ["one", "taken", "two"]);
    });
}

#[test]
fn who_may_not_ask_or_asks_too_much_is_told_so() {
    in_turn(async {
        let alpha = alone("alpha", "clients = [\"beta\"]\n");
        let (beta, gamma) =
            (Program::start(&alpha, "beta").await, Program::start(&alpha, "gamma").await);
        let nothing = wire::StatusRequest {};
        assert_eq!(status_of(gamma.call(STATUS, &nothing).await), CallStatus::Denied);
        assert_eq!(status_of(beta.call("hypermesh/nothing", &nothing).await), CallStatus::Unknown);
        let operations = vec![Vec::new(); SUBMIT_LIMIT + 1];
        let too_many = beta.call(SUBMIT, &wire::SubmitRequest { operations }).await;
        assert_eq!(status_of(too_many), CallStatus::Invalid);
        assert_eq!(status_of(beta.call(STATUS, &nothing).await), CallStatus::Ok);

        // Goal: a bound on what is under way. Method: questions for news that there is none of, until no more are taken.
        let patience = Duration::from_secs(20);
        let mut sessions = Vec::new();
        for _ in 0..CONNECTIONS {
            sessions.push(beta.again().await);
        }
        let mut watching = tokio::task::JoinSet::new();
        for number in 0..CONNECTIONS * EACH {
            let session = sessions[number / EACH].clone();
            watching.spawn(async move {
                let body =
                    wire::FollowRequest { after_height: u64::MAX, from_index: 0 }.encode_to_vec();
                let timer = tokio::time::sleep(patience * 2);
                status_of(session.watch(FOLLOW, body.into(), patience, timer).await)
            });
        }
        let (mut busy, mut late) = (0, 0);
        while let Some(ended) = watching.join_next().await {
            match ended.unwrap() {
                CallStatus::Busy => busy += 1,
                CallStatus::Deadline => late += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(late > 0 && busy >= CONNECTIONS * EACH - CALLS_LIMIT, "{busy} busy, {late} late");
        assert_eq!(status_of(beta.call(STATUS, &nothing).await), CallStatus::Ok);
    });
}

/// A file that the daemon made for itself
#[test]
fn a_daemon_keeps_its_key_to_itself() {
    use std::os::unix::fs::PermissionsExt as _;
    let _turn = shared();
    let alpha = alone("alpha", "");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let home = alpha.state().join("hypermesh");
    assert_eq!((mode(&home), mode(&home.join("node.key"))), (0o700, 0o600));
}
