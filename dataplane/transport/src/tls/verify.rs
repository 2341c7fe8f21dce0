//! The verdict on a peer's leaf: path to an issuing authority by rustls-webpki, then what it leaves open
//! (the authority's own dates and constraints, the profile, the log's promise, the deny-list, the pins, the
//! expected node). One instance serves one role under one snapshot, so what it remembers can serve no other
//! role and no other epoch.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boring::sha::sha256;
use boring::ssl::{SslAlert, SslRef, SslVerifyError};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use stoq_interface::{
    ControlSnapshot, Denied, Freshness, IssuerKeyId, NodeId, PeerRefusal, Pins, SpkiSha256,
    Transparency,
};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::leaf::Leaf;
use super::sct::Logs;
use super::signature::ALGORITHMS;
use super::{PeerSlot, Role, TlsError, VerifiedPeer};

/// Verified leaves one verifier remembers; the oldest goes first
pub(super) const REMEMBERED_LEAVES: usize = 4_096;

/// How far ahead of this host's clock an SCT may be dated: a certificate is used the moment it was logged
const SCT_TOLERANCE: Duration = Duration::from_secs(300);

/// id-kp-serverAuth and id-kp-clientAuth, DER content octets (RFC 5280 section 4.2.1.12)
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// A span of validity, both ends included (RFC 5280 section 4.1.2.5)
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Validity {
    not_before: SystemTime,
    not_after: SystemTime,
}

/// An issuing authority
struct Anchor {
    authority: TrustAnchor<'static>,
    facts: AnchorFacts,
}

/// What path validation ignores of an authority
#[derive(Clone, Copy)]
struct AnchorFacts {
    validity: Validity,
    key_id: IssuerKeyId,
    spki_sha256: SpkiSha256,
}

/// A leaf that verified, and what still has to be looked at each time
#[derive(Clone)]
struct Remembered {
    leaf: Leaf,
    anchor: AnchorFacts,
}

/// Leaves by SHA-256 of their DER, in the order in which they came
#[derive(Default)]
struct Memory {
    leaves: HashMap<[u8; 32], Remembered>,
    order: VecDeque<[u8; 32]>,
}

impl Memory {
    fn insert(&mut self, hash: [u8; 32], leaf: Remembered) {
        if self.leaves.insert(hash, leaf).is_none() {
            self.order.push_back(hash);
        }
        if self.order.len() > REMEMBERED_LEAVES
            && let Some(oldest) = self.order.pop_front()
        {
            self.leaves.remove(&oldest);
        }
    }
}

/// Judges the peers of one role under one snapshot
pub(super) struct Verifier {
    required_usage: KeyUsage,
    anchors: Vec<Anchor>,
    /// `None` where nothing has to be logged
    logs: Option<Logs>,
    denied: Arc<Denied>,
    pins: Option<Arc<Pins>>,
    freshness: Option<Freshness>,
    memory: Mutex<Memory>,
}

impl Verifier {
    /// Reads the snapshot's authorities; `role` is this end's role, so the peer must have the other one's usage
    pub(super) fn new(role: Role, snapshot: &ControlSnapshot) -> Result<Self, TlsError> {
        let read = |(index, trusted): (usize, &stoq_interface::TrustAnchor)| {
            let der = CertificateDer::from(trusted.certificate_der.as_slice());
            let authority = webpki::anchor_from_trusted_cert(&der)
                .map_err(|cause| TlsError::Anchor { index, cause })?
                .to_owned();
            let facts = AnchorFacts::read(trusted)
                .ok_or(TlsError::Anchor { index, cause: webpki::Error::BadDer })?;
            Ok(Anchor { authority, facts })
        };
        Ok(Self {
            required_usage: KeyUsage::required(match role {
                Role::Client => SERVER_AUTH,
                Role::Server => CLIENT_AUTH,
            }),
            anchors: snapshot
                .trust
                .iter()
                .enumerate()
                .map(read)
                .collect::<Result<_, TlsError>>()?,
            logs: match &snapshot.transparency {
                Transparency::NotRequired => None,
                Transparency::Required(logs) => Some(Logs::new(logs)?),
            },
            denied: Arc::clone(&snapshot.denied),
            pins: snapshot.pins.clone(),
            freshness: snapshot.deny_list_freshness.clone(),
            memory: Mutex::default(),
        })
    }

    /// The verify callback: the verdict goes into the connection's slot, the alert to the peer
    pub(super) fn judge(&self, ssl: &mut SslRef) -> Result<(), SslVerifyError> {
        let Some(slot) = PeerSlot::of(ssl) else {
            return Err(SslVerifyError::Invalid(SslAlert::INTERNAL_ERROR));
        };
        let verdict = match ssl.peer_certificate() {
            None => Err(PeerRefusal::NoCertificate),
            Some(certificate) => match certificate.to_der() {
                Ok(der) => self.verdict(&der, slot.expected(), slot.now()),
                Err(_) => Err(PeerRefusal::Malformed),
            },
        };
        let outcome = match &verdict {
            Ok(_) => Ok(()),
            Err(refusal) => Err(SslVerifyError::Invalid(alert(*refusal))),
        };
        slot.record(verdict);
        outcome
    }

