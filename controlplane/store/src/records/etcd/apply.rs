//! Batches as transactions: what etcd takes in one, compare-and-swap on the journal's place, and knowing one's
//! own write again when the answer to it was lost. A batch that is larger than a transaction is applied in runs
//! of whole entries, each with the place behind it, so that readers always see the journal up to an entry.

use std::collections::BTreeSet;

use super::super::{Batch, Change, ChangeKind, RecordsError, Serial};
use super::keys::{self, JournalValue, Keys};
use super::messages::{Compare, RequestOp, TxnRequest};

/// Changes of one transaction; etcd's default limit is 128 operations, and two more are the places
const RUN_CHANGES: usize = 100;
/// Bytes of the values of one transaction; etcd's default limit on requests is 1.5 MiB
const RUN_BYTES: usize = 1_200_000;

/// One transaction's part of a batch
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) changes: Vec<&'a Change>,
    /// Behind it: the last entry that is whole, and changes of the next one
    pub(super) applied_through: u64,
    pub(super) partial: u64,
}

/// SQLite's integers end there; both backends refuse the same
fn check_number(value: u64) -> Result<(), RecordsError> {
    match i64::try_from(value) {
        Ok(_) => Ok(()),
        Err(_) => Err(RecordsError::Invalid(format!("{value} is above 2^63 - 1"))),
    }
}

fn check_numbers(kind: &ChangeKind) -> Result<(), RecordsError> {
    let numbers: &[u64] = match kind {
        ChangeKind::Issued(certificate) => {
            &[certificate.not_before, certificate.not_after, certificate.log_index]
        }
        ChangeKind::Revoked { revoked_at, .. } => &[*revoked_at],
        ChangeKind::Answered(answered) => &[answered.expires_at],
        ChangeKind::PolicyStored(document) => &[document.version, document.stored_at],
    };
    numbers.iter().try_for_each(|value| check_number(*value))
}

/// What can be said about a batch without asking anybody
pub(super) fn check(batch: &Batch) -> Result<(), RecordsError> {
    batch.check()?;
    check_number(batch.last)?;
    let (mut serials, mut policies) = (BTreeSet::new(), BTreeSet::new());
    for change in &batch.changes {
        check_numbers(&change.kind)?;
        match &change.kind {
            ChangeKind::Issued(certificate) if !serials.insert(&certificate.serial) => {
                return Err(RecordsError::SerialRepeats(certificate.serial.clone()));
            }
            ChangeKind::PolicyStored(it) if !policies.insert((&it.name, it.version)) => {
                let (name, version) = (it.name.clone(), it.version);
                return Err(RecordsError::PolicyRepeats { name, version });
            }
            _ => {}
        }
    }
    Ok(())
}

fn key_of(keys: &Keys, kind: &ChangeKind) -> Vec<u8> {
    match kind {
        ChangeKind::Issued(certificate) => keys.certificate(&certificate.serial),
        ChangeKind::Revoked { serial, .. } => keys.revocation(serial),
        ChangeKind::Answered(answered) => keys.result(&answered.key),
        ChangeKind::PolicyStored(document) => keys.policy(&document.name, document.version),
    }
}

fn size_of(kind: &ChangeKind) -> usize {
    let names = |names: &[String]| names.iter().map(|name| name.len() + 4).sum::<usize>();
    256 + match kind {
        ChangeKind::Issued(certificate) => {
            certificate.subject_node.len()
                + certificate.profile.len()
                + names(&certificate.dns_names)
        }
        ChangeKind::Revoked { .. } => 0,
        ChangeKind::Answered(answered) => answered.key.len() + answered.result.len(),
        ChangeKind::PolicyStored(document) => 2 * document.name.len() + document.body.len(),
    }
}

