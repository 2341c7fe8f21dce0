//! Reading one segment file, group by group, and judging what stands at its end. Files are only read; what to
//! do about damage is decided by whoever reads.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::format::{
    Chain, Entry, FRAME_BYTES, Fault, Frames, GROUP_HEADER_BYTES, GROUP_LIMIT_BYTES, GroupHeader,
    MARKER_BYTES, Marker, SEGMENT_HEADER_BYTES, SegmentHeader, checksum,
};

const SUFFIX: &str = ".segment";
const DIGITS: usize = 12;
const SEARCH_BYTES: usize = 1 << 20;

pub(super) fn segment_path(directory: &Path, index: u64) -> PathBuf {
    directory.join(format!("{index:0DIGITS$}{SUFFIX}"))
}

/// The indices of the segment files of a directory, in order
pub(super) fn list_segments(directory: &Path) -> io::Result<Vec<u64>> {
    let mut indices = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        if let Some(index) = digits.filter(|digits| digits.len() == DIGITS) {
            indices.extend(index.parse::<u64>().ok());
        }
    }
    indices.sort_unstable();
    Ok(indices)
}

/// What came next in a segment
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// The file ends where a group ends
    End,
    /// A whole group; its records can be had with [`SegmentScan::entries`]
    Group,
    /// Not a whole group. `torn` if a write that was cut short can have left this.
    Broken { fault: Fault, torn: bool },
}

/// A segment that is being read
#[derive(Debug)]
pub(super) struct SegmentScan {
    reader: BufReader<File>,
    pub(super) path: PathBuf,
    pub(super) header: SegmentHeader,
    /// Length when it was opened
    pub(super) length_bytes: u64,
    /// Where the next group begins
    pub(super) offset: u64,
    pub(super) next_sequence: u64,
    pub(super) chain: Chain,
    marker: Marker,
    body: Vec<u8>,
    first_sequence: u64,
}

impl SegmentScan {
    /// Opens a segment and reads its header; the inner error is damage at offset 0
    pub(super) fn open(path: PathBuf, marker: Marker) -> io::Result<Result<Self, Fault>> {
        let file = File::open(&path)?;
        let length_bytes = file.metadata()?.len();
        let mut reader = BufReader::with_capacity(64 << 10, file);
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        if length_bytes < SEGMENT_HEADER_BYTES as u64 {
            return Ok(Err(Fault::SegmentHeader));
        }
        reader.read_exact(&mut bytes)?;
        Ok(SegmentHeader::decode(&bytes).map(|(header, chain)| Self {
            reader,
            path,
            header,
            length_bytes,
            offset: SEGMENT_HEADER_BYTES as u64,
            next_sequence: header.first_sequence,
            chain,
            marker,
            body: Vec::new(),
            first_sequence: header.first_sequence,
        }))
    }

    /// Reads the next group. After `Broken` only [`Self::skip_to`] goes on.
    pub(super) fn next(&mut self) -> io::Result<Found> {
        let left = self.length_bytes - self.offset;
        if left == 0 {
            return Ok(Found::End);
        }
        let torn = |fault| Ok(Found::Broken { fault, torn: true });
        let damaged = |fault| Ok(Found::Broken { fault, torn: false });
        if left < GROUP_HEADER_BYTES as u64 {
            return torn(Fault::Incomplete);
        }
        let mut bytes = [0; GROUP_HEADER_BYTES];
        self.reader.read_exact(&mut bytes)?;
        let Some((header, chain)) = GroupHeader::decode(&bytes, &self.marker) else {
            return torn(Fault::GroupHeader);
        };
        if header.first_sequence != self.next_sequence {
            let found = header.first_sequence;
            return damaged(Fault::Sequence { expected: self.next_sequence, found });
        }
        if header.previous != self.chain {
            return damaged(Fault::Chain);
        }
        if left - (GROUP_HEADER_BYTES as u64) < header.body_bytes as u64 {
            return torn(Fault::Incomplete);
        }
        self.body.resize(header.body_bytes, 0);
        self.reader.read_exact(&mut self.body)?;
        let mut frames = Frames::new(&self.body, header.first_sequence);
        let bad = frames.by_ref().find_map(Result::err);
        if checksum::<16>(&[&self.body]) != header.body_checksum {
            return torn(Fault::Checksum { sequence: bad });
        }
        if bad.is_some() || Frames::new(&self.body, header.first_sequence).count() != header.records
        {
            return damaged(Fault::Records);
        }
        self.first_sequence = header.first_sequence;
        self.next_sequence = self.next_sequence.saturating_add(header.records as u64);
        self.offset += (GROUP_HEADER_BYTES + header.body_bytes) as u64;
        self.chain = chain;
        Ok(Found::Group)
    }

    /// The records of the group that was just found
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        // `next` has read every one of them without an error.
        Frames::new(&self.body, self.first_sequence).filter_map(Result::ok)
    }

    /// Whether what begins at the current offset can be the last group of a journal, cut short: it is no longer
    /// than a group, and no later group stands behind its beginning.
    pub(super) fn is_last_group(&self) -> io::Result<bool> {
        let left = self.length_bytes - self.offset;
        let longest = (GROUP_HEADER_BYTES + GROUP_LIMIT_BYTES) as u64;
        Ok(left <= longest && self.find_group(self.offset + 1)?.is_none())
    }

    /// Goes to the next intact group behind the current offset and believes what it says about itself; `false`
    /// if there is none
    pub(super) fn skip_to_next(&mut self) -> io::Result<bool> {
        let Some(offset) = self.find_group(self.offset + 1)? else {
            return Ok(false);
        };
        self.reader.seek(SeekFrom::Start(offset))?;
        let mut bytes = [0; GROUP_HEADER_BYTES];
        self.reader.read_exact(&mut bytes)?;
        self.reader.seek(SeekFrom::Start(offset))?;
        if let Some((header, _)) = GroupHeader::decode(&bytes, &self.marker) {
            self.offset = offset;
            self.next_sequence = header.first_sequence;
            self.chain = header.previous;
        }
        Ok(true)
    }

    /// Where the first intact group header at or behind an offset stands
    fn find_group(&self, from: u64) -> io::Result<Option<u64>> {
        let mut file = File::open(&self.path)?;
        let mut window = Vec::new();
        let mut base = from;
        while base + GROUP_HEADER_BYTES as u64 <= self.length_bytes {
            file.seek(SeekFrom::Start(base))?;
            window.clear();
            let wanted = (SEARCH_BYTES as u64).min(self.length_bytes - base);
            file.by_ref().take(wanted).read_to_end(&mut window)?;
            let mut at = 0;
            while let Some(bytes) =
                window.get(at..).and_then(<[u8]>::first_chunk::<GROUP_HEADER_BYTES>)
            {
                if bytes[..MARKER_BYTES] == self.marker
                    && GroupHeader::decode(bytes, &self.marker).is_some()
                {
                    return Ok(Some(base + at as u64));
                }
                at += 1;
            }
            if at == 0 {
                break;
            }
            base += at as u64;
        }
        Ok(None)
    }
}

/// How much of a group `records` payloads of together `payload_bytes` take without the group's header
pub(super) fn framed_bytes(records: usize, payload_bytes: usize) -> usize {
    records * FRAME_BYTES + payload_bytes
}
