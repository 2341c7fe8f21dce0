//! The chain: a record is one line of JSON that has its number and the hash of the record before, so that no
//! line can be changed, left out or put elsewhere without all later hashes changing. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use boring::sha::Sha256;
use serde::{Deserialize, Serialize};
use stoq_store::journal::{self, OpenError};

use super::event::{AuditEvent, AuditKind, Outcome};
use crate::ca::entry::{Audit, Entry};
use crate::certificate::hex;

/// Bytes of the longest record
pub const RECORD_LIMIT_BYTES: usize = 16 << 10;
/// What stands before each record under the hash
const DOMAIN: &[u8] = b"stoq-trustchain audit v1\0";

/// One line
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRecord {
    /// Its number; the first record has 1 and none is left out
    pub number: u64,
    /// When it was written, in milliseconds since 1970
    pub time_ms: u64,
    /// Hash of the record before, hexadecimal; zeros for the first
    pub previous: String,
    /// What happened
    pub kind: AuditKind,
    /// What came of it
    pub outcome: Outcome,
    /// Who did it
    pub actor: String,
    /// To what
    pub subject: String,
    /// More, by name
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
}

/// Why a record does not continue the chain
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AuditError {
    /// It is no record
    #[error("audit record {number} does not parse: {reason}")]
    Malformed {
        /// The number it should have
        number: u64,
        /// What the parser said
        reason: String,
    },
    /// Its number is another
    #[error("audit record {expected} is missing; {found} stands in its place")]
    Number {
        /// What should come
        expected: u64,
        /// What came
        found: u64,
    },
    /// The record before is not the one it was written behind
    #[error("audit record {0} was written behind another record than the one before it")]
    Broken(u64),
}

/// Where the log ends
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Head {
    /// Records
    pub count: u64,
    /// Hash of the last; zeros where there is none
    pub hash: [u8; 32],
    /// When the last was written, in milliseconds since 1970
    pub time_ms: u64,
}

impl Head {
    /// The hash, hexadecimal
    pub fn hash_text(&self) -> String {
        hex(&self.hash)
    }
}

/// The chain as far as it goes
#[derive(Clone, Debug, Default)]
pub struct Chain {
    head: Head,
    last_anchored: u64,
}

impl Chain {
    /// Where it ends
    pub fn head(&self) -> Head {
        self.head
    }

    /// Records that an anchor covers
    pub fn anchored(&self) -> u64 {
        self.last_anchored
    }

    /// Writes the next record, without taking it
    pub(super) fn next(&self, event: &AuditEvent, time_ms: u64) -> Result<Vec<u8>, AuditError> {
        let record = AuditRecord {
            number: self.head.count + 1,
            time_ms,
            previous: hex(&self.head.hash),
            kind: event.kind,
            outcome: event.outcome,
            actor: event.actor.clone(),
            subject: event.subject.clone(),
            details: event.details.clone(),
        };
        let malformed = |reason: String| AuditError::Malformed { number: record.number, reason };
        let line = serde_json::to_vec(&record).map_err(|error| malformed(error.to_string()))?;
        if line.len() > RECORD_LIMIT_BYTES {
            return Err(malformed(format!("it has more than {RECORD_LIMIT_BYTES} bytes")));
        }
        Ok(line)
    }

    /// Takes the next record, if it is the next
    pub fn take(&mut self, line: &[u8]) -> Result<AuditRecord, AuditError> {
        let number = self.head.count + 1;
        let malformed = |reason: String| AuditError::Malformed { number, reason };
        if line.len() > RECORD_LIMIT_BYTES {
            return Err(malformed(format!("it has more than {RECORD_LIMIT_BYTES} bytes")));
        }
        let record: AuditRecord =
            serde_json::from_slice(line).map_err(|error| malformed(error.to_string()))?;
        if record.number != number {
            return Err(AuditError::Number { expected: number, found: record.number });
        }
        if record.previous != hex(&self.head.hash) {
            return Err(AuditError::Broken(number));
        }
        if record.kind == AuditKind::Anchored && record.outcome == Outcome::Done {
            // The anchor covers what came before it.
            let covered = record.details.get("count").and_then(|count| count.parse().ok());
            self.last_anchored = covered.unwrap_or(0).max(self.last_anchored);
        }
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        hash.update(&self.head.hash);
        hash.update(line);
        self.head = Head { count: number, hash: hash.finish(), time_ms: record.time_ms };
        Ok(record)
    }
}

