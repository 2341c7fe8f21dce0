//! A group: the workers of one UDP address, started together and joined at the end.

use std::net::SocketAddrV6;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use stoq_interface::{ControlSnapshot, ListenerStatus, WorkerCounters, WorkerStatus};
use stoq_memory::{TopologyError, bind_current_thread, host_topology};
use stoq_transport::{Endpoint, EndpointSecrets, EndpointSetup};
use stoq_udp::{
    IoDescription, IoSettings, PeerRing, PortLock, Socket, SocketError, SocketGroup, SocketOptions,
    Steering, ZeroCopyState,
};

use crate::command::{Command, WorkerHandle};
use crate::peers::{Inbox, Peers, inbox};
use crate::registry::Registry;
use crate::turn::{Worker, WorkerParts};

/// What a group is made of
#[derive(Clone, Debug)]
pub struct GroupSetup {
    /// Address of all its sockets; port 0 asks for a free one
    pub listen: SocketAddrV6,
    /// One worker per entry, bound to the core; `None` leaves it to the scheduler
    pub cores: Vec<Option<usize>>,
    /// Socket options
    pub socket: SocketOptions,
    /// I/O settings; the NUMA node is each worker's own
    pub io: IoSettings,
    /// Never sleep
    pub busy_poll: bool,
    /// Trains sent before what has arrived is looked at again
    pub trains_per_turn: usize,
    /// The first snapshot
    pub snapshot: ControlSnapshot,
}

/// Why a group did not start
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A group has at least one worker
    #[error("no worker: name at least one core")]
    NoWorker,
    /// The address could not be had
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A core could not be had
    #[error("worker {worker}: {cause}")]
    Core {
        /// The worker
        worker: usize,
        /// Why
        cause: TopologyError,
    },
    /// A thread could not be made
    #[error("worker {worker}: the thread could not be started: {cause}")]
    Thread {
        /// The worker
        worker: usize,
        /// Why
        cause: std::io::Error,
    },
    /// No I/O provider works
    #[error("worker {worker}: {cause}")]
    Io {
        /// The worker
        worker: usize,
        /// Why
        cause: String,
    },
}

/// Running workers
#[derive(Debug)]
pub struct WorkerGroup {
    address: SocketAddrV6,
    steered: bool,
    handles: Vec<WorkerHandle>,
    counters: Vec<Arc<WorkerCounters>>,
    status: Vec<WorkerStatus>,
    descriptions: Vec<IoDescription>,
    snapshot: Arc<ArcSwap<ControlSnapshot>>,
    registry: Arc<Registry>,
    threads: Vec<JoinHandle<()>>,
    _lock: PortLock,
}

/// What a worker thread reports once its I/O stands
struct Ready {
    handle: WorkerHandle,
    ring: PeerRing,
    description: IoDescription,
    fallback: Option<String>,
}

/// What a worker thread is given
struct Assignment {
    index: usize,
    core: Option<usize>,
    node: Option<usize>,
    socket: Socket,
    io: IoSettings,
    busy_poll: bool,
    trains_per_turn: usize,
    setup: EndpointSetup,
    inbox: Arc<Inbox>,
    snapshot: Arc<ArcSwap<ControlSnapshot>>,
    registry: Arc<Registry>,
}

type ReadyReply = SyncSender<Result<Ready, StartError>>;
type PeersReply = Receiver<Vec<(Arc<Inbox>, PeerRing)>>;

impl WorkerGroup {
    /// Binds the address, starts the threads, waits until each has its I/O
    pub fn start(setup: GroupSetup) -> Result<Self, StartError> {
        let workers = setup.cores.len();
        if workers == 0 {
            return Err(StartError::NoWorker);
        }
        let secrets = EndpointSecrets::random();
        let steering = Steering::new(secrets.steering, workers as u32);
        let group = SocketGroup::bind(setup.listen, workers, &setup.socket, Some(&steering))?;
        let (address, steered) = (group.address(), group.steered());
        let (sockets, lock) = group.into_parts();
        let first = Arc::new(setup.snapshot.clone());
        let snapshot = Arc::new(ArcSwap::new(Arc::clone(&first)));
        let registry = Arc::new(Registry::default());
        let inboxes: Vec<Arc<Inbox>> = (0..workers).map(|_| inbox()).collect();
        let mut threads = Vec::with_capacity(workers);
        let mut waiting = Vec::with_capacity(workers);
        for (index, socket) in sockets.into_iter().enumerate() {
            let core = setup.cores[index];
            let node = node_of(index, core)?;
            let assignment = Assignment {
                index,
                core,
                node,
                socket,
                io: IoSettings { node, ..setup.io.clone() },
                busy_poll: setup.busy_poll,
                trains_per_turn: setup.trains_per_turn,
                setup: EndpointSetup {
                    worker: index,
                    workers,
                    local: address,
                    secrets: secrets.clone(),
                    seed: rand::random(),
                    snapshot: Arc::clone(&first),
                    counters: Arc::new(WorkerCounters::default()),
                },
                inbox: Arc::clone(&inboxes[index]),
                snapshot: Arc::clone(&snapshot),
                registry: Arc::clone(&registry),
            };
            let (ready, is_ready) = sync_channel(1);
            let (peers, get_peers) = sync_channel(1);
            let thread = std::thread::Builder::new()
                .name(format!("stoq-worker-{index}"))
                .spawn(move || work(assignment, ready, get_peers))
                .map_err(|cause| StartError::Thread { worker: index, cause })?;
            threads.push(thread);
            waiting.push((core, node, is_ready, peers));
        }
        let mut group = Self {
            address,
            steered,
            handles: Vec::new(),
            counters: Vec::new(),
            status: Vec::new(),
            descriptions: Vec::new(),
            snapshot,
            registry,
            threads,
            _lock: lock,
        };
        group.await_workers(waiting, &inboxes)?;
        Ok(group)
    }

