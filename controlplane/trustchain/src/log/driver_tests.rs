//! Tests of a whole log: what it promises across every crash, and every reason not to start. Not part of the
//! product.

use super::super::directory::Directory;
use super::super::entry::TimestampedEntry;
use super::super::fsck::fsck;
use super::super::merkle::Hash;
use super::super::proof::prove_consistency;
use super::super::submission::IssuerSignature;
use super::super::testing::{self, Authority, Memory, ORIGIN, When};
use super::*;
use crate::certificate;
use crate::keys::KeyPair;

type TestLog<'a> = Log<Memory, Memory, &'a KeyPair>;

/// A log to be, its key and what will be logged
struct World {
    authority: Authority,
    key: KeyPair,
    submissions: Vec<Submission>,
}

/// What the outside world holds of a log
#[derive(Default)]
struct Seen {
    scts: Vec<(u64, Hash)>,
    heads: Vec<TreeHead>,
}

impl World {
    fn new(certificates: u64) -> Self {
        let authority = Authority::new();
        let submission = |serial| {
            let der = authority.precertificate(&authority.draft(serial));
            let checked = IssuerSignature::Checked;
            Submission::precertificate(&der, authority.chain(), checked).unwrap()
        };
        let submissions = (0..certificates).map(submission).collect();
        let key = KeyPair::generate(crate::keys::KeyKind::P256).unwrap();
        Self { authority, key, submissions }
    }

    fn signer(&self) -> LogSigner<&KeyPair> {
        LogSigner::new(ORIGIN, &self.key).unwrap()
    }

    fn create(&self, disk: &Memory, now_ms: u64) -> Result<TestLog<'_>, StartError> {
        Log::create(disk.clone(), disk.clone(), self.signer(), Limits::default(), now_ms)
    }

    fn open(&self, disk: &Memory, now_ms: u64) -> Result<TestLog<'_>, StartError> {
        self.open_with(disk, now_ms, &Settings::default())
    }

    fn open_with(
        &self,
        disk: &Memory,
        now_ms: u64,
        settings: &Settings,
    ) -> Result<TestLog<'_>, StartError> {
        Log::open(disk.clone(), disk.clone(), self.signer(), settings, now_ms)
    }

    /// A log on a new disk with everything logged and published in batches of this many
    fn filled(&self, batch: usize) -> (Memory, TestLog<'_>) {
        let disk = Memory::default();
        let mut log = self.create(&disk, 1_000).unwrap();
        log.register(self.authority.chain()).unwrap();
        log.publish(1_000).unwrap();
        let mut now_ms = 1_000;
        for submissions in self.submissions.chunks(batch) {
            now_ms += 10;
            submissions.iter().for_each(|one| drop(log.submit(one.clone()).unwrap()));
            log.commit(now_ms).unwrap();
            log.publish(now_ms + 1).unwrap();
        }
        (disk, log)
    }
}

impl Seen {
    fn release(&mut self, releases: Vec<Release>) {
        for one in releases {
            let sct = one.sct.unwrap();
            let entry = TimestampedEntry {
                timestamp_ms: sct.timestamp_ms,
                signed: one.signed,
                leaf_index: one.leaf_index,
            };
            self.scts.push((one.leaf_index, entry.leaf_hash().unwrap()));
        }
    }

    /// What anyone could have read from the disk
    fn look(&mut self, disk: &Memory, world: &World) {
        if let Some(note) = disk.state().files.get("checkpoint") {
            let checkpoint = world.signer().verifier().verify_checkpoint(note, &[]).unwrap();
            self.heads.push(checkpoint.head);
        }
    }
}

/// Makes or goes on with a log, logs everything in batches of these sizes, and publishes after each
fn live(
    world: &World,
    disk: &Memory,
    seen: &mut Seen,
    batches: &[usize],
    now_ms: &mut u64,
) -> Result<(), Box<dyn std::error::Error>> {
    *now_ms += 1_000;
    let settings = Settings { known_heads: seen.heads.clone(), ..Settings::default() };
    let empty = disk.state().records.is_empty();
    let mut log = if empty {
        world.create(disk, *now_ms)?
    } else {
        world.open_with(disk, *now_ms, &settings)?
    };
    let lived = (|| -> Result<(), LogError> {
        log.register(world.authority.chain())?;
        log.publish(*now_ms)?;
        let mut rest = &world.submissions[..];
        for batch in batches {
            let (now, later) = rest.split_at(*batch);
            rest = later;
            for submission in now {
                log.submit(submission.clone())?;
            }
            *now_ms += 10;
            seen.release(log.commit(*now_ms)?);
            if let Some(head) = log.publish(*now_ms + 1)? {
                seen.heads.push(head.head());
            }
        }
        Ok(())
    })();
    if lived.is_err() {
        // Nothing is promised any more by a log whose disk is gone.
        let after = log.commit(*now_ms + 100);
        assert!(matches!(after, Err(LogError::Sequencer(SequencerError::Stopped))), "{after:?}");
        let after = log.publish(*now_ms + 100);
        assert!(matches!(after, Err(LogError::Sequencer(SequencerError::Stopped))), "{after:?}");
    }
    Ok(lived?)
}

