//! What is recorded, asked and answered. Plain values with their limits; how they are stored is not known here.

use std::fmt;
use std::str::FromStr;

use super::RecordsError;
use crate::journal::JournalId;

/// Longest serial number (RFC 5280, 4.1.2.2)
pub const SERIAL_LIMIT_BYTES: usize = 20;
/// Longest name: node, DNS name, profile, policy document
pub const NAME_LIMIT_BYTES: usize = 255;
/// Most DNS names of one certificate
pub const NAMES_LIMIT: usize = 64;
/// Longest key identifier
const KEY_ID_LIMIT_BYTES: usize = 32;
/// Longest idempotency key
pub const IDEMPOTENCY_KEY_LIMIT_BYTES: usize = 128;
/// Longest result of a request that has an idempotency key
pub const IDEMPOTENCY_RESULT_LIMIT_BYTES: usize = 64 << 10;
/// Longest policy document
pub const POLICY_LIMIT_BYTES: usize = 1 << 20;
/// Most changes of one batch
pub const BATCH_LIMIT_CHANGES: usize = 65_536;
/// Most items of one page
pub const PAGE_LIMIT: usize = 1_000;

fn invalid(text: impl Into<String>) -> RecordsError {
    RecordsError::Invalid(text.into())
}

/// A certificate's serial number, without leading zero octets
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// From big-endian bytes; leading zeros do not count
    pub fn new(bytes: &[u8]) -> Result<Self, RecordsError> {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let bytes = &bytes[zeros..];
        if bytes.is_empty() || bytes.len() > SERIAL_LIMIT_BYTES {
            return Err(invalid("a serial is a number of 1 to 20 octets, above zero"));
        }
        Ok(Self(bytes.to_vec()))
    }

    /// Big-endian, without leading zeros
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Before every serial in order; none itself
    pub(super) fn least() -> Self {
        Self(Vec::new())
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = RecordsError;

    fn from_str(text: &str) -> Result<Self, RecordsError> {
        let bad = || invalid("a serial is written as hexadecimal digits");
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) || text.len() > 4 * SERIAL_LIMIT_BYTES
        {
            return Err(bad());
        }
        let even = if text.len() % 2 == 1 { format!("0{text}") } else { text.to_owned() };
        let octets = (0..even.len()).step_by(2).map(|at| u8::from_str_radix(&even[at..at + 2], 16));
        let bytes: Vec<u8> = octets.collect::<Result<_, _>>().map_err(|_digit| bad())?;
        Self::new(&bytes)
    }
}

/// Why a certificate was revoked (RFC 5280, 5.3.1); holds are not known here, a revocation is for good
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum RevocationReason {
    /// No reason given
    Unspecified = 0,
    /// The subject's key is known to others
    KeyCompromise = 1,
    /// The authority's key is known to others
    CaCompromise = 2,
    /// The subject has changed
    AffiliationChanged = 3,
    /// Replaced by another certificate
    Superseded = 4,
    /// No longer needed
    CessationOfOperation = 5,
    /// What it stood for was taken back
    PrivilegeWithdrawn = 9,
    /// An attribute authority's key is known to others
    AaCompromise = 10,
}

impl RevocationReason {
    const ALL: [Self; 8] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
        Self::AaCompromise,
    ];

    /// The CRLReason
    pub fn code(self) -> u8 {
        self as u8
    }

    /// From a CRLReason; `None` for those that do not revoke for good
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

/// A certificate that was issued; times in seconds since 1970
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuedCertificate {
    /// Serial number
    pub serial: Serial,
    /// The node it names
    pub subject_node: String,
    /// Its DNS names
    pub dns_names: Vec<String>,
    /// Name of the profile
    pub profile: String,
    /// SHA-256 of the SubjectPublicKeyInfo
    pub spki_sha256: [u8; 32],
    /// Key identifier of the issuing authority, at most 32 bytes
    pub issuer_key_id: Vec<u8>,
    /// First second of validity
    pub not_before: u64,
    /// Last second of validity
    pub not_after: u64,
    /// Leaf index in the transparency log
    pub log_index: u64,
}

/// A certificate of the inventory
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateRecord {
    /// What was issued
    pub certificate: IssuedCertificate,
    /// When it was revoked, in seconds since 1970, and why
    pub revoked: Option<(u64, RevocationReason)>,
    /// The journal entry that issued it
    pub sequence: u64,
}

