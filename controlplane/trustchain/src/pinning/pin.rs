//! A pin: SHA-256 of a public key, as text and as octets. What pins decide is in `pin_set`.

use std::fmt;
use std::str::FromStr;

use boring::sha::sha256;
use serde::{Deserialize, Serialize};

use crate::certificate::{CertificateError, hex, parse, unhex};

/// SHA-256 of a SubjectPublicKeyInfo, written `spki-sha256:` and 64 hexadecimal digits. Not the same as a
/// fingerprint, which is the hash of a certificate: a key outlives its certificates.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Pin([u8; 32]);

const PREFIX: &str = "spki-sha256:";

impl Pin {
    /// Of a SubjectPublicKeyInfo in DER
    pub fn of_spki(spki_der: &[u8]) -> Self {
        Self(sha256(spki_der))
    }

    /// Of the key in a certificate
    pub fn of_certificate(certificate_der: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self::of_spki(parse(certificate_der)?.public_key().raw))
    }

    /// From its octets
    pub fn from_bytes(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    /// The 32 octets
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", hex(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no pin
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "a pin is `spki-sha256:` and 64 hexadecimal digits, the SHA-256 of a public key; a certificate's \
     fingerprint (`sha256:`) is another thing"
)]
pub struct PinParseError;

impl FromStr for Pin {
    type Err = PinParseError;

    fn from_str(text: &str) -> Result<Self, PinParseError> {
        let digits = text.strip_prefix(PREFIX).ok_or(PinParseError)?;
        let octets = unhex(digits).ok_or(PinParseError)?;
        octets.try_into().map(Self).map_err(|_| PinParseError)
    }
}

impl Serialize for Pin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The keys of a chain. The handshake shows the leaf; the anchor it leads to and the root behind that are
/// known to this node, so their pins are taken once for each anchor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChainKeys {
    /// Of the leaf
    pub leaf: Pin,
    /// Of the issuing authority
    pub issuing: Pin,
    /// Of the root
    pub root: Pin,
}

impl ChainKeys {
    /// The key of one tier
    pub fn of(&self, tier: Tier) -> Pin {
        match tier {
            Tier::Root => self.root,
            Tier::Issuing => self.issuing,
        }
    }

    /// Whether a pin is one of the chain's
    pub fn contains(&self, pin: &Pin) -> bool {
        [self.leaf, self.issuing, self.root].contains(pin)
    }
}

/// A level of the hierarchy that is pinned for all peers. Leaves are not: they change their key every day.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Tier {
    /// Roots
    Root,
    /// Issuing authorities
    Issuing,
}

impl Tier {
    /// Both
    pub const ALL: [Self; 2] = [Self::Root, Self::Issuing];

    /// The label used in logs, metrics, JSON and messages
    pub const fn label(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Issuing => "issuing",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_round_trip_and_fingerprints_are_none() {
        let pin = Pin::of_spki(b"key");
        assert_eq!(pin.to_string().parse(), Ok(pin));
        let text = pin.to_string();
        let digits = &text[PREFIX.len()..];
        for wrong in ["", PREFIX, digits, &format!("sha256:{digits}"), &text[..text.len() - 1]] {
            assert_eq!(wrong.parse::<Pin>(), Err(PinParseError), "{wrong}");
        }
        let json = serde_json::to_string(&pin).unwrap();
        assert_eq!(serde_json::from_str::<Pin>(&json).unwrap(), pin);
    }
}
