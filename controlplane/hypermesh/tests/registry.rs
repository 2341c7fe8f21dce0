//! The registry as validators use it: operations with real proofs, tickets and signatures, in blocks.

#![forbid(unsafe_code)]

#[path = "registry/world.rs"]
mod world;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use proptest::prelude::*;
use stoq_hypermesh::digest::Digest;
use stoq_hypermesh::operation::{
    AssetOperation, Authorisation, Candidate, CertificateRequest, Operation, OperationBody,
    Sharing, verify_signatures,
};
use stoq_hypermesh::proof::ProofName;
use stoq_hypermesh::registry::{
    AssetState, Effect, InvalidBlock, Refusal, Registry, check_stateless,
};
use world::{EPOCH_BLOCKS, Member, NETWORK, World, allocate, apply, asset, facts, register};

/// Plots take a while: all tests share them and begin from the genesis
fn world() -> MutexGuard<'static, World> {
    static WORLD: OnceLock<(Mutex<World>, Registry)> = OnceLock::new();
    let (world, genesis) = WORLD.get_or_init(|| {
        let world = World::new();
        let genesis = world.registry.clone();
        (Mutex::new(world), genesis)
    });
    let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
    world.registry = genesis.clone();
    world
}

/// Why a block with this one operation is invalid, and that nothing has changed by it
fn refused(registry: &Registry, operation: &Operation) -> Refusal {
    let mut trial = registry.clone();
    let refused = apply(&mut trial, std::slice::from_ref(operation)).map(|_outcome| ());
    assert_eq!(trial.state_root(), registry.state_root());
    match refused {
        Err(InvalidBlock::Operation { index: 0, reason }) => reason,
        other => panic!("{other:?}"),
    }
}

fn certify(csr: u8) -> OperationBody {
    let asset = None;
    OperationBody::RequestCertificate(CertificateRequest { asset, csr_statement: [csr; 32] })
}

#[test]
fn a_proof_is_for_one_request_and_counts_once() {
    let mut world = world();
    let operation = world.alice.proven(&world.registry, 1, certify(1));
    // The same proof for another request, sequence, requester or life
    let others = [
        Operation { body: certify(2), ..operation.clone() },
        Operation { sequence: 2, ..operation.clone() },
        Operation { requester_key: world.bob.public(), ..operation.clone() },
        Operation { not_after_height: 100, ..operation.clone() },
    ];
    for other in &others {
        let reason = refused(&world.registry, other);
        assert!(matches!(reason, Refusal::Proof(_)), "{reason}");
        let octets = Candidate::new(other).unwrap().octets().clone();
        assert!(check_stateless(&NETWORK, 0, 1, &octets).is_err());
    }
    let octets = Candidate::new(&operation).unwrap().octets().clone();
    assert_eq!(check_stateless(&NETWORK, 0, 1, &octets), Ok(()));
    assert!(check_stateless(&NETWORK, 1, 1, &octets).is_err());
    let outcome = world.apply(std::slice::from_ref(&operation)).unwrap();
    let effect = &outcome.operations[0].effects[0];
    assert!(matches!(effect, Effect::CertificateGranted { csr_statement, requester, .. }
        if *csr_statement == [1; 32] && *requester == world.alice.id()));
    let again = refused(&world.registry, &operation);
    assert!(matches!(again, Refusal::Proof(proof) if proof.proof() == ProofName::Replay));
}

#[test]
fn an_accepted_statement_is_remembered() {
    let mut world = world();
    let operation = world.alice.proven(&world.registry, 1, certify(1));
    let statement = operation.statement().unwrap().digest();
    assert!(!stoq_hypermesh::proof::ChainView::is_seen(&world.registry, &statement));
    world.apply(&[operation]).unwrap();
    assert!(stoq_hypermesh::proof::ChainView::is_seen(&world.registry, &statement));
}

#[test]
fn a_ticket_stands_for_the_proof_of_single_operations() {
    let mut world = world();
    let ticket = world.ticket(|world| &world.alice, 1);
    let memory = asset(&world.alice, "memory");
    let body = register("memory", 100, Sharing::Anyone);
    let first = world.alice.ticketed(&world.registry, ticket, 2, body);
    let body = allocate(memory, 60, world.bob.id());
    let second = world.alice.ticketed(&world.registry, ticket, 3, body);
    world.apply(&[first.clone(), second]).unwrap();
    let registered = world.registry.asset(&memory).unwrap();
    assert_eq!((registered.state(), registered.available()), (AssetState::Allocated, 40));

    let replayed = refused(&world.registry, &first);
    assert_eq!(replayed.label(), "E_REPLAY_SEQUENCE_USED");
    let more =
        world.alice.ticketed(&world.registry, ticket, 4, allocate(memory, 41, world.bob.id()));
    let total = Refusal::NotAvailable { asked: 41, available: 40 };
    assert_eq!(refused(&world.registry, &more), total);

    let allocate_one = allocate(memory, 1, world.bob.id());
    let stolen = world.bob.ticketed(&world.registry, ticket, 1, allocate_one.clone());
    assert_eq!(refused(&world.registry, &stolen).label(), "E_BINDING_TICKET_REQUESTER");
    let mut forged = world.alice.ticketed(&world.registry, ticket, 4, allocate_one);
    forged.body = allocate(memory, 2, world.bob.id());
    assert_eq!(refused(&world.registry, &forged).label(), "E_BINDING_SIGNATURE");
    let unknown =
        world.alice.ticketed(&world.registry, [1; 32], 4, register("a", 1, Sharing::Owner));
    assert_eq!(refused(&world.registry, &unknown).label(), "E_BINDING_TICKET");
    for body in [certify(1), OperationBody::RequestTicket, OperationBody::Batch(vec![certify(1)])] {
        let operation = world.alice.ticketed(&world.registry, ticket, 4, body);
        assert_eq!(refused(&world.registry, &operation).label(), "E_NEEDS_FULL_PROOF");
    }
}

