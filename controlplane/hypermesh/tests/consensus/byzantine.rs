//! Ten validators of which three break the protocol, in each of the ways there are: the others go on, exactly the
//! provable culprits are named, in under a second from what they did, and nobody else ever. With four of ten nothing is
//! promised but that no two blocks of one height are called final.
//!
//! `HYPERMESH_SEEDS=first..last` runs others than the few that every run has.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use commonware_runtime::deterministic::{Config, Runner};
use commonware_runtime::{Runner as _, Supervisor as _};
use stoq_hypermesh::consensus::evidence::{Judge, Judgement};
use stoq_hypermesh::consensus::{Case, EvidenceFile, Genesis, Header, Offence, Suspicion};

use super::ledger::{Faults, lock};
use super::tamper::{self, Alternatives, Bad, Forgery, Watch};
use super::world::{World, genesis};

/// Seeds of every run
const SEEDS: Range<u64> = 0..2;
const MEMBERS: usize = 10;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Behaviour {
    /// Each for itself proposes two blocks in one view
    Equivocating,
    /// Each proposes two blocks in one view, and votes twice where another does
    Conspiring,
    /// Each proposes an invalid block, and votes for any
    Proposing,
    /// Each proposes a block whose header cannot follow its parent's
    Misdating,
    /// One proposes an invalid block, the others vote for it
    Voting,
    Silent,
    Delaying,
    Forging,
    Replaying,
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("HYPERMESH_SEEDS") else { return SEEDS };
    let (first, last) = text.split_once("..").expect("HYPERMESH_SEEDS is first..last");
    first.parse().expect("a number")..last.parse().expect("a number")
}

/// Judges as every honest validator does
pub struct Reader;

impl Judge for Reader {
    fn operation(&mut self, _: &Header, operation: &[u8]) -> Judgement {
        if operation.starts_with(b"bad") {
            Judgement::Invalid("it begins with bad".to_owned())
        } else {
            Judgement::Valid
        }
    }

    fn block(&mut self, _: &Header, _: &[Bytes]) -> Judgement {
        Judgement::Unknown
    }
}

struct Scene {
    world: World,
    watch: Watch,
    faulty: Vec<usize>,
    honest: Vec<usize>,
    /// Forgers whose forgeries nobody can miss
    plain: BTreeSet<usize>,
}

impl Scene {
    async fn new(context: commonware_runtime::deterministic::Context, count: usize) -> Self {
        let (mut world, watch) = Self::world(context).await;
        let mut faulty = BTreeSet::new();
        while faulty.len() < count {
            faulty.insert(world.draw(MEMBERS as u64) as usize);
        }
        Self::with(world, watch, faulty)
    }

    async fn world(context: commonware_runtime::deterministic::Context) -> (World, Watch) {
        let watch = Watch::new(context.child("watch"));
        (World::new(context, genesis(MEMBERS as u64, 1_000), MEMBERS as u64).await, watch)
    }

    /// Four of which the honest ones are led apart in two halves of three: with four, each half is a quorum
    async fn halved(context: commonware_runtime::deterministic::Context) -> Self {
        let (mut world, watch) = Self::world(context).await;
        let mut faulty = BTreeSet::new();
        while faulty.len() < 4 {
            let number = world.draw(MEMBERS as u64) as usize;
            let shown_other =
                |number: &usize| tamper::sees_other(&world.genesis, &world.members[*number].key);
            let alike = |known: &&usize| shown_other(known) == shown_other(&number);
            if faulty.iter().filter(alike).count() < 2 {
                faulty.insert(number);
            }
        }
        Self::with(world, watch, faulty)
    }

    fn with(world: World, watch: Watch, faulty: BTreeSet<usize>) -> Self {
        let honest = (0..MEMBERS).filter(|number| !faulty.contains(number)).collect();
        let faulty = faulty.into_iter().collect();
        Self { world, watch, faulty, honest, plain: BTreeSet::new() }
    }

