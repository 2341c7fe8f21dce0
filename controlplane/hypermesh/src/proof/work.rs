//! The proof of work: a nonce under which BLAKE3, keyed with the challenge, starts with zero bits. One hash judges
//! what took two to the power of the bits on average to find. It limits rates and says nothing about who works.

use std::ops::ControlFlow;

use crate::digest::Digest;
use crate::wire::{Reader, WireError, Writer};

use super::policy::Policy;
use super::refusal::ProofRefusal;

/// The one algorithm there is so far
const ALGORITHM_BLAKE3: u8 = 1;

/// Hashes between two looks at whether to go on
const HASHES_PER_LOOK: u64 = 1 << 14;

/// A nonce, and how many bits it is claimed to be worth
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WorkProof {
    /// Leading zero bits, as claimed
    pub bits: u8,
    /// What was found
    pub nonce: u64,
}

/// How many zero bits the hash of a nonce starts with, at most 64
pub fn leading_bits(challenge: &Digest, nonce: u64) -> u32 {
    let hash = blake3::keyed_hash(challenge, &nonce.to_be_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_be_bytes(first).leading_zeros()
}

/// Looks for a nonce worth `bits`, from 0 up.
///
/// `watch` is told how many hashes were made, and ends the search by breaking; then there is no proof.
pub fn solve(
    challenge: &Digest,
    bits: u8,
    watch: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Option<WorkProof> {
    for nonce in 0..=u64::MAX {
        if nonce % HASHES_PER_LOOK == 0 && watch(nonce).is_break() {
            return None;
        }
        if leading_bits(challenge, nonce) >= u32::from(bits) {
            return Some(WorkProof { bits, nonce });
        }
    }
    None
}

impl WorkProof {
    /// Octets of the encoding
    pub const BYTES: usize = 1 + 1 + 8;

    /// Whether enough is claimed; what is claimed is for [`WorkProof::verify`]
    pub fn check_threshold(&self, policy: &Policy) -> Result<(), ProofRefusal> {
        if self.bits < policy.work_bits {
            return Err(ProofRefusal::WorkBelowThreshold {
                bits: self.bits,
                needed: policy.work_bits,
            });
        }
        Ok(())
    }

    /// Whether the nonce is worth what is claimed
    pub fn verify(&self, challenge: &Digest) -> Result<(), ProofRefusal> {
        let found = leading_bits(challenge, self.nonce);
        if found < u32::from(self.bits) {
            return Err(ProofRefusal::WorkForged { bits: self.bits, found });
        }
        Ok(())
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        writer.u8(ALGORITHM_BLAKE3).u8(self.bits).u64(self.nonce);
    }

    /// Reads what [`WorkProof::encode`] wrote
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match reader.u8()? {
            ALGORITHM_BLAKE3 => Ok(Self { bits: reader.u8()?, nonce: reader.u64()? }),
            tag => Err(WireError::BadTag { what: "work algorithm", tag: tag.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(challenge: &Digest, bits: u8) -> WorkProof {
        solve(challenge, bits, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    #[test]
    fn what_is_found_is_worth_what_it_claims_here_and_not_elsewhere() {
        for bits in [0, 1, 4, 8, 12] {
            let proof = found(&[bits; 32], bits);
            assert_eq!(proof.verify(&[bits; 32]), Ok(()));
            assert!((0..proof.nonce).all(|lower| leading_bits(&[bits; 32], lower) < bits.into()));
        }
        // One of 2^12 challenges would accept it by chance; this is not the one.
        let proof = found(&[1; 32], 12);
        assert!(matches!(proof.verify(&[2; 32]), Err(ProofRefusal::WorkForged { .. })));
    }

    #[test]
    fn a_claim_is_held_to_what_it_claims() {
        let honest = found(&[3; 32], 8);
        let real = leading_bits(&[3; 32], honest.nonce);
        let boast = WorkProof { bits: u8::try_from(real).unwrap() + 1, ..honest };
        let refusal = ProofRefusal::WorkForged { bits: boast.bits, found: real };
        assert_eq!(boast.verify(&[3; 32]), Err(refusal));
        let all = WorkProof { bits: u8::MAX, nonce: 0 };
        assert!(all.verify(&[3; 32]).is_err());
    }

    #[test]
    fn the_threshold_is_the_policys() {
        let policy = Policy::TEST;
        for (bits, enough) in [(0, false), (7, false), (8, true), (9, true)] {
            let judged = WorkProof { bits, nonce: 0 }.check_threshold(&policy);
            assert_eq!(judged.is_ok(), enough, "{bits}");
        }
    }

    #[test]
    fn a_search_ends_when_it_is_told_to() {
        let mut looks = Vec::new();
        let found = solve(&[4; 32], 64, &mut |hashes| {
            looks.push(hashes);
            if looks.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(found, None);
        assert_eq!(looks, [0, HASHES_PER_LOOK, 2 * HASHES_PER_LOOK]);
    }

    #[test]
    fn only_the_known_algorithm_is_read() {
        let proof = WorkProof { bits: 9, nonce: 10 };
        let mut writer = Writer::new();
        proof.encode(&mut writer);
        let mut octets = writer.into_vec();
        assert_eq!(octets.len(), WorkProof::BYTES);
        assert_eq!(WorkProof::decode(&mut Reader::new(&octets)), Ok(proof));
        octets[0] = 2;
        assert_eq!(
            WorkProof::decode(&mut Reader::new(&octets)),
            Err(WireError::BadTag { what: "work algorithm", tag: 2 })
        );
    }
}
