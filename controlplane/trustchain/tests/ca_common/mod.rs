//! For the tests of the authority as a service: an authority in a directory, nodes with keys, and certificates as
//! relying parties see them. Not part of the product.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::SigningKey as _;
use stoq_interface::NodeId;
use stoq_store::named_thread;
use stoq_trustchain::ca::{
    Activation, Ca, CaError, CaOpened, CaSettings, Clock, Credential, IssueRequest,
    IssuedCertificate, IssuingAuthority, Parts, Registration, enrolled_key_statement,
};
use stoq_trustchain::chain::{Usage, check_leaf};
use stoq_trustchain::log::sct::{EmbeddedSct, key_hash, verify_embedded};
use stoq_trustchain::signer::{KeyName, Pool, PoolSettings, Signer, SoftSettings};
use stoq_trustchain::{
    Fingerprint, Ipv6Subtree, JoinToken, KeyKind, KeyPair, Subject, TokenGrant, TokenStore, csr,
    init_root, install_issuing, issuing_csr, sign_issuing,
};

/// A clock that stands still until it is moved
#[derive(Clone)]
pub struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_800_000_000_000)))
    }

    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.load(Ordering::SeqCst))
    }

    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    pub fn set_back(&self, by: Duration) {
        self.0.fetch_sub(by.as_millis() as u64, Ordering::SeqCst);
    }

    /// A clock that moves by a millisecond each time it is asked, so that heads can follow each other
    pub fn clock(&self) -> Clock {
        let time = self.0.clone();
        Arc::new(move || {
            UNIX_EPOCH + Duration::from_millis(time.fetch_add(1, Ordering::SeqCst) + 1)
        })
    }
}

pub fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// Makes root, issuing authority and keys in a directory
pub fn make_authority(directory: &Path, permitted: &str, now: SystemTime) {
    let root = init_root(&directory.join("root"), now).unwrap();
    let request = issuing_csr(directory).unwrap();
    let permitted: Ipv6Subtree = permitted.parse().unwrap();
    let signed = sign_issuing(&root, &request, permitted, now).unwrap();
    install_issuing(directory, &signed, root.certificate_der(), &root.fingerprint(), now).unwrap();
}

pub fn signer(directory: &Path) -> Arc<dyn Signer> {
    let names = [KeyName::issuing(), KeyName::log()];
    let soft = SoftSettings::read_or_create(directory, &names).unwrap();
    let settings = PoolSettings { workers: 1, ..PoolSettings::default() };
    Arc::new(Pool::start(Arc::new(soft), settings).unwrap())
}

pub fn settings(directory: &Path, clock: Clock) -> CaSettings {
    let base = "http://[::1]:8080/".to_owned();
    let mut settings = CaSettings::new(directory.join("ca"), node("alpha"), base);
    settings.clock = clock;
    settings.checkpoint_interval = Duration::from_millis(20);
    settings
}

pub fn parts(directory: &Path, signer: &Arc<dyn Signer>, now: SystemTime) -> Parts {
    let issuing = KeyName::issuing();
    let authority = IssuingAuthority::load(directory, signer.clone(), &issuing, now).unwrap();
    Parts {
        authority,
        log_signer: signer.clone(),
        log_key: KeyName::log(),
        tokens: Arc::new(TokenStore::open(&directory.join("tokens")).unwrap()),
        records: None,
        followers: Vec::new(),
    }
}

/// Makes the journal and log in the directory
pub fn create(settings: &CaSettings, signer: &Arc<dyn Signer>) -> Result<(), CaError> {
    Ca::create(settings, signer, &KeyName::log(), &named_thread)
}

pub fn open(settings: CaSettings, parts: Parts) -> Result<(Ca, CaOpened), CaError> {
    Ca::open(settings, parts, &named_thread)
}

/// A new authority that runs, in a directory
pub struct Running {
    pub directory: tempfile::TempDir,
    pub clock: TestClock,
    pub signer: Arc<dyn Signer>,
    pub ca: Ca,
}

impl Running {
    pub fn new() -> Self {
        Self::with(|_| {}, |_| {})
    }

