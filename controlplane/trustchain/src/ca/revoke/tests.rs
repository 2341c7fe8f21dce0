//! Revocation on a journal of its own: what is answered is durable and on the list, nothing is lost by a restart,
//! and an old journal is not gone on with.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use rcgen::SigningKey as _;
use stoq_store::journal::{Appender, Journal, Options};
use stoq_store::records::{
    Batch, Change, ChangeKind, IssuedCertificate, Records, Serial, SqliteOptions, SqliteRecords,
};
use stoq_store::{JournalId, named_thread};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::*;
use crate::audit::AuditKind;
use crate::ca::Refusal as CaRefusal;
use crate::ca::append::{AppendEntries, Appending};
use crate::ca::entry::Entry as JournalEntry;
use crate::keys::{KeyKind, KeyPair};
use crate::revocation::{DenyList, DenyListSettings, ListSigner, Target};
use crate::root::authority_name;
use crate::signer::{KeyInfo, KeyName, Pending, Signer, SignerStatus, key_identifier_method};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 3_600;

/// A key that signs unless it is told not to
#[derive(Debug)]
struct OneKey {
    key: KeyPair,
    public: KeyInfo,
    away: AtomicBool,
}

impl Signer for OneKey {
    fn key(&self, name: &KeyName) -> Option<KeyInfo> {
        (self.public.name() == name).then(|| self.public.clone())
    }

    fn keys(&self) -> Vec<KeyInfo> {
        vec![self.public.clone()]
    }

    fn sign(&self, _name: &KeyName, message: Vec<u8>) -> Pending<Vec<u8>> {
        let away = self.away.load(Ordering::SeqCst);
        let signature = match away {
            true => Err(SignerError::Unavailable("the token was pulled out".into())),
            false => self.key.sign(&message).map_err(|_| SignerError::Stopped),
        };
        Box::pin(std::future::ready(signature))
    }

    fn create_key(&self, name: &KeyName) -> Pending<KeyInfo> {
        Box::pin(std::future::ready(Err(SignerError::Exists(name.to_string()))))
    }

    fn status(&self) -> Pending<SignerStatus> {
        Box::pin(std::future::ready(Err(SignerError::Stopped)))
    }
}

/// A journal, and a disk that is full when told so
struct OneJournal {
    appender: Appender,
    full: AtomicBool,
    last: AtomicU64,
    /// Says by its end that nobody uses this any more
    _alive: tokio::sync::mpsc::Sender<()>,
}

impl AppendEntries for OneJournal {
    fn append_entries(&self, entries: Vec<JournalEntry>) -> Appending<'_> {
        Box::pin(async move {
            if self.full.load(Ordering::SeqCst) {
                return Err(CaRefusal::NoSpace);
            }
            let entries = entries.iter().map(JournalEntry::encode).collect();
            let appended = self.appender.append_all(entries).await;
            let appended = appended.map_err(|error| CaRefusal::Stopped(error.to_string()))?;
            self.last.store(appended.last, Ordering::SeqCst);
            Ok(appended.first)
        })
    }
}

/// What outlives a restart
struct Ground {
    directory: tempfile::TempDir,
    signer: Arc<OneKey>,
    records: Arc<SqliteRecords>,
    now: Arc<AtomicU64>,
    instance: NodeId,
}

/// What does not
struct Running {
    journal: Journal,
    ended: tokio::sync::mpsc::Receiver<()>,
    append: Arc<OneJournal>,
    audit: AuditLog,
    revocations: Revocations,
}

fn certificate(number: u64, issuer: KeyId) -> IssuedCertificate {
    IssuedCertificate {
        serial: Serial::new(&serial(number)).unwrap(),
        subject_node: format!("node{}", number % 5),
        dns_names: vec![format!("node{}.nodes.hypermesh", number % 5)],
        profile: "node".into(),
        spki_sha256: [(number % 7) as u8; 32],
        issuer_key_id: issuer.as_bytes().to_vec(),
        // Some begin later: successors that were staged.
        not_before: NOW + number,
        not_after: NOW + DAY + number,
        log_index: number,
    }
}

/// Sixteen octets that begin with another one each
fn serial(number: u64) -> [u8; 16] {
    let mut octets = [0; 16];
    octets[0] = (number as u8).wrapping_mul(37) | 1;
    octets[8..].copy_from_slice(&number.to_be_bytes());
    octets
}

fn number(number: u64) -> SerialNumber {
    SerialNumber::from_bytes(&serial(number)).unwrap()
}

