//! The calls `trustchain/...` over STOQ between real endpoints on [::1]: what a node gets, what it does not, and
//! that a node waiting for the deny-list hears of a revocation at once.

mod interfaces;

use std::time::{Duration, Instant, SystemTime};

use hyper::body::Bytes;
use interfaces::office::Office;
use prost::Message;
use stoq::{
    Allow, CallError, CallStatus, ControlSnapshot, Endpoint, Identity, NodeId, PrivateKey, Session,
};
use stoq_trustchain::ca::IssuedCertificate;
use stoq_trustchain::calls::{
    CallDesk, CallPolicy, CallProblem, Channel, ChannelError, Client, REQUEST_LIMIT_BYTES, Status,
    wire,
};
use stoq_trustchain::log::ProofBundle;
use stoq_trustchain::revocation::{DenyList, DenyListSettings, ListSigner, Reason, Signers};
use stoq_trustchain::{KeyKind, KeyPair, certificate, csr};

const DEADLINE: Duration = Duration::from_secs(10);

struct OverSession(Session);

impl Channel for OverSession {
    async fn call(
        &self,
        method: &'static str,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, ChannelError> {
        let timer = tokio::time::sleep(deadline);
        match self.0.call(method, Bytes::from(body), deadline, timer).await {
            Ok(reply) => Ok(reply.into()),
            Err(CallError::Deadline) => Err(ChannelError::Deadline),
            Err(CallError::Failure(failure)) => Err(ChannelError::Lost(failure.to_string())),
            Err(CallError::Status(status, body)) => {
                let all = [
                    (CallStatus::Ok, Status::Ok),
                    (CallStatus::Unknown, Status::Unknown),
                    (CallStatus::Denied, Status::Denied),
                    (CallStatus::Invalid, Status::Invalid),
                    (CallStatus::Deadline, Status::Deadline),
                    (CallStatus::Busy, Status::Busy),
                    (CallStatus::Failed, Status::Failed),
                ];
                let (_, status) = all.into_iter().find(|(theirs, _)| *theirs == status).unwrap();
                Err(ChannelError::Status(status, body.into()))
            }
        }
    }
}

/// A node of the mesh with an endpoint
struct Node {
    endpoint: Endpoint,
    issued: IssuedCertificate,
}

impl Node {
    async fn join(office: &Office, name: &str) -> Self {
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let issued = office.issue_for(name, &key).await;
        let private: PrivateKey = key.to_private_key().unwrap();
        let identity = Identity {
            node: NodeId::new(name).unwrap(),
            chain_der: vec![issued.certificate_der.clone()],
            key: private,
            not_after: issued.not_after,
            serial: issued.serial.clone(),
        };
        let snapshot = ControlSnapshot {
            epoch: 1,
            identity: Some(identity),
            trust: vec![office.ca.trust_anchor()],
            ..ControlSnapshot::default()
        };
        let listen = "[::1]:0".parse().unwrap();
        let endpoint = Endpoint::builder().listen(listen).snapshot(snapshot).build().unwrap();
        Self { endpoint, issued }
    }

    fn name(&self) -> NodeId {
        NodeId::new(&self.issued.subject).unwrap()
    }

    async fn ask(&self, authority: &Node) -> Client<OverSession> {
        let to = authority.endpoint.local_address();
        let session = self.endpoint.connect(to, &authority.name()).await.unwrap();
        Client::new(OverSession(session))
    }

    fn serial(&self) -> Vec<u8> {
        let parsed = certificate::parse(&self.issued.certificate_der).unwrap();
        let octets = parsed.raw_serial();
        octets[octets.iter().take_while(|octet| **octet == 0).count()..].to_vec()
    }

    fn renewal(&self, key: &KeyPair) -> wire::CertifyRequest {
        wire::CertifyRequest {
            csr: csr::request(key).unwrap(),
            current_certificate: self.issued.certificate_der.clone(),
            ..wire::CertifyRequest::default()
        }
    }
}

