//! The audit log: its newest records, and whether its chain is whole.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::text::timestamp;

/// Records a list has where nothing else is said
pub const AUDIT_LIMIT_DEFAULT: usize = 50;
/// Records one list may have
pub const AUDIT_LIMIT_MAX: usize = 1_000;

/// One record
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuditRecord {
    /// Its number, from 1
    pub number: u64,
    /// When
    #[serde(with = "timestamp")]
    pub at: SystemTime,
    /// What happened: a stable word
    pub event: String,
    /// What came of it: `done`, `refused` or `failed`
    pub outcome: String,
    /// Who did it
    pub actor: String,
    /// To what
    pub subject: String,
    /// More, by name
    pub details: BTreeMap<String, String>,
    /// Hash of the record before, hexadecimal
    pub previous: String,
}

/// Asks for [`AuditTailed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuditTail {
    /// At most this many; [`AUDIT_LIMIT_MAX`] is the most
    #[serde(default)]
    pub limit: Option<usize>,
}

/// The newest records
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuditTailed {
    /// The oldest of them first
    pub records: Vec<AuditRecord>,
}

/// Asks for [`AuditVerified`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuditVerify {}

/// What a check of the whole chain has found
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuditVerified {
    /// Records whose place in the chain was checked
    pub records: u64,
    /// The last record that is anchored: what is signed or logged cannot be changed unseen
    pub anchored: u64,
    /// Hash of the last record, hexadecimal
    pub head: String,
    /// What is wrong
    pub errors: Vec<String>,
}
