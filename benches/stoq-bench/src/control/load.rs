//! Full load and half of it, for whatever issues: how many certificates a second, and how long each takes when
//! half as many are asked for on a schedule.

use std::time::Duration;

use crate::latency::drive::{Pace, Window, drive};
use crate::latency::schedule::{Arrivals, Schedule};
use crate::latency::tally::Outcome;
use crate::sink::Failure;

use super::office::Office;
use super::report::Issuing;
use super::steps;

/// Warm-up of the full load
const OMIT: Duration = Duration::from_millis(500);
/// Warm-up of half the load: what the full one left behind, records that follow and pages that go to the disk, is no part
/// of what half of it costs
const SETTLE: Duration = Duration::from_secs(3);
/// Requests under way at half load at most; more would be refused by the authority
const MOST: usize = 1_000;
const SEED: u64 = 4;

/// Measures both loads of `issue`, which is told the number of the request
pub async fn measure<O: Future<Output = Outcome>>(
    office: &Office,
    in_flight: usize,
    time: Duration,
    issue: impl Fn(u64) -> O,
) -> Result<Issuing, Failure> {
    let window = Window { omit: OMIT, measure: time };
    let before = (office.signatures().await?, office.ca.status());
    let cpu = steps::process_cpu();
    let full = drive(Pace::Closed { in_flight }, window, &issue).await?;
    let cpu = steps::process_cpu().saturating_sub(cpu);
    let after = (office.signatures().await?, office.ca.status());
    let issued = after.1.issued.saturating_sub(before.1.issued).max(1) as f64;
    let groups = after.1.journal.groups.saturating_sub(before.1.journal.groups).max(1);
    let half_per_second = full.per_second() / 2.0;
    let schedule = Box::new(Schedule::new(half_per_second, Arrivals::Poisson, SEED));
    let offset = 1 << 40;
    let pace = Pace::Open { schedule, most: MOST };
    let window = Window { omit: SETTLE, ..window };
    let half = drive(pace, window, |number| issue(offset + number)).await?;
    Ok(Issuing {
        per_second: full.per_second(),
        in_flight,
        full: full.counts(),
        half_per_second,
        half: half.counts(),
        half_latency_us: half.latency(),
        cpu_us: cpu.as_secs_f64() * 1e6 / issued,
        signatures: after.0.saturating_sub(before.0) as f64 / issued,
        per_group: issued / groups as f64,
    })
}
