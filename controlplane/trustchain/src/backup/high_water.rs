//! The highest state of an authority that ever left this host, kept in a file of its own outside of what is backed
//! up: whoever comes back with less has lost something, and going on would un-revoke or fork the log. Best on
//! another disk than the journal. It only ever grows.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ca::KeyRegister;
use crate::ca::replay::Replay;
use crate::files;
use crate::pinning::AuthorityState;
use crate::revocation::HighWaterMark;

/// Bytes of the largest file that is read: a mark counts entries by hour, for as many hours as certificates last
const FILE_LIMIT_BYTES: u64 = 1 << 20;
const VERSION: u32 = 1;

/// What is remembered
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HighWater {
    /// Version of this form
    pub version: u32,
    /// Name of the authority instance
    pub instance: String,
    /// Its journal
    pub journal: String,
    /// The journal's last entry
    pub sequence: u64,
    /// Entries in the transparency log
    pub log_entries: u64,
    /// Records of the audit log
    pub audit_records: u64,
    /// The highest epoch of the deny-list
    pub deny_list: Option<HighWaterMark>,
    /// The last number of each CRL, by issuing key and shard (`key-shard`)
    pub crl_numbers: BTreeMap<String, u64>,
    /// How far each issuing key was in its life, by its pin
    #[serde(default)]
    pub issuing_keys: BTreeMap<String, AuthorityState>,
}

/// Why a state may not be gone on with
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Behind {
    /// Another journal
    #[error(
        "the journal is {found} and was {expected}: another one was begun or restored in its place; bring the \
         right one back, or begin a new authority with another name, log and journal"
    )]
    Journal {
        /// What was remembered
        expected: String,
        /// What is there
        found: String,
    },
    /// The transparency log would fork
    #[error(
        "the journal has {have} entries of the transparency log and {seen} were released: going on would give \
         another history the same numbers; restore a newer journal, or begin a new authority with another \
         name, log and journal"
    )]
    Log {
        /// What the journal has
        have: u64,
        /// What was seen
        seen: u64,
    },
    /// An issuing key would come back
    #[error(
        "the journal has issuing key {key} as {have}, and it was {seen}: going on would bring it back; restore a \
         newer journal, or begin a new authority with another name, log and journal"
    )]
    IssuingKey {
        /// Its pin
        key: String,
        /// What the journal has
        have: AuthorityState,
        /// What was seen
        seen: AuthorityState,
    },
    /// Revocations would be forgotten
    #[error(
        "the journal ends at epoch {have} of the deny-list and epoch {seen} was published: going on would \
         un-revoke; restore a newer journal, or go on from the list that this host has published \
         (`stoqctl backup restore --adopting`, with `deny-list/` of the state directory in its place)"
    )]
    DenyList {
        /// What the journal has
        have: u64,
        /// What was seen
        seen: u64,
    },
    /// Two lists under one number
    #[error(
        "epoch {0} of the deny-list in the journal is another one than was published; two authorities run \
         under one name, or the journal was changed"
    )]
    DenyListDiffers(u64),
    /// A CRL's number would repeat
    #[error(
        "CRL {crl} has the number {have} in the journal and {seen} was published; restore a newer journal"
    )]
    Crl {
        /// Which
        crl: String,
        /// What the journal has
        have: u64,
        /// What was seen
        seen: u64,
    },
    /// Anything else was lost
    #[error(
        "the journal ends at entry {have} and entry {seen} was durable: it is an old copy; restore a newer one"
    )]
    Journalled {
        /// What the journal has
        have: u64,
        /// What was seen
        seen: u64,
    },
}

impl Behind {
    /// Whether taking over a deny-list from a node mends it, as far as revocations go
    pub fn is_mended_by_adopting(&self) -> bool {
        matches!(self, Self::DenyList { .. } | Self::Journalled { .. } | Self::Crl { .. })
    }
}

impl HighWater {
    /// Takes in what has grown; nothing goes down
    pub fn grow(&mut self, newer: &Self) {
        self.version = VERSION;
        self.instance.clone_from(&newer.instance);
        self.journal.clone_from(&newer.journal);
        self.sequence = self.sequence.max(newer.sequence);
        self.log_entries = self.log_entries.max(newer.log_entries);
        self.audit_records = self.audit_records.max(newer.audit_records);
        let epoch = |mark: &Option<HighWaterMark>| mark.as_ref().map_or(0, |mark| mark.epoch);
        if epoch(&newer.deny_list) > epoch(&self.deny_list) {
            self.deny_list.clone_from(&newer.deny_list);
        }
        for (crl, number) in &newer.crl_numbers {
            let known = self.crl_numbers.entry(crl.clone()).or_default();
            *known = (*known).max(*number);
        }
        for (key, state) in &newer.issuing_keys {
            let known = self.issuing_keys.entry(key.clone()).or_insert(*state);
            *known = (*known).max(*state);
        }
    }

