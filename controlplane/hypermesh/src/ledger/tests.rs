//! Ledgers side by side, driven as consensus drives them, without it: one drafts, all judge, all follow.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::consensus::evidence::{Judgement, contradiction};
use crate::consensus::header::{VERSION, operation_leaf};
use crate::consensus::testing::{genesis as plain, secret_of, validator, vote};
use crate::consensus::vote::{Proposal as Vote, Statement};
use crate::consensus::{Application as _, Block, Evidence, Validity};
use crate::merkle;
use crate::operation::{Change, Operation, OperationBody};
use crate::proof::Policy;

struct Scene {
    genesis: Arc<Genesis>,
    ledgers: Vec<Ledger>,
    views: Vec<LedgerView>,
    tip: Header,
    directory: tempfile::TempDir,
}

fn genesis(epoch_blocks: u64) -> Arc<Genesis> {
    Arc::new(plain(4, epoch_blocks).with_policies(vec![Policy::TEST]).unwrap())
}

impl Scene {
    /// Ledgers of the first `count` of four validators
    fn new(count: usize, epoch_blocks: u64) -> Self {
        let genesis = genesis(epoch_blocks);
        let directory = tempfile::tempdir().unwrap();
        let mut scene = Self {
            tip: genesis.header(),
            genesis,
            ledgers: Vec::new(),
            views: Vec::new(),
            directory,
        };
        for number in 0..count {
            let (ledger, view) = scene.open(number, scene.secret(number));
            scene.ledgers.push(ledger);
            scene.views.push(view);
        }
        scene
    }

    fn secret(&self, number: usize) -> Option<[u8; 32]> {
        let key = self.genesis.validators().get(number as u32)?.key;
        Some(secret_of(&key).to_bytes())
    }

    fn config(&self, number: usize, validator: Option<[u8; 32]>) -> LedgerConfig {
        LedgerConfig {
            genesis: Arc::clone(&self.genesis),
            directory: self.directory.path().join(number.to_string()),
            validator,
            limits: LedgerLimits { snapshot_blocks: 4, ..LedgerLimits::default() },
        }
    }

    fn open(&self, number: usize, validator: Option<[u8; 32]>) -> (Ledger, LedgerView) {
        Ledger::open(self.config(number, validator)).unwrap()
    }

    /// An operation of a validator
    fn ask(&self, number: u32, sequence: u64, body: OperationBody) -> Bytes {
        let key = secret_of(&self.genesis.validators().get(number).unwrap().key);
        let until = self.tip.height + 100;
        let network = self.genesis.network();
        Bytes::from(Operation::by_validator(&key, network, sequence, until, body).encode())
    }

    /// A vote for a validator that is to join
    fn admit(&self, number: u32, sequence: u64, new: u64) -> Bytes {
        self.ask(number, sequence, OperationBody::Vote(Change::Admit(validator(new))))
    }

    /// The block that a ledger drafts after another
    fn draft(&mut self, number: usize, parent: &Header) -> Block {
        let proposal = self.ledgers[number].propose(parent, parent.time_ms + 10).unwrap();
        block(&self.genesis, parent, proposal)
    }

    /// One more final block, drafted by one and judged by all
    fn step(&mut self, number: usize) -> Block {
        let parent = self.tip.clone();
        let block = self.draft(number, &parent);
        for ledger in &mut self.ledgers {
            assert_eq!(ledger.validate(&block.header, &block.operations), Validity::Valid);
        }
        for ledger in &mut self.ledgers {
            ledger.finalise(&block, b"certificate");
        }
        self.tip = block.header.clone();
        block
    }

    fn offer(&mut self, number: usize, operation: &Bytes) -> Offer {
        let now_ms = self.tip.time_ms + 5;
        self.ledgers[number].offer(std::slice::from_ref(operation), now_ms).remove(0)
    }
}

fn block(genesis: &Genesis, parent: &Header, proposal: Proposal) -> Block {
    let height = parent.height + 1;
    let leaves: Vec<_> = proposal.operations.iter().map(|one| operation_leaf(one)).collect();
    let header = Header {
        version: VERSION,
        network: genesis.network(),
        epoch: genesis.epoch(height),
        height,
        parent: parent.digest(),
        time_ms: parent.time_ms + 10,
        operations_root: merkle::root(&leaves),
        operations_count: leaves.len() as u32,
        state_root: proposal.state_root,
        evidence_root: proposal.evidence_root,
        validators_root: parent.validators_root,
    };
    Block { header, operations: proposal.operations }
}

