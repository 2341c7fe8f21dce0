//! The signer's protocol: `proto/signer.proto` in Rust, and what its messages mean here.

use std::time::Duration;

use crate::signer::{KeyInfo, KeyName, SignerError, SignerKey, SignerStatus};

/// The only version there is
pub(super) const VERSION: u32 = 1;

/// `Request`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(oneof = "request::Body", tags = "2, 3, 4, 5")]
    pub(super) body: Option<request::Body>,
}

pub(super) mod request {
    /// `Request.body`
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(crate) enum Body {
        #[prost(message, tag = "2")]
        Hello(super::Hello),
        #[prost(message, tag = "3")]
        Sign(super::Sign),
        #[prost(message, tag = "4")]
        CreateKey(super::CreateKey),
        #[prost(message, tag = "5")]
        GetStatus(super::GetStatus),
    }
}

/// `Hello`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Hello {
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
}

/// `Sign`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Sign {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) message: Vec<u8>,
}

/// `CreateKey`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CreateKey {
    #[prost(string, tag = "1")]
    pub(super) key: String,
}

/// `GetStatus`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct GetStatus {}

/// `Answer`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Answer {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(oneof = "answer::Body", tags = "2, 3, 4, 5")]
    pub(super) body: Option<answer::Body>,
}

pub(super) mod answer {
    /// `Answer.body`
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(crate) enum Body {
        #[prost(message, tag = "2")]
        Keys(super::Keys),
        #[prost(bytes = "vec", tag = "3")]
        Signature(Vec<u8>),
        #[prost(message, tag = "4")]
        Status(super::Status),
        #[prost(message, tag = "5")]
        Failure(super::Failure),
    }
}

/// `Keys`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Keys {
    #[prost(message, repeated, tag = "1")]
    pub(super) keys: Vec<Key>,
}

/// `Key`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Key {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) spki_der: Vec<u8>,
}

/// `Status`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Status {
    #[prost(string, tag = "1")]
    backend: String,
    #[prost(bool, tag = "2")]
    healthy: bool,
    #[prost(string, tag = "3")]
    last_error: String,
    #[prost(string, repeated, tag = "4")]
    keys: Vec<String>,
    #[prost(uint64, tag = "5")]
    queued: u64,
    #[prost(uint64, tag = "6")]
    queue_limit: u64,
    #[prost(uint64, tag = "7")]
    workers: u64,
    #[prost(uint64, tag = "8")]
    signatures: u64,
    #[prost(uint64, tag = "9")]
    failures: u64,
    #[prost(uint64, tag = "10")]
    refused_busy: u64,
    #[prost(uint64, tag = "11")]
    self_tests: u64,
    #[prost(uint64, tag = "12")]
    reopened: u64,
}

/// `Failure`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Failure {
    #[prost(enumeration = "FailureKind", tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    text: String,
    #[prost(uint64, tag = "3")]
    queued: u64,
    #[prost(uint64, tag = "4")]
    retry_after_ms: u64,
}

/// `FailureKind`
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, prost::Enumeration)]
#[repr(i32)]
pub(super) enum FailureKind {
    Unspecified = 0,
    Busy = 1,
    UnknownKey = 2,
    Exists = 3,
    TooManyKeys = 4,
    TooLong = 5,
    Purpose = 6,
    Unverified = 7,
    Unavailable = 8,
    Refused = 9,
    Stopped = 10,
}

/// Characters of the longest text that is taken from the other end
const TEXT_LIMIT: usize = 1_024;

fn clipped(text: &str) -> String {
    text.chars().take(TEXT_LIMIT).collect()
}