/// Takes a batch apart. `place` is where the cluster stands; what it has of the batch's first entry is left out.
pub(super) fn runs<'a>(
    batch: &'a Batch,
    place: &JournalValue,
) -> Result<Vec<Run<'a>>, RecordsError> {
    let begun = usize::try_from(place.partial).unwrap_or(usize::MAX);
    let first_entry = batch.changes.iter().take_while(|change| change.sequence == batch.first);
    if first_entry.count() < begun {
        let text = format!("entry {} amounted to more changes before", batch.first);
        return Err(RecordsError::Damaged(text));
    }
    let mut runs = Vec::new();
    let (mut run, mut bytes) = (Vec::new(), 0);
    let mut partial = place.partial;
    let mut at = batch.first - 1;
    let mut rest = &batch.changes[begun..];
    while let Some(next) = rest.first() {
        let sequence = next.sequence;
        let (entry, behind) =
            rest.split_at(rest.iter().take_while(|change| change.sequence == sequence).count());
        let entry_bytes: usize = entry.iter().map(|change| size_of(&change.kind)).sum();
        let fits = run.len() + entry.len() <= RUN_CHANGES && bytes + entry_bytes <= RUN_BYTES;
        if !fits && !run.is_empty() {
            let changes = std::mem::take(&mut run);
            runs.push(Run { changes, applied_through: sequence - 1, partial: 0 });
            bytes = 0;
        }
        if at < sequence - 1 {
            partial = 0;
        }
        for (index, change) in entry.iter().enumerate() {
            let size = size_of(&change.kind);
            // Only an entry that is too large for any transaction is ever seen in part.
            if run.len() >= RUN_CHANGES || (bytes + size > RUN_BYTES && !run.is_empty()) {
                let changes = std::mem::take(&mut run);
                let seen = partial + index as u64;
                runs.push(Run { changes, applied_through: sequence - 1, partial: seen });
                bytes = 0;
            }
            run.push(change);
            bytes += size;
        }
        (at, partial, rest) = (sequence, 0, behind);
    }
    runs.push(Run { changes: run, applied_through: batch.last, partial: 0 });
    Ok(runs)
}

/// The transaction of a run. `known_revoked` was revoked before, so the run's revocation does not count.
pub(super) fn transaction(
    keys: &Keys,
    batch: &Batch,
    run: &Run<'_>,
    place_revision: i64,
    write: &[u8],
    known_revoked: &BTreeSet<Serial>,
) -> TxnRequest {
    let place_key = keys.journal(&batch.journal);
    let mut request = TxnRequest::default();
    request.compare.push(Compare::unchanged(place_key.clone(), place_revision));
    request.failure.push(RequestOp::get(place_key.clone(), false));
    // etcd takes one change of a key in a transaction: the first revocation and the last result count.
    let mut seen = BTreeSet::new();
    for change in run.changes.iter().filter(|change| !is_result(change)) {
        if let ChangeKind::Revoked { serial, .. } = &change.kind
            && known_revoked.contains(serial)
        {
            continue;
        }
        let key = key_of(keys, &change.kind);
        if !seen.insert(key.clone()) {
            continue;
        }
        request.compare.push(Compare::absent(key.clone()));
        request.failure.push(RequestOp::get(key.clone(), true));
        request.success.push(RequestOp::put(key, value_of(change)));
    }
    for change in run.changes.iter().rev().filter(|change| is_result(change)) {
        let key = key_of(keys, &change.kind);
        if seen.insert(key.clone()) {
            request.success.push(RequestOp::put(key, value_of(change)));
        }
    }
    let place = JournalValue {
        applied_through: run.applied_through,
        partial: run.partial,
        write: write.to_vec(),
    };
    request.success.push(RequestOp::put(place_key, prost::Message::encode_to_vec(&place)));
    request.success.push(RequestOp::put(keys.head(), write.to_vec()));
    request
}

fn is_result(change: &Change) -> bool {
    matches!(change.kind, ChangeKind::Answered(_))
}

