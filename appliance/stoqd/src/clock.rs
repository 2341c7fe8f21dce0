//! The clocks of the node, read together: the host's, or for tests one that runs faster from a certain moment
//! on. Whoever judges certificates here or waits for their dates asks this one.

use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stoq_interface::WallClock;
use stoq_trustchain::rotation::Now;

/// `FROM:RATE`: seconds since 1970 from which on the clock runs RATE times as fast as the host's
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TestClock(WallClock);

/// The text is no such clock
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a test clock is FROM:RATE: seconds since 1970, and how many times as fast, 1 to 100000")]
pub struct TestClockError;

/// Largest rate: a day in less than a second
const RATE_MAX: u32 = 100_000;

impl FromStr for TestClock {
    type Err = TestClockError;

    fn from_str(text: &str) -> Result<Self, TestClockError> {
        let (from, rate) = text.split_once(':').ok_or(TestClockError)?;
        let from = from.parse().map_err(|_| TestClockError)?;
        let from = UNIX_EPOCH.checked_add(Duration::from_secs(from)).ok_or(TestClockError)?;
        let rate = rate.parse().map_err(|_| TestClockError)?;
        if !(1..=RATE_MAX).contains(&rate) {
            return Err(TestClockError);
        }
        Ok(Self(WallClock::Accelerated { from, rate }))
    }
}

/// The node's clocks
#[derive(Clone, Copy, Debug)]
pub struct NodeClock {
    wall: WallClock,
    /// Both clocks at one moment, from which an accelerated monotone clock is counted
    began: (SystemTime, Instant),
}

impl NodeClock {
    /// The host's clock, or the test's
    pub fn new(test: Option<TestClock>) -> Self {
        let wall = test.map_or(WallClock::Host, |TestClock(wall)| wall);
        Self { wall, began: (wall.now(), Instant::now()) }
    }

    /// As the data plane takes it
    pub fn wall(&self) -> WallClock {
        self.wall
    }

    /// The time
    pub fn now(&self) -> SystemTime {
        self.wall.now()
    }

    /// Both clocks, as rotation takes them
    pub fn look(&self) -> Now {
        let wall = self.wall.now();
        let monotone = match self.wall {
            WallClock::Host => Instant::now(),
            WallClock::Accelerated { .. } => {
                let (wall_then, monotone_then) = self.began;
                monotone_then + wall.duration_since(wall_then).unwrap_or_default()
            }
        };
        Now { wall, monotone }
    }

    /// The host's time until the monotone clock of [`Self::look`] shows `deadline`
    pub fn until(&self, deadline: Instant) -> Duration {
        self.wall.wait(deadline.saturating_duration_since(self.look().monotone))
    }

    /// The host's time in which this clock moves on by `shown`
    pub fn wait(&self, shown: Duration) -> Duration {
        self.wall.wait(shown)
    }

    /// How far this clock moves on while the host's does by `host`
    pub fn shown_in(&self, host: Duration) -> Duration {
        match self.wall {
            WallClock::Host => host,
            WallClock::Accelerated { rate, .. } => host * rate.max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_clock_is_read_strictly() {
        let read: TestClock = "1000:600".parse().unwrap();
        let from = UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(read, TestClock(WallClock::Accelerated { from, rate: 600 }));
        for wrong in ["", "1000", "1000:0", "1000:100001", ":5", "x:5", "99999999999999999999:5"] {
            assert_eq!(wrong.parse::<TestClock>(), Err(TestClockError), "{wrong}");
        }
    }

    #[test]
    fn both_clocks_of_a_look_run_alike() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let clock = NodeClock::new(Some(format!("{}:50000", now - 1).parse().unwrap()));
        let first = clock.look();
        // Spins: the clock moves by minutes in these few milliseconds.
        let end = Instant::now() + Duration::from_millis(5);
        while Instant::now() < end {}
        let second = clock.look();
        let wall = second.wall.duration_since(first.wall).unwrap();
        assert!(wall >= Duration::from_secs(240), "{wall:?}");
        assert_eq!(second.monotone - first.monotone, wall);
        assert!(
            clock.until(second.monotone + Duration::from_secs(50_000)) <= Duration::from_secs(1)
        );
    }
}
