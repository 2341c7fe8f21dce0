//! The presentation language of TLS (RFC 8446 section 3): integers and vectors with a length in front, as
//! RFC 6962 and static-ct-api use them. What the fields mean is said where they are read.

/// Bytes that are not what they should be; the text names what was being read
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

/// Takes fields off the front of a slice
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn malformed<T>(&self) -> Result<T, Malformed> {
        Err(Malformed(self.what))
    }

    /// Nothing may be left
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed(self.what)) }
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed(self.what))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed(self.what))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A big-endian integer of `octets` octets, at most eight
    pub(crate) fn integer(&mut self, octets: usize) -> Result<u64, Malformed> {
        debug_assert!(octets <= 8);
        Ok(self.take(octets)?.iter().fold(0, |value, octet| value << 8 | u64::from(*octet)))
    }

    pub(crate) fn octet(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// A vector whose length is written in `octets` octets, at most three
    pub(crate) fn vector(&mut self, octets: usize) -> Result<&'a [u8], Malformed> {
        let length = self.integer(octets)?;
        self.take(usize::try_from(length).map_err(|_| Malformed(self.what))?)
    }
}

/// Puts fields behind each other
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn put(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// The low `octets` octets of an integer, big-endian; the caller has checked that it fits
    pub(crate) fn integer(self, value: u64, octets: usize) -> Self {
        debug_assert!(octets == 8 || value >> (8 * octets) == 0);
        self.put(&value.to_be_bytes()[8 - octets..])
    }

    /// A vector with its length in `octets` octets; an error if it is longer than they can say
    pub(crate) fn vector(
        self,
        bytes: &[u8],
        octets: usize,
        what: &'static str,
    ) -> Result<Self, Malformed> {
        let length = bytes.len() as u64;
        if octets < 8 && length >> (8 * octets) != 0 {
            return Err(Malformed(what));
        }
        Ok(self.integer(length, octets).put(bytes))
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_read_back_and_short_input_is_refused() {
        let written = Writer::default()
            .integer(0x01_0203, 3)
            .vector(b"abc", 2, "text")
            .unwrap()
            .put(&[9])
            .finish();
        assert_eq!(written, [1, 2, 3, 0, 3, b'a', b'b', b'c', 9]);
        for length in 0..=written.len() {
            let mut reader = Reader::new(&written[..length], "sample");
            let read = (|| {
                let number = reader.integer(3)?;
                let text = reader.vector(2)?;
                let last = reader.octet()?;
                reader.finish()?;
                Ok((number, text, last))
            })();
            let whole = Ok((0x01_0203, &b"abc"[..], 9));
            assert_eq!(read, if length == 9 { whole } else { Err(Malformed("sample")) });
        }
    }

    #[test]
    fn a_vector_too_long_for_its_length_is_refused() {
        let long = vec![0; 256];
        assert_eq!(Writer::default().vector(&long, 1, "v").unwrap_err(), Malformed("v"));
        assert_eq!(Writer::default().vector(&long, 2, "v").unwrap().finish().len(), 258);
    }
}
