//! Endpoints as programs see them: built once, shared by cloning, gone with the last clone.

use std::future::poll_fn;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use stoq_interface::{
    ConnectionStatus, ControlSnapshot, FlowStatus, ListenerStatus, NodeId, ServiceName,
    SessionStatus, WorkerCounters, WorkerStatus,
};
use stoq_transport::SessionKey;
use stoq_udp::{IoDescription, IoSettings, SocketOptions, ZeroCopy};
use stoq_worker::{
    Acceptor, Command, ConnectError, GroupSetup, ServiceTaken, StartError, WorkerGroup,
    WorkerHandle,
};
use tokio::sync::oneshot;

use crate::{CallRequest, Flow, Session, wakes};

/// How workers reach the kernel
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum IoPreference {
    /// io_uring where it works, plain system calls elsewhere; status says which and why
    #[default]
    Auto,
    /// Plain system calls
    SystemCalls,
}

/// How many workers, where, and with what
#[derive(Clone, Debug)]
pub struct WorkerPlan {
    /// One worker bound to each core; empty: one worker, left to the scheduler
    pub cores: Vec<usize>,
    /// System interface
    pub io: IoPreference,
    /// Never sleep: lowest latency, a whole core each
    pub busy_poll: bool,
    /// Ask for huge pages
    pub huge_pages: bool,
    /// Socket receive buffer to ask for, in octets
    pub receive_buffer_bytes: usize,
    /// Receive buffers of 64 KiB
    pub receive_buffers: u16,
    /// Send slabs of 64 KiB
    pub send_slabs: u32,
    /// Bind each worker to its core; off, the cores only say how many workers there are
    pub pinned: bool,
    /// Several datagrams per send, where that works
    pub gso: bool,
    /// Several datagrams per receive, where that works
    pub gro: bool,
    /// One request receives train after train; rings only
    pub multishot: bool,
    /// Zero-copy sends; rings only
    pub zero_copy: ZeroCopy,
    /// Register the send memory; rings only
    pub registered_buffers: bool,
    /// Trains a worker takes in before it answers; all that have arrived make the fewest acknowledgements
    pub trains_per_receive: usize,
    /// Trains a worker sends before it looks at what has arrived
    pub trains_per_turn: usize,
}

impl Default for WorkerPlan {
    fn default() -> Self {
        let io = IoSettings::default();
        Self {
            cores: Vec::new(),
            io: IoPreference::Auto,
            busy_poll: false,
            huge_pages: io.prefer_huge,
            receive_buffer_bytes: SocketOptions::default().receive_buffer_bytes,
            receive_buffers: io.receive_buffers,
            send_slabs: io.send_slabs,
            pinned: true,
            gso: io.gso,
            gro: io.gro,
            multishot: io.multishot,
            zero_copy: io.zero_copy,
            registered_buffers: io.registered_buffers,
            trains_per_receive: io.trains_per_receive,
            trains_per_turn: 8,
        }
    }
}

impl WorkerPlan {
    /// One entry per worker: the core it is bound to, or `None`
    pub fn places(&self) -> Vec<Option<usize>> {
        match self.cores.as_slice() {
            [] => vec![None],
            cores => cores.iter().map(|core| self.pinned.then_some(*core)).collect(),
        }
    }

    /// How each worker's socket is made
    pub fn socket_options(&self) -> SocketOptions {
        SocketOptions {
            receive_buffer_bytes: self.receive_buffer_bytes,
            ..SocketOptions::default()
        }
    }

    /// How each worker's I/O is made; the NUMA node is for whoever knows the core
    pub fn io_settings(&self) -> IoSettings {
        IoSettings {
            send_slabs: self.send_slabs,
            receive_buffers: self.receive_buffers,
            node: None,
            prefer_huge: self.huge_pages,
            zero_copy: self.zero_copy,
            system_calls_only: self.io == IoPreference::SystemCalls,
            gso: self.gso,
            gro: self.gro,
            multishot: self.multishot,
            registered_buffers: self.registered_buffers,
            trains_per_receive: self.trains_per_receive,
        }
    }
}

