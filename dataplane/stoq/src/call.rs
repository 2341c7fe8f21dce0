//! Calls as programs see them: a request to `service/method`, a reply or the reason there is none.

use bytes::Bytes;
use stoq_interface::{CallStatus, NodeId, PeerCertificate};
use stoq_worker::{CallFailure, IncomingCall};

/// Why a call has no reply
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CallError {
    /// The peer answered, but not with a reply
    #[error("the peer answered {0:?}")]
    Status(CallStatus, Bytes),
    /// Nothing came; whether the peer acted is unknown unless the worker was busy
    #[error(transparent)]
    Failure(#[from] CallFailure),
    /// The deadline passed; whether the peer acted is unknown
    #[error("the deadline passed")]
    Deadline,
}

/// A request from a peer, to be answered once
#[derive(Debug)]
pub struct CallRequest(pub(crate) IncomingCall);

impl CallRequest {
    /// Who asks
    pub fn peer(&self) -> &NodeId {
        &self.0.peer
    }

    /// The certificate it has shown on the connection by which the call came. A node that has changed its
    /// certificate may still call over a connection made with the one before.
    pub fn peer_certificate(&self) -> &PeerCertificate {
        &self.0.certificate
    }

    /// `service/method`
    pub fn method(&self) -> &str {
        &self.0.method
    }

    /// The request, a Protobuf message of the method's schema
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// Milliseconds the caller waits
    pub fn deadline_ms(&self) -> u64 {
        self.0.deadline_ms
    }

    /// Answers with the method's reply
    pub fn reply(self, body: Bytes) -> bool {
        self.answer(CallStatus::Ok, body)
    }

    /// Answers with anything but a reply
    pub fn refuse(self, status: CallStatus, body: Bytes) -> bool {
        self.answer(status, body)
    }

    /// Answers with a status, [`CallStatus::Ok`] for a reply; `false` when the worker takes no more commands
    pub fn answer(self, status: CallStatus, body: Bytes) -> bool {
        self.0.answer(status, body)
    }
}
