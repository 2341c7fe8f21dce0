//! What can go wrong with a journal: on opening, on appending, and for good.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::format::{ENTRY_LIMIT_BYTES, Fault};

/// Damage at a place
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{file} is damaged at offset {offset}: {fault}")]
pub struct Damage {
    /// The file
    pub file: PathBuf,
    /// Bytes from its beginning
    pub offset: u64,
    /// What is wrong
    pub fault: Fault,
}

/// Why a journal is not opened
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none. It is not created on the way: a lost journal must not be begun again in silence.
    #[error("{0} holds no journal; restore it from a backup, or create one if there never was any")]
    NotThere(PathBuf),
    /// There is one already
    #[error("{0} holds a journal already, or the remains of one; nothing is overwritten")]
    Exists(PathBuf),
    /// Another process has it open
    #[error("{0} is in use by another process; a journal has one writer")]
    Locked(PathBuf),
    /// It is damaged where no crash can have done it
    #[error(
        "{0}; nothing is repaired: restore the directory from a backup (fsck lists all there is)"
    )]
    Damaged(#[from] Damage),
    /// Whoever looked at the entries refused one
    #[error("entry {sequence} was refused: {reason}")]
    Refused {
        /// The entry
        sequence: u64,
        /// What was said about it
        reason: Box<dyn Error + Send + Sync>,
    },
    /// An option is out of its range
    #[error("journal option {0}")]
    Options(&'static str),
    /// The file system refused
    #[error("{path}: {source}")]
    Io {
        /// The file
        path: PathBuf,
        /// What it said
        source: io::Error,
    },
}

/// Why a journal accepts nothing more until it is opened again
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{operation} failed on {path}: {source}; what the disk holds is not known, so the journal accepts nothing \
     more until the daemon is restarted; look at the disk (kernel log) first"
)]
pub struct Failure {
    /// What was being done
    pub operation: &'static str,
    /// On which file or directory
    pub path: PathBuf,
    /// What the system said
    pub source: Arc<io::Error>,
}

/// Why an entry was not acknowledged
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// A payload is too long, or the entries do not fit into one group
    #[error("{bytes} bytes are more than the {limit_bytes} that fit")]
    TooLarge {
        /// What was to be written
        bytes: usize,
        /// What is accepted; [`ENTRY_LIMIT_BYTES`] for one payload
        limit_bytes: usize,
    },
    /// More entries than one group holds
    #[error("{0} entries do not fit into one group")]
    TooMany(usize),
    /// There was nothing to append
    #[error("no entries were given")]
    Empty,
    /// The queue is full; nothing was written, ask again later
    #[error("the journal is behind; try again later")]
    Busy,
    /// No space was left. The entries are certainly not in the journal, which goes on: appends succeed again as
    /// soon as there is space.
    #[error("no space is left for the journal ({0}); free some, nothing is lost")]
    NoSpace(Arc<io::Error>),
    /// The journal failed for good. Whether these entries are in it is known only after it was opened again.
    #[error(transparent)]
    Failed(Failure),
    /// The journal was closed before the entries were taken
    #[error("the journal is closed")]
    Closed,
}

/// Why entries of a journal in use could not be read
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// They are damaged
    #[error("{0}; stop the daemon and restore the directory from a backup")]
    Damaged(#[from] Damage),
    /// The file system refused
    #[error("{path}: {source}")]
    Io {
        /// The file
        path: PathBuf,
        /// What it said
        source: io::Error,
    },
}

pub(super) fn check_payload(bytes: usize) -> Result<(), AppendError> {
    if bytes > ENTRY_LIMIT_BYTES {
        return Err(AppendError::TooLarge { bytes, limit_bytes: ENTRY_LIMIT_BYTES });
    }
    Ok(())
}
