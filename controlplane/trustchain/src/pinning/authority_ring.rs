//! The issuing keys of one authority instance, held to the table in `authority_state`: whoever signs with them
//! asks here first. The keys themselves are elsewhere; they are named by their pins.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::authority_state::{AuthorityState, Purpose, Renewal, TaintReason};
use super::pin::Pin;
use crate::certificate::unix_seconds;

/// Keys one instance keeps record of
pub const KEYS_PER_RING_LIMIT: usize = 64;

/// Whether revoking a key may make unexpired leaves useless
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CutOff {
    /// No: revoke only once the last of them has ended
    Refuse,
    /// Yes: their holders have to enrol again
    Accept,
}

/// An issuing key and where it stands. Times are seconds since 1970.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityKey {
    /// The key
    pub key: Pin,
    /// Its state
    pub state: AuthorityState,
    /// Since when
    pub since: u64,
    /// End of its certificate
    pub not_after: u64,
    /// End of the last leaf it signed; zero for none
    pub last_leaf_ends: u64,
    /// Why it is tainted
    pub taint: Option<TaintReason>,
}

impl AuthorityKey {
    /// When holders of its leaves renew
    pub fn renewal(&self) -> Renewal {
        match (self.state, self.taint) {
            (AuthorityState::Revoked, _) => Renewal::ReEnrol,
            (AuthorityState::Tainted, Some(TaintReason::Compromised)) => Renewal::Now,
            _ => Renewal::InTime,
        }
    }
}

/// Why a step is refused
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StateError {
    /// No such key
    #[error("{0} is no issuing key of this instance")]
    Unknown(Pin),
    /// It is known already
    #[error("{0} is an issuing key of this instance already; a key is prepared once")]
    Known(Pin),
    /// Too many keys
    #[error(
        "the instance has {KEYS_PER_RING_LIMIT} issuing keys on record; forget those that ended"
    )]
    TooMany,
    /// The state does not follow
    #[error("{key} is {from} and cannot become {to}; {}", remedy(*from, *to))]
    Transition {
        /// The key
        key: Pin,
        /// Where it stands
        from: AuthorityState,
        /// What was asked for
        to: AuthorityState,
    },
    /// Other nodes may not trust it yet
    #[error(
        "{key} was prepared too short a time ago for every node to trust it; wait {} s more",
        left.as_secs()
    )]
    TooFresh {
        /// The key
        key: Pin,
        /// What is missing
        left: Duration,
    },
    /// Its certificate has ended
    #[error("the certificate of {0} has ended; have the root sign a new one")]
    Ended(Pin),
    /// Leaves would become useless
    #[error(
        "leaves of {key} are in force until {until} s since 1970; wait for their renewal, or accept \
         that their holders are cut off and enrol again"
    )]
    LeavesInForce {
        /// The key
        key: Pin,
        /// The end of the last
        until: u64,
    },
    /// The key may not sign that
    #[error("{key} is {state} and signs no {purpose:?}")]
    MayNotSign {
        /// The key
        key: Pin,
        /// Where it stands
        state: AuthorityState,
        /// What it was asked to sign
        purpose: Purpose,
    },
    /// Records with two active keys
    #[error("two issuing keys of this instance are on record as active; taint one of them")]
    TwoActive,
}

impl StateError {
    /// The label used in logs, metrics and JSON
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown",
            Self::Known(_) => "known",
            Self::TooMany => "too_many",
            Self::Transition { .. } => "transition",
            Self::TooFresh { .. } => "too_fresh",
            Self::Ended(_) => "ended",
            Self::LeavesInForce { .. } => "leaves_in_force",
            Self::MayNotSign { .. } => "may_not_sign",
            Self::TwoActive => "two_active",
        }
    }
}

fn remedy(from: AuthorityState, to: AuthorityState) -> &'static str {
    use AuthorityState::{Active, Prepared, Revoked, Tainted};
    match (from, to) {
        (Active, Revoked) => "taint it first, so that its holders renew",
        (Prepared, Tainted) => "it has issued nothing, so revoke it",
        (Tainted | Revoked, _) => "no key comes back; prepare another",
        (_, Prepared) => "a key is prepared once",
        _ => "it is there already",
    }
}