fn refused(offer: Offer) -> String {
    match offer {
        Offer::Refused(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_one_drafts_all_find_valid_and_the_same() {
    let mut scene = Scene::new(3, 1_000);
    let mut outcomes = scene.views[1].subscribe();
    let (one, other) = (scene.admit(0, 1, 7), scene.admit(1, 1, 7));
    assert_eq!(scene.offer(0, &one), Offer::Accepted);
    assert_eq!(scene.offer(0, &one), Offer::Accepted, "again, and once");
    assert_eq!(scene.offer(0, &other), Offer::Accepted);
    assert_eq!(scene.offer(2, &other), Offer::Accepted);
    assert_eq!((scene.ledgers[0].backlog(), scene.views[2].pending()), (2, 1));
    let first = scene.step(0);
    assert_eq!(first.operations, [one.clone(), other]);
    let roots: Vec<_> = scene.views.iter().map(|view| view.registry().state_root()).collect();
    assert_eq!(roots, [first.header.state_root; 3]);
    let told = outcomes.try_recv().unwrap();
    assert_eq!((&told.header, told.outcome.operations.len()), (&first.header, 2));
    assert_eq!(scene.views[0].outcome(1), Some(told));
    assert_eq!(scene.views[0].outcome(2), None);
    assert_eq!((scene.ledgers[2].backlog(), scene.views[2].pending()), (0, 0));
    assert!(refused(scene.offer(1, &one)).contains("[E_REPLAY"), "it is final");
    assert!(scene.step(2).operations.is_empty());
}

#[test]
fn an_operation_of_a_block_that_is_not_final_is_not_drafted_again_nor_given_up() {
    let mut scene = Scene::new(1, 1_000);
    let operation = scene.admit(0, 1, 7);
    scene.offer(0, &operation);
    let parent = scene.tip.clone();
    let first = scene.draft(0, &parent);
    assert_eq!(first.operations.len(), 1);
    let ledger = &mut scene.ledgers[0];
    assert_eq!(ledger.validate(&first.header, &first.operations), Validity::Valid);
    let second = scene.draft(0, &first.header);
    assert!(second.operations.is_empty());
    // Another block of the same height holds it too.
    let beside = scene.draft(0, &parent);
    assert_eq!(beside.operations, first.operations);
    assert_eq!((scene.ledgers[0].dropped(), scene.ledgers[0].backlog()), (Vec::new(), 1));
    // What follows a block nobody judged cannot be judged.
    let unknown = Header { parent: [9; 32], ..second.header };
    assert_eq!(scene.ledgers[0].validate(&unknown, &[]), Validity::Later);
}

#[test]
fn a_block_is_refused_for_what_is_wrong_with_it() {
    let mut scene = Scene::new(2, 1_000);
    let parent = scene.tip.clone();
    let sound = scene.admit(0, 1, 7);
    scene.offer(0, &sound);
    let block = scene.draft(0, &parent);
    let mut judge = |change: &dyn Fn(&mut Block)| {
        let mut changed = block.clone();
        change(&mut changed);
        match scene.ledgers[1].validate(&changed.header, &changed.operations) {
            Validity::Invalid(invalidity) => invalidity,
            other => panic!("{other:?}"),
        }
    };
    let by_itself = |invalidity: Invalidity| invalidity.operation;
    assert_eq!(by_itself(judge(&|block| block.header.state_root[0] ^= 1)), None);
    assert_eq!(by_itself(judge(&|block| block.header.evidence_root[0] ^= 1)), None);
    assert_eq!(by_itself(judge(&|block| block.header.time_ms = 1)), None);
    // Twice in one block: each is sound by itself.
    let twice = judge(&|block| block.operations.push(block.operations[0].clone()));
    assert!(twice.operation.is_none() && twice.reason.contains("used"), "{twice:?}");
    let garbage = judge(&|block| block.operations.push(Bytes::from_static(b"garbage")));
    assert_eq!(garbage.operation, Some(1));
    let forged = judge(&|block| {
        let mut octets = block.operations[0].to_vec();
        let last = octets.len() - 1;
        octets[last] ^= 1;
        block.operations[0] = Bytes::from(octets);
    });
    assert_eq!(forged.operation, Some(0));
    // What convicts whoever voted for it must convict by the genesis alone, too.
    let ledger = &scene.ledgers[1];
    let mut octets = sound.to_vec();
    assert_eq!(ledger.judge(&block.header, &octets), Judgement::Valid);
    *octets.last_mut().unwrap() ^= 1;
    assert!(matches!(ledger.judge(&block.header, &octets), Judgement::Invalid(_)));
}

#[test]
fn what_the_state_refuses_is_given_up_and_whoever_waits_is_told_why() {
    let mut scene = Scene::new(2, 1_000);
    let first = scene.admit(0, 1, 7);
    scene.offer(0, &first);
    scene.step(0);
    // The right to ask is there; the vote was cast before.
    let again = scene.admit(0, 2, 7);
    for number in 0..2 {
        assert_eq!(scene.offer(number, &again), Offer::Accepted);
    }
    scene.step(0);
    let told = |ledger: &mut Ledger| -> Vec<(Bytes, bool)> {
        let dropped = ledger.dropped().into_iter();
        dropped.map(|it| (it.operation, it.reason.contains("[E_VOTE_TWICE]"))).collect()
    };
    assert_eq!(told(&mut scene.ledgers[0]), [(again.clone(), true)]);
    // Who never proposes finds out as well.
    assert_eq!(told(&mut scene.ledgers[1]), []);
    for _ in 0..=TRY_AGAIN_BLOCKS + 1 {
        scene.step(0);
    }
    assert_eq!(told(&mut scene.ledgers[1]), [(again, true)]);
    assert_eq!(scene.ledgers[1].backlog(), 0);
}

#[test]
fn offers_are_judged_each_by_itself_and_within_limits() {
    let mut scene = Scene::new(1, 1_000);
    let sound = [scene.admit(0, 1, 7), scene.admit(1, 1, 7)];
    let mut forged = scene.admit(2, 1, 7).to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let offered =
        [sound[0].clone(), Bytes::from(forged), Bytes::from_static(b"garbage"), sound[1].clone()];
    let mut answers = scene.ledgers[0].offer(&offered, 2_000).into_iter();
    assert_eq!(answers.next(), Some(Offer::Accepted));
    assert!(refused(answers.next().unwrap()).contains("[E_SIGNATURE]"));
    assert!(refused(answers.next().unwrap()).contains("[E_ENCODING]"));
    assert_eq!((answers.next(), answers.next()), (Some(Offer::Accepted), None));
    let mut config = scene.config(9, None);
    config.limits.pending_operations = 1;
    let (mut small, _) = Ledger::open(config).unwrap();
    let answers = small.offer(&sound, 2_000);
    assert_eq!(answers, [Offer::Accepted, Offer::Busy { retry_after_ms: BUSY_RETRY_MS }]);
}

/// A ledger that is alone and has some blocks behind it
fn alone() -> (Scene, Vec<Block>) {
    let mut scene = Scene::new(1, 8);
    let mut blocks = Vec::new();
    for sequence in 1..=10 {
        let operation = scene.admit(0, sequence, 10 + sequence);
        scene.offer(0, &operation);
        blocks.push(scene.step(0));
        // So that every snapshot that is due is written
        scene.ledgers[0].snapshots.wait();
    }
    (scene, blocks)
}

#[test]
fn a_ledger_goes_on_from_its_last_snapshot() {
    let (mut scene, blocks) = alone();
    let root = scene.views[0].registry().state_root();
    scene.ledgers.clear();
    let (mut ledger, view) = scene.open(0, None);
    assert_eq!((ledger.height(), ledger.durable_height()), (8, 8));
    assert_eq!(view.registry().state_root(), blocks[7].header.state_root);
    for block in &blocks[8..] {
        assert_eq!(ledger.validate(&block.header, &block.operations), Validity::Valid);
        ledger.finalise(block, b"certificate");
    }
    assert_eq!((view.registry().state_root(), ledger.height()), (root, 10));
    assert_eq!(view.snapshot_failure(), None);
}

#[test]
fn a_snapshot_that_is_damaged_or_of_another_network_is_not_taken() {
    let (mut scene, _) = alone();
    scene.ledgers.clear();
    let path = scene.directory.path().join("0").join("registry.snapshot");
    let sound = std::fs::read(&path).unwrap();
    for place in [0, 40, sound.len() / 2, sound.len() - 1] {
        let mut octets = sound.clone();
        octets[place] ^= 1;
        std::fs::write(&path, octets).unwrap();
        let opened = Ledger::open(scene.config(0, None)).map(|_| ());
        assert!(matches!(opened, Err(LedgerError::Snapshot { .. })), "{place}");
    }
    std::fs::write(&path, &sound).unwrap();
    let other = LedgerConfig { genesis: genesis(9), ..scene.config(0, None) };
    let opened = Ledger::open(other).map(|_| ());
    assert!(matches!(opened, Err(LedgerError::OtherNetwork { .. })));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(scene.open(0, None).0.height(), 0, "the blocks are replayed");
}

#[test]
fn a_snapshot_that_cannot_be_written_is_told_of_and_stops_nothing() {
    let mut scene = Scene::new(1, 1_000);
    std::fs::remove_dir_all(scene.directory.path().join("0")).unwrap();
    for _ in 0..5 {
        scene.step(0);
        scene.ledgers[0].snapshots.wait();
    }
    assert!(scene.views[0].snapshot_failure().is_some());
    assert_eq!((scene.ledgers[0].height(), scene.ledgers[0].durable_height()), (5, 0));
}

fn equivocation(genesis: &Genesis, signer: u32) -> Evidence {
    let vote = |block| {
        let proposal = Vote { epoch: 0, view: 3, parent_view: 2, block: [block; 32] };
        vote(genesis, signer, Statement::Notarize(proposal))
    };
    contradiction(&vote(1), &vote(2)).unwrap()
}

#[test]
fn evidence_is_put_on_record_once_and_its_culprit_is_left_out() {
    let mut scene = Scene::new(3, 4);
    let evidence = equivocation(&scene.genesis, 3);
    let culprit = scene.genesis.validators().get(3).unwrap().key;
    for ledger in &mut scene.ledgers {
        ledger.evidence(&evidence);
        ledger.evidence(&evidence);
        assert_eq!(ledger.backlog(), 1, "each hands it in by itself");
    }
    let first = scene.step(1);
    assert_eq!(first.operations.len(), 1);
    for number in 0..3 {
        let registry = scene.views[number].registry();
        let on_record: Vec<_> = registry.evidence().map(|it| it.finding.culprit).collect();
        assert_eq!(on_record, [culprit]);
        assert_eq!(scene.ledgers[number].accusations.len(), 0);
    }
    // The others' own operations are refused when their turn comes, and nobody waits for them.
    scene.step(0);
    assert_eq!((scene.ledgers[0].backlog(), scene.ledgers[0].dropped()), (0, Vec::new()));
    scene.step(0);
    let last = scene.step(0);
    assert!(!scene.ledgers[2].validators(&last.header).unwrap().iter().any(|it| it.key == culprit));
    assert_eq!(scene.views[2].registry().validators().len(), 3);
    // After a restart it is shown again, and is known.
    scene.ledgers[0].evidence(&evidence);
    assert_eq!(scene.ledgers[0].accusations.len(), 0);
}

#[test]
fn evidence_that_shows_nothing_is_not_handed_in() {
    let mut scene = Scene::new(1, 1_000);
    let mut forged = equivocation(&scene.genesis, 3);
    if let Evidence::Contradiction(votes) = &mut forged {
        votes[0].signature[3] ^= 1;
    }
    scene.ledgers[0].evidence(&forged);
    assert_eq!(scene.ledgers[0].backlog(), 0);
    // Whoever is no validator hands in nothing.
    let (mut observer, _) = scene.open(5, None);
    observer.evidence(&equivocation(&scene.genesis, 3));
    assert_eq!(observer.backlog(), 0);
}

#[test]
fn a_draft_stands_for_no_block_but_its_own() {
    let mut scene = Scene::new(1, 1_000);
    let operation = scene.admit(0, 1, 7);
    assert_eq!(scene.offer(0, &operation), Offer::Accepted);
    let parent = scene.tip.clone();
    let drafted = scene.draft(0, &parent);
    assert_eq!(drafted.operations, [operation]);
    // Another block after the same parent claims to lead to the drafted state, without what leads there.
    let mut empty = drafted.clone();
    empty.operations.clear();
    (empty.header.operations_count, empty.header.operations_root) = (0, merkle::root(&[]));
    let judged = scene.ledgers[0].validate(&empty.header, &empty.operations);
    assert!(matches!(judged, Validity::Invalid(_)), "{judged:?}");
    let judged = scene.ledgers[0].validate(&drafted.header, &drafted.operations);
    assert_eq!(judged, Validity::Valid);
}
