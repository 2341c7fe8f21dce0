//! Proof that the bytes of a flow arrived as they left: a running digest on both sides and a trailer that ends
//! every flow and carries the sender's count and digest. It proves integrity of the transfer, not identity:
//! who sent the bytes is the connection's affair.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

/// What the receiver compares
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// XXH3, 128 bits: finds every accident at little cost
    #[default]
    Xxh3,
    /// BLAKE3: cryptographic, costs a good part of a core at these speeds
    Blake3,
    /// Count only; a report of such a run says that nothing was verified
    None,
}

impl Verify {
    /// The octet that stands for it in a preamble
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Xxh3 => 1,
            Self::Blake3 => 2,
        }
    }

    /// The inverse of [`Self::code`]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Xxh3),
            2 => Some(Self::Blake3),
            _ => None,
        }
    }
}

enum State {
    None,
    Xxh3(Box<XxHash3_128Stream>),
    Blake3(Box<blake3::Hasher>),
}

type XxHash3_128Stream = twox_hash::xxhash3_128::Hasher;

/// Octets of a digest field; unused ones are zero
pub const DIGEST_BYTES: usize = 32;

/// A running digest and count
pub struct Digest {
    state: State,
    bytes: u64,
}

impl Digest {
    /// Of nothing yet
    pub fn new(verify: Verify) -> Self {
        let state = match verify {
            Verify::None => State::None,
            Verify::Xxh3 => State::Xxh3(Box::new(XxHash3_128::new())),
            Verify::Blake3 => State::Blake3(Box::new(blake3::Hasher::new())),
        };
        Self { state, bytes: 0 }
    }

    /// Takes in the next bytes
    pub fn update(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        match &mut self.state {
            State::None => {}
            State::Xxh3(state) => state.write(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    /// Octets taken in
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The trailer that describes everything taken in
    pub fn trailer(&self) -> Trailer {
        let mut digest = [0; DIGEST_BYTES];
        match &self.state {
            State::None => {}
            State::Xxh3(state) => digest[..16].copy_from_slice(&state.finish_128().to_be_bytes()),
            State::Blake3(state) => digest.copy_from_slice(state.finalize().as_bytes()),
        }
        Trailer { bytes: self.bytes, digest }
    }
}

const TRAILER_MAGIC: u64 = 0x5354_4f51_454e_4421;

/// Octets of an encoded trailer
pub const TRAILER_BYTES: usize = 16 + DIGEST_BYTES;

/// What a sender says it has sent
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trailer {
    /// Octets in front of the trailer
    pub bytes: u64,
    /// Their digest
    pub digest: [u8; DIGEST_BYTES],
}

impl Trailer {
    /// The trailer's octets
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(TRAILER_BYTES);
        out.put_u64(TRAILER_MAGIC);
        out.put_u64(self.bytes);
        out.put_slice(&self.digest);
        out.freeze()
    }

    /// Reads a trailer; `None` where the octets are not one
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() != TRAILER_BYTES || bytes.get_u64() != TRAILER_MAGIC {
            return None;
        }
        let count = bytes.get_u64();
        Some(Self { bytes: count, digest: bytes.try_into().ok()? })
    }
}

/// What became of one flow, as its receiver saw it
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every byte counted and, where digests were on, equal
    Equal,
    /// All bytes are there, but not the bytes that were sent
    DigestDiffers,
    /// Fewer or more bytes than were sent
    CountDiffers,
    /// The flow ended before its trailer
    NoTrailer,
}

/// Checks a received flow chunk by chunk; the last [`TRAILER_BYTES`] octets are held back, because only the
/// end of the flow says that they are the trailer
pub struct Verifier {
    digest: Digest,
    held: VecDeque<Bytes>,
    held_bytes: usize,
}

impl Verifier {
    /// Of nothing yet
    pub fn new(verify: Verify) -> Self {
        Self { digest: Digest::new(verify), held: VecDeque::new(), held_bytes: 0 }
    }

    /// Takes in the next chunk; returns the octets now known to be data
    pub fn take(&mut self, chunk: Bytes) -> u64 {
        let before = self.digest.bytes();
        self.held_bytes += chunk.len();
        self.held.push_back(chunk);
        while self.held_bytes > TRAILER_BYTES {
            let Some(front) = self.held.front_mut() else { break };
            let take = front.len().min(self.held_bytes - TRAILER_BYTES);
            self.digest.update(&front[..take]);
            front.advance(take);
            self.held_bytes -= take;
            if front.is_empty() {
                self.held.pop_front();
            }
        }
        self.digest.bytes() - before
    }

