//! What is signed and what becomes of it: taking the to-be-signed octets out of rcgen, and putting them and a
//! signature together. So a certificate is built here and signed elsewhere, without a thread that waits.

use std::sync::{Mutex, PoisonError};

use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};

use super::KeyInfo;

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
/// AlgorithmIdentifier ecdsa-with-SHA256, no parameters (RFC 5758 section 3.2)
const ECDSA_SHA256: [u8; 12] =
    [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// A key in rcgen's eyes that signs nothing: it keeps what it was asked to sign.
///
/// The object rcgen returns carries an empty signature and is thrown away; with the octets from
/// [`take`](Self::take) and a signature, [`signed_object`] makes the real one.
#[derive(Debug)]
pub struct TbsCapture {
    public: KeyInfo,
    captured: Mutex<Option<Vec<u8>>>,
}

impl TbsCapture {
    /// In the place of that key
    pub fn new(public: KeyInfo) -> Self {
        Self { public, captured: Mutex::new(None) }
    }

    /// The octets that were to be signed since the last call
    pub fn take(&self) -> Option<Vec<u8>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl PublicKeyData for TbsCapture {
    fn der_bytes(&self) -> &[u8] {
        self.public.public_point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl SigningKey for TbsCapture {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        *self.captured.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.into());
        Ok(Vec::new())
    }
}

/// A certificate, CRL or request: `SEQUENCE { tbs, ecdsa-with-SHA256, BIT STRING signature }`
pub fn signed_object(tbs_der: &[u8], signature: &[u8]) -> Vec<u8> {
    let mut bits = header(BIT_STRING, signature.len() + 1);
    bits.push(0);
    bits.extend(signature);
    let mut object = header(SEQUENCE, tbs_der.len() + ECDSA_SHA256.len() + bits.len());
    object.extend(tbs_der);
    object.extend(ECDSA_SHA256);
    object.extend(bits);
    object
}

/// Whether these octets are one SEQUENCE with nothing after it, its length in the one DER encoding
pub(super) fn is_sequence(octets: &[u8]) -> bool {
    content(octets).is_some()
}

/// What is in the one SEQUENCE that these octets are
pub(super) fn content(octets: &[u8]) -> Option<&[u8]> {
    let (length, prefix) = match octets {
        [SEQUENCE, short @ 0..=0x7f, ..] => (usize::from(*short), 2),
        [SEQUENCE, long @ 0x81..=0x84, rest @ ..] => {
            let count = usize::from(long & 0x7f);
            let length = rest.get(..count)?;
            (length.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet)), 2 + count)
        }
        _ => return None,
    };
    let content = octets.get(prefix..)?;
    let minimal = header(SEQUENCE, length).len() == prefix;
    (content.len() == length && minimal).then_some(content)
}

fn header(tag: u8, length: usize) -> Vec<u8> {
    let octets = length.to_be_bytes();
    let leading = octets.iter().take_while(|octet| **octet == 0).count();
    let significant = &octets[leading..];
    match length {
        0..=0x7f => vec![tag, length as u8],
        _ => [&[tag, 0x80 | significant.len() as u8], significant].concat(),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, Issuer};

    use super::*;
    use crate::certificate;
    use crate::keys::{KeyKind, KeyPair};
    use crate::signer::KeyName;

    #[test]
    fn a_captured_certificate_signed_apart_is_the_one_rcgen_would_make() {
        let (issuing, subject) =
            (KeyPair::generate(KeyKind::P256).unwrap(), KeyPair::generate(KeyKind::P256).unwrap());
        let public = KeyInfo::from_point(KeyName::issuing(), issuing.public_point()).unwrap();
        let capture = TbsCapture::new(public.clone());
        let mut params = CertificateParams::default();
        params.serial_number = Some(vec![7].into());
        let issuer = Issuer::new(CertificateParams::default(), capture);
        params.signed_by(&subject, &issuer).unwrap();
        let tbs = issuer.key().take().unwrap();
        assert_eq!(issuer.key().take(), None);
        assert!(is_sequence(&tbs));
        let signature = issuing.sign(&tbs).unwrap();
        assert!(public.verifies(&tbs, &signature));
        let object = signed_object(&tbs, &signature);
        assert!(is_sequence(&object));
        let parsed = certificate::parse(&object).unwrap();
        assert_eq!(parsed.tbs_certificate.as_ref(), tbs);
        assert_eq!(parsed.signature_value.data.as_ref(), signature);
        let anchor = params.self_signed(&issuing).unwrap();
        let anchor = boring::x509::X509::from_der(anchor.der()).unwrap().public_key().unwrap();
        assert!(boring::x509::X509::from_der(&object).unwrap().verify(&anchor).unwrap());
    }

    #[test]
    fn only_one_whole_sequence_is_one() {
        for good in [&[0x30, 0][..], &[0x30, 1, 5], &header(0x30, 300)] {
            let content = if good.len() > 3 { vec![7; 300] } else { Vec::new() };
            assert!(is_sequence(&[good, &content].concat()), "{good:?}");
        }
        let wrong: [&[u8]; 9] = [
            &[],
            &[0x30],
            &[0x31, 0],
            &[0x30, 1],
            &[0x30, 0, 0],
            &[0x30, 0x81, 1, 5],
            &[0x30, 0x82, 0, 1, 5],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        ];
        for octets in wrong {
            assert!(!is_sequence(octets), "{octets:?}");
        }
    }
}
