//! Reading a journal that is in use, from any entry on, up to what was durable when the reading began: for
//! whatever is derived from the journal and has to catch up.

use std::io;
use std::path::{Path, PathBuf};

use super::error::{Damage, ReadError};
use super::format::{EntryKind, Fault, JournalId, Marker, marker};
use super::scan::{Found, SegmentScan, list_segments, segment_path};

/// An entry that was read
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JournalEntry {
    /// Its number
    pub sequence: u64,
    /// What it is
    pub kind: EntryKind,
    /// Its content
    pub payload: Vec<u8>,
}

/// Reads group by group; blocks on the files
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    journal: JournalId,
    marker: Marker,
    after: u64,
    until: u64,
    scan: Option<SegmentScan>,
    next_segment: u64,
}

impl Reader {
    pub(super) fn new(
        directory: &Path,
        journal: JournalId,
        after: u64,
        until: u64,
    ) -> Result<Self, ReadError> {
        let mut reader = Self {
            directory: directory.to_owned(),
            journal,
            marker: marker(&journal),
            after,
            until,
            scan: None,
            next_segment: 1,
        };
        let listed = list_segments(directory);
        let listed =
            listed.map_err(|source| ReadError::Io { path: directory.to_owned(), source })?;
        // From the back to the first segment that begins early enough.
        for index in listed.into_iter().rev() {
            // A last segment may just be being created, and holds nothing that is durable yet.
            if let Ok(scan) = reader.open_segment(index)
                && scan.header.first_sequence <= after.saturating_add(1)
            {
                reader.next_segment = index;
                break;
            }
        }
        Ok(reader)
    }

    /// The entries of the next group that are wanted, never an empty list; `None` at the end
    pub fn next_group(&mut self) -> Result<Option<Vec<JournalEntry>>, ReadError> {
        loop {
            if self.after >= self.until {
                return Ok(None);
            }
            let mut scan = match self.scan.take() {
                Some(scan) => scan,
                None => {
                    let scan = self.open_segment(self.next_segment)?;
                    self.next_segment += 1;
                    scan
                }
            };
            let found = scan.next();
            match found.map_err(|source| ReadError::Io { path: scan.path.clone(), source })? {
                Found::End => continue,
                Found::Broken { fault, .. } => {
                    return Err(Damage { file: scan.path, offset: scan.offset, fault }.into());
                }
                Found::Group => {}
            }
            let entries: Vec<JournalEntry> = scan
                .entries()
                .filter(|entry| entry.sequence > self.after && entry.sequence <= self.until)
                .map(|entry| JournalEntry {
                    sequence: entry.sequence,
                    kind: entry.kind,
                    payload: entry.payload.to_vec(),
                })
                .collect();
            self.scan = Some(scan);
            if let Some(last) = entries.last() {
                self.after = last.sequence;
                return Ok(Some(entries));
            }
        }
    }

    fn open_segment(&self, index: u64) -> Result<SegmentScan, ReadError> {
        let path = segment_path(&self.directory, index);
        let damaged = |file, fault| ReadError::from(Damage { file, offset: 0, fault });
        match SegmentScan::open(path.clone(), self.marker) {
            Ok(Ok(scan)) if scan.header.journal == self.journal => Ok(scan),
            Ok(Ok(scan)) => Err(damaged(path, Fault::ForeignJournal(scan.header.journal))),
            Ok(Err(fault)) => Err(damaged(path, fault)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(damaged(path, Fault::MissingSegment))
            }
            Err(source) => Err(ReadError::Io { path, source }),
        }
    }
}
