//! Who votes in an epoch: an ordered set of validators, how many of them make a quorum, and whose turn a view is. How
//! the set changes from epoch to epoch is decided by the application and proven in `certificate`.

use std::sync::OnceLock;

use ed25519_consensus::VerificationKey;
use stoq_interface::NodeId;

use crate::digest::{Digest, Domain};
use crate::operation::{Validator, ValidatorKey};
use crate::wire::{Reader, WireError, Writer};

static SET: Domain = Domain::new("hypermesh v1 validators");

/// Validators of the largest set. Every validator sends every vote to every other, so the traffic grows with the
/// square of this.
pub const VALIDATORS_LIMIT: usize = 128;

/// Octets of the longest name
const NAME_LIMIT_BYTES: usize = 63;

/// Why validators cannot form a set
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ValidatorsError {
    /// Nobody
    #[error("a set of validators needs at least one")]
    Empty,
    /// Too many
    #[error("{count} validators; at most {VALIDATORS_LIMIT} can agree with each other")]
    TooMany {
        /// How many there were
        count: usize,
    },
    /// A key that no signature can be checked with
    #[error("the key of {name} is no Ed25519 key")]
    Key {
        /// Whose it is
        name: NodeId,
    },
    /// Two with one key
    #[error("{name} has the key of another validator")]
    SameKey {
        /// The second of them
        name: NodeId,
    },
    /// Two with one name
    #[error("two validators are called {name}")]
    SameName {
        /// The name
        name: NodeId,
    },
}

/// The validators of an epoch, in the order of their keys. A validator's place in it is what votes name.
#[derive(Clone, Debug)]
pub struct ValidatorSet {
    validators: Vec<Validator>,
    verification: Vec<VerificationKey>,
    digest: OnceLock<Digest>,
}

impl PartialEq for ValidatorSet {
    fn eq(&self, other: &Self) -> bool {
        self.validators == other.validators
    }
}

impl Eq for ValidatorSet {}

