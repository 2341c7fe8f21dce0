//! Runs operations by a pace: so many under way, or each at its intended instant. Latency counts from the
//! intended instant, whether or not the operation could begin then: what waits because others are slow is slow
//! itself (no coordinated omission).

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::alarm::Alarm;
use super::schedule::Schedule;
use super::tally::{Done, Outcome, Tally};
use crate::sink::Failure;

/// Time given to what is under way when the last operation has begun
const GRACE: Duration = Duration::from_secs(10);

/// When operations begin
pub enum Pace {
    /// As soon as fewer than this many are under way
    Closed {
        /// How many
        in_flight: usize,
    },
    /// At the instants of a schedule, unless `most` are under way: then as soon as one has ended
    Open {
        /// When
        schedule: Box<Schedule>,
        /// How many at most
        most: usize,
    },
}

impl Pace {
    fn most(&self) -> usize {
        match self {
            Self::Closed { in_flight } => *in_flight,
            Self::Open { most, .. } => *most,
        }
    }

    /// The next operation's intended instant; a closed loop intends nothing but "now"
    fn next(&mut self) -> Option<Duration> {
        match self {
            Self::Closed { .. } => Some(Duration::ZERO),
            Self::Open { schedule, .. } => schedule.next(),
        }
    }
}

/// Which operations count
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Time at the start that does not
    pub omit: Duration,
    /// Time that does
    pub measure: Duration,
}

impl Window {
    /// Since the start, when the last operation may begin
    pub fn end(&self) -> Duration {
        self.omit + self.measure
    }
}

/// Begins operations by `pace` until the window has passed and waits for those under way
///
/// # Errors
/// Where the kernel has no timer or the histogram cannot be made.
pub async fn drive<O: Future<Output = Outcome>>(
    mut pace: Pace,
    window: Window,
    operation: impl Fn(u64) -> O,
) -> Result<Tally, Failure> {
    let alarm = Alarm::new()?;
    let mut tally = Tally::new(window)?;
    let closed = matches!(pace, Pace::Closed { .. });
    let mut tasks = FuturesUnordered::new();
    let begun = Instant::now();
    let last = window.end();
    let most = pace.most().max(1);
    let mut next = pace.next().filter(|at| *at < last);
    let mut number = 0;
    poll_fn(|context| {
        loop {
            while tasks.len() < most
                && let Some(intended) = next.filter(|at| *at <= begun.elapsed())
            {
                let started = begun.elapsed();
                let intended = if closed { started } else { intended };
                let operation = operation(number);
                tasks.push(async move {
                    let outcome = operation.await;
                    Done { intended, started, ended: begun.elapsed(), outcome }
                });
                number += 1;
                next = pace.next().filter(|at| *at < last);
            }
            if closed && begun.elapsed() >= last {
                next = None;
            }
            if let Poll::Ready(Some(done)) = tasks.poll_next_unpin(context) {
                tally.take(done);
                continue;
            }
            if next.is_none() && tasks.is_empty() {
                return Poll::Ready(std::io::Result::Ok(()));
            }
            let now = begun.elapsed();
            if now >= last + GRACE {
                return Poll::Ready(Ok(()));
            }
            // With too many under way, the end of one of them is what wakes this.
            let due = next.filter(|_| tasks.len() < most).unwrap_or(last + GRACE);
            if due <= now {
                continue;
            }
            if let Err(error) = alarm.set(due - now) {
                return Poll::Ready(Err(error));
            }
            match alarm.poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
        }
    })
    .await?;
    tally.unanswered(tasks.len() as u64);
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::super::schedule::Arrivals;
    use super::*;
    use std::cell::Cell;

    fn window(measure_ms: u64) -> Window {
        Window { omit: Duration::ZERO, measure: Duration::from_millis(measure_ms) }
    }

    #[tokio::test]
    async fn a_closed_loop_keeps_so_many_under_way_and_no_more() {
        let (now, most) = (Cell::new(0), Cell::new(0));
        let tally = drive(Pace::Closed { in_flight: 4 }, window(50), |_| async {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            tokio::time::sleep(Duration::from_millis(2)).await;
            now.set(now.get() - 1);
            Outcome::Good
        })
        .await
        .unwrap();
        assert_eq!((now.get(), most.get()), (0, 4));
        let counts = tally.counts();
        assert!(counts.good >= 8 && counts.unanswered == 0, "{counts:?}");
    }

    #[tokio::test]
    async fn a_stall_is_charged_to_every_operation_it_delayed() {
        // One operation at a time, meant for every millisecond; the first takes 100 ms. A generator that waits
        // for its answers would see one slow operation and 99 fast ones.
        let schedule = Box::new(Schedule::new(1_000.0, Arrivals::Constant, 0));
        let tally = drive(Pace::Open { schedule, most: 1 }, window(150), |number| async move {
            if number == 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Outcome::Good
        })
        .await
        .unwrap();
        assert_eq!(tally.counts().good, 149);
        let quantiles = tally.latency();
        assert!(quantiles.max_us >= 100_000.0);
        // About the first hundred were late, by 50 ms in the middle of them.
        assert!(quantiles.p50_us >= 20_000.0, "{quantiles:?}");
        assert!(tally.late_starts() >= 90);
    }

    #[tokio::test]
    async fn operations_begin_at_their_instants() {
        let schedule = Box::new(Schedule::new(500.0, Arrivals::Constant, 0));
        let begun = Instant::now();
        let tally =
            drive(Pace::Open { schedule, most: 64 }, window(100), |_| async { Outcome::Refused })
                .await
                .unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(98));
        assert_eq!(tally.counts().refused, 49);
        assert_eq!(tally.counts().good, 0);
    }
}
