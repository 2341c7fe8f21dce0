//! Blocks: a header, whose digest is what validators vote on, and the operations it commits to, which are opaque here.
//! A header can be judged against its parent by anyone; what the operations mean is the application's.

use bytes::Bytes;

use super::genesis::Genesis;
use crate::digest::{Digest, Domain};
use crate::merkle;
use crate::wire::{Reader, WireError, Writer};

static HEADER: Domain = Domain::new("hypermesh v1 header");
static OPERATION: Domain = Domain::new("hypermesh v1 block operation");

/// The version of headers and of everything a network's digest covers
pub const VERSION: u16 = 1;
/// Octets of every header
pub const HEADER_BYTES: usize = 222;
/// Operations of the largest block
pub const BLOCK_OPERATIONS_LIMIT: usize = 1 << 16;
/// Octets of all operations of the largest block together
pub const BLOCK_LIMIT_BYTES: usize = 4 << 20;
/// Octets of the longest encoding of a block: each operation has a length before it
pub const BLOCK_ENCODING_LIMIT_BYTES: usize =
    HEADER_BYTES + 4 + BLOCK_LIMIT_BYTES + 4 * BLOCK_OPERATIONS_LIMIT;
/// Octets of the longest operation
pub const OPERATION_LIMIT_BYTES: usize = 1 << 20;

/// What validators agree on
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// [`VERSION`]
    pub version: u16,
    /// The digest of the genesis
    pub network: Digest,
    /// In which epoch it was proposed
    pub epoch: u64,
    /// One above its parent's
    pub height: u64,
    /// The digest of the header it follows
    pub parent: Digest,
    /// Later than its parent's; milliseconds since 1970
    pub time_ms: u64,
    /// [`merkle::root`] over [`operation_leaf`] of each operation
    pub operations_root: Digest,
    /// How many operations there are
    pub operations_count: u32,
    /// The application's state after the operations
    pub state_root: Digest,
    /// What the application holds against validators
    pub evidence_root: Digest,
    /// The validators that decide on the next block
    pub validators_root: Digest,
}

/// Why a header cannot follow its parent. Each can be judged with the two headers and the genesis alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeaderFault {
    /// Of a version that does not exist
    #[error("the block is of an unknown version")]
    Version,
    /// Of another network
    #[error("the block is of another network")]
    Network,
    /// Its height is not one above its parent's
    #[error("the height of the block is not one above its parent's")]
    Height,
    /// Its epoch is not that of its height
    #[error("the epoch of the block is not that of its height")]
    Epoch,
    /// It is not later than its parent
    #[error("the block is not later than its parent")]
    Time,
    /// It changes the validators within an epoch
    #[error("the block changes the validators within an epoch")]
    Validators,
    /// It has more operations than a block may have
    #[error("the block has too many operations")]
    Operations,
}

/// What stands for an operation in the tree of its block
pub fn operation_leaf(operation: &[u8]) -> Digest {
    OPERATION.hash(operation)
}

impl Header {
    /// What votes name
    pub fn digest(&self) -> Digest {
        let mut writer = Writer::with_capacity(HEADER_BYTES);
        self.encode(&mut writer);
        HEADER.hash(writer.as_slice())
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        writer.u16(self.version).fixed(&self.network).u64(self.epoch).u64(self.height);
        writer.fixed(&self.parent).u64(self.time_ms).fixed(&self.operations_root);
        writer.u32(self.operations_count).fixed(&self.state_root).fixed(&self.evidence_root);
        writer.fixed(&self.validators_root);
    }

