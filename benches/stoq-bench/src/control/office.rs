//! An authority for the time of a run: keys, journal, log, inventory and deny-list as the daemon has them, and
//! nodes with certificates that ask it for more.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use stoq::{Identity, NodeId, PrivateKey};
use stoq_store::named_thread;
use stoq_store::records::{SqliteOptions, SqliteRecords};
use stoq_trustchain::audit::AuditLog;
use stoq_trustchain::ca::replay::Replay;
use stoq_trustchain::ca::revoke::{RevocationSettings, Revocations};
use stoq_trustchain::ca::{
    Activation, Ca, CaSettings, Credential, IssueRequest, IssuedCertificate, IssuingAuthority,
    Limits, Parts, Refusal, Registration,
};
use stoq_trustchain::calls::{CallDesk, CallParts, CallPolicy};
use stoq_trustchain::revocation::SerialNumber;
use stoq_trustchain::signer::{KeyName, Pkcs11Settings, Pool, PoolSettings, Signer, SoftSettings};
use stoq_trustchain::{
    Ipv6Subtree, KeyKind, KeyPair, Root, TokenStore, certificate, csr, sign_issuing,
};

use crate::latency::tally::Outcome;
use crate::sink::Failure;

/// Requests the authority lets be under way: more than any load here has
const IN_FLIGHT: usize = 2_048;
const BASE_URI: &str = "http://bench.nodes.hypermesh/";
const INSTANCE: &str = "bench";

/// Where the authority's keys are
pub enum Keys {
    /// In files, signing in this process
    Soft,
    /// In a PKCS #11 token
    Token(Pkcs11Settings),
}

/// A node with a certificate
pub struct Member {
    /// The node
    pub node: NodeId,
    /// Its certificate
    pub leaf_der: Vec<u8>,
    /// A request for its key
    pub csr_der: Vec<u8>,
    key: PrivateKey,
    issued: IssuedCertificate,
}

impl Member {
    /// The node as the data plane knows it
    pub fn identity(&self) -> Identity {
        Identity {
            node: self.node.clone(),
            chain_der: vec![self.leaf_der.clone()],
            key: self.key.clone(),
            not_after: self.issued.not_after,
            serial: self.issued.serial.clone(),
        }
    }

    /// The certificate's serial number
    ///
    /// # Errors
    /// Where the authority's digits are none.
    pub fn serial(&self) -> Result<Vec<u8>, Failure> {
        Ok(SerialNumber::from_text(&self.issued.serial)?.as_bytes().to_vec())
    }
}

/// A running authority and its nodes
pub struct Office {
    /// The authority
    pub ca: Ca,
    /// Its deny-list
    pub revocations: Revocations,
    /// Nodes whose certificates are renewed in turn
    pub members: Vec<Member>,
    audit: AuditLog,
    signer: Arc<dyn Signer>,
}

impl Office {
    /// Makes and opens an authority with so many nodes
    pub async fn open(home: &Path, keys: Keys, members: usize) -> Result<Self, Failure> {
        let at = home.to_owned();
        let prepared = tokio::task::spawn_blocking(move || prepare(&at, keys)).await?;
        let Prepared { settings, parts, replay, signer } = prepared?;
        let (sharding, base_uri) = (settings.sharding, settings.crl_base_uri());
        let clock = settings.clock.clone();
        let (ca, _) = Ca::open(settings, parts, &named_thread)?;
        let audit = AuditLog::start(Arc::new(ca.clone()), replay.audit.clone(), clock);
        let settings = RevocationSettings::new(sharding, base_uri, home.join("high-water"));
        let revocations = Revocations::start(&ca, audit.clone(), replay, settings, None)?;
        let mut office = Self { ca, revocations, members: Vec::new(), audit, signer };
        for number in 0..members.max(1) {
            let member = office.member(&format!("bench-{number}")).await?;
            office.members.push(member);
        }
        Ok(office)
    }

    /// What answers calls to it
    pub fn desk(&self, policy: CallPolicy) -> CallDesk {
        CallDesk::new(CallParts {
            ca: self.ca.clone(),
            revocations: self.revocations.clone(),
            audit: self.audit.clone(),
            known: Arc::default(),
            policy,
        })
    }

    /// Further nodes
    pub async fn others<const N: usize>(&self, names: [&str; N]) -> Result<[Member; N], Failure> {
        let mut made = Vec::with_capacity(N);
        for name in names {
            made.push(self.member(name).await?);
        }
        made.try_into().map_err(|_| "fewer nodes than names".into())
    }

