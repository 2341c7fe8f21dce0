//! Drives rotation: reads the clocks, makes keys, asks for certificates, stores them, puts them into force by
//! snapshot and has connections replaced. What is due when is decided in `stoq_trustchain::rotation`; this loop
//! ends with the daemon and on nothing else.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher as _, Hasher as _};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use stoq::ConnectionStatus;
use stoq_trustchain::NodeIdentity;
use stoq_trustchain::key_slots::{KeySlots, Slotted};
use stoq_trustchain::node_identity::IdentityError;
use stoq_trustchain::revocation::KeyId;
use stoq_trustchain::rotation::{
    Action, Activation, BeginError, Beginning, Connection, Event, Failure, Held, KeySlot,
    RenewalWindow, Request, Rotation, RotationSettings,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::certifier::{Ask, Certifier, Declined, Suggested};
use crate::node::Node;

/// What may wait for the driver
const NOTICES: usize = 64;
/// Time between two looks at the connections: well below the shortest margin before a certificate's end
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// The same where a test's clock runs fast, at least
const LOOK_INTERVAL_LEAST: Duration = Duration::from_millis(20);
/// Time a request may take, by the host's clock: a test's clock does not make the network faster
const REQUEST_TIMEOUT_LEAST: Duration = Duration::from_secs(5);
/// Pause before the driver begins again after something of this host failed
const BEGIN_AGAIN: Duration = Duration::from_secs(30);

/// Something that rotation should know
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// A certificate of this node was revoked
    Revoked(String),
    /// An issuing key was revoked, and with it whatever it has issued to this node
    IssuerRevoked(KeyId),
    /// The node has another identity, or other authorities to ask
    BeginAgain,
}

