//! Certificate signing requests (RFC 2986): made with a key of this host, or taken from elsewhere as nothing
//! but a public key whose owner has proved possession. Names and extensions of a request are never used.

use boring::error::ErrorStack;
use boring::x509::X509Req;
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SignatureAlgorithm, SigningKey};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ECDSA_WITH_SHA256,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::chain::settle;

/// Size of the largest request that is parsed
pub const CSR_LIMIT_BYTES: usize = 4 << 10;

/// Why a request was refused
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// More bytes than a request can need
    #[error("the request has {0} bytes; at most {CSR_LIMIT_BYTES} are read")]
    TooLarge(usize),
    /// Not a request
    #[error("not a PKCS #10 certificate signing request in DER")]
    Malformed,
    /// A key of another kind than P-256
    #[error("the request has {0}; only P-256 keys are certified")]
    KeyKind(&'static str),
    /// Not signed with ecdsa-with-SHA256
    #[error("the request is not signed with ecdsa-with-SHA256")]
    SignatureKind,
    /// Whoever made the request does not have the key
    #[error("the request's signature does not verify: its maker has not shown to hold the key")]
    NoPossession,
    /// The request could not be made
    #[error("the request could not be made: {0}")]
    Encoding(#[from] rcgen::Error),
}

/// A P-256 public key whose owner has proved possession of the private half
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProvenKey {
    point: Vec<u8>,
    spki_der: Vec<u8>,
}

impl ProvenKey {
    /// Takes the key out of a request, after checking its kind and the request's signature
    pub fn from_csr(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > CSR_LIMIT_BYTES {
            return Err(CsrError::TooLarge(der.len()));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        let spki = &request.certification_request_info.subject_pki;
        require_p256(spki)?;
        if request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
            return Err(CsrError::SignatureKind);
        }
        if !settle(verifies(der, spki.raw)) {
            return Err(CsrError::NoPossession);
        }
        let point = spki.subject_public_key.data.to_vec();
        // Compressed points are legal X.509 and would make two encodings of one key.
        if point.len() != 65 || point[0] != 4 {
            return Err(CsrError::KeyKind("a compressed public key"));
        }
        Ok(Self { point, spki_der: spki.raw.to_vec() })
    }

    /// SubjectPublicKeyInfo DER
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }
}

impl PublicKeyData for ProvenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// A request that carries the public key and nothing else
pub fn request(key: &impl SigningKey) -> Result<Vec<u8>, CsrError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

fn require_p256(spki: &SubjectPublicKeyInfo<'_>) -> Result<(), CsrError> {
    let algorithm = &spki.algorithm;
    if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
        return Err(CsrError::KeyKind("an RSA key"));
    }
    if algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return Err(CsrError::KeyKind("a key of an unknown kind"));
    }
    let curve = algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    match curve {
        Some(curve) if curve == OID_EC_P256 => Ok(()),
        Some(curve) if curve == OID_NIST_EC_P384 => Err(CsrError::KeyKind("a P-384 key")),
        _ => Err(CsrError::KeyKind("a key on an unknown curve")),
    }
}

/// Two parsers have to agree on the key before its signature counts
fn verifies(der: &[u8], spki_der: &[u8]) -> Result<bool, ErrorStack> {
    let request = X509Req::from_der(der)?;
    let key = request.public_key()?;
    Ok(key.public_key_to_der()? == spki_der && request.verify(&key)?)
}

#[cfg(test)]
mod tests {
    use boring::hash::MessageDigest;
    use boring::pkey::PKey;
    use boring::rsa::Rsa;

    use super::*;
    use crate::keys::{KeyKind, KeyPair};

    #[test]
    fn a_request_yields_its_key() {
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let proven = ProvenKey::from_csr(&request(&key).unwrap()).unwrap();
        assert_eq!(proven.spki_der(), key.spki_der().unwrap());
        assert_eq!(proven.der_bytes(), key.public_point());
    }

    #[test]
    fn no_tampered_request_is_accepted() {
        let csr = request(&KeyPair::generate(KeyKind::P256).unwrap()).unwrap();
        for at in 0..csr.len() {
            let mut tampered = csr.clone();
            tampered[at] ^= 1;
            assert!(ProvenKey::from_csr(&tampered).is_err(), "byte {at}");
        }
        for length in 0..csr.len() {
            assert!(ProvenKey::from_csr(&csr[..length]).is_err(), "{length} bytes");
        }
        let mut longer = csr.clone();
        longer.push(0);
        assert!(matches!(ProvenKey::from_csr(&longer), Err(CsrError::Malformed)));
    }

    #[test]
    fn a_signature_of_another_key_is_no_possession() {
        let (mine, theirs) =
            (KeyPair::generate(KeyKind::P256).unwrap(), KeyPair::generate(KeyKind::P256).unwrap());
        // A signer that presents one public key and signs with another
        struct Thief<'a>(&'a KeyPair, &'a KeyPair);
        impl PublicKeyData for Thief<'_> {
            fn der_bytes(&self) -> &[u8] {
                self.0.der_bytes()
            }
            fn algorithm(&self) -> &'static SignatureAlgorithm {
                self.0.algorithm()
            }
        }
        impl SigningKey for Thief<'_> {
            fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
                self.1.sign(message)
            }
        }
        let csr = request(&Thief(&theirs, &mine)).unwrap();
        assert!(matches!(ProvenKey::from_csr(&csr), Err(CsrError::NoPossession)));
    }

    #[test]
    fn other_kinds_of_key_are_refused_by_name() {
        let p384 = request(&KeyPair::generate(KeyKind::P384).unwrap()).unwrap();
        let refused = ProvenKey::from_csr(&p384).unwrap_err();
        assert!(refused.to_string().contains("P-384"), "{refused}");

        let rsa = PKey::from_rsa(Rsa::generate(2_048).unwrap()).unwrap();
        let mut builder = X509Req::builder().unwrap();
        builder.set_pubkey(&rsa).unwrap();
        builder.sign(&rsa, MessageDigest::sha256()).unwrap();
        let refused = ProvenKey::from_csr(&builder.build().to_der().unwrap()).unwrap_err();
        assert!(refused.to_string().contains("RSA"), "{refused}");
        assert!(matches!(ProvenKey::from_csr(&[0; 5_000]), Err(CsrError::TooLarge(5_000))));
    }
}
