//! Records in a three-member etcd cluster that each test starts: the same answers as from SQLite, several
//! instances at once, a killed leader, lost answers, forgotten history. Needs Debian's `etcd-server` and
//! `etcd-client`.

mod etcd_cluster;

use std::io::Read;
use std::net::{SocketAddr, SocketAddrV6, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use boring::ssl::{AlpnError, SslAcceptor, SslFiletype, SslMethod, select_next_proto};
use etcd_cluster::pki::{NAME, Pki};
use etcd_cluster::{Cluster, Cut};
use stoq_store::records::etcd::{Dial, LoopbackDial};
use stoq_store::records::{
    Batch, CertificateQuery, CertificateRecord, CertificateState, Change, ChangeKind, EtcdOptions,
    EtcdRecords, IdempotentResult, IssuedCertificate, PolicyDocument, Records, RecordsError,
    Revocation, RevocationQuery, RevocationReason, Serial, SqliteOptions, SqliteRecords,
};
use stoq_store::{JournalId, named_thread};

const NOW: u64 = 1_000_000;

fn id(number: u8) -> JournalId {
    JournalId::from_bytes([number; 16])
}

/// Certificate `number` of an instance
fn serial(instance: u8, number: u64) -> Serial {
    Serial::new(&[&[instance][..], &number.to_be_bytes()].concat()).unwrap()
}

fn certificate(instance: u8, number: u64) -> IssuedCertificate {
    IssuedCertificate {
        serial: serial(instance, number),
        subject_node: format!("node{}", number % 10),
        dns_names: vec![format!("node{}.nodes.hypermesh", number % 10), format!("only{number}")],
        profile: if number.is_multiple_of(2) { "node" } else { "service" }.into(),
        spki_sha256: [(number % 7) as u8; 32],
        issuer_key_id: vec![instance; 20],
        not_before: NOW - 1_000,
        not_after: NOW - 50 + number / 2 * 2,
        log_index: number,
    }
}

fn issued(instance: u8, sequence: u64) -> Change {
    Change { sequence, kind: ChangeKind::Issued(certificate(instance, sequence)) }
}

fn revoked(instance: u8, sequence: u64, number: u64) -> Change {
    let kind = ChangeKind::Revoked {
        serial: serial(instance, number),
        revoked_at: NOW + sequence,
        reason: RevocationReason::KeyCompromise,
    };
    Change { sequence, kind }
}

fn answered(sequence: u64, key: &[u8], result: &[u8], expires_at: u64) -> Change {
    let (key, result) = (key.to_vec(), result.to_vec());
    Change { sequence, kind: ChangeKind::Answered(IdempotentResult { key, result, expires_at }) }
}

fn document(name: &str, version: u64) -> PolicyDocument {
    let body = format!("{name} {version}").into_bytes();
    PolicyDocument { name: name.into(), version, body, stored_at: NOW + version }
}

fn stored(sequence: u64, name: &str, version: u64) -> Change {
    Change { sequence, kind: ChangeKind::PolicyStored(document(name, version)) }
}

fn batch(instance: u8, first: u64, last: u64, changes: Vec<Change>) -> Batch {
    Batch { journal: id(instance), first, last, changes }
}

async fn open(cluster: &Cluster, dial: Arc<dyn Dial>) -> EtcdRecords {
    EtcdRecords::open(EtcdOptions::new(cluster.clients()), dial).await.unwrap()
}

async fn certificates(
    records: &dyn Records,
    mut query: CertificateQuery,
) -> Vec<CertificateRecord> {
    let mut all = Vec::new();
    loop {
        let page = records.certificates(query.clone()).await.unwrap();
        assert!(query.limit == 0 || page.items.len() <= query.limit);
        all.extend(page.items);
        query.page = page.next;
        if query.page.is_none() {
            return all;
        }
    }
}

async fn revocations(records: &dyn Records, mut query: RevocationQuery) -> Vec<Revocation> {
    let mut all = Vec::new();
    loop {
        let page = records.revocations(query.clone()).await.unwrap();
        all.extend(page.items);
        query.page = page.next;
        if query.page.is_none() {
            return all;
        }
    }
}

/// Asks everything there is to ask
async fn everything(records: &dyn Records) -> String {
    let query = CertificateQuery::default;
    let mut questions = vec![
        query(),
        CertificateQuery { name: Some("node3".into()), ..query() },
        CertificateQuery { name: Some("node3.nodes.hypermesh".into()), ..query() },
        CertificateQuery { name: Some("node4".into()), profile: Some("node".into()), ..query() },
        CertificateQuery { spki_sha256: Some([5; 32]), not_after_from: Some(NOW), ..query() },
        CertificateQuery { issuer_key_id: Some(vec![9; 20]), ..query() },
        CertificateQuery { not_after_from: Some(NOW), not_after_before: Some(NOW + 10), ..query() },
    ];
    for state in [CertificateState::Valid, CertificateState::Revoked, CertificateState::Expired] {
        questions.push(CertificateQuery { state: Some((state, NOW)), ..query() });
    }
    let mut answers = Vec::new();
    for question in questions {
        for limit in [0, 1, 7, 100] {
            let question = CertificateQuery { limit, ..question.clone() };
            answers.push(format!("{:?}", certificates(records, question).await));
        }
    }
    for unexpired_at in [None, Some(NOW)] {
        for limit in [0, 2] {
            let query = RevocationQuery { unexpired_at, limit, page: None };
            answers.push(format!("{:?}", revocations(records, query).await));
        }
    }
    for (key, now) in [(&b"k1"[..], NOW), (b"k1", NOW + 100), (b"k2", NOW), (b"k3", NOW)] {
        answers.push(format!("{:?}", records.idempotent_result(key.to_vec(), now).await));
    }
    for version in [None, Some(1), Some(2)] {
        answers.push(format!("{:?}", records.policy("issue".into(), version).await));
    }
    let mut token = None;
    loop {
        let page = records.policies(1, token).await.unwrap();
        answers.push(format!("{:?}", page.items));
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    answers.push(format!("{:?}", records.certificate(serial(1, 42)).await));
    answers.push(format!("{:?}", records.applied_through(id(1)).await));
    answers.join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_question_has_the_answer_it_has_in_sqlite() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records");
    let sqlite = SqliteRecords::open(&path, SqliteOptions::default(), &named_thread).unwrap();
    let etcd = open(&cluster, Arc::new(LoopbackDial)).await;
    let large = vec![7; 60_000];
    let mut one_entry: Vec<Change> = (0..250).map(|n| revoked(1, 305, 1_000 + n)).collect();
    one_entry.push(revoked(1, 305, 1_000));
    let batches = [
        // More than one transaction takes, in one batch
        batch(1, 1, 300, (1..=300).map(|number| issued(1, number)).collect()),
        batch(1, 301, 301, vec![revoked(1, 301, 10), revoked(1, 301, 10), revoked(1, 301, 999)]),
        batch(
            1,
            302,
            303,
            vec![
                answered(302, b"k1", b"first", NOW + 5),
                answered(302, b"k2", &large, NOW + 500),
                answered(303, b"k1", b"second", NOW + 50),
            ],
        ),
        batch(
            1,
            304,
            304,
            vec![stored(304, "issue", 1), stored(304, "issue", 3), stored(304, "a/b", 2)],
        ),
        // More than one transaction takes, in one entry
        batch(1, 305, 306, one_entry),
        batch(1, 307, 400, Vec::new()),
    ];
    for batch in batches {
        sqlite.apply(batch.clone()).await.unwrap();
        etcd.apply(batch).await.unwrap();
        assert_eq!(everything(&etcd).await, everything(&sqlite).await);
    }
    let refused = [
        batch(1, 400, 400, Vec::new()),
        batch(1, 402, 402, Vec::new()),
        batch(1, 401, 402, vec![issued(1, 401), Change { sequence: 402, ..issued(1, 7) }]),
        batch(1, 401, 401, vec![stored(401, "issue", 1)]),
        batch(0, 0, 0, Vec::new()),
    ];
    for batch in refused {
        let expected = sqlite.apply(batch.clone()).await.unwrap_err();
        assert_eq!(etcd.apply(batch).await, Err(expected));
        assert_eq!(everything(&etcd).await, everything(&sqlite).await);
    }
    for now in [NOW + 50, NOW + 51, NOW + 51] {
        let expected = sqlite.forget_idempotent_results(now).await;
        assert_eq!(etcd.forget_idempotent_results(now).await, expected);
    }
    assert_eq!(everything(&etcd).await, everything(&sqlite).await);
    // Whoever comes later reads the same.
    let later = open(&cluster, Arc::new(LoopbackDial)).await;
    assert_eq!(everything(&later).await, everything(&sqlite).await);
    etcd.clear().await.unwrap();
    sqlite.clear().await.unwrap();
    assert_eq!(everything(&later).await, everything(&sqlite).await);
    etcd.apply(batch(1, 1, 1, vec![issued(1, 1)])).await.unwrap();
    assert_eq!(later.applied_through(id(1)).await, Ok(1));
}

/// One instance's work: entry n issues certificate n, revokes the one before the last of every tenth, and
/// stores a policy every twentieth. Each batch is acknowledged before the next.
async fn work(
    records: Arc<EtcdRecords>,
    instance: u8,
    entries: u64,
    done: tokio::sync::mpsc::Sender<u64>,
) {
    let mut at = 1;
    while at <= entries {
        let last = (at + at % 3).min(entries);
        let mut changes = Vec::new();
        for sequence in at..=last {
            changes.push(issued(instance, sequence));
            if sequence.is_multiple_of(10) {
                changes.push(revoked(instance, sequence, sequence - 2));
            }
            if sequence.is_multiple_of(20) {
                changes.push(stored(sequence, &format!("policy-{instance}"), sequence));
            }
        }
        let batch = batch(instance, at, last, changes);
        // What an instance does that does not know whether its batch was applied: it asks, and goes on.
        match records.apply(batch).await {
            Ok(()) => at = last + 1,
            Err(RecordsError::Unavailable(_)) => {
                at = records.applied_through(id(instance)).await.unwrap() + 1;
            }
            Err(error) => panic!("{error}"),
        }
        done.send(at - 1).await.unwrap();
    }
}

async fn check_all(records: &dyn Records, entries: u64) {
    for instance in [1, 2] {
        assert_eq!(records.applied_through(id(instance)).await, Ok(entries));
        for number in 1..=entries {
            let found = records.certificate(serial(instance, number)).await.unwrap();
            let found = found.unwrap_or_else(|| panic!("{instance}/{number} is lost"));
            assert_eq!(found.certificate, certificate(instance, number));
            assert_eq!(found.revoked.is_some(), number % 10 == 8);
        }
        let last = entries / 20 * 20;
        let name = format!("policy-{instance}");
        let policy = records.policy(name.clone(), None).await.unwrap();
        assert_eq!(policy, Some(document(&name, last)));
    }
    let all = revocations(records, RevocationQuery::default()).await;
    assert_eq!(all.len() as u64, 2 * (entries / 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_share_everything_and_a_killed_leader_loses_nothing() {
    const ENTRIES: u64 = 400;
    let mut cluster = Cluster::start();
    let first = Arc::new(open(&cluster, Arc::new(LoopbackDial)).await);
    let second = Arc::new(open(&cluster, Arc::new(LoopbackDial)).await);
    let (done, mut progress) = tokio::sync::mpsc::channel(1);
    let tasks = [(first.clone(), 1), (second.clone(), 2)]
        .map(|(records, instance)| tokio::spawn(work(records, instance, ENTRIES, done.clone())));
    drop(done);
    let (mut kills, mut killed) = (vec![100, 200, 300], None);
    let mut acknowledged = 0;
    while let Some(at) = progress.recv().await {
        acknowledged = acknowledged.max(at);
        if kills.first().is_some_and(|at| acknowledged >= *at) {
            kills.remove(0);
            // The one that was killed before comes back first, so that two of three are there.
            if let Some(member) = killed.take() {
                cluster.restart(member);
                cluster.wait_for_members();
            }
            let leader = cluster.leader();
            cluster.kill(leader);
            killed = Some(leader);
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(kills.is_empty(), "the leader was killed three times");
    // Each instance has all that both were acknowledged.
    check_all(&*first, ENTRIES).await;
    check_all(&*second, ENTRIES).await;

    // What one revokes the other hears of without asking.
    let mut changes = second.changes().unwrap();
    changes.mark_unchanged();
    let revocation = batch(1, ENTRIES + 1, ENTRIES + 1, vec![revoked(1, ENTRIES + 1, 1)]);
    first.apply(revocation).await.unwrap();
    let began = std::time::Instant::now();
    tokio::time::timeout(Duration::from_secs(5), changes.changed()).await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(second.certificate(serial(1, 1)).await.unwrap().unwrap().revoked.is_some());

    // All members die at once and come back.
    drop((first, second));
    for member in 0..3 {
        cluster.kill(member);
    }
    for member in 0..3 {
        cluster.restart(member);
    }
    let again = open(&cluster, Arc::new(LoopbackDial)).await;
    assert_eq!(again.applied_through(id(1)).await, Ok(ENTRIES + 1));
    assert_eq!(again.applied_through(id(2)).await, Ok(ENTRIES));
    assert_eq!(certificates(&again, CertificateQuery::default()).await.len() as u64, 2 * ENTRIES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_answer_was_lost_is_applied_once() {
    let cluster = Cluster::start();
    let cut = Arc::new(Cut::default());
    let records = open(&cluster, cut.clone()).await;
    let witness = open(&cluster, Arc::new(LoopbackDial)).await;
    for sequence in 1..=120 {
        // One of the next reads breaks the connection: now the place, now the transaction itself was asked for
        // and carried out, and the answer is lost.
        cut.after_reads(sequence % 12);
        let changes = vec![issued(1, sequence), stored(sequence, "p", sequence)];
        records.apply(batch(1, sequence, sequence, changes)).await.unwrap();
        assert_eq!(witness.applied_through(id(1)).await, Ok(sequence));
    }
    assert!(cut.broken() > 20, "{} connections were broken", cut.broken());
    assert_eq!(certificates(&witness, CertificateQuery::default()).await.len(), 120);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_and_forgotten_is_read_anew() {
    let cluster = Cluster::start();
    let cut = Arc::new(Cut::default());
    let options = EtcdOptions {
        attempt: Duration::from_secs(1),
        patience: Duration::from_secs(3),
        ..EtcdOptions::new(cluster.clients())
    };
    let away = EtcdRecords::open(options, cut.clone()).await.unwrap();
    let here = open(&cluster, Arc::new(LoopbackDial)).await;
    here.apply(batch(1, 1, 1, vec![issued(1, 1), answered(1, b"k1", b"x", NOW)])).await.unwrap();
    assert_eq!(away.applied_through(id(1)).await, Ok(1));
    cut.close();
    // Without the cluster there is no answer, not even an old one.
    let unanswered = away.applied_through(id(1)).await;
    assert!(matches!(unanswered, Err(RecordsError::Unavailable(_))), "{unanswered:?}");
    for sequence in 2..=9 {
        here.apply(batch(1, sequence, sequence, vec![issued(1, sequence)])).await.unwrap();
    }
    here.forget_idempotent_results(NOW + 1).await.unwrap();
    cluster.compact();
    assert_eq!(away.listings(), 1);
    cut.open();
    assert_eq!(away.applied_through(id(1)).await, Ok(9));
    assert_eq!(away.listings(), 2, "the watch went on from a revision that was compacted");
    assert_eq!(away.idempotent_result(b"k1".to_vec(), 0).await, Ok(None));
    assert_eq!(everything(&away).await, everything(&here).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_answered_or_applied() {
    let mut cluster = Cluster::start();
    let options = EtcdOptions {
        attempt: Duration::from_secs(1),
        patience: Duration::from_secs(3),
        ..EtcdOptions::new(cluster.clients())
    };
    let records = EtcdRecords::open(options, Arc::new(LoopbackDial)).await.unwrap();
    records.apply(batch(1, 1, 1, vec![issued(1, 1)])).await.unwrap();
    cluster.kill(0);
    cluster.kill(1);
    let unanswered = records.certificate(serial(1, 1)).await;
    assert!(matches!(unanswered, Err(RecordsError::Unavailable(_))), "{unanswered:?}");
    let lost = records.apply(batch(1, 2, 2, vec![issued(1, 2)])).await;
    assert!(matches!(lost, Err(RecordsError::Unavailable(_))), "{lost:?}");
    cluster.restart(0);
    let whole = open(&cluster, Arc::new(LoopbackDial)).await;
    assert!(whole.certificate(serial(1, 1)).await.unwrap().is_some());
    let applied = records.applied_through(id(1)).await.unwrap();
    records.apply(batch(1, applied + 1, 3, vec![issued(1, 3)])).await.unwrap();
    assert_eq!(whole.applied_through(id(1)).await, Ok(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_both_ends_prove_themselves_and_a_killed_leader_loses_nothing() {
    let mut cluster = Cluster::start_with_tls();
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Pki::make(elsewhere.path());
    let members = cluster.clients();
    let pki = cluster.pki();
    let options = |members: &[std::net::SocketAddrV6]| EtcdOptions {
        attempt: Duration::from_secs(1),
        patience: Duration::from_secs(3),
        ..EtcdOptions::new(members.to_vec())
    };
    let refusal = async |dial: Arc<dyn Dial>| {
        EtcdRecords::open(options(&members), dial).await.err().map(|error| error.to_string())
    };
    // In the clear, without a certificate of the cluster, and before a stranger in the members' place
    assert!(refusal(Arc::new(LoopbackDial)).await.is_some());
    assert!(refusal(foreign.dial(pki, "client", None)).await.is_some());
    let untrusted = refusal(pki.dial(&foreign, "client", None)).await.unwrap();
    assert!(untrusted.contains("did not prove itself"), "{untrusted}");
    let misnamed = refusal(pki.dial(pki, "client", Some("other.example"))).await.unwrap();
    assert!(misnamed.contains("did not prove itself"), "{misnamed}");

    // By its address and by its name; what one writes the other has, also across a killed leader.
    let by_address = EtcdOptions::new(members.clone());
    let first = EtcdRecords::open(by_address.clone(), pki.dial(pki, "client", None)).await.unwrap();
    let named = pki.dial(pki, "client", Some(NAME));
    let second = EtcdRecords::open(by_address, named).await.unwrap();
    for sequence in 1..=60 {
        if sequence == 30 {
            let leader = cluster.leader();
            cluster.kill(leader);
        }
        loop {
            let changes = vec![issued(1, sequence)];
            match first.apply(batch(1, sequence, sequence, changes)).await {
                Ok(()) => break,
                Err(RecordsError::Unavailable(_)) => {
                    if first.applied_through(id(1)).await == Ok(sequence) {
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(second.applied_through(id(1)).await, Ok(sequence));
    }
    for number in 1..=60 {
        let found = second.certificate(serial(1, number)).await.unwrap().unwrap();
        assert_eq!(found.certificate, certificate(1, number));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_for_another_host_is_refused() {
    let cluster = Cluster::start_with_tls();
    let pki = cluster.pki();
    let good = pki.dial(pki, "client", None);
    // The member's certificate is for [::1]; the same member under another name of its host is none of ours.
    let member = cluster.clients()[0];
    good.dial(member).await.map(drop).unwrap();
    for (name, trusted) in [(NAME, true), ("etcd.example.com", false), ("example", false)] {
        let dialled = pki.dial(pki, "client", Some(name)).dial(member).await;
        assert_eq!(dialled.is_ok(), trusted, "{name}");
    }
}

/// A server on this host that shows a leaf and speaks the cluster's protocol; where it listens
fn shows(pki: &Pki, leaf: &str) -> SocketAddrV6 {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    acceptor.set_certificate_chain_file(pki.path(&format!("{leaf}.pem"))).unwrap();
    acceptor.set_private_key_file(pki.path(&format!("{leaf}.key")), SslFiletype::PEM).unwrap();
    acceptor.set_alpn_select_callback(|_, offered| {
        select_next_proto(b"\x02h2", offered).ok_or(AlpnError::NOACK)
    });
    let acceptor = acceptor.build();
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let SocketAddr::V6(address) = listener.local_addr().unwrap() else { unreachable!() };
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        // Ends with the client, who has seen enough or gone away.
        if let Ok(mut session) = acceptor.accept(stream) {
            drop(session.read(&mut [0; 1_024]));
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_name_is_told_the_certificate_is_for_the_address_that_is_dialled() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::make(directory.path());
    pki.leaf("elsewhere", "2001:db8::1", None);
    let dial = pki.dial(&pki, "client", None);
    dial.dial(shows(&pki, "member")).await.map(drop).unwrap();
    let refused = dial.dial(shows(&pki, "elsewhere")).await.map(drop).unwrap_err();
    assert!(refused.to_string().to_lowercase().contains("ip address mismatch"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_begin_before_their_cluster_answer_when_it_is_there() {
    let mut cluster = Cluster::start();
    let whole = open(&cluster, Arc::new(LoopbackDial)).await;
    whole.apply(batch(1, 1, 2, vec![issued(1, 1), issued(1, 2)])).await.unwrap();
    drop(whole);
    for member in 0..3 {
        cluster.kill(member);
    }
    let options = EtcdOptions {
        attempt: Duration::from_secs(1),
        patience: Duration::from_secs(3),
        ..EtcdOptions::new(cluster.clients())
    };
    let early = EtcdRecords::begin(&options, Arc::new(LoopbackDial)).unwrap();
    let unanswered = early.applied_through(id(1)).await;
    assert!(matches!(unanswered, Err(RecordsError::Unavailable(_))), "{unanswered:?}");
    assert_eq!(early.listings(), 0);
    for member in 0..3 {
        cluster.restart(member);
    }
    cluster.wait_for_members();
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while early.applied_through(id(1)).await != Ok(2) {
        assert!(std::time::Instant::now() < end, "nothing was listed");
    }
    assert!(early.certificate(serial(1, 2)).await.unwrap().is_some());
    early.apply(batch(1, 3, 3, vec![issued(1, 3)])).await.unwrap();
    assert_eq!(early.listings(), 1);
}
