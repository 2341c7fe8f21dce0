//! Thousands of ways in which a network can go wrong without anybody lying: walls, loss, delay, clocks that disagree,
//! crashes of one, of some and of all. Whatever happens, two validators never call different blocks final, and what one
//! called final stays; once the network is whole again, all go on.
//!
//! `HYPERMESH_SEEDS=first..last` runs others than the few that every run has; a seed that fails is named, and fails again.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use commonware_runtime::Runner as _;
use commonware_runtime::deterministic::{Config, Runner};

use super::ledger::lock;
use super::world::{World, genesis, link};

/// Seeds of every run
const SEEDS: Range<u64> = 0..16;
/// Things that go wrong in one run
const EVENTS: u64 = 24;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("HYPERMESH_SEEDS") else { return SEEDS };
    let (first, last) = text.split_once("..").expect("HYPERMESH_SEEDS is first..last");
    first.parse().expect("a number")..last.parse().expect("a number")
}

fn runner(seed: u64) -> Runner {
    Runner::new(Config::default().with_seed(seed).with_timeout(None))
}

/// Hands an operation to whoever is drawn, and remembers what it was
async fn load(world: &mut World, number: &mut u64, handed_in: &mut Vec<Bytes>) {
    for _ in 0..world.draw(4) {
        let member = world.draw(world.members.len() as u64) as usize;
        *number += 1;
        let operation = Bytes::from(format!("operation {number}"));
        if world.runs(member) && world.hand_in(member, operation.clone()).await {
            handed_in.push(operation);
        }
    }
}

/// One thing that goes wrong, or is put right
async fn disturb(world: &mut World) {
    let count = world.members.len() as u64;
    match world.draw(10) {
        0 => {
            let wall = world.draw(count) as usize;
            world.divide(|number| u64::from(number > wall)).await;
        }
        1 => {
            let alone = world.draw(count) as usize;
            world.divide(|number| u64::from(number == alone)).await;
        }
        2 | 3 => world.heal().await,
        4 => {
            let (latency, jitter, loss) = (1 + world.draw(60), world.draw(20), world.draw(300));
            world.set_link(link(latency, jitter, loss)).await;
        }
        5 => {
            let victim = world.draw(count) as usize;
            world.crash(victim).await;
        }
        6 => {
            // The power fails.
            for victim in 0..count as usize {
                world.crash(victim).await;
            }
            world.start_all().await;
        }
        _ => world.start_all().await,
    }
}

async fn run(mut world: World) -> World {
    let everyone = 0..world.members.len();
    for number in everyone.clone() {
        let skew = world.draw(400) as i64 - 200;
        world.members[number].settings.clock_offset_ms = skew;
    }
    world.start_all().await;
    let (mut number, mut handed_in) = (0, Vec::new());
    for _ in 0..EVENTS {
        load(&mut world, &mut number, &mut handed_in).await;
        disturb(&mut world).await;
        let pause = 50 + world.draw(600);
        world.pass(pause).await;
        world.check(everyone.clone());
    }
    world.heal().await;
    world.set_link(link(10, 2, 0)).await;
    world.start_all().await;
    let height = everyone.clone().map(|number| world.height(number)).max().unwrap_or(0) + 5;
    let reached = world.reach(everyone.clone(), height, 60_000).await;
    assert!(reached, "no progress to {height}:\n{}", world.report().await);
    world.check(everyone.clone());
    // An operation that is handed in now is agreed on, and everyone has what any of them called final.
    let last = Bytes::from_static(b"the last operation");
    let found = world.client(0).submit(last.clone()).await.expect("it is agreed on");
    assert!(world.reach(everyone.clone(), found.height, 10_000).await);
    let agreed: Vec<Bytes> = lock(&world.members[0].book).operations.keys().cloned().collect();
    for operation in &agreed {
        assert!(handed_in.contains(operation) || *operation == last, "nobody asked for this");
    }
    for member in &world.members {
        assert!(lock(&member.book).operations.contains_key(&last));
    }
    accuses_nobody(&world).await;
    world
}

/// Whatever broke, nobody lied: nobody is named, and nobody is shut out
async fn accuses_nobody(world: &World) {
    for number in 0..world.members.len() {
        let cases = world.client(number).evidence().await;
        assert!(cases.is_empty(), "{number} names {:?}", cases[0].finding);
        let status = world.client(number).status().await.expect("it runs");
        for validator in &status.validators {
            assert_eq!(validator.blocked, None, "{number} takes nothing from {}", validator.name);
        }
    }
}

fn simulate(seed: u64, count: u64, epoch_blocks: u64) -> (String, Vec<[u8; 32]>) {
    runner(seed).start(|context| async move {
        let auditor = context.auditor();
        let world = World::new(context, genesis(count, epoch_blocks), count).await;
        let world = run(world).await;
        (auditor.state(), world.agreed.values().copied().collect())
    })
}

#[test]
fn whatever_breaks_nothing_final_is_undone_and_all_go_on() {
    for seed in seeds() {
        let count = [4, 4, 7, 5][seed as usize % 4];
        let epoch_blocks = [1_000, 16][seed as usize / 4 % 2];
        let outcome = std::panic::catch_unwind(|| simulate(seed, count, epoch_blocks));
        if let Err(panic) = outcome {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
            panic!("seed {seed}: {}", said.unwrap_or_default());
        }
    }
}

