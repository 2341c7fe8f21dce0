//! Why a copy fails as a whole, and why one entry of it fails. Which failure ends the transfer is decided
//! where it happens.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::tally::Summary;
use super::wire::{DecodeError, EncodeError, ErrorCode, PathError, Text};

/// Why a transfer did not do all it was asked to
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The flow broke
    #[error("the flow to the peer failed ({0}); run the copy again, it continues where it stopped")]
    Flow(io::Error),
    /// The peer ended the flow too early
    #[error(
        "the peer ended the flow before the copy was complete; run it again, it continues there"
    )]
    Truncated,
    /// The peer sent bytes that are not the copy protocol
    #[error("the peer broke the copy protocol: {0}")]
    Decode(#[from] DecodeError),
    /// The peer sent a message at a wrong moment or with a wrong number
    #[error("the peer broke the copy protocol: {0}")]
    Protocol(String),
    /// A value of this host does not fit into the protocol
    #[error("cannot be copied: {0}")]
    Encode(#[from] EncodeError),
    /// The peer refused or gave up
    #[error("the peer refused the copy ({code}): {text}")]
    Peer {
        /// Why
        code: ErrorCode,
        /// Why, in the peer's words
        text: Text,
    },
    /// This side refused what the peer asked for
    #[error("refused ({code}): {text}")]
    Refused {
        /// Why
        code: ErrorCode,
        /// Why, as the peer was told
        text: Text,
    },
    /// The peer did not say what it wants in time
    #[error("the peer opened a copy but did not say what it wants within {0} seconds")]
    Silent(u64),
    /// The path on the serving node is malformed
    #[error("'{path}' is not a path on a node: {cause}")]
    RemotePath {
        /// As given
        path: String,
        /// The rule it breaks
        cause: PathError,
    },
    /// Nothing moved for too long
    #[error(
        "the peer neither sent nor took anything for {0} seconds; run the copy again, it continues"
    )]
    Stalled(u64),
    /// The source or destination on this host cannot be used
    #[error("cannot {action} {}: {cause}", path.display())]
    Local {
        /// What was tried
        action: &'static str,
        /// Where
        path: PathBuf,
        /// What the operating system said
        cause: io::Error,
    },
    /// The directory offered to peers is not usable as such
    #[error("'{}' cannot be served: give an absolute path without '..'", .0.display())]
    Root(PathBuf),
    /// Too many transfers
    #[error("{0} copies are running already, the most at one time; try again when one has ended")]
    Busy(usize),
    /// A thread could not be started or failed
    #[error("the copy's file work failed: {0}")]
    Worker(String),
    /// The transfer ran to its end but not everything is in place: the summary names what is not
    #[error("{} entries were not copied; the first: {}", .0.failed, first_problem(.0))]
    Incomplete(Box<Summary>),
}

fn first_problem(summary: &Summary) -> String {
    summary.problems.first().map_or_else(String::new, |problem| problem.to_string())
}

impl CopyError {
    /// What the peer is told before the flow ends; `None` if it knows, or can no longer hear
    pub(super) fn for_peer(&self) -> Option<(ErrorCode, Text)> {
        let code = match self {
            Self::Decode(_) | Self::Protocol(_) | Self::Silent(_) => ErrorCode::Protocol,
            Self::Refused { code, text } => return Some((*code, text.clone())),
            Self::Busy(_) => ErrorCode::Busy,
            Self::Local { cause, .. } => code_of(cause),
            Self::Encode(_) | Self::RemotePath { .. } | Self::Root(_) | Self::Worker(_) => {
                ErrorCode::Failed
            }
            Self::Flow(_)
            | Self::Truncated
            | Self::Stalled(_)
            | Self::Peer { .. }
            | Self::Incomplete(_) => return None,
        };
        Some((code, Text::new(&self.to_string())))
    }
}

/// Why one entry is not copied; the text is a whole sentence that names the entry
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub code: ErrorCode,
    pub text: Text,
}

impl Failure {
    pub fn new(code: ErrorCode, text: impl fmt::Display) -> Self {
        Self { code, text: Text::new(&text.to_string()) }
    }

    /// The operating system refused: "cannot `action` '`path`': ..."
    pub fn io(action: &str, path: impl fmt::Display, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        Self::new(code_of(&error), format_args!("cannot {action} '{path}': {error}"))
    }
}

impl From<Failure> for CopyError {
    fn from(failure: Failure) -> Self {
        Self::Refused { code: failure.code, text: failure.text }
    }
}

fn code_of(error: &io::Error) -> ErrorCode {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => ErrorCode::NoSpace,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => ErrorCode::AccessDenied,
        Some(Errno::NOENT) => ErrorCode::NotFound,
        Some(Errno::NOTDIR) => ErrorCode::NotADirectory,
        Some(Errno::ISDIR) => ErrorCode::IsADirectory,
        Some(Errno::LOOP) => ErrorCode::SymlinkInPath,
        Some(Errno::NAMETOOLONG | Errno::MFILE | Errno::NFILE) => ErrorCode::Limit,
        _ => ErrorCode::InputOutput,
    }
}
