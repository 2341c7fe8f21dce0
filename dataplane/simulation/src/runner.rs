//! Runs many scenarios at once: they follow the real clock, as the transport underneath does, and mostly
//! wait, so that a thread keeps dozens of them under way.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::scenario::{Failure, Identities, Progress, Report, Scenario};

/// Scenarios under way in one thread
const LIVE: usize = 48;
/// A wait shorter than this is not worth a system call
const SHORTEST_WAIT: Duration = Duration::from_micros(50);

/// Runs the seeds on `threads` threads and reports each that ended; stops at the first failure
pub fn run(
    seeds: impl IntoIterator<Item = u64>,
    threads: usize,
    ended: impl Fn(u64, &Report) + Sync,
) -> Result<Report, Box<Failure>> {
    let queue: Mutex<VecDeque<u64>> = Mutex::new(seeds.into_iter().collect());
    let identities = Identities::new();
    let stop = AtomicBool::new(false);
    let work = || {
        let outcome = work(&queue, &identities, &stop, &ended);
        if outcome.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        outcome
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let mut total = Report::default();
        let mut failure = None;
        for worker in workers {
            match worker.join() {
                Ok(Ok(report)) => total.add(&report),
                Ok(Err(error)) => failure = Some(error),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        failure.map_or(Ok(total), Err)
    })
}

fn work(
    queue: &Mutex<VecDeque<u64>>,
    identities: &Identities,
    stop: &AtomicBool,
    ended: &(impl Fn(u64, &Report) + Sync),
) -> Result<Report, Box<Failure>> {
    let next = || queue.lock().ok().and_then(|mut seeds| seeds.pop_front());
    let mut live: Vec<(Option<Instant>, Scenario)> = Vec::new();
    let mut total = Report::default();
    while !stop.load(Ordering::Relaxed) {
        while live.len() < LIVE
            && let Some(seed) = next()
        {
            let now = Instant::now();
            live.push((Some(now), Scenario::new(seed, now, identities)));
        }
        if live.is_empty() {
            break;
        }
        let mut index = 0;
        while index < live.len() {
            let (wake, scenario) = &mut live[index];
            let now = Instant::now();
            if wake.is_none_or(|wake| wake > now) {
                index += 1;
                continue;
            }
            match scenario.step(now).map_err(Box::new)? {
                Progress::Running(at) => {
                    *wake = at;
                    index += 1;
                }
                Progress::Ended(report) => {
                    ended(scenario.seed(), &report);
                    total.add(&report);
                    live.swap_remove(index);
                }
            }
        }
        let wake = live.iter().filter_map(|(wake, _)| *wake).min();
        let wait = wake.map(|wake| wake.saturating_duration_since(Instant::now()));
        if let Some(wait) = wait.filter(|wait| *wait > SHORTEST_WAIT) {
            // Nobody unparks this thread: it waits for the next scenario's deadline.
            std::thread::park_timeout(wait);
        }
    }
    Ok(total)
}
