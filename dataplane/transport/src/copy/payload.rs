//! Reads the payload of one complete message, field by field; every field is checked and nothing may be
//! left over. Framing is the decoder's part.

use super::code::ErrorCode;
use super::decoder::DecodeError;
use super::encode::unzigzag;
use super::message::{
    Digest, Direction, Entry, EntryKind, Held, Hello, HelloOptions, Message, Modified, Outcome,
    Source, Totals, kind,
};
use super::path::{Component, EntryPath, PathError, RemotePath};
use super::text::{LinkTarget, Text};
use super::{PATH_DEPTH_MAX, VERSIONS_MAX, varint};

const NANOSECONDS_PER_SECOND: u32 = 1_000_000_000;

/// What is left of a payload
struct Fields<'a> {
    kind: u64,
    rest: &'a [u8],
}

/// Reads the payload of a message of a known type other than DATA
pub(super) fn parse(kind: u64, payload: &[u8]) -> Result<Message, DecodeError> {
    let mut fields = Fields { kind, rest: payload };
    let message = fields.message()?;
    match fields.rest.len() {
        0 => Ok(message),
        bytes => Err(DecodeError::Trailing { kind, bytes }),
    }
}

impl<'a> Fields<'a> {
    fn message(&mut self) -> Result<Message, DecodeError> {
        Ok(match self.kind {
            kind::HELLO => Message::Hello(self.hello()?),
            kind::WELCOME => Message::Welcome { version: self.number("version")? },
            kind::SOURCE => Message::Source(Source {
                name: self.optional_name()?,
                files: self.number("files")?,
                bytes: self.number("bytes")?,
            }),
            kind::ENTRY => Message::Entry(self.entry()?),
            kind::PROBLEM => {
                let path = self.path()?;
                let (code, text) = self.reason()?;
                Message::Problem { path, code, text }
            }
            kind::END_OF_ENTRIES => Message::EndOfEntries,
            kind::WANT => Message::Want { entry: self.number("entry")?, held: self.held()? },
            kind::BEGIN => {
                Message::Begin { entry: self.number("entry")?, offset: self.number("offset")? }
            }
            kind::END => Message::End { digest: self.digest()? },
            kind::ABORT => {
                let entry = self.number("entry")?;
                let (code, text) = self.reason()?;
                Message::Abort { entry, code, text }
            }
            kind::VERDICT => {
                Message::Verdict { entry: self.number("entry")?, outcome: self.outcome()? }
            }
            kind::SUMMARY => Message::Summary(Totals {
                files_verified: self.number("files verified")?,
                files_unchanged: self.number("files unchanged")?,
                directories: self.number("directories")?,
                symlinks: self.number("symbolic links")?,
                failed: self.number("failed")?,
                bytes_transferred: self.number("bytes transferred")?,
            }),
            kind::ERROR => {
                let (code, text) = self.reason()?;
                Message::Error { code, text }
            }
            other => return Err(DecodeError::UnknownType(other)),
        })
    }

    fn number(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let short = DecodeError::Short { kind: self.kind, field };
        let (value, used) = varint::get(self.rest).ok_or(short)?;
        self.rest = &self.rest[used..];
        Ok(value)
    }

    /// A number that must not exceed `maximum`
    fn number_up_to(&mut self, field: &'static str, maximum: u64) -> Result<u64, DecodeError> {
        match self.number(field)? {
            value if value > maximum => Err(DecodeError::Value { kind: self.kind, field, value }),
            value => Ok(value),
        }
    }

    fn take(&mut self, field: &'static str, length: u64) -> Result<&'a [u8], DecodeError> {
        let short = DecodeError::Short { kind: self.kind, field };
        let length = usize::try_from(length).map_err(|_| short.clone())?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.number(field)?;
        self.take(field, length)
    }

    fn digest(&mut self) -> Result<Digest, DecodeError> {
        let mut digest = Digest::default();
        digest.copy_from_slice(self.take("digest", size_of::<Digest>() as u64)?);
        Ok(digest)
    }

    fn path_error(&self, source: PathError) -> DecodeError {
        DecodeError::Path { kind: self.kind, source }
    }

    fn optional_name(&mut self) -> Result<Option<Component>, DecodeError> {
        match self.bytes("name")? {
            b"" => Ok(None),
            name => Component::new(name).map(Some).map_err(|source| self.path_error(source)),
        }
    }

    fn path(&mut self) -> Result<EntryPath, DecodeError> {
        let depth = self.number("path depth")?;
        if depth > PATH_DEPTH_MAX as u64 {
            return Err(self.path_error(PathError::TooDeep));
        }
        let mut components = Vec::new();
        for _ in 0..depth {
            components.push(self.bytes("path component")?);
        }
        EntryPath::from_components(components).map_err(|source| self.path_error(source))
    }

    fn reason(&mut self) -> Result<(ErrorCode, Text), DecodeError> {
        let code = ErrorCode::from_code(self.number("code")?);
        let text = self.bytes("text")?;
        let text = Text::from_wire(text).ok_or(DecodeError::Text { kind: self.kind })?;
        Ok((code, text))
    }

    fn hello(&mut self) -> Result<Hello, DecodeError> {
        let count = self.number("number of versions")?;
        if count == 0 || count > VERSIONS_MAX as u64 {
            let field = "number of versions";
            return Err(DecodeError::Value { kind: self.kind, field, value: count });
        }
        let mut versions = Vec::new();
        for _ in 0..count {
            versions.push(self.number("version")?);
        }
        let direction = match self.number_up_to("direction", 1)? {
            0 => Direction::Push,
            _ => Direction::Pull,
        };
        let options = HelloOptions { verify_existing: self.number_up_to("options", 1)? == 1 };
        let flags = self.number_up_to("path flags", 7)?;
        let path = RemotePath {
            absolute: flags & 1 != 0,
            directory: flags & 2 != 0,
            contents: flags & 4 != 0,
            path: self.path()?,
        };
        Ok(Hello { versions, direction, options, path })
    }

    fn entry(&mut self) -> Result<Entry, DecodeError> {
        let kind = self.number_up_to("entry kind", 3)?;
        let path = self.path()?;
        let mode = self.number_up_to("mode", 0o7777)?;
        let seconds = unzigzag(self.number("seconds")?);
        let below_second = u64::from(NANOSECONDS_PER_SECOND - 1);
        let nanoseconds = self.number_up_to("nanoseconds", below_second)?;
        let kind = match kind {
            0 => EntryKind::Directory,
            1 => EntryKind::File { size: self.number("size")? },
            2 => EntryKind::Symlink { target: self.target()? },
            _ => EntryKind::DirectoryEnd,
        };
        let modified = Modified { seconds, nanoseconds: nanoseconds as u32 };
        Ok(Entry { path, mode: mode as u16, modified, kind })
    }

    fn target(&mut self) -> Result<LinkTarget, DecodeError> {
        let kind = self.kind;
        let target = self.bytes("target")?;
        LinkTarget::new(target).map_err(|source| DecodeError::LinkTarget { kind, source })
    }

    fn held(&mut self) -> Result<Option<Held>, DecodeError> {
        match self.number("held bytes")? {
            0 => Ok(None),
            bytes => Ok(Some(Held { bytes, digest: self.digest()? })),
        }
    }

    fn outcome(&mut self) -> Result<Outcome, DecodeError> {
        Ok(match self.number_up_to("outcome", 3)? {
            0 => Outcome::Verified,
            1 => Outcome::Unchanged,
            2 => Outcome::Done,
            _ => {
                let (code, text) = self.reason()?;
                Outcome::Failed { code, text }
            }
        })
    }
}
