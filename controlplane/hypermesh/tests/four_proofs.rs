//! Each of the four proofs removed, forged, stale, replayed, taken from another operation, requester or network, and
//! below its threshold: refused, with that proof named.
//!
//! Method: the strongest cheat. Whatever comes after the proof at fault is made anew, honestly, over it, so that only
//! the one fault is left to find; and every case has an honest sibling that passes in the same state. Plots and
//! signatures are real ones.

#[path = "four_proofs/world.rs"]
mod world;

use stoq_hypermesh::proof::{
    FourProof, Policy, ProofName, ProofRefusal, StakeHolding, StakeProof, Statement, challenge,
    verify,
};
use world::{Chain, Forgery, Member, World, beacon, honest};

/// One way to cheat
struct Case {
    name: &'static str,
    /// What the refusal has to name
    proof: ProofName,
    label: &'static str,
    statement: Statement,
    proofs: FourProof,
    chain: Chain,
}

/// Collects cases that start from the same honest operation
struct Table<'a> {
    world: &'a World,
    statement: Statement,
    honest: FourProof,
    cases: Vec<Case>,
}

impl<'a> Table<'a> {
    fn new(world: &'a World) -> Self {
        let statement = world.statement(&world.alice, 1);
        let honest = honest(&world.alice, &statement, &world.chain);
        assert_accepted("the operation all cases start from", &statement, &honest, &world.chain);
        Self { world, statement, honest, cases: Vec::new() }
    }

    fn add(
        &mut self,
        name: &'static str,
        label: &'static str,
        (statement, proofs): (Statement, FourProof),
        chain: Chain,
    ) {
        let proof = match label.split('_').nth(1) {
            Some("SPACE") => ProofName::Space,
            Some("WORK") => ProofName::Work,
            Some("TIME") => ProofName::Time,
            Some("STAKE") => ProofName::Stake,
            Some("BINDING") => ProofName::Binding,
            Some("REPLAY") => ProofName::Replay,
            _ => panic!("{label} names no proof"),
        };
        self.cases.push(Case { name, proof, label, statement, proofs, chain });
    }

    fn here(&mut self, name: &'static str, label: &'static str, proofs: FourProof) {
        let (statement, chain) = (self.statement, self.world.chain.clone());
        self.add(name, label, (statement, proofs), chain);
    }

    /// Starts from the honest space proof: most cases are about what comes after it
    fn forge(&self) -> Forgery<'a> {
        let space = self.honest.space.clone().expect("honest proofs are complete");
        Forgery::new(&self.world.alice, self.statement, &self.world.chain).with_space(space)
    }
}

fn assert_accepted(name: &str, statement: &Statement, proofs: &FourProof, chain: &Chain) {
    let judged = verify(statement, proofs, chain);
    assert!(judged.is_ok(), "{name}: {judged:?}");
}

fn removed(table: &mut Table<'_>) {
    let honest = table.honest.clone();
    table.here("space removed", "E_SPACE_MISSING", FourProof { space: None, ..honest.clone() });
    table.here("work removed", "E_WORK_MISSING", FourProof { work: None, ..honest.clone() });
    table.here("time removed", "E_TIME_MISSING", FourProof { time: None, ..honest.clone() });
    table.here("stake removed", "E_STAKE_MISSING", FourProof { stake: None, ..honest });
}

