//! What the parts of a running authority share: its state, the log's sequencer, and what has become of the journal
//! and of publishing. Locks are held for moments and never across a wait.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use tokio::sync::{Notify, watch};

use super::api::{Clock, Refusal};
use super::entry::Entry;
use super::inventory_feed::Feed;
use super::settings::Limits;
use super::state::State;
use crate::log::merkle::Hash;
use crate::log::{DurableHead, Sequencer, VerifiedCheckpoint};

/// Something that keeps what the journal says about it. It is shown every entry in order: those of the past when
/// the authority opens, and later ones when they are durable.
pub trait Follower: Send {
    /// Takes an entry. Called on the authority's own task: it must not block. An error at the start refuses
    /// the journal; later it stops the authority.
    fn follow(&mut self, sequence: u64, entry: &Entry) -> Result<(), String>;
}

/// Entries of the log that no checkpoint covers yet: hash of the leaf, and the entry as data tiles have it
pub(super) type Unpublished = VecDeque<(Hash, Vec<u8>)>;

pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) limits: Limits,
    state: Mutex<State>,
    sequencer: Mutex<Sequencer>,
    unpublished: Mutex<Unpublished>,
    /// Certificates of authorities that are in the journal and not among the published files
    new_issuers: Mutex<Vec<Vec<u8>>>,
    /// There is something to publish, or it is time to end
    pub(super) to_publish: Notify,
    pub(super) committed: watch::Sender<u64>,
    /// Counts what the journal was told of issuing keys since the start
    pub(super) keys_changed: watch::Sender<u64>,
    pub(super) head: watch::Sender<Option<DurableHead>>,
    pub(super) published: watch::Sender<Option<Arc<VerifiedCheckpoint>>>,
    stopped: OnceLock<String>,
    pub(super) no_space: AtomicBool,
    pub(super) clock_went_back: AtomicBool,
    pub(super) closing: AtomicBool,
    pub(super) log_entries: AtomicU64,
    log_problem: Mutex<Option<String>>,
    pub(super) feed: Option<Arc<Feed>>,
}

impl Shared {
    pub(super) fn new(
        clock: Clock,
        limits: Limits,
        state: State,
        sequencer: Sequencer,
        committed: u64,
        feed: Option<Arc<Feed>>,
    ) -> Self {
        let log_entries = AtomicU64::new(sequencer.head().size);
        Self {
            clock,
            limits,
            state: Mutex::new(state),
            sequencer: Mutex::new(sequencer),
            unpublished: Mutex::default(),
            new_issuers: Mutex::default(),
            to_publish: Notify::new(),
            committed: watch::Sender::new(committed),
            keys_changed: watch::Sender::new(0),
            head: watch::Sender::new(None),
            published: watch::Sender::new(None),
            stopped: OnceLock::new(),
            no_space: AtomicBool::new(false),
            clock_went_back: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            log_entries,
            log_problem: Mutex::default(),
            feed,
        }
    }

    /// The time
    pub(super) fn now(&self) -> SystemTime {
        (self.clock)()
    }

    /// The time in milliseconds since 1970, as the log counts it
    pub(super) fn now_ms(&self) -> u64 {
        let since = self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    // A panicking holder is a bug that has been reported; whoever comes next goes on with what the journal
    // agreed to, because entries are applied one by one.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sequencer(&self) -> MutexGuard<'_, Sequencer> {
        self.sequencer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unpublished(&self) -> MutexGuard<'_, Unpublished> {
        self.unpublished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn new_issuers(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.new_issuers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn log_problem(&self) -> MutexGuard<'_, Option<String>> {
        self.log_problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is issued any more until a restart
    pub(super) fn stop(&self, reason: String) {
        if self.stopped.set(reason.clone()).is_ok() {
            tracing::error!(reason, "the certificate authority has stopped");
        }
        self.sequencer().stop();
        self.to_publish.notify_one();
    }

    pub(super) fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    /// Why nothing can be written now
    pub(super) fn check_running(&self) -> Result<(), Refusal> {
        if let Some(reason) = self.stopped() {
            return Err(Refusal::Stopped(reason.to_owned()));
        }
        if self.closing.load(Ordering::Acquire) {
            return Err(Refusal::Stopped("it is being closed".into()));
        }
        if self.no_space.load(Ordering::Relaxed) {
            return Err(Refusal::NoSpace);
        }
        if self.clock_went_back.load(Ordering::Relaxed) {
            return Err(Refusal::ClockWentBack);
        }
        Ok(())
    }
}
