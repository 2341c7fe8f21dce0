//! Two networks, two requesters with real plots, a chain as plain fields, and a cheat that makes anew whatever it did
//! not steal.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use ed25519_consensus::SigningKey;
use stoq_hypermesh::digest::{Digest, derive};
use stoq_hypermesh::merkle;
use stoq_hypermesh::operation::requester_id;
use stoq_hypermesh::proof::{
    ChainView, FourProof, Plot, PlotOrder, Policy, Prover, SequenceWindow, SpaceProof,
    StakeHolding, StakeLeaf, StakeProof, Statement, TicketState, TimeProof, WorkProof, challenge,
    work,
};

const HERE: Digest = [0xaa; 32];
const ELSEWHERE: Digest = [0xbb; 32];

/// The block of every network at a height
pub fn beacon(height: u64) -> Digest {
    derive("hypermesh v1 test beacon", &[&height.to_be_bytes()])
}

/// Finalised state as plain fields
#[derive(Clone)]
pub struct Chain {
    pub network: Digest,
    pub epoch: u64,
    pub height: u64,
    pub block_time_ms: u64,
    pub beacons: HashMap<u64, Digest>,
    pub beacon_times_ms: HashMap<u64, u64>,
    pub stakes: Vec<StakeLeaf>,
    pub policy: Policy,
    pub seen: HashSet<Digest>,
    pub windows: HashMap<Digest, SequenceWindow>,
}

impl Chain {
    fn new(network: Digest, stakes: Vec<StakeLeaf>) -> Self {
        let (height, block_time_ms) = (500, 1_800_000_000_000);
        Self {
            network,
            epoch: 4,
            height,
            block_time_ms,
            beacons: (0..height).map(|height| (height, beacon(height))).collect(),
            beacon_times_ms: (0..height)
                .map(|below| (below, block_time_ms - 10 * (height - below)))
                .collect(),
            stakes,
            policy: Policy::TEST,
            seen: HashSet::new(),
            windows: HashMap::new(),
        }
    }

    pub fn number_stakes(&mut self) {
        for (index, stake) in self.stakes.iter_mut().enumerate() {
            stake.index = index as u64;
        }
    }

    fn leaves(&self) -> Vec<Digest> {
        self.stakes.iter().map(StakeLeaf::digest).collect()
    }

    pub fn holding_at(&self, index: usize) -> StakeHolding {
        let path = merkle::path(&self.leaves(), index).expect("there is such a stake");
        StakeHolding { leaf: self.stakes[index], path }
    }

    /// The member's first stake
    pub fn holding(&self, member: &Member) -> StakeHolding {
        let id = member.id();
        let index = self.stakes.iter().position(|stake| stake.requester == id);
        self.holding_at(index.expect("the member has a stake"))
    }

    pub fn window(&mut self, member: &Member) -> &mut SequenceWindow {
        self.windows.entry(member.id()).or_default()
    }
}

impl ChainView for Chain {
    fn network(&self) -> Digest {
        self.network
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn height(&self) -> u64 {
        self.height
    }

    fn beacon(&self, height: u64) -> Option<Digest> {
        self.beacons.get(&height).copied()
    }

    fn beacon_time_ms(&self, height: u64) -> Option<u64> {
        self.beacon_times_ms.get(&height).copied()
    }

    fn block_time_ms(&self) -> u64 {
        self.block_time_ms
    }

    fn stake_root(&self, epoch: u64) -> Option<(Digest, u64)> {
        let leaves = self.leaves();
        (epoch == self.epoch).then(|| (merkle::root(&leaves), leaves.len() as u64))
    }

    fn policy(&self, id: u32) -> Option<Policy> {
        (id == self.policy.id).then_some(self.policy)
    }

    fn is_seen(&self, statement: &Digest) -> bool {
        self.seen.contains(statement)
    }

    fn last_sequence_window(&self, requester: &Digest) -> SequenceWindow {
        self.windows.get(requester).copied().unwrap_or_default()
    }

    fn ticket(&self, _id: &Digest) -> Option<TicketState> {
        None
    }
}

/// A requester in one network: a key and a plot
pub struct Member {
    pub key: SigningKey,
    prover: Prover,
}

impl Member {
    fn new(directory: &std::path::Path, name: &str, seed: u8, network: Digest) -> Self {
        let key = SigningKey::from([seed; 32]);
        let order = PlotOrder {
            path: directory.join(format!("{name}.plot")),
            network,
            requester: requester_id(&key.verification_key().to_bytes()),
            salt: [seed; 32],
            k: 18,
            strength: 2,
        };
        let plot =
            Plot::make(&order, &mut |_| ControlFlow::Continue(())).expect("a plot can be made");
        Self { prover: Prover::new(plot, key.clone()), key }
    }

    pub fn public(&self) -> [u8; 32] {
        self.key.verification_key().to_bytes()
    }

    pub fn id(&self) -> Digest {
        requester_id(&self.public())
    }

