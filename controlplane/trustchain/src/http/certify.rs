//! Requests for certificates: of nodes in JSON, of everybody else by EST. Bytes become a request to the
//! authority here and its answer bytes again; what is decided is decided in `ca`.

use std::net::SocketAddrV6;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Request, StatusCode};
use serde::de::DeserializeOwned;
use stoq_interface::NodeId;
use zeroize::Zeroizing;

use super::credentials::Credentials;
use super::est;
use super::reply::{self, Refusal, Reply};
use super::server::{Caller, Shared};
use crate::ca::{self, Activation, Blame, Credential, IssueRequest, IssuedCertificate};
use crate::certificate::{unhex, unix_seconds};
use crate::enrollment::protocol::{
    Advice, EnrollRequest, EnrollResponse, REQUEST_LIMIT_BYTES, RenewRequest, Window, decode,
    encode,
};

/// The profile of what enrols here
const NODE_PROFILE: &str = "node";
/// Octets of a body that is too long that are read to their end
const DISCARD_LIMIT_BYTES: usize = 256 << 10;
/// The port nodes listen at unless configured otherwise; what enrols over EST does not say
const STOQ_PORT: u16 = 8_444;
/// What EST answers certificates as (RFC 7030 section 4.2.3)
const CERTIFICATES: &str = "application/pkcs7-mime; smime-type=certs-only";

impl Shared {
    /// `POST /v1/enroll`
    pub(super) async fn enroll(
        &self,
        request: Request<Incoming>,
        caller: &Caller,
    ) -> Result<Reply, Refusal> {
        let request: EnrollRequest = json_body(request).await?;
        let secret = unhex(&request.secret).map(Zeroizing::new);
        let secret = secret.and_then(|secret| <[u8; 32]>::try_from(secret.as_slice()).ok());
        let secret = secret.ok_or_else(|| malformed("secret: 64 hexadecimal digits"))?;
        let csr_der = decode(&request.csr_der);
        let csr_der = csr_der.ok_or_else(|| malformed("csr_der: standard base64"))?;
        let address = reachable(request.stoq_address, caller.from)?;
        let credential = Credential::Token { id: request.token_id, secret: Zeroizing::new(secret) };
        let issued = self.certify(csr_der, credential, Some(address), Activation::Now, Vec::new());
        Ok(self.enrolled(issued.await?))
    }

    /// `POST /v1/renew`
    pub(super) async fn renew(
        &self,
        request: Request<Incoming>,
        caller: &Caller,
    ) -> Result<Reply, Refusal> {
        let request: RenewRequest = json_body(request).await?;
        let csr_der = decode(&request.csr_der);
        let csr_der = csr_der.ok_or_else(|| malformed("csr_der: standard base64"))?;
        let address = request.stoq_address.map(|said| reachable(said, caller.from)).transpose()?;
        let credential = match (request.enrolled_key, &caller.leaf_der) {
            (Some(proof), _) => {
                let node = NodeId::new(&proof.node);
                let node = node.map_err(|error| malformed(&format!("node: {error}")))?;
                let signature = decode(&proof.signature);
                let signature = signature.ok_or_else(|| malformed("signature: standard base64"))?;
                Credential::EnrolledKey { node, signed_at: proof.signed_at, signature }
            }
            (None, Some(leaf_der)) => Credential::Certificate { leaf_der: leaf_der.clone() },
            (None, None) => {
                let message = "show the node's certificate in the TLS handshake, or sign with the key it \
                               enrolled with";
                return Err(unauthenticated(message));
            }
        };
        let activation = if request.successor { Activation::Successor } else { Activation::Now };
        let key = request.idempotency_key.into_bytes();
        let issued = self.certify(csr_der, credential, address, activation, key).await?;
        Ok(self.enrolled(issued))
    }

