//! The node's own certificate authority, composed: signer, journal, inventory, audit log, revocation, the calls
//! and the HTTPS server of it; and the authority as this node's rotation asks it. What each does is
//! `stoq-trustchain`'s.

use std::net::SocketAddrV6;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use stoq::{CallRequest, CallStatus, NodeId};
use stoq_config::Config;
use stoq_interface::{LogKey, Transparency};
use stoq_trustchain::NodeIdentity;
use stoq_trustchain::audit::{ANCHOR_INTERVAL, Anchoring, AuditLog};
use stoq_trustchain::backup::{Behind, HighWaterFile};
use stoq_trustchain::ca::keys::{IssuingKeys, KEY_SPREAD, KeyError};
use stoq_trustchain::ca::replay::{Replay, ReplayError};
use stoq_trustchain::ca::revoke::{AdoptAtStart, RevocationSettings, Revocations, StartError};
use stoq_trustchain::ca::{
    Activation, Ca, CaError, CaSettings, Consensus, Credential, IssueRequest, Mode, Parts, Refusal,
    Registration,
};
use stoq_trustchain::calls::{Asker, CallDesk, CallParts, CallPolicy, Operators, PREFIX};
use stoq_trustchain::enrollment::AuthorityAt;
use stoq_trustchain::http::{HttpsServer, HttpsSettings};
use stoq_trustchain::key_slots::KeySlots;
use stoq_trustchain::mesh::KnownAuthorities;
use stoq_trustchain::revocation::{ListSigner, SignerError, Signers};
use stoq_trustchain::rotation::{Failure, RequestKind};
use stoq_trustchain::signer::{KeyName, Signer};

use crate::backend::Desk;
use crate::certifier::{Answering, Ask, Certified, Certifier, Declined, Suggested, failure_of};
use crate::clock::NodeClock;
use crate::identity::OwnAuthority;
use crate::logs;
use crate::records::{self, RecordsProblem};

/// The profile of nodes
const NODE_PROFILE: &str = "node";
/// Who asks where this node certifies itself for the first time
const ACTOR: &str = "stoqd";

