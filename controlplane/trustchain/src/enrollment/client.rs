//! The joining node's side of enrolment: key first, then one request to the one server whose root the token
//! pins, then the identity on disk. Interrupted anywhere, it can be started again.

use std::io;
use std::net::SocketAddrV6;
use std::path::Path;
use std::time::{Duration, SystemTime};

use boring::ssl::Ssl;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::SigningKey as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stoq_interface::NodeId;
use tokio::net::TcpStream;
use tokio_boring::{SslStream, SslStreamBuilder};

use super::protocol::{
    Advice, DENY_LIST_PATH, ENROLL_PATH, EnrollRequest, EnrollResponse, EnrolledKeyProof,
    ErrorResponse, ISSUING_KEYS_PATH, IssuingKeysResponse, RENEW_PATH, RESPONSE_LIMIT_BYTES,
    RenewRequest, decode, encode,
};
use super::tls::client_context;
use crate::ca::enrolled_key_statement;
use crate::certificate::{Fingerprint, hex, unix_seconds};
use crate::csr;
use crate::keys::KeyPair;
use crate::node_identity::{Certificates, IdentityError, NodeIdentity, prepare_key};
use crate::profile::node_dns_name;
use crate::revocation::DOCUMENT_LIMIT_BYTES;
use crate::token::JoinToken;

/// Time for connecting and again for the handshake
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for request and answer
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a node did not enrol
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The token's time is over
    #[error("the token has expired; ask for a new one (if it is fresh, compare the clocks)")]
    TokenExpired,
    /// The directory belongs to someone else
    #[error(
        "the directory holds the identity of node {node} under root {root}; choose another directory"
    )]
    OtherIdentity {
        /// Whose
        node: NodeId,
        /// Under which root
        root: String,
    },
    /// Nobody answers
    #[error(
        "cannot reach the authority at {address}: {source}; check the address and the firewall"
    )]
    Connect {
        /// Where
        address: SocketAddrV6,
        /// What the kernel said
        source: io::Error,
    },
    /// The server is not the one that made the token
    #[error("the server at {address} is not the authority that made this token: {reason}")]
    Untrusted {
        /// Where
        address: SocketAddrV6,
        /// Why
        reason: String,
    },
    /// TLS or HTTP failed
    #[error("the exchange with {address} failed: {reason}; the key is kept, try again")]
    Exchange {
        /// Where
        address: SocketAddrV6,
        /// Why
        reason: String,
    },
    /// The authority refused
    #[error("the authority refused ({code}): {message}")]
    Refused {
        /// Stable code
        code: String,
        /// Cause and remedy
        message: String,
        /// When to ask again, where that makes sense
        retry_after: Option<Duration>,
    },
    /// The key, the certificates or their files
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A node that has enrolled
#[derive(Clone, Debug)]
pub struct EnrolledIdentity {
    /// Its identity, as stored
    pub identity: NodeIdentity,
    /// The authority's node
    pub ca_node: NodeId,
    /// Where that node answers over STOQ
    pub ca_stoq_address: SocketAddrV6,
}

/// Enrols this node into `directory`.
///
/// `stoq_address` is where the node will listen. The key is made, private and durable, before anything is
/// sent; it stays here. Where the directory already holds a valid identity of this node under the token's
/// root, nothing is sent. After a lost answer the token is spent: a new one continues with the same key.
pub async fn enroll(
    token: &JoinToken,
    stoq_address: SocketAddrV6,
    directory: &Path,
    now: SystemTime,
) -> Result<EnrolledIdentity, EnrollError> {
    let enrolled = |identity| EnrolledIdentity {
        identity,
        ca_node: token.ca_node.clone(),
        ca_stoq_address: token.ca_stoq_address,
    };
    if let Some(identity) = present(token, directory, now)? {
        return Ok(enrolled(identity));
    }
    if now > token.expires {
        return Err(EnrollError::TokenExpired);
    }
    let key = prepare_key(directory)?;
    let csr = csr::request(&key).map_err(IdentityError::from)?;
    let request = EnrollRequest {
        token_id: token.id(),
        secret: hex(&token.secret[..]),
        csr_der: encode(&csr),
        stoq_address,
    };
    let body = to_json(token.ca_address, &request)?;
    let to = AuthorityAt::of_token(token);
    let answered =
        exchange(&to, Method::POST, ENROLL_PATH, body, RESPONSE_LIMIT_BYTES, now).await?;
    let issued = IssuedOverHttps::read(&to, &answered)?;
    let certificates = Certificates {
        leaf_der: &issued.leaf_der,
        issuing_der: &issued.issuing_der,
        root_der: &issued.root_der,
    };
    let pinned = &token.root_fingerprint;
    let identity = NodeIdentity::store(directory, &token.node, &certificates, pinned, now)?;
    Ok(enrolled(identity))
}

