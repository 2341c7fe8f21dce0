//! The bytes a load is made of: one buffer of pseudo-random octets for the whole process, cut into slices at ever
//! other offsets, so that nothing is copied and a piece in the wrong place changes the digest. All flows share it: a
//! buffer for each would make a thousand flows dear for reading half a gigabyte, not for being a thousand.

use std::sync::OnceLock;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// Octets of one slice: what a flow hands to its worker at once
pub const CHUNK_BYTES: usize = 256 << 10;
/// Octets of the buffer: small enough to stay in a core's own cache
const BUFFER_BYTES: usize = CHUNK_BYTES + (256 << 10);
/// Seed of the buffer
const BUFFER_SEED: u64 = 0x5354_4f51;
/// Distance between the offsets of neighbouring slices: odd, so that every offset comes up
const STRIDE_BYTES: usize = 4_099;

/// An endless source of slices
#[derive(Clone)]
pub struct Pattern {
    buffer: Bytes,
    turn: u64,
}

impl Pattern {
    /// The pattern of a seed: where in the shared buffer it starts
    pub fn new(seed: u64) -> Self {
        static BUFFER: OnceLock<Bytes> = OnceLock::new();
        let buffer = BUFFER.get_or_init(|| {
            let mut buffer = vec![0; BUFFER_BYTES];
            StdRng::seed_from_u64(BUFFER_SEED).fill_bytes(&mut buffer);
            buffer.into()
        });
        Self { buffer: buffer.clone(), turn: seed }
    }

    /// The next slice, of at most `most` octets
    pub fn next_chunk(&mut self, most: u64) -> Bytes {
        let turn = self.turn;
        self.turn = turn.wrapping_add(1);
        self.piece(turn, usize::try_from(most).unwrap_or(CHUNK_BYTES))
    }

    /// The slice whose turn is `turn`, of at most `most` octets
    pub fn piece(&self, turn: u64, most: usize) -> Bytes {
        let offset = (turn as usize).wrapping_mul(STRIDE_BYTES) % (BUFFER_BYTES - CHUNK_BYTES);
        self.buffer.slice(offset..offset + most.min(CHUNK_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_slices_differ_and_share_one_buffer() {
        let mut pattern = Pattern::new(7);
        let slices: Vec<Bytes> = (0..64).map(|_| pattern.next_chunk(u64::MAX)).collect();
        for (index, slice) in slices.iter().enumerate() {
            assert_eq!(slice.len(), CHUNK_BYTES);
            assert!(slices[..index].iter().all(|earlier| earlier != slice));
        }
        assert_eq!(pattern.next_chunk(10).len(), 10);
        assert_ne!(Pattern::new(8).next_chunk(64), Pattern::new(7).next_chunk(64));
    }
}
