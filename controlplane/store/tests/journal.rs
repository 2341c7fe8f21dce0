//! The journal as its callers see it: what is appended comes back, together or not at all, in order, and what
//! cannot be taken is refused.

mod common;

use std::sync::mpsc;
use std::time::Duration;

use common::*;
use stoq_store::journal::{
    AppendError, ENTRY_LIMIT_BYTES, GROUP_LIMIT_BYTES, Journal, OpenError, Options, fsck,
};
use stoq_store::named_thread;

#[test]
fn entries_come_back_in_order_over_many_segments() {
    let directory = tempfile::tempdir().unwrap();
    let journal = filled(directory.path(), 100);
    assert_eq!(journal.durable_sequence(), 100);
    assert_eq!(journal.counters().entries, 100);
    let id = journal.id();
    journal.close_blocking().unwrap();
    assert!(segments(directory.path()).len() > 3);

    let (journal, opened, seen) = open(directory.path(), small()).unwrap();
    assert_eq!(seen, expected(100));
    assert_eq!((opened.entries, opened.closed_cleanly), (100, true));
    assert_eq!(opened.torn_tail, None);
    assert_eq!(journal.id(), id);
    assert_eq!(append(&journal, &payload(101)).unwrap(), 101);
    journal.close_blocking().unwrap();
    let (journal, _, seen) = open(directory.path(), small()).unwrap();
    assert_eq!(seen, expected(101));
    drop(journal);
}

#[test]
fn what_waits_becomes_one_group_with_one_sync() {
    let directory = tempfile::tempdir().unwrap();
    Journal::create(directory.path()).unwrap();
    let disk = FaultyDisk::default();
    let (journal, ..) = open_on(disk.clone(), directory.path(), Options::default()).unwrap();
    let (begun, syncs) = mpsc::channel();
    let gate = disk.hold_syncs(begun);
    let appender = journal.appender();
    let first = appender.submit(vec![entry(b"first")]).unwrap();
    syncs.recv_timeout(Duration::from_secs(10)).unwrap();
    // While the first is being made durable, the others gather.
    let others: Vec<_> = (0..50)
        .map(|number| appender.submit(vec![entry(&[number]), entry(b"pair")]).unwrap())
        .collect();
    assert_eq!(journal.durable_sequence(), 0);
    gate.add_permits(1);
    assert_eq!(first.wait().unwrap().first, 1);
    syncs.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(journal.durable_sequence(), 1);
    gate.add_permits(1);
    for (number, pending) in others.into_iter().enumerate() {
        let appended = pending.wait().unwrap();
        let first = 2 + 2 * number as u64;
        assert_eq!((appended.first, appended.last), (first, first + 1));
    }
    let counters = journal.counters();
    assert_eq!((counters.groups, counters.entries), (2, 101));
    journal.close_blocking().unwrap();
    let report = fsck(directory.path()).unwrap();
    assert_eq!((report.groups, report.entries, report.last_sequence), (2, 101, 101));
    assert!(report.is_sound() && report.closed_cleanly);
}

#[test]
fn a_group_keeps_within_its_limits() {
    let directory = tempfile::tempdir().unwrap();
    Journal::create(directory.path()).unwrap();
    let disk = FaultyDisk::default();
    let options = Options { group_records: 8, ..small() };
    let (journal, ..) = open_on(disk.clone(), directory.path(), options).unwrap();
    let (begun, syncs) = mpsc::channel();
    let gate = disk.hold_syncs(begun);
    let appender = journal.appender();
    let first = appender.submit(vec![entry(b"first")]).unwrap();
    syncs.recv_timeout(Duration::from_secs(10)).unwrap();
    // Three by three, of which two fit into a group of eight; then two that are too long together.
    let threes: Vec<_> = (0..4)
        .map(|_| appender.submit(vec![entry(b"a"), entry(b"b"), entry(b"c")]).unwrap())
        .collect();
    let long: Vec<_> = (0..2).map(|_| appender.submit(vec![entry(&[0; 3_000])]).unwrap()).collect();
    gate.add_permits(1_000);
    first.wait().unwrap();
    for pending in threes.into_iter().chain(long) {
        pending.wait().unwrap();
    }
    // 1; 3 + 3; 3 + 3 + 1 long; 1 long.
    assert_eq!(journal.counters().groups, 4);
    journal.close_blocking().unwrap();
}