fn by_serial(serial: u64) -> RevokeRequest {
    RevokeRequest {
        target: RevokeTarget::Certificate(number(serial)),
        reason: Reason::KeyCompromise,
        with_key: false,
        revoked_by: "operator:root".into(),
    }
}

impl Ground {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let public = KeyInfo::from_point(KeyName::issuing(), key.public_point()).unwrap();
        let signer = Arc::new(OneKey { key, public, away: AtomicBool::new(false) });
        let path = directory.path().join("records");
        let records = SqliteRecords::open(&path, SqliteOptions::default(), &named_thread).unwrap();
        let instance = NodeId::new("alpha").unwrap();
        let now = Arc::new(AtomicU64::new(NOW));
        let ground = Self { directory, signer, records: Arc::new(records), now, instance };
        let issuer = ground.key_id();
        let changes = (1..=50)
            .map(|n| Change { sequence: n, kind: ChangeKind::Issued(certificate(n, issuer)) });
        let journal = JournalId::from_bytes([9; 16]);
        let batch = Batch { journal, first: 1, last: 50, changes: changes.collect() };
        ground.records.apply(batch).await.unwrap();
        Journal::create(&ground.journal()).unwrap();
        ground
    }

    fn journal(&self) -> PathBuf {
        self.directory.path().join("journal")
    }

    fn high_water(&self) -> PathBuf {
        self.directory.path().join("apart").join("high-water.json")
    }

    fn key_id(&self) -> KeyId {
        KeyId::of_public_point(self.signer.public.public_point()).unwrap()
    }

    fn signers(&self) -> Signers {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.serial_number = Some(1_u64.into());
        let certificate = params.self_signed(&self.signer.key).unwrap();
        let signer = ListSigner::from_certificate(self.instance.clone(), certificate.der());
        Signers::new([signer.unwrap()]).unwrap()
    }

    fn time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.now.load(Ordering::SeqCst))
    }

    fn settings(&self) -> RevocationSettings {
        RevocationSettings {
            tick: Duration::from_millis(5),
            crl_pause: Duration::from_secs(1),
            ..RevocationSettings::new(
                Sharding::DEFAULT,
                "http://[::1]:8080/crl/".into(),
                self.high_water(),
            )
        }
    }

    async fn start(&self) -> Running {
        self.start_from(&self.journal(), None).await.unwrap()
    }

    async fn start_from(
        &self,
        journal: &Path,
        adopt: Option<AdoptAtStart>,
    ) -> Result<Running, StartError> {
        let replay = Replay::read(journal)?;
        let opened = Journal::open(journal, Options::default(), &named_thread, |_| Ok(()));
        let journal = opened.unwrap().0;
        let (alive, ended) = tokio::sync::mpsc::channel(1);
        let append = Arc::new(OneJournal {
            appender: journal.appender(),
            full: AtomicBool::new(false),
            last: AtomicU64::new(replay.sequence),
            _alive: alive,
        });
        let now = self.now.clone();
        let clock: Clock =
            Arc::new(move || UNIX_EPOCH + Duration::from_secs(now.load(Ordering::SeqCst)));
        let audit = AuditLog::start(append.clone(), replay.audit.clone(), clock.clone());
        let signer: Arc<dyn Signer> = self.signer.clone();
        let mut issuer_params = rcgen::CertificateParams::default();
        issuer_params.distinguished_name = authority_name(&self.signer.key, "issuing");
        issuer_params.key_identifier_method = key_identifier_method(self.signer.key.public_point());
        let progress = append.clone();
        let parts = RevocationParts {
            instance: self.instance.clone(),
            key: NamedKey::new(signer, &KeyName::issuing()).unwrap(),
            issuer_params,
            replay,
            audit: audit.clone(),
            inventory: Inventory::of_records(self.records.clone()),
            clock,
            progress: Arc::new(move || Reached {
                sequence: progress.last.load(Ordering::SeqCst),
                ..Reached::default()
            }),
            adopt,
        };
        let revocations = match Revocations::start_with(parts, self.settings()) {
            Ok(revocations) => revocations,
            Err(error) => {
                journal.close().await.unwrap();
                return Err(error);
            }
        };
        Ok(Running { journal, ended, append, audit, revocations })
    }
}

impl Running {
    /// Ends everything; the journal can be opened again
    async fn stop(self) {
        let Self { journal, mut ended, append, audit, revocations } = self;
        drop((revocations, audit, append));
        assert_eq!(ended.recv().await, None);
        journal.close().await.unwrap();
    }

