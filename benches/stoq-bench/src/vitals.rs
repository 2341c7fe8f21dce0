//! What a process is found to be at one instant, beyond its samples: memory, and everything it refused or dropped
//! by cause. Both ends of a run tell it; the far end over a flow of its own.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use stoq::{Endpoint, Flow, FlowError, PeerRefusal, WorkerCounters};
use stoq_interface::{Counter, DropReason};

use crate::exchange::{ExchangeError, Lines};
use crate::process::{Meter, Sample};

/// Answers questions about the process
pub const SERVICE_VITALS: &str = "bench-vitals";

/// Memory of a process (`smaps_rollup`, proc_pid_smaps(5))
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Memory {
    /// Resident
    pub rss_bytes: u64,
    /// Resident, shared pages by share
    pub pss_bytes: u64,
    /// Resident and backed by no file
    pub anonymous_bytes: u64,
}

impl Memory {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1_024)
        };
        Some(Self {
            rss_bytes: field("Rss:")?,
            pss_bytes: field("Pss:")?,
            anonymous_bytes: field("Anonymous:")?,
        })
    }

    /// Of this process
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn read() -> std::io::Result<Self> {
        let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
        Self::parse(&text).ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::InvalidData, "smaps_rollup does not parse")
        })
    }
}

/// Octets the kernel could still give out without swapping (`MemAvailable`)
///
/// # Errors
/// Where the kernel does not say.
pub fn available_bytes() -> std::io::Result<u64> {
    let text = std::fs::read_to_string(Path::new("/proc/meminfo"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1_024).ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::InvalidData, "meminfo does not name MemAvailable")
    })
}

/// One instant of one process
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Vitals {
    /// Processor time, counters, bytes
    pub sample: Sample,
    /// Memory
    pub memory: Memory,
    /// Refusals, drops and flow errors that occurred, summed over the workers: `dropped.malformed` to how many
    pub reasons: BTreeMap<String, u64>,
}

impl Vitals {
    /// Of this process, now
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn of(meter: &Meter, endpoint: &Endpoint) -> std::io::Result<Self> {
        Ok(Self {
            sample: meter.sample(endpoint)?,
            memory: Memory::read()?,
            reasons: reasons(endpoint.counters().iter().map(|counters| &**counters)),
        })
    }

    /// A plain counter, summed over the workers
    pub fn counter(&self, name: &str) -> u64 {
        let of = |worker: &crate::process::WorkerSample| worker.counters.get(name).copied();
        self.sample.workers.iter().filter_map(of).sum()
    }

    /// Processor time of the process so far
    pub fn cpu_seconds(&self) -> f64 {
        self.sample.threads.values().map(|time| time.user_seconds + time.system_seconds).sum()
    }
}

fn reasons<'a>(workers: impl Iterator<Item = &'a WorkerCounters>) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for worker in workers {
        let mut add = |kind: &str, label: &str, counter: &Counter| {
            if counter.get() > 0 {
                *all.entry(format!("{kind}.{label}")).or_default() += counter.get();
            }
        };
        for reason in DropReason::ALL {
            add("dropped", reason.label(), &worker.dropped[reason.index()]);
        }
        for reason in PeerRefusal::ALL {
            add("refused", reason.label(), &worker.refused[reason.index()]);
        }
        for reason in FlowError::ALL {
            add("flow", reason.label(), &worker.flow_errors[reason.index()]);
        }
    }
    all
}

/// The one question there is
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    Vitals,
}

/// Answers at the far end until the flow ends
///
/// # Errors
/// [`ExchangeError`] of the flow.
pub async fn answer(flow: Flow, meter: &Meter, endpoint: &Endpoint) -> Result<(), ExchangeError> {
    let mut lines = Lines::new(flow);
    while let Some(Ask::Vitals) = lines.read().await? {
        lines.write(&Vitals::of(meter, endpoint)?).await?;
    }
    lines.end().await
}

/// The near end of that flow
pub struct FarVitals(Lines);

impl FarVitals {
    /// Over a flow to [`SERVICE_VITALS`]
    pub fn new(flow: Flow) -> Self {
        Self(Lines::new(flow))
    }

    /// Asks the far end
    ///
    /// # Errors
    /// [`ExchangeError`] of the flow.
    pub async fn ask(&mut self) -> Result<Vitals, ExchangeError> {
        self.0.write(&Ask::Vitals).await?;
        let answer = self.0.read().await?;
        answer.ok_or_else(|| ExchangeError::Protocol("the far end answers no more".into()))
    }

    /// Ends the conversation
    ///
    /// # Errors
    /// [`ExchangeError`] of the flow.
    pub async fn end(&mut self) -> Result<(), ExchangeError> {
        self.0.end().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_read_and_a_torn_one_is_not() {
        let text = "55b7-7ffe ---p 0 00:00 0 [rollup]\nRss:   1684 kB\nPss:   244 kB\n\
                    Pss_Anon: 112 kB\nAnonymous:    112 kB\n";
        let memory = Memory::parse(text).unwrap();
        assert_eq!(memory.rss_bytes, 1_684 << 10);
        assert_eq!((memory.pss_bytes, memory.anonymous_bytes), (244 << 10, 112 << 10));
        assert_eq!(Memory::parse("Rss: 1 kB\nPss: x kB\nAnonymous: 1 kB"), None);
        assert_eq!(Memory::parse("Rss: 1 kB"), None);
    }

    #[test]
    fn this_process_holds_what_it_touches() {
        let held = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = Memory::read().unwrap();
        assert!(after.anonymous_bytes >= 64 << 20, "{after:?}");
        assert!(after.rss_bytes >= after.pss_bytes && held[1 << 20] == 1);
        assert!(available_bytes().unwrap() > 0);
    }

    #[test]
    fn reasons_are_summed_and_those_that_never_occurred_left_out() {
        let workers = [WorkerCounters::default(), WorkerCounters::default()];
        workers[0].dropped[DropReason::Refused.index()].add(2);
        workers[1].dropped[DropReason::Refused.index()].add(3);
        workers[1].flow_errors[FlowError::Busy.index()].add(1);
        let all = reasons(workers.iter());
        let expected = [("dropped.refused".to_owned(), 5), ("flow.busy".to_owned(), 1)];
        assert_eq!(all, BTreeMap::from(expected));
    }
}
