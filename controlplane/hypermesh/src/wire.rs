//! The canonical encoding of everything that is hashed, signed, stored or sent here: fixed order, integers
//! big-endian, sequences preceded by their length. One value has one encoding, and a reader refuses every other.

/// Why octets are not the encoding of a value
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WireError {
    /// The octets end within the value
    #[error("the encoding ends too early")]
    Truncated,
    /// A sequence is longer than its place allows
    #[error("a sequence is longer than {limit}, its limit")]
    TooLong {
        /// Octets or elements
        limit: usize,
    },
    /// Octets follow the value
    #[error("{octets} octets follow the end of the encoding")]
    Trailing {
        /// How many
        octets: usize,
    },
    /// A tag names none of the alternatives
    #[error("{tag} is no {what}")]
    BadTag {
        /// What was to be read
        what: &'static str,
        /// What stood there
        tag: u32,
    },
    /// The value is not written the one way it may be, or is none of its type
    #[error("{what} is not written the one way it may be")]
    NotCanonical {
        /// What was to be read
        what: &'static str,
    },
}

/// Writes one value
#[derive(Clone, Debug, Default)]
pub struct Writer {
    octets: Vec<u8>,
}

impl Writer {
    /// An empty encoding
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty encoding with room for `octets`
    pub fn with_capacity(octets: usize) -> Self {
        Self { octets: Vec::with_capacity(octets) }
    }

    /// One octet
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.octets.push(value);
        self
    }

    /// 16 bits, big-endian
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    /// 32 bits, big-endian
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    /// 64 bits, big-endian
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    /// A truth value: one octet, 0 or 1
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    /// How many elements follow, in 32 bits
    ///
    /// # Panics
    /// Above 2^32 - 1. Every sequence of this crate has a limit far below.
    pub fn count(&mut self, elements: usize) -> &mut Self {
        self.u32(u32::try_from(elements).expect("limits of sequences are below 2^32"))
    }

    /// Octets of any number, preceded by their number in 32 bits
    ///
    /// # Panics
    /// As [`Writer::count`]
    pub fn bytes(&mut self, octets: &[u8]) -> &mut Self {
        self.count(octets.len()).fixed(octets)
    }

    /// Octets whose number the reader knows
    pub fn fixed(&mut self, octets: &[u8]) -> &mut Self {
        self.octets.extend_from_slice(octets);
        self
    }

    /// How many octets were written so far
    pub fn len(&self) -> usize {
        self.octets.len()
    }

    /// Whether nothing was written
    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// Begins anew and keeps the room
    pub fn clear(&mut self) {
        self.octets.clear();
    }

    /// What was written so far
    pub fn as_slice(&self) -> &[u8] {
        &self.octets
    }

    /// The encoding
    pub fn into_vec(self) -> Vec<u8> {
        self.octets
    }
}

/// Reads one value
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// At the beginning of an encoding
    pub fn new(octets: &'a [u8]) -> Self {
        Self { rest: octets }
    }

    fn take(&mut self, octets: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(octets).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// One octet
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.fixed::<1>().map(|[octet]| octet)
    }

    /// 16 bits, big-endian
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.fixed().map(u16::from_be_bytes)
    }

    /// 32 bits, big-endian
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.fixed().map(u32::from_be_bytes)
    }

    /// 64 bits, big-endian
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.fixed().map(u64::from_be_bytes)
    }

    /// A truth value: 0 or 1, nothing else
    pub fn bool(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(WireError::BadTag { what: "truth value", tag: tag.into() }),
        }
    }

    /// How many elements follow, at most `limit`
    pub fn count(&mut self, limit: usize) -> Result<usize, WireError> {
        let count = self.u32()?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= limit)
            .ok_or(WireError::TooLong { limit })
    }

    /// Octets preceded by their number, at most `limit`
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8], WireError> {
        let octets = self.count(limit)?;
        self.take(octets)
    }

    /// Exactly `N` octets
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.take(N)?.try_into().map_err(|_| WireError::Truncated)
    }

    /// What has not been read yet
    pub fn remaining(&self) -> &'a [u8] {
        self.rest
    }

    /// Demands that nothing is left
    pub fn finish(self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            octets => Err(WireError::Trailing { octets }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<u8> {
        let mut writer = Writer::with_capacity(64);
        writer.u8(1).u16(0x0203).u32(0x0405_0607).u64(0x0809_0a0b_0c0d_0e0f);
        writer.bool(true).bytes(b"ab").fixed(&[9; 3]);
        writer.into_vec()
    }

    fn read(octets: &[u8], limit: usize) -> Result<(), WireError> {
        let mut reader = Reader::new(octets);
        assert!(reader.u8()? == 1 && reader.u16()? == 0x0203 && reader.u32()? == 0x0405_0607);
        assert!(reader.u64()? == 0x0809_0a0b_0c0d_0e0f && reader.bool()?);
        assert!(reader.bytes(limit)? == b"ab" && reader.fixed()? == [9; 3]);
        reader.finish()
    }

    #[test]
    fn what_is_written_is_big_endian_and_read_back() {
        let octets = written();
        let head = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1, 0, 0, 0, 2];
        assert_eq!(octets[..head.len()], head);
        assert_eq!(read(&octets, 2), Ok(()));
    }

    #[test]
    fn every_shortening_lengthening_and_excess_is_refused() {
        let mut octets = written();
        for end in 0..octets.len() {
            assert_eq!(read(&octets[..end], 2), Err(WireError::Truncated), "{end}");
        }
        assert_eq!(read(&octets, 1), Err(WireError::TooLong { limit: 1 }));
        octets.extend([0, 0]);
        assert_eq!(read(&octets, 2), Err(WireError::Trailing { octets: 2 }));
    }

    #[test]
    fn a_truth_value_is_zero_or_one() {
        let refused = Err(WireError::BadTag { what: "truth value", tag: 2 });
        assert_eq!(Reader::new(&[2]).bool(), refused);
    }

    #[test]
    fn a_length_that_promises_more_than_memory_holds_costs_nothing() {
        let mut reader = Reader::new(&[0xff; 8]);
        assert_eq!(reader.bytes(usize::MAX), Err(WireError::Truncated));
        assert_eq!(Reader::new(&[0xff; 8]).bytes(64), Err(WireError::TooLong { limit: 64 }));
    }
}
