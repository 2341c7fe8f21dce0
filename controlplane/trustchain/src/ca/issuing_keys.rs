//! The issuing keys of an instance as the journal tells of them: name, certificate and state of each. It changes by
//! entries that are durable and by nothing else, the same at a start and in operation. Which step may follow is
//! `pinning`'s to say; who takes one is in `keys`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::entry::IssuingKeyChanged;
use crate::certificate::{self, unix_seconds};
use crate::pinning::{
    AuthorityKey, AuthorityRing, AuthorityState, KEYS_PER_RING_LIMIT, Pin, StateError, TaintReason,
};
use crate::revocation::KeyId;
use crate::signer::{KeyName, KeyPurpose};

/// An issuing key
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuingKey {
    /// Its name where keys are kept
    pub name: KeyName,
    /// Its certificate, signed by the root
    pub certificate_der: Vec<u8>,
    /// Its identifier, as its leaves carry it
    pub key_id: KeyId,
    /// Where it stands
    pub record: AuthorityKey,
}

impl IssuingKey {
    /// What the journal is told of the key as it is here
    pub(super) fn changed(&self) -> IssuingKeyChanged {
        IssuingKeyChanged {
            spki_sha256: self.record.key.as_bytes().to_vec(),
            name: self.name.to_string(),
            certificate_der: self.certificate_der.clone(),
            state: number_of(self.record.state),
            since: self.record.since,
            taint: match self.record.taint {
                None => 0,
                Some(TaintReason::Replaced) => 1,
                Some(TaintReason::Compromised) => 2,
            },
        }
    }
}

/// Every issuing key the journal tells of
#[derive(Clone, Debug, Default)]
pub struct KeyRegister {
    keys: BTreeMap<Pin, IssuingKey>,
    /// The number of the step that each key took last: seconds do not tell which of two steps came first
    steps: HashMap<Pin, u64>,
    steps_taken: u64,
    /// The end of the last leaf of each key, also of keys of before there were states
    leaves: HashMap<KeyId, u64>,
}

/// Why an entry does not fit what was before it
type Misfit = &'static str;

impl KeyRegister {
    /// Takes an entry
    pub(super) fn take(&mut self, changed: &IssuingKeyChanged) -> Result<(), Misfit> {
        let next = read(changed)?;
        let known = self.keys.get(&next.record.key);
        let before = known.map(|known| known.record.state);
        match before.zip(known.map(|known| &known.name)) {
            None if self.keys.len() >= KEYS_PER_RING_LIMIT => return Err("too many issuing keys"),
            None => {}
            Some((_, name)) if *name != next.name => return Err("an issuing key has two names"),
            Some((from, _)) if from == next.record.state => {}
            Some((from, _)) if from.next().contains(&next.record.state) => {}
            Some(_) => return Err("an issuing key takes a step that does not follow"),
        }
        let another = |one: &&IssuingKey| one.record.key != next.record.key;
        let mut others = self.keys.values().filter(another);
        if others.clone().any(|other| other.name == next.name) {
            return Err("two issuing keys have one name");
        }
        if next.record.state == AuthorityState::Active
            && others.any(|other| other.record.state == AuthorityState::Active)
        {
            return Err("two issuing keys are active");
        }
        let leaves = self.leaves.get(&next.key_id).copied().unwrap_or(0);
        let record = AuthorityKey { last_leaf_ends: leaves, ..next.record };
        if before != Some(record.state) {
            self.steps_taken += 1;
            self.steps.insert(record.key, self.steps_taken);
        }
        self.keys.insert(record.key, IssuingKey { record, ..next });
        Ok(())
    }

    /// Takes note of a leaf
    pub(super) fn note_leaf(&mut self, issuer_key_id: &[u8], ends: u64) {
        let Ok(key_id) = KeyId::from_bytes(issuer_key_id) else { return };
        let latest = self.leaves.entry(key_id).or_default();
        if ends <= *latest {
            return;
        }
        *latest = ends;
        if let Some(key) = self.keys.values_mut().find(|key| key.key_id == key_id) {
            key.record.last_leaf_ends = ends;
        }
    }

    /// All of them, those that were taken in first before the others
    pub fn all(&self) -> Vec<IssuingKey> {
        let mut keys: Vec<_> = self.keys.values().cloned().collect();
        keys.sort_by(|a, b| (a.record.since, &a.name).cmp(&(b.record.since, &b.name)));
        keys
    }