/// Has the authority's endpoint answer the calls, as the daemon does
fn serve(office: &Office, authority: &Node, operators: Allow) {
    let policy = CallPolicy { operators };
    let desk = CallDesk::new(office.ca.clone(), office.revocations.clone(), policy);
    let runtime = tokio::runtime::Handle::current();
    authority.endpoint.serve_calls(move |call| {
        let desk = desk.clone();
        runtime.spawn(async move {
            let deadline = Duration::from_millis(call.deadline_ms());
            let answer = desk.answer(call.peer(), call.method(), call.body(), deadline).await;
            let body = Bytes::from(answer.body);
            let status = match answer.status {
                Status::Ok => return call.reply(body),
                Status::Unknown => CallStatus::Unknown,
                Status::Denied => CallStatus::Denied,
                Status::Invalid => CallStatus::Invalid,
                Status::Deadline => CallStatus::Deadline,
                Status::Busy => CallStatus::Busy,
                Status::Failed => CallStatus::Failed,
            };
            call.refuse(status, body)
        });
    });
}

fn refusal(problem: CallProblem) -> (Status, String) {
    match problem {
        CallProblem::Refused { status, code, .. } => (status, code),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_renews_its_own_certificate_and_nobody_elses() {
    let office = Office::open().await;
    let (authority, beta) = (Node::join(&office, "alpha").await, Node::join(&office, "beta").await);
    serve(&office, &authority, Allow::Nobody);
    let client = beta.ask(&authority).await;
    let key = KeyPair::generate(KeyKind::P256).unwrap();
    let request = beta.renewal(&key);
    let reply = client.renew(&request, DEADLINE).await.unwrap();
    assert_eq!(reply.root, office.ca.authority().root_der());
    assert_eq!(reply.chain[1], office.ca.authority().certificate_der());
    let parsed = certificate::parse(&reply.chain[0]).unwrap();
    assert_eq!(parsed.public_key().raw, key.spki_der().unwrap());
    assert_eq!(certificate::serial_text(&parsed), certificate_hex(&reply.serial));
    assert!(reply.not_before < reply.renew_from && reply.renew_from < reply.renew_until);
    assert!(reply.renew_until < reply.not_after && !reply.repeated);
    // The answer was lost and the node asks again.
    let again = client.renew(&request, DEADLINE).await.unwrap();
    assert!(again.repeated && again.chain == reply.chain);
    // Near its end a successor is asked for, which begins later.
    let gamma = Node::join(&office, "gamma").await;
    office.advance(Duration::from_secs(16 * 3_600));
    let other = KeyPair::generate(KeyKind::P256).unwrap();
    let ahead = wire::CertifyRequest { successor: true, ..beta.renewal(&other) };
    let later = client.renew(&ahead, DEADLINE).await.unwrap();
    assert!(later.not_before > reply.not_before + 22 * 3_600, "{later:?}");

    let stolen = wire::CertifyRequest {
        current_certificate: gamma.issued.certificate_der.clone(),
        ..request.clone()
    };
    let told = refusal(client.renew(&stolen, DEADLINE).await.unwrap_err());
    assert_eq!(told, (Status::Denied, "unauthenticated".into()));
    for wrong in [
        wire::CertifyRequest { subject: "gamma".into(), ..request.clone() },
        wire::CertifyRequest { profile: "service".into(), ..request.clone() },
        wire::CertifyRequest { csr: vec![0x30; 5_000], ..request.clone() },
        wire::CertifyRequest { stoq_address: "nowhere".into(), ..request.clone() },
        wire::CertifyRequest { csr: b"no request".to_vec(), ..request.clone() },
    ] {
        let (status, _) = refusal(client.renew(&wrong, DEADLINE).await.unwrap_err());
        assert_eq!(status, Status::Invalid, "{wrong:?}");
    }
    let service =
        wire::CertifyRequest { profile: "service".into(), subject: "store".into(), ..request };
    let told = refusal(client.issue(&service, DEADLINE).await.unwrap_err());
    assert_eq!(told.0, Status::Denied, "{told:?}");
    office.close().await;
}

fn certificate_hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_read_over_stoq_and_its_proof_holds() {
    let office = Office::open().await;
    let (authority, beta) = (Node::join(&office, "alpha").await, Node::join(&office, "beta").await);
    serve(&office, &authority, Allow::Nobody);
    let client = beta.ask(&authority).await;
    let bundle = client.proof(beta.issued.leaf_index, DEADLINE).await.unwrap();
    let log = office.ca.log();
    let issuer = stoq_trustchain::log::sct::key_hash(&beta.issued.issuing_der).unwrap();
    let bundle = ProofBundle::parse(&bundle).unwrap();
    bundle.verify_certificate(&beta.issued.certificate_der, &issuer, log, u64::MAX).unwrap();
    let note = client.checkpoint(DEADLINE).await.unwrap();
    let size = log.verify_checkpoint(&note, &[]).unwrap().head.size;
    let tile = client.tile(&format!("tile/0/000.p/{size}"), DEADLINE).await.unwrap();
    assert_eq!(tile.len() as u64, 32 * size);
    for path in ["tile/0/999", "../journal/1", ""] {
        let told = refusal(client.tile(path, DEADLINE).await.unwrap_err());
        assert_eq!(told, (Status::Invalid, "not_found".into()), "{path}");
    }
    let told = refusal(client.proof(1 << 39, DEADLINE).await.unwrap_err());
    assert_eq!(told, (Status::Invalid, "not_found".into()));
    let status = client.status(DEADLINE).await.unwrap();
    assert_eq!(status.instance, "alpha");
    assert!(status.not_issuing.is_empty() && status.log_entries >= size);
    assert!(status.deny_list_epoch >= 1);
    let window = client.renewal_information(beta.serial(), DEADLINE).await.unwrap();
    assert!(window.renew_from < window.renew_until && window.ask_again_after_ms > 0);
    let told = refusal(client.renewal_information(vec![1], DEADLINE).await.unwrap_err());
    assert_eq!(told.1, "not_found");
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_hears_of_a_revocation_at_once() {
    let office = Office::open().await;
    let (authority, beta) = (Node::join(&office, "alpha").await, Node::join(&office, "beta").await);
    let gamma = Node::join(&office, "gamma").await;
    let operators = Allow::Nodes([beta.name()].into_iter().collect());
    serve(&office, &authority, operators);
    let (beta_asks, gamma_asks) = (beta.ask(&authority).await, gamma.ask(&authority).await);
    let authority_der = office.ca.authority().certificate_der();
    let signer = ListSigner::from_certificate(office.ca.instance().clone(), authority_der).unwrap();
    let signers = Signers::new([signer]).unwrap();
    let mut list = DenyList::new(DenyListSettings::default(), signers, SystemTime::now());
    let first = beta_asks.deny_list(0, DEADLINE).await.unwrap().unwrap();
    list.handle_document(&first, SystemTime::now()).unwrap();
    let held = list.epochs().next().unwrap().1;
    // Nothing new: the call is held and ends before its deadline without a list.
    let begun = Instant::now();
    let nothing = beta_asks.deny_list(held, Duration::from_secs(1)).await.unwrap();
    assert!(nothing.is_none() && begun.elapsed() > Duration::from_millis(300));

    // Gamma may not revoke beta, and may revoke itself.
    let revoke = |node: &Node| wire::RevokeRequest {
        serial: node.serial(),
        reason: Reason::KeyCompromise.code().unsigned_abs(),
        ..wire::RevokeRequest::default()
    };
    let told = refusal(gamma_asks.revoke(&revoke(&beta), DEADLINE).await.unwrap_err());
    assert_eq!(told, (Status::Denied, "not_permitted".into()));
    let waiting = async { (beta_asks.deny_list(held, DEADLINE).await, Instant::now()) };
    let revoking = async { (Instant::now(), gamma_asks.revoke(&revoke(&gamma), DEADLINE).await) };
    let ((heard, heard_at), (asked_at, revoked)) = tokio::join!(waiting, revoking);
    let revoked = revoked.unwrap();
    assert!(revoked.epoch > held && !revoked.repeated);
    let took = heard_at.saturating_duration_since(asked_at);
    assert!(took < Duration::from_secs(1), "{took:?}");
    list.handle_document(&heard.unwrap().unwrap(), SystemTime::now()).unwrap();
    assert!(list.denied_serials().contains(&gamma.issued.serial));
    // It stays revoked, and gets nothing more.
    let again = beta_asks.revoke(&revoke(&gamma), DEADLINE).await.unwrap();
    assert!(again.repeated);
    let key = KeyPair::generate(KeyKind::P256).unwrap();
    let told = refusal(gamma_asks.renew(&gamma.renewal(&key), DEADLINE).await.unwrap_err());
    assert_eq!(told, (Status::Denied, "revoked".into()));
    // An operator revokes whom it names; nobody without a reason.
    let unknown = wire::RevokeRequest { serial: vec![7; 16], ..revoke(&gamma) };
    let told = refusal(beta_asks.revoke(&unknown, DEADLINE).await.unwrap_err());
    assert_eq!(told, (Status::Invalid, "not_found".into()));
    let no_reason = wire::RevokeRequest { reason: 0, ..revoke(&gamma) };
    let told = refusal(beta_asks.revoke(&no_reason, DEADLINE).await.unwrap_err());
    assert_eq!(told.0, Status::Invalid);
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_call_of_ours_is_named_and_what_waits_is_bounded() {
    let office = Office::open().await;
    let peer = NodeId::new("beta").unwrap();
    let desk = CallDesk::new(office.ca.clone(), office.revocations.clone(), CallPolicy::default());
    for method in ["trustchain/", "trustchain/nothing", "other/status", ""] {
        let answer = desk.answer(&peer, method, &[], DEADLINE).await;
        assert_eq!(answer.status, Status::Unknown, "{method}");
    }
    let large = vec![0; REQUEST_LIMIT_BYTES + 1];
    let answer = desk.answer(&peer, "trustchain/status", &large, DEADLINE).await;
    assert_eq!(answer.status, Status::Invalid);
    for method in ["issue", "renew", "revoke", "deny-list", "tile", "proof", "status"] {
        let answer = desk.answer(&peer, &format!("trustchain/{method}"), &[0xff], DEADLINE).await;
        assert_eq!(answer.status, Status::Invalid, "{method}");
    }
    // Four calls of a node may wait for the next list; a fifth is told to come later, another node's is not.
    let request = wire::DenyListRequest { after_epoch: u64::MAX, ..Default::default() };
    let body = request.encode_to_vec();
    let mut held: Vec<_> = (0..4)
        .map(|_| Box::pin(desk.answer(&peer, "trustchain/deny-list", &body, DEADLINE)))
        .collect();
    for one in &mut held {
        // Begun, and not ended
        tokio::select! {
            biased;
            answer = one => panic!("{answer:?}"),
            () = std::future::ready(()) => {}
        }
    }
    let fifth = desk.answer(&peer, "trustchain/deny-list", &body, DEADLINE).await;
    assert_eq!(fifth.status, Status::Busy);
    let other = NodeId::new("gamma").unwrap();
    let short = Duration::from_millis(20);
    let answer = desk.answer(&other, "trustchain/deny-list", &body, short).await;
    assert_eq!(answer.status, Status::Ok);
    drop(held);
    // Who has gone gives the place back.
    let answer = desk.answer(&peer, "trustchain/deny-list", &body, short).await;
    assert_eq!(answer.status, Status::Ok);
    office.close().await;
}