/// Why the authority does not run
#[derive(Debug, thiserror::Error)]
pub enum AuthorityProblem {
    /// The authority
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Its directory
    #[error(transparent)]
    Directory(#[from] crate::identity::OpenError),
    /// The journal
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// Revocation
    #[error(transparent)]
    Revocation(#[from] StartError),
    /// The issuing keys
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The inventory
    #[error(transparent)]
    Records(#[from] RecordsProblem),
    /// The journal is not the latest
    #[error(transparent)]
    Behind(#[from] Behind),
    /// What it published last
    #[error("the deny-list that was published last: {0}")]
    Published(std::io::Error),
    /// Who signed that
    #[error(transparent)]
    Signer(#[from] SignerError),
}

/// How the authority is to run
pub struct Opening<'a> {
    /// Its keys and books
    pub own: &'a OwnAuthority,
    /// What its journal says, where there is one
    pub journal: Option<Replay>,
    /// Below which directory it keeps its state
    pub state: &'a Path,
    /// How the node is set up
    pub config: &'a Config,
    /// Where it will serve HTTPS, if it will
    pub https: Option<SocketAddrV6>,
    /// As strict as in production
    pub production: bool,
    /// What time it is
    pub clock: NodeClock,
    /// The authorities this node knows
    pub known: Arc<KnownAuthorities>,
    /// Whether certificates need the validators' agreement
    pub consensus: Consensus,
}

/// An authority that runs
pub struct Running {
    /// Issues
    pub ca: Ca,
    /// Revokes
    pub revocations: Revocations,
    audit: AuditLog,
    issuing_keys: IssuingKeys,
    own: OwnAuthority,
    calls: CallDesk,
    directory: PathBuf,
    high_water: PathBuf,
    _anchoring: Anchoring,
}

impl Running {
    /// Opens the authority, and makes its journal and log where there are none. Blocks; call it where a runtime
    /// is.
    pub fn open(opening: Opening<'_>) -> Result<Self, AuthorityProblem> {
        let Opening { own, journal, state, config, https, production, clock, known, consensus } =
            opening;
        let instance = own.subject().node().clone();
        let base = base_uri(&instance, https);
        let settings = CaSettings {
            mode: if production { Mode::Production } else { Mode::default() },
            clock: Arc::new(move || clock.now()),
            consensus,
            ..CaSettings::new(own.home.join("ca"), instance, base)
        };
        let ca_directory = settings.directory.clone();
        let signer: Arc<dyn Signer> = own.guard.clone();
        let log_key = KeyName::log();
        let start = &stoq_store::named_thread;
        if !Ca::exists(&settings) {
            crate::identity::private_directory(&ca_directory)?;
            Ca::create(&settings, &signer, &log_key, start)?;
        }
        let replay = match journal {
            Some(replay) => replay,
            None => Replay::read(&settings.journal_directory())?,
        };
        let high_water = state.join("revocation-high-water.json");
        let adopt = list_to_adopt(own, &replay, &high_water, state)?;
        let records = records::open(&config.store.etcd, &own.home)?;
        let revoking =
            RevocationSettings::new(settings.sharding, settings.crl_base_uri(), high_water.clone());
        let parts = Parts {
            authority: own.authority.as_ref().clone(),
            log_signer: signer,
            log_key,
            tokens: Arc::clone(&own.tokens),
            records: Some(records),
            followers: Vec::new(),
        };
        let (ca, found) = Ca::open(settings, parts, start)?;
        tracing::info!(issued = found.issued, log = found.log_entries, "certificate authority");
        let audit = AuditLog::start(
            Arc::new(ca.clone()),
            replay.audit.clone(),
            Arc::new(move || clock.now()),
        );
        let revocations = Revocations::start(&ca, audit.clone(), replay, revoking, adopt)?;
        let (guard, spread) = (Arc::clone(&own.guard), KEY_SPREAD);
        let starting = IssuingKeys::start(&ca, guard, audit.clone(), revocations.clone(), spread);
        let issuing_keys = tokio::runtime::Handle::current().block_on(starting)?;
        let calls = CallDesk::new(CallParts {
            ca: ca.clone(),
            revocations: revocations.clone(),
            audit: audit.clone(),
            known,
            policy: CallPolicy { operators: operators(config), ..CallPolicy::default() },
        });
        let anchoring = Anchoring::start(ca.clone(), audit.clone(), ANCHOR_INTERVAL);
        Ok(Self {
            ca,
            revocations,
            audit,
            issuing_keys,
            own: own.clone(),
            calls,
            directory: ca_directory,
            high_water,
            _anchoring: anchoring,
        })
    }

    /// What the operator's commands need of it
    pub fn desk(&self) -> Desk {
        Desk {
            ca: self.ca.clone(),
            audit: self.audit.clone(),
            revocations: self.revocations.clone(),
            issuing_keys: self.issuing_keys.clone(),
            keys: Arc::clone(&self.own.keys),
            home: self.own.home.clone(),
            directory: self.directory.clone(),
            high_water: self.high_water.clone(),
        }
    }

    /// Whether other authorities write to the same records
    pub fn shares_records(&self) -> bool {
        self.ca.records().is_some_and(|records| records.changes().is_some())
    }

    /// What peers are held to where this authority's log is the one there is
    pub fn transparency(&self) -> Transparency {
        Transparency::Required(vec![self.log_key()])
    }

    fn log_key(&self) -> LogKey {
        let log = self.ca.log();
        LogKey { log_id: *log.log_id(), spki_der: log.spki_der().to_vec() }
    }

    /// Serves HTTPS: enrolment, EST and what anybody may read
    pub async fn serve_https(&self, listen: SocketAddrV6) -> Result<HttpsServer, String> {
        let settings = HttpsSettings::new(listen);
        let bound = HttpsServer::bind(settings, self.ca.clone(), self.revocations.clone()).await;
        bound.map_err(|error| error.to_string())
    }

    /// Answers the calls of other nodes; to be called where a runtime is
    pub fn answer(&self) -> impl Fn(CallRequest) + Send + Sync + 'static {
        let (calls, log_spki) = (self.calls.clone(), self.log_key().spki_der);
        let runtime = tokio::runtime::Handle::current();
        move |call: CallRequest| {
            if call.method() == logs::LOG_KEY_METHOD {
                replied(call.reply(Bytes::from(log_spki.clone())));
            } else if call.method().starts_with(PREFIX) {
                let calls = calls.clone();
                runtime.spawn(async move {
                    let deadline = std::time::Duration::from_millis(call.deadline_ms());
                    let asker = Asker { node: call.peer(), certificate: call.peer_certificate() };
                    let answer = calls.answer(asker, call.method(), call.body(), deadline).await;
                    replied(call.answer(answer.status, answer.body.into()));
                });
            } else {
                replied(call.refuse(CallStatus::Unknown, Bytes::new()));
            }
        }
    }

    /// Ends it in order: what was delivered is durable in any case
    pub async fn close(&self) {
        if let Err(refusal) = self.ca.close().await {
            tracing::error!(%refusal, "the authority could not finish everything");
        }
    }
}

/// Compares the journal with what is remembered apart from it, before anything is issued from it. What is missing
/// can be nothing but what a deny-list brings back, and then that list is returned: the last that was published, as
/// this node keeps it for itself.
fn list_to_adopt(
    own: &OwnAuthority,
    replay: &Replay,
    high_water: &Path,
    state: &Path,
) -> Result<Option<AdoptAtStart>, AuthorityProblem> {
    let seen = HighWaterFile::open(high_water).map_err(|source| {
        let path = high_water.to_owned();
        AuthorityProblem::Revocation(StartError::HighWater { path, source })
    })?;
    let Err(behind) = seen.held().check(replay) else { return Ok(None) };
    if !behind.is_mended_by_adopting() {
        return Err(behind.into());
    }
    let instance = own.subject().node();
    let published = crate::revocation::last_stored(state, instance);
    let Some((document, mut signers)) = published.map_err(AuthorityProblem::Published)? else {
        return Err(behind.into());
    };
    let known = replay.issuing_keys.all();
    let known = known.iter().map(|key| &key.certificate_der[..]);
    for issuing_der in known.chain([own.authority.certificate_der()]) {
        signers.push(ListSigner::from_certificate(instance.clone(), issuing_der)?);
    }
    let signers = Signers::new(signers)?;
    Ok(Some(AdoptAtStart { document, signers, adopted_by: ACTOR.into() }))
}

/// Whose orders are taken from afar
fn operators(config: &Config) -> Operators {
    match &config.trust.operators {
        stoq_config::Operators::Nobody => Operators::Nobody,
        stoq_config::Operators::Certified => Operators::Certified,
        stoq_config::Operators::Named(names) => Operators::Named(names.clone()),
    }
}

fn replied(taken: bool) {
    if !taken {
        tracing::warn!("a worker takes no more answers to calls");
    }
}

/// What the addresses in certificates begin with: where HTTPS is served, or the node's name where that is not one
/// address
fn base_uri(instance: &NodeId, https: Option<SocketAddrV6>) -> String {
    match https {
        Some(at) if !at.ip().is_unspecified() && at.port() != 0 => {
            format!("https://[{}]:{}/", at.ip(), at.port())
        }
        other => {
            let port = other.map(|at| at.port()).filter(|port| *port != 0).unwrap_or(8443);
            format!("https://{instance}.nodes.hypermesh:{port}/")
        }
    }
}

/// Certifies this node by its own authority
pub struct OwnCertifier {
    own: OwnAuthority,
    ca: Ca,
}

impl OwnCertifier {
    /// Asks this authority
    pub fn new(own: OwnAuthority, ca: Ca) -> Self {
        Self { own, ca }
    }
}

impl Certifier for OwnCertifier {
    fn certify(&self, ask: Ask) -> Answering<Certified> {
        let (own, ca) = (self.own.clone(), self.ca.clone());
        Box::pin(async move {
            let node = own.subject().node().to_string();
            let (credential, subject, activation) = match (&ask.kind, ask.current) {
                (RequestKind::Renew { .. }, Some(leaf_der)) => {
                    (Credential::Certificate { leaf_der }, None, Activation::Successor)
                }
                _ => {
                    let registration = Registration {
                        profile: NODE_PROFILE.into(),
                        subject: node.clone(),
                        owner: None,
                        addresses: own.subject().addresses().to_vec(),
                        alternative_names: false,
                    };
                    ca.register(registration).await.map_err(declined)?;
                    let operator = Credential::Operator { name: ACTOR.into() };
                    (operator, Some(node), Activation::Now)
                }
            };
            let request = IssueRequest {
                profile: NODE_PROFILE.into(),
                subject,
                csr_der: ask.csr_der,
                credential,
                idempotency_key: Vec::new(),
                consensus_proof: None,
                stoq_address: None,
                activation,
            };
            let issued = ca.issue(request).await.map_err(declined)?;
            Ok(Certified {
                chain: [issued.certificate_der, issued.issuing_der, issued.root_der],
                window: Some(issued.window),
                authority_time: Some(ca.now()),
            })
        })
    }

    fn suggest(&self, _authority: String, serial: String) -> Answering<Suggested> {
        let information = self.ca.renewal_information(&serial);
        Box::pin(async move {
            let none = || Declined::new(Failure::NodeRefused, "no such certificate");
            let information = information.ok_or_else(none)?;
            Ok((Some(information.window), Some(information.retry_after)))
        })
    }
}

/// The first certificate of a node by its own authority, so that it is somebody before it listens. Blocks; call
/// it where a runtime is, off its own threads.
pub fn certify_first(
    running: &Running,
    own: &OwnAuthority,
    slots: &KeySlots,
    clock: NodeClock,
) -> Result<NodeIdentity, Declined> {
    let local = |error: &dyn std::fmt::Display| Declined::new(Failure::Local, error);
    let slot = slots.find(clock.now()).map_err(|error| local(&error))?.next;
    let csr_der = slots.request(slot).map_err(|error| local(&error))?;
    let authority = own.subject().node().to_string();
    let (kind, enrolled) = (RequestKind::ReEnrol, slots.clone());
    let ask = Ask { authority, csr_der, kind, current: None, enrolled };
    let asking = OwnCertifier::new(own.clone(), running.ca.clone()).certify(ask);
    let certified = tokio::runtime::Handle::current().block_on(asking)?;
    let [leaf, issuing, root] = &certified.chain;
    let (node, trusted) = (own.subject().node(), own.authority.root_fingerprint());
    let slotted = slots
        .install(slot, node, [leaf, issuing, root], &trusted, clock.now())
        .map_err(|error| Declined::new(Failure::Unusable, error))?;
    slots.activate(slot).map_err(|error| local(&error))?;
    Ok(slotted.identity)
}

fn declined(refusal: Refusal) -> Declined {
    let failure = failure_of(refusal.code());
    Declined { retry_after: refusal.retry_after(), ..Declined::new(failure, refusal) }
}

/// Where the authority behind a certificate serves HTTPS, as the certificate says (RFC 5280 section 4.2.2.1)
pub fn https_of(certificate_der: &[u8]) -> Option<SocketAddrV6> {
    use stoq_trustchain::certificate::{issuer_uris, parse};
    let parsed = parse(certificate_der).ok()?;
    let uri = issuer_uris(&parsed).into_iter().find(|uri| uri.starts_with("https://["))?;
    let authority = uri.strip_prefix("https://")?.split('/').next()?;
    authority.parse().ok()
}

/// The same for asking there
pub fn authority_at(identity: &NodeIdentity, node: NodeId) -> Option<AuthorityAt> {
    let address = https_of(identity.leaf_der())?;
    Some(AuthorityAt { address, node, root: identity.root_fingerprint() })
}

/// The instant as milliseconds since 1970, with room for clocks that differ
pub fn milliseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_name_an_address_that_can_be_dialled_or_the_node() {
        let alpha = NodeId::new("alpha").unwrap();
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(base_uri(&alpha, at("[::1]:8443")), "https://[::1]:8443/");
        assert_eq!(base_uri(&alpha, at("[::]:9000")), "https://alpha.nodes.hypermesh:9000/");
        assert_eq!(base_uri(&alpha, None), "https://alpha.nodes.hypermesh:8443/");
    }
}
