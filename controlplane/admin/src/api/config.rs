//! The configuration in force, what a reload would do, and the log level. Reading and checking stoqd.toml
//! is `stoq-config`'s duty.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use stoq_config::Config;

use crate::text::timestamp_option;

/// One key that differs
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConfigChange {
    /// Dotted, as in stoqd.toml; a row is named by what identifies it, such as `service.web`
    pub key: String,
    /// The value before, as a file has it; nothing for a row that is new
    pub before: Option<String>,
    /// The value after; nothing for a row that is gone
    pub after: Option<String>,
    /// Whether a reload suffices; otherwise the daemon must be started again
    pub reloadable: bool,
}

impl From<stoq_config::Change> for ConfigChange {
    fn from(change: stoq_config::Change) -> Self {
        let stoq_config::Change { key, before, after, reloadable } = change;
        Self { key, before, after, reloadable }
    }
}

/// Asks for [`ConfigShown`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigShow {}

/// The configuration in force
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConfigShown {
    /// The file it was read from, if there is one
    pub file: Option<PathBuf>,
    /// Every key with its value, as a stoqd.toml
    pub toml: String,
    /// The keys whose values are not the built-in ones
    pub not_default: Vec<ConfigChange>,
}

impl ConfigShown {
    /// Writes out a configuration
    pub fn new(file: Option<PathBuf>, config: &Config) -> Self {
        let not_default = Config::default().diff(config);
        Self {
            file,
            toml: config.effective_toml(),
            not_default: not_default.into_iter().map(ConfigChange::from).collect(),
        }
    }
}

/// Asks for [`ConfigDiffed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigDiff {
    /// The text of a stoqd.toml to compare with; the daemon's own file without it
    #[serde(default)]
    pub text: Option<String>,
}

/// What a reload would change
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConfigDiffed {
    /// The keys that differ; empty when nothing would change
    pub changes: Vec<ConfigChange>,
}

/// Reads the daemon's file again
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigReload {}

/// What a reload did
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConfigReloaded {
    /// Now in force
    pub applied: Vec<ConfigChange>,
    /// In force after a restart
    pub pending: Vec<ConfigChange>,
    /// Epoch of the snapshot now in force
    pub epoch: u64,
}

/// Asks for [`ConfigExplained`]
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigExplain {
    /// Dotted, as in stoqd.toml
    pub key: String,
}

/// The manual of one key
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConfigExplained {
    /// Dotted, as in stoqd.toml
    pub key: String,
    /// The manual's text
    pub text: String,
}

/// Asks for [`LogLevel`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogLevelGet {}

/// The log level in force
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogLevel {
    /// A level, or directives like `info,stoq_transport=debug`
    pub level: String,
    /// When it returns to the configured one, if it was set for a while
    #[serde(with = "timestamp_option")]
    pub reverts_at: Option<SystemTime>,
}

/// Changes the log level
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogLevelSet {
    /// A level, or directives like `info,stoq_transport=debug`
    pub level: String,
    /// Time after which the earlier one returns; until the restart without it
    #[serde(default)]
    pub for_seconds: Option<u64>,
}

/// The log level before and after
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogLevelWasSet {
    /// The level now in force
    pub level: String,
    /// The level before
    pub previous: String,
    /// When the earlier one returns
    #[serde(with = "timestamp_option")]
    pub reverts_at: Option<SystemTime>,
}
