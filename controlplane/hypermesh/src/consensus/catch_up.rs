//! How a validator that was away learns what became final: who is further, whom to ask, and when to give up on who does
//! not answer. What they send is verified by its certificates, so it does not matter whom it comes from.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::message::Tip;
use crate::operation::ValidatorKey;

/// Validators whose heights are remembered
const TIPS_LIMIT: usize = 256;
/// For an answer with many blocks, in milliseconds
const PATIENCE_MS: u64 = 1_000;
/// Who is so many blocks further is asked at once
const FAR: u64 = 64;

/// A request for final blocks
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Asked {
    /// Who was asked
    pub peer: ValidatorKey,
    /// For blocks from this height on
    pub from: u64,
    at_ms: u64,
}

/// What is known of how far others are
#[derive(Debug)]
pub struct CatchUp {
    patience_ms: u64,
    tips: BTreeMap<ValidatorKey, Tip>,
    /// How often each was no help since it last was: who boasts of its height is asked after all others
    failures: BTreeMap<ValidatorKey, u32>,
    asked: Option<Asked>,
    progress_ms: u64,
}

impl CatchUp {
    /// Nothing; without progress for `patience_ms`, who is further is asked
    pub fn new(patience_ms: u64, now_ms: u64) -> Self {
        let (tips, failures) = (BTreeMap::new(), BTreeMap::new());
        Self { patience_ms, tips, failures, asked: None, progress_ms: now_ms }
    }

    /// Somebody said how far it is. Where too many have, what a validator says takes the place of another's.
    pub fn heard(
        &mut self,
        peer: ValidatorKey,
        tip: Tip,
        validates: impl Fn(&ValidatorKey) -> bool,
    ) {
        if self.tips.len() >= TIPS_LIMIT && !self.tips.contains_key(&peer) && validates(&peer) {
            let other = self.tips.keys().find(|key| !validates(key)).copied();
            other.map(|key| self.tips.remove(&key));
        }
        if self.tips.len() < TIPS_LIMIT || self.tips.contains_key(&peer) {
            self.tips.insert(peer, tip);
        }
    }

    /// A block became final here
    pub fn progressed(&mut self, now_ms: u64) {
        self.progress_ms = now_ms;
    }

    /// Whether an answer is one that was asked for; it is not waited for any longer
    pub fn answered(&mut self, peer: &ValidatorKey, from: u64) -> bool {
        let expected = self.asked.is_some_and(|asked| asked.peer == *peer && asked.from == from);
        if expected {
            self.asked = None;
        }
        expected
    }

    /// A validator was a help
    pub fn helped(&mut self, peer: &ValidatorKey) {
        self.failures.remove(peer);
    }

    /// A validator was no help: what it said of its height is not believed until it says it again
    pub fn failed(&mut self, peer: &ValidatorKey) {
        self.tips.remove(peer);
        if self.failures.len() < TIPS_LIMIT || self.failures.contains_key(peer) {
            let failures = self.failures.entry(*peer).or_default();
            *failures = failures.saturating_add(1);
        }
        if self.asked.is_some_and(|asked| asked.peer == *peer) {
            self.asked = None;
        }
    }

    /// Whom to ask for blocks above `height` now. `urgent` is set when progress cannot come otherwise.
    pub fn due(&mut self, height: u64, urgent: bool, now_ms: u64) -> Option<Asked> {
        if let Some(asked) = self.asked {
            if now_ms < asked.at_ms + PATIENCE_MS {
                return None;
            }
            self.failed(&asked.peer);
        }
        self.tips.retain(|_, tip| tip.height > height);
        let has_next = |tip: &Tip| tip.lowest <= height + 1;
        let useful = self.tips.iter().filter(|(_, tip)| has_next(tip));
        let failures = |peer| self.failures.get(peer).copied().unwrap_or_default();
        let (peer, tip) = useful.min_by_key(|(peer, tip)| (failures(peer), Reverse(tip.height)))?;
        let stalled = now_ms >= self.progress_ms + self.patience_ms;
        if !urgent && !stalled && tip.height - height < FAR {
            return None;
        }
        let asked = Asked { peer: *peer, from: height + 1, at_ms: now_ms };
        self.asked = Some(asked);
        Some(asked)
    }

    /// The lowest block that any of those further still has, if that is above the one that is needed: then nobody can
    /// help
    pub fn gap(&self, height: u64) -> Option<u64> {
        let further = self.tips.values().filter(|tip| tip.height > height);
        further.map(|tip| tip.lowest).min().filter(|lowest| *lowest > height + 1)
    }

    /// The highest block that anybody further told of
    pub fn highest(&self) -> u64 {
        self.tips.values().map(|tip| tip.height).max().unwrap_or_default()
    }

