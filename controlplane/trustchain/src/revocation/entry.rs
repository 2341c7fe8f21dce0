//! One revocation: what is refused, why, since when and until when it has to be remembered.

use std::cmp::Ordering;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boring::sha::sha256;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use super::wire;
use crate::certificate::{hex, unhex, unix_seconds};
use crate::signer::key_identifier;

/// How long after its certificate's end an entry is kept, for clocks that are slow
pub const RETAIN_AFTER_END: Duration = Duration::from_secs(3_600);
/// The end of the year 9999, beyond which no certificate reaches (RFC 5280 section 4.1.2.5)
const LATEST_SECONDS: u64 = 253_402_300_799;
/// RFC 5280 section 4.1.2.2
const SERIAL_LIMIT_BYTES: usize = 20;

/// Why an entry is none
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EntryError {
    /// No serial number
    #[error(
        "a serial number has 1 to 20 octets, the first of them not zero, written in hexadecimal"
    )]
    Serial,
    /// No key identifier
    #[error("a key identifier has 20 octets")]
    KeyId,
    /// No hash
    #[error("the hash of a public key has 32 octets")]
    Spki,
    /// A serial number without its issuer, an issuer beside a public key, or nothing at all
    #[error(
        "an entry names a serial number with the key of its issuer, or a public key, or both, or an issuer's key \
         alone"
    )]
    Target,
    /// No reason of RFC 5280 that makes sense here
    #[error("the reason is unknown")]
    Reason,
    /// A time beyond reason
    #[error("a time lies before 1970 or after 9999, or an entry ends at zero")]
    Time,
}

/// The identifier of an issuing key: 160 bits of SHA-256 over its public point (RFC 7093 section 2 method 1),
/// as certificates carry it in their authority key identifier
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId([u8; 20]);

impl KeyId {
    /// From its octets
    pub fn from_bytes(octets: &[u8]) -> Result<Self, EntryError> {
        octets.try_into().map(Self).map_err(|_| EntryError::KeyId)
    }

    /// Of a key, by its public point (SEC 1 section 2.3.3, uncompressed)
    pub fn of_public_point(point: &[u8]) -> Result<Self, EntryError> {
        Self::from_bytes(&key_identifier(point))
    }

    /// Of the key that issued a certificate, as its authority key identifier says
    pub fn of_issuer(certificate: &X509Certificate<'_>) -> Result<Self, EntryError> {
        let found = certificate.extensions().iter().find_map(|extension| {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(found) => found.key_identifier.as_ref(),
                _ => None,
            }
        });
        Self::from_bytes(found.ok_or(EntryError::KeyId)?.0)
    }

    /// The 20 octets
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A certificate's serial number without leading zero octets; two that are equal as numbers are equal
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SerialNumber(Vec<u8>);

impl SerialNumber {
    /// From octets, most significant first; leading zero octets do not count
    pub fn from_bytes(octets: &[u8]) -> Result<Self, EntryError> {
        let significant = &octets[octets.iter().take_while(|octet| **octet == 0).count()..];
        if significant.is_empty() || significant.len() > SERIAL_LIMIT_BYTES {
            return Err(EntryError::Serial);
        }
        Ok(Self(significant.to_vec()))
    }

    /// From lower- or upper-case hexadecimal, two digits an octet
    pub fn from_text(text: &str) -> Result<Self, EntryError> {
        Self::from_bytes(&unhex(text).ok_or(EntryError::Serial)?)
    }

    /// Of a certificate
    pub fn of(certificate: &X509Certificate<'_>) -> Result<Self, EntryError> {
        Self::from_bytes(certificate.raw_serial())
    }

    /// The octets, most significant first
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 of a SubjectPublicKeyInfo
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpkiHash([u8; 32]);

impl SpkiHash {
    /// Of a SubjectPublicKeyInfo in DER
    pub fn of(spki_der: &[u8]) -> Self {
        Self(sha256(spki_der))
    }

    /// From its octets
    pub fn from_bytes(octets: &[u8]) -> Result<Self, EntryError> {
        octets.try_into().map(Self).map_err(|_| EntryError::Spki)
    }

    /// The 32 octets
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for SpkiHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for SpkiHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What an entry refuses: a certificate, every certificate for a key, or both; or every certificate that an issuing
/// key has signed
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Target {
    certificate: Option<(KeyId, SerialNumber)>,
    spki: Option<SpkiHash>,
    issuer: Option<KeyId>,
}

impl Target {
    /// One certificate, by its issuer's key and its serial number
    pub fn certificate(issuer: KeyId, serial: SerialNumber) -> Self {
        Self { certificate: Some((issuer, serial)), spki: None, issuer: None }
    }

    /// Every certificate for a key
    pub fn key(spki: SpkiHash) -> Self {
        Self { certificate: None, spki: Some(spki), issuer: None }
    }

