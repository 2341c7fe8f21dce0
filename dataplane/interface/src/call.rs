//! Calls as both planes speak of them: how one ends, whose certificate it came under, and a way to make one. How
//! calls travel is the transport's business; what they ask is that of whoever answers.

use std::fmt;
use std::future::Future;
use std::time::Duration;

/// How a call ended; the numbers are those of `PROTOCOL.md` section 12
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u64)]
pub enum CallStatus {
    /// The body is the method's reply
    Ok = 0,
    /// No such service or method here
    Unknown = 1,
    /// The peer's node may not make this call
    Denied = 2,
    /// The request does not parse or is out of range
    Invalid = 3,
    /// The deadline passed
    Deadline = 4,
    /// Try again after the milliseconds in the body (a varint)
    Busy = 5,
    /// The callee failed; the body belongs to the method, or is a text
    Failed = 6,
}

impl CallStatus {
    /// The status behind a number
    pub const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::Ok,
            1 => Self::Unknown,
            2 => Self::Denied,
            3 => Self::Invalid,
            4 => Self::Deadline,
            5 => Self::Busy,
            6 => Self::Failed,
            _ => return None,
        })
    }
}

/// The certificate that a peer has shown on one connection
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerCertificate {
    /// SHA-256 of the leaf in DER
    pub sha256: [u8; 32],
    /// Its serial number: lower-case hexadecimal, two digits an octet, without leading zero octets
    pub serial: String,
}

/// How a call ended, if not with a reply
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CallEnd {
    /// The other side answered with this status and body
    Status(CallStatus, Vec<u8>),
    /// The deadline passed; whether the other side acted is unknown
    Deadline,
    /// The connection was lost, or there was none; the text says why
    Lost(String),
}

impl fmt::Display for CallEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status, _) => write!(f, "the peer answered {status:?}"),
            Self::Deadline => f.write_str("the deadline passed"),
            Self::Lost(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for CallEnd {}

/// Something that carries calls to one peer
pub trait CallChannel: Sync {
    /// Makes one call of `service/method` and waits for its end, no longer than `deadline`
    fn call(
        &self,
        method: &'static str,
        body: Vec<u8>,
        deadline: Duration,
    ) -> impl Future<Output = Result<Vec<u8>, CallEnd>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_found_by_its_number_and_no_other_number_is_one() {
        for code in 0..=6 {
            assert_eq!(CallStatus::from_code(code).map(|status| status as u64), Some(code));
        }
        assert_eq!(CallStatus::from_code(7), None);
        assert_eq!(CallStatus::from_code(u64::MAX), None);
    }
}
