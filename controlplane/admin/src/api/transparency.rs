//! The transparency log: its key, its checkpoint, proofs, and a check of everything it has published. The log
//! that `stoqd` writes about itself is in `config`.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::text::timestamp;

/// Asks for [`LogKeyShown`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogKey {}

/// The log as everybody may know it
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogKeyShown {
    /// Its name: first line of its checkpoints
    pub origin: String,
    /// SHA-256 of its key, hexadecimal: what SCTs call it
    pub log_id: String,
    /// Its public key, in PEM
    pub key_pem: String,
}

/// Asks for [`LogCheckpointShown`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogCheckpoint {}

/// The published checkpoint
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogCheckpointShown {
    /// Name of the log
    pub origin: String,
    /// Entries under it
    pub size: u64,
    /// Root of the tree, hexadecimal
    pub root: String,
    /// When it was signed
    #[serde(with = "timestamp")]
    pub signed_at: SystemTime,
    /// The signed note itself (C2SP tlog-checkpoint)
    pub note: String,
}

/// Asks for [`LogProved`]: by serial number or by index
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum LogProveOf {
    /// The certificate with this serial number, hexadecimal
    Serial(String),
    /// The entry with this index
    Index(u64),
}

/// Asks for [`LogProved`]
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogProve {
    /// Of what
    pub of: LogProveOf,
}

/// A proof that travels
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogProved {
    /// Index of the entry
    pub index: u64,
    /// Entries under the checkpoint of the proof
    pub size: u64,
    /// Index, hashes and checkpoint in one text (C2SP tlog-proof)
    pub proof: String,
}

/// Asks for [`LogChecked`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogFsck {}

/// One thing that is wrong
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogFinding {
    /// Where: a file or an entry
    pub place: String,
    /// What
    pub problem: String,
}

/// What a check of the whole log has found
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogChecked {
    /// Entries that were recomputed
    pub entries: u64,
    /// Signed heads that were verified
    pub checkpoints: u64,
    /// How many things are wrong
    pub errors: u64,
    /// Files that belong to no checkpoint yet
    pub files_ahead: u64,
    /// What is wrong, the first thousand
    pub findings: Vec<LogFinding>,
}
