//! From the first entry of a journal to the last, checking everything on the way. Opening stops at the first
//! damage; `fsck` notes it and goes on behind it. Files are only read.

use std::io;
use std::path::{Path, PathBuf};

use super::error::Damage;
use super::format::{Chain, Entry, Fault, Marker, SEGMENT_HEADER_BYTES, marker};
use super::manifest::{self, Manifest};
use super::scan::{Found, SegmentScan, list_segments, segment_path};
use super::writer::Position;

/// A group at the end of a journal that was cut short, and so was never acknowledged
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TornTail {
    /// The last segment
    pub file: PathBuf,
    /// Where the last whole group ends
    pub offset: u64,
    /// How many bytes stand behind it
    pub bytes: u64,
    /// What shows that the group is not whole
    pub fault: Fault,
}

/// Whoever walks
pub(super) trait Visitor {
    /// What ends the walk
    type Stop;

    /// Looks at an entry
    fn entry(&mut self, entry: Entry<'_>) -> Result<(), Self::Stop>;

    /// Hears of damage; the walk goes on if this is `Ok`
    fn damage(&mut self, damage: Damage) -> Result<(), Self::Stop>;

    /// Cannot read
    fn unreadable(&mut self, path: &Path, error: io::Error) -> Self::Stop;
}

/// What a walk has seen
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Walked {
    pub(super) segments: u64,
    pub(super) groups: u64,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// The end, where the next group goes once a torn tail is cut off
    pub(super) end: Position,
    pub(super) torn: Option<TornTail>,
    /// A segment that a crash left before it came into use; nothing is in it
    pub(super) unborn: Option<PathBuf>,
}

/// A walk in progress
struct Walk<'a, V> {
    directory: &'a Path,
    manifest: &'a Manifest,
    marker: Marker,
    visitor: &'a mut V,
    seen: Walked,
    /// The chain was where the manifest says it was
    known: bool,
    /// Whether the next segment must go on where the last one ended; not so behind damage
    connected: bool,
    damaged: bool,
}

/// Walks a journal from end to end
pub(super) fn walk<V: Visitor>(
    directory: &Path,
    manifest: &Manifest,
    visitor: &mut V,
) -> Result<Walked, V::Stop> {
    let end = Position { segment: 0, offset: 0, next_sequence: 1, chain: Chain::default() };
    let seen =
        Walked { segments: 0, groups: 0, entries: 0, bytes: 0, end, torn: None, unborn: None };
    let marker = marker(&manifest.journal);
    let walk = Walk {
        directory,
        manifest,
        marker,
        visitor,
        seen,
        known: false,
        connected: true,
        damaged: false,
    };
    walk.run()
}

