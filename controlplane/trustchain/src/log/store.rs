//! What the log needs of storage, as two traits: a journal that is the truth, and a place for published files
//! that are derived from it. How either is kept is the business of whoever implements them; a directory is in
//! `directory`.

use std::io;

use super::merkle::HASH_BYTES;
use super::tile::{TileKind, TilePath};
use super::{CERTIFICATE_LIMIT_BYTES, CHAIN_LIMIT};

/// Size of the largest file this log publishes: a data tile of the largest entries
pub const FILE_LIMIT_BYTES: u64 =
    256 * (2 * CERTIFICATE_LIMIT_BYTES + CHAIN_LIMIT * HASH_BYTES + 128) as u64;
/// Path of the checkpoint
pub const CHECKPOINT_PATH: &str = "checkpoint";
/// Directory of the issuing certificates
pub const ISSUER_PREFIX: &str = "issuer/";
/// Directory of the tiles
pub const TILE_PREFIX: &str = "tile/";

/// An append-only journal. One log owns one; other kinds of records in the same file are not shown to it.
pub trait Journal {
    /// Appends one record, at most `record::RECORD_LIMIT_BYTES`, and returns when it is durable.
    ///
    /// After an error nobody knows whether the record is there; the log then stops until it is opened anew.
    fn append(&mut self, record: &[u8]) -> io::Result<()>;

    /// All records in their order. A record that was torn by a crash at the very end is left out; any other
    /// damage is an error.
    fn replay(&mut self) -> io::Result<Box<dyn Iterator<Item = io::Result<Vec<u8>>> + '_>>;
}

/// Published files by path. What a path means is said in `tile` and `serve`.
pub trait Published {
    /// A whole file, at most `FILE_LIMIT_BYTES`; `None` where there is none
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;

    /// Makes a file that does not exist: durable and all of it, or not there at all
    fn create(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Makes or replaces a file in one step: durable when this returns, and never half of it
    fn replace(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Removes a file; it may come back after a crash
    fn remove(&mut self, path: &str) -> io::Result<()>;

    /// Paths of all files that begin with `prefix`, which is empty or ends with a slash
    fn list(&self, prefix: &str) -> io::Result<Vec<String>>;
}

/// Why a published file is not as it should be
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The storage failed
    #[error("the published files of the log: {0}; nothing more is published until a restart")]
    Io(#[from] io::Error),
    /// A file that never changes has changed
    #[error(
        "{path} differs from what the journal says; a file of the log was damaged or is another \
         log's: run `stoqctl log fsck`, move the directory away and rebuild it from the journal"
    )]
    Mismatch {
        /// The file
        path: String,
    },
    /// A file that the published checkpoint needs is gone
    #[error("{path} is missing although the checkpoint covers it; rebuild it from the journal")]
    Missing {
        /// The file
        path: String,
    },
}

/// Whether a file that never changes may be made now
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Presence {
    /// It may have to be made
    MayBeNew,
    /// It has been published before, so it must be there
    Required,
}

/// Makes a file that never changes, or checks that it is there as it should be
pub(crate) fn settle_file(
    store: &mut (impl Published + ?Sized),
    path: &str,
    bytes: &[u8],
    presence: Presence,
) -> Result<(), StoreError> {
    match store.read(path)? {
        Some(found) if found == bytes => Ok(()),
        Some(_) => Err(StoreError::Mismatch { path: path.into() }),
        None if presence == Presence::Required => Err(StoreError::Missing { path: path.into() }),
        None => Ok(store.create(path, bytes)?),
    }
}

/// Reads a tile; a partial one that was removed after its tile became full is cut from the full one
pub(crate) fn read_tile(
    store: &(impl Published + ?Sized),
    path: TilePath,
) -> Result<Vec<u8>, StoreError> {
    if let Some(bytes) = store.read(&path.to_string())? {
        return Ok(bytes);
    }
    let missing = || StoreError::Missing { path: path.to_string() };
    if path.is_full() {
        return Err(missing());
    }
    let full = path.full().to_string();
    let mut bytes = store.read(&full)?.ok_or_else(missing)?;
    let end = prefix_bytes(path, &bytes).ok_or(StoreError::Mismatch { path: full })?;
    bytes.truncate(end);
    Ok(bytes)
}

/// How many octets of a wider tile make this one; `None` if it is not wide enough
pub(crate) fn prefix_bytes(path: TilePath, bytes: &[u8]) -> Option<usize> {
    match path.kind() {
        TileKind::Hashes(_) => {
            let end = usize::from(path.width()) * HASH_BYTES;
            (end <= bytes.len()).then_some(end)
        }
        TileKind::Entries => super::LogEntry::prefix_bytes(bytes, path.width()).ok(),
    }
}