/// Collects what an endpoint needs
#[derive(Clone, Debug)]
pub struct EndpointBuilder {
    listen: SocketAddrV6,
    plan: WorkerPlan,
    snapshot: ControlSnapshot,
}

impl EndpointBuilder {
    /// The address to bind; port 0 asks for a free one. Default: a free port of `[::]`.
    pub fn listen(mut self, address: SocketAddrV6) -> Self {
        self.listen = address;
        self
    }

    /// The workers. Default: one, unbound.
    pub fn workers(mut self, plan: WorkerPlan) -> Self {
        self.plan = plan;
        self
    }

    /// Identity, trust, services and limits. Without an identity nothing is accepted or dialled.
    pub fn snapshot(mut self, snapshot: ControlSnapshot) -> Self {
        self.snapshot = snapshot;
        self
    }

    /// Binds the address and starts the workers; blocks until each stands. Built inside a tokio runtime (with
    /// I/O enabled), the endpoint wakes tasks from there; elsewhere its workers wake them themselves.
    pub fn build(self) -> Result<Endpoint, StartError> {
        let group = WorkerGroup::start(GroupSetup {
            listen: self.listen,
            cores: self.plan.places(),
            socket: self.plan.socket_options(),
            io: self.plan.io_settings(),
            busy_poll: self.plan.busy_poll,
            trains_per_turn: self.plan.trains_per_turn,
            snapshot: self.snapshot,
        })?;
        wakes::listen(group.handles());
        Ok(Endpoint { group: Arc::new(group), next: Arc::new(AtomicUsize::new(0)) })
    }
}

/// One UDP address with its workers, dialling and accepting
#[derive(Clone, Debug)]
pub struct Endpoint {
    group: Arc<WorkerGroup>,
    next: Arc<AtomicUsize>,
}

