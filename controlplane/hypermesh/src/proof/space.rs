//! The proof of space: chains in a plot of Chia's second format that answer the challenge. The plot's identity is
//! derived from the network, the requester and a salt, so no plot serves two requesters. Making plots is `plot`.

use crate::digest::{Digest, Domain};
use crate::operation::{NetworkId, RequesterId};
use crate::wire::{Reader, WireError, Writer};

use super::challenge;
use super::policy::{Policy, SPACE_K_CEILING};
use super::refusal::ProofRefusal;

static PLOT: Domain = Domain::new("hypermesh v1 plot group");

/// A challenge is answered by a plot less than every second time, so a prover may try as many. All fail once in
/// tens of millions of statements.
pub const ATTEMPTS: u8 = 32;

/// Plots stand alone here: groups of one, of which this is the one
pub(super) const PLOT_INDEX: u16 = 0;

/// As [`PLOT_INDEX`]
pub(super) const META_GROUP: u8 = 0;

/// Octets of a proof for each unit of `k`: 128 values of `k` bits
const OCTETS_PER_K: usize = 16;

/// Octets of the longest proof
pub const SPACE_PROOF_LIMIT_BYTES: usize = OCTETS_PER_K * SPACE_K_CEILING as usize;

/// Chains of a plot that answer a challenge
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpaceProof {
    /// What tells this plot from the requester's others
    pub salt: [u8; 32],
    /// The size of the plot
    pub k: u8,
    /// The strength of the plot
    pub strength: u8,
    /// Which of the challenges was answered
    pub attempt: u8,
    /// 128 values of `k` bits
    pub proof: Vec<u8>,
}

/// What a plot of this requester in this network is made from
pub fn plot_group(network: &NetworkId, requester: &RequesterId, salt: &[u8; 32]) -> Digest {
    PLOT.derive(&[network, requester, salt])
}

impl SpaceProof {
    /// Octets of the longest encoding
    pub const LIMIT_BYTES: usize = 32 + 3 + 4 + SPACE_PROOF_LIMIT_BYTES;

    /// Whether size, strength, attempt and length may be; what they say is for [`SpaceProof::verify`].
    ///
    /// Nothing that passes costs more to judge than the policy means it to.
    pub fn check_threshold(&self, policy: &Policy) -> Result<(), ProofRefusal> {
        let (min, max) = (policy.space_k_min, policy.space_k_max);
        if !(min..=max).contains(&self.k) || !self.k.is_multiple_of(2) {
            return Err(ProofRefusal::SpaceSize { k: self.k, min, max });
        }
        if self.strength != policy.space_strength {
            let (strength, needed) = (self.strength, policy.space_strength);
            return Err(ProofRefusal::SpaceStrength { strength, needed });
        }
        if self.attempt >= ATTEMPTS {
            let attempt = self.attempt;
            return Err(ProofRefusal::SpaceAttempt { attempt, limit: ATTEMPTS });
        }
        let needed = usize::from(self.k) * OCTETS_PER_K;
        if self.proof.len() != needed {
            return Err(ProofRefusal::SpaceLength { octets: self.proof.len(), needed });
        }
        Ok(())
    }

    /// Whether the proof answers the statement's challenge with a plot of the requester in the network
    pub fn verify(
        &self,
        statement: &Digest,
        network: &NetworkId,
        requester: &RequesterId,
    ) -> Result<(), ProofRefusal> {
        let answered = chia_pos2::validate_proof_v2(
            &plot_group(network, requester, &self.salt),
            PLOT_INDEX,
            self.k,
            self.strength,
            META_GROUP,
            &challenge::space(statement, self.attempt),
            &self.proof,
        );
        if answered.is_some() { Ok(()) } else { Err(ProofRefusal::SpaceForged) }
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        writer.fixed(&self.salt).u8(self.k).u8(self.strength).u8(self.attempt).bytes(&self.proof);
    }