#[test]
fn a_seed_repeats_itself() {
    let once = simulate(5, 4, 16);
    let again = simulate(5, 4, 16);
    assert_eq!(once, again);
    assert_ne!(simulate(6, 4, 16).0, once.0, "another seed is another world");
}

#[test]
fn alone_a_validator_agrees_with_itself_and_remembers() {
    runner(1).start(|context| async move {
        let mut world = World::new(context, genesis(1, 8), 1).await;
        world.start(0).await;
        for number in 0..20 {
            let operation = Bytes::from(format!("operation {number}"));
            let found = world.client(0).submit(operation.clone()).await.expect("agreed on");
            let receipt = world.client(0).receipt(found.height, found.index).await;
            let receipt = receipt.expect("there is one");
            let verified = receipt.verify(&world.genesis).expect("it holds");
            assert_eq!(verified.operation, operation);
            if number % 5 == 4 {
                world.crash(0).await;
                world.start(0).await;
                let again = world.client(0).receipt(found.height, found.index).await;
                assert_eq!(again.as_ref(), Some(&receipt), "what was acknowledged stays");
            }
        }
        world.check([0]);
    });
}

#[test]
fn a_validator_that_was_away_for_long_catches_up_from_others() {
    runner(2).start(|context| async move {
        let mut world = World::new(context, genesis(4, 32), 4).await;
        for number in 0..3 {
            world.start(number).await;
        }
        for number in 0..200 {
            assert!(world.hand_in(number % 3, format!("operation {number}")).await);
            world.pass(30).await;
        }
        let height = world.height(0);
        assert!(height > 64, "several epochs: {height}");
        world.start(3).await;
        let caught_up = world.reach([3], height, 10_000).await;
        assert!(caught_up, "{}", world.report().await);
        // From now on the quorum needs it.
        world.crash(0).await;
        let goal = world.height(1) + 10;
        assert!(world.reach([1, 2, 3], goal, 30_000).await, "{}", world.report().await);
        world.check(0..4);
    });
}

#[test]
fn who_catches_up_believes_certificates_and_nobody() {
    runner(6).start(|context| async move {
        let mut world = World::new(context, genesis(4, 1_000), 4).await;
        world.members[0].tamper = Some(super::tamper::liar());
        for number in 0..3 {
            world.start(number).await;
        }
        assert!(world.reach(0..3, 80, 60_000).await, "{}", world.report().await);
        // It hears of the liar alone at first.
        world.divide(|number| u64::from(number % 3 != 0)).await;
        world.start(3).await;
        world.pass(5_000).await;
        let status = world.client(3).status().await.expect("it runs");
        let blocked = status.validators.iter().filter(|it| it.blocked.is_some()).count();
        assert_eq!((status.height, blocked), (0, 1), "{}", world.report().await);
        world.heal().await;
        assert!(world.reach([3], 80, 30_000).await, "{}", world.report().await);
        world.check(1..4);
    });
}

#[test]
fn who_boasts_of_its_height_holds_up_nobody_who_catches_up() {
    runner(7).start(|context| async move {
        let mut world = World::new(context, genesis(4, 1_000), 4).await;
        world.members[0].tamper = Some(super::tamper::boaster());
        for number in 0..3 {
            world.start(number).await;
        }
        for number in 0..200 {
            assert!(world.hand_in(number % 3, format!("operation {number}")).await);
            world.pass(30).await;
        }
        let height = world.height(1);
        assert!(height > 128, "more than one answer holds: {height}");
        world.start(3).await;
        assert!(world.reach([3], height, 2_000).await, "{}", world.report().await);
        world.check(0..4);
    });
}

#[test]
fn without_a_quorum_nothing_is_agreed_on_and_with_it_all_goes_on() {
    runner(3).start(|context| async move {
        let mut world = World::new(context, genesis(4, 1_000), 4).await;
        world.start_all().await;
        assert!(world.reach(0..4, 3, 10_000).await);
        world.divide(|number| (number / 2) as u64).await;
        world.pass(1_000).await;
        let before: Vec<u64> = (0..4).map(|number| world.height(number)).collect();
        world.pass(10_000).await;
        let after: Vec<u64> = (0..4).map(|number| world.height(number)).collect();
        assert_eq!(before, after, "two of four are no quorum");
        world.heal().await;
        let goal = after.iter().max().expect("four") + 5;
        assert!(world.reach(0..4, goal, 30_000).await, "{}", world.report().await);
        world.check(0..4);
    });
}

#[test]
fn receipts_of_any_validator_hold_with_the_genesis_alone() {
    runner(4).start(|context| async move {
        let mut world = World::new(context, genesis(4, 4), 4).await;
        world.start_all().await;
        let mut found = Vec::new();
        for number in 0..12 {
            let operation = Bytes::from(format!("operation {number}"));
            let client = world.client(number % 4);
            found.push((operation.clone(), client.submit(operation).await.expect("agreed on")));
        }
        let last = found.last().expect("twelve").1.height;
        assert!(world.reach(0..4, last, 10_000).await);
        let elsewhere = Arc::new(stoq_hypermesh::consensus::Genesis::clone(&world.genesis));
        for (operation, place) in found {
            for number in 0..4 {
                let receipt = world.client(number).receipt(place.height, place.index).await;
                let octets = receipt.expect("everyone has it").to_vec();
                let read = stoq_hypermesh::receipt::Receipt::decode(&octets).expect("a receipt");
                let verified = read.verify(&elsewhere).expect("it holds");
                assert_eq!(
                    (verified.operation, verified.height),
                    (operation.clone(), place.height)
                );
            }
        }
    });
}
