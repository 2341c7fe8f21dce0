//! For the tests of this room alone: finalised state as plain fields, and one honest proof over it, made once from a
//! real plot. Tests change a copy.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::OnceLock;

use ed25519_consensus::SigningKey;

use crate::digest::{Digest, derive};
use crate::merkle;
use crate::operation::{NetworkId, RequesterId, requester_id};

use super::plot::Plot;
use super::plotting::PlotOrder;
use super::policy::Policy;
use super::prover::Prover;
use super::stake::{StakeHolding, StakeLeaf};
use super::{ChainView, FourProof, SequenceWindow, Statement, TicketState};

/// Finalised state; every field may be changed
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) network: NetworkId,
    pub(super) epoch: u64,
    pub(super) height: u64,
    pub(super) block_time_ms: u64,
    pub(super) beacons: HashMap<u64, Digest>,
    pub(super) beacon_times_ms: HashMap<u64, u64>,
    pub(super) stakes: Vec<StakeLeaf>,
    pub(super) policies: HashMap<u32, Policy>,
    pub(super) seen: HashSet<Digest>,
    pub(super) windows: HashMap<RequesterId, SequenceWindow>,
    pub(super) tickets: HashMap<Digest, TicketState>,
}

impl ChainView for View {
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
        let leaves: Vec<Digest> = self.stakes.iter().map(StakeLeaf::digest).collect();
        (epoch == self.epoch).then(|| (merkle::root(&leaves), leaves.len() as u64))
    }

    fn policy(&self, id: u32) -> Option<Policy> {
        self.policies.get(&id).copied()
    }

    fn is_seen(&self, statement: &Digest) -> bool {
        self.seen.contains(statement)
    }

    fn last_sequence_window(&self, requester: &RequesterId) -> SequenceWindow {
        self.windows.get(requester).copied().unwrap_or_default()
    }

    fn ticket(&self, id: &Digest) -> Option<TicketState> {
        self.tickets.get(id).copied()
    }
}

/// A statement, honest proofs for it, and the state they are judged against
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) statement: Statement,
    pub(super) proof: FourProof,
    pub(super) view: View,
}

/// The block at a height
pub(super) fn beacon(height: u64) -> Digest {
    derive("hypermesh v1 test beacon", &[&height.to_be_bytes()])
}

/// A copy of the one honest case
pub(super) fn case() -> Case {
    static CASE: OnceLock<Case> = OnceLock::new();
    CASE.get_or_init(make).clone()
}

fn make() -> Case {
    let key = SigningKey::from([1; 32]);
    let public = key.verification_key().to_bytes();
    let (network, requester) = ([2; 32], requester_id(&public));
    let stakes: Vec<StakeLeaf> = (0..3)
        .map(|index| StakeLeaf {
            index,
            requester: if index == 1 { requester } else { [index as u8; 32] },
            weight: 5,
            key: if index == 1 { public } else { [0; 32] },
        })
        .collect();
    let height = 200;
    let block_time_ms = 1_700_000_000_000;
    let view = View {
        network,
        epoch: 3,
        height,
        block_time_ms,
        beacons: (0..height).map(|height| (height, beacon(height))).collect(),
        beacon_times_ms: (0..height)
            .map(|below| (below, block_time_ms - 10 * (height - below)))
            .collect(),
        stakes: stakes.clone(),
        policies: HashMap::from([(Policy::TEST_ID, Policy::TEST)]),
        seen: HashSet::new(),
        windows: HashMap::new(),
        tickets: HashMap::new(),
    };
    let statement = Statement {
        network,
        epoch: view.epoch,
        kind: 1,
        subject: [4; 32],
        requester,
        beacon_height: height - 1,
        beacon_hash: beacon(height - 1),
        sequence: 1,
        not_after_height: height + 10,
        policy: Policy::TEST_ID,
    };
    let digests: Vec<Digest> = stakes.iter().map(StakeLeaf::digest).collect();
    let path = merkle::path(&digests, 1).expect("the stake is in the list");
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let order = PlotOrder {
        path: directory.path().join("test.plot"),
        network,
        requester,
        salt: [5; 32],
        k: 18,
        strength: 2,
    };
    let plot = Plot::make(&order, &mut |_| ControlFlow::Continue(())).expect("a plot can be made");
    let prover = Prover::new(plot, key);
    let holding = StakeHolding { leaf: stakes[1], path };
    let proof = prover
        .prove(&statement, &Policy::TEST, &holding, block_time_ms, &mut |_| {
            ControlFlow::Continue(())
        })
        .expect("proofs can be made");
    Case { statement, proof, view }
}
