//! Validators that join, leave and change their keys: the next epoch's are those the last block of this one commits to,
//! and a receipt of any epoch holds with the genesis alone.

use bytes::Bytes;
use commonware_runtime::Runner as _;
use commonware_runtime::deterministic::Runner;

use super::world::{World, genesis};

async fn members(world: &World, number: usize, text: &str) -> u64 {
    let operation = Bytes::from(text.to_owned());
    world.client(number).submit(operation).await.expect("agreed on").height
}

#[test]
fn validators_join_and_leave_and_receipts_of_every_epoch_hold() {
    Runner::seeded(21).start(|context| async move {
        // Of seven, the first four agree at first.
        let mut world = World::new(context, genesis(4, 8), 7).await;
        let known: Vec<_> = world.members.iter().map(|member| member.key).collect();
        for member in &mut world.members {
            member.contacts = known.clone();
        }
        world.start_all().await;
        let mut found = Vec::new();
        for (round, set) in ["0 1 2 3 4", "1 2 3 4 5", "2 3 4 5 6", "3 4 5 6"].iter().enumerate() {
            let voter = 3;
            members(&world, voter, &format!("members {set}")).await;
            let last = world.genesis.epoch_blocks() * (round as u64 * 3 + 4);
            assert!(world.reach([voter], last, 60_000).await, "{}", world.report().await);
            let operation = Bytes::from(format!("in round {round}"));
            let place = world.client(voter).submit(operation.clone()).await.expect("agreed on");
            found.push((operation, place));
            let status = world.client(voter).status().await.expect("it runs");
            let voting: Vec<_> = status
                .validators
                .iter()
                .map(|validator| known.iter().position(|key| *key == validator.key))
                .collect();
            let wanted: Vec<Option<usize>> =
                set.split(' ').map(|number| number.parse().ok()).collect();
            let mut voting = voting;
            voting.sort();
            assert_eq!(voting, wanted);
        }
        let last = found.last().expect("four").1.height;
        assert!(world.reach(0..7, last, 30_000).await, "{}", world.report().await);
        world.check(0..7);
        for (operation, place) in &found {
            for number in [0, 3, 6] {
                let receipt = world.client(number).receipt(place.height, place.index).await;
                let verified = receipt.expect("everyone has it").verify(&world.genesis);
                assert_eq!(&verified.expect("it holds").operation, operation);
            }
        }
        // Those who left do not vote, and those who are in do.
        for number in 0..7 {
            let status = world.client(number).status().await.expect("it runs");
            assert_eq!(status.votes, number >= 3, "{number}");
        }
    });
}

#[test]
fn crashes_around_the_end_of_an_epoch_do_no_harm() {
    for seed in 30..36 {
        Runner::seeded(seed).start(|context| async move {
            let mut world = World::new(context, genesis(4, 4), 5).await;
            let known: Vec<_> = world.members.iter().map(|member| member.key).collect();
            for member in &mut world.members {
                member.contacts = known.clone();
            }
            world.start_all().await;
            for round in 0..10 {
                let victim = world.draw(5) as usize;
                let set = ["0 1 2 3 4", "0 1 2 3"][round % 2];
                let voter = (victim + 1) % 5;
                world.hand_in(voter, format!("members {set}")).await;
                world.crash(victim).await;
                let pause = world.draw(800);
                world.pass(pause).await;
                world.start(victim).await;
                world.check(0..5);
            }
            let goal = (0..5).map(|number| world.height(number)).max().unwrap_or(0) + 8;
            assert!(
                world.reach(0..5, goal, 60_000).await,
                "seed {seed}:\n{}",
                world.report().await
            );
            world.check(0..5);
        });
    }
}

#[test]
fn an_observer_follows_and_does_not_vote() {
    Runner::seeded(22).start(|context| async move {
        let mut world = World::new(context, genesis(4, 8), 5).await;
        world.start_all().await;
        let height = members(&world, 0, "an operation").await;
        assert!(world.reach([4], height, 10_000).await, "{}", world.report().await);
        let observer = world.client(4);
        let status = observer.status().await.expect("it runs");
        assert!(!status.votes && status.validators.iter().all(|validator| !validator.own));
        let receipt = observer.receipt(height, 0).await.expect("it has the block");
        assert!(receipt.verify(&world.genesis).is_ok());
        // What is handed in at an observer is agreed on by the others.
        let asked_ms = world.now_ms();
        let found = observer.submit(Bytes::from_static(b"from outside")).await.expect("agreed on");
        assert!(found.height > height);
        assert!(world.now_ms() - asked_ms < 1_500, "the others are told at once");
        world.check(0..5);
    });
}