    pub fn with(change: impl FnOnce(&mut CaSettings), with: impl FnOnce(&mut Parts)) -> Self {
        let (directory, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
        make_authority(directory.path(), "::/0", clock.now());
        let signer = signer(directory.path());
        let mut settings = settings(directory.path(), clock.clock());
        change(&mut settings);
        create(&settings, &signer).unwrap();
        let mut parts = parts(directory.path(), &signer, clock.now());
        with(&mut parts);
        let (ca, _) = open(settings, parts).unwrap();
        Self { directory, clock, signer, ca }
    }

    /// Closes it and opens it again
    pub async fn reopen(self) -> Self {
        self.ca.close().await.unwrap();
        let (settings, parts) = self.again();
        let (ca, _) = open(settings, parts).unwrap();
        Self { ca, ..self }
    }

    pub fn again(&self) -> (CaSettings, Parts) {
        let settings = settings(self.directory.path(), self.clock.clock());
        (settings, parts(self.directory.path(), &self.signer, self.clock.now()))
    }

    /// A token for a node at `[::1]`
    pub fn token(&self, name: &str) -> JoinToken {
        let tokens = TokenStore::open(&self.directory.path().join("tokens")).unwrap();
        tokens.create(&grant(name), self.clock.now()).unwrap()
    }

    /// Enrols a node with a new key
    pub async fn enrol(&self, name: &str) -> (KeyPair, IssuedCertificate) {
        let key = key();
        let request = request("node", &key, of_token(&self.token(name)));
        let issued = self.ca.issue(request).await.unwrap();
        (key, issued)
    }
}

pub fn grant(name: &str) -> TokenGrant {
    TokenGrant {
        subject: Subject::new(node(name), ["::1".parse().unwrap()]).unwrap(),
        ca_address: "[::1]:8443".parse().unwrap(),
        ca_node: node("alpha"),
        ca_stoq_address: "[::1]:8444".parse().unwrap(),
        root_fingerprint: Fingerprint::of(b"root"),
        lifetime: Duration::from_secs(3_600),
    }
}

pub fn key() -> KeyPair {
    KeyPair::generate(KeyKind::P256).unwrap()
}

pub fn of_token(token: &JoinToken) -> Credential {
    Credential::Token { id: token.id(), secret: token.secret.clone() }
}

pub fn operator() -> Credential {
    Credential::Operator { name: "test".into() }
}

pub fn of_certificate(issued: &IssuedCertificate) -> Credential {
    Credential::Certificate { leaf_der: issued.certificate_der.clone() }
}

/// A request that is proven with the key a node enrolled with
pub fn by_enrolled_key(
    name: &str,
    enrolled: &KeyPair,
    key: &KeyPair,
    at: SystemTime,
) -> IssueRequest {
    let signed_at = at.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut request = request("node", key, operator());
    let statement =
        enrolled_key_statement(&node("alpha"), &node(name), &request.csr_der, signed_at);
    request.credential = Credential::EnrolledKey {
        node: node(name),
        signed_at,
        signature: enrolled.sign(&statement).unwrap(),
    };
    request
}

pub fn request(profile: &str, key: &KeyPair, credential: Credential) -> IssueRequest {
    IssueRequest {
        profile: profile.into(),
        subject: None,
        csr_der: csr::request(key).unwrap(),
        credential,
        idempotency_key: b"once".to_vec(),
        consensus_proof: None,
        stoq_address: Some("[::1]:9444".parse().unwrap()),
        activation: Activation::Now,
    }
}

pub fn registration(profile: &str, subject: &str, owner: Option<&str>) -> Registration {
    Registration {
        profile: profile.into(),
        subject: subject.into(),
        owner: owner.map(node),
        addresses: Vec::new(),
        alternative_names: false,
    }
}

/// Judges a certificate as a relying party does, chain and SCT
pub fn accept(ca: &Ca, issued: &IssuedCertificate, usage: Usage, now: SystemTime) -> EmbeddedSct {
    let IssuedCertificate { certificate_der, issuing_der, root_der, .. } = issued;
    check_leaf(certificate_der, issuing_der, root_der, usage, now).unwrap();
    let issuer = key_hash(issuing_der).unwrap();
    let logs = [ca.log().clone()];
    let sct = verify_embedded(certificate_der, &issuer, &logs, u64::MAX).unwrap();
    assert_eq!((sct.leaf_index, sct.timestamp_ms), (issued.leaf_index, issued.timestamp_ms));
    sct
}
