//! What validators say to each other beside votes: blocks and who lacks them, how far each is, operations on their way
//! to a leader, votes that contradict what others saw, and evidence.

use bytes::Bytes;

use super::certificate::{Certificate, Transition};
use super::evidence::Evidence;
use super::header::{
    BLOCK_ENCODING_LIMIT_BYTES, BLOCK_LIMIT_BYTES, BLOCK_OPERATIONS_LIMIT, Block,
    OPERATION_LIMIT_BYTES,
};
use super::validators::ValidatorSet;
use super::vote::SignedVote;
use crate::digest::Digest;
use crate::wire::{Reader, WireError, Writer};

/// Final blocks of the longest answer
pub const RANGE_LIMIT: usize = 128;
/// Octets after which an answer gets no further block
pub const RANGE_TARGET_BYTES: usize = 2 << 20;
/// Votes of the longest exchange
pub const VOTES_LIMIT: usize = 256;
/// Octets of the longest message
pub const MESSAGE_LIMIT_BYTES: usize =
    RANGE_TARGET_BYTES + BLOCK_ENCODING_LIMIT_BYTES + super::certificate::CERTIFICATE_LIMIT_BYTES;

/// A block with what shows that it is final: what is stored, and what a validator that was away is given
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FinalBlock {
    /// The block
    pub block: Block,
    /// That it is final
    pub certificate: Certificate,
    /// The validators of the next epoch, if this is the last of its own and changes them
    pub next: Option<ValidatorSet>,
}

impl FinalBlock {
    /// The change of the validators it makes
    pub fn transition(&self) -> Option<Transition> {
        self.next.as_ref().map(|validators| Transition {
            header: self.block.header.clone(),
            certificate: self.certificate.clone(),
            validators: validators.clone(),
        })
    }

    /// The canonical encoding
    pub fn to_bytes(&self) -> Bytes {
        let mut writer = Writer::new();
        self.block.encode(&mut writer);
        self.certificate.encode(&mut writer);
        writer.bool(self.next.is_some());
        if let Some(next) = &self.next {
            next.encode(&mut writer);
        }
        Bytes::from(writer.into_vec())
    }

    /// Reads what [`FinalBlock::to_bytes`] wrote
    pub fn from_bytes(octets: &Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new(octets);
        let block = Block::decode(&mut reader, octets)?;
        let certificate = Certificate::decode(&mut reader)?;
        let next = if reader.bool()? { Some(ValidatorSet::decode(&mut reader)?) } else { None };
        reader.finish()?;
        Ok(Self { block, certificate, next })
    }
}

/// How far a validator is
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tip {
    /// The height of its last final block
    pub height: u64,
    /// The lowest final block it still has
    pub lowest: u64,
}

/// One message
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// A block, unasked by its proposer, or to who wanted it
    Block(Box<Block>),
    /// Asks for a block by its digest
    Want(Digest),
    /// How far the sender is. Who is further answers with the same.
    Tip(Tip),
    /// Asks for final blocks from a height on
    WantRange {
        /// The first
        from: u64,
    },
    /// Final blocks in order, each as [`FinalBlock::to_bytes`] wrote it
    Range {
        /// The height of the first
        from: u64,
        /// At most [`RANGE_LIMIT`]
        blocks: Vec<Bytes>,
    },
    /// Operations that wait for a block
    Operations(Vec<Bytes>),
    /// Votes of a view in which not everyone saw the same
    Votes(Vec<SignedVote>),
    /// A piece of evidence
    Evidence(Box<Evidence>),
}

impl Message {
    /// The canonical encoding
    pub fn to_bytes(&self) -> Bytes {
        let mut writer = Writer::new();
        match self {
            Self::Block(block) => {
                writer.u8(1);
                block.encode(&mut writer);
            }
            Self::Want(digest) => {
                writer.u8(2).fixed(digest);
            }
            Self::Tip(tip) => {
                writer.u8(3).u64(tip.height).u64(tip.lowest);
            }
            Self::WantRange { from } => {
                writer.u8(4).u64(*from);
            }
            Self::Range { from, blocks } => {
                writer.u8(5).u64(*from).count(blocks.len());
                for block in blocks {
                    writer.bytes(block);
                }
            }
            Self::Operations(operations) => {
                writer.u8(6).count(operations.len());
                for operation in operations {
                    writer.bytes(operation);
                }
            }
            Self::Votes(votes) => {
                writer.u8(7).count(votes.len());
                for vote in votes {
                    vote.encode(&mut writer);
                }
            }
            Self::Evidence(evidence) => {
                writer.u8(8);
                evidence.encode(&mut writer);
            }
        }
        Bytes::from(writer.into_vec())
    }

