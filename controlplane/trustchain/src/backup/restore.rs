//! Bringing a backup back: checked file by file and entry by entry, compared with the highest state that was ever
//! seen, and only then copied into an empty place. A backup that is behind is refused; where only revocations
//! are missing, it comes back on the condition that the authority adopts a newer deny-list before it issues one.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::high_water::{Behind, HighWater};
use super::keys::{self, BackupKeysError, KEYS_FILE, Keys};
use super::take::{
    BackupError, BackupFile, BackupManifest, JOURNAL, MANIFEST_FILE, STATE, VERSION, copy_file,
    hash_file, io_error, is_below, sync_directories,
};
use crate::ca::replay::Replay;
use crate::files;
use crate::sealing::Passphrase;

/// Bytes of the largest manifest: a few million files
const MANIFEST_LIMIT_BYTES: u64 = 1 << 30;
/// Bytes of the largest certificate or key that is compared
const CERTIFICATE_LIMIT_BYTES: u64 = 64 << 10;
/// The inventory, below an authority's directory
const INVENTORY: &str = "inventory.db";

/// Why a backup is not restored
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is none, or not whole
    #[error("{path} is no whole backup: {reason}")]
    NotABackup {
        /// Where
        path: PathBuf,
        /// Why
        reason: String,
    },
    /// A file is not as it was
    #[error("{path} of the backup is damaged: {reason}; take another backup")]
    Damaged {
        /// Which
        path: String,
        /// What is wrong
        reason: String,
    },
    /// The backup is older than what was seen
    #[error(transparent)]
    Behind(#[from] Behind),
    /// What is there already
    #[error(
        "{0} is there, and may be newer than the backup: look at it with `stoqctl doctor`, then move it away"
    )]
    Occupied(PathBuf),
    /// The keys
    #[error(transparent)]
    Keys(#[from] BackupKeysError),
    /// A file or the journal
    #[error(transparent)]
    Backup(#[from] BackupError),
}

/// What was restored
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Restored {
    /// What the backup said
    pub manifest: BackupManifest,
    /// What is missing of the highest state that was seen: a deny-list must be adopted before the authority
    /// issues one; it does not start otherwise
    pub to_adopt: Option<Behind>,
    /// Keys that were restored
    pub keys: Vec<String>,
}

/// Checks a backup: every file, every entry of the journal. Returns what it says and what its journal has.
pub fn verify(backup: &Path) -> Result<(BackupManifest, Replay), RestoreError> {
    let path = backup.join(MANIFEST_FILE);
    let not_a_backup =
        |reason: String| RestoreError::NotABackup { path: backup.to_owned(), reason };
    let bytes = files::read_limited(&path, MANIFEST_LIMIT_BYTES)
        .map_err(|error| not_a_backup(format!("{MANIFEST_FILE}: {error}")))?;
    let manifest: BackupManifest = serde_json::from_slice(&bytes)
        .map_err(|error| not_a_backup(format!("{MANIFEST_FILE}: {error}")))?;
    if manifest.version != VERSION {
        return Err(not_a_backup(format!("it has version {}", manifest.version)));
    }
    let mut seen = BTreeSet::new();
    for file in &manifest.files {
        if !is_below(&file.path) || !seen.insert(&file.path) {
            return Err(not_a_backup(format!("it names `{}`", file.path)));
        }
        check_file(backup, file)?;
    }
    if manifest.with_keys != manifest.files.iter().any(|file| file.path == KEYS_FILE) {
        return Err(not_a_backup("its keys are not what it says".into()));
    }
    let replay = Replay::read(&backup.join(JOURNAL)).map_err(BackupError::from)?;
    let reached = HighWater::of(&manifest.reached.instance, &replay);
    if reached != manifest.reached || replay.deny_list.epoch != manifest.deny_list_epoch {
        return Err(not_a_backup("its journal is not the one it was taken with".into()));
    }
    Ok((manifest, replay))
}

/// Opens the keys of a backup, which was checked before; returns where each of them belongs
pub fn verify_keys(
    backup: &Path,
    manifest: &BackupManifest,
    passphrase: &Passphrase,
) -> Result<Vec<String>, RestoreError> {
    Ok(open_keys(backup, manifest, passphrase)?.into_keys().collect())
}

fn open_keys(
    backup: &Path,
    manifest: &BackupManifest,
    passphrase: &Passphrase,
) -> Result<Keys, RestoreError> {
    if !manifest.with_keys {
        return Err(BackupKeysError::NotInIt.into());
    }
    let keys = keys::open(backup, &manifest.reached, passphrase)?;
    let same = keys.keys().eq(manifest.keys.iter());
    match same && keys.keys().all(|path| is_below(path)) {
        true => Ok(keys),
        false => Err(RestoreError::NotABackup {
            path: backup.to_owned(),
            reason: "its keys are others than it says".into(),
        }),
    }
}

fn check_file(backup: &Path, file: &BackupFile) -> Result<(), RestoreError> {
    let damaged = |reason: String| RestoreError::Damaged { path: file.path.clone(), reason };
    let (bytes, sha256) =
        hash_file(&backup.join(&file.path)).map_err(|error| damaged(error.to_string()))?;
    if bytes != file.bytes {
        return Err(damaged(format!("it has {bytes} bytes and had {}", file.bytes)));
    }
    if sha256 != file.sha256 {
        return Err(damaged("its content has changed".into()));
    }
    Ok(())
}

/// Restores a backup into an authority's directory, in which no journal may be; certificates and keys that are there
/// already must be the same. `seen` is the highest state that was ever remembered: that of the high-water file, of
/// copies of it, of nodes. Keys come back where `passphrase` is given.
///
/// With `adopting`, a backup that lacks nothing but revocations and other entries that no one else has is
/// restored all the same; the authority then starts only with a deny-list to adopt.
pub fn restore(
    backup: &Path,
    directory: &Path,
    seen: &HighWater,
    adopting: bool,
    passphrase: Option<&Passphrase>,
) -> Result<Restored, RestoreError> {
    let (manifest, replay) = verify(backup)?;
    let to_adopt = match seen.check(&replay) {
        Ok(()) => None,
        Err(behind) if adopting && behind.is_mended_by_adopting() => Some(behind),
        Err(behind) => return Err(behind.into()),
    };
    let keys = match passphrase {
        Some(passphrase) => open_keys(backup, &manifest, passphrase)?,
        None => Keys::new(),
    };
    let state = directory.join(STATE);
    // What follows the journal that was lost would not follow this one; it is made anew.
    for place in [state.clone(), directory.join(INVENTORY)] {
        if is_occupied(&place).map_err(io_error(&place))? {
            return Err(RestoreError::Occupied(place));
        }
    }
    let paths: Vec<PathBuf> = manifest.files.iter().map(|file| file.path.clone().into()).collect();
    let (inside, beside): (Vec<&PathBuf>, Vec<&PathBuf>) =
        paths.iter().partition(|path| path.starts_with(STATE));
    let mut certificates = Vec::new();
    for path in beside.into_iter().filter(|path| *path != Path::new(KEYS_FILE)) {
        let from = backup.join(path);
        let octets = std::fs::read(&from).map_err(io_error(&from))?;
        certificates.push((directory.join(path), files::PUBLIC, octets));
    }
    let secrets = keys.iter();
    let secrets = secrets.map(|(path, key)| (directory.join(path), files::PRIVATE, &key[..]));
    let beside = certificates.iter().map(|(path, mode, octets)| (path.clone(), *mode, &octets[..]));
    let beside: Vec<_> = beside.chain(secrets).collect();
    for (path, _, octets) in &beside {
        if differs(path, octets).map_err(io_error(path))? {
            return Err(RestoreError::Occupied(path.clone()));
        }
    }
    files::create_directory(directory).map_err(io_error(directory))?;
    let staging = stage(backup, directory, &manifest, &inside)?;
    for (path, mode, octets) in &beside {
        put(path, *mode, octets).map_err(io_error(path))?;
    }
    // Last: with the journal in its place the directory is an authority's.
    std::fs::rename(&staging, &state).map_err(io_error(&state))?;
    files::sync_directory(directory).map_err(io_error(directory))?;
    Ok(Restored { to_adopt, keys: keys.keys().cloned().collect(), manifest })
}

/// Copies journal and log into a neighbour: a restore that was cut short leaves nothing that could be taken for whole
fn stage(
    backup: &Path,
    directory: &Path,
    manifest: &BackupManifest,
    paths: &[&PathBuf],
) -> Result<PathBuf, RestoreError> {
    let staging = directory.join(format!("{STATE}.restoring"));
    if staging.try_exists().map_err(io_error(&staging))? {
        return Err(RestoreError::Occupied(staging));
    }
    files::create_directory(&staging).map_err(io_error(&staging))?;
    let below = |path: &Path| path.strip_prefix(STATE).unwrap_or(path).to_owned();
    let mut copied = Vec::new();
    for path in paths {
        let from = backup.join(path);
        copied.push(below(path));
        copy_file(&from, &staging.join(below(path))).map_err(io_error(&from))?;
    }
    for file in &manifest.files {
        if let Ok(below) = Path::new(&file.path).strip_prefix(STATE) {
            let path = below.to_string_lossy().into_owned();
            check_file(&staging, &BackupFile { path, ..file.clone() })?;
        }
    }
    sync_directories(&staging, &copied).map_err(io_error(&staging))?;
    Ok(staging)
}

/// Whether something is there, other than an empty directory
fn is_occupied(path: &Path) -> io::Result<bool> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether a file is there with another content
fn differs(path: &Path, octets: &[u8]) -> io::Result<bool> {
    match files::read_limited(path, CERTIFICATE_LIMIT_BYTES) {
        Ok(known) => Ok(Zeroizing::new(known)[..] != *octets),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a file that is not there yet
fn put(path: &Path, mode: u32, octets: &[u8]) -> io::Result<()> {
    files::create_directory(files::parent(path))?;
    match files::create_new(path, mode, octets) {
        // The same, as was seen before.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use stoq_interface::NodeId;
    use stoq_store::journal::{Journal, Options};
    use stoq_store::named_thread;

    use super::*;
    use crate::backup::{BackupSource, take};
    use crate::ca::entry::{DenyListIssued, Entry, Issued, Revoked};

    fn now() -> std::time::SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn append(directory: &Path, entries: &[Entry]) {
        let (journal, _) =
            Journal::open(directory, Options::default(), &named_thread, |_| Ok(())).unwrap();
        let entries = entries.iter().map(Entry::encode).collect();
        journal.appender().submit(entries).unwrap().wait().unwrap();
        journal.close_blocking().unwrap();
    }

    fn issued(leaf_index: u64) -> Entry {
        Entry::Issued(Issued { serial: vec![7], leaf_index, ..Issued::default() })
    }

    fn revoked(serial: u8) -> Entry {
        Entry::Revoked(Revoked {
            serial: vec![serial],
            issuer_key_id: vec![1; 20],
            reason: 1,
            revoked_at: 5,
            ends_at: 9,
            ..Revoked::default()
        })
    }

    fn epoch(epoch: u64) -> Entry {
        Entry::DenyListIssued(DenyListIssued { epoch, issued_at: 1, ..Default::default() })
    }

    /// An authority's directory with a journal, a tile, certificates and keys
    fn authority(root: &Path) -> BackupSource {
        let directory = root.join("authority");
        std::fs::create_dir_all(directory.join("ca/log/tile")).unwrap();
        std::fs::create_dir(directory.join("root")).unwrap();
        std::fs::write(directory.join("ca/log/tile/000"), b"tile").unwrap();
        std::fs::write(directory.join("ca/other"), b"-----BEGIN PRIVATE KEY-----").unwrap();
        for certificate in ["issuing.pem", "root.pem", "root/root.pem"] {
            std::fs::write(directory.join(certificate), certificate).unwrap();
        }
        for key in ["issuing.key", "log.key", "root/root.key"] {
            std::fs::write(directory.join(key), format!("secret {key}")).unwrap();
        }
        std::fs::write(directory.join("inventory.db"), b"derived").unwrap();
        Journal::create(&directory.join(JOURNAL)).unwrap();
        append(&directory.join(JOURNAL), &[issued(0), revoked(1), epoch(1)]);
        let instance = NodeId::new("alpha").unwrap();
        BackupSource { directory, instance, keys: None }
    }

    fn phrase(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned()).unwrap()
    }

    #[test]
    fn what_was_backed_up_comes_back_without_the_keys() {
        let root = tempfile::tempdir().unwrap();
        let source = authority(root.path());
        let backup = root.path().join("backup");
        let manifest = take(&source, &backup, now()).unwrap();
        let left_out = ["issuing.key", "log.key", "root/root.key", "ca/other"];
        assert_eq!(manifest.keys_left_out, left_out);
        assert_eq!((manifest.certificates, manifest.deny_list_epoch), (1, 1));
        assert!(!manifest.with_keys && manifest.keys.is_empty());
        assert!(matches!(take(&source, &backup, now()), Err(BackupError::Exists(_))));
        let place = root.path().join("again");
        let restored = restore(&backup, &place, &manifest.reached, false, None).unwrap();
        assert_eq!((restored.to_adopt, restored.keys), (None, Vec::new()));
        assert_eq!(std::fs::read(place.join("ca/log/tile/000")).unwrap(), b"tile");
        for certificate in ["issuing.pem", "root.pem", "root/root.pem"] {
            assert_eq!(std::fs::read(place.join(certificate)).unwrap(), certificate.as_bytes());
        }
        for absent in ["issuing.key", "root/root.key", "inventory.db", "ca.restoring", KEYS_FILE] {
            assert!(!place.join(absent).exists(), "{absent}");
        }
        let (replay, _) = Replay::inspect(&place.join(JOURNAL)).unwrap();
        assert_eq!((replay.sequence, replay.deny_list.entries.len()), (3, 1));
        // It opens and goes on.
        append(&place.join(JOURNAL), &[revoked(2)]);
        let occupied = restore(&backup, &place, &HighWater::default(), false, None);
        assert!(matches!(occupied, Err(RestoreError::Occupied(_))));
        let without = restore(
            &backup,
            &root.path().join("x"),
            &manifest.reached,
            false,
            Some(&phrase("long enough?")),
        );
        assert!(matches!(without, Err(RestoreError::Keys(BackupKeysError::NotInIt))));
    }

    #[test]
    fn keys_are_in_it_where_asked_for_and_readable_with_the_passphrase_only() {
        use std::os::unix::fs::MetadataExt as _;
        let root = tempfile::tempdir().unwrap();
        let passphrase = phrase("six random words or so");
        let source = BackupSource { keys: Some(passphrase.clone()), ..authority(root.path()) };
        let backup = root.path().join("backup");
        let manifest = take(&source, &backup, now()).unwrap();
        let keys = ["issuing.key", "log.key", "root/root.key"];
        assert_eq!(manifest.keys, keys);
        assert_eq!(manifest.keys_left_out, ["ca/other"]);
        // Not one octet of a key is in the clear.
        for file in &manifest.files {
            let octets = std::fs::read(backup.join(&file.path)).unwrap();
            assert!(!octets.windows(6).any(|window| window == b"secret"), "{}", file.path);
        }
        let (found, _) = verify(&backup).unwrap();
        assert_eq!(verify_keys(&backup, &found, &passphrase).unwrap(), keys);
        let place = root.path().join("again");
        let restore = |passphrase: &Passphrase| {
            restore(&backup, &place, &manifest.reached, false, Some(passphrase))
        };
        let wrong = restore(&phrase("some other words here")).unwrap_err();
        assert!(matches!(wrong, RestoreError::Keys(BackupKeysError::Sealed { .. })), "{wrong}");
        assert!(!place.exists(), "nothing is restored where the keys are not");
        // A key that is there already is the same, or nothing is written.
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("log.key"), b"another").unwrap();
        let occupied = restore(&passphrase).unwrap_err();
        assert!(matches!(&occupied, RestoreError::Occupied(path) if path.ends_with("log.key")));
        assert!(!place.join("issuing.key").exists());
        std::fs::write(place.join("log.key"), b"secret log.key").unwrap();
        assert_eq!(restore(&passphrase).unwrap().keys, keys);
        for key in ["issuing.key", "root/root.key"] {
            let path = place.join(key);
            assert_eq!(std::fs::read(&path).unwrap(), format!("secret {key}").into_bytes());
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        }
        // Keys that are elsewhere cannot be in it, and that is said.
        for key in keys {
            std::fs::remove_file(source.directory.join(key)).unwrap();
        }
        let none = take(&source, &root.path().join("none"), now()).unwrap_err();
        assert!(matches!(none, BackupError::Keys(BackupKeysError::Nowhere(_))), "{none}");
        assert!(!root.path().join("none").exists());
    }

    #[test]
    fn an_old_backup_cannot_un_revoke_or_fork_the_log() {
        let root = tempfile::tempdir().unwrap();
        let source = authority(root.path());
        let backup = root.path().join("backup");
        take(&source, &backup, now()).unwrap();
        append(&source.directory.join(JOURNAL), &[revoked(2), epoch(2)]);
        let (replay, _) = Replay::inspect(&source.directory.join(JOURNAL)).unwrap();
        let mut seen = HighWater::of("alpha", &replay);
        let place = root.path().join("again");
        let refused = restore(&backup, &place, &seen, false, None).unwrap_err();
        let expected = Behind::Journalled { have: 3, seen: 5 };
        assert!(matches!(&refused, RestoreError::Behind(found) if *found == expected), "{refused}");
        assert!(!place.exists());
        // With a list to adopt it comes back, and says what is to be adopted.
        let restored = restore(&backup, &place, &seen, true, None).unwrap();
        assert_eq!(restored.to_adopt, Some(expected));
        // A log that others have seen more of never does.
        seen.log_entries = 2;
        let other = root.path().join("other");
        for adopting in [false, true] {
            let refused = restore(&backup, &other, &seen, adopting, None).unwrap_err();
            assert!(matches!(refused, RestoreError::Behind(Behind::Log { have: 1, seen: 2 })));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_backup_is_found() {
        let root = tempfile::tempdir().unwrap();
        let source = authority(root.path());
        let backup = root.path().join("backup");
        let manifest = take(&source, &backup, now()).unwrap();
        verify(&backup).unwrap();
        for file in &manifest.files {
            let path = backup.join(&file.path);
            let whole = std::fs::read(&path).unwrap();
            let mut bytes = whole.clone();
            bytes[whole.len() / 2] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
            assert!(verify(&backup).is_err(), "{}", file.path);
            std::fs::remove_file(&path).unwrap();
            assert!(verify(&backup).is_err(), "{}", file.path);
            std::fs::write(&path, &whole).unwrap();
        }
        verify(&backup).unwrap();
        let path = backup.join(MANIFEST_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("issuing.pem", "../issuing.pem")).unwrap();
        let refused = verify(&backup).unwrap_err();
        assert!(matches!(refused, RestoreError::NotABackup { .. }), "{refused}");
    }

    #[test]
    fn a_backup_is_taken_while_the_journal_is_written() {
        let root = tempfile::tempdir().unwrap();
        let source = authority(root.path());
        let small = Options { segment_bytes: 4 << 10, group_bytes: 4 << 10, ..Options::default() };
        let directory = source.directory.join(JOURNAL);
        let (journal, _) = Journal::open(&directory, small, &named_thread, |_| Ok(())).unwrap();
        let appender = journal.appender();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for serial in 1..=250 {
                    appender.submit(vec![revoked(serial).encode()]).unwrap().wait().unwrap();
                }
            });
            let mut last = 0;
            let mut number = 0;
            while !writer.is_finished() || number == 0 {
                let backup = root.path().join(format!("backup{number}"));
                let durable = journal.durable_sequence();
                let manifest = take(&source, &backup, now()).unwrap();
                assert!(manifest.reached.sequence >= durable.max(last));
                last = manifest.reached.sequence;
                verify(&backup).unwrap();
                number += 1;
            }
        });
        journal.close_blocking().unwrap();
    }
}
