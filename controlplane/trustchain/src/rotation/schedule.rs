//! Points in time drawn at random: where in a window a renewal begins, and how long to wait after a failure.
//! Nothing here looks at a clock.

use std::time::{Duration, SystemTime};

use rand::Rng;
use rand::rngs::StdRng;

/// An authority that asks for more patience than this is asked again all the same
pub const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(3_600);
/// An authority is asked for its window no more often (RFC 9773 section 4.3.3)
pub const INFORMATION_INTERVAL_SHORTEST: Duration = Duration::from_secs(60);
/// An authority is asked for its window no less often (RFC 9773 section 4.3.3)
pub const INFORMATION_INTERVAL_LONGEST: Duration = Duration::from_secs(24 * 3_600);
/// Over how long the first requests of many nodes are spread that all find out at once that they need a
/// certificate: after a start, a suspension or a revocation
pub const URGENT_SPREAD: Duration = Duration::from_secs(10);

/// When the authority would like a certificate to be renewed (RFC 9773 section 4.2, `suggestedWindow`)
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RenewalWindow {
    /// First instant
    pub start: SystemTime,
    /// Last instant, after `start`
    pub end: SystemTime,
}

impl RenewalWindow {
    /// A point inside, every one as likely
    pub(super) fn choose(&self, random: &mut StdRng) -> SystemTime {
        let length = self.end.duration_since(self.start).unwrap_or_default();
        self.start + up_to(random, length)
    }
}

/// A duration from zero to `most`, every one as likely
pub(super) fn up_to(random: &mut StdRng, most: Duration) -> Duration {
    between(random, Duration::ZERO, most)
}

/// A duration from `least` to `most`, every one as likely; `least` where they are out of order
pub(super) fn between(random: &mut StdRng, least: Duration, most: Duration) -> Duration {
    let span = most.saturating_sub(least);
    let nanoseconds = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    least + Duration::from_nanos(random.random_range(0..=nanoseconds))
}

/// `offset` of a certificate that lives `nominal`, for one that lives `lifetime`
pub(super) fn in_proportion(offset: Duration, nominal: Duration, lifetime: Duration) -> Duration {
    if lifetime == nominal || nominal.is_zero() {
        return offset;
    }
    lifetime.mul_f64(offset.as_secs_f64() / nominal.as_secs_f64())
}

/// Waits that grow with each failure and never fall into step with those of other nodes: decorrelated jitter,
/// drawn from the whole range up to the bound, so that no probability gathers on the bound itself
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    base: Duration,
    cap: Duration,
    last: Duration,
}

impl Backoff {
    pub(super) fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, last: base }
    }

    /// The wait after one more failure, from the base to three times the last wait, never above the cap
    pub(super) fn next(&mut self, random: &mut StdRng) -> Duration {
        let most = self.last.saturating_mul(3).min(self.cap);
        self.last = between(random, self.base, most);
        self.last
    }

    /// After a success
    pub(super) fn reset(&mut self) {
        self.last = self.base;
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn waits_stay_within_their_bounds_grow_and_start_over() {
        let (base, cap) = (Duration::from_secs(5), Duration::from_secs(300));
        let mut random = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(base, cap);
        assert!(backoff.next(&mut random) <= 3 * base);
        let waits: Vec<_> = (0..2_000).map(|_| backoff.next(&mut random)).collect();
        assert!(waits.iter().all(|wait| (base..=cap).contains(wait)));
        assert!(waits.iter().any(|wait| *wait > cap / 2));
        // No lump on the bound: that would be a herd that never disperses.
        assert!(waits.iter().filter(|wait| **wait == cap).count() < 3);
        backoff.reset();
        assert!(backoff.next(&mut random) <= 3 * base);
    }

    #[test]
    fn points_spread_over_the_whole_window() {
        let mut random = StdRng::seed_from_u64(2);
        let start = UNIX_EPOCH + Duration::from_secs(1_000);
        let window = RenewalWindow { start, end: start + Duration::from_secs(100) };
        let mut tenths = [0; 10];
        for _ in 0..10_000 {
            let offset = window.choose(&mut random).duration_since(start).unwrap();
            assert!(offset <= Duration::from_secs(100));
            tenths[(offset.as_secs() / 10).min(9) as usize] += 1;
        }
        assert!(tenths.iter().all(|hits| (800..1_200).contains(hits)), "{tenths:?}");
    }

    #[test]
    fn other_lifetimes_are_treated_in_proportion() {
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        assert_eq!(in_proportion(hours(16), hours(24), hours(24)), hours(16));
        assert_eq!(in_proportion(hours(16), hours(24), hours(12)), hours(8));
        assert_eq!(in_proportion(hours(18), hours(24), hours(4)), hours(3));
    }
}
