//! The authority's end: a signer whose keys are in another process. One thread holds the connection and opens it
//! again when it ends; signatures are verified here as well, since neither process trusts the other.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::wire::{CreateKey, GetStatus, Keys, Sign, answer, request};
use crate::signer::{
    KEYS_LIMIT, KeyInfo, KeyName, MESSAGE_LIMIT_BYTES, Pending, Signer, SignerError, SignerKey,
    SignerStatus, block_on,
};

mod connection;

use connection::{Connection, Ended};

/// Pauses between attempts to reach the signing process: the first, and the longest
const RECONNECT_PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(2)];
/// What is told when the queue is full: about a queue's worth of signatures in a token
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Which signing process
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// Its socket
    pub socket: PathBuf,
    /// Its user; nobody else is believed to be it
    pub signer_uid: u32,
    /// Requests that may wait for answers, and as many that may wait to be sent
    pub queue: usize,
    /// Time an answer may take; then the connection is given up and opened anew
    pub timeout: Duration,
}

impl RemoteSettings {
    /// A signing process at that socket, run by that user, with the ordinary limits
    pub fn new(socket: PathBuf, signer_uid: u32) -> Self {
        Self { socket, signer_uid, queue: 1_024, timeout: Duration::from_secs(10) }
    }
}

/// A signer in another process
#[derive(Debug)]
pub struct RemoteSigner {
    requests: Option<mpsc::Sender<Command>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    settings: RemoteSettings,
    keys: RwLock<BTreeMap<KeyName, KeyInfo>>,
    refused_busy: AtomicU64,
    reconnected: AtomicU64,
}

type Reply = oneshot::Sender<Result<answer::Body, SignerError>>;

#[derive(Debug)]
struct Command {
    body: request::Body,
    reply: Reply,
}

impl RemoteSigner {
    /// Connects, and waits until the signing process has told its keys; blocks for at most the settings' timeout
    pub fn connect(settings: RemoteSettings) -> Result<Self, SignerError> {
        let (requests, commands) = mpsc::channel(settings.queue.max(1));
        let shared = Arc::new(Shared {
            settings,
            keys: RwLock::default(),
            refused_busy: AtomicU64::new(0),
            reconnected: AtomicU64::new(0),
        });
        let (ready, started) = oneshot::channel();
        let unavailable = |error: io::Error| SignerError::Unavailable(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(unavailable)?;
        let driven = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("signer-client".into())
            .spawn(move || runtime.block_on(drive(driven, commands, ready)))
            .map_err(unavailable)?;
        // Dropped on an error below, which ends the thread.
        let signer = Self { requests: Some(requests), shared, thread: Some(thread) };
        block_on(started).unwrap_or(Err(SignerError::Stopped))?;
        Ok(signer)
    }

    fn send(&self, body: request::Body) -> Pending<answer::Body> {
        let (reply, answer) = oneshot::channel();
        let sent = match &self.requests {
            None => Err(SignerError::Stopped),
            Some(requests) => {
                requests.try_send(Command { body, reply }).map_err(|error| match error {
                    mpsc::error::TrySendError::Closed(_) => SignerError::Stopped,
                    mpsc::error::TrySendError::Full(_) => {
                        self.shared.refused_busy.fetch_add(1, Relaxed);
                        let queued = self.shared.settings.queue;
                        SignerError::Busy { queued, retry_after: RETRY_AFTER }
                    }
                })
            }
        };
        Box::pin(async move {
            sent?;
            answer.await.unwrap_or(Err(SignerError::Stopped))
        })
    }
}

fn unexpected() -> SignerError {
    SignerError::Refused("the signing process answered something else than was asked".into())
}

fn failed<T>(error: SignerError) -> Pending<T>
where
    T: Send + 'static,
{
    Box::pin(std::future::ready(Err(error)))
}

impl Signer for RemoteSigner {
    fn key(&self, name: &KeyName) -> Option<KeyInfo> {
        self.shared.keys.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn keys(&self) -> Vec<KeyInfo> {
        self.shared.keys.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn sign(&self, name: &KeyName, message: Vec<u8>) -> Pending<Vec<u8>> {
        let Some(key) = self.key(name) else {
            return failed(SignerError::UnknownKey(name.to_string()));
        };
        if message.len() > MESSAGE_LIMIT_BYTES {
            return failed(SignerError::TooLong(message.len()));
        }
        if !name.purpose().accepts(&message) {
            return failed(SignerError::Purpose(name.to_string()));
        }
        let sign = Sign { key: name.to_string(), message: message.clone() };
        let answer = self.send(request::Body::Sign(sign));
        Box::pin(async move {
            match answer.await? {
                answer::Body::Signature(signature) if key.verifies(&message, &signature) => {
                    Ok(signature)
                }
                answer::Body::Signature(_) => Err(SignerError::Unverified(key.name().to_string())),
                _ => Err(unexpected()),
            }
        })
    }

    fn create_key(&self, name: &KeyName) -> Pending<KeyInfo> {
        let name = name.clone();
        let answer = self.send(request::Body::CreateKey(CreateKey { key: name.to_string() }));
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let answer::Body::Keys(keys) = answer.await? else { return Err(unexpected()) };
            match &keys.to_keys()?[..] {
                [key] if *key.name() == name => {
                    let mut keys = shared.keys.write().unwrap_or_else(PoisonError::into_inner);
                    keys.insert(name, key.clone());
                    Ok(key.clone())
                }
                _ => Err(unexpected()),
            }
        })
    }

