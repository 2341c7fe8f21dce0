//! What a process says about itself at one instant: processor time by kind of thread, what its workers have
//! counted, what has arrived. Differences of two samples are what reports are made of.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use stoq::{Endpoint, WorkerCounters};
use stoq_interface::STAGES;

/// Processor time of all threads of one kind
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ThreadTime {
    /// In user mode
    pub user_seconds: f64,
    /// In the kernel
    pub system_seconds: f64,
}

/// What one worker has counted
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct WorkerSample {
    /// Every plain counter by name, and every other as `table.label`
    pub counters: BTreeMap<String, u64>,
    /// Time per stage of its loop
    pub stage_ns: BTreeMap<String, u64>,
}

/// One instant of one process
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Sample {
    /// On the process's own clock
    pub at_ns: u64,
    /// Flow octets that have arrived and went through the digest
    pub data_bytes: u64,
    /// When the first of them arrived
    pub first_byte_ns: Option<u64>,
    /// When the last of them arrived
    pub last_byte_ns: Option<u64>,
    /// Processor time by kind of thread
    pub threads: BTreeMap<String, ThreadTime>,
    /// What each worker has counted
    pub workers: Vec<WorkerSample>,
}

/// Counts what arrives, on the process's clock
pub struct Meter {
    epoch: Instant,
    bytes: AtomicU64,
    first_ns: AtomicU64,
    last_ns: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Default for Meter {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            bytes: AtomicU64::new(0),
            first_ns: AtomicU64::new(NEVER),
            last_ns: AtomicU64::new(0),
        }
    }
}

impl Meter {
    /// Nanoseconds since the clock's start
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Counts octets; the clock is read for the first ones only
    pub fn add(&self, bytes: u64) {
        if self.first_ns.load(Ordering::Relaxed) == NEVER && bytes > 0 {
            self.first_ns.fetch_min(self.now_ns(), Ordering::Relaxed);
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A flow has delivered its last octet
    pub fn flow_ended(&self) {
        self.last_ns.fetch_max(self.now_ns(), Ordering::Relaxed);
    }

    /// This instant
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn sample(&self, endpoint: &Endpoint) -> std::io::Result<Sample> {
        let known = |value: u64| Some(value).filter(|ns| *ns != NEVER && *ns != 0);
        Ok(Sample {
            at_ns: self.now_ns(),
            data_bytes: self.bytes.load(Ordering::Relaxed),
            first_byte_ns: known(self.first_ns.load(Ordering::Relaxed)),
            last_byte_ns: known(self.last_ns.load(Ordering::Relaxed)),
            threads: thread_times(Path::new("/proc/self"))?,
            workers: endpoint.counters().iter().map(|counters| worker_sample(counters)).collect(),
        })
    }
}

fn worker_sample(counters: &WorkerCounters) -> WorkerSample {
    let named = |(name, value): (&str, u64)| (name.to_owned(), value);
    let stages = STAGES.into_iter().zip(counters.stage_ns.iter().map(|counter| counter.get()));
    let tables = counters.tables().into_iter().flat_map(|(table, values)| {
        values.into_iter().map(move |(label, value)| (format!("{table}.{label}"), value))
    });
    WorkerSample {
        counters: counters.entries().into_iter().map(named).chain(tables).collect(),
        stage_ns: stages.map(named).collect(),
    }
}

/// Clock ticks per second of this kernel's `/proc`, as its auxiliary vector says (AT_CLKTCK)
pub fn ticks_per_second(process: &Path) -> std::io::Result<f64> {
    const AT_CLKTCK: u64 = 17;
    let vector = std::fs::read(process.join("auxv"))?;
    let word = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).unwrap_or(0);
    let pairs = vector.chunks_exact(16).map(|pair| (word(&pair[..8]), word(&pair[8..])));
    let found = pairs.into_iter().find(|(key, _)| *key == AT_CLKTCK);
    found.map(|(_, ticks)| ticks as f64).ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::InvalidData, "auxv does not name the clock tick")
    })
}

