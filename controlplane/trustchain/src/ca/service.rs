//! The running authority: what it is made of, and everything it answers besides issuing. The handle in `api` is
//! all that others see of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stoq_interface::NodeId;
use stoq_store::Records;
use stoq_store::journal::{ENTRY_LIMIT_BYTES, Journal};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::admission::Admission;
use super::api::{CaStatus, EnrolledNode, Refusal, Registration, RenewalInformation};
use super::authority::IssuingAuthority;
use super::commit::{APPENDS_LIMIT_BYTES, APPENDS_LIMIT_ENTRIES, AppendCommit, Message};
use super::entry::{Entry, Registered, RenewAll, Unregistered};
use super::issuing_keys::IssuingKey;
use super::profile::Profiles;
use super::settings::{CaSettings, Consensus};
use super::shared::Shared;
use super::state::RequestId;
use crate::certificate::{unhex, unix_seconds};
use crate::log::directory::DirectoryReader;
use crate::log::record::Record;
use crate::log::serve::{self, Served};
use crate::log::submission::SubmissionError;
use crate::log::{DurableHead, IssuerChain, LogVerifier, ProofBundle, proof};
use crate::revocation::crl::Sharding;
use crate::rotation::RenewalWindow;
use crate::signer::{KeyName, Signer};
use crate::token::TokenStore;

/// How often a node should ask for its window (RFC 9773 section 4.3)
const INFORMATION_INTERVAL: Duration = Duration::from_secs(3_600);

/// What happened since the start
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) issued: AtomicU64,
    pub(super) repeated: AtomicU64,
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    pub(super) fn refused(&self, code: &'static str) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    }

    fn refusals(&self) -> Vec<(&'static str, u64)> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.iter().map(|(code, count)| (*code, *count)).collect()
    }
}

/// The issuing key in force, and what follows from it
pub(super) struct Issuer {
    pub(super) authority: Arc<IssuingAuthority>,
    pub(super) chain: IssuerChain,
    authority_uri: String,
    crl_uris: Vec<String>,
}

impl Issuer {
    pub(super) fn new(
        settings: &CaSettings,
        authority: IssuingAuthority,
    ) -> Result<Self, SubmissionError> {
        let chain = IssuerChain::new(&[authority.certificate_der(), authority.root_der()])?;
        let key_id = authority.key_id();
        let shards = 0..settings.sharding.shards();
        Ok(Self {
            chain,
            authority_uri: settings.authority_uri(&key_id),
            crl_uris: shards.map(|shard| settings.crl_uri(&key_id, shard)).collect(),
            authority: Arc::new(authority),
        })
    }

    pub(super) fn crl_uri(&self, shard: u8) -> &str {
        &self.crl_uris[usize::from(shard)]
    }

    pub(super) fn authority_uri(&self) -> &str {
        &self.authority_uri
    }
}

/// What a running authority consists of; put together in `open`
pub(super) struct Service {
    pub(super) settings: CaSettings,
    pub(super) issuer: RwLock<Arc<Issuer>>,
    /// Held shared by each request from its first look at the issuing key to its last signature, and alone while
    /// another key takes over: no certificate is begun with one key and ended with another
    pub(super) turnover: tokio::sync::RwLock<()>,
    pub(super) log: LogVerifier,
    pub(super) log_signer: Arc<dyn Signer>,
    pub(super) log_key: KeyName,
    pub(super) files: DirectoryReader,
    pub(super) tokens: Arc<TokenStore>,
    pub(super) records: Option<Arc<dyn Records>>,
    pub(super) shared: Arc<Shared>,
    pub(super) admission: Admission,
    pub(super) counters: Counters,
    pub(super) turns: Mutex<HashMap<RequestId, Arc<tokio::sync::Mutex<()>>>>,
    pub(super) not_issuing: Mutex<Option<String>>,
    pub(super) siblings: Mutex<Arc<Vec<Vec<u8>>>>,
    pub(super) messages: Mutex<Option<mpsc::Sender<Message>>>,
    pub(super) journal: Mutex<Option<Arc<Journal>>>,
    pub(super) tasks: Mutex<Tasks>,
}

