//! The key of a log: its public half, which makes the log's identity (RFC 6962 section 3.2), and its private
//! half behind the signer of this crate. Only P-256; no signature leaves before it was verified.

use boring::error::ErrorStack;
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, Public};
use boring::sha::sha256;
use boring::sign::Verifier;
use rcgen::SigningKey;

use super::NAME_LIMIT_BYTES;
use super::merkle::Hash;
use super::note::{self, SIGNATURE_TYPE_TREE_HEAD};
use super::wire::{Malformed, Reader, Writer};
use crate::chain::settle;

/// HashAlgorithm sha256 and SignatureAlgorithm ecdsa (RFC 5246 section 7.4.1.4.1)
const ECDSA_SHA256: [u8; 2] = [4, 3];

/// Why a log's key cannot be used
#[derive(Debug, thiserror::Error)]
pub enum LogKeyError {
    /// Not a P-256 key
    #[error("the log's key is no P-256 key; make one with `stoqctl log init`")]
    Kind,
    /// The origin cannot be a key name of signed notes
    #[error(
        "`{0}` cannot name a log: use a host and a path without a scheme, spaces, plus signs or a \
         slash at the end, at most {NAME_LIMIT_BYTES} bytes"
    )]
    Origin(String),
}

/// Why nothing was signed
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The signer refused or is away
    #[error("the log's signer failed: {0}")]
    Signer(#[from] rcgen::Error),
    /// What the signer returned does not verify
    #[error(
        "the log's signer returned a signature that does not verify with the log's public key; \
         nothing was released, check the signer's key and its hardware"
    )]
    Unverified,
    /// A field is too large
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A log as everyone knows it: origin and public key
#[derive(Clone, Debug)]
pub struct LogVerifier {
    origin: String,
    log_id: Hash,
    key_id: u32,
    spki_der: Vec<u8>,
    key: PKey<Public>,
}

impl LogVerifier {
    /// A log by its origin (the submission prefix without scheme and without slash at the end) and its P-256
    /// key as SubjectPublicKeyInfo DER
    pub fn new(origin: &str, spki_der: &[u8]) -> Result<Self, LogKeyError> {
        if !note::is_key_name(origin) || origin.ends_with('/') || origin.contains("://") {
            return Err(LogKeyError::Origin(origin.into()));
        }
        let key = public_key(spki_der).map_err(|_| LogKeyError::Kind)?;
        let curve = key.ec_key().ok().and_then(|key| key.group().curve_name());
        if curve != Some(Nid::X9_62_PRIME256V1) {
            return Err(LogKeyError::Kind);
        }
        // One key, one identity: an encoding that BoringSSL reads but would not write is another hash.
        if key.public_key_to_der().ok().as_deref() != Some(spki_der) {
            return Err(LogKeyError::Kind);
        }
        let log_id = sha256(spki_der);
        let key_id = note::key_id(origin, SIGNATURE_TYPE_TREE_HEAD, &log_id);
        Ok(Self { origin: origin.into(), log_id, key_id, spki_der: spki_der.into(), key })
    }

    /// First line of the log's checkpoints, and the name of its key there
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// SHA-256 of the public key, as SCTs carry it (RFC 6962 section 3.2)
    pub fn log_id(&self) -> &Hash {
        &self.log_id
    }

    /// Identifier of the key in signed notes
    pub fn key_id(&self) -> u32 {
        self.key_id
    }

    /// The public key as SubjectPublicKeyInfo DER
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// Whether `signed`, a digitally-signed element (RFC 5246 section 4.7), is this log's over `message`
    pub(crate) fn verifies(&self, message: &[u8], signed: &[u8]) -> bool {
        signature_of(signed).is_ok_and(|signature| self.verifies_raw(message, signature))
    }

    fn verifies_raw(&self, message: &[u8], signature: &[u8]) -> bool {
        settle(
            Verifier::new(MessageDigest::sha256(), &self.key)
                .and_then(|mut verifier| verifier.verify_oneshot(signature, message)),
        )
    }
}

/// A log that can sign: any P-256 key of this crate's signers
#[derive(Debug)]
pub struct LogSigner<S> {
    key: S,
    verifier: LogVerifier,
}

