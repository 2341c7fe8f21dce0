//! The life of an asset and of what is taken of it: totals that hold, and who may do what.

use super::*;

#[test]
fn an_allocation_lives_through_its_states_and_gives_back_what_it_took() {
    let mut world = World::new();
    let asset = world.asset(ALICE, "cpus", Sharing::Anyone);
    assert_eq!(world.state(&asset), (AssetState::Available, 10));

    let allocation = world.allocation(BOB, asset, 4, BOB);
    assert_eq!(world.state(&asset), (AssetState::Allocated, 6));
    world.one(BOB, begin_use(allocation)).unwrap();
    assert_eq!(world.state(&asset), (AssetState::InUse, 6));
    let used = Refusal::AllocationState { state: "in use" };
    assert_eq!(world.refused(BOB, begin_use(allocation)), used);

    let effect = world.one(BOB, release(allocation)).unwrap();
    assert_eq!(effect, Effect::Released { allocation, asset, quantity: 4 });
    assert_eq!(world.state(&asset), (AssetState::Available, 10));
    let released = Refusal::AllocationState { state: "released" };
    for body in [release(allocation), fail(allocation), begin_use(allocation)] {
        assert_eq!(world.refused(BOB, body), released);
    }
    assert_eq!(world.registry.requester(&id(BOB)).unwrap().allocations, 0);
}

#[test]
fn more_than_there_is_is_never_allocated() {
    let mut world = World::new();
    let asset = world.asset(ALICE, "cpus", Sharing::Anyone);
    let refused = |asked, available| Refusal::NotAvailable { asked, available };
    assert_eq!(world.refused(BOB, allocate(asset, 11, BOB)), refused(11, 10));
    assert_eq!(world.refused(BOB, allocate(asset, u64::MAX, BOB)), refused(u64::MAX, 10));
    assert_eq!(world.refused(BOB, allocate(asset, 0, BOB)), Refusal::NoQuantity);
    let first = world.allocation(BOB, asset, 7, BOB);
    assert_eq!(world.refused(CAROL, allocate(asset, 4, CAROL)), refused(4, 3));
    world.allocation(CAROL, asset, 3, CAROL);
    assert_eq!(world.refused(ALICE, allocate(asset, 1, ALICE)), refused(1, 0));
    world.one(BOB, release(first)).unwrap();
    world.allocation(ALICE, asset, 7, BOB);
    // Within one block the first comes first.
    let other = world.asset(ALICE, "more", Sharing::Anyone);
    let results =
        world.block(vec![(BOB, allocate(other, 6, BOB)), (CAROL, allocate(other, 6, CAROL))]);
    assert!(results[0].is_ok());
    assert_eq!(results[1], Err(refused(6, 4)));
}

#[test]
fn what_failed_is_withheld_until_its_owner_restores_it() {
    let mut world = World::new();
    let asset = world.asset(ALICE, "cpus", Sharing::Anyone);
    let allocation = world.allocation(BOB, asset, 10, BOB);
    world.one(BOB, begin_use(allocation)).unwrap();
    let effect = world.one(BOB, fail(allocation)).unwrap();
    assert_eq!(effect, Effect::Failed { allocation, asset, quantity: 10 });
    assert_eq!(world.state(&asset), (AssetState::Failed, 0));
    let refused = Refusal::NotAvailable { asked: 1, available: 0 };
    assert_eq!(world.refused(BOB, allocate(asset, 1, BOB)), refused);
    assert_eq!(world.refused(BOB, restore(asset)), Refusal::NotOwner);
    let effect = world.one(ALICE, restore(asset)).unwrap();
    assert_eq!(effect, Effect::Restored { asset, quantity: 10 });
    assert_eq!(world.state(&asset), (AssetState::Available, 10));
    assert_eq!(world.refused(ALICE, restore(asset)), Refusal::NothingFailed);
}

