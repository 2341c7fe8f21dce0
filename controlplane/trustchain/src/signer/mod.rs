//! Signing with named keys, wherever they are: in this process (`soft`), in a token (`pkcs11`) or in a process
//! of its own (`remote`). Everything in this crate that signs asks for [`Signer`], or for rcgen's `SigningKey`
//! through [`NamedKey`]. What may be signed with which state of a key is decided in `pinning`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::certificate::hex;

mod backend;
mod guard;
mod issuing;
mod key_pair;
mod named;
mod pkcs11;
mod pool;
mod public;
pub mod remote;
mod soft;
mod tbs;
#[cfg(test)]
mod testing;

pub use backend::{Backend, BackendError, OpenBackend};
pub use guard::{Message, StateGuard, StateRefusal};
pub use issuing::{IssuingKeyError, install_with, request_with};
pub(crate) use key_pair::{key_identifier, key_identifier_method};
pub use named::{NamedKey, block_on};
pub use pkcs11::{Pkcs11Settings, TokenPin};
pub use pool::{Pool, PoolSettings};
pub use public::{KeyInfo, KeyInfoError};
pub use remote::RemoteSigner;
pub use soft::SoftSettings;
pub use tbs::{TbsCapture, signed_object};

/// Octets of the longest message that is signed: a certificate of 16 KiB, or a CRL or deny-list of 16 MiB
pub const MESSAGE_LIMIT_BYTES: usize = (16 << 20) + (16 << 10);
/// Keys one signer has
pub const KEYS_LIMIT: usize = 16;
/// Characters of the longest key name
pub const KEY_NAME_LIMIT: usize = 32;

/// What a signer's call gives at once: the work is queued when the call is made, not when this is first
/// polled, so many can be started before the first is awaited. Dropping it abandons the answer.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, SignerError>> + Send>>;

/// Signs with named keys.
///
/// Whatever comes out of [`sign`](Self::sign) has been verified, in the process that asked, with the public
/// key that [`key`](Self::key) gives. The futures need no particular runtime: they are driven by threads of
/// the signer, so waiting for one with [`block_on`] on any thread is safe (a runtime's thread is blocked
/// meanwhile, of course).
pub trait Signer: Send + Sync + fmt::Debug {
    /// The public half of a key
    fn key(&self, name: &KeyName) -> Option<KeyInfo>;

    /// The public halves of all keys, by name
    fn keys(&self) -> Vec<KeyInfo>;

    /// Signs `message` (not its digest): ECDSA with SHA-256 for P-256 and SHA-384 for P-384, as the DER
    /// ECDSA-Sig-Value of RFC 3279 section 2.2.3.
    ///
    /// Errors: [`SignerError::Busy`] at once when the queue is full; the others as their names say.
    fn sign(&self, name: &KeyName, message: Vec<u8>) -> Pending<Vec<u8>>;

    /// Makes a new P-256 key with that name where the keys live, durable before this answers. A name that
    /// exists is refused ([`SignerError::Exists`]); keys are never replaced.
    fn create_key(&self, name: &KeyName) -> Pending<KeyInfo>;

    /// How the signer is
    fn status(&self) -> Pending<SignerStatus>;
}

/// What a key signs. It follows from its name and is enforced where the key is, so that a caller that went
/// astray cannot have a tree head signed with the issuing key, or a certificate with the log's.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum KeyPurpose {
    /// Certificates, CRLs, requests and deny-lists: names `issuing` and `issuing-...`
    Issuing,
    /// SCTs and tree heads: names `log` and `log-...`
    Log,
}

impl KeyPurpose {
    /// What stands before every message of this crate that is no DER and no log structure
    const DOMAIN: &'static [u8] = b"stoq-trustchain ";

    /// Whether a key of this purpose signs such a message.
    ///
    /// Issuing keys sign one whole DER SEQUENCE, or a message under this crate's domain (deny-lists). Log keys sign
    /// the structures of RFC 6962 sections 3.2 and 3.5, which begin with version 0 and signature type 0 or 1.
    pub fn accepts(self, message: &[u8]) -> bool {
        match self {
            Self::Issuing => message.starts_with(Self::DOMAIN) || tbs::is_sequence(message),
            Self::Log => matches!(message, [0, 0 | 1, ..]),
        }
    }

    /// The beginning of a self-test's message, which means nothing to anybody: with its 32 random octets it is
    /// shorter than the signed structure of a tree head, and nothing else is under this name of the domain.
    fn sample(self) -> Vec<u8> {
        match self {
            Self::Issuing => [Self::DOMAIN, b"self-test v1 "].concat(),
            Self::Log => vec![0, 1],
        }
    }

    /// First part of the names of such keys
    pub const fn label(self) -> &'static str {
        match self {
            Self::Issuing => "issuing",
            Self::Log => "log",
        }
    }
}

/// Name of a key: `issuing` or `log`, alone or with a suffix (`issuing-2026-11`); lower-case letters, digits and
/// hyphens, at most [`KEY_NAME_LIMIT`] characters
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyName {
    text: String,
    purpose: KeyPurpose,
}

