//! Checking a journal without changing anything, also one that is in use: everything that is wrong, not only
//! the first thing.

use std::error::Error;
use std::io;
use std::path::Path;

use super::error::{Damage, OpenError};
use super::format::{Entry, Fault, JournalId};
use super::manifest::{self, Manifest};
use super::walk::{TornTail, Visitor, assume_manifest, walk};

/// Most findings of one report
pub const FINDINGS_LIMIT: usize = 1_000;

/// What a check has found
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Which journal it is, if that can be told
    pub journal: Option<JournalId>,
    /// Segments that could be read
    pub segments: u64,
    /// Whole groups
    pub groups: u64,
    /// Entries in whole groups
    pub entries: u64,
    /// Bytes of the segments
    pub bytes: u64,
    /// The last entry
    pub last_sequence: u64,
    /// It was closed in order; not so when it is in use
    pub closed_cleanly: bool,
    /// A last group that is not whole. Never acknowledged after a crash, being written when the journal is in
    /// use; but damage to the last group since then would look the same.
    pub torn_tail: Option<TornTail>,
    /// What no crash explains, in the order of the files, at most [`FINDINGS_LIMIT`]
    pub errors: Vec<Damage>,
    /// Errors beyond that
    pub errors_left_out: u64,
}

impl Report {
    /// Nothing was found that a crash does not explain
    pub fn is_sound(&self) -> bool {
        self.errors.is_empty()
    }

    fn note(&mut self, damage: Damage) {
        if self.errors.len() < FINDINGS_LIMIT {
            self.errors.push(damage);
        } else {
            self.errors_left_out += 1;
        }
    }
}

/// A report that shows the entries to somebody as well
struct Inspection<V> {
    report: Report,
    visit: V,
}

impl<V> Visitor for Inspection<V>
where
    V: FnMut(Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>>,
{
    type Stop = OpenError;

    fn entry(&mut self, entry: Entry<'_>) -> Result<(), OpenError> {
        let sequence = entry.sequence;
        (self.visit)(entry).map_err(|reason| OpenError::Refused { sequence, reason })
    }

    fn damage(&mut self, damage: Damage) -> Result<(), OpenError> {
        self.report.note(damage);
        Ok(())
    }

    fn unreadable(&mut self, path: &Path, source: io::Error) -> OpenError {
        OpenError::Io { path: path.to_owned(), source }
    }
}

/// Checks the journal in a directory. An error is returned only if that could not be done.
pub fn fsck(directory: &Path) -> Result<Report, OpenError> {
    inspect(directory, |_entry| Ok(()))
}

/// Checks the journal in a directory as [`fsck`] does and shows every entry that can be read to `visit`, in
/// order; behind damage entries can be missing. Nothing is changed and no lock is taken: the journal can be in
/// use, and then its last entries may not be durable yet.
pub fn inspect<V>(directory: &Path, visit: V) -> Result<Report, OpenError>
where
    V: FnMut(Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>>,
{
    let mut inspection = Inspection { report: Report::default(), visit };
    inspect_into(directory, &mut inspection)?;
    Ok(inspection.report)
}

fn inspect_into<V>(directory: &Path, inspection: &mut Inspection<V>) -> Result<(), OpenError>
where
    V: FnMut(Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>>,
{
    let path = manifest::path(directory);
    let fault = match Manifest::read(directory) {
        Ok(Ok(manifest)) => {
            return check(directory, &manifest, inspection);
        }
        Ok(Err(fault)) => fault,
        Err(error) if error.kind() == io::ErrorKind::NotFound && directory.is_dir() => {
            Fault::Manifest
        }
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    let assumed = assume_manifest(directory);
    let assumed = assumed.map_err(|source| OpenError::Io { path: directory.to_owned(), source })?;
    let Some(manifest) = assumed else {
        if fault == Fault::Manifest && !path.exists() {
            return Err(OpenError::NotThere(directory.to_owned()));
        }
        inspection.report.note(Damage { file: path, offset: 0, fault });
        return Ok(());
    };
    inspection.report.note(Damage { file: path, offset: 0, fault });
    check(directory, &manifest, inspection)
}

fn check<V>(
    directory: &Path,
    manifest: &Manifest,
    inspection: &mut Inspection<V>,
) -> Result<(), OpenError>
where
    V: FnMut(Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>>,
{
    let walked = walk(directory, manifest, inspection)?;
    let report = &mut inspection.report;
    report.journal = Some(manifest.journal);
    report.segments = walked.segments;
    report.groups = walked.groups;
    report.entries = walked.entries;
    report.bytes = walked.bytes;
    report.last_sequence = walked.end.next_sequence.saturating_sub(1);
    report.closed_cleanly = manifest.clean;
    report.torn_tail = walked.torn;
    Ok(())
}
