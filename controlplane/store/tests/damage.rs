//! What a crash can leave is cut off and said; anything else is refused, with its place, and found by `fsck`.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::*;
use proptest::prelude::*;
use stoq_store::journal::{Fault, Journal, OpenError, fsck};

/// Copies of a journal of `count` entries: as a crash would leave it, and closed in order
fn crashed_and_closed(count: u64) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let (live, crashed) = (directory.path().join("live"), directory.path().join("crashed"));
    let journal = filled(&live, count);
    copy(&live, &crashed);
    journal.close_blocking().unwrap();
    (directory, crashed, live)
}

/// Where the last group of a segment begins: the groups of [`filled`] have one entry each
fn last_group(segment: &Path, last_sequence: u64) -> u64 {
    let length = fs::metadata(segment).unwrap().len();
    length - (64 + 24 + payload(last_sequence).len() as u64)
}

fn damage_of(error: OpenError) -> stoq_store::journal::Damage {
    match error {
        OpenError::Damaged(damage) => damage,
        other => panic!("{other}"),
    }
}

/// Opens a copy, so that the original can be used again
fn try_open(directory: &Path) -> Result<(stoq_store::journal::Opened, Seen), OpenError> {
    let copied = tempfile::tempdir().unwrap();
    copy(directory, copied.path());
    let (journal, opened, seen) = open(copied.path(), small())?;
    journal.close_blocking().unwrap();
    Ok((opened, seen))
}

#[test]
fn a_tail_cut_anywhere_is_removed_and_the_journal_goes_on() {
    let (_keep, crashed, _) = crashed_and_closed(30);
    let last = segments(&crashed).pop().unwrap();
    let whole = fs::read(&last).unwrap();
    let start = last_group(&last, 30) as usize;
    for length in start..whole.len() {
        fs::write(&last, &whole[..length]).unwrap();
        let report = fsck(&crashed).unwrap();
        assert!(report.is_sound(), "{length}: {:?}", report.errors);
        assert_eq!(report.torn_tail.is_some(), length > start, "{length}");
        let copied = tempfile::tempdir().unwrap();
        copy(&crashed, copied.path());
        let (journal, opened, seen) = open(copied.path(), small()).unwrap();
        assert_eq!(seen, expected(29), "{length}");
        if let Some(torn) = &opened.torn_tail {
            assert_eq!((torn.offset, torn.bytes), (start as u64, (length - start) as u64));
        }
        assert_eq!(opened.torn_tail.is_some(), length > start);
        assert_eq!(append(&journal, &payload(30)).unwrap(), 30);
        journal.close_blocking().unwrap();
        let (_journal, _, seen) = open(copied.path(), small()).unwrap();
        assert_eq!(seen, expected(30));
    }
}

#[test]
fn a_tail_with_holes_is_removed() {
    let (_keep, crashed, _) = crashed_and_closed(30);
    let last = segments(&crashed).pop().unwrap();
    let whole = fs::read(&last).unwrap();
    let start = last_group(&last, 30) as usize;
    for hole in
        [start..whole.len(), start..start + 8, start + 60..start + 70, whole.len() - 1..whole.len()]
    {
        let mut torn = whole.clone();
        torn[hole.clone()].iter_mut().for_each(|byte| *byte ^= 0xa5);
        fs::write(&last, &torn).unwrap();
        let (opened, seen) = try_open(&crashed).unwrap();
        assert_eq!(seen, expected(29), "{hole:?}");
        assert_eq!(opened.torn_tail.unwrap().offset, start as u64);
    }
    // Space that was allocated but never written.
    fs::write(&last, [&whole[..], &[0; 5_000]].concat()).unwrap();
    let (opened, seen) = try_open(&crashed).unwrap();
    assert_eq!(seen, expected(30));
    assert_eq!(opened.torn_tail.unwrap().bytes, 5_000);
}

