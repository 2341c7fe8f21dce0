//! The endpoint of one worker: every connection and session it owns, sans-IO. Datagrams, commands, messages
//! of other workers' endpoints and timeouts go in; datagrams, events and messages come out. The order of one
//! turn: `handle_*` for everything that came, `poll_event`, `poll_message`, `poll_transmit` until empty.

mod admission;
mod arrivals;
mod connections;
mod departures;
mod held;
mod link;
mod message;
mod perf;
mod sessions;
mod slots;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use stoq_interface::{
    CloseReason, ConnectionStatus, ControlSnapshot, NodeId, SessionStatus, WorkerCounters,
};

pub use admission::EndpointSecrets;
pub use message::{Event, Message, SessionKey};
pub use slots::SlotKey;

use crate::connection::{Common, Configs, ConfigsError};
use crate::connection_id::{CONNECTION_ID_BYTES, Steering};
use crate::read_buffers::ReadBuffers;
use crate::session::{CallKind, LinkId, Session};
use crate::wire::{CallHeader, SessionId};
use admission::HalfOpen;
use held::Held;
use slots::Slots;

/// Stateless answers (Retry, version negotiation, reset) that may wait to be sent
const STATELESS_QUEUE: usize = 256;

/// What an endpoint is made of
#[derive(Clone)]
pub struct EndpointSetup {
    /// This worker
    pub worker: usize,
    /// Workers of the host's endpoint
    pub workers: usize,
    /// The bound address
    pub local: SocketAddrV6,
    /// Secrets shared by the host's workers
    pub secrets: EndpointSecrets,
    /// Seed of connection IDs and session names; random in production
    pub seed: u64,
    /// The first snapshot
    pub snapshot: Arc<ControlSnapshot>,
    /// Where to count
    pub counters: Arc<WorkerCounters>,
}

