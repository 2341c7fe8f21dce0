//! The built-in `measure` service: one flow whose opener says how much is to go which way; whoever receives
//! counts, digests and times it, and says what it got. For figures that were taken at the receiver.

use super::WireError;

/// Octets of a request
pub const REQUEST_BYTES: usize = 16;
/// Octets of a verdict
pub const VERDICT_BYTES: usize = 24;
/// Octets of the BLAKE3 digest that follows the data
pub const DIGEST_BYTES: usize = 32;

const MAGIC: [u8; 4] = *b"STQm";
const VERSION: u8 = 1;

/// What the opener of the flow wants
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MeasureRequest {
    /// Octets of data
    pub bytes: u64,
    /// The opener receives instead of sending
    pub reverse: bool,
}

impl MeasureRequest {
    /// The request as it goes on the flow
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut out = [0; REQUEST_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = u8::from(self.reverse);
        out[8..].copy_from_slice(&self.bytes.to_be_bytes());
        out
    }

    /// Parses a request
    pub fn parse(input: &[u8; REQUEST_BYTES]) -> Result<Self, WireError> {
        let reverse = match input[5] {
            0 => false,
            1 => true,
            _ => return Err(WireError::Value),
        };
        if input[..4] != MAGIC || input[4] != VERSION || input[6..8] != [0, 0] {
            return Err(WireError::Value);
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&input[8..]);
        Ok(Self { bytes: u64::from_be_bytes(bytes), reverse })
    }
}

/// What the receiver of the data got
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MeasureVerdict {
    /// Octets received
    pub bytes: u64,
    /// From the first octet to the last
    pub elapsed_ns: u64,
    /// Whether the digest that followed agrees with the data
    pub verified: bool,
}

impl MeasureVerdict {
    /// The verdict as it goes on the flow
    pub fn encode(&self) -> [u8; VERDICT_BYTES] {
        let mut out = [0; VERDICT_BYTES];
        out[..8].copy_from_slice(&self.bytes.to_be_bytes());
        out[8..16].copy_from_slice(&self.elapsed_ns.to_be_bytes());
        out[23] = u8::from(self.verified);
        out
    }

    /// Parses a verdict
    pub fn parse(input: &[u8; VERDICT_BYTES]) -> Result<Self, WireError> {
        let word = |from: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&input[from..from + 8]);
            u64::from_be_bytes(word)
        };
        let verified = match word(16) {
            0 => false,
            1 => true,
            _ => return Err(WireError::Value),
        };
        Ok(Self { bytes: word(0), elapsed_ns: word(8), verified })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_verdicts_round_trip_and_nothing_else_parses() {
        let request = MeasureRequest { bytes: 1 << 40, reverse: true };
        let wire = request.encode();
        assert_eq!(MeasureRequest::parse(&wire), Ok(request));
        for octet in 0..8 {
            let mut bad = wire;
            bad[octet] ^= 0x80;
            assert_eq!(MeasureRequest::parse(&bad), Err(WireError::Value), "octet {octet}");
        }
        let verdict = MeasureVerdict { bytes: 7, elapsed_ns: 9, verified: true };
        let mut wire = verdict.encode();
        assert_eq!(MeasureVerdict::parse(&wire), Ok(verdict));
        wire[23] = 2;
        assert_eq!(MeasureVerdict::parse(&wire), Err(WireError::Value));
    }
}