    /// Whether a journal has at least what is remembered. What is worst is said first.
    pub fn check(&self, replay: &Replay) -> Result<(), Behind> {
        let found = replay.journal.map(|id| id.to_string()).unwrap_or_default();
        if !self.journal.is_empty() && found != self.journal {
            return Err(Behind::Journal { expected: self.journal.clone(), found });
        }
        if replay.log_entries < self.log_entries {
            return Err(Behind::Log { have: replay.log_entries, seen: self.log_entries });
        }
        for (key, have) in key_states(&replay.issuing_keys) {
            let seen = self.issuing_keys.get(&key).copied().unwrap_or(have);
            if have < seen && seen >= AuthorityState::Tainted {
                return Err(Behind::IssuingKey { key, have, seen });
            }
        }
        if let Some(mark) = &self.deny_list {
            let have = replay.deny_list.epoch;
            if have < mark.epoch {
                return Err(Behind::DenyList { have, seen: mark.epoch });
            }
            if have == mark.epoch && replay.deny_list.content() != mark.content_sha256 {
                return Err(Behind::DenyListDiffers(have));
            }
        }
        for (crl, seen) in &self.crl_numbers {
            let numbers = replay.crl_numbers.iter();
            let have = numbers.filter(|((key, shard), _)| *crl == crl_name(key, *shard));
            let have = have.map(|(_, number)| *number).max().unwrap_or(0);
            if have < *seen {
                return Err(Behind::Crl { crl: crl.clone(), have, seen: *seen });
            }
        }
        if replay.sequence < self.sequence {
            return Err(Behind::Journalled { have: replay.sequence, seen: self.sequence });
        }
        Ok(())
    }

    /// What a journal shows of itself, to begin with
    pub fn of(instance: &str, replay: &Replay) -> Self {
        let numbers = replay.crl_numbers.iter();
        Self {
            version: VERSION,
            instance: instance.to_owned(),
            journal: replay.journal.map(|id| id.to_string()).unwrap_or_default(),
            sequence: replay.sequence,
            log_entries: replay.log_entries,
            audit_records: replay.audit.head().count,
            deny_list: None,
            crl_numbers: numbers
                .map(|((key, shard), number)| (crl_name(key, *shard), *number))
                .collect(),
            issuing_keys: key_states(&replay.issuing_keys),
        }
    }
}

/// The state of each issuing key, by its pin
pub fn key_states(keys: &KeyRegister) -> BTreeMap<String, AuthorityState> {
    let keys = keys.all().into_iter();
    keys.map(|key| (key.record.key.to_string(), key.record.state)).collect()
}

/// How a CRL is called here and in addresses
pub fn crl_name(key: &crate::revocation::KeyId, shard: u8) -> String {
    format!("{key}-{shard}")
}

/// The file
#[derive(Debug)]
pub struct HighWaterFile {
    path: PathBuf,
    held: HighWater,
}

impl HighWaterFile {
    /// Reads the file; where there is none, nothing is remembered yet
    pub fn open(path: &Path) -> io::Result<Self> {
        let held = match files::read_limited(path, FILE_LIMIT_BYTES) {
            Ok(bytes) => read(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files::create_directory(files::parent(path))?;
                HighWater::default()
            }
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.to_owned(), held })
    }

    /// What is remembered
    pub fn held(&self) -> &HighWater {
        &self.held
    }

    /// Takes in what has grown; durable when this returns. Nothing is written where nothing has.
    pub fn grow(&mut self, newer: &HighWater) -> io::Result<()> {
        let mut next = self.held.clone();
        next.grow(newer);
        if next == self.held { Ok(()) } else { self.write(next) }
    }

    /// Remembers less than before: for an authority that was restored and has adopted what it lacked
    pub fn rebase(&mut self, reached: HighWater) -> io::Result<()> {
        self.write(reached)
    }

    fn write(&mut self, next: HighWater) -> io::Result<()> {
        let bytes = serde_json::to_vec(&next)?;
        files::replace(&self.path, files::PRIVATE, &bytes)?;
        self.held = next;
        Ok(())
    }
}

