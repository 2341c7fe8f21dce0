//! Records as their callers see them: what was applied can be asked for in pages, batches are all or nothing,
//! and everything can be made again from the journal.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{append, open, small};
use stoq_store::journal::{Journal, JournalEntry};
use stoq_store::records::{
    Batch, CatchUpError, CertificateQuery, CertificateRecord, CertificateState, Change, ChangeKind,
    IdempotentResult, IssuedCertificate, PolicyDocument, Records, RecordsError, RevocationQuery,
    RevocationReason, Serial, SqliteOptions, SqliteRecords, catch_up,
};
use stoq_store::{JournalId, named_thread};

const NOW: u64 = 1_000_000;

fn id(number: u8) -> JournalId {
    JournalId::from_bytes([number; 16])
}

fn open_records(path: &Path) -> SqliteRecords {
    SqliteRecords::open(path, SqliteOptions::default(), &named_thread).unwrap()
}

fn fresh() -> (tempfile::TempDir, SqliteRecords) {
    let directory = tempfile::tempdir().unwrap();
    let records = open_records(&directory.path().join("records"));
    (directory, records)
}

/// Later certificates have lower serials, but of each pair that ends together the first has the lower one
fn serial(number: u64) -> Serial {
    let value = (1_000_000 - number / 2) * 2 + number % 2;
    Serial::new(&value.to_be_bytes()).unwrap()
}

/// Certificates of ten nodes in turn; an even number n and the one behind it end n seconds from [`NOW`], less 50
fn certificate(number: u64) -> IssuedCertificate {
    IssuedCertificate {
        serial: serial(number),
        subject_node: format!("node{}", number % 10),
        dns_names: vec![format!("node{}.nodes.hypermesh", number % 10), format!("only{number}")],
        profile: if number.is_multiple_of(2) { "node" } else { "service" }.into(),
        spki_sha256: [(number % 7) as u8; 32],
        issuer_key_id: vec![(number % 3) as u8; 20],
        not_before: NOW - 1_000,
        not_after: NOW - 50 + number / 2 * 2,
        log_index: number - 1,
    }
}

fn issued(sequence: u64) -> Change {
    Change { sequence, kind: ChangeKind::Issued(certificate(sequence)) }
}

fn revoked(sequence: u64, number: u64, reason: RevocationReason) -> Change {
    let kind = ChangeKind::Revoked { serial: serial(number), revoked_at: NOW + sequence, reason };
    Change { sequence, kind }
}

fn batch(first: u64, last: u64, changes: Vec<Change>) -> Batch {
    Batch { journal: id(1), first, last, changes }
}

async fn issue_100(records: &SqliteRecords) {
    records.apply(batch(1, 100, (1..=100).map(issued).collect())).await.unwrap();
}

fn numbers(items: &[CertificateRecord]) -> Vec<u64> {
    items.iter().map(|item| item.sequence).collect()
}

async fn ask(records: &dyn Records, query: CertificateQuery) -> Vec<u64> {
    let mut all = Vec::new();
    let mut query = query;
    loop {
        let page = records.certificates(query.clone()).await.unwrap();
        assert!(query.limit == 0 || page.items.len() <= query.limit);
        all.extend(numbers(&page.items));
        query.page = page.next;
        if query.page.is_none() {
            return all;
        }
    }
}

fn those(condition: impl Fn(u64) -> bool) -> Vec<u64> {
    (1..=100).filter(|number| condition(*number)).collect()
}