#[test]
fn appends_from_many_threads_and_tasks_are_all_there_once() {
    let directory = tempfile::tempdir().unwrap();
    Journal::create(directory.path()).unwrap();
    let (journal, ..) = open(directory.path(), Options::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let mut tasks = Vec::new();
    for task in 0..40_u8 {
        let appender = journal.appender();
        tasks.push(runtime.spawn(async move {
            let mut sequences = Vec::new();
            for number in 0..25_u8 {
                let kind = stoq_store::journal::EntryKind(u16::from(task));
                sequences.push(appender.append(kind, vec![task, number]).await.unwrap());
            }
            sequences
        }));
    }
    let mut acknowledged = Vec::new();
    for (task, handle) in tasks.into_iter().enumerate() {
        let sequences = runtime.block_on(handle).unwrap();
        assert!(sequences.is_sorted());
        let numbered = sequences.into_iter().zip(0_u8..);
        acknowledged.extend(
            numbered.map(|(sequence, number)| (sequence, task as u16, vec![task as u8, number])),
        );
    }
    runtime.block_on(journal.close()).unwrap();
    acknowledged.sort();
    let (_journal, _, seen) = open(directory.path(), Options::default()).unwrap();
    assert_eq!(seen, acknowledged);
}

#[test]
fn what_cannot_be_taken_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    Journal::create(directory.path()).unwrap();
    let options =
        Options { group_bytes: GROUP_LIMIT_BYTES, group_records: 3, ..Options::default() };
    let (journal, ..) = open(directory.path(), options).unwrap();
    let appender = journal.appender();
    assert!(matches!(appender.submit(Vec::new()), Err(AppendError::Empty)));
    let many = vec![entry(b""); 4];
    assert!(matches!(appender.submit(many), Err(AppendError::TooMany(4))));
    let long = vec![0; ENTRY_LIMIT_BYTES + 1];
    assert!(matches!(append(&journal, &long), Err(AppendError::TooLarge { .. })));
    assert_eq!(append(&journal, &long[1..]).unwrap(), 1);
    assert_eq!(append(&journal, b"").unwrap(), 2);
    journal.close_blocking().unwrap();
    assert!(matches!(appender.submit(vec![entry(b"late")]), Err(AppendError::Closed)));
    let (_journal, _, seen) = open(directory.path(), options).unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].2.len(), ENTRY_LIMIT_BYTES);

    let directory = tempfile::tempdir().unwrap();
    Journal::create(directory.path()).unwrap();
    let (journal, ..) = open(directory.path(), small()).unwrap();
    let together = [[0; 2_050].as_slice(), &[0; 2_050]];
    assert!(matches!(append_all(&journal, &together), Err(AppendError::TooLarge { .. })));
}

#[test]
fn a_full_queue_is_said_and_everything_taken_is_written() {
    let directory = tempfile::tempdir().unwrap();
    Journal::create(directory.path()).unwrap();
    let disk = FaultyDisk::default();
    let options = Options { queue_appends: 4, queue_bytes: 16 << 10, ..small() };
    let (journal, ..) = open_on(disk.clone(), directory.path(), options).unwrap();
    let (begun, syncs) = mpsc::channel();
    let gate = disk.hold_syncs(begun);
    let appender = journal.appender();
    let mut taken = vec![appender.submit(vec![entry(b"first")]).unwrap()];
    syncs.recv_timeout(Duration::from_secs(10)).unwrap();
    for _ in 0..4 {
        taken.push(appender.submit(vec![entry(b"waits")]).unwrap());
    }
    assert!(matches!(appender.submit(vec![entry(b"refused")]), Err(AppendError::Busy)));
    gate.add_permits(1_000);
    for pending in taken {
        pending.wait().unwrap();
    }
    journal.close_blocking().unwrap();
    assert_eq!(fsck(directory.path()).unwrap().entries, 5);
}

