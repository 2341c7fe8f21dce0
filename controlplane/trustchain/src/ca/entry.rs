//! Everything the authority's journal can say, as one enum: the kind is the journal's own number, the content a
//! protobuf message (`Log` excepted, which is the log's record as it is). Kinds and field numbers are never used
//! again for something else. What an entry leads to is known where it is replayed.

use prost::Message;
use stoq_store::journal::{ENTRY_LIMIT_BYTES, EntryKind, NewEntry};

const LOG: EntryKind = EntryKind(1);
const ISSUED: EntryKind = EntryKind(2);
const TOKEN_USED: EntryKind = EntryKind(3);
const ENROLLED: EntryKind = EntryKind(4);
const REGISTERED: EntryKind = EntryKind(5);
const UNREGISTERED: EntryKind = EntryKind(6);
const RENEW_ALL: EntryKind = EntryKind(7);
const REVOKED: EntryKind = EntryKind(8);
const DENY_LIST_ISSUED: EntryKind = EntryKind(9);
const CRL_ISSUED: EntryKind = EntryKind(10);
const AUDIT: EntryKind = EntryKind(11);
const POLICY: EntryKind = EntryKind(12);
const ISSUING_KEY: EntryKind = EntryKind(13);

/// One entry
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A record of the transparency log (`log::record`)
    Log(Vec<u8>),
    /// A certificate was issued. It stands in the same group as the log's batch that has its precertificate.
    Issued(Issued),
    /// A join token was used, by the certificate issued in the same group
    TokenUsed(TokenUsed),
    /// A node enrolled, with the certificate issued in the same group
    Enrolled(Enrolled),
    /// An operator registered something certificates may name, or changed it
    Registered(Registered),
    /// A registration was taken back
    Unregistered(Unregistered),
    /// The renewal of everything issued up to now was moved
    RenewAll(RenewAll),
    /// A certificate or a key was revoked
    Revoked(Revoked),
    /// An epoch of the deny-list is about to be published; nothing is published before this is durable
    DenyListIssued(DenyListIssued),
    /// A CRL is about to be published; nothing is published before this is durable
    CrlIssued(CrlIssued),
    /// A record of the audit log
    Audit(Audit),
    /// A policy document came into force
    Policy(PolicyStored),
    /// An issuing key was taken in, took a step of its life, or has another certificate
    IssuingKey(IssuingKeyChanged),
}

/// [`Entry::Issued`]; times in seconds since 1970 unless they say otherwise
#[derive(Clone, PartialEq, Message)]
pub struct Issued {
    /// Serial number, big-endian without leading zero octets
    #[prost(bytes = "vec", tag = "1")]
    pub serial: Vec<u8>,
    /// Name of the profile
    #[prost(string, tag = "2")]
    pub profile: String,
    /// Whom it names, without zone
    #[prost(string, tag = "3")]
    pub subject: String,
    /// DNS names of the certificate
    #[prost(string, repeated, tag = "4")]
    pub dns_names: Vec<String>,
    /// SHA-256 of the SubjectPublicKeyInfo
    #[prost(bytes = "vec", tag = "5")]
    pub spki_sha256: Vec<u8>,
    /// Key identifier of the issuing key
    #[prost(bytes = "vec", tag = "6")]
    pub issuer_key_id: Vec<u8>,
    /// First second of validity
    #[prost(uint64, tag = "7")]
    pub not_before: u64,
    /// Last second of validity
    #[prost(uint64, tag = "8")]
    pub not_after: u64,
    /// Index of its entry in the log
    #[prost(uint64, tag = "9")]
    pub leaf_index: u64,
    /// Time of that entry, in milliseconds since 1970
    #[prost(uint64, tag = "10")]
    pub timestamp_ms: u64,
    /// What the request is known by: SHA-256 over the hash of the key, the profile and the caller's own key
    #[prost(bytes = "vec", tag = "11")]
    pub request: Vec<u8>,
    /// Who asked: the label of the credential
    #[prost(string, tag = "12")]
    pub credential: String,
    /// Who asked: the token, the serial, the node or the operator
    #[prost(string, tag = "13")]
    pub requested_by: String,
    /// Shard of its CRL
    #[prost(uint32, tag = "14")]
    pub crl_shard: u32,
    /// Where a node says it listens for STOQ, if it said so
    #[prost(string, tag = "15")]
    pub stoq_address: String,
}

