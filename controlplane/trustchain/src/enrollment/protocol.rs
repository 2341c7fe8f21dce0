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
}

/// The root, for a look before enrolling; it proves nothing without a pinned fingerprint
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RootResponse {
    /// DER in standard base64
    pub root: String,
    /// `sha256:` and hexadecimal digits
    pub fingerprint: String,
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
