//! The proof of stake: a leaf under the stake root that was finalised for the epoch, and the signature of the leaf's
//! key over everything before. Who may stake and what is lost when is the registry's; the form of a leaf is here.

use ed25519_consensus::{Signature, SigningKey, VerificationKey};

use crate::digest::{Digest, Domain};
use crate::merkle;
use crate::operation::RequesterId;
use crate::wire::{Reader, WireError, Writer};

use super::policy::Policy;
use super::refusal::ProofRefusal;

static LEAF: Domain = Domain::new("hypermesh v1 stake leaf");

/// One stake of an epoch. The registry's stake root is [`merkle::root`] over [`StakeLeaf::digest`] in the order of
/// `index`, which counts from 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StakeLeaf {
    /// Its place
    pub index: u64,
    /// Whose it is
    pub requester: RequesterId,
    /// How much
    pub weight: u64,
    /// The Ed25519 key that signs for it
    pub key: [u8; 32],
}

impl StakeLeaf {
    /// What stands in the tree
    pub fn digest(&self) -> Digest {
        let mut octets = [0; 80];
        octets[..8].copy_from_slice(&self.index.to_be_bytes());
        octets[8..40].copy_from_slice(&self.requester);
        octets[40..48].copy_from_slice(&self.weight.to_be_bytes());
        octets[48..].copy_from_slice(&self.key);
        LEAF.hash(&octets)
    }
}

/// A stake as its owner holds it: the leaf, and the path that shows it
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StakeHolding {
    /// The stake
    pub leaf: StakeLeaf,
    /// From [`merkle::path`] over the epoch's leaves
    pub path: Vec<Digest>,
}

/// A leaf, its path and a signature; whose leaf it is stands in the statement
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StakeProof {
    /// The place of the leaf
    pub index: u64,
    /// How much is staked
    pub weight: u64,
    /// The key that signs
    pub key: [u8; 32],
    /// From the leaf to the root
    pub path: Vec<Digest>,
    /// Over the last challenge
    pub signature: [u8; 64],
}

/// Whether `signature` is that of `key` over `message`.
///
/// By the rules of ZIP 215: every validator judges every signature alike.
pub fn is_signed(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    VerificationKey::try_from(*key)
        .and_then(|key| key.verify(&Signature::from(*signature), message))
        .is_ok()
}

impl StakeProof {
    /// Octets of the longest encoding
    pub const LIMIT_BYTES: usize = 8 + 8 + 32 + 4 + 32 * merkle::PATH_LIMIT + 64;

    /// Signs the last challenge for this holding
    pub fn sign(holding: &StakeHolding, key: &SigningKey, challenge: &Digest) -> Self {
        let leaf = &holding.leaf;
        Self {
            index: leaf.index,
            weight: leaf.weight,
            key: leaf.key,
            path: holding.path.clone(),
            signature: key.sign(challenge).to_bytes(),
        }
    }

    /// The leaf this claims for a requester
    pub fn leaf(&self, requester: &RequesterId) -> StakeLeaf {
        StakeLeaf { index: self.index, requester: *requester, weight: self.weight, key: self.key }
    }

    /// Whether enough is claimed; what is claimed is for [`StakeProof::verify_leaf`]
    pub fn check_threshold(&self, policy: &Policy) -> Result<(), ProofRefusal> {
        if self.weight < policy.stake_weight_min {
            return Err(ProofRefusal::StakeBelowThreshold {
                weight: self.weight,
                needed: policy.stake_weight_min,
            });
        }
        Ok(())
    }

    /// Whether the requester has this stake under the root
    pub fn verify_leaf(
        &self,
        leaf: &StakeLeaf,
        root: &Digest,
        count: u64,
    ) -> Result<(), ProofRefusal> {
        if merkle::verify(root, count, self.index, &leaf.digest(), &self.path) {
            Ok(())
        } else {
            Err(ProofRefusal::StakeLeaf)
        }
    }

    /// Whether the stake's key signed the challenge
    pub fn verify_signature(&self, challenge: &Digest) -> Result<(), ProofRefusal> {
        if is_signed(&self.key, challenge, &self.signature) {
            Ok(())
        } else {
            Err(ProofRefusal::StakeSignature)
        }
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        writer.u64(self.index).u64(self.weight).fixed(&self.key).count(self.path.len());
        for hash in &self.path {
            writer.fixed(hash);
        }
        writer.fixed(&self.signature);
    }

