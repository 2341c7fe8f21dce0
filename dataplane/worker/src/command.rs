//! What programs ask of a worker, and the handle they ask through.

use std::net::SocketAddrV6;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::queue::{ArrayQueue, SegQueue};
use stoq_interface::{
    CloseReason, ConnectionStatus, FlowError, FlowStatus, NodeId, PeerRefusal, SessionStatus,
    WorkerCounters,
};
use stoq_transport::wire::{CallHeader, CallReply};
use stoq_transport::{CallKind, LinkId, SessionKey};
use stoq_udp::Waker;
use tokio::sync::oneshot;

use crate::FlowPort;
use crate::wakes::{WakeListener, Wakes};

/// Commands that may wait at one worker
const COMMANDS: usize = 8_192;

/// Why a session could not be had
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConnectError {
    /// This side refused the peer's certificate
    #[error("the peer was refused: {0}")]
    Refused(PeerRefusal),
    /// The connection ended before the session began
    #[error("no session: {0}")]
    Closed(CloseReason),
    /// The worker takes no more commands
    #[error("the worker is busy; try again")]
    Busy,
    /// The endpoint has been closed
    #[error("the endpoint is closed")]
    EndpointClosed,
}

/// A new session
#[derive(Clone, Debug)]
pub struct Connected {
    /// Its key
    pub session: SessionKey,
    /// The peer
    pub peer: NodeId,
}

/// Why a call has no reply
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CallFailure {
    /// The connection was lost; whether the peer acted is unknown
    #[error("the connection was lost before the reply came")]
    Lost,
    /// The worker takes no more commands
    #[error("the worker is busy; try again")]
    Busy,
}

/// What a program asks of a worker
#[derive(Debug)]
pub enum Command {
    /// Dial a node
    Connect {
        /// Where
        address: SocketAddrV6,
        /// Whom
        node: NodeId,
        /// The outcome
        reply: oneshot::Sender<Result<Connected, ConnectError>>,
    },
    /// Open the flow of a fresh port
    Open(Arc<FlowPort>),
    /// Make a call
    Call {
        /// Over which session
        session: SessionKey,
        /// Whether the connection waits for the reply
        kind: CallKind,
        /// The request
        header: CallHeader,
        /// The outcome
        reply: oneshot::Sender<Result<CallReply, CallFailure>>,
    },
    /// Answer a call
    Answer {
        /// The connection it came by
        link: LinkId,
        /// Its stream
        stream: u64,
        /// The answer
        reply: CallReply,
    },
    /// Replace a session's connections, make-before-break
    Replace(SessionKey),
    /// Close a session
    CloseSession(SessionKey),
    /// Close a connection by its number
    CloseConnection(u64, oneshot::Sender<bool>),
    /// Report sessions
    Sessions(oneshot::Sender<Vec<SessionStatus>>),
    /// Report a session's flows
    Flows(SessionKey, oneshot::Sender<Vec<FlowStatus>>),
    /// Report connections
    Connections(oneshot::Sender<Vec<ConnectionStatus>>),
    /// Let flows finish, then close
    Drain(Duration),
    /// Close everything and end the thread
    Stop,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub commands: ArrayQueue<Command>,
    /// Flows to look at; each at most once, so bounded by the number of flows
    pub attention: SegQueue<Arc<FlowPort>>,
    pub sleeping: AtomicBool,
    pub waker: Waker,
    pub counters: Arc<WorkerCounters>,
    pub stopped: AtomicBool,
    pub wakes: Arc<Wakes>,
}

/// The way to a worker, for any thread
#[derive(Clone, Debug)]
pub struct WorkerHandle(pub(crate) Arc<Shared>);

impl WorkerHandle {
    pub(crate) fn new(waker: Waker, bell: Waker, counters: Arc<WorkerCounters>) -> Self {
        Self(Arc::new(Shared {
            commands: ArrayQueue::new(COMMANDS),
            attention: SegQueue::new(),
            sleeping: AtomicBool::new(false),
            waker,
            counters,
            stopped: AtomicBool::new(false),
            wakes: Arc::new(Wakes::new(bell)),
        }))
    }

    /// Hands a command over; it comes back when the worker has stopped or its queue is full
    pub fn command(&self, command: Command) -> Result<(), Command> {
        if self.0.stopped.load(Ordering::Acquire) {
            return Err(command);
        }
        self.0.commands.push(command)?;
        self.wake();
        Ok(())
    }

    pub(crate) fn attend(&self, port: Arc<FlowPort>) {
        self.0.attention.push(port);
        self.wake();
    }

    fn wake(&self) {
        // Pairs with the worker's store before its last look at the queues: one of the two sees the other.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.0.sleeping.swap(false, Ordering::SeqCst) {
            self.0.waker.wake();
        }
    }

    /// Opens a flow; a failure shows at the port
    pub fn open(
        &self,
        session: SessionKey,
        peer: NodeId,
        service: stoq_interface::ServiceName,
    ) -> Arc<FlowPort> {
        let port = Arc::new(FlowPort::new(self.clone(), session, peer, service));
        if self.command(Command::Open(Arc::clone(&port))).is_err() {
            port.refuse(FlowError::Busy);
        }
        port
    }

    /// Lets a thread of the program act for the worker: wake its tasks, deliver answers, hand over calls. Until
    /// there is one, and after it is dropped, the worker does so itself.
    pub fn listen(&self) -> WakeListener {
        WakeListener::new(Arc::clone(&self.0.wakes))
    }

    /// What the worker counts
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.0.counters
    }
}
