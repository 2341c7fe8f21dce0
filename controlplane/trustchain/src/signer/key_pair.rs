//! Signatures by BoringSSL keys of this process, in the shape of rcgen's `SigningKey`, and the identifiers of keys
//! in certificates. For keys that are made and used in one place: roots, nodes, tests.

use boring::hash::MessageDigest;
use boring::sign::Signer;
use rcgen::{KeyIdMethod, PublicKeyData, SignatureAlgorithm, SigningKey};

use crate::keys::{KeyKind, KeyPair};

impl PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        self.public_point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.kind() {
            KeyKind::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        }
    }
}

impl SigningKey for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let digest = match self.kind() {
            KeyKind::P256 => MessageDigest::sha256(),
            KeyKind::P384 => MessageDigest::sha384(),
        };
        Signer::new(digest, self.boring_key())
            .and_then(|mut signer| signer.sign_oneshot_to_vec(message))
            .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// The key identifier of RFC 7093 section 2 method 1: 160 bits of SHA-256 over the public point
pub(crate) fn key_identifier(public_point: &[u8]) -> Vec<u8> {
    boring::sha::sha256(public_point)[..20].to_vec()
}

/// The same, as rcgen takes it
pub(crate) fn key_identifier_method(public_point: &[u8]) -> KeyIdMethod {
    KeyIdMethod::PreSpecified(key_identifier(public_point))
}

#[cfg(test)]
mod tests {
    use boring::sign::Verifier;

    use super::*;

    #[test]
    fn a_signature_verifies_and_only_over_its_message() {
        let kinds =
            [(KeyKind::P256, MessageDigest::sha256()), (KeyKind::P384, MessageDigest::sha384())];
        for (kind, digest) in kinds {
            let key = KeyPair::generate(kind).unwrap();
            let signature = key.sign(b"message").unwrap();
            let verified = |message: &[u8]| {
                let mut verifier = Verifier::new(digest, key.boring_key()).unwrap();
                verifier.verify_oneshot(&signature, message).unwrap()
            };
            assert!(verified(b"message"));
            assert!(!verified(b"massage"));
        }
    }
}