/// How rotation stands, for operators
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RotationStatus {
    /// The certificate in force
    pub current: Option<String>,
    /// Its successor, fetched and waiting
    pub successor: Option<String>,
    /// When a successor is fetched
    pub acquire_at: Option<SystemTime>,
    /// Certificates kept for connections that were made with them
    pub draining: usize,
    /// Connections watched for the end of their certificates
    pub connections: usize,
    /// Why the last request failed, if none has succeeded since
    pub last_failure: Option<String>,
    /// Label and value of every counter since the start
    pub counters: Vec<(&'static str, u64)>,
}

/// The way to the driver
#[derive(Debug)]
pub struct RotationHandle {
    notices: mpsc::Sender<Notice>,
    waiting: Mutex<Option<mpsc::Receiver<Notice>>>,
    status: Mutex<RotationStatus>,
}

impl Default for RotationHandle {
    fn default() -> Self {
        let (notices, waiting) = mpsc::channel(NOTICES);
        Self { notices, waiting: Mutex::new(Some(waiting)), status: Mutex::default() }
    }
}

impl RotationHandle {
    /// Tells the driver. With so many notices waiting that none fits, the driver is about to look anyway.
    pub fn tell(&self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            tracing::warn!("rotation is behind with what it was told");
        }
    }

    /// How it stands
    pub fn status(&self) -> RotationStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why rotation cannot begin now
#[derive(Debug, thiserror::Error)]
enum CannotBegin {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Begin(#[from] BeginError),
    #[error("the identity's files could not be read: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What came of something that was started
enum Done {
    Certificate { attempt: u64, key: KeySlot, outcome: Result<Arrived, Declined> },
    Information { serial: String, outcome: Result<Suggested, Declined> },
}

/// A certificate that was verified and stored
struct Arrived {
    slotted: Slotted,
    window: Option<RenewalWindow>,
    authority_time: Option<SystemTime>,
}

/// Drives rotation for as long as the daemon lives
pub async fn drive(node: Arc<Node>) {
    let handle = Arc::clone(&node.rotation);
    let taken = handle.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut notices) = taken else {
        tracing::error!("rotation is driven already");
        return;
    };
    loop {
        match Driver::begin(Arc::clone(&node)).await {
            Ok(mut driver) => driver.run(&mut notices).await,
            Err(error) => {
                tracing::error!(%error, "certificates are not renewed now; this is tried again");
                tokio::select! {
                    () = tokio::time::sleep(BEGIN_AGAIN) => {}
                    _told = notices.recv() => {}
                }
            }
        }
    }
}

struct Driver {
    node: Arc<Node>,
    certifier: Arc<dyn Certifier>,
    slots: KeySlots,
    rotation: Rotation,
    /// Identities by the slot of their key, as long as rotation keeps them
    held: BTreeMap<KeySlot, NodeIdentity>,
    /// Connections told to rotation, with their sessions
    watched: HashMap<u64, Option<u64>>,
    under_way: JoinSet<Done>,
    last_failure: Option<String>,
}

impl Driver {
    async fn begin(node: Arc<Node>) -> Result<Self, CannotBegin> {
        let (certifier, authorities) = node.certifier();
        let slots = node.key_slots();
        let now = node.clock.look();
        let (reader, wall) = (slots.clone(), now.wall);
        let source = node.identities().source;
        let found = tokio::task::spawn_blocking(move || source.find(&reader, wall)).await??;
        for (slot, error) in &found.unusable {
            tracing::info!(slot = slot.0, %error, "a certificate on disk is of no use any more");
        }
        let (current, successor) = found.turns(now.wall);
        let held = [current, successor].into_iter().flatten();
        let held: BTreeMap<_, _> = held.map(|one| (one.slot, one.identity.clone())).collect();
        let of = |one: Option<&Slotted>| {
            one.map(|one| Held { certificate: one.identity.facts(), key: one.slot })
        };
        let clock = node.clock;
        let defaults = RotationSettings::default();
        let settings = RotationSettings {
            request_timeout: defaults.request_timeout.max(clock.shown_in(REQUEST_TIMEOUT_LEAST)),
            ..defaults
        };
        let beginning = Beginning {
            authorities,
            current: of(current),
            successor: of(successor),
            next_key: found.next,
            // Keys of the operating system's generator: no two processes draw alike.
            seed: RandomState::new().build_hasher().finish(),
        };
        let rotation = Rotation::new(settings, beginning, now)?;
        let forgotten: Vec<KeySlot> = found
            .usable
            .iter()
            .map(|one| one.slot)
            .chain(found.unusable.iter().map(|(slot, _)| *slot))
            // With nothing in force the last certificate stays: it says who this node is and whom to ask.
            .filter(|slot| !held.is_empty() && !held.contains_key(slot))
            .collect();
        if let Some(current) = current {
            let serial = &current.identity.identity().serial;
            if node.serial().as_ref() != Some(serial) {
                node.present(current.identity.clone());
            }
        }
        let mut driver = Self {
            node,
            certifier,
            slots,
            rotation,
            held,
            watched: HashMap::new(),
            under_way: JoinSet::new(),
            last_failure: None,
        };
        for slot in forgotten {
            driver.discard(slot).await;
        }
        Ok(driver)
    }

    /// Ends when the identity or the authorities are others
    async fn run(&mut self, notices: &mut mpsc::Receiver<Notice>) {
        let mut look = pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            self.carry_out().await;
            self.tell();
            let wait = self.node.clock.until(self.rotation.poll_timeout());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = &mut look => {
                    self.look_at_connections().await;
                    // Asked each time: a test's clock does not run alike from the start.
                    let pause = self.node.clock.wait(LOOK_INTERVAL).max(LOOK_INTERVAL_LEAST);
                    look.as_mut().reset(tokio::time::Instant::now() + pause);
                }
                Some(done) = self.under_way.join_next(), if !self.under_way.is_empty() => {
                    match done {
                        Ok(done) => self.finish(done).await,
                        // Its attempt runs into its timeout.
                        Err(error) => tracing::error!(%error, "a request for a certificate broke off"),
                    }
                }
                notice = notices.recv() => match notice {
                    Some(Notice::Revoked(serial)) => {
                        self.rotation.handle_revoked(&serial, self.node.clock.look());
                    }
                    Some(Notice::IssuerRevoked(issuer)) => {
                        for serial in self.issued_by(issuer) {
                            tracing::error!(serial, "this node's own certificate was revoked with its issuer");
                            self.rotation.handle_revoked(&serial, self.node.clock.look());
                        }
                    }
                    // `None` cannot be: the node holds the other end.
                    Some(Notice::BeginAgain) | None => return,
                },
            }
            self.rotation.handle_time(self.node.clock.look());
        }
    }

    /// Serial numbers of the certificates held that an issuing key has signed
    fn issued_by(&self, issuer: KeyId) -> Vec<String> {
        let of_issuer = |identity: &&NodeIdentity| {
            let leaf = stoq_trustchain::certificate::parse(identity.leaf_der());
            leaf.is_ok_and(|leaf| KeyId::of_issuer(&leaf) == Ok(issuer))
        };
        let found = self.held.values().filter(of_issuer);
        found.map(|identity| identity.identity().serial.clone()).collect()
    }

    async fn carry_out(&mut self) {
        while let Some(action) = self.rotation.poll_action() {
            match action {
                Action::Request(request) => self.request(request),
                // Its answer is still welcome.
                Action::Abandon { .. } => {}
                Action::AskRenewalInformation { authority, serial } => {
                    let suggested = self.certifier.suggest(authority, serial.clone());
                    self.under_way.spawn(async move {
                        Done::Information { serial, outcome: suggested.await }
                    });
                }
                Action::Activate(activation) => self.activate(activation).await,
                Action::ReplaceConnections { connections, .. } => self.replace(&connections),
                Action::CloseConnections { connections } => {
                    for number in connections {
                        // One that is gone already is what was wanted.
                        self.node.endpoint.close_connection(number).await;
                    }
                }
                Action::DiscardKey { key, .. } => self.discard(key).await,
            }
        }
    }

    fn request(&mut self, request: Request) {
        let Request { attempt, key, authority, kind } = request;
        let (slots, certifier) = (self.slots.clone(), Arc::clone(&self.certifier));
        let current = self.rotation.current().and_then(|held| self.held.get(&held.key));
        let current = current.map(|identity| identity.leaf_der().to_vec());
        let node = Arc::clone(&self.node);
        self.under_way.spawn(async move {
            let outcome = async {
                let making = slots.clone();
                let csr_der = blocking(move || making.request(key), Failure::Local).await?;
                let enrolled = slots.clone();
                let ask = Ask { authority, csr_der, kind, current, enrolled };
                let certified = certifier.certify(ask).await?;
                let root = node.trusted_root().ok_or_else(|| {
                    Declined::new(Failure::Local, "this node trusts no root; join again")
                })?;
                let (name, now) = (node.name(), node.clock.now());
                let chain = certified.chain;
                let slotted = blocking(
                    move || {
                        let [leaf, issuing, own_root] = &chain;
                        slots.install(key, &name, [leaf, issuing, own_root], &root, now)
                    },
                    Failure::Unusable,
                )
                .await?;
                let (window, authority_time) = (certified.window, certified.authority_time);
                Ok(Arrived { slotted, window, authority_time })
            };
            Done::Certificate { attempt, key, outcome: outcome.await }
        });
    }

    async fn finish(&mut self, done: Done) {
        let now = self.node.clock.look();
        match done {
            Done::Certificate { attempt, key, outcome: Ok(arrived) } => {
                let Arrived { slotted, window, authority_time } = arrived;
                let facts = slotted.identity.facts();
                let taken = self.rotation.handle_issued(key, facts, window, authority_time, now);
                match taken {
                    Ok(()) => {
                        self.last_failure = None;
                        self.node.trust_anchors_of(&slotted.identity);
                        self.held.insert(key, slotted.identity);
                    }
                    Err(refusal) => {
                        tracing::warn!(attempt, %refusal, "a certificate is not used");
                        self.discard(key).await;
                    }
                }
            }
            Done::Certificate { attempt, key: _, outcome: Err(declined) } => {
                let Declined { failure, retry_after, reason } = declined;
                tracing::warn!(attempt, failure = failure.label(), reason, "no certificate");
                self.last_failure = Some(reason);
                self.rotation.handle_failed(attempt, failure, retry_after, now);
            }
            Done::Information { serial, outcome: Ok((window, retry_after)) } => {
                self.rotation.handle_renewal_information(&serial, window, retry_after, now);
            }
            // It is asked again in time, and without a suggestion the certificate is renewed all the same.
            Done::Information { serial, outcome: Err(declined) } => {
                tracing::debug!(serial, reason = declined.reason, "no suggestion for renewal");
            }
        }
    }

    /// Both roles swap in one step: one snapshot carries the identity of both
    async fn activate(&mut self, activation: Activation) {
        let Activation { serial, key, .. } = activation;
        let now = self.node.clock.look();
        let Some(identity) = self.held.get(&key).cloned() else {
            let reason = "the key is not there";
            return self.rotation.handle_activation_failed(&serial, reason, now);
        };
        self.node.present(identity);
        let slots = self.slots.clone();
        let noted = blocking(move || slots.activate(key), Failure::Local).await;
        if let Err(declined) = noted {
            // It is in force all the same; after a restart the first certificate in force is taken.
            tracing::error!(
                reason = declined.reason,
                "which certificate is in force was not noted"
            );
        }
        self.rotation.handle_activated(&serial, self.node.clock.look());
    }

    /// Connections are replaced session by session: make before break is the session's art
    fn replace(&self, connections: &[u64]) {
        let sessions: BTreeSet<u64> =
            connections.iter().filter_map(|number| self.watched.get(number).copied()?).collect();
        for session in sessions {
            if !self.node.endpoint.replace_session(session) {
                tracing::warn!(session, "a session's connections could not be replaced now");
            }
        }
    }

    async fn discard(&mut self, key: KeySlot) {
        self.held.remove(&key);
        let slots = self.slots.clone();
        if let Err(declined) = blocking(move || slots.discard(key), Failure::Local).await {
            let reason = declined.reason;
            tracing::error!(slot = key.0, reason, "a key that is of no use could not be destroyed");
        }
    }

    async fn look_at_connections(&mut self) {
        let all = self.node.endpoint.connections().await;
        let now = self.node.clock.look();
        let mut gone: BTreeSet<u64> = self.watched.keys().copied().collect();
        for status in all {
            let ConnectionStatus { id, session, peer_not_after, epoch, state, .. } = status;
            let Some(peer_not_after) = peer_not_after.filter(|_| state != "closing") else {
                continue;
            };
            gone.remove(&id);
            if self.watched.insert(id, session).is_some() {
                continue;
            }
            let own_serial = self.node.serial_of_epoch(epoch).unwrap_or_default();
            let connection = Connection { own_serial, peer_not_after };
            if let Err(error) = self.rotation.handle_connection_opened(id, connection, now) {
                tracing::error!(%error, "a connection is closed");
                self.watched.remove(&id);
                self.node.endpoint.close_connection(id).await;
            }
        }
        for id in gone {
            self.watched.remove(&id);
            self.rotation.handle_connection_closed(id, now);
        }
    }

    /// Events go to the log, counters and state to whoever asks
    fn tell(&mut self) {
        while let Some(event) = self.rotation.poll_event() {
            let label = event.label();
            match &event {
                Event::Expired { .. }
                | Event::Revoked { .. }
                | Event::ConnectionsPastEnd { .. }
                | Event::ActivationFailed { .. } => tracing::error!(?event, "rotation: {label}"),
                Event::CertificateRefused { .. }
                | Event::ClockForward { .. }
                | Event::ClockBackward { .. }
                | Event::ClockSkewed { .. }
                | Event::ConnectionsClosed { .. }
                | Event::AuthoritySwitched { .. } => tracing::warn!(?event, "rotation: {label}"),
                Event::Acquired { .. }
                | Event::Activated { .. }
                | Event::ConnectionsReplaced { .. } => tracing::info!(?event, "rotation: {label}"),
                _ => tracing::debug!(?event, "rotation: {label}"),
            }
        }
        let serial = |held: Option<&Held>| held.map(|held| held.certificate.serial.clone());
        let status = RotationStatus {
            current: serial(self.rotation.current()),
            successor: serial(self.rotation.successor()),
            acquire_at: self.rotation.acquire_at(),
            draining: self.rotation.draining().count(),
            connections: self.rotation.connections_watched(),
            last_failure: self.last_failure.clone(),
            counters: self.rotation.counters().collect(),
        };
        *self.node.rotation.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// Work with files, off the runtime's own threads
async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
    failure: Failure,
) -> Result<T, Declined>
where
    T: Send + 'static,
    E: ToString + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(|error| Declined::new(failure, error.to_string())),
        Err(error) => Err(Declined::new(Failure::Local, error)),
    }
}
