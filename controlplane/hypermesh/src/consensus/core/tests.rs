//! Steps of consensus one at a time, without an engine: a node that is no validator of its epoch asks itself what the
//! engine would ask, and hears what the engine would tell.

use std::sync::Mutex;

use commonware_consensus::simplex::types::Activity as Told;
use commonware_runtime::{Clock as _, Runner as _, deterministic};

use super::super::application::{Invalidity, Offer, Proposal, Validity};
use super::super::chain::{Fault, Verdict};
use super::super::convert;
use super::super::engine::At;
use super::super::evidence::contradiction;
use super::super::genesis::Genesis;
use super::super::header::{Block, Header};
use super::super::message::Tip;
use super::super::network::Sent;
use super::super::quorum::Quorum;
use super::super::testing::{
    block_after, certify, genesis, proposal_of, quorum_of, secret, validator, vote,
};
use super::super::vote::{Proposal as Vote, Statement};
use super::*;
use crate::operation::Validator;

/// What an application was told
#[derive(Debug, Default)]
struct Book {
    finals: Vec<u64>,
    evidence: usize,
    offered: usize,
    /// Up to where it would be there after a crash
    durable: u64,
    /// The validators it wants for the next epoch
    next: Option<Vec<Validator>>,
}

/// Finds everything valid that does not begin with "bad"
struct Lenient(Arc<Mutex<Book>>);

impl Application for Lenient {
    fn height(&self) -> u64 {
        0
    }

    fn durable_height(&self) -> u64 {
        self.0.lock().unwrap().durable
    }

    fn offer(&mut self, operations: &[Bytes], _: u64) -> Vec<Offer> {
        self.0.lock().unwrap().offered += operations.len();
        vec![Offer::Accepted; operations.len()]
    }

    fn backlog(&self) -> usize {
        0
    }

    fn propose(&mut self, _: &Header, _: u64) -> Option<Proposal> {
        None
    }

    fn validate(&mut self, _: &Header, operations: &[Bytes]) -> Validity {
        if operations.iter().any(|operation| operation.starts_with(b"bad")) {
            return Validity::Invalid(Invalidity::of_block("it begins with bad"));
        }
        Validity::Valid
    }

    fn validators(&mut self, _: &Header) -> Option<Vec<Validator>> {
        self.0.lock().unwrap().next.clone()
    }

    fn finalise(&mut self, block: &Block, _: &[u8]) {
        self.0.lock().unwrap().finals.push(block.header.height);
    }

    fn evidence(&mut self, _: &super::super::evidence::Evidence) {
        self.0.lock().unwrap().evidence += 1;
    }
}

/// Remembers what was sent to whom
#[derive(Default)]
struct Recorder(Mutex<Vec<(ValidatorKey, Message)>>);

impl Wire for Recorder {
    fn send(&self, to: &ValidatorKey, _: Channel, frame: Bytes) -> Sent {
        self.0.lock().unwrap().push((*to, Message::from_bytes(&frame).unwrap()));
        Sent::Queued
    }
}

struct Scene {
    core: Core<deterministic::Context>,
    genesis: Arc<Genesis>,
    book: Arc<Mutex<Book>>,
    wire: Arc<Recorder>,
}

impl Scene {
    async fn new(context: deterministic::Context, epoch_blocks: u64) -> Self {
        let genesis = Arc::new(genesis(4, epoch_blocks));
        let (book, wire) = (Arc::<Mutex<Book>>::default(), Arc::<Recorder>::default());
        let (inbox, frames) = Inbox::new();
        let (_client, Requests(requests)) = channel();
        let config = NodeConfig {
            genesis: Arc::clone(&genesis),
            secret: secret(9).to_bytes(),
            settings: Settings::default(),
            prefix: "steps".to_owned(),
            contacts: Vec::new(),
        };
        let application = Box::new(Lenient(Arc::clone(&book)));
        let shared: Arc<dyn Wire> = Arc::<Recorder>::clone(&wire);
        let parts = Parts { config, application, wire: shared, inbox, frames, requests };
        // Well after the genesis
        context.sleep(Duration::from_secs(10)).await;
        let core = Core::open(context, parts).await.unwrap();
        assert!(core.engine.is_none(), "it is no validator");
        Self { core, genesis, book, wire }
    }

