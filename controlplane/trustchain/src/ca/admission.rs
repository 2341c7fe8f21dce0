//! Admission: how many requests are under way at one time, and how often one identity may ask. Whoever is refused
//! is told when to come again, never at the same moment as everybody else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::api::Refusal;
use super::settings::Limits;

const RETRY_SHORTEST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Admission {
    limits: Limits,
    places: Arc<Semaphore>,
    begun: Instant,
    /// Of each identity, when it would have used up everything it may (the theoretical arrival time of GCRA)
    due: Mutex<HashMap<String, Duration>>,
    /// Smoothed time of one request, in microseconds
    typical_us: AtomicU64,
}

/// A request that is under way
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    since: Instant,
}

impl Admission {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            places: Arc::new(Semaphore::new(limits.in_flight)),
            begun: Instant::now(),
            due: Mutex::default(),
            typical_us: AtomicU64::new(1_000),
        }
    }

    /// Lets a request in, or says when there may be room
    pub(super) fn enter(&self) -> Result<Place, Refusal> {
        match self.places.clone().try_acquire_owned() {
            Ok(permit) => Ok(Place { _permit: permit, since: Instant::now() }),
            Err(_full) => Err(self.busy(Duration::ZERO)),
        }
    }

    /// A request that succeeded took this long
    pub(super) fn took(&self, place: &Place) {
        let took = u64::try_from(place.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let typical = self.typical_us.load(Ordering::Relaxed);
        self.typical_us.store(typical - typical / 16 + took / 16, Ordering::Relaxed);
    }

    /// Counts a request of an identity
    pub(super) fn count(&self, identity: &str) -> Result<(), Refusal> {
        let now = self.begun.elapsed();
        let interval = self.limits.identity_interval;
        let tolerance = interval.saturating_mul(self.limits.identity_burst.saturating_sub(1));
        let mut due = self.due();
        if due.len() >= self.limits.identities && !due.contains_key(identity) {
            due.retain(|_, due| *due > now);
            if due.len() >= self.limits.identities {
                return Err(self.busy(interval));
            }
        }
        match due.get_mut(identity) {
            Some(at) => {
                let next = (*at).max(now);
                if next > now + tolerance {
                    return Err(self.busy(next - now - tolerance));
                }
                *at = next + interval;
            }
            None => drop(due.insert(identity.to_owned(), now + interval)),
        }
        Ok(())
    }

    /// When to come again: not before `least`, and spread over twice the time a full house takes
    pub(super) fn busy(&self, least: Duration) -> Refusal {
        let typical = Duration::from_micros(self.typical_us.load(Ordering::Relaxed));
        let base = typical.saturating_mul(2).clamp(RETRY_SHORTEST, RETRY_LONGEST / 2);
        let wait = rand::rng().random_range(base..=2 * base);
        Refusal::Busy { retry_after: (least + wait).min(RETRY_LONGEST) }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.limits.in_flight - self.places.available_permits()
    }

    /// Waits until nothing is under way; nothing gets in any more
    pub(super) async fn close(&self) {
        let all = u32::try_from(self.limits.in_flight).unwrap_or(u32::MAX);
        if let Ok(permits) = self.places.acquire_many(all).await {
            permits.forget();
        }
        self.places.close();
    }

    fn due(&self) -> MutexGuard<'_, HashMap<String, Duration>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let identity_interval = Duration::from_secs(3_600);
        Limits {
            in_flight: 2,
            identity_burst: 3,
            identity_interval,
            identities: 2,
            ..Limits::default()
        }
    }

    #[test]
    fn no_more_than_the_limit_are_under_way_and_the_next_is_told_when_to_come() {
        let admission = Admission::new(limits());
        let (first, _second) = (admission.enter().unwrap(), admission.enter().unwrap());
        assert_eq!(admission.in_flight(), 2);
        let waits: Vec<_> = (0..50)
            .map(|_| match admission.enter().unwrap_err() {
                Refusal::Busy { retry_after } => retry_after,
                other => panic!("{other}"),
            })
            .collect();
        assert!(waits.iter().all(|wait| (RETRY_SHORTEST..=RETRY_LONGEST).contains(wait)));
        assert!(waits.iter().any(|wait| *wait != waits[0]), "all come back together");
        drop(first);
        admission.enter().unwrap();
    }

    #[test]
    fn one_identity_has_its_burst_and_does_not_use_up_anothers() {
        let admission = Admission::new(limits());
        for _ in 0..3 {
            admission.count("alpha").unwrap();
        }
        let refused = admission.count("alpha").unwrap_err();
        assert!(refused.retry_after().unwrap() > Duration::from_secs(1), "{refused}");
        admission.count("beta").unwrap();
        // No third identity is counted while both still have something to pay.
        assert!(matches!(admission.count("gamma"), Err(Refusal::Busy { .. })));
    }
}