/// [`Entry::TokenUsed`]
#[derive(Clone, PartialEq, Message)]
pub struct TokenUsed {
    /// The token's public name
    #[prost(string, tag = "1")]
    pub id: String,
    /// Until when it might have been used; it need not be remembered longer
    #[prost(uint64, tag = "2")]
    pub expires: u64,
    /// What used it, as in [`Issued::request`]
    #[prost(bytes = "vec", tag = "3")]
    pub request: Vec<u8>,
}

/// [`Entry::Enrolled`]
#[derive(Clone, PartialEq, Message)]
pub struct Enrolled {
    /// The node
    #[prost(string, tag = "1")]
    pub node: String,
    /// The addresses its certificates may carry, as an operator granted them
    #[prost(string, repeated, tag = "2")]
    pub addresses: Vec<String>,
    /// SubjectPublicKeyInfo of the key it enrolled with
    #[prost(bytes = "vec", tag = "3")]
    pub key_spki_der: Vec<u8>,
}

/// [`Entry::Registered`]; see `api::Registration`
#[derive(Clone, PartialEq, Message)]
pub struct Registered {
    /// Name of the profile
    #[prost(string, tag = "1")]
    pub profile: String,
    /// Its name
    #[prost(string, tag = "2")]
    pub subject: String,
    /// The node that owns it; empty: the operator alone
    #[prost(string, tag = "3")]
    pub owner: String,
    /// Addresses
    #[prost(string, repeated, tag = "4")]
    pub addresses: Vec<String>,
    /// Whether the profile's alternative names are carried
    #[prost(bool, tag = "5")]
    pub alternative_names: bool,
}

/// [`Entry::Unregistered`]
#[derive(Clone, PartialEq, Message)]
pub struct Unregistered {
    /// Name of the profile
    #[prost(string, tag = "1")]
    pub profile: String,
    /// Its name
    #[prost(string, tag = "2")]
    pub subject: String,
}

/// [`Entry::RenewAll`]; times in seconds since 1970
#[derive(Clone, Copy, PartialEq, Message)]
pub struct RenewAll {
    /// Certificates issued up to here are meant; in milliseconds since 1970
    #[prost(uint64, tag = "1")]
    pub issued_until_ms: u64,
    /// First second of the window
    #[prost(uint64, tag = "2")]
    pub start: u64,
    /// Last second of the window
    #[prost(uint64, tag = "3")]
    pub end: u64,
}

/// [`Entry::Revoked`]: a serial number with the key of its issuer, or a public key, or both, or an issuing key with
/// all it has signed; as `revocation::Entry`. Times in seconds since 1970.
#[derive(Clone, PartialEq, Message)]
pub struct Revoked {
    /// Serial number, big-endian without leading zero octets; empty: a key alone
    #[prost(bytes = "vec", tag = "1")]
    pub serial: Vec<u8>,
    /// Key identifier of the key that issued it; without a serial number, of the issuing key that is revoked
    #[prost(bytes = "vec", tag = "2")]
    pub issuer_key_id: Vec<u8>,
    /// SHA-256 of the SubjectPublicKeyInfo; empty: the certificate alone
    #[prost(bytes = "vec", tag = "3")]
    pub spki_sha256: Vec<u8>,
    /// CRLReason (RFC 5280 section 5.3.1)
    #[prost(uint32, tag = "4")]
    pub reason: u32,
    /// Since when
    #[prost(uint64, tag = "5")]
    pub revoked_at: u64,
    /// Last second of validity of what is revoked
    #[prost(uint64, tag = "6")]
    pub ends_at: u64,
    /// Who revoked it, for the audit log
    #[prost(string, tag = "7")]
    pub revoked_by: String,
}

