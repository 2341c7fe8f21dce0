//! Tests of the sequencer without any storage: order, time, limits and what is released when. Not part of the
//! product.

use super::super::record::Record;
use super::super::recovery::Recovery;
use super::super::submission::IssuerSignature;
use super::super::testing::{self, Authority};
use super::*;

/// A sequencer that knows the authority's chain, as if a journal had been read
fn sequencer(authority: &Authority, limits: Limits) -> Sequencer {
    let signer = testing::signer();
    let mut recovery = Recovery::new(signer.verifier().clone(), limits, &[]).unwrap();
    let created = testing::created(&signer, 1_000);
    recovery.record(&created.encode().unwrap()).unwrap();
    for der in authority.chain().certificates() {
        recovery.record(&Record::Issuer { der: der.clone() }.encode().unwrap()).unwrap();
    }
    recovery.finish(1_000).unwrap()
}

fn submission(authority: &Authority, serial: u64) -> Submission {
    let der = authority.precertificate(&authority.draft(serial));
    Submission::precertificate(&der, authority.chain(), IssuerSignature::Check).unwrap()
}

fn ticket(submitted: Submitted) -> Ticket {
    match submitted {
        Submitted::Waiting(ticket) => ticket,
        Submitted::Logged(_) => panic!("logged already"),
    }
}

#[test]
fn entries_get_place_and_time_when_their_batch_closes() {
    let authority = Authority::new();
    let mut sequencer = sequencer(&authority, Limits { batch_entries: 2, ..Limits::default() });
    let tickets: Vec<Ticket> = (0..3)
        .map(|serial| ticket(sequencer.submit(submission(&authority, serial)).unwrap()))
        .collect();
    let first = sequencer.seal(1_005).unwrap().unwrap();
    // One batch at a time, and nothing of it counts yet.
    assert!(sequencer.seal(1_006).unwrap().is_none());
    assert_eq!(sequencer.head().size, 0);
    let released = sequencer.batch_durable(first, 1_009).unwrap();
    let places: Vec<_> = released
        .iter()
        .map(|one| (one.ticket, one.durable.entry.leaf_index, one.durable.entry.timestamp_ms))
        .collect();
    assert_eq!(places, [(tickets[0], 0, 1_005), (tickets[1], 1, 1_005)]);
    assert_eq!(sequencer.head().size, 2);
    let second = sequencer.seal(1_010).unwrap().unwrap();
    let released = sequencer.batch_durable(second, 1_011).unwrap();
    assert_eq!(released.len(), 1);
    assert_eq!(released[0].durable.entry.leaf_index, 2);
    assert!(sequencer.seal(1_012).unwrap().is_none());
}

#[test]
fn the_same_twice_is_one_entry_and_keeps_its_place() {
    let authority = Authority::new();
    let mut sequencer = sequencer(&authority, Limits::default());
    let one = submission(&authority, 1);
    let first = ticket(sequencer.submit(one.clone()).unwrap());
    assert_eq!(ticket(sequencer.submit(one.clone()).unwrap()), first);
    let batch = sequencer.seal(1_001).unwrap().unwrap();
    // On its way it is still the same entry.
    assert_eq!(ticket(sequencer.submit(one.clone()).unwrap()), first);
    let released = sequencer.batch_durable(batch, 1_002).unwrap();
    assert_eq!(released.len(), 1);
    let again = sequencer.submit(one).unwrap();
    assert_eq!(again, Submitted::Logged(released[0].durable.clone()));
    assert!(sequencer.seal(1_003).unwrap().is_none());
}

#[test]
fn only_the_latest_entries_are_remembered() {
    let authority = Authority::new();
    let limits = Limits { remembered_entries: 1, ..Limits::default() };
    let mut sequencer = sequencer(&authority, limits);
    let (one, two) = (submission(&authority, 1), submission(&authority, 2));
    for submission in [&one, &two] {
        sequencer.submit(submission.clone()).unwrap();
        let batch = sequencer.seal(1_001).unwrap().unwrap();
        sequencer.batch_durable(batch, 1_002).unwrap();
    }
    assert_eq!(sequencer.history.remembered.places.len(), 1);
    assert!(matches!(sequencer.submit(two).unwrap(), Submitted::Logged(_)));
    assert!(matches!(sequencer.submit(one).unwrap(), Submitted::Waiting(_)));
}