impl<S: SigningKey> LogSigner<S> {
    /// A log by its origin and its key
    pub fn new(origin: &str, key: S) -> Result<Self, LogKeyError> {
        let verifier = LogVerifier::new(origin, &key.subject_public_key_info())?;
        Ok(Self { key, verifier })
    }

    /// The public half
    pub fn verifier(&self) -> &LogVerifier {
        &self.verifier
    }

    /// Signs; the result is a digitally-signed element (RFC 5246 section 4.7) that has been verified
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.key.sign(message)?;
        if !self.verifier.verifies_raw(message, &signature) {
            return Err(SignError::Unverified);
        }
        Ok(digitally_signed(&signature)?)
    }
}

/// A signature (DER) as a digitally-signed element (RFC 5246 section 4.7)
pub(crate) fn digitally_signed(signature: &[u8]) -> Result<Vec<u8>, Malformed> {
    let writer = Writer::default().put(&ECDSA_SHA256).vector(signature, 2, "signature")?;
    Ok(writer.finish())
}

fn signature_of(signed: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(signed, "signature");
    if reader.array::<2>()? != ECDSA_SHA256 {
        return reader.malformed();
    }
    let signature = reader.vector(2)?;
    reader.finish()?;
    Ok(signature)
}

/// Reads a public key; what BoringSSL notes about one that is none stays out of the thread's error queue
pub(crate) fn public_key(spki_der: &[u8]) -> Result<PKey<Public>, ErrorStack> {
    let key = PKey::public_key_from_der(spki_der);
    if key.is_err() {
        let _answered: ErrorStack = ErrorStack::get();
    }
    key
}

#[cfg(test)]
mod tests {
    use rcgen::{PublicKeyData, SignatureAlgorithm};

    use super::*;
    use crate::keys::{KeyKind, KeyPair};

    #[test]
    fn only_p256_keys_and_proper_names_make_a_log() {
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let log = LogVerifier::new("log.example/2026", &key.spki_der().unwrap()).unwrap();
        assert_eq!(log.log_id(), &sha256(&key.spki_der().unwrap()));
        for name in ["", "a b", "a+b", "https://a", "a/", "a\u{a0}b", &"a".repeat(256)] {
            let refused = LogVerifier::new(name, &key.spki_der().unwrap());
            assert!(matches!(refused, Err(LogKeyError::Origin(_))), "{name}");
        }
        let other = KeyPair::generate(KeyKind::P384).unwrap();
        let refused = LogVerifier::new("log.example", &other.spki_der().unwrap());
        assert!(matches!(refused, Err(LogKeyError::Kind)));
        assert!(matches!(LogVerifier::new("log.example", b"key"), Err(LogKeyError::Kind)));
    }

    #[test]
    fn a_signature_verifies_and_no_changed_one_does() {
        let signer =
            LogSigner::new("log.example", KeyPair::generate(KeyKind::P256).unwrap()).unwrap();
        let signed = signer.sign(b"message").unwrap();
        assert!(signer.verifier().verifies(b"message", &signed));
        assert!(!signer.verifier().verifies(b"massage", &signed));
        for at in 0..signed.len() {
            for bit in 0..8 {
                let mut wrong = signed.clone();
                wrong[at] ^= 1 << bit;
                assert!(!signer.verifier().verifies(b"message", &wrong), "byte {at} bit {bit}");
            }
        }
        let longer = [&signed[..], &[0]].concat();
        assert!(!signer.verifier().verifies(b"message", &longer));
    }

    #[test]
    fn a_signature_of_another_key_is_not_released() {
        struct Broken(KeyPair, KeyPair);
        impl PublicKeyData for Broken {
            fn der_bytes(&self) -> &[u8] {
                self.0.der_bytes()
            }
            fn algorithm(&self) -> &'static SignatureAlgorithm {
                self.0.algorithm()
            }
        }
        impl SigningKey for Broken {
            fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
                self.1.sign(message)
            }
        }
        let keys = [KeyKind::P256; 2].map(|kind| KeyPair::generate(kind).unwrap());
        let [stated, used] = keys;
        let signer = LogSigner::new("log.example", Broken(stated, used)).unwrap();
        assert!(matches!(signer.sign(b"message"), Err(SignError::Unverified)));
    }
}
