//! Quorums of votes: the same vote of enough validators, in one piece that is verified at once. Signatures are judged by
//! ZIP-215, where one at a time and many at once decide alike.

use std::collections::BTreeMap;

use ed25519_consensus::{Signature, VerificationKeyBytes, batch};
use rand_core_06::{CryptoRng, Error as RandomError, RngCore};

use super::validators::{VALIDATORS_LIMIT, ValidatorSet};
use super::vote::{SignedVote, Statement};
use crate::digest::Digest;
use crate::wire::{Reader, WireError, Writer};

/// Octets of the set of who signed a certificate
const SIGNERS_LIMIT_BYTES: usize = VALIDATORS_LIMIT.div_ceil(8);

/// Why a quorum's votes do not hold
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum QuorumFault {
    /// Somebody signed who is no validator of the epoch
    #[error("the certificate names a signer who is no validator of its epoch")]
    Signer,
    /// Too few signed
    #[error("{signed} validators signed the certificate, and {quorum} are needed")]
    TooFew {
        /// How many
        signed: usize,
        /// How many are needed
        quorum: usize,
    },
    /// A signature does not hold
    #[error("a signature of the certificate does not hold")]
    Signature,
}

/// The same vote of several validators
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quorum {
    /// What they say
    pub statement: Statement,
    /// Who says it, by place, and with what signature
    pub signatures: BTreeMap<u32, [u8; 64]>,
}

impl Quorum {
    /// Whether a quorum of `set` signed this in this network.
    ///
    /// All signatures must hold, not only a quorum of them, so that everyone sees the same votes in it.
    pub fn verify(&self, network: &Digest, set: &ValidatorSet) -> Result<(), QuorumFault> {
        let (signed, quorum) = (self.signatures.len(), set.quorum());
        if signed < quorum {
            return Err(QuorumFault::TooFew { signed, quorum });
        }
        let message = self.statement.message(network);
        let mut verifier = batch::Verifier::new();
        let mut seed = blake3::Hasher::new_derive_key("hypermesh v1 batch verification");
        seed.update(&message);
        for (signer, signature) in &self.signatures {
            let key = set.get(*signer).ok_or(QuorumFault::Signer)?.key.0;
            seed.update(&key).update(signature);
            let key = VerificationKeyBytes::from(key);
            verifier.queue((key, Signature::from(*signature), &message));
        }
        verifier.verify(Coefficients(seed.finalize_xof())).map_err(|_| QuorumFault::Signature)
    }

    /// The votes one by one
    pub fn votes(&self) -> impl Iterator<Item = SignedVote> + '_ {
        self.signatures.iter().map(|(signer, signature)| SignedVote {
            statement: self.statement,
            signer: *signer,
            signature: *signature,
        })
    }

    /// Writes the canonical encoding: the statement, a bit for each place, and the signatures in their order
    pub fn encode(&self, writer: &mut Writer) {
        self.statement.encode(writer);
        let last = self.signatures.last_key_value().map_or(0, |(signer, _)| *signer as usize + 1);
        let mut signers = vec![0; last.div_ceil(8)];
        for signer in self.signatures.keys() {
            signers[*signer as usize / 8] |= 1 << (signer % 8);
        }
        writer.bytes(&signers);
        for signature in self.signatures.values() {
            writer.fixed(signature);
        }
    }

    /// Reads what [`Quorum::encode`] wrote
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let statement = Statement::decode(reader)?;
        let signers = reader.bytes(SIGNERS_LIMIT_BYTES)?;
        if signers.last() == Some(&0) {
            return Err(WireError::NotCanonical { what: "signers of a certificate" });
        }
        let mut signatures = BTreeMap::new();
        for signer in 0..signers.len() * 8 {
            if signers[signer / 8] >> (signer % 8) & 1 == 1 {
                signatures.insert(signer as u32, reader.fixed()?);
            }
        }
        Ok(Self { statement, signatures })
    }
}

/// The random factors of a batch, drawn from everything that is in it: whoever made the signatures could not know them
struct Coefficients(blake3::OutputReader);

impl RngCore for Coefficients {
    fn next_u32(&mut self) -> u32 {
        let mut octets = [0; 4];
        self.0.fill(&mut octets);
        u32::from_le_bytes(octets)
    }

    fn next_u64(&mut self) -> u64 {
        let mut octets = [0; 8];
        self.0.fill(&mut octets);
        u64::from_le_bytes(octets)
    }

