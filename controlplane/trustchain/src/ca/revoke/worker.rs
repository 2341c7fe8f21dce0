//! The one task that revokes: it has the list, so that the order of entries in the journal, of epochs and of what is
//! shown is one. Signing happens on a thread that may wait; the journal is written before anything is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use stoq_store::records::{CertificateRecord, RevocationQuery, RevocationReason, Serial};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::super::api::Refusal;
use super::super::authority::issuer_params;
use super::super::crl::{CrlBooks, PublishedCrls};
use super::super::entry::{DenyListIssued, Entry as JournalEntry};
use super::super::replay::{write_crl, write_revoked};
use super::{
    AdoptAtStart, Adopted, CrlStatus, IssuerRevocation, Reached, RevocationParts,
    RevocationSettings, RevocationStatus, RevokeError, RevokeReceipt, RevokeRequest, RevokeTarget,
    RevokedItem, begin_crls, longest_life,
};
use crate::audit::{AuditEvent, AuditKind, RecordError};
use crate::backup::{HighWater, HighWaterFile, crl_name};
use crate::certificate::{hex, unix_seconds};
use crate::revocation::{
    self, DenyListDocument, DenyListIssuer, Entry, Form, HighWaterMark, KeyId, Publication,
    PublishError, Reason, SerialNumber, Signers, SpkiHash, Target,
};
use crate::signer::NamedKey;

/// Requests that share an epoch
const GROUP: usize = 64;
/// Revocations taken over in one group of the journal
const ADOPT_GROUP: usize = 1_000;

pub(super) type Done<T> = oneshot::Sender<Result<T, RevokeError>>;

pub(super) enum Command {
    Revoke { request: RevokeRequest, done: Done<RevokeReceipt> },
    Observe { mark: HighWaterMark, done: Done<()> },
    Adopt { document: Vec<u8>, signers: Signers, adopted_by: String, done: Done<Adopted> },
    SignWith { key: NamedKey, done: Done<Option<u64>> },
    KeepCrls { key: NamedKey, done: Done<()> },
    IssueNow { done: Done<Option<u64>> },
    RevokeIssuer { revocation: Box<IssuerRevocation>, done: Done<RevokeReceipt> },
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

/// A revocation and who said so
type Said = (Entry, String);

/// A request on its way
struct Staged {
    receipt: RevokeReceipt,
    done: Done<RevokeReceipt>,
}

pub(super) struct Worker {
    parts: RevocationParts,
    settings: RevocationSettings,
    issuer: DenyListIssuer,
    /// Away while it signs
    crls: Option<CrlBooks>,
    high_water: Option<HighWaterFile>,
    /// Certificates that are revoked here, whatever else their entries name
    known: BTreeSet<(KeyId, SerialNumber)>,
    deny_list: watch::Sender<Option<Arc<Publication>>>,
    published: watch::Sender<PublishedCrls>,
    status: watch::Sender<RevocationStatus>,
    /// The key that signs the lists
    key_id: watch::Sender<KeyId>,
    changes: Option<watch::Receiver<u64>>,
    absorbed_at: Option<Instant>,
    remembered_at: Option<Instant>,
    /// Not before, after signing failed
    retry_list_at: Option<Instant>,
    retry_crls_at: Option<Instant>,
    last_mark: Option<HighWaterMark>,
}

type Watches = (
    watch::Receiver<Option<Arc<Publication>>>,
    watch::Receiver<PublishedCrls>,
    watch::Receiver<RevocationStatus>,
    watch::Receiver<KeyId>,
);

impl Worker {
    pub(super) fn new(
        parts: RevocationParts,
        settings: RevocationSettings,
        issuer: DenyListIssuer,
        crls: CrlBooks,
        high_water: HighWaterFile,
        key_id: KeyId,
    ) -> Self {
        let entries = parts.replay.deny_list.entries.iter();
        let known = entries.filter_map(|(entry, _)| entry.target.named_certificate().cloned());
        let known = known.collect();
        let mut changes = parts.inventory.records().changes();
        if let Some(changes) = &mut changes {
            // What was written before is looked at first of all.
            changes.mark_changed();
        }
        Self {
            settings,
            issuer,
            crls: Some(crls),
            high_water: Some(high_water),
            known,
            deny_list: watch::Sender::new(None),
            published: watch::Sender::new(Arc::default()),
            status: watch::Sender::new(RevocationStatus::default()),
            key_id: watch::Sender::new(key_id),
            changes,
            absorbed_at: None,
            remembered_at: None,
            retry_list_at: None,
            retry_crls_at: None,
            last_mark: None,
            parts,
        }
    }

