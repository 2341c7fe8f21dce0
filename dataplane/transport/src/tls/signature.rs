//! ECDSA over P-256 and P-384 by BoringSSL, in the shape in which rustls-webpki asks for signature checks.
//! Nothing else is accepted anywhere in a chain: no RSA, no Ed25519, no mismatched curve parameters.

use boring::bn::BigNumContext;
use boring::ec::{EcGroup, EcKey, EcPoint};
use boring::ecdsa::EcdsaSig;
use boring::error::ErrorStack;
use boring::nid::Nid;
use boring::sha::{sha256, sha384};
use rustls_pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};

/// Every combination a certificate may be signed with
pub(super) const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    &Ecdsa { curve: Curve::P256, hash: Hash::Sha256 },
    &Ecdsa { curve: Curve::P384, hash: Hash::Sha384 },
    &Ecdsa { curve: Curve::P256, hash: Hash::Sha384 },
    &Ecdsa { curve: Curve::P384, hash: Hash::Sha256 },
];

#[derive(Clone, Copy, Debug)]
enum Curve {
    P256,
    P384,
}

#[derive(Clone, Copy, Debug)]
enum Hash {
    Sha256,
    Sha384,
}

/// ECDSA with one curve and one hash
#[derive(Debug)]
struct Ecdsa {
    curve: Curve,
    hash: Hash,
}

impl Ecdsa {
    fn verify(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
        let group = EcGroup::from_curve_name(match self.curve {
            Curve::P256 => Nid::X9_62_PRIME256V1,
            Curve::P384 => Nid::SECP384R1,
        })?;
        let mut context = BigNumContext::new()?;
        let point = EcPoint::from_bytes(&group, key, &mut context)?;
        let key = EcKey::from_public_key(&group, &point)?;
        let signature = EcdsaSig::from_der(signature)?;
        match self.hash {
            Hash::Sha256 => signature.verify(&sha256(message), &key),
            Hash::Sha384 => signature.verify(&sha384(message), &key),
        }
    }
}

impl SignatureVerificationAlgorithm for Ecdsa {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        match self.verify(public_key, message, signature) {
            Ok(true) => Ok(()),
            Ok(false) => {
                // A mismatch is an answer, not an error: BoringSSL's note of it must not outlive this call.
                super::drain_error_queue();
                Err(InvalidSignature)
            }
            Err(_malformed) => Err(InvalidSignature),
        }
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        match self.curve {
            Curve::P256 => alg_id::ECDSA_P256,
            Curve::P384 => alg_id::ECDSA_P384,
        }
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        match self.hash {
            Hash::Sha256 => alg_id::ECDSA_SHA256,
            Hash::Sha384 => alg_id::ECDSA_SHA384,
        }
    }
}
