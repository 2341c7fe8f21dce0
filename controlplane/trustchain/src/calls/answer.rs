//! How a call ends: a status of PROTOCOL.md section 12 and a body. Refusals of the authority become one here.

use std::time::Duration;

use prost::Message;
use stoq_interface::CallStatus;

use super::wire;
use crate::ca::{Blame, Refusal};

/// What answers a call
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// How it ended
    pub status: CallStatus,
    /// The reply, or what the status says
    pub body: Vec<u8>,
}

impl Answer {
    /// The method's reply
    pub fn ok(reply: &impl Message) -> Self {
        Self { status: CallStatus::Ok, body: reply.encode_to_vec() }
    }

    /// A refusal with its reason
    pub fn refused(status: CallStatus, code: &str, message: impl Into<String>) -> Self {
        let body = wire::Refusal { code: code.to_owned(), message: message.into() };
        Self { status, body: body.encode_to_vec() }
    }

    /// There is no such method
    pub fn unknown() -> Self {
        Self { status: CallStatus::Unknown, body: Vec::new() }
    }

    /// The deadline came first
    pub fn deadline() -> Self {
        Self { status: CallStatus::Deadline, body: Vec::new() }
    }

    /// Later
    pub fn busy(after: Duration) -> Self {
        // At most 2^62 - 1; nobody waits that long.
        let milliseconds = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).min((1 << 62) - 1);
        Self { status: CallStatus::Busy, body: varint(milliseconds) }
    }

    /// What the authority refused. What failed on this host is for its log, not for a peer.
    pub fn of_refusal(refusal: &Refusal) -> Self {
        if matches!(refusal, Refusal::NoConsensus(_)) {
            return Self::refused(CallStatus::Failed, refusal.code(), refusal.to_string());
        }
        if let Some(after) = refusal.retry_after() {
            return Self::busy(after);
        }
        match refusal.blame() {
            Blame::Caller => match refusal {
                Refusal::NotPermitted(_) | Refusal::NotRegistered { .. } => {
                    Self::refused(CallStatus::Denied, refusal.code(), refusal.to_string())
                }
                _ => Self::refused(CallStatus::Invalid, refusal.code(), refusal.to_string()),
            },
            Blame::Credential => {
                Self::refused(CallStatus::Denied, refusal.code(), refusal.to_string())
            }
            Blame::Later | Blame::Host => {
                tracing::error!(%refusal, "the authority failed a call");
                let message = "the authority could not do it; its operator finds why in its log";
                Self::refused(CallStatus::Failed, refusal.code(), message)
            }
        }
    }
}

/// The milliseconds in the body of [`CallStatus::Busy`]; `None` where it is no varint
pub fn retry_after(body: &[u8]) -> Option<Duration> {
    let (first, rest) = body.split_first()?;
    let length = 1usize << (first >> 6);
    if rest.len() + 1 != length {
        return None;
    }
    let start = u64::from(first & 0x3f);
    let number = rest.iter().fold(start, |number, octet| number << 8 | u64::from(*octet));
    Some(Duration::from_millis(number))
}

/// A variable-length integer (RFC 9000 section 16) below 2^62
fn varint(number: u64) -> Vec<u8> {
    let octets = number.to_be_bytes();
    let (length, mark) = match number {
        0..0x40 => (1, 0),
        0x40..0x4000 => (2, 0x40),
        0x4000..0x4000_0000 => (4, 0x80),
        _ => (8, 0xc0),
    };
    let mut out = octets[8 - length..].to_vec();
    out[0] |= mark;
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_survives_the_wire() {
        // Samples of RFC 9000 section A.1
        assert_eq!(varint(37), [0x25]);
        assert_eq!(varint(15_293), [0x7b, 0xbd]);
        assert_eq!(varint(494_878_333), [0x9d, 0x7f, 0x3e, 0x7d]);
        assert_eq!(
            varint(151_288_809_941_952_652),
            [0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]
        );
        for number in [0, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1] {
            let busy = Answer::busy(Duration::from_millis(number));
            assert_eq!(retry_after(&busy.body), Some(Duration::from_millis(number)));
        }
        for damaged in [&[][..], &[0x40], &[0x25, 0], &[0xc0; 7]] {
            assert_eq!(retry_after(damaged), None);
        }
    }

    #[test]
    fn refusals_say_whose_turn_it_is_and_keep_the_hosts_secrets() {
        let busy = Refusal::Busy { retry_after: Duration::from_millis(70) };
        assert_eq!(Answer::of_refusal(&busy), Answer::busy(Duration::from_millis(70)));
        for (refusal, status) in [
            (Refusal::Malformed("x".into()), CallStatus::Invalid),
            (Refusal::NotPermitted("x"), CallStatus::Denied),
            (Refusal::Revoked, CallStatus::Denied),
            (Refusal::Internal("/var/lib/secret".into()), CallStatus::Failed),
        ] {
            let answer = Answer::of_refusal(&refusal);
            assert_eq!(answer.status, status);
            let told = wire::Refusal::decode(answer.body.as_slice()).unwrap();
            assert_eq!(told.code, refusal.code());
            assert!(!told.message.contains("secret"));
        }
    }
}