/// Everything that was promised holds, and nothing is in the log twice
fn check(world: &World, disk: &Memory, seen: &Seen, now_ms: u64) {
    let log = world.open(disk, now_ms + 1).unwrap();
    let checkpoint = log.publisher().published().unwrap();
    assert_eq!(checkpoint.head.size, world.submissions.len() as u64);
    for (index, leaf_hash) in &seen.scts {
        let bundle = log.prove(*index).unwrap().unwrap();
        bundle.verify(leaf_hash, world.signer().verifier(), &[]).unwrap();
    }
    for head in &seen.heads {
        prove_consistency(disk, head, checkpoint).unwrap();
    }
    let report = fsck(disk, world.signer().verifier(), Some(&mut disk.clone()));
    assert_eq!(report.errors, []);
    assert_eq!(report.entries, world.submissions.len() as u64);
    assert!(report.checkpoints >= 1);
}

#[test]
fn no_promise_is_broken_by_a_crash_at_any_write() {
    // Over the edge of the first full tile, with the last batches small enough to keep it quick.
    let world = World::new(260);
    let batches = [3, 251, 6];
    for when in [When::Before, When::After] {
        for step in 1.. {
            let (disk, mut seen, mut now_ms) = (Memory::default(), Seen::default(), 10_000);
            disk.crash_at(step, when);
            let survived = live(&world, &disk, &mut seen, &batches, &mut now_ms).is_ok();
            assert_eq!(survived, !disk.is_dead());
            seen.look(&disk, &world);
            disk.reboot();
            live(&world, &disk, &mut seen, &batches, &mut now_ms).unwrap();
            check(&world, &disk, &seen, now_ms);
            if survived {
                assert!(step > 20, "only {step} writes");
                break;
            }
        }
    }
}

#[test]
fn two_crashes_in_a_row_break_no_promise() {
    let world = World::new(5);
    for (first, second) in (1..20).flat_map(|first| (1..12).map(move |second| (first, second))) {
        let (disk, mut seen, mut now_ms) = (Memory::default(), Seen::default(), 10_000);
        for step in [first, second] {
            disk.crash_at(step, if step % 2 == 0 { When::Before } else { When::After });
            // Both outcomes are right: the crash may lie beyond the last write.
            let _survived = live(&world, &disk, &mut seen, &[2, 3], &mut now_ms).is_ok();
            seen.look(&disk, &world);
            disk.reboot();
        }
        live(&world, &disk, &mut seen, &[2, 3], &mut now_ms).unwrap();
        check(&world, &disk, &seen, now_ms);
    }
}

#[test]
fn an_issued_certificate_is_proven_offline() {
    let world = World::new(0);
    let (disk, mut log) = world.filled(1);
    let draft = world.authority.draft(77);
    let der = world.authority.precertificate(&draft);
    let submit = |log: &mut TestLog<'_>| {
        let chain = world.authority.chain();
        log.submit(Submission::precertificate(&der, chain, IssuerSignature::Check).unwrap())
    };
    let Outcome::Waiting(ticket) = submit(&mut log).unwrap() else { panic!("new") };
    let [release] = &log.commit(2_000).unwrap()[..] else { panic!("one") };
    assert_eq!((release.ticket, release.leaf_index), (ticket, 0));
    let sct = release.sct.as_ref().unwrap().clone();
    let certificate = world.authority.certificate(&draft, Some(&[sct]));
    // Not proven before a checkpoint covers it.
    assert!(log.prove(0).unwrap().is_none());
    log.publish(2_001).unwrap().unwrap();
    let text = log.prove(0).unwrap().unwrap().encode();
    let (signer, issuer) = (world.signer(), world.authority.key_hash());
    let bundle = ProofBundle::parse(text.as_bytes()).unwrap();
    let judged = bundle.verify_certificate(&certificate, &issuer, signer.verifier(), 2_000);
    assert_eq!(judged.unwrap().head.size, 1);
    let other = world.authority.certificate(&world.authority.draft(78), None);
    assert!(bundle.verify_certificate(&other, &issuer, signer.verifier(), 2_000).is_err());
    // Handed in once more, it keeps its place and gets another SCT for it.
    let Outcome::Logged(again) = submit(&mut log).unwrap() else { panic!("known") };
    let certificate = world.authority.certificate(&draft, Some(&[again]));
    let judged = bundle.verify_certificate(&certificate, &issuer, signer.verifier(), 2_000);
    assert!(judged.is_ok());
    let parsed = certificate::parse(&certificate).unwrap();
    assert_eq!(certificate::serial_text(&parsed), "01000000004d");
    assert!(disk.state().files.contains_key("tile/0/000.p/1"));
}

