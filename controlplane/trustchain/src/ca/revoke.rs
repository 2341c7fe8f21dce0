//! Revocation: by serial number, key or name. A revocation is durable before it is answered, and the deny-list's
//! epoch that carries it is durable with it before any node sees it. Also the CRLs, which follow on a timer, and
//! taking revocations over from a signed list or from another instance that shares the records. What is done
//! with a list is the business of whoever follows [`Revocations::deny_list`].

mod worker;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stoq_interface::NodeId;
use stoq_store::records::RecordsError;
use tokio::sync::{mpsc, oneshot, watch};

use super::api::{Ca, Clock};
use super::crl::{CrlBooks, Crls, PublishedCrls};
use super::inventory::{Inventory, InventoryError};
use super::replay::{Replay, ReplayError};
use crate::audit::{AuditEvent, AuditLog, RecordError};
use crate::backup::{Behind, HighWater, HighWaterFile, crl_name, key_states};
use crate::pinning::AuthorityState;
use crate::revocation::crl::{CrlError, IssuedCrl, Sharding};
use crate::revocation::{
    DenyListIssuer, HighWaterMark, IssuerSettings, KeyId, Publication, PublishError, Reason,
    Refusal, RestoreError, SerialNumber, Signers, SpkiHash,
};
use crate::signer::{NamedKey, SignerError};
use worker::{Command, Worker};

pub use super::crl::{CRL_INTERVAL, CRL_VALIDITY};

/// Requests that wait
const QUEUE: usize = 256;

/// How revocation is done
#[derive(Clone, Debug)]
pub struct RevocationSettings {
    /// How often the deny-list is issued
    pub deny_list: IssuerSettings,
    /// How certificates are spread over CRLs; the authority's own
    pub sharding: Sharding,
    /// What the addresses of CRLs begin with; the authority's own
    pub crl_base_uri: String,
    /// Between two rounds of signing CRLs because of revocations
    pub crl_pause: Duration,
    /// How often the clock is looked at
    pub tick: Duration,
    /// Between two looks at what other instances have revoked
    pub absorb_pause: Duration,
    /// Where the highest state is remembered, outside of what is backed up
    pub high_water: PathBuf,
    /// How often it is written when nothing is revoked
    pub high_water_interval: Duration,
}

impl RevocationSettings {
    /// The usual values
    pub fn new(sharding: Sharding, crl_base_uri: String, high_water: PathBuf) -> Self {
        Self {
            deny_list: IssuerSettings::default(),
            sharding,
            crl_base_uri,
            crl_pause: Duration::from_secs(5),
            tick: Duration::from_millis(250),
            absorb_pause: Duration::from_secs(1),
            high_water,
            high_water_interval: Duration::from_secs(10),
        }
    }
}

/// What is to be revoked
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RevokeTarget {
    /// One certificate
    Certificate(SerialNumber),
    /// A key, and every certificate for it that has not ended
    Key(SpkiHash),
    /// Every certificate of a name that has not ended, also those that begin later. What it is registered as
    /// is not taken back by this: `Ca::unregister` is.
    Name(String),
}

/// A request to revoke
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RevokeRequest {
    /// What
    pub target: RevokeTarget,
    /// Why
    pub reason: Reason,
    /// The certificates' keys as well, in certificates yet to come
    pub with_key: bool,
    /// Who says so, for the audit log: `operator:root`, `node:alpha`
    pub revoked_by: String,
}

/// A certificate or key that is revoked
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RevokedItem {
    /// Serial number, hexadecimal; `None` for a key alone
    pub serial: Option<String>,
    /// SHA-256 of the key, where that is revoked, hexadecimal
    pub spki_sha256: Option<String>,
    /// Whom the certificate names
    pub subject: Option<String>,
    /// Last second of validity, in seconds since 1970
    pub ends_at: u64,
    /// It was revoked before, and that counts
    pub repeated: bool,
}

/// What came of a request. Everything in it is durable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RevokeReceipt {
    /// What is revoked
    pub items: Vec<RevokedItem>,
    /// Since when, in seconds since 1970
    pub revoked_at: u64,
    /// The epoch of the deny-list that has it; `None` while the list cannot be signed: it is tried again and
    /// again, and [`RevocationStatus::problem`] says why
    pub epoch: Option<u64>,
    /// The journal entry; zero where everything was revoked before
    pub sequence: u64,
}

