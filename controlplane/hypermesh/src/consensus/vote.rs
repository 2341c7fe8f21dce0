//! Votes and quorums of votes, as octets that anyone can verify with the validators' keys: no engine, no state and no
//! clock is needed. The octets that are signed are those of `commonware-consensus` simplex 2026.10 with Ed25519; a test
//! holds the two against each other. Signatures are judged by ZIP-215, where one at a time and many at once decide
//! alike.

use std::collections::BTreeMap;

use ed25519_consensus::{Signature, VerificationKeyBytes, batch};
use rand_core_06::{CryptoRng, Error as RandomError, RngCore};

use super::validators::{VALIDATORS_LIMIT, ValidatorSet};
use crate::digest::Digest;
use crate::wire::{Reader, WireError, Writer};

/// Before the digest of the network, what every vote is signed under
const NAMESPACE: &[u8] = b"hypermesh v1 consensus";

/// Octets of the set of who signed a certificate
const SIGNERS_LIMIT_BYTES: usize = VALIDATORS_LIMIT.div_ceil(8);

/// What votes in a network are signed under: nothing else that a validator's key signs begins with this
pub fn namespace(network: &Digest) -> Vec<u8> {
    [NAMESPACE, network].concat()
}

/// A block in a view: what is voted for
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Proposal {
    /// The epoch
    pub epoch: u64,
    /// The view of the epoch, from 1
    pub view: u64,
    /// The view in which its parent was proposed; 0 for the first of an epoch
    pub parent_view: u64,
    /// The digest of the block's header
    pub block: Digest,
}

/// What a vote says
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Statement {
    /// The block is valid, and the only one this validator supports in this view. The leader's is its proposal.
    Notarize(Proposal),
    /// This validator wants to go on to the next view
    Nullify {
        /// The epoch
        epoch: u64,
        /// The view
        view: u64,
    },
    /// The block has a quorum behind it, and this validator did not want to go on without it
    Finalize(Proposal),
}

/// An integer as votes write it: seven bits an octet, the lowest first
fn write_varint(mut value: u64, octets: &mut Vec<u8>) {
    while value >= 0x80 {
        octets.push(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    octets.push(value as u8);
}

impl Statement {
    /// The epoch it is about
    pub fn epoch(&self) -> u64 {
        match self {
            Self::Notarize(proposal) | Self::Finalize(proposal) => proposal.epoch,
            Self::Nullify { epoch, .. } => *epoch,
        }
    }

    /// The view it is about
    pub fn view(&self) -> u64 {
        match self {
            Self::Notarize(proposal) | Self::Finalize(proposal) => proposal.view,
            Self::Nullify { view, .. } => *view,
        }
    }

    /// The block it is for, if any
    pub fn block(&self) -> Option<&Digest> {
        match self {
            Self::Notarize(proposal) | Self::Finalize(proposal) => Some(&proposal.block),
            Self::Nullify { .. } => None,
        }
    }

    /// The octets a validator signs
    pub fn message(&self, network: &Digest) -> Vec<u8> {
        let suffix: &[u8] = match self {
            Self::Notarize(_) => b"_NOTARIZE",
            Self::Nullify { .. } => b"_NULLIFY",
            Self::Finalize(_) => b"_FINALIZE",
        };
        let space = NAMESPACE.len() + network.len() + suffix.len();
        let mut octets = Vec::with_capacity(space + 64);
        write_varint(space as u64, &mut octets);
        octets.extend_from_slice(NAMESPACE);
        octets.extend_from_slice(network);
        octets.extend_from_slice(suffix);
        write_varint(self.epoch(), &mut octets);
        write_varint(self.view(), &mut octets);
        if let Self::Notarize(proposal) | Self::Finalize(proposal) = self {
            write_varint(proposal.parent_view, &mut octets);
            octets.extend_from_slice(&proposal.block);
        }
        octets
    }

    /// Whether no honest validator says both of these.
    ///
    /// Two blocks in one view, or going on without a block and calling it final. To support a block and then go on
    /// without it is honest: that is what a view that ran out of time looks like.
    pub fn contradicts(&self, other: &Self) -> bool {
        if (self.epoch(), self.view()) != (other.epoch(), other.view()) {
            return false;
        }
        match (self, other) {
            (Self::Notarize(one), Self::Notarize(another))
            | (Self::Finalize(one), Self::Finalize(another)) => one != another,
            (Self::Nullify { .. }, Self::Finalize(_)) | (Self::Finalize(_), Self::Nullify { .. }) => {
                true
            }
            _ => false,
        }
    }

    fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Notarize(proposal) => {
                writer.u8(1);
                proposal.encode(writer);
            }
            Self::Nullify { epoch, view } => {
                writer.u8(2).u64(*epoch).u64(*view);
            }
            Self::Finalize(proposal) => {
                writer.u8(3);
                proposal.encode(writer);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match reader.u8()? {
            1 => Self::Notarize(Proposal::decode(reader)?),
            2 => Self::Nullify { epoch: reader.u64()?, view: reader.u64()? },
            3 => Self::Finalize(Proposal::decode(reader)?),
            tag => return Err(WireError::BadTag { what: "vote", tag: tag.into() }),
        })
    }
}

impl Proposal {
    fn encode(&self, writer: &mut Writer) {
        writer.u64(self.epoch).u64(self.view).u64(self.parent_view).fixed(&self.block);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            epoch: reader.u64()?,
            view: reader.u64()?,
            parent_view: reader.u64()?,
            block: reader.fixed()?,
        })
    }
}

