//! What the journal says about revocations, deny-lists, CRLs, issuing keys and the audit log, gathered in one walk before the
//! service starts, and by tools that look at a journal or a backup without opening it. It writes nothing.

use std::collections::BTreeMap;
use std::path::Path;

use stoq_store::JournalId;
use stoq_store::journal::{self, OpenError, Report};

use super::entry::{CrlIssued, DenyListIssued, Entry, Revoked};
use super::issuing_keys::KeyRegister;
use crate::audit::{AuditError, Chain};
use crate::certificate::hex;
use crate::revocation::{self, EntryError, IssuerState, KeyId, Reason, Target};

/// Why a journal's entries do not fit together
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The journal itself
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// It is damaged
    #[error(
        "{0}; {1} places in all: `stoqctl log fsck` lists them, restore the newest backup that is sound"
    )]
    Damaged(journal::Damage, usize),
    /// An issuing key
    #[error("an entry of the journal about an issuing key makes no sense: {0}")]
    IssuingKey(&'static str),
    /// A revocation
    #[error("a revocation in the journal makes no sense: {0}")]
    Revocation(#[from] EntryError),
    /// An epoch that does not grow
    #[error("epoch {found} of the deny-list follows epoch {last} in the journal")]
    Epoch {
        /// Before
        last: u64,
        /// After
        found: u64,
    },
    /// The audit log
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// What the journal says
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// Which journal
    pub journal: Option<JournalId>,
    /// Its last entry
    pub sequence: u64,
    /// The deny-list as it stands, with everything ever revoked
    pub deny_list: DenyListReplay,
    /// The last number of each CRL shard, by issuing key
    pub crl_numbers: BTreeMap<(KeyId, u8), u64>,
    /// Where the audit log ends
    pub audit: Chain,
    /// The issuing keys and where they stand
    pub issuing_keys: KeyRegister,
    /// Certificates issued
    pub issued: u64,
    /// Entries that are in the transparency log for good: one more than the highest index
    pub log_entries: u64,
}

/// The deny-list's part of it
#[derive(Clone, Debug, Default)]
pub struct DenyListReplay {
    /// The highest epoch that may have been published
    pub epoch: u64,
    /// When, in seconds since 1970
    pub issued_at: u64,
    /// Hash of its content, as the journal has it
    pub content_sha256: Vec<u8>,
    /// What is revoked, each with the epoch that first had it
    pub entries: Vec<(revocation::Entry, u64)>,
}

impl Replay {
    /// Walks a journal's directory, in use or not. Damage is an error; a torn end is none.
    pub fn read(journal_directory: &Path) -> Result<Self, ReplayError> {
        let (replay, report) = Self::inspect(journal_directory)?;
        match report.errors.first() {
            Some(first) => Err(ReplayError::Damaged(first.clone(), report.errors.len())),
            None => Ok(replay),
        }
    }

    /// The same with the journal's own report, damaged or not
    pub fn inspect(journal_directory: &Path) -> Result<(Self, Report), ReplayError> {
        let mut replay = Self::default();
        let report = journal::inspect(journal_directory, |entry| {
            let sequence = entry.sequence;
            let entry = Entry::decode(entry.kind, entry.payload)?;
            Ok(replay.take(sequence, &entry)?)
        })?;
        replay.journal = report.journal;
        Ok((replay, report))
    }

    /// Takes the next entry
    pub fn take(&mut self, sequence: u64, entry: &Entry) -> Result<(), ReplayError> {
        self.sequence = sequence;
        match entry {
            Entry::Issued(issued) => {
                self.issued += 1;
                self.log_entries = self.log_entries.max(issued.leaf_index + 1);
                self.issuing_keys.note_leaf(&issued.issuer_key_id, issued.not_after);
            }
            Entry::IssuingKey(changed) => {
                self.issuing_keys.take(changed).map_err(ReplayError::IssuingKey)?;
            }
            Entry::Revoked(revoked) => {
                let added = self.deny_list.epoch + 1;
                self.deny_list.entries.push((read_revoked(revoked)?, added));
            }
            Entry::DenyListIssued(issued) => self.deny_list.take(issued)?,
            Entry::CrlIssued(issued) => {
                let key = KeyId::from_bytes(&issued.issuer_key_id)?;
                // There are at most 128 shards; a number beyond is none of ours and does no harm.
                let shard = u8::try_from(issued.shard).unwrap_or(u8::MAX);
                let last = self.crl_numbers.entry((key, shard)).or_default();
                *last = (*last).max(issued.number);
            }
            Entry::Audit(audit) => {
                self.audit.take(&audit.record)?;
            }
            Entry::Log(_)
            | Entry::TokenUsed(_)
            | Entry::Enrolled(_)
            | Entry::Registered(_)
            | Entry::Unregistered(_)
            | Entry::RenewAll(_)
            | Entry::Policy(_) => {}
        }
        Ok(())
    }
}

impl DenyListReplay {
    fn take(&mut self, issued: &DenyListIssued) -> Result<(), ReplayError> {
        if issued.epoch <= self.epoch {
            return Err(ReplayError::Epoch { last: self.epoch, found: issued.epoch });
        }
        self.epoch = issued.epoch;
        self.issued_at = issued.issued_at;
        self.content_sha256 = issued.content_sha256.clone();
        Ok(())
    }

    /// As the issuer goes on with it. Of two revocations of one thing the first counts, as it did then.
    pub fn state(&self) -> IssuerState {
        let mut entries: BTreeMap<Target, (revocation::Entry, u64)> = BTreeMap::new();
        for (entry, added) in &self.entries {
            let ended = |known: &revocation::Entry| known.ends_at < entry.revoked_at;
            match entries.get(&entry.target) {
                Some((known, _)) if !ended(known) => {}
                _ => drop(entries.insert(entry.target.clone(), (entry.clone(), *added))),
            }
        }
        IssuerState {
            epoch: self.epoch,
            issued_at: self.issued_at,
            entries: entries.into_values().collect(),
        }
    }

    /// Hash of the content of the last epoch, hexadecimal
    pub fn content(&self) -> String {
        hex(&self.content_sha256)
    }
}

/// A revocation as the journal has it
pub fn read_revoked(revoked: &Revoked) -> Result<revocation::Entry, EntryError> {
    let target = Target::from_parts(&revoked.issuer_key_id, &revoked.serial, &revoked.spki_sha256)?;
    let code = i32::try_from(revoked.reason).map_err(|_range| EntryError::Reason)?;
    Ok(revocation::Entry {
        target,
        reason: Reason::from_code(code)?,
        revoked_at: revoked.revoked_at,
        ends_at: revoked.ends_at,
    })
}

/// A revocation as the journal takes it
pub fn write_revoked(entry: &revocation::Entry, revoked_by: &str) -> Revoked {
    let (issuer_key_id, serial) = match entry.target.named_certificate() {
        Some((issuer, serial)) => (issuer.as_bytes().to_vec(), serial.as_bytes().to_vec()),
        None => {
            let issuer = entry.target.named_issuer();
            (issuer.map(|key| key.as_bytes().to_vec()).unwrap_or_default(), Vec::new())
        }
    };
    let spki = entry.target.named_key();
    Revoked {
        serial,
        issuer_key_id,
        spki_sha256: spki.map(|spki| spki.as_bytes().to_vec()).unwrap_or_default(),
        // Codes of RFC 5280 are not negative.
        reason: entry.reason.code().unsigned_abs(),
        revoked_at: entry.revoked_at,
        ends_at: entry.ends_at,
        revoked_by: revoked_by.to_owned(),
    }
}

/// A CRL as the journal takes it
pub fn write_crl(issuer: &KeyId, shard: u8, number: u64, issued_at: u64) -> CrlIssued {
    CrlIssued { issuer_key_id: issuer.as_bytes().to_vec(), shard: shard.into(), number, issued_at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocation::{SerialNumber, SpkiHash};

    fn entry(serial: u8, revoked_at: u64, ends_at: u64) -> revocation::Entry {
        let issuer = KeyId::from_bytes(&[1; 20]).unwrap();
        let serial = SerialNumber::from_bytes(&[serial]).unwrap();
        let target = Target::certificate(issuer, serial);
        revocation::Entry { target, reason: Reason::KeyCompromise, revoked_at, ends_at }
    }

    #[test]
    fn revocations_survive_the_journal_in_all_their_forms() {
        let issuer = KeyId::from_bytes(&[1; 20]).unwrap();
        let serial = SerialNumber::from_bytes(&[9, 0]).unwrap();
        let spki = SpkiHash::of(b"key");
        for target in [
            Target::certificate(issuer, serial.clone()),
            Target::key(spki),
            Target::certificate_and_key(issuer, serial, spki),
            Target::issuer(issuer),
        ] {
            let entry =
                revocation::Entry { target, reason: Reason::Superseded, revoked_at: 5, ends_at: 9 };
            let written = write_revoked(&entry, "operator");
            assert_eq!(read_revoked(&written), Ok(entry));
        }
        let nothing = Revoked { reason: 1, ends_at: 9, ..Revoked::default() };
        assert_eq!(read_revoked(&nothing), Err(EntryError::Target));
        let half = Revoked { serial: vec![1], ends_at: 9, ..Revoked::default() };
        assert_eq!(read_revoked(&half), Err(EntryError::Target));
    }

    #[test]
    fn each_revocation_belongs_to_the_epoch_that_followed_it() {
        let mut replay = Replay::default();
        let mut sequence = 0;
        let mut take = |entry: Entry| {
            sequence += 1;
            replay.take(sequence, &entry)
        };
        let epoch = |epoch| {
            Entry::DenyListIssued(DenyListIssued { epoch, issued_at: epoch, ..Default::default() })
        };
        take(Entry::Revoked(write_revoked(&entry(1, 10, 90), "o"))).unwrap();
        take(epoch(1)).unwrap();
        take(epoch(2)).unwrap();
        take(Entry::Revoked(write_revoked(&entry(2, 20, 90), "o"))).unwrap();
        // Again before it ended: the first counts.
        take(Entry::Revoked(write_revoked(&entry(1, 30, 90), "o"))).unwrap();
        let backwards = take(epoch(2)).unwrap_err();
        assert!(matches!(backwards, ReplayError::Epoch { last: 2, found: 2 }), "{backwards}");
        assert_eq!(replay.sequence, 6);
        let state = replay.deny_list.state();
        assert_eq!((state.epoch, state.issued_at), (2, 2));
        let found: Vec<_> =
            state.entries.iter().map(|(entry, added)| (entry.revoked_at, *added)).collect();
        assert_eq!(found, [(10, 1), (20, 3)]);
    }
}
