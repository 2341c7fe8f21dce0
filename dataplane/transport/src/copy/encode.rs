//! Writes messages as COPY.md section 3 lays them out, or refuses what a field cannot carry.

use bytes::{BufMut, BytesMut};

use super::code::ErrorCode;
use super::message::{Direction, Entry, EntryKind, Hello, Message, Outcome, kind};
use super::path::{Component, EntryPath};
use super::text::Text;
use super::varint;

/// Why a message cannot be written
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// A number beyond [`super::VARINT_MAX`]
    #[error("the number {0} exceeds 2^62 - 1, the largest the copy protocol can carry")]
    Number(u64),
    /// Seconds beyond 2^61 either way
    #[error("the modification time {0} s lies beyond what the copy protocol can carry")]
    Time(i64),
    /// The payload is longer than its limit
    #[error("a message of {bytes} octets exceeds the limit of {limit}")]
    TooLong {
        /// Octets of payload
        bytes: usize,
        /// The limit
        limit: usize,
    },
}

/// Appends type and length of a DATA message; `bytes` octets of content follow it
pub fn encode_data_header(bytes: usize, out: &mut impl BufMut) -> Result<(), EncodeError> {
    if bytes > super::DATA_BYTES_MAX {
        return Err(EncodeError::TooLong { bytes, limit: super::DATA_BYTES_MAX });
    }
    put(out, kind::DATA)?;
    put(out, bytes as u64)
}

impl Message {
    /// Appends the message; on an error `out` is as it was
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut payload = Vec::new();
        self.encode_payload(&mut payload)?;
        if payload.len() > super::MESSAGE_BYTES_MAX {
            let limit = super::MESSAGE_BYTES_MAX;
            return Err(EncodeError::TooLong { bytes: payload.len(), limit });
        }
        put(out, self.kind())?;
        put(out, payload.len() as u64)?;
        out.put_slice(&payload);
        Ok(())
    }

    fn kind(&self) -> u64 {
        match self {
            Self::Hello(_) => kind::HELLO,
            Self::Welcome { .. } => kind::WELCOME,
            Self::Source(_) => kind::SOURCE,
            Self::Entry(_) => kind::ENTRY,
            Self::Problem { .. } => kind::PROBLEM,
            Self::EndOfEntries => kind::END_OF_ENTRIES,
            Self::Want { .. } => kind::WANT,
            Self::Begin { .. } => kind::BEGIN,
            Self::End { .. } => kind::END,
            Self::Abort { .. } => kind::ABORT,
            Self::Verdict { .. } => kind::VERDICT,
            Self::Summary(_) => kind::SUMMARY,
            Self::Error { .. } => kind::ERROR,
        }
    }

    fn encode_payload(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Hello(hello) => put_hello(out, hello)?,
            Self::Welcome { version } => put(out, *version)?,
            Self::Source(source) => {
                put_bytes(out, source.name.as_ref().map_or(b"", Component::as_bytes))?;
                put(out, source.files)?;
                put(out, source.bytes)?;
            }
            Self::Entry(entry) => put_entry(out, entry)?,
            Self::Problem { path, code, text } => {
                put_path(out, path)?;
                put_reason(out, *code, text)?;
            }
            Self::EndOfEntries => {}
            Self::Want { entry, held } => {
                put(out, *entry)?;
                put(out, held.map_or(0, |held| held.bytes))?;
                out.put_slice(held.as_ref().map_or(&[], |held| &held.digest));
            }
            Self::Begin { entry, offset } => {
                put(out, *entry)?;
                put(out, *offset)?;
            }
            Self::End { digest } => out.put_slice(digest),
            Self::Abort { entry, code, text } => {
                put(out, *entry)?;
                put_reason(out, *code, text)?;
            }
            Self::Verdict { entry, outcome } => {
                put(out, *entry)?;
                match outcome {
                    Outcome::Verified => put(out, 0)?,
                    Outcome::Unchanged => put(out, 1)?,
                    Outcome::Done => put(out, 2)?,
                    Outcome::Failed { code, text } => {
                        put(out, 3)?;
                        put_reason(out, *code, text)?;
                    }
                }
            }
            Self::Summary(totals) => {
                for number in [
                    totals.files_verified,
                    totals.files_unchanged,
                    totals.directories,
                    totals.symlinks,
                    totals.failed,
                    totals.bytes_transferred,
                ] {
                    put(out, number)?;
                }
            }
            Self::Error { code, text } => put_reason(out, *code, text)?,
        }
        Ok(())
    }
}

fn put(out: &mut impl BufMut, number: u64) -> Result<(), EncodeError> {
    if varint::put(out, number) { Ok(()) } else { Err(EncodeError::Number(number)) }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), EncodeError> {
    put(out, bytes.len() as u64)?;
    out.put_slice(bytes);
    Ok(())
}