/// What is to be appended beside certificates
struct AppendOrder {
    entries: Vec<Entry>,
    /// Certificates of authorities whose records are among them
    issuers: Vec<Vec<u8>>,
}

/// Tasks to be waited for when the authority is closed
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) publish: Option<JoinHandle<()>>,
    pub(super) commit: Option<JoinHandle<()>>,
    pub(super) feed: Option<JoinHandle<Result<(), stoq_store::records::CatchUpError>>>,
}

impl Drop for Service {
    fn drop(&mut self) {
        // The commit task ends with the last sender; the publishing one has to look.
        lock(&self.messages).take();
        self.shared.to_publish.notify_one();
        if let Some(feed) = &self.shared.feed {
            feed.close();
        }
    }
}

impl Service {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn tokens(&self) -> &Arc<TokenStore> {
        &self.tokens
    }

    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn log_key(&self) -> (&Arc<dyn Signer>, &KeyName) {
        (&self.log_signer, &self.log_key)
    }

    pub(super) fn turns(&self) -> MutexGuard<'_, HashMap<RequestId, Arc<tokio::sync::Mutex<()>>>> {
        lock(&self.turns)
    }

    pub(super) fn sharding(&self) -> Sharding {
        self.settings.sharding
    }

    pub(super) fn consensus(&self) -> &Consensus {
        &self.settings.consensus
    }

    pub(super) fn siblings(&self) -> Arc<Vec<Vec<u8>>> {
        lock(&self.siblings).clone()
    }

    pub(super) fn set_siblings(&self, siblings: Vec<Vec<u8>>) {
        *lock(&self.siblings) = Arc::new(siblings);
    }

    pub(super) fn enrolled_key_grace(&self) -> Duration {
        self.settings.enrolled_key_grace
    }

    pub(super) fn issuer(&self) -> Arc<Issuer> {
        self.issuer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another issuing key takes over. The caller holds `turnover` alone.
    pub(super) fn set_issuer(&self, issuer: Issuer) {
        *self.issuer.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(issuer);
    }

    pub(super) fn authority(&self) -> Arc<IssuingAuthority> {
        self.issuer().authority.clone()
    }

    pub(super) fn issuing_keys(&self) -> Vec<IssuingKey> {
        self.shared.state().issuing_keys().all()
    }

    pub(super) fn issuing_keys_changed(&self) -> watch::Receiver<u64> {
        self.shared.keys_changed.subscribe()
    }

    /// The certificate of an issuing key of this instance
    pub(super) fn issuing_certificate(&self, key_id: &str) -> Option<Vec<u8>> {
        let authority = self.authority();
        if authority.key_id().to_string() == key_id {
            return Some(authority.certificate_der().to_vec());
        }
        let known = self.issuing_keys().into_iter().find(|key| key.key_id.to_string() == key_id);
        known.map(|key| key.certificate_der)
    }

    /// Makes a chain known to the log, so that entries may refer to it. Not twice at one time.
    pub(super) async fn register_chain(&self, chain: &IssuerChain) -> Result<(), Refusal> {
        let (mut entries, mut issuers) = (Vec::new(), Vec::new());
        {
            let sequencer = self.shared.sequencer();
            for (der, fingerprint) in chain.certificates().iter().zip(chain.fingerprints()) {
                if sequencer.knows_issuer(fingerprint) {
                    continue;
                }
                let refused = |error: &dyn fmt::Display| Refusal::NotIssuing(error.to_string());
                sequencer.check_issuers().map_err(|error| refused(&error))?;
                let record = Record::Issuer { der: der.clone() }.encode();
                entries.push(Entry::Log(record.map_err(|error| refused(&error))?));
                issuers.push(der.clone());
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        self.hand_over(AppendOrder { entries, issuers }).await.map(drop)
    }

    pub(super) fn profiles(&self) -> &Profiles {
        &self.settings.profiles
    }

    pub(super) fn instance(&self) -> &NodeId {
        &self.settings.instance
    }

    pub(super) fn log(&self) -> &LogVerifier {
        &self.log
    }

    pub(super) fn now(&self) -> SystemTime {
        self.shared.now()
    }

    pub(super) fn checkpoint(&self) -> watch::Receiver<Option<DurableHead>> {
        self.shared.head.subscribe()
    }

    pub(super) fn committed(&self) -> watch::Receiver<u64> {
        self.shared.committed.subscribe()
    }

    pub(super) fn records(&self) -> Option<Arc<dyn Records>> {
        self.records.clone()
    }

    pub(super) fn set_not_issuing(&self, reason: Option<String>) {
        *lock(&self.not_issuing) = reason;
    }

    /// Whether anything may be issued now
    pub(super) fn check_issuing(&self) -> Result<(), Refusal> {
        self.shared.check_running()?;
        if let Some(reason) = lock(&self.not_issuing).as_ref() {
            return Err(Refusal::NotIssuing(reason.clone()));
        }
        if self.shared.unpublished().len() >= self.shared.limits.unpublished_entries {
            return Err(Refusal::NotIssuing("the log is not published".into()));
        }
        Ok(())
    }

    /// Hands something to the commit task
    pub(super) fn send(&self, message: Message) -> Result<(), Refusal> {
        let closed = || Refusal::Stopped("it is being closed".into());
        let messages = lock(&self.messages).clone().ok_or_else(closed)?;
        messages.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => self.admission.busy(Duration::ZERO),
            TrySendError::Closed(_) => closed(),
        })
    }

    pub(super) async fn append(&self, entries: Vec<Entry>) -> Result<u64, Refusal> {
        if entries.is_empty() || entries.len() > APPENDS_LIMIT_ENTRIES {
            let text = format!("1 to {APPENDS_LIMIT_ENTRIES} entries are appended at once");
            return Err(Refusal::Malformed(text));
        }
        let mut octets = 0;
        for entry in &entries {
            if matches!(entry, Entry::Log(_) | Entry::Issued(_) | Entry::Policy(_)) {
                let text =
                    "certificates, log records and policies are written by the authority alone";
                return Err(Refusal::Malformed(text.into()));
            }
            let length = entry.encode().payload.len();
            octets += length;
            if length > ENTRY_LIMIT_BYTES || octets > APPENDS_LIMIT_BYTES {
                let text = format!("{octets} bytes are too many for the journal at once");
                return Err(Refusal::Malformed(text));
            }
        }
        self.append_any(entries).await
    }

    /// Appends what this authority itself has made
    pub(super) async fn append_any(&self, entries: Vec<Entry>) -> Result<u64, Refusal> {
        self.hand_over(AppendOrder { entries, issuers: Vec::new() }).await
    }

    async fn hand_over(&self, order: AppendOrder) -> Result<u64, Refusal> {
        self.shared.check_running()?;
        let AppendOrder { entries, issuers } = order;
        let (done, outcome) = oneshot::channel();
        self.send(Message::Append(AppendCommit { entries, issuers, done }))?;
        outcome.await.map_err(|_| Refusal::Stopped("it ended early".into()))?
    }

    pub(super) async fn register(&self, registration: Registration) -> Result<(), Refusal> {
        let Registration { profile, subject, owner, addresses, .. } = &registration;
        let found = self.profiles().get(profile);
        let found = found.ok_or_else(|| Refusal::UnknownProfile(profile.clone()))?;
        found.names(&registration).map_err(Refusal::Malformed)?;
        let authority = self.authority();
        if let Some(address) = addresses.iter().find(|one| !authority.may_name(**one)) {
            return Err(Refusal::Malformed(format!(
                "{address} is not within the network this authority may name"
            )));
        }
        if !self.shared.state().has_room_for(profile, subject) {
            return Err(Refusal::RegistryFull);
        }
        let registered = Registered {
            profile: profile.clone(),
            subject: subject.clone(),
            owner: owner.as_ref().map(ToString::to_string).unwrap_or_default(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            alternative_names: registration.alternative_names,
        };
        self.append(vec![Entry::Registered(registered)]).await.map(drop)
    }

    pub(super) async fn unregister(&self, profile: &str, subject: &str) -> Result<bool, Refusal> {
        if self.shared.state().registration(profile, subject).is_none() {
            return Ok(false);
        }
        let gone = Unregistered { profile: profile.into(), subject: subject.into() };
        self.append(vec![Entry::Unregistered(gone)]).await?;
        Ok(true)
    }

    pub(super) fn registrations(&self) -> Vec<Registration> {
        self.shared.state().registrations()
    }

    pub(super) fn nodes(&self) -> Vec<EnrolledNode> {
        self.shared.state().nodes()
    }

    pub(super) fn node(&self, node: &NodeId) -> Option<EnrolledNode> {
        self.shared.state().node(node.as_str())
    }

    pub(super) fn is_revoked(&self, serial: &str, spki_sha256: &[u8; 32]) -> bool {
        let serial = unhex(serial).unwrap_or_default();
        self.shared.state().is_revoked(&serial, spki_sha256)
    }

    pub(super) fn leaf_index(&self, serial: &str) -> Option<u64> {
        Some(self.shared.state().live(&unhex(serial)?)?.leaf_index)
    }

    pub(super) fn renewal_information(&self, serial: &str) -> Option<RenewalInformation> {
        let live = self.shared.state().live(&unhex(serial)?)?.clone();
        if live.not_after < unix_seconds(self.now()) {
            return None;
        }
        let dates = (live.not_before, live.not_after);
        let window = self.window(&live.profile, dates, live.timestamp_ms);
        Some(RenewalInformation { window, retry_after: INFORMATION_INTERVAL })
    }

    /// When a certificate should be renewed; dates in seconds since 1970
    pub(super) fn window(
        &self,
        profile: &str,
        (not_before, not_after): (u64, u64),
        timestamp_ms: u64,
    ) -> RenewalWindow {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        if let Some(all) = self.shared.state().renew_all()
            && timestamp_ms <= all.issued_until_ms
        {
            return RenewalWindow { start: at(all.start), end: at(all.end) };
        }
        let lifetime = not_after.saturating_sub(not_before) + 1;
        // A certificate that the issuer's end has cut short, or of a profile that is gone: in proportion
        let (from, until, nominal) = match self.profiles().get(profile) {
            Some(known) => {
                (known.renew_from_seconds, known.renew_until_seconds, known.lifetime_seconds)
            }
            None => (2, 3, 4),
        };
        let part = |age: u64| {
            let scaled = u128::from(lifetime) * u128::from(age) / u128::from(nominal.max(1));
            at(not_before + u64::try_from(scaled).unwrap_or(lifetime))
        };
        let start = part(from);
        RenewalWindow { start, end: part(until).max(start + Duration::from_secs(1)) }
    }

    pub(super) async fn renew_all(&self, window: RenewalWindow) -> Result<(), Refusal> {
        if window.end <= window.start {
            return Err(Refusal::Malformed("a renewal window ends after it begins".into()));
        }
        let all = RenewAll {
            issued_until_ms: self.shared.now_ms(),
            start: unix_seconds(window.start),
            end: unix_seconds(window.end).max(unix_seconds(window.start) + 1),
        };
        self.append(vec![Entry::RenewAll(all)]).await.map(drop)
    }

    pub(super) async fn inclusion_proof(
        &self,
        leaf_index: u64,
        patience: Duration,
    ) -> Result<Option<ProofBundle>, Refusal> {
        let mut published = self.shared.published.subscribe();
        let covers = published.wait_for(|checkpoint| {
            checkpoint.as_ref().is_some_and(|one| leaf_index < one.head.size)
        });
        let checkpoint = match tokio::time::timeout(patience, covers).await {
            Ok(Ok(checkpoint)) => checkpoint.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        let Some(checkpoint) = checkpoint else { return Ok(None) };
        let files = self.files.clone();
        let prove = move || proof::prove(&files, &checkpoint, leaf_index);
        let proven = tokio::task::spawn_blocking(prove).await;
        let proven = proven.map_err(|error| Refusal::Internal(error.to_string()))?;
        proven.map(Some).map_err(|error| Refusal::Internal(error.to_string()))
    }

    pub(super) fn log_file(&self, path: &str) -> Result<Option<Served>, Refusal> {
        serve::read(&self.files, path).map_err(|error| Refusal::Internal(error.to_string()))
    }

    pub(super) async fn records_caught_up(&self) -> Result<(), Refusal> {
        let Some(feed) = &self.shared.feed else { return Ok(()) };
        let wanted = *self.shared.committed.borrow();
        let mut applied = feed.applied();
        let caught = applied.wait_for(|applied| *applied >= wanted).await;
        caught.map(drop).map_err(|_| Refusal::Stopped("the inventory does not follow".into()))
    }

    pub(super) fn status(&self) -> CaStatus {
        let counters = lock(&self.journal).as_ref().map(|journal| journal.counters());
        let not_issuing = self.check_issuing().err().map(|refusal| refusal.to_string());
        let published = self.shared.published.borrow().clone();
        let authority = self.authority();
        let state = self.shared.state();
        CaStatus {
            instance: self.settings.instance.clone(),
            mode: self.settings.mode.label(),
            not_issuing,
            root: authority.root_fingerprint(),
            issuing_key_id: authority.key_id().to_string(),
            issuing_not_after: authority.not_after(),
            issued: state.issued(),
            issued_since_start: self.counters.issued.load(Ordering::Relaxed),
            repeated_since_start: self.counters.repeated.load(Ordering::Relaxed),
            refused_since_start: self.counters.refusals(),
            in_flight: self.admission.in_flight(),
            in_flight_limit: self.shared.limits.in_flight,
            revoked: state.revoked(),
            nodes: state.node_count(),
            journal_sequence: *self.shared.committed.borrow(),
            journal: counters.unwrap_or_default(),
            log_entries: self.shared.log_entries.load(Ordering::Relaxed),
            log_published: published.as_ref().map_or(0, |one| one.head.size),
            log_published_ms: published.as_ref().map(|one| one.timestamp_ms),
            log_problem: self.shared.log_problem().clone(),
            records_sequence: self.shared.feed.as_ref().map(|feed| *feed.applied().borrow()),
        }
    }

    pub(super) async fn close(&self) -> Result<(), Refusal> {
        let mut first = Ok(());
        let mut note = |outcome: Result<(), Refusal>| {
            if first.is_ok() {
                first = outcome;
            }
        };
        self.shared.closing.store(true, Ordering::Release);
        self.admission.close().await;
        self.shared.to_publish.notify_one();
        let Tasks { publish, commit, feed } = std::mem::take(&mut *lock(&self.tasks));
        let early = |error: tokio::task::JoinError| Refusal::Internal(error.to_string());
        if let Some(task) = publish {
            note(task.await.map_err(early));
        }
        lock(&self.messages).take();
        if let Some(task) = commit {
            note(task.await.map_err(early));
        }
        if let (Some(task), Some(feed)) = (feed, &self.shared.feed) {
            feed.close();
            note(match task.await {
                Ok(outcome) => outcome.map_err(|error| Refusal::Internal(error.to_string())),
                Err(error) => Err(early(error)),
            });
        }
        if let Some(reason) = self.shared.stopped() {
            note(Err(Refusal::Stopped(reason.to_owned())));
        }
        let journal = lock(&self.journal).take();
        match journal.map(Arc::into_inner) {
            Some(Some(journal)) => {
                let closed = journal.close().await;
                note(closed.map_err(|failure| Refusal::Stopped(failure.to_string())));
            }
            Some(None) => note(Err(Refusal::Internal("the journal is still being read".into()))),
            None => {}
        }
        first
    }
}

/// What is behind these locks is whole after every statement, also where its holder panicked
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