/// The text names no key
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "`{0}` is no name of a key: use `issuing` or `log`, alone or followed by a hyphen and lower-case letters, \
     digits and hyphens, at most {KEY_NAME_LIMIT} characters"
)]
pub struct KeyNameError(String);

impl KeyName {
    /// The ordinary issuing key
    pub fn issuing() -> Self {
        Self::plain(KeyPurpose::Issuing)
    }

    /// The ordinary log key
    pub fn log() -> Self {
        Self::plain(KeyPurpose::Log)
    }

    fn plain(purpose: KeyPurpose) -> Self {
        Self { text: purpose.label().into(), purpose }
    }

    /// A name
    pub fn new(name: &str) -> Result<Self, KeyNameError> {
        let allowed =
            |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
        let well_formed =
            name.len() <= KEY_NAME_LIMIT && name.bytes().all(allowed) && !name.ends_with('-');
        let purpose = [KeyPurpose::Issuing, KeyPurpose::Log].into_iter().find(|purpose| {
            let rest = name.strip_prefix(purpose.label());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        });
        match purpose {
            Some(purpose) if well_formed => Ok(Self { text: name.into(), purpose }),
            // Only what is printed of a stranger's text is kept.
            _ => Err(KeyNameError(name.chars().take(2 * KEY_NAME_LIMIT).collect())),
        }
    }

    /// The text
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the key signs
    pub fn purpose(&self) -> KeyPurpose {
        self.purpose
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<KeyName> for String {
    fn from(name: KeyName) -> Self {
        name.text
    }
}

impl TryFrom<String> for KeyName {
    type Error = KeyNameError;

    fn try_from(text: String) -> Result<Self, KeyNameError> {
        Self::new(&text)
    }
}

impl FromStr for KeyName {
    type Err = KeyNameError;

    fn from_str(text: &str) -> Result<Self, KeyNameError> {
        Self::new(text)
    }
}

/// Why nothing was signed. Cloneable, so that everybody who waited for one batch can be told.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SignerError {
    /// The queue is full
    #[error("the signer has {queued} requests waiting; try again in {} ms", retry_after.as_millis())]
    Busy {
        /// Requests that wait
        queued: usize,
        /// When to try again
        retry_after: Duration,
    },
    /// No such key
    #[error("the signer has no key `{0}`; `stoqctl signer status` lists the keys it has")]
    UnknownKey(String),
    /// The key exists already
    #[error("the signer has a key `{0}` already; a key is never replaced, choose another name")]
    Exists(String),
    /// Too many keys
    #[error("the signer has {KEYS_LIMIT} keys already; remove one that is revoked")]
    TooManyKeys,
    /// The message is too long
    #[error("a message of {0} bytes is too long to sign; the limit is {MESSAGE_LIMIT_BYTES}")]
    TooLong(usize),
    /// A key of this purpose does not sign such a message
    #[error("key `{0}` does not sign such a message: it is kept for what its name says")]
    Purpose(String),
    /// The signature that came back does not verify
    #[error(
        "the signature made with key `{0}` does not verify with its public key and was not released; check \
         the token, its key and this host's memory"
    )]
    Unverified(String),
    /// The token or the signing process is away; it is being reached for
    #[error("the signer is not available: {0}")]
    Unavailable(String),
    /// The signer works and says no
    #[error("the signer refused: {0}")]
    Refused(String),
    /// The signer was stopped
    #[error("the signer has been stopped")]
    Stopped,
}

impl SignerError {
    /// Whether the same call may succeed later without anybody's doing
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unavailable(_))
    }
}

/// A key of a signer, as it is shown
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SignerKey {
    /// Its name
    pub name: KeyName,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), hexadecimal
    pub spki_sha256: String,
}

impl From<&KeyInfo> for SignerKey {
    fn from(key: &KeyInfo) -> Self {
        let spki_sha256 = hex(&boring::sha::sha256(key.spki_der()));
        Self { name: key.name().clone(), spki_sha256 }
    }
}

/// How a signer is; also what operators are shown
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SignerStatus {
    /// `soft`, `pkcs11`, or `remote` followed by what the signing process has
    pub backend: String,
    /// Whether the last signature or self-test, whichever was later, went well
    pub healthy: bool,
    /// What went wrong last, if anything ever did
    pub last_error: Option<String>,
    /// The keys
    pub keys: Vec<SignerKey>,
    /// Requests that wait
    pub queued: usize,
    /// Requests that may wait
    pub queue_limit: usize,
    /// Threads, each with its own session
    pub workers: usize,
    /// Signatures released since the start
    pub signatures: u64,
    /// Requests that failed since the start, full queues not counted
    pub failures: u64,
    /// Requests refused because the queue was full
    pub refused_busy: u64,
    /// Self-tests that passed
    pub self_tests: u64,
    /// Times a session was opened again after it or its token was lost
    pub reopened: u64,
}