    /// When to look again, if somebody is further
    pub fn next_ms(&self, height: u64) -> Option<u64> {
        if let Some(asked) = self.asked {
            return Some(asked.at_ms + PATIENCE_MS);
        }
        let further = self.tips.values().any(|tip| tip.height > height && tip.lowest <= height + 1);
        further.then_some(self.progress_ms + self.patience_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ValidatorKey = ValidatorKey([1; 32]);
    const OTHER: ValidatorKey = ValidatorKey([2; 32]);

    fn tip(height: u64) -> Tip {
        Tip { height, lowest: 1 }
    }

    #[test]
    fn who_is_a_little_further_is_asked_only_without_progress() {
        let mut catch_up = CatchUp::new(500, 0);
        assert_eq!(catch_up.due(10, true, 0), None, "nobody is known to be further");
        catch_up.heard(ONE, tip(12), |_| true);
        assert_eq!(catch_up.due(10, false, 499), None);
        assert_eq!(catch_up.next_ms(10), Some(500));
        catch_up.progressed(400);
        assert_eq!(catch_up.due(11, false, 899), None);
        let asked = catch_up.due(11, false, 900).unwrap();
        assert_eq!((asked.peer, asked.from), (ONE, 12));
        assert_eq!(catch_up.due(11, false, 901), None, "one at a time");
        assert!(!catch_up.answered(&OTHER, 12) && !catch_up.answered(&ONE, 11));
        assert!(catch_up.answered(&ONE, 12) && !catch_up.answered(&ONE, 12));
        assert_eq!(catch_up.due(12, true, 2_000), None, "nobody is further any more");
    }

    #[test]
    fn who_is_far_ahead_is_asked_at_once() {
        let mut catch_up = CatchUp::new(500, 0);
        catch_up.heard(ONE, tip(FAR), |_| true);
        assert!(catch_up.due(0, false, 0).is_some());
    }

    #[test]
    fn who_does_not_answer_is_not_believed() {
        let mut catch_up = CatchUp::new(500, 0);
        catch_up.heard(ONE, tip(1_000), |_| true);
        catch_up.heard(OTHER, tip(500), |_| true);
        assert_eq!(catch_up.due(0, true, 0).unwrap().peer, ONE);
        assert_eq!(catch_up.next_ms(0), Some(PATIENCE_MS));
        assert_eq!(catch_up.due(0, true, PATIENCE_MS).unwrap().peer, OTHER);
        catch_up.failed(&OTHER);
        assert_eq!(catch_up.due(0, true, PATIENCE_MS), None);
    }

    #[test]
    fn who_boasts_and_is_no_help_is_asked_last() {
        let mut catch_up = CatchUp::new(500, 0);
        catch_up.heard(OTHER, tip(500), |_| true);
        for round in 0..3 {
            // It says so again and again.
            catch_up.heard(ONE, tip(u64::MAX), |_| true);
            let asked = catch_up.due(0, true, 0).unwrap();
            assert_eq!(asked.peer == ONE, round == 0);
            assert!(catch_up.answered(&asked.peer, 1));
            if asked.peer == ONE { catch_up.failed(&ONE) } else { catch_up.helped(&OTHER) }
        }
        catch_up.failed(&OTHER);
        catch_up.heard(ONE, tip(u64::MAX), |_| true);
        assert_eq!(catch_up.due(0, true, 0).unwrap().peer, ONE, "nobody else is left");
    }

    #[test]
    fn who_no_longer_has_the_next_block_is_not_asked() {
        let mut catch_up = CatchUp::new(500, 0);
        catch_up.heard(ONE, Tip { height: 1_000, lowest: 100 }, |_| true);
        assert_eq!(catch_up.due(10, true, 9_000), None);
        assert_eq!(catch_up.next_ms(10), None);
        assert_eq!(catch_up.gap(10), Some(100));
        assert_eq!((catch_up.gap(99), catch_up.gap(2_000)), (None, None));
        catch_up.heard(OTHER, tip(500), |_| true);
        assert_eq!(catch_up.gap(10), None, "somebody still has it");
        assert!(catch_up.due(99, true, 9_000).is_some());
    }

    #[test]
    fn where_too_many_boast_validators_are_heard_all_the_same() {
        let numbered = |number: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            ValidatorKey(key)
        };
        let mut catch_up = CatchUp::new(500, 0);
        let validates = |key: &ValidatorKey| *key == ONE;
        for number in 0..2 * TIPS_LIMIT as u32 {
            let boast = Tip { height: u64::MAX, lowest: u64::MAX };
            catch_up.heard(numbered(1_000 + number), boast, validates);
        }
        assert_eq!(catch_up.tips.len(), TIPS_LIMIT);
        assert_eq!(catch_up.gap(9), Some(u64::MAX));
        catch_up.heard(ONE, tip(500), validates);
        assert_eq!(catch_up.tips.len(), TIPS_LIMIT);
        assert_eq!(catch_up.gap(9), None);
        assert_eq!(catch_up.due(9, true, 0).map(|asked| asked.peer), Some(ONE));
    }
}