/// Shows every record of a journal, in use or not, in order; returns where the log ends. For `audit list`,
/// `audit verify` and export.
pub fn export<V>(journal_directory: &Path, mut visit: V) -> Result<Head, OpenError>
where
    V: FnMut(&AuditRecord, &[u8]) -> std::io::Result<()>,
{
    let mut chain = Chain::default();
    let kind = Entry::Audit(Audit::default()).kind();
    let report = journal::inspect(journal_directory, |entry| {
        // Only audit records are read; the journal's other entries may be of a later version.
        if entry.kind != kind {
            return Ok(());
        }
        if let Entry::Audit(audit) = Entry::decode(entry.kind, entry.payload)? {
            let record = chain.take(&audit.record)?;
            visit(&record, &audit.record)?;
        }
        Ok(())
    })?;
    match report.errors.into_iter().next() {
        Some(damage) => Err(damage.into()),
        None => Ok(chain.head()),
    }
}

/// Checks exported lines from the first on; returns where they end, to be compared with an anchor
pub fn verify_lines<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Result<Head, AuditError> {
    let mut chain = Chain::default();
    for line in lines {
        chain.take(line)?;
    }
    Ok(chain.head())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: u64) -> Vec<Vec<u8>> {
        let mut chain = Chain::default();
        let mut lines = Vec::new();
        for number in 1..=count {
            let event = AuditEvent::done(AuditKind::Revoked, "operator:root", &number.to_string());
            let line = chain.next(&event.with("reason", "superseded"), number * 1_000).unwrap();
            chain.take(&line).unwrap();
            lines.push(line);
        }
        lines
    }

    fn verify(lines: &[Vec<u8>]) -> Result<Head, AuditError> {
        verify_lines(lines.iter().map(Vec::as_slice))
    }

    #[test]
    fn a_whole_log_verifies_and_ends_where_it_ended() {
        let whole = lines(20);
        let head = verify(&whole).unwrap();
        assert_eq!((head.count, head.time_ms), (20, 20_000));
        assert_ne!(verify(&whole[..19]).unwrap().hash, head.hash);
    }

    #[test]
    fn whatever_is_changed_left_out_moved_or_put_in_is_found() {
        let whole = lines(8);
        let head = verify(&whole).unwrap();
        for at in 0..whole.len() {
            let mut without = whole.clone();
            without.remove(at);
            // A log that was cut at its end is whole in itself; its head is another.
            assert!(verify(&without).map_or(true, |end| end.hash != head.hash), "{at}");
            let mut twice = whole.clone();
            twice.insert(at, whole[at].clone());
            assert!(verify(&twice).is_err());
            let mut changed = whole.clone();
            let text = String::from_utf8(changed[at].clone()).unwrap();
            changed[at] = text.replace("superseded", "unspecified").into_bytes();
            assert!(verify(&changed).map_or(true, |end| end.hash != head.hash), "{at}");
        }
        let mut swapped = whole.clone();
        swapped.swap(2, 3);
        assert_eq!(verify(&swapped), Err(AuditError::Number { expected: 3, found: 4 }));
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_found() {
        let whole = lines(3);
        assert!(verify(&whole).is_ok());
        for bit in 0..whole[1].len() * 8 {
            let mut flipped = whole.clone();
            flipped[1][bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_anchor_is_remembered_by_what_it_covers() {
        let mut chain = Chain::default();
        for line in lines(5) {
            chain.take(&line).unwrap();
        }
        let anchored = AuditEvent::done(AuditKind::Anchored, "authority", "x").with("count", 5);
        let line = chain.next(&anchored, 9).unwrap();
        chain.take(&line).unwrap();
        assert_eq!((chain.anchored(), chain.head().count), (5, 6));
    }
}
