//! Votes, as octets that anyone can verify with the validators' keys: no engine, no state and no clock is needed. The octets that are signed are those of `commonware-consensus` simplex 2026.10 with Ed25519; a test
//! holds the two against each other. Signatures are judged by ZIP-215, where one at a time and many at once decide
//! alike.

use ed25519_consensus::Signature;

use super::validators::ValidatorSet;
use crate::digest::Digest;
use crate::wire::{Reader, WireError, Writer};

/// Before the digest of the network, what every vote is signed under
const NAMESPACE: &[u8] = b"hypermesh v1 consensus";

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
            (Self::Nullify { .. }, Self::Finalize(_))
            | (Self::Finalize(_), Self::Nullify { .. }) => true,
            _ => false,
        }
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
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

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::testing::{genesis, vote};

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
    fn a_vote_is_read_back() {
        let genesis = genesis(4, 8);
        for statement in [
            Statement::Notarize(proposal()),
            Statement::Nullify { epoch: 1, view: 2 },
            Statement::Finalize(proposal()),
        ] {
            let signed = vote(&genesis, 3, statement);
            let mut writer = Writer::new();
            signed.encode(&mut writer);
            let octets = writer.into_vec();
            assert_eq!(SignedVote::decode(&mut Reader::new(&octets)), Ok(signed));
            for end in 0..octets.len() {
                assert!(SignedVote::decode(&mut Reader::new(&octets[..end])).is_err(), "{end}");
            }
        }
    }
}