/// A vote with its signature
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct SignedVote {
    /// What is said
    pub statement: Statement,
    /// The place of who says it in the epoch's validators
    pub signer: u32,
    /// Ed25519
    pub signature: [u8; 64],
}

impl SignedVote {
    /// Whether the validator at this place of `set` signed this in this network
    pub fn is_valid(&self, network: &Digest, set: &ValidatorSet) -> bool {
        set.verification_key(self.signer).is_some_and(|key| {
            let signature = Signature::from(self.signature);
            key.verify(&signature, &self.statement.message(network)).is_ok()
        })
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        self.statement.encode(writer);
        writer.u32(self.signer).fixed(&self.signature);
    }

    /// Reads what [`SignedVote::encode`] wrote
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let statement = Statement::decode(reader)?;
        Ok(Self { statement, signer: reader.u32()?, signature: reader.fixed()? })
    }
}

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
    use crate::consensus::testing::{genesis, quorum_of, secret_of, vote};

    fn proposal() -> Proposal {
        Proposal { epoch: 3, view: 700, parent_view: 699, block: [5; 32] }
    }

    #[test]
    fn a_vote_holds_for_its_words_its_signer_and_its_network_only() {
        let genesis = genesis(4, 8);
        let (network, set) = (genesis.network(), genesis.validators());
        let signed = vote(&genesis, 2, Statement::Notarize(proposal()));
        assert!(signed.is_valid(&network, set));
        assert!(!signed.is_valid(&[0; 32], set));
        for signer in [0, 1, 3, 4, u32::MAX] {
            assert!(!SignedVote { signer, ..signed.clone() }.is_valid(&network, set), "{signer}");
        }
        let others = [
            Statement::Finalize(proposal()),
            Statement::Nullify { epoch: 3, view: 700 },
            Statement::Notarize(Proposal { epoch: 4, ..proposal() }),
            Statement::Notarize(Proposal { view: 701, ..proposal() }),
            Statement::Notarize(Proposal { parent_view: 698, ..proposal() }),
            Statement::Notarize(Proposal { block: [6; 32], ..proposal() }),
        ];
        for statement in others {
            assert!(!SignedVote { statement, ..signed.clone() }.is_valid(&network, set));
        }
    }

    #[test]
    fn only_what_no_honest_validator_says_is_a_contradiction() {
        let (here, there) = (proposal(), Proposal { block: [6; 32], ..proposal() });
        let on = Statement::Nullify { epoch: 3, view: 700 };
        let (notarize, finalize) = (Statement::Notarize, Statement::Finalize);
        assert!(notarize(here).contradicts(&notarize(there)));
        assert!(finalize(here).contradicts(&finalize(there)));
        assert!(on.contradicts(&finalize(here)) && finalize(here).contradicts(&on));
        let other_parent = Proposal { parent_view: 3, ..here };
        assert!(notarize(here).contradicts(&notarize(other_parent)));
        for honest in [notarize(here), finalize(here), on] {
            assert!(!honest.contradicts(&honest));
            assert!(!honest.contradicts(&notarize(Proposal { view: 701, ..there })));
        }
        assert!(!notarize(here).contradicts(&on) && !on.contradicts(&notarize(here)));
        assert!(!notarize(here).contradicts(&finalize(here)));
        // A quorum may have gone another way than this validator's first vote.
        assert!(!notarize(here).contradicts(&finalize(there)));
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
        for statement in [
            Statement::Notarize(proposal()),
            Statement::Nullify { epoch: 1, view: 2 },
            Statement::Finalize(proposal()),
        ] {
            let signed = vote(&genesis, 3, statement);
            let mut writer = Writer::new();
            signed.encode(&mut writer);
            assert_eq!(SignedVote::decode(&mut Reader::new(writer.as_slice())), Ok(signed));
        }
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