/// Nanoseconds the calling thread has run, and nanoseconds it could have run while another had the processor
/// (first and second field of schedstat, Documentation/scheduler/sched-stats.rst)
///
/// # Errors
/// Where `/proc` cannot be read.
pub fn thread_run_and_wait_ns() -> std::io::Result<[u64; 2]> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let mut fields = text.split_ascii_whitespace().map_while(|field| field.parse().ok());
    fields.next().zip(fields.next()).map(<[u64; 2]>::from).ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::InvalidData, "schedstat does not tell the times")
    })
}

/// Nanoseconds the calling thread has run
///
/// # Errors
/// Where `/proc` cannot be read.
pub fn thread_cpu_ns() -> std::io::Result<u64> {
    Ok(thread_run_and_wait_ns()?[0])
}

fn thread_times(process: &Path) -> std::io::Result<BTreeMap<String, ThreadTime>> {
    let tick = ticks_per_second(process)?;
    let mut all: BTreeMap<String, ThreadTime> = BTreeMap::new();
    for entry in std::fs::read_dir(process.join("task"))? {
        // A thread that has ended since the listing has no file any more, and no time either.
        let Ok(text) = std::fs::read_to_string(entry?.path().join("stat")) else { continue };
        let Some((name, user, system)) = parse_stat(&text) else { continue };
        let time = all.entry(class_of(name).to_owned()).or_default();
        time.user_seconds += user as f64 / tick;
        time.system_seconds += system as f64 / tick;
    }
    Ok(all)
}

/// Name, user ticks and system ticks of a line of `stat` (proc_pid_stat(5)); the name may hold anything
pub fn parse_stat(text: &str) -> Option<(&str, u64, u64)> {
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    let mut fields = text.get(close + 1..)?.split_ascii_whitespace();
    let user = fields.nth(11)?.parse().ok()?;
    let system = fields.next()?.parse().ok()?;
    Some((text.get(open + 1..close)?, user, system))
}

/// The kind a thread's name says it is
fn class_of(name: &str) -> &'static str {
    if name.starts_with("stoq-worker") {
        "workers"
    } else if name.starts_with("bench-app") {
        "application"
    } else {
        "other"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let line = "7 (a) b) R 1 1 1 0 -1 4194304 1 0 0 0 123 45 0 0 20 0 3 0 99 1 1";
        assert_eq!(parse_stat(line), Some(("a) b", 123, 45)));
        assert_eq!(parse_stat("7 (x) R 1"), None);
        assert_eq!(class_of("stoq-worker-11"), "workers");
        assert_eq!(class_of("bench-app-0"), "application");
        assert_eq!(class_of("stoq-bench"), "other");
    }

    #[test]
    fn this_process_has_used_time() {
        let tick = ticks_per_second(Path::new("/proc/self")).unwrap();
        assert!((1.0..=10_000.0).contains(&tick));
        // Burn a few ticks in this very thread, whose name is the test's.
        let start = Instant::now();
        let mut state = 1u64;
        while start.elapsed().as_millis() < 60 {
            state = std::hint::black_box(state.wrapping_mul(3));
        }
        let times = thread_times(Path::new("/proc/self")).unwrap();
        assert!(times["other"].user_seconds > 0.0);
    }

    #[test]
    fn a_meter_keeps_the_first_and_the_last_instant() {
        let meter = Meter::default();
        meter.add(0);
        assert_eq!(meter.first_ns.load(Ordering::Relaxed), NEVER);
        meter.add(10);
        let first = meter.first_ns.load(Ordering::Relaxed);
        meter.add(5);
        assert_eq!(meter.first_ns.load(Ordering::Relaxed), first);
        meter.flow_ended();
        assert!(meter.last_ns.load(Ordering::Relaxed) >= first);
        assert_eq!(meter.bytes.load(Ordering::Relaxed), 15);
    }
}
