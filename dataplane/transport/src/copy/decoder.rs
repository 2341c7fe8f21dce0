//! The incremental decoder of the copy protocol: bytes in any split go in, messages and pieces of file
//! content come out. Content is handed on as it arrives and never held; anything else is held up to
//! [`MESSAGE_BYTES_MAX`]. It knows the shape of each message, not whether its moment is right.

use bytes::{Buf, Bytes};

use super::message::{Message, kind};
use super::path::PathError;
use super::text::LinkTargetError;
use super::{DATA_BYTES_MAX, MESSAGE_BYTES_MAX, payload, varint};

/// Type and length of a message, two varints
const HEADER_BYTES_MAX: usize = 16;

/// Why bytes are not the copy protocol; nothing can follow on the same flow
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// A type this version does not know and may not skip
    #[error(
        "message type {0:#x} is unknown and not marked skippable: the peer speaks another version"
    )]
    UnknownType(u64),
    /// A length beyond the type's limit
    #[error("a message of type {kind:#x} announces {bytes} octets, more than {limit}")]
    TooLong {
        /// The message type
        kind: u64,
        /// The length announced
        bytes: u64,
        /// The limit
        limit: usize,
    },
    /// DATA without content
    #[error("a DATA message is empty")]
    EmptyData,
    /// The payload ends inside a field
    #[error("the payload of message type {kind:#x} ends inside its field '{field}'")]
    Short {
        /// The message type
        kind: u64,
        /// The field
        field: &'static str,
    },
    /// The payload goes on after its last field
    #[error("the payload of message type {kind:#x} has {bytes} octets too many")]
    Trailing {
        /// The message type
        kind: u64,
        /// Octets left over
        bytes: usize,
    },
    /// A number outside the values its field may have
    #[error("message type {kind:#x}: {value} is no valid value of the field '{field}'")]
    Value {
        /// The message type
        kind: u64,
        /// The field
        field: &'static str,
        /// The number
        value: u64,
    },
    /// An error text that is too long, not UTF-8 or holds control characters
    #[error("message type {kind:#x}: the error text is too long, not UTF-8 or unprintable")]
    Text {
        /// The message type
        kind: u64,
    },
    /// A path or name that breaks a rule
    #[error("message type {kind:#x}: {source}")]
    Path {
        /// The message type
        kind: u64,
        /// The rule
        source: PathError,
    },
    /// A symbolic link's target that breaks a rule
    #[error("message type {kind:#x}: {source}")]
    LinkTarget {
        /// The message type
        kind: u64,
        /// The rule
        source: LinkTargetError,
    },
    /// The flow ended inside a message
    #[error("the flow ended in the middle of a message")]
    Truncated,
}

/// What the decoder yields
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A whole message
    Message(Message),
    /// The next piece of the current file's content, never empty. Where one DATA message ends and the next
    /// begins is not told: it means nothing.
    Data(Bytes),
}

#[derive(Debug)]
enum State {
    /// Octets of type and length so far
    Header { held: [u8; HEADER_BYTES_MAX], length: usize },
    /// Octets of a payload so far, out of `length`
    Payload { kind: u64, length: usize, held: Vec<u8> },
    /// Content to hand on
    Data { remaining: usize },
    /// Payload of an unknown skippable message
    Skip { remaining: usize },
}

impl State {
    const START: State = State::Header { held: [0; HEADER_BYTES_MAX], length: 0 };
}

/// Turns a flow's bytes into [`Event`]s
#[derive(Debug)]
pub struct Decoder {
    state: State,
    failed: Option<DecodeError>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the start of a flow
    pub fn new() -> Self {
        Self { state: State::START, failed: None }
    }

    /// Takes bytes from the front of `chunk` until an event is complete. `None` means that `chunk` is used
    /// up. After an error every further call returns the same error.
    pub fn decode(&mut self, chunk: &mut Bytes) -> Result<Option<Event>, DecodeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.step(chunk).inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// To be asked when the flow has ended: fails unless it ended between two messages
    pub fn finish(&self) -> Result<(), DecodeError> {
        match (&self.failed, &self.state) {
            (Some(error), _) => Err(error.clone()),
            (None, State::Header { length: 0, .. }) => Ok(()),
            (None, _) => Err(DecodeError::Truncated),
        }
    }

