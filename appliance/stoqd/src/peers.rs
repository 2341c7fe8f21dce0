//! Peers: where they are, and the one session kept with each. A session is dialled when first needed and
//! dialled anew when it has ended.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddrV6;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stoq::{CloseReason, ConnectError, Endpoint, NodeId, Session};
use stoq_admin::api::PeerSource;

/// Time a session may take to begin
const CONNECT_TIMEOUT: Duration = Duration::from_secs(12);

/// Why a peer cannot be reached
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// Nobody said where it is
    #[error("no address of node {0} is known; add it with `stoqctl node add {0} [ADDRESS]:PORT`")]
    NoAddress(NodeId),
    /// It did not answer, or one side refused the other
    #[error("node {node} at {address}: {cause}")]
    Connect {
        /// The node
        node: NodeId,
        /// Where it was sought
        address: SocketAddrV6,
        /// Why not
        cause: ConnectError,
    },
    /// It did not answer in time
    #[error("node {node} at {address} did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut {
        /// The node
        node: NodeId,
        /// Where it was sought
        address: SocketAddrV6,
    },
}

impl ReachError {
    /// Whether the peer closed in the handshake: most likely it has refused this node's certificate
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Connect { cause: ConnectError::Closed(CloseReason::Tls), .. })
    }
}

type Slot = Arc<tokio::sync::Mutex<Option<Session>>>;

/// Where peers are, and who said so
pub type Addresses = BTreeMap<NodeId, (SocketAddrV6, PeerSource)>;

/// The peers of this node
#[derive(Debug)]
pub struct Peers {
    endpoint: Endpoint,
    addresses: Mutex<Addresses>,
    finding: Mutex<()>,
    /// One slot per peer: whoever comes second waits for the first one's dialling
    sessions: Mutex<HashMap<NodeId, Slot>>,
}

impl Peers {
    /// No peers yet
    pub fn new(endpoint: Endpoint) -> Self {
        let (addresses, finding) = (Mutex::default(), Mutex::default());
        Self { endpoint, addresses, finding, sessions: Mutex::default() }
    }

    /// Says where a peer is
    pub fn insert(&self, node: NodeId, address: SocketAddrV6, source: PeerSource) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.insert(node, (address, source));
    }

    /// Forgets a peer; where it was known from, and its address
    pub fn remove(&self, node: &NodeId) -> Option<(SocketAddrV6, PeerSource)> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).remove(node)
    }

    /// Says where all peers are, at once: nobody who looks for one meanwhile misses it. One at a time finds out, so
    /// that what was found first does not come last.
    pub fn replace(&self, find: impl FnOnce() -> Addresses) {
        let _finding = self.finding.lock().unwrap_or_else(PoisonError::into_inner);
        let found = find();
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    /// Where a peer is
    pub fn get(&self, node: &NodeId) -> Option<(SocketAddrV6, PeerSource)> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).get(node).copied()
    }

    /// Every peer, by name
    pub fn all(&self) -> Addresses {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn slot(&self, node: &NodeId) -> Slot {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sessions.entry(node.clone()).or_default())
    }

    /// The session with a peer, dialled where there is none. Dialling goes on when nobody waits for it any more: the
    /// peer may hold the session by then, and whoever asks next would make a second one.
    pub async fn session(&self, node: &NodeId) -> Result<Session, ReachError> {
        let slot = self.slot(node);
        let mut held = slot.lock_owned().await;
        if let Some(session) = &*held {
            let number = session.number();
            if self.endpoint.sessions().await.iter().any(|status| status.id == number) {
                return Ok(session.clone());
            }
            *held = None;
        }
        let (address, _) = self.get(node).ok_or_else(|| ReachError::NoAddress(node.clone()))?;
        let (endpoint, peer) = (self.endpoint.clone(), node.clone());
        let dialling = tokio::spawn(async move {
            let session = dial(&endpoint, address, &peer).await?;
            *held = Some(session.clone());
            Ok(session)
        });
        // The task is not aborted and does not panic: it ends early with the runtime alone.
        let cause = ConnectError::EndpointClosed;
        let ended = |_| Err(ReachError::Connect { node: node.clone(), address, cause });
        dialling.await.unwrap_or_else(ended)
    }

    /// Forgets the sessions: the identity has changed
    pub fn forget_sessions(&self) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

async fn dial(
    endpoint: &Endpoint,
    address: SocketAddrV6,
    node: &NodeId,
) -> Result<Session, ReachError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect(address, node)).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(cause)) => Err(ReachError::Connect { node: node.clone(), address, cause }),
        Err(_) => Err(ReachError::TimedOut { node: node.clone(), address }),
    }
}
