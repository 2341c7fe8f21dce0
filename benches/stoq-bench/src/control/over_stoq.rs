//! The authority behind STOQ: an endpoint that answers its calls, and nodes that make them over mutually
//! authenticated sessions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stoq::{CallError, CallStatus, ControlSnapshot, Endpoint, NodeId, Session};
use stoq_trustchain::calls::{CallDesk, CallProblem, Channel, ChannelError, Client, Status, wire};

use crate::latency::tally::Outcome;
use crate::sink::Failure;

use super::office::{Member, Office};

/// How long a call may take
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A session as the calls see it
#[derive(Clone, Debug)]
pub struct OverSession(pub Session);

impl Channel for OverSession {
    async fn call(
        &self,
        method: &'static str,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, ChannelError> {
        let timer = tokio::time::sleep(deadline);
        match self.0.call(method, Bytes::from(body), deadline, timer).await {
            Ok(reply) => Ok(reply.into()),
            Err(CallError::Deadline) => Err(ChannelError::Deadline),
            Err(CallError::Failure(failure)) => Err(ChannelError::Lost(failure.to_string())),
            Err(CallError::Status(status, body)) => {
                Err(ChannelError::Status(from_transport(status), body.into()))
            }
        }
    }
}

fn from_transport(status: CallStatus) -> Status {
    match status {
        CallStatus::Ok => Status::Ok,
        CallStatus::Unknown => Status::Unknown,
        CallStatus::Denied => Status::Denied,
        CallStatus::Invalid => Status::Invalid,
        CallStatus::Deadline => Status::Deadline,
        CallStatus::Busy => Status::Busy,
        CallStatus::Failed => Status::Failed,
    }
}

fn to_transport(status: Status) -> CallStatus {
    match status {
        Status::Ok => CallStatus::Ok,
        Status::Unknown => CallStatus::Unknown,
        Status::Denied => CallStatus::Denied,
        Status::Invalid => CallStatus::Invalid,
        Status::Deadline => CallStatus::Deadline,
        Status::Busy => CallStatus::Busy,
        Status::Failed => CallStatus::Failed,
    }
}

/// An endpoint with this identity that trusts the office's authority
pub fn endpoint(office: &Office, member: &Member) -> Result<Endpoint, Failure> {
    Ok(Endpoint::builder().listen("[::1]:0".parse()?).snapshot(snapshot(office, member)).build()?)
}

/// What a node of the office knows
pub fn snapshot(office: &Office, member: &Member) -> ControlSnapshot {
    ControlSnapshot {
        epoch: 1,
        identity: Some(member.identity()),
        trust: vec![office.ca.trust_anchor()],
        ..ControlSnapshot::default()
    }
}

/// Has an endpoint answer the calls
pub fn answer(endpoint: &Endpoint, desk: CallDesk) {
    let runtime = tokio::runtime::Handle::current();
    endpoint.serve_calls(move |call| {
        let desk = desk.clone();
        runtime.spawn(async move {
            let deadline = Duration::from_millis(call.deadline_ms());
            let answer = desk.answer(call.peer(), call.method(), call.body(), deadline).await;
            let body = Bytes::from(answer.body);
            let taken = match answer.status {
                Status::Ok => call.reply(body),
                status => call.refuse(to_transport(status), body),
            };
            if !taken {
                tracing::warn!("an answer was not taken by its worker");
            }
        });
    });
}

/// A node that asks the authority
pub struct Asker {
    client: Client<OverSession>,
    member: Arc<Member>,
    /// The node's endpoint, which lives as long
    _endpoint: Endpoint,
}

impl Asker {
    /// Connects to the authority
    pub async fn connect(
        office: &Office,
        member: Arc<Member>,
        authority: &Endpoint,
        node: &NodeId,
    ) -> Result<Self, Failure> {
        let endpoint = endpoint(office, &member)?;
        let session = endpoint.connect(authority.local_address(), node).await?;
        Ok(Self { client: Client::new(OverSession(session)), member, _endpoint: endpoint })
    }

    /// What asks
    pub fn client(&self) -> &Client<OverSession> {
        &self.client
    }

    /// One certificate
    pub async fn issue(&self, number: u64) -> Outcome {
        let request = wire::CertifyRequest {
            csr: self.member.csr_der.clone(),
            // The node's first certificate was request 0.
            idempotency_key: (number + 1).to_be_bytes().to_vec(),
            current_certificate: self.member.leaf_der.clone(),
            ..wire::CertifyRequest::default()
        };
        match self.client.renew(&request, DEADLINE).await {
            Ok(reply) if reply.repeated => Outcome::Wrong,
            Ok(_) => Outcome::Good,
            Err(CallProblem::Busy(_)) => Outcome::Refused,
            Err(_) => Outcome::Failed,
        }
    }
}
