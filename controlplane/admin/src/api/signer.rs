//! What signs for the authority: how it is, and a test of every key.

use serde::{Deserialize, Serialize};

pub use stoq_trustchain::signer::{SignerKey, SignerStatus};

/// Asks for [`SignerStatus`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SignerShow {}

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