#[tokio::test]
async fn certificates_are_found_by_everything_they_have() {
    let (_directory, records) = fresh();
    issue_100(&records).await;
    for number in [10, 20, 90] {
        let change = revoked(100 + number, number, RevocationReason::KeyCompromise);
        records
            .apply(batch(
                records.applied_through(id(1)).await.unwrap() + 1,
                100 + number,
                vec![change],
            ))
            .await
            .unwrap();
    }
    let query = CertificateQuery::default;
    let is_revoked = |number| [10, 20, 90].contains(&number);

    let one = records.certificate(serial(42)).await.unwrap().unwrap();
    assert_eq!((one.certificate, one.revoked, one.sequence), (certificate(42), None, 42));
    assert_eq!(records.certificate(serial(101)).await.unwrap(), None);

    // Every limit must give the same, and all of them page.
    for limit in [0, 1, 3, 50, 100] {
        let query = || CertificateQuery { limit, ..query() };
        assert_eq!(ask(&records, query()).await, those(|_| true), "{limit}");
        let by_node = CertificateQuery { name: Some("node3".into()), ..query() };
        assert_eq!(ask(&records, by_node).await, those(|number| number % 10 == 3));
        let by_dns_name =
            CertificateQuery { name: Some("node3.nodes.hypermesh".into()), ..query() };
        assert_eq!(ask(&records, by_dns_name).await, those(|number| number % 10 == 3));
        let by_key = CertificateQuery { spki_sha256: Some([5; 32]), ..query() };
        assert_eq!(ask(&records, by_key).await, those(|number| number % 7 == 5));
        let state = |state| CertificateQuery { state: Some((state, NOW)), ..query() };
        let valid = ask(&records, state(CertificateState::Valid)).await;
        assert_eq!(valid, those(|number| number >= 50 && !is_revoked(number)));
        let expired = ask(&records, state(CertificateState::Expired)).await;
        assert_eq!(expired, those(|number| number < 50 && !is_revoked(number)));
        assert_eq!(ask(&records, state(CertificateState::Revoked)).await, [10, 20, 90]);
        let soon = CertificateQuery {
            not_after_from: Some(NOW),
            not_after_before: Some(NOW + 10),
            ..query()
        };
        assert_eq!(ask(&records, soon).await, (50..60).collect::<Vec<_>>());
        let all_at_once = CertificateQuery {
            name: Some("node6".into()),
            issuer_key_id: Some(vec![1; 20]),
            profile: Some("node".into()),
            state: Some((CertificateState::Valid, NOW)),
            not_after_before: Some(u64::MAX),
            ..query()
        };
        assert_eq!(
            ask(&records, all_at_once).await,
            those(|number| number % 10 == 6 && number % 3 == 1 && number >= 50)
        );
    }
    let nothing = CertificateQuery { name: Some("only1000".into()), ..query() };
    assert!(ask(&records, nothing).await.is_empty());
    records.check().await.unwrap();
    records.close().unwrap();
}

#[tokio::test]
async fn the_state_of_a_record_is_the_state_that_is_asked_for() {
    let (_directory, records) = fresh();
    issue_100(&records).await;
    records
        .apply(batch(101, 101, vec![revoked(101, 5, RevocationReason::Superseded)]))
        .await
        .unwrap();
    for state in [CertificateState::Valid, CertificateState::Revoked, CertificateState::Expired] {
        let query = CertificateQuery { state: Some((state, NOW)), ..CertificateQuery::default() };
        let page = records.certificates(query).await.unwrap();
        assert!(!page.items.is_empty());
        assert!(page.items.iter().all(|item| item.state(NOW) == state));
    }
}

#[tokio::test]
async fn page_tokens_of_other_questions_are_refused() {
    let (_directory, records) = fresh();
    issue_100(&records).await;
    let bad = stoq_store::records::PageToken::from_bytes(b"short");
    let query = CertificateQuery { page: Some(bad.clone()), ..CertificateQuery::default() };
    assert!(matches!(records.certificates(query).await, Err(RecordsError::Invalid(_))));
    assert!(matches!(records.policies(1, Some(bad)).await, Err(RecordsError::Invalid(_))));
}

