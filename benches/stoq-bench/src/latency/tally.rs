//! What became of operations: how long they took, how late they began, how they ended.

use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use serde::{Deserialize, Serialize};

use super::drive::Window;

/// Significant decimal digits of a recorded time
const DIGITS: u8 = 3;
/// Longest time told apart
const LONGEST_NS: u64 = 120_000_000_000;
/// Beginning later than this is called late
pub const LATE: Duration = Duration::from_micros(100);

/// How an operation ended
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// As it should
    Good,
    /// Not taken, by either end, with a reason
    Refused,
    /// Broken off
    Failed,
    /// Answered with other octets than asked for
    Wrong,
}

/// An operation that has ended, on the run's clock
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// When it was meant to begin
    pub intended: Duration,
    /// When it began
    pub started: Duration,
    /// When it ended
    pub ended: Duration,
    /// How
    pub outcome: Outcome,
}

/// Operations by how they ended
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// As they should
    pub good: u64,
    /// Not taken
    pub refused: u64,
    /// Broken off
    pub failed: u64,
    /// Answered with other octets than asked for
    pub wrong: u64,
    /// Not ended when the run did
    pub unanswered: u64,
}

impl Counts {
    /// Whether every answer that should have come came, and came whole
    pub fn is_sound(&self) -> bool {
        self.good > 0 && self.wrong == 0 && self.unanswered == 0
    }
}

/// Percentiles of a time
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many times
    pub count: u64,
    /// Half
    pub p50_us: f64,
    /// 90 %
    pub p90_us: f64,
    /// 99 %
    pub p99_us: f64,
    /// 99.9 %
    pub p99_9_us: f64,
    /// 99.99 %
    pub p99_99_us: f64,
    /// The longest
    pub max_us: f64,
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |part: f64| histogram.value_at_quantile(part) as f64 / 1e3;
        Self {
            count: histogram.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            p99_99_us: at(0.9999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }
}

