//! The endpoint's connections: admitting, dialling, feeding, timing and closing them, and filling trains.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant, SystemTime};

use stoq_interface::{
    CloseReason, ConnectionStatus, DropReason, NodeId, PeerRefusal, TransportSettings,
};

use super::admission::Admission;
use super::link::{Link, LinkOutput};
use super::message::{Event, Message, SessionKey};
use super::perf::Perf;
use super::slots::SlotKey;
use super::{Endpoint, STATELESS_QUEUE, Stateless, Timer, Transmit};
use crate::connection::{
    Connection, PacketHeader, PacketKind, RetryIds, write_retry, write_version_negotiation,
};
use crate::connection_id::{CONNECTION_ID_BYTES, ConnectionId};
use crate::session::{LinkCommand, LinkEvent, LinkId};
use crate::wire::{CallHeader, CallReply, Frame, Hello, SessionId, VERSION};

/// Silence after which probe timeouts make a path suspect, at the least
const SUSPECT_AFTER: Duration = Duration::from_millis(600);
/// Probe timeouts without an answer that make a path suspect
const SUSPECT_PROBES: usize = 3;
/// Smallest datagram that may be answered by a stateless reset; the answer is shorter (RFC 9000 10.3.3)
const RESET_ABOVE_BYTES: usize = 43;
const RESET_BYTES: usize = 42;
/// Packets one AES-GCM key may protect (RFC 9001 section 6.6)
const PACKETS_PER_KEY: u64 = 1 << 23;
/// Packets that may still be on their way out when a connection is closed for that limit
const PACKETS_IN_HAND: u64 = 1 << 16;
/// Packets received between two looks at what was lost
const LOSSES_COUNTED_EVERY: u64 = 1_024;
/// A release time this close is now: timers are no finer
const PACING_SLACK: Duration = Duration::from_micros(200);
/// Shortest Initial datagram (RFC 9000 section 14.1)
const INITIAL_BYTES: usize = 1_200;

/// What a connection is for
enum Purpose {
    /// Not known before the handshake ends
    Unknown,
    Stoq(Box<Link>),
    Perf(Box<Perf>),
}

/// Where a connection stands in joining its session
enum Joining {
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
    purpose: Purpose,
    joining: Joining,
    id: ConnectionId,
    initial_id: Option<Vec<u8>>,
    remote: SocketAddrV6,
    /// The local address the peer knows, on accepted connections
    source: Option<Ipv6Addr>,
    dialled: bool,
    epoch: u64,
    settings: TransportSettings,
    created: Instant,
    established: bool,
    half_open: bool,
    last_heard: Instant,
    last_sent: Instant,
    probes_when_heard: (Instant, usize),
    suspect: bool,
    replace_asked: bool,
    /// Lost packets and spurious ones that the worker's counters know of
    losses_counted: (u64, u64),
    /// Packets received when losses were last counted
    losses_counted_at: u64,
    is_ready: bool,
    is_busy: bool,
    /// A datagram that did not fit the last train
    kept: Option<(Vec<u8>, SocketAddrV6)>,
    /// With pacing on: nothing leaves before
    paced_until: Option<Instant>,
    pub(super) timer: Option<Instant>,
}

