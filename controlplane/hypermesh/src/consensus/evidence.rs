//! What a validator signed and no honest validator signs. A piece of evidence is octets that anyone can verify: two
//! votes that contradict each other, or a vote for a block that cannot be valid. Whoever made no such vote cannot be
//! accused, and who is merely silent or late has signed nothing, so there is no evidence of it.

use std::sync::Arc;

use bytes::Bytes;

use super::certificate::{Transition, TransitionFault, Trust};
use super::genesis::Genesis;
use super::header::{Block, Header, OPERATION_LIMIT_BYTES, operation_leaf};
pub use super::judge::{GenesisOnly, Judge, Judgement, RegistryJudge};
use super::validators::ValidatorSet;
use super::vote::SignedVote;
use crate::digest::{Digest, Domain};
use crate::merkle;
use crate::operation::Validator;
pub use crate::registry::Offence;
use crate::wire::{Reader, WireError, Writer};

static EVIDENCE: Domain = Domain::new("hypermesh v1 evidence");

/// A signed fault
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Evidence {
    /// Two votes that contradict each other, the lesser first
    Contradiction(Box<[SignedVote; 2]>),
    /// A vote for a block whose header cannot follow its parent
    Header {
        /// The vote
        vote: SignedVote,
        /// The block's header
        header: Box<Header>,
        /// Its parent's
        parent: Box<Header>,
    },
    /// A vote for a block with an operation that is invalid in itself
    Operation {
        /// The vote
        vote: SignedVote,
        /// The block's header
        header: Box<Header>,
        /// The operation's place
        index: u32,
        /// The operation
        operation: Bytes,
        /// That it stands there
        path: Vec<Digest>,
    },
    /// A vote for a block that is invalid on the state after its parent
    Block {
        /// The vote
        vote: SignedVote,
        /// All of it
        block: Box<Block>,
    },
}