    fn step(&mut self, chunk: &mut Bytes) -> Result<Option<Event>, DecodeError> {
        while !chunk.is_empty() {
            match &mut self.state {
                State::Header { held, length } => {
                    held[*length] = chunk.get_u8();
                    *length += 1;
                    if let Some((kind, bytes)) = header(&held[..*length]) {
                        self.state = admit(kind, bytes)?;
                        // A message without payload is complete with its header.
                        if let State::Payload { kind, length: 0, .. } = self.state {
                            self.state = State::START;
                            return payload::parse(kind, &[]).map(|m| Some(Event::Message(m)));
                        }
                    }
                }
                State::Payload { kind, length, held } => {
                    let kind = *kind;
                    let message = if held.is_empty() && chunk.len() >= *length {
                        payload::parse(kind, &chunk.split_to(*length))
                    } else {
                        let missing = (*length - held.len()).min(chunk.len());
                        held.extend_from_slice(&chunk.split_to(missing));
                        if held.len() < *length {
                            continue;
                        }
                        payload::parse(kind, held)
                    };
                    self.state = State::START;
                    return message.map(|message| Some(Event::Message(message)));
                }
                State::Data { remaining } => {
                    let piece = chunk.split_to((*remaining).min(chunk.len()));
                    *remaining -= piece.len();
                    if *remaining == 0 {
                        self.state = State::START;
                    }
                    return Ok(Some(Event::Data(piece)));
                }
                State::Skip { remaining } => {
                    let skipped = (*remaining).min(chunk.len());
                    chunk.advance(skipped);
                    *remaining -= skipped;
                    if *remaining == 0 {
                        self.state = State::START;
                    }
                }
            }
        }
        Ok(None)
    }
}

/// Type and length, once both are complete
fn header(held: &[u8]) -> Option<(u64, u64)> {
    let (kind, used) = varint::get(held)?;
    let (bytes, _) = varint::get(&held[used..])?;
    Some((kind, bytes))
}