fn count(number: usize) -> u64 {
    number as u64
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Failure {
    pub(super) fn of(error: &SignerError) -> Self {
        let mut failure = Self::default();
        let (kind, text) = match error {
            SignerError::Busy { queued, retry_after } => {
                failure.queued = count(*queued);
                failure.retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
                (FailureKind::Busy, String::new())
            }
            SignerError::UnknownKey(key) => (FailureKind::UnknownKey, key.clone()),
            SignerError::Exists(key) => (FailureKind::Exists, key.clone()),
            SignerError::TooManyKeys => (FailureKind::TooManyKeys, String::new()),
            SignerError::TooLong(length) => {
                failure.queued = count(*length);
                (FailureKind::TooLong, String::new())
            }
            SignerError::Purpose(key) => (FailureKind::Purpose, key.clone()),
            SignerError::Unverified(key) => (FailureKind::Unverified, key.clone()),
            SignerError::Unavailable(reason) => (FailureKind::Unavailable, reason.clone()),
            SignerError::Refused(reason) => (FailureKind::Refused, reason.clone()),
            SignerError::Stopped => (FailureKind::Stopped, String::new()),
        };
        failure.set_kind(kind);
        failure.text = clipped(&text);
        failure
    }

    pub(super) fn to_error(&self) -> SignerError {
        let text = clipped(&self.text);
        match self.kind() {
            FailureKind::Busy => SignerError::Busy {
                queued: size(self.queued),
                retry_after: Duration::from_millis(self.retry_after_ms),
            },
            FailureKind::UnknownKey => SignerError::UnknownKey(text),
            FailureKind::Exists => SignerError::Exists(text),
            FailureKind::TooManyKeys => SignerError::TooManyKeys,
            FailureKind::TooLong => SignerError::TooLong(size(self.queued)),
            FailureKind::Purpose => SignerError::Purpose(text),
            FailureKind::Unverified => SignerError::Unverified(text),
            FailureKind::Unavailable => SignerError::Unavailable(text),
            FailureKind::Refused => SignerError::Refused(text),
            // The signing process ends: it may be back soon.
            FailureKind::Stopped => {
                SignerError::Unavailable("the signing process is being stopped".into())
            }
            FailureKind::Unspecified => {
                SignerError::Refused(format!("for a reason this program does not know: {text}"))
            }
        }
    }
}

impl Keys {
    pub(super) fn of(keys: &[KeyInfo]) -> Self {
        let key =
            |key: &KeyInfo| Key { name: key.name().to_string(), spki_der: key.spki_der().to_vec() };
        Self { keys: keys.iter().map(key).collect() }
    }

    /// Keys whose names and public halves are ones a signer may have
    pub(super) fn to_keys(&self) -> Result<Vec<KeyInfo>, SignerError> {
        let key = |key: &Key| {
            let refused = |reason: String| SignerError::Refused(reason);
            let name = KeyName::new(&key.name).map_err(|error| refused(error.to_string()))?;
            KeyInfo::from_spki(name, &key.spki_der).map_err(|error| refused(error.to_string()))
        };
        self.keys.iter().map(key).collect()
    }
}

impl Status {
    pub(super) fn of(status: &SignerStatus) -> Self {
        Self {
            backend: status.backend.clone(),
            healthy: status.healthy,
            last_error: clipped(status.last_error.as_deref().unwrap_or_default()),
            keys: status.keys.iter().map(|key| key.name.to_string()).collect(),
            queued: count(status.queued),
            queue_limit: count(status.queue_limit),
            workers: count(status.workers),
            signatures: status.signatures,
            failures: status.failures,
            refused_busy: status.refused_busy,
            self_tests: status.self_tests,
            reopened: status.reopened,
        }
    }

    /// With the keys as this side knows them: their public halves were judged when they came
    pub(super) fn to_status(&self, keys: Vec<SignerKey>) -> SignerStatus {
        SignerStatus {
            backend: format!("remote {}", clipped(&self.backend)),
            healthy: self.healthy,
            last_error: Some(clipped(&self.last_error)).filter(|text| !text.is_empty()),
            keys,
            queued: size(self.queued),
            queue_limit: size(self.queue_limit),
            workers: size(self.workers),
            signatures: self.signatures,
            failures: self.failures,
            refused_busy: self.refused_busy,
            self_tests: self.self_tests,
            reopened: self.reopened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{ANSWER_LIMIT_BYTES, REQUEST_LIMIT_BYTES};
    use super::*;

    #[test]
    fn every_error_survives_the_way() {
        let errors = [
            SignerError::Busy { queued: 7, retry_after: Duration::from_millis(30) },
            SignerError::UnknownKey("log".into()),
            SignerError::Exists("log".into()),
            SignerError::TooManyKeys,
            SignerError::TooLong(9),
            SignerError::Purpose("log".into()),
            SignerError::Unverified("log".into()),
            SignerError::Unavailable("gone".into()),
            SignerError::Refused("no".into()),
        ];
        for error in errors {
            assert_eq!(Failure::of(&error).to_error(), error);
        }
        assert!(Failure::of(&SignerError::Stopped).to_error().is_transient());
    }

    #[test]
    fn the_schema_has_the_same_fields() {
        let schema = include_str!("../../../proto/signer.proto");
        let fields = [
            "Hello hello = 2;",
            "Sign sign = 3;",
            "CreateKey create_key = 4;",
            "GetStatus get_status = 5;",
            "Keys keys = 2;",
            "bytes signature = 3;",
            "Status status = 4;",
            "Failure failure = 5;",
            "uint64 reopened = 12;",
            "uint64 retry_after_ms = 4;",
            "FAILURE_KIND_STOPPED = 10;",
        ];
        for field in fields {
            assert!(schema.contains(field), "{field}");
        }
        for limit in [REQUEST_LIMIT_BYTES, ANSWER_LIMIT_BYTES] {
            assert!(schema.contains(&grouped(limit)), "{}", grouped(limit));
        }
    }

    fn grouped(number: usize) -> String {
        match number {
            0..1_000 => number.to_string(),
            _ => format!("{},{:03}", grouped(number / 1_000), number % 1_000),
        }
    }
}