    fn corrupt(&mut self, behaviour: Behaviour) {
        let genesis = Arc::clone(&self.world.genesis);
        let (together, bad) = (Alternatives::default(), Bad::default());
        let forgery = self.world.draw(Forgery::ALL.len() as u64) as usize;
        let late_ms = 300 + self.world.draw(700);
        for (place, number) in self.faulty.iter().copied().enumerate() {
            let member = &mut self.world.members[number];
            let watch = &self.watch;
            member.tamper = Some(match behaviour {
                Behaviour::Equivocating => {
                    tamper::equivocator(number, &genesis, Alternatives::default(), watch)
                }
                Behaviour::Conspiring => {
                    tamper::equivocator(number, &genesis, Arc::clone(&together), watch)
                }
                Behaviour::Misdating => tamper::misdater(number, &genesis, watch),
                Behaviour::Proposing | Behaviour::Voting => {
                    let proposes_invalid = behaviour == Behaviour::Proposing || place == 0;
                    member.faults = Faults { proposes_invalid, accepts_all: true };
                    tamper::informer(number, &bad, watch)
                }
                Behaviour::Silent => tamper::silent(),
                Behaviour::Delaying => tamper::late(late_ms, watch),
                Behaviour::Forging => {
                    let forgery = Forgery::ALL[(forgery + place) % Forgery::ALL.len()];
                    // A signature is looked at only while a quorum is missing.
                    if !matches!(forgery, Forgery::Signature) {
                        self.plain.insert(number);
                    }
                    tamper::forger(number, &genesis, forgery, watch)
                }
                Behaviour::Replaying => tamper::replayer(),
            });
        }
    }

    /// Lets honest operations be agreed on while the others do what they do
    async fn play(&mut self, operations: usize) {
        self.world.start_all().await;
        for number in 0..operations {
            let member = self.honest[number % self.honest.len()];
            let operation = Bytes::from(format!("operation {number}"));
            assert!(self.world.hand_in(member, operation).await, "an honest operation is taken");
            assert!(!self.world.hand_in(member, format!("bad {number}")).await);
            self.world.pass(60).await;
        }
    }

    async fn agree(&mut self, operations: usize) {
        let deadline = self.world.now_ms() + 60_000;
        loop {
            let done = self.honest.iter().all(|number| {
                lock(&self.world.members[*number].book).operations.len() >= operations
            });
            if done {
                break;
            }
            assert!(self.world.now_ms() < deadline, "{}", self.world.report().await);
            self.world.pass(50).await;
        }
        self.world.check(self.honest.iter().copied());
        for number in &self.honest {
            let book = lock(&self.world.members[*number].book);
            assert!(book.operations.keys().all(|operation| !operation.starts_with(b"bad")));
        }
    }

    async fn cases(&self, number: usize) -> Vec<Case> {
        self.world.client(number).evidence().await
    }

    /// Every honest validator names exactly these, in time, with evidence that holds elsewhere
    async fn names(&self, expected: &[usize], allowed: &[Offence]) {
        let key = |number: &usize| self.world.members[*number].key;
        let expected_keys: BTreeSet<_> = expected.iter().map(key).collect();
        for number in &self.honest {
            let cases = self.cases(*number).await;
            let named: BTreeSet<_> = cases.iter().map(|case| case.finding.validator.key).collect();
            assert_eq!(named, expected_keys, "by {number}: {}", self.world.report().await);
            for case in &cases {
                assert!(allowed.contains(&case.finding.offence), "{:?}", case.finding);
                self.holds_elsewhere(*number, case).await;
            }
            for culprit in expected {
                let first = self.watch.first(*culprit).expect("it did something wrong");
                let of_culprit = |case: &&Case| case.finding.validator.key == key(culprit);
                let found = cases.iter().filter(of_culprit).map(|case| case.found_ms).min();
                let after_ms = found.expect("it is named").saturating_sub(first);
                assert!(after_ms < 1_000, "{number} named {culprit} only after {after_ms} ms");
            }
        }
    }

