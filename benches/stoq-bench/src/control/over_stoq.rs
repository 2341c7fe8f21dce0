//! The authority behind STOQ: an endpoint that answers its calls, and nodes that make them over mutually
//! authenticated sessions.

use std::sync::Arc;
use std::time::Duration;

use stoq::{ControlSnapshot, Endpoint, NodeId, SessionCalls};
use stoq_trustchain::calls::{Asker as Asking, CallDesk, CallProblem, Client, wire};

use crate::latency::tally::Outcome;
use crate::sink::Failure;

use super::office::{Member, Office};

/// How long a call may take
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Calls over a session on tokio's clock
type Calls = SessionCalls<fn(Duration) -> tokio::time::Sleep>;

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
            let asker = Asking { node: call.peer(), certificate: call.peer_certificate() };
            let answer = desk.answer(asker, call.method(), call.body(), deadline).await;
            if !call.answer(answer.status, answer.body.into()) {
                tracing::warn!("an answer was not taken by its worker");
            }
        });
    });
}

/// A node that asks the authority
pub struct Asker {
    client: Client<Calls>,
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
        Ok(Self {
            client: Client::new(session.calls(tokio::time::sleep as fn(_) -> _)),
            member,
            _endpoint: endpoint,
        })
    }

    /// What asks
    pub fn client(&self) -> &Client<Calls> {
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