#[test]
fn the_files_of_a_directory_are_those_of_the_specification() {
    let world = World::new(3);
    let directory = tempfile::tempdir().unwrap();
    let store = Directory::open(directory.path()).unwrap();
    let journal = Memory::default();
    let mut log =
        Log::create(journal.clone(), store, world.signer(), Limits::default(), 1).unwrap();
    log.register(world.authority.chain()).unwrap();
    world.submissions.iter().for_each(|one| drop(log.submit(one.clone()).unwrap()));
    assert_eq!(log.commit(2).unwrap().len(), 3);
    log.publish(3).unwrap().unwrap();
    let mut paths = log.publisher().store().list("").unwrap();
    paths.sort();
    let issuers = world.authority.chain().fingerprints().iter();
    let mut wanted: Vec<String> =
        issuers.map(|one| format!("issuer/{}", certificate::hex(one))).collect();
    wanted.extend(["checkpoint", "tile/0/000.p/3", "tile/data/000.p/3"].map(String::from));
    wanted.sort();
    assert_eq!(paths, wanted);
    let report =
        fsck(log.publisher().store(), world.signer().verifier(), Some(&mut journal.clone()));
    assert_eq!((report.entries, report.checkpoints, report.errors), (3, 1, vec![]));
    drop(log);
    let store = Directory::open(directory.path()).unwrap();
    let settings = Settings::default();
    let log = Log::open(journal, store, world.signer(), &settings, 4).unwrap();
    assert_eq!(log.sequencer().head().size, 3);
}

#[test]
fn each_reason_not_to_start_has_its_own_name() {
    let world = World::new(6);
    let (disk, log) = world.filled(2);
    drop(log);
    assert!(world.open(&disk.copy(), 9_000).is_ok());
    assert!(matches!(world.open(&Memory::default(), 1), Err(StartError::NotCreated)));
    assert!(matches!(world.create(&disk.copy(), 9_000), Err(StartError::Exists)));
    let open = |change: &dyn Fn(&mut testing::State)| {
        let disk = disk.copy();
        change(&mut disk.state());
        world.open(&disk, 9_000).map(|_| ())
    };
    let early = world.open(&disk.copy(), 1_029).map(|_| ()).unwrap_err();
    assert!(matches!(early, StartError::ClockWentBack { last_ms: 1_031, now_ms: 1_029 }));
    let thief = World::new(0).open(&disk.copy(), 9_000).map(|_| ());
    assert!(matches!(thief, Err(StartError::WrongKey { .. })), "{thief:?}");
    let lost = open(&|state| state.records.truncate(state.records.len() - 2));
    assert!(matches!(
        lost,
        Err(StartError::CheckpointBeyondJournal { checkpoint_size: 6, journal_size: 4 })
    ));
    let headless = open(&|state| drop(state.records.pop()));
    assert!(matches!(
        headless,
        Err(StartError::CheckpointBeyondJournal { checkpoint_size: 6, journal_size: 4 })
    ));
    let empty = open(&|state| state.records.clear());
    assert!(matches!(empty, Err(StartError::CheckpointBeyondJournal { .. })), "{empty:?}");
    let torn = open(&|state| drop(state.records.drain(4..6)));
    assert!(matches!(torn, Err(StartError::Torn { .. })), "{torn:?}");
    let cut = open(&|state| state.records[6].truncate(100));
    assert!(matches!(cut, Err(StartError::Damaged { record: 7, .. })), "{cut:?}");
    let flipped = open(&|state| state.records[4][200] ^= 1);
    assert!(matches!(flipped, Err(StartError::Root { record: 5 })), "{flipped:?}");
    let missing = open(&|state| drop(state.files.remove("tile/0/000.p/6")));
    assert!(matches!(missing, Err(StartError::Store(StoreError::Missing { .. }))), "{missing:?}");
    let changed = open(&|state| state.files.get_mut("tile/0/000.p/6").unwrap()[3] ^= 4);
    assert!(matches!(changed, Err(StartError::Store(StoreError::Mismatch { .. }))), "{changed:?}");
    let forged = open(&|state| state.files.get_mut("checkpoint").unwrap()[30] ^= 1);
    assert!(matches!(forged, Err(StartError::Checkpoint(_))), "{forged:?}");
}

