//! Two authorities that share their records in etcd: what one revokes the other has on its own list, and a killed
//! leader of the cluster or an authority that is gone for good takes nothing back.
//! Needs Debian's `etcd-server` and `etcd-client`.

#[path = "../../store/tests/etcd_cluster/mod.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod etcd_cluster;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use etcd_cluster::Cluster;
use stoq_interface::NodeId;
use stoq_store::journal::{Appender, Journal, JournalEntry, Options};
use stoq_store::named_thread;
use stoq_store::records::etcd::LoopbackDial;
use stoq_store::records::{
    CatchUpError, ChangeKind, EtcdOptions, EtcdRecords, IssuedCertificate, PolicyDocument, Records,
    RevocationReason, Serial, catch_up,
};
use stoq_trustchain::audit::AuditLog;
use stoq_trustchain::ca::append::{AppendEntries, Appending};
use stoq_trustchain::ca::entry::{Entry, Issued};
use stoq_trustchain::ca::inventory::Inventory;
use stoq_trustchain::ca::replay::Replay;
use stoq_trustchain::ca::revoke::{
    Reached, RevocationParts, RevocationSettings, Revocations, RevokeRequest, RevokeTarget,
};
use stoq_trustchain::ca::{Clock, Refusal};
use stoq_trustchain::revocation::crl::Sharding;
use stoq_trustchain::revocation::{
    DenyList, DenyListSettings, KeyId, ListSigner, Reason, SerialNumber, Signers, SpkiHash,
};
use stoq_trustchain::signer::{KeyName, NamedKey, Pool, PoolSettings, Signer, SoftSettings};

fn clock() -> Clock {
    Arc::new(SystemTime::now)
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

struct OneJournal(Appender);

impl AppendEntries for OneJournal {
    fn append_entries(&self, entries: Vec<Entry>) -> Appending<'_> {
        Box::pin(async move {
            let entries = entries.iter().map(Entry::encode).collect();
            let appended = self.0.append_all(entries).await;
            appended.map(|it| it.first).map_err(|error| Refusal::Stopped(error.to_string()))
        })
    }
}

/// An authority's journal and list, without its pipeline
struct Authority {
    name: NodeId,
    journal: Journal,
    records: Arc<EtcdRecords>,
    append: Arc<OneJournal>,
    revocations: Revocations,
    key: NamedKey,
    key_id: KeyId,
}

/// What a journal entry amounts to, for the records
fn interpret(
    entry: &JournalEntry,
) -> Result<Vec<ChangeKind>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(match Entry::decode(entry.kind, &entry.payload)? {
        Entry::Issued(it) => vec![
            ChangeKind::Issued(IssuedCertificate {
                serial: Serial::new(&it.serial)?,
                subject_node: it.subject.clone(),
                dns_names: it.dns_names,
                profile: it.profile,
                spki_sha256: it.spki_sha256.try_into().unwrap(),
                issuer_key_id: it.issuer_key_id,
                not_before: it.not_before,
                not_after: it.not_after,
                log_index: it.leaf_index,
            }),
            // A policy with each certificate, so that policies are shared as well
            ChangeKind::PolicyStored(PolicyDocument {
                name: format!("policy of {}", it.subject),
                version: it.leaf_index + 1,
                body: b"allow nothing".to_vec(),
                stored_at: it.not_before,
            }),
        ],
        Entry::Revoked(it) if !it.serial.is_empty() => vec![ChangeKind::Revoked {
            serial: Serial::new(&it.serial)?,
            revoked_at: it.revoked_at,
            reason: RevocationReason::from_code(u8::try_from(it.reason)?).ok_or("reason")?,
        }],
        _ => Vec::new(),
    })
}

impl Authority {
    async fn start(name: &str, directory: PathBuf, cluster: &Cluster) -> Self {
        let name = NodeId::new(name).unwrap();
        let journal_directory = directory.join("journal");
        if !journal_directory.exists() {
            Journal::create(&journal_directory).unwrap();
        }
        let keys = SoftSettings::read_or_create(&directory.join("keys"), &[KeyName::issuing()]);
        let pool = Pool::start(Arc::new(keys.unwrap()), PoolSettings::default()).unwrap();
        let signer: Arc<dyn Signer> = Arc::new(pool);
        let key = NamedKey::new(signer, &KeyName::issuing()).unwrap();
        let key_id = KeyId::of_public_point(key.public().public_point()).unwrap();
        let replay = Replay::read(&journal_directory).unwrap();
        let opened =
            Journal::open(&journal_directory, Options::default(), &named_thread, |_| Ok(()));
        let journal = opened.unwrap().0;
        let append = Arc::new(OneJournal(journal.appender()));
        let audit = AuditLog::start(append.clone(), replay.audit.clone(), clock());
        let options = EtcdOptions::new(cluster.clients());
        let records = Arc::new(EtcdRecords::open(options, Arc::new(LoopbackDial)).await.unwrap());
        let parts = RevocationParts {
            instance: name.clone(),
            key: key.clone(),
            issuer_params: rcgen_params(&key),
            replay,
            audit,
            inventory: Inventory::of_records(records.clone()),
            clock: clock(),
            progress: Arc::new(Reached::default),
            adopt: None,
        };
        let settings = RevocationSettings {
            tick: Duration::from_millis(10),
            absorb_pause: Duration::from_millis(20),
            ..RevocationSettings::new(
                Sharding::DEFAULT,
                "http://[::1]/crl/".into(),
                directory.join("high-water.json"),
            )
        };
        let revocations = Revocations::start_with(parts, settings).unwrap();
        Self { name, journal, records, append, revocations, key, key_id }
    }

