//! What can be recorded. Kinds are a closed list with stable labels; texts are cut to their limits, because a
//! stranger's request must neither fill the journal nor keep its own refusal out of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Bytes of the longest text of an event
pub const TEXT_LIMIT_BYTES: usize = 256;
/// Most details of one event
pub const DETAILS_LIMIT: usize = 12;

/// What happened
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditKind {
    /// The authority started
    Started,
    /// The authority stopped in order
    Stopped,
    /// Something certificates may name was registered, or changed
    Registered,
    /// A registration was taken back
    Unregistered,
    /// A join token was made
    TokenCreated,
    /// A join token was withdrawn
    TokenWithdrawn,
    /// A node enrolled
    Enrolled,
    /// A request for a certificate was refused
    IssueRefused,
    /// Certificates or a key were revoked
    Revoked,
    /// Revocations were taken over from a signed deny-list, or from another instance
    RevocationsAdopted,
    /// The deny-list could not be issued, or can again
    DenyListStalled,
    /// A CRL could not be issued, or can again
    CrlStalled,
    /// The renewal of everything was moved
    RenewalMoved,
    /// The issuing key changed its state
    IssuingKeyState,
    /// The signer failed, or works again
    Signer,
    /// A root or issuing key was made or signed for
    Ceremony,
    /// Policy, profiles or configuration changed
    PolicyChanged,
    /// A backup was taken
    BackupTaken,
    /// State was restored from a backup
    Restored,
    /// The head of this log was anchored in the transparency log
    Anchored,
    /// Anything else an operator did
    OperatorCommand,
}

/// What came of it
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done
    Done,
    /// It was refused
    Refused,
    /// It failed
    Failed,
}

/// Something to record
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuditEvent {
    /// What happened
    pub kind: AuditKind,
    /// What came of it
    pub outcome: Outcome,
    /// Who did it: `operator:root`, `node:alpha`, `authority`
    pub actor: String,
    /// To what: a serial number, a name, a key
    pub subject: String,
    /// More, by name
    pub details: BTreeMap<String, String>,
}

impl AuditEvent {
    /// Something that was done
    pub fn done(kind: AuditKind, actor: &str, subject: &str) -> Self {
        Self::new(kind, Outcome::Done, actor, subject)
    }

    /// Something that was refused, and why
    pub fn refused(kind: AuditKind, actor: &str, subject: &str, reason: &str) -> Self {
        Self::new(kind, Outcome::Refused, actor, subject).with("reason", reason)
    }

    /// Something that failed, and why
    pub fn failed(kind: AuditKind, actor: &str, subject: &str, reason: &str) -> Self {
        Self::new(kind, Outcome::Failed, actor, subject).with("reason", reason)
    }

    fn new(kind: AuditKind, outcome: Outcome, actor: &str, subject: &str) -> Self {
        let details = BTreeMap::new();
        Self { kind, outcome, actor: cut(actor), subject: cut(subject), details }
    }

    /// With one more detail; beyond [`DETAILS_LIMIT`] it is left out
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        if self.details.len() < DETAILS_LIMIT {
            self.details.insert(cut(name), cut(&value.to_string()));
        }
        self
    }
}

/// At most the limit, at a character's end, without control characters
pub(super) fn cut(text: &str) -> String {
    let mut kept = String::new();
    for character in text.chars() {
        let character = if character.is_control() { '\u{fffd}' } else { character };
        if kept.len() + character.len_utf8() > TEXT_LIMIT_BYTES {
            break;
        }
        kept.push(character);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_strangers_are_cut() {
        let event = AuditEvent::refused(AuditKind::IssueRefused, &"é".repeat(500), "a\nb", "no");
        assert!(event.actor.len() <= TEXT_LIMIT_BYTES && event.actor.chars().all(|c| c == 'é'));
        assert_eq!(event.subject, "a\u{fffd}b");
        let many = (0..100).fold(event, |event, number| event.with(&format!("d{number}"), number));
        assert_eq!(many.details.len(), DETAILS_LIMIT);
    }
}
