//! From one pinned key to the next without a moment in which a node is locked out: add the new pin, wait
//! until every node has the set, move to the new key, remove the old pin. Each step that would break this is
//! refused with what to do first.

use std::time::{Duration, SystemTime};

use stoq_interface::NodeId;

use super::pin::{ChainKeys, Pin, Tier};
use super::pin_set::{PinSet, PinSetError, check_peer};
use crate::certificate::unix_seconds;

/// How long a pin has to be in the set before another may go: nodes that are down for a day get it too
pub const SETTLE_DEFAULT: Duration = Duration::from_secs(36 * 3_600);

/// Why a step of a rollover is refused
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StepError {
    /// It is there
    #[error("{pin} is among the {tier} pins already")]
    Present {
        /// Where
        tier: Tier,
        /// Which
        pin: Pin,
    },
    /// It is not there
    #[error("{pin} is not among the {tier} pins")]
    Absent {
        /// Where
        tier: Tier,
        /// Which
        pin: Pin,
    },
    /// The key is in use
    #[error(
        "{pin} is the {tier} key in use, so removing its pin would lock this node out; activate the \
         next key first"
    )]
    InUse {
        /// Where
        tier: Tier,
        /// Which
        pin: Pin,
    },
    /// The pin that would have to serve is too young
    #[error(
        "the {tier} pin {pin} was added {} s ago and other nodes may not have it yet; wait {} s more",
        age.as_secs(),
        left.as_secs()
    )]
    NotSettled {
        /// Where
        tier: Tier,
        /// The youngest pin
        pin: Pin,
        /// Since when it is there
        age: Duration,
        /// What is missing
        left: Duration,
    },
    /// The set after the step would be refused
    #[error(transparent)]
    Set(#[from] PinSetError),
}

impl StepError {
    /// The label used in logs, metrics and JSON
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Present { .. } => "present",
            Self::Absent { .. } => "absent",
            Self::InUse { .. } => "in_use",
            Self::NotSettled { .. } => "not_settled",
            Self::Set(error) => error.label(),
        }
    }
}

impl PinSet {
    /// The first step: one pin more
    pub fn with_pin(
        &self,
        tier: Tier,
        pin: Pin,
        current: &ChainKeys,
        now: SystemTime,
    ) -> Result<Self, StepError> {
        if self.tier(tier).contains_key(&pin) {
            return Err(StepError::Present { tier, pin });
        }
        let mut next = self.clone();
        next.version += 1;
        next.tier_mut(tier).insert(pin, unix_seconds(now));
        next.check(current)?;
        Ok(next)
    }

    /// Whether this node may move to another key of a tier now: its pin is there and has settled
    pub fn may_move_to(
        &self,
        tier: Tier,
        key: Pin,
        settle: Duration,
        now: SystemTime,
    ) -> Result<(), StepError> {
        let Some(added) = self.tier(tier).get(&key) else {
            return Err(StepError::Absent { tier, pin: key });
        };
        settled(tier, key, *added, settle, now)
    }

    /// The last step: one pin less. Not the key in use, not the backup, and not while any pin of the tier is
    /// so young that a node may know only the one that goes.
    pub fn without_pin(
        &self,
        tier: Tier,
        pin: Pin,
        current: &ChainKeys,
        settle: Duration,
        now: SystemTime,
    ) -> Result<Self, StepError> {
        if !self.tier(tier).contains_key(&pin) {
            return Err(StepError::Absent { tier, pin });
        }
        if current.of(tier) == pin {
            return Err(StepError::InUse { tier, pin });
        }
        let others = self.tier(tier).iter().filter(|(other, _)| **other != pin);
        if let Some((youngest, added)) = others.max_by_key(|(_, added)| **added) {
            settled(tier, *youngest, *added, settle, now)?;
        }
        let mut next = self.clone();
        next.version += 1;
        next.tier_mut(tier).remove(&pin);
        next.check(current)?;
        Ok(next)
    }

    /// Pins for one peer in place of those it had; none takes them all away. `known` is the chain the peer
    /// showed last, where there is one.
    pub fn with_peer(
        &self,
        peer: &NodeId,
        pins: Vec<Pin>,
        known: Option<&ChainKeys>,
        current: &ChainKeys,
    ) -> Result<Self, StepError> {
        let mut next = self.clone();
        next.version += 1;
        if pins.is_empty() {
            next.peers.remove(peer);
        } else {
            check_peer(peer, &pins, known)?;
            next.peers.insert(peer.clone(), pins);
        }
        next.check(current)?;
        Ok(next)
    }

    fn tier_mut(&mut self, tier: Tier) -> &mut super::pin_set::Dated {
        match tier {
            Tier::Root => &mut self.roots,
            Tier::Issuing => &mut self.issuing,
        }
    }
}

fn settled(
    tier: Tier,
    pin: Pin,
    added: u64,
    settle: Duration,
    now: SystemTime,
) -> Result<(), StepError> {
    let age = Duration::from_secs(unix_seconds(now).saturating_sub(added));
    match settle.checked_sub(age) {
        Some(left) if !left.is_zero() => Err(StepError::NotSettled { tier, pin, age, left }),
        _ => Ok(()),
    }
}