#[test]
fn a_queue_is_bounded_in_bytes_too() {
    let directory = tempfile::tempdir().unwrap();
    Journal::create(directory.path()).unwrap();
    let disk = FaultyDisk::default();
    let options = Options { queue_bytes: 8 << 10, ..small() };
    let (journal, ..) = open_on(disk.clone(), directory.path(), options).unwrap();
    let (begun, syncs) = mpsc::channel();
    let gate = disk.hold_syncs(begun);
    let appender = journal.appender();
    let first = appender.submit(vec![entry(&[1; 4_000])]).unwrap();
    syncs.recv_timeout(Duration::from_secs(10)).unwrap();
    let second = appender.submit(vec![entry(&[2; 4_000])]).unwrap();
    assert!(matches!(appender.submit(vec![entry(&[3; 4_000])]), Err(AppendError::Busy)));
    let third = appender.submit(vec![entry(&[4; 40])]).unwrap();
    gate.add_permits(1_000);
    for pending in [first, second, third] {
        pending.wait().unwrap();
    }
    // The room is given back.
    appender.submit(vec![entry(&[5; 4_000])]).unwrap().wait().unwrap();
    journal.close_blocking().unwrap();
    assert_eq!(fsck(directory.path()).unwrap().entries, 4);
}

#[test]
fn a_caller_that_stops_waiting_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    Journal::create(directory.path()).unwrap();
    let (journal, ..) = open(directory.path(), small()).unwrap();
    for sequence in 1..=20 {
        drop(journal.appender().submit(vec![entry(&payload(sequence))]).unwrap());
    }
    journal.close_blocking().unwrap();
    let (_journal, _, seen) = open(directory.path(), small()).unwrap();
    assert_eq!(seen, expected(20));
}

#[test]
fn one_process_and_no_journal_out_of_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    assert!(matches!(open(&path, small()), Err(OpenError::NotThere(_))));
    assert!(!path.exists());
    let id = Journal::create(&path).unwrap();
    assert!(matches!(Journal::create(&path), Err(OpenError::Exists(_))));
    let (journal, ..) = open(&path, small()).unwrap();
    assert_eq!(journal.id(), id);
    assert!(matches!(open(&path, small()), Err(OpenError::Locked(_))));
    assert!(matches!(Journal::create(&path), Err(OpenError::Locked(_))));
    // A check needs no lock.
    assert!(fsck(&path).unwrap().is_sound());
    journal.close_blocking().unwrap();
    open(&path, small()).unwrap();
}

#[test]
fn the_visitor_can_refuse() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 5).close_blocking().unwrap();
    let refused = Journal::open(directory.path(), small(), &named_thread, |entry| {
        if entry.sequence == 3 { Err("no third".into()) } else { Ok(()) }
    });
    assert!(matches!(refused, Err(OpenError::Refused { sequence: 3, .. })));
    open(directory.path(), small()).unwrap();
}

#[test]
fn options_out_of_range_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    Journal::create(directory.path()).unwrap();
    for options in [
        Options { segment_bytes: 1, ..Options::default() },
        Options { group_bytes: GROUP_LIMIT_BYTES + 1, ..Options::default() },
        Options { group_records: 0, ..Options::default() },
        Options { queue_bytes: 1 << 10, ..Options::default() },
        Options { queue_appends: 0, ..Options::default() },
    ] {
        let refused = open(directory.path(), options);
        assert!(matches!(refused, Err(OpenError::Options(_))), "{options:?}");
    }
}

#[test]
fn reading_goes_on_from_any_entry_while_the_journal_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let journal = filled(directory.path(), 60);
    for after in 0..=61 {
        let mut reader = journal.read_after(after).unwrap();
        let mut read = Vec::new();
        while let Some(entries) = reader.next_group().unwrap() {
            assert!(!entries.is_empty());
            read.extend(entries.into_iter().map(|entry| (entry.sequence, 7, entry.payload)));
        }
        assert_eq!(read, expected(60)[(after as usize).min(60)..], "after {after}");
    }
    // What comes later is not part of a reading that has begun.
    let mut reader = journal.read_after(59).unwrap();
    append(&journal, b"later").unwrap();
    assert_eq!(reader.next_group().unwrap().unwrap().len(), 1);
    assert_eq!(reader.next_group().unwrap(), None);
    journal.close_blocking().unwrap();
}
