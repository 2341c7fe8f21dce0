//! Taking a backup of an authority that runs or not: the log's checkpoint first, then certificates and the log's other
//! files, the journal last, so that nothing in a backup is older than what was derived from it; keys where they are
//! asked for, sealed. The manifest is written at the very end: without it a directory is no backup.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use boring::sha::Sha256;
use serde::{Deserialize, Serialize};
use stoq_interface::NodeId;
use stoq_store::journal::{self, OpenError};
use zeroize::Zeroizing;

use super::high_water::HighWater;
use super::keys::{self, BackupKeysError, KEY_LIMIT_BYTES, KEYS_FILE, Keys};
use crate::ca::replay::{Replay, ReplayError};
use crate::certificate::{hex, unix_seconds};
use crate::files;
use crate::sealing::Passphrase;

/// Name of the manifest
pub const MANIFEST_FILE: &str = "backup.json";
/// Where journal and log are, below an authority's directory and in a backup
pub(super) const STATE: &str = "ca";
/// Where the journal is
pub(super) const JOURNAL: &str = "ca/journal";
/// The log's checkpoint
const CHECKPOINT: &str = "ca/log/checkpoint";
/// Where a root that was made with the authority is
const EMBEDDED_ROOT: &str = "root";
/// Most files of a backup, the log's tiles among them
const FILES_LIMIT: usize = 4_000_000;
/// Directories within directories
const DEPTH_LIMIT: usize = 16;
/// Files up to here are looked at for keys
const KEY_FILE_LIMIT_BYTES: u64 = 64 << 10;

/// Why there is no backup
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is something already
    #[error("{0} exists; a backup goes into a directory of its own")]
    Exists(PathBuf),
    /// A file
    #[error("{path}: {source}")]
    Io {
        /// Which
        path: PathBuf,
        /// What it said
        source: io::Error,
    },
    /// The journal
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The copied journal
    #[error("the copy of the journal does not check: {0}")]
    Replay(#[from] ReplayError),
    /// The keys
    #[error(transparent)]
    Keys(#[from] BackupKeysError),
    /// More files than are looked at, or deeper
    #[error(
        "{0} has more files or deeper directories than an authority's; name the right directory"
    )]
    Limit(PathBuf),
}

pub(super) fn io_error(path: &Path) -> impl Fn(io::Error) -> BackupError + '_ {
    |source| BackupError::Io { path: path.to_owned(), source }
}

/// What is backed up
#[derive(Clone, Debug)]
pub struct BackupSource {
    /// The authority's directory: certificates, `ca/` with journal and log, and keys where they are in files
    pub directory: PathBuf,
    /// Name of the instance
    pub instance: NodeId,
    /// Private keys too, encrypted with this. Whoever has both can issue certificates.
    pub keys: Option<Passphrase>,
}

/// A file of a backup
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BackupFile {
    /// Below the backup's directory
    pub path: String,
    /// Its length
    pub bytes: u64,
    /// Its hash, hexadecimal
    pub sha256: String,
}

/// What a backup says of itself
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BackupManifest {
    /// Version of this form
    pub version: u32,
    /// When it was taken, in seconds since 1970
    pub taken_at: u64,
    /// What its journal has
    pub reached: HighWater,
    /// The highest epoch of the deny-list in its journal
    pub deny_list_epoch: u64,
    /// Certificates in its journal
    pub certificates: u64,
    /// Whether private keys are in it
    pub with_keys: bool,
    /// Files whose private keys are in it, below the authority's directory
    pub keys: Vec<String>,
    /// Files with private keys that were left out
    pub keys_left_out: Vec<String>,
    /// Every file other than this one
    pub files: Vec<BackupFile>,
}

pub(super) const VERSION: u32 = 2;

