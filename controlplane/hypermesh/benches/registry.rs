//! Operations per second that one core takes into blocks, over a registry of 100,000 assets: with signatures, with
//! signatures that were checked when the operations came in, in batches, and the state root alone. What a validator
//! does besides (votes, the network, the disk) is measured by `stoq-bench agree`.

#![forbid(unsafe_code)]

#[path = "../tests/registry/world.rs"]
mod world;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ed25519_consensus::SigningKey;
use stoq_hypermesh::digest::derive;
use stoq_hypermesh::operation::{
    BATCH_LIMIT, Candidate, OperationBody, Sharing, verify_signatures,
};
use stoq_hypermesh::registry::Registry;
use world::{World, allocate, asset, candidates, facts, register};

const ASSETS: usize = 100_000;
const BLOCK_OPERATIONS: usize = 1_000;

fn name(number: usize) -> String {
    format!("memory-{number}")
}

/// A registry with all assets, Alice's, and the next sequence number
fn filled(world: &mut World) -> u64 {
    let mut sequence = 1;
    for first in (0..ASSETS).step_by(BATCH_LIMIT) {
        let numbers = first..(first + BATCH_LIMIT).min(ASSETS);
        let parts = numbers.map(|number| register(&name(number), 1 << 30, Sharing::Anyone));
        let body = OperationBody::Batch(parts.collect());
        let operation = world.alice.proven(&world.registry, sequence, body);
        world.apply(&[operation]).expect("a sound block");
        sequence += 1;
    }
    assert_eq!(world.registry.assets_count(), ASSETS);
    sequence
}

/// Allocations all over the assets, each with a ticket
fn singles(world: &mut World, sequence: u64) -> Vec<Candidate> {
    let ticket = world.ticket(|world| &world.alice, sequence);
    let operations: Vec<_> = (0..BLOCK_OPERATIONS)
        .map(|number| {
            let asset = asset(&world.alice, &name(number * 7_919 % ASSETS));
            let body = allocate(asset, 1, world.bob.id());
            let sequence = sequence + 1 + number as u64;
            world.alice.ticketed(&world.registry, ticket, sequence, body)
        })
        .collect();
    candidates(&operations)
}

/// As many signatures of as many requesters: nothing that a batch could share
fn of_strangers(registry: &Registry) -> Vec<Candidate> {
    let operations: Vec<_> = (0..BLOCK_OPERATIONS)
        .map(|number| {
            let seed = derive("hypermesh v1 bench key", &[&number.to_be_bytes()]);
            let body = register(&name(number), 1, Sharing::Owner);
            world::ticketed(&SigningKey::from(seed), registry, [1; 32], 1, body)
        })
        .collect();
    candidates(&operations)
}

fn batch(world: &World, sequence: u64) -> Candidate {
    let part = |number: usize| {
        let asset = asset(&world.alice, &name(number * 7_919 % ASSETS));
        allocate(asset, 1, world.carol.id())
    };
    let body = OperationBody::Batch((0..BLOCK_OPERATIONS).map(part).collect());
    let operation = world.alice.proven(&world.registry, sequence, body);
    Candidate::new(&operation).expect("within limits")
}

fn apply(registry: &Registry, block: &[Candidate]) -> Registry {
    let mut next = registry.clone();
    next.apply_block(&facts(registry), block).expect("a sound block");
    next
}

fn blocks(criterion: &mut Criterion) {
    let mut world = World::new();
    let sequence = filled(&mut world);
    let fresh = singles(&mut world, sequence);
    let batch = batch(&world, sequence + 5_000);
    let registry = world.registry.clone();
    let mut verified = fresh.clone();
    verify_signatures(&mut verified);

    let mut group = criterion.benchmark_group("registry");
    group.throughput(Throughput::Elements(BLOCK_OPERATIONS as u64));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            let decode = |one: &Candidate| Candidate::decode(one.octets()).expect("it was read");
            fresh.iter().map(decode).collect::<Vec<_>>()
        });
    });
    group.bench_function("signatures", |bencher| {
        bencher.iter_batched_ref(
            || fresh.clone(),
            |block| verify_signatures(block),
            BatchSize::LargeInput,
        );
    });
    let strangers = of_strangers(&registry);
    group.bench_function("signatures_of_strangers", |bencher| {
        let block = || strangers.clone();
        bencher.iter_batched_ref(block, |block| verify_signatures(block), BatchSize::LargeInput);
    });
    group.bench_function("apply_verified", |bencher| {
        bencher.iter_with_large_drop(|| apply(&registry, &verified));
    });
    group.bench_function("apply_batch", |bencher| {
        bencher.iter_with_large_drop(|| apply(&registry, std::slice::from_ref(&batch)));
    });
    group.finish();

    criterion.bench_function("registry/snapshot", |bencher| bencher.iter(|| registry.snapshot()));
    let (octets, root) = (registry.snapshot(), registry.state_root());
    let mut slow = criterion.benchmark_group("registry");
    slow.sample_size(10);
    slow.bench_function("restore", |bencher| {
        bencher.iter_with_large_drop(|| Registry::restore(&octets, &root).expect("its own"));
    });
    slow.finish();
}

criterion_group!(benches, blocks);
criterion_main!(benches);