    /// A certificate and its key
    pub fn certificate_and_key(issuer: KeyId, serial: SerialNumber, spki: SpkiHash) -> Self {
        Self { certificate: Some((issuer, serial)), spki: Some(spki), issuer: None }
    }

    /// Every certificate that an issuing key has signed
    pub fn issuer(issuer: KeyId) -> Self {
        Self { certificate: None, spki: None, issuer: Some(issuer) }
    }

    /// From what travels and is journalled: an absent part is empty
    pub(crate) fn from_parts(
        issuer: &[u8],
        serial: &[u8],
        spki: &[u8],
    ) -> Result<Self, EntryError> {
        let hash = match spki.is_empty() {
            true => None,
            false => Some(SpkiHash::from_bytes(spki)?),
        };
        match (issuer.is_empty(), serial.is_empty(), hash) {
            (true, true, Some(key)) => Ok(Self::key(key)),
            (false, true, None) => Ok(Self::issuer(KeyId::from_bytes(issuer)?)),
            (false, false, spki) => {
                let serial = SerialNumber::from_bytes(serial)?;
                Ok(Self { spki, ..Self::certificate(KeyId::from_bytes(issuer)?, serial) })
            }
            _ => Err(EntryError::Target),
        }
    }

    /// The issuer's key and the serial number
    pub fn named_certificate(&self) -> Option<&(KeyId, SerialNumber)> {
        self.certificate.as_ref()
    }

    /// The key
    pub fn named_key(&self) -> Option<&SpkiHash> {
        self.spki.as_ref()
    }

    /// The issuing key, where all it has signed is meant
    pub fn named_issuer(&self) -> Option<&KeyId> {
        self.issuer.as_ref()
    }

    /// The order of lists, as the schema has it: issuer, serial number, key; what is absent comes first
    fn place(&self) -> (Option<&KeyId>, Option<&SerialNumber>, Option<&SpkiHash>) {
        let (issuer, serial) = match &self.certificate {
            Some((issuer, serial)) => (Some(issuer), Some(serial)),
            None => (self.issuer.as_ref(), None),
        };
        (issuer, serial, self.spki.as_ref())
    }
}

impl Ord for Target {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for Target {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Why something was revoked (RFC 5280 section 5.3.1). There is no hold: a certificate of a day is renewed
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(i32)]
pub enum Reason {
    /// Not said
    Unspecified = 0,
    /// Somebody else has the key
    KeyCompromise = 1,
    /// Somebody else has the issuer's key
    CaCompromise = 2,
    /// The subject is somebody else now
    AffiliationChanged = 3,
    /// Another certificate took its place
    Superseded = 4,
    /// The subject is no more
    CessationOfOperation = 5,
    /// The subject may no longer
    PrivilegeWithdrawn = 9,
}

impl Reason {
    /// Every reason
    pub const ALL: [Self; 7] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// The number of RFC 5280
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The reason behind a number
    pub fn from_code(code: i32) -> Result<Self, EntryError> {
        Self::ALL.into_iter().find(|reason| reason.code() == code).ok_or(EntryError::Reason)
    }

    /// The label used in logs, metrics and JSON
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key_compromise",
            Self::CaCompromise => "ca_compromise",
            Self::AffiliationChanged => "affiliation_changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation_of_operation",
            Self::PrivilegeWithdrawn => "privilege_withdrawn",
        }
    }
}

/// One revocation
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// What is refused
    pub target: Target,
    /// Why
    pub reason: Reason,
    /// Since when, seconds since 1970
    pub revoked_at: u64,
    /// End of the certificate, seconds since 1970; of a key, the end of the last certificate for it; of an issuing
    /// key, the end of its own certificate
    pub ends_at: u64,
}

impl Entry {
    /// An entry for `target`, revoked now, whose certificate ends at `ends`
    pub fn new(target: Target, reason: Reason, revoked: SystemTime, ends: SystemTime) -> Self {
        Self { target, reason, revoked_at: unix_seconds(revoked), ends_at: unix_seconds(ends) }
    }

    /// Whether the entry has to be remembered at this time
    pub fn is_live(&self, at: SystemTime) -> bool {
        at <= seconds(self.ends_at) + RETAIN_AFTER_END
    }

    pub(super) fn to_wire(&self) -> wire::Entry {
        let (issuer, serial) = match self.target.named_certificate() {
            Some((issuer, serial)) => (issuer.0.to_vec(), serial.0.clone()),
            None => (self.target.issuer.map(|key| key.0.to_vec()).unwrap_or_default(), Vec::new()),
        };
        wire::Entry {
            serial,
            issuer_key_id: issuer,
            spki_sha256: self.target.spki.map(|spki| spki.0.to_vec()).unwrap_or_default(),
            reason: self.reason.code(),
            revoked_at: self.revoked_at,
            ends_at: self.ends_at,
        }
    }