fn read(bytes: &[u8]) -> io::Result<HighWater> {
    let held: HighWater = serde_json::from_slice(bytes)?;
    if held.version != VERSION {
        let text = format!("it has version {}, this program knows {VERSION}", held.version);
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use stoq_store::JournalId;

    use super::*;
    use crate::revocation::KeyId;
    use crate::testing::LooseAuthority;

    fn mark(epoch: u64, content: &str) -> HighWaterMark {
        HighWaterMark {
            instance: "alpha".into(),
            epoch,
            issued_at: 1,
            live: 0,
            content_sha256: content.into(),
            ends_by_hour: BTreeMap::new(),
        }
    }

    fn key() -> KeyId {
        KeyId::from_bytes(&[7; 20]).unwrap()
    }

    fn replay() -> Replay {
        let mut replay = Replay {
            journal: Some(JournalId::from_bytes([1; 16])),
            sequence: 50,
            log_entries: 9,
            ..Replay::default()
        };
        replay.deny_list.epoch = 4;
        replay.deny_list.content_sha256 = vec![0xab; 32];
        replay.crl_numbers.insert((key(), 3), 100);
        replay
    }

    fn remembered() -> HighWater {
        let mut held = HighWater::of("alpha", &replay());
        held.deny_list = Some(mark(4, &"ab".repeat(32)));
        held
    }

    #[test]
    fn a_state_with_less_of_anything_is_refused_by_name() {
        assert_eq!(remembered().check(&replay()), Ok(()));
        type Lose = fn(&mut Replay);
        let losses: [(Lose, Behind); 6] = [
            (
                |replay| replay.journal = Some(JournalId::from_bytes([2; 16])),
                Behind::Journal { expected: "01".repeat(16), found: "02".repeat(16) },
            ),
            (|replay| replay.log_entries = 8, Behind::Log { have: 8, seen: 9 }),
            (|replay| replay.deny_list.epoch = 3, Behind::DenyList { have: 3, seen: 4 }),
            (|replay| replay.deny_list.content_sha256 = vec![0; 32], Behind::DenyListDiffers(4)),
            (
                |replay| replay.crl_numbers.clear(),
                Behind::Crl { crl: crl_name(&key(), 3), have: 0, seen: 100 },
            ),
            (|replay| replay.sequence = 49, Behind::Journalled { have: 49, seen: 50 }),
        ];
        for (lose, expected) in losses {
            let mut lost = replay();
            lose(&mut lost);
            assert_eq!(remembered().check(&lost), Err(expected));
        }
        // A key that has stopped issuing does not begin again, whatever else the journal has.
        let directory = tempfile::tempdir().unwrap();
        let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
        let authority = LooseAuthority::make(directory.path(), now);
        let as_it_was = |state| {
            let issuing_keys = KeyRegister::of_one(authority.certificate_der(), state);
            Replay { issuing_keys, ..replay() }
        };
        let tainted = HighWater::of("alpha", &as_it_was(AuthorityState::Tainted));
        assert_eq!(tainted.check(&as_it_was(AuthorityState::Revoked)), Ok(()));
        let back = tainted.check(&as_it_was(AuthorityState::Active)).unwrap_err();
        assert!(
            matches!(back, Behind::IssuingKey { .. }) && !back.is_mended_by_adopting(),
            "{back}"
        );
        let active = HighWater::of("alpha", &as_it_was(AuthorityState::Active));
        assert_eq!(active.check(&as_it_was(AuthorityState::Prepared)), Ok(()));
        let mut more = replay();
        (more.sequence, more.log_entries, more.deny_list.epoch) = (60, 20, 5);
        assert_eq!(remembered().check(&more), Ok(()));
    }

    #[test]
    fn the_file_only_grows_and_another_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("apart").join("high-water.json");
        let mut file = HighWaterFile::open(&path).unwrap();
        assert_eq!(file.held(), &HighWater::default());
        file.grow(&remembered()).unwrap();
        let mut less = remembered();
        (less.sequence, less.deny_list) = (1, Some(mark(2, "")));
        less.crl_numbers.clear();
        file.grow(&less).unwrap();
        let again = HighWaterFile::open(&path).unwrap();
        assert_eq!(again.held(), &remembered());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"version\":1", "\"version\":2")).unwrap();
        assert!(HighWaterFile::open(&path).is_err());
    }
}