fn value_of(change: &Change) -> Vec<u8> {
    match &change.kind {
        ChangeKind::Issued(certificate) => keys::certificate_value(certificate, change.sequence),
        ChangeKind::Revoked { revoked_at, reason, .. } => {
            keys::revocation_value(*revoked_at, *reason, change.sequence)
        }
        ChangeKind::Answered(answered) => keys::result_value(answered),
        ChangeKind::PolicyStored(document) => keys::policy_value(document),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{IdempotentResult, RevocationReason};
    use super::*;
    use crate::JournalId;

    fn change(sequence: u64, bytes: usize) -> Change {
        let key = sequence.to_be_bytes().to_vec();
        let result = vec![0; bytes];
        let kind = ChangeKind::Answered(IdempotentResult { key, result, expires_at: 1 });
        Change { sequence, kind }
    }

    fn batch(first: u64, last: u64, changes: Vec<Change>) -> Batch {
        Batch { journal: JournalId::from_bytes([1; 16]), first, last, changes }
    }

    fn shape(runs: &[Run<'_>]) -> Vec<(usize, u64, u64)> {
        runs.iter().map(|run| (run.changes.len(), run.applied_through, run.partial)).collect()
    }

    #[test]
    fn runs_end_with_an_entry_wherever_one_fits() {
        let place = JournalValue::default();
        let empty = batch(1, 9, Vec::new());
        assert_eq!(shape(&runs(&empty, &place).unwrap()), [(0, 9, 0)]);
        // Entries of sixty changes each, the second of none.
        let changes = [1, 3].map(|sequence| vec![change(sequence, 1); 60]).concat();
        let two = batch(1, 4, changes);
        assert_eq!(shape(&runs(&two, &place).unwrap()), [(60, 2, 0), (60, 4, 0)]);
        let large = batch(1, 3, (1..=3).map(|sequence| change(sequence, 700_000)).collect());
        assert_eq!(shape(&runs(&large, &place).unwrap()), [(1, 1, 0), (1, 2, 0), (1, 3, 0)]);
    }

    #[test]
    fn an_entry_beyond_a_transaction_goes_on_where_it_was_left() {
        let changes = vec![change(5, 1); 250];
        let whole = batch(5, 5, changes);
        let place = JournalValue { applied_through: 4, ..JournalValue::default() };
        let all = runs(&whole, &place).unwrap();
        assert_eq!(shape(&all), [(100, 4, 100), (100, 4, 200), (50, 5, 0)]);
        let left = JournalValue { partial: 100, ..place.clone() };
        assert_eq!(shape(&runs(&whole, &left).unwrap()), [(100, 4, 200), (50, 5, 0)]);
        let wrong = JournalValue { partial: 251, ..place };
        assert!(matches!(runs(&whole, &wrong), Err(RecordsError::Damaged(_))));
    }

    #[test]
    fn a_transaction_changes_no_key_twice_and_stays_within_etcds_limit() {
        let keys = Keys::new("t/");
        let serial = Serial::new(&[1]).unwrap();
        let revoked = |revoked_at| Change {
            sequence: 1,
            kind: ChangeKind::Revoked {
                serial: serial.clone(),
                revoked_at,
                reason: RevocationReason::Unspecified,
            },
        };
        let mut changes = vec![revoked(1), revoked(2)];
        changes.extend((0..98).map(|_| change(1, 3)));
        let batch = batch(1, 1, changes);
        let place = JournalValue::default();
        let all = runs(&batch, &place).unwrap();
        let request = transaction(&keys, &batch, &all[0], 0, b"w", &BTreeSet::new());
        // One revocation, one result, the place and the head
        assert_eq!(request.success.len(), 4);
        let known = BTreeSet::from([serial]);
        let request = transaction(&keys, &batch, &all[0], 0, b"w", &known);
        assert_eq!((request.success.len(), request.compare.len()), (3, 1));
        let many: Vec<Change> = (1..=300).map(|sequence| change(sequence, 1)).collect();
        let many = self::batch(1, 300, many);
        for run in runs(&many, &place).unwrap() {
            let request = transaction(&keys, &many, &run, 0, b"w", &BTreeSet::new());
            assert!(request.success.len() <= 128);
        }
    }
}