    pub(super) fn watches(&self) -> Watches {
        let (status, key_id) = (self.status.subscribe(), self.key_id.subscribe());
        (self.deny_list.subscribe(), self.published.subscribe(), status, key_id)
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        if let Some(adopt) = self.parts.adopt.take() {
            let AdoptAtStart { document, signers, adopted_by } = adopt;
            match self.adopt(&document, &signers, &adopted_by).await {
                Ok(adopted) => {
                    tracing::warn!(came_back = adopted.came_back, "the deny-list was adopted");
                    self.rebase().await;
                }
                Err(error) => {
                    // Nothing is issued: it would un-revoke. Who restored is told by the status.
                    tracing::error!(%error, "the deny-list was not adopted; nothing is issued");
                    let text = format!("the deny-list was not adopted ({error}); start again");
                    self.status.send_modify(|status| status.problem = Some(text));
                    return;
                }
            }
        }
        let mut ticks = tokio::time::interval(self.settings.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                biased;
                count = commands.recv_many(&mut waiting, GROUP) => {
                    if count == 0 {
                        return;
                    }
                    self.serve(&mut waiting).await;
                }
                _ = ticks.tick() => {}
            }
            self.keep_up().await;
        }
    }

    fn now(&self) -> SystemTime {
        (self.parts.clock)()
    }

    /// What has to be done without being asked
    async fn keep_up(&mut self) {
        let now = self.now();
        let rested = |at: Option<Instant>| at.is_none_or(|at| Instant::now() >= at);
        // After a start nobody has the list yet, however recent the last issue is.
        let due = self.issuer.is_due(now) || self.deny_list.borrow().is_none();
        if due
            && rested(self.retry_list_at)
            && let Err(error) = self.issue().await
        {
            self.stalled(&error);
        }
        if rested(self.retry_crls_at) {
            self.issue_crls(now).await;
        }
        self.absorb().await;
        let due =
            self.remembered_at.is_none_or(|at| at.elapsed() >= self.settings.high_water_interval);
        if due {
            self.remember(None, BTreeMap::new()).await;
        }
    }

    async fn serve(&mut self, commands: &mut Vec<Command>) {
        let (mut entries, mut events, mut staged) = (Vec::new(), Vec::new(), Vec::new());
        let mut work = self.issuer.clone();
        let mut others = Vec::new();
        for command in commands.drain(..) {
            let Command::Revoke { request, done } = command else {
                others.push(command);
                continue;
            };
            match self.stage(&mut work, &request, &mut entries).await {
                Ok(receipt) => {
                    events.push(event(&request, &receipt));
                    staged.push(Staged { receipt, done });
                }
                // Whoever no longer waits has said that it does not want to know.
                Err(error) => drop(done.send(Err(error))),
            }
        }
        if !staged.is_empty() {
            self.finish(work, entries, events, staged).await;
        }
        for command in others {
            match command {
                Command::Observe { mark, done } => {
                    // As above, here and below
                    let _ = done.send(self.observe(&mark).await);
                }
                Command::Adopt { document, signers, adopted_by, done } => {
                    let _ = done.send(self.adopt(&document, &signers, &adopted_by).await);
                }
                Command::SignWith { key, done } => {
                    let _ = done.send(self.sign_with(key).await);
                }
                Command::KeepCrls { key, done } => {
                    let _ = done.send(self.keep_crls(key));
                }
                Command::IssueNow { done } => {
                    let _ = done.send(Ok(self.issue_now().await));
                }
                Command::RevokeIssuer { revocation, done } => {
                    let _ = done.send(self.revoke_issuer(*revocation).await);
                }
                Command::Revoke { .. } => {}
            }
        }
    }

