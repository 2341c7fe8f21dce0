//! Signed certificate timestamps (RFC 6962 section 3.2): made for a durable entry, listed in the extension of
//! a certificate, and found and verified there by whoever is shown the certificate. Whether a certificate is
//! otherwise good is judged in `chain` and in the handshake.

use boring::sha::sha256;
use rcgen::SigningKey;

use super::der::{self, SCT_LIST_OID};
use super::entry::{self, SignedEntry, TimestampedEntry};
use super::key::{self, LogSigner, LogVerifier, SignError};
use super::merkle::Hash;
use super::release::DurableEntry;
use super::wire::{Malformed, Reader, Writer};
use crate::certificate::{self, CertificateError};

/// SCTs of one certificate that are read
pub const SCTS_LIMIT: usize = 8;

const VERSION_1: u8 = 0;

/// A log's promise that an entry is in it
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sct {
    /// The log
    pub log_id: Hash,
    /// When the entry was made, in milliseconds since 1970
    pub timestamp_ms: u64,
    /// Extensions; logs of C2SP static-ct-api put the entry's index there
    pub extensions: Vec<u8>,
    signature: Vec<u8>,
}

/// Why a certificate does not count as logged
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SctError {
    /// The certificate has no SCTs
    #[error("the certificate carries no SCT: it was never logged")]
    Missing,
    /// All SCTs are of logs that are not trusted here
    #[error("the certificate carries no SCT of a trusted log")]
    UnknownLog,
    /// The SCT is not for this certificate
    #[error("the log's signature in the certificate's SCT does not verify for this certificate")]
    Signature,
    /// The SCT is from the future
    #[error("the SCT is dated {timestamp_ms} ms, after {now_ms} ms; check both clocks")]
    Future {
        /// When the log says it was made
        timestamp_ms: u64,
        /// The time here
        now_ms: u64,
    },
    /// Certificate or SCTs do not parse
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// What a verified SCT in a certificate says
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EmbeddedSct {
    /// The log
    pub log_id: Hash,
    /// When the entry was made, in milliseconds since 1970
    pub timestamp_ms: u64,
    /// Index of the entry in the log
    pub leaf_index: u64,
    /// Its leaf hash, to be looked for in the log
    pub leaf_hash: Hash,
}

impl DurableEntry {
    /// The SCT of this entry
    pub fn sign_sct<S: SigningKey>(&self, signer: &LogSigner<S>) -> Result<Sct, SignError> {
        let entry = self.entry();
        Ok(Sct {
            log_id: *signer.verifier().log_id(),
            timestamp_ms: entry.timestamp_ms,
            extensions: entry::leaf_index_extension(entry.leaf_index)?,
            signature: signer.sign(&entry.leaf()?)?,
        })
    }
}

impl DurableEntry {
    /// What the SCT of this entry signs, for a signer that is awaited
    pub fn sct_message(&self) -> Result<Vec<u8>, Malformed> {
        self.entry().leaf()
    }

    /// The SCT of this entry, with the signature (DER) of the log's key over [`Self::sct_message`]. Signers
    /// of this crate release verified signatures only, so it is not verified again.
    pub fn sct_with(&self, log: &LogVerifier, signature: &[u8]) -> Result<Sct, Malformed> {
        let entry = self.entry();
        Ok(Sct {
            log_id: *log.log_id(),
            timestamp_ms: entry.timestamp_ms,
            extensions: entry::leaf_index_extension(entry.leaf_index)?,
            signature: key::digitally_signed(signature)?,
        })
    }
}

impl Sct {
    /// As it stands in a list (RFC 6962 section 3.2)
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let writer = Writer::default().put(&[VERSION_1]).put(&self.log_id);
        let writer = writer.integer(self.timestamp_ms, 8).vector(&self.extensions, 2, "SCT")?;
        Ok(writer.put(&self.signature).finish())
    }

    /// Reads one; `None` for a version that is not known, which says nothing about the others in its list
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut reader = Reader::new(bytes, "SCT");
        if reader.octet()? != VERSION_1 {
            return Ok(None);
        }
        let (log_id, timestamp_ms) = (reader.array()?, reader.integer(8)?);
        let extensions = reader.vector(2)?.to_vec();
        let signature = reader.rest().to_vec();
        // Two octets of algorithms and a vector, whatever the algorithms are
        reader.take(2)?;
        reader.vector(2)?;
        reader.finish()?;
        Ok(Some(Self { log_id, timestamp_ms, extensions, signature }))
    }

    /// Whether this log made it for this entry
    fn verifies(&self, entry: &TimestampedEntry, log: &LogVerifier) -> Result<bool, Malformed> {
        Ok(log.verifies(&entry.leaf()?, &self.signature))
    }
}