    fn status(&self) -> Pending<SignerStatus> {
        let answer = self.send(request::Body::GetStatus(GetStatus {}));
        let shared = Arc::clone(&self.shared);
        let keys = self.keys().iter().map(SignerKey::from).collect();
        Box::pin(async move {
            let answer::Body::Status(status) = answer.await? else { return Err(unexpected()) };
            let mut status = status.to_status(keys);
            status.refused_busy += shared.refused_busy.load(Relaxed);
            status.reopened += shared.reconnected.load(Relaxed);
            Ok(status)
        })
    }
}

impl Drop for RemoteSigner {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the signer's connection ended in a panic");
        }
    }
}

/// Until nobody can ask any more: connect, serve, connect again
async fn drive(
    shared: Arc<Shared>,
    mut commands: mpsc::Receiver<Command>,
    ready: oneshot::Sender<Result<(), SignerError>>,
) {
    let give_up = Instant::now() + shared.settings.timeout;
    let [first, longest] = RECONNECT_PAUSES;
    let (mut ready, mut pause) = (Some(ready), first);
    loop {
        let reason = match Connection::open(&shared).await {
            Ok(connection) => {
                pause = first;
                match ready.take() {
                    // Who asked may have gone; then the commands end as well.
                    Some(ready) => drop(ready.send(Ok(()))),
                    None => {
                        shared.reconnected.fetch_add(1, Relaxed);
                        tracing::info!("the signing process is reached again");
                    }
                }
                match connection.serve(&shared, &mut commands).await {
                    Ended::Stopped => return,
                    Ended::Lost(reason) => SignerError::Unavailable(reason),
                }
            }
            Err(error) => error,
        };
        tracing::warn!(error = %reason, "the signing process is not reached");
        if ready.is_some() && (!reason.is_transient() || Instant::now() + pause > give_up) {
            drop(ready.take().map(|ready| ready.send(Err(reason))));
            return;
        }
        if !refuse_for(&mut commands, pause, &reason).await {
            return;
        }
        pause = (pause * 2).min(longest);
    }
}

/// While the signing process is away, requests are told so at once; false when nobody can ask any more
async fn refuse_for(
    commands: &mut mpsc::Receiver<Command>,
    pause: Duration,
    reason: &SignerError,
) -> bool {
    let until = Instant::now() + pause;
    loop {
        match tokio::time::timeout_at(until, commands.recv()).await {
            Err(_elapsed) => return true,
            Ok(None) => return false,
            // Who asked may have gone.
            Ok(Some(command)) => drop(command.reply.send(Err(reason.clone()))),
        }
    }
}

impl Shared {
    fn take_keys(&self, keys: &Keys) -> Result<(), SignerError> {
        let new = keys.to_keys()?;
        if new.len() > KEYS_LIMIT {
            return Err(SignerError::TooManyKeys);
        }
        let new: BTreeMap<_, _> = new.into_iter().map(|key| (key.name().clone(), key)).collect();
        let mut known = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(changed) = known.values().find(|key| new.get(key.name()) != Some(*key)) {
            return Err(SignerError::Refused(format!(
                "the signing process came back with another key `{0}`, or without it; give it the key it had, \
                 or restart the authority with a certificate for the new one",
                changed.name()
            )));
        }
        *known = new;
        Ok(())
    }
}
