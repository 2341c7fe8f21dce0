//! Sessions, their flows, and the connections that carry them.

use std::fmt;
use std::net::SocketAddrV6;

use serde::{Deserialize, Serialize};
use stoq_interface::{ConnectionStatus, FlowStatus, NodeId, SessionStatus};

use crate::text::{plain, plain_option};
use crate::{ApiError, Id};

/// Rows of a list where the request does not say
pub const LIST_LIMIT_DEFAULT: usize = 1_000;

/// Rows of a list at most
pub const LIST_LIMIT_MAX: usize = 50_000;

fn list_limit_default() -> usize {
    LIST_LIMIT_DEFAULT
}

/// Cuts a list to what was asked for; the second value is the full length
fn cut<T>(mut rows: Vec<T>, limit: usize) -> (Vec<T>, usize) {
    let total = rows.len();
    rows.truncate(limit.min(LIST_LIMIT_MAX));
    (rows, total)
}

/// One session
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Session {
    /// Identifier within this process
    pub id: Id,
    /// Home worker
    pub worker: usize,
    /// The peer's node
    #[serde(with = "plain")]
    pub peer: NodeId,
    /// Whether this host dialled
    pub dialled: bool,
    /// Connections now joined
    pub connections: usize,
    /// Flows now open
    pub flows: usize,
    /// Connections replaced so far
    pub replacements: u64,
    /// Connections lost without a replacement standing by
    pub losses: u64,
    /// Flow bytes sent, first time only
    pub bytes_sent: u64,
    /// Flow bytes delivered
    pub bytes_received: u64,
    /// Flow bytes sent again
    pub bytes_resent: u64,
}

impl From<&SessionStatus> for Session {
    fn from(status: &SessionStatus) -> Self {
        Self {
            id: Id(status.id),
            worker: status.worker,
            peer: status.peer.clone(),
            dialled: status.dialled,
            connections: status.connections,
            flows: status.flows,
            replacements: status.replacements,
            losses: status.losses,
            bytes_sent: status.bytes_sent,
            bytes_received: status.bytes_received,
            bytes_resent: status.bytes_resent,
        }
    }
}

/// One flow
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Flow {
    /// Flow id within its session
    pub id: Id,
    /// Service it reaches
    pub service: String,
    /// Legs in use by this host's sending direction
    pub legs: usize,
    /// Bytes sent
    pub bytes_sent: u64,
    /// Bytes received in order
    pub bytes_received: u64,
}

impl From<&FlowStatus> for Flow {
    fn from(status: &FlowStatus) -> Self {
        Self {
            id: Id(status.id),
            service: status.service.clone(),
            legs: status.legs,
            bytes_sent: status.bytes_sent,
            bytes_received: status.bytes_received,
        }
    }
}

/// One QUIC connection
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Connection {
    /// Identifier within this process
    pub id: Id,
    /// Worker that owns it
    pub worker: usize,
    /// The peer's node, once authenticated
    #[serde(with = "plain_option")]
    pub peer: Option<NodeId>,
    /// Session it serves
    pub session: Option<Id>,
    /// Peer address
    pub remote: SocketAddrV6,
    /// Whether this host dialled
    pub dialled: bool,
    /// `handshake`, `active`, `draining` or `closing`
    pub state: String,
    /// Age
    pub age_seconds: f64,
    /// Smoothed round-trip time
    pub rtt_seconds: f64,
    /// Congestion window
    pub congestion_window_bytes: u64,
    /// Largest UDP payload now sent
    pub udp_payload_bytes: usize,
    /// Packets sent
    pub packets_sent: u64,
    /// Packets received
    pub packets_received: u64,
    /// Packets declared lost
    pub packets_lost: u64,
    /// Of those, found to have arrived
    pub packets_lost_spurious: u64,
    /// Octets sent, headers included
    pub bytes_sent: u64,
    /// Octets received
    pub bytes_received: u64,
    /// TLS key exchange group
    pub key_exchange: String,
    /// Snapshot epoch under which the connection was made
    pub epoch: u64,
}

impl From<&ConnectionStatus> for Connection {
    fn from(status: &ConnectionStatus) -> Self {
        Self {
            id: Id(status.id),
            worker: status.worker,
            peer: status.peer.clone(),
            session: status.session.map(Id),
            remote: status.remote,
            dialled: status.dialled,
            state: status.state.to_owned(),
            age_seconds: status.age.as_secs_f64(),
            rtt_seconds: status.rtt.as_secs_f64(),
            congestion_window_bytes: status.congestion_window_bytes,
            udp_payload_bytes: status.udp_payload_bytes,
            packets_sent: status.packets_sent,
            packets_received: status.packets_received,
            packets_lost: status.packets_lost,
            packets_lost_spurious: status.packets_lost_spurious,
            bytes_sent: status.bytes_sent,
            bytes_received: status.bytes_received,
            key_exchange: status.key_exchange.clone(),
            epoch: status.epoch,
        }
    }
}

