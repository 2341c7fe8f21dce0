//! What is handed to the log: a precertificate or certificate with its issuing chain, checked so that whatever
//! the sequencer takes can be logged. Who may hand it in is decided before.

use boring::error::ErrorStack;
use boring::pkey::{PKey, Public};
use boring::sha::sha256;
use boring::x509::X509;

use super::CHAIN_LIMIT;
use super::der::{self, POISON_CONTENT, POISON_OID, SCT_LIST_OID};
use super::entry::{LogEntry, SignedEntry, TimestampedEntry};
use super::merkle::Hash;
use super::wire::Malformed;
use crate::certificate::{self, CertificateError};
use crate::chain::settle;

/// Why something cannot be logged
#[derive(Debug, thiserror::Error)]
pub enum SubmissionError {
    /// The chain has no or too many certificates
    #[error("an issuing chain has 1 to {CHAIN_LIMIT} certificates, not {0}")]
    ChainLength(usize),
    /// A certificate is not signed by the next one
    #[error("certificate {0} of the issuing chain is not signed by the next one")]
    ChainSignature(usize),
    /// Not signed by its issuer
    #[error("the issuer's signature on it does not verify")]
    Signature,
    /// A precertificate without a proper poison extension, or a certificate with one
    #[error("exactly precertificates carry the poison extension, critical and NULL (RFC 6962)")]
    Poison,
    /// A precertificate with SCTs
    #[error("a precertificate carries no SCTs yet")]
    EarlyScts,
    /// It does not parse or is too large
    #[error("{0}: not a certificate, or larger than the log takes")]
    Malformed(#[from] Malformed),
    /// A certificate of the chain does not parse
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// BoringSSL failed
    #[error("BoringSSL failed: {0}")]
    Boring(#[from] ErrorStack),
}

/// Who has checked the issuer's signature
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IssuerSignature {
    /// Check it now: it comes from outside
    Check,
    /// The caller has just made and verified it
    Checked,
}

/// The certificates that lead from an issuing authority to its root; made once per authority
#[derive(Clone, Debug)]
pub struct IssuerChain {
    certificates: Vec<Vec<u8>>,
    fingerprints: Vec<Hash>,
    key_hash: Hash,
    key: PKey<Public>,
}

impl IssuerChain {
    /// A chain, the issuing authority first; each certificate must be signed by the next
    pub fn new(certificates: &[&[u8]]) -> Result<Self, SubmissionError> {
        let Some(issuer) = certificates.first().filter(|_| certificates.len() <= CHAIN_LIMIT)
        else {
            return Err(SubmissionError::ChainLength(certificates.len()));
        };
        for (at, pair) in certificates.windows(2).enumerate() {
            let key = X509::from_der(pair[1])?.public_key()?;
            if !settle(X509::from_der(pair[0])?.verify(&key)) {
                return Err(SubmissionError::ChainSignature(at));
            }
        }
        for one in certificates {
            certificate::parse(one)?;
        }
        Ok(Self {
            certificates: certificates.iter().map(|der| der.to_vec()).collect(),
            fingerprints: certificates.iter().map(|der| sha256(der)).collect(),
            key_hash: sha256(certificate::parse(issuer)?.public_key().raw),
            key: X509::from_der(issuer)?.public_key()?,
        })
    }

    /// The certificates, the issuing authority first
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    /// SHA-256 of each certificate
    pub fn fingerprints(&self) -> &[Hash] {
        &self.fingerprints
    }

    /// SHA-256 of the issuing authority's SubjectPublicKeyInfo
    pub fn key_hash(&self) -> &Hash {
        &self.key_hash
    }

    /// Whether the issuing authority signed this certificate
    pub(crate) fn signed(&self, certificate_der: &[u8]) -> bool {
        settle(X509::from_der(certificate_der).and_then(|one| one.verify(&self.key)))
    }
}

/// Something the log can take
#[derive(Clone, Debug)]
pub struct Submission {
    signed: SignedEntry,
    precertificate_der: Option<Vec<u8>>,
    chain: Vec<Hash>,
    identity: Hash,
    encoded_bytes: usize,
}

impl Submission {
    /// A precertificate (RFC 6962 section 3.1) issued directly by the first certificate of the chain
    pub fn precertificate(
        der: &[u8],
        chain: &IssuerChain,
        signature: IssuerSignature,
    ) -> Result<Self, SubmissionError> {
        check_signature(der, chain, signature)?;
        let tbs_der = logged_tbs(der)?;
        let signed = SignedEntry::Precertificate { issuer_key_hash: chain.key_hash, tbs_der };
        Self::new(signed, Some(der.to_vec()), chain, sha256(der))
    }

    /// A whole certificate, whose SCT will travel beside it
    pub fn certificate(
        der: &[u8],
        chain: &IssuerChain,
        signature: IssuerSignature,
    ) -> Result<Self, SubmissionError> {
        check_signature(der, chain, signature)?;
        if der::without_extension(der::tbs_of(der)?, &POISON_OID)?.is_some() {
            return Err(SubmissionError::Poison);
        }
        Self::new(SignedEntry::Certificate { der: der.to_vec() }, None, chain, sha256(der))
    }

    fn new(
        signed: SignedEntry,
        precertificate_der: Option<Vec<u8>>,
        chain: &IssuerChain,
        identity: Hash,
    ) -> Result<Self, SubmissionError> {
        let mut submission = Self {
            signed,
            precertificate_der,
            chain: chain.fingerprints.clone(),
            identity,
            encoded_bytes: 0,
        };
        // Whatever cannot be encoded is refused here and not when it already has an index.
        submission.encoded_bytes = submission.clone().into_entry(0, 0).encode()?.len();
        Ok(submission)
    }

    /// The certificates it needs published beside it
    pub fn chain(&self) -> &[Hash] {
        &self.chain
    }

    /// SHA-256 of what was handed in: the same twice is one entry
    pub(crate) fn identity(&self) -> &Hash {
        &self.identity
    }

    /// Size of its entry
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.encoded_bytes
    }

    /// Makes many different submissions of one certificate, without as many signatures
    #[cfg(test)]
    pub(crate) fn identity_for_test(&mut self, number: u64) {
        self.identity = sha256(&number.to_be_bytes());
    }

    pub(crate) fn into_entry(self, timestamp_ms: u64, leaf_index: u64) -> LogEntry {
        LogEntry {
            timestamped: TimestampedEntry { timestamp_ms, signed: self.signed, leaf_index },
            precertificate_der: self.precertificate_der,
            chain: self.chain,
        }
    }
}

/// What of a precertificate is hashed: its TBSCertificate without the poison (RFC 6962 section 3.2)
pub(crate) fn logged_tbs(precertificate_der: &[u8]) -> Result<Vec<u8>, SubmissionError> {
    let found = der::without_extension(der::tbs_of(precertificate_der)?, &POISON_OID)?;
    let (tbs_der, poison) = found.ok_or(SubmissionError::Poison)?;
    if !poison.critical || poison.content != POISON_CONTENT {
        return Err(SubmissionError::Poison);
    }
    if der::without_extension(&tbs_der, &SCT_LIST_OID)?.is_some() {
        return Err(SubmissionError::EarlyScts);
    }
    Ok(tbs_der)
}

/// The identity of an entry that is in the log already
pub(crate) fn identity_of(entry: &LogEntry) -> Hash {
    match (&entry.precertificate_der, &entry.timestamped.signed) {
        (Some(der), _) | (None, SignedEntry::Certificate { der }) => sha256(der),
        // No decoded or built entry is of this form; as an identity its own TBSCertificate is as good.
        (None, SignedEntry::Precertificate { tbs_der, .. }) => sha256(tbs_der),
    }
}

fn check_signature(
    der: &[u8],
    chain: &IssuerChain,
    signature: IssuerSignature,
) -> Result<(), SubmissionError> {
    match signature {
        IssuerSignature::Check if !chain.signed(der) => Err(SubmissionError::Signature),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Authority;
    use super::*;

    #[test]
    fn only_proper_precertificates_are_taken_as_such() {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let draft = ours.draft(1);
        let der = ours.precertificate(&draft);
        let take = |der: &[u8], chain: &IssuerChain| {
            Submission::precertificate(der, chain, IssuerSignature::Check)
        };
        let taken = take(&der, ours.chain()).unwrap();
        assert_eq!(taken.chain(), ours.chain().fingerprints());
        assert!(matches!(take(&der, theirs.chain()), Err(SubmissionError::Signature)));
        let plain = ours.certificate(&draft, None);
        assert!(matches!(take(&plain, ours.chain()), Err(SubmissionError::Poison)));
        let mut wrong = der.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert!(matches!(take(&wrong, ours.chain()), Err(SubmissionError::Signature)));
        let as_certificate = |der: &[u8]| {
            Submission::certificate(der, ours.chain(), IssuerSignature::Check).map(|_| ())
        };
        assert!(matches!(as_certificate(&der), Err(SubmissionError::Poison)));
        assert!(as_certificate(&plain).is_ok());
        for junk in [&[][..], &[0x30, 0], &der[..der.len() - 1]] {
            let taken = Submission::precertificate(junk, ours.chain(), IssuerSignature::Checked);
            assert!(matches!(taken, Err(SubmissionError::Malformed(_))));
        }
    }

    #[test]
    fn what_is_logged_of_a_precertificate_is_the_certificate_without_scts() {
        let authority = Authority::new();
        let draft = authority.draft(1);
        let tbs = logged_tbs(&authority.precertificate(&draft)).unwrap();
        let plain = authority.certificate(&draft, None);
        assert_eq!(tbs, der::tbs_of(&plain).unwrap());
    }

    #[test]
    fn a_chain_hangs_together() {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let [issuing, root] = ours.chain().certificates() else { panic!("two certificates") };
        let [_, other] = theirs.chain().certificates() else { panic!("two certificates") };
        assert!(IssuerChain::new(&[issuing]).is_ok());
        assert!(matches!(IssuerChain::new(&[]), Err(SubmissionError::ChainLength(0))));
        let long = [&issuing[..]; CHAIN_LIMIT + 1];
        assert!(matches!(IssuerChain::new(&long), Err(SubmissionError::ChainLength(_))));
        let broken = IssuerChain::new(&[issuing, other]);
        assert!(matches!(broken, Err(SubmissionError::ChainSignature(0))));
        assert!(IssuerChain::new(&[issuing, root]).is_ok());
    }
}