#[test]
fn a_journal_of_another_history_is_a_split_head() {
    let world = World::new(4);
    let (ours, log) = world.filled(2);
    let published = log.publisher().published().unwrap().head;
    drop(log);
    // The same key has logged the same certificates in another order.
    let mut reordered = world.submissions.clone();
    reordered.reverse();
    let other = World { submissions: reordered, ..world };
    let (theirs, log) = other.filled(2);
    drop(log);
    let checkpoint = theirs.state().files["checkpoint"].clone();
    ours.state().files.insert("checkpoint".into(), checkpoint);
    let refused = other.open(&ours, 9_000).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StartError::SplitHead { size: 4, .. }), "{refused}");
    // A witness that has seen the other head is believed as well.
    let settings = Settings { known_heads: vec![published], ..Settings::default() };
    let refused = other.open_with(&theirs, 9_000, &settings).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StartError::SplitHead { size: 4, .. }), "{refused}");
    let ahead = TreeHead { size: 5, ..published };
    let settings = Settings { known_heads: vec![ahead], ..Settings::default() };
    let refused = other.open_with(&theirs, 9_000, &settings).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StartError::CheckpointBeyondJournal { .. }), "{refused}");
}

#[test]
fn published_files_are_built_again_when_the_operator_says_so() {
    let world = World::new(300);
    let (disk, log) = world.filled(100);
    drop(log);
    let before = disk.state().files.clone();
    assert!(before.contains_key("tile/0/000") && !before.contains_key("tile/0/000.p/100"));
    disk.state().files.retain(|path, _| path == "checkpoint" || path == "tile/data/000");
    let refused = world.open(&disk, 9_000).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StartError::Store(StoreError::Missing { .. })), "{refused}");
    let settings = Settings { start: Start::Rebuild, ..Settings::default() };
    drop(world.open_with(&disk, 9_000, &settings).unwrap());
    assert_eq!(disk.state().files, before);
    // Rebuilding makes what is missing; it changes nothing that is there.
    disk.state().files.get_mut("tile/data/000").unwrap()[77] ^= 1;
    let refused = world.open_with(&disk, 9_000, &settings).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StartError::Store(StoreError::Mismatch { .. })), "{refused}");
}

/// As a backup has it that was taken while a tile became full
#[test]
fn a_checkpoint_from_before_its_tile_was_full_is_covered_by_the_full_tile() {
    let world = World::new(300);
    let disk = Memory::default();
    let mut log = world.create(&disk, 1_000).unwrap();
    log.register(world.authority.chain()).unwrap();
    log.publish(1_000).unwrap();
    let mut checkpoints = Vec::new();
    for (number, submissions) in (1..).zip(world.submissions.chunks(100)) {
        submissions.iter().for_each(|one| drop(log.submit(one.clone()).unwrap()));
        log.commit(1_000 + number).unwrap();
        log.publish(1_000 + number).unwrap();
        checkpoints.push(disk.state().files["checkpoint"].clone());
    }
    drop(log);
    assert!(!disk.state().files.contains_key("tile/0/000.p/200"));
    disk.state().files.insert("checkpoint".into(), checkpoints[1].clone());
    assert_eq!(world.open(&disk.copy(), 9_000).unwrap().sequencer().head().size, 300);
    // The full tile must have the same in it.
    disk.state().files.get_mut("tile/0/000").unwrap()[3] ^= 4;
    let refused = world.open(&disk, 9_000).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StartError::Store(StoreError::Mismatch { .. })), "{refused}");
}

#[test]
fn a_signer_that_fails_releases_nothing_and_the_log_goes_on() {
    struct Moody<'a>(&'a KeyPair, std::cell::Cell<bool>);
    impl rcgen::PublicKeyData for Moody<'_> {
        fn der_bytes(&self) -> &[u8] {
            self.0.der_bytes()
        }
        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            self.0.algorithm()
        }
    }
    impl SigningKey for Moody<'_> {
        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
            if self.1.get() { self.0.sign(message) } else { Err(rcgen::Error::RemoteKeyError) }
        }
    }
    let world = World::new(1);
    let disk = Memory::default();
    let key = Moody(&world.key, std::cell::Cell::new(false));
    let signer = LogSigner::new(ORIGIN, &key).unwrap();
    let mut log =
        Log::create(disk.clone(), disk.clone(), signer, Limits::default(), 1_000).unwrap();
    log.register(world.authority.chain()).unwrap();
    log.submit(world.submissions[0].clone()).unwrap();
    let [release] = &log.commit(1_001).unwrap()[..] else { panic!("one") };
    assert!(release.sct.is_err());
    assert!(matches!(log.publish(1_002), Err(LogError::Sign(_))));
    assert!(!disk.state().files.contains_key("checkpoint"));
    key.1.set(true);
    assert!(matches!(log.submit(world.submissions[0].clone()), Ok(Outcome::Logged(_))));
    assert_eq!(log.publish(1_003).unwrap().unwrap().head().size, 1);
}
