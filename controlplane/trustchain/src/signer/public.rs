//! The public half of a signer's key, and the judgement of what comes back under its name.

use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, Public};
use boring::sign::Verifier;
use rcgen::{PublicKeyData, SignatureAlgorithm};

use super::KeyName;
use crate::chain::settle;
use crate::log::key::public_key;

/// Octets of an uncompressed P-256 point
const POINT_BYTES: usize = 65;
/// SubjectPublicKeyInfo of a P-256 key up to the point (RFC 5480 section 2)
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A key as everybody may know it: name and public half. P-256 only: weaker and slower keys are refused here,
/// wherever they come from.
#[derive(Clone, Debug)]
pub struct KeyInfo {
    name: KeyName,
    spki_der: Vec<u8>,
    key: PKey<Public>,
}

/// A public key that no signer may have
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "key `{0}` is no P-256 key in its one encoding; issuing and log keys are P-256, make a new one under \
     another name"
)]
pub struct KeyInfoError(pub String);

impl KeyInfo {
    /// A key by its SubjectPublicKeyInfo
    pub fn from_spki(name: KeyName, spki_der: &[u8]) -> Result<Self, KeyInfoError> {
        let refused = || KeyInfoError(name.to_string());
        let key = public_key(spki_der).map_err(|_| refused())?;
        let curve = key.ec_key().ok().and_then(|key| key.group().curve_name());
        // One key, one encoding: what BoringSSL reads but would not write is another hash of the same key.
        let canonical = key.public_key_to_der().ok().as_deref() == Some(spki_der);
        let expected =
            spki_der.len() == SPKI_PREFIX.len() + POINT_BYTES && spki_der.starts_with(&SPKI_PREFIX);
        if curve != Some(Nid::X9_62_PRIME256V1) || !canonical || !expected {
            return Err(refused());
        }
        Ok(Self { name, spki_der: spki_der.into(), key })
    }

    /// A key by its uncompressed point
    pub fn from_point(name: KeyName, point: &[u8]) -> Result<Self, KeyInfoError> {
        Self::from_spki(name, &[&SPKI_PREFIX, point].concat())
    }

    /// The name
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// SubjectPublicKeyInfo DER
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// The public point, uncompressed (SEC 1 section 2.3.3)
    pub fn public_point(&self) -> &[u8] {
        &self.spki_der[SPKI_PREFIX.len()..]
    }

    /// Whether `signature` (DER) is this key's over `message`
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        settle(
            Verifier::new(MessageDigest::sha256(), &self.key)
                .and_then(|mut verifier| verifier.verify_oneshot(signature, message)),
        )
    }
}

impl PartialEq for KeyInfo {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.spki_der == other.spki_der
    }
}

impl Eq for KeyInfo {}

impl PublicKeyData for KeyInfo {
    fn der_bytes(&self) -> &[u8] {
        self.public_point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{KeyKind, KeyPair};

    #[test]
    fn a_p256_key_is_taken_by_either_form_and_no_other_key_is() {
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let spki = key.spki_der().unwrap();
        let one = KeyInfo::from_spki(KeyName::log(), &spki).unwrap();
        assert_eq!(one, KeyInfo::from_point(KeyName::log(), key.public_point()).unwrap());
        assert_eq!(one.public_point(), key.public_point());
        assert_eq!(one.subject_public_key_info(), spki);
        let other = KeyPair::generate(KeyKind::P384).unwrap().spki_der().unwrap();
        let longer = [&spki[..], &[0]].concat();
        let mut off_curve = spki.clone();
        off_curve[90] ^= 1;
        for wrong in [&other[..], &longer, &off_curve, &spki[..90], b""] {
            assert!(KeyInfo::from_spki(KeyName::log(), wrong).is_err());
        }
    }
}