/// The content of the SCT extension of a certificate: an OCTET STRING around the list
/// (RFC 6962 section 3.3). It goes into an extension `SCT_LIST_OID_ARCS`, not critical.
pub fn sct_list_content(scts: &[Sct]) -> Result<Vec<u8>, Malformed> {
    if scts.is_empty() || scts.len() > SCTS_LIMIT {
        return Err(Malformed("SCT list"));
    }
    let mut list = Writer::default();
    for sct in scts {
        list = list.vector(&sct.encode()?, 2, "SCT")?;
    }
    let list = Writer::default().vector(&list.finish(), 2, "SCT list")?;
    Ok(der::octet_string(&list.finish()))
}

/// Reads the content of an SCT extension; SCTs of unknown versions are left out
pub fn parse_sct_list(content: &[u8]) -> Result<Vec<Sct>, Malformed> {
    let mut outer = Reader::new(der::octet_string_content(content)?, "SCT list");
    let list = outer.vector(2)?;
    outer.finish()?;
    let (mut reader, mut scts, mut read) = (Reader::new(list, "SCT list"), Vec::new(), 0);
    while !reader.is_empty() {
        read += 1;
        if read > SCTS_LIMIT {
            return reader.malformed();
        }
        scts.extend(Sct::decode(reader.vector(2)?)?);
    }
    if read == 0 { reader.malformed() } else { Ok(scts) }
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo: what entries say of their issuer
pub fn key_hash(certificate_der: &[u8]) -> Result<Hash, CertificateError> {
    Ok(sha256(certificate::parse(certificate_der)?.public_key().raw))
}

/// Judges whether a certificate is logged: one of its SCTs must be of a log given here, verify over the
/// certificate as it was before the SCTs came in, and not be from later than `latest_ms` (the time here and
/// the tolerance for clocks). `issuer_key_hash` is `key_hash` of the issuing authority, known per epoch.
pub fn verify_embedded(
    certificate_der: &[u8],
    issuer_key_hash: &Hash,
    logs: &[LogVerifier],
    latest_ms: u64,
) -> Result<EmbeddedSct, SctError> {
    let tbs = der::tbs_of(certificate_der)?;
    let (tbs_der, extension) =
        der::without_extension(tbs, &SCT_LIST_OID)?.ok_or(SctError::Missing)?;
    let scts = parse_sct_list(extension.content)?;
    let mut entry = TimestampedEntry {
        timestamp_ms: 0,
        signed: SignedEntry::Precertificate { issuer_key_hash: *issuer_key_hash, tbs_der },
        leaf_index: 0,
    };
    let mut reason = SctError::UnknownLog;
    for sct in &scts {
        let Some(log) = logs.iter().find(|log| *log.log_id() == sct.log_id) else { continue };
        (entry.timestamp_ms, entry.leaf_index) =
            (sct.timestamp_ms, entry::leaf_index(&sct.extensions)?);
        // The entry is rebuilt with the index alone, as this log writes it; anything more fails to verify.
        if !sct.verifies(&entry, log)? {
            reason = SctError::Signature;
        } else if sct.timestamp_ms > latest_ms {
            reason = SctError::Future { timestamp_ms: sct.timestamp_ms, now_ms: latest_ms };
        } else {
            return Ok(EmbeddedSct {
                log_id: sct.log_id,
                timestamp_ms: sct.timestamp_ms,
                leaf_index: entry.leaf_index,
                leaf_hash: entry.leaf_hash()?,
            });
        }
    }
    Err(reason)
}

#[cfg(test)]
mod tests {
    use x509_parser::extensions::ParsedExtension;

    use super::super::testing::{self, Authority};
    use super::*;

    #[test]
    fn a_logged_certificate_verifies_and_says_where_it_is() {
        let (authority, signer) = (Authority::new(), testing::signer());
        let draft = authority.draft(1);
        let (certificate, entry) = testing::logged(&authority, &signer, &draft, 41, 1_000);
        let logs = [testing::signer().verifier().clone(), signer.verifier().clone()];
        let verify = |logs: &[LogVerifier], latest| {
            verify_embedded(&certificate, &authority.key_hash(), logs, latest)
        };
        let found = verify(&logs, 1_000).unwrap();
        assert_eq!((found.leaf_index, found.timestamp_ms), (41, 1_000));
        assert_eq!(found.leaf_hash, entry.leaf_hash().unwrap());
        assert_eq!(verify(&logs, 999), Err(SctError::Future { timestamp_ms: 1_000, now_ms: 999 }));
        assert_eq!(verify(&logs[..1], 1_000), Err(SctError::UnknownLog));
        let other = verify_embedded(&certificate, &[0; 32], &logs, 1_000);
        assert_eq!(other, Err(SctError::Signature));
        // A parser that is not ours reads the same extension.
        let parsed = certificate::parse(&certificate).unwrap();
        let lists: Vec<_> = parsed
            .extensions()
            .iter()
            .filter_map(|one| match one.parsed_extension() {
                ParsedExtension::SCT(scts) => Some((one.critical, scts)),
                _ => None,
            })
            .collect();
        let [(false, scts)] = &lists[..] else { panic!("one list, not critical") };
        assert_eq!(scts.len(), 1);
        assert_eq!(scts[0].id.key_id, signer.verifier().log_id());
        assert_eq!(scts[0].timestamp, 1_000);
    }

    #[test]
    fn an_unlogged_certificate_and_a_changed_one_are_refused() {
        let (authority, signer) = (Authority::new(), testing::signer());
        let draft = authority.draft(1);
        let (certificate, _) = testing::logged(&authority, &signer, &draft, 41, 1_000);
        let logs = [signer.verifier().clone()];
        let plain = authority.certificate(&draft, None);
        let judged = verify_embedded(&plain, &authority.key_hash(), &logs, 1_000);
        assert_eq!(judged, Err(SctError::Missing));
        // Every bit of the TBSCertificate is covered, by the SCT or as part of it.
        let tbs = der::tbs_of(&certificate).unwrap();
        let start = certificate.len() - der_tail(&certificate, tbs);
        for at in start..start + tbs.len() {
            for bit in 0..8 {
                let mut wrong = certificate.clone();
                wrong[at] ^= 1 << bit;
                let judged = verify_embedded(&wrong, &authority.key_hash(), &logs, 1_000);
                assert!(judged.is_err(), "byte {at} bit {bit}");
            }
        }
    }

    /// Octets from the beginning of the TBSCertificate to the end of the certificate
    fn der_tail(certificate: &[u8], tbs: &[u8]) -> usize {
        let at = certificate.windows(tbs.len()).position(|window| window == tbs).unwrap();
        certificate.len() - at
    }

    #[test]
    fn lists_read_back_and_nothing_else_is_one() {
        let sct = Sct {
            log_id: [1; 32],
            timestamp_ms: 2,
            extensions: entry::leaf_index_extension(3).unwrap(),
            signature: vec![4, 3, 0, 1, 9],
        };
        let content = sct_list_content(&[sct.clone(), sct.clone()]).unwrap();
        assert_eq!(parse_sct_list(&content).unwrap(), [sct.clone(), sct.clone()]);
        for length in 0..content.len() {
            assert!(parse_sct_list(&content[..length]).is_err());
        }
        assert!(sct_list_content(&[]).is_err());
        assert!(sct_list_content(&vec![sct.clone(); SCTS_LIMIT + 1]).is_err());
        assert!(parse_sct_list(&der::octet_string(&[0, 0])).is_err());
        // A later version in the list hides nothing of the others.
        let (one, other) = (sct.encode().unwrap(), [1, 2, 3]);
        let list = Writer::default().vector(&other, 2, "").unwrap().vector(&one, 2, "").unwrap();
        let list = Writer::default().vector(&list.finish(), 2, "").unwrap().finish();
        assert_eq!(parse_sct_list(&der::octet_string(&list)).unwrap(), [sct]);
    }
}
