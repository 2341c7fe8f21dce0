//! Who takes incoming flows and calls: services with a bounded backlog each, and one handler of calls.
//! Shared by all workers of a group; replaced as a whole, read without locks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use arc_swap::ArcSwap;
use bytes::Bytes;
use crossbeam::queue::ArrayQueue;
use futures_util::task::AtomicWaker;
use stoq_interface::{NodeId, PeerCertificate, ServiceName};
use stoq_transport::LinkId;
use stoq_transport::wire::{CallReply, CallStatus};

use crate::{Command, FlowPort, WorkerHandle};

/// The service has a taker already
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the service is served already in this process; stop the other one first")]
pub struct ServiceTaken;

/// Where new flows of a service wait for their program
#[derive(Debug)]
pub struct Acceptor {
    waiting: ArrayQueue<Arc<FlowPort>>,
    waker: AtomicWaker,
}

impl Acceptor {
    pub(crate) fn offer(&self, port: Arc<FlowPort>) -> Result<(), Arc<FlowPort>> {
        let asker = Arc::clone(&port);
        self.waiting.push(port)?;
        asker.wakes().wake(&self.waker);
        Ok(())
    }

    /// The next flow
    pub fn take(&self) -> Option<Arc<FlowPort>> {
        self.waiting.pop()
    }

    /// Whom to wake when a flow waits
    pub fn on_flow(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

/// A request from a peer; dropped unanswered, it fails at the caller's deadline
#[derive(Debug)]
pub struct IncomingCall {
    /// Who asks
    pub peer: NodeId,
    /// The certificate it has shown on the connection by which the call came
    pub certificate: PeerCertificate,
    /// `service/method`
    pub method: String,
    /// Time the caller waits
    pub deadline_ms: u64,
    /// The request
    pub body: Bytes,
    pub(crate) worker: WorkerHandle,
    pub(crate) link: LinkId,
    pub(crate) stream: u64,
}

impl IncomingCall {
    /// Answers; `false` when the worker takes no more commands
    pub fn answer(self, status: CallStatus, body: Bytes) -> bool {
        let reply = CallReply { status, body };
        self.worker.command(Command::Answer { link: self.link, stream: self.stream, reply }).is_ok()
    }
}

type CallHandler = dyn Fn(IncomingCall) + Send + Sync;

/// Takers of flows and calls
#[derive(Default)]
pub struct Registry {
    services: ArcSwap<HashMap<ServiceName, Arc<Acceptor>>>,
    calls: ArcSwap<Option<Arc<CallHandler>>>,
    /// Serialises writers; readers never take it
    writing: Mutex<()>,
}

impl Registry {
    /// Registers the taker of a service
    pub fn serve(
        &self,
        service: ServiceName,
        backlog: usize,
    ) -> Result<Arc<Acceptor>, ServiceTaken> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut services = HashMap::clone(&self.services.load());
        if services.contains_key(&service) {
            return Err(ServiceTaken);
        }
        let waiting = ArrayQueue::new(backlog.max(1));
        let acceptor = Arc::new(Acceptor { waiting, waker: AtomicWaker::new() });
        services.insert(service, Arc::clone(&acceptor));
        self.services.store(Arc::new(services));
        Ok(acceptor)
    }

    /// Removes the taker of a service
    pub fn stop(&self, service: &ServiceName) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut services = HashMap::clone(&self.services.load());
        services.remove(service);
        self.services.store(Arc::new(services));
    }

    /// Sets who answers calls; must not block: it runs where wake-ups are acted on
    pub fn serve_calls(&self, handler: impl Fn(IncomingCall) + Send + Sync + 'static) {
        self.calls.store(Arc::new(Some(Arc::new(handler))));
    }

    pub(crate) fn acceptor(&self, service: &ServiceName) -> Option<Arc<Acceptor>> {
        self.services.load().get(service).cloned()
    }

    pub(crate) fn call_handler(&self) -> Option<Arc<CallHandler>> {
        Option::clone(&self.calls.load())
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("services", &self.services.load().len()).finish()
    }
}
