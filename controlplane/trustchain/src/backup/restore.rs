//! Bringing a backup back: checked file by file and entry by entry, compared with the highest state that was ever
//! seen, and only then copied into an empty place. A backup that is behind is refused; where only revocations
//! are missing, it comes back on the condition that the authority adopts a newer deny-list before it issues one.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::high_water::{Behind, HighWater};
use super::take::{
    BackupError, BackupFile, BackupManifest, JOURNAL, MANIFEST_FILE, VERSION, copy_file, hash_file,
    io_error, is_below, sync_directories,
};
use crate::ca::replay::Replay;
use crate::files;

/// Bytes of the largest manifest: a few million files
const MANIFEST_LIMIT_BYTES: u64 = 1 << 30;

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
        "{0} is not empty; what is there may be newer than the backup: look at it with `stoqctl doctor`, then \
         move it away"
    )]
    Occupied(PathBuf),
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
    let replay = Replay::read(&backup.join(JOURNAL)).map_err(BackupError::from)?;
    let reached = HighWater::of(&manifest.reached.instance, &replay);
    if reached != manifest.reached || replay.deny_list.epoch != manifest.deny_list_epoch {
        return Err(not_a_backup("its journal is not the one it was taken with".into()));
    }
    Ok((manifest, replay))
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

/// Restores a backup into an authority's directory, which must be empty or not exist. `seen` is the highest
/// state that was ever remembered: that of the high-water file, of copies of it, of nodes.
///
/// With `adopting`, a backup that lacks nothing but revocations and other entries that no one else has is
/// restored all the same; the authority then starts only with a deny-list to adopt.
pub fn restore(
    backup: &Path,
    directory: &Path,
    seen: &HighWater,
    adopting: bool,
) -> Result<Restored, RestoreError> {
    let (manifest, replay) = verify(backup)?;
    let to_adopt = match seen.check(&replay) {
        Ok(()) => None,
        Err(behind) if adopting && behind.is_mended_by_adopting() => Some(behind),
        Err(behind) => return Err(behind.into()),
    };
    let occupied = match std::fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(io_error(directory)(error).into()),
    };
    if occupied {
        return Err(RestoreError::Occupied(directory.to_owned()));
    }
    // Into a neighbour first: a restore that was cut short leaves nothing that could be taken for whole.
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    let staging = files::parent(directory).join(name);
    if staging.try_exists().map_err(io_error(&staging))? {
        return Err(RestoreError::Occupied(staging));
    }
    files::create_directory(&staging).map_err(io_error(&staging))?;
    let paths: Vec<PathBuf> = manifest.files.iter().map(|file| file.path.clone().into()).collect();
    for path in &paths {
        let from = backup.join(path);
        copy_file(&from, &staging.join(path)).map_err(io_error(&from))?;
    }
    for file in &manifest.files {
        check_file(&staging, file)?;
    }
    sync_directories(&staging, &paths).map_err(io_error(&staging))?;
    std::fs::rename(&staging, directory).map_err(io_error(directory))?;
    let parent = files::parent(directory);
    files::sync_directory(parent).map_err(io_error(parent))?;
    Ok(Restored { manifest, to_adopt })
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

    /// An authority's directory with a journal, a tile, a certificate and a key
    fn authority(root: &Path) -> BackupSource {
        let directory = root.join("ca");
        std::fs::create_dir_all(directory.join("log/tile")).unwrap();
        std::fs::write(directory.join("log/tile/000"), b"tile").unwrap();
        std::fs::write(directory.join("issuing.pem"), b"-----BEGIN CERTIFICATE-----").unwrap();
        std::fs::write(directory.join("issuing.key"), b"secret").unwrap();
        std::fs::write(directory.join("other"), b"-----BEGIN PRIVATE KEY-----").unwrap();
        Journal::create(&directory.join("journal")).unwrap();
        append(&directory.join("journal"), &[issued(0), revoked(1), epoch(1)]);
        let instance = NodeId::new("alpha").unwrap();
        BackupSource { directory, instance, with_keys: false }
    }

    #[test]
    fn what_was_backed_up_comes_back_without_the_keys() {
        let root = tempfile::tempdir().unwrap();
        let source = authority(root.path());
        let backup = root.path().join("backup");
        let manifest = take(&source, &backup, now()).unwrap();
        assert_eq!(manifest.keys_left_out, ["issuing.key", "other"]);
        assert_eq!((manifest.certificates, manifest.deny_list_epoch), (1, 1));
        assert!(matches!(take(&source, &backup, now()), Err(BackupError::Exists(_))));
        let place = root.path().join("again");
        let restored = restore(&backup, &place, &manifest.reached, false).unwrap();
        assert_eq!(restored.to_adopt, None);
        assert_eq!(std::fs::read(place.join("log/tile/000")).unwrap(), b"tile");
        assert!(!place.join("issuing.key").exists());
        let (replay, _) = Replay::inspect(&place.join("journal")).unwrap();
        assert_eq!((replay.sequence, replay.deny_list.entries.len()), (3, 1));
        // It opens and goes on.
        append(&place.join("journal"), &[revoked(2)]);
        let occupied = restore(&backup, &place, &HighWater::default(), false);
        assert!(matches!(occupied, Err(RestoreError::Occupied(_))));
        let with_keys = BackupSource { with_keys: true, ..source };
        let manifest = take(&with_keys, &root.path().join("keys"), now()).unwrap();
        assert!(manifest.keys_left_out.is_empty());
        assert!(manifest.files.iter().any(|file| file.path == "issuing.key"));
    }

    #[test]
    fn an_old_backup_cannot_un_revoke_or_fork_the_log() {
        let root = tempfile::tempdir().unwrap();
        let source = authority(root.path());
        let backup = root.path().join("backup");
        take(&source, &backup, now()).unwrap();
        append(&source.directory.join("journal"), &[revoked(2), epoch(2)]);
        let (replay, _) = Replay::inspect(&source.directory.join("journal")).unwrap();
        let mut seen = HighWater::of("alpha", &replay);
        let place = root.path().join("again");
        let refused = restore(&backup, &place, &seen, false).unwrap_err();
        let expected = Behind::Journalled { have: 3, seen: 5 };
        assert!(matches!(&refused, RestoreError::Behind(found) if *found == expected), "{refused}");
        assert!(!place.exists());
        // With a list to adopt it comes back, and says what is to be adopted.
        let restored = restore(&backup, &place, &seen, true).unwrap();
        assert_eq!(restored.to_adopt, Some(expected));
        // A log that others have seen more of never does.
        seen.log_entries = 2;
        let other = root.path().join("other");
        for adopting in [false, true] {
            let refused = restore(&backup, &other, &seen, adopting).unwrap_err();
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
        let directory = source.directory.join("journal");
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