/// [`Entry::DenyListIssued`]
#[derive(Clone, PartialEq, Message)]
pub struct DenyListIssued {
    /// Its number
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// When, in seconds since 1970
    #[prost(uint64, tag = "2")]
    pub issued_at: u64,
    /// Hash of its content
    #[prost(bytes = "vec", tag = "3")]
    pub content_sha256: Vec<u8>,
}

/// [`Entry::CrlIssued`]
#[derive(Clone, PartialEq, Message)]
pub struct CrlIssued {
    /// Key identifier of the issuing key
    #[prost(bytes = "vec", tag = "1")]
    pub issuer_key_id: Vec<u8>,
    /// Its shard
    #[prost(uint32, tag = "2")]
    pub shard: u32,
    /// Its number
    #[prost(uint64, tag = "3")]
    pub number: u64,
    /// When, in seconds since 1970
    #[prost(uint64, tag = "4")]
    pub issued_at: u64,
}

/// [`Entry::Audit`]
#[derive(Clone, PartialEq, Message)]
pub struct Audit {
    /// The record, as the audit log writes it
    #[prost(bytes = "vec", tag = "1")]
    pub record: Vec<u8>,
}

/// [`Entry::Policy`]
#[derive(Clone, PartialEq, Message)]
pub struct PolicyStored {
    /// Its name; what it begins with says what it is
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its number, counted by name
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// The document
    #[prost(bytes = "vec", tag = "3")]
    pub body: Vec<u8>,
    /// When, in seconds since 1970
    #[prost(uint64, tag = "4")]
    pub stored_at: u64,
}

/// [`Entry::IssuingKey`]: the key as it is from here on
#[derive(Clone, PartialEq, Message)]
pub struct IssuingKeyChanged {
    /// SHA-256 of its SubjectPublicKeyInfo
    #[prost(bytes = "vec", tag = "1")]
    pub spki_sha256: Vec<u8>,
    /// Its name where keys are kept
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its certificate
    #[prost(bytes = "vec", tag = "3")]
    pub certificate_der: Vec<u8>,
    /// 1 prepared, 2 active, 3 tainted, 4 revoked
    #[prost(uint32, tag = "4")]
    pub state: u32,
    /// Since when, in seconds since 1970
    #[prost(uint64, tag = "5")]
    pub since: u64,
    /// Why it is tainted: 1 replaced, 2 compromised, 0 it is not
    #[prost(uint32, tag = "6")]
    pub taint: u32,
}

/// Why an entry is none
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EntryError {
    /// Written by a later version, or by something else
    #[error("kind {0} is unknown; this journal was written by a later version")]
    Kind(u16),
    /// It does not parse
    #[error("an entry of kind {kind} does not parse: {reason}")]
    Malformed {
        /// Its kind
        kind: u16,
        /// What the parser said
        reason: String,
    },
}

impl Entry {
    /// What it is, in the journal's numbering
    pub const fn kind(&self) -> EntryKind {
        match self {
            Self::Log(_) => LOG,
            Self::Issued(_) => ISSUED,
            Self::TokenUsed(_) => TOKEN_USED,
            Self::Enrolled(_) => ENROLLED,
            Self::Registered(_) => REGISTERED,
            Self::Unregistered(_) => UNREGISTERED,
            Self::RenewAll(_) => RENEW_ALL,
            Self::Revoked(_) => REVOKED,
            Self::DenyListIssued(_) => DENY_LIST_ISSUED,
            Self::CrlIssued(_) => CRL_ISSUED,
            Self::Audit(_) => AUDIT,
            Self::Policy(_) => POLICY,
            Self::IssuingKey(_) => ISSUING_KEY,
        }
    }

    /// As the journal takes it
    pub fn encode(&self) -> NewEntry {
        let payload = match self {
            Self::Log(record) => record.clone(),
            Self::Issued(message) => message.encode_to_vec(),
            Self::TokenUsed(message) => message.encode_to_vec(),
            Self::Enrolled(message) => message.encode_to_vec(),
            Self::Registered(message) => message.encode_to_vec(),
            Self::Unregistered(message) => message.encode_to_vec(),
            Self::RenewAll(message) => message.encode_to_vec(),
            Self::Revoked(message) => message.encode_to_vec(),
            Self::DenyListIssued(message) => message.encode_to_vec(),
            Self::CrlIssued(message) => message.encode_to_vec(),
            Self::Audit(message) => message.encode_to_vec(),
            Self::Policy(message) => message.encode_to_vec(),
            Self::IssuingKey(message) => message.encode_to_vec(),
        };
        NewEntry { kind: self.kind(), payload }
    }