    fn insert(&mut self, block: &Block) -> Digest {
        let digest = block.header.digest();
        self.core.chain.insert(digest, block.clone(), None);
        digest
    }

    /// Whether a block may be voted for after a parent, if that can be said
    async fn may_be_voted_for(
        &mut self,
        block: Digest,
        parent: Digest,
        epoch: u64,
    ) -> Option<bool> {
        let at = At { epoch, view: 3, leader: validator(0).key, parent };
        let (answer, mut answered) = oneshot::channel();
        self.core.epoch = epoch;
        self.core.on_question(Question::Verify { at, block, answer }).await.unwrap();
        self.core.advance().await.unwrap();
        self.core.verifying.clear();
        answered.try_recv().ok()
    }

    /// Lets what is being written become durable
    async fn write(&mut self) {
        while let Some(synced) = self.core.syncs.next().await {
            self.core.on_synced(synced.unwrap()).await.unwrap();
        }
    }

    async fn accept(&mut self, block: &Block) -> bool {
        let set = Arc::clone(self.genesis.validators());
        let certificate = certify(&self.genesis, &set, &block.header, &[]);
        let block = FinalBlock { block: block.clone(), certificate, next: None };
        self.core.accept(block).await.unwrap().unwrap()
    }

    /// The engine tells that a quorum called a block final
    async fn called_final(&mut self, header: &Header) {
        self.called_final_in(header, header.height).await;
    }

    async fn called_final_in(&mut self, header: &Header, view: u64) {
        let proposal = Vote { view, parent_view: view - 1, ..proposal_of(header) };
        let statement = Statement::Finalize(proposal);
        let quorum: Quorum = quorum_of(&self.genesis, statement, 0..3);
        let told = convert::engine_finalization(&quorum, self.genesis.validators()).unwrap();
        self.core.on_report(Told::Finalization(told)).await.unwrap();
        self.core.settle().await.unwrap();
    }

    fn sent(&self) -> Vec<(ValidatorKey, Message)> {
        std::mem::take(&mut self.wire.0.lock().unwrap())
    }
}

fn step(epoch_blocks: u64, play: impl AsyncFnOnce(Scene)) {
    deterministic::Runner::seeded(1).start(|context| async move {
        play(Scene::new(context, epoch_blocks).await).await;
    });
}

#[test]
fn a_block_is_voted_for_only_where_it_belongs() {
    step(1_000, async |mut scene| {
        let start = scene.genesis.header();
        let first = block_after(&scene.genesis, &start, Vec::new());
        let second = block_after(&scene.genesis, &first.header, Vec::new());
        let beside = block_after(&scene.genesis, &start, vec![Bytes::from_static(b"beside")]);
        let bad = block_after(&scene.genesis, &start, vec![Bytes::from_static(b"bad")]);
        let start = start.digest();
        let [first, second, beside, bad] =
            [&first, &second, &beside, &bad].map(|block| scene.insert(block));
        assert_eq!(scene.may_be_voted_for(second, first, 0).await, Some(true));
        assert_eq!(scene.may_be_voted_for(beside, start, 0).await, Some(true));
        assert_eq!(scene.may_be_voted_for(beside, first, 0).await, Some(false));
        assert_eq!(scene.may_be_voted_for(second, beside, 0).await, Some(false));
        assert_eq!(scene.may_be_voted_for(bad, start, 0).await, Some(false));
        assert_eq!(scene.may_be_voted_for(first, start, 1).await, Some(false));
        assert_eq!(scene.may_be_voted_for([7; 32], start, 0).await, None);
        assert!(scene.core.wants.contains(&[7; 32]), "it is asked for");
    });
}

#[test]
fn a_block_of_the_future_is_not_voted_for_before_its_time() {
    step(1_000, async |mut scene| {
        let start = scene.genesis.header();
        let mut ahead = block_after(&scene.genesis, &start, Vec::new());
        let tolerance_ms = scene.core.settings.clock_tolerance_ms;
        ahead.header.time_ms = scene.core.now_ms() + tolerance_ms + 5;
        let block = scene.insert(&ahead);
        assert_eq!(scene.may_be_voted_for(block, start.digest(), 0).await, None);
        scene.core.context.sleep(Duration::from_millis(5)).await;
        assert_eq!(scene.may_be_voted_for(block, start.digest(), 0).await, Some(true));
        // A quorum's clocks are better than one.
        let mut later = block_after(&scene.genesis, &ahead.header, Vec::new());
        later.header.time_ms += 100_000;
        let later = scene.insert(&later);
        assert_eq!(scene.core.judge(&later, false).await.unwrap(), answer::Judged::Later);
        assert_eq!(scene.core.judge(&later, true).await.unwrap(), answer::Judged::Valid);
    });
}

