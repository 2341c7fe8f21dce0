//! Threads in front of a backend: a bounded queue, one session a thread, self-tests, verification of every
//! signature before it is released, and sessions that are opened again when a token was lost. Where the keys
//! are is the backend's business.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use super::backend::{Backend, BackendError, OpenBackend};
use super::{
    KEYS_LIMIT, KeyInfo, KeyName, MESSAGE_LIMIT_BYTES, Pending, Signer, SignerError, SignerKey,
    SignerStatus,
};

mod counters;
mod worker;

use counters::Counters;
use worker::Worker;

/// How a pool works
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolSettings {
    /// Threads, each with a session of its own; at least 1
    pub workers: usize,
    /// Requests that may wait; at least 1
    pub queue: usize,
    /// Time between self-tests of each thread
    pub self_test_every: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self { workers: 2, queue: 1_024, self_test_every: Duration::from_secs(10) }
    }
}

impl PoolSettings {
    /// The most threads a pool has
    pub const WORKERS_LIMIT: usize = 64;
    /// The longest queue
    pub const QUEUE_LIMIT: usize = 65_536;
}

/// A signer of this process
pub struct Pool {
    queue: Option<Sender<Job>>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the pool and its threads have in common
struct Shared {
    label: &'static str,
    settings: PoolSettings,
    keys: RwLock<BTreeMap<KeyName, KeyInfo>>,
    counters: Counters,
}

/// One request
enum Job {
    Sign { key: KeyInfo, message: Vec<u8>, reply: oneshot::Sender<Result<Vec<u8>, SignerError>> },
    Create { name: KeyName, reply: oneshot::Sender<Result<KeyInfo, SignerError>> },
}

impl Pool {
    /// Opens the backend once for each thread, tests every key on every one of them, and starts. A key that
    /// does not sign is an error here, not later.
    pub fn start(
        backend: Arc<dyn OpenBackend>,
        settings: PoolSettings,
    ) -> Result<Self, SignerError> {
        let settings = PoolSettings {
            workers: settings.workers.clamp(1, PoolSettings::WORKERS_LIMIT),
            queue: settings.queue.clamp(1, PoolSettings::QUEUE_LIMIT),
            ..settings
        };
        let mut opened = Vec::new();
        for _ in 0..settings.workers {
            opened.push(backend.open().map_err(|error| error_of(error, None))?);
        }
        let keys = keys_of(opened.iter_mut())?;
        let (queue, jobs) = bounded(settings.queue);
        let shared = Arc::new(Shared {
            label: backend.label(),
            settings,
            keys: RwLock::new(keys),
            counters: Counters::default(),
        });
        let mut pool = Self { queue: Some(queue), shared, threads: Vec::new() };
        for (number, backend) in opened.into_iter().enumerate() {
            let mut worker = Worker::new(backend, Arc::clone(&pool.shared), jobs.clone());
            worker.self_test()?;
            let started = std::thread::Builder::new()
                .name(format!("signer-{number}"))
                .spawn(move || worker.run());
            let thread = started.map_err(|error| SignerError::Unavailable(error.to_string()))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    fn enqueue(&self, job: Job) -> Result<(), SignerError> {
        let queue = self.queue.as_ref().ok_or(SignerError::Stopped)?;
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Disconnected(_) => SignerError::Stopped,
            TrySendError::Full(_) => {
                self.shared.counters.refused_busy();
                let queued = self.shared.settings.queue;
                SignerError::Busy { queued, retry_after: self.shared.time_for(queued) }
            }
        })
    }

