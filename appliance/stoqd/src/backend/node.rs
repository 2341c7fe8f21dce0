//! Who this node is, the peers it knows, and enrolment: tokens it makes and tokens it spends.

use std::sync::Arc;
use std::time::SystemTime;

use stoq::NodeId;
use stoq_admin::ApiError;
use stoq_admin::api::{
    Certificate, ChainPins, NodeAdd, NodeAdded, NodeJoin, NodeJoined, NodeList, NodeListed,
    NodeRemove, NodeRemoved, NodeShow, NodeShown, Peer, PeerSource,
};
use stoq_trustchain::enrollment::enroll;
use stoq_trustchain::{Fingerprint, JoinToken, NodeIdentity};

use super::{Admin, not_durable};
use crate::identity::{self, Source};
use crate::node::{Identities, Node};
use crate::state::StoredPeer;

/// A certificate as it is shown
pub fn certificate(identity: &NodeIdentity) -> Certificate {
    let leaf = identity.identity().chain_der.first().map_or(&[][..], Vec::as_slice);
    let not_before = stoq_trustchain::certificate::parse(leaf)
        .and_then(|parsed| stoq_trustchain::certificate::validity(&parsed))
        .map_or(SystemTime::UNIX_EPOCH, |(not_before, _)| not_before);
    Certificate {
        serial: identity.identity().serial.clone(),
        fingerprint: Fingerprint::of(leaf).to_string(),
        not_before,
        not_after: identity.identity().not_after,
    }
}

async fn peer(admin: &Admin, node: &NodeId) -> Option<Peer> {
    let (address, source) = admin.0.peers.get(node)?;
    let sessions = admin.0.endpoint.sessions().await;
    let sessions = sessions.iter().filter(|session| session.peer == *node).count();
    Some(Peer { node: node.clone(), address: Some(address), source, sessions })
}

pub async fn show(admin: &Admin, _request: NodeShow) -> Result<NodeShown, ApiError> {
    let Identities { source, identity, .. } = admin.0.identities();
    let issuer = match source {
        Source::Own(own) => Some(own.subject().node().clone()),
        Source::Joined => admin.0.state.read().issuer.and_then(|name| NodeId::new(&name).ok()),
    };
    let pins = identity.as_ref().map(crate::pins::chain_keys).transpose();
    let pins = pins.map_err(|error| {
        ApiError::failed("bad-identity", error.to_string(), "see `stoqctl doctor`")
    })?;
    Ok(NodeShown {
        node: admin.0.name(),
        pins: pins.map(|keys| ChainPins {
            root: keys.root.to_string(),
            issuing: keys.issuing.to_string(),
            leaf: keys.leaf.to_string(),
        }),
        certificate: identity.as_ref().map(certificate),
        root_fingerprint: identity.map(|identity| identity.root_fingerprint().to_string()),
        issuer,
        addresses: vec![admin.0.endpoint.local_address()],
    })
}

pub async fn list(admin: &Admin, _request: NodeList) -> Result<NodeListed, ApiError> {
    admin.0.refresh_enrolled();
    let sessions = admin.0.endpoint.sessions().await;
    let count = |node: &NodeId| sessions.iter().filter(|s| s.peer == *node).count();
    let known = admin.0.peers.all();
    let mut peers: Vec<Peer> = known
        .iter()
        .map(|(node, (address, source))| Peer {
            node: node.clone(),
            address: Some(*address),
            source: *source,
            sessions: count(node),
        })
        .collect();
    peers.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(NodeListed { peers })
}

pub async fn add(admin: &Admin, request: NodeAdd) -> Result<NodeAdded, ApiError> {
    let _changing = admin.0.changing.lock().await;
    let stored = StoredPeer { node: request.node.to_string(), address: request.address };
    admin
        .0
        .state
        .change(|state| {
            state.peers.retain(|peer| peer.node != stored.node);
            state.peers.push(stored);
        })
        .map_err(|error| not_durable(&error))?;
    admin.0.load_peers(&admin.0.config.load());
    let peer = peer(admin, &request.node).await;
    peer.map(|peer| NodeAdded { peer })
        .ok_or_else(|| ApiError::not_found("node", &request.node, "stoqctl node list"))
}

