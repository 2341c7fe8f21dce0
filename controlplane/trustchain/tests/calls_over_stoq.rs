//! The calls `trustchain/...` over STOQ between real endpoints on [::1]: what a node gets, what it does not, and
//! that a node waiting for the deny-list hears of a revocation at once.

mod interfaces;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use interfaces::office::Office;
use prost::Message;
use stoq::{
    Allow, CallStatus, ControlSnapshot, Endpoint, Identity, NodeId, PeerCertificate, PrivateKey,
    SessionCalls,
};
use stoq_trustchain::ca::{Activation, Credential, IssueRequest, IssuedCertificate, Registration};
use stoq_trustchain::calls::{
    Asker, CallDesk, CallParts, CallPolicy, CallProblem, Client, OPERATOR_PROFILE,
    OTHER_CERTIFICATE, Operator, Operators, REQUEST_LIMIT_BYTES, wire,
};
use stoq_trustchain::log::ProofBundle;
use stoq_trustchain::revocation::{DenyList, DenyListSettings, ListSigner, Reason, Signers};
use stoq_trustchain::{KeyKind, KeyPair, certificate, csr};

const DEADLINE: Duration = Duration::from_secs(60);

type Asks = Client<SessionCalls<fn(Duration) -> tokio::time::Sleep>>;

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

    async fn ask(&self, authority: &Node) -> Asks {
        let to = authority.endpoint.local_address();
        let session = self.endpoint.connect(to, &authority.name()).await.unwrap();
        Client::new(session.calls(tokio::time::sleep))
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

fn desk(office: &Office, policy: CallPolicy) -> CallDesk {
    CallDesk::new(CallParts {
        ca: office.ca.clone(),
        revocations: office.revocations.clone(),
        audit: office.audit.clone(),
        known: Arc::default(),
        policy,
    })
}

/// Has the authority's endpoint answer the calls, as the daemon does
fn serve(office: &Office, authority: &Node, policy: CallPolicy) {
    let desk = desk(office, policy);
    let runtime = tokio::runtime::Handle::current();
    authority.endpoint.serve_calls(move |call| {
        let desk = desk.clone();
        runtime.spawn(async move {
            let deadline = Duration::from_millis(call.deadline_ms());
            let asker = Asker { node: call.peer(), certificate: call.peer_certificate() };
            let answer = desk.answer(asker, call.method(), call.body(), deadline).await;
            call.answer(answer.status, answer.body.into())
        });
    });
}

fn refusal(problem: CallProblem) -> (CallStatus, String) {
    match problem {
        CallProblem::Refused { status, code, .. } => (status, code),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_renews_its_own_certificate_and_nobody_elses() {
    let office = Office::open().await;
    let (authority, beta) = (Node::join(&office, "alpha").await, Node::join(&office, "beta").await);
    serve(&office, &authority, CallPolicy::default());
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

    // Somebody else's, one of its own that the connection was not made with, and none.
    for other in [gamma.issued.certificate_der.clone(), reply.chain[0].clone(), Vec::new()] {
        let named = wire::CertifyRequest { current_certificate: other, ..request.clone() };
        let told = refusal(client.renew(&named, DEADLINE).await.unwrap_err());
        assert_eq!(told, (CallStatus::Denied, OTHER_CERTIFICATE.into()));
    }
    for wrong in [
        wire::CertifyRequest { subject: "gamma".into(), ..request.clone() },
        wire::CertifyRequest { profile: "service".into(), ..request.clone() },
        wire::CertifyRequest { csr: vec![0x30; 5_000], ..request.clone() },
        wire::CertifyRequest { stoq_address: "nowhere".into(), ..request.clone() },
        wire::CertifyRequest { csr: b"no request".to_vec(), ..request.clone() },
    ] {
        let (status, _) = refusal(client.renew(&wrong, DEADLINE).await.unwrap_err());
        assert_eq!(status, CallStatus::Invalid, "{wrong:?}");
    }
    let service =
        wire::CertifyRequest { profile: "service".into(), subject: "store".into(), ..request };
    let told = refusal(client.issue(&service, DEADLINE).await.unwrap_err());
    assert_eq!(told.0, CallStatus::Denied, "{told:?}");
    office.close().await;
}

fn certificate_hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_read_over_stoq_and_its_proof_holds() {
    let office = Office::open().await;
    let (authority, beta) = (Node::join(&office, "alpha").await, Node::join(&office, "beta").await);
    serve(&office, &authority, CallPolicy::default());
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
        assert_eq!(told, (CallStatus::Invalid, "not_found".into()), "{path}");
    }
    let told = refusal(client.proof(1 << 39, DEADLINE).await.unwrap_err());
    assert_eq!(told, (CallStatus::Invalid, "not_found".into()));
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
    let revoking_nodes = Allow::Nodes([beta.name()].into_iter().collect());
    serve(&office, &authority, CallPolicy { revoking_nodes, ..CallPolicy::default() });
    let (beta_asks, gamma_asks) = (beta.ask(&authority).await, gamma.ask(&authority).await);
    let authority_der = office.ca.authority().certificate_der().to_vec();
    let instance = office.ca.instance().clone();
    let signer = ListSigner::from_certificate(instance, &authority_der).unwrap();
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
    assert_eq!(told, (CallStatus::Denied, "not_permitted".into()));
    let waiting = async { (beta_asks.deny_list(held, DEADLINE).await, Instant::now()) };
    let revoking = async { (Instant::now(), gamma_asks.revoke(&revoke(&gamma), DEADLINE).await) };
    let ((heard, heard_at), (asked_at, revoked)) = tokio::join!(waiting, revoking);
    let revoked = revoked.unwrap();
    assert!(revoked.epoch > held && !revoked.repeated);
    let took = heard_at.saturating_duration_since(asked_at);
    // Long before the call would have ended by itself; how fast it is, the appliance's tests measure.
    assert!(took < DEADLINE / 3, "{took:?}");
    list.handle_document(&heard.unwrap().unwrap(), SystemTime::now()).unwrap();
    assert!(list.denied_serials().contains(&gamma.issued.serial));
    // It stays revoked, and gets nothing more.
    let again = beta_asks.revoke(&revoke(&gamma), DEADLINE).await.unwrap();
    assert!(again.repeated);
    let key = KeyPair::generate(KeyKind::P256).unwrap();
    let told = refusal(gamma_asks.renew(&gamma.renewal(&key), DEADLINE).await.unwrap_err());
    assert_eq!(told, (CallStatus::Denied, "revoked".into()));
    // An operator revokes whom it names; nobody without a reason.
    let unknown = wire::RevokeRequest { serial: vec![7; 16], ..revoke(&gamma) };
    let told = refusal(beta_asks.revoke(&unknown, DEADLINE).await.unwrap_err());
    assert_eq!(told, (CallStatus::Invalid, "not_found".into()));
    let no_reason = wire::RevokeRequest { reason: 0, ..revoke(&gamma) };
    let told = refusal(beta_asks.revoke(&no_reason, DEADLINE).await.unwrap_err());
    assert_eq!(told.0, CallStatus::Invalid);
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_call_of_ours_is_named_and_what_waits_is_bounded() {
    let office = Office::open().await;
    let peer = NodeId::new("beta").unwrap();
    let desk = desk(&office, CallPolicy::default());
    let certificate = PeerCertificate { sha256: [7; 32], serial: "07".into() };
    let peer = Asker { node: &peer, certificate: &certificate };
    for method in ["trustchain/", "trustchain/nothing", "other/status", ""] {
        let answer = desk.answer(peer, method, &[], DEADLINE).await;
        assert_eq!(answer.status, CallStatus::Unknown, "{method}");
    }
    let large = vec![0; REQUEST_LIMIT_BYTES + 1];
    let answer = desk.answer(peer, "trustchain/status", &large, DEADLINE).await;
    assert_eq!(answer.status, CallStatus::Invalid);
    for method in ["issue", "renew", "revoke", "operate", "deny-list", "tile", "proof", "status"] {
        let answer = desk.answer(peer, &format!("trustchain/{method}"), &[0xff], DEADLINE).await;
        assert_eq!(answer.status, CallStatus::Invalid, "{method}");
    }
    // Four calls of a node may wait for the next list; a fifth is told to come later, another node's is not.
    let request = wire::DenyListRequest { after_epoch: u64::MAX, ..Default::default() };
    let body = request.encode_to_vec();
    let mut held: Vec<_> = (0..4)
        .map(|_| Box::pin(desk.answer(peer, "trustchain/deny-list", &body, DEADLINE)))
        .collect();
    for one in &mut held {
        // Begun, and not ended
        tokio::select! {
            biased;
            answer = one => panic!("{answer:?}"),
            () = std::future::ready(()) => {}
        }
    }
    let fifth = desk.answer(peer, "trustchain/deny-list", &body, DEADLINE).await;
    assert_eq!(fifth.status, CallStatus::Busy);
    let other = NodeId::new("gamma").unwrap();
    let other = Asker { node: &other, certificate: &certificate };
    let short = Duration::from_millis(20);
    let answer = desk.answer(other, "trustchain/deny-list", &body, short).await;
    assert_eq!(answer.status, CallStatus::Ok);
    drop(held);
    // Who has gone gives the place back.
    let answer = desk.answer(peer, "trustchain/deny-list", &body, short).await;
    assert_eq!(answer.status, CallStatus::Ok);
    office.close().await;
}

/// A person with a certificate of a profile, and its key
async fn person(office: &Office, profile: &str, name: &str) -> (IssuedCertificate, Operator) {
    let key = KeyPair::generate(KeyKind::P256).unwrap();
    let registration = Registration {
        profile: profile.into(),
        subject: name.into(),
        owner: None,
        addresses: Vec::new(),
        alternative_names: false,
    };
    office.ca.register(registration).await.unwrap();
    let request = IssueRequest {
        profile: profile.into(),
        subject: Some(name.into()),
        csr_der: csr::request(&key).unwrap(),
        credential: Credential::Operator { name: "test".into() },
        idempotency_key: Vec::new(),
        consensus_proof: None,
        stoq_address: None,
        activation: Activation::Now,
    };
    let issued = office.ca.issue(request).await.unwrap();
    let operator = Operator::new(issued.certificate_der.clone(), key).unwrap();
    (issued, operator)
}

/// Has an operator's order passed on by whoever asks
async fn order<R: Message + Default>(
    client: &Asks,
    order: &wire::OperateRequest,
) -> Result<R, (CallStatus, String)> {
    let reply = client.operate(order, DEADLINE).await.map_err(refusal)?;
    Ok(R::decode(reply.as_slice()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_gives_orders_over_a_nodes_session_and_nobody_else_does() {
    let office = Office::open().await;
    let (authority, beta) = (Node::join(&office, "alpha").await, Node::join(&office, "beta").await);
    let gamma = Node::join(&office, "gamma").await;
    let policy = CallPolicy { operators: Operators::Certified, ..CallPolicy::default() };
    serve(&office, &authority, policy);
    let (asks, gamma_asks) = (beta.ask(&authority).await, gamma.ask(&authority).await);
    let (_, ana) = person(&office, OPERATOR_PROFILE, "ana").await;
    let (alpha, over) = (authority.name(), beta.name());
    let revoke = wire::RevokeRequest {
        subject: "gamma".into(),
        reason: Reason::CessationOfOperation.code().unsigned_abs(),
        ..wire::RevokeRequest::default()
    };
    let denied = |code: &str| Err((CallStatus::Denied, code.to_owned()));
    type Revoked = Result<wire::RevokeReply, (CallStatus, String)>;

    // Without an order a node may not: not by the name, and not by the serial number.
    let told = refusal(asks.revoke(&revoke, DEADLINE).await.unwrap_err());
    assert_eq!(told, (CallStatus::Denied, "not_permitted".into()));
    // Somebody with another certificate, and one whose certificate was revoked
    let (_, store) = person(&office, "service", "store").await;
    let now = SystemTime::now();
    let by_service = store.order(&alpha, &over, "trustchain/revoke", &revoke, now).unwrap();
    let refused: Revoked = order(&asks, &by_service).await;
    assert_eq!(refused, denied("not_permitted"));
    let (bobs, bob) = person(&office, OPERATOR_PROFILE, "bob").await;
    certificate::write_pem(&office.file("bob.pem"), &bobs.certificate_der).unwrap();
    office.revoke(office.file("bob.pem").to_str().unwrap()).await;
    let by_bob = bob.order(&alpha, &over, "trustchain/revoke", &revoke, now).unwrap();
    let refused: Revoked = order(&asks, &by_bob).await;
    assert_eq!(refused, denied("revoked"));
    // An order that was changed, is for elsewhere, of another time, or comes over another node
    let sign = |to: &NodeId, over: &NodeId, at| {
        ana.order(to, over, "trustchain/revoke", &revoke, at).unwrap()
    };
    let mut changed = sign(&alpha, &over, now);
    changed.order[20] ^= 1;
    let refused: Revoked = order(&asks, &changed).await;
    assert_eq!(refused, denied("unauthenticated"));
    let refused: Revoked = order(&asks, &sign(&over, &over, now)).await;
    assert_eq!(refused, denied("misdirected"));
    let refused: Revoked = order(&gamma_asks, &sign(&alpha, &over, now)).await;
    assert_eq!(refused, denied("misdirected"));
    for away in [now - Duration::from_secs(400), now + Duration::from_secs(400)] {
        let refused: Revoked = order(&asks, &sign(&alpha, &over, away)).await;
        assert_eq!(refused, denied("stale"));
    }
    assert!(!office.ca.is_revoked(&gamma.issued.serial, &[0; 32]));

    // Ana's own order, once
    let good = sign(&alpha, &over, SystemTime::now());
    let revoked: wire::RevokeReply = order(&asks, &good).await.unwrap();
    assert!(revoked.epoch > 0 && !revoked.repeated);
    assert!(office.ca.is_revoked(&gamma.issued.serial, &[0; 32]));
    let refused: Revoked = order(&asks, &good).await;
    assert_eq!(refused, denied("repeated"));
    let written = office.audit.recent(100);
    let by_ana = "operator:ana over beta";
    assert!(written.iter().any(|one| one.actor == by_ana && one.subject == "name gamma"));
    assert!(written.iter().any(|one| one.actor == "service:store over beta"), "{written:?}");
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_registers_and_has_certificates_issued_from_afar() {
    let office = Office::open().await;
    let (authority, beta) = (Node::join(&office, "alpha").await, Node::join(&office, "beta").await);
    let named = Operators::Named([NodeId::new("ana").unwrap()].into());
    serve(&office, &authority, CallPolicy { operators: named, ..CallPolicy::default() });
    let asks = beta.ask(&authority).await;
    let (_, ana) = person(&office, OPERATOR_PROFILE, "ana").await;
    let (_, eve) = person(&office, OPERATOR_PROFILE, "eve").await;
    let (alpha, over) = (authority.name(), beta.name());
    let now = SystemTime::now();
    let shop = wire::RegisterRequest {
        profile: "service".into(),
        subject: "shop".into(),
        owner: "beta".into(),
        addresses: vec!["2001:db8::5".into()],
        ..wire::RegisterRequest::default()
    };
    let by_eve = eve.order(&alpha, &over, "trustchain/register", &shop, now).unwrap();
    let refused: Result<wire::RegisterReply, _> = order(&asks, &by_eve).await;
    assert_eq!(refused, Err((CallStatus::Denied, "not_permitted".into())));
    let by_ana = ana.order(&alpha, &over, "trustchain/register", &shop, now).unwrap();
    let _: wire::RegisterReply = order(&asks, &by_ana).await.unwrap();
    let found = office.ca.registrations().into_iter().find(|one| one.subject == "shop").unwrap();
    assert_eq!(found.owner, Some(over.clone()));

    let key = KeyPair::generate(KeyKind::P256).unwrap();
    let asked = wire::CertifyRequest {
        csr: csr::request(&key).unwrap(),
        profile: "service".into(),
        subject: "shop".into(),
        ..wire::CertifyRequest::default()
    };
    let by_ana = ana.order(&alpha, &over, "trustchain/issue", &asked, now).unwrap();
    let issued: wire::CertifyReply = order(&asks, &by_ana).await.unwrap();
    let leaf = certificate::parse(&issued.chain[0]).unwrap();
    assert_eq!(leaf.public_key().raw, key.spki_der().unwrap());
    let gone = wire::UnregisterRequest { profile: "service".into(), subject: "shop".into() };
    for was_registered in [true, false] {
        let by_ana = ana.order(&alpha, &over, "trustchain/unregister", &gone, now).unwrap();
        let told: wire::UnregisterReply = order(&asks, &by_ana).await.unwrap();
        assert_eq!(told.was_registered, was_registered);
    }
    // What operators do not do this way, and one who was taken back
    let by_ana = ana.order(&alpha, &over, "trustchain/renew", &asked, now).unwrap();
    assert_eq!(asks.operate(&by_ana, DEADLINE).await, Err(CallProblem::Unknown));
    office.ca.unregister(OPERATOR_PROFILE, "ana").await.unwrap();
    let by_ana = ana.order(&alpha, &over, "trustchain/register", &shop, now).unwrap();
    let refused: Result<wire::RegisterReply, _> = order(&asks, &by_ana).await;
    assert_eq!(refused, Err((CallStatus::Denied, "not_registered".into())));
    office.close().await;
}