impl Held {
    fn joined(&self) -> Option<SessionKey> {
        match &self.joining {
            Joining::Joined(key) => Some(*key),
            _ => None,
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
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

    pub(super) fn status(&mut self, now: Instant, worker: usize, key: SlotKey) -> ConnectionStatus {
        let path = self.connection.path();
        let state = match (&self.joining, self.connection.is_closing()) {
            (_, true) => "closing",
            (Joining::Joined(_), _) if self.replace_asked => "draining",
            (Joining::Joined(_), _) => "active",
            _ if matches!(self.purpose, Purpose::Perf(_)) => "active",
            _ => "handshake",
        };
        ConnectionStatus {
            id: link_number(link_id(worker, key)),
            worker,
            peer: self.connection.peer().map(|peer| peer.node),
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

impl Endpoint {
    /// Takes in one datagram, which is decrypted in place
    pub fn handle_datagram(&mut self, now: Instant, bytes: &mut [u8], from: SocketAddrV6) {
        // The fast way: a short header whose connection ID is known.
        let key = match bytes.first() {
            Some(first) if first & 0x80 == 0 && bytes.len() > CONNECTION_ID_BYTES => {
                let mut id = [0; CONNECTION_ID_BYTES];
                id.copy_from_slice(&bytes[1..=CONNECTION_ID_BYTES]);
                self.ids.get(&id).copied()
            }
            _ => None,
        };
        match key {
            Some(key) => {
                self.feed(now, key, bytes, from);
            }
            None => self.handle_unrouted(now, bytes, from),
        }
    }

    fn drop_datagram(&self, reason: DropReason) {
        self.counters.dropped[reason.index()].add(1);
    }

    fn handle_unrouted(&mut self, now: Instant, bytes: &mut [u8], from: SocketAddrV6) {
        let Some(header) = PacketHeader::parse(bytes) else {
            return self.drop_datagram(DropReason::Malformed);
        };
        let known = <[u8; CONNECTION_ID_BYTES]>::try_from(&header.destination[..])
            .ok()
            .and_then(|id| self.ids.get(&id))
            .or_else(|| self.initial_ids.get(&header.destination))
            .copied();
        if let Some(key) = known {
            self.feed(now, key, bytes, from);
            return;
        }
        match header.kind {
            PacketKind::Initial | PacketKind::Long if !header.version_is_supported() => {
                self.answer_version(&header, bytes.len(), from);
            }
            PacketKind::Initial => self.handle_initial(now, &header, bytes, from),
            PacketKind::Short | PacketKind::Long => self.handle_unknown(&header, bytes, from),
            PacketKind::Stateless => self.drop_datagram(DropReason::UnknownConnection),
        }
    }

    /// A connection this worker does not know: perhaps another does
    fn handle_unknown(&mut self, header: &PacketHeader, bytes: &[u8], from: SocketAddrV6) {
        match self.steering.worker_of(&header.destination) {
            Some(owner) if owner != self.worker => {
                self.counters.handed_over.add(1);
                let message = Message::Datagram { bytes: bytes.to_vec(), from };
                self.outbox.push_back((owner, message));
            }
            _ => {
                self.drop_datagram(DropReason::UnknownConnection);
                if header.kind == PacketKind::Short && bytes.len() >= RESET_ABOVE_BYTES {
                    self.answer_reset(&header.destination, from);
                }
            }
        }
    }

    fn answer_reset(&mut self, destination: &[u8], to: SocketAddrV6) {
        let token = self.secrets.reset_token(destination);
        let mut bytes = vec![0; RESET_BYTES];
        rand::Rng::fill(&mut self.random, &mut bytes[..]);
        // Looks like a short header packet.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        bytes[RESET_BYTES - 16..].copy_from_slice(&token.to_be_bytes());
        if self.answer(bytes, to) {
            self.counters.resets_sent.add(1);
        }
    }

    fn answer_version(&mut self, header: &PacketHeader, length: usize, to: SocketAddrV6) {
        self.drop_datagram(DropReason::Version);
        let mut bytes = vec![0; 256];
        if length >= INITIAL_BYTES
            && let Some(length) = write_version_negotiation(header, &mut bytes)
        {
            bytes.truncate(length);
            if self.answer(bytes, to) {
                self.counters.versions_sent.add(1);
            }
        }
    }

    fn answer(&mut self, bytes: Vec<u8>, to: SocketAddrV6) -> bool {
        let room = self.stateless.len() < STATELESS_QUEUE;
        if room {
            self.stateless.push_back(Stateless { bytes, to, from: self.arrival });
        }
        room
    }

    fn handle_initial(
        &mut self,
        now: Instant,
        header: &PacketHeader,
        bytes: &mut [u8],
        from: SocketAddrV6,
    ) {
        if bytes.len() < INITIAL_BYTES {
            return self.drop_datagram(DropReason::ShortInitial);
        }
        // The kernel steers Initials by processor, which may differ from one datagram of a flight to the
        // next; the worker that the connection ID names is the same for all, whoever chose the ID.
        let owner = self.steering.worker_of_any(&header.destination);
        if owner != self.worker {
            self.counters.handed_over.add(1);
            let message = Message::Datagram { bytes: bytes.to_vec(), from };
            return self.outbox.push_back((owner, message));
        }
        let original = if header.token.is_empty() {
            None
        } else {
            let wall = SystemTime::now();
            let secrets = &self.secrets;
            match secrets.check_token(wall, from, &header.token, &header.destination) {
                None => return self.drop_datagram(DropReason::BadToken),
                original => original,
            }
        };
        if self.draining || self.configs.is_none() {
            return self.drop_datagram(DropReason::NotAccepting);
        }
        if self.connections.len() >= self.snapshot.limits.connections_per_worker {
            return self.drop_datagram(DropReason::ConnectionLimit);
        }
        match self.half_open.judge(&self.snapshot.limits, from, original.is_some()) {
            Admission::Accept => self.accept(now, header, original, bytes, from),
            Admission::Retry => self.answer_retry(header, from),
            Admission::Refuse(reason) => self.drop_datagram(reason),
        }
    }

    fn answer_retry(&mut self, header: &PacketHeader, to: SocketAddrV6) {
        let source = self.steering.issue(self.worker, &mut self.random);
        let wall = SystemTime::now();
        let token = self.secrets.mint_token(wall, to, &header.destination, &source.0);
        let mut bytes = vec![0; 512];
        if let Some(length) = write_retry(header, &source, &token, &mut bytes) {
            bytes.truncate(length);
            if self.answer(bytes, to) {
                self.counters.retries_sent.add(1);
            }
        }
    }

    fn accept(
        &mut self,
        now: Instant,
        header: &PacketHeader,
        original: Option<Vec<u8>>,
        bytes: &mut [u8],
        from: SocketAddrV6,
    ) {
        let id = self.steering.issue(self.worker, &mut self.random);
        let reset_token = self.secrets.reset_token(&id.0);
        let Some(configs) = &mut self.configs else { return };
        let retry = original
            .as_deref()
            .map(|original| RetryIds { original, retry_source: &header.destination });
        let connection = Connection::accept(configs, &id, reset_token, retry, self.local, from);
        let Some(connection) = connection else {
            return self.drop_datagram(DropReason::Refused);
        };
        let key = self.hold(now, connection, id, from, Joining::Accepted);
        self.half_open.begin(from);
        if let Some(held) = self.connections.get_mut(key) {
            held.half_open = true;
            held.source = self.arrival;
            held.initial_id = Some(header.destination.clone());
        }
        self.initial_ids.insert(header.destination.clone(), key);
        if !self.feed(now, key, bytes, from) {
            // Not an Initial at all, though it looked like one: nothing is kept for it.
            self.close_connection(key, CloseReason::Protocol);
        }
    }

    fn hold(
        &mut self,
        now: Instant,
        connection: Connection,
        id: ConnectionId,
        remote: SocketAddrV6,
        joining: Joining,
    ) -> SlotKey {
        let epoch = self.configs.as_ref().map_or(0, |configs| configs.epoch());
        let key = self.connections.insert(Held {
            connection,
            purpose: Purpose::Unknown,
            dialled: matches!(joining, Joining::Dialled { .. }),
            joining,
            id,
            initial_id: None,
            remote,
            source: None,
            epoch,
            settings: self.snapshot.transport.clone(),
            created: now,
            established: false,
            half_open: false,
            last_heard: now,
            last_sent: now,
            probes_when_heard: (now, 0),
            suspect: false,
            replace_asked: false,
            losses_counted: (0, 0),
            losses_counted_at: 0,
            is_ready: false,
            is_busy: false,
            kept: None,
            paced_until: None,
            timer: None,
        });
        self.ids.insert(id.0, key);
        key
    }

    /// Dials for a session, whose home may be another worker
    pub(super) fn dial(
        &mut self,
        now: Instant,
        session: SessionKey,
        id: SessionId,
        address: SocketAddrV6,
        node: NodeId,
    ) {
        let home = usize::from(session.worker);
        let room = self.connections.len() < self.snapshot.limits.connections_per_worker;
        let connection_id = self.steering.issue(self.worker, &mut self.random);
        let local = self.local;
        let connection = match &mut self.configs {
            Some(configs) if room => {
                Connection::connect(configs, &connection_id, node, local, address)
            }
            _ => None,
        };
        let Some(connection) = connection else {
            let reason = if room { CloseReason::Tls } else { CloseReason::Limit };
            return self.route(home, Message::DialFailed(session, reason, None));
        };
        let joining = Joining::Dialled { session, id };
        let key = self.hold(now, connection, connection_id, address, joining);
        self.mark_ready(key);
        self.rearm(key);
    }

    /// `false`: the connection refused the datagram
    fn feed(&mut self, now: Instant, key: SlotKey, bytes: &mut [u8], from: SocketAddrV6) -> bool {
        let Some(held) = self.connections.get_mut(key) else { return false };
        let taken = held.connection.handle_datagram(bytes, from);
        if taken {
            held.last_heard = now;
        } else {
            self.drop_datagram(DropReason::Refused);
        }
        self.mark_busy(key);
        taken
    }

    fn mark_busy(&mut self, key: SlotKey) {
        if let Some(held) = self.connections.get_mut(key)
            && !held.is_busy
        {
            held.is_busy = true;
            self.busy.push(key);
        }
    }

    fn mark_ready(&mut self, key: SlotKey) {
        if let Some(held) = self.connections.get_mut(key)
            && !held.is_ready
        {
            held.is_ready = true;
            self.ready.push_back(key);
        }
    }

    fn rearm(&mut self, key: SlotKey) {
        if let Some(held) = self.connections.get_mut(key) {
            let (old, new) = (held.timer, held.next_timeout());
            held.timer = new;
            self.arm(Timer::Connection(key), old, new);
        }
    }

    /// Reads and writes the streams of every connection that has been fed
    pub(super) fn process_busy(&mut self, now: Instant) {
        for key in std::mem::take(&mut self.busy) {
            if let Some(held) = self.connections.get_mut(key) {
                held.is_busy = false;
            }
            self.process(now, key);
            self.mark_ready(key);
            self.rearm(key);
            self.reap(key);
        }
    }

    fn process(&mut self, now: Instant, key: SlotKey) {
        let Some(held) = self.connections.get_mut(key) else { return };
        if !held.established && held.connection.is_established() {
            held.established = true;
            self.begin_purpose(key);
        }
        let Some(held) = self.connections.get_mut(key) else { return };
        let mut out = Vec::new();
        match &mut held.purpose {
            Purpose::Unknown => return,
            Purpose::Perf(perf) => {
                perf.handle_readable(&mut held.connection);
                perf.handle_writable(&mut held.connection);
            }
            Purpose::Stoq(link) => {
                link.handle_readable(&mut held.connection, &mut out);
                link.handle_writable(&mut held.connection, &mut out);
            }
        }
        self.check_packet_limit(key);
        self.pass_on(now, key, out);
    }

    /// The handshake is over
    fn begin_purpose(&mut self, key: SlotKey) {
        let identity = self.snapshot.identity.as_ref().map(|identity| identity.node.clone());
        let Some(held) = self.connections.get_mut(key) else { return };
        if held.half_open {
            held.half_open = false;
            self.half_open.end(held.remote);
            self.counters.connections_accepted.add(1);
        }
        if let Some(initial) = held.initial_id.take() {
            self.initial_ids.remove(&initial);
        }
        if held.connection.is_perf() {
            held.purpose = Purpose::Perf(Box::default());
            return;
        }
        let mut link = Box::new(Link::new(held.dialled, &self.snapshot.limits));
        let hello_for = match &held.joining {
            Joining::Dialled { id, .. } => Some(*id),
            _ => None,
        };
        if let (Some(id), Some(node)) = (hello_for, identity) {
            let hello = self.hello(id, node);
            if let Some(held) = self.connections.get_mut(key) {
                link.send_frame(&mut held.connection, &Frame::Hello(hello));
                held.purpose = Purpose::Stoq(link);
            }
            return;
        }
        held.purpose = Purpose::Stoq(link);
    }

    /// A connection is replaced well before a key has protected the packets it may, and closed before it would
    /// protect more
    fn check_packet_limit(&mut self, key: SlotKey) {
        let Some(held) = self.connections.get_mut(key) else { return };
        let limit = held.settings.replace_after_packets;
        let used = held.connection.packets_sent.max(held.connection.packets_received);
        let uncounted = held.connection.packets_received - held.losses_counted_at;
        if used >= PACKETS_PER_KEY - PACKETS_IN_HAND {
            return self.close_connection(key, CloseReason::Limit);
        }
        if used < limit || held.replace_asked {
            if uncounted >= LOSSES_COUNTED_EVERY {
                self.count_losses(key);
            }
            return;
        }
        let Some(session) = held.joined() else { return };
        held.replace_asked = true;
        self.counters.replaced_for_packets.add(1);
        let link = link_id(self.worker, key);
        let event = LinkEvent::Replace(CloseReason::Replaced);
        self.route(usize::from(session.worker), Message::Session(session, link, event));
    }

    fn pass_on(&mut self, now: Instant, key: SlotKey, outputs: Vec<LinkOutput>) {
        let link = link_id(self.worker, key);
        for output in outputs {
            let Some(held) = self.connections.get(key) else { return };
            match output {
                LinkOutput::Hello(hello) => self.handle_hello(now, key, hello),
                LinkOutput::Session(event) => {
                    if let Some(session) = held.joined() {
                        let home = usize::from(session.worker);
                        self.route(home, Message::Session(session, link, event));
                    }
                }
                LinkOutput::CallIncoming(stream, header) => {
                    let Some(peer) = held.connection.peer() else { continue };
                    let peer = peer.node;
                    self.events.push_back(Event::CallIncoming { link, stream, peer, header });
                }
                LinkOutput::CallDone(token, worker, reply) => {
                    self.route(usize::from(worker), Message::CallDone(token, reply));
                }
                LinkOutput::Violation(error) => {
                    tracing::warn!(remote = %held.remote, %error, "protocol violation");
                    self.close_connection(key, CloseReason::Protocol);
                }
                LinkOutput::Overrun => self.close_connection(key, CloseReason::Limit),
            }
        }
    }

    /// The peer's HELLO: on the dialling side the session begins, on the accepting side its home decides
    fn handle_hello(&mut self, now: Instant, key: SlotKey, hello: Hello) {
        let link = link_id(self.worker, key);
        let Some(held) = self.connections.get_mut(key) else { return };
        let proven = held.connection.peer().is_some_and(|peer| peer.node == hello.node);
        if !proven {
            return self.close_connection(key, CloseReason::Protocol);
        }
        if !(hello.version_min..=hello.version_max).contains(&VERSION) {
            return self.close_connection(key, CloseReason::Version);
        }
        match &held.joining {
            Joining::Dialled { session, id } => {
                let (session, id) = (*session, *id);
                let named = hello.session != SessionId::NEW
                    && (id == SessionId::NEW || id == hello.session);
                if !named {
                    return self.close_connection(key, CloseReason::Protocol);
                }
                held.joining = Joining::Joined(session);
                let home = usize::from(session.worker);
                self.route(home, Message::Dialled(session, link, hello));
            }
            Joining::Accepted if hello.session == SessionId::NEW => {
                held.joining = Joining::Asked;
                match self.begin_session(now, link, &hello) {
                    Some(session) => self.welcome(key, session),
                    None => {
                        let reason =
                            if self.draining { CloseReason::Draining } else { CloseReason::Limit };
                        self.close_connection(key, reason);
                    }
                }
            }
            Joining::Accepted => {
                held.joining = Joining::Asked;
                let home = self.home_of(hello.session);
                if home >= self.workers {
                    return self.close_connection(key, CloseReason::SessionUnknown);
                }
                self.route(home, Message::Join { link, hello });
            }
            Joining::Asked | Joining::Joined(_) => {
                self.close_connection(key, CloseReason::Protocol);
            }
        }
    }

    fn welcome(&mut self, key: SlotKey, session: SessionKey) {
        let id = self
            .sessions
            .get(session.slot)
            .and_then(|entry| entry.session.as_ref())
            .map(|session| session.id());
        let node = self.snapshot.identity.as_ref().map(|identity| identity.node.clone());
        if let (Some(id), Some(node)) = (id, node) {
            let hello = self.hello(id, node);
            self.join_connection(key, session, &Frame::Hello(hello));
        }
    }

    /// Answers a connection's HELLO; from here on its legs belong to the session
    pub(super) fn join_connection(
        &mut self,
        key: SlotKey,
        session: SessionKey,
        hello: &Frame,
    ) -> bool {
        let Some(held) = self.connections.get_mut(key) else { return false };
        let Purpose::Stoq(link) = &mut held.purpose else { return false };
        held.joining = Joining::Joined(session);
        link.send_frame(&mut held.connection, hello);
        self.mark_busy(key);
        true
    }

    /// Carries out what a session wants of a link
    pub(super) fn handle_command(&mut self, now: Instant, link: LinkId, command: LinkCommand) {
        let key = SlotKey { slot: link.slot, generation: link.generation };
        let Some(held) = self.connections.get_mut(key) else { return };
        let Purpose::Stoq(state) = &mut held.purpose else { return };
        let mut out = Vec::new();
        match command {
            LinkCommand::Frame(frame) => {
                if matches!(frame, Frame::Drain { .. }) {
                    held.replace_asked = true;
                }
                if !state.send_frame(&mut held.connection, &frame) {
                    out.push(LinkOutput::Overrun);
                }
            }
            LinkCommand::Record { flow, service, piece } => {
                state.send_record(&mut held.connection, flow, service, piece, &mut out);
            }
            LinkCommand::EndLeg { flow } => state.end_leg(&mut held.connection, flow),
            LinkCommand::Close(reason) => self.close_connection(key, reason),
        }
        self.pass_on(now, key, out);
        self.mark_ready(key);
    }

    pub(super) fn handle_call(
        &mut self,
        link: LinkId,
        token: u64,
        worker: u16,
        header: CallHeader,
    ) {
        let key = SlotKey { slot: link.slot, generation: link.generation };
        let mut out = Vec::new();
        match self.connections.get_mut(key) {
            Some(Held { purpose: Purpose::Stoq(state), connection, .. }) => {
                state.call(connection, token, worker, header, &mut out);
            }
            _ => out.push(LinkOutput::CallDone(token, worker, None)),
        }
        for output in out {
            if let LinkOutput::CallDone(token, worker, reply) = output {
                self.route(usize::from(worker), Message::CallDone(token, reply));
            }
        }
        self.mark_ready(key);
    }

    /// Answers a call that came by [`Event::CallIncoming`]
    pub fn answer_call(&mut self, link: LinkId, stream: u64, reply: &CallReply) {
        let key = SlotKey { slot: link.slot, generation: link.generation };
        if let Some(Held { purpose: Purpose::Stoq(state), connection, .. }) =
            self.connections.get_mut(key)
        {
            state.answer(connection, stream, reply);
            self.counters.calls_answered.add(1);
            self.mark_ready(key);
        }
    }

    pub(super) fn close_connection(&mut self, key: SlotKey, reason: CloseReason) {
        if let Some(held) = self.connections.get_mut(key) {
            held.connection.close(reason);
            self.mark_ready(key);
            self.rearm(key);
            self.mark_busy(key);
        }
    }

    pub(super) fn connection_timeout(&mut self, now: Instant, key: SlotKey) {
        let Some(held) = self.connections.get_mut(key) else { return };
        held.connection.handle_timeout();
        held.paced_until = None;
        let waiting = held.joined().is_none() && !matches!(held.purpose, Purpose::Perf(_));
        if waiting && now >= held.created + held.settings.handshake_timeout {
            held.connection.close(CloseReason::HandshakeTimeout);
        } else if held.joined().is_some()
            && now >= held.last_heard.max(held.last_sent) + held.settings.keep_alive
        {
            held.last_sent = now;
            held.connection.relax();
            held.connection.ping();
        }
        self.check_suspect(now, key);
        self.count_losses(key);
        self.mark_busy(key);
    }

    /// Adds what a living connection has lost since the last time
    fn count_losses(&mut self, key: SlotKey) {
        let Some(held) = self.connections.get_mut(key) else { return };
        let path = held.connection.path();
        let (lost, spurious) = held.losses_counted;
        self.counters.packets_lost.add(path.lost - lost);
        self.counters.packets_lost_spurious.add(path.lost_spurious - spurious);
        held.losses_counted = (path.lost, path.lost_spurious);
        held.losses_counted_at = held.connection.packets_received;
    }

    /// Probe timeouts without an answer: the path may be dead long before the idle timeout says so
    fn check_suspect(&mut self, now: Instant, key: SlotKey) {
        let Some(held) = self.connections.get_mut(key) else { return };
        let (Some(session), false) = (held.joined(), held.suspect) else { return };
        let path = held.connection.path();
        if held.probes_when_heard.0 < held.last_heard {
            held.probes_when_heard = (held.last_heard, path.probe_timeouts);
            return;
        }
        let probes = path.probe_timeouts.saturating_sub(held.probes_when_heard.1);
        let silence = now.saturating_duration_since(held.last_heard);
        if probes >= SUSPECT_PROBES && silence >= SUSPECT_AFTER.max(path.rtt * 8) {
            held.suspect = true;
            let link = link_id(self.worker, key);
            let home = usize::from(session.worker);
            self.route(home, Message::Session(session, link, LinkEvent::Suspect));
        }
    }

    /// Removes a connection that is closed; tells whoever counted on it
    fn reap(&mut self, key: SlotKey) {
        let Some(held) = self.connections.get_mut(key) else { return };
        let joined = held.joined();
        if held.connection.is_closing()
            && let Some(session) = joined
        {
            // The session need not wait for the closing period.
            let reason = held.connection.close_reason();
            held.joining = Joining::Asked;
            let link = link_id(self.worker, key);
            let event = LinkEvent::Down(reason);
            self.route(usize::from(session.worker), Message::Session(session, link, event));
        }
        let Some(held) = self.connections.get_mut(key) else { return };
        if !held.connection.is_closed() {
            return;
        }
        let (old, reason) = (held.timer.take(), held.connection.close_reason());
        self.arm(Timer::Connection(key), old, None);
        let Some(mut held) = self.connections.remove(key) else { return };
        self.ids.remove(&held.id.0);
        if let Some(initial) = &held.initial_id {
            self.initial_ids.remove(initial);
        }
        if held.half_open {
            self.half_open.end(held.remote);
        }
        let refusal = held.connection.refusal();
        if let Some(refusal) = refusal {
            self.counters.refused[refusal.index()].add(1);
        }
        self.note_closed(&mut held, reason, refusal);
    }

    fn note_closed(&mut self, held: &mut Held, reason: CloseReason, refusal: Option<PeerRefusal>) {
        let path = held.connection.path();
        self.counters.connections_closed.add(1);
        self.counters.packets_lost.add(path.lost - held.losses_counted.0);
        self.counters.packets_lost_spurious.add(path.lost_spurious - held.losses_counted.1);
        if let Joining::Dialled { session, .. } = held.joining {
            let home = usize::from(session.worker);
            self.route(home, Message::DialFailed(session, reason, refusal));
        }
        if let Purpose::Stoq(link) = &mut held.purpose {
            let mut out = Vec::new();
            link.handle_closed(&mut out);
            for output in out {
                if let LinkOutput::CallDone(token, worker, reply) = output {
                    self.route(usize::from(worker), Message::CallDone(token, reply));
                }
            }
        }
        self.events.push_back(Event::ConnectionClosed {
            remote: held.remote,
            peer: held.connection.peer().map(|peer| peer.node),
            reason,
            refusal,
            code: held.connection.error_code(),
        });
    }

    /// Fills `slab` with the next train; `None` when nothing is to be sent now
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        slab: &mut [u8],
        segments: usize,
    ) -> Option<Transmit> {
        if let Some(answer) = self.stateless.pop_front() {
            let length = answer.bytes.len().min(slab.len());
            slab[..length].copy_from_slice(&answer.bytes[..length]);
            let (to, from) = (answer.to, answer.from);
            return Some(Transmit { bytes: length, segment_bytes: length, to, from });
        }
        while let Some(key) = self.ready.pop_front() {
            let Some(held) = self.connections.get_mut(key) else { continue };
            held.is_ready = false;
            held.paced_until =
                held.connection.release_time(now).filter(|at| *at > now + PACING_SLACK);
            if held.paced_until.is_some() {
                self.rearm(key);
                continue;
            }
            let (transmit, more) = fill_train(held, &mut self.scratch, slab, segments);
            if transmit.is_some() {
                held.last_sent = now;
            }
            if more {
                // Others have their turn first.
                self.mark_ready(key);
            }
            self.rearm(key);
            if transmit.is_some() {
                return transmit;
            }
        }
        None
    }
}

/// Writes datagrams of one size and one destination until the connection has no more, the slab is full or a
/// datagram differs; that one is kept for the next train. Returns the train and whether there may be more.
fn fill_train(
    held: &mut Held,
    scratch: &mut [u8],
    slab: &mut [u8],
    segments: usize,
) -> (Option<Transmit>, bool) {
    let mut train: Option<Transmit> = None;
    let from = held.source;
    if let Some((bytes, to)) = held.kept.take() {
        slab[..bytes.len()].copy_from_slice(&bytes);
        train = Some(Transmit { bytes: bytes.len(), segment_bytes: bytes.len(), to, from });
    }
    let mut count = usize::from(train.is_some());
    loop {
        let filled = train.map_or(0, |train| train.bytes);
        let segment = train.map_or(0, |train| train.segment_bytes);
        let room = slab.len() - filled;
        if count >= segments || (count > 0 && room < segment) {
            return (train, true);
        }
        // A probe of the path MTU may be larger than the others: it must not be cut by the slab's end.
        let direct = room >= 16_384 || count == 0;
        let target = if direct { &mut slab[filled..] } else { &mut scratch[..] };
        let Some((length, to)) = held.connection.poll_datagram(target) else {
            return (train, false);
        };
        match &mut train {
            None => train = Some(Transmit { bytes: length, segment_bytes: length, to, from }),
            Some(train) if length <= segment && to == train.to => {
                if !direct {
                    slab[filled..filled + length].copy_from_slice(&scratch[..length]);
                }
                train.bytes += length;
                if length < segment {
                    return (Some(*train), true);
                }
            }
            Some(_) => {
                let bytes = if direct { &slab[filled..] } else { &scratch[..] };
                held.kept = Some((bytes[..length].to_vec(), to));
                return (train, true);
            }
        }
        count += 1;
    }
}