#[test]
fn a_block_is_built_on_only_once_it_is_durable() {
    step(1_000, async |mut scene| {
        let first = block_after(&scene.genesis, &scene.genesis.header(), Vec::new());
        let block = scene.insert(&first);
        let (answer, mut answered) = oneshot::channel();
        let question = Question::Certify { epoch: 0, block, answer };
        scene.core.on_question(question).await.unwrap();
        scene.core.advance().await.unwrap();
        scene.core.advance().await.unwrap();
        assert!(answered.try_recv().is_err(), "it is still being written");
        scene.write().await;
        scene.core.advance().await.unwrap();
        assert_eq!(answered.try_recv().ok(), Some(true));
    });
}

#[test]
fn what_is_final_is_told_of_only_once_it_is_durable() {
    step(1_000, async |mut scene| {
        let first = block_after(&scene.genesis, &scene.genesis.header(), Vec::new());
        let mut subscriber = {
            let (sender, receiver) = mpsc::channel(8);
            scene.core.subscribers.push(sender);
            receiver
        };
        assert!(scene.accept(&first).await);
        assert_eq!(scene.core.chain.tip().height, 1);
        assert!(scene.book.lock().unwrap().finals.is_empty());
        assert!(subscriber.try_recv().is_err());
        scene.write().await;
        assert_eq!(scene.book.lock().unwrap().finals, [1]);
        assert_eq!(subscriber.try_recv().unwrap().block, first);
    });
}

#[test]
fn the_last_block_of_an_epoch_names_the_validators_that_its_state_gives() {
    step(2, async |mut scene| {
        let first = block_after(&scene.genesis, &scene.genesis.header(), Vec::new());
        scene.insert(&first);
        let same = block_after(&scene.genesis, &first.header, Vec::new());
        let next = ValidatorSet::new((1..6).map(validator).collect()).unwrap();
        let mut changed = same.clone();
        changed.header.validators_root = next.digest();
        let (same, changed) = (scene.insert(&same), scene.insert(&changed));
        let parent = first.header.digest();
        assert_eq!(scene.may_be_voted_for(changed, parent, 0).await, Some(false));
        let verdict = &scene.core.chain.get(&changed).unwrap().verdict;
        assert_eq!(*verdict, Verdict::Invalid(Fault::Validators));
        assert_eq!(scene.may_be_voted_for(same, parent, 0).await, Some(true));

        scene.book.lock().unwrap().next = Some(next.iter().cloned().collect());
        for digest in [changed, same] {
            scene.core.chain.get_mut(&digest).unwrap().verdict = Verdict::Open;
        }
        assert_eq!(scene.may_be_voted_for(same, parent, 0).await, Some(false));
        assert_eq!(scene.may_be_voted_for(changed, parent, 0).await, Some(true));
        let found = scene.core.chain.get(&changed).unwrap().next.clone();
        assert_eq!(found.as_deref(), Some(&next));
    });
}

#[test]
fn two_final_blocks_of_one_height_halt_it() {
    let start = genesis(4, 1_000).header();
    let first = block_after(&genesis(4, 1_000), &start, Vec::new());
    let beside = block_after(&genesis(4, 1_000), &start, vec![Bytes::from_static(b"beside")]);
    let above = block_after(&genesis(4, 1_000), &beside.header, Vec::new());
    // A quorum's word for a descendant of the other one
    step(1_000, async |mut scene| {
        scene.insert(&above);
        assert!(scene.accept(&first).await);
        scene.called_final(&above.header).await;
        assert!(scene.core.halted.is_some());
        assert_eq!(scene.core.chain.tip().height, 1);
    });
    // The other one itself, with what shows that it is final
    step(1_000, async |mut scene| {
        assert!(scene.accept(&first).await);
        scene.accept(&beside).await;
        assert!(scene.core.halted.is_some());
        assert!(!scene.accept(&block_after(&scene.genesis, &first.header, Vec::new())).await);
    });
    // Two quorums' words in one view
    step(1_000, async |mut scene| {
        scene.called_final(&beside.header).await;
        scene.accept(&first).await;
        assert!(scene.core.halted.is_some());
    });
    // A quorum's word for the other one, which comes later
    step(1_000, async |mut scene| {
        scene.called_final_in(&beside.header, 5).await;
        assert!(scene.accept(&first).await);
        assert_eq!(scene.core.halted, None, "it may be a block of another height");
        scene.core.on_block(&validator(2).key, beside.clone());
        assert!(scene.core.halted.is_some());
    });
}

