//! Anchoring: the head of the audit log becomes a name in a certificate, and so an entry of the transparency log.
//!
//! A signed note would show only that the authority's key signed a head; whoever holds that key could write
//! another history and sign that. The transparency log is public, its heads are witnessed and kept by peers:
//! what it has at an index it had at that time. Its format (C2SP static-ct-api) holds certificates and nothing
//! else, so the head travels as the name of an asset. The key of that certificate is made for the request and
//! dropped before the certificate exists: nobody can ever use it.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::chain::{AuditError, AuditRecord, Chain, Head};
use super::event::{AuditEvent, AuditKind, Outcome};
use super::writer::{AuditLog, RecordError};
use crate::ca::{Activation, Ca, Credential, IssueRequest, Refusal, Registration};
use crate::certificate::{self, CertificateError};
use crate::csr::{self, CsrError};
use crate::keys::{KeyError, KeyKind, KeyPair};
use crate::log::LogEntry;

/// How often the head is anchored, if anything was recorded
pub const ANCHOR_INTERVAL: Duration = Duration::from_secs(60);
/// The profile whose names anchors have: clients only, and for nothing on the data plane
const PROFILE: &str = "asset";
/// What the subject of an anchor begins with
const SUBJECT_PREFIX: &str = "audit";
/// Who asks for the certificate
const ACTOR: &str = "authority";
/// Time until a checkpoint covers an entry: it takes a second at most where the host is not overloaded
const PUBLISHED_WITHIN: Duration = Duration::from_secs(30);

/// Why the head was not anchored, or an anchor does not hold
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// The authority refused
    #[error("the audit log was not anchored: {0}")]
    Refused(#[from] Refusal),
    /// The entry is not shown to anybody yet
    #[error(
        "the audit log was not anchored: entry {0} of the transparency log is in no checkpoint after {wait} s",
        wait = PUBLISHED_WITHIN.as_secs()
    )]
    Unpublished(u64),
    /// The anchor is in the log, and the audit log does not say so
    #[error("the anchor was not recorded: {0}")]
    Record(#[from] RecordError),
    /// No key
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No request
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The lines
    #[error(transparent)]
    Chain(#[from] AuditError),
    /// A certificate
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The record of an anchor lacks something
    #[error("audit record {0} says that it anchors, and not what or where")]
    Incomplete(u64),
    /// The lines have another history than the one that was anchored
    #[error(
        "the audit log differs from what was anchored: record {count} had the hash {anchored} and now has \
         {found}"
    )]
    Differs {
        /// Which record
        count: u64,
        /// What the anchor says
        anchored: String,
        /// What the lines come to
        found: String,
    },
    /// The transparency log has something else at that index
    #[error(
        "entry {leaf_index} of the transparency log is no anchor of the audit log's record {count}"
    )]
    NotInLog {
        /// The index
        leaf_index: u64,
        /// Which record
        count: u64,
    },
}

/// A head that is in the transparency log
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Anchored {
    /// What was anchored
    pub head: Head,
    /// Serial number of the certificate
    pub serial: String,
    /// Index in the transparency log
    pub leaf_index: u64,
    /// Time of that entry, in milliseconds since 1970
    pub timestamp_ms: u64,
}

/// The subject an anchor is registered under: all of the head's hash, in base 32 as names have it
pub fn anchor_name(hash: &[u8; 32]) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut name = SUBJECT_PREFIX.to_owned();
    let (mut bits, mut count) = (0_u32, 0);
    for octet in hash {
        bits = bits << 8 | u32::from(*octet);
        count += 8;
        while count >= 5 {
            count -= 5;
            name.push(char::from(DIGITS[(bits >> count & 31) as usize]));
        }
        bits &= (1 << count) - 1;
    }
    if count > 0 {
        name.push(char::from(DIGITS[(bits << (5 - count) & 31) as usize]));
    }
    name
}

/// Whether a certificate, or the precertificate in a log entry, is the anchor of a hash
pub fn check_anchor(hash: &[u8; 32], certificate_der: &[u8]) -> Result<bool, CertificateError> {
    let wanted = anchor_name(hash);
    let parsed = certificate::parse(certificate_der)?;
    let found = parsed.extensions().iter().any(|extension| {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            return false;
        };
        names.general_names.iter().any(|name| match name {
            GeneralName::DNSName(name) => {
                let label = name.split('.').next().unwrap_or_default();
                label.strip_prefix("asset-").unwrap_or(label) == wanted
            }
            _ => false,
        })
    });
    Ok(found)
}