    /// Reads what [`SpaceProof::encode`] wrote
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            salt: reader.fixed()?,
            k: reader.u8()?,
            strength: reader.u8()?,
            attempt: reader.u8()?,
            proof: reader.bytes(SPACE_PROOF_LIMIT_BYTES)?.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_proof_answers_its_own_statement_network_and_requester_alone() {
        let case = testing::case();
        let proof = case.proof.space.clone().unwrap();
        let statement = case.statement.digest();
        let (network, requester) = (case.statement.network, case.statement.requester);
        assert_eq!(proof.verify(&statement, &network, &requester), Ok(()));
        let refused = Err(ProofRefusal::SpaceForged);
        assert_eq!(proof.verify(&[9; 32], &network, &requester), refused);
        assert_eq!(proof.verify(&statement, &[9; 32], &requester), refused);
        assert_eq!(proof.verify(&statement, &network, &[9; 32]), refused);
        let salted = SpaceProof { salt: [9; 32], ..proof.clone() };
        assert_eq!(salted.verify(&statement, &network, &requester), refused);
        for attempt in (0..ATTEMPTS).filter(|attempt| *attempt != proof.attempt) {
            let other = SpaceProof { attempt, ..proof.clone() };
            assert_eq!(other.verify(&statement, &network, &requester), refused, "{attempt}");
        }
        for octet in 0..proof.proof.len() {
            let mut flipped = proof.clone();
            flipped.proof[octet] ^= 1 << (octet % 8);
            assert_eq!(flipped.verify(&statement, &network, &requester), refused, "{octet}");
        }
    }

    #[test]
    fn what_must_not_reach_the_judge_does_not() {
        let policy = Policy::TEST;
        let fair =
            SpaceProof { salt: [0; 32], k: 18, strength: 2, attempt: 31, proof: vec![0; 288] };
        assert_eq!(fair.check_threshold(&policy), Ok(()));
        for k in (0..=u8::MAX).filter(|k| ![18, 20].contains(k)) {
            let judged = SpaceProof { k, ..fair.clone() }.check_threshold(&policy);
            assert_eq!(judged, Err(ProofRefusal::SpaceSize { k, min: 18, max: 20 }));
        }
        for strength in (0..=u8::MAX).filter(|strength| *strength != 2) {
            let judged = SpaceProof { strength, ..fair.clone() }.check_threshold(&policy);
            assert_eq!(judged, Err(ProofRefusal::SpaceStrength { strength, needed: 2 }));
        }
        for attempt in ATTEMPTS..=u8::MAX {
            let judged = SpaceProof { attempt, ..fair.clone() }.check_threshold(&policy);
            assert_eq!(judged, Err(ProofRefusal::SpaceAttempt { attempt, limit: ATTEMPTS }));
        }
        for octets in [0, 287, 289, 320] {
            let judged =
                SpaceProof { proof: vec![0; octets], ..fair.clone() }.check_threshold(&policy);
            assert_eq!(judged, Err(ProofRefusal::SpaceLength { octets, needed: 288 }));
        }
    }

    #[test]
    fn the_judge_refuses_every_size_and_strength_without_harm() {
        // The library is handed what no policy lets through, too: a validator must outlive a mistake in one.
        for k in 0..=u8::MAX {
            for strength in [0, 1, 2, 17, 60, 63, 64, 255] {
                let proof = SpaceProof {
                    salt: [1; 32],
                    k,
                    strength,
                    attempt: 0,
                    proof: vec![0xa5; usize::from(k) * OCTETS_PER_K],
                };
                let refused = Err(ProofRefusal::SpaceForged);
                assert_eq!(proof.verify(&[2; 32], &[3; 32], &[4; 32]), refused, "{k} {strength}");
            }
        }
    }

    #[test]
    fn encodings_are_read_back_within_their_limit() {
        let proof = SpaceProof {
            salt: [1; 32],
            k: 28,
            strength: 2,
            attempt: 3,
            proof: vec![4; SPACE_PROOF_LIMIT_BYTES],
        };
        let mut writer = Writer::new();
        proof.encode(&mut writer);
        assert_eq!(writer.len(), SpaceProof::LIMIT_BYTES);
        assert_eq!(SpaceProof::decode(&mut Reader::new(writer.as_slice())), Ok(proof.clone()));
        let longer = SpaceProof { proof: vec![4; SPACE_PROOF_LIMIT_BYTES + 1], ..proof };
        let mut writer = Writer::new();
        longer.encode(&mut writer);
        assert_eq!(
            SpaceProof::decode(&mut Reader::new(writer.as_slice())),
            Err(WireError::TooLong { limit: SPACE_PROOF_LIMIT_BYTES })
        );
    }
}
