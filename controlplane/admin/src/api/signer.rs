//! What signs for the authority: how it is, and a test of every key.

use serde::{Deserialize, Serialize};

/// Asks for [`SignerShown`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SignerShow {}

/// A key the signer has
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SignerKey {
    /// Its name
    pub name: String,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), hexadecimal
    pub spki_sha256: String,
}

/// How the signer is
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SignerShown {
    /// Where the keys are: `soft`, `pkcs11`, or `remote` and what the signing process has
    pub backend: String,
    /// Whether the last signature or self-test went well
    pub healthy: bool,
    /// What went wrong last
    pub last_error: Option<String>,
    /// The keys
    pub keys: Vec<SignerKey>,
    /// Requests that wait
    pub queued: usize,
    /// Requests that may wait
    pub queue_limit: usize,
    /// Threads, each with a session of its own
    pub workers: usize,
    /// Signatures since the start
    pub signatures: u64,
    /// Requests that failed since the start
    pub failures: u64,
    /// Requests refused because the queue was full
    pub refused_busy: u64,
    /// Self-tests that passed
    pub self_tests: u64,
    /// Times a session was opened again after it or its token was lost
    pub reopened: u64,
}

/// Signs a test message with every key and verifies it
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SignerTest {}

/// What became of one key's test
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SignerTestedKey {
    /// Its name
    pub name: String,
    /// Time until the signature was there and verified
    pub milliseconds: f64,
    /// Why there is none
    pub error: Option<String>,
}

/// What became of the tests
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SignerTested {
    /// By name
    pub keys: Vec<SignerTestedKey>,
}
