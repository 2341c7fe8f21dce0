//! How much one corner of the network may ask of the HTTPS server: connections at a time and failures in
//! a window, counted per /64 because that is what one host has to itself. Bounded; time is passed in.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Prefixes remembered; beyond it a prefix without open connections whose window is oldest is forgotten
const PREFIX_LIMIT: usize = 4_096;

/// The limits per /64
#[derive(Clone, Copy, Debug)]
pub(super) struct GuardLimits {
    pub(super) connections: usize,
    pub(super) failures: usize,
    pub(super) window: Duration,
}

struct Seen {
    open: usize,
    failures: usize,
    since: Instant,
}

/// Counts per prefix
pub(super) struct Guard {
    limits: GuardLimits,
    seen: Mutex<HashMap<u64, Seen>>,
}

/// One admitted connection; dropping it gives the place back
pub(super) struct Admission {
    guard: Arc<Guard>,
    prefix: u64,
}

impl Guard {
    pub(super) fn new(limits: GuardLimits) -> Arc<Self> {
        Arc::new(Self { limits, seen: Mutex::default() })
    }

    /// Admits a connection, or not
    pub(super) fn admit(self: &Arc<Self>, address: &Ipv6Addr, now: Instant) -> Option<Admission> {
        let prefix = prefix(address);
        let mut seen = self.seen();
        if seen.len() >= PREFIX_LIMIT && !seen.contains_key(&prefix) {
            let idle = seen.iter().filter(|(_, seen)| seen.open == 0);
            let oldest = idle.min_by_key(|(_, seen)| seen.since).map(|(prefix, _)| *prefix)?;
            seen.remove(&oldest);
        }
        let entry = seen.entry(prefix).or_insert(Seen { open: 0, failures: 0, since: now });
        if entry.open >= self.limits.connections {
            return None;
        }
        entry.open += 1;
        drop(seen);
        Some(Admission { guard: Arc::clone(self), prefix })
    }

    /// The maps hold only counts; a panicking holder leaves at worst one count too many
    fn seen(&self) -> MutexGuard<'_, HashMap<u64, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission {
    /// How long this prefix has to wait because of its failures
    pub(super) fn must_wait(&self, now: Instant) -> Option<Duration> {
        let limits = self.guard.limits;
        let seen = self.guard.seen();
        let entry = seen.get(&self.prefix)?;
        let left = limits.window.checked_sub(now.saturating_duration_since(entry.since))?;
        (entry.failures >= limits.failures && !left.is_zero()).then_some(left)
    }

    /// Counts a failure of this prefix
    pub(super) fn failed(&self, now: Instant) {
        let window = self.guard.limits.window;
        let mut seen = self.guard.seen();
        if let Some(entry) = seen.get_mut(&self.prefix) {
            if now.saturating_duration_since(entry.since) >= window {
                (entry.failures, entry.since) = (0, now);
            }
            entry.failures += 1;
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut seen = self.guard.seen();
        if let Some(entry) = seen.get_mut(&self.prefix) {
            entry.open = entry.open.saturating_sub(1);
            if entry.open == 0 && entry.failures == 0 {
                seen.remove(&self.prefix);
            }
        }
    }
}

fn prefix(address: &Ipv6Addr) -> u64 {
    (address.to_bits() >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: GuardLimits =
        GuardLimits { connections: 2, failures: 3, window: Duration::from_secs(60) };

    fn host(number: u128) -> Ipv6Addr {
        Ipv6Addr::from_bits(number << 64 | 1)
    }

    #[test]
    fn connections_are_limited_per_prefix_and_given_back() {
        let (guard, now) = (Guard::new(LIMITS), Instant::now());
        let first = guard.admit(&host(1), now).unwrap();
        let _second = guard.admit(&host(1), now).unwrap();
        assert!(guard.admit(&host(1), now).is_none());
        assert!(guard.admit(&host(2), now).is_some());
        drop(first);
        assert!(guard.admit(&host(1), now).is_some());
    }

    #[test]
    fn failures_close_the_door_for_one_window() {
        let (guard, now) = (Guard::new(LIMITS), Instant::now());
        let admission = guard.admit(&host(1), now).unwrap();
        for _failure in 0..3 {
            assert_eq!(admission.must_wait(now), None);
            admission.failed(now);
        }
        assert_eq!(admission.must_wait(now), Some(LIMITS.window));
        // Coming back on another connection does not help.
        drop(admission);
        let again = guard.admit(&host(1), now).unwrap();
        assert!(again.must_wait(now + LIMITS.window / 2).is_some());
        assert_eq!(again.must_wait(now + LIMITS.window), None);
        again.failed(now + LIMITS.window);
        assert_eq!(again.must_wait(now + LIMITS.window), None);
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let (guard, now) = (Guard::new(LIMITS), Instant::now());
        for number in 0..2 * PREFIX_LIMIT as u128 {
            guard.admit(&host(number), now).unwrap().failed(now);
        }
        assert_eq!(guard.seen().len(), PREFIX_LIMIT);
        drop(guard.admit(&host(u128::from(u32::MAX)), now));
        assert_eq!(guard.seen().len(), PREFIX_LIMIT - 1);
    }
}