    /// The lists of a key, unless they are here
    fn keep_crls(&mut self, key: NamedKey) -> Result<(), RevokeError> {
        let unusable = |_| RevokeError::NoIssuingKey;
        let key_id = KeyId::of_public_point(key.public().public_point()).map_err(unusable)?;
        let now = unix_seconds(self.now());
        let Some(books) = &mut self.crls else { return Err(RevokeError::Closed) };
        if !books.has(&key_id) {
            let (params, seen) = (issuer_params(key.public()), BTreeMap::new());
            let seen =
                self.high_water.as_ref().map_or(seen, |file| file.held().crl_numbers.clone());
            let of = (key, params, key_id);
            books.insert(begin_crls(&self.settings, &self.parts.replay, &seen, of, now)?);
        }
        Ok(())
    }

    async fn sign_with(&mut self, key: NamedKey) -> Result<Option<u64>, RevokeError> {
        self.keep_crls(key.clone())?;
        let unusable = |_| RevokeError::NoIssuingKey;
        let key_id = KeyId::of_public_point(key.public().public_point()).map_err(unusable)?;
        self.parts.key = key;
        self.key_id.send_replace(key_id);
        Ok(self.issue_now().await)
    }

    async fn issue_now(&mut self) -> Option<u64> {
        match self.issue().await {
            Ok(()) => Some(self.issuer.epoch()),
            Err(error) => {
                self.stalled(&error);
                None
            }
        }
    }

    async fn revoke_issuer(
        &mut self,
        revocation: IssuerRevocation,
    ) -> Result<RevokeReceipt, RevokeError> {
        let IssuerRevocation { issuer, ends_at, reason, revoked_by, entry, event } = revocation;
        if issuer == *self.key_id.borrow() {
            return Err(RevokeError::SignsTheList);
        }
        let now = self.now();
        let target = Target::issuer(issuer);
        let revoked = Entry { target, reason, revoked_at: unix_seconds(now), ends_at };
        let mut work = self.issuer.clone();
        let repeated = !work.revoke(revoked.clone(), now)?;
        let items = vec![item(&revoked, None, repeated)];
        let said = if repeated { Vec::new() } else { vec![(revoked, revoked_by)] };
        let (sequence, epoch) = self.commit(work, said, vec![event], vec![entry]).await?;
        if let Some(books) = &mut self.crls {
            books.remove(&issuer);
        }
        self.published.send_modify(|published| {
            let others = published.iter().filter(|((key, _), _)| *key != issuer);
            *published = Arc::new(others.map(|(name, list)| (*name, list.clone())).collect());
        });
        Ok(RevokeReceipt { items, revoked_at: unix_seconds(now), epoch, sequence })
    }

    /// Finds what a request names and puts it on the list, in memory
    async fn stage(
        &self,
        work: &mut DenyListIssuer,
        request: &RevokeRequest,
        entries: &mut Vec<Said>,
    ) -> Result<RevokeReceipt, RevokeError> {
        let now = self.now();
        let wanted = self.resolve(request, now).await?;
        // All of a request, or nothing of it
        let mut next = work.clone();
        let mut fresh = Vec::new();
        let mut items = Vec::new();
        for (target, subject, ends) in wanted {
            let entry = Entry {
                target,
                reason: request.reason,
                revoked_at: unix_seconds(now),
                ends_at: ends,
            };
            let repeated = !next.revoke(entry.clone(), now)?;
            items.push(item(&entry, subject, repeated));
            if !repeated {
                fresh.push((entry, request.revoked_by.clone()));
            }
        }
        *work = next;
        entries.extend(fresh);
        let revoked_at = unix_seconds(now);
        Ok(RevokeReceipt { items, revoked_at, epoch: None, sequence: 0 })
    }