    /// Whether the journal tells of none: an authority of before there were states, or a new one
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// One by its name
    pub fn find(&self, name: &KeyName) -> Option<&IssuingKey> {
        self.keys.values().find(|key| key.name == *name)
    }

    /// One by its identifier
    pub fn by_id(&self, key_id: &KeyId) -> Option<&IssuingKey> {
        self.keys.values().find(|key| key.key_id == *key_id)
    }

    /// The key that signs for the instance: the active one; where there is none, the one tainted last, which still
    /// signs revocations
    pub fn in_force(&self) -> Option<&IssuingKey> {
        let active = self.keys.values().find(|key| key.record.state == AuthorityState::Active);
        let tainted = || {
            let tainted = self.keys.values();
            let tainted = tainted.filter(|key| key.record.state == AuthorityState::Tainted);
            tainted.max_by_key(|key| self.steps.get(&key.record.key))
        };
        active.or_else(tainted)
    }

    /// The states by name, for the last door before the keys. Without any on record the ordinary key is active: it
    /// was so before there were states.
    pub fn states(&self) -> BTreeMap<KeyName, AuthorityState> {
        if self.keys.is_empty() {
            return BTreeMap::from([(KeyName::issuing(), AuthorityState::Active)]);
        }
        self.keys.values().map(|key| (key.name.clone(), key.record.state)).collect()
    }

    /// The keys as the table of states sees them
    pub(super) fn ring(&self, spread: Duration) -> Result<AuthorityRing, StateError> {
        AuthorityRing::from_records(spread, self.keys.values().map(|key| key.record))
    }
}

#[cfg(test)]
impl KeyRegister {
    /// One key in that state
    pub(crate) fn of_one(certificate_der: &[u8], state: AuthorityState) -> Self {
        let spki_sha256 = Pin::of_certificate(certificate_der).unwrap().as_bytes().to_vec();
        let (name, certificate_der) = (KeyName::issuing().to_string(), certificate_der.to_vec());
        let state = number_of(state);
        let changed =
            IssuingKeyChanged { spki_sha256, name, certificate_der, state, since: 0, taint: 0 };
        let mut register = Self::default();
        register.take(&changed).unwrap();
        register
    }
}

/// A key as an entry has it
fn read(changed: &IssuingKeyChanged) -> Result<IssuingKey, Misfit> {
    let parsed = certificate::parse(&changed.certificate_der);
    let parsed = parsed.map_err(|_| "the certificate of an issuing key")?;
    let key = Pin::of_spki(parsed.public_key().raw);
    if key.as_bytes()[..] != changed.spki_sha256[..] {
        return Err("the certificate is of another issuing key");
    }
    let point = &parsed.public_key().subject_public_key.data;
    let key_id = KeyId::of_public_point(point).map_err(|_| "the identifier of an issuing key")?;
    let (_, not_after) = certificate::validity(&parsed).map_err(|_| "the dates of an authority")?;
    let state = state_of(changed.state).ok_or("the state of an issuing key")?;
    let taint = match changed.taint {
        0 => None,
        1 => Some(TaintReason::Replaced),
        2 => Some(TaintReason::Compromised),
        _ => return Err("the reason of a taint"),
    };
    let name = KeyName::new(&changed.name).ok();
    let name = name.filter(|name| name.purpose() == KeyPurpose::Issuing);
    let name = name.ok_or("the name of an issuing key")?;
    let record = AuthorityKey {
        key,
        state,
        since: changed.since,
        not_after: unix_seconds(not_after),
        last_leaf_ends: 0,
        taint,
    };
    Ok(IssuingKey { name, certificate_der: changed.certificate_der.clone(), key_id, record })
}

/// A state as the journal has it; numbers are never used again for something else
fn number_of(state: AuthorityState) -> u32 {
    match state {
        AuthorityState::Prepared => 1,
        AuthorityState::Active => 2,
        AuthorityState::Tainted => 3,
        AuthorityState::Revoked => 4,
    }
}