    /// Reads what [`Message::to_bytes`] wrote; blocks, operations and evidence share its memory
    pub fn from_bytes(octets: &Bytes) -> Result<Self, WireError> {
        if octets.len() > MESSAGE_LIMIT_BYTES {
            return Err(WireError::TooLong { limit: MESSAGE_LIMIT_BYTES });
        }
        let mut reader = Reader::new(octets);
        let message = match reader.u8()? {
            1 => Self::Block(Box::new(Block::decode(&mut reader, octets)?)),
            2 => Self::Want(reader.fixed()?),
            3 => Self::Tip(Tip { height: reader.u64()?, lowest: reader.u64()? }),
            4 => Self::WantRange { from: reader.u64()? },
            5 => {
                let from = reader.u64()?;
                let limits = (RANGE_LIMIT, MESSAGE_LIMIT_BYTES, MESSAGE_LIMIT_BYTES);
                Self::Range { from, blocks: read_list(&mut reader, octets, limits)? }
            }
            6 => {
                let limits = (BLOCK_OPERATIONS_LIMIT, OPERATION_LIMIT_BYTES, BLOCK_LIMIT_BYTES);
                Self::Operations(read_list(&mut reader, octets, limits)?)
            }
            7 => {
                let count = reader.count(VOTES_LIMIT)?;
                let votes = (0..count).map(|_| SignedVote::decode(&mut reader));
                Self::Votes(votes.collect::<Result<_, _>>()?)
            }
            8 => Self::Evidence(Box::new(Evidence::decode(&mut reader, octets)?)),
            tag => return Err(WireError::BadTag { what: "message", tag: tag.into() }),
        };
        reader.finish()?;
        Ok(message)
    }
}

/// Reads a list within limits of its length, of each element's octets, and of all octets
fn read_list(
    reader: &mut Reader<'_>,
    octets: &Bytes,
    (count, each, all): (usize, usize, usize),
) -> Result<Vec<Bytes>, WireError> {
    let count = reader.count(count)?;
    let mut list = Vec::with_capacity(count.min(reader.remaining().len() / 4));
    let mut room = all;
    for _ in 0..count {
        let element = reader.bytes(each)?;
        room = room.checked_sub(element.len()).ok_or(WireError::TooLong { limit: all })?;
        list.push(octets.slice_ref(element));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::evidence::contradiction;
    use crate::consensus::testing::{block_after, certify, genesis, proposal_of, vote};
    use crate::consensus::vote::Statement;

    fn all() -> Vec<Message> {
        let genesis = genesis(4, 2);
        let operations = vec![Bytes::from_static(b"one"), Bytes::new()];
        let block = block_after(&genesis, &genesis.header(), operations.clone());
        let certificate = certify(&genesis, genesis.validators(), &block.header, &[]);
        let next = Some((**genesis.validators()).clone());
        let block_is_final = FinalBlock { block: block.clone(), certificate, next };
        let octets = block_is_final.to_bytes();
        assert_eq!(FinalBlock::from_bytes(&octets), Ok(block_is_final));
        let proposal = proposal_of(&block.header);
        let one = vote(&genesis, 1, Statement::Finalize(proposal));
        let other = vote(&genesis, 1, Statement::Nullify { epoch: 0, view: proposal.view });
        let evidence = contradiction(&one, &other).unwrap();
        vec![
            Message::Block(Box::new(block)),
            Message::Want([7; 32]),
            Message::Tip(Tip { height: 9, lowest: 3 }),
            Message::WantRange { from: 3 },
            Message::Range { from: 3, blocks: vec![octets.clone(), octets] },
            Message::Operations(operations),
            Message::Votes(vec![one, other]),
            Message::Evidence(Box::new(evidence)),
        ]
    }

    #[test]
    fn every_message_is_read_back_and_no_part_of_one_is_one() {
        for message in all() {
            let octets = message.to_bytes();
            assert_eq!(Message::from_bytes(&octets).as_ref(), Ok(&message));
            for end in 0..octets.len() {
                let part = Message::from_bytes(&octets.slice(..end));
                assert!(part.is_err(), "{message:?} up to {end}");
            }
            let mut longer = octets.to_vec();
            longer.push(0);
            assert!(Message::from_bytes(&Bytes::from(longer)).is_err());
        }
    }

    #[test]
    fn whatever_can_be_read_has_one_encoding() {
        for message in all() {
            let octets = message.to_bytes();
            for place in 0..octets.len() {
                for bit in [0x01, 0x80] {
                    let mut flipped = octets.to_vec();
                    flipped[place] ^= bit;
                    let flipped = Bytes::from(flipped);
                    if let Ok(read) = Message::from_bytes(&flipped) {
                        assert_eq!(read.to_bytes(), flipped, "{message:?} at {place}");
                    }
                }
            }
        }
    }

    #[test]
    fn lists_beyond_their_limits_are_refused() {
        let votes = vec![
            all().into_iter().find_map(|message| match message {
                Message::Votes(votes) => Some(votes[0].clone()),
                _ => None,
            });
            VOTES_LIMIT + 1
        ];
        let votes = Message::Votes(votes.into_iter().flatten().collect()).to_bytes();
        let refused = Err(WireError::TooLong { limit: VOTES_LIMIT });
        assert_eq!(Message::from_bytes(&votes), refused);
        let blocks = vec![Bytes::new(); RANGE_LIMIT + 1];
        let range = Message::Range { from: 1, blocks }.to_bytes();
        assert_eq!(Message::from_bytes(&range), Err(WireError::TooLong { limit: RANGE_LIMIT }));
        let half = Bytes::from(vec![0; OPERATION_LIMIT_BYTES]);
        let many = vec![half; BLOCK_LIMIT_BYTES / OPERATION_LIMIT_BYTES + 1];
        let operations = Message::Operations(many).to_bytes();
        let refused = Err(WireError::TooLong { limit: BLOCK_LIMIT_BYTES });
        assert_eq!(Message::from_bytes(&operations), refused);
    }
}
