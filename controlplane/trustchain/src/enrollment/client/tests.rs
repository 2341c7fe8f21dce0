//! Enrolment end to end over [::1]: what succeeds, and everything that must not.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use stoq_interface::NodeId;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::authority::Authority;
use crate::certificate::Fingerprint;
use crate::enrollment::protocol::{ROOT_PATH, RootResponse};
use crate::enrollment::{EnrollmentServer, EnrollmentSettings};
use crate::keys::{KeyKind, KeyPair};
use crate::profile::{Ipv6Subtree, Subject};
use crate::registry::Registry;
use crate::token::{DEFAULT_LIFETIME, TokenGrant, TokenStore};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn subject(node: &str) -> Subject {
    Subject::new(NodeId::new(node).unwrap(), [std::net::Ipv6Addr::LOCALHOST]).unwrap()
}

/// A certificate authority on [::1]
struct Office {
    directory: TempDir,
    authority: Arc<Authority>,
    tokens: Arc<TokenStore>,
    registry: Arc<Registry>,
    address: SocketAddrV6,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Office {
    fn open() -> Self {
        Self::with(|_| {})
    }

    fn with(adjust: impl FnOnce(&mut EnrollmentSettings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name| directory.path().join(name);
        let authority = Authority::open_or_create(&at("ca"), Ipv6Subtree::ALL, now()).unwrap();
        let authority = Arc::new(authority);
        let tokens = Arc::new(TokenStore::open(&at("tokens")).unwrap());
        let registry = Arc::new(Registry::open(&at("registry.json")).unwrap());
        let mut settings = EnrollmentSettings::new("[::1]:0".parse().unwrap());
        adjust(&mut settings);
        let (a, t, r) = (authority.clone(), tokens.clone(), registry.clone());
        let server =
            EnrollmentServer::bind(settings, subject("alpha"), a, t, r, Arc::new(now)).unwrap();
        let address = server.local_address();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        Self { directory, authority, tokens, registry, address, stop, running }
    }

    fn invite(&self, node: &str) -> JoinToken {
        let grant = TokenGrant {
            subject: subject(node),
            ca_address: self.address,
            ca_node: NodeId::new("alpha").unwrap(),
            ca_stoq_address: "[::1]:8444".parse().unwrap(),
            root_fingerprint: self.authority.root_fingerprint(),
            lifetime: DEFAULT_LIFETIME,
        };
        self.tokens.create(&grant, now()).unwrap()
    }

    fn node(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn listen_address() -> SocketAddrV6 {
    "[::1]:9444".parse().unwrap()
}

#[tokio::test]
async fn a_node_enrols_and_its_identity_loads() {
    let office = Office::open();
    let token: JoinToken = office.invite("beta").to_string().parse().unwrap();
    let enrolled = enroll(&token, listen_address(), &office.node("beta"), now()).await.unwrap();
    assert_eq!(enrolled.identity.identity().node.as_str(), "beta");
    assert_eq!(enrolled.ca_stoq_address, token.ca_stoq_address);
    let loaded = NodeIdentity::load(&office.node("beta"), now()).unwrap();
    assert_eq!(loaded.identity().serial, enrolled.identity.identity().serial);
    assert_eq!(loaded.trust(), [office.authority.trust_anchor()]);
    let entry = office.registry.get(&token.node).unwrap();
    assert_eq!(entry.serial, loaded.identity().serial);
    assert_eq!(entry.address, listen_address());
    // One for the server itself, one for the node
    assert_eq!(office.authority.issued_count(), 2);
    office.stop.send(()).unwrap();
    office.running.await.unwrap();
}

#[tokio::test]
async fn a_token_enrols_once_and_a_new_one_continues_with_the_same_key() {
    let office = Office::open();
    let token = office.invite("beta");
    let directory = office.node("beta");
    enroll(&token, listen_address(), &directory, now()).await.unwrap();
    // Started again with everything in place, nothing is asked.
    enroll(&token, listen_address(), &directory, now()).await.unwrap();
    assert_eq!(office.authority.issued_count(), 2);

    let thief = enroll(&token, listen_address(), &office.node("thief"), now()).await.unwrap_err();
    assert!(matches!(&thief, EnrollError::Refused { code, .. } if code == "token_used"), "{thief}");

    // As after a lost answer: key there, certificate not.
    std::fs::remove_file(directory.join("node.pem")).unwrap();
    let key = std::fs::read(directory.join("node.key")).unwrap();
    let again = office.invite("beta");
    enroll(&again, listen_address(), &directory, now()).await.unwrap();
    assert_eq!(std::fs::read(directory.join("node.key")).unwrap(), key);
}

#[tokio::test]
async fn a_server_under_another_root_learns_nothing() {
    let office = Office::open();
    let token = JoinToken { root_fingerprint: Fingerprint::of(b"other"), ..office.invite("beta") };
    let refused = enroll(&token, listen_address(), &office.node("beta"), now()).await.unwrap_err();
    assert!(
        matches!(&refused, EnrollError::Untrusted { reason, .. } if reason.contains("pins")),
        "{refused}"
    );
    // The real token was not spent, because its secret was never sent.
    assert_eq!(office.tokens.outstanding(now()).unwrap().len(), 1);

    let name = NodeId::new("gamma").unwrap();
    let token = JoinToken { ca_node: name, ..office.invite("beta") };
    let refused = enroll(&token, listen_address(), &office.node("beta"), now()).await.unwrap_err();
    assert!(refused.to_string().contains("not for gamma.nodes.hypermesh"), "{refused}");
}

#[tokio::test]
async fn late_foreign_and_occupied_are_refused_with_the_reason() {
    let office = Office::open();
    let token = office.invite("beta");
    let late = token.expires + Duration::from_secs(1);
    let refused = enroll(&token, listen_address(), &office.node("beta"), late).await.unwrap_err();
    assert!(matches!(refused, EnrollError::TokenExpired));

    let elsewhere = Office::open();
    let foreign = JoinToken {
        ca_address: office.address,
        root_fingerprint: office.authority.root_fingerprint(),
        ..elsewhere.invite("beta")
    };
    let refused = enroll(&foreign, listen_address(), &office.node("beta"), now()).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(&refused, EnrollError::Refused { code, .. } if code == "token_unknown"),
        "{refused}"
    );

    enroll(&token, listen_address(), &office.node("beta"), now()).await.unwrap();
    let other = office.invite("gamma");
    let refused = enroll(&other, listen_address(), &office.node("beta"), now()).await.unwrap_err();
    assert!(matches!(refused, EnrollError::OtherIdentity { .. }), "{refused}");
}

#[tokio::test]
async fn a_key_serves_one_node_only() {
    let office = Office::open();
    enroll(&office.invite("beta"), listen_address(), &office.node("beta"), now()).await.unwrap();
    std::fs::create_dir(office.node("gamma")).unwrap();
    let (from, to) = (office.node("beta").join("node.key"), office.node("gamma").join("node.key"));
    std::fs::copy(from, to).unwrap();
    let token = office.invite("gamma");
    let refused = enroll(&token, listen_address(), &office.node("gamma"), now()).await.unwrap_err();
    assert!(
        matches!(&refused, EnrollError::Refused { code, .. } if code == "key_in_use"),
        "{refused}"
    );
    assert!(office.tokens.check(&token.id(), &token.secret, now()).is_ok());
}

async fn post(office: &Office, token: &JoinToken, body: Vec<u8>) -> (StatusCode, String) {
    let (status, body) = exchange(token, Method::POST, ENROLL_PATH, body, now()).await.unwrap();
    let error: ErrorResponse = serde_json::from_slice(&body).unwrap();
    assert!(office.tokens.check(&token.id(), &token.secret, now()).is_ok(), "token was spent");
    (status, error.error.code)
}

#[tokio::test]
async fn bad_requests_are_named_and_spend_no_token() {
    let office = Office::open();
    let token = office.invite("beta");
    let key = KeyPair::generate(KeyKind::P384).unwrap();
    let request = |csr: String, stoq_address: &str| {
        serde_json::to_vec(&EnrollRequest {
            token_id: token.id(),
            secret: hex(&token.secret[..]),
            csr_der: csr,
            stoq_address: stoq_address.parse().unwrap(),
        })
        .unwrap()
    };
    let p384 = encode(&csr::request(&key).unwrap());
    let good = encode(&csr::request(&KeyPair::generate(KeyKind::P256).unwrap()).unwrap());
    let cases = [
        (b"{".to_vec(), 400, "malformed_request"),
        (b"{\"token_id\":\"\",\"is_ca\":true}".to_vec(), 400, "malformed_request"),
        (request("!".into(), "[::1]:1"), 400, "malformed_request"),
        (request(good.clone(), "[ff02::1]:1"), 400, "malformed_request"),
        (request(good, "[::1]:0"), 400, "malformed_request"),
        (request(p384, "[::1]:1"), 400, "csr_refused"),
        (vec![b' '; 17 << 10], 413, "too_large"),
    ];
    for (body, status, code) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answered = post(&office, &token, body).await;
        assert_eq!(answered, (StatusCode::from_u16(status).unwrap(), code.to_owned()), "{shown}");
    }
    let (status, _) = exchange(&token, Method::GET, "/", Vec::new(), now()).await.unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = exchange(&token, Method::GET, ENROLL_PATH, Vec::new(), now()).await.unwrap();
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let (status, body) = exchange(&token, Method::GET, ROOT_PATH, Vec::new(), now()).await.unwrap();
    let root: RootResponse = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(decode(&root.root).unwrap(), office.authority.root_der());
    assert_eq!(root.fingerprint, office.authority.root_fingerprint().to_string());
}

#[tokio::test]
async fn failures_close_the_door() {
    let office = Office::with(|settings| settings.failures_per_prefix = 2);
    let token = office.invite("beta");
    for _failure in 0..2 {
        assert_eq!(post(&office, &token, b"{".to_vec()).await.1, "malformed_request");
    }
    let (status, code) = post(&office, &token, b"{".to_vec()).await;
    assert_eq!((status, code.as_str()), (StatusCode::TOO_MANY_REQUESTS, "too_many_failures"));
}

#[tokio::test]
async fn silence_is_ended_by_the_server() {
    let office = Office::with(|settings| settings.handshake_timeout = Duration::from_millis(50));
    let mut stream = TcpStream::connect(office.address).await.unwrap();
    let mut end = Vec::new();
    // The server hangs up; a server without the time limit would let this wait for ever.
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut end)).await;
    assert!(read.is_ok() && end.is_empty());
}