    /// A space proof from this member's plot that answers another's statement
    pub fn answer(&self, statement: &Statement) -> SpaceProof {
        let plot = self.prover.plot();
        let library = chia_pos2::Prover::new(plot.path()).expect("the plot is there");
        let digest = statement.digest();
        for attempt in 0..32 {
            let challenge = challenge::space(&digest, attempt);
            let found = library.get_qualities_for_challenge(&challenge).expect("it can be read");
            for chain in found {
                let id = library.plot_id_for_index(chain.plot_index);
                let proof = chia_pos2::solve_proof(&chain.chain, &id, plot.k(), plot.strength());
                let space = SpaceProof {
                    salt: *plot.salt(),
                    k: plot.k(),
                    strength: plot.strength(),
                    attempt,
                    proof,
                };
                if space.verify(&digest, plot.network(), plot.requester()).is_ok() {
                    return space;
                }
            }
        }
        panic!("the plot answers none of 32 challenges")
    }
}

/// Everything the cases need
pub struct World {
    _directory: tempfile::TempDir,
    pub alice: Member,
    pub bob: Member,
    /// The same key, with a plot for another network
    pub alice_elsewhere: Member,
    pub chain: Chain,
}

impl World {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let alice = Member::new(directory.path(), "alice", 1, HERE);
        let bob = Member::new(directory.path(), "bob", 2, HERE);
        let alice_elsewhere = Member::new(directory.path(), "elsewhere", 1, ELSEWHERE);
        let stake = |member: &Member| StakeLeaf {
            index: 0,
            requester: member.id(),
            weight: 5,
            key: member.public(),
        };
        let stranger = StakeLeaf { index: 0, requester: [7; 32], weight: 90, key: [8; 32] };
        let mut chain = Chain::new(HERE, vec![stake(&alice), stranger, stake(&bob)]);
        chain.number_stakes();
        Self { _directory: directory, alice, bob, alice_elsewhere, chain }
    }

    /// What the other network has finalised: the same, under its own name
    pub fn foreign_chain(&self) -> Chain {
        Chain { network: ELSEWHERE, ..self.chain.clone() }
    }

    /// An operation of a member, asked for now
    pub fn statement(&self, member: &Member, sequence: u64) -> Statement {
        let beacon_height = self.chain.height - 1;
        Statement {
            network: self.chain.network,
            epoch: self.chain.epoch,
            kind: 1,
            subject: [0x11; 32],
            requester: member.id(),
            beacon_height,
            beacon_hash: beacon(beacon_height),
            sequence,
            not_after_height: self.chain.height + 100,
            policy: self.chain.policy.id,
        }
    }
}

/// The proofs as the member makes them
pub fn honest(member: &Member, statement: &Statement, chain: &Chain) -> FourProof {
    let holding = chain.holding(member);
    member
        .prover
        .prove(statement, &chain.policy, &holding, chain.block_time_ms, &mut |_| {
            ControlFlow::Continue(())
        })
        .expect("proofs can be made")
}

/// Work that claims `bits` and is not worth them
pub fn worthless(challenge: &Digest, bits: u8) -> WorkProof {
    let nonce = (0..).find(|nonce| work::leading_bits(challenge, *nonce) < bits.into());
    WorkProof { bits, nonce: nonce.expect("most nonces are worthless") }
}

/// Proofs of which some parts are given and the others are made, each over what came before
pub struct Forgery<'a> {
    member: &'a Member,
    statement: Statement,
    policy: Policy,
    key: &'a SigningKey,
    holding: StakeHolding,
    claimed_ms: u64,
    space: Option<SpaceProof>,
    work: Option<WorkProof>,
    work_from: Option<Digest>,
    time: Option<TimeProof>,
}

impl<'a> Forgery<'a> {
    pub fn new(member: &'a Member, statement: Statement, chain: &Chain) -> Self {
        Self {
            member,
            statement,
            policy: chain.policy,
            key: &member.key,
            holding: chain.holding(member),
            claimed_ms: chain.block_time_ms,
            space: None,
            work: None,
            work_from: None,
            time: None,
        }
    }

    pub fn with_space(mut self, space: SpaceProof) -> Self {
        self.space = Some(space);
        self
    }

    pub fn with_work(mut self, work: WorkProof) -> Self {
        self.work = Some(work);
        self
    }

    /// Work that is good for other proofs, and by no chance for these
    pub fn with_work_of(mut self, statement: &Statement, proofs: &FourProof) -> Self {
        let space = proofs.space.as_ref().expect("there is a space proof");
        self.work_from = Some(challenge::work(&statement.digest(), space));
        self
    }

    pub fn with_time(mut self, time: TimeProof) -> Self {
        self.time = Some(time);
        self
    }

    pub fn with_holding(mut self, holding: StakeHolding) -> Self {
        self.holding = holding;
        self
    }

    pub fn signed_by(mut self, key: &'a SigningKey) -> Self {
        self.key = key;
        self
    }

    pub fn claiming(mut self, claimed_ms: u64) -> Self {
        self.claimed_ms = claimed_ms;
        self
    }

    fn work(&self, own: &Digest) -> WorkProof {
        let bits = self.policy.work_bits;
        let worth = |challenge: &Digest, nonce| work::leading_bits(challenge, nonce) >= bits.into();
        let nonce = match &self.work_from {
            Some(other) => (0..).find(|nonce| worth(other, *nonce) && !worth(own, *nonce)),
            None => (0..).find(|nonce| worth(own, *nonce)),
        };
        WorkProof { bits, nonce: nonce.expect("there is one among so many") }
    }

    pub fn finish(self) -> FourProof {
        let statement = &self.statement;
        let space = self.space.clone().unwrap_or_else(|| self.member.answer(statement));
        let work_challenge = challenge::work(&statement.digest(), &space);
        let work = self.work.unwrap_or_else(|| self.work(&work_challenge));
        let link = challenge::time(&work_challenge, &work);
        let time = self.time.unwrap_or(TimeProof {
            beacon_height: statement.beacon_height,
            beacon_hash: statement.beacon_hash,
            claimed_ms: self.claimed_ms,
            link,
        });
        let stake_challenge = challenge::stake(&link, &time, &self.holding.leaf);
        let stake = StakeProof::sign(&self.holding, self.key, &stake_challenge);
        FourProof {
            policy: statement.policy,
            epoch: statement.epoch,
            beacon_height: statement.beacon_height,
            beacon_hash: statement.beacon_hash,
            space: Some(space),
            work: Some(work),
            time: Some(time),
            stake: Some(stake),
        }
    }
}