    /// Reads what [`Header::encode`] wrote
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            version: reader.u16()?,
            network: reader.fixed()?,
            epoch: reader.u64()?,
            height: reader.u64()?,
            parent: reader.fixed()?,
            time_ms: reader.u64()?,
            operations_root: reader.fixed()?,
            operations_count: reader.u32()?,
            state_root: reader.fixed()?,
            evidence_root: reader.fixed()?,
            validators_root: reader.fixed()?,
        })
    }

    /// Judges everything that these two headers and the genesis decide.
    ///
    /// That `parent` is the parent is the caller's to know.
    pub fn follows(&self, parent: &Self, genesis: &Genesis) -> Result<(), HeaderFault> {
        if self.version != VERSION {
            return Err(HeaderFault::Version);
        }
        if self.network != genesis.network() {
            return Err(HeaderFault::Network);
        }
        if Some(self.height) != parent.height.checked_add(1) {
            return Err(HeaderFault::Height);
        }
        if self.epoch != genesis.epoch(self.height) {
            return Err(HeaderFault::Epoch);
        }
        if self.time_ms <= parent.time_ms {
            return Err(HeaderFault::Time);
        }
        let stays = self.validators_root == parent.validators_root;
        if !stays && !genesis.is_boundary(self.height) {
            return Err(HeaderFault::Validators);
        }
        if self.operations_count as usize > BLOCK_OPERATIONS_LIMIT {
            return Err(HeaderFault::Operations);
        }
        Ok(())
    }
}

/// A header and its operations
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Block {
    /// What is agreed on
    pub header: Header,
    /// What it commits to
    pub operations: Vec<Bytes>,
}

impl Block {
    /// The leaves of the operations' tree
    pub fn leaves(&self) -> Vec<Digest> {
        self.operations.iter().map(|operation| operation_leaf(operation)).collect()
    }

    /// Whether these are the operations the header commits to
    pub fn is_whole(&self) -> bool {
        self.operations.len() == self.header.operations_count as usize
            && merkle::root(&self.leaves()) == self.header.operations_root
    }

    /// Whether operations of this number and length fit into one block
    pub fn has_room(operations: &[Bytes]) -> bool {
        let octets: usize = operations.iter().map(Bytes::len).sum();
        operations.len() <= BLOCK_OPERATIONS_LIMIT
            && octets <= BLOCK_LIMIT_BYTES
            && operations.iter().all(|operation| operation.len() <= OPERATION_LIMIT_BYTES)
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        self.header.encode(writer);
        writer.count(self.operations.len());
        for operation in &self.operations {
            writer.bytes(operation);
        }
    }

    /// The canonical encoding
    pub fn to_bytes(&self) -> Bytes {
        let operations: usize = self.operations.iter().map(|operation| operation.len() + 4).sum();
        let mut writer = Writer::with_capacity(HEADER_BYTES + 4 + operations);
        self.encode(&mut writer);
        Bytes::from(writer.into_vec())
    }

    /// Reads what [`Block::encode`] wrote from within `octets`, whose memory the operations share
    pub fn decode(reader: &mut Reader<'_>, octets: &Bytes) -> Result<Self, WireError> {
        let header = Header::decode(reader)?;
        let count = reader.count(BLOCK_OPERATIONS_LIMIT)?;
        let mut operations = Vec::with_capacity(count.min(reader.remaining().len() / 4));
        let mut room = BLOCK_LIMIT_BYTES;
        for _ in 0..count {
            let operation = reader.bytes(OPERATION_LIMIT_BYTES)?;
            room = room
                .checked_sub(operation.len())
                .ok_or(WireError::TooLong { limit: BLOCK_LIMIT_BYTES })?;
            operations.push(octets.slice_ref(operation));
        }
        Ok(Self { header, operations })
    }