/// The identity the directory already holds, if it is the one the token would give
fn present(
    token: &JoinToken,
    directory: &Path,
    now: SystemTime,
) -> Result<Option<NodeIdentity>, EnrollError> {
    match NodeIdentity::load(directory, now) {
        Ok(identity) => {
            let (node, root) = (&identity.identity().node, identity.root_fingerprint());
            if *node != token.node || root != token.root_fingerprint {
                let (node, root) = (node.clone(), root.to_string());
                return Err(EnrollError::OtherIdentity { node, root });
            }
            Ok(Some(identity))
        }
        // Nothing there, or nothing that is still good: that is what enrolling is for.
        Err(IdentityError::Absent { .. } | IdentityError::Chain(_)) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

/// An authority and where it answers over HTTPS
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuthorityAt {
    /// Where
    pub address: SocketAddrV6,
    /// Its node
    pub node: NodeId,
    /// The only root that is trusted
    pub root: Fingerprint,
}

impl AuthorityAt {
    /// The authority that made a token
    pub fn of_token(token: &JoinToken) -> Self {
        let (address, node) = (token.ca_address, token.ca_node.clone());
        Self { address, node, root: token.root_fingerprint }
    }
}

/// What an authority has issued over HTTPS. The connection was the authority's; whether the certificate is what
/// was asked for is seen where it is stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuedOverHttps {
    /// The node's certificate
    pub leaf_der: Vec<u8>,
    /// Its issuer's
    pub issuing_der: Vec<u8>,
    /// The root's
    pub root_der: Vec<u8>,
    /// What the authority says beside it
    pub advice: Option<Advice>,
}

/// Asks for a certificate for the key of `csr_der`, showing the key that `node` enrolled with: what is left to a
/// node whose certificates have all ended. Asking again, with the same key, gives the same certificate.
pub async fn renew_with_enrolled_key(
    to: &AuthorityAt,
    node: &NodeId,
    enrolled: &KeyPair,
    csr_der: &[u8],
    stoq_address: Option<SocketAddrV6>,
    now: SystemTime,
) -> Result<IssuedOverHttps, EnrollError> {
    let signed_at = unix_seconds(now);
    let statement = enrolled_key_statement(&to.node, node, csr_der, signed_at);
    let failed = |reason: String| EnrollError::Exchange { address: to.address, reason };
    let signature = enrolled.sign(&statement).map_err(|error| failed(error.to_string()))?;
    let request = RenewRequest {
        csr_der: encode(csr_der),
        stoq_address,
        successor: false,
        idempotency_key: String::new(),
        enrolled_key: Some(EnrolledKeyProof {
            node: node.to_string(),
            signed_at,
            signature: encode(&signature),
        }),
    };
    let body = to_json(to.address, &request)?;
    let answered = exchange(to, Method::POST, RENEW_PATH, body, RESPONSE_LIMIT_BYTES, now).await?;
    IssuedOverHttps::read(to, &answered)
}

impl IssuedOverHttps {
    fn read(to: &AuthorityAt, answered: &Answered) -> Result<Self, EnrollError> {
        let failed = |reason: String| EnrollError::Exchange { address: to.address, reason };
        let response: EnrollResponse = answered.read(to)?;
        let [leaf, issuing] = response.chain.as_slice() else {
            return Err(failed(format!("{} certificates instead of two", response.chain.len())));
        };
        let octets = |text: &String| decode(text).ok_or_else(|| failed("damaged base64".into()));
        let (leaf_der, issuing_der) = (octets(leaf)?, octets(issuing)?);
        let root_der = octets(&response.root)?;
        Ok(Self { leaf_der, issuing_der, root_der, advice: Some(response.advice) })
    }
}

/// Asks which issuing keys there are whose leaves are good. Their certificates are to be held to the root by whoever
/// asks; no certificate of one's own is needed, so this works also when none of the keys is known that are in use.
pub async fn issuing_keys(to: &AuthorityAt, now: SystemTime) -> Result<Vec<Vec<u8>>, EnrollError> {
    let answered =
        exchange(to, Method::GET, ISSUING_KEYS_PATH, Vec::new(), RESPONSE_LIMIT_BYTES, now).await?;
    let response: IssuingKeysResponse = answered.read(to)?;
    let reason = "damaged base64".to_owned();
    let damaged = || EnrollError::Exchange { address: to.address, reason: reason.clone() };
    let certificates = response.certificates.iter();
    certificates.map(|text| decode(text).ok_or_else(damaged)).collect()
}

/// Asks for the whole deny-list of the authority, as it signed it. No certificate is needed: this is how a node hears
/// that its own is on the list, whom the authority lets into no session any more.
pub async fn deny_list(to: &AuthorityAt, now: SystemTime) -> Result<Vec<u8>, EnrollError> {
    let (path, limit) = (DENY_LIST_PATH, DOCUMENT_LIMIT_BYTES);
    let answered = exchange(to, Method::GET, path, Vec::new(), limit, now).await?;
    answered.ok(to)?;
    Ok(answered.body.into())
}

/// An answer of the authority
struct Answered {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Bytes,
}

impl Answered {
    /// Whether it is no refusal
    fn ok(&self, to: &AuthorityAt) -> Result<(), EnrollError> {
        let Self { status, retry_after, body } = self;
        if *status == StatusCode::OK {
            return Ok(());
        }
        Err(match serde_json::from_slice::<ErrorResponse>(body) {
            Ok(ErrorResponse { error }) => EnrollError::Refused {
                code: error.code,
                message: error.message,
                retry_after: *retry_after,
            },
            Err(_) => EnrollError::Exchange {
                address: to.address,
                reason: format!("status {status} without a reason"),
            },
        })
    }

    /// What it says, where it is no refusal
    fn read<T: DeserializeOwned>(&self, to: &AuthorityAt) -> Result<T, EnrollError> {
        self.ok(to)?;
        let (address, read) = (to.address, serde_json::from_slice(&self.body));
        read.map_err(|error| EnrollError::Exchange { address, reason: error.to_string() })
    }
}

fn to_json(address: SocketAddrV6, request: &impl Serialize) -> Result<Vec<u8>, EnrollError> {
    serde_json::to_vec(request)
        .map_err(|error| EnrollError::Exchange { address, reason: error.to_string() })
}

/// One request to the authority and its answer, of so many octets at most
async fn exchange(
    to: &AuthorityAt,
    method: Method,
    path: &str,
    body: Vec<u8>,
    limit_bytes: usize,
    now: SystemTime,
) -> Result<Answered, EnrollError> {
    let address = to.address;
    let failed = |reason: String| EnrollError::Exchange { address, reason };
    let tls = connect(to, now).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, node_dns_name(&to.node))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| failed(error.to_string()))?;
    let answered = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        let connection = tokio::spawn(connection);
        let answer = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, limit_bytes).collect().await?.to_bytes();
            let retry_after = head.headers.get(RETRY_AFTER).and_then(|field| field.to_str().ok());
            let retry_after = retry_after.and_then(|seconds| seconds.parse().ok());
            let retry_after = retry_after.map(Duration::from_secs);
            let answered = Answered { status: head.status, retry_after, body };
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(answered)
        };
        let answer = answer.await;
        // The answer is complete, or lost: either way nothing more is wanted of the connection.
        connection.abort();
        answer
    };
    match tokio::time::timeout(EXCHANGE_TIMEOUT, answered).await {
        Ok(answered) => answered.map_err(|error| failed(error.to_string())),
        Err(_elapsed) => Err(failed("no answer in time".into())),
    }
}

/// Connects to the authority; after this it is known to be the one meant
async fn connect(to: &AuthorityAt, now: SystemTime) -> Result<SslStream<TcpStream>, EnrollError> {
    let address = to.address;
    let failed = |reason: String| EnrollError::Exchange { address, reason };
    let unreachable = |source| EnrollError::Connect { address, source };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream =
        stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)?;
    let name = node_dns_name(&to.node);
    let (context, reason) =
        client_context(to.root, name.clone(), now).map_err(|error| failed(error.to_string()))?;
    let mut ssl = Ssl::new(&context).map_err(|error| failed(error.to_string()))?;
    ssl.set_hostname(&name).map_err(|error| failed(error.to_string()))?;
    let handshake = SslStreamBuilder::new(ssl, stream).connect();
    match tokio::time::timeout(CONNECT_TIMEOUT, handshake).await {
        Ok(Ok(tls)) => Ok(tls),
        Ok(Err(error)) => Err(match reason.get() {
            Some(reason) => EnrollError::Untrusted { address, reason: reason.clone() },
            None => failed(error.to_string()),
        }),
        Err(_elapsed) => Err(failed("no TLS handshake in time".into())),
    }
}