#[tokio::test]
async fn a_batch_is_applied_whole_once_and_in_order() {
    let (_directory, records) = fresh();
    issue_100(&records).await;
    let gap = records.apply(batch(102, 102, Vec::new())).await;
    assert_eq!(gap, Err(RecordsError::Gap { expected: 101, found: 102 }));
    let again = records.apply(batch(100, 101, vec![issued(101)])).await;
    assert_eq!(again, Err(RecordsError::Gap { expected: 101, found: 100 }));

    // The second certificate repeats a serial, so neither is recorded.
    let repeat = Change { sequence: 102, kind: ChangeKind::Issued(certificate(7)) };
    let refused = records.apply(batch(101, 102, vec![issued(101), repeat])).await;
    assert_eq!(refused, Err(RecordsError::SerialRepeats(serial(7))));
    assert_eq!(records.applied_through(id(1)).await, Ok(100));
    assert_eq!(records.certificate(serial(101)).await, Ok(None));

    // Another journal counts for itself.
    assert_eq!(records.applied_through(id(2)).await, Ok(0));
    let theirs = Batch { journal: id(2), first: 1, last: 9, changes: vec![] };
    records.apply(theirs).await.unwrap();
    assert_eq!(records.applied_through(id(2)).await, Ok(9));
    assert_eq!(records.applied_through(id(1)).await, Ok(100));

    records.clear().await.unwrap();
    assert_eq!(records.applied_through(id(1)).await, Ok(0));
    assert!(ask(&records, CertificateQuery::default()).await.is_empty());
    issue_100(&records).await;
}

#[tokio::test]
async fn a_revocation_is_for_good_and_needs_no_certificate() {
    let (_directory, records) = fresh();
    let early = revoked(1, 7, RevocationReason::KeyCompromise);
    let later = revoked(2, 7, RevocationReason::Unspecified);
    records.apply(batch(1, 2, vec![early, later])).await.unwrap();
    let unknown = records.revocations(RevocationQuery::default()).await.unwrap();
    assert_eq!(unknown.items.len(), 1);
    assert_eq!(unknown.items[0].not_after, None);
    // The certificate comes to light after its revocation.
    let issued: Vec<_> = (3..=12)
        .map(|sequence| Change { sequence, kind: ChangeKind::Issued(certificate(sequence)) })
        .collect();
    records.apply(batch(3, 12, issued)).await.unwrap();
    let record = records.certificate(serial(7)).await.unwrap().unwrap();
    assert_eq!(record.revoked, Some((NOW + 1, RevocationReason::KeyCompromise)));

    let more = (3..=6).map(|number| revoked(13, number, RevocationReason::Superseded));
    records.apply(batch(13, 13, more.collect())).await.unwrap();
    let mut found = Vec::new();
    let mut query = RevocationQuery { limit: 2, ..RevocationQuery::default() };
    loop {
        let page = records.revocations(query.clone()).await.unwrap();
        found.extend(page.items);
        query.page = page.next;
        if query.page.is_none() {
            break;
        }
    }
    let serials: Vec<_> = found.iter().map(|revocation| revocation.serial.clone()).collect();
    assert_eq!(serials, [6, 7, 4, 5, 3].map(serial));
    assert_eq!(found[1].not_after, Some(certificate(7).not_after));
    // Certificate 5 ends at NOW - 46.
    let unexpired = RevocationQuery { unexpired_at: Some(NOW - 45), ..RevocationQuery::default() };
    let page = records.revocations(unexpired).await.unwrap();
    assert_eq!(page.items.len(), 2);
}