#[test]
fn what_was_contested_waits_for_offences_to_come_to_light() {
    step(1_000, async |mut scene| {
        let first = block_after(&scene.genesis, &scene.genesis.header(), Vec::new());
        scene.insert(&first);
        let other = Vote { block: [8; 32], ..proposal_of(&first.header) };
        let dissent = vote(&scene.genesis, 3, Statement::Notarize(other));
        scene.core.on_vote(Some(dissent)).await.unwrap();
        scene.called_final(&first.header).await;
        assert_eq!(scene.core.chain.tip().height, 0);
        let wait = Duration::from_millis(scene.core.settings.contested_ms);
        scene.core.context.sleep(wait).await;
        scene.core.settle().await.unwrap();
        assert_eq!(scene.core.chain.tip().height, 1);
        // What nobody contests does not wait.
        let second = block_after(&scene.genesis, &first.header, Vec::new());
        scene.insert(&second);
        scene.called_final(&second.header).await;
        assert_eq!(scene.core.chain.tip().height, 2);
    });
}

#[test]
fn one_validator_cannot_slow_down_the_others_for_long() {
    step(1_000, async |mut scene| {
        let mut waited = 0;
        for _ in 0..40 {
            let parent = scene.core.chain.tip().clone();
            let next = block_after(&scene.genesis, &parent, Vec::new());
            scene.insert(&next);
            let other = Vote { block: [8; 32], ..proposal_of(&next.header) };
            let dissent = vote(&scene.genesis, 3, Statement::Notarize(other));
            scene.core.on_vote(Some(dissent)).await.unwrap();
            scene.called_final(&next.header).await;
            if scene.core.chain.tip().height == parent.height {
                waited += 1;
                let wait = Duration::from_millis(scene.core.settings.contested_ms);
                scene.core.context.sleep(wait).await;
                scene.core.settle().await.unwrap();
            }
            assert_eq!(scene.core.chain.tip().height, parent.height + 1);
        }
        assert_eq!(waited, 16);
    });
}

#[test]
fn blocks_are_forgotten_only_where_the_state_after_them_is_durable() {
    step(2, async |mut scene| {
        scene.core.settings.blocks_kept = 8;
        for height in 1..=4_200 {
            let parent = scene.core.chain.tip().clone();
            let next = block_after(&scene.genesis, &parent, Vec::new());
            assert!(scene.accept(&next).await);
            scene.write().await;
            assert_eq!(scene.core.store.heights(), (1, height + 1));
        }
        scene.book.lock().unwrap().durable = 4_150;
        let parent = scene.core.chain.tip().clone();
        let next = block_after(&scene.genesis, &parent, Vec::new());
        assert!(scene.accept(&next).await);
        scene.write().await;
        // Whole files go.
        assert_eq!(scene.core.store.heights(), (4_097, 4_202));
        assert_eq!(scene.core.own_tip(), Tip { height: 4_201, lowest: 4_097 });
        assert!(scene.core.store.final_block(4_096).await.unwrap().is_none());
        let kept = scene.core.store.final_block(4_150).await.unwrap().unwrap();
        assert_eq!(kept.block.header.height, 4_150);
        // Who needs one that is gone hears how far the others go back.
        let from = validator(2).key;
        scene.sent();
        scene.core.on_want_range(&from, 7).await.unwrap();
        let told = Message::Tip(Tip { height: 4_201, lowest: 4_097 });
        assert_eq!(scene.sent(), [(from, told)]);
    });
}

