//! A disk that fails: what was acknowledged is there afterwards, what was refused for want of space is not, and
//! after anything worse the journal accepts nothing more and says why.

mod common;

use std::sync::mpsc;
use std::time::Duration;

use common::*;
use stoq_store::journal::{AppendError, Journal, fsck};

fn faulty() -> (tempfile::TempDir, FaultyDisk, Journal) {
    let directory = tempfile::tempdir().unwrap();
    Journal::create(directory.path()).unwrap();
    let disk = FaultyDisk::default();
    let (journal, ..) = open_on(disk.clone(), directory.path(), small()).unwrap();
    (directory, disk, journal)
}

fn append_until_error(journal: &Journal, from: u64) -> (u64, AppendError) {
    for sequence in from..from + 200 {
        match append(journal, &payload(sequence)) {
            Ok(acknowledged) => assert_eq!(acknowledged, sequence),
            Err(error) => return (sequence, error),
        }
    }
    panic!("nothing failed");
}

/// The journal is over: it says so, again and again, and closing says so too
fn is_over(journal: Journal, disk: &FaultyDisk, operation: &str) {
    let failure = journal.failure().unwrap();
    assert_eq!(failure.operation, operation);
    assert!(failure.to_string().contains("accepts nothing more"), "{failure}");
    // A disk that works again changes nothing.
    disk.heal();
    for _ in 0..3 {
        assert!(matches!(append(&journal, b"late"), Err(AppendError::Failed(_))));
    }
    assert_eq!(journal.close_blocking().unwrap_err().operation, operation);
}

/// What is found when the journal is opened with a good disk; entries up to `acknowledged` must be there
fn reopened(directory: &tempfile::TempDir, acknowledged: u64) -> u64 {
    let (journal, _, seen) = open(directory.path(), small()).unwrap();
    let found = seen.len() as u64;
    assert!(found >= acknowledged, "{found} of {acknowledged}");
    assert_eq!(seen, expected(found));
    assert_eq!(append(&journal, &payload(found + 1)).unwrap(), found + 1);
    journal.close_blocking().unwrap();
    let report = fsck(directory.path()).unwrap();
    assert!(report.is_sound() && report.torn_tail.is_none(), "{report:?}");
    found
}

#[test]
fn nothing_is_named_before_it_is_durable() {
    use Step::{Create, Rename, SyncData, SyncDirectory, WriteAt, WriteFile};
    let (_directory, disk, journal) = faulty();
    for sequence in 1.. {
        disk.take_steps();
        append(&journal, &payload(sequence)).unwrap();
        let steps = disk.take_steps();
        if steps == [WriteAt, SyncData] {
            continue;
        }
        // The new segment, then its name, then the manifest that counts on it, and only then entries.
        let begin = [Create, WriteAt, SyncData, SyncDirectory, WriteFile, Rename, SyncDirectory];
        assert_eq!(steps, [&begin[..], &[WriteAt, SyncData]].concat());
        break;
    }
    journal.close_blocking().unwrap();
    assert_eq!(disk.take_steps(), [WriteFile, Rename, SyncDirectory]);
}

#[test]
fn a_failed_fdatasync_is_the_end() {
    for successes in [0, 1, 7] {
        let (directory, disk, journal) = faulty();
        disk.fail(Step::SyncData, successes, EIO);
        let (failed, error) = append_until_error(&journal, 1);
        assert_eq!(failed, successes as u64 + 1);
        let AppendError::Failed(failure) = error else { panic!("{error}") };
        assert_eq!(failure.source.raw_os_error(), Some(EIO));
        assert_eq!(journal.durable_sequence(), failed - 1);
        is_over(journal, &disk, "fdatasync");
        reopened(&directory, failed - 1);
    }
}

#[test]
fn no_space_at_fdatasync_is_the_end_too() {
    let (directory, disk, journal) = faulty();
    disk.fail(Step::SyncData, 3, ENOSPC);
    let (failed, error) = append_until_error(&journal, 1);
    assert!(matches!(error, AppendError::Failed(_)), "{error}");
    is_over(journal, &disk, "fdatasync");
    reopened(&directory, failed - 1);
}