    async fn holds_elsewhere(&self, number: usize, case: &Case) {
        let file = self.world.client(number).evidence_file(case.id).await.expect("it is kept");
        let octets = Bytes::from(file.to_vec());
        let genesis = Arc::new(Genesis::clone(&self.world.genesis));
        let read = EvidenceFile::from_bytes(&octets).expect("a file");
        let finding = read.verify(&genesis, &mut Reader).expect("it holds");
        assert_eq!(finding.validator, case.finding.validator);
        assert_eq!(finding.offence, case.finding.offence);
    }

    /// From which validators the honest ones take nothing any more
    async fn blocked(&self, number: usize) -> BTreeSet<usize> {
        let status = self.world.client(number).status().await.expect("it runs");
        let blocked = status.validators.iter().filter(|validator| validator.blocked.is_some());
        let numbers = blocked.map(|validator| {
            let mut members = self.world.members.iter();
            members.position(|member| member.key == validator.key).expect("a member")
        });
        numbers.collect()
    }
}

fn with_each_seed(count: usize, behaviour: Behaviour, play: impl AsyncFn(Scene)) {
    for seed in seeds() {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Runner::new(Config::default().with_seed(seed)).start(|context| async {
                let mut scene = Scene::new(context, count).await;
                scene.corrupt(behaviour);
                play(scene).await;
            });
        }));
        if let Err(panic) = outcome {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
            panic!("{behaviour:?}, seed {seed}: {}", said.unwrap_or_default());
        }
    }
}

#[test]
fn who_proposes_two_blocks_is_named() {
    with_each_seed(3, Behaviour::Equivocating, async |mut scene| {
        scene.play(40).await;
        scene.agree(40).await;
        let faulty = scene.faulty.clone();
        scene.names(&faulty, &[Offence::Equivocation]).await;
    });
}

#[test]
fn who_votes_twice_for_accomplices_is_named() {
    with_each_seed(3, Behaviour::Conspiring, async |mut scene| {
        scene.play(40).await;
        scene.agree(40).await;
        let faulty = scene.faulty.clone();
        scene.names(&faulty, &[Offence::Equivocation]).await;
    });
}

#[test]
fn who_proposes_an_invalid_block_is_named() {
    with_each_seed(3, Behaviour::Proposing, async |mut scene| {
        scene.play(40).await;
        scene.agree(40).await;
        let faulty = scene.faulty.clone();
        scene.names(&faulty, &[Offence::InvalidProposal, Offence::InvalidVote]).await;
    });
}

#[test]
fn who_proposes_a_block_older_than_its_parent_is_named() {
    with_each_seed(3, Behaviour::Misdating, async |mut scene| {
        scene.play(40).await;
        scene.agree(40).await;
        let faulty = scene.faulty.clone();
        scene.names(&faulty, &[Offence::InvalidProposal, Offence::InvalidVote]).await;
    });
}

#[test]
fn who_votes_for_an_invalid_block_is_named() {
    with_each_seed(3, Behaviour::Voting, async |mut scene| {
        scene.play(40).await;
        scene.agree(40).await;
        let faulty = scene.faulty.clone();
        scene.names(&faulty, &[Offence::InvalidProposal, Offence::InvalidVote]).await;
    });
}

#[test]
fn who_is_silent_is_suspected_and_not_accused() {
    with_each_seed(3, Behaviour::Silent, async |mut scene| {
        scene.play(40).await;
        scene.agree(40).await;
        scene.names(&[], &[]).await;
        scene.world.pass(5_000).await;
        for number in scene.honest.clone() {
            let status = scene.world.client(number).status().await.expect("it runs");
            for validator in &status.validators {
                let of_key = |member: &usize| scene.world.members[*member].key == validator.key;
                let silent = scene.faulty.iter().any(of_key);
                let suspected = matches!(validator.suspicion, Some(Suspicion::Silent { .. }));
                assert_eq!(suspected, silent, "{validator:?}");
                assert!(!validator.convicted && validator.blocked.is_none());
            }
        }
    });
}

