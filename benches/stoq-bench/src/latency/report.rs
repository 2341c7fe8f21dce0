//! The record of a latency run and its text. Figures come in; nothing is measured here.

use serde::{Deserialize, Serialize};

use super::client::Kind;
use super::schedule::Arrivals;
use super::search::Step;
use super::tally::{Counts, LATE, Quantiles, Tally};
use crate::beside::PeerRun;
use crate::rig::Conditions;

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.latency/1";

/// One rate
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Level {
    /// Of the measured capacity
    pub percent: f64,
    /// What was asked for
    pub target_per_second: f64,
    /// What ended in the measured time
    pub achieved_per_second: f64,
    /// From the intended instant to the end
    pub latency_us: Quantiles,
    /// From the intended instant to the beginning: the generator's own lateness
    pub start_delay_us: Quantiles,
    /// Operations that began more than 100 microseconds late
    pub late_starts: u64,
    /// Operations by how they ended
    pub counts: Counts,
    /// The same rate on other stacks
    pub beside: Vec<PeerRun>,
}

impl Level {
    /// Of a run
    pub fn of(percent: f64, target_per_second: f64, tally: &Tally) -> Self {
        Self {
            percent,
            target_per_second,
            achieved_per_second: tally.per_second(),
            latency_us: tally.latency(),
            start_delay_us: tally.delay(),
            late_starts: tally.late_starts(),
            counts: tally.counts(),
            beside: Vec::new(),
        }
    }

    /// In text
    pub fn line(&self) -> String {
        let counts = &self.counts;
        let mut line = format!(
            "  {:>5.1} %  {:>9.0}/s of {:>9.0}  {}",
            self.percent,
            self.achieved_per_second,
            self.target_per_second,
            quantiles(&self.latency_us),
        );
        line.push_str(&format!(
            "  {} begun over {} us late (p99 {:.0} us)",
            self.late_starts,
            LATE.as_micros(),
            self.start_delay_us.p99_us
        ));
        for (count, name) in [
            (counts.refused, "refused"),
            (counts.failed, "failed"),
            (counts.wrong, "WRONG"),
            (counts.unanswered, "unanswered"),
        ] {
            if count > 0 {
                line.push_str(&format!("; {count} {name}"));
            }
        }
        line
    }
}

/// Percentiles in text
pub fn quantiles(all: &Quantiles) -> String {
    format!(
        "p50 {:.0} p90 {:.0} p99 {:.0} p99.9 {:.0} p99.99 {:.0} max {:.0} us",
        all.p50_us, all.p90_us, all.p99_us, all.p99_9_us, all.p99_99_us, all.max_us
    )
}

/// Calls, or flows
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct KindReport {
    /// Which
    pub of: Kind,
    /// The search for capacity
    pub search: Vec<Step>,
    /// The highest rate found, closed loop
    pub capacity_per_second: f64,
    /// How many were under way then
    pub in_flight_at_capacity: usize,
    /// The rates, open loop
    pub levels: Vec<Level>,
}

/// A whole run
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LatencyReport {
    /// [`SCHEMA`]
    pub schema: String,
    /// What it was made under
    pub conditions: Conditions,
    /// Octets of a request
    pub request_bytes: u64,
    /// Octets of a response
    pub response_bytes: u64,
    /// Connections
    pub connections: usize,
    /// How arrivals were spread
    pub arrivals: Arrivals,
    /// Measured time of each rate
    pub seconds: f64,
    /// Warm-up of each rate
    pub omitted_seconds: f64,
    /// Calls, flows or both
    pub kinds: Vec<KindReport>,
}

impl LatencyReport {
    /// Whether every answer came, and came whole
    pub fn is_sound(&self) -> bool {
        let mut levels = self.kinds.iter().flat_map(|kind| &kind.levels);
        !self.kinds.is_empty() && levels.all(|level| level.counts.is_sound())
    }
}
