//! One thread of a pool, with its session.

use super::*;

use crossbeam::channel::RecvTimeoutError;

/// First pause before a lost session is opened once more; doubles up to the second
const REOPEN_PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

pub(super) struct Worker {
    backend: Box<dyn Backend>,
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    next_self_test: Instant,
    /// While the session is lost: when to open it again, and the pause after that
    away: Option<(Instant, Duration, String)>,
}

impl Worker {
    pub(super) fn new(backend: Box<dyn Backend>, shared: Arc<Shared>, jobs: Receiver<Job>) -> Self {
        let next_self_test = Instant::now() + shared.settings.self_test_every;
        Self { backend, shared, jobs, next_self_test, away: None }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.jobs.recv_deadline(self.next_turn()) {
                Ok(Job::Sign { key, message, reply }) => {
                    // Nobody waits any more: the work would be for nothing.
                    if !reply.is_closed() {
                        // A receiver that left in the meantime is no error.
                        let _ = reply.send(self.sign(&key, &message));
                    }
                }
                Ok(Job::Create { name, reply }) => {
                    let _ = reply.send(self.create(&name));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.keep_well();
        }
    }

    fn next_turn(&self) -> Instant {
        let reopen = self.away.as_ref().map(|(at, ..)| *at);
        reopen.map_or(self.next_self_test, |at| at.min(self.next_self_test))
    }

    /// What is due besides requests: a lost session, a self-test
    fn keep_well(&mut self) {
        let now = Instant::now();
        if self.away.as_ref().is_some_and(|(at, ..)| *at <= now) {
            // An error has been kept; the next turn tries again.
            let _ = self.return_to_token();
        }
        if self.next_self_test <= now {
            self.next_self_test = now + self.shared.settings.self_test_every;
            if let Err(error) = self.self_test() {
                tracing::error!(backend = self.shared.label, %error, "the signer's self-test failed");
                self.shared.counters.unwell(&error);
            }
        }
    }

    /// Signs something fresh with every key and verifies it
    pub(super) fn self_test(&mut self) -> Result<(), SignerError> {
        for key in self.shared.keys() {
            let mut message = key.name().purpose().sample();
            let mut fresh = [0; 32];
            boring::rand::rand_bytes(&mut fresh)
                .map_err(|error| SignerError::Refused(error.to_string()))?;
            message.extend(fresh);
            self.sign_verified(&key, &message)?;
        }
        self.shared.counters.tested();
        Ok(())
    }

    fn sign(&mut self, key: &KeyInfo, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let started = Instant::now();
        let signed = self.sign_verified(key, message);
        match &signed {
            Ok(_) => self.shared.counters.signed(started.elapsed()),
            Err(error) => self.shared.counters.failed(error),
        }
        signed
    }

    fn sign_verified(&mut self, key: &KeyInfo, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let signature = self.with_session(key.name(), |backend| backend.sign(key, message))?;
        match key.verifies(message, &signature) {
            true => Ok(signature),
            false => Err(SignerError::Unverified(key.name().to_string())),
        }
    }

    fn create(&mut self, name: &KeyName) -> Result<KeyInfo, SignerError> {
        let created = match self.shared.keys().len() {
            KEYS_LIMIT.. => Err(SignerError::TooManyKeys),
            _ => self.with_session(name, |backend| backend.create(name)),
        };
        match &created {
            Ok(key) => {
                self.shared.add(key.clone());
                tracing::info!(key = %name, backend = self.shared.label, "a signing key was made");
            }
            Err(error) => self.shared.counters.failed(error),
        }
        created
    }

    /// Does it; where the session turns out to be lost, opens a new one and does it once more
    fn with_session<T>(
        &mut self,
        name: &KeyName,
        mut work: impl FnMut(&mut dyn Backend) -> Result<T, BackendError>,
    ) -> Result<T, SignerError> {
        if let Some((at, _, reason)) = &self.away {
            if *at > Instant::now() {
                return Err(SignerError::Unavailable(reason.clone()));
            }
            self.return_to_token()?;
        }
        match work(self.backend.as_mut()) {
            Err(BackendError::Lost(reason)) => {
                tracing::warn!(backend = self.shared.label, reason, "a signing session was lost");
                self.return_to_token()?;
            }
            other => return other.map_err(|error| error_of(error, Some(name))),
        }
        work(self.backend.as_mut()).map_err(|error| {
            if let BackendError::Lost(reason) = &error {
                self.stay_away(reason.clone());
            }
            error_of(error, Some(name))
        })
    }

    fn return_to_token(&mut self) -> Result<(), SignerError> {
        match self.backend.reopen() {
            Ok(()) => {
                self.away = None;
                self.shared.counters.reopened();
                tracing::info!(backend = self.shared.label, "a signing session was opened again");
                Ok(())
            }
            Err(error) => {
                self.stay_away(error.to_string());
                let error = SignerError::Unavailable(error.to_string());
                self.shared.counters.unwell(&error);
                Err(error)
            }
        }
    }

    fn stay_away(&mut self, reason: String) {
        let [first, longest] = REOPEN_PAUSES;
        let pause = self.away.as_ref().map_or(first, |(_, pause, _)| (*pause * 2).min(longest));
        self.away = Some((Instant::now() + pause, pause, reason));
    }
}
