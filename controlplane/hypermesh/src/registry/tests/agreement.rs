//! What makes a block invalid, and that proposer and voter find the same.

use super::validators::{evidence, judged};
use super::*;

fn refused(world: &World, change: impl FnOnce(&mut BlockFacts)) -> InvalidBlock {
    let mut registry = world.registry.clone();
    let mut facts = world.facts();
    facts.time_ms += 10;
    change(&mut facts);
    let root = registry.state_root();
    let refused = registry.apply_block(&facts, &[]).unwrap_err();
    assert_eq!(registry.state_root(), root);
    refused
}

#[test]
fn a_block_follows_the_last_one() {
    let mut world = World::new();
    world.block(Vec::new());
    let height = |found| InvalidBlock::Height { found, expected: 2 };
    assert_eq!(refused(&world, |facts| facts.height = 1), height(1));
    assert_eq!(refused(&world, |facts| facts.height = 3), height(3));
    assert_eq!(refused(&world, |facts| facts.parent = [9; 32]), InvalidBlock::Parent);
    let epoch = InvalidBlock::Epoch { found: 1, expected: 0 };
    assert_eq!(refused(&world, |facts| facts.epoch = 1), epoch);
    let last = world.registry.last_time_ms();
    let time = InvalidBlock::Time { found: last, last };
    assert_eq!(refused(&world, |facts| facts.time_ms = last), time);
}

#[test]
fn the_first_operation_that_is_refused_is_named() {
    let mut world = World::new();
    let register = |name| register(name, 1, Sharing::Owner);
    let good = world.operation(ALICE, register("a"));
    let facts = BlockFacts { time_ms: world.time_ms + 10, ..world.facts() };
    let mut registry = world.registry.clone();
    // Without four proofs nothing passes.
    let refused = registry.apply_block(&facts, &[good]).unwrap_err();
    let reason = Refusal::Proof(crate::proof::ProofRefusal::SpaceMissing);
    assert_eq!(refused, InvalidBlock::Operation { index: 0, reason });

    let admit = OperationBody::Vote(Change::Admit(validator(60)));
    let first = world.operation(10, admit.clone());
    let second = world.operation(11, admit.clone());
    let twice = [first.clone(), second.clone(), first.clone()];
    let refused = registry.apply_block(&facts, &twice).unwrap_err();
    let used = crate::proof::ProofRefusal::ReplaySequenceUsed { sequence: 1 };
    assert_eq!(refused, InvalidBlock::Operation { index: 2, reason: Refusal::Proof(used) });
    assert_eq!(registry.state_root(), world.registry.state_root());

    // Who drafts leaves it out, and who applies the draft comes to the same.
    let draft = registry.draft_block(&facts, &twice).unwrap();
    assert_eq!(draft.included, [0, 1]);
    assert_eq!(draft.refused, [(2, Refusal::Proof(used))]);
    let outcome = registry.apply_block(&facts, &[first, second]).unwrap();
    assert_eq!(outcome, draft.outcome);
    assert_eq!(registry.state_root(), outcome.state_root);
    assert_eq!(draft.registry.state_root(), outcome.state_root);
}

#[test]
fn a_block_has_limits() {
    let mut world = World::new();
    let vote = world.operation(10, OperationBody::Vote(Change::Admit(validator(60))));
    let many = vec![vote.octets().clone(); BLOCK_OPERATIONS_LIMIT + 1];
    let limit = BLOCK_OPERATIONS_LIMIT;
    let refused = decode_operations(&many).unwrap_err();
    assert_eq!(refused, InvalidBlock::TooLarge { what: "operations", limit });
    assert_eq!(decode_operations(&many[1..]).map(|all| all.len()), Ok(limit));

    let part = OperationBody::RequestTicket;
    let parts = crate::operation::BATCH_LIMIT;
    let batch = world.operation(ALICE, OperationBody::Batch(vec![part; parts]));
    let many = vec![batch.octets().clone(); BLOCK_PARTS_LIMIT / parts + 1];
    let refused = decode_operations(&many).unwrap_err();
    let limit = BLOCK_PARTS_LIMIT;
    assert_eq!(refused, InvalidBlock::TooLarge { what: "parts of batches", limit });

    let octets = crate::operation::EvidenceOctets::new(vec![0; 60_000]).unwrap();
    let long = world.operation(10, OperationBody::Evidence(octets));
    let many = vec![long.octets().clone(); BLOCK_LIMIT_BYTES / 60_000 + 1];
    let refused = decode_operations(&many).unwrap_err();
    let limit = BLOCK_LIMIT_BYTES;
    assert_eq!(refused, InvalidBlock::TooLarge { what: "octets", limit });

    let mut cut = many[..3].to_vec();
    cut[2] = cut[2].slice(..100);
    let reason = WireError::Truncated;
    assert_eq!(decode_operations(&cut).unwrap_err(), InvalidBlock::Encoding { index: 2, reason });
}

#[test]
fn a_draft_ends_where_a_block_is_full() {
    let mut world = judged(&genesis());
    // As much evidence as is taken at all is a little more than fits into one block.
    let mut longest = vec![0; crate::operation::EVIDENCE_LIMIT_BYTES];
    let mut waiting = Vec::new();
    for culprit in VALIDATOR..VALIDATOR + 4 {
        for view in 0..EVIDENCE_PER_VALIDATOR_LIMIT as u8 {
            longest[..4].copy_from_slice(&[culprit, 0, 0, view]);
            waiting.push(world.operation(10, evidence(&longest)));
        }
    }
    let all = waiting.len();
    // What is refused takes no room, and what comes after a full block waits.
    waiting.insert(0, world.operation(10, evidence(&[0; 60_000])));
    waiting.push(world.operation(11, OperationBody::Vote(Change::Admit(validator(60)))));
    let facts = BlockFacts { time_ms: world.time_ms + 10, ..world.facts() };
    let draft = world.registry.draft_block(&facts, &waiting).unwrap();
    assert_eq!(draft.included, (1..all).collect::<Vec<_>>());
    assert!(matches!(draft.refused.as_slice(), [(0, Refusal::EvidenceAgainstNobody { .. })]));
}

