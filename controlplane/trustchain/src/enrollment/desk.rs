//! The decision behind `POST /v1/enroll`: everything that can be refused is refused before the token is
//! used. Blocking, because it ends in fsyncs; no network here.

use std::net::SocketAddrV6;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::StatusCode;

use super::protocol::{EnrollRequest, EnrollResponse, decode, encode};
use crate::authority::Authority;
use crate::certificate::{hex, unhex, unix_seconds};
use crate::csr::ProvenKey;
use crate::profile::NODE;
use crate::registry::{EnrolledNode, Registry};
use crate::token::{TokenError, TokenStore};

/// What the decision rests on
pub(super) struct Desk {
    pub(super) authority: Arc<Authority>,
    pub(super) tokens: Arc<TokenStore>,
    pub(super) registry: Arc<Registry>,
}

/// A refusal as it is answered
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// This host's fault: the reason is for its log, not for the stranger
    pub(super) fn internal(cause: &dyn std::error::Error) -> Self {
        tracing::error!(%cause, "enrolment failed");
        let message =
            "the authority could not issue a certificate; its operator finds why in its log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "not_issued", message)
    }
}

impl Desk {
    /// Decides one request that came from `from`
    pub(super) fn enroll(
        &self,
        body: &[u8],
        from: SocketAddrV6,
        now: SystemTime,
    ) -> Result<EnrollResponse, Refusal> {
        let malformed =
            |what: String| Refusal::new(StatusCode::BAD_REQUEST, "malformed_request", what);
        let request: EnrollRequest =
            serde_json::from_slice(body).map_err(|error| malformed(error.to_string()))?;
        let secret = unhex(&request.secret).and_then(|secret| <[u8; 32]>::try_from(secret).ok());
        let secret = secret.ok_or_else(|| malformed("secret: 64 hexadecimal digits".into()))?;
        let csr =
            decode(&request.csr_der).ok_or_else(|| malformed("csr_der: standard base64".into()))?;
        let address = reachable(request.stoq_address, from)
            .ok_or_else(|| malformed("stoq_address: a unicast address with a port".into()))?;
        let key = ProvenKey::from_csr(&csr).map_err(|error| {
            Refusal::new(StatusCode::BAD_REQUEST, "csr_refused", error.to_string())
        })?;
        let spki_sha256 = hex(&boring::sha::sha256(key.spki_der()));
        let subject = self.tokens.check(&request.token_id, &secret, now).map_err(token_refusal)?;
        if self.registry.node_of_key(&spki_sha256).is_some_and(|node| node != *subject.node()) {
            let message = "another node is enrolled with this key; make a new key";
            return Err(Refusal::new(StatusCode::CONFLICT, "key_in_use", message));
        }
        if !self.registry.has_room_for(subject.node()) {
            let message = "the authority has no room for another node";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "registry_full", message));
        }
        let subject = self.tokens.redeem(&request.token_id, &secret, now).map_err(token_refusal)?;
        let issued = self
            .authority
            .issue(&NODE, &subject, &key, now)
            .map_err(|error| Refusal::internal(&error))?;
        let node = EnrolledNode {
            node: subject.node().clone(),
            address,
            serial: issued.serial.clone(),
            spki_sha256,
            not_after: unix_seconds(issued.not_after),
        };
        self.registry.record(node).map_err(|error| Refusal::internal(&error))?;
        tracing::info!(node = %subject.node(), %address, serial = issued.serial, "node enrolled");
        Ok(EnrollResponse {
            chain: vec![encode(&issued.certificate_der), encode(self.authority.certificate_der())],
            root: encode(self.authority.root_der()),
            node: subject.node().to_string(),
        })
    }
}

/// The address to dial the node at, if there can be one
fn reachable(said: SocketAddrV6, from: SocketAddrV6) -> Option<SocketAddrV6> {
    let mut address = said;
    if said.ip().is_unspecified() {
        address.set_ip(*from.ip());
        address.set_scope_id(from.scope_id());
    }
    let ip = address.ip();
    let dialable = !ip.is_multicast() && ip.to_ipv4_mapped().is_none() && address.port() != 0;
    dialable.then_some(address)
}

fn token_refusal(error: TokenError) -> Refusal {
    let (status, code) = match error {
        TokenError::Unknown => (StatusCode::UNAUTHORIZED, "token_unknown"),
        TokenError::Used => (StatusCode::CONFLICT, "token_used"),
        TokenError::Expired => (StatusCode::GONE, "token_expired"),
        other => return Refusal::internal(&other),
    };
    Refusal::new(status, code, error.to_string())
}