#[test]
fn tickets_and_proofs_end_with_their_epoch() {
    let mut world = world();
    let ticket = world.ticket(|world| &world.alice, 1);
    while world.registry.last_height() + 1 < EPOCH_BLOCKS {
        world.apply(&[]).unwrap();
    }
    let body = || register("memory", 1, Sharing::Owner);
    let proven = world.alice.proven(&world.registry, 2, body());
    let ticketed = world.alice.ticketed(&world.registry, ticket, 2, body());
    let mut last = world.registry.clone();
    assert!(apply(&mut last, std::slice::from_ref(&ticketed)).is_ok());
    let start = world.apply(&[]).unwrap().epoch_start.unwrap();
    assert_eq!(start.epoch, 1);
    assert_eq!(refused(&world.registry, &proven).label(), "E_BINDING_EPOCH");
    assert_eq!(refused(&world.registry, &ticketed).label(), "E_BINDING_TICKET");
    let anew = world.alice.proven(&world.registry, 2, body());
    world.apply(&[anew]).unwrap();
}

#[test]
fn a_proof_grows_old() {
    let mut world = world();
    let operation = world.alice.proven(&world.registry, 1, certify(1));
    for _block in 0..64 {
        world.apply(&[]).unwrap();
    }
    assert_eq!(refused(&world.registry, &operation).label(), "E_TIME_BEACON_STALE");
}

#[test]
fn a_batch_is_proven_once_and_done_whole() {
    let mut world = world();
    let memory = asset(&world.alice, "memory");
    let parts = vec![
        register("memory", 100, Sharing::Anyone),
        allocate(memory, 30, world.bob.id()),
        allocate(memory, 70, world.carol.id()),
        OperationBody::RequestCertificate(CertificateRequest {
            asset: Some(memory),
            csr_statement: [5; 32],
        }),
    ];
    let batch = world.alice.proven(&world.registry, 1, OperationBody::Batch(parts));
    let outcome = world.apply(&[batch]).unwrap();
    assert_eq!(outcome.operations[0].effects.len(), 4);
    assert_eq!(world.registry.asset(&memory).unwrap().available(), 0);
}

#[test]
fn a_forged_proof_convicts_whoever_votes_for_it() {
    let world = world();
    let operation = world.alice.proven(&world.registry, 1, certify(1));
    let Authorisation::Full(proof) = &operation.authorisation else { unreachable!() };
    let mut cases = Vec::new();
    let mut case = |name, change: &dyn Fn(&mut stoq_hypermesh::proof::FourProof)| {
        let mut proof = proof.clone();
        change(&mut proof);
        let forged = Operation { authorisation: Authorisation::Full(proof), ..operation.clone() };
        cases.push((name, forged));
    };
    case(ProofName::Space, &|proof| proof.space = None);
    case(ProofName::Space, &|proof| proof.space.as_mut().unwrap().k = 20);
    case(ProofName::Space, &|proof| proof.space.as_mut().unwrap().strength = 60);
    case(ProofName::Space, &|proof| proof.space.as_mut().unwrap().attempt = 32);
    case(ProofName::Work, &|proof| proof.work.as_mut().unwrap().bits = 255);
    case(ProofName::Time, &|proof| proof.time.as_mut().unwrap().link = [0; 32]);
    case(ProofName::Time, &|proof| proof.time.as_mut().unwrap().beacon_hash = [0; 32]);
    case(ProofName::Stake, &|proof| proof.stake.as_mut().unwrap().signature = [0; 64]);
    case(ProofName::Stake, &|proof| proof.stake.as_mut().unwrap().weight += 1);
    for (name, forged) in cases {
        let octets = Candidate::new(&forged).unwrap().octets().clone();
        match check_stateless(&NETWORK, 0, 1, &octets) {
            Err(Refusal::Proof(refusal)) => assert_eq!(refusal.proof(), name, "{refusal}"),
            other => panic!("{name}: {other:?}"),
        }
        assert!(matches!(refused(&world.registry, &forged), Refusal::Proof(_)));
    }
}

