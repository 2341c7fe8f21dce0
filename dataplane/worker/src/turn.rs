//! One worker: its state and one turn of its loop. Reap completions, feed every datagram, serve programs, let
//! every connection emit, submit, sleep until a completion, a wake-up or the next deadline.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use stoq_interface::{CloseReason, ControlSnapshot, DropReason, FlowError, WorkerCounters};
use stoq_transport::wire::{CallReply, CallStatus};
use stoq_transport::{Endpoint, Event, SessionKey};
use stoq_udp::{DatagramIo, Transmit, Wait};
use tokio::sync::oneshot;

use crate::command::{CallFailure, Command, ConnectError, Connected};
use crate::peers::{Inbox, Peers};
use crate::registry::{IncomingCall, Registry};
use crate::{FlowPort, WorkerHandle};

/// Commands served per turn
const COMMANDS_PER_TURN: usize = 256;
/// Flows served per turn
const FLOWS_PER_TURN: usize = 4_096;
/// Time a stopping worker gives its CONNECTION_CLOSE packets to leave
const STOP_GRACE: Duration = Duration::from_millis(300);

/// Ports of one worker by the number stored in their flow
#[derive(Default)]
struct Ports {
    entries: Vec<Option<Arc<FlowPort>>>,
    free: Vec<usize>,
}

impl Ports {
    fn insert(&mut self, port: Arc<FlowPort>) -> u64 {
        match self.free.pop() {
            Some(index) => {
                self.entries[index] = Some(port);
                index as u64
            }
            None => {
                self.entries.push(Some(port));
                (self.entries.len() - 1) as u64
            }
        }
    }

    fn get(&self, context: u64) -> Option<&Arc<FlowPort>> {
        self.entries.get(usize::try_from(context).ok()?)?.as_ref()
    }

    fn remove(&mut self, context: u64) {
        let Ok(index) = usize::try_from(context) else { return };
        if let Some(entry) = self.entries.get_mut(index)
            && let Some(port) = entry.take()
        {
            port.release();
            self.free.push(index);
        }
    }
}

/// What a worker is made of
pub(crate) struct WorkerParts {
    pub endpoint: Endpoint,
    pub io: Box<dyn DatagramIo>,
    pub handle: WorkerHandle,
    pub inbox: Arc<Inbox>,
    pub peers: Peers,
    pub snapshot: Arc<ArcSwap<ControlSnapshot>>,
    pub registry: Arc<Registry>,
    pub busy_poll: bool,
    pub trains_per_turn: usize,
}

type ConnectReply = oneshot::Sender<Result<Connected, ConnectError>>;
type CallAnswer = oneshot::Sender<Result<CallReply, CallFailure>>;

/// One worker
pub(crate) struct Worker {
    endpoint: Endpoint,
    io: Box<dyn DatagramIo>,
    handle: WorkerHandle,
    inbox: Arc<Inbox>,
    peers: Peers,
    snapshot: Arc<ArcSwap<ControlSnapshot>>,
    registry: Arc<Registry>,
    busy_poll: bool,
    trains_per_turn: usize,
    ports: Ports,
    connects: HashMap<u64, ConnectReply>,
    calls: HashMap<u64, CallAnswer>,
    next_token: u64,
    counters: Arc<WorkerCounters>,
    stage_since: Instant,
    stopping: Option<Instant>,
}

#[derive(Clone, Copy)]
#[repr(usize)]
enum Stage {
    Receive,
    TransportIn,
    Services,
    TransportOut,
    Submit,
    Idle,
}

impl Worker {
    pub(crate) fn new(parts: WorkerParts) -> Self {
        let counters = Arc::clone(parts.handle.counters());
        Self {
            endpoint: parts.endpoint,
            io: parts.io,
            handle: parts.handle,
            inbox: parts.inbox,
            peers: parts.peers,
            snapshot: parts.snapshot,
            registry: parts.registry,
            busy_poll: parts.busy_poll,
            trains_per_turn: parts.trains_per_turn.max(1),
            ports: Ports::default(),
            connects: HashMap::new(),
            calls: HashMap::new(),
            next_token: 0,
            counters,
            stage_since: Instant::now(),
            stopping: None,
        }
    }

