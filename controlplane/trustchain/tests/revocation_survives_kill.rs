//! A process that revokes is killed at random points, again and again: what was answered is revoked afterwards,
//! no epoch was shown that the journal does not have, and the audit log is whole. `STOQ_TEST_KILLS` says how
//! often; the same binary is the process that is killed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng;
use stoq_interface::NodeId;
use stoq_store::journal::{Appender, Journal, Options};
use stoq_store::records::{
    Batch, Change, ChangeKind, IssuedCertificate, Records, Serial, SqliteOptions, SqliteRecords,
};
use stoq_store::{JournalId, named_thread};
use stoq_trustchain::audit::AuditLog;
use stoq_trustchain::ca::append::{AppendEntries, Appending};
use stoq_trustchain::ca::entry::Entry;
use stoq_trustchain::ca::inventory::Inventory;
use stoq_trustchain::ca::revoke::{
    Reached, RevocationParts, RevocationSettings, Revocations, RevokeRequest, RevokeTarget,
    read_journal,
};
use stoq_trustchain::ca::{Clock, Refusal};
use stoq_trustchain::revocation::crl::Sharding;
use stoq_trustchain::revocation::{KeyId, Reason, SerialNumber};
use stoq_trustchain::signer::{KeyName, NamedKey, Pool, PoolSettings, Signer, SoftSettings};

const CHILD: &str = "STOQ_TEST_REVOKER";
/// Certificates there are to revoke
const CERTIFICATES: u64 = 20_000;

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

fn serial(number: u64) -> SerialNumber {
    SerialNumber::from_bytes(&[&[1][..], &number.to_be_bytes()].concat()).unwrap()
}

fn key(directory: &Path) -> (NamedKey, KeyId) {
    let soft = SoftSettings::read_or_create(&directory.join("keys"), &[KeyName::issuing()]);
    let pool = Pool::start(Arc::new(soft.unwrap()), PoolSettings::default()).unwrap();
    let signer: Arc<dyn Signer> = Arc::new(pool);
    let key = NamedKey::new(signer, &KeyName::issuing()).unwrap();
    let key_id = KeyId::of_public_point(key.public().public_point()).unwrap();
    (key, key_id)
}

async fn make_records(directory: &Path, issuer: KeyId) {
    let path = directory.join("records");
    let records = SqliteRecords::open(&path, SqliteOptions::default(), &named_thread).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let changes = (1..=CERTIFICATES).map(|number| Change {
        sequence: number,
        kind: ChangeKind::Issued(IssuedCertificate {
            serial: Serial::new(serial(number).as_bytes()).unwrap(),
            subject_node: format!("node{number}"),
            dns_names: Vec::new(),
            profile: "node".into(),
            spki_sha256: [1; 32],
            issuer_key_id: issuer.as_bytes().to_vec(),
            not_before: now,
            not_after: now + 86_400,
            log_index: number,
        }),
    });
    let journal = JournalId::from_bytes([9; 16]);
    let batch = Batch { journal, first: 1, last: CERTIFICATES, changes: changes.collect() };
    records.apply(batch).await.unwrap();
    records.close().unwrap();
}

