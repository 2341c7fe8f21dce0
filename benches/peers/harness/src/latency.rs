//! Open-loop pacing and percentiles: calls are due at fixed instants whether or not earlier ones have come
//! back, and each is measured from the instant it was due. The clock is a timerfd, because the runtime's own
//! timers are no finer than a millisecond.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

use crate::Failure;
use crate::report::Percentiles;

/// Longest latency that is told apart
const LONGEST: Duration = Duration::from_secs(60);

/// Says how many calls are due
pub struct Ticker {
    timer: AsyncFd<OwnedFd>,
    begun: Instant,
    rate: u32,
}

impl Ticker {
    /// Starts now
    ///
    /// # Errors
    /// Where the kernel has no more timers.
    pub fn start(rate: u32) -> Result<Self, Failure> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let nanoseconds = 1_000_000_000 / i64::from(rate.max(1));
        let step = Timespec {
            tv_sec: nanoseconds / 1_000_000_000,
            tv_nsec: (nanoseconds % 1_000_000_000).max(1),
        };
        let plan = Itimerspec { it_interval: step, it_value: step };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &plan)?;
        #[expect(
            deprecated,
            reason = "an OwnedFd owns its descriptor, which is all that the unsafe successor asks for"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self { timer, begun: Instant::now(), rate })
    }

    /// When it started
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// The instant that call number `index` is due
    pub fn instant(&self, index: u64) -> Instant {
        let nanoseconds = u128::from(index) * 1_000_000_000 / u128::from(self.rate.max(1));
        self.begun + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Waits for the next tick; returns how many calls have been due since the start
    ///
    /// # Errors
    /// Where the timer cannot be read.
    pub async fn due(&self) -> Result<u64, Failure> {
        loop {
            let mut ready = self.timer.readable().await?;
            let mut ticks = [0; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut ticks)?));
            match read {
                Ok(outcome) => {
                    outcome?;
                    let elapsed = self.begun.elapsed().as_nanos();
                    let due = elapsed * u128::from(self.rate) / 1_000_000_000;
                    return Ok(u64::try_from(due).unwrap_or(u64::MAX));
                }
                // Woken for nothing: the readiness was stale.
                Err(_would_block) => {}
            }
        }
    }
}

/// Latencies with three significant digits
pub struct Latencies {
    nanoseconds: Histogram<u64>,
}

impl Latencies {
    /// None yet
    ///
    /// # Errors
    /// Never with the bounds that stand here.
    pub fn new() -> Result<Self, Failure> {
        let longest = u64::try_from(LONGEST.as_nanos())?;
        Ok(Self { nanoseconds: Histogram::new_with_bounds(1, longest, 3)? })
    }

    /// Adds one
    pub fn add(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.saturating_record(nanoseconds.max(1));
    }

    /// How many there are
    pub fn count(&self) -> u64 {
        self.nanoseconds.len()
    }

    /// Their distribution
    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile| self.nanoseconds.value_at_quantile(quantile) as f64 / 1e3;
        Percentiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: self.nanoseconds.max() as f64 / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_added() {
        let mut latencies = Latencies::new().unwrap();
        for micros in 1..=1_000 {
            latencies.add(Duration::from_micros(micros));
        }
        let all = latencies.percentiles();
        assert_eq!(latencies.count(), 1_000);
        assert!((all.p50 - 500.0).abs() < 2.0, "{all:?}");
        assert!((all.p99 - 990.0).abs() < 2.0, "{all:?}");
        assert!((all.max - 1_000.0).abs() < 2.0, "{all:?}");
    }

    #[tokio::test]
    async fn calls_fall_due_at_the_rate_that_was_asked() {
        let ticker = Ticker::start(2_000).unwrap();
        let mut due = 0;
        while due < 100 {
            due = ticker.due().await.unwrap();
        }
        let elapsed = ticker.begun().elapsed();
        assert!(elapsed >= Duration::from_millis(50), "{elapsed:?}");
        assert_eq!(ticker.instant(100) - ticker.begun(), Duration::from_millis(50));
    }
}