#[test]
fn only_who_may_does() {
    let mut world = World::new();
    let shared = world.asset(ALICE, "shared", Sharing::Anyone);
    let own = world.asset(ALICE, "own", Sharing::Owner);
    assert_eq!(world.refused(BOB, allocate(own, 1, BOB)), Refusal::NotShared);
    assert_eq!(world.refused(BOB, allocate(shared, 1, CAROL)), Refusal::NotOwner);
    assert_eq!(world.refused(ALICE, allocate(own, 1, 99)), Refusal::NoSuchRequester);
    let allocation = world.allocation(ALICE, own, 1, BOB);
    for stranger in [ALICE, CAROL] {
        assert_eq!(world.refused(stranger, begin_use(allocation)), Refusal::NotHolder);
    }
    assert_eq!(world.refused(CAROL, release(allocation)), Refusal::NotHolder);
    assert_eq!(world.refused(CAROL, fail(allocation)), Refusal::NotHolder);
    for body in [retire(own), transfer(own, CAROL), certify(Some(own), 1), restore(own)] {
        assert_eq!(world.refused(BOB, body), Refusal::NotOwner);
    }
    // The owner may take back what it gave.
    world.one(ALICE, release(allocation)).unwrap();
    assert_eq!(world.refused(BOB, release([7; 32])), Refusal::NoSuchAllocation);
    let unknown =
        AssetId::derive(&NETWORK, &id(BOB), AssetKind::Cpu, &AssetName::new("x").unwrap());
    assert_eq!(world.refused(BOB, allocate(unknown, 1, BOB)), Refusal::NoSuchAsset);
}

#[test]
fn an_asset_is_registered_once_and_by_somebody_who_is_known() {
    let mut world = World::new();
    let asset = world.asset(ALICE, "cpus", Sharing::Owner);
    let again = register("cpus", 5, Sharing::Anyone);
    assert_eq!(world.refused(ALICE, again.clone()), Refusal::AlreadyRegistered);
    // Another owner's asset of this name is another asset.
    let Ok(Effect::Registered { asset: other, .. }) = world.one(BOB, again) else { panic!() };
    assert_ne!(other, asset);
    let empty = register("empty", 0, Sharing::Owner);
    assert_eq!(world.refused(ALICE, empty), Refusal::NoCapacity);
    let stranger = register("cpus", 1, Sharing::Owner);
    assert_eq!(world.refused(99, stranger), Refusal::NoSuchRequester);
    let record = world.registry.asset(&asset).unwrap();
    assert_eq!((record.owner, record.registered_height), (id(ALICE), 1));
}

#[test]
fn an_asset_changes_hands_with_its_allocations() {
    let mut world = World::new();
    let asset = world.asset(ALICE, "cpus", Sharing::Owner);
    let allocation = world.allocation(ALICE, asset, 4, CAROL);
    assert_eq!(world.refused(ALICE, transfer(asset, ALICE)), Refusal::TransferToOwner);
    assert_eq!(world.refused(ALICE, transfer(asset, 99)), Refusal::NoSuchRequester);
    let effect = world.one(ALICE, transfer(asset, BOB)).unwrap();
    let (from, to) = (id(ALICE), id(BOB));
    assert_eq!(effect, Effect::Transferred { asset, from, to, ended_certificate: None });
    assert_eq!(world.refused(ALICE, allocate(asset, 1, ALICE)), Refusal::NotShared);
    assert_eq!(world.state(&asset), (AssetState::Allocated, 6));
    let assets = |world: &World, seed| world.registry.requester(&id(seed)).unwrap().assets;
    assert_eq!((assets(&world, ALICE), assets(&world, BOB)), (0, 1));
    world.one(CAROL, begin_use(allocation)).unwrap();
    world.one(BOB, release(allocation)).unwrap();
    assert_eq!(world.state(&asset), (AssetState::Available, 10));
}

