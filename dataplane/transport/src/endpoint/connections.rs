//! The endpoint's connections: dialling, joining sessions, reading and writing streams, timing and closing.

use std::net::SocketAddrV6;
use std::time::{Duration, Instant};

use stoq_interface::{CloseReason, KEY_PACKETS, NodeId, PeerRefusal};

use super::held::{Held, Joining, Purpose, link_id};
use super::link::{Link, LinkOutput};
use super::message::{Event, Message, SessionKey};
use super::slots::SlotKey;
use super::{Endpoint, Timer};
use crate::connection::Connection;
use crate::connection_id::ConnectionId;
use crate::session::{LinkCommand, LinkEvent, LinkId};
use crate::wire::{CallHeader, CallReply, Frame, Hello, SessionId, VERSION};

/// Silence after which probe timeouts make a path suspect, at the least
const SUSPECT_AFTER: Duration = Duration::from_millis(600);
/// Probe timeouts without an answer that make a path suspect
const SUSPECT_PROBES: usize = 3;
/// Packets that may still be on their way out when a connection is closed for that limit
const PACKETS_IN_HAND: u64 = 1 << 16;
/// Packets received between two looks at what was lost
const LOSSES_COUNTED_EVERY: u64 = 1_024;

impl Endpoint {
    pub(super) fn hold(
        &mut self,
        now: Instant,
        connection: Connection,
        id: ConnectionId,
        remote: SocketAddrV6,
        joining: Joining,
    ) -> SlotKey {
        let epoch = self.configs.as_ref().map_or(0, |configs| configs.epoch());
        let key = self.connections.insert(Box::new(Held {
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
            losses_counted: [0; 3],
            losses_counted_at: 0,
            is_ready: false,
            is_busy: false,
            kept: None,
            ended_short: false,
            paced_until: None,
            timer: None,
        }));
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
        let (local, common) = (self.local, self.common.clone());
        let connection = match &mut self.configs {
            Some(configs) if room => {
                Connection::connect(configs, &connection_id, node, local, address, common)
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

    pub(super) fn mark_busy(&mut self, key: SlotKey) {
        if let Some(held) = self.connections.get_mut(key)
            && !held.is_busy
        {
            held.is_busy = true;
            self.busy.push(key);
        }
    }

    pub(super) fn mark_ready(&mut self, key: SlotKey) {
        if let Some(held) = self.connections.get_mut(key)
            && !held.is_ready
        {
            held.is_ready = true;
            self.ready.push_back(key);
        }
    }

    pub(super) fn rearm(&mut self, key: SlotKey) {
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
            if self.is_denied(key) {
                return self.close_connection(key, CloseReason::Revoked);
            }
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
        if used > self.counters.packets_per_key_most.get() {
            self.counters.packets_per_key_most.set(used);
        }
        let uncounted = held.connection.packets_received - held.losses_counted_at;
        if used >= KEY_PACKETS - PACKETS_IN_HAND {
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
                    let (certificate, peer) = (peer.certificate(), peer.node);
                    let call = Event::CallIncoming { link, stream, peer, certificate, header };
                    self.events.push_back(call);
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
                let round_trip = LinkEvent::RoundTrip(held.connection.shortest_round_trip());
                self.route(home, Message::Dialled(session, link, hello));
                self.route(home, Message::Session(session, link, round_trip));
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
        let round_trip = LinkEvent::RoundTrip(held.connection.shortest_round_trip());
        let id = link_id(self.worker, key);
        self.route(usize::from(session.worker), Message::Session(session, id, round_trip));
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
        match self.connections.get_mut(key).map(Box::as_mut) {
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
            self.connections.get_mut(key).map(Box::as_mut)
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
            held.connection.ping();
        }
        self.check_suspect(now, key);
        self.count_losses(key);
        self.mark_busy(key);
    }

    /// Adds what a connection has lost since the last time
    pub(super) fn count_losses(&mut self, key: SlotKey) {
        if let Some(held) = self.connections.get_mut(key) {
            held.count_losses(&self.counters);
        }
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
    pub(super) fn reap(&mut self, key: SlotKey) {
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
        self.last_routed = None;
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
        self.counters.connections_closed.add(1);
        held.count_losses(&self.counters);
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
}