/// The issuing keys of one instance: at most one is active
#[derive(Clone, Debug)]
pub struct AuthorityRing {
    spread: Duration,
    keys: BTreeMap<Pin, AuthorityKey>,
}

impl AuthorityRing {
    /// An instance without keys. `spread` is the time every node needs to learn of a prepared key.
    pub fn new(spread: Duration) -> Self {
        Self { spread, keys: BTreeMap::new() }
    }

    /// Goes on with what was kept
    pub fn from_records(
        spread: Duration,
        records: impl IntoIterator<Item = AuthorityKey>,
    ) -> Result<Self, StateError> {
        let mut ring = Self::new(spread);
        for record in records {
            if ring.keys.len() >= KEYS_PER_RING_LIMIT {
                return Err(StateError::TooMany);
            }
            if record.state == AuthorityState::Active && ring.active().is_some() {
                return Err(StateError::TwoActive);
            }
            if ring.keys.insert(record.key, record).is_some() {
                return Err(StateError::Known(record.key));
            }
        }
        Ok(ring)
    }

    /// The keys as they are kept
    pub fn records(&self) -> impl Iterator<Item = &AuthorityKey> {
        self.keys.values()
    }

    /// The key that issues
    pub fn active(&self) -> Option<&AuthorityKey> {
        self.keys.values().find(|key| key.state == AuthorityState::Active)
    }

    /// The keys whose leaves are accepted now: the anchors of the trust bundle
    pub fn anchors(&self, now: SystemTime) -> impl Iterator<Item = &AuthorityKey> {
        let now = unix_seconds(now);
        self.keys.values().filter(move |key| key.state.accepts_leaves() && key.not_after >= now)
    }

    /// Takes a key into the ring once the root has certified it
    pub fn prepare(
        &mut self,
        key: Pin,
        not_after: SystemTime,
        now: SystemTime,
    ) -> Result<(), StateError> {
        if self.keys.contains_key(&key) {
            return Err(StateError::Known(key));
        }
        if self.keys.len() >= KEYS_PER_RING_LIMIT {
            return Err(StateError::TooMany);
        }
        if not_after <= now {
            return Err(StateError::Ended(key));
        }
        let record = AuthorityKey {
            key,
            state: AuthorityState::Prepared,
            since: unix_seconds(now),
            not_after: unix_seconds(not_after),
            last_leaf_ends: 0,
            taint: None,
        };
        self.keys.insert(key, record);
        Ok(())
    }

    /// Lets a prepared key issue; the one that did is tainted as replaced. The first key of an instance need
    /// not wait: no node could have missed it.
    pub fn activate(&mut self, key: Pin, now: SystemTime) -> Result<(), StateError> {
        let record = *self.may_become(key, AuthorityState::Active)?;
        if record.not_after <= unix_seconds(now) {
            return Err(StateError::Ended(key));
        }
        let age = Duration::from_secs(unix_seconds(now).saturating_sub(record.since));
        let replaced = self.active().map(|active| active.key);
        if let (Some(left), Some(_)) = (self.spread.checked_sub(age), replaced)
            && !left.is_zero()
        {
            return Err(StateError::TooFresh { key, left });
        }
        if let Some(replaced) = replaced {
            self.taint(replaced, TaintReason::Replaced, now)?;
        }
        self.set(key, AuthorityState::Active, now);
        Ok(())
    }

    /// Stops a key from issuing. One that was replaced can still turn out to be compromised.
    pub fn taint(
        &mut self,
        key: Pin,
        reason: TaintReason,
        now: SystemTime,
    ) -> Result<(), StateError> {
        let worse = reason == TaintReason::Compromised;
        let place = self.keys.get_mut(&key).ok_or(StateError::Unknown(key))?;
        if place.taint == Some(TaintReason::Replaced)
            && place.state == AuthorityState::Tainted
            && worse
        {
            place.taint = Some(reason);
            return Ok(());
        }
        self.may_become(key, AuthorityState::Tainted)?;
        self.set(key, AuthorityState::Tainted, now);
        if let Some(place) = self.keys.get_mut(&key) {
            place.taint = Some(reason);
        }
        Ok(())
    }