    /// Turns until told to stop
    pub(crate) fn run(mut self) {
        while !self.is_stopped() {
            if let Err(error) = self.turn() {
                tracing::error!(%error, "the worker's I/O failed; its connections are lost");
                break;
            }
        }
        self.handle.0.stopped.store(true, Ordering::Release);
        self.fail_what_waits();
    }

    fn is_stopped(&self) -> bool {
        let idle = self.endpoint.is_idle() && !self.endpoint.wants_transmit();
        self.stopping.is_some_and(|deadline| idle || Instant::now() >= deadline)
    }

    /// Whoever still waits for this worker learns that it is gone
    fn fail_what_waits(&mut self) {
        while let Some(command) = self.handle.0.commands.pop() {
            if let Command::Open(port) = command {
                port.fail(FlowError::SessionLost);
            }
            // The others carry a reply channel: dropping it tells the asker.
        }
        for port in self.ports.entries.drain(..).flatten() {
            port.fail(port.error().unwrap_or(FlowError::SessionLost));
            port.release();
        }
        self.connects.clear();
        self.calls.clear();
        self.handle.0.wakes.close();
    }

    fn turn(&mut self) -> std::io::Result<()> {
        let now = Instant::now();
        self.counters.turns.add(1);
        self.adopt_snapshot();
        let received = self.receive(now)?;
        self.close_stage(Stage::Receive);
        while let Some(message) = self.inbox.pop() {
            self.adopt_snapshot();
            self.endpoint.handle_message(now, message);
        }
        self.endpoint.handle_timeout(now);
        self.close_stage(Stage::TransportIn);
        let served = self.serve(now);
        self.close_stage(Stage::Services);
        let more = self.transmit(now);
        self.close_stage(Stage::TransportOut);
        self.pass_messages();
        self.peers.flush(&mut *self.io);
        if let Some(bell) = self.handle.0.wakes.to_ring() {
            self.io.notify(bell);
        }
        self.copy_counters();
        let idle = received == 0 && !served && !more;
        self.submit(now, idle)
    }

    /// Looked for before every command and message too: who publishes a snapshot and then asks for something, such
    /// as a connection that shows a new certificate, must not be served by the snapshot before.
    fn adopt_snapshot(&mut self) {
        let snapshot = self.snapshot.load();
        if snapshot.epoch != self.endpoint.snapshot().epoch {
            self.endpoint.apply_snapshot(Arc::clone(&snapshot));
            if let Some(error) = self.endpoint.config_error() {
                tracing::error!(epoch = snapshot.epoch, %error, "no handshake is possible");
            }
        }
    }

    fn receive(&mut self, now: Instant) -> std::io::Result<usize> {
        let endpoint = &mut self.endpoint;
        let counters = &self.counters;
        self.io.receive(&mut |mut train| {
            if train.truncated {
                counters.dropped[DropReason::Truncated.index()].add(1);
                return;
            }
            endpoint.set_arrival(train.to);
            let from = train.from;
            for datagram in train.datagrams() {
                endpoint.handle_datagram(now, datagram, from);
            }
        })
    }

    /// Commands, events and flows; whether there was any
    fn serve(&mut self, now: Instant) -> bool {
        let mut served = false;
        for _ in 0..COMMANDS_PER_TURN {
            let Some(command) = self.handle.0.commands.pop() else { break };
            served = true;
            self.adopt_snapshot();
            self.obey(now, command);
        }
        for _ in 0..FLOWS_PER_TURN {
            let Some(port) = self.handle.0.attention.pop() else { break };
            served = true;
            port.attended();
            if let Some(flow) = port.number() {
                self.serve_flow(now, port.session(), flow);
            }
        }
        self.endpoint.settle(now);
        while let Some(event) = self.endpoint.poll_event() {
            served = true;
            self.heed(now, event);
            self.endpoint.settle(now);
        }
        served
    }

    fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Connect { address, node, reply } => {
                let token = self.token();
                self.connects.insert(token, reply);
                self.endpoint.connect(now, address, node, token);
            }
            Command::Open(port) => self.open(port),
            Command::Call { session, kind, header, reply } => {
                let token = self.token();
                self.calls.insert(token, reply);
                self.endpoint.call(now, session, token, kind, header);
            }
            Command::Answer { link, stream, reply } => {
                self.endpoint.answer_call(link, stream, &reply);
            }
            Command::Replace(session) => {
                self.counters.replaced_on_demand.add(1);
                self.endpoint.with_session(session, |s| s.replace_links());
            }
            Command::CloseSession(session) => {
                self.endpoint.with_session(session, |s| s.close(CloseReason::Done));
            }
            Command::CloseConnection(number, reply) => {
                let known = self.endpoint.close_connection_number(now, number);
                self.answer(reply, known);
            }
            Command::Sessions(reply) => {
                let status = self.endpoint.session_status();
                self.answer(reply, status);
            }
            Command::Flows(session, reply) => {
                let flows = self.endpoint.with_session(session, |s| s.flow_status());
                self.answer(reply, flows.unwrap_or_default());
            }
            Command::Connections(reply) => {
                let status = self.endpoint.connection_status(now);
                self.answer(reply, status);
            }
            Command::Drain(timeout) => self.endpoint.drain(now, timeout),
            Command::Stop => {
                self.endpoint.close(now, CloseReason::Draining);
                self.stopping.get_or_insert(now + STOP_GRACE);
            }
        }
    }

    fn answer<T: Send + 'static>(&self, asker: oneshot::Sender<T>, answer: T) {
        self.handle.0.wakes.run(move || {
            // An asker that has gone needs no answer.
            let _ = asker.send(answer);
        });
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn open(&mut self, port: Arc<FlowPort>) {
        let key = port.session();
        let context = self.ports.insert(Arc::clone(&port));
        let service = port.service().clone();
        let opened = self.endpoint.with_session(key, |s| s.open_flow(service, context));
        match opened.unwrap_or(Err(FlowError::SessionLost)) {
            Ok(flow) => {
                self.counters.flows_opened.add(1);
                self.counters.flows_open.add(1);
                port.opened(flow);
                // Bytes may have been written before the flow had its number.
                self.handle.0.attention.push(port);
            }
            Err(reason) => {
                self.counters.flow_errors[reason.index()].add(1);
                port.fail(reason);
                self.ports.remove(context);
            }
        }
    }

    fn heed(&mut self, now: Instant, event: Event) {
        match event {
            Event::Connected { token, session } => {
                let peer = self.endpoint.with_session(session, |s| s.peer().clone());
                match (self.connects.remove(&token), peer) {
                    // Whoever asked has gone, and nobody else would ever close it.
                    (Some(reply), Some(_)) if reply.is_closed() => {
                        self.endpoint.with_session(session, |s| s.close(CloseReason::Done));
                    }
                    (Some(reply), Some(peer)) => {
                        self.answer(reply, Ok(Connected { session, peer }));
                    }
                    _ => {}
                }
            }
            Event::ConnectFailed { token, reason, refusal } => {
                if let Some(reply) = self.connects.remove(&token) {
                    let error = refusal.map_or(ConnectError::Closed(reason), ConnectError::Refused);
                    self.answer(reply, Err(error));
                }
            }
            Event::SessionAccepted { peer, .. } => tracing::debug!(%peer, "session accepted"),
            Event::SessionEnded { session, reason } => {
                tracing::debug!(session = session.number(), %reason, "session ended");
            }
            Event::FlowIncoming { session, flow, service, peer } => {
                self.accept_flow(session, flow, service, peer);
            }
            Event::FlowTouched { session, flow } => self.serve_flow(now, session, flow),
            Event::CallIncoming { link, stream, peer, certificate, header } => {
                self.take_call(link, stream, (peer, certificate), header);
            }
            Event::CallDone { token, reply } => {
                if let Some(asker) = self.calls.remove(&token) {
                    self.answer(asker, reply.ok_or(CallFailure::Lost));
                }
            }
            Event::ConnectionClosed { remote, peer, reason, refusal, code } => {
                let peer = peer.as_ref().map(|peer| peer.as_str());
                let code = code.map(|(code, _)| code);
                match refusal {
                    Some(refusal) => {
                        tracing::warn!(%remote, %refusal, ?code, "peer refused in the handshake");
                    }
                    None => tracing::debug!(%remote, peer, %reason, ?code, "connection closed"),
                }
            }
        }
    }

    fn take_call(
        &mut self,
        link: stoq_transport::LinkId,
        stream: u64,
        (peer, certificate): (stoq_interface::NodeId, stoq_interface::PeerCertificate),
        header: stoq_transport::wire::CallHeader,
    ) {
        match self.registry.call_handler() {
            Some(handler) => {
                let call = IncomingCall {
                    peer,
                    certificate,
                    method: header.method,
                    deadline_ms: header.deadline_ms,
                    body: header.body,
                    worker: self.handle.clone(),
                    link,
                    stream,
                };
                self.handle.0.wakes.run(move || handler(call));
            }
            None => {
                let reply = CallReply { status: CallStatus::Unknown, body: Default::default() };
                self.endpoint.answer_call(link, stream, &reply);
            }
        }
    }

    fn accept_flow(
        &mut self,
        session: SessionKey,
        flow: u64,
        service: stoq_interface::ServiceName,
        peer: stoq_interface::NodeId,
    ) {
        let refusal = match self.registry.acceptor(&service) {
            None => Some(FlowError::NoSuchService),
            Some(acceptor) => {
                let port = Arc::new(FlowPort::new(self.handle.clone(), session, peer, service));
                port.opened(flow);
                let context = self.ports.insert(Arc::clone(&port));
                self.counters.flows_open.add(1);
                self.endpoint.with_session(session, |s| s.accept_flow(flow, context));
                acceptor.offer(port).err().map(|_| FlowError::Busy)
            }
        };
        if let Some(reason) = refusal {
            self.endpoint.with_session(session, |s| s.reset_flow(flow, reason));
        }
    }

    /// Moves what can be moved between a flow and its port
    fn serve_flow(&mut self, now: Instant, key: SessionKey, flow: u64) {
        let ports = &self.ports;
        let outcome = self.endpoint.with_session(key, |session| {
            session.untouch(flow);
            let context = session.flow(flow)?.context();
            let port = ports.get(context)?;
            exchange(now, session, flow, port).then_some(context)
        });
        if let Some(Some(context)) = outcome {
            self.counters.flows_open.set(self.counters.flows_open.get().saturating_sub(1));
            self.ports.remove(context);
        }
    }

    /// Sends trains; whether more may be ready
    fn transmit(&mut self, now: Instant) -> bool {
        let segments = self.io.segment_limit();
        for _ in 0..self.trains_per_turn {
            if !self.endpoint.wants_transmit() {
                return false;
            }
            // Without a free slab the completions of those in flight end the sleep.
            let Some(slab) = self.io.slab() else {
                self.counters.trains_held_by_pool.add(1);
                return false;
            };
            let bytes = self.io.slab_bytes(&slab);
            let most = bytes.len().min(stoq_udp::MAX_TRAIN_BYTES);
            let train = self.endpoint.poll_transmit(now, &mut bytes[..most], segments);
            match train {
                Some(train) => self.io.send(
                    slab,
                    Transmit {
                        bytes: train.bytes,
                        segment_bytes: train.segment_bytes,
                        to: train.to,
                        from: train.from,
                    },
                ),
                None => self.io.release(slab),
            }
        }
        self.endpoint.wants_transmit()
    }

    fn pass_messages(&mut self) {
        while let Some((to, message)) = self.endpoint.poll_message() {
            self.peers.send(to, message, &self.counters);
        }
    }

    fn submit(&mut self, now: Instant, idle: bool) -> std::io::Result<()> {
        if !idle || self.busy_poll || self.peers.has_backlog() {
            self.io.submit(Wait::No)?;
            self.close_stage(Stage::Submit);
            return Ok(());
        }
        let shared = &self.handle.0;
        // The order matters: announce the sleep, then look at the queues a last time.
        shared.sleeping.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        let waiting = !shared.commands.is_empty()
            || !shared.attention.is_empty()
            || !self.inbox.is_empty()
            || self.snapshot.load().epoch != self.endpoint.snapshot().epoch;
        let wait = if waiting { Wait::No } else { Wait::Until(self.sleep_time(now)) };
        let outcome = self.io.submit(wait);
        shared.sleeping.store(false, Ordering::SeqCst);
        if !waiting {
            self.counters.sleeps.add(1);
        }
        self.close_stage(Stage::Idle);
        outcome
    }

    fn sleep_time(&self, now: Instant) -> Option<Duration> {
        let deadline = [self.endpoint.next_timeout(), self.stopping].into_iter().flatten().min();
        deadline.map(|at| at.saturating_duration_since(now))
    }

    fn close_stage(&mut self, stage: Stage) {
        let now = Instant::now();
        let spent = now.saturating_duration_since(self.stage_since);
        self.counters.stage_ns[stage as usize].add(spent.as_nanos() as u64);
        self.stage_since = now;
    }

    fn copy_counters(&self) {
        let io = self.io.counters();
        let counters = &self.counters;
        counters.system_calls.set(io.system_calls);
        counters.datagrams_received.set(io.datagrams_received);
        counters.bytes_received.set(io.bytes_received);
        counters.trains_received.set(io.trains_received);
        counters.datagrams_sent.set(io.datagrams_sent);
        counters.bytes_sent.set(io.bytes_sent);
        counters.trains_sent.set(io.trains_sent);
        counters.send_errors.set(io.send_errors);
        counters.zero_copy_sends.set(io.zero_copy_sends);
        counters.zero_copy_copied.set(io.zero_copy_copied);
        counters.buffers_exhausted.set(io.buffers_exhausted);
        counters.socket_overflows.set(io.socket_overflows);
    }
}