#[test]
fn an_asset_is_retired_when_nothing_of_it_is_taken() {
    let mut world = World::new();
    let asset = world.asset(ALICE, "cpus", Sharing::Anyone);
    let allocation = world.allocation(BOB, asset, 4, BOB);
    let refused = Refusal::StillAllocated { allocated: 4 };
    assert_eq!(world.refused(ALICE, retire(asset)), refused);
    world.one(BOB, release(allocation)).unwrap();
    world.one(ALICE, retire(asset)).unwrap();
    assert_eq!(world.state(&asset), (AssetState::Released, 0));
    assert_eq!(world.registry.requester(&id(ALICE)).unwrap().assets, 0);
    for body in [allocate(asset, 1, ALICE), retire(asset), transfer(asset, BOB)] {
        assert_eq!(world.refused(ALICE, body), Refusal::AssetRetired);
    }
    let again = register("cpus", 10, Sharing::Anyone);
    assert_eq!(world.refused(ALICE, again), Refusal::AlreadyRegistered);
}

#[test]
fn a_batch_is_done_whole_or_not_at_all() {
    let mut world = World::new();
    let asset = world.asset(ALICE, "cpus", Sharing::Anyone);
    let mut without = world.clone();
    without.sequences.insert(ALICE, 2);
    let fatal = OperationBody::Batch(vec![
        allocate(asset, 4, BOB),
        register("more", 1, Sharing::Owner),
        allocate(asset, 7, BOB),
    ]);
    let results = world.block(vec![(ALICE, fatal)]);
    let reason = Box::new(Refusal::NotAvailable { asked: 7, available: 6 });
    assert_eq!(results, [Err(Refusal::Part { part: 2, reason })]);
    without.block(Vec::new());
    assert_eq!(world.registry.state_root(), without.registry.state_root());

    let good = OperationBody::Batch(vec![allocate(asset, 4, BOB), allocate(asset, 6, CAROL)]);
    let results = world.block(vec![(ALICE, good)]);
    let effects = results[0].as_ref().unwrap();
    assert_eq!(effects.len(), 2);
    let mut allocations: Vec<_> =
        world.registry.allocations().map(|(id, taken)| (*id, taken.quantity)).collect();
    allocations.sort_by_key(|(_, quantity)| *quantity);
    for (effect, (allocation, quantity)) in effects.iter().zip(allocations) {
        assert!(matches!(effect, Effect::Allocated { allocation: id, quantity: much, .. }
            if *id == allocation && *much == quantity));
    }
    assert_eq!(world.state(&asset), (AssetState::Allocated, 0));
}

#[test]
fn a_batch_holds_no_votes() {
    let mut world = World::new();
    let vote = OperationBody::Vote(Change::Remove(ValidatorKey(public(VALIDATOR))));
    let batch = OperationBody::Batch(vec![register("a", 1, Sharing::Owner), vote]);
    let reason = Box::new(Refusal::NeedsValidator { what: "vote" });
    assert_eq!(world.refused(VALIDATOR, batch), Refusal::Part { part: 1, reason });
    assert_eq!(world.registry.assets_count(), 0);
}

#[test]
fn a_sequence_number_counts_once() {
    let mut world = World::new();
    let candidate = world.operation(ALICE, register("cpus", 1, Sharing::Owner));
    assert!(world.block_of(std::slice::from_ref(&candidate))[0].is_ok());
    let used = crate::proof::ProofRefusal::ReplaySequenceUsed { sequence: 1 };
    assert_eq!(world.block_of(&[candidate]), [Err(Refusal::Proof(used))]);
    // A refused operation has used nothing up.
    let refused = world.operation(ALICE, register("empty", 0, Sharing::Owner));
    assert_eq!(world.block_of(std::slice::from_ref(&refused)), [Err(Refusal::NoCapacity)]);
    assert_eq!(world.block_of(&[refused]), [Err(Refusal::NoCapacity)]);
}
