//! The meeting point of one flow's program and its worker: two bounded queues, a few flags, two wakers. The
//! program never waits for a lock and the worker never waits for the program.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Waker;

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;
use futures_util::task::AtomicWaker;
use stoq_interface::{FlowError, NodeId, ServiceName};
use stoq_transport::SessionKey;

use crate::WorkerHandle;

/// Buffers that may wait in each direction
const TO_WORKER: usize = 16;
const FROM_WORKER: usize = 32;

/// The program has written everything
const FINISHED: u32 = 1;
/// The program has gone away
const ABANDONED: u32 = 2;
/// Everything the peer sent is in the queue
const READ_END: u32 = 4;
/// Everything the program wrote has arrived at the peer
const SENT: u32 = 8;
/// The worker holds more than the queue takes
const MORE: u32 = 16;
/// The worker has forgotten the flow
const RELEASED: u32 = 32;

const NO_FLOW: u64 = u64::MAX;
const NO_ERROR: u64 = u64::MAX;

/// What a read finds
#[derive(Debug, Eq, PartialEq)]
pub enum ReadState {
    /// The next bytes
    Data(Bytes),
    /// Nothing now
    Pending,
    /// The peer has finished
    End,
    /// The flow ended early
    Failed(FlowError),
}

/// What a write finds
#[derive(Debug, Eq, PartialEq)]
pub enum WriteState {
    /// Taken over
    Taken,
    /// No room now: the bytes come back
    Full(Bytes),
    /// The flow ended early
    Failed(FlowError),
}

/// One flow, seen from both sides
#[derive(Debug)]
pub struct FlowPort {
    worker: WorkerHandle,
    session: SessionKey,
    peer: NodeId,
    service: ServiceName,
    flow: AtomicU64,
    to_worker: ArrayQueue<Bytes>,
    from_worker: ArrayQueue<Bytes>,
    flags: AtomicU32,
    error: AtomicU64,
    reset_wanted: AtomicU64,
    queued: AtomicBool,
    read_waker: AtomicWaker,
    write_waker: AtomicWaker,
}

impl FlowPort {
    pub(crate) fn new(
        worker: WorkerHandle,
        session: SessionKey,
        peer: NodeId,
        service: ServiceName,
    ) -> Self {
        Self {
            worker,
            session,
            peer,
            service,
            flow: AtomicU64::new(NO_FLOW),
            to_worker: ArrayQueue::new(TO_WORKER),
            from_worker: ArrayQueue::new(FROM_WORKER),
            flags: AtomicU32::new(0),
            error: AtomicU64::new(NO_ERROR),
            reset_wanted: AtomicU64::new(NO_ERROR),
            queued: AtomicBool::new(false),
            read_waker: AtomicWaker::new(),
            write_waker: AtomicWaker::new(),
        }
    }

    /// The node at the other end
    pub fn peer(&self) -> &NodeId {
        &self.peer
    }

    /// The service the flow reaches
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The session's key
    pub fn session(&self) -> SessionKey {
        self.session
    }

    /// The flow's number within its session, once opened
    pub fn number(&self) -> Option<u64> {
        Some(self.flow.load(Ordering::Acquire)).filter(|flow| *flow != NO_FLOW)
    }

    fn has(&self, flag: u32) -> bool {
        self.flags.load(Ordering::Acquire) & flag != 0
    }

