//! Tests of the check: a sound log has no findings, and no change of any file goes unnoticed. Not part of the
//! product.

use super::super::driver::Log;
use super::super::record::Record;
use super::super::submission::{IssuerSignature, Submission};
use super::super::testing::{self, Authority, Memory};
use super::*;
use crate::keys::KeyPair;

/// A log of some entries, published in batches; the first entry is a whole certificate
fn filled(sizes: &[usize]) -> (Memory, LogVerifier) {
    let (authority, signer, disk) = (Authority::new(), testing::signer(), Memory::default());
    let verifier = signer.verifier().clone();
    let mut log: Log<Memory, Memory, KeyPair> =
        Log::create(disk.clone(), disk.clone(), signer, Limits::default(), 1).unwrap();
    log.register(authority.chain()).unwrap();
    let (mut serial, mut now_ms) = (0, 10);
    for size in sizes {
        for _ in 0..*size {
            let draft = authority.draft(serial);
            let (chain, checked) = (authority.chain(), IssuerSignature::Checked);
            let submission = if serial == 0 {
                Submission::certificate(&authority.certificate(&draft, None), chain, checked)
            } else {
                Submission::precertificate(&authority.precertificate(&draft), chain, checked)
            };
            log.submit(submission.unwrap()).unwrap();
            serial += 1;
        }
        while !log.commit(now_ms).unwrap().is_empty() {
            now_ms += 1;
        }
        log.publish(now_ms + 1).unwrap().unwrap();
        now_ms += 10;
    }
    (disk, verifier)
}

fn check(disk: &Memory, verifier: &LogVerifier) -> FsckReport {
    fsck(disk, verifier, None)
}

#[test]
fn a_sound_log_has_no_findings() {
    for sizes in [&[1][..], &[3, 2], &[250, 6], &[255, 2, 260]] {
        let (disk, verifier) = filled(sizes);
        let entries = sizes.iter().sum::<usize>() as u64;
        let without = check(&disk, &verifier);
        assert_eq!(without.errors, [], "{sizes:?}");
        assert_eq!((without.entries, without.checkpoints), (entries, 1));
        let with = fsck(&disk, &verifier, Some(&mut disk.clone()));
        assert_eq!(with.errors, []);
        assert_eq!((with.entries, with.checkpoints), (entries, sizes.len() as u64));
    }
}

#[test]
fn a_flipped_bit_of_any_octet_of_any_file_is_found() {
    let (disk, verifier) = filled(&[1, 1]);
    let files = disk.state().files.clone();
    assert_eq!(files.len(), 2 + 2 + 2 + 1, "{:?}", files.keys());
    for (path, bytes) in &files {
        for at in 0..bytes.len() {
            let disk = disk.copy();
            disk.state().files.get_mut(path).unwrap()[at] ^= 1 << (at % 8);
            assert!(!check(&disk, &verifier).is_sound(), "{path} octet {at}");
        }
        let disk = disk.copy();
        disk.state().files.get_mut(path).unwrap().pop();
        assert!(!check(&disk, &verifier).is_sound(), "{path} cut");
        disk.state().files.get_mut(path).unwrap().extend([bytes[bytes.len() - 1], 0]);
        assert!(!check(&disk, &verifier).is_sound(), "{path} longer");
    }
}

#[test]
fn a_file_that_is_gone_or_does_not_belong_is_found() {
    let (disk, verifier) = filled(&[257]);
    let paths: Vec<String> = disk.state().files.keys().cloned().collect();
    for path in paths {
        let disk = disk.copy();
        disk.state().files.remove(&path);
        assert!(!check(&disk, &verifier).is_sound(), "{path}");
    }
    for path in ["notes.txt", "tile/0/0", "issuer/00", "tile/0/000.p/3", "tile/0/000.p/0"] {
        let disk = disk.copy();
        disk.state().files.insert(path.into(), b"stray".to_vec());
        assert!(!check(&disk, &verifier).is_sound(), "{path}");
    }
}

#[test]
fn one_damaged_data_tile_does_not_hide_another() {
    let (disk, verifier) = filled(&[255, 1, 256, 3]);
    for path in ["tile/data/000", "tile/data/002.p/3"] {
        disk.state().files.get_mut(path).unwrap().truncate(5);
    }
    let report = check(&disk, &verifier);
    let places: Vec<_> = report.errors.iter().map(|one| one.place.as_str()).collect();
    assert_eq!(places, ["tile/data/000", "tile/data/002.p/3"]);
    assert_eq!(report.entries, 515);
}

#[test]
fn files_ahead_of_the_checkpoint_are_compared_with_the_journal() {
    let (disk, verifier) = filled(&[2, 2]);
    // As if the power had gone after the tiles of the second checkpoint and before the checkpoint itself.
    let older = {
        let state = disk.state();
        let Record::Head { note } = Record::decode(&state.records[4]).unwrap() else {
            panic!("the first head")
        };
        note
    };
    disk.state().files.insert("checkpoint".into(), older);
    let sound = fsck(&disk, &verifier, Some(&mut disk.clone()));
    assert_eq!(sound.errors, []);
    assert_eq!((sound.entries, sound.files_ahead), (4, 2));
    for path in ["tile/0/000.p/4", "tile/data/000.p/4"] {
        let disk = disk.copy();
        disk.state().files.get_mut(path).unwrap()[11] ^= 1;
        let report = fsck(&disk, &verifier, Some(&mut disk.clone()));
        assert_eq!(report.errors.len(), 1, "{path}");
        assert_eq!(report.errors[0].place, path);
    }
    let disk = disk.copy();
    disk.state().files.insert("tile/0/000.p/9".into(), vec![0; 288]);
    assert!(!fsck(&disk, &verifier, Some(&mut disk.clone())).is_sound());
}

#[test]
fn a_flipped_bit_of_the_journal_is_found() {
    let (disk, verifier) = filled(&[1, 1]);
    let records = disk.state().records.clone();
    for (number, record) in records.iter().enumerate() {
        for at in (0..record.len()).step_by(3) {
            let disk = disk.copy();
            disk.state().records[number][at] ^= 1 << (at % 8);
            let report = fsck(&disk, &verifier, Some(&mut disk.clone()));
            // When the log was made is said nowhere else, and nothing follows from it.
            let created = number == 0 && at >= record.len() - 8;
            assert!(created || !report.is_sound(), "record {number} octet {at}");
        }
    }
}

#[test]
fn another_logs_key_is_told() {
    let (disk, _) = filled(&[1]);
    let report = check(&disk, testing::signer().verifier());
    assert_eq!(report.errors[0].place, "checkpoint");
}