    async fn resolve(
        &self,
        request: &RevokeRequest,
        now: SystemTime,
    ) -> Result<Vec<(Target, Option<String>, u64)>, RevokeError> {
        let inventory = &self.parts.inventory;
        inventory.settle().await?;
        let certificates = match &request.target {
            RevokeTarget::Certificate(serial) => {
                let found = inventory.certificate(&Serial::new(serial.as_bytes())?).await?;
                let found =
                    found.ok_or_else(|| RevokeError::NotFound(format!("serial {serial}")))?;
                vec![found]
            }
            RevokeTarget::Key(spki) => inventory.unexpired_of_key(spki.as_bytes(), now).await?,
            RevokeTarget::Name(name) => {
                let found = inventory.unexpired_of_name(name, now).await?;
                if found.is_empty() {
                    return Err(RevokeError::NotFound(format!("the name {name}")));
                }
                found
            }
        };
        let latest = certificates.iter().map(|it| it.certificate.not_after).max();
        let mut wanted = Vec::new();
        for record in certificates {
            let it = &record.certificate;
            let (issuer, serial) = named(&record)?;
            let target = match request.with_key {
                true => {
                    let spki = SpkiHash::from_bytes(&it.spki_sha256)?;
                    Target::certificate_and_key(issuer, serial, spki)
                }
                false => Target::certificate(issuer, serial),
            };
            wanted.push((target, Some(it.subject_node.clone()), it.not_after));
        }
        if let RevokeTarget::Key(spki) = &request.target {
            // Also against certificates for it that are not known here.
            let ends = latest.unwrap_or_else(|| unix_seconds(longest_life(now)));
            wanted.push((Target::key(*spki), None, ends));
        }
        Ok(wanted)
    }

    /// Makes staged requests durable, shows them and answers
    async fn finish(
        &mut self,
        work: DenyListIssuer,
        entries: Vec<Said>,
        events: Vec<AuditEvent>,
        staged: Vec<Staged>,
    ) {
        if entries.is_empty() {
            let epoch = Some(self.issuer.epoch()).filter(|epoch| *epoch > 0);
            for Staged { receipt, done } in staged {
                let _ = done.send(Ok(RevokeReceipt { epoch, ..receipt }));
            }
            return;
        }
        let outcome = self.commit(work, entries, events, Vec::new()).await;
        match outcome {
            Ok((sequence, epoch)) => {
                for Staged { receipt, done } in staged {
                    let new = receipt.items.iter().any(|item| !item.repeated);
                    let sequence = if new { sequence } else { 0 };
                    let _ = done.send(Ok(RevokeReceipt { epoch, sequence, ..receipt }));
                }
            }
            Err(error) => {
                for Staged { done, .. } in staged {
                    let _ = done.send(Err(again(&error)));
                }
            }
        }
    }

    /// Signs the next epoch, makes it durable with its revocations and with what `journal` has, and shows it. Where it
    /// cannot be signed, the revocations are made durable without it: they count here and in CRLs, and the list
    /// follows.
    async fn commit(
        &mut self,
        work: DenyListIssuer,
        entries: Vec<Said>,
        events: Vec<AuditEvent>,
        mut journal: Vec<JournalEntry>,
    ) -> Result<(u64, Option<u64>), RevokeError> {
        let (work, publication) = self.sign(work).await;
        let revoked = entries.iter();
        journal.extend(revoked.map(|(entry, by)| JournalEntry::Revoked(write_revoked(entry, by))));
        if let Ok(publication) = &publication {
            journal.push(JournalEntry::DenyListIssued(issued(publication)));
        }
        let sequence = self.parts.audit.append_with(journal, events).await?;
        // From here on it counts, whatever happens.
        self.issuer = work;
        let now = unix_seconds(self.now());
        for (entry, _) in &entries {
            self.known.extend(entry.target.named_certificate().cloned());
            if let Some(crls) = &mut self.crls
                && let Err(error) = crls.revoke(entry, now)
            {
                tracing::error!(%error, "the CRL goes without a revocation that the deny-list has");
                self.status.send_modify(|status| status.problem = Some(error.to_string()));
            }
        }
        match publication {
            Ok(publication) => {
                let epoch = publication.epoch;
                self.show(publication).await;
                Ok((sequence, Some(epoch)))
            }
            Err(error) => {
                self.stalled(&error);
                Ok((sequence, None))
            }
        }
    }