/// Checks a header against the limits and chooses what to do with the payload
fn admit(kind: u64, bytes: u64) -> Result<State, DecodeError> {
    let limit = if kind == kind::DATA { DATA_BYTES_MAX } else { MESSAGE_BYTES_MAX };
    let known = kind <= kind::ERROR && kind.is_multiple_of(2);
    let skippable = kind % 2 == 1;
    if !known && !skippable {
        return Err(DecodeError::UnknownType(kind));
    }
    let length = usize::try_from(bytes)
        .ok()
        .filter(|length| *length <= limit)
        .ok_or(DecodeError::TooLong { kind, bytes, limit })?;
    Ok(match (kind, length) {
        (kind::DATA, 0) => return Err(DecodeError::EmptyData),
        (kind::DATA, remaining) => State::Data { remaining },
        _ if known => State::Payload { kind, length, held: Vec::new() },
        (_, 0) => State::START,
        (_, remaining) => State::Skip { remaining },
    })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::{
        Component, Direction, Entry, EntryKind, EntryPath, ErrorCode, Held, Hello, HelloOptions,
        LinkTarget, Modified, Outcome, RemotePath, Source, TEXT_BYTES_MAX, Text, Totals,
        VARINT_MAX, encode_data_header,
    };
    use super::*;

    /// One message of every type and of every variant within a type
    fn messages() -> Vec<Message> {
        let path = EntryPath::from_components([b"a b".as_slice(), b"\xff"]).unwrap();
        let text = || Text::new("because");
        let code = ErrorCode::NoSpace;
        let modified = Modified { seconds: -5, nanoseconds: 999_999_999 };
        let entry =
            |kind| Message::Entry(Entry { path: path.clone(), mode: 0o7777, modified, kind });
        let verdict = |outcome| Message::Verdict { entry: 70_000, outcome };
        let digest = [7; 32];
        let totals = Totals { files_verified: 1, failed: 9, ..Totals::default() };
        vec![
            Message::Hello(Hello {
                versions: vec![1, 2, VARINT_MAX],
                direction: Direction::Push,
                options: HelloOptions { verify_existing: true },
                path: RemotePath::parse("/srv/data/.").unwrap(),
            }),
            Message::Welcome { version: 1 },
            Message::Source(Source { name: None, files: 0, bytes: 0 }),
            Message::Source(Source {
                name: Some(Component::new(b"tree").unwrap()),
                files: 3,
                bytes: VARINT_MAX,
            }),
            entry(EntryKind::Directory),
            entry(EntryKind::File { size: 1 << 40 }),
            entry(EntryKind::Symlink { target: LinkTarget::new(b"../x").unwrap() }),
            entry(EntryKind::DirectoryEnd),
            Message::Problem { path: EntryPath::root(), code, text: text() },
            Message::EndOfEntries,
            Message::Want { entry: 3, held: None },
            Message::Want { entry: 3, held: Some(Held { bytes: 1 << 33, digest }) },
            Message::Begin { entry: 3, offset: 17 },
            Message::End { digest },
            Message::Abort { entry: 3, code, text: text() },
            verdict(Outcome::Verified),
            verdict(Outcome::Unchanged),
            verdict(Outcome::Done),
            verdict(Outcome::Failed { code, text: Text::new("") }),
            Message::Summary(totals),
            Message::Error { code, text: Text::new(&"t".repeat(TEXT_BYTES_MAX)) },
        ]
    }

    fn decode_all(pieces: impl Iterator<Item = Bytes>) -> Result<Vec<Event>, DecodeError> {
        let mut decoder = Decoder::new();
        let mut events: Vec<Event> = Vec::new();
        for mut piece in pieces {
            while let Some(event) = decoder.decode(&mut piece)? {
                match (events.last_mut(), event) {
                    (Some(Event::Data(held)), Event::Data(more)) => {
                        *held = [held.as_ref(), more.as_ref()].concat().into();
                    }
                    (_, event) => events.push(event),
                }
            }
            assert!(piece.is_empty());
        }
        decoder.finish().map(|()| events)
    }

    /// A stream of every message with content in between, and the events it stands for
    fn stream() -> (Bytes, Vec<Event>) {
        let mut out = BytesMut::new();
        let mut events = Vec::new();
        for (index, message) in messages().into_iter().enumerate() {
            message.encode(&mut out).unwrap();
            events.push(Event::Message(message));
            let content = vec![index as u8; index * 10 + 1];
            encode_data_header(content.len(), &mut out).unwrap();
            out.extend_from_slice(&content);
            events.push(Event::Data(content.into()));
            // An unknown skippable message, with and without payload, is as if it were not there.
            out.extend_from_slice(&[0x3f, 0x03, 9, 9, 9, 0x1b, 0x00]);
        }
        (out.freeze(), events)
    }

    #[test]
    fn every_message_round_trips_in_any_split() {
        let (bytes, events) = stream();
        assert_eq!(decode_all(std::iter::once(bytes.clone())).unwrap(), events);
        for size in [1, 2, 3, 5, 7, 64] {
            let pieces = bytes.chunks(size).map(Bytes::copy_from_slice);
            assert_eq!(decode_all(pieces).unwrap(), events, "pieces of {size}");
        }
    }

    #[test]
    fn a_stream_cut_anywhere_but_between_messages_is_truncated() {
        let mut out = BytesMut::new();
        for message in messages() {
            let start = out.len();
            message.encode(&mut out).unwrap();
            for cut in start + 1..out.len() {
                let cut = out.clone().freeze().slice(..cut);
                assert_eq!(decode_all(std::iter::once(cut)), Err(DecodeError::Truncated));
            }
        }
        encode_data_header(5, &mut out).unwrap();
        assert_eq!(decode_all(std::iter::once(out.freeze())), Err(DecodeError::Truncated));
    }

    fn error(bytes: &[u8]) -> DecodeError {
        decode_all(std::iter::once(Bytes::copy_from_slice(bytes))).unwrap_err()
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        assert_eq!(error(&[0x1c, 0]), DecodeError::UnknownType(0x1c));
        assert_eq!(error(&[0x00, 0]), DecodeError::EmptyData);
        let (bytes, limit) = (1 << 20 | 1, DATA_BYTES_MAX);
        assert_eq!(
            error(&[0x00, 0x80, 0x10, 0x00, 0x01]),
            DecodeError::TooLong { kind: 0, bytes, limit }
        );
        let (bytes, limit) = (VARINT_MAX, MESSAGE_BYTES_MAX);
        let mut huge = vec![0x3f];
        huge.extend_from_slice(&[0xff; 8]);
        assert_eq!(error(&huge), DecodeError::TooLong { kind: 0x3f, bytes, limit });
        assert_eq!(error(&[0x04, 0]), DecodeError::Short { kind: 4, field: "version" });
        assert_eq!(error(&[0x04, 2, 1, 1]), DecodeError::Trailing { kind: 4, bytes: 1 });
        assert_eq!(error(&[0x12, 1, 0]), DecodeError::Short { kind: 0x12, field: "digest" });
        let value = |kind, field, value| DecodeError::Value { kind, field, value };
        assert_eq!(error(&[0x02, 1, 0]), value(2, "number of versions", 0));
        assert_eq!(error(&[0x02, 3, 1, 1, 2]), value(2, "direction", 2));
        assert_eq!(error(&[0x08, 1, 4]), value(8, "entry kind", 4));
        assert_eq!(error(&[0x08, 4, 1, 0, 0x50, 0x00]), value(8, "mode", 0o10000));
        assert_eq!(error(&[0x16, 2, 0, 4]), value(0x16, "outcome", 4));
        assert_eq!(error(&[0x1a, 3, 0, 1, 0x1b]), DecodeError::Text { kind: 0x1a });
    }

    #[test]
    fn hostile_paths_are_refused_by_rule() {
        let path = |source| DecodeError::Path { kind: 8, source };
        assert_eq!(error(b"\x08\x05\x00\x01\x02.."), path(PathError::Dots("..")));
        assert_eq!(error(b"\x08\x04\x00\x01\x01."), path(PathError::Dots(".")));
        assert_eq!(error(b"\x08\x03\x00\x01\x00"), path(PathError::Empty));
        let slash = PathError::Character("a/b".into());
        assert_eq!(error(b"\x08\x06\x00\x01\x03a/b"), path(slash));
        let nul = PathError::Character("a\\x00".into());
        assert_eq!(error(b"\x08\x05\x00\x01\x02a\0"), path(nul));
        assert_eq!(error(b"\x08\x03\x00\x41\x01"), path(PathError::TooDeep));
        let name = error(b"\x06\x05\x02..\x00\x00");
        assert_eq!(name, DecodeError::Path { kind: 6, source: PathError::Dots("..") });
    }

    #[test]
    fn after_an_error_nothing_more_is_believed() {
        let mut decoder = Decoder::new();
        let first = decoder.decode(&mut Bytes::from_static(&[0x1c, 0])).unwrap_err();
        assert_eq!(decoder.decode(&mut Bytes::from_static(&[0x0c, 0])), Err(first.clone()));
        assert_eq!(decoder.finish(), Err(first));
    }

    /// Goal: no input panics or makes the decoder hold more than its limit. Method: random bytes, and a
    /// valid stream with octets replaced, from a fixed seed.
    #[test]
    fn random_and_mutated_bytes_never_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let (valid, _) = stream();
        let mut failures = 0;
        for round in 0..4000 {
            let mut bytes: Vec<u8> = if round % 2 == 0 {
                (0..random() % 200).map(|_| random() as u8).collect()
            } else {
                valid.to_vec()
            };
            for _ in 0..round % 4 {
                if let Some(index) = (random() as usize).checked_rem(bytes.len()) {
                    bytes[index] = random() as u8;
                }
            }
            let size = random() as usize % 97 + 1;
            failures +=
                usize::from(decode_all(bytes.chunks(size).map(Bytes::copy_from_slice)).is_err());
        }
        assert!(failures > 2000, "most of these streams are broken, {failures} were refused");
    }
}
