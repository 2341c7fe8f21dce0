//! A node's side of enrolment against a running authority on [::1]: what succeeds, and everything that must not.

mod interfaces;

use std::net::SocketAddrV6;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boring::pkey::PKey;
use boring::ssl::{Ssl, SslContextBuilder, SslMethod};
use boring::x509::X509;
use interfaces::office::Office;
use stoq_interface::NodeId;
use stoq_trustchain::ca::{Activation, Credential, IssueRequest};
use stoq_trustchain::enrollment::protocol::EnrollRequest;
use stoq_trustchain::enrollment::{AuthorityAt, EnrollError, enroll, renew_with_enrolled_key};
use stoq_trustchain::{Fingerprint, JoinToken, KeyKind, KeyPair, NodeIdentity, certificate, csr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_boring::SslStreamBuilder;

/// Time until what only a defect could keep away
const PATIENCE: Duration = Duration::from_secs(60);

fn now() -> SystemTime {
    SystemTime::now()
}

fn listen_address() -> SocketAddrV6 {
    "[::1]:9444".parse().unwrap()
}

fn directory(office: &Office, node: &str) -> PathBuf {
    office.file(&format!("node-{node}"))
}

fn code(refused: &EnrollError) -> &str {
    match refused {
        EnrollError::Refused { code, .. } => code,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_enrols_and_its_identity_loads() {
    let office = Office::open().await;
    let token: JoinToken = office.token("beta").to_string().parse().unwrap();
    let at = directory(&office, "beta");
    let enrolled = enroll(&token, listen_address(), &at, now()).await.unwrap();
    assert_eq!(enrolled.identity.identity().node.as_str(), "beta");
    assert_eq!(enrolled.ca_stoq_address, token.ca_stoq_address);
    let loaded = NodeIdentity::load(&at, now()).unwrap();
    assert_eq!(loaded.identity().serial, enrolled.identity.identity().serial);
    assert_eq!(loaded.trust(), [office.ca.trust_anchor()]);
    let entry = office.ca.node(&token.node).unwrap();
    assert_eq!(entry.serial, loaded.identity().serial);
    assert_eq!(entry.address, listen_address());
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_enrols_once_and_a_lost_answer_is_had_again() {
    let office = Office::open().await;
    let token = office.token("beta");
    let at = directory(&office, "beta");
    enroll(&token, listen_address(), &at, now()).await.unwrap();
    let issued = office.ca.status().issued;
    // Started again with everything in place, nothing is asked.
    enroll(&token, listen_address(), &at, now()).await.unwrap();
    assert_eq!(office.ca.status().issued, issued);
    let thief = directory(&office, "thief");
    let refused = enroll(&token, listen_address(), &thief, now()).await.unwrap_err();
    assert_eq!(code(&refused), "token_used");
    // As after a lost answer: key there, certificate not. The same request gets the same certificate.
    let first = std::fs::read(at.join("node.pem")).unwrap();
    std::fs::remove_file(at.join("node.pem")).unwrap();
    enroll(&token, listen_address(), &at, now()).await.unwrap();
    assert_eq!(std::fs::read(at.join("node.pem")).unwrap(), first);
    assert_eq!(office.ca.status().issued, issued);
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_under_another_root_learns_nothing() {
    let office = Office::open().await;
    let at = directory(&office, "beta");
    let token = JoinToken { root_fingerprint: Fingerprint::of(b"other"), ..office.token("beta") };
    let refused = enroll(&token, listen_address(), &at, now()).await.unwrap_err();
    let pins = |reason: &str| reason.contains("pins");
    assert!(matches!(&refused, EnrollError::Untrusted { reason, .. } if pins(reason)), "{refused}");
    let name = NodeId::new("gamma").unwrap();
    let token = JoinToken { ca_node: name, ..office.token("beta") };
    let refused = enroll(&token, listen_address(), &at, now()).await.unwrap_err();
    assert!(refused.to_string().contains("not for gamma.nodes.hypermesh"), "{refused}");
    // The real token was not spent, because its secret was never sent.
    let token = JoinToken { ca_node: office.ca.instance().clone(), ..token };
    enroll(&token, listen_address(), &at, now()).await.unwrap();
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_foreign_and_occupied_are_refused_with_the_reason() {
    let office = Office::open().await;
    let at = directory(&office, "beta");
    let token = office.token("beta");
    let late = token.expires + Duration::from_secs(1);
    let refused = enroll(&token, listen_address(), &at, late).await.unwrap_err();
    assert!(matches!(refused, EnrollError::TokenExpired));
    let elsewhere = Office::open().await;
    let foreign = JoinToken {
        ca_address: office.address,
        root_fingerprint: office.ca.authority().root_fingerprint(),
        ..elsewhere.token("beta")
    };
    let refused = enroll(&foreign, listen_address(), &at, now()).await.unwrap_err();
    assert_eq!(code(&refused), "token_unknown");
    enroll(&token, listen_address(), &at, now()).await.unwrap();
    let refused = enroll(&office.token("gamma"), listen_address(), &at, now()).await.unwrap_err();
    assert!(matches!(refused, EnrollError::OtherIdentity { .. }), "{refused}");
    elsewhere.close().await;
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_serves_one_node_only() {
    let office = Office::open().await;
    let (beta, gamma) = (directory(&office, "beta"), directory(&office, "gamma"));
    enroll(&office.token("beta"), listen_address(), &beta, now()).await.unwrap();
    std::fs::create_dir(&gamma).unwrap();
    std::fs::copy(beta.join("node.key"), gamma.join("node.key")).unwrap();
    let refused = enroll(&office.token("gamma"), listen_address(), &gamma, now()).await;
    assert_eq!(code(&refused.unwrap_err()), "key_in_use");
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_certificate_has_ended_comes_back_with_its_enrolled_key() {
    let office = Office::open().await;
    let token = office.token("beta");
    let at = directory(&office, "beta");
    let old = enroll(&token, listen_address(), &at, now()).await.unwrap();
    let enrolled = KeyPair::load(&at.join("node.key")).unwrap();
    let away = Duration::from_secs(30 * 3_600);
    office.advance(away);
    let later = now() + away;
    assert!(old.identity.identity().not_after < later);
    let to = AuthorityAt::of_token(&token);
    let next = KeyPair::generate(KeyKind::P256).unwrap();
    let csr = csr::request(&next).unwrap();
    let node = &token.node;
    let issued = renew_with_enrolled_key(&to, node, &enrolled, &csr, None, later).await.unwrap();
    let parsed = certificate::parse(&issued.leaf_der).unwrap();
    assert_eq!(parsed.public_key().raw, next.spki_der().unwrap());
    let (_, not_after) = certificate::validity(&parsed).unwrap();
    assert!(not_after > later + Duration::from_secs(23 * 3_600));
    let window = issued.advice.unwrap().renewal_window;
    assert!(window.start < window.end);
    assert_eq!(office.ca.node(node).unwrap().serial, certificate::serial_text(&parsed));

    let stranger = KeyPair::generate(KeyKind::P256).unwrap();
    let refused = renew_with_enrolled_key(&to, node, &stranger, &csr, None, later).await;
    assert_eq!(code(&refused.unwrap_err()), "unauthenticated");
    // A statement of another time, as somebody would send it again
    let stale = later - Duration::from_secs(3_600);
    let refused = renew_with_enrolled_key(&to, node, &enrolled, &csr, None, stale).await;
    assert!(refused.is_err());
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_ended_by_the_server() {
    let brief = Duration::from_millis(50);
    let office = Office::with(|settings| settings.handshake_timeout = brief).await;
    let mut stream = TcpStream::connect(office.address).await.unwrap();
    let mut end = Vec::new();
    // The server hangs up; a server without the time limit would let this wait for ever.
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut end)).await;
    assert!(read.is_ok() && end.is_empty());
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_places_are_turned_away() {
    let office = Office::with(|settings| settings.connections = 1).await;
    let holder = TcpStream::connect(office.address).await.unwrap();
    let mut second = TcpStream::connect(office.address).await.unwrap();
    let mut end = Vec::new();
    let read = tokio::time::timeout(PATIENCE, second.read_to_end(&mut end)).await;
    assert!(read.is_ok() && end.is_empty(), "the second connection was kept");
    drop(holder);
    office.close().await;
}

/// Everything that passes between client and server, decrypted by a server of the test's own
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_private_key_never_leaves_the_node() {
    let office = Office::open().await;
    let server_key = KeyPair::generate(KeyKind::P256).unwrap();
    let request = IssueRequest {
        profile: "server".into(),
        subject: Some("alpha".into()),
        csr_der: csr::request(&server_key).unwrap(),
        credential: Credential::Operator { name: "test".into() },
        idempotency_key: Vec::new(),
        consensus_proof: None,
        stoq_address: None,
        activation: Activation::Now,
    };
    let leaf = office.ca.issue(request).await.unwrap();
    let mut context = SslContextBuilder::new(SslMethod::tls()).unwrap();
    context.set_certificate(&X509::from_der(&leaf.certificate_der).unwrap()).unwrap();
    for der in [&leaf.issuing_der, &leaf.root_der] {
        context.add_extra_chain_cert(X509::from_der(der).unwrap()).unwrap();
    }
    let private = server_key.to_private_key().unwrap();
    let private = PKey::private_key_from_pkcs8(private.pkcs8_der()).unwrap();
    context.set_private_key(&private).unwrap();
    let context = context.build();
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let received = Arc::new(Mutex::new(Vec::new()));
    let recorded = received.clone();
    let std::net::SocketAddr::V6(address) = listener.local_addr().unwrap() else { panic!() };
    let recorder = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let ssl = Ssl::new(&context).unwrap();
        let mut tls = SslStreamBuilder::new(ssl, stream).accept().await.unwrap();
        let mut chunk = [0; 4_096];
        while !recorded.lock().unwrap().ends_with(b"}") {
            let length = tls.read(&mut chunk).await.unwrap();
            recorded.lock().unwrap().extend_from_slice(&chunk[..length]);
        }
        tls.write_all(b"HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    });
    let token = JoinToken { ca_address: address, ..office.token("beta") };
    let at = directory(&office, "beta");
    assert!(enroll(&token, listen_address(), &at, now()).await.is_err());
    recorder.await.unwrap();
    let received = received.lock().unwrap().clone();
    let key = KeyPair::load(&at.join("node.key")).unwrap();
    let pkcs8 = key.to_private_key().unwrap();
    let boring = PKey::private_key_from_pkcs8(pkcs8.pkcs8_der()).unwrap();
    let scalar = boring.ec_key().unwrap().private_key().to_vec();
    let request = received.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let request: EnrollRequest = serde_json::from_slice(&received[request..]).unwrap();
    let csr = STANDARD.decode(&request.csr_der).unwrap();
    let holds = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    // The control: the public key is there, so the search finds what is there.
    assert!(holds(&csr, key.public_point()));
    let digits: String = scalar.iter().map(|octet| format!("{octet:02x}")).collect();
    for bytes in [&received[..], &csr] {
        for secret in [&scalar[..], digits.as_bytes(), STANDARD.encode(&scalar).as_bytes()] {
            assert!(!holds(bytes, secret));
        }
    }
    office.close().await;
}