impl ValidatorSet {
    /// The set of these validators, in whatever order they come
    pub fn new(mut validators: Vec<Validator>) -> Result<Self, ValidatorsError> {
        if validators.is_empty() {
            return Err(ValidatorsError::Empty);
        }
        if validators.len() > VALIDATORS_LIMIT {
            return Err(ValidatorsError::TooMany { count: validators.len() });
        }
        validators.sort_by_key(|validator| validator.key);
        if let Some(pair) = validators.windows(2).find(|pair| pair[0].key == pair[1].key) {
            return Err(ValidatorsError::SameKey { name: pair[1].name.clone() });
        }
        let mut names: Vec<&NodeId> = validators.iter().map(|validator| &validator.name).collect();
        names.sort();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ValidatorsError::SameName { name: pair[0].clone() });
        }
        let verification = validators
            .iter()
            .map(|validator| {
                VerificationKey::try_from(validator.key.0)
                    .map_err(|_| ValidatorsError::Key { name: validator.name.clone() })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { validators, verification, digest: OnceLock::new() })
    }

    /// How many there are; never none
    #[allow(clippy::len_without_is_empty, reason = "a set without a validator cannot be made")]
    pub fn len(&self) -> usize {
        self.validators.len()
    }

    /// How many may be faulty without harm: `(n - 1) / 3`
    pub fn faults(&self) -> usize {
        (self.len() - 1) / 3
    }

    /// How many must agree: `n - f`
    pub fn quorum(&self) -> usize {
        self.len() - self.faults()
    }

    /// The place of a key
    pub fn index(&self, key: &ValidatorKey) -> Option<u32> {
        let found = self.validators.binary_search_by_key(key, |validator| validator.key).ok()?;
        u32::try_from(found).ok()
    }

    /// Who stands at a place
    pub fn get(&self, index: u32) -> Option<&Validator> {
        self.validators.get(usize::try_from(index).ok()?)
    }

    /// Whether this key is of the set
    pub fn contains(&self, key: &ValidatorKey) -> bool {
        self.index(key).is_some()
    }

    pub(crate) fn verification_key(&self, index: u32) -> Option<&VerificationKey> {
        self.verification.get(usize::try_from(index).ok()?)
    }

    /// All of them, in order
    pub fn iter(&self) -> std::slice::Iter<'_, Validator> {
        self.validators.iter()
    }

    /// Whose turn a view of an epoch is: each in order, beginning one further in every epoch
    pub fn leader(&self, epoch: u64, view: u64) -> &Validator {
        let turn = epoch.wrapping_add(view) % self.len() as u64;
        &self.validators[turn as usize]
    }

    /// What a header commits to
    pub fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| {
            let mut writer = Writer::new();
            self.encode(&mut writer);
            SET.hash(writer.as_slice())
        })
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        writer.count(self.len());
        for validator in &self.validators {
            writer.bytes(validator.name.as_str().as_bytes()).fixed(&validator.key.0);
        }
    }

    /// Reads what [`ValidatorSet::encode`] wrote, and nothing else
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        const WHAT: &str = "set of validators";
        let count = reader.count(VALIDATORS_LIMIT)?;
        let mut validators = Vec::with_capacity(count);
        for _ in 0..count {
            let name = std::str::from_utf8(reader.bytes(NAME_LIMIT_BYTES)?)
                .ok()
                .and_then(|text| NodeId::new(text).ok())
                .ok_or(WireError::NotCanonical { what: WHAT })?;
            validators.push(Validator { name, key: ValidatorKey(reader.fixed()?) });
        }
        let in_order = validators.windows(2).all(|pair| pair[0].key < pair[1].key);
        let set = Self::new(validators).map_err(|_| WireError::NotCanonical { what: WHAT })?;
        if in_order { Ok(set) } else { Err(WireError::NotCanonical { what: WHAT }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::testing::{secret, validator};

    #[test]
    fn quorums_leave_room_for_a_third() {
        let quorums =
            [(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 1, 3), (6, 1, 5), (7, 2, 5), (10, 3, 7)];
        for (count, faults, quorum) in quorums {
            let set = ValidatorSet::new((0..count).map(validator).collect()).unwrap();
            assert_eq!((set.faults(), set.quorum()), (faults, quorum), "{count}");
        }
    }

    #[test]
    fn the_order_is_that_of_the_keys_and_the_digest_binds_all() {
        let forwards = ValidatorSet::new((0..5).map(validator).collect()).unwrap();
        let backwards = ValidatorSet::new((0..5).rev().map(validator).collect()).unwrap();
        assert_eq!(forwards.digest(), backwards.digest());
        assert!(forwards.iter().is_sorted_by_key(|validator| validator.key));
        let mut renamed: Vec<_> = (0..5).map(validator).collect();
        renamed[3].name = NodeId::new("other").unwrap();
        assert_ne!(ValidatorSet::new(renamed).unwrap().digest(), forwards.digest());
        let fewer = ValidatorSet::new((0..4).map(validator).collect()).unwrap();
        assert_ne!(fewer.digest(), forwards.digest());
    }

    #[test]
    fn every_turn_comes_once_in_a_round() {
        let set = ValidatorSet::new((0..7).map(validator).collect()).unwrap();
        for epoch in [0, 3, u64::MAX] {
            let mut leaders: Vec<_> = (1..8).map(|view| set.leader(epoch, view).key).collect();
            leaders.sort();
            assert!(leaders.iter().eq(set.iter().map(|validator| &validator.key)));
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        assert_eq!(ValidatorSet::new(Vec::new()), Err(ValidatorsError::Empty));
        let many = (0..=VALIDATORS_LIMIT as u64).map(validator).collect();
        assert!(matches!(ValidatorSet::new(many), Err(ValidatorsError::TooMany { .. })));
        let mut twice = vec![validator(1), validator(2)];
        twice[1].key = twice[0].key;
        assert!(matches!(ValidatorSet::new(twice), Err(ValidatorsError::SameKey { .. })));
        let mut namesake = vec![validator(1), validator(2)];
        namesake[1].name = namesake[0].name.clone();
        assert!(matches!(ValidatorSet::new(namesake), Err(ValidatorsError::SameName { .. })));
        // An encoding of no point of the curve: y = 2 has no x.
        let mut off_curve = validator(1);
        off_curve.key.0 = [0; 32];
        off_curve.key.0[0] = 2;
        assert!(matches!(ValidatorSet::new(vec![off_curve]), Err(ValidatorsError::Key { .. })));
    }

    #[test]
    fn a_set_is_read_back_and_only_in_its_order() {
        let set = ValidatorSet::new((0..4).map(validator).collect()).unwrap();
        let mut writer = Writer::new();
        set.encode(&mut writer);
        let octets = writer.into_vec();
        assert_eq!(ValidatorSet::decode(&mut Reader::new(&octets)), Ok(set.clone()));
        for end in 0..octets.len() {
            assert!(ValidatorSet::decode(&mut Reader::new(&octets[..end])).is_err(), "{end}");
        }
        let mut writer = Writer::new();
        writer.count(2);
        for validator in set.iter().take(2).collect::<Vec<_>>().into_iter().rev() {
            writer.bytes(validator.name.as_str().as_bytes()).fixed(&validator.key.0);
        }
        assert!(ValidatorSet::decode(&mut Reader::new(writer.as_slice())).is_err());
        assert!(set.contains(&ValidatorKey(secret(2).verification_key().to_bytes())));
    }
}
