//! Judging certificates against a root: the root by itself, an issuing authority against its root, and a
//! leaf through its authority. Paths by rustls-webpki with BoringSSL's signatures; the handshake of the data
//! plane has its own verdict, because it trusts issuing authorities and knows peers.

use std::time::{SystemTime, UNIX_EPOCH};

use boring::bn::BigNumContext;
use boring::ec::{EcGroup, EcKey, EcPoint};
use boring::error::ErrorStack;
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::PKey;
use boring::sign::Verifier;
use boring::x509::X509;
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
    UnixTime, alg_id,
};
use webpki::EndEntityCert;

use crate::certificate::{self, CertificateError};
use crate::keys::KeyKind;
use crate::log::key::public_key;

/// What a leaf is used for
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Usage {
    /// TLS server
    Server,
    /// TLS client
    Client,
}

/// Why a certificate was refused
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The root is not one
    #[error("the root certificate is refused: {0}")]
    Root(String),
    /// The issuing authority is none of this root
    #[error("the issuing authority's certificate is refused: {0}")]
    Issuing(String),
    /// The leaf does not verify
    #[error("the certificate is refused: {0}")]
    Leaf(webpki::Error),
    /// A certificate does not parse
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// BoringSSL failed
    #[error("BoringSSL failed: {0}")]
    Boring(#[from] ErrorStack),
}

/// A root must be an authority, signed by itself, and in force
pub fn check_root(root_der: &[u8], now: SystemTime) -> Result<(), ChainError> {
    let parsed = certificate::parse(root_der)?;
    let refuse = |reason: &str| Err(ChainError::Root(reason.into()));
    match parsed.basic_constraints().ok().flatten() {
        Some(constraints) if constraints.value.ca => {}
        _ => return refuse("it is no certificate authority"),
    }
    if !may_sign_certificates(&parsed) {
        return refuse("its key usage does not allow it to sign certificates");
    }
    if parsed.subject().as_raw() != parsed.issuer().as_raw() || !signed_by(root_der, root_der)? {
        return refuse("it is not signed by itself");
    }
    in_force(&parsed, now).map_err(ChainError::Root)
}

/// An issuing authority must be signed by the root, issue leaves only, be name-constrained and in force
pub fn check_issuing(
    issuing_der: &[u8],
    root_der: &[u8],
    now: SystemTime,
) -> Result<(), ChainError> {
    let (parsed, root) = (certificate::parse(issuing_der)?, certificate::parse(root_der)?);
    let refuse = |reason: &str| Err(ChainError::Issuing(reason.into()));
    if parsed.issuer().as_raw() != root.subject().as_raw() {
        return refuse("another root issued it");
    }
    if !signed_by(issuing_der, root_der)? {
        return refuse("the root's signature on it does not verify");
    }
    match parsed.basic_constraints().ok().flatten() {
        Some(constraints)
            if constraints.value.ca && constraints.value.path_len_constraint == Some(0) => {}
        _ => return refuse("it is no certificate authority for leaves only (path length 0)"),
    }
    if !may_sign_certificates(&parsed) {
        return refuse("its key usage does not allow it to sign certificates");
    }
    match parsed.name_constraints().ok().flatten() {
        Some(constraints) if constraints.critical => {}
        _ => return refuse("it has no critical name constraints"),
    }
    in_force(&parsed, now).map_err(ChainError::Issuing)
}

