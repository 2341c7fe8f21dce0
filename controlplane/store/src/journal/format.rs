//! The bytes of a segment. Only encoding and decoding: no file is opened here, and what an entry means is not
//! known here.
//!
//! All integers are little-endian; every checksum is the beginning of a BLAKE3 hash.
//!
//! ```text
//! segment = segment header, group ...
//!   segment header (80)  magic "STOQJRNL" 8 | version u32 | zero u32 | journal id 16 | segment index u64
//!                        | first sequence u64 | previous chain 16 | checksum of the above 16
//! group   = one write and one fdatasync: group header, frame ...
//!   group header (64)    marker 8 | body length u32 | records u32 | first sequence u64 | previous chain 16
//!                        | checksum of the body 16 | checksum of the above 8
//!   frame (24 + n)       payload length n u32 | kind u16 | zero u16 | sequence u64
//!                        | checksum of the above and the payload 8 | payload n
//! ```
//!
//! The marker is derived from the journal id, so that no payload can pass for a group. The chain value after a
//! header is the hash of that header; each header carries the value before it, so nothing can be taken out,
//! put in or moved, not even between segments.

use std::fmt;

/// Version of the format that is written, and the only one that is read
pub const FORMAT_VERSION: u32 = 1;
/// Longest payload of one entry
pub const ENTRY_LIMIT_BYTES: usize = 1 << 20;
/// Longest body of one group; also how many bytes at the end of a journal can be lost to a crash
pub const GROUP_LIMIT_BYTES: usize = 8 << 20;
/// Most entries of one group
pub const GROUP_LIMIT_RECORDS: usize = 65_536;
/// Most segments of one journal
pub const SEGMENTS_LIMIT: u64 = 1 << 20;

pub(super) const SEGMENT_HEADER_BYTES: usize = 80;
pub(super) const GROUP_HEADER_BYTES: usize = 64;
pub(super) const FRAME_BYTES: usize = 24;
pub(super) const MARKER_BYTES: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"STOQJRNL";
const MARKER_CONTEXT: &str = "stoq journal v1: marker of a group";

/// Which journal this is; random, written into every segment
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct JournalId([u8; 16]);

impl JournalId {
    /// A new one
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// One that was stored
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// For storing
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for JournalId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// What an entry is, in the numbering of whoever writes the journal
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct EntryKind(pub u16);

/// One entry as it stands in a journal
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry<'a> {
    /// Its number; the first entry of a journal has 1 and none is left out
    pub sequence: u64,
    /// What it is
    pub kind: EntryKind,
    /// Its content
    pub payload: &'a [u8],
}

/// What is wrong at a place of a journal
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The file does not begin like a segment
    #[error("this is not a journal segment")]
    NotASegment,
    /// Bits of a segment header changed
    #[error("the segment header does not match its checksum")]
    SegmentHeader,
    /// Written by another version
    #[error("format version {0} is unknown, this program reads version {FORMAT_VERSION}")]
    Version(u32),
    /// From elsewhere
    #[error("it belongs to journal {0}")]
    ForeignJournal(JournalId),
    /// The name of the file and its header disagree
    #[error("the header says segment {0}")]
    SegmentIndex(u64),
    /// Something between this and what is before it is gone
    #[error("sequence {expected} should follow, but {found} is here")]
    Sequence {
        /// What had to come
        expected: u64,
        /// What came
        found: u64,
    },
    /// What is before it is not what was before it when it was written
    #[error("the chain is broken: what precedes it is not what it was written after")]
    Chain,
    /// No group begins where one should
    #[error("no intact group header")]
    GroupHeader,
    /// The file ends within a group
    #[error("the group is incomplete")]
    Incomplete,
    /// Bits of a group's content changed; the sequence is that of the first bad record, if it can be told
    #[error("the content does not match its checksum{}", sequence_text(.sequence))]
    Checksum {
        /// The first bad record, if it can be told
        sequence: Option<u64>,
    },
    /// The checksum holds but the content makes no sense: not damage, but something else wrote this
    #[error("the records of the group do not add up")]
    Records,
    /// A segment file is not there
    #[error("the segment is missing")]
    MissingSegment,
    /// There are more segments than the manifest knows
    #[error("the manifest does not know this segment; it is older than the segments")]
    UnknownSegment,
    /// The manifest is missing or its bits changed
    #[error("the manifest is missing or does not match its checksum")]
    Manifest,
    /// The journal once was longer
    #[error("entry {known} was durable, but the journal ends with {found}")]
    Shorter {
        /// The last entry that was durable when the manifest was written
        known: u64,
        /// The last entry there is
        found: u64,
    },
    /// The journal was closed in order and is longer now
    #[error("the journal was closed with entry {known}, but {found} is there")]
    Longer {
        /// The last entry when it was closed
        known: u64,
        /// The last entry there is
        found: u64,
    },
}

fn sequence_text(sequence: &Option<u64>) -> String {
    sequence.map(|sequence| format!(" (record {sequence})")).unwrap_or_default()
}

/// Where the hash chain stands
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Chain(pub(super) [u8; 16]);