/// What came of taking a list over
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Adopted {
    /// Revocations that were not known here
    pub came_back: usize,
    /// The epoch of this authority's list that has them; `None` while it cannot be signed
    pub epoch: Option<u64>,
}

/// Why nothing was revoked
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// Nothing of that kind is in force
    #[error("nothing that has not ended is known by {0}; `stoqctl certificate list` shows what is")]
    NotFound(String),
    /// The inventory
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// The deny-list
    #[error(transparent)]
    DenyList(#[from] crate::revocation::RevokeError),
    /// The CRL
    #[error(transparent)]
    Crl(#[from] CrlError),
    /// A serial number or key of the inventory makes no sense
    #[error("the inventory holds something that makes no sense: {0}")]
    Entry(#[from] crate::revocation::EntryError),
    /// It could not be made durable; nothing is revoked
    #[error("nothing was revoked: {0}")]
    Journal(#[from] RecordError),
    /// The list to adopt is refused
    #[error("the deny-list is refused: {0}")]
    Document(#[from] Refusal),
    /// The list to adopt is not one to adopt
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The key that signs the lists cannot be the one that they name
    #[error(
        "the issuing key signs the deny-list that would have to name it; let another key take over first"
    )]
    SignsTheList,
    /// The key is none that lists can be signed with
    #[error("the key is no P-256 key of an issuing authority")]
    NoIssuingKey,
    /// Too many requests wait
    #[error("too many revocations are under way; try again")]
    Busy,
    /// The authority stops
    #[error("the authority is stopping")]
    Closed,
}

impl From<RecordsError> for RevokeError {
    fn from(error: RecordsError) -> Self {
        Self::Inventory(error.into())
    }
}

/// Why revocation does not start, and with it the authority: without it nothing could be taken back
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The journal is not the latest
    #[error(transparent)]
    Behind(#[from] Behind),
    /// The file of the highest state
    #[error("{path}: {source}; it remembers what was published: repair it, do not remove it")]
    HighWater {
        /// The file
        path: PathBuf,
        /// What it said
        source: std::io::Error,
    },
    /// The list to adopt
    #[error("the deny-list to adopt is refused: {0}")]
    Document(#[from] Refusal),
    /// The list to adopt is not one to adopt
    #[error(transparent)]
    Adopt(RestoreError),
    /// The deny-list
    #[error(transparent)]
    DenyList(#[from] PublishError),
    /// The CRLs
    #[error(transparent)]
    Crl(#[from] CrlError),
    /// The key
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The inventory
    #[error(transparent)]
    Inventory(#[from] InventoryError),
}

/// A CRL in the status; times in seconds since 1970
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CrlStatus {
    /// The key that signs it
    pub issuer: KeyId,
    /// Its shard
    pub shard: u8,
    /// Its number
    pub number: u64,
    /// When it was signed
    pub this_update: u64,
    /// When the next is due at the latest
    pub next_update: u64,
    /// Octets
    pub bytes: usize,
}

/// How revocation is
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RevocationStatus {
    /// The last epoch of the deny-list that was published; zero before the first
    pub epoch: u64,
    /// When, in seconds since 1970
    pub issued_at: u64,
    /// Until when nodes take it for recent, in seconds since 1970
    pub next_update: u64,
    /// Entries
    pub entries: usize,
    /// Octets of the whole list
    pub bytes: usize,
    /// Why the list or a CRL cannot be issued; `None` where all is well
    pub problem: Option<String>,
    /// Why the highest state is not remembered; `None` where it is
    pub high_water_problem: Option<String>,
    /// The lists that were issued
    pub crls: Vec<CrlStatus>,
}

/// What the authority has reached
#[derive(Clone, Debug, Default)]
pub struct Reached {
    /// Last journal entry
    pub sequence: u64,
    /// Entries of the log
    pub log_entries: u64,
    /// The state of each issuing key, by its pin
    pub issuing_keys: BTreeMap<String, AuthorityState>,
}

/// Says what the authority has reached
pub type Progress = Arc<dyn Fn() -> Reached + Send + Sync>;

/// A deny-list that a restored authority goes on from, before it issues one of its own
#[derive(Clone, Debug)]
pub struct AdoptAtStart {
    /// This authority's full list as a node keeps it
    pub document: Vec<u8>,
    /// Who may have signed it: the keys this authority had
    pub signers: Signers,
    /// Who says so, for the audit log
    pub adopted_by: String,
}

/// What revocation needs of an authority
pub struct RevocationParts {
    /// Name of the instance
    pub instance: NodeId,
    /// The issuing key
    pub key: NamedKey,
    /// What rcgen needs to know of the issuer
    pub issuer_params: rcgen::CertificateParams,
    /// What the journal says
    pub replay: Replay,
    /// Writes journal and audit log
    pub audit: AuditLog,
    /// What was issued
    pub inventory: Inventory,
    /// Time
    pub clock: Clock,
    /// How far the authority is
    pub progress: Progress,
    /// After a restore: what to go on from
    pub adopt: Option<AdoptAtStart>,
}

impl std::fmt::Debug for RevocationParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RevocationParts({})", self.instance)
    }
}

/// Revokes. Cheap to clone; the task ends with the last clone.
#[derive(Clone, Debug)]
pub struct Revocations {
    queue: mpsc::Sender<Command>,
    deny_list: watch::Receiver<Option<Arc<Publication>>>,
    crls: watch::Receiver<PublishedCrls>,
    status: watch::Receiver<RevocationStatus>,
    key_id: watch::Receiver<KeyId>,
}

/// An issuing key whose every signature is to stop counting
#[derive(Debug)]
pub(super) struct IssuerRevocation {
    /// The key
    pub(super) issuer: KeyId,
    /// The end of its certificate, in seconds since 1970: none of its leaves outlives it
    pub(super) ends_at: u64,
    /// Why
    pub(super) reason: Reason,
    /// Who says so, for the journal
    pub(super) revoked_by: String,
    /// What the journal is told with it, in the same group
    pub(super) entry: super::entry::Entry,
    /// What the audit log is told with it
    pub(super) event: AuditEvent,
}

impl Revocations {
    /// Begins with what the journal says, in a task of the current runtime. `replay` was read from the
    /// authority's journal before the authority opened it; whoever restored an old journal is refused here.
    /// The first list is issued at once.
    pub fn start(
        ca: &Ca,
        audit: AuditLog,
        replay: Replay,
        settings: RevocationSettings,
        adopt: Option<AdoptAtStart>,
    ) -> Result<Self, StartError> {
        let authority = ca.authority();
        let key = NamedKey::new(authority.signer().clone(), authority.key().name())?;
        let (progress, clock) = (ca.clone(), ca.clone());
        let parts = RevocationParts {
            instance: ca.instance().clone(),
            key,
            issuer_params: authority.issuer_params(),
            replay,
            audit,
            inventory: Inventory::of(ca)?,
            clock: Arc::new(move || clock.now()),
            progress: Arc::new(move || {
                let status = progress.status();
                Reached {
                    sequence: status.journal_sequence,
                    log_entries: status.log_entries,
                    issuing_keys: key_states(progress.service.shared().state().issuing_keys()),
                }
            }),
            adopt,
        };
        Self::start_with(parts, settings)
    }

    /// The same from its parts
    pub fn start_with(
        parts: RevocationParts,
        settings: RevocationSettings,
    ) -> Result<Self, StartError> {
        let path = settings.high_water.clone();
        let file = HighWaterFile::open(&path);
        let mut file =
            file.map_err(|source| StartError::HighWater { path: path.clone(), source })?;
        check_start(&parts, file.held())?;
        if parts.adopt.is_none() {
            let reached = HighWater::of(parts.instance.as_str(), &parts.replay);
            file.grow(&reached).map_err(|source| StartError::HighWater { path, source })?;
        }
        let state = parts.replay.deny_list.state();
        let instance = parts.instance.clone();
        let issuer = DenyListIssuer::restore(instance, settings.deny_list, state)?;
        let point = rcgen::PublicKeyData::der_bytes(&parts.key);
        let key_id = KeyId::of_public_point(point).map_err(|_| PublishError::KeyKind)?;
        let seen = file.held().crl_numbers.clone();
        let now = crate::certificate::unix_seconds((parts.clock)());
        let (key, params) = (parts.key.clone(), parts.issuer_params.clone());
        let mut books = CrlBooks::default();
        books.insert(begin_crls(&settings, &parts.replay, &seen, (key, params, key_id), now)?);
        let (queue, commands) = mpsc::channel(QUEUE);
        let worker = Worker::new(parts, settings, issuer, books, file, key_id);
        let (deny_list, published, status, key_id) = worker.watches();
        tokio::spawn(worker.run(commands));
        Ok(Self { queue, deny_list, crls: published, status, key_id })
    }

    /// Revokes; durable when this returns. A caller that stops waiting may have revoked all the same.
    pub async fn revoke(&self, request: RevokeRequest) -> Result<RevokeReceipt, RevokeError> {
        let (done, answer) = oneshot::channel();
        self.send(Command::Revoke { request, done })?;
        answer.await.map_err(|_closed| RevokeError::Closed)?
    }

    /// Takes note of what a node, a witness or another copy remembers of this authority's list, and refuses to
    /// issue any more where that is beyond what the journal has. Only what was verified may be told: the mark
    /// of a node's own file, not a number a stranger sent.
    pub async fn observe(&self, mark: HighWaterMark) -> Result<(), RevokeError> {
        let (done, answer) = oneshot::channel();
        self.send(Command::Observe { mark, done })?;
        answer.await.map_err(|_closed| RevokeError::Closed)?
    }

    /// Takes over every revocation of a full signed list, which `signers` verify: this authority's own from
    /// before a loss (as any node keeps it), or that of an authority that is no more. Durable when this returns.
    pub async fn adopt(
        &self,
        document: Vec<u8>,
        signers: Signers,
        adopted_by: String,
    ) -> Result<Adopted, RevokeError> {
        let (done, answer) = oneshot::channel();
        self.send(Command::Adopt { document, signers, adopted_by, done })?;
        answer.await.map_err(|_closed| RevokeError::Closed)?
    }

    /// From now on lists are signed with `key`: the deny-list at once, CRLs of its leaves when they are due. The
    /// lists of keys before it are signed on. Returns the epoch that is the first of that key; `None` while it
    /// cannot be signed.
    pub(super) async fn sign_with(&self, key: NamedKey) -> Result<Option<u64>, RevokeError> {
        let (done, answer) = oneshot::channel();
        self.send(Command::SignWith { key, done })?;
        answer.await.map_err(|_closed| RevokeError::Closed)?
    }

    /// Goes on signing the CRLs of a key that issues no more
    pub(super) async fn keep_crls_of(&self, key: NamedKey) -> Result<(), RevokeError> {
        let (done, answer) = oneshot::channel();
        self.send(Command::KeepCrls { key, done })?;
        answer.await.map_err(|_closed| RevokeError::Closed)?
    }

    /// Issues the deny-list now: nodes take each issue as a sign to look at what else is new
    pub(super) async fn issue_now(&self) -> Result<Option<u64>, RevokeError> {
        let (done, answer) = oneshot::channel();
        self.send(Command::IssueNow { done })?;
        answer.await.map_err(|_closed| RevokeError::Closed)?
    }

    /// Revokes an issuing key with everything it has signed; durable when this returns, with what the journal and
    /// the audit log are told of it. It must not be the key that signs the lists.
    pub(super) async fn revoke_issuer(
        &self,
        revocation: IssuerRevocation,
    ) -> Result<RevokeReceipt, RevokeError> {
        let (done, answer) = oneshot::channel();
        self.send(Command::RevokeIssuer { revocation: Box::new(revocation), done })?;
        answer.await.map_err(|_closed| RevokeError::Closed)?
    }

    fn send(&self, command: Command) -> Result<(), RevokeError> {
        self.queue.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RevokeError::Busy,
            mpsc::error::TrySendError::Closed(_) => RevokeError::Closed,
        })
    }

    /// The deny-list; it changes with each epoch. `None` until the first is issued.
    pub fn deny_list(&self) -> watch::Receiver<Option<Arc<Publication>>> {
        self.deny_list.clone()
    }

    /// The CRL of a shard, of the issuing key in force; `None` until it is issued and for shards there are not
    pub fn crl(&self, shard: u8) -> Option<Arc<IssuedCrl>> {
        let key = *self.key_id.borrow();
        self.crls.borrow().get(&(key, shard)).cloned()
    }

    /// The CRL that an address ends in: `<issuing key>-<shard>.crl`
    pub fn crl_by_name(&self, name: &str) -> Option<Arc<IssuedCrl>> {
        let (key, shard) = name.strip_suffix(".crl")?.rsplit_once('-')?;
        let octets = crate::certificate::unhex(key)?;
        let issuer = KeyId::from_bytes(&octets).ok().filter(|issuer| issuer.to_string() == key)?;
        let number: u8 = shard.parse().ok()?;
        // One name for each: no `+3`, no `03`
        let known = (number.to_string() == shard).then(|| self.crls.borrow())?;
        known.get(&(issuer, number)).cloned()
    }

    /// All CRLs; it changes when one is issued
    pub fn crls(&self) -> watch::Receiver<PublishedCrls> {
        self.crls.clone()
    }

    /// How it is
    pub fn status(&self) -> RevocationStatus {
        self.status.borrow().clone()
    }

    /// Waits until the deny-list has an epoch
    pub async fn reached(&self, epoch: u64) -> Result<Arc<Publication>, RevokeError> {
        let mut list = self.deny_list.clone();
        let reached = list.wait_for(|list| list.as_ref().is_some_and(|it| it.epoch >= epoch)).await;
        let reached = reached.map_err(|_closed| RevokeError::Closed)?;
        reached.clone().ok_or(RevokeError::Closed)
    }
}

/// Reads an authority's journal and compares it with what was remembered apart from it: before the authority is
/// opened, so that nothing is issued from an old journal. The same is checked again by [`Revocations::start`].
pub fn read_journal(
    journal_directory: &std::path::Path,
    high_water: &std::path::Path,
    adopting: bool,
) -> Result<Replay, StartError> {
    let replay = Replay::read(journal_directory)?;
    let file = HighWaterFile::open(high_water);
    let path = || high_water.to_owned();
    let file = file.map_err(|source| StartError::HighWater { path: path(), source })?;
    match file.held().check(&replay) {
        Err(behind) if !adopting || !behind.is_mended_by_adopting() => Err(behind.into()),
        _ => Ok(replay),
    }
}

/// The lists of a key, as the journal and the highest state left them
fn begin_crls(
    settings: &RevocationSettings,
    replay: &Replay,
    seen: &std::collections::BTreeMap<String, u64>,
    (key, issuer_params, key_id): (NamedKey, rcgen::CertificateParams, KeyId),
    now: u64,
) -> Result<Crls, CrlError> {
    let (sharding, base_uri) = (settings.sharding, settings.crl_base_uri.clone());
    let mut crls = Crls::new(sharding, base_uri, issuer_params, key, key_id)?;
    for (entry, _) in &replay.deny_list.entries {
        crls.revoke(entry, now)?;
    }
    for shard in 0..sharding.shards() {
        let known = replay.crl_numbers.get(&(key_id, shard));
        let seen = seen.get(&crl_name(&key_id, shard));
        crls.restore_number(shard, known.max(seen).copied().unwrap_or(0))?;
    }
    Ok(crls)
}

/// A journal that is behind is gone on with only where a list is adopted that has what is missing
fn check_start(parts: &RevocationParts, seen: &HighWater) -> Result<(), StartError> {
    let behind = match (seen.check(&parts.replay), &parts.adopt) {
        (Ok(()), _) => return Ok(()),
        (Err(behind), None) => return Err(behind.into()),
        (Err(behind), Some(_)) if !behind.is_mended_by_adopting() => return Err(behind.into()),
        (Err(behind), Some(_)) => behind,
    };
    let Some(adopt) = &parts.adopt else { return Err(behind.into()) };
    let document = crate::revocation::open(&adopt.document, &adopt.signers)?;
    let needed =
        seen.deny_list.as_ref().map_or(0, |mark| mark.epoch).max(parts.replay.deny_list.epoch);
    if document.instance != parts.instance {
        return Err(StartError::Adopt(RestoreError::Foreign));
    }
    if document.epoch < needed {
        let offered = document.epoch;
        return Err(StartError::Adopt(RestoreError::Older { offered, needed }));
    }
    tracing::warn!(%behind, epoch = document.epoch, "gone on with, from the list to adopt");
    Ok(())
}

/// Longest a certificate of any profile lasts from now, for keys that no certificate is known of
pub(super) fn longest_life(now: SystemTime) -> SystemTime {
    now + Duration::from_secs(48 * 3_600)
}
