//! What a pool counts, and how it feels.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::signer::{SignerError, SignerStatus};

/// Taken for one signature before there was one
const FIRST_GUESS: Duration = Duration::from_micros(500);

#[derive(Default)]
pub(super) struct Counters {
    signatures: AtomicU64,
    failures: AtomicU64,
    refused_busy: AtomicU64,
    self_tests: AtomicU64,
    reopened: AtomicU64,
    busy_ns: AtomicU64,
    unhealthy: AtomicBool,
    last_error: Mutex<Option<String>>,
}

impl Counters {
    pub(super) fn signed(&self, took: Duration) {
        self.signatures.fetch_add(1, Relaxed);
        self.busy_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        self.unhealthy.store(false, Relaxed);
    }

    pub(super) fn tested(&self) {
        self.self_tests.fetch_add(1, Relaxed);
        self.unhealthy.store(false, Relaxed);
    }

    pub(super) fn reopened(&self) {
        self.reopened.fetch_add(1, Relaxed);
    }

    pub(super) fn refused_busy(&self) {
        self.refused_busy.fetch_add(1, Relaxed);
    }

    /// A request failed
    pub(super) fn failed(&self, error: &SignerError) {
        self.failures.fetch_add(1, Relaxed);
        self.unwell(error);
    }

    /// Something else than a request failed
    pub(super) fn unwell(&self, error: &SignerError) {
        // A caller's mistake says nothing about the signer.
        let own = !matches!(error, SignerError::Exists(_) | SignerError::UnknownKey(_));
        self.unhealthy.fetch_or(own, Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }

    pub(super) fn mean_time(&self) -> Duration {
        match self.signatures.load(Relaxed) {
            0 => FIRST_GUESS,
            signatures => Duration::from_nanos(self.busy_ns.load(Relaxed) / signatures),
        }
    }

    /// The counted part of a status
    pub(super) fn status(&self) -> SignerStatus {
        SignerStatus {
            backend: String::new(),
            healthy: !self.unhealthy.load(Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            keys: Vec::new(),
            queued: 0,
            queue_limit: 0,
            workers: 0,
            signatures: self.signatures.load(Relaxed),
            failures: self.failures.load(Relaxed),
            refused_busy: self.refused_busy.load(Relaxed),
            self_tests: self.self_tests.load(Relaxed),
            reopened: self.reopened.load(Relaxed),
        }
    }
}