#[test]
fn who_proposes_and_who_votes_come_to_the_same_root() {
    let mut world = world();
    let ticket = world.ticket(|world| &world.alice, 1);
    let mut operations: Vec<_> = (2..40)
        .map(|sequence| {
            let body = register(&format!("memory-{sequence}"), sequence, Sharing::Owner);
            world.alice.ticketed(&world.registry, ticket, sequence, body)
        })
        .collect();
    // Somebody else's signature among them
    operations[7].requester_key = world.bob.public();
    operations.push(world.bob.proven(&world.registry, 1, certify(1)));
    let mut waiting = world::candidates(&operations);
    verify_signatures(&mut waiting);
    let facts = facts(&world.registry);
    let draft = world.registry.draft_block(&facts, &waiting).unwrap();
    assert_eq!(draft.refused.len(), 1);
    assert_eq!(draft.refused[0].0, 7);
    assert_eq!(draft.included.len(), operations.len() - 1);
    for (index, candidate) in waiting.iter().enumerate() {
        let judged = world.registry.check(candidate, facts.time_ms);
        assert_eq!(judged.is_ok(), index != 7, "{index}");
    }
    // Another validator has only the octets.
    let octets: Vec<_> =
        draft.included.iter().map(|index| waiting[*index].octets().clone()).collect();
    let mut block = stoq_hypermesh::registry::decode_operations(&octets).unwrap();
    verify_signatures(&mut block);
    let mut other = world.registry.clone();
    let outcome = other.apply_block(&facts, &block).unwrap();
    assert_eq!(outcome, draft.outcome);
    assert_eq!(outcome.state_root, other.state_root());
}

/// A registry in which all three have tickets, made once
fn ticketed(world: &mut World) -> (Registry, [Digest; 3]) {
    static TICKETED: OnceLock<(Registry, [Digest; 3])> = OnceLock::new();
    let made = TICKETED.get_or_init(|| {
        let tickets = [
            world.ticket(|world| &world.alice, 1),
            world.ticket(|world| &world.bob, 1),
            world.ticket(|world| &world.carol, 1),
        ];
        (world.registry.clone(), tickets)
    });
    made.clone()
}

/// What is asked next: by whom, and what of what there is
type Step = (usize, u8, u8, u64);

fn body(registry: &Registry, members: [&Member; 3], step: Step) -> OperationBody {
    let (asker, what, which, quantity) = step;
    let other = members[usize::from(which) % 3];
    let memory = asset(other, &format!("memory-{}", which % 5));
    let all: Vec<Digest> = registry.allocations().map(|(id, _)| *id).collect();
    let allocation = all.get(usize::from(which) % all.len().max(1)).copied().unwrap_or_default();
    let operate = OperationBody::Operate;
    match what {
        0..3 => register(&format!("memory-{}", which % 5), quantity, Sharing::Anyone),
        3..7 => allocate(memory, quantity, members[asker].id()),
        7 => operate(AssetOperation::Use { allocation }),
        8 => operate(AssetOperation::Release { allocation }),
        9 => operate(AssetOperation::Fail { allocation }),
        10 => operate(AssetOperation::Restore { asset: memory }),
        11 => operate(AssetOperation::Retire { asset: memory }),
        12 => OperationBody::EndCertificate { asset: memory },
        _ => OperationBody::Transfer { asset: memory, to: other.id() },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Goal: one history, one root, over the octets that travel. Method: a proposer drafts blocks from what waits; one
    /// validator applies them, another is restored from a snapshot on the way.
    #[test]
    fn histories_of_blocks_give_one_root(
        blocks in prop::collection::vec(
            prop::collection::vec((0..3usize, 0..14u8, any::<u8>(), 0..9u64), 0..12), 1..10),
        middle in any::<prop::sample::Index>(),
    ) {
        let mut world = world();
        let (start, tickets) = ticketed(&mut world);
        let members = [&world.alice, &world.bob, &world.carol];
        let (mut proposer, mut voter, mut late) = (start.clone(), start.clone(), start);
        let mut sequences = [1u64; 3];
        for (number, steps) in blocks.iter().enumerate() {
            if number == middle.index(blocks.len()) {
                late = Registry::restore(&voter.snapshot(), &proposer.state_root()).unwrap();
            }
            let operations: Vec<_> = steps.iter().map(|step| {
                sequences[step.0] += 1;
                let body = body(&proposer, members, *step);
                members[step.0].ticketed(&proposer, tickets[step.0], sequences[step.0], body)
            }).collect();
            let waiting = world::candidates(&operations);
            let draft = proposer.draft_block(&facts(&proposer), &waiting).unwrap();
            let block: Vec<_> =
                draft.included.iter().map(|index| operations[*index].clone()).collect();
            proposer = draft.registry;
            let seal = stoq_hypermesh::digest::derive(
                "hypermesh v1 test header", &[&draft.outcome.state_root]);
            proposer.seal(seal);
            prop_assert_eq!(&apply(&mut voter, &block).unwrap(), &draft.outcome);
            prop_assert_eq!(&apply(&mut late, &block).unwrap(), &draft.outcome);
            prop_assert_eq!(voter.tip(), proposer.tip());
            for asset in voter.assets() {
                prop_assert!(asset.allocated + asset.failed <= asset.capacity);
            }
        }
        prop_assert_eq!(late.snapshot(), proposer.snapshot());
    }
}
