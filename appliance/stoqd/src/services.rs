//! Published services and attachments: accepting their flows and local connections, bridging the two, and
//! counting. What survives a restart is `state`'s; who may attach is the data plane's to enforce.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use stoq::{Allow, Endpoint, FlowError, NodeId, ServiceName, ServiceTaken};
use stoq_admin::api::{Attachment, PublishedService, ServiceOrigin};
use stoq_config::Target;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use crate::bridge::{self, Local};
use crate::peers::Peers;

/// Pause after a failed accept: the kernel is out of something
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

#[derive(Debug, Default)]
struct Tally {
    open: AtomicU64,
    total: AtomicU64,
}

impl Tally {
    fn begin(self: &Arc<Self>) -> Counted {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }
}

struct Counted(Arc<Tally>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Published {
    target: Target,
    allow: Allow,
    origin: ServiceOrigin,
    tally: Arc<Tally>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Attached {
    listen: Target,
    origin: ServiceOrigin,
    tally: Arc<Tally>,
    task: JoinHandle<()>,
}

/// Why a local socket cannot be listened on
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The kernel refused
    #[error("cannot listen on {target}: {cause}")]
    Bind {
        /// The address
        target: Target,
        /// Why
        cause: io::Error,
    },
    /// Something else is there
    #[error("{0} exists and is not a socket that nobody serves; remove it or choose another path")]
    Occupied(Target),
}

/// The services of this node
#[derive(Debug)]
pub struct Services {
    endpoint: Endpoint,
    peers: Arc<Peers>,
    published: Mutex<BTreeMap<ServiceName, Published>>,
    attached: Mutex<BTreeMap<(ServiceName, NodeId), Attached>>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<Local> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Local::Tcp(stream))
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Local::Unix(stream)),
        }
    }
}

/// Listens; returns the address that was really bound
async fn listen(target: &Target) -> Result<(Listener, Target), ListenError> {
    let failed = |cause| ListenError::Bind { target: target.clone(), cause };
    match target {
        Target::Tcp(address) => {
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let bound = match listener.local_addr().map_err(failed)? {
                std::net::SocketAddr::V6(bound) => bound,
                std::net::SocketAddr::V4(_) => *address,
            };
            Ok((Listener::Tcp(listener), Target::Tcp(bound)))
        }
        Target::Unix(path) => {
            if let Ok(meta) = std::fs::symlink_metadata(path) {
                let dead = meta.file_type().is_socket()
                    && std::os::unix::net::UnixStream::connect(path)
                        .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
                if !dead {
                    return Err(ListenError::Occupied(target.clone()));
                }
                std::fs::remove_file(path).map_err(failed)?;
            }
            let listener = UnixListener::bind(path).map_err(failed)?;
            Ok((Listener::Unix(listener), target.clone()))
        }
    }
}

impl Services {
    /// No services yet
    pub fn new(endpoint: Endpoint, peers: Arc<Peers>) -> Self {
        Self { endpoint, peers, published: Mutex::default(), attached: Mutex::default() }
    }

    /// Serves a service; it becomes reachable with the next snapshot
    pub fn publish(
        &self,
        name: ServiceName,
        target: Target,
        allow: Allow,
        origin: ServiceOrigin,
    ) -> Result<(), ServiceTaken> {
        let mut incoming = self.endpoint.serve(name.clone())?;
        let tally = Arc::new(Tally::default());
        let counted = Arc::clone(&tally);
        let to = target.clone();
        let service = name.clone();
        let task = tokio::spawn(async move {
            while let Some(mut flow) = incoming.next().await {
                let (to, service, count) = (to.clone(), service.clone(), counted.begin());
                tokio::spawn(async move {
                    match Local::connect(&to).await {
                        Ok(local) => note(&service, bridge::run(local, flow).await),
                        Err(error) => {
                            tracing::warn!(%service, target = %to, %error, "the service's program refused");
                            flow.reset(FlowError::TargetRefused);
                        }
                    }
                    drop(count);
                });
            }
        });
        let published = Published { target, allow, origin, tally, task };
        self.published.lock().unwrap_or_else(PoisonError::into_inner).insert(name, published);
        Ok(())
    }