/// Everything about the operations of a run
pub struct Tally {
    window: Window,
    latency: Histogram<u64>,
    delay: Histogram<u64>,
    late: u64,
    ended_in_window: u64,
    counts: Counts,
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Tally {
    /// Of no operation yet
    ///
    /// # Errors
    /// Where the histogram cannot be made.
    pub fn new(window: Window) -> Result<Self, CreationError> {
        let histogram = || Histogram::new_with_bounds(1, LONGEST_NS, DIGITS);
        Ok(Self {
            window,
            latency: histogram()?,
            delay: histogram()?,
            late: 0,
            ended_in_window: 0,
            counts: Counts::default(),
        })
    }

    /// Takes in an operation. What was meant for the warm-up counts only where its answer was wrong.
    pub fn take(&mut self, done: Done) {
        let good = done.outcome == Outcome::Good;
        if good && done.ended >= self.window.omit && done.ended < self.window.end() {
            self.ended_in_window += 1;
        }
        if done.intended < self.window.omit && done.outcome != Outcome::Wrong {
            return;
        }
        let counts = &mut self.counts;
        *match done.outcome {
            Outcome::Good => &mut counts.good,
            Outcome::Refused => &mut counts.refused,
            Outcome::Failed => &mut counts.failed,
            Outcome::Wrong => &mut counts.wrong,
        } += 1;
        let delay = done.started.saturating_sub(done.intended);
        self.late += u64::from(delay > LATE);
        self.delay.saturating_record(ns(delay));
        if good {
            self.latency.saturating_record(ns(done.ended.saturating_sub(done.intended)));
        }
    }

    /// Operations that never ended
    pub fn unanswered(&mut self, count: u64) {
        self.counts.unanswered += count;
    }

    /// Operations by how they ended
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Good operations that ended within the measured time, per second of it
    pub fn per_second(&self) -> f64 {
        self.ended_in_window as f64 / self.window.measure.as_secs_f64()
    }

    /// From the intended instant to the end, of good operations
    pub fn latency(&self) -> Quantiles {
        Quantiles::of(&self.latency)
    }

    /// From the intended instant to the beginning
    pub fn delay(&self) -> Quantiles {
        Quantiles::of(&self.delay)
    }

    /// Operations that began more than [`LATE`] after their intended instant
    pub fn late_starts(&self) -> u64 {
        self.late
    }

    /// The percentile distribution of the latency in microseconds, as HdrHistogram's tools plot it
    pub fn distribution(&self) -> String {
        let mut text = format!(
            "{:>12} {:>14} {:>10} {:>14}\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        );
        let mut total = 0;
        for step in self.latency.iter_quantiles(5) {
            total += step.count_since_last_iteration();
            let part = step.quantile_iterated_to();
            let inverse =
                if part < 1.0 { format!("{:.2}", 1.0 / (1.0 - part)) } else { "inf".into() };
            let value = step.value_iterated_to() as f64 / 1e3;
            text.push_str(&format!("{value:>12.3} {part:>14.12} {total:>10} {inverse:>14}\n"));
        }
        text.push_str(&format!(
            "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]\n",
            self.latency.mean() / 1e3,
            self.latency.stdev() / 1e3
        ));
        text.push_str(&format!(
            "#[Max     = {:>12.3}, Total count    = {:>12}]\n",
            self.latency.max() as f64 / 1e3,
            self.latency.len()
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(intended_ms: u64, started_ms: u64, ended_ms: u64, outcome: Outcome) -> Done {
        let ms = Duration::from_millis;
        Done { intended: ms(intended_ms), started: ms(started_ms), ended: ms(ended_ms), outcome }
    }

    fn tally() -> Tally {
        Tally::new(Window { omit: Duration::from_secs(1), measure: Duration::from_secs(2) })
            .unwrap()
    }

    #[test]
    fn the_warm_up_counts_only_for_wrong_answers() {
        let mut tally = tally();
        tally.take(done(500, 500, 600, Outcome::Good));
        tally.take(done(500, 500, 600, Outcome::Failed));
        assert_eq!(tally.counts(), Counts::default());
        tally.take(done(500, 500, 600, Outcome::Wrong));
        assert_eq!(tally.counts().wrong, 1);
        assert!(!tally.counts().is_sound());
    }

    #[test]
    fn latency_counts_from_the_intended_instant_and_the_rate_by_when_it_ended() {
        let mut tally = tally();
        tally.take(done(1_000, 1_400, 1_500, Outcome::Good));
        tally.take(done(2_999, 2_999, 3_001, Outcome::Good));
        tally.take(done(2_000, 2_000, 2_001, Outcome::Refused));
        assert_eq!(tally.counts().good, 2);
        assert_eq!(tally.per_second(), 0.5);
        assert_eq!(tally.late_starts(), 1);
        let latency = tally.latency();
        assert_eq!(latency.count, 2);
        assert!((latency.max_us / 500_000.0 - 1.0).abs() < 0.002, "{latency:?}");
        assert!((tally.delay().max_us / 400_000.0 - 1.0).abs() < 0.002);
    }

    #[test]
    fn quantiles_are_those_of_the_times() {
        let mut tally = tally();
        for ms in 1..=1_000 {
            tally.take(done(1_000, 1_000, 1_000 + ms, Outcome::Good));
        }
        let latency = tally.latency();
        let expected = [
            (latency.p50_us, 500e3),
            (latency.p90_us, 900e3),
            (latency.p99_us, 990e3),
            (latency.p99_9_us, 999e3),
            (latency.p99_99_us, 1_000e3),
        ];
        for (seen, wanted) in expected {
            assert!((seen / wanted - 1.0).abs() < 0.002, "{seen} {wanted}");
        }
        let text = tally.distribution();
        assert!(text.contains("Total count    =         1000"), "{text}");
        assert!(text.lines().count() > 20);
        assert!(text.contains("inf"));
    }
}