    /// Issues the list without being asked to revoke anything
    async fn issue(&mut self) -> Result<(), String> {
        let (work, publication) = self.sign(self.issuer.clone()).await;
        let publication = publication?;
        let entry = JournalEntry::DenyListIssued(issued(&publication));
        let appended = self.parts.audit.append_with(vec![entry], Vec::new()).await;
        appended.map_err(|error| error.to_string())?;
        self.issuer = work;
        self.show(publication).await;
        Ok(())
    }

    async fn sign(
        &self,
        mut work: DenyListIssuer,
    ) -> (DenyListIssuer, Result<Publication, String>) {
        let (key, now) = (self.parts.key.clone(), self.now());
        let unsigned = work.clone();
        let signing = tokio::task::spawn_blocking(move || {
            let publication = work.publish(&key, now);
            (work, publication)
        });
        match signing.await {
            Ok((work, publication)) => {
                (work, publication.map_err(|error: PublishError| error.to_string()))
            }
            Err(error) => (unsigned, Err(format!("signing the deny-list ended early: {error}"))),
        }
    }

    /// Shows an epoch that is durable
    async fn show(&mut self, publication: Publication) {
        self.last_mark = Some(publication.mark.clone());
        self.remember(Some(publication.mark.clone()), BTreeMap::new()).await;
        let (epoch, issued_at) = (publication.epoch, publication.mark.issued_at);
        let next_update = issued_at + self.settings.deny_list.validity.as_secs();
        let (entries, bytes) = (publication.mark.live, publication.full.len());
        // Whoever sees the list is not told any more that there is none.
        self.status.send_modify(|status| status.problem = None);
        self.deny_list.send_replace(Some(Arc::new(publication)));
        self.retry_list_at = None;
        self.status.send_modify(|status| {
            (status.epoch, status.issued_at, status.next_update) = (epoch, issued_at, next_update);
            status.entries = usize::try_from(entries).unwrap_or(usize::MAX);
            status.bytes = bytes;
        });
    }

    fn stalled(&mut self, error: &str) {
        let first = self.status.borrow().problem.is_none();
        if first {
            tracing::error!(%error, "the deny-list cannot be issued; tried again every second");
            let event =
                AuditEvent::failed(AuditKind::DenyListStalled, "authority", "deny-list", error);
            // Full or closed: the trace above says it too.
            let _ = self.parts.audit.submit(event);
        }
        self.retry_list_at = Some(Instant::now() + std::time::Duration::from_secs(1));
        self.status.send_modify(|status| status.problem = Some(error.to_owned()));
    }

    async fn issue_crls(&mut self, now: SystemTime) {
        let Some(mut crls) = self.crls.take() else { return };
        let due = crls.due(now, self.settings.crl_pause);
        if due.is_empty() {
            self.crls = Some(crls);
            return;
        }
        let signing = tokio::task::spawn_blocking(move || {
            let outcome = crls.issue(&due, now);
            (crls, outcome)
        });
        let (crls, (lists, error)) = match signing.await {
            Ok(signed) => signed,
            Err(error) => {
                // What it had is in the journal: a restart brings it back.
                tracing::error!(%error, "signing CRLs ended early; none are issued until a restart");
                let text = format!("signing CRLs ended early: {error}; restart the authority");
                self.status.send_modify(|status| status.problem = Some(text));
                return;
            }
        };
        self.crls = Some(crls);
        let (mut problem, mut stopped) = (error.map(|error| error.to_string()), false);
        if !lists.is_empty() {
            let entries = lists.iter().map(|(key_id, list)| {
                let at = unix_seconds(list.this_update);
                JournalEntry::CrlIssued(write_crl(key_id, list.shard, list.number, at))
            });
            match self.parts.audit.append_with(entries.collect(), Vec::new()).await {
                Ok(_) => {
                    let numbers = lists.iter();
                    let numbers =
                        numbers.map(|(key_id, list)| (crl_name(key_id, list.shard), list.number));
                    self.remember(None, numbers.collect()).await;
                    self.show_crls(lists);
                }
                Err(error) => {
                    // What stopped it has said why already: a close in order is no error.
                    stopped = matches!(
                        error,
                        RecordError::Closed | RecordError::Journal(Refusal::Stopped(_))
                    );
                    problem = Some(error.to_string());
                }
            }
        }
        if let Some(error) = problem {
            if !stopped {
                tracing::error!(%error, "a CRL cannot be issued; tried again in ten seconds");
            }
            self.retry_crls_at = Some(Instant::now() + std::time::Duration::from_secs(10));
            self.status.send_modify(|status| status.problem = Some(error));
        } else {
            self.retry_crls_at = None;
        }
    }

