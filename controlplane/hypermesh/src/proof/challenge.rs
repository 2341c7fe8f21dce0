//! The challenges between the four proofs. Each is a digest under a context of its own over the challenge before it
//! and the proof that answered that one, so the last commits to everything.

use crate::digest::{Digest, Domain};
use crate::wire::Writer;

use super::space::SpaceProof;
use super::stake::StakeLeaf;
use super::time::TimeProof;
use super::work::WorkProof;

static SPACE: Domain = Domain::new("hypermesh v1 space challenge");
static WORK: Domain = Domain::new("hypermesh v1 work challenge");
static TIME: Domain = Domain::new("hypermesh v1 time challenge");
static STAKE: Domain = Domain::new("hypermesh v1 stake challenge");

/// What the space proof answers at this attempt
pub fn space(statement: &Digest, attempt: u8) -> Digest {
    let mut octets = [0; 33];
    octets[..32].copy_from_slice(statement);
    octets[32] = attempt;
    SPACE.hash(&octets)
}

/// What the work proof answers; also the key of its hash
pub fn work(statement: &Digest, space: &SpaceProof) -> Digest {
    let mut writer = Writer::with_capacity(SpaceProof::LIMIT_BYTES);
    space.encode(&mut writer);
    WORK.derive(&[statement, writer.as_slice()])
}

/// What the time proof is linked to
pub fn time(work_challenge: &Digest, work: &WorkProof) -> Digest {
    let mut writer = Writer::with_capacity(WorkProof::BYTES);
    work.encode(&mut writer);
    TIME.derive(&[work_challenge, writer.as_slice()])
}

/// What the stake's key signs
pub fn stake(time_challenge: &Digest, time: &TimeProof, leaf: &StakeLeaf) -> Digest {
    let mut writer = Writer::with_capacity(TimeProof::BYTES);
    time.encode(&mut writer);
    STAKE.derive(&[time_challenge, writer.as_slice(), &leaf.digest()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space_proof() -> SpaceProof {
        SpaceProof { salt: [1; 32], k: 18, strength: 2, attempt: 0, proof: vec![3; 288] }
    }

    #[test]
    fn each_challenge_follows_from_all_that_came_before() {
        let link = |statement: [u8; 32], space: &SpaceProof, nonce, claimed_ms, weight| {
            let found = WorkProof { bits: 8, nonce };
            let time_challenge = time(&work(&statement, space), &found);
            let proof = TimeProof {
                beacon_height: 4,
                beacon_hash: [5; 32],
                claimed_ms,
                link: time_challenge,
            };
            let leaf = StakeLeaf { index: 6, requester: [7; 32], weight, key: [8; 32] };
            stake(&time_challenge, &proof, &leaf)
        };
        let space = space_proof();
        let base = link([9; 32], &space, 10, 11, 12);
        let mut salted = space.clone();
        salted.salt[31] ^= 1;
        let mut solved = space.clone();
        solved.proof[287] ^= 1;
        let attempt = SpaceProof { attempt: 1, ..space.clone() };
        for (index, other) in [
            link([0; 32], &space, 10, 11, 12),
            link([9; 32], &salted, 10, 11, 12),
            link([9; 32], &solved, 10, 11, 12),
            link([9; 32], &attempt, 10, 11, 12),
            link([9; 32], &space, 0, 11, 12),
            link([9; 32], &space, 10, 0, 12),
            link([9; 32], &space, 10, 11, 0),
        ]
        .iter()
        .enumerate()
        {
            assert_ne!(*other, base, "{index}");
        }
        assert_eq!(link([9; 32], &space, 10, 11, 12), base);
    }

    #[test]
    fn what_the_work_claims_is_bound_too() {
        let honest = WorkProof { bits: 8, nonce: 1 };
        assert_ne!(time(&[1; 32], &honest), time(&[1; 32], &WorkProof { bits: 9, ..honest }));
    }

    #[test]
    fn attempts_have_challenges_of_their_own() {
        let all: std::collections::HashSet<_> =
            (0..=u8::MAX).map(|attempt| super::space(&[1; 32], attempt)).collect();
        assert_eq!(all.len(), 256);
    }
}