    /// Reads one; any octets may be given
    pub fn decode(kind: EntryKind, payload: &[u8]) -> Result<Self, EntryError> {
        if payload.len() > ENTRY_LIMIT_BYTES {
            let reason = format!("{} bytes are too long", payload.len());
            return Err(EntryError::Malformed { kind: kind.0, reason });
        }
        let read = match kind {
            LOG => Ok(Self::Log(payload.to_vec())),
            ISSUED => Issued::decode(payload).map(Self::Issued),
            TOKEN_USED => TokenUsed::decode(payload).map(Self::TokenUsed),
            ENROLLED => Enrolled::decode(payload).map(Self::Enrolled),
            REGISTERED => Registered::decode(payload).map(Self::Registered),
            UNREGISTERED => Unregistered::decode(payload).map(Self::Unregistered),
            RENEW_ALL => RenewAll::decode(payload).map(Self::RenewAll),
            REVOKED => Revoked::decode(payload).map(Self::Revoked),
            DENY_LIST_ISSUED => DenyListIssued::decode(payload).map(Self::DenyListIssued),
            CRL_ISSUED => CrlIssued::decode(payload).map(Self::CrlIssued),
            AUDIT => Audit::decode(payload).map(Self::Audit),
            POLICY => PolicyStored::decode(payload).map(Self::Policy),
            ISSUING_KEY => IssuingKeyChanged::decode(payload).map(Self::IssuingKey),
            EntryKind(unknown) => return Err(EntryError::Kind(unknown)),
        };
        read.map_err(|error| EntryError::Malformed { kind: kind.0, reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// One of each, with something in it
    fn all() -> Vec<Entry> {
        vec![
            Entry::Log(vec![3, 1, 4]),
            Entry::Issued(Issued { serial: vec![7], leaf_index: 9, ..Issued::default() }),
            Entry::TokenUsed(TokenUsed { id: "t".into(), expires: 5, request: vec![1] }),
            Entry::Enrolled(Enrolled { node: "alpha".into(), ..Enrolled::default() }),
            Entry::Registered(Registered { subject: "shop".into(), ..Registered::default() }),
            Entry::Unregistered(Unregistered { profile: "service".into(), subject: "s".into() }),
            Entry::RenewAll(RenewAll { issued_until_ms: 1, start: 2, end: 3 }),
            Entry::Revoked(Revoked { serial: vec![7], reason: 1, ..Revoked::default() }),
            Entry::DenyListIssued(DenyListIssued { epoch: 4, ..DenyListIssued::default() }),
            Entry::CrlIssued(CrlIssued { shard: 3, number: 8, ..CrlIssued::default() }),
            Entry::Audit(Audit { record: b"{}".to_vec() }),
            Entry::Policy(PolicyStored { version: 2, ..PolicyStored::default() }),
            Entry::IssuingKey(IssuingKeyChanged { state: 2, ..IssuingKeyChanged::default() }),
        ]
    }

    #[test]
    fn entries_read_back_and_no_two_kinds_share_a_number() {
        let mut kinds = BTreeSet::new();
        for entry in all() {
            let NewEntry { kind, payload } = entry.encode();
            assert!(kinds.insert(kind.0), "{entry:?}");
            assert_eq!(Entry::decode(kind, &payload), Ok(entry));
        }
        // A kind that was given once keeps its number.
        assert_eq!(kinds, (1..=13).collect());
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        assert_eq!(Entry::decode(EntryKind(900), &[]), Err(EntryError::Kind(900)));
        for kind in [ISSUED, REVOKED, AUDIT] {
            assert!(Entry::decode(kind, &[0xff; 5]).is_err());
            assert!(Entry::decode(kind, &vec![0; ENTRY_LIMIT_BYTES + 1]).is_err());
        }
    }
}
