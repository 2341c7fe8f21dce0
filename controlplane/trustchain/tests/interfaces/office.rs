//! A whole authority with its HTTPS server on [::1], made anew for each test, on the host's clock.

use std::net::SocketAddrV6;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use stoq_interface::NodeId;
use stoq_store::named_thread;
use stoq_store::records::{SqliteOptions, SqliteRecords};
use stoq_trustchain::audit::AuditLog;
use stoq_trustchain::ca::replay::Replay;
use stoq_trustchain::ca::revoke::{RevocationSettings, Revocations, RevokeRequest, RevokeTarget};
use stoq_trustchain::ca::{
    Activation, Ca, CaSettings, Credential, IssueRequest, IssuedCertificate, IssuingAuthority,
    Parts,
};
use stoq_trustchain::http::{HttpsServer, HttpsSettings};
use stoq_trustchain::revocation::{Reason, SerialNumber};
use stoq_trustchain::signer::{KeyName, Pool, PoolSettings, Signer, SoftSettings};
use stoq_trustchain::token::DEFAULT_LIFETIME;
use stoq_trustchain::{
    Authority, Ipv6Subtree, JoinToken, KeyKind, KeyPair, Subject, TokenGrant, TokenStore,
    certificate, csr,
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What the server's certificate names
pub const SERVER_NAME: &str = "alpha.nodes.hypermesh";

/// How far the authority's clock is ahead of the host's, in seconds
type Ahead = Arc<AtomicU64>;

pub struct Office {
    directory: TempDir,
    pub ca: Ca,
    pub revocations: Revocations,
    pub audit: AuditLog,
    tokens: Arc<TokenStore>,
    pub address: SocketAddrV6,
    ahead: Ahead,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

impl Office {
    /// What the addresses in certificates begin with
    pub const BASE_URI: &str = "http://ca.alpha.nodes.hypermesh/";

    pub async fn open() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(adjust: impl FnOnce(&mut HttpsSettings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_owned();
        let tokens = Arc::new(TokenStore::open(&home.join("tokens")).unwrap());
        let ahead = Ahead::default();
        let (settings, parts, replay) = {
            let (tokens, ahead) = (tokens.clone(), ahead.clone());
            tokio::task::spawn_blocking(move || prepare(&home, tokens, ahead)).await.unwrap()
        };
        let (sharding, crl_base) = (settings.sharding, settings.crl_base_uri());
        let clock = settings.clock.clone();
        let (ca, _) = Ca::open(settings, parts, &named_thread).unwrap();
        let audit = AuditLog::start(Arc::new(ca.clone()), replay.audit.clone(), clock);
        let high_water = directory.path().join("high-water");
        let revocation = RevocationSettings::new(sharding, crl_base, high_water);
        let revocation = RevocationSettings { crl_pause: Duration::ZERO, ..revocation };
        let revocations = Revocations::start(&ca, audit.clone(), replay, revocation, None).unwrap();
        let mut settings = HttpsSettings::new("[::1]:0".parse().unwrap());
        adjust(&mut settings);
        let server = HttpsServer::bind(settings, ca.clone(), revocations.clone()).await.unwrap();
        let address = server.local_address();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        let office =
            Self { directory, ca, revocations, audit, tokens, address, ahead, stop, running };
        let authority = office.ca.authority();
        certificate::write_pem(&office.file("root.pem"), authority.root_der()).unwrap();
        certificate::write_pem(&office.file("issuing.pem"), authority.certificate_der()).unwrap();
        office.revocations.reached(1).await.unwrap();
        office
    }

    /// Moves the authority's clock
    pub fn advance(&self, time: Duration) {
        self.ahead.fetch_add(time.as_secs(), Ordering::SeqCst);
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A token for a node at [::1]
    pub fn token(&self, name: &str) -> JoinToken {
        let grant = TokenGrant {
            subject: Subject::new(node(name), [std::net::Ipv6Addr::LOCALHOST]).unwrap(),
            ca_address: self.address,
            ca_node: self.ca.instance().clone(),
            ca_stoq_address: "[::1]:8444".parse().unwrap(),
            root_fingerprint: self.ca.authority().root_fingerprint(),
            lifetime: DEFAULT_LIFETIME,
        };
        self.tokens.create(&grant, SystemTime::now()).unwrap()
    }

    /// A node's certificate, enrolled without a wire
    pub async fn issue(&self, name: &str) -> IssuedCertificate {
        self.issue_for(name, &KeyPair::generate(KeyKind::P256).unwrap()).await
    }

    /// The same for a key
    pub async fn issue_for(&self, name: &str, key: &KeyPair) -> IssuedCertificate {
        let token = self.token(name);
        let request = IssueRequest {
            profile: "node".into(),
            subject: None,
            csr_der: csr::request(key).unwrap(),
            credential: Credential::Token { id: token.id(), secret: token.secret },
            idempotency_key: Vec::new(),
            consensus_proof: None,
            stoq_address: Some("[::1]:8444".parse().unwrap()),
            activation: Activation::Now,
        };
        self.ca.issue(request).await.unwrap()
    }

    /// Revokes the certificate in a PEM file and waits for the CRL that has it
    pub async fn revoke(&self, pem: &str) {
        let der = certificate::read_pem(Path::new(pem)).unwrap();
        let parsed = certificate::parse(&der).unwrap();
        let serial = SerialNumber::of(&parsed).unwrap();
        let mut crls = self.revocations.crls();
        crls.borrow_and_update();
        let request = RevokeRequest {
            target: RevokeTarget::Certificate(serial),
            reason: Reason::KeyCompromise,
            with_key: false,
            revoked_by: "operator:test".into(),
        };
        let receipt = self.revocations.revoke(request).await.unwrap();
        assert!(receipt.epoch.is_some());
        crls.changed().await.unwrap();
    }

    /// The latest deny-list
    pub fn deny_list(&self) -> Vec<u8> {
        self.revocations.deny_list().borrow().as_ref().unwrap().full.clone()
    }

    pub async fn close(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
        self.ca.close().await.unwrap();
    }
}

/// Keys, certificates, journal and log of a new authority; blocks
fn prepare(home: &Path, tokens: Arc<TokenStore>, ahead: Ahead) -> (CaSettings, Parts, Replay) {
    let now = SystemTime::now();
    let directory = home.join("ca");
    drop(Authority::open_or_create(&directory, Ipv6Subtree::ALL, now).unwrap());
    let names = [KeyName::issuing(), KeyName::log()];
    let keys = SoftSettings::read_or_create(&directory, &names).unwrap();
    let pool = Pool::start(Arc::new(keys), PoolSettings::default()).unwrap();
    let signer: Arc<dyn Signer> = Arc::new(pool);
    let authority = IssuingAuthority::load(&directory, signer.clone(), &names[0], now).unwrap();
    let mut settings = CaSettings::new(directory, node("alpha"), Office::BASE_URI.to_owned());
    settings.clock =
        Arc::new(move || SystemTime::now() + Duration::from_secs(ahead.load(Ordering::SeqCst)));
    Ca::create(&settings, &signer, &names[1], &named_thread).unwrap();
    let replay = Replay::read(&settings.journal_directory()).unwrap();
    let records =
        SqliteRecords::open(&home.join("records.sqlite"), SqliteOptions::default(), &named_thread);
    let parts = Parts {
        authority,
        log_signer: signer,
        log_key: names[1].clone(),
        tokens,
        records: Some(Arc::new(records.unwrap())),
        followers: Vec::new(),
    };
    (settings, parts, replay)
}