/// What each group of one journal begins with
pub(super) type Marker = [u8; MARKER_BYTES];

pub(super) fn marker(journal: &JournalId) -> Marker {
    let mut marker = Marker::default();
    marker.copy_from_slice(&blake3::derive_key(MARKER_CONTEXT, &journal.0)[..MARKER_BYTES]);
    marker
}

pub(super) fn checksum<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut checksum = [0; N];
    checksum.copy_from_slice(&hasher.finalize().as_bytes()[..N]);
    checksum
}

/// Takes fixed-size fields off the front
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// The first bytes of a segment
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SegmentHeader {
    pub(super) journal: JournalId,
    pub(super) index: u64,
    pub(super) first_sequence: u64,
    pub(super) previous: Chain,
}

impl SegmentHeader {
    /// The bytes, and where the chain stands after them
    pub(super) fn encode(&self) -> (Vec<u8>, Chain) {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        bytes.extend_from_slice(&SEGMENT_MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.journal.0);
        bytes.extend_from_slice(&self.index.to_le_bytes());
        bytes.extend_from_slice(&self.first_sequence.to_le_bytes());
        bytes.extend_from_slice(&self.previous.0);
        bytes.extend_from_slice(&checksum::<16>(&[&bytes]));
        let chain = Chain(checksum(&[&bytes]));
        (bytes, chain)
    }

    pub(super) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<(Self, Chain), Fault> {
        let (said, sum) = bytes.split_at(SEGMENT_HEADER_BYTES - 16);
        let mut fields = Fields(said);
        if fields.take() != Some(SEGMENT_MAGIC) {
            return Err(Fault::NotASegment);
        }
        if checksum::<16>(&[said]) != *sum {
            return Err(Fault::SegmentHeader);
        }
        let decode = |fields: &mut Fields<'_>| {
            let version = fields.u32()?;
            let _zero = fields.u32()?;
            let header = Self {
                journal: JournalId(fields.take()?),
                index: fields.u64()?,
                first_sequence: fields.u64()?,
                previous: Chain(fields.take()?),
            };
            Some((version, header))
        };
        let (version, header) = decode(&mut fields).ok_or(Fault::SegmentHeader)?;
        if version != FORMAT_VERSION {
            return Err(Fault::Version(version));
        }
        Ok((header, Chain(checksum(&[bytes]))))
    }
}

/// The first bytes of a group
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct GroupHeader {
    pub(super) body_bytes: usize,
    pub(super) records: usize,
    pub(super) first_sequence: u64,
    pub(super) previous: Chain,
    pub(super) body_checksum: [u8; 16],
}

impl GroupHeader {
    /// `None` where no intact header of this journal stands
    pub(super) fn decode(
        bytes: &[u8; GROUP_HEADER_BYTES],
        marker: &Marker,
    ) -> Option<(Self, Chain)> {
        let (said, sum) = bytes.split_at(GROUP_HEADER_BYTES - 8);
        let mut fields = Fields(said);
        if fields.take() != Some(*marker) || checksum::<8>(&[said]) != *sum {
            return None;
        }
        let header = Self {
            body_bytes: usize::try_from(fields.u32()?).ok()?,
            records: usize::try_from(fields.u32()?).ok()?,
            first_sequence: fields.u64()?,
            previous: Chain(fields.take()?),
            body_checksum: fields.take()?,
        };
        let within =
            header.body_bytes <= GROUP_LIMIT_BYTES && header.records <= GROUP_LIMIT_RECORDS;
        within.then(|| (header, Chain(checksum(&[bytes]))))
    }
}

/// Writes one group into `out`, which is emptied first; returns where the chain stands after it
pub(super) fn encode_group<'a>(
    out: &mut Vec<u8>,
    marker: &Marker,
    first_sequence: u64,
    previous: Chain,
    entries: impl Iterator<Item = (EntryKind, &'a [u8])>,
) -> Chain {
    out.clear();
    out.resize(GROUP_HEADER_BYTES, 0);
    let mut records = 0_u32;
    for (kind, payload) in entries {
        let mut frame = [0; FRAME_BYTES - 8];
        // The callers have refused payloads over ENTRY_LIMIT_BYTES, which fits.
        frame[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        frame[4..6].copy_from_slice(&kind.0.to_le_bytes());
        frame[8..].copy_from_slice(&(first_sequence + u64::from(records)).to_le_bytes());
        out.extend_from_slice(&frame);
        out.extend_from_slice(&checksum::<8>(&[&frame, payload]));
        out.extend_from_slice(payload);
        records += 1;
    }
    let body = &out[GROUP_HEADER_BYTES..];
    let mut header = Vec::with_capacity(GROUP_HEADER_BYTES);
    header.extend_from_slice(marker);
    header.extend_from_slice(&(body.len() as u32).to_le_bytes());
    header.extend_from_slice(&records.to_le_bytes());
    header.extend_from_slice(&first_sequence.to_le_bytes());
    header.extend_from_slice(&previous.0);
    header.extend_from_slice(&checksum::<16>(&[body]));
    header.extend_from_slice(&checksum::<8>(&[&header]));
    out[..GROUP_HEADER_BYTES].copy_from_slice(&header);
    Chain(checksum(&[&header]))
}

/// The records of a group's body, one by one; `Err` where one is damaged, and then nothing more
#[derive(Clone, Debug)]
pub(super) struct Frames<'a> {
    rest: &'a [u8],
    next_sequence: u64,
}

