//! For the tests of this room: soft signers in a directory, and a backend that can be made to fail.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rcgen::SigningKey as _;

use super::backend::{Backend, BackendError, OpenBackend};
use super::{KeyInfo, KeyName, Pool, PoolSettings, SoftSettings};
use crate::keys::{KeyKind, KeyPair};

/// A pool with an issuing and a log key
pub(super) fn soft(directory: &Path) -> Arc<Pool> {
    let names = [KeyName::issuing(), KeyName::log()];
    let soft = SoftSettings::read_or_create(directory, &names).unwrap();
    Arc::new(Pool::start(Arc::new(soft), PoolSettings::default()).unwrap())
}

/// What a test does to a fake token
#[derive(Default)]
pub(super) struct Levers {
    /// The token is away: everything is lost, and no session opens
    pub(super) away: AtomicBool,
    /// The next so many signatures find their session lost
    pub(super) lose: AtomicUsize,
    /// Signs with another key than it says
    pub(super) wrong_key: AtomicBool,
    /// While held, no signature is made
    pub(super) gate: (Mutex<bool>, Condvar),
    /// Sessions opened so far, again or for the first time
    pub(super) opened: AtomicUsize,
}

impl Levers {
    pub(super) fn hold(&self, held: bool) {
        *self.gate.0.lock().unwrap() = held;
        self.gate.1.notify_all();
    }
}

/// A token with the keys of a soft signer
#[derive(Clone)]
pub(super) struct Fake {
    pub(super) levers: Arc<Levers>,
    keys: Arc<(KeyPair, KeyPair, KeyInfo)>,
}

impl Fake {
    pub(super) fn new() -> Self {
        let [key, other] = [KeyKind::P256; 2].map(|kind| KeyPair::generate(kind).unwrap());
        let public = KeyInfo::from_point(KeyName::issuing(), key.public_point()).unwrap();
        Self { levers: Arc::default(), keys: Arc::new((key, other, public)) }
    }

    pub(super) fn pool(&self, workers: usize, queue: usize) -> Pool {
        let self_test_every = Duration::from_secs(3_600);
        let settings = PoolSettings { workers, queue, self_test_every };
        Pool::start(Arc::new(self.clone()), settings).unwrap()
    }

    fn session(&self) -> Result<(), BackendError> {
        match self.levers.away.load(SeqCst) {
            true => Err(BackendError::Lost("the token is away".into())),
            false => Ok(()),
        }
    }
}

impl OpenBackend for Fake {
    fn label(&self) -> &'static str {
        "fake"
    }

    fn open(&self) -> Result<Box<dyn Backend>, BackendError> {
        self.session()?;
        self.levers.opened.fetch_add(1, SeqCst);
        Ok(Box::new(self.clone()))
    }
}

impl Backend for Fake {
    fn keys(&mut self) -> Result<Vec<KeyInfo>, BackendError> {
        self.session()?;
        Ok(vec![self.keys.2.clone()])
    }

    fn sign(&mut self, _: &KeyInfo, message: &[u8]) -> Result<Vec<u8>, BackendError> {
        let gate = self.levers.gate.0.lock().unwrap();
        drop(self.levers.gate.1.wait_while(gate, |held| *held).unwrap());
        self.session()?;
        let lost = self.levers.lose.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        if lost.is_ok() {
            return Err(BackendError::Lost("CKR_SESSION_HANDLE_INVALID".into()));
        }
        let key = if self.levers.wrong_key.load(SeqCst) { &self.keys.1 } else { &self.keys.0 };
        key.sign(message).map_err(|error| BackendError::Refused(error.to_string()))
    }

    fn create(&mut self, name: &KeyName) -> Result<KeyInfo, BackendError> {
        Err(BackendError::Exists(name.to_string()))
    }

    fn reopen(&mut self) -> Result<(), BackendError> {
        self.session()?;
        self.levers.opened.fetch_add(1, SeqCst);
        Ok(())
    }
}