    /// `POST /.well-known/est/simpleenroll` (RFC 7030 section 4.2.1). The join token comes as user and
    /// password. The request's names are not looked at: the token says whom it is for.
    pub(super) async fn est_enroll(
        &self,
        request: Request<Incoming>,
        caller: &Caller,
    ) -> Result<Reply, Refusal> {
        let Some(field) = request.headers().get(AUTHORIZATION) else {
            let message = "give the join token as the password (curl --user any:TOKEN)";
            return Err(unauthenticated(message));
        };
        let credentials = field.to_str().ok().map(Credentials::parse);
        let credentials = match credentials {
            Some(Ok(credentials)) => credentials,
            Some(Err(error)) => return Err(unauthenticated(&error.to_string())),
            None => return Err(unauthenticated("the credentials are no text")),
        };
        let Credentials { token_id: id, secret } = credentials;
        let csr_der = est_body(request).await?;
        let address = SocketAddrV6::new(*caller.from.ip(), STOQ_PORT, 0, caller.from.scope_id());
        let credential = Credential::Token { id, secret };
        let address = Some(address);
        let issued = self.certify(csr_der, credential, address, Activation::Now, Vec::new());
        Ok(est_certificate(&issued.await?))
    }

    /// `POST /.well-known/est/simplereenroll` (RFC 7030 section 4.2.2): the certificate in force is the client
    /// certificate of the connection, and the new one names what that one does
    pub(super) async fn est_reenroll(
        &self,
        request: Request<Incoming>,
        caller: &Caller,
    ) -> Result<Reply, Refusal> {
        let Some(leaf_der) = caller.leaf_der.clone() else {
            let message = "show the certificate in force in the TLS handshake (curl --cert --key)";
            return Err(unauthenticated(message));
        };
        let csr_der = est_body(request).await?;
        let credential = Credential::Certificate { leaf_der };
        let issued = self.certify(csr_der, credential, None, Activation::Now, Vec::new()).await?;
        Ok(est_certificate(&issued))
    }

    async fn certify(
        &self,
        csr_der: Vec<u8>,
        credential: Credential,
        stoq_address: Option<SocketAddrV6>,
        activation: Activation,
        idempotency_key: Vec<u8>,
    ) -> Result<IssuedCertificate, Refusal> {
        let request = IssueRequest {
            profile: NODE_PROFILE.to_owned(),
            subject: None,
            csr_der,
            credential,
            idempotency_key,
            consensus_proof: None,
            stoq_address,
            activation,
        };
        self.ca.issue(request).await.map_err(|refusal| refused(&refusal))
    }

    fn enrolled(&self, issued: IssuedCertificate) -> Reply {
        let since = self.ca.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let window = Window {
            start: unix_seconds(issued.window.start),
            end: unix_seconds(issued.window.end),
        };
        let response = EnrollResponse {
            chain: vec![encode(&issued.certificate_der), encode(&issued.issuing_der)],
            root: encode(&issued.root_der),
            node: issued.subject,
            advice: Advice {
                leaf_index: issued.leaf_index,
                renewal_window: window,
                authority_time_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            },
        };
        reply::json(StatusCode::OK, &response)
    }
}

/// What the authority refused, as HTTP tells it. What failed on this host is for its log, not for a stranger.
pub(super) fn refused(refusal: &ca::Refusal) -> Refusal {
    use ca::Refusal as R;
    let (code, message) = (refusal.code(), refusal.to_string());
    if let Some(after) = refusal.retry_after() {
        let told = matches!(refusal, R::Busy { .. } | R::RegistryFull | R::NoConsensus(_));
        let message = if told {
            message
        } else {
            tracing::error!(%refusal, "the authority cannot issue now");
            "the authority cannot issue now; its operator finds why in its log".to_owned()
        };
        return Refusal::later(code, message, after);
    }
    let status = match refusal {
        R::TokenUnknown | R::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
        R::TokenUsed | R::KeyInUse => StatusCode::CONFLICT,
        R::TokenExpired => StatusCode::GONE,
        R::Revoked | R::Consensus(_) | R::NotPermitted(_) => StatusCode::FORBIDDEN,
        R::NotRegistered { .. } => StatusCode::NOT_FOUND,
        _ => match refusal.blame() {
            Blame::Caller => StatusCode::BAD_REQUEST,
            Blame::Credential => StatusCode::FORBIDDEN,
            Blame::Later | Blame::Host => return Refusal::internal(refusal),
        },
    };
    Refusal::new(status, code, message)
}

fn malformed(what: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "malformed_request", what)
}

fn unauthenticated(what: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "unauthenticated", what)
}