#[tokio::test]
async fn results_by_key_last_as_long_as_they_say() {
    let (_directory, records) = fresh();
    let answered = |result: &[u8], expires_at| IdempotentResult {
        key: b"request 1".to_vec(),
        result: result.to_vec(),
        expires_at,
    };
    let change = |sequence, answered| Change { sequence, kind: ChangeKind::Answered(answered) };
    records.apply(batch(1, 1, vec![change(1, answered(b"first", NOW))])).await.unwrap();
    let key = || b"request 1".to_vec();
    let found = records.idempotent_result(key(), NOW).await.unwrap();
    assert_eq!(found, Some(answered(b"first", NOW)));
    assert_eq!(records.idempotent_result(key(), NOW + 1).await.unwrap(), None);
    assert_eq!(records.idempotent_result(b"request 2".to_vec(), NOW).await.unwrap(), None);
    records.apply(batch(2, 2, vec![change(2, answered(b"second", NOW + 9))])).await.unwrap();
    let found = records.idempotent_result(key(), NOW + 1).await.unwrap();
    assert_eq!(found, Some(answered(b"second", NOW + 9)));
    assert_eq!(records.forget_idempotent_results(NOW + 9).await, Ok(0));
    assert_eq!(records.forget_idempotent_results(NOW + 10).await, Ok(1));
    assert_eq!(records.idempotent_result(key(), NOW).await.unwrap(), None);
}