#[tokio::test]
async fn more_connections_than_places_are_turned_away() {
    let office = Office::with(|settings| settings.connections = 1);
    let _holder = TcpStream::connect(office.address).await.unwrap();
    let mut second = TcpStream::connect(office.address).await.unwrap();
    let mut end = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(4), second.read_to_end(&mut end)).await;
    assert!(read.is_ok() && end.is_empty(), "the second connection was kept");
}

/// Everything that passes between client and server, decrypted by a server of the test's own
#[tokio::test]
async fn the_private_key_never_leaves_the_node() {
    let office = Office::open();
    let authority = office.authority.clone();
    let subject = subject("alpha");
    let context = crate::enrollment::tls::server_context(&authority, &subject, now()).unwrap();
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let received = Arc::new(Mutex::new(Vec::new()));
    let recorded = received.clone();
    let std::net::SocketAddr::V6(address) = listener.local_addr().unwrap() else { panic!() };
    let recorder = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let ssl = Ssl::new(&context.context).unwrap();
        let mut tls = SslStreamBuilder::new(ssl, stream).accept().await.unwrap();
        let mut chunk = [0; 4_096];
        while !recorded.lock().unwrap().ends_with(b"}") {
            let length = tls.read(&mut chunk).await.unwrap();
            recorded.lock().unwrap().extend_from_slice(&chunk[..length]);
        }
        tls.write_all(b"HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    });
    let token = JoinToken { ca_address: address, ..office.invite("beta") };
    let directory = office.node("beta");
    assert!(enroll(&token, listen_address(), &directory, now()).await.is_err());
    recorder.await.unwrap();
    let received = received.lock().unwrap().clone();
    let key = KeyPair::load(&directory.join("node.key")).unwrap();
    let scalar = key.boring_key().ec_key().unwrap().private_key().to_vec();
    let request = received.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let request: EnrollRequest = serde_json::from_slice(&received[request..]).unwrap();
    let csr = decode(&request.csr_der).unwrap();
    let holds = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    // The control: the public key is there, so the search finds what is there.
    assert!(holds(&csr, key.public_point()));
    for bytes in [&received[..], &csr] {
        for secret in [&scalar[..], hex(&scalar).as_bytes(), encode(&scalar).as_bytes()] {
            assert!(!holds(bytes, secret));
        }
    }
}