#[test]
fn every_flipped_bit_is_found_and_none_before_the_tail_is_taken_for_a_crash() {
    let (_keep, crashed, closed) = crashed_and_closed(40);
    let last = segments(&crashed).pop().unwrap();
    let tail = last_group(&last, 40);
    let mut flips = 0;
    for directory in [&crashed, &closed] {
        let clean = directory == &closed;
        for file in segments(directory).into_iter().chain([directory.join("manifest")]) {
            let good = fs::read(&file).unwrap();
            let in_last = file.file_name() == last.file_name();
            // In place: a file system flushes one that is replaced by truncating it, and this is done often.
            let opened = fs::OpenOptions::new().write(true).open(&file).unwrap();
            for at in 0..good.len() {
                opened.write_all_at(&[good[at] ^ (1 << (at % 8))], at as u64).unwrap();
                let report = fsck(directory).unwrap();
                let torn = !clean && in_last && at as u64 >= tail;
                assert_eq!(report.is_sound(), torn, "{file:?} {at}: {:?}", report.errors);
                assert_eq!(report.torn_tail.is_some(), torn, "{file:?} {at}");
                flips += 1;
                // Opening syncs, so not for each.
                if flips % 101 == 0 {
                    let result = try_open(directory);
                    if torn {
                        assert_eq!(result.unwrap().1, expected(39));
                    } else {
                        let damage = damage_of(result.unwrap_err());
                        assert_eq!(damage.file.file_name(), file.file_name(), "{at}: {damage}");
                        assert!(damage.offset <= at as u64, "{at}: {damage}");
                    }
                }
                opened.write_all_at(&good[at..=at], at as u64).unwrap();
            }
        }
    }
    assert!(flips > 10_000, "{flips}");
}

#[test]
fn damage_is_named_with_its_record_and_what_follows_is_still_checked() {
    let (_keep, _, closed) = crashed_and_closed(40);
    let paths = segments(&closed);
    let mut second = fs::read(&paths[1]).unwrap();
    // The payload of the first group of the second segment, and its header; then the header of the third.
    second[80 + 64 + 24] ^= 1;
    fs::write(&paths[1], &second).unwrap();
    let mut third = fs::read(&paths[2]).unwrap();
    third[80] ^= 1;
    fs::write(&paths[2], &third).unwrap();
    let report = fsck(&closed).unwrap();
    let places: Vec<_> =
        report.errors.iter().map(|error| (error.file.clone(), error.offset)).collect();
    assert_eq!(places, [(paths[1].clone(), 80), (paths[2].clone(), 80)], "{:?}", report.errors);
    assert!(matches!(report.errors[0].fault, Fault::Checksum { sequence: Some(_) }));
    assert_eq!(report.errors[1].fault, Fault::GroupHeader);
    assert_eq!((report.entries, report.last_sequence), (38, 40));
    let damage = damage_of(try_open(&closed).unwrap_err());
    assert_eq!((damage.file.file_name(), damage.offset), (paths[1].file_name(), 80));
}

#[test]
fn a_lost_shortened_or_foreign_segment_is_refused() {
    let (_keep, crashed, closed) = crashed_and_closed(60);
    let (_other_keep, _, other) = crashed_and_closed(60);
    let paths = segments(&closed);
    assert!(paths.len() > 3);
    for directory in [&crashed, &closed] {
        for file in segments(directory) {
            let good = fs::read(&file).unwrap();
            fs::remove_file(&file).unwrap();
            let damage = damage_of(try_open(directory).unwrap_err());
            assert_eq!(damage.fault, Fault::MissingSegment);
            assert_eq!(damage.file.file_name(), file.file_name());
            assert!(!fsck(directory).unwrap().is_sound());

            fs::copy(other.join(file.file_name().unwrap()), &file).unwrap();
            let damage = damage_of(try_open(directory).unwrap_err());
            assert!(matches!(damage.fault, Fault::ForeignJournal(_)), "{damage}");
            assert!(!fsck(directory).unwrap().is_sound());

            fs::write(&file, &good[..40]).unwrap();
            assert_eq!(damage_of(try_open(directory).unwrap_err()).fault, Fault::SegmentHeader);

            // One that ends early, exactly between two groups: only the chain shows it.
            let first_group =
                80 + 64 + u32::from_le_bytes(good[88..92].try_into().unwrap()) as usize;
            if file.file_name() != paths.last().unwrap().file_name() {
                fs::write(&file, &good[..first_group]).unwrap();
                let fault = damage_of(try_open(directory).unwrap_err()).fault;
                assert!(matches!(fault, Fault::Sequence { .. }), "{fault}");
            }
            fs::write(&file, &good).unwrap();
        }
        try_open(directory).unwrap();
    }
}