    /// The verdict on one leaf
    pub(super) fn verdict(
        &self,
        der: &[u8],
        expected: Option<&NodeId>,
        now: SystemTime,
    ) -> Result<VerifiedPeer, PeerRefusal> {
        let hash = sha256(der);
        let known = self.memory().leaves.get(&hash).cloned();
        let verified = match known {
            Some(known) => known,
            None => {
                let fresh = self.verify(der, now)?;
                self.memory().insert(hash, fresh.clone());
                fresh
            }
        };
        let Remembered { leaf, anchor } = verified;
        if now > leaf.not_after {
            return Err(PeerRefusal::Expired);
        }
        if now < leaf.not_before || now < anchor.validity.not_before {
            return Err(PeerRefusal::NotYetValid);
        }
        if now > anchor.validity.not_after {
            return Err(PeerRefusal::AnchorExpired);
        }
        if let Some(refusal) = self.denied.refusal(&anchor.key_id, &leaf.serial, &leaf.spki_sha256)
        {
            return Err(refusal);
        }
        if let Some(refusal) = self
            .pins
            .as_ref()
            .and_then(|pins| pins.refusal(&leaf.node, &leaf.spki_sha256, &anchor.spki_sha256))
        {
            return Err(refusal);
        }
        if expected.is_some_and(|expected| *expected != leaf.node) {
            return Err(PeerRefusal::WrongNode);
        }
        // Last, so that whoever would be refused anyway is refused for his own fault.
        if let Some(freshness) = &self.freshness
            && now > freshness.until_of(&anchor.key_id)
            && !freshness.exempt.contains(&leaf.node)
        {
            return Err(PeerRefusal::DenyListTooOld);
        }
        Ok(VerifiedPeer {
            node: leaf.node,
            serial: leaf.serial,
            certificate_sha256: hash,
            spki_sha256: leaf.spki_sha256,
            issuer_key_id: anchor.key_id,
            not_after: leaf.not_after,
        })
    }

    /// Path, profile and log, without what is remembered
    fn verify(&self, der: &[u8], now: SystemTime) -> Result<Remembered, PeerRefusal> {
        let in_force: Vec<&Anchor> =
            self.anchors.iter().filter(|anchor| anchor.facts.validity.holds(now)).collect();
        let anchor = match self.path(der, &in_force, now) {
            Ok(anchor) => anchor,
            // Only where no authority in force has issued it is the question whether a lapsed one has: that
            // refusal has another remedy.
            Err(refusal @ (PeerRefusal::UnknownIssuer | PeerRefusal::BadSignature)) => {
                let lapsed: Vec<&Anchor> = self
                    .anchors
                    .iter()
                    .filter(|anchor| !anchor.facts.validity.holds(now))
                    .collect();
                self.path(der, &lapsed, now).map_err(|_| self.unknown(der, refusal))?
            }
            Err(refusal) => return Err(refusal),
        };
        if anchor.authority.name_constraints.is_none() {
            return Err(PeerRefusal::Unconstrained);
        }
        let leaf = Leaf::from_der(der)?;
        if let Some(logs) = &self.logs {
            let latest = (now + SCT_TOLERANCE).duration_since(UNIX_EPOCH).unwrap_or_default();
            let latest_ms = u64::try_from(latest.as_millis()).unwrap_or(u64::MAX);
            logs.judge(der, &anchor.facts.spki_sha256, latest_ms)?;
        }
        Ok(Remembered { leaf, anchor: anchor.facts })
    }

    /// Why a leaf is refused that none of the authorities has issued: one that was revoked is not among them any more,
    /// and a leaf that names it is refused for that. What it names is not proven, and lets nobody in.
    fn unknown(&self, der: &[u8], refusal: PeerRefusal) -> PeerRefusal {
        match named_issuer(der) {
            Some(issuer) if self.denied.issuers.contains(&issuer) => PeerRefusal::IssuerRevoked,
            _ => refusal,
        }
    }