    fn set(&self, flag: u32) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
    }

    /// Why the flow ended early, if it did
    pub fn error(&self) -> Option<FlowError> {
        FlowError::from_code(self.error.load(Ordering::Acquire))
    }

    // The program's side.

    /// The next bytes from the peer
    pub fn read(self: &std::sync::Arc<Self>) -> ReadState {
        // The flags are read first: what was queued before they were set is seen by the pop.
        let ended = self.has(READ_END);
        let failed = self.error();
        if let Some(bytes) = self.from_worker.pop() {
            if self.has(MORE) && self.from_worker.len() <= FROM_WORKER / 2 {
                self.attend();
            }
            return ReadState::Data(bytes);
        }
        match (failed, ended) {
            (Some(error), _) => ReadState::Failed(error),
            (None, true) => ReadState::End,
            (None, false) => ReadState::Pending,
        }
    }

    /// Whom to wake when a read may find something
    pub fn on_readable(&self, waker: &Waker) {
        self.read_waker.register(waker);
    }

    /// Hands bytes to the worker
    pub fn write(self: &std::sync::Arc<Self>, bytes: Bytes) -> WriteState {
        if let Some(error) = self.error() {
            return WriteState::Failed(error);
        }
        if bytes.is_empty() {
            return WriteState::Taken;
        }
        match self.to_worker.push(bytes) {
            Ok(()) => {
                self.attend();
                WriteState::Taken
            }
            Err(bytes) => WriteState::Full(bytes),
        }
    }

    /// Whom to wake when a write may find room, or everything has arrived
    pub fn on_writable(&self, waker: &Waker) {
        self.write_waker.register(waker);
    }

    /// Nothing more will be written
    pub fn finish(self: &std::sync::Arc<Self>) {
        self.set(FINISHED);
        self.attend();
    }

    /// Whether [`Self::finish`] was called
    pub fn is_finished(&self) -> bool {
        self.has(FINISHED)
    }

    /// Whether everything written has arrived at the peer
    pub fn is_sent(&self) -> bool {
        self.has(SENT)
    }

    /// Ends the flow early
    pub fn reset(self: &std::sync::Arc<Self>, reason: FlowError) {
        self.reset_wanted.store(reason.code(), Ordering::Release);
        self.attend();
    }

    /// The program has gone: what it finished still arrives, anything else is cancelled
    pub fn abandon(self: &std::sync::Arc<Self>) {
        self.set(ABANDONED);
        self.attend();
    }

    /// Asks the worker to look at the flow
    fn attend(self: &std::sync::Arc<Self>) {
        if !self.has(RELEASED) && !self.queued.swap(true, Ordering::AcqRel) {
            self.worker.attend(std::sync::Arc::clone(self));
        }
    }

    // The worker's side.

    pub(crate) fn attended(&self) {
        self.queued.store(false, Ordering::Release);
    }

    pub(crate) fn opened(&self, flow: u64) {
        self.flow.store(flow, Ordering::Release);
    }

    pub(crate) fn take_written(&self) -> Option<Bytes> {
        self.to_worker.pop()
    }

    /// Whether it is worth waking a writer that met a full queue
    pub(crate) fn wants_more(&self) -> bool {
        self.to_worker.len() <= TO_WORKER / 2
    }

    pub(crate) fn wake_writer(&self) {
        self.worker.0.wakes.wake(&self.write_waker);
    }

    pub(crate) fn wants_finish(&self) -> bool {
        self.has(FINISHED) && self.to_worker.is_empty()
    }

    pub(crate) fn wants_reset(&self) -> Option<FlowError> {
        FlowError::from_code(self.reset_wanted.load(Ordering::Acquire))
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.has(ABANDONED)
    }

    pub(crate) fn has_room(&self) -> bool {
        let room = !self.from_worker.is_full();
        if room {
            self.flags.fetch_and(!MORE, Ordering::AcqRel);
        } else {
            self.set(MORE);
        }
        // The program may have emptied the queue before it could see the flag.
        room || !self.from_worker.is_full()
    }

    /// The worker's queue of wake-ups
    pub(crate) fn wakes(&self) -> &crate::wakes::Wakes {
        &self.worker.0.wakes
    }

    pub(crate) fn deliver(&self, bytes: Bytes) {
        // `has_room` was asked, and only the worker pushes.
        let _full_is_impossible = self.from_worker.push(bytes);
    }

    pub(crate) fn wake_reader(&self) {
        self.worker.0.wakes.wake(&self.read_waker);
    }

    pub(crate) fn end_of_data(&self) {
        if !self.has(READ_END) {
            self.set(READ_END);
            self.wake_reader();
        }
    }

    pub(crate) fn all_sent(&self) {
        if !self.has(SENT) {
            self.set(SENT);
            self.wake_writer();
        }
    }

    /// Fails a port that nobody waits on yet
    pub(crate) fn refuse(&self, error: FlowError) {
        self.error.store(error.code(), Ordering::Release);
    }

    pub(crate) fn fail(&self, error: FlowError) {
        self.refuse(error);
        self.wake_reader();
        self.wake_writer();
    }

    pub(crate) fn release(&self) {
        self.set(RELEASED);
    }
}