    async fn member(&self, name: &str) -> Result<Member, Failure> {
        let node = NodeId::new(name)?;
        let registration = Registration {
            profile: "node".into(),
            subject: name.to_owned(),
            owner: None,
            addresses: vec![std::net::Ipv6Addr::LOCALHOST],
            alternative_names: false,
        };
        self.ca.register(registration).await?;
        let key = KeyPair::generate(KeyKind::P256)?;
        let csr_der = csr::request(&key)?;
        let credential = Credential::Operator { name: INSTANCE.into() };
        let issued = self.ca.issue(request(&csr_der, credential, Some(name), 0)).await?;
        let (leaf_der, key) = (issued.certificate_der.clone(), key.to_private_key()?);
        Ok(Member { node, leaf_der, csr_der, key, issued })
    }

    /// One certificate for the next node in turn
    pub async fn issue(&self, number: u64) -> Outcome {
        let member = &self.members[number as usize % self.members.len()];
        let credential = Credential::Certificate { leaf_der: member.leaf_der.clone() };
        match self.ca.issue(request(&member.csr_der, credential, None, number + 1)).await {
            // An old one counts for nothing, and nobody asked for it.
            Ok(issued) if issued.repeated => Outcome::Wrong,
            Ok(_) => Outcome::Good,
            Err(Refusal::Busy { .. }) => Outcome::Refused,
            Err(refusal) => {
                tracing::warn!(%refusal, "no certificate");
                Outcome::Failed
            }
        }
    }

    /// Signatures released since the start
    pub async fn signatures(&self) -> Result<u64, Failure> {
        Ok(self.signer.status().await?.signatures)
    }

    /// Stops it
    pub async fn close(self) -> Result<(), Failure> {
        Ok(self.ca.close().await?)
    }
}

fn request(
    csr_der: &[u8],
    credential: Credential,
    subject: Option<&str>,
    number: u64,
) -> IssueRequest {
    IssueRequest {
        profile: "node".into(),
        subject: subject.map(str::to_owned),
        csr_der: csr_der.to_vec(),
        credential,
        idempotency_key: number.to_be_bytes().to_vec(),
        consensus_proof: None,
        stoq_address: None,
        activation: Activation::Now,
    }
}

struct Prepared {
    settings: CaSettings,
    parts: Parts,
    replay: Replay,
    signer: Arc<dyn Signer>,
}

/// Keys, certificates, journal and log of a new authority; blocks
fn prepare(home: &Path, keys: Keys) -> Result<Prepared, Failure> {
    let now = SystemTime::now();
    std::fs::create_dir_all(home)?;
    let names = [KeyName::issuing(), KeyName::log()];
    let pool = match keys {
        Keys::Soft => {
            let soft = SoftSettings::read_or_create(&home.join("keys"), &names)?;
            Pool::start(Arc::new(soft), PoolSettings::default())?
        }
        Keys::Token(token) => {
            let pool = Pool::start(Arc::new(token.open()?), PoolSettings::default())?;
            for name in &names {
                stoq_trustchain::signer::block_on(pool.create_key(name))?;
            }
            pool
        }
    };
    let signer: Arc<dyn Signer> = Arc::new(pool);
    let issuing = stoq_trustchain::signer::NamedKey::new(signer.clone(), &names[0])?;
    let root = Root::open_or_init(&home.join("root"), now)?;
    let signed = sign_issuing(&root, &csr::request(&issuing)?, Ipv6Subtree::ALL, now)?;
    certificate::parse(&signed)?;
    let authority =
        IssuingAuthority::new(&signed, root.certificate_der(), signer.clone(), &names[0], now)?;
    let instance = NodeId::new(INSTANCE)?;
    let mut settings = CaSettings::new(home.join("ca"), instance, BASE_URI.to_owned());
    settings.limits = Limits {
        in_flight: IN_FLIGHT,
        identity_burst: u32::MAX,
        identity_interval: std::time::Duration::from_nanos(1),
        ..Limits::default()
    };
    std::fs::create_dir_all(&settings.directory)?;
    Ca::create(&settings, &signer, &names[1], &named_thread)?;
    let replay = Replay::read(&settings.journal_directory())?;
    let records =
        SqliteRecords::open(&home.join("records.sqlite"), SqliteOptions::default(), &named_thread)?;
    let parts = Parts {
        authority,
        log_signer: signer.clone(),
        log_key: names[1].clone(),
        tokens: Arc::new(TokenStore::open(&home.join("tokens"))?),
        records: Some(Arc::new(records)),
        followers: Vec::new(),
    };
    Ok(Prepared { settings, parts, replay, signer })
}