    /// Ends a key's life
    pub fn revoke(&mut self, key: Pin, cut_off: CutOff, now: SystemTime) -> Result<(), StateError> {
        let record = *self.may_become(key, AuthorityState::Revoked)?;
        if record.last_leaf_ends >= unix_seconds(now) && cut_off == CutOff::Refuse {
            return Err(StateError::LeavesInForce { key, until: record.last_leaf_ends });
        }
        self.set(key, AuthorityState::Revoked, now);
        Ok(())
    }

    /// Asked before every signature
    pub fn may_sign(&self, key: Pin, purpose: Purpose, now: SystemTime) -> Result<(), StateError> {
        let record = self.keys.get(&key).ok_or(StateError::Unknown(key))?;
        if !record.state.may_sign(purpose) {
            return Err(StateError::MayNotSign { key, state: record.state, purpose });
        }
        if record.not_after < unix_seconds(now) {
            return Err(StateError::Ended(key));
        }
        Ok(())
    }

    /// Takes note of a leaf that was signed
    pub fn note_leaf(
        &mut self,
        key: Pin,
        ends: SystemTime,
        now: SystemTime,
    ) -> Result<(), StateError> {
        self.may_sign(key, Purpose::Leaf, now)?;
        if let Some(place) = self.keys.get_mut(&key) {
            place.last_leaf_ends = place.last_leaf_ends.max(unix_seconds(ends));
        }
        Ok(())
    }

    /// Forgets keys whose certificates have ended and that do not issue; returns how many
    pub fn forget_ended(&mut self, now: SystemTime) -> usize {
        let before = self.keys.len();
        self.keys.retain(|_, key| {
            let ended = UNIX_EPOCH + Duration::from_secs(key.not_after) < now;
            key.state == AuthorityState::Active || !ended
        });
        before - self.keys.len()
    }

    fn may_become(&self, key: Pin, to: AuthorityState) -> Result<&AuthorityKey, StateError> {
        let record = self.keys.get(&key).ok_or(StateError::Unknown(key))?;
        let from = record.state;
        match from.next().contains(&to) {
            true => Ok(record),
            false => Err(StateError::Transition { key, from, to }),
        }
    }