    /// Octets of data so far
    pub fn bytes(&self) -> u64 {
        self.digest.bytes()
    }

    /// The flow has ended: what became of it, and how many octets its sender says it sent
    pub fn finish(self) -> (Outcome, Option<u64>) {
        let mut end = Vec::with_capacity(TRAILER_BYTES);
        self.held.iter().for_each(|piece| end.extend_from_slice(piece));
        let Some(trailer) = Trailer::decode(&end) else { return (Outcome::NoTrailer, None) };
        let own = self.digest.trailer();
        let outcome = if own.bytes != trailer.bytes {
            Outcome::CountDiffers
        } else if own.digest != trailer.digest {
            Outcome::DigestDiffers
        } else {
            Outcome::Equal
        };
        (outcome, Some(trailer.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flow of `data` as its sender ends it, cut into pieces of `piece` octets
    fn flow(verify: Verify, data: &[u8], piece: usize) -> Vec<Bytes> {
        let mut digest = Digest::new(verify);
        digest.update(data);
        let mut all = data.to_vec();
        all.extend_from_slice(&digest.trailer().encode());
        all.chunks(piece).map(Bytes::copy_from_slice).collect()
    }

    fn outcome(verify: Verify, pieces: Vec<Bytes>) -> (Outcome, Option<u64>) {
        let mut verifier = Verifier::new(verify);
        let counted: u64 = pieces.into_iter().map(|piece| verifier.take(piece)).sum();
        assert_eq!(counted, verifier.bytes());
        verifier.finish()
    }

    fn data() -> Vec<u8> {
        (0..10_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    #[test]
    fn the_same_bytes_are_equal_however_they_are_cut() {
        for verify in [Verify::Xxh3, Verify::Blake3, Verify::None] {
            for piece in [1, 47, 48, 49, 1_000, 20_000] {
                let pieces = flow(verify, &data(), piece);
                assert_eq!(outcome(verify, pieces), (Outcome::Equal, Some(10_000)));
            }
            assert_eq!(outcome(verify, flow(verify, &[], 48)), (Outcome::Equal, Some(0)));
        }
    }

    #[test]
    fn one_changed_bit_is_found() {
        for verify in [Verify::Xxh3, Verify::Blake3] {
            let mut pieces = flow(verify, &data(), 1_000);
            let mut changed = pieces[3].to_vec();
            changed[17] ^= 1;
            pieces[3] = changed.into();
            assert_eq!(outcome(verify, pieces).0, Outcome::DigestDiffers);
        }
    }

    #[test]
    fn exchanged_missing_and_repeated_pieces_are_found() {
        let mut pieces = flow(Verify::Xxh3, &data(), 1_000);
        pieces.swap(1, 2);
        assert_eq!(outcome(Verify::Xxh3, pieces).0, Outcome::DigestDiffers);
        let mut pieces = flow(Verify::Xxh3, &data(), 1_000);
        pieces.remove(4);
        assert_eq!(outcome(Verify::Xxh3, pieces), (Outcome::CountDiffers, Some(10_000)));
        let mut pieces = flow(Verify::Xxh3, &data(), 1_000);
        pieces.insert(4, pieces[4].clone());
        assert_eq!(outcome(Verify::Xxh3, pieces).0, Outcome::CountDiffers);
    }

    #[test]
    fn a_flow_without_its_trailer_is_not_verified() {
        let mut pieces = flow(Verify::Xxh3, &data(), 1_000);
        pieces.pop();
        assert_eq!(outcome(Verify::Xxh3, pieces), (Outcome::NoTrailer, None));
        assert_eq!(outcome(Verify::Xxh3, Vec::new()), (Outcome::NoTrailer, None));
    }

    #[test]
    fn a_run_that_only_counts_does_not_see_a_changed_byte() {
        let mut pieces = flow(Verify::None, &data(), 1_000);
        pieces.swap(1, 2);
        assert_eq!(outcome(Verify::None, pieces).0, Outcome::Equal);
    }
}