#[test]
fn segments_cannot_change_places() {
    let (_keep, _, closed) = crashed_and_closed(60);
    let paths = segments(&closed);
    let (first, second) = (fs::read(&paths[1]).unwrap(), fs::read(&paths[2]).unwrap());
    fs::write(&paths[1], second).unwrap();
    fs::write(&paths[2], first).unwrap();
    let damage = damage_of(try_open(&closed).unwrap_err());
    assert_eq!(damage.fault, Fault::SegmentIndex(3));
}

/// Two histories of one journal: the same entries up to `common`, then others of the same lengths
fn forked(common: u64, count: u64) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let keep = tempfile::tempdir().unwrap();
    let (ours, theirs) = (keep.path().join("ours"), keep.path().join("theirs"));
    filled(&ours, common).close_blocking().unwrap();
    copy(&ours, &theirs);
    for (directory, twist) in [(&ours, 0), (&theirs, 0xff)] {
        let (journal, ..) = open(directory, small()).unwrap();
        for sequence in common + 1..=count {
            let twisted: Vec<u8> = payload(sequence).iter().map(|byte| byte ^ twist).collect();
            append(&journal, &twisted).unwrap();
        }
        journal.close_blocking().unwrap();
    }
    (keep, ours, theirs)
}

#[test]
fn another_history_of_the_same_journal_does_not_fit_in() {
    // A whole segment: the last entries of the first segment differ, and so all that follows.
    let probe = tempfile::tempdir().unwrap();
    filled(probe.path(), 80).close_blocking().unwrap();
    let second = fs::read(&segments(probe.path())[1]).unwrap();
    let first_of_second = u64::from_le_bytes(second[40..48].try_into().unwrap());
    let (_keep, ours, theirs) = forked(first_of_second - 3, 80);
    let foreign = segments(&theirs).remove(1);
    fs::copy(&foreign, ours.join(foreign.file_name().unwrap())).unwrap();
    let damage = damage_of(try_open(&ours).unwrap_err());
    assert_eq!((damage.file.file_name(), damage.offset), (foreign.file_name(), 0));
    assert_eq!(damage.fault, Fault::Chain);
    assert!(!fsck(&ours).unwrap().is_sound());

    // A group within a segment: it fits to what is before it, but not what follows to it.
    let (_keep, ours, theirs) = forked(5, 9);
    let paths = (segments(&ours).remove(0), segments(&theirs).remove(0));
    let (good, other) = (fs::read(&paths.0).unwrap(), fs::read(&paths.1).unwrap());
    assert_eq!(good.len(), other.len());
    let ends: Vec<usize> = (1..=9_u64)
        .scan(80, |end, sequence| {
            *end += 64 + 24 + payload(sequence).len();
            Some(*end)
        })
        .collect();
    let spliced = [&good[..ends[4]], &other[ends[4]..ends[5]], &good[ends[5]..]].concat();
    fs::write(&paths.0, spliced).unwrap();
    let damage = damage_of(try_open(&ours).unwrap_err());
    assert_eq!((damage.offset, damage.fault), (ends[5] as u64, Fault::Chain));

    // Everything from where they part: whole in itself, but not what the manifest knows.
    fs::write(&paths.0, [&good[..ends[4]], &other[ends[4]..]].concat()).unwrap();
    let damage = damage_of(try_open(&ours).unwrap_err());
    assert_eq!((damage.file.ends_with("manifest"), damage.fault), (true, Fault::Chain));
    fs::write(&paths.0, good).unwrap();
    assert_eq!(try_open(&ours).unwrap().1, expected(9));
}