#[test]
fn a_full_pool_refuses_with_a_hint_and_takes_again_later() {
    let authority = Authority::new();
    let limits = Limits { pool_entries: 2, batch_entries: 1, ..Limits::default() };
    let mut sequencer = sequencer(&authority, limits);
    sequencer.submit(submission(&authority, 0)).unwrap();
    let batch = sequencer.seal(1_000).unwrap().unwrap();
    sequencer.batch_durable(batch, 1_007).unwrap();
    sequencer.submit(submission(&authority, 1)).unwrap();
    sequencer.submit(submission(&authority, 2)).unwrap();
    let refused = sequencer.submit(submission(&authority, 3)).unwrap_err();
    // Two batches wait, its own would be the third, and the last one took seven milliseconds.
    assert_eq!(refused, SequencerError::Busy { retry_after_ms: 21 });
    let batch = sequencer.seal(1_010).unwrap().unwrap();
    sequencer.batch_durable(batch, 1_011).unwrap();
    assert!(sequencer.submit(submission(&authority, 3)).is_ok());
}

#[test]
fn a_clock_that_went_back_stops_batches_and_heads_until_it_is_right() {
    let authority = Authority::new();
    let mut sequencer = sequencer(&authority, Limits::default());
    sequencer.submit(submission(&authority, 1)).unwrap();
    let batch = sequencer.seal(2_000).unwrap().unwrap();
    sequencer.batch_durable(batch, 2_000).unwrap();
    sequencer.submit(submission(&authority, 2)).unwrap();
    let back = SequencerError::ClockWentBack { last_ms: 2_000, now_ms: 1_999 };
    assert_eq!(sequencer.seal(1_999).unwrap_err(), back);
    assert_eq!(sequencer.next_head(1_999).unwrap_err(), back);
    assert!(sequencer.seal(2_000).unwrap().is_some());
}

#[test]
fn a_head_is_signed_once_for_each_size_and_counts_when_durable() {
    let authority = Authority::new();
    let mut sequencer = sequencer(&authority, Limits::default());
    let signer = testing::signer();
    let empty = sequencer.next_head(1_000).unwrap().unwrap();
    assert!(sequencer.next_head(1_001).unwrap().is_none());
    sequencer.head_abandoned(empty);
    let empty = sequencer.next_head(1_002).unwrap().unwrap();
    let signed = empty.sign(&signer).unwrap();
    assert!(sequencer.last_head().is_none());
    let durable = sequencer.head_durable(signed).unwrap();
    assert_eq!(durable.head(), Tree::default().head());
    let judged = signer.verifier().verify_checkpoint(durable.note().as_bytes(), &[]).unwrap();
    assert_eq!(judged.head, durable.head());
    assert!(sequencer.next_head(1_010).unwrap().is_none());
    sequencer.submit(submission(&authority, 1)).unwrap();
    let batch = sequencer.seal(1_011).unwrap().unwrap();
    // What is on its way to the journal is not in any head.
    assert!(sequencer.next_head(1_012).unwrap().is_none());
    sequencer.batch_durable(batch, 1_012).unwrap();
    let next = sequencer.next_head(1_013).unwrap().unwrap();
    assert_eq!(next.head, sequencer.head());
    let second = next.sign(&signer).unwrap();
    sequencer.head_durable(second).unwrap();
    assert_eq!(sequencer.last_head().unwrap().head().size, 1);
}

#[test]
fn unknown_issuers_are_refused_and_nothing_goes_on_after_a_failed_write() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut sequencer = sequencer(&ours, Limits::default());
    let refused = sequencer.submit(submission(&theirs, 1)).unwrap_err();
    assert!(matches!(refused, SequencerError::UnknownIssuer { .. }));
    sequencer.submit(submission(&ours, 1)).unwrap();
    let batch = sequencer.seal(1_001).unwrap().unwrap();
    sequencer.stop();
    assert_eq!(sequencer.batch_durable(batch, 1_002), Err(SequencerError::Stopped));
    assert_eq!(sequencer.submit(submission(&ours, 2)), Err(SequencerError::Stopped));
    assert!(matches!(sequencer.seal(1_003), Err(SequencerError::Stopped)));
    assert!(matches!(sequencer.next_head(1_003), Err(SequencerError::Stopped)));
}

#[test]
fn a_batch_never_exceeds_a_record() {
    let authority = Authority::new();
    let limits = Limits { batch_entries: 4_096, ..Limits::default() };
    let mut sequencer = sequencer(&authority, limits);
    let large = submission(&authority, 0);
    let count = RECORD_LIMIT_BYTES / large.encoded_bytes() + 3;
    for serial in 0..count as u64 {
        let mut next = large.clone();
        next.identity_for_test(serial);
        sequencer.submit(next).unwrap();
    }
    let batch = sequencer.seal(1_001).unwrap().unwrap();
    assert!(batch.record().len() <= RECORD_LIMIT_BYTES);
    assert!(batch.record().len() > RECORD_LIMIT_BYTES - 2 * large.encoded_bytes());
    let released = sequencer.batch_durable(batch, 1_002).unwrap();
    assert_eq!(sequencer.waiting(), count - released.len());
}