    fn fill_bytes(&mut self, octets: &mut [u8]) {
        self.0.fill(octets);
    }

    fn try_fill_bytes(&mut self, octets: &mut [u8]) -> Result<(), RandomError> {
        self.0.fill(octets);
        Ok(())
    }
}

impl CryptoRng for Coefficients {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::testing::{genesis, quorum_of, secret_of};
    use crate::consensus::vote::Proposal;

    fn proposal() -> Proposal {
        Proposal { epoch: 3, view: 700, parent_view: 699, block: [5; 32] }
    }

    #[test]
    fn a_quorum_holds_with_every_signature_and_not_without() {
        let genesis = genesis(7, 8);
        let (network, set) = (genesis.network(), genesis.validators());
        let statement = Statement::Finalize(proposal());
        let quorum = quorum_of(&genesis, statement, [0, 2, 3, 5, 6]);
        assert_eq!(quorum.verify(&network, set), Ok(()));
        assert_eq!(quorum.votes().filter(|vote| vote.is_valid(&network, set)).count(), 5);
        let few = quorum_of(&genesis, statement, [0, 2, 3, 5]);
        let fault = QuorumFault::TooFew { signed: 4, quorum: 5 };
        assert_eq!(few.verify(&network, set), Err(fault));
        for signer in [0, 2, 3, 5, 6] {
            let mut wrong = quorum.clone();
            wrong.signatures.get_mut(&signer).unwrap()[7] ^= 1;
            assert_eq!(wrong.verify(&network, set), Err(QuorumFault::Signature), "{signer}");
        }
        let mut moved = quorum.clone();
        let signature = moved.signatures.remove(&6).unwrap();
        moved.signatures.insert(1, signature);
        assert_eq!(moved.verify(&network, set), Err(QuorumFault::Signature));
        let mut stranger = quorum.clone();
        stranger.signatures.insert(7, signature);
        assert_eq!(stranger.verify(&network, set), Err(QuorumFault::Signer));
        assert_eq!(quorum.verify(&[1; 32], set), Err(QuorumFault::Signature));
    }

    #[test]
    fn what_is_written_is_read_back_in_one_form() {
        let genesis = genesis(10, 8);
        let quorum = quorum_of(&genesis, Statement::Finalize(proposal()), [0, 8, 9]);
        let mut writer = Writer::new();
        quorum.encode(&mut writer);
        let octets = writer.into_vec();
        let mut reader = Reader::new(&octets);
        assert_eq!(Quorum::decode(&mut reader), Ok(quorum));
        assert_eq!(reader.finish(), Ok(()));
        for end in 0..octets.len() {
            assert_eq!(Quorum::decode(&mut Reader::new(&octets[..end])), Err(WireError::Truncated));
        }
        let mut padded = Writer::new();
        Statement::Finalize(proposal()).encode(&mut padded);
        padded.bytes(&[1, 0]).fixed(&[0; 64]);
        let refused = Quorum::decode(&mut Reader::new(padded.as_slice()));
        assert!(matches!(refused, Err(WireError::NotCanonical { .. })));
    }

    #[test]
    fn a_key_of_small_order_signs_alike_alone_and_in_a_batch() {
        // The neutral point as key and as commitment, with a scalar of nought: ZIP-215 accepts it under every message,
        // and so must both ways of judging, or validators would disagree.
        let mut members: Vec<_> = genesis(3, 8).validators().iter().cloned().collect();
        members[0].key.0 = [0; 32];
        members[0].key.0[0] = 1;
        let set = ValidatorSet::new(members).unwrap();
        let neutral = crate::operation::ValidatorKey(set.iter().next().unwrap().key.0);
        let place = set.index(&neutral).unwrap();
        let mut signature = [0; 64];
        signature[0] = 1;
        let statement = Statement::Finalize(proposal());
        let network = [3; 32];
        let signed = SignedVote { statement, signer: place, signature };
        assert!(signed.is_valid(&network, &set));
        let mut quorum = Quorum { statement, signatures: BTreeMap::from([(place, signature)]) };
        for signer in (0..3).filter(|signer| *signer != place) {
            let key = secret_of(&set.get(signer).unwrap().key);
            let signature = key.sign(&statement.message(&network)).to_bytes();
            quorum.signatures.insert(signer, signature);
        }
        assert_eq!(quorum.verify(&network, &set), Ok(()));
    }
}