    #[expect(clippy::type_complexity, reason = "one tuple per worker, taken apart at once")]
    fn await_workers(
        &mut self,
        waiting: Vec<(
            Option<usize>,
            Option<usize>,
            Receiver<Result<Ready, StartError>>,
            SyncSender<Vec<(Arc<Inbox>, PeerRing)>>,
        )>,
        inboxes: &[Arc<Inbox>],
    ) -> Result<(), StartError> {
        let mut rings = Vec::new();
        let mut senders = Vec::new();
        for (index, (core, node, is_ready, peers)) in waiting.into_iter().enumerate() {
            let gone = || StartError::Io { worker: index, cause: "the thread ended".into() };
            let ready = is_ready.recv().map_err(|_| gone())??;
            rings.push((Arc::clone(&inboxes[index]), ready.ring));
            self.counters.push(Arc::clone(ready.handle.counters()));
            self.status.push(status(index, core, node, &ready.description, ready.fallback));
            self.descriptions.push(ready.description);
            self.handles.push(ready.handle);
            senders.push(peers);
        }
        for peers in senders {
            // A thread that has ended meanwhile is found at its next command.
            let _ = peers.send(rings.clone());
        }
        Ok(())
    }

    /// The bound address
    pub fn address(&self) -> SocketAddrV6 {
        self.address
    }

    /// The bound address, as operators see it
    pub fn listener(&self) -> ListenerStatus {
        ListenerStatus { address: self.address, sockets: self.handles.len(), steered: self.steered }
    }

    /// The workers, by index
    pub fn handles(&self) -> &[WorkerHandle] {
        &self.handles
    }

    /// What the workers count
    pub fn counters(&self) -> &[Arc<WorkerCounters>] {
        &self.counters
    }

    /// What the workers are
    pub fn status(&self) -> &[WorkerStatus] {
        &self.status
    }

    /// What their I/O turned out to be
    pub fn descriptions(&self) -> &[IoDescription] {
        &self.descriptions
    }

    /// Takers of flows and calls
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Puts a snapshot into force on every worker, each at its next turn
    pub fn publish(&self, snapshot: ControlSnapshot) {
        self.snapshot.store(Arc::new(snapshot));
        for handle in &self.handles {
            handle.0.waker.wake();
        }
    }

    /// The snapshot in force
    pub fn snapshot(&self) -> Arc<ControlSnapshot> {
        self.snapshot.load_full()
    }

    /// Asks every worker to close everything and end
    pub fn stop(&self) {
        for handle in &self.handles {
            if handle.command(Command::Stop).is_err() {
                tracing::debug!("a worker has stopped already");
            }
        }
    }
}

impl Drop for WorkerGroup {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

fn node_of(worker: usize, core: Option<usize>) -> Result<Option<usize>, StartError> {
    let Some(core) = core else { return Ok(None) };
    let topology = host_topology().map_err(|cause| StartError::Core { worker, cause })?;
    Ok(topology.node_of(core))
}

fn status(
    index: usize,
    core: Option<usize>,
    node: Option<usize>,
    io: &IoDescription,
    fallback: Option<String>,
) -> WorkerStatus {
    WorkerStatus {
        index,
        core,
        node,
        io: io.provider,
        io_fallback: fallback,
        gso_segments: io.gso_segments,
        gro: io.gro,
        zero_copy: matches!(io.zero_copy, ZeroCopyState::On | ZeroCopyState::Trying),
        page_bytes: io.page_bytes,
        receive_buffer_bytes: io.receive_buffer_bytes,
    }
}

/// The thread of one worker
fn work(assignment: Assignment, ready: ReadyReply, peers: PeersReply) {
    let Assignment {
        index,
        core,
        node,
        socket,
        io,
        busy_poll,
        trains_per_turn,
        setup,
        inbox,
        snapshot,
        registry,
    } = assignment;
    if let Some(core) = core
        && let Err(cause) = bind_current_thread(core)
    {
        let _starter_waits_for_this = ready.send(Err(StartError::Core { worker: index, cause }));
        return;
    }
    let opened = match stoq_uring::open(socket, &io) {
        Ok(opened) => opened,
        Err(error) => {
            let cause = error.to_string();
            let _starter_waits_for_this = ready.send(Err(StartError::Io { worker: index, cause }));
            return;
        }
    };
    let bell = match stoq_udp::Waker::new() {
        Ok(bell) => bell,
        Err(error) => {
            let cause = format!("an eventfd could not be made: {error}");
            let _starter_waits_for_this = ready.send(Err(StartError::Io { worker: index, cause }));
            return;
        }
    };
    let handle = WorkerHandle::new(opened.io.waker(), bell, Arc::clone(&setup.counters));
    let report = Ready {
        handle: handle.clone(),
        ring: opened.io.peer_ring(),
        description: opened.io.describe(),
        fallback: opened.fallback.map(|failure| failure.to_string()),
    };
    if ready.send(Ok(report)).is_err() {
        return;
    }
    // The starter hands out everyone's rings once all stand; if it gave up, so does this thread.
    let Ok(rings) = peers.recv() else { return };
    tracing::debug!(worker = index, ?core, ?node, "worker started");
    let worker = Worker::new(WorkerParts {
        endpoint: Endpoint::new(setup),
        io: opened.io,
        handle,
        inbox,
        peers: Peers::new(index, rings),
        snapshot,
        registry,
        busy_poll,
        trains_per_turn,
    });
    worker.run();
}
