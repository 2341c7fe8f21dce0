//! The search for capacity: more and more operations under way until the rate no longer grows. Pure; running the
//! steps is the caller's.

use serde::{Deserialize, Serialize};

/// Growth below which a step has gained nothing
const GROWTH: f64 = 1.03;
/// Steps without growth that end the search: one alone may be noise
const FLAT_STEPS: usize = 2;

/// One step
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Step {
    /// Operations under way at any time
    pub in_flight: usize,
    /// Operations that ended
    pub per_second: f64,
}

/// A search under way
#[derive(Clone, Debug, Default)]
pub struct Search {
    steps: Vec<Step>,
    flat: usize,
    best: Option<Step>,
}

impl Search {
    /// How many to keep under way next; `None` when the search is over
    pub fn next_in_flight(&self, most: usize) -> Option<usize> {
        let next = match self.steps.last() {
            None => 1,
            Some(_) if self.flat >= FLAT_STEPS => return None,
            Some(last) if last.in_flight >= most => return None,
            Some(last) => (last.in_flight * 2).min(most),
        };
        Some(next.max(1))
    }

    /// What a step came to
    pub fn record(&mut self, step: Step) {
        let before = self.best.map_or(0.0, |best| best.per_second);
        self.flat = if step.per_second > before * GROWTH { 0 } else { self.flat + 1 };
        if step.per_second > before {
            self.best = Some(step);
        }
        self.steps.push(step);
    }

    /// The step with the highest rate; `None` where nothing ended at all
    pub fn capacity(&self) -> Option<Step> {
        self.best
    }

    /// All steps
    pub fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(most: usize, rate: impl Fn(usize) -> f64) -> Search {
        let mut search = Search::default();
        while let Some(in_flight) = search.next_in_flight(most) {
            search.record(Step { in_flight, per_second: rate(in_flight) });
            assert!(search.steps.len() < 64, "the search does not end");
        }
        search
    }

    #[test]
    fn the_search_ends_two_steps_behind_the_knee() {
        let search = search(1_024, |in_flight| (in_flight as f64 * 100.0).min(1_600.0));
        assert_eq!(search.capacity(), Some(Step { in_flight: 16, per_second: 1_600.0 }));
        let tried: Vec<usize> = search.into_steps().iter().map(|step| step.in_flight).collect();
        assert_eq!(tried, [1, 2, 4, 8, 16, 32, 64]);
    }

    #[test]
    fn one_bad_step_does_not_end_it() {
        let rate = |in_flight: usize| if in_flight == 4 { 10.0 } else { in_flight as f64 * 100.0 };
        assert_eq!(search(64, rate).capacity().unwrap().in_flight, 64);
    }

    #[test]
    fn a_limit_that_is_no_power_of_two_is_reached_and_kept() {
        assert_eq!(search(100, |in_flight| in_flight as f64).capacity().unwrap().in_flight, 100);
        assert_eq!(search(0, |_| 1.0).into_steps().len(), 1);
    }

    #[test]
    fn where_nothing_ends_there_is_no_capacity() {
        assert_eq!(search(8, |_| 0.0).capacity(), None);
    }
}
