//! A clock that wakes a task to the microsecond: a timerfd. The runtime's own timers tick once a millisecond,
//! which is longer than most of what is measured here.

use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// Wakes the task that polls it
pub struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// An alarm that is not set; needs a runtime
    ///
    /// # Errors
    /// Where the kernel has no descriptor left.
    #[expect(
        deprecated,
        reason = "its replacement is unsafe; an OwnedFd stays open while it lives"
    )]
    pub fn new() -> std::io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?))
    }

    /// Sets it to ring once, `after` from now; whatever was set before is forgotten
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn set(&self, after: Duration) -> std::io::Result<()> {
        // Zero would mean never.
        let after = after.max(Duration::from_nanos(1));
        let value = Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(after.subsec_nanos()),
        };
        let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let new = Itimerspec { it_interval: interval, it_value: value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &new)?;
        Ok(())
    }

    /// Ready once it has rung since it was last asked
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut ready = ready!(self.0.poll_read_ready(context))?;
        // The count in the descriptor need not be read: setting the alarm anew takes it back.
        ready.clear_ready();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Instant;

    #[tokio::test]
    async fn it_rings_when_it_should_again_and_again_and_not_when_it_is_put_off() {
        let alarm = Alarm::new().unwrap();
        for after in [Duration::ZERO, Duration::from_millis(3), Duration::from_micros(200)] {
            let begun = Instant::now();
            alarm.set(after).unwrap();
            poll_fn(|context| alarm.poll(context)).await.unwrap();
            assert!(begun.elapsed() >= after);
        }
        alarm.set(Duration::from_millis(1)).unwrap();
        alarm.set(Duration::from_secs(60)).unwrap();
        let early = poll_fn(|context| alarm.poll(context));
        let early = tokio::time::timeout(Duration::from_millis(30), early).await;
        assert!(early.is_err(), "the first setting was forgotten");
    }
}
