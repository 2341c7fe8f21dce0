//! Taking the issuing keys of a running authority from state to state: prepared, active, tainted, revoked. A step is
//! judged by `pinning`, durable in the journal with its record in the audit log, and only then enforced: by the guard
//! before the keys, by the key that certificates are issued with, by the lists and who signs them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::api::{Ca, Refusal};
use super::authority::{IssuingAuthority, IssuingError};
use super::entry::{Entry, RenewAll};
use super::issuing_keys::IssuingKey;
use super::revoke::{IssuerRevocation, Revocations, RevokeError};
use super::service::Issuer;
use crate::audit::{AuditEvent, AuditKind, AuditLog, RecordError};
use crate::certificate::{self, CertificateError, unix_seconds};
use crate::log::submission::SubmissionError;
use crate::pinning::{
    AuthorityKey, AuthorityRing, AuthorityState, CutOff, Pin, Purpose, StateError, TaintReason,
};
use crate::revocation::{RETAIN_AFTER_END, Reason};
use crate::signer::{
    IssuingKeyError, KeyName, KeyPurpose, NamedKey, Signer, SignerError, StateGuard, StateRefusal,
    request_with,
};

/// How long a key has to be prepared before it may issue: nodes that can be reached learn of it within seconds, and
/// this is for those that are away for a while
pub const KEY_SPREAD: Duration = Duration::from_secs(3_600);
/// How long the holders of a compromised key's leaves take to get new ones
const RENEW_WITHIN: Duration = Duration::from_secs(900);
/// Pause before something is asked for again for which there was no room: there is no event for room
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is asked for again
const ATTEMPTS: u32 = 100;

