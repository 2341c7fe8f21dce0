//! Processes that are killed with SIGKILL while they append, and a file system that fills up. Whatever was
//! acknowledged before is there afterwards, once. Without a harness, because the killed process is this binary.
//!
//! `STOQ_STORE_KILLS` says how often (50 unless told).

#![forbid(unsafe_code)]

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write, stderr, stdout};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::{Seen, copy, entry, open};
use rand::Rng;
use stoq_store::JournalId;
use stoq_store::journal::{AppendError, Journal, Options, fsck};
use stoq_store::named_thread;
use stoq_store::records::{
    Batch, Change, ChangeKind, IssuedCertificate, Records, Serial, SqliteOptions, SqliteRecords,
};

const DEFAULT_KILLS: usize = 50;
const THREADS: usize = 4;
/// What the shell says when it could not mount
const NO_MOUNT: i32 = 77;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "append-until-killed", directory] => append_until_killed(Path::new(directory)),
        [_, "record-until-killed", path] => record_until_killed(Path::new(path)),
        [_, "fill", directory] => fill(Path::new(directory)),
        // Whatever the test runner passes (filters, thread counts) does not concern these tests.
        _ => {
            let kills = std::env::var("STOQ_STORE_KILLS").map(|count| count.parse().unwrap());
            let kills = kills.unwrap_or(DEFAULT_KILLS);
            acknowledged_entries_survive(kills);
            acknowledged_records_survive(kills.div_ceil(5));
            a_full_file_system_loses_nothing();
        }
    }
}