/// How a certificate stands at a time
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CertificateState {
    /// Neither revoked nor expired; one that is not valid yet counts here
    Valid,
    /// Revoked, expired or not
    Revoked,
    /// Expired and never revoked
    Expired,
}

impl CertificateRecord {
    /// How it stands at `now`, in seconds since 1970
    pub fn state(&self, now: u64) -> CertificateState {
        if self.revoked.is_some() {
            CertificateState::Revoked
        } else if self.certificate.not_after < now {
            CertificateState::Expired
        } else {
            CertificateState::Valid
        }
    }
}

/// Which certificates; every condition that is set must hold
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CertificateQuery {
    /// The subject node or one of the DNS names
    pub name: Option<String>,
    /// SHA-256 of the SubjectPublicKeyInfo
    pub spki_sha256: Option<[u8; 32]>,
    /// Key identifier of the issuing authority
    pub issuer_key_id: Option<Vec<u8>>,
    /// Name of the profile
    pub profile: Option<String>,
    /// The state at a time, in seconds since 1970
    pub state: Option<(CertificateState, u64)>,
    /// The last second of validity is this or later
    pub not_after_from: Option<u64>,
    /// The last second of validity is before this
    pub not_after_before: Option<u64>,
    /// Most items of the page; zero and more than [`PAGE_LIMIT`] mean [`PAGE_LIMIT`]
    pub limit: usize,
    /// Where the last page ended
    pub page: Option<PageToken>,
}

/// Which revocations
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RevocationQuery {
    /// Leave out certificates that have expired at this time, in seconds since 1970; what is not in the
    /// inventory is never left out
    pub unexpired_at: Option<u64>,
    /// Most items of the page; zero and more than [`PAGE_LIMIT`] mean [`PAGE_LIMIT`]
    pub limit: usize,
    /// Where the last page ended
    pub page: Option<PageToken>,
}

/// A revocation; times in seconds since 1970
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Revocation {
    /// What was revoked
    pub serial: Serial,
    /// When
    pub revoked_at: u64,
    /// Why
    pub reason: RevocationReason,
    /// Last second of validity, if the certificate is in the inventory
    pub not_after: Option<u64>,
    /// The journal entry that revoked it
    pub sequence: u64,
}

/// Part of an answer
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Page<T> {
    /// What was asked for
    pub items: Vec<T>,
    /// Where to go on; `None` at the end
    pub next: Option<PageToken>,
}

/// Where a page ended; opaque, and only good for the same question
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PageToken(pub(super) Vec<u8>);

impl PageToken {
    /// One that was handed out before
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// For handing out
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What a request with an idempotency key came to
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdempotentResult {
    /// The key
    pub key: Vec<u8>,
    /// The result
    pub result: Vec<u8>,
    /// Last second in which the key counts, in seconds since 1970
    pub expires_at: u64,
}

/// A version of a policy document
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyDocument {
    /// Its name
    pub name: String,
    /// Its version
    pub version: u64,
    /// Its text
    pub body: Vec<u8>,
    /// When it came into being, in seconds since 1970
    pub stored_at: u64,
}

/// A policy document without its text
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyVersion {
    /// Its name
    pub name: String,
    /// Its version
    pub version: u64,
    /// When it came into being, in seconds since 1970
    pub stored_at: u64,
}

/// What an entry of the journal amounts to
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ChangeKind {
    /// A certificate was issued
    Issued(IssuedCertificate),
    /// A certificate was revoked. The first revocation of a serial counts, and nothing takes it back; the
    /// serial need not be in the inventory.
    Revoked {
        /// Which
        serial: Serial,
        /// When, in seconds since 1970
        revoked_at: u64,
        /// Why
        reason: RevocationReason,
    },
    /// A request was answered. A later result of the same key takes the place of an earlier one.
    Answered(IdempotentResult),
    /// A policy document came into being
    PolicyStored(PolicyDocument),
}

/// A change and where it stems from
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// The journal entry
    pub sequence: u64,
    /// What it amounts to
    pub kind: ChangeKind,
}

/// All that a run of journal entries amounts to; entries that amount to nothing are passed over
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    /// Which journal
    pub journal: JournalId,
    /// The first entry of the run, right behind the last one that was applied
    pub first: u64,
    /// The last entry of the run
    pub last: u64,
    /// The changes, in the order of their entries
    pub changes: Vec<Change>,
}

