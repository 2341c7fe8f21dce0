//! Backups of the authority while it runs. Checking and restoring one needs no daemon and is `stoqctl`'s.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A text that is not printed
#[derive(Clone, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Copies the authority's state into a new directory
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BackupCreate {
    /// Absolute; must not exist yet. The daemon writes it.
    pub directory: PathBuf,
    /// Private keys too, as far as they lie with the authority's state, encrypted with this passphrase
    #[serde(default)]
    pub keys_passphrase: Option<Secret>,
}

/// A backup
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BackupCreated {
    /// Where it is
    pub directory: PathBuf,
    /// Files in it
    pub files: u64,
    /// Their size
    pub bytes: u64,
    /// Last journal entry in it
    pub journal_sequence: u64,
    /// Number of the deny-list in it
    pub deny_list_epoch: u64,
    /// Certificates in its journal
    pub certificates: u64,
    /// Files whose private keys are in it, encrypted
    pub keys: Vec<String>,
    /// Files with private keys that were left out
    pub keys_left_out: Vec<String>,
}