    fn set(&mut self, key: Pin, state: AuthorityState, now: SystemTime) {
        if let Some(place) = self.keys.get_mut(&key) {
            (place.state, place.since) = (state, unix_seconds(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AuthorityState::{Active, Revoked, Tainted};
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn pin(number: u8) -> Pin {
        Pin::of_spki(&[number])
    }

    /// A ring whose key 1 is in this state
    fn ring_with(state: AuthorityState) -> AuthorityRing {
        let record = AuthorityKey {
            key: pin(1),
            state,
            since: unix_seconds(now()),
            not_after: unix_seconds(now() + 90 * DAY),
            last_leaf_ends: 0,
            taint: (state == Tainted).then_some(TaintReason::Compromised),
        };
        AuthorityRing::from_records(HOUR, [record]).unwrap()
    }

    #[test]
    fn no_step_outside_the_table_is_taken_and_each_refusal_has_a_remedy() {
        for from in AuthorityState::ALL {
            for to in [Active, Tainted, Revoked] {
                let mut ring = ring_with(from);
                let step = match to {
                    Active => ring.activate(pin(1), now()),
                    Tainted => ring.taint(pin(1), TaintReason::Compromised, now()),
                    _ => ring.revoke(pin(1), CutOff::Refuse, now()),
                };
                let state = ring.records().next().unwrap().state;
                if from.next().contains(&to) {
                    assert_eq!((step, state), (Ok(()), to), "{from} to {to}");
                } else {
                    let key = pin(1);
                    assert_eq!(step, Err(StateError::Transition { key, from, to }));
                    assert_eq!(state, from);
                    let said = step.unwrap_err().to_string();
                    assert!(said.contains("; "), "{said}");
                }
            }
            let again = ring_with(from).prepare(pin(1), now() + DAY, now());
            assert_eq!(again, Err(StateError::Known(pin(1))));
        }
        let mut ring = AuthorityRing::new(HOUR);
        assert_eq!(ring.activate(pin(1), now()), Err(StateError::Unknown(pin(1))));
    }

    #[test]
    fn a_key_is_replaced_without_a_gap_and_revoked_when_its_last_leaf_has_ended() {
        let mut ring = AuthorityRing::new(HOUR);
        ring.prepare(pin(1), now() + 90 * DAY, now()).unwrap();
        ring.activate(pin(1), now()).unwrap();
        ring.note_leaf(pin(1), now() + DAY, now()).unwrap();
        ring.prepare(pin(2), now() + 90 * DAY, now()).unwrap();
        assert_eq!(ring.anchors(now()).count(), 2);
        let early = ring.activate(pin(2), now() + HOUR / 2).unwrap_err();
        assert_eq!(early, StateError::TooFresh { key: pin(2), left: HOUR / 2 });
        assert_eq!(ring.active().unwrap().key, pin(1));
        ring.activate(pin(2), now() + HOUR).unwrap();
        assert_eq!(ring.active().unwrap().key, pin(2));
        let old = *ring.records().find(|record| record.key == pin(1)).unwrap();
        assert_eq!((old.state, old.renewal()), (Tainted, Renewal::InTime));
        let leaf = ring.note_leaf(pin(1), now() + DAY, now() + HOUR).unwrap_err();
        assert_eq!(leaf.label(), "may_not_sign");
        assert_eq!(ring.may_sign(pin(1), Purpose::Crl, now() + HOUR), Ok(()));
        let until = unix_seconds(now() + DAY);
        let force = ring.revoke(pin(1), CutOff::Refuse, now() + DAY).unwrap_err();
        assert_eq!(force, StateError::LeavesInForce { key: pin(1), until });
        let after = now() + DAY + Duration::from_secs(1);
        ring.revoke(pin(1), CutOff::Refuse, after).unwrap();
        assert_eq!(ring.anchors(after).count(), 1);
        assert_eq!(ring.forget_ended(now() + 91 * DAY), 1);
    }

    #[test]
    fn a_compromised_key_can_be_cut_off_at_once() {
        let mut ring = ring_with(Active);
        ring.note_leaf(pin(1), now() + DAY, now()).unwrap();
        ring.taint(pin(1), TaintReason::Compromised, now()).unwrap();
        assert_eq!(ring.records().next().unwrap().renewal(), Renewal::Now);
        assert!(ring.revoke(pin(1), CutOff::Refuse, now()).is_err());
        ring.revoke(pin(1), CutOff::Accept, now()).unwrap();
        assert_eq!(ring.records().next().unwrap().renewal(), Renewal::ReEnrol);
        // One that was merely replaced may turn out to be compromised, but not the other way round.
        let mut ring = ring_with(Active);
        ring.taint(pin(1), TaintReason::Replaced, now()).unwrap();
        ring.taint(pin(1), TaintReason::Compromised, now()).unwrap();
        assert_eq!(ring.records().next().unwrap().renewal(), Renewal::Now);
        assert!(ring.taint(pin(1), TaintReason::Replaced, now()).is_err());
    }

    #[test]
    fn ended_keys_sign_nothing_and_records_are_judged() {
        let mut ring = ring_with(Active);
        let late = now() + 91 * DAY;
        assert_eq!(ring.may_sign(pin(1), Purpose::Leaf, late), Err(StateError::Ended(pin(1))));
        assert_eq!(ring.anchors(late).count(), 0);
        assert_eq!(ring.prepare(pin(2), now(), now()), Err(StateError::Ended(pin(2))));
        let one = *ring.records().next().unwrap();
        let two = AuthorityKey { key: pin(2), ..one };
        let both = AuthorityRing::from_records(HOUR, [one, two]);
        assert_eq!(both.unwrap_err(), StateError::TwoActive);
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<AuthorityKey>(&text).unwrap(), one);
        for number in 2..=KEYS_PER_RING_LIMIT as u8 {
            ring.prepare(pin(number), now() + DAY, now()).unwrap();
        }
        assert_eq!(ring.prepare(pin(200), now() + DAY, now()), Err(StateError::TooMany));
    }
}