/// A leaf must lead through its issuing authority to the root and be good for `usage`
pub fn check_leaf(
    leaf_der: &[u8],
    issuing_der: &[u8],
    root_der: &[u8],
    usage: Usage,
    now: SystemTime,
) -> Result<(), ChainError> {
    check_root(root_der, now)?;
    check_issuing(issuing_der, root_der, now)?;
    let since_epoch = now
        .duration_since(UNIX_EPOCH)
        .map_err(|_| ChainError::Root("the clock stands before 1970".into()))?;
    // The authority is the anchor, as in the handshake: it was held to the root just above, and where it
    // stood in the middle webpki would demand the leaf's extended key usage of it too.
    let issuing = CertificateDer::from(issuing_der);
    let anchor = webpki::anchor_from_trusted_cert(&issuing).map_err(ChainError::Leaf)?;
    let leaf = CertificateDer::from(leaf_der);
    let leaf = EndEntityCert::try_from(&leaf).map_err(ChainError::Leaf)?;
    leaf.verify_for_usage(
        ALGORITHMS,
        &[anchor],
        &[],
        UnixTime::since_unix_epoch(since_epoch),
        webpki::KeyUsage::required(match usage {
            Usage::Server => &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01],
            Usage::Client => &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02],
        }),
        None,
        None,
    )
    .map(|_path| ())
    .map_err(ChainError::Leaf)
}

fn may_sign_certificates(certificate: &x509_parser::certificate::X509Certificate<'_>) -> bool {
    let usage = certificate.key_usage().ok().flatten();
    usage.is_some_and(|usage| usage.value.key_cert_sign())
}

fn signed_by(certificate_der: &[u8], issuer_der: &[u8]) -> Result<bool, ErrorStack> {
    let key = X509::from_der(issuer_der)?.public_key()?;
    Ok(settle(X509::from_der(certificate_der)?.verify(&key)))
}

/// Whether a message was signed, ECDSA with SHA-256 in DER, with a key
pub(crate) fn is_signed_with(spki_der: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Ok(key) = public_key(spki_der) else { return false };
    settle(
        Verifier::new(MessageDigest::sha256(), &key)
            .and_then(|mut verifier| verifier.verify_oneshot(signature, message)),
    )
}

/// Whether a signature verified. A mismatch is an answer: what BoringSSL noted about it must not stay in the
/// thread's error queue, where the next TLS operation would take it for its own failure.
pub(crate) fn settle(verified: Result<bool, ErrorStack>) -> bool {
    let verified = verified.unwrap_or(false);
    if !verified {
        let _answered: ErrorStack = ErrorStack::get();
    }
    verified
}

fn in_force(
    parsed: &x509_parser::certificate::X509Certificate<'_>,
    now: SystemTime,
) -> Result<(), String> {
    let (not_before, not_after) = certificate::validity(parsed).map_err(|e| e.to_string())?;
    if now < not_before {
        return Err(format!("it is not valid before {}", parsed.validity().not_before));
    }
    if now > not_after {
        return Err(format!("it expired at {}", parsed.validity().not_after));
    }
    Ok(())
}

/// The two kinds of signature in this hierarchy: by roots and by issuing authorities
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] =
    &[&Ecdsa(KeyKind::P256), &Ecdsa(KeyKind::P384)];

/// ECDSA with the hash that goes with the curve
#[derive(Debug)]
struct Ecdsa(KeyKind);

impl Ecdsa {
    fn verify(&self, point: &[u8], message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
        let (curve, digest) = match self.0 {
            KeyKind::P256 => (Nid::X9_62_PRIME256V1, MessageDigest::sha256()),
            KeyKind::P384 => (Nid::SECP384R1, MessageDigest::sha384()),
        };
        let group = EcGroup::from_curve_name(curve)?;
        let mut context = BigNumContext::new()?;
        let point = EcPoint::from_bytes(&group, point, &mut context)?;
        let key = PKey::from_ec_key(EcKey::from_public_key(&group, &point)?)?;
        Verifier::new(digest, &key)?.verify_oneshot(signature, message)
    }
}

impl SignatureVerificationAlgorithm for Ecdsa {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        match settle(self.verify(public_key, message, signature)) {
            true => Ok(()),
            false => Err(InvalidSignature),
        }
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        match self.0 {
            KeyKind::P256 => alg_id::ECDSA_P256,
            KeyKind::P384 => alg_id::ECDSA_P384,
        }
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        match self.0 {
            KeyKind::P256 => alg_id::ECDSA_SHA256,
            KeyKind::P384 => alg_id::ECDSA_SHA384,
        }
    }
}