    /// Reads what [`StakeProof::encode`] wrote
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (index, weight, key) = (reader.u64()?, reader.u64()?, reader.fixed()?);
        let hashes = reader.count(merkle::PATH_LIMIT)?;
        let mut path = Vec::with_capacity(hashes);
        for _ in 0..hashes {
            path.push(reader.fixed()?);
        }
        Ok(Self { index, weight, key, path, signature: reader.fixed()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from([seed; 32])
    }

    fn leaves() -> Vec<StakeLeaf> {
        (0..5_u8)
            .map(|index| StakeLeaf {
                index: index.into(),
                requester: [index; 32],
                weight: 10 + u64::from(index),
                key: key(index).verification_key().to_bytes(),
            })
            .collect()
    }

    fn proof(index: usize, challenge: &Digest) -> (StakeProof, Digest) {
        let leaves = leaves();
        let digests: Vec<Digest> = leaves.iter().map(StakeLeaf::digest).collect();
        let path = merkle::path(&digests, index).unwrap();
        let holding = StakeHolding { leaf: leaves[index], path };
        let signed = StakeProof::sign(&holding, &key(index as u8), challenge);
        (signed, merkle::root(&digests))
    }

    #[test]
    fn a_stake_is_shown_by_its_owner_as_it_is() {
        for index in 0..5 {
            let (proof, root) = proof(index, &[7; 32]);
            let owner = [index as u8; 32];
            assert_eq!(proof.verify_leaf(&proof.leaf(&owner), &root, 5), Ok(()));
            assert_eq!(proof.verify_signature(&[7; 32]), Ok(()));
            let refused = Err(ProofRefusal::StakeLeaf);
            assert_eq!(proof.verify_leaf(&proof.leaf(&[99; 32]), &root, 5), refused);
            let heavier = StakeProof { weight: 1_000, ..proof.clone() };
            assert_eq!(heavier.verify_leaf(&heavier.leaf(&owner), &root, 5), refused);
            let rekeyed = StakeProof { key: [1; 32], ..proof.clone() };
            assert_eq!(rekeyed.verify_leaf(&rekeyed.leaf(&owner), &root, 5), refused);
            let moved = StakeProof { index: (proof.index + 1) % 5, ..proof.clone() };
            assert_eq!(moved.verify_leaf(&moved.leaf(&owner), &root, 5), refused);
            assert_eq!(proof.verify_leaf(&proof.leaf(&owner), &[0; 32], 5), refused);
            assert_eq!(proof.verify_leaf(&proof.leaf(&owner), &root, 6), refused);
        }
    }

    #[test]
    fn only_the_stakes_key_signs_and_only_this_challenge() {
        let (good, _root) = proof(2, &[7; 32]);
        let refused = Err(ProofRefusal::StakeSignature);
        assert_eq!(good.verify_signature(&[8; 32]), refused);
        let (other, _root) = proof(3, &[7; 32]);
        let stolen = StakeProof { signature: other.signature, ..good.clone() };
        assert_eq!(stolen.verify_signature(&[7; 32]), refused);
        for octet in 0..64 {
            let mut flipped = good.clone();
            flipped.signature[octet] ^= 0x10;
            assert_eq!(flipped.verify_signature(&[7; 32]), refused, "{octet}");
        }
        // No point of the curve has this encoding.
        let mut no_point = [0; 32];
        no_point[0] = 2;
        assert!(VerificationKey::try_from(no_point).is_err());
        let keyless = StakeProof { key: no_point, ..good };
        assert_eq!(keyless.verify_signature(&[7; 32]), refused);
    }

    #[test]
    fn encodings_are_read_back_and_paths_are_limited() {
        let (mut proof, _root) = proof(4, &[7; 32]);
        proof.path = vec![[3; 32]; merkle::PATH_LIMIT];
        let mut writer = Writer::new();
        proof.encode(&mut writer);
        assert_eq!(writer.len(), StakeProof::LIMIT_BYTES);
        assert_eq!(StakeProof::decode(&mut Reader::new(writer.as_slice())), Ok(proof.clone()));
        proof.path.push([3; 32]);
        let mut writer = Writer::new();
        proof.encode(&mut writer);
        assert_eq!(
            StakeProof::decode(&mut Reader::new(writer.as_slice())),
            Err(WireError::TooLong { limit: merkle::PATH_LIMIT })
        );
    }

    #[test]
    fn the_threshold_is_the_policys() {
        let policy = Policy { stake_weight_min: 12, ..Policy::TEST };
        for (index, enough) in [(0, false), (1, false), (2, true), (3, true)] {
            let judged = proof(index, &[7; 32]).0.check_threshold(&policy);
            assert_eq!(judged.is_ok(), enough, "{index}");
        }
    }
}
