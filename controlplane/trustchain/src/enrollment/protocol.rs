//! What enrolment says on the wire: JSON over HTTP/1.1 over TLS 1.3, precise enough for another
//! implementation. `POST /v1/enroll` takes an [`EnrollRequest`] and answers [`EnrollResponse`]; `GET /v1/root`
//! answers [`RootResponse`]; everything else, and every failure, answers [`ErrorResponse`].

use std::net::SocketAddrV6;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// TCP port unless configured otherwise
pub const DEFAULT_PORT: u16 = 8_443;
/// Where to enrol
pub const ENROLL_PATH: &str = "/v1/enroll";
/// Where a node that has enrolled gets its next certificate
pub const RENEW_PATH: &str = "/v1/renew";
/// Where to read which issuing keys there are
pub const ISSUING_KEYS_PATH: &str = "/v1/issuing-keys";
/// Path of the deny-list, for whoever cannot have it over a session
pub const DENY_LIST_PATH: &str = "/v1/deny-list";
/// Where to read the root
pub const ROOT_PATH: &str = "/v1/root";
/// Size of the largest request body
pub const REQUEST_LIMIT_BYTES: usize = 16 << 10;
/// Size of the largest response body
pub const RESPONSE_LIMIT_BYTES: usize = 64 << 10;

/// A node asks for its certificate
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The token's public name
    pub token_id: String,
    /// The token's secret: 64 hexadecimal digits
    pub secret: String,
    /// PKCS #10 request in DER, standard base64; only its key is used
    pub csr_der: String,
    /// Where the node listens for STOQ; `[::]` stands for the address the request comes from
    pub stoq_address: SocketAddrV6,
}

/// A node that has enrolled asks for its next certificate. Without `enrolled_key` it shows its certificate in
/// the TLS handshake.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// PKCS #10 request in DER, standard base64; only its key is used
    pub csr_der: String,
    /// Where the node listens for STOQ, if that has changed
    #[serde(default)]
    pub stoq_address: Option<SocketAddrV6>,
    /// Begin when the certificate shown reaches its activation age, not now
    #[serde(default)]
    pub successor: bool,
    /// Chosen by the node: the same request again gets the same certificate
    #[serde(default)]
    pub idempotency_key: String,
    /// Shows the key the node enrolled with, when no certificate in force is left
    #[serde(default)]
    pub enrolled_key: Option<EnrolledKeyProof>,
}

/// A statement signed with the key a node enrolled with
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolledKeyProof {
    /// The node
    pub node: String,
    /// When it was signed, in seconds since 1970
    pub signed_at: u64,
    /// ECDSA with SHA-256 over `ca::enrolled_key_statement`, DER, standard base64
    pub signature: String,
}

/// The certificate
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollResponse {
    /// Leaf, then issuing authority; DER in standard base64
    pub chain: Vec<String>,
    /// The root; DER in standard base64
    pub root: String,
    /// The node named
    pub node: String,
    /// What the authority says beside the certificate
    pub advice: Advice,
}

/// What an authority says beside a certificate
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Advice {
    /// Place in the transparency log; the proof is at `/v1/proof/<index>` within a second
    pub leaf_index: u64,
    /// When it would like the certificate renewed
    pub renewal_window: Window,
    /// Its clock, in milliseconds since 1970
    pub authority_time_ms: u64,
}

/// When to renew a certificate (RFC 9773 section 4.2); seconds since 1970
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// First second
    pub start: u64,
    /// Last second
    pub end: u64,
}

/// When to renew a certificate, and when to ask again
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RenewalResponse {
    /// When to renew
    pub renewal_window: Window,
    /// When to ask again, in seconds from now
    pub ask_again_after_seconds: u64,
}

/// The log's identity
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogKeyResponse {
    /// First line of its checkpoints
    pub origin: String,
    /// SubjectPublicKeyInfo; DER in standard base64
    pub key: String,
}

/// The issuing keys whose leaves are good: in preparation, in force and on their way out
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IssuingKeysResponse {
    /// Their certificates; DER in standard base64. Each counts where it is of the root that is trusted.
    pub certificates: Vec<String>,
}

/// The root, for a look before enrolling; it proves nothing without a pinned fingerprint
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RootResponse {
    /// DER in standard base64
    pub root: String,
    /// `sha256:` and hexadecimal digits
    pub fingerprint: String,
    /// Name of the authority
    pub instance: String,
}

/// Any failure
#[derive(Debug, Deserialize, Serialize)]
pub struct ErrorResponse {
    /// What went wrong
    pub error: ErrorDetail,
}

/// A stable code for programs and a sentence for people
#[derive(Debug, Deserialize, Serialize)]
pub struct ErrorDetail {
    /// Stable code
    pub code: String,
    /// Cause and remedy
    pub message: String,
}

/// Standard base64
pub(crate) fn encode(octets: &[u8]) -> String {
    STANDARD.encode(octets)
}

/// The octets behind standard base64
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}