/// Takes a backup into `target`, which must not exist; durable when this returns
pub fn take(
    source: &BackupSource,
    target: &Path,
    now: SystemTime,
) -> Result<BackupManifest, BackupError> {
    if target.try_exists().map_err(io_error(target))? {
        return Err(BackupError::Exists(target.to_owned()));
    }
    let keys = match &source.keys {
        Some(_) => read_keys(&source.directory)?,
        None => Keys::new(),
    };
    if source.keys.is_some() && keys.is_empty() {
        return Err(BackupKeysError::Nowhere(source.directory.clone()).into());
    }
    files::create_directory(target).map_err(io_error(target))?;
    // What the checkpoint covers is there by now, and stays, if only as part of a wider tile.
    let mut copied = Vec::new();
    if copy_if_there(&source.directory, target, Path::new(CHECKPOINT))? {
        copied.push(CHECKPOINT.into());
    }
    let mut listed = top(&source.directory, "pem")?;
    list(&source.directory.join(STATE), Path::new(STATE), 0, &mut listed)?;
    listed.retain(|path| path != Path::new(CHECKPOINT));
    let mut keys_left_out = match &source.keys {
        Some(_) => Vec::new(),
        None => top(&source.directory, "key")?.iter().map(|path| text(path)).collect(),
    };
    for path in listed {
        let from = source.directory.join(&path);
        if is_private_key(&from).map_err(io_error(&from))? {
            keys_left_out.push(text(&path));
            continue;
        }
        // A part of a tile is gone when it has made place for the full one.
        let full = full_tile(&path);
        for path in std::iter::once(path).chain(full) {
            let known = target.join(&path);
            if known.try_exists().map_err(io_error(&known))? {
                break;
            }
            if copy_if_there(&source.directory, target, &path)? {
                copied.push(path);
                break;
            }
        }
    }
    files::create_directory(&target.join(STATE)).map_err(io_error(target))?;
    journal::copy(&source.directory.join(JOURNAL), &target.join(JOURNAL))?;
    list(&target.join(JOURNAL), Path::new(JOURNAL), 0, &mut copied)?;
    let replay = Replay::read(&target.join(JOURNAL))?;
    let reached = HighWater::of(source.instance.as_str(), &replay);
    if let Some(passphrase) = &source.keys {
        keys::seal(target, &keys, &reached, passphrase)?;
        copied.push(KEYS_FILE.into());
    }
    let manifest = BackupManifest {
        version: VERSION,
        taken_at: unix_seconds(now),
        reached,
        deny_list_epoch: replay.deny_list.epoch,
        certificates: replay.issued,
        with_keys: source.keys.is_some(),
        keys: keys.into_keys().collect(),
        keys_left_out,
        files: describe(target, &copied)?,
    };
    sync_directories(target, &copied).map_err(io_error(target))?;
    let path = target.join(MANIFEST_FILE);
    let bytes = serde_json::to_vec_pretty(&manifest).map_err(io::Error::from);
    let bytes = bytes.map_err(io_error(&path))?;
    files::create_new(&path, files::PRIVATE, &bytes).map_err(io_error(&path))?;
    Ok(manifest)
}

/// The full tile that a part is of: `tile/0/000` of `tile/0/000.p/5` (C2SP static-ct-api, "Partial Tiles")
fn full_tile(path: &Path) -> Option<PathBuf> {
    let parts = path.parent()?;
    (parts.extension()? == "p").then(|| parts.with_extension(""))
}

/// Copies a file of the source, if it is there
fn copy_if_there(source: &Path, target: &Path, path: &Path) -> Result<bool, BackupError> {
    let from = source.join(path);
    match copy_file(&from, &target.join(path)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error(&from)(error)),
    }
}

