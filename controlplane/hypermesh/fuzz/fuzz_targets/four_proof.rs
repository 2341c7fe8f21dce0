//! Four proofs as anyone may send them: any octets are read, what reads is written as it was, the judge refuses it by
//! name, and none panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_hypermesh::digest::Digest;
use stoq_hypermesh::proof::{
    ChainView, FOUR_PROOF_LIMIT_BYTES, FourProof, Policy, SequenceWindow, Statement, TicketState,
    challenge, verify,
};

/// A chain that takes whatever the proofs say about it, and asks for no work
struct Obliging<'a>(&'a FourProof);

impl ChainView for Obliging<'_> {
    fn network(&self) -> Digest {
        [1; 32]
    }

    fn epoch(&self) -> u64 {
        self.0.epoch
    }

    fn height(&self) -> u64 {
        self.0.beacon_height.saturating_add(1)
    }

    fn beacon(&self, _height: u64) -> Option<Digest> {
        Some(self.0.beacon_hash)
    }

    fn beacon_time_ms(&self, _height: u64) -> Option<u64> {
        self.0.time.map(|time| time.claimed_ms)
    }

    fn block_time_ms(&self) -> u64 {
        self.0.time.map_or(0, |time| time.claimed_ms)
    }

    fn stake_root(&self, _epoch: u64) -> Option<(Digest, u64)> {
        Some(([2; 32], 3))
    }

    fn policy(&self, id: u32) -> Option<Policy> {
        Some(Policy { id, space_k_max: 28, work_bits: 0, stake_weight_min: 0, ..Policy::TEST })
    }

    fn is_seen(&self, _statement: &Digest) -> bool {
        false
    }

    fn last_sequence_window(&self, _requester: &Digest) -> SequenceWindow {
        SequenceWindow::default()
    }

    fn ticket(&self, _id: &Digest) -> Option<TicketState> {
        None
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(proof) = FourProof::from_slice(data) else { return };
    assert!(data.len() <= FOUR_PROOF_LIMIT_BYTES);
    assert_eq!(proof.to_vec(), data);
    let statement = Statement {
        network: [1; 32],
        epoch: proof.epoch,
        kind: 1,
        subject: [3; 32],
        requester: [4; 32],
        beacon_height: proof.beacon_height,
        beacon_hash: proof.beacon_hash,
        sequence: 1,
        not_after_height: u64::MAX,
        policy: proof.policy,
    };
    // No fuzzer finds the link by itself: with it, the space proof and what follows are judged as well.
    let mut linked = proof.clone();
    if let (Some(space), Some(work), Some(time)) = (&proof.space, &proof.work, &mut linked.time) {
        time.link = challenge::time(&challenge::work(&statement.digest(), space), work);
    }
    for proof in [&proof, &linked] {
        let refusal = verify(&statement, proof, &Obliging(proof)).expect_err("nobody staked");
        let prefix = format!("E_{}_", refusal.proof().label().to_ascii_uppercase());
        assert!(refusal.label().starts_with(&prefix));
    }
});