    fn show_crls(&self, lists: Vec<(KeyId, crate::revocation::crl::IssuedCrl)>) {
        self.published.send_modify(|published| {
            let mut next = (**published).clone();
            let lists = lists.into_iter();
            next.extend(lists.map(|(key, list)| ((key, list.shard), Arc::new(list))));
            *published = Arc::new(next);
        });
        let published = self.published.borrow().clone();
        self.status.send_modify(|status| {
            let crls = published.iter().map(|((issuer, _), list)| CrlStatus {
                issuer: *issuer,
                shard: list.shard,
                number: list.number,
                this_update: unix_seconds(list.this_update),
                next_update: unix_seconds(list.next_update),
                bytes: list.der.len(),
            });
            status.crls = crls.collect();
        });
    }

    /// Remembers how far this authority is, before it is shown to anybody. A disk that refuses this does not
    /// keep a revocation from the nodes; it is said.
    async fn remember(&mut self, mark: Option<HighWaterMark>, crl_numbers: BTreeMap<String, u64>) {
        let Some(mut file) = self.high_water.take() else { return };
        let Reached { sequence, log_entries, issuing_keys } = (self.parts.progress)();
        let reached = HighWater {
            instance: self.parts.instance.to_string(),
            journal: self.parts.replay.journal.map(|id| id.to_string()).unwrap_or_default(),
            sequence,
            log_entries,
            issuing_keys,
            audit_records: self.parts.audit.head().count,
            deny_list: mark.or_else(|| self.last_mark.clone()),
            crl_numbers,
            ..HighWater::default()
        };
        let writing = tokio::task::spawn_blocking(move || {
            let written = file.grow(&reached);
            (file, written)
        });
        let problem = match writing.await {
            Ok((file, written)) => {
                self.high_water = Some(file);
                written.err().map(|error| error.to_string())
            }
            Err(error) => Some(format!("writing it ended early: {error}; restart the authority")),
        };
        self.remembered_at = Some(Instant::now());
        if let Some(error) = &problem {
            tracing::error!(%error, "the highest state is not remembered: a restore could un-revoke");
        }
        self.status.send_if_modified(|status| {
            let changed = status.high_water_problem != problem;
            status.high_water_problem = problem;
            changed
        });
    }

    /// After an adoption: what the journal had beyond its present end is gone, and that is known
    async fn rebase(&mut self) {
        let Some(mut file) = self.high_water.take() else { return };
        let Reached { sequence, log_entries, .. } = (self.parts.progress)();
        let mut reached = file.held().clone();
        (reached.sequence, reached.log_entries) = (sequence, log_entries);
        reached.audit_records = self.parts.audit.head().count;
        let writing = tokio::task::spawn_blocking(move || {
            let written = file.rebase(reached);
            (file, written)
        });
        match writing.await {
            Ok((file, Ok(()))) => self.high_water = Some(file),
            Ok((file, Err(error))) => {
                self.high_water = Some(file);
                tracing::error!(%error, "the highest state is not remembered; the next start asks again");
            }
            Err(error) => tracing::error!(%error, "the highest state is not remembered"),
        }
    }

    async fn observe(&mut self, mark: &HighWaterMark) -> Result<(), RevokeError> {
        let outcome = self.issuer.observe(mark);
        if let Err(error) = outcome {
            self.stalled(&error.to_string());
            return Err(error.into());
        }
        Ok(())
    }

