//! Validators: votes, changes that a quorum makes, evidence and what follows from it.

use super::*;
use crate::operation::EvidenceOctets;

const FIRST: u8 = VALIDATOR;
const LAST: u8 = VALIDATOR + 3;

fn vote(change: Change) -> OperationBody {
    OperationBody::Vote(change)
}

fn names(validators: &[Validator]) -> BTreeSet<String> {
    validators.iter().map(|validator| validator.name.to_string()).collect()
}

fn expected(seeds: &[u8]) -> BTreeSet<String> {
    seeds.iter().map(|seed| format!("node-{seed}")).collect()
}

fn voted(effect: Result<Effect, Refusal>) -> (usize, usize, bool) {
    match effect {
        Ok(Effect::Voted { votes, quorum, adopted, .. }) => (votes, quorum, adopted),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_change_is_made_when_a_quorum_wants_it_and_the_epoch_ends() {
    let mut world = World::new();
    let change = Change::Admit(validator(60));
    for (seed, expected) in [(10, (1, 3, false)), (11, (2, 3, false)), (12, (3, 3, true))] {
        assert_eq!(voted(world.one(seed, vote(change.clone()))), expected);
    }
    assert_eq!(world.refused(13, vote(change.clone())), Refusal::AlreadyVoted);
    assert_eq!(world.registry.validators().len(), 4);
    let start = world.next_epoch();
    assert_eq!((start.made.as_slice(), start.dropped.len()), ([change].as_slice(), 0));
    assert_eq!(names(&start.validators), expected(&[10, 11, 12, 13, 60]));
    assert!(start.validators.is_sorted_by_key(|validator| validator.key));
    assert_eq!(world.registry.quorum(), 4);
    assert_eq!(names(&world.registry.validators_of(0)), expected(&[10, 11, 12, 13]));
    assert_eq!(world.registry.validators_of(1), start.validators);
}

#[test]
fn too_few_votes_change_nothing() {
    let mut world = World::new();
    let change = Change::Admit(validator(60));
    for seed in [10, 11] {
        world.one(seed, vote(change.clone())).unwrap();
    }
    assert_eq!(world.refused(10, vote(change.clone())), Refusal::AlreadyVoted);
    let start = world.next_epoch();
    assert_eq!((start.made.len(), start.validators.len()), (0, 4));
    // The votes of one epoch are not those of the next.
    assert_eq!(voted(world.one(12, vote(change))), (1, 3, false));
}

#[test]
fn only_validators_vote_and_only_under_their_own_signature() {
    let mut world = World::new();
    let change = vote(Change::Admit(validator(60)));
    assert_eq!(world.refused(ALICE, change.clone()), Refusal::NotValidator);
    let mut forged = world.operation(FIRST, change.clone()).operation().clone();
    forged.requester_key = public(11);
    let forged = Candidate::new(&forged).unwrap();
    assert_eq!(world.block_of(&[forged]), [Err(Refusal::BadSignature)]);
    let signed = |world: &mut World, body| {
        let operation =
            Operation { sequence: 50, not_after_height: 50, ..unproven(NETWORK, FIRST, body) };
        let candidate = Candidate::new(&with_validator(operation, FIRST)).unwrap();
        world.block_of(&[candidate]).remove(0).unwrap_err()
    };
    let refused = Refusal::NotForValidators { what: "register-asset" };
    assert_eq!(signed(&mut world, register("a", 1, Sharing::Owner)), refused);
    let refused = Refusal::NotForValidators { what: "request-ticket" };
    assert_eq!(signed(&mut world, OperationBody::RequestTicket), refused);
}

#[test]
fn an_act_of_a_validator_is_for_one_network_and_for_a_while() {
    let mut world = World::new();
    let body = || vote(Change::Admit(validator(60)));
    let mut act = |network, sequence, not_after_height| {
        let operation =
            Operation { sequence, not_after_height, ..unproven(network, FIRST, body()) };
        let candidate = Candidate::new(&with_validator(operation, FIRST)).unwrap();
        world.block_of(&[candidate]).remove(0)
    };
    assert_eq!(act([0; 32], 1, 50), Err(Refusal::OtherNetwork));
    assert_eq!(act(NETWORK, 1, 1), Err(Refusal::Expired { not_after_height: 1 }));
    assert_eq!(act(NETWORK, 1, 4 + KEPT_HEIGHTS), Err(Refusal::LivesTooLong));
    assert!(act(NETWORK, 1, 4 + KEPT_HEIGHTS).is_ok());
    let used = crate::proof::ProofRefusal::ReplaySequenceUsed { sequence: 1 };
    assert_eq!(act(NETWORK, 1, 50), Err(Refusal::Proof(used)));
}

#[test]
fn a_validator_decides_about_itself_once_in_an_epoch() {
    let mut world = World::new();
    let replace = |new| Change::Replace {
        key: ValidatorKey(public(FIRST)),
        new_key: ValidatorKey(public(new)),
    };
    assert_eq!(voted(world.one(FIRST, vote(replace(61)))), (1, 3, true));
    assert_eq!(world.refused(FIRST, vote(replace(62))), Refusal::AlreadyVoted);
    let leave = Change::Remove(ValidatorKey(public(FIRST)));
    assert_eq!(world.refused(FIRST, vote(leave)), Refusal::AlreadyVoted);
    let leave = Change::Remove(ValidatorKey(public(LAST)));
    assert_eq!(voted(world.one(LAST, vote(leave))), (1, 3, true));
    let start = world.next_epoch();
    // Under the other key it is still the same node.
    assert_eq!(names(&start.validators), expected(&[10, 11, 12]));
    let keys: BTreeSet<_> = start.validators.iter().map(|one| one.key).collect();
    let wanted = [61, 11, 12].map(|seed| ValidatorKey(public(seed)));
    assert_eq!(keys, BTreeSet::from(wanted));
    assert_eq!(world.refused(FIRST, vote(replace(62))), Refusal::NotValidator);
}

#[test]
fn changes_that_cannot_be_are_not_voted_for() {
    let mut world = World::new();
    let first = ValidatorKey(public(FIRST));
    let unknown = ValidatorKey(public(60));
    let mut bad = [0; 32];
    bad[0] = 2;
    let renamed = Validator { name: validator(FIRST).name, key: unknown };
    let own_policy = Policy { id: 9, ..Policy::TEST };
    let hopeless = Policy { space_k_min: 17, id: 9, ..Policy::TEST };
    let rules = world.registry.parameters().clone();
    for (change, label) in [
        (Change::Admit(validator(FIRST)), "E_VALIDATOR_KNOWN"),
        (Change::Admit(renamed), "E_VALIDATOR_KNOWN"),
        (Change::Admit(Validator { key: ValidatorKey(bad), ..validator(60) }), "E_KEY"),
        (Change::Remove(unknown), "E_VALIDATOR_UNKNOWN"),
        (Change::Replace { key: unknown, new_key: first }, "E_VALIDATOR_UNKNOWN"),
        (Change::Replace { key: first, new_key: validator(LAST).key }, "E_VALIDATOR_KNOWN"),
        (Change::Replace { key: first, new_key: ValidatorKey(bad) }, "E_KEY"),
        (Change::SetPolicy { id: 8, policy: own_policy }, "E_VOTE_POLICY"),
        (Change::SetPolicy { id: 9, policy: hopeless }, "E_VOTE_POLICY"),
        (
            Change::SetParameters(Parameters { operations_policy: 9, ..rules.clone() }),
            "E_VOTE_PARAMETERS",
        ),
        (Change::SetParameters(Parameters { stake_min: 0, ..rules }), "E_VOTE_PARAMETERS"),
    ] {
        assert_eq!(world.refused(FIRST, vote(change.clone())).label(), label, "{change:?}");
    }
}

#[test]
fn policies_and_rules_change_by_vote() {
    let mut world = World::new();
    let policy = Policy { id: 9, work_bits: 9, ..Policy::TEST };
    let strict = Change::SetPolicy { id: 9, policy };
    for seed in [10, 11, 12] {
        world.one(seed, vote(strict.clone())).unwrap();
    }
    world.next_epoch();
    assert_eq!(world.registry.policies().map(|policy| policy.id).collect::<Vec<_>>(), [1, 9]);
    let rules = Parameters { certificates_policy: 9, ..world.registry.parameters().clone() };
    for seed in [10, 11, 12] {
        world.one(seed, vote(Change::SetParameters(rules.clone()))).unwrap();
    }
    assert_ne!(world.registry.parameters(), &rules);
    world.next_epoch();
    assert_eq!(world.registry.parameters(), &rules);
}

#[test]
fn what_others_made_impossible_is_dropped() {
    let mut world = World::new();
    let admit = Change::Admit(validator(60));
    let same_name = Change::Admit(Validator { key: ValidatorKey(public(61)), ..validator(60) });
    for change in [&admit, &same_name] {
        let votes = [10, 11, 12].map(|seed| (seed, vote(change.clone())));
        assert!(world.block(votes.to_vec()).iter().all(Result::is_ok));
    }
    let start = world.next_epoch();
    assert_eq!((start.made, start.dropped), (vec![admit], vec![same_name]));
}

#[test]
fn the_last_validator_cannot_leave() {
    let mut rules = genesis();
    rules.validators.truncate(1);
    let mut world = World::from(&rules);
    let leave = Change::Remove(ValidatorKey(public(FIRST)));
    assert_eq!(voted(world.one(FIRST, vote(leave.clone()))), (1, 1, true));
    let start = world.next_epoch();
    assert_eq!((start.dropped, start.validators.len()), (vec![leave], 1));
}

#[test]
fn one_validator_cannot_flood_the_vote() {
    let mut world = World::new();
    let remove = |at: usize| {
        let policy = Policy { id: at as u32 + 100, ..Policy::TEST };
        vote(Change::SetPolicy { id: policy.id, policy })
    };
    let all = (0..=BALLOTS_PER_VALIDATOR_LIMIT).map(|at| (FIRST, remove(at))).collect();
    let results = world.block(all);
    let (last, rest) = results.split_last().unwrap();
    assert!(rest.iter().all(Result::is_ok));
    assert_eq!(last, &Err(Refusal::TooManyBallots));
    // Others' ballots it may vote for.
    world.one(11, remove(90)).unwrap();
    world.one(FIRST, remove(90)).unwrap();
}

/// Takes evidence for what it says first: `seed offence epoch view`, one octet each
struct Credulous;

impl EvidenceJudge for Credulous {
    fn judge(
        &self,
        network: &NetworkId,
        validators: &dyn Fn(u64) -> Vec<Validator>,
        octets: &[u8],
    ) -> Result<Finding, String> {
        assert_eq!(*network, NETWORK);
        let [seed, offence, epoch, view, ..] = *octets else { return Err("too short".into()) };
        assert!(!validators(0).is_empty());
        let offence = match offence {
            0 => Offence::Equivocation,
            1 => Offence::InvalidProposal,
            _ => Offence::InvalidVote,
        };
        let culprit = ValidatorKey(public(seed));
        Ok(Finding { culprit, offence, epoch: epoch.into(), view: view.into() })
    }
}

pub(super) fn evidence(octets: &[u8]) -> OperationBody {
    OperationBody::Evidence(EvidenceOctets::new(octets.to_vec()).unwrap())
}

pub(super) fn judged(rules: &RegistryGenesis) -> World {
    let mut world = World::from(rules);
    world.registry = world.registry.with_judge(Arc::new(Credulous));
    world
}

#[test]
fn a_culprit_is_on_record_loses_its_stake_and_is_left_out() {
    let mut world = judged(&genesis());
    let before = world.registry.evidence_root();
    let effect = world.one(11, evidence(&[FIRST, 0, 0, 7])).unwrap();
    let culprit = ValidatorKey(public(FIRST));
    let finding = Finding { culprit, offence: Offence::Equivocation, epoch: 0, view: 7 };
    assert_eq!(effect, Effect::EvidenceRecorded { finding, slashed: 100 });
    assert_eq!(world.registry.requester(&id(FIRST)).unwrap().stake, 0);
    let outcome = world.last.clone().unwrap();
    assert_ne!(outcome.evidence_root, before);
    assert_eq!(outcome.evidence_root, world.registry.evidence_root());
    let record = world.registry.evidence().next().unwrap();
    assert_eq!((&record.finding, &record.octets[..]), (&finding, &[FIRST, 0, 0, 7][..]));
    assert_eq!(record.recorded_height, world.registry.last_height());
    // It goes on until the epoch ends, and may even vote.
    assert!(world.registry.is_validator(&culprit));
    let start = world.next_epoch();
    assert_eq!(start.excluded, [culprit]);
    assert_eq!(names(&start.validators), expected(&[11, 12, 13]));
    assert_eq!(world.registry.validator_record(&culprit).unwrap().left_epoch(), Some(0));
    // A quorum may have it back, with a clean record.
    let back = Change::Admit(validator(FIRST));
    for seed in [11, 12, 13] {
        world.one(seed, vote(back.clone())).unwrap();
    }
    world.next_epoch();
    assert!(world.next_epoch().excluded.is_empty());
    assert!(world.registry.is_validator(&culprit));
    let took_part = |epoch| world.registry.validators_of(epoch).len();
    assert_eq!([0, 1, 2, 3].map(took_part), [4, 3, 4, 4]);
}

#[test]
fn a_key_stands_for_what_was_done_under_it() {
    let mut world = judged(&genesis());
    let replace = |key, new_key| Change::Replace {
        key: ValidatorKey(public(key)),
        new_key: ValidatorKey(public(new_key)),
    };
    world.one(FIRST, vote(replace(FIRST, 61))).unwrap();
    world.next_epoch();
    assert_eq!(world.refused(61, vote(replace(61, FIRST))), Refusal::ValidatorKnown);
    // It may come back by the votes of others, as the node it was.
    let other_name = Validator { name: validator(70).name, key: ValidatorKey(public(FIRST)) };
    assert_eq!(world.refused(11, vote(Change::Admit(other_name))), Refusal::ValidatorKnown);
}

#[test]
fn who_has_been_gone_longest_makes_room_for_who_comes() {
    let mut world = judged(&genesis());
    world.one(11, evidence(&[FIRST, 0, 0, 7])).unwrap();
    let registry = &mut world.registry;
    registry.begin_epoch(8);
    let first = ValidatorKey(public(FIRST));
    assert!(registry.validator_record(&first).is_some() && registry.evidence.len() == 1);
    // As many as are remembered come and go, each an epoch after the other.
    for number in 0..VALIDATOR_RECORDS_LIMIT as u64 {
        let key = ValidatorKey(derive("hypermesh v1 test key", &[&number.to_be_bytes()]));
        registry.join(Validator { name: validator(60).name, key });
        registry.epoch += 1;
        registry.leave(&key);
        assert!(registry.validators.len() <= VALIDATOR_RECORDS_LIMIT);
    }
    assert!(registry.validator_record(&first).is_none() && registry.evidence.len() == 0);
    assert_eq!(names(registry.validators()), expected(&[11, 12, 13]));
}

#[test]
fn evidence_that_shows_nothing_new_is_refused() {
    let mut world = World::new();
    assert_eq!(world.refused(11, evidence(&[FIRST, 0, 0, 7])), Refusal::NoJudge);
    let mut world = judged(&genesis());
    let reason = "too short".to_owned();
    assert_eq!(world.refused(11, evidence(&[1, 2])), Refusal::BadEvidence { reason });
    let key = ValidatorKey(public(ALICE));
    let nobody = Refusal::EvidenceAgainstNobody { key };
    assert_eq!(world.refused(11, evidence(&[ALICE, 0, 0, 7])), nobody);
    let key = ValidatorKey(public(FIRST));
    let to_come = Refusal::EvidenceAgainstNobody { key };
    assert_eq!(world.refused(11, evidence(&[FIRST, 0, 1, 7])), to_come);
    assert_eq!(world.refused(ALICE, evidence(&[FIRST, 0, 0, 7])), Refusal::NotValidator);
    world.one(11, evidence(&[FIRST, 0, 0, 7])).unwrap();
    assert_eq!(world.refused(12, evidence(&[FIRST, 0, 0, 7])), Refusal::EvidenceKnown);
    // A culprit's offences fill no memory.
    let more = (8..).take(EVIDENCE_PER_VALIDATOR_LIMIT as usize);
    let more = more.map(|view| (11, evidence(&[FIRST, 0, 0, view]))).collect();
    let results = world.block(more);
    let (last, rest) = results.split_last().unwrap();
    assert!(rest.iter().all(Result::is_ok));
    assert_eq!(last, &Err(Refusal::EvidenceEnough));
}

#[test]
fn the_rules_say_what_follows() {
    let mut rules = genesis();
    rules.parameters.exclude_culprits = false;
    rules.parameters.slash_permille = 250;
    let mut world = judged(&rules);
    let effect = world.one(11, evidence(&[FIRST, 1, 0, 7])).unwrap();
    assert!(matches!(effect, Effect::EvidenceRecorded { slashed: 25, .. }));
    let start = world.next_epoch();
    assert_eq!((start.excluded.len(), start.validators.len()), (0, 4));

    rules.parameters.exclude_culprits = true;
    rules.parameters.validators_min = 3;
    let mut world = judged(&rules);
    for culprit in [10, 11] {
        world.one(12, evidence(&[culprit, 2, 0, 7])).unwrap();
    }
    let start = world.next_epoch();
    assert_eq!((start.excluded.len(), start.validators.len()), (1, 3));
    // The other one goes as soon as somebody takes its place.
    let left: Vec<_> = start.validators.iter().map(|one| one.name.clone()).collect();
    let admit = Change::Admit(validator(60));
    for seed in 10..14 {
        if left.contains(&validator(seed).name) {
            world.one(seed, vote(admit.clone())).unwrap();
        }
    }
    world.next_epoch();
    let start = world.next_epoch();
    assert_eq!(start.excluded.len(), 1);
    assert_eq!(names(&start.validators), expected(&[12, 13, 60]));
}

#[test]
fn a_new_key_sheds_no_offence() {
    let mut world = judged(&genesis());
    let key = ValidatorKey(public(FIRST));
    let new_key = ValidatorKey(public(61));
    world.one(FIRST, vote(Change::Replace { key, new_key })).unwrap();
    world.next_epoch();
    assert!(world.registry.is_validator(&new_key));
    // What it did under the old key in the epoch before
    world.one(11, evidence(&[FIRST, 0, 0, 7])).unwrap();
    assert_eq!(world.next_epoch().excluded, [new_key]);
}