    /// Listens for local programs that use a service of another node
    pub async fn attach(
        &self,
        service: ServiceName,
        node: NodeId,
        target: &Target,
        origin: ServiceOrigin,
    ) -> Result<Target, ListenError> {
        let (listener, bound) = listen(target).await?;
        let tally = Arc::new(Tally::default());
        let task = tokio::spawn(accept_local(
            listener,
            Arc::clone(&self.peers),
            service.clone(),
            node.clone(),
            Arc::clone(&tally),
        ));
        let attached = Attached { listen: bound.clone(), origin, tally, task };
        self.attached
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((service, node), attached);
        Ok(bound)
    }

    /// Whether a service is published or attached under these names
    pub fn is_attached(&self, service: &ServiceName, node: &NodeId) -> bool {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.contains_key(&(service.clone(), node.clone()))
    }

    /// Stops serving; flows under way go on
    pub fn unpublish(&self, name: &ServiceName) -> Option<PublishedService> {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = published.remove(name)?;
        entry.task.abort();
        Some(shown(name, &entry))
    }

    /// Stops listening; flows under way go on
    pub fn detach(&self, service: &ServiceName, node: &NodeId) -> Option<Attachment> {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = attached.remove(&(service.clone(), node.clone()))?;
        entry.task.abort();
        if let Target::Unix(path) = &entry.listen {
            // A socket file that is gone already is what was wanted.
            let _ = std::fs::remove_file(path);
        }
        Some(shown_attachment(service, node, &entry, false))
    }

    /// Published services, by name
    pub fn published(&self) -> Vec<PublishedService> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.iter().map(|(name, entry)| shown(name, entry)).collect()
    }

    /// Who may attach to what, for the snapshot
    pub fn table(&self) -> BTreeMap<ServiceName, Allow> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.iter().map(|(name, entry)| (name.clone(), entry.allow.clone())).collect()
    }

    /// Attachments, by name; `connected` says which nodes have a session
    pub fn attached(&self, connected: impl Fn(&NodeId) -> bool) -> Vec<Attachment> {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached
            .iter()
            .map(|((service, node), entry)| shown_attachment(service, node, entry, connected(node)))
            .collect()
    }
}

fn shown(name: &ServiceName, entry: &Published) -> PublishedService {
    PublishedService {
        name: name.clone(),
        target: entry.target.clone(),
        allow: entry.allow.clone(),
        origin: entry.origin,
        flows_open: entry.tally.open.load(Ordering::Relaxed),
        flows_total: entry.tally.total.load(Ordering::Relaxed),
    }
}

fn shown_attachment(
    service: &ServiceName,
    node: &NodeId,
    entry: &Attached,
    connected: bool,
) -> Attachment {
    Attachment {
        service: service.clone(),
        node: node.clone(),
        listen: entry.listen.clone(),
        origin: entry.origin,
        connected,
        flows_open: entry.tally.open.load(Ordering::Relaxed),
        flows_total: entry.tally.total.load(Ordering::Relaxed),
    }
}

fn note(service: &ServiceName, outcome: Result<(), FlowError>) {
    if let Err(reason) = outcome {
        tracing::debug!(%service, %reason, "a flow ended early");
    }
}

async fn accept_local(
    listener: Listener,
    peers: Arc<Peers>,
    service: ServiceName,
    node: NodeId,
    tally: Arc<Tally>,
) {
    loop {
        let local = match listener.accept().await {
            Ok(local) => local,
            Err(error) => {
                tracing::warn!(%service, %node, %error, "an attachment could not accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (peers, service, node) = (Arc::clone(&peers), service.clone(), node.clone());
        let count = tally.begin();
        tokio::spawn(async move {
            match peers.session(&node).await {
                Ok(session) => note(&service, bridge::run(local, session.open(&service)).await),
                // The local program sees its connection close.
                Err(error) => {
                    tracing::warn!(%service, %error, "an attachment cannot reach its node")
                }
            }
            drop(count);
        });
    }
}
