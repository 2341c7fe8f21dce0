//! Random histories: the same input gives the same root on every validator, whatever it restored and copied on the
//! way, and the numbers of every state add up.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Requesters and assets by number, so that histories meet
#[derive(Clone, Debug)]
enum Step {
    Register { owner: u8, name: u8, capacity: u64, shared: bool },
    Allocate { asker: u8, asset: usize, quantity: u64, holder: u8 },
    Use { asker: u8, allocation: usize },
    End { asker: u8, allocation: usize, failed: bool },
    Restore { asker: u8, asset: usize },
    Retire { asker: u8, asset: usize },
    Transfer { asker: u8, asset: usize, to: u8 },
    Certify { asker: u8, asset: Option<usize> },
    EndCertificate { asker: u8, asset: usize },
    Ticket { asker: u8 },
    Give { asker: u8, to: u8, amount: u64 },
    Vote { validator: u8, change: u8 },
    Batch(Vec<Step>),
}

fn single() -> impl Strategy<Value = Step> {
    let (asker, index) = (1..6u8, any::<usize>());
    prop_oneof![
        4 => (asker.clone(), 0..4u8, 0..20u64, any::<bool>())
            .prop_map(|(owner, name, capacity, shared)| {
                Step::Register { owner, name, capacity, shared }
            }),
        8 => (asker.clone(), index, 0..8u64, asker.clone())
            .prop_map(|(asker, asset, quantity, holder)| {
                Step::Allocate { asker, asset, quantity, holder }
            }),
        4 => (asker.clone(), index).prop_map(|(asker, allocation)| Step::Use { asker, allocation }),
        6 => (asker.clone(), index, any::<bool>())
            .prop_map(|(asker, allocation, failed)| Step::End { asker, allocation, failed }),
        2 => (asker.clone(), index).prop_map(|(asker, asset)| Step::Restore { asker, asset }),
        1 => (asker.clone(), index).prop_map(|(asker, asset)| Step::Retire { asker, asset }),
        2 => (asker.clone(), index, asker.clone())
            .prop_map(|(asker, asset, to)| Step::Transfer { asker, asset, to }),
        2 => (asker.clone(), prop::option::of(index))
            .prop_map(|(asker, asset)| Step::Certify { asker, asset }),
        1 => (asker.clone(), index)
            .prop_map(|(asker, asset)| Step::EndCertificate { asker, asset }),
        1 => asker.clone().prop_map(|asker| Step::Ticket { asker }),
        2 => (asker.clone(), asker, 0..60u64)
            .prop_map(|(asker, to, amount)| Step::Give { asker, to, amount }),
        2 => (VALIDATOR..VALIDATOR + 5, 0..6u8)
            .prop_map(|(validator, change)| Step::Vote { validator, change }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![8 => single(), 1 => vec(single(), 1..6).prop_map(Step::Batch)]
}

/// The step as an operation on what there is now, and who asks
fn operation(registry: &Registry, step: &Step) -> (u8, OperationBody) {
    let assets: Vec<_> = registry.assets().map(|asset| asset.id).collect();
    let nowhere = || AssetName::new("nowhere").unwrap();
    let nothing = AssetId::derive(&NETWORK, &[0; 32], AssetKind::Cpu, &nowhere());
    let asset = |at: usize| assets.get(at % assets.len().max(1)).copied().unwrap_or(nothing);
    let allocations: Vec<_> = registry.allocations().map(|(id, _)| *id).collect();
    let allocation =
        |at: usize| allocations.get(at % allocations.len().max(1)).copied().unwrap_or([0; 32]);
    match step {
        Step::Register { owner, name, capacity, shared } => {
            let sharing = if *shared { Sharing::Anyone } else { Sharing::Owner };
            (*owner, register(&format!("asset-{name}"), *capacity, sharing))
        }
        Step::Allocate { asker, asset: at, quantity, holder } => {
            (*asker, allocate(asset(*at), *quantity, *holder))
        }
        Step::Use { asker, allocation: at } => (*asker, begin_use(allocation(*at))),
        Step::End { asker, allocation: at, failed: true } => (*asker, fail(allocation(*at))),
        Step::End { asker, allocation: at, .. } => (*asker, release(allocation(*at))),
        Step::Restore { asker, asset: at } => (*asker, restore(asset(*at))),
        Step::Retire { asker, asset: at } => (*asker, retire(asset(*at))),
        Step::Transfer { asker, asset: at, to } => (*asker, transfer(asset(*at), *to)),
        Step::Certify { asker, asset: at } => (*asker, certify(at.map(asset), 1)),
        Step::EndCertificate { asker, asset: at } => {
            (*asker, OperationBody::EndCertificate { asset: asset(*at) })
        }
        Step::Ticket { asker } => (*asker, OperationBody::RequestTicket),
        Step::Give { asker, to, amount } => (*asker, give(*to, *amount)),
        Step::Vote { validator: voter, change } => (*voter, OperationBody::Vote(voted(*change))),
        Step::Batch(steps) => {
            let parts = steps.iter().map(|step| operation(registry, step));
            let (askers, parts): (Vec<_>, Vec<_>) = parts.unzip();
            (askers[0], OperationBody::Batch(parts))
        }
    }
}

fn voted(change: u8) -> Change {
    let key = |seed| ValidatorKey(public(seed));
    match change {
        0 => Change::Admit(validator(VALIDATOR + 4)),
        1 => Change::Remove(key(VALIDATOR)),
        2 => Change::Replace { key: key(VALIDATOR + 1), new_key: key(VALIDATOR + 4) },
        3 => Change::SetPolicy { id: 9, policy: Policy { id: 9, ..Policy::TEST } },
        4 => Change::SetParameters(Parameters { stake_min: 5, ..genesis().parameters }),
        _ => Change::Remove(key(VALIDATOR + 1)),
    }
}

/// What holds in every state
fn check(registry: &Registry) {
    let mut taken: BTreeMap<Digest, (u64, u64)> = BTreeMap::new();
    let mut held: BTreeMap<RequesterId, u32> = BTreeMap::new();
    for (_, allocation) in registry.allocations().filter(|(_, one)| one.state.is_live()) {
        let (allocated, in_use) = taken.entry(allocation.asset.key()).or_default();
        *allocated += allocation.quantity;
        *in_use += if allocation.state == AllocationState::InUse { allocation.quantity } else { 0 };
        *held.entry(allocation.holder).or_default() += 1;
    }
    let mut owned: BTreeMap<RequesterId, u32> = BTreeMap::new();
    for asset in registry.assets() {
        let (allocated, in_use) = taken.remove(&asset.id.key()).unwrap_or_default();
        assert_eq!((asset.allocated, asset.in_use), (allocated, in_use));
        assert!(asset.allocated + asset.failed <= asset.capacity);
        let expected = if asset.retired { 0 } else { asset.capacity - allocated - asset.failed };
        assert_eq!(asset.available(), expected);
        if !asset.retired {
            *owned.entry(asset.owner).or_default() += 1;
        }
    }
    assert!(taken.is_empty(), "allocations of what is not there");
    let mut stake = 0;
    for (id, requester) in registry.requesters.iter() {
        assert_eq!(requester_id(&requester.key), *id);
        assert_eq!(requester.assets, owned.remove(id).unwrap_or(0));
        assert_eq!(requester.allocations, held.remove(id).unwrap_or(0));
        stake += requester.stake;
    }
    assert!(owned.is_empty() && held.is_empty(), "what belongs to nobody");
    assert_eq!(stake, 400, "stake is neither made nor lost");
    assert!(!registry.validators().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Goal: determinism and sound numbers. Method: one history to three registries: one that goes on, one that is
    /// snapshot and restored in the middle, one that also tries blocks in vain before each real one.
    #[test]
    fn the_same_history_gives_the_same_root(
        blocks in vec(vec(step(), 0..8), 1..24),
        middle in any::<prop::sample::Index>(),
    ) {
        let mut plain = World::new();
        let mut restored = World::new();
        let mut trying = World::new();
        let middle = middle.index(blocks.len());
        for (number, steps) in blocks.iter().enumerate() {
            if number == middle {
                let (octets, root) = (restored.registry.snapshot(), plain.registry.state_root());
                restored.registry = Registry::restore(&octets, &root).unwrap();
            }
            let asked: Vec<_> =
                steps.iter().map(|step| operation(&plain.registry, step)).collect();
            let mut in_vain = trying.clone();
            in_vain.block(asked.iter().rev().cloned().collect());
            let results = plain.block(asked.clone());
            prop_assert_eq!(&restored.block(asked.clone()), &results);
            prop_assert_eq!(&trying.block(asked), &results);
            let root = plain.registry.state_root();
            prop_assert_eq!(restored.registry.state_root(), root);
            prop_assert_eq!(trying.registry.state_root(), root);
            prop_assert_eq!(&restored.last, &plain.last);
            check(&plain.registry);
        }
        prop_assert_eq!(restored.registry.snapshot(), plain.registry.snapshot());
    }
}