fn forged(table: &mut Table<'_>) {
    let world = table.world;
    let mut space = table.honest.space.clone().unwrap();
    space.proof[100] ^= 4;
    let forged = table.forge().with_space(space.clone()).finish();
    table.here("space forged: a value changed", "E_SPACE_FORGED", forged);

    space.proof = vec![0x5a; space.proof.len()];
    let forged = table.forge().with_space(space.clone()).finish();
    table.here("space forged: made up", "E_SPACE_FORGED", forged);

    space.proof.truncate(200);
    let forged = table.forge().with_space(space).finish();
    table.here("space forged: cut short", "E_SPACE_LENGTH", forged);

    let mut space = table.honest.space.clone().unwrap();
    space.attempt = 32;
    let forged = table.forge().with_space(space).finish();
    table.here("space forged: one attempt too many", "E_SPACE_ATTEMPT", forged);

    let honest_space = table.honest.space.as_ref().unwrap();
    let challenge = challenge::work(&table.statement.digest(), honest_space);
    let work = world::worthless(&challenge, world.chain.policy.work_bits);
    let forged = table.forge().with_work(work).finish();
    table.here("work forged: a nonce not worth its claim", "E_WORK_FORGED", forged);

    let statement = Statement { beacon_hash: [0xbe; 32], ..table.statement };
    let forged = honest(&world.alice, &statement, &world.chain);
    let chain = world.chain.clone();
    let case = (statement, forged);
    table.add("time forged: a block that never was", "E_TIME_BEACON_FORGED", case, chain);

    let height = world.chain.height + 5;
    let statement =
        Statement { beacon_height: height, beacon_hash: beacon(height), ..table.statement };
    let forged = honest(&world.alice, &statement, &world.chain);
    let chain = world.chain.clone();
    let case = (statement, forged);
    table.add("time forged: a block to come", "E_TIME_BEACON_AHEAD", case, chain);

    let claimed_ms = world.chain.block_time_ms + world.chain.policy.clock_tolerance_ms + 1;
    let forged = table.forge().claiming(claimed_ms).finish();
    table.here("time forged: a clock ahead", "E_TIME_CLAIM_AHEAD", forged);

    let mut forged = table.honest.clone();
    forged.stake.as_mut().unwrap().signature[20] ^= 1;
    table.here("stake forged: a signature changed", "E_STAKE_SIGNATURE", forged);

    let forged = table.forge().signed_by(&world.bob.key).finish();
    table.here("stake forged: another's signature", "E_STAKE_SIGNATURE", forged);

    let mut holding = world.chain.holding(&world.alice);
    holding.leaf.weight = 1_000_000;
    let forged = table.forge().with_holding(holding).finish();
    table.here("stake forged: a heavier leaf", "E_STAKE_LEAF", forged);

    let mut holding = world.chain.holding(&world.alice);
    holding.leaf.key = world.bob.public();
    let forged = table.forge().with_holding(holding).signed_by(&world.bob.key).finish();
    table.here("stake forged: another key in the leaf", "E_STAKE_LEAF", forged);

    let mut holding = world.chain.holding(&world.alice);
    holding.path[0][0] ^= 1;
    let forged = table.forge().with_holding(holding).finish();
    table.here("stake forged: a path changed", "E_STAKE_LEAF", forged);
}

fn stale(table: &mut Table<'_>) {
    let world = table.world;
    let oldest = world.chain.height - world.chain.policy.beacon_age_heights;
    let at = |height| Statement {
        beacon_height: height,
        beacon_hash: beacon(height),
        ..table.statement
    };
    let old = at(oldest - 1);
    let old_proof = honest(&world.alice, &old, &world.chain);
    let good = honest(&world.alice, &at(oldest), &world.chain);
    assert_accepted("the oldest beacon allowed", &at(oldest), &good, &world.chain);

    let forged = table.forge().with_space(old_proof.space.clone().unwrap()).finish();
    table.here("space stale: found for an old beacon", "E_SPACE_FORGED", forged);
    let forged = table.forge().with_work_of(&old, &old_proof).finish();
    table.here("work stale: done for an old beacon", "E_WORK_FORGED", forged);
    let chain = world.chain.clone();
    let case = (old, old_proof.clone());
    table.add("time stale: the beacon is old", "E_TIME_BEACON_STALE", case, chain);
    let forged = table.forge().with_time(old_proof.time.unwrap()).finish();
    table.here("time stale: an old beacon in new proofs", "E_TIME_BEACON_OTHER", forged);

    let claimed_ms = world.chain.block_time_ms - world.chain.policy.claim_age_ms - 1;
    let forged = table.forge().claiming(claimed_ms).finish();
    table.here("time stale: the claim is old", "E_TIME_CLAIM_OLD", forged);

    // The stakes changed at an epoch's end; the requester still shows its leaf and path of the one before.
    let mut chain = world.chain.clone();
    chain.stakes.swap(0, 2);
    chain.number_stakes();
    chain.stakes[0].weight += 1;
    let stale = StakeHolding {
        leaf: world.chain.holding(&world.alice).leaf,
        path: world.chain.holding(&world.alice).path,
    };
    let forged = table.forge().with_holding(stale).finish();
    let sibling = table.forge().with_holding(chain.holding(&world.alice)).finish();
    assert_accepted("the leaf of this epoch", &table.statement, &sibling, &chain);
    let case = (table.statement, forged);
    table.add("stake stale: the leaf of the epoch before", "E_STAKE_LEAF", case, chain);

    let mut chain = world.chain.clone();
    chain.epoch += 1;
    let case = (table.statement, table.honest.clone());
    table.add("all stale: made in the epoch before", "E_BINDING_EPOCH", case, chain);

    let mut chain = world.chain.clone();
    chain.height = table.statement.not_after_height + 1;
    let case = (table.statement, table.honest.clone());
    table.add("all stale: too late for itself", "E_TIME_EXPIRED", case, chain);
}

