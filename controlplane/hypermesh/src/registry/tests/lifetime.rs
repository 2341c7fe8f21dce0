//! What is remembered, for how long, and that snapshots hold all of it and nothing else.

use super::*;
use crate::proof::ChainView;

#[test]
fn what_ended_is_forgotten_after_a_while_and_not_before() {
    let mut world = World::new();
    let asset = world.asset(ALICE, "cpus", Sharing::Anyone);
    let allocation = world.allocation(BOB, asset, 4, BOB);
    let live = world.asset(BOB, "live", Sharing::Anyone);
    let taken = world.allocation(BOB, live, 1, BOB);
    let ends = vec![(BOB, release(allocation)), (ALICE, retire(asset))];
    let statement = {
        let candidates: Vec<_> =
            ends.into_iter().map(|(seed, body)| world.operation(seed, body)).collect();
        let statement = candidates[0].statement().unwrap().digest();
        assert!(world.block_of(&candidates).iter().all(Result::is_ok));
        statement
    };
    let ended_at = world.registry.last_height();
    let there = |world: &World| {
        [
            world.registry.asset(&asset).is_some(),
            world.registry.allocation(&allocation).is_some(),
            world.registry.is_seen(&statement),
        ]
    };
    while world.registry.last_height() < ended_at + KEPT_HEIGHTS {
        assert_eq!(there(&world), [true; 3]);
        world.block(Vec::new());
    }
    world.block(Vec::new());
    assert_eq!(there(&world), [false; 3]);
    assert!(world.registry.expiries.len() <= KEPT_HEIGHTS as usize);
    // What has not ended stays, and the name is free again.
    assert!(world.registry.asset(&live).is_some() && world.registry.allocation(&taken).is_some());
    assert_eq!(world.asset(ALICE, "cpus", Sharing::Anyone), asset);
}

#[test]
fn beacons_are_kept_as_long_as_a_policy_looks_back() {
    let mut world = World::new();
    let kept = Policy::TEST.beacon_age_heights;
    let mut headers = vec![NETWORK];
    for _block in 0..2 * kept {
        world.block(Vec::new());
        headers.push(world.registry.tip().unwrap());
    }
    let next = world.registry.last_height() + 1;
    for height in 0..next + 2 {
        let beacon = world.registry.beacon(height);
        let time_ms = world.registry.beacon_time_ms(height);
        if height < next && height + kept >= next {
            assert_eq!(beacon, Some(headers[height as usize]), "{height}");
            assert_eq!(time_ms, Some(1_000 + 10 * height));
        } else if height >= next {
            assert_eq!((beacon, time_ms), (None, None), "{height}");
        }
    }
    // One more is kept than the next block may name: the last block could still name it.
    assert_eq!(world.registry.beacons.len() as u64, kept);
    assert_eq!(world.registry.beacon(next - kept - 2), None);
}

/// A state with something in every table
fn full() -> World {
    let mut world = World::new();
    let asset = world.asset(ALICE, "cpus", Sharing::Anyone);
    let allocation = world.allocation(BOB, asset, 4, BOB);
    world.one(ALICE, certify(Some(asset), 1)).unwrap();
    world.one(BOB, fail(allocation)).unwrap();
    world.one(CAROL, OperationBody::RequestTicket).unwrap();
    let vote = |change| OperationBody::Vote(change);
    world.one(VALIDATOR, vote(Change::Admit(validator(60)))).unwrap();
    world.one(VALIDATOR, vote(Change::Remove(validator(VALIDATOR).key))).unwrap();
    let registry = &world.registry;
    let filled = [registry.ballots.len(), registry.tickets.len(), registry.expiries.len()];
    assert!(!filled.contains(&0) && !registry.adopted.is_empty());
    world
}

#[test]
fn a_snapshot_goes_on_as_the_original_does() {
    let mut original = full();
    let octets = original.registry.snapshot();
    let root = original.registry.state_root();
    let mut restored = original.clone();
    restored.registry = Registry::restore(&octets, &root).unwrap();
    assert_eq!(restored.registry.snapshot(), octets);
    for _epoch in 0..2 {
        assert_eq!(restored.next_epoch(), original.next_epoch());
        assert_eq!(restored.registry.state_root(), original.registry.state_root());
    }
    assert_eq!(restored.registry.snapshot(), original.registry.snapshot());
}

#[test]
fn nothing_but_the_agreed_state_is_taken() {
    let world = full();
    let octets = world.registry.snapshot();
    let root = world.registry.state_root();
    assert_eq!(Registry::restore(&octets, &[0; 32]).unwrap_err(), SnapshotError::OtherRoot);
    let mut longer = octets.clone();
    longer.push(0);
    assert!(matches!(Registry::restore(&longer, &root), Err(SnapshotError::Damaged(_))));
    let mut tip = false;
    for at in 0..octets.len() {
        assert!(matches!(Registry::restore(&octets[..at], &root), Err(SnapshotError::Damaged(_))));
        let mut flipped = octets.clone();
        flipped[at] ^= 1;
        match Registry::restore(&flipped, &root) {
            Err(SnapshotError::Damaged(_) | SnapshotError::OtherRoot) => {}
            // The digest of the last header holds the root, so the root cannot hold it.
            Ok(other) => {
                assert_ne!(other.tip(), world.registry.tip());
                tip = true;
            }
            Err(other) => panic!("{at}: {other}"),
        }
    }
    assert!(tip);
}