#[test]
fn operations_of_who_only_follows_are_looked_at_within_limits() {
    step(1_000, async |mut scene| {
        let handed_on = async |scene: &mut Scene, from: u64, times: usize| {
            let operations = vec![Bytes::from(vec![7; 32 << 10]); 1];
            let frame = Message::Operations(operations).to_bytes();
            for _ in 0..times {
                let from = validator(from).key;
                scene.core.inbox.deliver(&from, Channel::Blocks, frame.clone());
                assert!(scene.core.drain().await.unwrap());
            }
            std::mem::take(&mut scene.book.lock().unwrap().offered)
        };
        assert_eq!(handed_on(&mut scene, 0, 40).await, 40, "a validator");
        assert_eq!(handed_on(&mut scene, 30, 40).await, 3, "one that follows");
        assert_eq!(handed_on(&mut scene, 31, 3).await, 3, "another has a share of its own");
        let all: usize = {
            let mut all = 0;
            for from in 32..40 {
                all += handed_on(&mut scene, from, 3).await;
            }
            all
        };
        assert!((6..=10).contains(&all), "{all}: all of them have a limit as well");
        scene.core.context.sleep(Duration::from_secs(1)).await;
        assert_eq!(handed_on(&mut scene, 30, 40).await, 3, "a second later");
    });
}

#[test]
fn who_needs_what_nobody_keeps_says_so() {
    step(1_000, async |mut scene| {
        let validators: Vec<_> = scene.genesis.validators().iter().map(|it| it.key).collect();
        let now_ms = scene.core.now_ms();
        scene.core.catch_up.heard(validators[0], Tip { height: 9_000, lowest: 4_097 }, |_| true);
        scene.core.sample_ms = now_ms;
        scene.core.tick().await.unwrap();
        assert_eq!(scene.core.status().gap, Some(4_097));
        scene.core.catch_up.heard(validators[1], Tip { height: 9_000, lowest: 1 }, |_| true);
        scene.core.sample_ms = now_ms;
        scene.core.tick().await.unwrap();
        assert_eq!(scene.core.status().gap, None);
    });
}

fn equivocation(genesis: &Genesis, signer: u32) -> super::super::evidence::Evidence {
    let votes = [1, 2].map(|block| {
        let proposal = Vote { epoch: 0, view: 5, parent_view: 4, block: [block; 32] };
        vote(genesis, signer, Statement::Notarize(proposal))
    });
    contradiction(&votes[0], &votes[1]).unwrap()
}

#[test]
fn evidence_is_passed_on_to_everyone_once() {
    step(1_000, async |mut scene| {
        let from = scene.genesis.validators().get(2).unwrap().key;
        let evidence = equivocation(&scene.genesis, 1);
        for _ in 0..2 {
            scene.core.on_evidence(&from, evidence.clone()).await.unwrap();
        }
        let told: Vec<_> = scene
            .sent()
            .into_iter()
            .filter(|(_, it)| *it == Message::Evidence(Box::new(evidence.clone())))
            .map(|(to, _)| to)
            .collect();
        let mut everyone: Vec<_> = scene.genesis.validators().iter().map(|it| it.key).collect();
        everyone.sort();
        let mut once = told.clone();
        once.sort();
        assert_eq!(once, everyone);
        assert_eq!(scene.book.lock().unwrap().evidence, 1);
        assert!(scene.core.inbox.blocked().is_empty());
    });
}

#[test]
fn with_more_culprits_than_agreement_bears_nothing_is_agreed_on() {
    step(1_000, async |mut scene| {
        let from = scene.genesis.validators().get(0).unwrap().key;
        let first = block_after(&scene.genesis, &scene.genesis.header(), Vec::new());
        let second = block_after(&scene.genesis, &first.header, Vec::new());
        scene.core.on_evidence(&from, equivocation(&scene.genesis, 1)).await.unwrap();
        assert!(scene.accept(&first).await, "one of four may be faulty");
        scene.core.on_evidence(&from, equivocation(&scene.genesis, 2)).await.unwrap();
        assert!(scene.core.halted.is_some());
        assert!(!scene.accept(&second).await);
        scene.insert(&second);
        scene.called_final(&second.header).await;
        assert_eq!(scene.core.chain.tip().height, 1);
    });
}
