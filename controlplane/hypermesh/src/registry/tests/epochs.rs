//! What begins and ends with an epoch: stakes, tickets, changes that were voted for, and requesters who left.

use super::*;
use crate::merkle;
use crate::proof::{ChainView, StakeLeaf};

/// Whether the registry's own root holds what it says of a requester's stake
fn shown_weight(world: &World, seed: u8) -> Option<u64> {
    let holding = world.registry.stake_holding(&id(seed))?;
    let (root, count) = world.registry.stake_root(world.registry.next_epoch()).unwrap();
    let StakeLeaf { index, requester, weight, key } = holding.leaf;
    assert_eq!((requester, key), (id(seed), public(seed)));
    assert!(merkle::verify(&root, count, index, &holding.leaf.digest(), &holding.path));
    Some(weight)
}

#[test]
fn stake_counts_from_the_next_epoch_on() {
    let mut world = World::new();
    assert_eq!((shown_weight(&world, ALICE), world.registry.total_stake()), (Some(100), 400));
    let effect = world.one(ALICE, give(50, 30)).unwrap();
    assert_eq!(effect, Effect::StakeGiven { from: id(ALICE), to: id(50), amount: 30 });
    world.one(ALICE, give(BOB, 70)).unwrap();
    assert_eq!(shown_weight(&world, ALICE), Some(100));
    assert_eq!(shown_weight(&world, 50), None);
    let epoch = world.registry.next_epoch();
    assert_eq!(world.next_epoch().epoch, epoch + 1);
    assert_eq!(world.registry.next_epoch(), epoch + 1);
    assert_eq!(shown_weight(&world, ALICE), None);
    assert_eq!(shown_weight(&world, BOB), Some(170));
    assert_eq!(shown_weight(&world, 50), Some(30));
    assert_eq!(world.registry.total_stake(), 400);
    assert_eq!(ChainView::stake_root(&world.registry, epoch), None);
}

#[test]
fn stake_is_given_by_who_has_it_and_never_in_crumbs() {
    let mut rules = genesis();
    rules.parameters.stake_min = 20;
    let mut world = World::from(&rules);
    assert_eq!(world.refused(ALICE, give(BOB, 101)), Refusal::StakeTooSmall { stake: 100 });
    assert_eq!(world.refused(99, give(BOB, 1)), Refusal::StakeTooSmall { stake: 0 });
    assert_eq!(world.refused(ALICE, give(ALICE, 50)), Refusal::StakeToSelf);
    let least = Refusal::StakeBelowLeast { min: 20 };
    assert_eq!(world.refused(ALICE, give(50, 19)), least);
    assert_eq!(world.refused(ALICE, give(BOB, 81)), least);
    assert_eq!(world.refused(ALICE, give(BOB, 0)), least);
    world.one(ALICE, give(50, 80)).unwrap();
    world.one(ALICE, give(BOB, 20)).unwrap();
    // 2 is no point on the curve in any sign.
    let mut nobody = [0; 32];
    nobody[0] = 2;
    let to_nobody = OperationBody::Stake(StakeOperation::Give { to_key: nobody, amount: 50 });
    assert_eq!(world.refused(BOB, to_nobody), Refusal::BadKey);
}

#[test]
fn stake_that_does_not_fit_is_not_given() {
    let mut rules = genesis();
    rules.stakes = vec![
        GenesisStake { key: public(ALICE), amount: u64::MAX - 5 },
        GenesisStake { key: public(BOB), amount: 5 },
    ];
    let mut world = World::from(&rules);
    world.one(BOB, give(ALICE, 5)).unwrap();
    assert_eq!(world.registry.requester(&id(ALICE)).unwrap().stake, u64::MAX);
    rules.stakes[1].amount = 6;
    assert_eq!(Registry::genesis(&rules).unwrap_err(), GenesisError::StakeOverflow);
}

#[test]
fn tickets_end_with_their_epoch() {
    let mut world = World::new();
    let effect = world.one(ALICE, OperationBody::RequestTicket).unwrap();
    let Effect::TicketGranted { ticket, granted } = effect else { panic!("{effect:?}") };
    assert_eq!((granted.requester, granted.epoch), (id(ALICE), 0));
    assert_eq!(granted.remaining, Policy::TEST.ticket_operations);
    assert_eq!(ChainView::ticket(&world.registry, &ticket), Some(granted));
    let twice =
        OperationBody::Batch(vec![OperationBody::RequestTicket, OperationBody::RequestTicket]);
    let reason = Box::new(Refusal::TicketTwice);
    assert_eq!(world.refused(ALICE, twice), Refusal::Part { part: 1, reason });
    world.next_epoch();
    assert_eq!(ChainView::ticket(&world.registry, &ticket), None);

    let mut rules = genesis();
    rules.policies = vec![Policy { ticket_operations: 0, ..Policy::TEST }];
    let mut world = World::from(&rules);
    let none = Refusal::NoTickets { policy: Policy::TEST_ID };
    assert_eq!(world.refused(ALICE, OperationBody::RequestTicket), none);
}

#[test]
fn who_has_nothing_left_is_forgotten_with_the_epoch() {
    let mut world = World::new();
    let asset = world.asset(ALICE, "cpus", Sharing::Anyone);
    world.allocation(BOB, asset, 1, BOB);
    for seed in [ALICE, BOB, CAROL, VALIDATOR] {
        world.one(seed, give(50, 100)).unwrap();
    }
    let known = |world: &World| {
        [ALICE, BOB, CAROL, VALIDATOR].map(|seed| world.registry.requester(&id(seed)).is_some())
    };
    assert_eq!(known(&world), [true; 4]);
    world.next_epoch();
    // Alice owns something, Bob holds something, and a validator may still vote.
    assert_eq!(known(&world), [true, true, false, true]);
}

#[test]
fn epochs_have_the_length_the_genesis_says() {
    let mut world = World::new();
    let mut starts = Vec::new();
    for height in 1..=3 * EPOCH_BLOCKS {
        world.block(Vec::new());
        if let Some(start) = &world.last.as_ref().unwrap().epoch_start {
            starts.push((height, start.epoch));
        }
    }
    assert_eq!(starts, [(8, 1), (16, 2), (24, 3)]);
    assert_eq!(world.registry.epoch_end_height(), 32);
}
