//! Blocks that are needed and not here: whom to ask next, and when. One validator is asked at a time, the likeliest
//! first, and what nobody needs any more is forgotten.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::operation::ValidatorKey;

/// Blocks that are asked for at a time
pub const WANTS_LIMIT: usize = 256;
/// A block its proposer is sending is not asked for before this
const GRACE_MS: u64 = 20;
/// What nobody asked for during so long is no longer needed
const NEED_MS: u64 = 5_000;

#[derive(Debug)]
struct Want {
    hint: Option<ValidatorKey>,
    /// There was a hint. It counts once: whoever is sending a block may have died over it.
    hinted: bool,
    turn: usize,
    next_ms: u64,
    needed_ms: u64,
}

/// Blocks that are needed
#[derive(Debug)]
pub struct Wants {
    patience_ms: u64,
    wants: BTreeMap<Digest, Want>,
}

impl Wants {
    /// Nothing; who is asked has `patience_ms` to answer
    pub fn new(patience_ms: u64) -> Self {
        Self { patience_ms, wants: BTreeMap::new() }
    }

    /// A block is needed. `hint` is sending it, or has it for certain.
    pub fn need(&mut self, block: Digest, hint: Option<ValidatorKey>, now_ms: u64) {
        if let Some(want) = self.wants.get_mut(&block) {
            want.needed_ms = now_ms;
            if !want.hinted {
                (want.hint, want.hinted) = (hint, hint.is_some());
            }
        } else if self.wants.len() < WANTS_LIMIT {
            // Whom to ask first differs from block to block, so that not all ask the same one.
            let turn = usize::from(block[0]);
            let next_ms = if hint.is_some() { now_ms + GRACE_MS } else { now_ms };
            let want = Want { hint, hinted: hint.is_some(), turn, next_ms, needed_ms: now_ms };
            self.wants.insert(block, want);
        }
    }

    /// Whether a block is needed
    pub fn contains(&self, block: &Digest) -> bool {
        self.wants.contains_key(block)
    }

    /// A block is here
    pub fn met(&mut self, block: &Digest) {
        self.wants.remove(block);
    }

    /// Nothing is needed any more
    pub fn clear(&mut self) {
        self.wants.clear();
    }

    /// Whom to ask for what now
    pub fn due(&mut self, others: &[ValidatorKey], now_ms: u64) -> Vec<(ValidatorKey, Digest)> {
        self.wants.retain(|_, want| now_ms.saturating_sub(want.needed_ms) < NEED_MS);
        let mut asked = Vec::new();
        for (block, want) in self.wants.iter_mut().filter(|(_, want)| want.next_ms <= now_ms) {
            want.next_ms = now_ms + self.patience_ms;
            let to = want.hint.take().filter(|hint| others.contains(hint)).or_else(|| {
                want.turn = want.turn.wrapping_add(1);
                others.get(want.turn.checked_rem(others.len())?).copied()
            });
            asked.extend(to.map(|to| (to, *block)));
        }
        asked
    }

    /// When somebody is to be asked next
    pub fn next_ms(&self) -> Option<u64> {
        self.wants.values().map(|want| want.next_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: [ValidatorKey; 3] =
        [ValidatorKey([1; 32]), ValidatorKey([2; 32]), ValidatorKey([3; 32])];

    #[test]
    fn who_proposed_is_asked_first_and_then_everyone_in_turn() {
        let mut wants = Wants::new(100);
        wants.need([7; 32], Some(OTHERS[2]), 1_000);
        assert_eq!(wants.due(&OTHERS, 1_000 + GRACE_MS - 1), [], "it may be on its way");
        assert_eq!(wants.next_ms(), Some(1_000 + GRACE_MS));
        assert_eq!(wants.due(&OTHERS, 1_000 + GRACE_MS), [(OTHERS[2], [7; 32])]);
        assert_eq!(wants.due(&OTHERS, 1_000 + GRACE_MS), [], "it was asked just now");
        let mut asked: Vec<_> = (0..3)
            .flat_map(|round| wants.due(&OTHERS, 2_000 + round * 100))
            .map(|(to, _)| to)
            .collect();
        asked.sort();
        assert_eq!(asked, OTHERS);
        wants.met(&[7; 32]);
        assert_eq!((wants.due(&OTHERS, 9_000), wants.next_ms()), (Vec::new(), None));
    }

    #[test]
    fn what_is_no_longer_needed_is_not_asked_for() {
        let mut wants = Wants::new(100);
        wants.need([1; 32], None, 0);
        wants.need([2; 32], None, 0);
        wants.need([2; 32], None, NEED_MS);
        let asked: Vec<_> =
            wants.due(&OTHERS, NEED_MS).into_iter().map(|(_, block)| block).collect();
        assert_eq!(asked, [[2; 32]]);
        assert!(!wants.contains(&[1; 32]) && wants.contains(&[2; 32]));
    }

    #[test]
    fn needs_are_bounded_and_nobody_to_ask_is_no_harm() {
        let mut wants = Wants::new(100);
        for number in 0..2 * WANTS_LIMIT as u64 {
            let mut block = [0; 32];
            block[..8].copy_from_slice(&number.to_be_bytes());
            wants.need(block, None, 0);
        }
        assert_eq!(wants.wants.len(), WANTS_LIMIT);
        assert_eq!(wants.due(&[], 1), []);
    }

    #[test]
    fn a_proposer_that_died_does_not_keep_others_from_being_asked() {
        let mut wants = Wants::new(100);
        let mut asked = Vec::new();
        // The question is looked at again at every turn, and names the proposer each time.
        for turn in 0..5 {
            let now_ms = 1_000 + turn * 100;
            wants.need([7; 32], Some(OTHERS[2]), now_ms);
            asked.extend(wants.due(&OTHERS, now_ms + GRACE_MS).into_iter().map(|(to, _)| to));
        }
        assert_eq!(asked[0], OTHERS[2]);
        assert!(OTHERS.iter().all(|one| asked[1..].contains(one)), "{asked:?}");

        // One that was needed before its proposer was known
        let mut wants = Wants::new(100);
        wants.need([8; 32], None, 1_000);
        wants.need([8; 32], Some(OTHERS[1]), 1_000);
        assert_eq!(wants.due(&OTHERS, 1_000), [(OTHERS[1], [8; 32])]);
    }
}