    async fn adopt(
        &mut self,
        document: &[u8],
        signers: &Signers,
        by: &str,
    ) -> Result<Adopted, RevokeError> {
        let document = revocation::open(document, signers)?;
        if document.form != Form::Full {
            return Err(revocation::RestoreError::Foreign.into());
        }
        let own = document.instance == self.parts.instance;
        let now = self.now();
        let wanted = document.entries.iter().filter(|entry| entry.is_live(now));
        let fresh: Vec<Entry> =
            wanted.filter(|entry| !self.is_known(entry, now)).cloned().collect();
        let came_back = fresh.len();
        if own {
            self.adopt_own(&document, &fresh, by).await?;
        }
        let epoch = self.take_over(fresh, own, by, &document).await?;
        Ok(Adopted { came_back, epoch })
    }

    fn is_known(&self, entry: &Entry, now: SystemTime) -> bool {
        let certificate = entry.target.named_certificate();
        self.issuer.names(&entry.target, now)
            || (entry.target.named_key().is_none()
                && certificate.is_some_and(|it| self.known.contains(it)))
    }

    /// This authority's own list from before a loss: its number is gone on from
    async fn adopt_own(
        &mut self,
        document: &DenyListDocument,
        fresh: &[Entry],
        by: &str,
    ) -> Result<(), RevokeError> {
        let mut work = self.issuer.clone();
        work.adopt(document)?;
        for group in fresh.chunks(ADOPT_GROUP) {
            let entries = group.iter().map(|entry| JournalEntry::Revoked(write_revoked(entry, by)));
            self.parts.audit.append_with(entries.collect(), Vec::new()).await?;
        }
        // The same epoch with another content is gone on from; its number stands in the journal already.
        let issued = (document.epoch > self.issuer.epoch()).then(|| DenyListIssued {
            epoch: document.epoch,
            issued_at: document.issued_at,
            content_sha256: document.content.to_vec(),
        });
        let event = AuditEvent::done(AuditKind::RevocationsAdopted, by, "deny-list")
            .with("epoch", document.epoch)
            .with("came_back", fresh.len());
        let entries = issued.map(JournalEntry::DenyListIssued).into_iter().collect();
        self.parts.audit.append_with(entries, vec![event]).await?;
        self.issuer = work;
        Ok(())
    }

    /// Puts on the list what is not there, and issues it
    async fn take_over(
        &mut self,
        fresh: Vec<Entry>,
        own: bool,
        by: &str,
        document: &DenyListDocument,
    ) -> Result<Option<u64>, RevokeError> {
        let now = self.now();
        if own {
            // They are in the journal and on the list already; CRLs and what is known follow.
            for entry in &fresh {
                self.known.extend(entry.target.named_certificate().cloned());
                if let Some(crls) = &mut self.crls {
                    crls.revoke(entry, unix_seconds(now))?;
                }
            }
            return match self.issue().await {
                Ok(()) => Ok(Some(self.issuer.epoch())),
                Err(error) => {
                    self.stalled(&error);
                    Ok(None)
                }
            };
        }
        let subject = format!("deny-list of {}", document.instance);
        self.revoke_all(fresh, by, &subject).await
    }

    async fn revoke_all(
        &mut self,
        fresh: Vec<Entry>,
        by: &str,
        subject: &str,
    ) -> Result<Option<u64>, RevokeError> {
        let mut epoch = Some(self.issuer.epoch());
        for group in fresh.chunks(ADOPT_GROUP) {
            let now = self.now();
            let mut work = self.issuer.clone();
            let mut entries = Vec::new();
            for entry in group {
                if work.revoke(entry.clone(), now)? {
                    entries.push((entry.clone(), by.to_owned()));
                }
            }
            if entries.is_empty() {
                continue;
            }
            let event = AuditEvent::done(AuditKind::RevocationsAdopted, by, subject)
                .with("came_back", entries.len());
            (_, epoch) = self.commit(work, entries, vec![event], Vec::new()).await?;
        }
        Ok(epoch)
    }