impl Endpoint {
    /// Starts to collect what an endpoint needs
    pub fn builder() -> EndpointBuilder {
        EndpointBuilder {
            listen: SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0),
            plan: WorkerPlan::default(),
            snapshot: ControlSnapshot::default(),
        }
    }

    /// The bound address
    pub fn local_address(&self) -> SocketAddrV6 {
        self.group.address()
    }

    /// Puts a snapshot into force: handshakes from now on use its identity, trust, services and limits
    pub fn publish(&self, snapshot: ControlSnapshot) {
        self.group.publish(snapshot);
    }

    /// The snapshot in force
    pub fn snapshot(&self) -> Arc<ControlSnapshot> {
        self.group.snapshot()
    }

    /// A session with `node` at `address`: resolves once the peer has accepted this node
    ///
    /// # Errors
    /// [`ConnectError::Refused`] when this side refused the peer, [`ConnectError::Closed`] otherwise.
    pub async fn connect(
        &self,
        address: SocketAddrV6,
        node: &NodeId,
    ) -> Result<Session, ConnectError> {
        let handles = self.group.handles();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let worker = handles[turn % handles.len()].clone();
        let (reply, outcome) = oneshot::channel();
        let command = Command::Connect { address, node: node.clone(), reply };
        worker.command(command).map_err(|_| ConnectError::Busy)?;
        let connected = outcome.await.map_err(|_| ConnectError::EndpointClosed)??;
        Ok(Session {
            worker,
            key: connected.session,
            peer: connected.peer,
            _group: Arc::clone(&self.group),
        })
    }

    /// Takes the incoming flows of a service. Who may open them is the snapshot's to say.
    ///
    /// # Errors
    /// [`ServiceTaken`] while another [`Incoming`] of the service lives.
    pub fn serve(&self, service: ServiceName) -> Result<Incoming, ServiceTaken> {
        let backlog = self.snapshot().limits.accept_backlog;
        let acceptor = self.group.registry().serve(service.clone(), backlog)?;
        Ok(Incoming { acceptor, service, group: Arc::clone(&self.group) })
    }

    /// Sets who answers calls. The handler must pass the request on, not work: wake-ups of other tasks wait for it.
    pub fn serve_calls(&self, handler: impl Fn(CallRequest) + Send + Sync + 'static) {
        self.group.registry().serve_calls(move |call| handler(CallRequest(call)));
    }

    /// What each worker counts
    pub fn counters(&self) -> &[Arc<WorkerCounters>] {
        self.group.counters()
    }

    /// What each worker is
    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.group.status().to_vec()
    }

    /// What each worker's I/O turned out to be
    pub fn io(&self) -> &[IoDescription] {
        self.group.descriptions()
    }

    /// The bound address, as operators see it
    pub fn listener(&self) -> ListenerStatus {
        self.group.listener()
    }

    async fn gather<T>(&self, command: impl Fn(oneshot::Sender<Vec<T>>) -> Command) -> Vec<T> {
        let mut all = Vec::new();
        for handle in self.group.handles() {
            let (reply, outcome) = oneshot::channel();
            if handle.command(command(reply)).is_ok()
                && let Ok(part) = outcome.await
            {
                all.extend(part);
            }
        }
        all
    }

    /// The sessions now held
    pub async fn sessions(&self) -> Vec<SessionStatus> {
        self.gather(Command::Sessions).await
    }

    /// The connections now held
    pub async fn connections(&self) -> Vec<ConnectionStatus> {
        self.gather(Command::Connections).await
    }

    /// The flows of a session, by its number
    pub async fn flows(&self, session: u64) -> Vec<FlowStatus> {
        let (reply, outcome) = oneshot::channel();
        let Some(worker) = self.worker_of(session) else { return Vec::new() };
        let command = Command::Flows(SessionKey::of_number(session), reply);
        if worker.command(command).is_err() {
            return Vec::new();
        }
        outcome.await.unwrap_or_default()
    }

    fn worker_of(&self, number: u64) -> Option<&WorkerHandle> {
        self.group.handles().get((number >> 48) as usize)
    }

    /// Closes a connection by its number, as an operator would; `false` when there is none
    pub async fn close_connection(&self, number: u64) -> bool {
        let (reply, outcome) = oneshot::channel();
        let Some(worker) = self.worker_of(number) else { return false };
        worker.command(Command::CloseConnection(number, reply)).is_ok()
            && outcome.await.unwrap_or(false)
    }

    /// Replaces a session's connections by its number, make-before-break; `false` when there is no such worker
    pub fn replace_session(&self, number: u64) -> bool {
        let worker = self.worker_of(number);
        worker.is_some_and(|worker| {
            worker.command(Command::Replace(SessionKey::of_number(number))).is_ok()
        })
    }

    /// Closes a session by its number; `false` when there is no such worker
    pub fn close_session(&self, number: u64) -> bool {
        let worker = self.worker_of(number);
        worker.is_some_and(|worker| {
            worker.command(Command::CloseSession(SessionKey::of_number(number))).is_ok()
        })
    }

    /// Takes nothing new, tells every peer, and lets flows finish until `timeout`; does not wait
    pub fn drain(&self, timeout: Duration) {
        for handle in self.group.handles() {
            // A worker that has stopped has nothing to drain.
            let _ = handle.command(Command::Drain(timeout));
        }
    }

    /// Closes every session and stops the workers; does not wait
    pub fn stop(&self) {
        self.group.stop();
    }
}

/// The incoming flows of one service
#[derive(Debug)]
pub struct Incoming {
    acceptor: Arc<Acceptor>,
    service: ServiceName,
    group: Arc<WorkerGroup>,
}

impl Incoming {
    /// The next flow; waits for one
    pub async fn next(&mut self) -> Option<Flow> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The next flow
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Flow>> {
        self.acceptor.on_flow(context.waker());
        match self.acceptor.take() {
            Some(port) => Poll::Ready(Some(Flow::new(port))),
            None => Poll::Pending,
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.group.registry().stop(&self.service);
        while let Some(port) = self.acceptor.take() {
            port.reset(stoq_interface::FlowError::NoSuchService);
        }
    }
}
