//! The one way this crate hashes: BLAKE3 in key derivation mode, a context for each use, and a length before each
//! part, so that no two uses and no two splits of the same octets can meet. What is hashed is decided elsewhere.

use std::sync::OnceLock;

use blake3::Hasher;
use blake3::hazmat::{self, ContextKey, HasherExt};

/// 256 bits of BLAKE3
pub type Digest = [u8; 32];

/// Hashes `parts`, each preceded by its length (64 bits, little-endian), under `context`.
///
/// A context is a constant `hypermesh v1 WHAT` and names one use. Where one is used often, [`Domain`] gives the same
/// result for less.
pub fn derive(context: &'static str, parts: &[&[u8]]) -> Digest {
    finish_parts(Hasher::new_derive_key(context), parts)
}

fn finish_parts(mut hasher: Hasher, parts: &[&[u8]]) -> Digest {
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// One context whose key is derived once and kept: hashing a short input then costs half
#[derive(Debug)]
pub struct Domain {
    context: &'static str,
    key: OnceLock<ContextKey>,
}

impl Domain {
    /// The domain of a context `hypermesh v1 WHAT`
    pub const fn new(context: &'static str) -> Self {
        Self { context, key: OnceLock::new() }
    }

    fn hasher(&self) -> Hasher {
        let key = self.key.get_or_init(|| hazmat::hash_derive_key_context(self.context));
        Hasher::new_from_context_key(key)
    }

    /// The same as [`derive()`] under this context
    pub fn derive(&self, parts: &[&[u8]]) -> Digest {
        finish_parts(self.hasher(), parts)
    }

    /// Hashes octets whose split is plain from the outside: one canonical encoding, or fields of fixed length
    pub fn hash(&self, octets: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(octets);
        hasher.finalize().into()
    }
}

/// Lower-case hexadecimal, for messages and files
pub fn to_hex(octets: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(octets.len() * 2);
    for octet in octets {
        text.push(char::from(DIGITS[usize::from(octet >> 4)]));
        text.push(char::from(DIGITS[usize::from(octet & 15)]));
    }
    text
}

/// Reads what [`to_hex`] wrote, and nothing else
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |character: u8| match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut octets = [0; N];
    for (octet, pair) in octets.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *octet = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: &str = "hypermesh v1 test";

    #[test]
    fn derivation_is_what_blake3_says_it_is() {
        let mut material = Vec::new();
        for part in [&b"ab"[..], b"", b"c"] {
            material.extend_from_slice(&(part.len() as u64).to_le_bytes());
            material.extend_from_slice(part);
        }
        assert_eq!(derive(CONTEXT, &[b"ab", b"", b"c"]), blake3::derive_key(CONTEXT, &material));
    }

    #[test]
    fn splits_and_contexts_never_meet() {
        let digests = [
            derive(CONTEXT, &[b"ab", b"c"]),
            derive(CONTEXT, &[b"a", b"bc"]),
            derive(CONTEXT, &[b"abc"]),
            derive(CONTEXT, &[b"abc", b""]),
            derive(CONTEXT, &[]),
            derive("hypermesh v1 other test", &[b"abc"]),
        ];
        for (index, digest) in digests.iter().enumerate() {
            assert!(!digests[index + 1..].contains(digest), "{index}");
        }
    }

    #[test]
    fn a_domain_says_the_same_as_its_context() {
        let domain = Domain::new(CONTEXT);
        for _first_then_cached in 0..2 {
            assert_eq!(domain.derive(&[b"ab", b"c"]), derive(CONTEXT, &[b"ab", b"c"]));
            assert_eq!(domain.hash(b"abc"), blake3::derive_key(CONTEXT, b"abc"));
        }
    }

    #[test]
    fn hexadecimal_is_read_back_and_read_strictly() {
        assert_eq!(to_hex(&[0x00, 0x9f, 0xff]), "009fff");
        assert_eq!(from_hex("009fff"), Some([0x00, 0x9f, 0xff]));
        for wrong in ["", "009ff", "009fff0", "009fffff", "009FFF", "00 9ff", "009ffg", "+09fff"] {
            assert_eq!(from_hex::<3>(wrong), None, "{wrong}");
        }
    }
}
