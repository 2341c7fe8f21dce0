//! The record of every certificate issued: one JSON line each, durable before the certificate leaves this
//! host. Append-only; the transparency log that will stand behind it is another room.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files;

/// Records one ledger holds; their serials are kept in memory
pub const LEDGER_LIMIT_RECORDS: usize = 4_000_000;
/// Length of the longest line that is read
const LINE_LIMIT_BYTES: usize = 4 << 10;

/// One issued certificate; times in seconds since 1970
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerRecord {
    /// Serial number, lower-case hexadecimal
    pub serial: String,
    /// Name of the profile
    pub profile: String,
    /// The node named
    pub node: String,
    /// SHA-256 of the SubjectPublicKeyInfo, hexadecimal
    pub spki_sha256: String,
    /// First second of validity
    pub not_before: u64,
    /// Last second of validity
    pub not_after: u64,
    /// When it was issued
    pub issued_at: u64,
}

/// Why the ledger cannot be used
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process has it open
    #[error("{path} is in use by another process; run one certificate authority per directory")]
    Locked {
        /// The file
        path: PathBuf,
    },
    /// A line is damaged
    #[error("{path} line {line} is damaged ({reason}); restore the file from a backup")]
    Damaged {
        /// The file
        path: PathBuf,
        /// Line number from 1
        line: usize,
        /// What is wrong
        reason: String,
    },
    /// The serial was issued before
    #[error("serial {0} was issued before")]
    SerialRepeats(String),
    /// The ledger is full
    #[error(
        "the ledger holds {LEDGER_LIMIT_RECORDS} records; archive it and start a new authority"
    )]
    Full,
    /// An earlier write failed, so what the disk holds is not known
    #[error("an earlier write to {path} failed; nothing is issued until the daemon is restarted")]
    Failed {
        /// The file
        path: PathBuf,
    },
    /// The file system refused
    #[error("{path}: {source}")]
    Io {
        /// The file
        path: PathBuf,
        /// What it said
        source: io::Error,
    },
}

/// The open ledger; it is locked against other processes
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    serials: HashSet<String>,
    failed: bool,
}

impl Ledger {
    /// Opens or creates the ledger and checks that every line parses and no serial repeats.
    ///
    /// A last line without its end is what a crash in the middle of a write leaves; its certificate was never
    /// handed out, so the line is cut off.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(files::PRIVATE)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LedgerError::Locked { path: path.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        files::sync_directory(files::parent(path)).map_err(failed)?;
        let mut ledger =
            Self { path: path.to_owned(), file, serials: HashSet::new(), failed: false };
        let whole_bytes = ledger.replay()?;
        let length = ledger.file.metadata().map_err(failed)?.len();
        if length > whole_bytes {
            tracing::warn!(path = %path.display(), bytes = length - whole_bytes, "unfinished record cut off");
            ledger.file.set_len(whole_bytes).map_err(failed)?;
            ledger.file.sync_all().map_err(failed)?;
        }
        Ok(ledger)
    }

    /// Adds a record; it is on the disk when this returns
    pub fn append(&mut self, record: &LedgerRecord) -> Result<(), LedgerError> {
        if self.failed {
            return Err(LedgerError::Failed { path: self.path.clone() });
        }
        if self.serials.len() >= LEDGER_LIMIT_RECORDS {
            return Err(LedgerError::Full);
        }
        if self.serials.contains(&record.serial) {
            return Err(LedgerError::SerialRepeats(record.serial.clone()));
        }
        let written = serde_json::to_vec(record).map_err(io::Error::other).and_then(|mut line| {
            line.push(b'\n');
            self.file.write_all(&line)?;
            self.file.sync_data()
        });
        if let Err(source) = written {
            // After a failed fsync the kernel may have dropped the page: a second try would prove nothing.
            self.failed = true;
            return Err(LedgerError::Io { path: self.path.clone(), source });
        }
        self.serials.insert(record.serial.clone());
        Ok(())
    }

    /// How many certificates were issued
    pub fn len(&self) -> usize {
        self.serials.len()
    }

    /// Whether none was issued
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }

    /// Reads every whole line; returns where the last one ends
    fn replay(&mut self) -> Result<u64, LedgerError> {
        let path = self.path.clone();
        let failed = |source| LedgerError::Io { path: path.clone(), source };
        let damaged =
            |line, reason: String| LedgerError::Damaged { path: path.clone(), line, reason };
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut reader = BufReader::new(&self.file);
        let (mut end, mut number, mut line) = (0, 0, Vec::new());
        loop {
            line.clear();
            number += 1;
            let read = io::Read::take(&mut reader, LINE_LIMIT_BYTES as u64)
                .read_until(b'\n', &mut line)
                .map_err(failed)?;
            if line.last() != Some(&b'\n') {
                if read == LINE_LIMIT_BYTES {
                    return Err(damaged(number, "the line is too long".into()));
                }
                return Ok(end);
            }
            let record: LedgerRecord = serde_json::from_slice(&line)
                .map_err(|error| damaged(number, error.to_string()))?;
            if !self.serials.insert(record.serial.clone()) {
                return Err(damaged(number, format!("serial {} repeats", record.serial)));
            }
            if self.serials.len() > LEDGER_LIMIT_RECORDS {
                return Err(LedgerError::Full);
            }
            end += read as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(serial: &str) -> LedgerRecord {
        LedgerRecord {
            serial: serial.into(),
            profile: "node".into(),
            node: "alpha".into(),
            spki_sha256: "00".into(),
            not_before: 1,
            not_after: 2,
            issued_at: 1,
        }
    }

    #[test]
    fn records_survive_and_serials_never_repeat() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("issued.jsonl");
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.append(&record("01")).unwrap();
        ledger.append(&record("02")).unwrap();
        assert!(matches!(ledger.append(&record("01")), Err(LedgerError::SerialRepeats(_))));
        assert!(matches!(Ledger::open(&path), Err(LedgerError::Locked { .. })));
        drop(ledger);
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.len(), 2);
        assert!(matches!(ledger.append(&record("02")), Err(LedgerError::SerialRepeats(_))));
    }

    #[test]
    fn a_torn_end_is_cut_and_anything_else_is_damage() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("issued.jsonl");
        Ledger::open(&path).unwrap().append(&record("01")).unwrap();
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&good[..], b"{\"serial\":\"0"].concat()).unwrap();
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.append(&record("02")).unwrap();
        drop(ledger);
        assert_eq!(Ledger::open(&path).unwrap().len(), 2);

        for damage in [&good[..], b"{}\n", b"\n", &[b'x'; 9_000]] {
            std::fs::write(&path, [&good[..], damage].concat()).unwrap();
            let error = Ledger::open(&path).unwrap_err();
            assert!(matches!(error, LedgerError::Damaged { line: 2, .. }), "{error}");
        }
    }
}