/// Anchors the head as it is now
pub async fn anchor(ca: &Ca, audit: &AuditLog) -> Result<Anchored, AnchorError> {
    let head = audit.head();
    let subject = anchor_name(&head.hash);
    ca.register(Registration {
        profile: PROFILE.into(),
        subject: subject.clone(),
        owner: None,
        addresses: Vec::new(),
        alternative_names: false,
    })
    .await?;
    let issued = ca.issue(request(&subject)?).await;
    // Also where nothing was issued: the name is good for this head alone.
    ca.unregister(PROFILE, &subject).await?;
    let issued = issued?;
    // What says "anchored" can be looked up by whoever reads it.
    if ca.inclusion_proof(issued.leaf_index, PUBLISHED_WITHIN).await?.is_none() {
        return Err(AnchorError::Unpublished(issued.leaf_index));
    }
    let anchored = Anchored {
        head,
        serial: issued.serial,
        leaf_index: issued.leaf_index,
        timestamp_ms: issued.timestamp_ms,
    };
    let event = AuditEvent::done(AuditKind::Anchored, ACTOR, &anchored.serial)
        .with("count", head.count)
        .with("head", head.hash_text())
        .with("leaf_index", anchored.leaf_index)
        .with("timestamp_ms", anchored.timestamp_ms);
    audit.record(event).await?;
    Ok(anchored)
}

fn request(subject: &str) -> Result<IssueRequest, AnchorError> {
    let key = KeyPair::generate(KeyKind::P256)?;
    let csr_der = csr::request(&key)?;
    Ok(IssueRequest {
        profile: PROFILE.into(),
        subject: Some(subject.into()),
        csr_der,
        credential: Credential::Operator { name: ACTOR.into() },
        idempotency_key: Vec::new(),
        consensus_proof: None,
        stoq_address: None,
        activation: Activation::Now,
    })
}

/// Checks exported lines against themselves and against every anchor they name. `entry` reads an entry of the
/// transparency log, whose proofs are checked where it is read. Returns the end of the log and how many anchors
/// hold.
pub fn verify_anchors<'a>(
    lines: impl IntoIterator<Item = &'a [u8]>,
    mut entry: impl FnMut(u64) -> Option<LogEntry>,
) -> Result<(Head, u64), AnchorError> {
    let mut chain = Chain::default();
    let mut heads = vec![chain.head()];
    let mut holding = 0;
    for line in lines {
        let record = chain.take(line)?;
        heads.push(chain.head());
        if record.kind == AuditKind::Anchored && record.outcome == Outcome::Done {
            check_record(&record, &heads, &mut entry)?;
            holding += 1;
        }
    }
    Ok((chain.head(), holding))
}

fn check_record(
    record: &AuditRecord,
    heads: &[Head],
    entry: &mut impl FnMut(u64) -> Option<LogEntry>,
) -> Result<(), AnchorError> {
    let incomplete = || AnchorError::Incomplete(record.number);
    let number = |name: &str| record.details.get(name).and_then(|text| text.parse::<u64>().ok());
    let count = number("count").ok_or_else(incomplete)?;
    let leaf_index = number("leaf_index").ok_or_else(incomplete)?;
    let anchored = record.details.get("head").ok_or_else(incomplete)?;
    let at = usize::try_from(count).ok().and_then(|count| heads.get(count));
    let at = at.ok_or_else(incomplete)?;
    if at.hash_text() != *anchored {
        let (anchored, found) = (anchored.clone(), at.hash_text());
        return Err(AnchorError::Differs { count, anchored, found });
    }
    let not_in_log = || AnchorError::NotInLog { leaf_index, count };
    let logged = entry(leaf_index).and_then(|entry| entry.precertificate_der);
    match check_anchor(&at.hash, &logged.ok_or_else(not_in_log)?)? {
        true => Ok(()),
        false => Err(not_in_log()),
    }
}

/// Anchors the head again and again, until it is dropped
#[derive(Debug)]
pub struct Anchoring(JoinHandle<()>);

