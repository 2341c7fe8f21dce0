//! The operations whose latency is measured: a call, and a small flow opened, written, ended, read to its end.
//! Every octet of every answer is compared.

use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use stoq::{CallError, CallStatus, FlowError, ServiceName, Session};

use super::tally::Outcome;
use crate::sink::Failure;
use crate::small::{METHOD_SMALL, SERVICE_SMALL, Small};

/// What the far end is told: longer than any run waits
const DEADLINE: Duration = Duration::from_secs(60);

/// What is measured
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One request, one reply
    Calls,
    /// A flow of its own for each exchange
    Flows,
}

impl Kind {
    /// In text
    pub const fn label(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Flows => "flows",
        }
    }
}

/// Makes exchanges over sessions, in turn
#[derive(Clone)]
pub struct Client {
    kind: Kind,
    sessions: Vec<Session>,
    service: ServiceName,
    small: Small,
    request_bytes: usize,
    response_bytes: usize,
}

impl Client {
    /// Over these sessions, at least one
    ///
    /// # Errors
    /// Where the service's name is none.
    pub fn new(
        kind: Kind,
        sessions: Vec<Session>,
        request_bytes: usize,
        response_bytes: usize,
    ) -> Result<Self, Failure> {
        Ok(Self {
            kind,
            sessions,
            service: ServiceName::new(SERVICE_SMALL)?,
            small: Small::default(),
            request_bytes,
            response_bytes,
        })
    }

    /// Exchange `number`
    pub async fn exchange(&self, number: u64) -> Outcome {
        let turn = usize::try_from(number).unwrap_or(0) % self.sessions.len();
        let session = &self.sessions[turn];
        let request = self.small.request(number, self.request_bytes, self.response_bytes);
        match self.kind {
            Kind::Calls => self.call(session, number, request).await,
            Kind::Flows => match self.flow(session, number, request).await {
                Ok(true) => Outcome::Good,
                Ok(false) | Err(FlowError::DataConflict) => Outcome::Wrong,
                Err(FlowError::SessionLost | FlowError::Cancelled) => Outcome::Failed,
                Err(_) => Outcome::Refused,
            },
        }
    }

    async fn call(&self, session: &Session, number: u64, request: Bytes) -> Outcome {
        // Who waits too long is counted by the run; no timer is set for each call.
        match session.call(METHOD_SMALL, request, DEADLINE, pending()).await {
            Ok(reply) if self.is_whole(number, &reply) => Outcome::Good,
            Ok(_) | Err(CallError::Status(CallStatus::Invalid, _)) => Outcome::Wrong,
            Err(CallError::Status(..)) => Outcome::Refused,
            Err(CallError::Failure(stoq::CallFailure::Busy)) => Outcome::Refused,
            Err(CallError::Failure(_) | CallError::Deadline) => Outcome::Failed,
        }
    }

    fn is_whole(&self, number: u64, reply: &[u8]) -> bool {
        reply.len() == self.response_bytes
            && self.small.is_response_part(number, self.response_bytes, 0, reply)
    }

    /// Whether the answer was the right one
    async fn flow(
        &self,
        session: &Session,
        number: u64,
        request: Bytes,
    ) -> Result<bool, FlowError> {
        let (mut reader, mut writer) = session.open(&self.service).split();
        writer.write_chunk(request).await?;
        writer.shut().await?;
        let (mut seen, mut right) = (0, true);
        while let Some(part) = reader.read_chunk().await? {
            right &= self.small.is_response_part(number, self.response_bytes, seen, &part);
            seen += part.len();
        }
        Ok(right && seen == self.response_bytes)
    }
}