    /// Reads a whole encoding
    pub fn from_bytes(octets: &Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new(octets);
        let block = Self::decode(&mut reader, octets)?;
        reader.finish()?;
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::testing::{block_after, genesis};

    fn operations(count: u8) -> Vec<Bytes> {
        (0..count).map(|index| Bytes::from(vec![index; usize::from(index)])).collect()
    }

    #[test]
    fn a_block_is_read_back_and_shares_memory() {
        let genesis = genesis(4, 8);
        let block = block_after(&genesis, &genesis.header(), operations(5));
        let octets = block.to_bytes();
        let mut writer = Writer::new();
        block.header.encode(&mut writer);
        assert_eq!(writer.len(), HEADER_BYTES);
        let read = Block::from_bytes(&octets).unwrap();
        assert_eq!(read, block);
        assert!(read.is_whole());
        assert!(octets.as_ptr_range().contains(&read.operations[4].as_ptr()));
        for end in 0..octets.len() {
            assert!(Block::from_bytes(&octets.slice(..end)).is_err(), "{end}");
        }
    }

    #[test]
    fn other_operations_are_not_its_own() {
        let genesis = genesis(4, 8);
        let block = block_after(&genesis, &genesis.header(), operations(4));
        let mut more = block.clone();
        more.operations.push(more.operations[3].clone());
        let mut fewer = block.clone();
        fewer.operations.pop();
        let mut swapped = block.clone();
        swapped.operations.swap(1, 2);
        for other in [more, fewer, swapped] {
            assert!(!other.is_whole());
        }
    }

    #[test]
    fn every_fault_of_a_header_is_named() {
        let genesis = genesis(4, 8);
        let parent = block_after(&genesis, &genesis.header(), Vec::new()).header;
        let sound = block_after(&genesis, &parent, operations(2)).header;
        assert_eq!(sound.follows(&parent, &genesis), Ok(()));
        let mut cases: Vec<(HeaderFault, Header)> = Vec::new();
        let mut case = |fault, change: fn(&mut Header)| {
            let mut header = sound.clone();
            change(&mut header);
            cases.push((fault, header));
        };
        case(HeaderFault::Version, |header| header.version = 2);
        case(HeaderFault::Network, |header| header.network[0] ^= 1);
        case(HeaderFault::Height, |header| header.height += 1);
        case(HeaderFault::Height, |header| header.height -= 1);
        case(HeaderFault::Epoch, |header| header.epoch += 1);
        case(HeaderFault::Time, |header| header.time_ms = 0);
        case(HeaderFault::Validators, |header| header.validators_root[5] ^= 1);
        case(HeaderFault::Operations, |header| header.operations_count = 1 << 17);
        for (fault, header) in cases {
            assert_eq!(header.follows(&parent, &genesis), Err(fault));
        }
        let mut still = sound.clone();
        still.time_ms = parent.time_ms;
        assert_eq!(still.follows(&parent, &genesis), Err(HeaderFault::Time));
    }

    #[test]
    fn the_validators_change_only_at_the_end_of_an_epoch() {
        let genesis = genesis(4, 2);
        let first = block_after(&genesis, &genesis.header(), Vec::new()).header;
        let mut last = block_after(&genesis, &first, Vec::new()).header;
        last.validators_root = [7; 32];
        assert_eq!(last.follows(&first, &genesis), Ok(()));
        let next = block_after(&genesis, &last, Vec::new()).header;
        assert_eq!((next.epoch, next.validators_root), (1, [7; 32]));
        assert_eq!(next.follows(&last, &genesis), Ok(()));
    }

    #[test]
    fn limits_of_a_block_hold() {
        assert!(Block::has_room(&operations(9)));
        assert!(!Block::has_room(&[Bytes::from(vec![0; OPERATION_LIMIT_BYTES + 1])]));
        let big = Bytes::from(vec![0; OPERATION_LIMIT_BYTES]);
        let most = BLOCK_LIMIT_BYTES / OPERATION_LIMIT_BYTES;
        assert!(Block::has_room(&vec![big.clone(); most]));
        assert!(!Block::has_room(&vec![big; most + 1]));
        assert!(!Block::has_room(&vec![Bytes::new(); BLOCK_OPERATIONS_LIMIT + 1]));
    }

    #[test]
    fn every_field_of_a_header_changes_its_digest() {
        let header = genesis(1, 8).header();
        let mut digests = vec![header.digest()];
        let changes: [fn(&mut Header); 11] = [
            |header| header.version ^= 1,
            |header| header.network[0] ^= 1,
            |header| header.epoch ^= 1,
            |header| header.height ^= 1,
            |header| header.parent[0] ^= 1,
            |header| header.time_ms ^= 1,
            |header| header.operations_root[0] ^= 1,
            |header| header.operations_count ^= 1,
            |header| header.state_root[0] ^= 1,
            |header| header.evidence_root[0] ^= 1,
            |header| header.validators_root[0] ^= 1,
        ];
        for change in changes {
            let mut changed = header.clone();
            change(&mut changed);
            assert!(!digests.contains(&changed.digest()));
            digests.push(changed.digest());
        }
    }
}
