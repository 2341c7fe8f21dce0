//! When operations are meant to begin: instants drawn before anything runs, so that a slow answer cannot put off
//! the next question.

use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// How arrivals are spread
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Independent of each other: exponential gaps
    #[default]
    Poisson,
    /// Equal gaps
    Constant,
}

/// An endless sequence of instants since the start
pub struct Schedule {
    gap_seconds: f64,
    arrivals: Arrivals,
    random: StdRng,
    at_seconds: f64,
}

impl Schedule {
    /// `per_second` arrivals on average; equal seeds give equal schedules
    pub fn new(per_second: f64, arrivals: Arrivals, seed: u64) -> Self {
        Self {
            gap_seconds: 1.0 / per_second.max(1e-3),
            arrivals,
            random: StdRng::seed_from_u64(seed),
            at_seconds: 0.0,
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let gaps = match self.arrivals {
            Arrivals::Constant => 1.0,
            // The argument is in (0, 1]: its logarithm is finite.
            Arrivals::Poisson => -(1.0 - self.random.random::<f64>()).ln(),
        };
        self.at_seconds += gaps * self.gap_seconds;
        Some(Duration::from_secs_f64(self.at_seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_gaps_are_equal() {
        let schedule = Schedule::new(1_000.0, Arrivals::Constant, 1);
        let instants: Vec<Duration> = schedule.take(1_000).collect();
        assert!(instants.is_sorted());
        assert!((instants[999].as_secs_f64() - 1.0).abs() < 1e-6);
        assert!((instants[0].as_secs_f64() - 0.001).abs() < 1e-9);
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let count = 100_000;
        let instants: Vec<f64> = Schedule::new(10_000.0, Arrivals::Poisson, 7)
            .take(count)
            .map(|at| at.as_secs_f64())
            .collect();
        let gaps: Vec<f64> = instants.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        assert!((mean * 10_000.0 - 1.0).abs() < 0.02, "{mean}");
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // The standard deviation of an exponential is its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{variance}");
        assert!(gaps.iter().all(|gap| *gap >= 0.0));
    }

    #[test]
    fn equal_seeds_give_equal_schedules() {
        let take = |seed| Schedule::new(5.0, Arrivals::Poisson, seed).take(9).collect::<Vec<_>>();
        assert_eq!(take(3), take(3));
        assert_ne!(take(3), take(4));
    }
}
