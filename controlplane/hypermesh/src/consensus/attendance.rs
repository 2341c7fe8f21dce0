//! Who is heard of and who takes its turns. A validator that is silent, late or cut off has signed nothing false, so
//! it is only ever suspected: nothing here is evidence, and no quorum is counted by it.

use std::collections::{BTreeMap, VecDeque};

use crate::operation::ValidatorKey;

/// Turns of each validator that are remembered
const TURNS_LIMIT: usize = 16;
/// Turns without which nothing is said of them
const TURNS_FLOOR: usize = 4;

/// Why a validator is suspected
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Suspicion {
    /// Nothing came from it for so many milliseconds
    Silent {
        /// How long
        for_ms: u64,
    },
    /// Its turns pass without a block
    MissesTurns {
        /// How many of the last ones
        missed: usize,
        /// How many there were
        of: usize,
    },
}

#[derive(Clone, Debug, Default)]
struct Record {
    heard_ms: Option<u64>,
    turns: VecDeque<bool>,
}

/// What is known of each validator's presence
#[derive(Clone, Debug)]
pub struct Attendance {
    since_ms: u64,
    silence_ms: u64,
    records: BTreeMap<ValidatorKey, Record>,
}

impl Attendance {
    /// From `now_ms` on; silence is suspect after `silence_ms`
    pub fn new(now_ms: u64, silence_ms: u64) -> Self {
        Self { since_ms: now_ms, silence_ms, records: BTreeMap::new() }
    }

    /// Something came from a validator
    pub fn heard(&mut self, validator: ValidatorKey, now_ms: u64) {
        self.records.entry(validator).or_default().heard_ms = Some(now_ms);
    }

    /// A validator's turn is over, with or without a block that others could support
    pub fn turn(&mut self, leader: ValidatorKey, taken: bool) {
        let turns = &mut self.records.entry(leader).or_default().turns;
        turns.push_back(taken);
        if turns.len() > TURNS_LIMIT {
            turns.pop_front();
        }
    }

    /// How long nothing came from a validator, in milliseconds
    pub fn silent_ms(&self, validator: &ValidatorKey, now_ms: u64) -> u64 {
        let heard = self.records.get(validator).and_then(|record| record.heard_ms);
        now_ms.saturating_sub(heard.unwrap_or(self.since_ms))
    }

    /// Turns a validator missed, and how many of its last turns are remembered
    pub fn missed(&self, validator: &ValidatorKey) -> (usize, usize) {
        let Some(record) = self.records.get(validator) else { return (0, 0) };
        (record.turns.iter().filter(|taken| !**taken).count(), record.turns.len())
    }

    /// Why a validator is suspected, if it is
    pub fn suspicion(&self, validator: &ValidatorKey, now_ms: u64) -> Option<Suspicion> {
        let for_ms = self.silent_ms(validator, now_ms);
        if for_ms >= self.silence_ms {
            return Some(Suspicion::Silent { for_ms });
        }
        let (missed, of) = self.missed(validator);
        (of >= TURNS_FLOOR && missed * 4 >= of * 3).then_some(Suspicion::MissesTurns { missed, of })
    }

    /// Forgets everyone else
    pub fn retain(&mut self, keep: impl Fn(&ValidatorKey) -> bool) {
        self.records.retain(|validator, _| keep(validator));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ValidatorKey = ValidatorKey([1; 32]);
    const OTHER: ValidatorKey = ValidatorKey([2; 32]);

    #[test]
    fn silence_is_suspect_after_its_time_and_not_before() {
        let mut attendance = Attendance::new(1_000, 5_000);
        assert_eq!(attendance.suspicion(&ONE, 5_999), None);
        let silent = Some(Suspicion::Silent { for_ms: 5_000 });
        assert_eq!(attendance.suspicion(&ONE, 6_000), silent);
        attendance.heard(ONE, 6_000);
        assert_eq!(attendance.suspicion(&ONE, 10_999), None);
        assert_eq!(attendance.suspicion(&ONE, 11_000), silent);
        assert!(attendance.suspicion(&OTHER, 10_999).is_some());
    }

    #[test]
    fn missed_turns_are_suspect_once_most_are_missed() {
        let mut attendance = Attendance::new(0, 5_000);
        for _ in 0..3 {
            attendance.turn(ONE, false);
            assert_eq!(attendance.suspicion(&ONE, 1), None, "too few to say");
        }
        attendance.turn(ONE, false);
        let misses = Some(Suspicion::MissesTurns { missed: 4, of: 4 });
        assert_eq!(attendance.suspicion(&ONE, 1), misses);
        for _ in 0..TURNS_LIMIT {
            attendance.turn(ONE, true);
        }
        assert_eq!(attendance.missed(&ONE), (0, TURNS_LIMIT));
        assert_eq!(attendance.suspicion(&ONE, 1), None);
    }

    #[test]
    fn who_left_is_forgotten() {
        let mut attendance = Attendance::new(0, 5_000);
        attendance.turn(ONE, false);
        attendance.turn(OTHER, false);
        attendance.retain(|validator| *validator == OTHER);
        assert_eq!((attendance.missed(&ONE), attendance.missed(&OTHER)), ((0, 0), (1, 1)));
    }
}