    pub(super) fn from_wire(entry: &wire::Entry) -> Result<Self, EntryError> {
        let target = Target::from_parts(&entry.issuer_key_id, &entry.serial, &entry.spki_sha256)?;
        if target.named_certificate().is_some_and(|(_, serial)| serial.0 != entry.serial) {
            // One certificate, one name
            return Err(EntryError::Serial);
        }
        let reason = Reason::from_code(entry.reason)?;
        if entry.ends_at == 0 || entry.ends_at.max(entry.revoked_at) > LATEST_SECONDS {
            return Err(EntryError::Time);
        }
        Ok(Self { target, reason, revoked_at: entry.revoked_at, ends_at: entry.ends_at })
    }
}

/// The instant behind seconds since 1970; only for numbers that were checked against [`LATEST_SECONDS`]
pub(super) fn seconds(since_1970: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(since_1970.min(LATEST_SECONDS))
}

/// Whether a number of seconds is a time that certificates can carry
pub(super) fn is_reasonable(since_1970: u64) -> bool {
    (1..=LATEST_SECONDS).contains(&since_1970)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_equal_when_their_numbers_are() {
        let one = SerialNumber::from_bytes(&[0, 0, 0x1a, 0x2b]).unwrap();
        assert_eq!(one, SerialNumber::from_text("1A2b").unwrap());
        assert_eq!(one.to_string(), "1a2b");
        for wrong in ["", "00", "1a2", "xx", &"11".repeat(21)] {
            assert_eq!(SerialNumber::from_text(wrong), Err(EntryError::Serial), "{wrong}");
        }
        assert!(SerialNumber::from_text(&"11".repeat(20)).is_ok());
    }

    #[test]
    fn entries_survive_the_wire_and_nonsense_is_refused_by_its_name() {
        let issuer = KeyId::from_bytes(&[1; 20]).unwrap();
        let serial = SerialNumber::from_bytes(&[0x7f, 1]).unwrap();
        let spki = SpkiHash::of(b"key");
        let targets = [
            Target::certificate(issuer, serial.clone()),
            Target::key(spki),
            Target::certificate_and_key(issuer, serial, spki),
            Target::issuer(issuer),
        ];
        for (target, reason) in targets.into_iter().cycle().zip(Reason::ALL) {
            let entry = Entry { target, reason, revoked_at: 5, ends_at: 9 };
            assert_eq!(Entry::from_wire(&entry.to_wire()), Ok(entry));
        }
        let good = Entry {
            target: Target::certificate(issuer, SerialNumber::from_bytes(&[9]).unwrap()),
            reason: Reason::Superseded,
            revoked_at: 5,
            ends_at: 9,
        };
        type Spoil = fn(&mut wire::Entry);
        let mistakes: [(Spoil, EntryError); 10] = [
            (|e| (e.serial.clear(), e.spki_sha256 = vec![1; 32]).0, EntryError::Target),
            (|e| e.issuer_key_id.clear(), EntryError::Target),
            (|e| (e.serial.clear(), e.issuer_key_id.clear()).0, EntryError::Target),
            (|e| e.serial = vec![0, 9], EntryError::Serial),
            (|e| e.serial = vec![9; 21], EntryError::Serial),
            (|e| e.issuer_key_id = vec![1; 19], EntryError::KeyId),
            (|e| e.spki_sha256 = vec![1; 31], EntryError::Spki),
            (|e| e.reason = 6, EntryError::Reason),
            (|e| e.ends_at = 0, EntryError::Time),
            (|e| e.revoked_at = u64::MAX, EntryError::Time),
        ];
        for (spoil, expected) in mistakes {
            let mut spoilt = good.to_wire();
            spoil(&mut spoilt);
            assert_eq!(Entry::from_wire(&spoilt), Err(expected), "{spoilt:?}");
        }
    }

    #[test]
    fn targets_are_in_the_order_of_the_schema() {
        let key_id = |octet| KeyId::from_bytes(&[octet; 20]).unwrap();
        let serial = |octet| SerialNumber::from_bytes(&[octet]).unwrap();
        let spki = SpkiHash::of(b"key");
        let ordered = [
            Target::key(spki),
            Target::issuer(key_id(1)),
            Target::certificate(key_id(1), serial(3)),
            Target::certificate_and_key(key_id(1), serial(3), spki),
            Target::certificate(key_id(1), serial(4)),
            Target::issuer(key_id(2)),
        ];
        assert!(ordered.is_sorted());
        assert_eq!(std::collections::BTreeSet::from(ordered).len(), 6);
    }

    #[test]
    fn an_entry_lives_until_its_certificate_has_ended_for_an_hour() {
        let entry = Entry {
            target: Target::key(SpkiHash::of(b"key")),
            reason: Reason::Unspecified,
            revoked_at: 1,
            ends_at: 1_000,
        };
        assert!(entry.is_live(seconds(1_000) + RETAIN_AFTER_END));
        assert!(!entry.is_live(seconds(1_001) + RETAIN_AFTER_END));
    }
}
