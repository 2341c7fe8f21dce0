//! Sessions as programs see them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use stoq_interface::{CallStatus, NodeId, ServiceName};
use stoq_transport::wire::CallHeader;
use stoq_transport::{CallKind, SessionKey};
use stoq_worker::{CallFailure, Command, WorkerGroup, WorkerHandle};
use tokio::sync::oneshot;

use crate::{CallError, Flow};

/// Everything shared with one peer. Clones are the same session; it lives on while flows use it.
#[derive(Clone, Debug)]
pub struct Session {
    pub(crate) worker: WorkerHandle,
    pub(crate) key: SessionKey,
    pub(crate) peer: NodeId,
    /// The workers live as long as anybody uses them
    pub(crate) _group: Arc<WorkerGroup>,
}

impl Session {
    /// The peer's node, as its certificate proves it
    pub fn peer(&self) -> &NodeId {
        &self.peer
    }

    /// The session's number, as in [`crate::SessionStatus`]
    pub fn number(&self) -> u64 {
        self.key.number()
    }

    /// Opens a flow to a service of the peer. Nothing waits for the peer: a refusal shows at the first read
    /// or write that follows it.
    pub fn open(&self, service: &ServiceName) -> Flow {
        Flow::new(self.worker.open(self.key, self.peer.clone(), service.clone()))
    }

    /// Calls `method` (`service/method`) of the peer. `timer` ends the wait: pass the sleep of the runtime in
    /// use, for `deadline`, which the peer is told.
    ///
    /// # Errors
    /// [`CallError::Status`] where the peer refused or failed, [`CallError::Deadline`] where `timer` came
    /// first, [`CallError::Failure`] where the connection was lost.
    pub async fn call(
        &self,
        method: &str,
        body: Bytes,
        deadline: Duration,
        timer: impl Future<Output = ()>,
    ) -> Result<Bytes, CallError> {
        self.ask(CallKind::Request, method, body, deadline, timer).await
    }

    /// Like [`Self::call`], for a question that is answered when there is news. A connection that is replaced does
    /// not wait for the answer.
    ///
    /// # Errors
    /// As [`Self::call`]; [`CallError::Failure`] also where the connection was replaced: ask again.
    pub async fn watch(
        &self,
        method: &str,
        body: Bytes,
        deadline: Duration,
        timer: impl Future<Output = ()>,
    ) -> Result<Bytes, CallError> {
        self.ask(CallKind::Watch, method, body, deadline, timer).await
    }

    pub(crate) async fn ask(
        &self,
        kind: CallKind,
        method: &str,
        body: Bytes,
        deadline: Duration,
        timer: impl Future<Output = ()>,
    ) -> Result<Bytes, CallError> {
        let (reply, answer) = oneshot::channel();
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let header = CallHeader { method: method.to_owned(), deadline_ms, body };
        let command = Command::Call { session: self.key, kind, header, reply };
        self.worker.command(command).map_err(|_| CallFailure::Busy)?;
        let timer = std::pin::pin!(timer);
        match select(answer, timer).await {
            Either::Right(_) => Err(CallError::Deadline),
            Either::Left((Err(_), _)) => Err(CallFailure::Lost.into()),
            Either::Left((Ok(Err(failure)), _)) => Err(failure.into()),
            Either::Left((Ok(Ok(reply)), _)) => match reply.status {
                CallStatus::Ok => Ok(reply.body),
                status => Err(CallError::Status(status, reply.body)),
            },
        }
    }

    /// Replaces every connection of the session by a younger one, make-before-break; does not wait. `false`
    /// when the worker takes no more commands.
    pub fn replace_connections(&self) -> bool {
        self.worker.command(Command::Replace(self.key)).is_ok()
    }

    /// Closes the session and every flow of it. `false` when the worker takes no more commands.
    pub fn close(&self) -> bool {
        self.worker.command(Command::CloseSession(self.key)).is_ok()
    }
}
