//! A session as clients of services take it: octets in, octets out, on the clock of whatever runtime is in use.
//! What the calls ask is theirs.

use std::time::Duration;

use bytes::Bytes;
use stoq_interface::{CallChannel, CallEnd};
use stoq_transport::CallKind;

use crate::{CallError, Session};

/// Calls over one session; made by [`Session::calls`] and [`Session::watches`]
#[derive(Clone, Debug)]
pub struct SessionCalls<S> {
    session: Session,
    kind: CallKind,
    /// The sleep of the runtime
    sleep: S,
}

impl Session {
    /// This session as a carrier of calls. `sleep` makes the timer of each: pass the function of the runtime in
    /// use (`tokio::time::sleep`).
    pub fn calls<S>(&self, sleep: S) -> SessionCalls<S> {
        SessionCalls { session: self.clone(), kind: CallKind::Request, sleep }
    }

    /// The same for questions that are answered when there is news: see [`Session::watch`]
    pub fn watches<S>(&self, sleep: S) -> SessionCalls<S> {
        SessionCalls { session: self.clone(), kind: CallKind::Watch, sleep }
    }
}

impl<S> SessionCalls<S> {
    /// The session
    pub fn session(&self) -> &Session {
        &self.session
    }
}

impl<S, T> CallChannel for SessionCalls<S>
where
    S: Fn(Duration) -> T + Sync,
    T: Future<Output = ()> + Send,
{
    async fn call(
        &self,
        method: &'static str,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, CallEnd> {
        let (timer, body) = ((self.sleep)(deadline), Bytes::from(body));
        let outcome = self.session.ask(self.kind, method, body, deadline, timer).await;
        outcome.map(Vec::from).map_err(CallEnd::from)
    }
}

impl From<CallError> for CallEnd {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Status(status, body) => Self::Status(status, body.into()),
            CallError::Failure(failure) => Self::Lost(failure.to_string()),
            CallError::Deadline => Self::Deadline,
        }
    }
}