    /// Builds and verifies a path from the leaf to one of `anchors`; returns that authority
    fn path<'a>(
        &self,
        der: &[u8],
        anchors: &[&'a Anchor],
        now: SystemTime,
    ) -> Result<&'a Anchor, PeerRefusal> {
        let since_epoch = now.duration_since(UNIX_EPOCH).map_err(|_| PeerRefusal::NotYetValid)?;
        let der = CertificateDer::from(der);
        let leaf = EndEntityCert::try_from(&der).map_err(refusal)?;
        let authorities: Vec<TrustAnchor<'_>> =
            anchors.iter().map(|anchor| anchor.authority.clone()).collect();
        let path = leaf
            .verify_for_usage(
                ALGORITHMS,
                &authorities,
                &[],
                UnixTime::since_unix_epoch(since_epoch),
                self.required_usage,
                None,
                None,
            )
            .map_err(refusal)?;
        // The same authority may stand there twice, renewed with the same key: the longer life counts.
        let issuers = anchors.iter().filter(|anchor| anchor.authority == *path.anchor());
        issuers
            .max_by_key(|anchor| anchor.facts.validity.not_after)
            .copied()
            .ok_or(PeerRefusal::UnknownIssuer)
    }

    /// How many leaves are remembered
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.memory().leaves.len()
    }

    /// Remembers a verified leaf under more hashes than there is room for; returns how many stay
    #[cfg(test)]
    pub(super) fn overfill(&self, der: &[u8]) -> usize {
        let sample = self.memory().leaves[&sha256(der)].clone();
        for number in 0..REMEMBERED_LEAVES + 10 {
            self.memory().insert(sha256(&number.to_be_bytes()), sample.clone());
        }
        let memory = self.memory();
        assert_eq!(memory.order.len(), memory.leaves.len());
        memory.leaves.len()
    }

    /// The memory holds no invariant that a panicking holder could break
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AnchorFacts {
    fn read(trusted: &stoq_interface::TrustAnchor) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(&trusted.certificate_der).ok()?;
        let named = certificate.extensions().iter().find_map(|extension| {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => IssuerKeyId::try_from(id.0).ok(),
                _ => None,
            }
        });
        let point = certificate.public_key().subject_public_key.data.as_ref();
        let of_point = || IssuerKeyId::try_from(&sha256(point)[..20]).ok();
        Some(Self {
            validity: Validity { not_before: trusted.not_before, not_after: trusted.not_after },
            key_id: named.or_else(of_point)?,
            spki_sha256: sha256(certificate.public_key().raw),
        })
    }
}

/// The identifier of the key that a leaf says has issued it (RFC 5280 section 4.2.1.1)
fn named_issuer(der: &[u8]) -> Option<IssuerKeyId> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(named) => {
            IssuerKeyId::try_from(named.key_identifier.as_ref()?.0).ok()
        }
        _ => None,
    })
}

impl Validity {
    fn holds(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// The reason behind an error of the path validator
fn refusal(error: webpki::Error) -> PeerRefusal {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } => PeerRefusal::Expired,
        Error::CertNotValidYet { .. } => PeerRefusal::NotYetValid,
        Error::CaUsedAsEndEntity => PeerRefusal::AuthorityAsLeaf,
        Error::NameConstraintViolation
        | Error::MalformedNameConstraint
        | Error::MaximumNameConstraintComparisonsExceeded => PeerRefusal::NameConstraint,
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => PeerRefusal::KeyUsage,
        Error::InvalidSignatureForPublicKey
        | Error::SignatureAlgorithmMismatch
        | Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => PeerRefusal::BadSignature,
        Error::UnknownIssuer | Error::PathLenConstraintViolated => PeerRefusal::UnknownIssuer,
        Error::BadDer
        | Error::BadDerTime
        | Error::ExtensionValueInvalid
        | Error::InvalidCertValidity
        | Error::InvalidSerialNumber
        | Error::MalformedDnsIdentifier
        | Error::MalformedExtensions
        | Error::TrailingData(_)
        | Error::UnsupportedCertVersion => PeerRefusal::Malformed,
        _ => PeerRefusal::Profile,
    }
}

/// What the peer learns (RFC 8446 section 6.2): the alert is all that QUIC carries
fn alert(refusal: PeerRefusal) -> SslAlert {
    match refusal {
        PeerRefusal::NoCertificate => SslAlert::CERTIFICATE_REQUIRED,
        PeerRefusal::Malformed
        | PeerRefusal::NameConstraint
        | PeerRefusal::NoNodeIdentity
        | PeerRefusal::WrongNode
        | PeerRefusal::Unlogged
        | PeerRefusal::UnknownLog
        | PeerRefusal::BadTimestamp => SslAlert::BAD_CERTIFICATE,
        PeerRefusal::Expired | PeerRefusal::NotYetValid | PeerRefusal::AnchorExpired => {
            SslAlert::CERTIFICATE_EXPIRED
        }
        PeerRefusal::UnknownIssuer
        | PeerRefusal::BadSignature
        | PeerRefusal::Unconstrained
        | PeerRefusal::RootNotPinned
        | PeerRefusal::IssuingNotPinned
        | PeerRefusal::PeerNotPinned => SslAlert::UNKNOWN_CA,
        PeerRefusal::KeyUsage => SslAlert::UNSUPPORTED_CERTIFICATE,
        PeerRefusal::Revoked | PeerRefusal::KeyRevoked | PeerRefusal::IssuerRevoked => {
            SslAlert::CERTIFICATE_REVOKED
        }
        // Nothing is wrong with the certificate: this end does not know enough to accept it.
        PeerRefusal::DenyListTooOld => SslAlert::INTERNAL_ERROR,
        PeerRefusal::AuthorityAsLeaf | PeerRefusal::Profile => SslAlert::CERTIFICATE_UNKNOWN,
    }
}