#[test]
fn who_is_late_is_not_accused() {
    with_each_seed(3, Behaviour::Delaying, async |mut scene| {
        scene.play(40).await;
        scene.agree(40).await;
        scene.names(&[], &[]).await;
        for number in scene.honest.clone() {
            assert_eq!(scene.blocked(number).await, BTreeSet::new());
        }
    });
}

#[test]
fn who_forges_accuses_nobody_and_is_not_listened_to() {
    with_each_seed(3, Behaviour::Forging, async |mut scene| {
        scene.play(40).await;
        scene.agree(40).await;
        scene.names(&[], &[]).await;
        let faulty: BTreeSet<usize> = scene.faulty.iter().copied().collect();
        for number in scene.honest.clone() {
            let blocked = scene.blocked(number).await;
            assert!(blocked.is_superset(&scene.plain), "{}", scene.world.report().await);
            assert!(blocked.is_subset(&faulty), "{}", scene.world.report().await);
        }
    });
}

#[test]
fn who_repeats_itself_does_no_harm() {
    with_each_seed(3, Behaviour::Replaying, async |mut scene| {
        scene.play(40).await;
        scene.agree(40).await;
        scene.names(&[], &[]).await;
        for number in scene.honest.clone() {
            assert_eq!(scene.blocked(number).await, BTreeSet::new());
        }
    });
}

#[test]
fn with_four_of_ten_no_two_blocks_of_one_height_are_final() {
    let behaviours = [
        Behaviour::Equivocating,
        Behaviour::Conspiring,
        Behaviour::Proposing,
        Behaviour::Voting,
        Behaviour::Silent,
        Behaviour::Forging,
    ];
    for behaviour in behaviours {
        with_each_seed(4, behaviour, async |mut scene| {
            scene.world.start_all().await;
            for round in 0..40 {
                for number in scene.honest.clone() {
                    // Once it has halted it takes none; that is allowed here.
                    let _ = scene.world.hand_in(number, format!("{number} {round}")).await;
                }
                scene.world.pass(100).await;
                scene.world.check(scene.honest.iter().copied());
            }
            let faulty: BTreeSet<_> =
                scene.faulty.iter().map(|number| scene.world.members[*number].key).collect();
            for number in scene.honest.clone() {
                for case in scene.cases(number).await {
                    assert!(faulty.contains(&case.finding.validator.key), "{:?}", case.finding);
                }
            }
        });
    }
}

#[test]
fn with_four_that_lead_the_rest_apart_nothing_is_final_twice() {
    for seed in seeds() {
        Runner::new(Config::default().with_seed(seed)).start(|context| async {
            let mut scene = Scene::halved(context).await;
            scene.corrupt(Behaviour::Conspiring);
            scene.world.start_all().await;
            for _ in 0..60 {
                scene.world.pass(50).await;
                scene.world.check(scene.honest.iter().copied());
            }
            for number in scene.honest.clone() {
                let cases = scene.cases(number).await;
                let named: BTreeSet<_> = cases.iter().map(|it| it.finding.validator.key).collect();
                let halted = scene.world.client(number).status().await.expect("it runs").halted;
                assert_eq!(named.len(), 4, "seed {seed}: {}", scene.world.report().await);
                assert!(halted.is_some(), "seed {seed}: {number} goes on with four culprits");
            }
        });
    }
}

#[test]
fn evidence_outlives_a_crash() {
    Runner::seeded(11).start(|context| async move {
        let mut scene = Scene::new(context, 1).await;
        scene.corrupt(Behaviour::Equivocating);
        scene.play(20).await;
        scene.agree(20).await;
        let witness = scene.honest[0];
        let before: Vec<_> = scene.cases(witness).await.iter().map(|case| case.id).collect();
        assert!(!before.is_empty());
        scene.world.crash(witness).await;
        scene.world.start(witness).await;
        let after: Vec<_> = scene.cases(witness).await.iter().map(|case| case.id).collect();
        assert_eq!(after[..before.len()], before);
        assert!(lock(&scene.world.members[witness].book).evidence >= 2 * before.len());
    });
}