    fn serial(&self, number: u64) -> SerialNumber {
        let tail = number.to_be_bytes();
        SerialNumber::from_bytes(&[&self.key_id.as_bytes()[..8], &tail].concat()).unwrap()
    }

    async fn issue(&self, numbers: std::ops::Range<u64>) {
        let entries = numbers.map(|number| {
            Entry::Issued(Issued {
                serial: self.serial(number).as_bytes().to_vec(),
                profile: "node".into(),
                subject: format!("{}-{number}", self.name),
                spki_sha256: vec![number as u8; 32],
                issuer_key_id: self.key_id.as_bytes().to_vec(),
                not_before: seconds(),
                not_after: seconds() + 86_400,
                leaf_index: number,
                ..Issued::default()
            })
        });
        self.append.append_entries(entries.collect()).await.unwrap();
    }

    /// Brings the records up to the journal, as the service does all the time
    async fn catch_up(&self) {
        loop {
            match catch_up(&*self.records, &self.journal, interpret).await {
                Ok(_) => return,
                // The cluster was without a leader for too long; it goes on where it was.
                Err(CatchUpError::Apply { .. } | CatchUpError::Records(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn revoke(&self, serial: SerialNumber) -> u64 {
        let request = RevokeRequest {
            target: RevokeTarget::Certificate(serial),
            reason: Reason::KeyCompromise,
            with_key: false,
            revoked_by: "operator:root".into(),
        };
        self.revocations.revoke(request).await.unwrap().epoch.unwrap()
    }

    /// Waits until a node that follows this authority alone refuses a certificate
    async fn lists(&self, issuer: KeyId, serial: &SerialNumber) {
        let mut list = self.revocations.deny_list();
        let certificate = {
            let mut params = rcgen_params(&self.key);
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
            params.serial_number = Some(1_u64.into());
            params.self_signed(&self.key).unwrap()
        };
        let signer = ListSigner::from_certificate(self.name.clone(), certificate.der()).unwrap();
        let signers = Signers::new([signer]).unwrap();
        let no_key = SpkiHash::from_bytes(&[0xee; 32]).unwrap();
        let listed = list.wait_for(|published| {
            let Some(published) = published else { return false };
            let now = SystemTime::now();
            let mut node = DenyList::new(DenyListSettings::default(), signers.clone(), now);
            node.handle_document(&published.full, now).unwrap();
            node.check(&issuer, serial, &no_key).is_some()
        });
        tokio::time::timeout(Duration::from_secs(120), listed).await.unwrap().unwrap();
    }
}

fn rcgen_params(key: &NamedKey) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    let id = KeyId::of_public_point(key.public().public_point()).unwrap();
    params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(id.as_bytes().to_vec());
    params
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_authorities_share_inventory_policy_and_deny_list() {
    let mut cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
    for place in [&one, &two] {
        std::fs::create_dir_all(place).unwrap();
    }
    let alpha = Authority::start("alpha", one, &cluster).await;
    let beta = Authority::start("beta", two.clone(), &cluster).await;
    alpha.issue(0..20).await;
    beta.issue(0..20).await;
    alpha.catch_up().await;
    beta.catch_up().await;

    // Inventory and policy: either knows what the other issued.
    let theirs = Serial::new(alpha.serial(7).as_bytes()).unwrap();
    let found = beta.records.certificate(theirs).await.unwrap().unwrap();
    assert_eq!(found.certificate.subject_node, "alpha-7");
    let policy = alpha.records.policy("policy of beta-3".into(), None).await.unwrap().unwrap();
    assert_eq!(policy.version, 4);

    // The deny-list: what alpha revokes is on beta's own list, within a second of being in the records.
    // A busy machine may be late once, and not each time.
    let revoked = alpha.serial(7);
    let mut took = Vec::new();
    for serial in [revoked.clone(), alpha.serial(8), alpha.serial(9)] {
        alpha.revoke(serial.clone()).await;
        alpha.catch_up().await;
        let began = Instant::now();
        beta.lists(alpha.key_id, &serial).await;
        took.push(began.elapsed());
    }
    assert!(took.iter().min() < Some(&Duration::from_secs(1)), "{took:?}");

    // Either may revoke the other's certificates, also while the cluster loses its leader.
    let leader = cluster.leader();
    cluster.kill(leader);
    let crossed = alpha.serial(11);
    beta.revoke(crossed.clone()).await;
    beta.catch_up().await;
    alpha.lists(alpha.key_id, &crossed).await;
    cluster.restart(leader);

    // Alpha is gone for good: beta and the records still refuse what it revoked, also after a restart.
    let last = alpha.serial(13);
    alpha.revoke(last.clone()).await;
    alpha.catch_up().await;
    beta.lists(alpha.key_id, &last).await;
    drop(alpha.revocations);
    alpha.journal.close().await.unwrap();
    let (key_id, Authority { journal, revocations, append, records, .. }) = (alpha.key_id, beta);
    drop((revocations, append, records));
    journal.close().await.unwrap();
    let beta = Authority::start("beta", two, &cluster).await;
    for serial in [&revoked, &crossed, &last] {
        beta.lists(key_id, serial).await;
        let serial = Serial::new(serial.as_bytes()).unwrap();
        assert!(beta.records.certificate(serial).await.unwrap().unwrap().revoked.is_some());
    }
}