/// Names a session by its id, or by its peer where there is only one with that peer
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionSelector {
    /// As `session list` shows it
    Id(Id),
    /// The peer's node
    Peer(#[serde(with = "plain")] NodeId),
}

impl fmt::Display for SessionSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Peer(peer) => write!(f, "with {peer}"),
        }
    }
}

impl SessionSelector {
    /// Finds the one session meant; none is `not-found`, several with one peer are `ambiguous`
    pub fn find<'a>(&self, sessions: &'a [SessionStatus]) -> Result<&'a SessionStatus, ApiError> {
        let mut matching = sessions.iter().filter(|session| match self {
            Self::Id(id) => session.id == id.0,
            Self::Peer(peer) => session.peer == *peer,
        });
        match (matching.next(), matching.next()) {
            (Some(session), None) => Ok(session),
            (None, _) => Err(ApiError::not_found("session", self, "stoqctl session list")),
            (Some(_), Some(_)) => Err(ApiError::usage(
                "ambiguous",
                format!("there are several sessions {self}"),
                "name one by its id, as `stoqctl session list` shows it",
            )),
        }
    }
}

/// Asks for [`SessionListed`]
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SessionList {
    /// Rows at most
    #[serde(default = "list_limit_default")]
    pub limit: usize,
}

/// Sessions now held
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SessionListed {
    /// The first of them
    pub sessions: Vec<Session>,
    /// How many there are
    pub total: usize,
}

impl SessionListed {
    /// The first `request.limit` of all sessions
    pub fn new(request: &SessionList, all: &[SessionStatus]) -> Self {
        let (sessions, total) = cut(all.iter().map(Session::from).collect(), request.limit);
        Self { sessions, total }
    }
}

/// Asks for [`SessionShown`]
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SessionShow {
    /// Which
    pub session: SessionSelector,
}

/// One session in full
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SessionShown {
    /// The session
    pub session: Session,
    /// Its connections
    pub connections: Vec<Connection>,
    /// The first [`LIST_LIMIT_DEFAULT`] of its flows
    pub flows: Vec<Flow>,
}

/// Ends a session
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SessionClose {
    /// Which
    pub session: SessionSelector,
}

/// The session as it was
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SessionClosed {
    /// The session
    pub session: Session,
}

/// Replaces a session's connections
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SessionReplace {
    /// Which
    pub session: SessionSelector,
}

/// The session afterwards
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SessionReplaced {
    /// The session
    pub session: Session,
    /// Connections replaced by this request
    pub replaced: u64,
}

/// Asks for [`ConnectionListed`]
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionList {
    /// Rows at most
    #[serde(default = "list_limit_default")]
    pub limit: usize,
}

/// Connections now held
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ConnectionListed {
    /// The first of them
    pub connections: Vec<Connection>,
    /// How many there are
    pub total: usize,
}

impl ConnectionListed {
    /// The first `request.limit` of all connections
    pub fn new(request: &ConnectionList, all: &[ConnectionStatus]) -> Self {
        let (connections, total) = cut(all.iter().map(Connection::from).collect(), request.limit);
        Self { connections, total }
    }
}

/// Asks for [`ConnectionShown`]
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionShow {
    /// As `connection list` shows it
    pub connection: Id,
}

/// One connection
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ConnectionShown {
    /// The connection
    pub connection: Connection,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ExitCode;

    fn session(id: u64, peer: &str) -> SessionStatus {
        SessionStatus {
            id,
            worker: 0,
            peer: NodeId::new(peer).unwrap(),
            dialled: true,
            connections: 1,
            flows: 0,
            replacements: 0,
            losses: 0,
            bytes_sent: 0,
            bytes_received: 0,
            bytes_resent: 0,
        }
    }

    #[test]
    fn a_peer_names_a_session_only_where_there_is_one() {
        let sessions = [session(1, "beta"), session(2, "gamma"), session(3, "gamma")];
        let peer = |name| SessionSelector::Peer(NodeId::new(name).unwrap());
        assert_eq!(peer("beta").find(&sessions).unwrap().id, 1);
        assert_eq!(SessionSelector::Id(Id(3)).find(&sessions).unwrap().id, 3);
        assert_eq!(peer("gamma").find(&sessions).unwrap_err().exit_code, ExitCode::Usage);
        assert_eq!(peer("delta").find(&sessions).unwrap_err().code, "not-found");
    }

    #[test]
    fn a_list_is_cut_and_says_so() {
        let all = [session(1, "a"), session(2, "b"), session(3, "c")];
        let listed = SessionListed::new(&SessionList { limit: 2 }, &all);
        assert_eq!((listed.sessions.len(), listed.total), (2, 3));
    }
}