    fn enqueue_sign(
        &self,
        name: &KeyName,
        message: Vec<u8>,
    ) -> Result<oneshot::Receiver<Result<Vec<u8>, SignerError>>, SignerError> {
        let key = self.key(name).ok_or_else(|| SignerError::UnknownKey(name.to_string()))?;
        if message.len() > MESSAGE_LIMIT_BYTES {
            return Err(SignerError::TooLong(message.len()));
        }
        if !name.purpose().accepts(&message) {
            return Err(SignerError::Purpose(name.to_string()));
        }
        let (reply, answer) = oneshot::channel();
        self.enqueue(Job::Sign { key, message, reply })?;
        Ok(answer)
    }
}

/// Every session must see the same keys; one that does not is at another token
fn keys_of<'a>(
    backends: impl Iterator<Item = &'a mut Box<dyn Backend>>,
) -> Result<BTreeMap<KeyName, KeyInfo>, SignerError> {
    let mut seen: Option<BTreeMap<KeyName, KeyInfo>> = None;
    for backend in backends {
        let keys = backend.keys().map_err(|error| error_of(error, None))?;
        let keys: BTreeMap<_, _> = keys.into_iter().map(|key| (key.name().clone(), key)).collect();
        if keys.len() > KEYS_LIMIT {
            return Err(SignerError::TooManyKeys);
        }
        if seen.as_ref().is_some_and(|seen| *seen != keys) {
            let message = "two sessions see different keys; is the token being changed?";
            return Err(SignerError::Refused(message.into()));
        }
        seen = Some(keys);
    }
    let keys = seen.unwrap_or_default();
    let mut points: Vec<&[u8]> = keys.values().map(KeyInfo::public_point).collect();
    points.sort_unstable();
    // One key under two names would be a log key that signs certificates.
    if points.windows(2).any(|two| two[0] == two[1]) {
        let message = "two names have the same key; make a new key under one of them";
        return Err(SignerError::Refused(message.into()));
    }
    Ok(keys)
}

impl Shared {
    fn key(&self, name: &KeyName) -> Option<KeyInfo> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn keys(&self) -> Vec<KeyInfo> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn add(&self, key: KeyInfo) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.name().clone(), key);
    }

    /// How long so many requests take, by the mean of those so far
    fn time_for(&self, requests: usize) -> Duration {
        let share = requests.div_ceil(self.settings.workers);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        self.counters.mean_time().saturating_mul(share).max(Duration::from_millis(1))
    }
}

impl Signer for Pool {
    fn key(&self, name: &KeyName) -> Option<KeyInfo> {
        self.shared.key(name)
    }

    fn keys(&self) -> Vec<KeyInfo> {
        self.shared.keys()
    }

    fn sign(&self, name: &KeyName, message: Vec<u8>) -> Pending<Vec<u8>> {
        answer_of(self.enqueue_sign(name, message))
    }

    fn create_key(&self, name: &KeyName) -> Pending<KeyInfo> {
        let (reply, answer) = oneshot::channel();
        let queued = self.enqueue(Job::Create { name: name.clone(), reply });
        answer_of(queued.map(|()| answer))
    }

    fn status(&self) -> Pending<SignerStatus> {
        let queued = self.queue.as_ref().map_or(0, Sender::len);
        let mut status = self.shared.counters.status();
        status.backend = self.shared.label.into();
        status.keys = self.keys().iter().map(SignerKey::from).collect();
        status.queued = queued;
        status.queue_limit = self.shared.settings.queue;
        status.workers = self.shared.settings.workers;
        Box::pin(std::future::ready(Ok(status)))
    }
}

fn answer_of<T: Send + 'static>(
    queued: Result<oneshot::Receiver<Result<T, SignerError>>, SignerError>,
) -> Pending<T> {
    Box::pin(async move { queued?.await.unwrap_or(Err(SignerError::Stopped)) })
}

impl Drop for Pool {
    /// What is queued is still done; the sessions are closed when this returns
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a signer's thread ended in a panic");
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("backend", &self.shared.label)
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

fn error_of(error: BackendError, name: Option<&KeyName>) -> SignerError {
    match error {
        BackendError::Lost(reason) => SignerError::Unavailable(reason),
        BackendError::Refused(reason) => SignerError::Refused(reason),
        BackendError::UnknownKey(key) => SignerError::UnknownKey(key),
        BackendError::Exists(key) => SignerError::Exists(key),
        BackendError::Key(error) => {
            let key = name.map_or_else(String::new, |name| format!("{name}: "));
            SignerError::Refused(format!("{key}{error}"))
        }
    }
}

#[cfg(test)]
mod tests;
