//! The node: the composition of endpoint, identity, peers, services and copy, and what changes them while it
//! runs. It builds snapshots; the data plane acts on them.

use std::collections::VecDeque;
use std::net::SocketAddrV6;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use stoq::{
    Allow, ControlSnapshot, Endpoint, EndpointBuilder, IoPreference, NodeId, ServiceName,
    StartError, TrustAnchor, WorkerPlan,
};
use stoq_admin::api::{PeerSource, ServiceOrigin};
use stoq_config::{Config, Cores, IoChoice, Placement, Role, Target};
use stoq_interface::{Denied, Freshness, LogKey, Transparency};
use stoq_memory::host_topology;
use stoq_trustchain::ca::Consensus;
use stoq_trustchain::key_slots::KeySlots;
use stoq_trustchain::mesh::{AuthorityStatement, KnownAuthorities};
use stoq_trustchain::revocation::{KeyId, ListSigner};
use stoq_trustchain::{EnrolledNode, Fingerprint, NodeIdentity};
use stoq_udp::SocketError;
use tokio::sync::watch;

use crate::agreement::{Agreement, AgreementError, Home, HomeError, Judge, Later};
use crate::authority::{AuthorityProblem, Opening, OwnCertifier, Running, certify_first};
use crate::certifier::{Certifier, RemoteCertifier};
use crate::clock::NodeClock;
use crate::copy::Roots;
use crate::identity::{self, OpenError, Source};
use crate::list_age::ListAge;
use crate::logging::Logging;
use crate::measure::{self, Measurements};
use crate::peers::{Addresses, Peers};
use crate::pins::{self, PinProblem};
use crate::revocation::Lists;
use crate::rotation::{Notice, RotationHandle};
use crate::services::Services;
use crate::state::{State, StateError};

/// Time the kernel gets to free the port of a daemon that was killed
const PORT_PATIENCE: Duration = Duration::from_secs(3);
/// Time between two tries for the port: the kernel announces nothing
const PORT_POLL: Duration = Duration::from_millis(50);
/// Changes of the certificate that are remembered: connections that old have long been replaced
const SERIALS: usize = 64;
/// Issuing authorities that are trusted at one time: the one of each certificate that is kept
const ANCHORS: usize = 16;