impl<'a> Frames<'a> {
    pub(super) fn new(body: &'a [u8], first_sequence: u64) -> Self {
        Self { rest: body, next_sequence: first_sequence }
    }

    fn split(&mut self) -> Option<Entry<'a>> {
        let (frame, rest) = self.rest.split_first_chunk::<FRAME_BYTES>()?;
        let (said, sum) = frame.split_at(FRAME_BYTES - 8);
        let mut fields = Fields(said);
        let length = usize::try_from(fields.u32()?).ok()?;
        let kind = EntryKind(fields.u16()?);
        let (zero, sequence) = (fields.u16()?, fields.u64()?);
        let (payload, rest) = rest.split_at_checked(length)?;
        let good = zero == 0
            && length <= ENTRY_LIMIT_BYTES
            && sequence == self.next_sequence
            && checksum::<8>(&[said, payload]) == *sum;
        self.rest = rest;
        self.next_sequence = self.next_sequence.wrapping_add(1);
        good.then_some(Entry { sequence, kind, payload })
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Entry<'a>, u64>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let sequence = self.next_sequence;
        let entry = self.split().ok_or(sequence);
        if entry.is_err() {
            self.rest = &[];
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group(id: &JournalId, payloads: &[Vec<u8>]) -> (Vec<u8>, Chain) {
        let mut bytes = Vec::new();
        let entries = payloads.iter().map(|payload| (EntryKind(7), payload.as_slice()));
        let chain = encode_group(&mut bytes, &marker(id), 41, Chain([3; 16]), entries);
        (bytes, chain)
    }

    fn header_of(bytes: &[u8]) -> &[u8; GROUP_HEADER_BYTES] {
        bytes.first_chunk().unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..9)) {
            let id = JournalId([9; 16]);
            let (bytes, chain) = group(&id, &payloads);
            let (header, read_chain) = GroupHeader::decode(header_of(&bytes), &marker(&id)).unwrap();
            prop_assert_eq!(chain, read_chain);
            prop_assert_eq!(header.records, payloads.len());
            let body = &bytes[GROUP_HEADER_BYTES..];
            prop_assert_eq!(header.body_bytes, body.len());
            prop_assert_eq!(header.body_checksum, checksum::<16>(&[body]));
            let read: Vec<_> = Frames::new(body, 41).map(|entry| entry.unwrap()).collect();
            for (number, (entry, payload)) in read.iter().zip(&payloads).enumerate() {
                prop_assert_eq!(entry.sequence, 41 + number as u64);
                prop_assert_eq!(entry.payload, &payload[..]);
            }
            prop_assert_eq!(read.len(), payloads.len());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for entry in Frames::new(&bytes, 1) {
                if entry.is_err() {
                    break;
                }
            }
            if let Some(header) = bytes.first_chunk() {
                prop_assert!(GroupHeader::decode(header, &[0; 8]).is_none());
            }
            if let Some(header) = bytes.first_chunk() {
                prop_assert!(SegmentHeader::decode(header).is_err());
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_group_is_seen() {
        let id = JournalId([1; 16]);
        let (bytes, _) = group(&id, &[b"first".to_vec(), b"second".to_vec()]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let header = GroupHeader::decode(header_of(&flipped), &marker(&id));
            if bit / 8 < GROUP_HEADER_BYTES {
                assert!(header.is_none(), "bit {bit}");
                continue;
            }
            let body = &flipped[GROUP_HEADER_BYTES..];
            assert_ne!(header.unwrap().0.body_checksum, checksum::<16>(&[body]), "bit {bit}");
            let bad = Frames::new(body, 41).find_map(Result::err);
            let expected = if bit / 8 < GROUP_HEADER_BYTES + FRAME_BYTES + 5 { 41 } else { 42 };
            assert_eq!(bad, Some(expected), "bit {bit}");
        }
    }

    #[test]
    fn segment_headers() {
        let header = SegmentHeader {
            journal: JournalId([5; 16]),
            index: 3,
            first_sequence: 77,
            previous: Chain([8; 16]),
        };
        let (bytes, chain) = header.encode();
        let bytes: [u8; SEGMENT_HEADER_BYTES] = bytes.try_into().unwrap();
        assert_eq!(SegmentHeader::decode(&bytes), Ok((header, chain)));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        let sum = checksum::<16>(&[&newer[..64]]);
        newer[64..].copy_from_slice(&sum);
        assert_eq!(SegmentHeader::decode(&newer), Err(Fault::Version(2)));
    }

    #[test]
    fn another_journals_group_is_not_ours() {
        let (bytes, _) = group(&JournalId([1; 16]), &[b"x".to_vec()]);
        assert!(GroupHeader::decode(header_of(&bytes), &marker(&JournalId([2; 16]))).is_none());
    }
}
