//! Named checks of the node and of its authority: what was looked at, whether it is as it should be, and what
//! to do where it is not.

use serde::{Deserialize, Serialize};

/// Asks for [`Diagnosis`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DoctorRun {
    /// Also what takes minutes: reads the whole log and the whole audit log
    #[serde(default)]
    pub deep: bool,
}

/// How a check went
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// As it should be
    Good,
    /// Does not apply to this node
    Skipped,
    /// Works, and will not for ever
    Warning,
    /// Does not work
    Bad,
}

/// One check
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Check {
    /// Its name: stable, kebab-case
    pub name: String,
    /// How it went
    pub health: Health,
    /// What was seen, one sentence
    pub message: String,
    /// What to do; empty where nothing is to be done
    pub remedy: String,
}

impl Check {
    /// All is well
    pub fn good(name: &str, message: impl Into<String>) -> Self {
        Self::new(name, Health::Good, message, "")
    }

    /// Does not apply
    pub fn skipped(name: &str, message: impl Into<String>) -> Self {
        Self::new(name, Health::Skipped, message, "")
    }

    /// A check with every part given
    pub fn new(
        name: &str,
        health: Health,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), health, message: message.into(), remedy: remedy.into() }
    }
}

/// All checks
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Diagnosis {
    /// In the order in which one would look
    pub checks: Vec<Check>,
}

impl Diagnosis {
    /// The worst that was found
    pub fn health(&self) -> Health {
        self.checks.iter().map(|check| check.health).max().unwrap_or(Health::Good)
    }
}