/// Every proof of `other` in the place of ours, one at a time, everything after it made anew
fn transplanted(
    table: &mut Table<'_>,
    names: [&'static str; 4],
    donor: &Member,
    other: Statement,
    chain: &Chain,
) {
    let [space, work, time, stake] = names;
    let proofs = honest(donor, &other, chain);
    assert_accepted("what is taken from", &other, &proofs, chain);
    let forged = table.forge().with_space(proofs.space.clone().unwrap()).finish();
    table.here(space, "E_SPACE_FORGED", forged);
    let forged = table.forge().with_work_of(&other, &proofs).finish();
    table.here(work, "E_WORK_FORGED", forged);
    let forged = table.forge().with_time(proofs.time.unwrap()).finish();
    table.here(time, "E_TIME_LINK", forged);
    let taken = proofs.stake.unwrap().signature;
    let mut forged = table.honest.clone();
    forged.stake.as_mut().unwrap().signature = taken;
    table.here(stake, "E_STAKE_SIGNATURE", forged);
}

fn replayed(table: &mut Table<'_>) {
    let world = table.world;
    let mut chain = world.chain.clone();
    chain.window(&world.alice).mark(table.statement.sequence).unwrap();
    let case = (table.statement, table.honest.clone());
    table.add("all replayed", "E_REPLAY_SEQUENCE_USED", case, chain.clone());

    chain.window(&world.alice).mark(table.statement.sequence + 1_000).unwrap();
    let case = (table.statement, table.honest.clone());
    table.add("all replayed much later", "E_REPLAY_SEQUENCE_OLD", case, chain);

    let mut chain = world.chain.clone();
    chain.seen.insert(table.statement.digest());
    let case = (table.statement, table.honest.clone());
    table.add("all replayed to one that forgot", "E_REPLAY_STATEMENT", case, chain);

    let leap = Statement { sequence: u64::MAX, ..table.statement };
    let proofs = honest(&world.alice, &leap, &world.chain);
    let chain = world.chain.clone();
    table.add("a leap past all numbers", "E_REPLAY_SEQUENCE_AHEAD", (leap, proofs), chain);

    let names = [
        "space replayed in the next operation",
        "work replayed in the next operation",
        "time replayed in the next operation",
        "stake replayed in the next operation",
    ];
    let before = Statement { sequence: table.statement.sequence + 1, ..table.statement };
    transplanted(table, names, &world.alice, before, &world.chain);
}

/// An operation for which the work of these proofs is, by no chance, worth anything
fn another_operation(statement: &Statement, proofs: &FourProof) -> Statement {
    let space = proofs.space.as_ref().unwrap();
    let work = proofs.work.unwrap();
    (0..=u8::MAX)
        .map(|octet| Statement { subject: [octet; 32], ..*statement })
        .filter(|other| other.subject != statement.subject)
        .find(|other| work.verify(&challenge::work(&other.digest(), space)).is_err())
        .expect("most operations take other work")
}

fn taken_from_elsewhere(table: &mut Table<'_>) {
    let world = table.world;
    let names = [
        "space of another operation",
        "work of another operation",
        "time of another operation",
        "stake of another operation",
    ];
    let other = Statement { subject: [0x99; 32], ..table.statement };
    transplanted(table, names, &world.alice, other, &world.chain);
    let other = another_operation(&table.statement, &table.honest);
    let (chain, whole) = (world.chain.clone(), table.honest.clone());
    table.add("all of another operation", "E_WORK_FORGED", (other, whole), chain);

    let names = [
        "space of another requester",
        "work of another requester",
        "time of another requester",
        "stake of another requester",
    ];
    let other = world.statement(&world.bob, 1);
    transplanted(table, names, &world.bob, other, &world.chain);

    let names = [
        "space of another network",
        "work of another network",
        "time of another network",
        "stake of another network",
    ];
    let foreign = world.foreign_chain();
    let other = Statement { network: foreign.network, ..table.statement };
    transplanted(table, names, &world.alice_elsewhere, other, &foreign);

    let proofs = honest(&world.alice_elsewhere, &other, &foreign);
    let chain = world.chain.clone();
    table.add("all of another network", "E_BINDING_NETWORK", (other, proofs), chain);
}

/// What is lent answers the very challenge, and is still not the requester's
fn lent(table: &mut Table<'_>) {
    let world = table.world;
    let space = world.bob.answer(&table.statement);
    let forged = table.forge().with_space(space).finish();
    table.here("space lent by another requester", "E_SPACE_FORGED", forged);

    let space = world.alice_elsewhere.answer(&table.statement);
    let forged = table.forge().with_space(space).finish();
    table.here("space lent from another network", "E_SPACE_FORGED", forged);

    let holding = world.chain.holding(&world.bob);
    let forged = table.forge().with_holding(holding).signed_by(&world.bob.key).finish();
    table.here("stake lent by another requester", "E_STAKE_LEAF", forged);

    // A beacon of the other network, finalised there at the same height
    let foreign = [0xfb; 32];
    let statement = Statement { beacon_hash: foreign, ..table.statement };
    let mut elsewhere = world.chain.clone();
    elsewhere.beacons.insert(statement.beacon_height, foreign);
    let proofs = honest(&world.alice, &statement, &elsewhere);
    assert_accepted("a beacon where it belongs", &statement, &proofs, &elsewhere);
    let chain = world.chain.clone();
    let case = (statement, proofs);
    table.add("time lent from another network", "E_TIME_BEACON_FORGED", case, chain);
}

fn below_threshold(table: &mut Table<'_>) {
    let world = table.world;
    let mut stricter = |name, label, change: fn(&mut Policy)| {
        let mut chain = world.chain.clone();
        change(&mut chain.policy);
        let case = (table.statement, table.honest.clone());
        table.add(name, label, case, chain);
    };
    stricter("space below threshold: a small plot", "E_SPACE_SIZE", |policy| {
        policy.space_k_min = 20;
    });
    stricter("space below threshold: a weak plot", "E_SPACE_STRENGTH", |policy| {
        policy.space_strength = 3;
    });
    stricter("work below threshold", "E_WORK_BELOW_THRESHOLD", |policy| policy.work_bits += 1);
    stricter("time below threshold: younger beacons only", "E_TIME_BEACON_OLD", |policy| {
        policy.beacon_age_ms = Some(9);
    });
    stricter("time below threshold: no clock for the beacon", "E_TIME_BEACON_UNDATED", |policy| {
        policy.beacon_age_ms = Some(u64::MAX);
    });
    stricter("stake below threshold", "E_STAKE_BELOW_THRESHOLD", |policy| {
        policy.stake_weight_min = 6;
    });
    let undated = table
        .cases
        .iter_mut()
        .find(|case| case.label == "E_TIME_BEACON_UNDATED")
        .expect("it was just added");
    undated.chain.beacon_times_ms.clear();

    let mut chain = world.chain.clone();
    chain.policy.id += 1;
    let case = (table.statement, table.honest.clone());
    table.add("a policy that is not in force", "E_BINDING_POLICY", case, chain);

    let lenient = Statement { policy: 99, ..table.statement };
    let case = (lenient, table.honest.clone());
    let chain = world.chain.clone();
    table.add("proofs for another policy", "E_BINDING_STATEMENT", case, chain);
}

fn cases(world: &World) -> Vec<Case> {
    let mut table = Table::new(world);
    removed(&mut table);
    forged(&mut table);
    stale(&mut table);
    replayed(&mut table);
    taken_from_elsewhere(&mut table);
    lent(&mut table);
    below_threshold(&mut table);
    table.cases
}

#[test]
fn every_cheat_is_refused_and_the_proof_at_fault_is_named() {
    let world = World::new();
    let cases = cases(&world);
    let mut wrong = Vec::new();
    for case in &cases {
        // As it was made, and as it arrives
        let arrived = FourProof::from_slice(&case.proofs.to_vec()).expect(case.name);
        for proofs in [&case.proofs, &arrived] {
            match verify(&case.statement, proofs, &case.chain) {
                Err(refusal) if refusal.proof() == case.proof && refusal.label() == case.label => {}
                judged => wrong.push(format!("{}: {judged:?}, not {}", case.name, case.label)),
            }
        }
    }
    assert!(wrong.is_empty(), "of {} cases:\n{}", cases.len(), wrong.join("\n"));

    let mut names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    for proof in [ProofName::Space, ProofName::Work, ProofName::Time, ProofName::Stake] {
        let of = cases.iter().filter(|case| case.proof == proof).count();
        assert!(of >= 6, "{proof}: {of} cases");
    }
    assert!(cases.len() >= 24, "{} cases", cases.len());
}

#[test]
fn whoever_has_all_four_passes_and_nobody_else_gains_by_it() {
    let world = World::new();
    for member in [&world.alice, &world.bob] {
        let statement = world.statement(member, 7);
        let proofs = honest(member, &statement, &world.chain);
        let verified = verify(&statement, &proofs, &world.chain).expect("honest proofs pass");
        assert_eq!(verified.requester, member.id());
        assert_eq!(verified.stake_key, member.public());
    }
    // Bob's proofs under Alice's name, and Alice's under Bob's
    for (owner, thief) in [(&world.alice, &world.bob), (&world.bob, &world.alice)] {
        let statement = world.statement(owner, 8);
        let proofs = honest(owner, &statement, &world.chain);
        let stolen = Statement { requester: thief.id(), ..statement };
        assert!(verify(&stolen, &proofs, &world.chain).is_err());
        let holding = world.chain.holding(thief);
        let space = proofs.space.clone().unwrap();
        let resigned = Forgery::new(thief, stolen, &world.chain)
            .with_space(space)
            .with_holding(holding)
            .finish();
        let refused = verify(&stolen, &resigned, &world.chain);
        assert_eq!(refused, Err(ProofRefusal::SpaceForged));
    }
}

#[test]
fn a_signature_covers_the_stake_it_is_for() {
    // One key with two stakes: neither stands in for the other.
    let world = World::new();
    let mut chain = world.chain.clone();
    let mut second = chain.holding(&world.alice).leaf;
    second.weight += 1;
    chain.stakes.push(second);
    chain.number_stakes();
    let statement = world.statement(&world.alice, 9);
    let proofs = Forgery::new(&world.alice, statement, &chain)
        .with_holding(chain.holding(&world.alice))
        .finish();
    assert_accepted("the first stake", &statement, &proofs, &chain);
    let other = chain.holding_at(chain.stakes.len() - 1);
    let mut swapped = proofs.clone();
    let signature = proofs.stake.unwrap().signature;
    swapped.stake = Some(StakeProof {
        index: other.leaf.index,
        weight: other.leaf.weight,
        key: other.leaf.key,
        path: other.path,
        signature,
    });
    assert_eq!(verify(&statement, &swapped, &chain), Err(ProofRefusal::StakeSignature));
}