fn state_of(number: u32) -> Option<AuthorityState> {
    AuthorityState::ALL.into_iter().find(|state| number_of(*state) == number)
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::AuthorityState::{Active, Prepared, Revoked, Tainted};
    use super::*;
    use crate::authority::{issuing_csr, sign_issuing};
    use crate::profile::Ipv6Subtree;
    use crate::root::{Root, init_root};

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// A key of that name as an entry tells of it
    fn key(root: &Root, directory: &std::path::Path, name: &str) -> IssuingKeyChanged {
        let csr = issuing_csr(&directory.join(name)).unwrap();
        let certificate_der = sign_issuing(root, &csr, Ipv6Subtree::ALL, now()).unwrap();
        let spki_sha256 = Pin::of_certificate(&certificate_der).unwrap().as_bytes().to_vec();
        let name = name.to_owned();
        IssuingKeyChanged { spki_sha256, name, certificate_der, state: 1, since: 7, taint: 0 }
    }

    fn at(changed: &IssuingKeyChanged, state: AuthorityState, since: u64) -> IssuingKeyChanged {
        IssuingKeyChanged { state: number_of(state), since, ..changed.clone() }
    }

    #[test]
    fn of_keys_tainted_in_one_second_the_later_one_signs() {
        let directory = tempfile::tempdir().unwrap();
        let root = init_root(&directory.path().join("root"), now()).unwrap();
        let keys = ["issuing", "issuing-2"].map(|name| key(&root, directory.path(), name));
        for [first, second] in [[0, 1], [1, 0]].map(|order| order.map(|index| &keys[index])) {
            let mut register = KeyRegister::default();
            register.take(&at(first, Active, 1)).unwrap();
            let replaced = IssuingKeyChanged { taint: 1, ..at(first, Tainted, 2) };
            register.take(&replaced).unwrap();
            register.take(&at(second, Active, 2)).unwrap();
            register.take(&IssuingKeyChanged { taint: 2, ..at(second, Tainted, 2) }).unwrap();
            // Another reason is no other state.
            register.take(&IssuingKeyChanged { taint: 2, ..replaced }).unwrap();
            assert_eq!(register.in_force().unwrap().name.to_string(), second.name);
        }
    }

    #[test]
    fn a_register_follows_the_journal_and_what_does_not_follow_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = init_root(&directory.path().join("root"), now()).unwrap();
        let one = key(&root, directory.path(), "issuing");
        let two = key(&root, directory.path(), "issuing-2");
        let mut register = KeyRegister::default();
        assert_eq!(register.states(), BTreeMap::from([(KeyName::issuing(), Active)]));
        let point = KeyName::new("issuing-2").unwrap();
        register.take(&at(&one, Active, 1)).unwrap();
        register.take(&at(&two, Prepared, 2)).unwrap();
        assert_eq!(register.in_force().unwrap().name, KeyName::issuing());
        // Two that are active, a step back, a step that is not in the table, another name, another's certificate
        let renamed = IssuingKeyChanged { name: "issuing-3".into(), ..two.clone() };
        let taken =
            IssuingKeyChanged { name: "issuing".into(), ..key(&root, directory.path(), "x") };
        let swapped =
            IssuingKeyChanged { certificate_der: one.certificate_der.clone(), ..two.clone() };
        let unnamed = IssuingKeyChanged { name: "log".into(), ..two.clone() };
        let wrong = [at(&two, Active, 3), at(&one, Revoked, 3), renamed, taken, swapped, unnamed];
        for wrong in wrong {
            assert!(register.clone().take(&wrong).is_err(), "{wrong:?}");
        }
        // Leaves are counted also where they came before the key was known.
        let first = register.find(&KeyName::issuing()).unwrap().clone();
        register.note_leaf(first.key_id.as_bytes(), 90);
        register.note_leaf(first.key_id.as_bytes(), 80);
        assert_eq!(register.find(&KeyName::issuing()).unwrap().record.last_leaf_ends, 90);
        let mut late = KeyRegister::default();
        late.note_leaf(first.key_id.as_bytes(), 90);
        late.take(&first.changed()).unwrap();
        assert_eq!(late.find(&KeyName::issuing()).unwrap().record.last_leaf_ends, 90);

        let tainted = IssuingKeyChanged { taint: 1, ..at(&one, Tainted, 3) };
        register.take(&tainted).unwrap();
        assert_eq!(register.in_force().unwrap().name, KeyName::issuing(), "it signs revocations");
        register.take(&at(&two, Active, 3)).unwrap();
        assert_eq!(register.in_force().unwrap().name, point);
        register.take(&IssuingKeyChanged { taint: 2, ..tainted }).unwrap();
        register.take(&at(&one, Revoked, 5)).unwrap();
        assert_eq!(register.states()[&KeyName::issuing()], Revoked);
        let ring = register.ring(Duration::ZERO).unwrap();
        assert_eq!(ring.active().unwrap().key, register.find(&point).unwrap().record.key);
        // What is written is what was read.
        for key in register.all() {
            assert_eq!(read(&key.changed()).unwrap().record.state, key.record.state);
        }
    }
}