impl Drop for Anchoring {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Anchoring {
    /// Begins, in a task of the current runtime. What fails is logged and done again after `interval`.
    pub fn start(ca: Ca, audit: AuditLog, interval: Duration) -> Self {
        Self(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // The record of the last anchor is not worth another one.
                if audit.head().count <= audit.anchored() + 1 {
                    continue;
                }
                match anchor(&ca, &audit).await {
                    Ok(anchored) => tracing::info!(
                        records = anchored.head.count,
                        leaf_index = anchored.leaf_index,
                        "the audit log is anchored"
                    ),
                    Err(error) => tracing::warn!(%error, "tried again later"),
                }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rcgen::{CertificateParams, SanType};

    use super::*;

    fn certificate(name: &str) -> Vec<u8> {
        let mut params = CertificateParams::default();
        let name = format!("asset-{name}.assets.hypermesh");
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        params.serial_number = Some(1_u64.into());
        params.self_signed(&KeyPair::generate(KeyKind::P256).unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_name_has_the_whole_hash_and_fits_into_a_label() {
        let mut names = BTreeSet::new();
        for bit in 0..256 {
            let mut hash = [0_u8; 32];
            hash[bit / 8] = 1 << (bit % 8);
            let name = anchor_name(&hash);
            assert_eq!(format!("asset-{name}").len(), 63);
            assert!(names.insert(name));
        }
        // RFC 4648 section 10, "foobar" behind the zeros of a hash
        let mut hash = [0; 32];
        hash[..5].copy_from_slice(b"fooba");
        assert!(anchor_name(&hash).starts_with("auditmzxw6ytb"));
    }

    #[test]
    fn an_anchor_is_of_one_hash() {
        let der = certificate(&anchor_name(&[7; 32]));
        assert!(check_anchor(&[7; 32], &der).unwrap());
        assert!(!check_anchor(&[8; 32], &der).unwrap());
        assert!(!check_anchor(&[7; 32], &certificate("other")).unwrap());
    }

    #[test]
    fn lines_are_checked_against_their_anchors() {
        let mut chain = Chain::default();
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let mut add = |event: AuditEvent, lines: &mut Vec<Vec<u8>>| {
            let line = chain.next(&event, 1).unwrap();
            chain.take(&line).unwrap();
            lines.push(line);
            chain.head()
        };
        let did = |what: &str| AuditEvent::done(AuditKind::OperatorCommand, "operator:root", what);
        add(did("one"), &mut lines);
        let head = add(did("two"), &mut lines);
        let anchored = AuditEvent::done(AuditKind::Anchored, ACTOR, "1")
            .with("count", 2)
            .with("head", head.hash_text())
            .with("leaf_index", 5);
        add(anchored, &mut lines);
        let der = certificate(&anchor_name(&head.hash));
        let logged = |index: u64| {
            use crate::log::{SignedEntry, TimestampedEntry};
            let signed =
                SignedEntry::Precertificate { issuer_key_hash: [0; 32], tbs_der: Vec::new() };
            let timestamped = TimestampedEntry { timestamp_ms: 1, signed, leaf_index: index };
            let precertificate_der = (index == 5).then(|| der.clone());
            Some(LogEntry { timestamped, precertificate_der, chain: Vec::new() })
        };
        let slices = |lines: &[Vec<u8>]| lines.to_vec();
        let verify = |lines: &[Vec<u8>]| verify_anchors(lines.iter().map(Vec::as_slice), logged);
        assert_eq!(verify(&lines).unwrap().1, 1);

        // A history written anew, chained as it should be, with the anchor's record kept as it was said
        let mut forged = Chain::default();
        let mut rewritten = Vec::new();
        for (number, line) in slices(&lines).iter().enumerate() {
            let record: AuditRecord = serde_json::from_slice(line).unwrap();
            let subject = if number == 0 { "nothing" } else { &record.subject };
            let event = AuditEvent { details: record.details.clone(), ..did(subject) };
            let event = AuditEvent { kind: record.kind, ..event };
            let line = forged.next(&event, 1).unwrap();
            forged.take(&line).unwrap();
            rewritten.push(line);
        }
        let differs = verify(&rewritten).unwrap_err();
        assert!(matches!(differs, AnchorError::Differs { count: 2, .. }), "{differs}");
        // And where the transparency log has something else there
        let other = |_| logged(6);
        let missing = verify_anchors(lines.iter().map(Vec::as_slice), other).unwrap_err();
        assert!(matches!(missing, AnchorError::NotInLog { leaf_index: 5, .. }), "{missing}");
    }
}