#[test]
fn a_failed_write_is_the_end() {
    let (directory, disk, journal) = faulty();
    disk.fail(Step::WriteAt, 4, EIO);
    let (failed, _) = append_until_error(&journal, 1);
    assert_eq!(failed, 5);
    is_over(journal, &disk, "writing");
    assert_eq!(reopened(&directory, 4), 4);
}

#[test]
fn everything_that_waits_hears_of_the_end() {
    let (directory, disk, journal) = faulty();
    let (begun, syncs) = mpsc::channel();
    let gate = disk.hold_syncs(begun);
    disk.fail(Step::SyncData, 0, EIO);
    let appender = journal.appender();
    let mut waiting = vec![appender.submit(vec![entry(&payload(1))]).unwrap()];
    syncs.recv_timeout(Duration::from_secs(10)).unwrap();
    // More than a group, so that some are taken and do not fit, and some are not taken at all.
    for _ in 0..20 {
        waiting.push(appender.submit(vec![entry(&[0; 500])]).unwrap());
    }
    gate.add_permits(1);
    for pending in waiting {
        assert!(matches!(pending.wait(), Err(AppendError::Failed(_))));
    }
    is_over(journal, &disk, "fdatasync");
    reopened(&directory, 0);
}

#[test]
fn without_space_a_group_is_refused_and_the_journal_goes_on() {
    // Cut within the group's header, within its body, before its first byte and before its last.
    for spare in [0, 1, 63, 64, 70, 64 + 24 + payload(6).len() - 1] {
        let (directory, disk, journal) = faulty();
        for sequence in 1..=5 {
            append(&journal, &payload(sequence)).unwrap();
        }
        disk.set_space(spare);
        for _ in 0..3 {
            let error = append(&journal, &payload(6)).unwrap_err();
            assert!(matches!(error, AppendError::NoSpace(_)), "{error}");
        }
        assert!(journal.failure().is_none());
        assert_eq!(journal.durable_sequence(), 5);
        assert_eq!(journal.counters().groups_without_space, 3);
        // What a crash now would leave has none of it.
        let crashed = tempfile::tempdir().unwrap();
        copy(directory.path(), crashed.path());
        assert_eq!(fsck(crashed.path()).unwrap().torn_tail, None);
        assert_eq!(reopened(&crashed, 5), 5);
        disk.heal();
        assert_eq!(append(&journal, &payload(6)).unwrap(), 6);
        journal.close_blocking().unwrap();
        assert_eq!(reopened(&directory, 6), 6);
    }
}

#[test]
fn without_space_a_short_group_may_still_fit() {
    let (directory, disk, journal) = faulty();
    append(&journal, &payload(1)).unwrap();
    disk.set_space(1_000);
    assert!(matches!(append(&journal, &[0; 3_000]), Err(AppendError::NoSpace(_))));
    disk.set_space(1_000);
    assert_eq!(append(&journal, &payload(2)).unwrap(), 2);
    journal.close_blocking().unwrap();
    assert_eq!(reopened(&directory, 2), 2);
}

#[test]
fn half_a_group_that_cannot_be_cut_off_is_the_end() {
    let (directory, disk, journal) = faulty();
    append(&journal, &payload(1)).unwrap();
    disk.set_space(100);
    disk.fail(Step::SetLength, 0, EIO);
    assert!(matches!(append(&journal, &payload(2)), Err(AppendError::Failed(_))));
    is_over(journal, &disk, "cutting off half a group");
    assert_eq!(reopened(&directory, 1), 1);
}

#[test]
fn short_writes_are_gone_on_with() {
    for longest in [1, 63, 100] {
        let (directory, disk, journal) = faulty();
        disk.set_longest_write(longest);
        for sequence in 1..=40 {
            append(&journal, &payload(sequence)).unwrap();
        }
        journal.close_blocking().unwrap();
        assert!(segments(directory.path()).len() > 1);
        assert_eq!(reopened(&directory, 40), 40);
    }
}