impl Batch {
    pub(super) fn check(&self) -> Result<(), RecordsError> {
        if self.first == 0 || self.first > self.last {
            return Err(invalid("a batch begins with entry 1 or later and does not end before"));
        }
        if self.changes.len() > BATCH_LIMIT_CHANGES {
            return Err(invalid(format!("a batch has at most {BATCH_LIMIT_CHANGES} changes")));
        }
        let mut least = self.first;
        for change in &self.changes {
            if !(least..=self.last).contains(&change.sequence) {
                return Err(invalid("the changes of a batch come in the order of its entries"));
            }
            least = change.sequence;
            change.kind.check()?;
        }
        Ok(())
    }
}

impl ChangeKind {
    fn check(&self) -> Result<(), RecordsError> {
        match self {
            Self::Issued(certificate) => certificate.check(),
            Self::Revoked { .. } => Ok(()),
            Self::Answered(answered) => {
                limit("idempotency key", answered.key.len(), IDEMPOTENCY_KEY_LIMIT_BYTES)?;
                limit("result", answered.result.len(), IDEMPOTENCY_RESULT_LIMIT_BYTES)
            }
            Self::PolicyStored(document) => {
                check_name("name of the policy", &document.name)?;
                limit("policy document", document.body.len(), POLICY_LIMIT_BYTES)
            }
        }
    }
}

impl IssuedCertificate {
    pub(super) fn check(&self) -> Result<(), RecordsError> {
        check_name("subject node", &self.subject_node)?;
        check_name("profile", &self.profile)?;
        limit("issuer key id", self.issuer_key_id.len(), KEY_ID_LIMIT_BYTES)?;
        if self.dns_names.len() > NAMES_LIMIT {
            return Err(invalid(format!("a certificate has at most {NAMES_LIMIT} DNS names")));
        }
        self.dns_names.iter().try_for_each(|name| check_name("DNS name", name))
    }
}

fn limit(what: &str, bytes: usize, limit_bytes: usize) -> Result<(), RecordsError> {
    if bytes > limit_bytes {
        return Err(invalid(format!("the {what} has {bytes} bytes, at most {limit_bytes} fit")));
    }
    Ok(())
}

fn check_name(what: &str, name: &str) -> Result<(), RecordsError> {
    limit(what, name.len(), NAME_LIMIT_BYTES)?;
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(invalid(format!("the {what} is empty or holds control characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_numbers() {
        let serial = Serial::new(&[0, 0, 0x0a, 0xff]).unwrap();
        assert_eq!(serial.to_string(), "0aff");
        assert_eq!("aff".parse(), Ok(serial.clone()));
        assert_eq!("000AFF".parse(), Ok(serial));
        assert!(Serial::new(&[0; 4]).is_err());
        assert!(Serial::new(&[1; 21]).is_err());
        assert!(Serial::new(&[[0; 9].as_slice(), &[1; 20]].concat()).is_ok());
        for text in ["", "0", "xy", "+1", "é1", &"0".repeat(90)] {
            assert!(text.parse::<Serial>().is_err(), "{text}");
        }
    }

    #[test]
    fn reasons_have_their_codes() {
        for reason in RevocationReason::ALL {
            assert_eq!(RevocationReason::from_code(reason.code()), Some(reason));
        }
        for code in [6, 7, 8, 11, 255] {
            assert_eq!(RevocationReason::from_code(code), None);
        }
    }

    #[test]
    fn batches_keep_the_order_of_their_entries() {
        let change = |sequence| Change {
            sequence,
            kind: ChangeKind::Revoked {
                serial: Serial::new(&[1]).unwrap(),
                revoked_at: 1,
                reason: RevocationReason::Unspecified,
            },
        };
        let batch = |first, last, sequences: &[u64]| Batch {
            journal: JournalId::from_bytes([0; 16]),
            first,
            last,
            changes: sequences.iter().copied().map(change).collect(),
        };
        assert_eq!(batch(3, 6, &[3, 3, 6]).check(), Ok(()));
        assert_eq!(batch(3, 3, &[]).check(), Ok(()));
        for bad in [batch(0, 3, &[]), batch(4, 3, &[]), batch(3, 6, &[2]), batch(3, 6, &[7])] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(batch(3, 6, &[5, 4]).check().is_err());
    }
}