/// The address to dial the node at, if there can be one
fn reachable(said: SocketAddrV6, from: SocketAddrV6) -> Result<SocketAddrV6, Refusal> {
    let mut address = said;
    if said.ip().is_unspecified() {
        address.set_ip(*from.ip());
        address.set_scope_id(from.scope_id());
    }
    let ip = address.ip();
    let dialable = !ip.is_multicast() && ip.to_ipv4_mapped().is_none() && address.port() != 0;
    if dialable {
        Ok(address)
    } else {
        Err(malformed("stoq_address: a unicast address with a port"))
    }
}

/// The body, at most so long. What is longer is read to some point all the same and thrown away, because who is
/// cut off while sending does not read why.
async fn body(request: Request<Incoming>, limit_bytes: usize) -> Result<Vec<u8>, Refusal> {
    let mut body = request.into_body();
    let (mut kept, mut seen) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| malformed(&error.to_string()))?;
        let Ok(octets) = frame.into_data() else { continue };
        seen += octets.len();
        if seen <= limit_bytes {
            kept.extend_from_slice(&octets);
        } else if seen > DISCARD_LIMIT_BYTES {
            break;
        }
    }
    if seen > limit_bytes {
        let message = format!("at most {limit_bytes} bytes are read");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message));
    }
    Ok(kept)
}

async fn json_body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let body = body(request, REQUEST_LIMIT_BYTES).await?;
    serde_json::from_slice(&body).map_err(|error| malformed(&error.to_string()))
}

async fn est_body(request: Request<Incoming>) -> Result<Vec<u8>, Refusal> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/pkcs10")) {
        let message = "the request is sent as application/pkcs10";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", message));
    }
    let body = body(request, est::BODY_LIMIT_BYTES).await?;
    est::request_der(&body).map_err(|error| malformed(&error.to_string()))
}

fn est_certificate(issued: &IssuedCertificate) -> Reply {
    reply::est(CERTIFICATES, est::certificates_body(&[&issued.certificate_der]))
}

impl Shared {
    /// `GET /.well-known/est/cacerts` (RFC 7030 section 4.1)
    pub(super) fn est_certificates(self: &Arc<Self>) -> Reply {
        let authority = self.ca.authority();
        let keys = self.ca.issuing_keys();
        // Who has a leaf of a key that was replaced needs that one too.
        let others = keys.iter().filter(|key| key.record.state.accepts_leaves());
        let others = others.map(|key| key.certificate_der.as_slice());
        let others = others.filter(|der| *der != authority.certificate_der());
        let mut all = vec![authority.certificate_der(), authority.root_der()];
        all.extend(others);
        reply::est(CERTIFICATES, est::certificates_body(&all))
    }

    /// `GET /.well-known/est/csrattrs` (RFC 7030 section 4.5)
    pub(super) fn est_attributes(self: &Arc<Self>) -> Reply {
        reply::est("application/csrattrs", est::lines(&est::CSR_ATTRIBUTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_dialled_where_it_can_be() {
        let from = "[fe80::1%3]:50000".parse().unwrap();
        let at = |said: &str| reachable(said.parse().unwrap(), from);
        assert_eq!(at("[::]:8444").unwrap(), "[fe80::1%3]:8444".parse().unwrap());
        assert_eq!(at("[2001:db8::1]:1").unwrap(), "[2001:db8::1]:1".parse().unwrap());
        for wrong in ["[::1]:0", "[ff02::1]:8444", "[::ffff:1.2.3.4]:8444"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn refusals_have_their_status_and_keep_the_hosts_secrets() {
        use ca::Refusal as R;
        for (refusal, status) in [
            (R::TokenUnknown, 401),
            (R::TokenUsed, 409),
            (R::TokenExpired, 410),
            (R::Revoked, 403),
            (R::Malformed("x".into()), 400),
            (R::NotPermitted("x"), 403),
            (R::NoSpace, 503),
            (R::Internal("/var/lib/secret".into()), 500),
            (R::Stopped("/var/lib/secret".into()), 500),
        ] {
            let told = refused(&refusal);
            assert_eq!(told.status.as_u16(), status, "{refusal:?}");
            assert!(!told.message.contains("secret"));
        }
        assert!(refused(&R::TokenUnknown).counts && !refused(&R::NoSpace).counts);
    }
}