pub async fn remove(admin: &Admin, request: NodeRemove) -> Result<NodeRemoved, ApiError> {
    let _changing = admin.0.changing.lock().await;
    let peer = peer(admin, &request.node)
        .await
        .ok_or_else(|| ApiError::not_found("node", &request.node, "stoqctl node list"))?;
    if peer.source == PeerSource::Enrolled {
        return Err(ApiError::conflict(
            "enrolled",
            format!(
                "node {} has enrolled here; its certificate stays good to its end",
                request.node
            ),
            "end it with `stoqctl certificate revoke --name`, then `stoqctl ca unregister node`",
        ));
    }
    if peer.source == PeerSource::Authority {
        return Err(ApiError::conflict(
            "authority",
            format!(
                "node {} is an authority of the mesh and says itself where it is",
                request.node
            ),
            "it is forgotten when its authority's certificate has ended",
        ));
    }
    if peer.source == PeerSource::Config {
        return Err(ApiError::conflict(
            "configured",
            format!("node {} is named in stoqd.toml", request.node),
            "remove its [[peer]] there and reload",
        ));
    }
    let name = request.node.to_string();
    admin
        .0
        .state
        .change(|state| state.peers.retain(|peer| peer.node != name))
        .map_err(|error| not_durable(&error))?;
    admin.0.peers.remove(&request.node);
    Ok(NodeRemoved { peer })
}

pub async fn join_with(admin: &Admin, request: NodeJoin) -> Result<NodeJoined, ApiError> {
    let token: JoinToken = request.token.trim().parse().map_err(|error| {
        ApiError::usage("bad-token", format!("{error}"), "copy the whole token")
    })?;
    // Once begun it is finished, also when the asker leaves: the token is spent by then.
    let node = Arc::clone(&admin.0);
    tokio::spawn(join(node, token)).await.unwrap_or_else(|error| {
        Err(ApiError::failed("join-failed", error.to_string(), "see the log of stoqd"))
    })
}

async fn join(node: Arc<Node>, token: JoinToken) -> Result<NodeJoined, ApiError> {
    let _changing = node.changing.lock().await;
    let state = &node.placement.state_directory;
    let no_directory = |error: identity::OpenError| {
        ApiError::failed("no-directory", error.to_string(), "check the state directory")
    };
    let address = node.endpoint.local_address();
    concrete(address, "listen.stoq")?;
    let directory = identity::begin_join(state).map_err(no_directory)?;
    let enrolled =
        enroll(&token, address, &directory, node.clock.now()).await.map_err(|error| {
            ApiError::failed("join-refused", error.to_string(), "ask for a new token")
        })?;
    identity::finish_join(state).map_err(no_directory)?;
    let peer = StoredPeer { node: enrolled.ca_node.to_string(), address: enrolled.ca_stoq_address };
    node.state
        .change(|stored| {
            stored.peers.retain(|known| known.node != peer.node);
            stored.issuer = Some(peer.node.clone());
            stored.peers.push(peer);
        })
        .map_err(|error| not_durable(&error))?;
    let identity = enrolled.identity;
    let joined = NodeJoined {
        node: identity.identity().node.clone(),
        issuer: enrolled.ca_node,
        certificate: certificate(&identity),
        root_fingerprint: identity.root_fingerprint().to_string(),
    };
    node.adopt(Source::Joined, identity);
    tracing::info!(node = %joined.node, issuer = %joined.issuer, "joined");
    Ok(joined)
}

/// An address that another host can dial
pub fn concrete(address: std::net::SocketAddrV6, key: &str) -> Result<(), ApiError> {
    if !address.ip().is_unspecified() {
        return Ok(());
    }
    Err(ApiError::conflict(
        "no-address",
        format!("{key} is {address}: no other node could dial that"),
        format!("set {key} in stoqd.toml to an address of this host and restart"),
    ))
}
