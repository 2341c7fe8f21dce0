//! Taking a backup of an authority that runs or not: the log's public files first, the journal last, so that the
//! journal of a backup is never older than what was derived from it. The manifest is written at the very end:
//! without it a directory is no backup.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use boring::sha::Sha256;
use serde::{Deserialize, Serialize};
use stoq_interface::NodeId;
use stoq_store::journal::{self, OpenError};

use super::high_water::HighWater;
use crate::ca::replay::{Replay, ReplayError};
use crate::certificate::{hex, unix_seconds};
use crate::files;

/// Name of the manifest
pub const MANIFEST_FILE: &str = "backup.json";
/// Where the journal is, below an authority's directory and in a backup
pub(super) const JOURNAL: &str = "journal";
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
    /// The authority's directory, with `journal/` and `log/` in it
    pub directory: PathBuf,
    /// Name of the instance
    pub instance: NodeId,
    /// Copy private keys too. Such a backup is as precious as the authority itself.
    pub with_keys: bool,
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
    /// Files with private keys that were left out
    pub keys_left_out: Vec<String>,
    /// Every file other than this one
    pub files: Vec<BackupFile>,
}

pub(super) const VERSION: u32 = 1;

/// Takes a backup into `target`, which must not exist; durable when this returns
pub fn take(
    source: &BackupSource,
    target: &Path,
    now: SystemTime,
) -> Result<BackupManifest, BackupError> {
    if target.try_exists().map_err(io_error(target))? {
        return Err(BackupError::Exists(target.to_owned()));
    }
    files::create_directory(target).map_err(io_error(target))?;
    let mut listed = Vec::new();
    list(&source.directory, Path::new(""), 0, &mut listed)?;
    let mut copied = Vec::new();
    let mut keys_left_out = Vec::new();
    for path in listed {
        let from = source.directory.join(&path);
        if !source.with_keys && is_private_key(&from).map_err(io_error(&from))? {
            keys_left_out.push(path.to_string_lossy().into_owned());
            continue;
        }
        // A file that is replaced while it is copied, or a tile that made place for a wider one, is gone.
        match copy_file(&from, &target.join(&path)) {
            Ok(()) => copied.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(&from)(error)),
        }
    }
    journal::copy(&source.directory.join(JOURNAL), &target.join(JOURNAL))?;
    list(&target.join(JOURNAL), Path::new(JOURNAL), 0, &mut copied)?;
    let replay = Replay::read(&target.join(JOURNAL))?;
    let manifest = BackupManifest {
        version: VERSION,
        taken_at: unix_seconds(now),
        reached: HighWater::of(source.instance.as_str(), &replay),
        deny_list_epoch: replay.deny_list.epoch,
        certificates: replay.issued,
        with_keys: source.with_keys,
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
        Ok(BackupFile { path: path.to_string_lossy().into_owned(), bytes, sha256 })
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