/// Why something is no evidence
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EvidenceRefusal {
    /// Not the encoding of any
    #[error("it cannot be read: {0}")]
    Wire(#[from] WireError),
    /// The changes of the validators shown with it do not hold
    #[error(transparent)]
    Transition(#[from] TransitionFault),
    /// Signed by nobody who was a validator
    #[error("it names a signer who was no validator in epoch {epoch}")]
    Signer {
        /// The epoch of the vote
        epoch: u64,
    },
    /// A signature does not hold: it was made up
    #[error("a signature does not hold; the evidence is forged")]
    Signature,
    /// An honest validator may have signed these
    #[error("the two votes do not contradict each other")]
    NoContradiction,
    /// The vote is not for this block
    #[error("the vote is not for the block that is shown")]
    OtherBlock,
    /// The header shown as parent is not
    #[error("the header shown as parent is another")]
    OtherParent,
    /// The operation does not stand where it is said to
    #[error("the operation is not one of the block")]
    OtherOperation,
    /// Nothing is wrong with the block
    #[error("the block is valid as far as it is shown")]
    Valid,
    /// It takes more than is at hand to judge it
    #[error("it takes the state after block {parent_height} to judge it, which is not at hand")]
    Unjudged {
        /// The height of the parent
        parent_height: u64,
    },
}

/// Who did what
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Who
    pub validator: Validator,
    /// What
    pub offence: Offence,
    /// In which epoch
    pub epoch: u64,
    /// In which view
    pub view: u64,
    /// In words, for operators
    pub reason: String,
}

/// Sorts two votes of one signer that contradict each other into evidence; none if they do not
pub fn contradiction(one: &SignedVote, other: &SignedVote) -> Option<Evidence> {
    if one.signer != other.signer || !one.statement.contradicts(&other.statement) {
        return None;
    }
    let mut votes = [one.clone(), other.clone()];
    votes.sort_by_key(|vote| vote.statement);
    Some(Evidence::Contradiction(Box::new(votes)))
}

impl Evidence {
    /// Tells pieces of evidence apart
    pub fn id(&self) -> Digest {
        EVIDENCE.hash(&self.to_vec())
    }

    /// The vote that is held against its signer
    pub fn vote(&self) -> &SignedVote {
        match self {
            Self::Contradiction(votes) => &votes[0],
            Self::Header { vote, .. } | Self::Operation { vote, .. } | Self::Block { vote, .. } => {
                vote
            }
        }
    }

    /// Whether it holds, and against whom
    pub fn verify(&self, trust: &Trust, judge: &mut dyn Judge) -> Result<Finding, EvidenceRefusal> {
        let set = trust.validators(self.vote().statement.epoch());
        self.verify_in(trust.genesis(), set, judge)
    }

    /// The same where the validators of the vote's epoch are known
    pub fn verify_in(
        &self,
        genesis: &Genesis,
        set: &ValidatorSet,
        judge: &mut dyn Judge,
    ) -> Result<Finding, EvidenceRefusal> {
        let network = genesis.network();
        let mut finding = self.charge(set)?;
        // Before a block is judged, which may take long: what nobody signed is not worth it.
        let is_signed = |vote: &SignedVote| vote.is_valid(&network, set);
        if !is_signed(self.vote()) {
            return Err(EvidenceRefusal::Signature);
        }
        match self {
            Self::Contradiction(votes) => {
                let [one, other] = &**votes;
                if contradiction(one, other).as_ref() != Some(self) {
                    return Err(EvidenceRefusal::NoContradiction);
                }
                if !is_signed(other) {
                    return Err(EvidenceRefusal::Signature);
                }
            }
            Self::Header { .. } | Self::Operation { .. } | Self::Block { .. } => {
                finding.reason = self.judge_block(genesis, judge)?;
            }
        }
        Ok(finding)
    }

    /// Who is charged with what, before any of it is verified
    pub(crate) fn charge(&self, set: &ValidatorSet) -> Result<Finding, EvidenceRefusal> {
        let vote = self.vote();
        let (epoch, view) = (vote.statement.epoch(), vote.statement.view());
        let validator = set.get(vote.signer).ok_or(EvidenceRefusal::Signer { epoch })?.clone();
        let (offence, reason) = match self {
            Self::Contradiction(_) => {
                (Offence::Equivocation, "it signed two votes that contradict each other")
            }
            _ if set.leader(epoch, view).key == validator.key => {
                (Offence::InvalidProposal, "it proposed a block that is invalid")
            }
            _ => (Offence::InvalidVote, "it voted for a block that is invalid"),
        };
        Ok(Finding { validator, offence, epoch, view, reason: reason.to_owned() })
    }

    /// Why the block voted for is invalid
    fn judge_block(
        &self,
        genesis: &Genesis,
        judge: &mut dyn Judge,
    ) -> Result<String, EvidenceRefusal> {
        let header = match self {
            Self::Contradiction(_) => return Err(EvidenceRefusal::OtherBlock),
            Self::Header { header, .. } | Self::Operation { header, .. } => &**header,
            Self::Block { block, .. } => &block.header,
        };
        if self.vote().statement.block() != Some(&header.digest()) {
            return Err(EvidenceRefusal::OtherBlock);
        }
        let judgement = match self {
            Self::Contradiction(_) => Judgement::Unknown,
            Self::Header { parent, .. } => {
                if parent.digest() != header.parent {
                    return Err(EvidenceRefusal::OtherParent);
                }
                match header.follows(parent, genesis) {
                    Ok(()) => Judgement::Valid,
                    Err(fault) => Judgement::Invalid(fault.to_string()),
                }
            }
            Self::Operation { index, operation, path, .. } => {
                let (count, index) = (header.operations_count.into(), (*index).into());
                let leaf = operation_leaf(operation);
                if !merkle::verify(&header.operations_root, count, index, &leaf, path) {
                    return Err(EvidenceRefusal::OtherOperation);
                }
                judge.operation(header, operation)
            }
            Self::Block { block, .. } => {
                if !block.is_whole() {
                    return Err(EvidenceRefusal::OtherOperation);
                }
                judge.block(header, &block.operations)
            }
        };
        match judgement {
            Judgement::Invalid(reason) => Ok(reason),
            Judgement::Valid => Err(EvidenceRefusal::Valid),
            Judgement::Unknown => {
                Err(EvidenceRefusal::Unjudged { parent_height: header.height.saturating_sub(1) })
            }
        }
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Contradiction(votes) => {
                writer.u8(1);
                votes[0].encode(writer);
                votes[1].encode(writer);
            }
            Self::Header { vote, header, parent } => {
                writer.u8(2);
                vote.encode(writer);
                header.encode(writer);
                parent.encode(writer);
            }
            Self::Operation { vote, header, index, operation, path } => {
                writer.u8(3);
                vote.encode(writer);
                header.encode(writer);
                writer.u32(*index).bytes(operation).count(path.len());
                for digest in path {
                    writer.fixed(digest);
                }
            }
            Self::Block { vote, block } => {
                writer.u8(4);
                vote.encode(writer);
                block.encode(writer);
            }
        }
    }

    /// Reads what [`Evidence::encode`] wrote from within `octets`
    pub fn decode(reader: &mut Reader<'_>, octets: &Bytes) -> Result<Self, WireError> {
        Ok(match reader.u8()? {
            1 => {
                let votes = [SignedVote::decode(reader)?, SignedVote::decode(reader)?];
                Self::Contradiction(Box::new(votes))
            }
            2 => Self::Header {
                vote: SignedVote::decode(reader)?,
                header: Box::new(Header::decode(reader)?),
                parent: Box::new(Header::decode(reader)?),
            },
            3 => Self::Operation {
                vote: SignedVote::decode(reader)?,
                header: Box::new(Header::decode(reader)?),
                index: reader.u32()?,
                operation: octets.slice_ref(reader.bytes(OPERATION_LIMIT_BYTES)?),
                path: {
                    let count = reader.count(merkle::PATH_LIMIT)?;
                    (0..count).map(|_| reader.fixed()).collect::<Result<_, _>>()?
                },
            },
            4 => Self::Block {
                vote: SignedVote::decode(reader)?,
                block: Box::new(Block::decode(reader, octets)?),
            },
            tag => return Err(WireError::BadTag { what: "evidence", tag: tag.into() }),
        })
    }

    /// The canonical encoding
    pub fn to_vec(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.encode(&mut writer);
        writer.into_vec()
    }

    /// Reads a whole encoding
    pub fn from_bytes(octets: &Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new(octets);
        let evidence = Self::decode(&mut reader, octets)?;
        reader.finish()?;
        Ok(evidence)
    }
}

/// A piece of evidence with every change of the validators that is needed to judge it: what is kept in a file
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EvidenceFile {
    /// The changes since the genesis
    pub transitions: Vec<Transition>,
    /// The evidence
    pub evidence: Evidence,
}

impl EvidenceFile {
    /// The canonical encoding
    pub fn to_vec(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        Transition::encode_all(&self.transitions, &mut writer);
        self.evidence.encode(&mut writer);
        writer.into_vec()
    }

    /// Reads what [`EvidenceFile::to_vec`] wrote
    pub fn from_bytes(octets: &Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new(octets);
        let transitions = Transition::decode_all(&mut reader)?;
        let evidence = Evidence::decode(&mut reader, octets)?;
        reader.finish()?;
        Ok(Self { transitions, evidence })
    }

    /// Whether it holds, by the genesis and what `judge` can judge
    pub fn verify(
        &self,
        genesis: &Arc<Genesis>,
        judge: &mut dyn Judge,
    ) -> Result<Finding, EvidenceRefusal> {
        let mut trust = Trust::new(Arc::clone(genesis));
        for transition in &self.transitions {
            trust.extend(transition)?;
        }
        self.evidence.verify(&trust, judge)
    }
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