/// Why a step is not taken
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is none of that name
    #[error("no issuing key of this authority is called `{0}`")]
    Unknown(KeyName),
    /// The name is of a key for something else
    #[error("`{0}` is no name of an issuing key: they begin with `issuing-`")]
    Purpose(KeyName),
    /// The name is taken
    #[error("an issuing key is called `{0}` already; choose another name")]
    NameTaken(KeyName),
    /// Nobody could be told
    #[error(
        "`{0}` signs the deny-list that would have to name it, and no other key does; prepare and activate another \
         one first"
    )]
    NobodySigns(KeyName),
    /// The table of states
    #[error(transparent)]
    Step(#[from] StateError),
    /// The guard before the keys
    #[error(transparent)]
    Guard(#[from] StateRefusal),
    /// The certificate does not fit the key, the root or the time
    #[error(transparent)]
    Issuing(#[from] IssuingError),
    /// A certificate
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The request for the root
    #[error(transparent)]
    Request(#[from] IssuingKeyError),
    /// The signer
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The chain cannot be logged
    #[error(transparent)]
    Chain(#[from] SubmissionError),
    /// Nothing was changed, because it could not be made durable
    #[error("nothing was changed: {0}")]
    Record(#[from] RecordError),
    /// The authority
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The lists
    #[error(transparent)]
    Lists(#[from] RevokeError),
    /// Something of this host failed
    #[error("the step broke off: {0}")]
    Broken(String),
}

/// A key that was revoked
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RevokedKey {
    /// As it is now
    pub key: IssuingKey,
    /// The epoch of the deny-list that names it; `None` while that cannot be signed, and for a key whose certificate
    /// has ended
    pub epoch: Option<u64>,
}

/// The issuing keys of a running authority. Cheap to clone.
#[derive(Clone)]
pub struct IssuingKeys {
    inner: Arc<Inner>,
}

struct Inner {
    ca: Ca,
    guard: Arc<StateGuard>,
    audit: AuditLog,
    revocations: Revocations,
    spread: Duration,
    /// One step at a time
    steps: tokio::sync::Mutex<()>,
}

impl IssuingKeys {
    /// Begins beside an authority that was just opened. `guard` is what signs for it. An authority of before there
    /// were states has its key written down as the active one; so is another certificate of the key in force.
    pub async fn start(
        ca: &Ca,
        guard: Arc<StateGuard>,
        audit: AuditLog,
        revocations: Revocations,
        spread: Duration,
    ) -> Result<Self, KeyError> {
        let (ca, steps) = (ca.clone(), tokio::sync::Mutex::default());
        let inner = Arc::new(Inner { ca, guard, audit, revocations, spread, steps });
        inner.adopt().await?;
        let known = inner.ca.issuing_keys();
        let signs_crls = known.iter().filter(|key| key.record.state.may_sign(Purpose::Crl));
        for key in signs_crls {
            match inner.named(&key.name) {
                Ok(named) => inner.revocations.keep_crls_of(named).await?,
                // Whoever took it away knows: its leaves can be revoked by the deny-list alone.
                Err(error) => tracing::error!(key = %key.name, %error, "its CRLs are not signed"),
            }
        }
        if !known.iter().any(|key| key.record.state == AuthorityState::Active) {
            let name = inner.ca.authority().key().name().clone();
            inner.ca.set_not_issuing(Some(not_issuing(&name)));
        }
        Ok(Self { inner })
    }

    /// Where they stand, those taken in first before the others
    pub fn list(&self) -> Vec<IssuingKey> {
        self.inner.ca.issuing_keys()
    }

    /// The request to take to the root for a key of that name, which is made where the keys are if it is not there
    pub async fn request(&self, name: &KeyName) -> Result<Vec<u8>, KeyError> {
        check_name(name)?;
        let _step = self.inner.steps.lock().await;
        let signer: Arc<dyn Signer> = self.inner.guard.clone();
        if signer.key(name).is_none() {
            signer.create_key(name).await?;
        }
        let name = name.clone();
        let signing = tokio::task::spawn_blocking(move || request_with(&signer, &name)).await;
        Ok(signing.map_err(|error| KeyError::Broken(error.to_string()))??)
    }

    /// Takes a key in that the root has certified. From now on nodes learn of it and accept its leaves; it signs
    /// none yet.
    pub async fn prepare(
        &self,
        name: &KeyName,
        certificate_der: &[u8],
        by: &str,
    ) -> Result<IssuingKey, KeyError> {
        check_name(name)?;
        let inner = &self.inner;
        let _step = inner.steps.lock().await;
        let now = inner.ca.now();
        let authority = inner.usable(name, certificate_der, now)?;
        let key = Pin::of_certificate(certificate_der)?;
        if inner.ca.issuing_keys().iter().any(|one| one.name == *name && one.record.key != key) {
            return Err(KeyError::NameTaken(name.clone()));
        }
        let mut ring = inner.ring(inner.spread)?;
        ring.prepare(key, authority.not_after(), now)?;
        let record = record_of(&ring, key)?;
        let (certificate_der, key_id) = (certificate_der.to_vec(), authority.key_id());
        let taken = IssuingKey { name: name.clone(), certificate_der, key_id, record };
        let service = &inner.ca.service;
        service.register_chain(&Issuer::new(&service.settings, authority)?.chain).await?;
        inner.write(vec![Entry::IssuingKey(taken.changed())], vec![event(&taken, by)]).await?;
        inner.tell().await;
        Ok(taken)
    }

    /// Lets a prepared key issue; the one that did is tainted as replaced. `at_once` does not wait until every node
    /// can have learned of it: for when the key in force is in other hands.
    pub async fn activate(
        &self,
        name: &KeyName,
        at_once: bool,
        by: &str,
    ) -> Result<IssuingKey, KeyError> {
        let inner = &self.inner;
        let _step = inner.steps.lock().await;
        let now = inner.ca.now();
        let key = inner.find(name)?;
        let mut ring = inner.ring(if at_once { Duration::ZERO } else { inner.spread })?;
        ring.activate(key.record.key, now)?;
        let service = &inner.ca.service;
        let authority = inner.usable(name, &key.certificate_der, now)?;
        let issuer = Issuer::new(&service.settings, authority)?;
        service.register_chain(&issuer.chain).await?;
        let alone = service.turnover.write().await;
        let changed = inner.changed(&ring);
        let events = changed.iter().map(|key| event(key, by).with("at_once", at_once)).collect();
        let mut entries = entries(&changed);
        let compromised = |key: &AuthorityKey| key.taint == Some(TaintReason::Compromised);
        if ring.records().any(compromised) {
            entries.push(inner.renew_all(now));
        }
        inner.write(entries, events).await?;
        inner.enforce(&changed)?;
        service.set_issuer(issuer);
        inner.ca.set_not_issuing(None);
        drop(alone);
        inner.sign_lists_with(name).await?;
        inner.find(name)
    }

    /// Stops a key from issuing. Its leaves are good still, and it signs their revocations. Holders of the leaves of
    /// a compromised key are told to renew now, where another key issues.
    pub async fn taint(
        &self,
        name: &KeyName,
        reason: TaintReason,
        by: &str,
    ) -> Result<IssuingKey, KeyError> {
        let inner = &self.inner;
        let _step = inner.steps.lock().await;
        let now = inner.ca.now();
        let key = inner.find(name)?;
        let mut ring = inner.ring(inner.spread)?;
        ring.taint(key.record.key, reason, now)?;
        let alone = inner.ca.service.turnover.write().await;
        let changed = inner.changed(&ring);
        let events = changed.iter().map(|key| event(key, by)).collect();
        let mut entries = entries(&changed);
        let another_issues = ring.active().is_some();
        if another_issues && reason == TaintReason::Compromised {
            entries.push(inner.renew_all(now));
        }
        inner.write(entries, events).await?;
        inner.enforce(&changed)?;
        if !another_issues {
            inner.ca.set_not_issuing(Some(not_issuing(name)));
        }
        drop(alone);
        inner.tell().await;
        inner.find(name)
    }

    /// Ends a key's life: nothing it has signed counts any more, and the deny-list that says so names the key itself.
    /// Where leaves of it are in force, [`CutOff::Accept`] has their holders come back with the key they enrolled
    /// with.
    pub async fn revoke(
        &self,
        name: &KeyName,
        cut_off: CutOff,
        by: &str,
    ) -> Result<RevokedKey, KeyError> {
        let inner = &self.inner;
        let _step = inner.steps.lock().await;
        let now = inner.ca.now();
        let key = inner.find(name)?;
        let mut ring = inner.ring(inner.spread)?;
        ring.revoke(key.record.key, cut_off, now)?;
        if key.key_id == inner.ca.authority().key_id() {
            return Err(KeyError::NobodySigns(name.clone()));
        }
        let revoked = IssuingKey { record: record_of(&ring, key.record.key)?, ..key };
        let entry = Entry::IssuingKey(revoked.changed());
        let event = event(&revoked, by);
        let ended = revoked.record.not_after + RETAIN_AFTER_END.as_secs() < unix_seconds(now);
        let epoch = if ended {
            // Nobody accepts anything of it, and no list would keep it.
            inner.write(vec![entry], vec![event]).await?;
            None
        } else {
            let revocation = IssuerRevocation {
                issuer: revoked.key_id,
                ends_at: revoked.record.not_after,
                reason: reason_of(&revoked.record),
                revoked_by: by.to_owned(),
                entry,
                event,
            };
            inner.revocations.revoke_issuer(revocation).await?.epoch
        };
        inner.enforce(std::slice::from_ref(&revoked))?;
        Ok(RevokedKey { key: revoked, epoch })
    }
}

impl Inner {
    /// Writes the key in force down, where the journal does not have it as it is
    async fn adopt(&self) -> Result<(), KeyError> {
        let authority = self.ca.authority();
        let (name, certificate_der) = (authority.key().name(), authority.certificate_der());
        let known = self.ca.issuing_keys();
        let known = known.into_iter().find(|key| key.key_id == authority.key_id());
        let parsed = certificate::parse(certificate_der)?;
        let key = Pin::of_spki(parsed.public_key().raw);
        let not_after = unix_seconds(authority.not_after());
        let record = match &known {
            Some(known) if known.certificate_der == certificate_der => return Ok(()),
            Some(known) => AuthorityKey { not_after, ..known.record },
            None => AuthorityKey {
                key,
                state: AuthorityState::Active,
                since: unix_seconds(self.ca.now()),
                not_after,
                last_leaf_ends: 0,
                taint: None,
            },
        };
        let (name, key_id) = (name.clone(), authority.key_id());
        let certificate_der = certificate_der.to_vec();
        let adopted = IssuingKey { name, certificate_der, key_id, record };
        let event = event(&adopted, "authority");
        self.write(vec![Entry::IssuingKey(adopted.changed())], vec![event]).await
    }

    fn find(&self, name: &KeyName) -> Result<IssuingKey, KeyError> {
        let mut keys = self.ca.issuing_keys().into_iter();
        keys.find(|key| key.name == *name).ok_or_else(|| KeyError::Unknown(name.clone()))
    }

    fn ring(&self, spread: Duration) -> Result<AuthorityRing, StateError> {
        self.ca.service.shared().state().issuing_keys().ring(spread)
    }

    /// The authority that a key makes with its certificate, held to this authority's root
    fn usable(
        &self,
        name: &KeyName,
        certificate_der: &[u8],
        now: SystemTime,
    ) -> Result<IssuingAuthority, IssuingError> {
        let authority = self.ca.authority();
        let signer: Arc<dyn Signer> = self.guard.clone();
        IssuingAuthority::new(certificate_der, authority.root_der(), signer, name, now)
    }

    /// The keys that stand elsewhere in this ring than in the journal: those that stop issuing first
    fn changed(&self, ring: &AuthorityRing) -> Vec<IssuingKey> {
        let known = self.ca.issuing_keys().into_iter();
        let mut changed: Vec<_> = known
            .filter_map(|known| {
                let record = ring.records().find(|record| record.key == known.record.key)?;
                let place = |record: &AuthorityKey| (record.state, record.since, record.taint);
                let moved = place(record) != place(&known.record);
                moved.then_some(IssuingKey { record: *record, ..known })
            })
            .collect();
        changed.sort_by_key(|key| key.record.state == AuthorityState::Active);
        changed
    }

    fn renew_all(&self, now: SystemTime) -> Entry {
        let start = unix_seconds(now);
        let issued_until_ms = self.ca.service.shared().now_ms();
        Entry::RenewAll(RenewAll { issued_until_ms, start, end: start + RENEW_WITHIN.as_secs() })
    }

    async fn write(&self, entries: Vec<Entry>, events: Vec<AuditEvent>) -> Result<(), KeyError> {
        Ok(self.audit.append_with(entries, events).await.map(drop)?)
    }

    /// What the journal has is enforced before the keys
    fn enforce(&self, changed: &[IssuingKey]) -> Result<(), StateRefusal> {
        changed.iter().try_for_each(|key| self.guard.set_state(&key.name, key.record.state))
    }

    fn named(&self, name: &KeyName) -> Result<NamedKey, SignerError> {
        let signer: Arc<dyn Signer> = self.guard.clone();
        NamedKey::new(signer, name)
    }

    /// Has the lists signed with a key that took over; the one before may go on until then
    async fn sign_lists_with(&self, name: &KeyName) -> Result<(), KeyError> {
        let key = self.named(name)?;
        for _ in 0..ATTEMPTS {
            match self.revocations.sign_with(key.clone()).await {
                Err(RevokeError::Busy) => tokio::time::sleep(PAUSE).await,
                outcome => return Ok(outcome.map(drop)?),
            }
        }
        Err(RevokeError::Busy.into())
    }

    /// Issues the deny-list, on which nodes ask what else is new. Without it they hear with the next one.
    async fn tell(&self) {
        if let Err(error) = self.revocations.issue_now().await {
            tracing::warn!(%error, "nodes hear of the issuing key's step with the next deny-list only");
        }
    }
}

fn check_name(name: &KeyName) -> Result<(), KeyError> {
    match name.purpose() {
        KeyPurpose::Issuing => Ok(()),
        KeyPurpose::Log => Err(KeyError::Purpose(name.clone())),
    }
}

fn record_of(ring: &AuthorityRing, key: Pin) -> Result<AuthorityKey, StateError> {
    ring.records().find(|record| record.key == key).copied().ok_or(StateError::Unknown(key))
}

fn entries(changed: &[IssuingKey]) -> Vec<Entry> {
    changed.iter().map(|key| Entry::IssuingKey(key.changed())).collect()
}

fn event(key: &IssuingKey, by: &str) -> AuditEvent {
    let event = AuditEvent::done(AuditKind::IssuingKeyState, by, key.name.as_str())
        .with("state", key.record.state)
        .with("key", key.record.key);
    match key.record.taint {
        None => event,
        Some(TaintReason::Replaced) => event.with("taint", "replaced"),
        Some(TaintReason::Compromised) => event.with("taint", "compromised"),
    }
}

fn not_issuing(name: &KeyName) -> String {
    format!(
        "its issuing key `{name}` is tainted and no other is active; `stoqctl ca key activate` lets one take over"
    )
}

/// Why a key is revoked, as lists say it
fn reason_of(record: &AuthorityKey) -> Reason {
    match record.taint {
        Some(TaintReason::Compromised) => Reason::CaCompromise,
        Some(TaintReason::Replaced) => Reason::Superseded,
        None => Reason::CessationOfOperation,
    }
}