fn put_path(out: &mut Vec<u8>, path: &EntryPath) -> Result<(), EncodeError> {
    put(out, path.depth() as u64)?;
    path.components().try_for_each(|component| put_bytes(out, component))
}

fn put_reason(out: &mut Vec<u8>, code: ErrorCode, text: &Text) -> Result<(), EncodeError> {
    put(out, code.code())?;
    put_bytes(out, text.as_str().as_bytes())
}

fn put_hello(out: &mut Vec<u8>, hello: &Hello) -> Result<(), EncodeError> {
    if hello.versions.len() > super::VERSIONS_MAX {
        let limit = super::VERSIONS_MAX;
        return Err(EncodeError::TooLong { bytes: hello.versions.len(), limit });
    }
    put(out, hello.versions.len() as u64)?;
    hello.versions.iter().try_for_each(|version| put(out, *version))?;
    put(out, u64::from(hello.direction == Direction::Pull))?;
    put(out, u64::from(hello.options.verify_existing))?;
    let path = &hello.path;
    let flags =
        u64::from(path.absolute) | u64::from(path.directory) << 1 | u64::from(path.contents) << 2;
    put(out, flags)?;
    put_path(out, &path.path)
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) -> Result<(), EncodeError> {
    let kind = match entry.kind {
        EntryKind::Directory => 0,
        EntryKind::File { .. } => 1,
        EntryKind::Symlink { .. } => 2,
        EntryKind::DirectoryEnd => 3,
    };
    put(out, kind)?;
    put_path(out, &entry.path)?;
    put(out, u64::from(entry.mode))?;
    put(out, zigzag(entry.modified.seconds)?)?;
    put(out, u64::from(entry.modified.nanoseconds))?;
    match &entry.kind {
        EntryKind::File { size } => put(out, *size),
        EntryKind::Symlink { target } => put_bytes(out, target.as_bytes()),
        EntryKind::Directory | EntryKind::DirectoryEnd => Ok(()),
    }
}

/// Folds a signed number into an unsigned one with small magnitudes first: 0, -1, 1, -2, 2 ...
fn zigzag(seconds: i64) -> Result<u64, EncodeError> {
    let folded = (seconds << 1) ^ (seconds >> 63);
    let folded = u64::from_ne_bytes(folded.to_ne_bytes());
    let in_range = (-(1 << 61)..1 << 61).contains(&seconds);
    if in_range { Ok(folded) } else { Err(EncodeError::Time(seconds)) }
}

/// The inverse of [`zigzag`]
pub(super) fn unzigzag(folded: u64) -> i64 {
    let magnitude = i64::from_ne_bytes((folded >> 1).to_ne_bytes());
    if folded & 1 == 0 { magnitude } else { !magnitude }
}

#[cfg(test)]
mod tests {
    use super::super::{HelloOptions, Modified, RemotePath};
    use super::*;

    #[test]
    fn the_bytes_are_those_of_copy_md() {
        let mut out = BytesMut::new();
        let path = RemotePath::parse("/a/b").unwrap();
        let options = HelloOptions { verify_existing: true };
        let direction = Direction::Pull;
        Message::Hello(Hello { versions: vec![1], direction, options, path })
            .encode(&mut out)
            .unwrap();
        assert_eq!(out[..], [2, 10, 1, 1, 1, 1, 1, 2, 1, b'a', 1, b'b']);

        out.clear();
        let modified = Modified { seconds: -2, nanoseconds: 64 };
        let path = EntryPath::from_components([b"x".as_slice()]).unwrap();
        let entry = Entry { path, mode: 0o644, modified, kind: EntryKind::File { size: 5 } };
        Message::Entry(entry).encode(&mut out).unwrap();
        assert_eq!(out[..], [8, 10, 1, 1, 1, b'x', 0x41, 0xa4, 3, 0x40, 0x40, 5]);
    }

    #[test]
    fn signed_seconds_fold_both_ways_up_to_the_limit() {
        for seconds in [0, -1, 1, 1_700_000_000, -(1 << 61), (1 << 61) - 1] {
            let folded = zigzag(seconds).unwrap();
            assert!(folded <= varint::VARINT_MAX);
            assert_eq!(unzigzag(folded), seconds);
        }
        assert_eq!(zigzag(1 << 61), Err(EncodeError::Time(1 << 61)));
    }

    #[test]
    fn what_cannot_be_carried_is_refused_whole() {
        let mut out = BytesMut::new();
        let begin = Message::Begin { entry: 0, offset: u64::MAX };
        assert_eq!(begin.encode(&mut out), Err(EncodeError::Number(u64::MAX)));
        assert!(out.is_empty());
        assert!(encode_data_header(crate::copy::DATA_BYTES_MAX + 1, &mut out).is_err());
        assert!(out.is_empty());
    }
}