    /// A node that follows the list from here
    async fn node(&self, ground: &Ground, epoch: u64) -> DenyList {
        let published = self.revocations.reached(epoch).await.unwrap();
        let mut node = DenyList::new(DenyListSettings::default(), ground.signers(), ground.time());
        node.handle_document(&published.full, ground.time()).unwrap();
        node
    }
}

fn refuses(node: &DenyList, ground: &Ground, serial: u64) -> bool {
    let other = SpkiHash::from_bytes(&[0xee; 32]).unwrap();
    node.check(&ground.key_id(), &number(serial), &other).is_some()
}

fn crl_has(list: &IssuedCrl, serial: u64) -> bool {
    let (_, parsed) = CertificateRevocationList::from_der(&list.der).unwrap();
    let wanted = number(serial);
    parsed.iter_revoked_certificates().any(|it| it.serial().to_bytes_be() == wanted.as_bytes())
}

/// Waits until the CRL of a certificate's shard has it
async fn crl_with(revocations: &Revocations, serial: u64) -> Arc<IssuedCrl> {
    let shard = Sharding::DEFAULT.shard_of(&number(serial));
    let mut crls = revocations.crls();
    let find = |crls: &PublishedCrls| {
        let mut lists = crls.values();
        lists.find(|list| list.shard == shard && crl_has(list, serial)).cloned()
    };
    let found = crls.wait_for(|crls| find(crls).is_some());
    let found = tokio::time::timeout(Duration::from_secs(10), found).await.unwrap().unwrap();
    find(&found).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_is_durable_on_the_list_and_in_the_crl() {
    let ground = Ground::new().await;
    let running = ground.start().await;
    let before = running.revocations.reached(1).await.unwrap();
    let receipt = running.revocations.revoke(by_serial(3)).await.unwrap();
    assert!(receipt.epoch.is_some_and(|epoch| epoch > before.epoch));
    assert_eq!((receipt.items.len(), receipt.revoked_at), (1, NOW));
    assert_eq!(receipt.items[0].subject.as_deref(), Some("node3"));
    // Durable by now, with the epoch and the record of who did it, in one group.
    let (replay, _) = Replay::inspect(&ground.journal()).unwrap();
    assert_eq!(Some(replay.deny_list.epoch), receipt.epoch);
    assert_eq!(replay.deny_list.entries.len(), 1);
    let recorded = running.audit.recent(10);
    assert_eq!(recorded.len(), 1);
    assert_eq!(
        (recorded[0].kind, recorded[0].actor.as_str()),
        (AuditKind::Revoked, "operator:root")
    );
    let node = running.node(&ground, receipt.epoch.unwrap()).await;
    assert!(refuses(&node, &ground, 3) && !refuses(&node, &ground, 4));
    ground.now.fetch_add(2, Ordering::SeqCst);
    let list = crl_with(&running.revocations, 3).await;
    let name = format!("{}-{}.crl", ground.key_id(), list.shard);
    assert_eq!(running.revocations.crl_by_name(&name), Some(list.clone()));
    for wrong in [format!("{}-0{}.crl", ground.key_id(), list.shard), "x-1.crl".into()] {
        assert_eq!(running.revocations.crl_by_name(&wrong), None);
    }
    // Again: the first counts.
    let again = running.revocations.revoke(by_serial(3)).await.unwrap();
    assert!(again.items[0].repeated && again.sequence == 0);
    assert!(again.epoch >= receipt.epoch);
    let unknown = running.revocations.revoke(by_serial(77)).await.unwrap_err();
    assert!(matches!(unknown, RevokeError::NotFound(_)), "{unknown}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_and_a_key_take_all_their_certificates_along() {
    let ground = Ground::new().await;
    let running = ground.start().await;
    let by_name = RevokeRequest {
        target: RevokeTarget::Name("node2".into()),
        with_key: true,
        ..by_serial(0)
    };
    let receipt = running.revocations.revoke(by_name).await.unwrap();
    assert_eq!(receipt.items.len(), 10);
    assert!(receipt.items.iter().all(|item| item.spki_sha256.is_some()));
    let spki = SpkiHash::from_bytes(&[3; 32]).unwrap();
    let by_key = RevokeRequest { target: RevokeTarget::Key(spki), ..by_serial(0) };
    let receipt = running.revocations.revoke(by_key).await.unwrap();
    let node = running.node(&ground, receipt.epoch.unwrap()).await;
    for serial in 1..=50 {
        assert_eq!(refuses(&node, &ground, serial), serial % 5 == 2 || serial % 7 == 3, "{serial}");
    }
    // A certificate for the key that nobody knows of yet
    let issuer = KeyId::from_bytes(&[5; 20]).unwrap();
    assert!(node.check(&issuer, &number(999), &spki).is_some());
    let unseen = SpkiHash::from_bytes(&[0x77; 32]).unwrap();
    let receipt = running
        .revocations
        .revoke(RevokeRequest { target: RevokeTarget::Key(unseen), ..by_serial(0) })
        .await
        .unwrap();
    assert_eq!(receipt.items.len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_everything_is_still_revoked_and_numbers_only_grow() {
    let ground = Ground::new().await;
    let mut epoch = 0;
    let mut crl_number = 0;
    for round in 1..=4 {
        let running = ground.start().await;
        let first = running.revocations.reached(1).await.unwrap();
        assert!(first.epoch > epoch, "epochs only grow");
        let receipt = running.revocations.revoke(by_serial(round)).await.unwrap();
        epoch = receipt.epoch.unwrap();
        let node = running.node(&ground, epoch).await;
        for serial in 1..=4 {
            assert_eq!(refuses(&node, &ground, serial), serial <= round);
        }
        ground.now.fetch_add(2, Ordering::SeqCst);
        crl_with(&running.revocations, round).await;
        let list = crl_with(&running.revocations, 1).await;
        assert!(list.number > crl_number, "CRL numbers only grow");
        crl_number = list.number;
        // A node that was there before follows without being told to start over.
        assert!(running.audit.head().count >= round);
        running.stop().await;
    }
    let (replay, _) = Replay::inspect(&ground.journal()).unwrap();
    assert_eq!(replay.deny_list.entries.len(), 4);
    assert_eq!(replay.audit.head().count, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_signer_a_revocation_is_durable_and_the_list_follows() {
    let ground = Ground::new().await;
    let running = ground.start().await;
    running.revocations.reached(1).await.unwrap();
    ground.signer.away.store(true, Ordering::SeqCst);
    let receipt = running.revocations.revoke(by_serial(8)).await.unwrap();
    assert_eq!(receipt.epoch, None);
    assert!(running.revocations.status().problem.is_some());
    let (replay, _) = Replay::inspect(&ground.journal()).unwrap();
    assert_eq!(replay.deny_list.entries.len(), 1);
    ground.signer.away.store(false, Ordering::SeqCst);
    let node = running.node(&ground, replay.deny_list.epoch + 1).await;
    assert!(refuses(&node, &ground, 8));
    assert_eq!(running.revocations.status().problem, None);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_made_durable_is_not_revoked_and_not_shown() {
    let ground = Ground::new().await;
    let running = ground.start().await;
    let first = running.revocations.reached(1).await.unwrap();
    running.append.full.store(true, Ordering::SeqCst);
    let refused = running.revocations.revoke(by_serial(8)).await.unwrap_err();
    assert!(matches!(refused, RevokeError::Journal(_)), "{refused}");
    let shown = running.revocations.deny_list().borrow().clone().unwrap();
    assert_eq!(shown.epoch, first.epoch);
    assert!(running.audit.recent(10).is_empty(), "nor is it in the audit log");
    running.append.full.store(false, Ordering::SeqCst);
    let receipt = running.revocations.revoke(by_serial(8)).await.unwrap();
    assert!(!receipt.items[0].repeated);
    let node = running.node(&ground, receipt.epoch.unwrap()).await;
    assert!(refuses(&node, &ground, 8));
    running.stop().await;
    let (replay, _) = Replay::inspect(&ground.journal()).unwrap();
    assert_eq!(replay.audit.head().count, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_is_issued_again_when_nothing_is_revoked() {
    let ground = Ground::new().await;
    let running = ground.start().await;
    let first = running.revocations.reached(1).await.unwrap();
    ground.now.fetch_add(301, Ordering::SeqCst);
    let next = running.revocations.reached(first.epoch + 1).await.unwrap();
    assert_eq!(next.mark.issued_at, NOW + 301);
    // An hour later the CRLs as well, all eight of them
    let numbers: Vec<u64> =
        running.revocations.status().crls.iter().map(|crl| crl.number).collect();
    assert_eq!(numbers.len(), 8);
    ground.now.fetch_add(3_600, Ordering::SeqCst);
    let mut crls = running.revocations.crls();
    let all_new = crls.wait_for(|crls| {
        crls.len() == 8 && crls.values().zip(&numbers).all(|(list, old)| list.number > *old)
    });
    tokio::time::timeout(Duration::from_secs(10), all_new).await.unwrap().unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_journal_is_refused_and_with_a_nodes_list_nothing_is_un_revoked() {
    let ground = Ground::new().await;
    let running = ground.start().await;
    running.revocations.revoke(by_serial(1)).await.unwrap();
    running.stop().await;
    let old = ground.directory.path().join("old");
    stoq_store::journal::copy(&ground.journal(), &old).unwrap();
    let running = ground.start().await;
    let receipt = running.revocations.revoke(by_serial(2)).await.unwrap();
    let kept = running.revocations.reached(receipt.epoch.unwrap()).await.unwrap();
    let mut node = running.node(&ground, receipt.epoch.unwrap()).await;
    running.stop().await;

    // The old journal is refused, by what was remembered apart from it.
    let refused = ground.start_from(&old, None).await.err().unwrap();
    assert!(matches!(refused, StartError::Behind(Behind::DenyList { .. })), "{refused}");
    // A list that is older than what was published does not help.
    let adopt = |document: &[u8]| AdoptAtStart {
        document: document.to_vec(),
        signers: ground.signers(),
        adopted_by: "operator:root".into(),
    };
    let running = ground.start().await;
    let newer = running.revocations.reached(1).await.unwrap();
    running.stop().await;
    let older = ground.start_from(&old, Some(adopt(&kept.full))).await.err().unwrap();
    assert!(matches!(older, StartError::Adopt(RestoreError::Older { .. })), "{older}");

    // With the newest list that any node has it goes on: nothing is forgotten, and the node follows.
    let running = ground.start_from(&old, Some(adopt(&newer.full))).await.unwrap();
    let next = running.revocations.reached(newer.epoch + 1).await.unwrap();
    node.handle_document(&newer.full, ground.time()).unwrap();
    node.handle_document(&next.full, ground.time()).unwrap();
    assert!(refuses(&node, &ground, 1) && refuses(&node, &ground, 2));
    ground.now.fetch_add(2, Ordering::SeqCst);
    crl_with(&running.revocations, 2).await;
    let adopted = running.audit.recent(10);
    assert!(adopted.iter().any(|record| record.kind == AuditKind::RevocationsAdopted));
    running.stop().await;
    // From then on it starts like any other.
    let running = ground.start_from(&old, None).await.unwrap();
    let node = running.node(&ground, next.epoch + 1).await;
    assert!(refuses(&node, &ground, 2));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_beyond_what_the_journal_has_stops_the_list_until_one_is_adopted() {
    let ground = Ground::new().await;
    let running = ground.start().await;
    let receipt = running.revocations.revoke(by_serial(5)).await.unwrap();
    let published = running.revocations.reached(receipt.epoch.unwrap()).await.unwrap();
    running.revocations.observe(published.mark.clone()).await.unwrap();
    let mut beyond = published.mark.clone();
    beyond.epoch += 10;
    let refused = running.revocations.observe(beyond).await.unwrap_err();
    assert!(matches!(refused, RevokeError::Restore(RestoreError::Behind { .. })), "{refused}");
    // Revocations still are durable, and the list waits.
    let receipt = running.revocations.revoke(by_serial(6)).await.unwrap();
    assert_eq!(receipt.epoch, None);
    let stale =
        running.revocations.adopt(published.full.clone(), ground.signers(), "o".into()).await;
    assert!(matches!(stale, Err(RevokeError::Restore(RestoreError::Older { .. }))), "{stale:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_revocations_of_an_authority_that_is_no_more_are_taken_over() {
    let lost = Ground::new().await;
    let running = lost.start().await;
    let receipt = running.revocations.revoke(by_serial(9)).await.unwrap();
    let list = running.revocations.reached(receipt.epoch.unwrap()).await.unwrap();
    running.stop().await;
    let mut heir = Ground::new().await;
    heir.instance = NodeId::new("beta").unwrap();
    let running = heir.start().await;
    let adopted =
        running.revocations.adopt(list.full.clone(), lost.signers(), "operator:root".into()).await;
    let adopted = adopted.unwrap();
    assert_eq!(adopted.came_back, 1);
    let node = running.node(&heir, adopted.epoch.unwrap()).await;
    let other = SpkiHash::from_bytes(&[0xee; 32]).unwrap();
    assert!(node.check(&lost.key_id(), &number(9), &other).is_some());
    let again =
        running.revocations.adopt(list.full.clone(), lost.signers(), "operator:root".into()).await;
    assert_eq!(again.unwrap().came_back, 0);
    running.stop().await;
    let (replay, _) = Replay::inspect(&heir.journal()).unwrap();
    let expected = Target::certificate(lost.key_id(), number(9));
    assert!(replay.deny_list.entries.iter().any(|(entry, _)| entry.target == expected));
}