impl<V: Visitor> Walk<'_, V> {
    fn run(mut self) -> Result<Walked, V::Stop> {
        let listed = list_segments(self.directory);
        let listed = listed.map_err(|error| self.visitor.unreadable(self.directory, error))?;
        let last = self.manifest.last_segment;
        let (expected, surplus): (Vec<u64>, Vec<u64>) =
            listed.into_iter().partition(|index| *index <= last);
        let mut present = expected.into_iter().peekable();
        for index in 1..=last {
            let path = segment_path(self.directory, index);
            if present.next_if_eq(&index).is_some() {
                self.segment(index, path)?;
                continue;
            }
            self.damage(path, 0, Fault::MissingSegment)?;
            if present.peek().is_none() {
                // Where all the rest is missing, saying so once is enough.
                break;
            }
        }
        for index in surplus {
            self.surplus(index)?;
        }
        self.check_end()?;
        Ok(self.seen)
    }

    fn damage(&mut self, file: PathBuf, offset: u64, fault: Fault) -> Result<(), V::Stop> {
        (self.connected, self.damaged) = (false, true);
        self.visitor.damage(Damage { file, offset, fault })
    }

    fn segment(&mut self, index: u64, path: PathBuf) -> Result<(), V::Stop> {
        let opened = SegmentScan::open(path.clone(), self.marker);
        let opened = opened.map_err(|error| self.visitor.unreadable(&path, error))?;
        let mut scan = match opened {
            Ok(scan) => scan,
            Err(fault) => return self.damage(path, 0, fault),
        };
        self.seen.segments += 1;
        self.seen.bytes += scan.length_bytes;
        let (header, end) = (scan.header, self.seen.end);
        let fault = if header.journal != self.manifest.journal {
            Some(Fault::ForeignJournal(header.journal))
        } else if header.index != index {
            Some(Fault::SegmentIndex(header.index))
        } else if !self.connected {
            None
        } else if header.first_sequence != end.next_sequence {
            let (expected, found) = (end.next_sequence, header.first_sequence);
            Some(Fault::Sequence { expected, found })
        } else {
            (header.previous != end.chain).then_some(Fault::Chain)
        };
        if let Some(fault) = fault {
            let foreign = matches!(fault, Fault::ForeignJournal(_));
            self.damage(path, 0, fault)?;
            if foreign {
                return Ok(());
            }
        }
        self.connected = true;
        self.at(&scan, index);
        self.groups(&mut scan, index)
    }

    /// Everything up to here is good
    fn at(&mut self, scan: &SegmentScan, index: u64) {
        let next_sequence = scan.next_sequence;
        self.seen.end =
            Position { segment: index, offset: scan.offset, next_sequence, chain: scan.chain };
        self.known |= next_sequence.checked_sub(1) == Some(self.manifest.known_sequence)
            && scan.chain == self.manifest.known_chain;
    }

    fn groups(&mut self, scan: &mut SegmentScan, index: u64) -> Result<(), V::Stop> {
        loop {
            let found = scan.next();
            match found.map_err(|error| self.visitor.unreadable(&scan.path, error))? {
                Found::End => return Ok(()),
                Found::Group => {
                    self.seen.groups += 1;
                    for entry in scan.entries() {
                        self.seen.entries += 1;
                        self.visitor.entry(entry)?;
                    }
                    self.at(scan, index);
                }
                Found::Broken { fault, torn } => {
                    if torn && self.may_be_torn(scan, index)? {
                        self.seen.torn = Some(TornTail {
                            file: scan.path.clone(),
                            offset: scan.offset,
                            bytes: scan.length_bytes - scan.offset,
                            fault,
                        });
                        return Ok(());
                    }
                    self.damage(scan.path.clone(), scan.offset, fault)?;
                    let skipped = scan.skip_to_next();
                    if !skipped.map_err(|error| self.visitor.unreadable(&scan.path, error))? {
                        return Ok(());
                    }
                    self.connected = true;
                }
            }
        }
    }

    /// Only the last group of the last segment can be torn, and only if it is not known to have been durable
    fn may_be_torn(&mut self, scan: &SegmentScan, index: u64) -> Result<bool, V::Stop> {
        let unknown = scan.next_sequence > self.manifest.known_sequence;
        if self.manifest.clean || index != self.manifest.last_segment || !unknown {
            return Ok(false);
        }
        scan.is_last_group().map_err(|error| self.visitor.unreadable(&scan.path, error))
    }

    /// A segment behind the last one the manifest knows: a crash can leave one, but then nothing is in it yet
    fn surplus(&mut self, index: u64) -> Result<(), V::Stop> {
        let path = segment_path(self.directory, index);
        let length = std::fs::metadata(&path).map(|metadata| metadata.len());
        let length = length.map_err(|error| self.visitor.unreadable(&path, error))?;
        let next = index == self.manifest.last_segment + 1;
        if next && length <= SEGMENT_HEADER_BYTES as u64 && !self.manifest.clean {
            self.seen.unborn = Some(path);
            return Ok(());
        }
        self.damage(path, 0, Fault::UnknownSegment)
    }

    fn check_end(&mut self) -> Result<(), V::Stop> {
        let (known, found) =
            (self.manifest.known_sequence, self.seen.end.next_sequence.saturating_sub(1));
        let fault = if found < known {
            Some(Fault::Shorter { known, found })
        } else if !self.known {
            Some(Fault::Chain)
        } else if self.manifest.clean && found > known {
            Some(Fault::Longer { known, found })
        } else {
            None
        };
        // Behind damage that was noted, the end proves nothing more.
        match fault {
            Some(fault) if !self.damaged => self.damage(manifest::path(self.directory), 0, fault),
            _ => Ok(()),
        }
    }
}

/// What a directory without a readable manifest holds, as far as its first segment tells; for `fsck`, which
/// goes on without one
pub(super) fn assume_manifest(directory: &Path) -> io::Result<Option<Manifest>> {
    let indices = list_segments(directory)?;
    let (Some(first), Some(last)) = (indices.first(), indices.last()) else {
        return Ok(None);
    };
    // The marker plays no part in reading the header.
    let opened = SegmentScan::open(segment_path(directory, *first), Marker::default())?;
    Ok(opened.ok().map(|scan| Manifest {
        journal: scan.header.journal,
        last_segment: *last,
        known_sequence: 0,
        known_chain: scan.chain,
        clean: false,
    }))
}

/// Whether a directory holds segments with anything in them
pub(super) fn is_begun(directory: &Path) -> io::Result<bool> {
    for index in list_segments(directory)? {
        let length = std::fs::metadata(segment_path(directory, index))?.len();
        if length > SEGMENT_HEADER_BYTES as u64 {
            return Ok(true);
        }
    }
    Ok(false)
}