#[test]
fn a_journal_closed_in_order_must_be_found_as_it_was() {
    let (_keep, crashed, closed) = crashed_and_closed(30);
    let last = segments(&closed).pop().unwrap();
    let whole = fs::read(&last).unwrap();
    let start = last_group(&last, 30) as usize;
    fs::write(&last, &whole[..start]).unwrap();
    assert_eq!(
        damage_of(try_open(&closed).unwrap_err()).fault,
        Fault::Shorter { known: 30, found: 29 }
    );
    for cut in [start + 10, start + 100, whole.len() - 1] {
        fs::write(&last, &whole[..cut]).unwrap();
        assert_eq!(damage_of(try_open(&closed).unwrap_err()).fault, Fault::Incomplete);
    }
    fs::write(&last, &whole).unwrap();

    // An old manifest with newer segments is said to be one, and so are old segments with a newer manifest.
    fs::copy(crashed.join("manifest"), closed.join("manifest")).unwrap();
    let (opened, seen) = try_open(&closed).unwrap();
    assert_eq!((opened.closed_cleanly, seen), (false, expected(30)));
    let (journal, ..) = open(&closed, small()).unwrap();
    for sequence in 31..=60 {
        append(&journal, &payload(sequence)).unwrap();
    }
    journal.close_blocking().unwrap();
    fs::copy(crashed.join("manifest"), closed.join("manifest")).unwrap();
    assert_eq!(damage_of(try_open(&closed).unwrap_err()).fault, Fault::UnknownSegment);
}

#[test]
fn what_was_durable_at_an_opening_is_never_cut_off_again() {
    let (_keep, crashed, _) = crashed_and_closed(30);
    // Open once more and crash again without appending: now the tail is known to be durable.
    let reopened = tempfile::tempdir().unwrap();
    let (journal, ..) = open(&crashed, small()).unwrap();
    copy(&crashed, reopened.path());
    drop(journal);
    let last = segments(reopened.path()).pop().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&last, &bytes).unwrap();
    let damage = damage_of(try_open(reopened.path()).unwrap_err());
    assert!(matches!(damage.fault, Fault::Checksum { sequence: Some(30) }), "{damage}");
}

#[test]
fn a_lost_manifest_is_not_made_up() {
    let (_keep, _, closed) = crashed_and_closed(30);
    fs::remove_file(closed.join("manifest")).unwrap();
    assert_eq!(damage_of(try_open(&closed).unwrap_err()).fault, Fault::Manifest);
    assert!(matches!(Journal::create(&closed), Err(OpenError::Exists(_))));
    let report = fsck(&closed).unwrap();
    assert_eq!((report.entries, report.errors.len()), (30, 1));
    assert_eq!(report.errors[0].fault, Fault::Manifest);
}

#[test]
fn a_segment_that_never_came_into_use_is_removed() {
    let (_keep, crashed, _) = crashed_and_closed(30);
    let count = segments(&crashed).len();
    for content in [&b""[..], b"half a header", &[0; 80]] {
        let next = crashed.join(format!("{:012}.segment", count + 1));
        fs::write(&next, content).unwrap();
        assert!(fsck(&crashed).unwrap().is_sound());
        let (_, seen) = try_open(&crashed).unwrap();
        assert_eq!(seen, expected(30));
        fs::write(&next, [0; 81]).unwrap();
        assert_eq!(damage_of(try_open(&crashed).unwrap_err()).fault, Fault::UnknownSegment);
        fs::remove_file(&next).unwrap();
    }
}

#[test]
fn creating_again_after_a_crash_while_creating() {
    let directory = tempfile::tempdir().unwrap();
    Journal::create(directory.path()).unwrap();
    fs::remove_file(directory.path().join("manifest")).unwrap();
    assert!(matches!(open(directory.path(), small()), Err(OpenError::NotThere(_))));
    Journal::create(directory.path()).unwrap();
    open(directory.path(), small()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_for_a_segment_and_a_manifest_are_read_without_panic(
        segment in prop::collection::vec(any::<u8>(), 0..400),
        manifest in prop::collection::vec(any::<u8>(), 0..100),
        keep in 0..400_usize,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let journal = filled(directory.path(), 3);
        journal.close_blocking().unwrap();
        let first = segments(directory.path()).remove(0);
        let good = fs::read(&first).unwrap();
        fs::write(&first, [&good[..keep.min(good.len())], &segment].concat()).unwrap();
        let report = fsck(directory.path()).unwrap();
        prop_assert!(!report.is_sound() || segment.is_empty() || good == fs::read(&first).unwrap());
        fs::write(directory.path().join("manifest"), &manifest).unwrap();
        prop_assert!(!fsck(directory.path()).unwrap().is_sound());
        prop_assert!(open(directory.path(), small()).is_err());
    }
}