    /// Takes over what other instances have revoked, where the records are shared: should they be gone, this
    /// authority's list has it too
    async fn absorb(&mut self) {
        let changed = self.changes.as_ref().is_some_and(|it| it.has_changed().unwrap_or(false));
        let rested = self.absorbed_at.is_none_or(|at| at.elapsed() >= self.settings.absorb_pause);
        if !changed || !rested {
            return;
        }
        self.absorbed_at = Some(Instant::now());
        if let Some(changes) = &mut self.changes {
            changes.mark_unchanged();
        }
        if let Err(error) = self.absorb_all().await {
            tracing::warn!(%error, "what others have revoked is not taken over; tried again");
            if let Some(changes) = &mut self.changes {
                changes.mark_changed();
            }
        }
    }

    async fn absorb_all(&mut self) -> Result<(), RevokeError> {
        let now = self.now();
        let records = self.parts.inventory.records().clone();
        let mut query =
            RevocationQuery { unexpired_at: Some(unix_seconds(now)), ..RevocationQuery::default() };
        let mut fresh = Vec::new();
        loop {
            let page = records.revocations(query).await?;
            for revocation in page.items {
                // Without its certificate nobody knows whose it is; it comes again with it.
                let Some(record) = records.certificate(revocation.serial.clone()).await? else {
                    continue;
                };
                let (issuer, serial) = named(&record)?;
                if self.known.contains(&(issuer, serial.clone())) {
                    continue;
                }
                fresh.push(Entry {
                    target: Target::certificate(issuer, serial),
                    reason: reason_of(revocation.reason),
                    revoked_at: revocation.revoked_at,
                    ends_at: record.certificate.not_after,
                });
            }
            let Some(next) = page.next else { break };
            let unexpired_at = Some(unix_seconds(now));
            query = RevocationQuery { unexpired_at, page: Some(next), limit: 0 };
        }
        if !fresh.is_empty() {
            tracing::info!(count = fresh.len(), "another instance has revoked");
            self.revoke_all(fresh, "authority:another", "shared records").await?;
        }
        Ok(())
    }
}

fn named(record: &CertificateRecord) -> Result<(KeyId, SerialNumber), RevokeError> {
    let it = &record.certificate;
    let issuer = KeyId::from_bytes(&it.issuer_key_id)?;
    Ok((issuer, SerialNumber::from_bytes(it.serial.as_bytes())?))
}

fn reason_of(reason: RevocationReason) -> Reason {
    // Reasons of attribute authorities mean nothing here.
    Reason::from_code(reason.code().into()).unwrap_or(Reason::Unspecified)
}

fn issued(publication: &Publication) -> DenyListIssued {
    DenyListIssued {
        epoch: publication.epoch,
        issued_at: publication.mark.issued_at,
        content_sha256: crate::certificate::unhex(&publication.mark.content_sha256)
            .unwrap_or_default(),
    }
}

fn item(entry: &Entry, subject: Option<String>, repeated: bool) -> RevokedItem {
    let certificate = entry.target.named_certificate();
    RevokedItem {
        serial: certificate.map(|(_, serial)| serial.to_string()),
        spki_sha256: entry.target.named_key().map(|spki| hex(spki.as_bytes())),
        subject,
        ends_at: entry.ends_at,
        repeated,
    }
}

fn event(request: &RevokeRequest, receipt: &RevokeReceipt) -> AuditEvent {
    let subject = match &request.target {
        RevokeTarget::Certificate(serial) => format!("certificate {serial}"),
        RevokeTarget::Key(spki) => format!("key {spki}"),
        RevokeTarget::Name(name) => format!("name {name}"),
    };
    let new = receipt.items.iter().filter(|item| !item.repeated).count();
    AuditEvent::done(AuditKind::Revoked, &request.revoked_by, &subject)
        .with("reason", request.reason.label())
        .with("with_key", request.with_key)
        .with("revoked", new)
        .with("revoked_before", receipt.items.len() - new)
}

/// The error of a group, for each of its callers
fn again(error: &RevokeError) -> RevokeError {
    match error {
        RevokeError::Journal(error) => RevokeError::Journal(error.clone()),
        RevokeError::DenyList(error) => RevokeError::DenyList(*error),
        _ => RevokeError::Closed,
    }
}