#[test]
fn without_space_for_a_new_segment_the_old_one_stays() {
    for step in [Step::Create, Step::WriteFile] {
        let (directory, disk, journal) = faulty();
        disk.fail(step, 0, ENOSPC);
        let (failed, error) = append_until_error(&journal, 1);
        assert!(matches!(error, AppendError::NoSpace(_)), "{step:?}: {error}");
        assert_eq!(segments(directory.path()).len(), 1, "{step:?}");
        let crashed = tempfile::tempdir().unwrap();
        copy(directory.path(), crashed.path());
        assert_eq!(reopened(&crashed, failed - 1), failed - 1);
        disk.heal();
        assert_eq!(append(&journal, &payload(failed)).unwrap(), failed);
        assert_eq!(segments(directory.path()).len(), 2);
        journal.close_blocking().unwrap();
        assert_eq!(reopened(&directory, failed), failed);
    }
}

#[test]
fn a_segment_header_that_does_not_fit_is_taken_back() {
    let (directory, disk, journal) = faulty();
    let probe = tempfile::tempdir().unwrap();
    filled(probe.path(), 60).close_blocking().unwrap();
    let first_that_rolls = first_of_second_segment(probe.path());
    for sequence in 1..first_that_rolls {
        append(&journal, &payload(sequence)).unwrap();
    }
    disk.set_space(30);
    let error = append(&journal, &payload(first_that_rolls)).unwrap_err();
    assert!(matches!(error, AppendError::NoSpace(_)), "{error}");
    assert_eq!(segments(directory.path()).len(), 1);
    disk.heal();
    append(&journal, &payload(first_that_rolls)).unwrap();
    journal.close_blocking().unwrap();
    assert_eq!(reopened(&directory, first_that_rolls), first_that_rolls);
}

/// The first entry of the second segment
fn first_of_second_segment(directory: &std::path::Path) -> u64 {
    let segment = std::fs::read(&segments(directory)[1]).unwrap();
    u64::from_le_bytes(segment[40..48].try_into().unwrap())
}

#[test]
fn every_other_error_while_a_segment_is_begun_is_the_end_and_looks_like_a_crash() {
    let steps = [
        (Step::Create, 0, "creating"),
        (Step::SyncDirectory, 0, "fsync"),
        (Step::WriteFile, 0, "writing a manifest beside"),
        (Step::Rename, 0, "renaming"),
        (Step::SyncDirectory, 1, "fsync"),
    ];
    for (step, successes, operation) in steps {
        let (directory, disk, journal) = faulty();
        disk.fail(step, successes, EIO);
        let (failed, error) = append_until_error(&journal, 1);
        assert!(matches!(error, AppendError::Failed(_)), "{step:?}: {error}");
        is_over(journal, &disk, operation);
        assert_eq!(reopened(&directory, failed - 1), failed - 1, "{step:?}");
    }
}

#[test]
fn a_new_segment_that_cannot_be_removed_is_the_end() {
    let (directory, disk, journal) = faulty();
    disk.fail(Step::WriteFile, 0, ENOSPC);
    disk.fail(Step::Remove, 0, EIO);
    let (failed, error) = append_until_error(&journal, 1);
    assert!(matches!(error, AppendError::Failed(_)), "{error}");
    is_over(journal, &disk, "removing");
    assert_eq!(reopened(&directory, failed - 1), failed - 1);
}

#[test]
fn a_manifest_that_cannot_be_written_at_closing_loses_nothing() {
    for step in [Step::WriteFile, Step::Rename, Step::SyncDirectory] {
        let (directory, disk, journal) = faulty();
        append(&journal, &payload(1)).unwrap();
        disk.fail(step, 0, EIO);
        assert!(journal.close_blocking().is_err());
        assert_eq!(reopened(&directory, 1), 1, "{step:?}");
    }
}