/// Files with this extension that belong to the authority: its own, and those of a root that was made with it
fn top(directory: &Path, extension: &str) -> Result<Vec<PathBuf>, BackupError> {
    let mut found = Vec::new();
    for below in [Path::new(""), Path::new(EMBEDDED_ROOT)] {
        let place = directory.join(below);
        let entries = match fs::read_dir(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(io_error(&place))?,
        };
        for entry in entries {
            let entry = entry.map_err(io_error(&place))?;
            let is_file = entry.file_type().map_err(io_error(&place))?.is_file();
            let name = PathBuf::from(entry.file_name());
            // Temporary files of `files` begin with a dot.
            let hidden = name.to_string_lossy().starts_with('.');
            if is_file && !hidden && name.extension().is_some_and(|known| known == extension) {
                found.push(below.join(name));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn read_keys(directory: &Path) -> Result<Keys, BackupError> {
    let mut keys = Keys::new();
    for path in top(directory, "key")? {
        let from = directory.join(&path);
        let octets = files::read_limited(&from, KEY_LIMIT_BYTES).map_err(io_error(&from))?;
        keys.insert(text(&path), Zeroizing::new(octets));
    }
    Ok(keys)
}

/// Files below a directory, other than the journal's, in order; symbolic links and the like are passed over
fn list(
    directory: &Path,
    below: &Path,
    depth: usize,
    found: &mut Vec<PathBuf>,
) -> Result<(), BackupError> {
    if depth > DEPTH_LIMIT || found.len() > FILES_LIMIT {
        return Err(BackupError::Limit(directory.to_owned()));
    }
    let entries = fs::read_dir(directory).map_err(io_error(directory))?;
    let mut names: Vec<_> = entries
        .map(|entry| entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?))))
        .collect::<io::Result<_>>()
        .map_err(io_error(directory))?;
    names.sort_by(|one, other| one.0.cmp(&other.0));
    for (name, kind) in names {
        let path = below.join(&name);
        // Temporary files of `files` begin with a dot; a lock is not for copying.
        let skipped = name.to_string_lossy().starts_with('.') || name == "lock";
        if kind.is_dir() && path != Path::new(JOURNAL) {
            list(&directory.join(&name), &path, depth + 1, found)?;
        } else if kind.is_file() && !skipped {
            found.push(path);
        }
    }
    Ok(())
}

fn is_private_key(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if path.extension().is_some_and(|extension| extension == "key") {
        return Ok(true);
    }
    let mut bytes = Vec::new();
    file.take(KEY_FILE_LIMIT_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes.windows(11).any(|window| window == b"PRIVATE KEY"))
}

/// Copies a file into a new one only its owner may read; durable when this returns
pub(super) fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    files::create_directory(files::parent(to))?;
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut target)?;
    target.flush()?;
    target.sync_all()
}

/// Makes the directories of copied files durable
pub(super) fn sync_directories(root: &Path, copied: &[PathBuf]) -> io::Result<()> {
    let mut directories: Vec<PathBuf> = vec![root.to_owned()];
    for path in copied {
        directories.extend(root.join(path).ancestors().skip(1).map(Path::to_owned));
    }
    directories.retain(|directory| directory.starts_with(root));
    directories.sort();
    directories.dedup();
    directories.iter().try_for_each(|directory| files::sync_directory(directory))?;
    files::sync_directory(files::parent(root))
}

fn describe(root: &Path, copied: &[PathBuf]) -> Result<Vec<BackupFile>, BackupError> {
    let described = copied.iter().map(|path| {
        let place = root.join(path);
        let (bytes, sha256) = hash_file(&place).map_err(io_error(&place))?;
        Ok(BackupFile { path: text(path), bytes, sha256 })
    });
    described.collect()
}

/// Length and hash of a file
pub(super) fn hash_file(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hex(&hash.finish())));
        }
        bytes += read as u64;
        hash.update(&buffer[..read]);
    }
}

/// Whether a path of a manifest stays below the backup
pub(super) fn is_below(path: &str) -> bool {
    let path = Path::new(path);
    !path.as_os_str().is_empty()
        && path.components().all(|component| matches!(component, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_tile_of_a_part_is_known_and_other_files_have_none() {
        let full = |path: &str| full_tile(Path::new(path)).map(|full| text(&full));
        assert_eq!(full("ca/log/tile/0/x001/234.p/5").unwrap(), "ca/log/tile/0/x001/234");
        assert_eq!(full("ca/log/tile/0/x001/234"), None);
        assert_eq!(full("ca/log/checkpoint"), None);
        assert_eq!(full("root.pem"), None);
    }
}
