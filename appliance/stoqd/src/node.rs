//! The node: the composition of endpoint, identity, peers, services and copy, and what changes them while it
//! runs. It builds snapshots; the data plane acts on them.

use std::net::SocketAddrV6;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use stoq::{
    Allow, ControlSnapshot, Endpoint, EndpointBuilder, IoPreference, NodeId, ServiceName,
    StartError, WorkerPlan,
};
use stoq_admin::api::{PeerSource, ServiceOrigin};
use stoq_config::{Config, Cores, IoChoice, Placement, Target};
use stoq_memory::host_topology;
use stoq_trustchain::NodeIdentity;
use stoq_udp::SocketError;

use crate::copy::Roots;
use crate::identity::{self, OpenError, Source};
use crate::logging::Logging;
use crate::measure::{self, Measurements};
use crate::peers::Peers;
use crate::services::Services;
use crate::state::{State, StateError};

/// Time the kernel gets to free the port of a daemon that was killed
const PORT_PATIENCE: Duration = Duration::from_secs(3);
/// Time between two tries for the port: the kernel announces nothing
const PORT_POLL: Duration = Duration::from_millis(50);
/// Interval at which the node looks at its certificate
const CERTIFICATE_CHECK: Duration = Duration::from_secs(60);

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
    /// What an operator changed earlier
    #[error(transparent)]
    State(#[from] StateError),
    /// The workers
    #[error(transparent)]
    Start(#[from] StartError),
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
    /// The address of enrolment, once bound
    pub enrollment: Mutex<Option<SocketAddrV6>>,
    identities: Mutex<Identities>,
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
}

impl Node {
    /// Opens state and identity and starts the workers. Services come with [`Self::restore`].
    pub fn start(start: Start) -> Result<Arc<Self>, NodeError> {
        let Start { config, config_file, placement, logging } = start;
        let directory = &placement.state_directory;
        identity::private_directory(directory)?;
        let state_lock = lock(directory)?;
        let now = SystemTime::now();
        let identity::Opened { source, identity, problem } =
            identity::open(directory, &placement.node, config.listen.stoq, now)?;
        if let Some(problem) = &problem {
            tracing::error!(problem, "no session is possible until this node joins again");
        }
        let state = State::open(directory.join("operator.json"))?;
        let roots = Roots::new(config.copy.roots.clone())?;
        let snapshot = compose(&config, identity.as_ref(), Default::default(), 1);
        let builder = Endpoint::builder()
            .listen(config.listen.stoq)
            .workers(plan(&config))
            .snapshot(snapshot);
        let endpoint = build_patiently(&builder)?;
        demand_ring(&config, &endpoint)?;
        let peers = Arc::new(Peers::new(endpoint.clone()));
        Ok(Arc::new(Self {
            services: Services::new(endpoint.clone(), Arc::clone(&peers)),
            measurements: Measurements::default(),
            endpoint,
            peers,
            state,
            placement,
            config: ArcSwap::from_pointee(config),
            config_file,
            logging,
            started_at: now,
            enrollment: Mutex::new(None),
            identities: Mutex::new(Identities { source, identity, problem }),
            roots: ArcSwap::from_pointee(roots),
            epoch: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            changing: tokio::sync::Mutex::new(()),
            _state_lock: state_lock,
        }))
    }

    /// This node's name, as its certificate says
    pub fn name(&self) -> NodeId {
        let identity = self.identities().identity;
        identity.map_or_else(|| self.placement.node.clone(), |one| one.identity().node.clone())
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
        for source in [PeerSource::Config, PeerSource::Enrolled, PeerSource::Added] {
            self.peers.remove_source(source);
        }
        if let Source::Own(own) = self.identities().source {
            for node in own.registry.nodes_by_name() {
                self.peers.insert(node.node, node.address, PeerSource::Enrolled);
            }
        }
        for peer in self.state.read().peers {
            match NodeId::new(&peer.node) {
                Ok(node) => self.peers.insert(node, peer.address, PeerSource::Added),
                Err(error) => tracing::error!(node = peer.node, %error, "operator.json"),
            }
        }
        for peer in &config.peers {
            self.peers.insert(peer.node.clone(), peer.address, PeerSource::Config);
        }
    }

    /// Notices nodes that have joined since
    pub fn refresh_enrolled(&self) {
        if let Source::Own(own) = self.identities().source {
            for node in own.registry.nodes_by_name() {
                let known = self.peers.get(&node.node);
                if known.is_none_or(|(_, source)| source == PeerSource::Enrolled) {
                    self.peers.insert(node.node, node.address, PeerSource::Enrolled);
                }
            }
        }
    }

    /// Puts what is now configured, published and known into force
    pub fn publish_snapshot(&self) -> u64 {
        let config = self.config.load_full();
        let identities = self.identities();
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        let services = self.services.table();
        self.endpoint.publish(compose(&config, identities.identity.as_ref(), services, epoch));
        epoch
    }

    /// The epoch in force
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Takes on another identity: handshakes from now on use it
    pub fn adopt(&self, source: Source, identity: NodeIdentity) {
        *self.identities.lock().unwrap_or_else(PoisonError::into_inner) =
            Identities { source, identity: Some(identity), problem: None };
        self.publish_snapshot();
    }

    /// The directories of the copy service
    pub fn roots(&self) -> Arc<Roots> {
        self.roots.load_full()
    }

    /// Takes over other directories for the copy service
    pub fn set_roots(&self, roots: Roots) {
        self.roots.store(Arc::new(roots));
    }

    /// Renews the certificate of a node that is its own authority; warns where that is not so
    pub async fn keep_certificate(self: Arc<Self>) {
        let mut warned = false;
        loop {
            tokio::time::sleep(CERTIFICATE_CHECK).await;
            let Identities { source, identity, .. } = self.identities();
            let now = SystemTime::now();
            let Some(identity) = identity else { continue };
            let serial = identity.identity().serial.clone();
            match source {
                Source::Own(own) => match own.identity(now) {
                    Ok(fresh) if fresh.identity().serial != serial => {
                        tracing::info!(serial = fresh.identity().serial, "certificate renewed");
                        self.adopt(Source::Own(own), fresh);
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!(%error, "the certificate could not be renewed"),
                },
                Source::Joined => {
                    let low = identity.identity().not_after < now + identity::WARN_BELOW;
                    if low && !warned {
                        tracing::warn!(
                            "this node's certificate ends soon and is not renewed by itself; join \
                             again with a new token"
                        );
                    }
                    warned = low;
                }
            }
        }
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
    mut services: std::collections::BTreeMap<ServiceName, Allow>,
    epoch: u64,
) -> ControlSnapshot {
    if config.copy.allow != Allow::Nobody
        && let Ok(copy) = ServiceName::new(stoq_config::COPY_SERVICE)
    {
        services.insert(copy, config.copy.allow.clone());
    }
    if config.transport().perf
        && let Ok(name) = ServiceName::new(measure::SERVICE)
    {
        services.insert(name, Allow::AnyEnrolled);
    }
    ControlSnapshot {
        epoch,
        identity: identity.map(|identity| identity.identity().clone()),
        trust: identity.map(NodeIdentity::trust).unwrap_or_default(),
        denied_serials: Default::default(),
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