#[tokio::test]
async fn policy_documents_have_versions_that_never_change() {
    let (_directory, records) = fresh();
    let document = |name: &str, version| PolicyDocument {
        name: name.into(),
        version,
        body: format!("{name} {version}").into_bytes(),
        stored_at: NOW + version,
    };
    let stored = |sequence, document| Change { sequence, kind: ChangeKind::PolicyStored(document) };
    let changes = vec![
        stored(1, document("issue", 1)),
        stored(1, document("issue", 3)),
        stored(2, document("reach", 2)),
    ];
    records.apply(batch(1, 2, changes)).await.unwrap();
    assert_eq!(records.policy("issue".into(), None).await, Ok(Some(document("issue", 3))));
    assert_eq!(records.policy("issue".into(), Some(1)).await, Ok(Some(document("issue", 1))));
    assert_eq!(records.policy("issue".into(), Some(2)).await, Ok(None));
    assert_eq!(records.policy("none".into(), None).await, Ok(None));
    let again = records.apply(batch(3, 3, vec![stored(3, document("issue", 1))])).await;
    assert!(matches!(again, Err(RecordsError::PolicyRepeats { version: 1, .. })));
    let mut listed = Vec::new();
    let mut token = None;
    loop {
        let page = records.policies(1, token).await.unwrap();
        listed.extend(page.items.into_iter().map(|item| (item.name, item.version)));
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(listed, [("issue".into(), 1), ("issue".into(), 3), ("reach".into(), 2)]);
}

#[tokio::test]
async fn what_breaks_a_limit_is_refused() {
    let (_directory, records) = fresh();
    let with = |change: fn(&mut IssuedCertificate)| {
        let mut certificate = certificate(1);
        change(&mut certificate);
        batch(1, 1, vec![Change { sequence: 1, kind: ChangeKind::Issued(certificate) }])
    };
    for bad in [
        with(|certificate| certificate.subject_node = String::new()),
        with(|certificate| certificate.dns_names = vec!["two\nnames".into()]),
        with(|certificate| certificate.dns_names = vec!["x".into(); 65]),
        with(|certificate| certificate.profile = "p".repeat(256)),
        with(|certificate| certificate.issuer_key_id = vec![0; 33]),
        with(|certificate| certificate.not_after = u64::MAX),
        batch(0, 0, Vec::new()),
    ] {
        let refused = records.apply(bad).await;
        assert!(matches!(refused, Err(RecordsError::Invalid(_))), "{refused:?}");
    }
    assert_eq!(records.applied_through(id(1)).await, Ok(0));
}

#[tokio::test]
async fn one_process_per_file_and_the_content_stays() {
    let (directory, records) = fresh();
    let path = directory.path().join("records");
    let second = SqliteRecords::open(&path, SqliteOptions::default(), &named_thread);
    assert!(matches!(second, Err(RecordsError::Failed(_))));
    issue_100(&records).await;
    records.close().unwrap();
    let records = open_records(&path);
    assert_eq!(records.applied_through(id(1)).await, Ok(100));
    assert_eq!(ask(&records, CertificateQuery::default()).await.len(), 100);
    use std::os::unix::fs::PermissionsExt;
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}

#[tokio::test]
async fn without_space_nothing_of_a_batch_is_recorded_and_the_rest_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records");
    let options = SqliteOptions { limit_bytes: 300 << 10, ..SqliteOptions::default() };
    let records = SqliteRecords::open(&path, options, &named_thread).unwrap();
    let mut applied = 0;
    let refused = loop {
        let (first, last) = (applied + 1, applied + 50);
        match records.apply(batch(first, last, (first..=last).map(issued).collect())).await {
            Ok(()) => applied = last,
            Err(error) => break error,
        }
        assert!(applied < 100_000);
    };
    assert!(matches!(refused, RecordsError::NoSpace(_)), "{refused}");
    assert!(applied > 0);
    assert_eq!(records.applied_through(id(1)).await, Ok(applied));
    assert_eq!(ask(&records, CertificateQuery::default()).await.len() as u64, applied);
    records.check().await.unwrap();
    records.close().unwrap();
    let records = open_records(&path);
    let (first, last) = (applied + 1, applied + 50);
    records.apply(batch(first, last, (first..=last).map(issued).collect())).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records");
    std::fs::write(&path, vec![0x55; 8_192]).unwrap();
    let refused = SqliteRecords::open(&path, SqliteOptions::default(), &named_thread);
    assert!(matches!(refused, Err(RecordsError::Damaged(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_and_batches_at_the_same_time() {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions { readers: 2, reads_waiting: 4, ..SqliteOptions::default() };
    let path = directory.path().join("records");
    let records: Arc<dyn Records> =
        Arc::new(SqliteRecords::open(&path, options, &named_thread).unwrap());
    let writer = {
        let records = records.clone();
        tokio::spawn(async move {
            for sequence in 1..=200 {
                records.apply(batch(sequence, sequence, vec![issued(sequence)])).await.unwrap();
            }
        })
    };
    let mut readers = Vec::new();
    for _ in 0..4 {
        let records = records.clone();
        readers.push(tokio::spawn(async move {
            let mut last = 0;
            while last < 200 {
                match records.applied_through(id(1)).await {
                    Ok(applied) => {
                        assert!(applied >= last);
                        last = applied;
                        if last > 0 {
                            assert!(
                                records
                                    .certificate(serial(last))
                                    .await
                                    .is_ok_and(|found| found.is_some())
                            );
                        }
                    }
                    Err(error) => assert_eq!(error, RecordsError::Busy),
                }
            }
        }));
    }
    writer.await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn questions_beyond_the_queue_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions { readers: 1, reads_waiting: 1, ..SqliteOptions::default() };
    let path = directory.path().join("records");
    let records = SqliteRecords::open(&path, options, &named_thread).unwrap();
    issue_100(&records).await;
    let asked = (0..500).map(|_| records.certificates(CertificateQuery::default()));
    let answers = futures_join(asked.collect()).await;
    let busy = answers.iter().filter(|answer| **answer == Err(RecordsError::Busy)).count();
    let good = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!(busy > 0 && good > 0, "{busy} {good}");
    assert_eq!(busy + good, 500);
    // The room is given back.
    assert!(records.certificate(serial(1)).await.is_ok());
}

/// Polls all before it waits for any
async fn futures_join<'a, T>(
    mut futures: Vec<stoq_store::records::Answer<'a, T>>,
) -> Vec<Result<T, RecordsError>> {
    let mut answers: Vec<Option<Result<T, RecordsError>>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, answer) in futures.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *answer = Some(ready);
            }
        }
        if answers.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    answers.into_iter().flatten().collect()
}

/// Entry n of the journal issues certificate n, every fifth revokes the one before, every seventh is nothing
fn interpret(
    entry: &JournalEntry,
) -> Result<Vec<ChangeKind>, Box<dyn std::error::Error + Send + Sync>> {
    let number: u64 = std::str::from_utf8(&entry.payload)?.parse()?;
    assert_eq!(number, entry.sequence);
    if number.is_multiple_of(7) {
        return Ok(Vec::new());
    }
    let mut kinds = vec![ChangeKind::Issued(certificate(number))];
    if number.is_multiple_of(5) {
        kinds.push(ChangeKind::Revoked {
            serial: serial(number - 1),
            revoked_at: NOW,
            reason: RevocationReason::Superseded,
        });
    }
    Ok(kinds)
}

async fn everything(records: &dyn Records) -> (u64, Vec<CertificateRecord>, usize) {
    let certificates = records.certificates(CertificateQuery::default()).await.unwrap();
    let revocations = records.revocations(RevocationQuery::default()).await.unwrap();
    assert!(certificates.next.is_none());
    (certificates.items.len() as u64, certificates.items, revocations.items.len())
}

fn number_journal(journal: &Journal, sequences: std::ops::RangeInclusive<u64>) {
    for sequence in sequences {
        assert_eq!(append(journal, sequence.to_string().as_bytes()).unwrap(), sequence);
    }
}

#[test]
fn records_catch_up_with_the_journal_and_are_made_again_from_it() {
    let directory = tempfile::tempdir().unwrap();
    let journal_path = directory.path().join("journal");
    Journal::create(&journal_path).unwrap();
    let (journal, ..) = open(&journal_path, small()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let records = open_records(&directory.path().join("records"));
    number_journal(&journal, 1..=60);
    let caught = runtime.block_on(catch_up(&records, &journal, interpret)).unwrap();
    assert_eq!((caught.entries, caught.applied_through), (60, 60));
    number_journal(&journal, 61..=100);
    let caught = runtime.block_on(catch_up(&records, &journal, interpret)).unwrap();
    assert_eq!((caught.entries, caught.applied_through), (40, 100));
    let caught = runtime.block_on(catch_up(&records, &journal, interpret)).unwrap();
    assert_eq!((caught.entries, caught.applied_through), (0, 100));
    let step_by_step = runtime.block_on(everything(&records));
    assert_eq!(step_by_step.0, 100 - 100 / 7);

    let anew = open_records(&directory.path().join("anew"));
    runtime.block_on(catch_up(&anew, &journal, interpret)).unwrap();
    assert_eq!(runtime.block_on(everything(&anew)), step_by_step);
    runtime.block_on(anew.clear()).unwrap();
    runtime.block_on(catch_up(&anew, &journal, interpret)).unwrap();
    assert_eq!(runtime.block_on(everything(&anew)), step_by_step);

    // An entry that makes no sense is named, and nothing behind it is applied.
    append(&journal, b"nonsense").unwrap();
    let error = runtime.block_on(catch_up(&records, &journal, interpret)).unwrap_err();
    assert!(matches!(error, CatchUpError::Interpret { sequence: 101, .. }), "{error}");
    assert_eq!(runtime.block_on(records.applied_through(journal.id())), Ok(100));
    journal.close_blocking().unwrap();
}

#[test]
fn an_old_journal_does_not_go_with_newer_records() {
    let directory = tempfile::tempdir().unwrap();
    let (live, old) = (directory.path().join("live"), directory.path().join("old"));
    Journal::create(&live).unwrap();
    let (journal, ..) = open(&live, small()).unwrap();
    number_journal(&journal, 1..=5);
    common::copy(&live, &old);
    number_journal(&journal, 6..=9);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let records = open_records(&directory.path().join("records"));
    runtime.block_on(catch_up(&records, &journal, interpret)).unwrap();
    let (restored, ..) = open(&old, small()).unwrap();
    let error = runtime.block_on(catch_up(&records, &restored, interpret)).unwrap_err();
    assert!(matches!(error, CatchUpError::RecordsAhead { applied: 9, durable: 5, .. }), "{error}");
}