/// Why the node does not start
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The state directory
    #[error("{path}: {cause}; create it for this user or set node.state_directory")]
    StateDirectory {
        /// The directory
        path: PathBuf,
        /// What the kernel said
        cause: std::io::Error,
    },
    /// Another stoqd uses the state directory
    #[error(
        "{0} is in use by another stoqd; stop it, or give this one a node.state_directory of its own"
    )]
    StateInUse(PathBuf),
    /// The identity
    #[error("identity: {0}")]
    Identity(#[from] OpenError),
    /// The authority
    #[error("certificate authority: {0}")]
    Authority(#[from] AuthorityProblem),
    /// What an operator changed earlier
    #[error(transparent)]
    State(#[from] StateError),
    /// This node's part in HyperMesh
    #[error("hypermesh: {0}")]
    Agreement(#[from] AgreementError),
    /// Its files
    #[error("hypermesh: {0}")]
    Home(#[from] HomeError),
    /// The workers
    #[error(transparent)]
    Start(#[from] StartError),
    /// The pins of the configuration
    #[error("trust: {0}")]
    Pins(#[from] PinProblem),
    /// The copy roots
    #[error("copy.roots: {0}")]
    Roots(#[from] crate::copy::CopyError),
    /// A service or an attachment of the configuration
    #[error("{0}")]
    Service(String),
}

/// What changes when a node joins another
#[derive(Clone, Debug)]
pub struct Identities {
    /// Where it comes from
    pub source: Source,
    /// The certificate and whom it trusts; none where a joined one has ended
    pub identity: Option<NodeIdentity>,
    /// Why there is none
    pub problem: Option<String>,
    /// Whom the certificate names, in force or not
    pub name: Option<NodeId>,
}

/// What peers are held to, beside the authorities that come with the node's own certificate
#[derive(Clone, Debug, Default)]
struct Trust {
    /// The authorities behind the certificates that this node has had
    anchors: Vec<TrustAnchor>,
    /// The issuing keys whose leaves are good, as the authority has named them
    issuing: Vec<TrustAnchor>,
    transparency: Transparency,
    /// Authorities beside the one behind this node's certificate, and their logs
    others: Vec<TrustAnchor>,
    other_logs: Vec<LogKey>,
    denied: Arc<Denied>,
    freshness: Option<Freshness>,
}

/// A running node
pub struct Node {
    /// The data plane
    pub endpoint: Endpoint,
    /// Peers and the sessions with them
    pub peers: Arc<Peers>,
    /// Services and attachments
    pub services: Services,
    /// Measurements under way and done
    pub measurements: Measurements,
    /// What an operator changed
    pub state: State,
    /// Where things are
    pub placement: Placement,
    /// The configuration in force
    pub config: ArcSwap<Config>,
    /// Where it was read from
    pub config_file: Option<PathBuf>,
    /// The log filter
    pub logging: Arc<Logging>,
    /// Since when
    pub started_at: SystemTime,
    /// What time it is
    pub clock: NodeClock,
    /// The node's own authority, where it had one when it started
    pub authority: Option<Running>,
    /// This node's part in HyperMesh, where it has one
    pub agreement: Later,
    /// The authorities this node knows, the one behind its certificate among them
    pub known: Arc<KnownAuthorities>,
    /// The way to the driver of rotation
    pub rotation: Arc<RotationHandle>,
    /// The address of enrolment, once bound
    pub enrollment: Mutex<Option<SocketAddrV6>>,
    identities: Mutex<Identities>,
    /// Counts changes of where the identity comes from
    identity_changed: watch::Sender<u64>,
    /// Counts changes of the issuing keys whose leaves are good
    issuing_changed: watch::Sender<u64>,
    /// Counts deny-lists that came for another reason than that a certificate was revoked
    list_news: watch::Sender<u64>,
    trust: Mutex<Trust>,
    list_age: Mutex<Option<ListAge>>,
    /// The certificate in force from an epoch on
    serials: Mutex<VecDeque<(u64, String)>>,
    /// One snapshot is composed and published at a time, so that none overtakes another
    publishing: Mutex<()>,
    roots: ArcSwap<Roots>,
    epoch: AtomicU64,
    draining: AtomicBool,
    /// Serialises whatever changes what is published
    pub changing: tokio::sync::Mutex<()>,
    _state_lock: std::fs::File,
}

/// What a node is started with
pub struct Start {
    /// The configuration
    pub config: Config,
    /// Where it was read from
    pub config_file: Option<PathBuf>,
    /// Where things are
    pub placement: Placement,
    /// The log filter
    pub logging: Arc<Logging>,
    /// What time it is
    pub clock: NodeClock,
    /// Whether the authority is as strict as in production
    pub production: bool,
}

impl Node {
    /// Opens state and identity and starts the workers. Services come with [`Self::restore`].
    pub fn start(start: Start) -> Result<Arc<Self>, NodeError> {
        let Start { config, config_file, placement, logging, clock, production } = start;
        let directory = &placement.state_directory;
        identity::private_directory(directory)?;
        let state_lock = lock(directory)?;
        let now = clock.now();
        let identity::Opened { source, identity, problem, journal } = {
            let (signer, listen) = (config.trust.signer_socket.as_deref(), config.listen.stoq);
            identity::open(directory, &placement.node, listen, signer, production, now)?
        };
        let state = State::open(directory.join("operator.json"))?;
        let home = Home::open(&config, directory, &placement.node, production, now)?;
        let agreement = Later::default();
        let consensus = match &home {
            Some(home) => {
                let genesis = Arc::clone(&home.genesis);
                let (name, later) = (placement.node.clone(), Arc::clone(&agreement));
                let judge = Judge::new(genesis, name, home.issuance, later);
                Consensus::Required(Arc::new(judge))
            }
            None => Consensus::NotRequired,
        };
        let roots = Roots::new(config.copy.roots.clone())?;
        let serves = config.node.roles.contains(&Role::Trustchain);
        let https = config.listen.enrollment.filter(|_| serves);
        let known = Arc::<KnownAuthorities>::default();
        let authority = match &source {
            Source::Own(own) => {
                let (config, known) = (&config, Arc::clone(&known));
                let state = directory;
                Some(Running::open(Opening {
                    own,
                    journal,
                    state,
                    config,
                    https,
                    production,
                    clock,
                    known,
                    consensus,
                })?)
            }
            Source::Joined => None,
        };
        let slots = source.key_slots(directory);
        let (identity, problem) = match (&source, &authority, identity) {
            (Source::Own(own), Some(running), None) => {
                let first = certify_first(running, own, &slots, clock).map_err(|declined| {
                    let reason = declined.reason;
                    NodeError::Service(format!("this node has no certificate: {reason}"))
                })?;
                (Some(first), None)
            }
            (_, _, identity) => (identity, problem),
        };
        pins::check_at_start(&config, identity.as_ref())?;
        let transparency = authority.as_ref().map(Running::transparency).unwrap_or_default();
        // Whoever insists on a recent list lets nobody in before there is one.
        let whose = match &source {
            Source::Own(own) => vec![own.subject().node().clone()],
            Source::Joined => authorities(&config, &state),
        };
        let fail_closed = config.trust.fail_closed;
        let list_age = fail_closed.then(|| ListAge::nothing(whose, true, now));
        let freshness = list_age.as_ref().and_then(ListAge::freshness);
        let trust = Trust { transparency, freshness, ..Trust::default() };
        let mut snapshot = compose(&config, identity.as_ref(), &trust, Default::default(), 1);
        snapshot.clock = clock.wall();
        let serial = identity.as_ref().map(|one| (1, one.identity().serial.clone()));
        let name = slots.named();
        let builder = Endpoint::builder()
            .listen(config.listen.stoq)
            .workers(plan(&config))
            .snapshot(snapshot);
        let endpoint = build_patiently(&builder)?;
        demand_ring(&config, &endpoint)?;
        if let Some(problem) = &problem {
            tracing::error!(problem, "no session is possible until this node has a certificate");
        }
        let peers = Arc::new(Peers::new(endpoint.clone()));
        let node = Arc::new(Self {
            services: Services::new(endpoint.clone(), Arc::clone(&peers)),
            measurements: Measurements::default(),
            endpoint,
            peers,
            state,
            placement,
            config: ArcSwap::from_pointee(config),
            config_file,
            logging,
            started_at: SystemTime::now(),
            clock,
            authority,
            agreement,
            known,
            rotation: Arc::default(),
            enrollment: Mutex::new(None),
            identities: Mutex::new(Identities { source, identity, problem, name }),
            identity_changed: watch::Sender::new(0),
            issuing_changed: watch::Sender::new(0),
            list_news: watch::Sender::new(0),
            trust: Mutex::new(trust),
            list_age: Mutex::new(list_age),
            serials: Mutex::new(serial.into_iter().collect()),
            publishing: Mutex::new(()),
            roots: ArcSwap::from_pointee(roots),
            epoch: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            changing: tokio::sync::Mutex::new(()),
            _state_lock: state_lock,
        });
        if let Some(home) = home {
            let running = Agreement::start(home, node.name())?;
            tracing::info!(
                network = running.genesis.name().as_str(),
                key = %running.key.validator(),
                height = running.view.registry().last_height(),
                "hypermesh"
            );
            // It was made above, and nobody else sets it.
            let _ = node.agreement.set(running);
        }
        Ok(node)
    }

    /// This node's name, as its certificate says
    pub fn name(&self) -> NodeId {
        let Identities { source, identity, name, .. } = self.identities();
        let named = identity.map(|one| one.identity().node.clone());
        let joined = match source {
            Source::Joined => name,
            Source::Own(_) => None,
        };
        named.or(joined).unwrap_or_else(|| self.placement.node.clone())
    }

    /// Who this node is now
    pub fn identities(&self) -> Identities {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The address of enrolment, once bound
    pub fn enrollment_address(&self) -> Option<SocketAddrV6> {
        *self.enrollment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings back peers, services and attachments of configuration and operator
    pub async fn restore(&self) -> Result<(), NodeError> {
        let config = self.config.load_full();
        self.load_peers(&config);
        let stored = self.state.read();
        for service in &config.services {
            self.publish_quietly(
                service.name.clone(),
                service.to.clone(),
                service.allow.clone(),
                ServiceOrigin::Config,
            )?;
        }
        for service in &stored.services {
            let unusable = |error: String| {
                NodeError::Service(format!("operator.json: service {}: {error}", service.name))
            };
            let name = ServiceName::new(&service.name).map_err(|e| unusable(e.to_string()))?;
            let to: Target = service.to.parse().map_err(|e| unusable(format!("{e}")))?;
            let allow = allow_of(&service.allow).map_err(unusable)?;
            self.publish_quietly(name, to, allow, ServiceOrigin::Operator)?;
        }
        for attachment in &config.attachments {
            let (service, node) =
                (attachment.service.service.clone(), attachment.service.node.clone());
            self.attach_quietly(service, node, &attachment.listen, ServiceOrigin::Config).await?;
        }
        for attachment in &stored.attachments {
            let unusable = |error: String| {
                NodeError::Service(format!("operator.json: {}: {error}", attachment.service))
            };
            let service =
                ServiceName::new(&attachment.service).map_err(|e| unusable(e.to_string()))?;
            let node = NodeId::new(&attachment.node).map_err(|e| unusable(e.to_string()))?;
            let listen: Target = attachment.listen.parse().map_err(|e| unusable(format!("{e}")))?;
            self.attach_quietly(service, node, &listen, ServiceOrigin::Operator).await?;
        }
        self.publish_snapshot();
        Ok(())
    }

    fn publish_quietly(
        &self,
        name: ServiceName,
        to: Target,
        allow: Allow,
        origin: ServiceOrigin,
    ) -> Result<(), NodeError> {
        self.services
            .publish(name.clone(), to, allow, origin)
            .map_err(|error| NodeError::Service(format!("service {name}: {error}")))
    }

    /// An attachment whose address is taken does not keep the node from starting
    async fn attach_quietly(
        &self,
        service: ServiceName,
        node: NodeId,
        listen: &Target,
        origin: ServiceOrigin,
    ) -> Result<(), NodeError> {
        if let Err(error) =
            self.services.attach(service.clone(), node.clone(), listen, origin).await
        {
            if origin == ServiceOrigin::Config {
                return Err(NodeError::Service(format!("attachment {service}@{node}: {error}")));
            }
            tracing::error!(%service, %node, %error, "an attachment could not be restored");
        }
        Ok(())
    }

    /// Takes in the peers of configuration, enrolment and operator
    pub fn load_peers(&self, config: &Config) {
        self.peers.replace(|| self.find_peers(config));
    }

    fn find_peers(&self, config: &Config) -> Addresses {
        let (own, mut all) = (self.name(), Addresses::new());
        for authority in self.known.all().into_iter().filter(|one| one.instance != own) {
            if let Some(address) = authority.stoq_address {
                all.insert(authority.instance, (address, PeerSource::Authority));
            }
        }
        for node in self.enrolled() {
            all.insert(node.node, (node.address, PeerSource::Enrolled));
        }
        for peer in self.state.read().peers {
            match NodeId::new(&peer.node) {
                Ok(node) => {
                    all.insert(node, (peer.address, PeerSource::Added));
                }
                Err(error) => tracing::error!(node = peer.node, %error, "operator.json"),
            }
        }
        for peer in &config.peers {
            all.insert(peer.node.clone(), (peer.address, PeerSource::Config));
        }
        all
    }

    /// Notices nodes that have joined since
    pub fn refresh_enrolled(&self) {
        for node in self.enrolled() {
            let known = self.peers.get(&node.node);
            let weaker = [PeerSource::Enrolled, PeerSource::Authority];
            if known.is_none_or(|(_, source)| weaker.contains(&source)) {
                self.peers.insert(node.node, node.address, PeerSource::Enrolled);
            }
        }
    }

    /// Puts what is now configured, published and known into force
    pub fn publish_snapshot(&self) -> u64 {
        let _publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let config = self.config.load_full();
        let identity = self.identities().identity;
        let trust = self.trust.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let epoch = self.epoch.load(Ordering::Acquire) + 1;
        let services = self.services.table();
        let mut snapshot = compose(&config, identity.as_ref(), &trust, services, epoch);
        snapshot.clock = self.clock.wall();
        if let Some(identity) = &identity {
            self.remember_serial(epoch, &identity.identity().serial);
        }
        self.endpoint.publish(snapshot);
        self.epoch.store(epoch, Ordering::Release);
        epoch
    }

    fn remember_serial(&self, epoch: u64, serial: &str) {
        let mut serials = self.serials.lock().unwrap_or_else(PoisonError::into_inner);
        if serials.back().is_none_or(|(_, last)| last != serial) {
            serials.push_back((epoch, serial.to_owned()));
        }
        if serials.len() > SERIALS {
            serials.pop_front();
        }
    }

    /// The certificate that handshakes presented under an epoch
    pub fn serial_of_epoch(&self, epoch: u64) -> Option<String> {
        let serials = self.serials.lock().unwrap_or_else(PoisonError::into_inner);
        let at = serials.iter().rev().find(|(since, _)| *since <= epoch);
        at.map(|(_, serial)| serial.clone())
    }

    /// The certificate in force
    pub fn serial(&self) -> Option<String> {
        self.identities().identity.map(|one| one.identity().serial.clone())
    }

    /// This node's keys and certificates on disk
    pub fn key_slots(&self) -> KeySlots {
        self.identities().source.key_slots(&self.placement.state_directory)
    }

    /// The root this node trusts
    pub fn trusted_root(&self) -> Option<Fingerprint> {
        self.identities().source.root(&self.placement.state_directory).ok()
    }

    /// Who issues this node's certificates, and by which names
    pub fn certifier(&self) -> (Arc<dyn Certifier>, Vec<String>) {
        if let (Source::Own(own), Some(running)) = (self.identities().source, &self.authority) {
            let name = own.subject().node().to_string();
            return (Arc::new(OwnCertifier::new(own, running.ca.clone())), vec![name]);
        }
        let names = self.authorities().iter().map(ToString::to_string).collect();
        let (peers, address) = (Arc::clone(&self.peers), self.endpoint.local_address());
        let agreement = Arc::clone(&self.agreement);
        (Arc::new(RemoteCertifier::new(peers, self.clock, address, agreement)), names)
    }

    /// The authorities on other nodes that renew this one's certificate, in the order in which they are asked
    pub fn authorities(&self) -> Vec<NodeId> {
        authorities(&self.config.load(), &self.state)
    }

    /// Where deny-lists come from, one for each authority that is known; `None` where there is nobody to ask
    pub fn lists(&self) -> Option<Lists> {
        let Identities { source, identity, .. } = self.identities();
        let known = self.known.all();
        let mut signers: Vec<ListSigner> = Vec::new();
        for signer in known.iter().flat_map(AuthorityStatement::list_signers) {
            if !signers.iter().any(|known| known.key_id() == signer.key_id()) {
                signers.push(signer);
            }
        }
        let own = match (&source, &self.authority) {
            (Source::Own(own), Some(running)) => {
                Some((own.subject().node().clone(), running.revocations.clone()))
            }
            _ => None,
        };
        // The authority behind this node's certificate, which may not have said anything of itself yet
        let issuer = own.as_ref().map(|(own, _)| own.clone());
        let issuer = issuer.or_else(|| self.authorities().into_iter().next());
        if let Some((issuer, identity)) = issuer.zip(identity) {
            let issuing = self.issuing();
            let issuing = issuing.iter().map(|anchor| &anchor.certificate_der[..]);
            for issuing_der in std::iter::once(identity.issuing_der()).chain(issuing) {
                if let Ok(signer) = ListSigner::from_certificate(issuer.clone(), issuing_der)
                    && !signers.iter().any(|known| known.key_id() == signer.key_id())
                {
                    signers.push(signer);
                }
            }
        }
        signers.retain(|signer| !self.is_denied(Some(signer.key_id())));
        (!signers.is_empty()).then_some(Lists { own, signers })
    }

    /// Tells the own authority which others' nodes it serves as well
    pub fn name_siblings(&self) {
        if let Some(running) = &self.authority
            && running.shares_records()
        {
            // What they revoke is revoked here too: it is in the records. Their own keys are not.
            let known = self.known.all();
            let certificates = known.iter().flat_map(|one| {
                one.certificates().filter(|der| {
                    let key = ListSigner::from_certificate(one.instance.clone(), der).ok();
                    !self.is_denied(key.map(|key| key.key_id()))
                })
            });
            running.ca.set_siblings(certificates.cloned().collect());
        }
    }

    fn is_denied(&self, issuer: Option<KeyId>) -> bool {
        let trust = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
        issuer.is_none_or(|issuer| trust.denied.issuers.contains(issuer.as_bytes()))
    }

    /// Puts into force what is known of other authorities: the leaves they issue are accepted, their logs count, and
    /// whoever follows deny-lists looks again
    pub fn know_authorities(&self) {
        let known = self.known.all();
        let others = known.iter().flat_map(AuthorityStatement::trust_anchors).collect();
        let logs = known.iter().map(AuthorityStatement::log_key).collect();
        self.change_trust(|trust| {
            let changed = trust.others != others || trust.other_logs != logs;
            (trust.others, trust.other_logs) = (others, logs);
            changed
        });
        self.name_siblings();
        self.load_peers(&self.config.load());
        self.identity_changed.send_modify(|count| *count += 1);
    }

    /// Changes when the node has another identity or issuer, or knows other authorities; not with each new certificate
    pub fn identity_changed(&self) -> watch::Receiver<u64> {
        self.identity_changed.subscribe()
    }

    /// Puts another certificate of the same node into force: handshakes from now on present it, in both roles
    pub fn present(&self, identity: NodeIdentity) {
        let issuer_changed = {
            let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
            let issuer = identities.identity.as_ref().map(NodeIdentity::issuing_der);
            let changed = issuer != Some(identity.issuing_der());
            identities.name = Some(identity.identity().node.clone());
            identities.identity = Some(identity);
            identities.problem = None;
            changed
        };
        self.publish_snapshot();
        if issuer_changed {
            self.identity_changed.send_modify(|count| *count += 1);
        }
    }

    fn change_trust(&self, change: impl FnOnce(&mut Trust) -> bool) -> u64 {
        let changed = change(&mut self.trust.lock().unwrap_or_else(PoisonError::into_inner));
        if changed { self.publish_snapshot() } else { self.epoch() }
    }

    /// Accepts the leaves of the authority behind a certificate, beside those trusted before
    pub fn trust_anchors_of(&self, identity: &NodeIdentity) {
        self.change_trust(|trust| {
            let before = trust.anchors.len();
            for anchor in identity.trust() {
                if !trust.anchors.contains(&anchor) {
                    trust.anchors.push(anchor);
                }
            }
            let over = trust.anchors.len().saturating_sub(ANCHORS);
            trust.anchors.drain(..over);
            trust.anchors.len() != before || over > 0
        });
    }

    /// The issuing keys whose leaves are good, as the authority has named them
    pub fn issuing(&self) -> Vec<TrustAnchor> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner).issuing.clone()
    }

    /// Accepts the leaves of these issuing keys from now on, instead of those named before
    pub fn set_issuing(&self, issuing: Vec<TrustAnchor>) {
        let before = self.issuing();
        self.change_trust(|trust| {
            let changed = trust.issuing != issuing;
            trust.issuing = issuing;
            changed
        });
        if self.issuing() != before {
            self.issuing_changed.send_modify(|count| *count += 1);
        }
    }

    /// Changes with the issuing keys whose leaves are good
    pub fn issuing_changed(&self) -> watch::Receiver<u64> {
        self.issuing_changed.subscribe()
    }

    /// Changes when the authority may have something to say that is not in its deny-list
    pub fn list_news(&self) -> watch::Receiver<u64> {
        self.list_news.subscribe()
    }

    /// A deny-list came for another reason than that a certificate was revoked
    pub fn tell_list_news(&self) {
        self.list_news.send_modify(|count| *count += 1);
    }

    /// What peers are held to where the node's own authority certifies it
    pub fn own_transparency(&self) -> Option<Transparency> {
        match self.identities().source {
            Source::Own(_) => self.authority.as_ref().map(Running::transparency),
            Source::Joined => None,
        }
    }

    /// Holds peers to these logs from now on
    pub fn set_transparency(&self, transparency: Transparency) {
        self.change_trust(|trust| {
            let changed = trust.transparency != transparency;
            trust.transparency = transparency;
            changed
        });
    }

    /// The nodes that have enrolled with this node's own authority
    fn enrolled(&self) -> Vec<EnrolledNode> {
        match (self.identities().source, &self.authority) {
            (Source::Own(own), Some(running)) => {
                let name = own.subject().node();
                running.ca.nodes().into_iter().filter(|one| one.node != *name).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Refuses these from now on and closes the connections on which they are shown; the epoch that says so
    pub fn set_denied(&self, denied: Denied) -> u64 {
        self.change_trust(|trust| {
            let changed = *trust.denied != denied;
            if changed {
                trust.denied = Arc::new(denied);
            }
            changed
        })
    }

    /// How recent the deny-lists are; `None` where none is followed
    pub fn list_age(&self) -> Option<ListAge> {
        self.list_age.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Until when new connections may go by the deny-lists, and what an operator is told of it
    pub fn set_list_age(&self, age: ListAge) {
        let freshness = age.freshness();
        *self.list_age.lock().unwrap_or_else(PoisonError::into_inner) = Some(age);
        self.change_trust(|trust| {
            let changed = trust.freshness != freshness;
            trust.freshness = freshness;
            changed
        });
    }

    /// The epoch in force
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Takes on another identity: handshakes from now on use it
    pub fn adopt(&self, source: Source, identity: NodeIdentity) {
        let name = Some(identity.identity().node.clone());
        *self.identities.lock().unwrap_or_else(PoisonError::into_inner) =
            Identities { source, identity: Some(identity), problem: None, name };
        // What the former authorities said about other nodes is nothing here.
        let fail_closed = self.config.load().trust.fail_closed;
        let age = ListAge::nothing(self.authorities(), fail_closed, self.clock.now());
        *self.trust.lock().unwrap_or_else(PoisonError::into_inner) =
            Trust { freshness: age.freshness(), ..Trust::default() };
        *self.list_age.lock().unwrap_or_else(PoisonError::into_inner) = Some(age);
        self.publish_snapshot();
        // Before anybody hears of it: a session that is dialled from now on is one of the new identity.
        self.load_peers(&self.config.load());
        self.peers.forget_sessions();
        self.identity_changed.send_modify(|count| *count += 1);
        self.rotation.tell(Notice::BeginAgain);
    }

    /// The directories of the copy service
    pub fn roots(&self) -> Arc<Roots> {
        self.roots.load_full()
    }

    /// Takes over other directories for the copy service
    pub fn set_roots(&self, roots: Roots) {
        self.roots.store(Arc::new(roots));
    }

    /// Whether the node is going away
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Takes nothing new and lets flows finish; returns how many were cut at the end
    pub async fn drain(&self, timeout: Duration) -> (u64, u64) {
        self.draining.store(true, Ordering::Release);
        let deadline = tokio::time::Instant::now() + timeout;
        let closed = self.endpoint.connections().await.len() as u64;
        self.endpoint.drain(timeout);
        let mut poll = tokio::time::interval(Duration::from_millis(20));
        let mut flows_before = 0;
        loop {
            let sessions = self.endpoint.sessions().await;
            let flows: u64 = sessions.iter().map(|session| session.flows as u64).sum();
            let late = tokio::time::Instant::now() >= deadline;
            // The workers keep the same deadline and may have cut the rest just before this look.
            if late {
                return (flows.max(flows_before), closed);
            }
            if sessions.is_empty() {
                return (0, closed);
            }
            flows_before = flows;
            poll.tick().await;
        }
    }
}

/// The kernel takes down the ring of a process that was killed after the process is gone, and its socket with
/// it: a daemon that is started again at once waits for that.
#[expect(
    clippy::disallowed_methods,
    reason = "a port that becomes free is not announced, and no worker runs yet"
)]
fn build_patiently(builder: &EndpointBuilder) -> Result<Endpoint, StartError> {
    let end = std::time::Instant::now() + PORT_PATIENCE;
    loop {
        match builder.clone().build() {
            Err(StartError::Socket(SocketError::PortInUse { .. }))
                if std::time::Instant::now() < end =>
            {
                std::thread::sleep(PORT_POLL);
            }
            outcome => return outcome,
        }
    }
}

/// `workers.io = "io_uring"` means just that
fn demand_ring(config: &Config, endpoint: &Endpoint) -> Result<(), NodeError> {
    let fallback = endpoint.workers().into_iter().find_map(|worker| worker.io_fallback);
    match fallback {
        Some(reason) if config.workers.io == IoChoice::IoUring => {
            Err(NodeError::Service(format!("workers.io = \"io_uring\", but: {reason}")))
        }
        _ => Ok(()),
    }
}

/// One stoqd per state directory
fn lock(directory: &std::path::Path) -> Result<std::fs::File, NodeError> {
    let failed = |cause| NodeError::StateDirectory { path: directory.to_owned(), cause };
    let file = std::fs::File::create(directory.join("stoqd.lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(NodeError::StateInUse(directory.to_owned())),
        Err(std::fs::TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

/// The authorities on other nodes: those of the configuration, or the one that was joined
fn authorities(config: &Config, state: &State) -> Vec<NodeId> {
    if !config.trust.authorities.is_empty() {
        return config.trust.authorities.clone();
    }
    let issuer = state.read().issuer;
    issuer.and_then(|name| NodeId::new(&name).ok()).into_iter().collect()
}

/// `any-enrolled` or a list of nodes
pub fn allow_of(texts: &[String]) -> Result<Allow, String> {
    match texts {
        [] => Ok(Allow::Nobody),
        [one] if one == "any-enrolled" => Ok(Allow::AnyEnrolled),
        nodes => nodes
            .iter()
            .map(|text| NodeId::new(text).map_err(|error| format!("{text}: {error}")))
            .collect::<Result<_, _>>()
            .map(Allow::Nodes),
    }
}

/// The reverse of [`allow_of`]
pub fn allow_texts(allow: &Allow) -> Vec<String> {
    match allow {
        Allow::Nobody => Vec::new(),
        Allow::AnyEnrolled => vec!["any-enrolled".into()],
        Allow::Nodes(nodes) => nodes.iter().map(ToString::to_string).collect(),
    }
}

fn compose(
    config: &Config,
    identity: Option<&NodeIdentity>,
    trust: &Trust,
    mut services: std::collections::BTreeMap<ServiceName, Allow>,
    epoch: u64,
) -> ControlSnapshot {
    if config.copy.allow != Allow::Nobody
        && let Ok(copy) = ServiceName::new(stoq_config::COPY_SERVICE)
    {
        services.insert(copy, config.copy.allow.clone());
    }
    if config.hypermesh.enabled
        && let Ok(name) = ServiceName::new(stoq_config::HYPERMESH_SERVICE)
    {
        // Whose frames count is decided by the key that each flow begins with.
        services.insert(name, Allow::AnyEnrolled);
    }
    if config.transport().perf
        && let Ok(name) = ServiceName::new(measure::SERVICE)
    {
        services.insert(name, Allow::AnyEnrolled);
    }
    let mut anchors = identity.map(NodeIdentity::trust).unwrap_or_default();
    for anchor in trust.anchors.iter().chain(&trust.issuing).chain(&trust.others) {
        if !anchors.contains(anchor) {
            anchors.push(anchor.clone());
        }
    }
    let mut transparency = trust.transparency.clone();
    if let Transparency::Required(logs) = &mut transparency {
        let others = trust.other_logs.iter().filter(|log| !logs.contains(log)).cloned();
        let others: Vec<LogKey> = others.collect();
        logs.extend(others);
    }
    // Every authority here was held to the one root before it was trusted.
    let pins = pins::of_data_plane(config, identity.map(NodeIdentity::root_der), &anchors);
    ControlSnapshot {
        epoch,
        identity: identity.map(|identity| identity.identity().clone()),
        trust: anchors,
        transparency,
        denied: Arc::clone(&trust.denied),
        pins,
        deny_list_freshness: trust.freshness.clone(),
        clock: Default::default(),
        services,
        limits: config.limits(),
        transport: config.transport(),
    }
}

/// The cores of the workers: those named, or every core this process may use
pub fn cores(config: &Config) -> Vec<usize> {
    match &config.workers.cores {
        Cores::These(cores) => cores.clone(),
        Cores::Auto => host_topology()
            .map(|topology| topology.cores.iter().map(|core| core.index).collect())
            .unwrap_or_default(),
    }
}

fn plan(config: &Config) -> WorkerPlan {
    let workers = &config.workers;
    WorkerPlan {
        cores: cores(config),
        io: match workers.io {
            IoChoice::SystemCalls => IoPreference::SystemCalls,
            IoChoice::Auto | IoChoice::IoUring => IoPreference::Auto,
        },
        busy_poll: workers.busy_poll,
        huge_pages: workers.huge_pages,
        receive_buffer_bytes: workers.receive_buffer_bytes,
        receive_buffers: u16::try_from(workers.receive_buffers).unwrap_or(u16::MAX),
        send_slabs: u32::try_from(workers.send_slabs).unwrap_or(u32::MAX),
        ..WorkerPlan::default()
    }
}