fn say(text: &str) {
    stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// Small segments, so that new ones are begun all the time
fn options() -> Options {
    Options { segment_bytes: 16 << 10, group_bytes: 8 << 10, ..Options::default() }
}

fn append_until_killed(directory: &Path) {
    let (journal, ..) = open(directory, options()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let appender = journal.appender();
            scope.spawn(move || {
                let mut random = rand::rng();
                loop {
                    let tokens: Vec<u128> =
                        (0..random.random_range(1..4)).map(|_| random.random()).collect();
                    let entries = tokens.iter().map(|token| {
                        let filler = vec![0x5a; random.random_range(0..600)];
                        entry(&[&token.to_be_bytes(), filler.as_slice()].concat())
                    });
                    let entries = entries.collect();
                    let appended = appender.submit(entries).unwrap().wait().unwrap();
                    let lines: String = tokens
                        .iter()
                        .zip(appended.first..)
                        .map(|(token, sequence)| format!("{sequence} {token:032x}\n"))
                        .collect();
                    // The parent going away is the end as well.
                    if stdout().lock().write_all(lines.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn start(role: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .arg(role)
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Lets a process work until it has said `lines` lines and some moments more, kills it, and returns every whole
/// line it has said
fn kill_after(mut child: Child, lines: usize) -> (Vec<String>, ExitStatus) {
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let (sender, heard) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut line = String::new();
        while said.read_line(&mut line).unwrap() > 0 {
            if line.ends_with('\n') {
                sender.send(line.trim_end().to_owned()).unwrap();
            }
            line.clear();
        }
    });
    let mut all: Vec<String> = Vec::new();
    while all.len() < lines {
        match heard.recv_timeout(Duration::from_secs(60)) {
            Ok(line) => all.push(line),
            Err(error) => panic!("the process said {} lines only: {error}", all.len()),
        }
    }
    let moment = Duration::from_micros(rand::rng().random_range(0..8_000));
    let until = std::time::Instant::now() + moment;
    while let Ok(line) =
        heard.recv_timeout(until.saturating_duration_since(std::time::Instant::now()))
    {
        all.push(line);
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    reader.join().unwrap();
    all.extend(heard.try_iter());
    (all, status)
}

fn acknowledged_entries_survive(kills: usize) {
    let keep = tempfile::tempdir().unwrap();
    let directory = keep.path().join("journal");
    Journal::create(&directory).unwrap();
    let mut acknowledged: HashMap<u64, u128> = HashMap::new();
    let mut before: Seen = Vec::new();
    let (mut torn, mut recovered) = (0, 0);
    for round in 0..kills {
        // Some are killed while they open, and while nobody has been answered yet.
        let lines = if round % 5 == 4 { 0 } else { rand::rng().random_range(1..120) };
        let (said, status) = kill_after(start("append-until-killed", &directory), lines);
        assert!(!status.success() && status.code().is_none(), "{status}");
        for line in said {
            let (sequence, token) = line.split_once(' ').unwrap();
            let token = u128::from_str_radix(token, 16).unwrap();
            assert_eq!(acknowledged.insert(sequence.parse().unwrap(), token), None, "{line}");
        }
        let report = fsck(&directory).unwrap();
        assert!(report.is_sound(), "round {round}: {:?}", report.errors);
        torn += usize::from(report.torn_tail.is_some());
        // Every other time the next process recovers by itself, and we look at a copy.
        let copied = keep.path().join(format!("copy-{round}"));
        let looked_at = if round % 2 == 0 { &directory } else { &copied };
        if round % 2 == 1 {
            copy(&directory, &copied);
        }
        let (journal, opened, seen) = open(looked_at, options()).unwrap();
        recovered += usize::from(!opened.closed_cleanly);
        check(&before, &acknowledged, &seen, round);
        journal.close_blocking().unwrap();
        if round % 2 == 1 {
            std::fs::remove_dir_all(&copied).unwrap();
        }
        before = seen;
    }
    say(&format!(
        "{kills} kills: {} entries acknowledged, {} there, {torn} torn tails, {recovered} recoveries",
        acknowledged.len(),
        before.len(),
    ));
    assert!(acknowledged.len() > kills, "the processes did next to nothing");
}

fn check(before: &Seen, acknowledged: &HashMap<u64, u128>, seen: &Seen, round: usize) {
    assert_eq!(&seen[..before.len()], &before[..], "round {round}: what was there has changed");
    let mut tokens = HashMap::new();
    for (number, (sequence, _, payload)) in seen.iter().enumerate() {
        assert_eq!(*sequence, number as u64 + 1, "round {round}");
        let token = u128::from_be_bytes(*payload.first_chunk().unwrap());
        assert_eq!(
            tokens.insert(token, *sequence),
            None,
            "round {round}: {sequence} is there twice"
        );
    }
    for (sequence, token) in acknowledged {
        let found = tokens.get(token);
        assert_eq!(found, Some(sequence), "round {round}: {sequence} was acknowledged");
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn records_journal() -> JournalId {
    JournalId::from_bytes([7; 16])
}

fn certificate(sequence: u64) -> IssuedCertificate {
    IssuedCertificate {
        serial: Serial::new(&sequence.to_be_bytes()).unwrap(),
        subject_node: format!("node-{}", sequence % 10),
        dns_names: vec![format!("node-{}.nodes.hypermesh", sequence % 10)],
        profile: "node".into(),
        spki_sha256: [(sequence % 251) as u8; 32],
        issuer_key_id: vec![1; 20],
        not_before: 1_000,
        not_after: 2_000 + sequence,
        log_index: sequence,
    }
}

/// Batches of three entries, of which the middle one amounts to nothing
fn record_until_killed(path: &Path) {
    let records = SqliteRecords::open(path, SqliteOptions::default(), &named_thread).unwrap();
    block_on(async {
        let mut applied = records.applied_through(records_journal()).await.unwrap();
        loop {
            let (first, last) = (applied + 1, applied + 3);
            let changes = [first, last].map(|sequence| Change {
                sequence,
                kind: ChangeKind::Issued(certificate(sequence)),
            });
            let changes = changes.to_vec();
            let batch = Batch { journal: records_journal(), first, last, changes };
            records.apply(batch).await.unwrap();
            applied = last;
            // The parent going away is the end as well.
            if stdout().write_all(format!("{last}\n").as_bytes()).is_err() {
                return;
            }
        }
    });
}

fn acknowledged_records_survive(kills: usize) {
    let keep = tempfile::tempdir().unwrap();
    let path = keep.path().join("records");
    let mut acknowledged = 0;
    for round in 0..kills {
        let lines = if round % 5 == 4 { 0 } else { rand::rng().random_range(1..60) };
        let (said, status) = kill_after(start("record-until-killed", &path), lines);
        assert!(!status.success() && status.code().is_none(), "{status}");
        acknowledged = said.last().map_or(acknowledged, |line| line.parse().unwrap());
        let records = SqliteRecords::open(&path, SqliteOptions::default(), &named_thread).unwrap();
        block_on(async {
            records.check().await.unwrap();
            let applied = records.applied_through(records_journal()).await.unwrap();
            assert!(applied >= acknowledged && applied % 3 == 0, "{applied} of {acknowledged}");
            let mut found = Vec::new();
            let mut query = stoq_store::records::CertificateQuery::default();
            loop {
                let page = records.certificates(query.clone()).await.unwrap();
                found.extend(page.items.into_iter().map(|item| item.sequence));
                query.page = page.next;
                if query.page.is_none() {
                    break;
                }
            }
            let expected: Vec<u64> = (1..=applied).filter(|sequence| sequence % 3 != 2).collect();
            assert_eq!(found, expected, "round {round}");
        });
        records.close().unwrap();
    }
    assert!(acknowledged > 0, "the processes did nothing");
    say(&format!("{kills} kills: {acknowledged} entries recorded and there"));
}

/// Runs in a file system of half a megabyte
fn fill(directory: &Path) {
    let (ballast, directory) = (directory.join("ballast"), directory.join("journal"));
    std::fs::write(&ballast, vec![1; 100 << 10]).unwrap();
    Journal::create(&directory).unwrap();
    let (journal, ..) = open(&directory, options()).unwrap();
    let mut acknowledged: Seen = Vec::new();
    let mut refused = 0;
    while refused < 5 {
        let payload = vec![acknowledged.len() as u8; 1 + (acknowledged.len() * 991) % 4_000];
        match common::append(&journal, &payload) {
            Ok(sequence) => acknowledged.push((sequence, 7, payload)),
            Err(AppendError::NoSpace(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(acknowledged.len() > 50, "{}", acknowledged.len());
    std::fs::remove_file(ballast).unwrap();
    let sequence = common::append(&journal, b"there is space again").unwrap();
    acknowledged.push((sequence, 7, b"there is space again".to_vec()));
    journal.close_blocking().unwrap();
    let (journal, _, seen) = open(&directory, options()).unwrap();
    assert_eq!(seen, acknowledged);
    journal.close_blocking().unwrap();
    assert!(fsck(&directory).unwrap().is_sound());
}

fn a_full_file_system_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=512k none \"$0\" || exit {NO_MOUNT}; exec \"$1\" fill \"$0\""
    );
    // A mount namespace of its own: nothing of this outlives the process.
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .arg(directory.path())
        .arg(std::env::current_exe().unwrap())
        .status();
    let mountable = Command::new("unshare").args(["--mount", "true"]).status();
    match (status, mountable) {
        (Ok(status), Ok(mountable)) if mountable.success() && status.code() != Some(NO_MOUNT) => {
            assert!(status.success(), "{status}");
            say("a full file system: nothing lost");
        }
        _ => say("a full file system: not tried, this process may not mount; see tests/faults.rs"),
    }
}
