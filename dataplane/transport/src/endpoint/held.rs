//! What the endpoint knows of one connection: what it is for, how far it has joined its session, and when it
//! wants attention. Acting on it is `connections`'.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Instant;

use stoq_interface::{ConnectionStatus, TransportSettings, WorkerCounters};

use super::link::Link;
use super::message::SessionKey;
use super::perf::Perf;
use super::slots::SlotKey;
use crate::connection::Connection;
use crate::connection_id::ConnectionId;
use crate::session::LinkId;
use crate::wire::SessionId;

/// What a connection is for
pub(super) enum Purpose {
    /// Not known before the handshake ends
    Unknown,
    Stoq(Box<Link>),
    Perf(Box<Perf>),
}

/// Where a connection stands in joining its session
pub(super) enum Joining {
    /// Dialled: HELLO is due or sent, the answer is awaited
    Dialled {
        session: SessionKey,
        id: SessionId,
    },
    /// Accepted: the peer's HELLO is awaited
    Accepted,
    /// The session's home was asked
    Asked,
    Joined(SessionKey),
}

/// A connection and all that the endpoint knows of it
pub(super) struct Held {
    pub(super) connection: Connection,
    pub(super) purpose: Purpose,
    pub(super) joining: Joining,
    pub(super) id: ConnectionId,
    pub(super) initial_id: Option<Vec<u8>>,
    pub(super) remote: SocketAddrV6,
    /// The local address the peer knows, on accepted connections
    pub(super) source: Option<Ipv6Addr>,
    pub(super) dialled: bool,
    pub(super) epoch: u64,
    pub(super) settings: TransportSettings,
    pub(super) created: Instant,
    pub(super) established: bool,
    pub(super) half_open: bool,
    pub(super) last_heard: Instant,
    pub(super) last_sent: Instant,
    pub(super) probes_when_heard: (Instant, usize),
    pub(super) suspect: bool,
    pub(super) replace_asked: bool,
    /// Lost packets, spurious ones and octets sent again that the worker's counters know of
    pub(super) losses_counted: [u64; 3],
    /// Packets received when losses were last counted
    pub(super) losses_counted_at: u64,
    pub(super) is_ready: bool,
    pub(super) is_busy: bool,
    /// A datagram that did not fit the last train
    pub(super) kept: Option<(Vec<u8>, SocketAddrV6)>,
    /// The last train ended with a datagram shorter than the others: what comes next tells why
    pub(super) ended_short: bool,
    /// With pacing on: nothing leaves before
    pub(super) paced_until: Option<Instant>,
    pub(super) timer: Option<Instant>,
}

impl Held {
    pub(super) fn joined(&self) -> Option<SessionKey> {
        match &self.joining {
            Joining::Joined(key) => Some(*key),
            _ => None,
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        if self.connection.is_closed() {
            // Overdue: the next turn takes it out.
            return Some(self.created);
        }
        let quic = self.connection.next_timeout();
        if self.connection.is_closing() {
            return quic;
        }
        let own = match (&self.purpose, self.joined()) {
            (Purpose::Perf(_), _) => None,
            (_, Some(_)) => Some(self.last_heard.max(self.last_sent) + self.settings.keep_alive),
            (_, None) => Some(self.created + self.settings.handshake_timeout),
        };
        [quic, own, self.paced_until].into_iter().flatten().min()
    }

    /// Adds what has been lost since the last time
    pub(super) fn count_losses(&mut self, counters: &WorkerCounters) {
        let path = self.connection.path();
        let now = [path.lost, path.lost_spurious, path.stream_bytes_retransmitted];
        let [lost, spurious, again] = self.losses_counted;
        counters.packets_lost.add(now[0] - lost);
        counters.packets_lost_spurious.add(now[1] - spurious);
        counters.stream_bytes_retransmitted.add(now[2] - again);
        self.losses_counted = now;
        self.losses_counted_at = self.connection.packets_received;
    }

    pub(super) fn status(&mut self, now: Instant, worker: usize, key: SlotKey) -> ConnectionStatus {
        let path = self.connection.path();
        let state = match (&self.joining, self.connection.is_closing()) {
            (_, true) => "closing",
            (Joining::Joined(_), _) if self.replace_asked => "draining",
            (Joining::Joined(_), _) => "active",
            _ if matches!(self.purpose, Purpose::Perf(_)) => "active",
            _ => "handshake",
        };
        let peer = self.connection.peer();
        ConnectionStatus {
            id: link_number(link_id(worker, key)),
            worker,
            peer_serial: peer.as_ref().map(|peer| peer.serial.clone()),
            peer_not_after: peer.as_ref().map(|peer| peer.not_after),
            peer: peer.map(|peer| peer.node),
            session: self.joined().map(SessionKey::number),
            remote: self.remote,
            dialled: self.dialled,
            state,
            age: now.saturating_duration_since(self.created),
            rtt: path.rtt,
            congestion_window_bytes: path.congestion_window_bytes,
            udp_payload_bytes: path.udp_payload_bytes,
            packets_sent: self.connection.packets_sent,
            packets_received: self.connection.packets_received,
            packets_lost: path.lost,
            packets_lost_spurious: path.lost_spurious,
            bytes_sent: path.bytes_sent,
            bytes_received: path.bytes_received,
            key_exchange: self.connection.key_exchange(),
            epoch: self.epoch,
        }
    }
}

pub(super) fn link_id(worker: usize, key: SlotKey) -> LinkId {
    LinkId { worker: worker as u16, slot: key.slot, generation: key.generation }
}

/// One number for status and JSON
fn link_number(link: LinkId) -> u64 {
    u64::from(link.worker) << 48 | u64::from(link.generation & 0xffff) << 32 | u64::from(link.slot)
}

/// The link behind a number of [`link_number`], for operators' commands
pub(crate) fn link_of_number(number: u64) -> LinkId {
    LinkId {
        worker: (number >> 48) as u16,
        generation: (number >> 32) as u32 & 0xffff,
        slot: number as u32,
    }
}
