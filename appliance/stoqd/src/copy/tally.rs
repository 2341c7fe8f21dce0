//! What a transfer has done so far and what it came to, counted the same way by both roles.

use std::fmt;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::PROBLEMS_LISTED_MAX;
use super::error::Failure;
use super::wire::{EntryKind, EntryPath, ErrorCode, Outcome, Totals};

/// A view of a running transfer. The totals are counted by the sender before it starts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Octets of files that need no more attention: transferred, found in place, or of files given up
    pub bytes_done: u64,
    /// Octets of all files
    pub bytes_total: u64,
    /// Octets that crossed the flow in this run; the rate is their increase
    pub bytes_transferred: u64,
    /// Files settled, whatever their end
    pub files_done: u64,
    /// Files in all
    pub files_total: u64,
    /// The file that is being transferred, or was last
    pub current: Option<EntryPath>,
}

/// Something that was not copied
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Its path below the root of the transfer, fit for printing
    pub path: String,
    /// Why
    pub code: ErrorCode,
    /// Why, as a sentence
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}: {})", self.path, self.code, self.text)
    }
}

/// What a transfer came to
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Summary {
    /// Files whose content arrived, was verified and stands at its place
    pub files_verified: u64,
    /// Files that were there already
    pub files_unchanged: u64,
    /// Directories made or found
    pub directories: u64,
    /// Symbolic links made or found
    pub symlinks: u64,
    /// Entries that were not copied
    pub failed: u64,
    /// Octets of file content that crossed the flow
    pub bytes_transferred: u64,
    /// Octets of the files in place: verified and unchanged ones
    pub bytes_in_place: u64,
    /// The first of the entries that were not copied, at most 100
    pub problems: Vec<Problem>,
    /// From the first message about files to the last
    pub elapsed: Duration,
}

/// The count of one role
pub(super) struct Tally {
    totals: Totals,
    bytes_in_place: u64,
    problems: Vec<Problem>,
    progress: watch::Sender<Progress>,
    started: Instant,
}

impl Tally {
    pub fn new(progress: watch::Sender<Progress>) -> Self {
        let started = Instant::now();
        let problems = Vec::new();
        Self { totals: Totals::default(), bytes_in_place: 0, problems, progress, started }
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// What the sender counted beforehand
    pub fn announced(&self, files: u64, bytes: u64) {
        self.progress.send_modify(|progress| {
            progress.files_total = files;
            progress.bytes_total = bytes;
        });
    }

    /// A file's content starts, after `held` octets that need not travel
    pub fn begun(&self, path: &EntryPath, held: u64) {
        self.progress.send_modify(|progress| {
            progress.bytes_done += held;
            progress.current = Some(path.clone());
        });
    }

    /// Content crossed the flow
    pub fn transferred(&mut self, bytes: u64) {
        self.totals.bytes_transferred += bytes;
        self.progress.send_modify(|progress| {
            progress.bytes_done += bytes;
            progress.bytes_transferred += bytes;
        });
    }

    /// An entry is settled; `counted` octets of it are in the progress already
    pub fn settled(&mut self, path: &EntryPath, kind: &EntryKind, counted: u64, end: &Outcome) {
        match (kind, end) {
            (_, Outcome::Failed { code, text }) => {
                self.failed(path, &Failure { code: *code, text: text.clone() });
            }
            (EntryKind::File { size }, Outcome::Verified) => {
                self.totals.files_verified += 1;
                self.bytes_in_place += size;
            }
            (EntryKind::File { size }, _) => {
                self.totals.files_unchanged += 1;
                self.bytes_in_place += size;
            }
            (EntryKind::Directory, _) => self.totals.directories += 1,
            (EntryKind::Symlink { .. }, _) => self.totals.symlinks += 1,
            (EntryKind::DirectoryEnd, _) => {}
        }
        if let EntryKind::File { size } = kind {
            self.progress.send_modify(|progress| {
                progress.files_done += 1;
                progress.bytes_done += size.saturating_sub(counted);
                // A tree that grew since it was counted must not show more done than there is.
                progress.files_total = progress.files_total.max(progress.files_done);
                progress.bytes_total = progress.bytes_total.max(progress.bytes_done);
            });
        }
    }

    /// Something was not copied
    pub fn failed(&mut self, path: &EntryPath, failure: &Failure) {
        self.totals.failed += 1;
        if self.problems.len() < PROBLEMS_LISTED_MAX {
            self.problems.push(Problem {
                path: path.to_string(),
                code: failure.code,
                text: failure.text.to_string(),
            });
        }
    }

    pub fn summary(self) -> Summary {
        Summary {
            files_verified: self.totals.files_verified,
            files_unchanged: self.totals.files_unchanged,
            directories: self.totals.directories,
            symlinks: self.totals.symlinks,
            failed: self.totals.failed,
            bytes_transferred: self.totals.bytes_transferred,
            bytes_in_place: self.bytes_in_place,
            problems: self.problems,
            elapsed: self.started.elapsed(),
        }
    }
}