/// Moves bytes between a session's flow and its port; whether the flow is over and released
fn exchange(
    now: Instant,
    session: &mut stoq_transport::session::Session,
    flow: u64,
    port: &FlowPort,
) -> bool {
    try_exchange(now, session, flow, port).unwrap_or(false)
}

/// `None` where the session does not hold the flow
fn try_exchange(
    now: Instant,
    session: &mut stoq_transport::session::Session,
    flow: u64,
    port: &FlowPort,
) -> Option<bool> {
    if let Some(reason) = port.wants_reset() {
        session.reset_flow(flow, reason);
    } else if port.is_abandoned() && !port.is_finished() {
        // A reader that has seen the end and never wrote has nothing to cancel.
        let state = session.flow(flow)?;
        if state.is_drained() && !state.has_written() {
            session.finish(flow);
        } else {
            session.reset_flow(flow, FlowError::Cancelled);
        }
    }
    if let Some(error) = session.flow(flow)?.error() {
        port.fail(error);
        session.release_flow(flow);
        return Some(true);
    }
    let most = session.send_buffer_bytes();
    let mut taken = false;
    while session.flow(flow)?.writable_bytes(most) > 0 {
        let Some(bytes) = port.take_written() else { break };
        taken = true;
        session.write(flow, bytes);
    }
    // Not for every slot: a writer on the same processor would be switched to for each.
    if taken && port.wants_more() {
        port.wake_writer();
    }
    if port.wants_finish() {
        session.finish(flow);
    }
    let abandoned = port.is_abandoned();
    let mut delivered = false;
    // What nobody reads any more is thrown away, so that the peer's end can arrive.
    while session.is_readable(flow) && (abandoned || port.has_room()) {
        let Some(bytes) = session.read(now, flow) else { break };
        if !abandoned {
            port.deliver(bytes);
            delivered = true;
        }
    }
    if delivered {
        port.wake_reader();
    }
    let state = session.flow(flow)?;
    let (drained, sent) = (state.is_drained(), state.is_sent());
    if drained {
        port.end_of_data();
    }
    if sent {
        port.all_sent();
    }
    if drained && sent {
        session.release_flow(flow);
        return Some(true);
    }
    Some(false)
}