/// A train of datagrams to one address
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Transmit {
    /// Octets written to the slab
    pub bytes: usize,
    /// Size of each datagram but the last, which may be shorter
    pub segment_bytes: usize,
    /// Where to
    pub to: SocketAddrV6,
    /// Local address to send from, where the peer expects a certain one
    pub from: Option<Ipv6Addr>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Timer {
    Connection(SlotKey),
    Session(SlotKey),
}

/// A session at its home worker, or one that is being dialled
struct SessionEntry {
    session: Option<Session>,
    /// Chosen by whoever asked for the connection
    token: u64,
    address: Option<SocketAddrV6>,
    node: NodeId,
    timer: Option<Instant>,
    dirty: bool,
    counted: crate::session::SessionCounters,
}

struct Stateless {
    bytes: Vec<u8>,
    to: SocketAddrV6,
    from: Option<Ipv6Addr>,
}

/// The endpoint of one worker
pub struct Endpoint {
    worker: usize,
    workers: usize,
    local: SocketAddrV6,
    secrets: EndpointSecrets,
    steering: Steering,
    random: StdRng,
    snapshot: Arc<ControlSnapshot>,
    configs: Option<Configs>,
    config_error: Option<ConfigsError>,
    counters: Arc<WorkerCounters>,
    /// Boxed, so that the table can grow without moving them
    connections: Slots<Box<Held>>,
    /// Connections by connection ID: those issued here
    ids: HashMap<[u8; CONNECTION_ID_BYTES], SlotKey>,
    /// The latest of them that was looked up
    last_routed: Option<([u8; CONNECTION_ID_BYTES], SlotKey)>,
    /// Accepted connections by the destination their client chose, while the handshake lasts
    initial_ids: HashMap<Vec<u8>, SlotKey>,
    half_open: HalfOpen,
    sessions: Slots<SessionEntry>,
    session_ids: HashMap<SessionId, SlotKey>,
    /// Requests under way by their tokens: their session, at home here, and the link they went by, which is not
    /// closed as drained before they are over
    calls: HashMap<u64, (SlotKey, LinkId)>,
    timers: BTreeSet<(Instant, Timer)>,
    /// Connections that may have something to send
    ready: VecDeque<SlotKey>,
    /// Connections whose streams may have something to read or take
    busy: Vec<SlotKey>,
    dirty_sessions: Vec<SlotKey>,
    stateless: VecDeque<Stateless>,
    events: VecDeque<Event>,
    outbox: VecDeque<(usize, Message)>,
    local_messages: VecDeque<Message>,
    draining: bool,
    /// The local address that the datagrams now fed came to
    arrival: Option<Ipv6Addr>,
    /// How many datagrams have come with it
    arrived: usize,
    /// Where a datagram is written that may not fit the train under way
    scratch: Vec<u8>,
    /// What every connection is given
    common: Common,
}

impl Endpoint {
    /// An endpoint without connections
    pub fn new(setup: EndpointSetup) -> Self {
        let mut endpoint = Self {
            worker: setup.worker,
            workers: setup.workers.max(1),
            local: setup.local,
            steering: Steering::new(setup.secrets.steering, setup.workers),
            secrets: setup.secrets,
            random: StdRng::seed_from_u64(setup.seed),
            snapshot: Arc::clone(&setup.snapshot),
            configs: None,
            config_error: None,
            common: Common {
                counters: Arc::clone(&setup.counters),
                read_buffers: ReadBuffers::default(),
            },
            counters: setup.counters,
            connections: Slots::default(),
            ids: HashMap::new(),
            last_routed: None,
            initial_ids: HashMap::new(),
            half_open: HalfOpen::default(),
            sessions: Slots::default(),
            session_ids: HashMap::new(),
            calls: HashMap::new(),
            timers: BTreeSet::new(),
            ready: VecDeque::new(),
            busy: Vec::new(),
            dirty_sessions: Vec::new(),
            stateless: VecDeque::new(),
            events: VecDeque::new(),
            outbox: VecDeque::new(),
            local_messages: VecDeque::new(),
            draining: false,
            arrival: None,
            arrived: 0,
            scratch: vec![0; 65_536],
        };
        endpoint.apply_snapshot(setup.snapshot);
        endpoint
    }

    /// Puts a snapshot into force: handshakes from now on use its identity, trust and limits; connections
    /// live on, but for those whose peer it denies
    pub fn apply_snapshot(&mut self, snapshot: Arc<ControlSnapshot>) {
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        match Configs::new(&self.snapshot) {
            Ok(configs) => {
                self.configs = Some(configs);
                self.config_error = None;
            }
            Err(error) => {
                self.configs = None;
                self.config_error = Some(error);
            }
        }
        let denied = &self.snapshot.denied;
        if denied.is_empty() || Arc::ptr_eq(denied, &before.denied) {
            return;
        }
        for key in self.connections.keys() {
            if self.is_denied(key) {
                self.close_connection(key, CloseReason::Revoked);
            }
        }
    }

    /// Whether the snapshot in force denies a connection's peer. A handshake may have begun under an earlier
    /// one, so this is asked when it ends as well.
    fn is_denied(&self, key: SlotKey) -> bool {
        let peer = self.connections.get(key).and_then(|held| held.connection.peer());
        peer.is_some_and(|peer| {
            let denied = &self.snapshot.denied;
            denied.refusal(&peer.issuer_key_id, &peer.serial, &peer.spki_sha256).is_some()
        })
    }

    /// Why the snapshot in force lets nobody in, if it does not
    pub fn config_error(&self) -> Option<&ConfigsError> {
        self.config_error.as_ref()
    }

    /// The snapshot in force
    pub fn snapshot(&self) -> &Arc<ControlSnapshot> {
        &self.snapshot
    }

    /// The worker a connection ID steers to
    pub fn steering(&self) -> Steering {
        self.steering
    }

    /// The next thing the owner should know
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next message for another worker
    pub fn poll_message(&mut self) -> Option<(usize, Message)> {
        self.outbox.pop_front()
    }

    /// Whether [`Self::poll_transmit`] may yield something
    pub fn wants_transmit(&self) -> bool {
        !self.ready.is_empty() || !self.stateless.is_empty()
    }

    /// When [`Self::handle_timeout`] wants to be called
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Acts on every timer that is due
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Connection(key) => {
                    if let Some(held) = self.connections.get_mut(key) {
                        held.timer = None;
                    }
                    self.connection_timeout(now, key);
                }
                Timer::Session(key) => {
                    if let Some(entry) = self.sessions.get_mut(key) {
                        entry.timer = None;
                        if let Some(session) = &mut entry.session {
                            session.handle_timeout(now);
                        }
                    }
                    self.mark_session(key);
                }
            }
        }
        self.settle(now);
    }

    /// Dials `node` at `address`. [`Event::Connected`] or [`Event::ConnectFailed`] follows with `token`.
    pub fn connect(&mut self, now: Instant, address: SocketAddrV6, node: NodeId, token: u64) {
        if self.sessions.len() >= self.snapshot.limits.sessions_per_worker {
            let failed = Event::ConnectFailed { token, reason: CloseReason::Limit, refusal: None };
            self.events.push_back(failed);
            return;
        }
        let slot = self.sessions.insert(SessionEntry {
            session: None,
            token,
            address: Some(address),
            node: node.clone(),
            timer: None,
            dirty: false,
            counted: Default::default(),
        });
        let session = SessionKey { worker: self.worker as u16, slot };
        self.route(self.worker, Message::Dial { session, id: SessionId::NEW, address, node });
        self.settle(now);
    }

    /// Makes a call over a session; [`Event::CallDone`] follows with `token`
    pub fn call(
        &mut self,
        now: Instant,
        session: SessionKey,
        token: u64,
        kind: CallKind,
        header: CallHeader,
    ) {
        let entry = self.sessions.get_mut(session.slot).and_then(|entry| entry.session.as_mut());
        let Some(link) = entry.and_then(|entry| entry.begin_call(kind)) else {
            self.events.push_back(Event::CallDone { token, reply: None });
            return;
        };
        if kind == CallKind::Request {
            self.calls.insert(token, (session.slot, link));
        }
        self.counters.calls_made.add(1);
        let worker = self.worker as u16;
        self.route(usize::from(link.worker), Message::Call { link, token, worker, header });
        self.settle(now);
    }

    /// Runs `act` on a session of this worker; its outputs are carried out at the end of the turn
    pub fn with_session<T>(
        &mut self,
        key: SessionKey,
        act: impl FnOnce(&mut Session) -> T,
    ) -> Option<T> {
        let entry = self.sessions.get_mut(key.slot)?;
        let session = entry.session.as_mut()?;
        let outcome = act(session);
        self.mark_session(key.slot);
        Some(outcome)
    }

    /// Stops accepting, asks every peer to leave, lets flows finish until `timeout`
    pub fn drain(&mut self, now: Instant, timeout: Duration) {
        self.draining = true;
        for key in self.sessions.keys() {
            if let Some(session) = self.sessions.get_mut(key).and_then(|e| e.session.as_mut()) {
                session.drain(now, timeout);
            }
            self.mark_session(key);
        }
        self.settle(now);
    }

    /// Closes everything at once
    pub fn close(&mut self, now: Instant, reason: CloseReason) {
        self.draining = true;
        for key in self.sessions.keys() {
            if let Some(session) = self.sessions.get_mut(key).and_then(|e| e.session.as_mut()) {
                session.close(reason);
            }
            self.mark_session(key);
        }
        self.settle(now);
        for key in self.connections.keys() {
            self.close_connection(key, reason);
        }
        self.settle(now);
    }

    /// Whether nothing is left: no session, no connection
    pub fn is_idle(&self) -> bool {
        self.connections.len() == 0 && self.sessions.len() == 0
    }

    /// Closes one connection on an operator's demand
    pub fn close_connection_number(&mut self, now: Instant, number: u64) -> bool {
        let link = held::link_of_number(number);
        let key = SlotKey { slot: link.slot, generation: link.generation };
        let known = self.connections.get(key).is_some();
        self.close_connection(key, CloseReason::Operator);
        self.settle(now);
        known
    }

    /// Carries out messages between sessions and links of this worker until nothing is left to do
    pub fn settle(&mut self, now: Instant) {
        self.end_arrival();
        loop {
            self.process_busy(now);
            while let Some(message) = self.local_messages.pop_front() {
                self.handle_local(now, message);
            }
            self.drain_sessions(now);
            if self.local_messages.is_empty()
                && self.busy.is_empty()
                && self.dirty_sessions.is_empty()
            {
                break;
            }
        }
        self.counters.connections_open.set(self.connections.len() as u64);
        self.counters.half_open.set(self.half_open.total() as u64);
        self.counters.sessions_open.set(self.sessions.len() as u64);
    }

    /// Takes in a message of another worker's endpoint
    pub fn handle_message(&mut self, now: Instant, message: Message) {
        match message {
            Message::Datagram { mut bytes, from } => {
                self.handle_datagram(now, &mut bytes, from);
            }
            message => self.local_messages.push_back(message),
        }
    }

    fn route(&mut self, worker: usize, message: Message) {
        if worker == self.worker {
            self.local_messages.push_back(message);
        } else if worker < self.workers {
            self.outbox.push_back((worker, message));
        }
    }

    fn arm(&mut self, timer: Timer, old: Option<Instant>, new: Option<Instant>) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.timers.remove(&(old, timer));
        }
        if let Some(new) = new {
            self.timers.insert((new, timer));
        }
    }

    /// What an operator sees of the sessions at home here
    pub fn session_status(&self) -> Vec<SessionStatus> {
        let status = |(slot, entry): (SlotKey, &SessionEntry)| {
            let key = SessionKey { worker: self.worker as u16, slot };
            entry.session.as_ref().map(|s| s.status(key.number(), self.worker))
        };
        self.sessions.iter().filter_map(status).collect()
    }

    /// What an operator sees of the connections held here; the worker's counters know of all their losses then
    pub fn connection_status(&mut self, now: Instant) -> Vec<ConnectionStatus> {
        let worker = self.worker;
        let keys = self.connections.keys();
        let mut all = Vec::with_capacity(keys.len());
        for key in keys {
            self.count_losses(key);
            if let Some(held) = self.connections.get_mut(key) {
                all.push(held.status(now, worker, key));
            }
        }
        all
    }
}
