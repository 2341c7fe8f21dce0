//! A validator that votes twice once it is told to: half of the others get its own vote for a block, and the rest one for
//! a block that there is none of, signed with the same key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use stoq_hypermesh::consensus::vote::{Proposal, SignedVote, Statement};
use stoq_hypermesh::consensus::{Channel, Genesis, Sent, Wire};
use stoq_hypermesh::operation::ValidatorKey;
use stoq_hypermesh::requester::RequesterKey;

use super::monotonic_ns;

/// Octets of a frame before the vote: the epoch
const EPOCH_BYTES: usize = 8;
/// Octets of a vote's kind
const KIND_BYTES: usize = 1;
/// Octets of the block, the signer (one octet for fewer than 128 validators) and the signature
const TAIL_BYTES: usize = BLOCK_BYTES + 1 + SIGNATURE_BYTES;
const BLOCK_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;
/// Nothing was said twice yet
const NEVER: u64 = 0;

/// A way out that changes votes on the way
pub struct Liar {
    wire: Arc<dyn Wire>,
    genesis: Arc<Genesis>,
    key: RequesterKey,
    lies: AtomicBool,
    first_ns: AtomicU64,
}

impl Liar {
    /// Honest until told otherwise
    pub fn new(wire: Arc<dyn Wire>, genesis: Arc<Genesis>, key: RequesterKey) -> Self {
        let (lies, first_ns) = (AtomicBool::new(false), AtomicU64::new(NEVER));
        Self { wire, genesis, key, lies, first_ns }
    }

    /// From now on
    pub fn lie(&self) {
        self.lies.store(true, Ordering::Release);
    }

    /// When the first of two votes that contradict each other was sent, on the clock of all processes
    pub fn first_ns(&self) -> Option<u64> {
        Some(self.first_ns.load(Ordering::Acquire)).filter(|at| *at != NEVER)
    }

    /// The vote for another block in the same view, where this frame is a vote for a block
    fn other(&self, frame: &Bytes) -> Option<Bytes> {
        let place = self.genesis.validators().index(&self.key.validator())?;
        let (statement, tail) = notarize(frame)?;
        let signature: [u8; SIGNATURE_BYTES] =
            frame[frame.len() - SIGNATURE_BYTES..].try_into().ok()?;
        let network = self.genesis.network();
        let own =
            SignedVote { statement: Statement::Notarize(statement), signer: place, signature };
        // Whatever else it may be, it is left as it is.
        if !own.is_valid(&network, self.genesis.validators()) {
            return None;
        }
        let mut block = statement.block;
        block[0] ^= 1;
        let twisted = Statement::Notarize(Proposal { block, ..statement });
        let mut octets = frame.to_vec();
        octets[tail..tail + BLOCK_BYTES].copy_from_slice(&block);
        let end = octets.len() - SIGNATURE_BYTES;
        octets[end..].copy_from_slice(&self.key.sign(&twisted.message(&network)));
        Some(octets.into())
    }
}

/// A vote for a block as the engine writes it (integers with seven bits an octet), and where its block begins
fn notarize(frame: &[u8]) -> Option<(Proposal, usize)> {
    let tail = frame.len().checked_sub(TAIL_BYTES)?;
    let mut numbers = frame.get(EPOCH_BYTES + KIND_BYTES..tail)?.iter();
    let mut number = || -> Option<u64> {
        let (mut value, mut shift) = (0u64, 0u32);
        loop {
            let octet = *numbers.next()?;
            value |= u64::from(octet & 0x7f).checked_shl(shift)?;
            if octet & 0x80 == 0 {
                return Some(value);
            }
            shift += 7;
        }
    };
    let (epoch, view, parent_view) = (number()?, number()?, number()?);
    let block = frame.get(tail..tail + BLOCK_BYTES)?.try_into().ok()?;
    numbers.next().is_none().then_some((Proposal { epoch, view, parent_view, block }, tail))
}

impl Wire for Liar {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        let sees_other = || self.genesis.validators().index(to).is_some_and(|place| place % 2 == 1);
        if channel == Channel::Votes
            && self.lies.load(Ordering::Acquire)
            && sees_other()
            && let Some(other) = self.other(&frame)
        {
            // Only the first counts.
            let _ = self.first_ns.compare_exchange(
                NEVER,
                monotonic_ns(),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            return self.wire.send(to, channel, other);
        }
        self.wire.send(to, channel, frame)
    }
}