#[test]
fn what_cannot_be_in_any_block_is_in_none() {
    let mut world = World::new();
    let bob = public(BOB);
    let asset = world.asset(ALICE, "cpus", Sharing::Anyone);
    let base = |world: &mut World, seed, body| world.operation(seed, body).operation().clone();
    let ticket = |operation: Operation, seed| {
        crate::operation::testing::with_ticket(operation, [5; 32], seed)
    };
    let admit = OperationBody::Vote(Change::Admit(validator(60)));
    let empty = base(&mut world, ALICE, register("empty", 0, Sharing::Owner));
    let nothing = base(&mut world, ALICE, allocate(asset, 0, BOB));
    let batch = OperationBody::Batch(vec![allocate(asset, 0, BOB)]);
    let in_batch = base(&mut world, ALICE, batch);
    let plain = base(&mut world, ALICE, register("plain", 1, Sharing::Owner));
    let certificate = base(&mut world, ALICE, certify(None, 1));
    let vote = base(&mut world, 10, admit.clone());
    let full_vote = unproven(NETWORK, ALICE, admit);
    let act = with_validator(plain.clone(), 10);
    let cases = [
        (Operation { network: [0; 32], ..vote.clone() }, "E_NETWORK"),
        (Operation { not_after_height: 1, ..vote.clone() }, "E_EXPIRED"),
        (Operation { not_after_height: u64::MAX, ..vote.clone() }, "E_LIFETIME"),
        (Operation { sequence: 0, ..vote.clone() }, "E_REPLAY_SEQUENCE_OLD"),
        (Operation { requester_key: bob, ..vote.clone() }, "E_SIGNATURE"),
        (Operation { requester_key: bob, ..ticket(plain.clone(), ALICE) }, "E_SIGNATURE"),
        (ticket(certificate, ALICE), "E_NEEDS_FULL_PROOF"),
        (ticket(in_batch.clone(), ALICE), "E_NEEDS_FULL_PROOF"),
        (ticket(vote, 10), "E_NEEDS_VALIDATOR"),
        (full_vote, "E_NEEDS_VALIDATOR"),
        (Operation { requester_key: public(10), ..act }, "E_NOT_FOR_VALIDATORS"),
        (ticket(empty, ALICE), "E_ASSET_CAPACITY"),
        (ticket(nothing, ALICE), "E_ALLOCATION_QUANTITY"),
        (in_batch, "E_ALLOCATION_QUANTITY"),
        (plain, "E_SPACE_MISSING"),
    ];
    let facts = BlockFacts { time_ms: world.time_ms + 10, ..world.facts() };
    for (operation, label) in cases {
        let candidate = Candidate::new(&operation).unwrap();
        let alone = check_stateless(&NETWORK, facts.epoch, facts.height, candidate.octets());
        assert_eq!(alone.unwrap_err().label(), label, "{operation:?}");
        let refused = world.registry.clone().apply_block(&facts, &[candidate]);
        assert!(matches!(refused, Err(InvalidBlock::Operation { index: 0, .. })), "{label}");
    }
    let rubbish = bytes::Bytes::from_static(b"rubbish");
    let refused = check_stateless(&NETWORK, facts.epoch, facts.height, &rubbish);
    assert_eq!(refused.unwrap_err().label(), "E_ENCODING");
}

#[test]
fn a_genesis_that_cannot_be_is_refused_by_name() {
    let changed = |change: &dyn Fn(&mut RegistryGenesis)| {
        let mut rules = genesis();
        change(&mut rules);
        Registry::genesis(&rules).unwrap_err()
    };
    let error = changed(&|rules| rules.validators.clear());
    assert_eq!(error, GenesisError::NoValidators);
    let error = changed(&|rules| rules.epoch_blocks = 0);
    assert_eq!(error, GenesisError::NoBlocks { epoch_blocks: 0 });
    let error = changed(&|rules| rules.validators[1].key = rules.validators[0].key);
    assert_eq!(error, GenesisError::Twice { what: "validator node-11".into() });
    let error = changed(&|rules| rules.validators[1].name = rules.validators[0].name.clone());
    assert_eq!(error, GenesisError::Twice { what: "validator node-10".into() });
    let error = changed(&|rules| rules.stakes[1] = rules.stakes[0]);
    assert!(matches!(error, GenesisError::Twice { .. }));
    let error = changed(&|rules| rules.stakes[1].amount = 0);
    assert_eq!(error, GenesisError::StakeTooSmall { amount: 0, min: 1 });
    let error = changed(&|rules| rules.policies.push(Policy::TEST));
    assert_eq!(error, GenesisError::Twice { what: "policy 1".into() });
    let error = changed(&|rules| rules.policies[0].space_k_min = 3);
    assert!(matches!(error, GenesisError::Policy(_)));
    let error = changed(&|rules| rules.policies.clear());
    assert!(matches!(error, GenesisError::Parameters(_)));
    let many = |rules: &mut RegistryGenesis| {
        rules.validators = vec![validator(1); VALIDATORS_LIMIT + 1];
    };
    let error = changed(&many);
    assert_eq!(error, GenesisError::TooMany { what: "validators", limit: VALIDATORS_LIMIT });
}