/// Revokes from where it was left off until it is killed; says what was answered and which epochs were shown
async fn revoke(directory: PathBuf, mut next: u64) {
    let (key, key_id) = key(&directory);
    let high_water = directory.join("apart").join("high-water.json");
    let journal_directory = directory.join("journal");
    let replay = read_journal(&journal_directory, &high_water, false).unwrap();
    let opened = Journal::open(&journal_directory, Options::default(), &named_thread, |_| Ok(()));
    let journal = Arc::new(opened.unwrap().0);
    let append = Arc::new(OneJournal(journal.appender()));
    let clock: Clock = Arc::new(SystemTime::now);
    let audit = AuditLog::start(append, replay.audit.clone(), clock.clone());
    let path = directory.join("records");
    let records = SqliteRecords::open(&path, SqliteOptions::default(), &named_thread).unwrap();
    let mut issuer_params = rcgen::CertificateParams::default();
    issuer_params.key_identifier_method =
        rcgen::KeyIdMethod::PreSpecified(key_id.as_bytes().to_vec());
    let progress = journal.clone();
    let parts = RevocationParts {
        instance: NodeId::new("alpha").unwrap(),
        key,
        issuer_params,
        replay,
        audit,
        inventory: Inventory::of_records(Arc::new(records)),
        clock,
        progress: Arc::new(move || Reached {
            sequence: progress.durable_sequence(),
            ..Reached::default()
        }),
        adopt: None,
    };
    let settings = RevocationSettings {
        tick: Duration::from_millis(2),
        crl_pause: Duration::ZERO,
        high_water_interval: Duration::ZERO,
        ..RevocationSettings::new(Sharding::DEFAULT, "http://[::1]/crl/".into(), high_water)
    };
    let revocations = Revocations::start_with(parts, settings).unwrap();
    let mut list = revocations.deny_list();
    tokio::spawn(async move {
        while list.changed().await.is_ok() {
            let epoch = list.borrow_and_update().as_ref().map_or(0, |it| it.epoch);
            say(&format!("epoch {epoch}"));
        }
    });
    loop {
        let request = RevokeRequest {
            target: RevokeTarget::Certificate(serial(next)),
            reason: Reason::Superseded,
            with_key: false,
            revoked_by: "operator:test".into(),
        };
        revocations.revoke(request).await.unwrap();
        say(&format!("revoked {next}"));
        next += 1;
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The one who listens has killed this process if it does not.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

fn main() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    if let Ok(directory) = std::env::var(CHILD) {
        let next = std::env::args().nth(1).unwrap().parse().unwrap();
        runtime.block_on(revoke(directory.into(), next));
        return;
    }
    let kills: u64 = std::env::var("STOQ_TEST_KILLS").map_or(25, |kills| kills.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let directory = place.path();
    let (_, key_id) = key(directory);
    runtime.block_on(make_records(directory, key_id));
    Journal::create(&directory.join("journal")).unwrap();
    let high_water = directory.join("apart").join("high-water.json");
    let (mut answered, mut highest) = (BTreeSet::new(), 0);
    for round in 0..kills {
        let next = answered.last().map_or(1, |last| last + 1);
        let lines = rand::rng().random_range(1..60);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(next.to_string())
            .env(CHILD, directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut hear = |line: String| match line.split_once(' ') {
            Some(("revoked", number)) => drop(answered.insert(number.parse::<u64>().unwrap())),
            Some(("epoch", epoch)) => highest = highest.max(epoch.parse::<u64>().unwrap()),
            _ => panic!("{line}"),
        };
        for _ in 0..lines {
            hear(said.next().expect("the process ended by itself").unwrap());
        }
        child.kill().unwrap();
        // What it had said before it died counts; its last line may be cut short.
        let mut rest: Vec<String> = said.map_while(Result::ok).collect();
        let cut = rest.pop();
        rest.into_iter().for_each(&mut hear);
        drop(cut);
        child.wait().unwrap();
        // Reading refuses a journal with less than was shown, an epoch twice, an audit log with a gap.
        let replay = read_journal(&directory.join("journal"), &high_water, false)
            .unwrap_or_else(|error| panic!("after kill {round}: {error}"));
        let revoked: BTreeSet<Vec<u8>> = replay
            .deny_list
            .entries
            .iter()
            .filter_map(|(entry, _)| entry.target.named_certificate())
            .map(|(_, serial)| serial.as_bytes().to_vec())
            .collect();
        for number in &answered {
            assert!(
                revoked.contains(serial(*number).as_bytes()),
                "{number} was answered and is lost"
            );
        }
        assert!(replay.deny_list.epoch >= highest, "epoch {highest} was shown and is lost");
        assert!(replay.audit.head().count >= answered.len() as u64);
    }
    assert!(answered.len() as u64 >= kills, "{} were answered", answered.len());
    say(&format!(
        "test revocation_survives_kill ... ok: {kills} kills, {} answered, epoch {highest}",
        answered.len()
    ));
}
