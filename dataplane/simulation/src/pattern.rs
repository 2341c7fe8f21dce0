//! Bytes that every flow can check without keeping them: a keyed function of the offset, so that a byte of
//! another flow, of another direction or at another place is found at once. Not cryptography.

/// The byte stream of one direction of one flow
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pattern(u64);

impl Pattern {
    /// The pattern of `key`; close keys give unlike patterns
    pub fn new(key: u64) -> Self {
        Self(mix(key))
    }

    fn word(self, index: u64) -> [u8; 8] {
        mix(self.0 ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()
    }

    /// The bytes from `offset` on
    pub fn fill(self, offset: u64, out: &mut [u8]) {
        let mut at = 0;
        while at < out.len() {
            let place = offset + at as u64;
            let word = self.word(place / 8);
            let from = (place % 8) as usize;
            let taken = (8 - from).min(out.len() - at);
            out[at..at + taken].copy_from_slice(&word[from..from + taken]);
            at += taken;
        }
    }

    /// The place of the first byte in `bytes` that is not the pattern's at `offset`
    pub fn mismatch(self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut expected = vec![0; bytes.len()];
        self.fill(offset, &mut expected);
        let index = expected.iter().zip(bytes).position(|(want, got)| want != got)?;
        Some(offset + index as u64)
    }
}

fn mix(mut value: u64) -> u64 {
    // The finaliser of SplitMix64.
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_bytes_and_any_slip_is_found() {
        let pattern = Pattern::new(7);
        let mut whole = [0; 100];
        pattern.fill(0, &mut whole);
        let mut part = [0; 31];
        pattern.fill(13, &mut part);
        assert_eq!(part, whole[13..44]);
        assert_eq!(pattern.mismatch(13, &part), None);
        assert_eq!(Pattern::new(8).mismatch(13, &part).map(|at| at < 20), Some(true));
        part[9] ^= 1;
        assert_eq!(pattern.mismatch(13, &part), Some(22));
    }
}
