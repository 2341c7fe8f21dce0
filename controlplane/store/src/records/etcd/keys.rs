//! Where each record stands in the cluster and how its value is written. One room of keys per prefix; nothing is
//! asked or decided here.

use prost::Message;

use super::super::{
    IdempotentResult, IssuedCertificate, PolicyDocument, RecordsError, RevocationReason, Serial,
};
use crate::journal::JournalId;

/// Ends a policy's name within its key; no name holds control characters
const NAME_END: u8 = 0;

/// The keys of one set of records
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Vec<u8>,
}

/// Which record a key is for
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// Changed with every write, so that its revision says how far readers must be
    Head,
    Journal(JournalId),
    Certificate(Serial),
    Revocation(Serial),
    Result(Vec<u8>),
    Policy(String, u64),
}

/// Kinds of records and how many fit on one page when they are listed; large values take small pages
pub(super) const KINDS: [(u8, i64); 6] =
    [(b'h', 1), (b'j', 500), (b'c', 500), (b'r', 500), (b'a', 200), (b'p', 16)];

fn damaged(what: &str) -> RecordsError {
    RecordsError::Damaged(format!("the cluster holds a {what} that makes no sense"))
}

impl Keys {
    /// Keys behind a prefix, which ends in a slash
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.as_bytes().to_vec() }
    }

    fn key(&self, kind: u8, rest: &[u8]) -> Vec<u8> {
        [&self.prefix, &[kind, b'/'][..], rest].concat()
    }

    pub(super) fn head(&self) -> Vec<u8> {
        self.key(b'h', b"")
    }

    pub(super) fn journal(&self, journal: &JournalId) -> Vec<u8> {
        self.key(b'j', journal.as_bytes())
    }

    pub(super) fn certificate(&self, serial: &Serial) -> Vec<u8> {
        self.key(b'c', serial.as_bytes())
    }

    pub(super) fn revocation(&self, serial: &Serial) -> Vec<u8> {
        self.key(b'r', serial.as_bytes())
    }

    pub(super) fn result(&self, key: &[u8]) -> Vec<u8> {
        self.key(b'a', key)
    }

    pub(super) fn policy(&self, name: &str, version: u64) -> Vec<u8> {
        self.key(b'p', &[name.as_bytes(), &[NAME_END], &version.to_be_bytes()].concat())
    }

    /// All keys: from the first to before the second
    pub(super) fn everything(&self) -> (Vec<u8>, Vec<u8>) {
        (self.prefix.clone(), behind(&self.prefix))
    }

    /// All keys of a kind
    pub(super) fn of_kind(&self, kind: u8) -> (Vec<u8>, Vec<u8>) {
        let first = self.key(kind, b"");
        let end = behind(&first);
        (first, end)
    }

    /// What a key is for
    pub(super) fn place(&self, key: &[u8]) -> Result<Place, RecordsError> {
        let bad = || damaged("key");
        let rest = key.strip_prefix(&self.prefix[..]).ok_or_else(bad)?;
        let ([kind, b'/'], rest) = rest.split_first_chunk::<2>().ok_or_else(bad)? else {
            return Err(bad());
        };
        match kind {
            b'h' => Ok(Place::Head),
            b'j' => rest
                .try_into()
                .map(|id| Place::Journal(JournalId::from_bytes(id)))
                .map_err(|_length| bad()),
            b'c' => Ok(Place::Certificate(Serial::new(rest)?)),
            b'r' => Ok(Place::Revocation(Serial::new(rest)?)),
            b'a' => Ok(Place::Result(rest.to_vec())),
            b'p' => {
                let (rest, version) = rest.split_last_chunk::<8>().ok_or_else(bad)?;
                let name = rest.strip_suffix(&[NAME_END]).ok_or_else(bad)?;
                let name = String::from_utf8(name.to_vec()).map_err(|_text| bad())?;
                Ok(Place::Policy(name, u64::from_be_bytes(*version)))
            }
            _ => Err(bad()),
        }
    }
}

/// The first key behind all that begin so; a prefix ends in a slash, so its last octet can grow
pub(super) fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

/// How far a journal was applied
#[derive(Clone, PartialEq, Message)]
pub(super) struct JournalValue {
    /// The last entry all of whose changes are applied
    #[prost(uint64, tag = "1")]
    pub(super) applied_through: u64,
    /// Changes of the next entry that are applied; only where one entry does not fit into a transaction
    #[prost(uint64, tag = "2")]
    pub(super) partial: u64,
    /// Random, of the write that made this: whoever lost an answer knows its own write again
    #[prost(bytes = "vec", tag = "3")]
    pub(super) write: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct CertificateValue {
    #[prost(string, tag = "1")]
    subject_node: String,
    #[prost(string, repeated, tag = "2")]
    dns_names: Vec<String>,
    #[prost(string, tag = "3")]
    profile: String,
    #[prost(bytes = "vec", tag = "4")]
    spki_sha256: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    issuer_key_id: Vec<u8>,
    #[prost(uint64, tag = "6")]
    not_before: u64,
    #[prost(uint64, tag = "7")]
    not_after: u64,
    #[prost(uint64, tag = "8")]
    log_index: u64,
    #[prost(uint64, tag = "9")]
    sequence: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RevocationValue {
    #[prost(uint64, tag = "1")]
    revoked_at: u64,
    #[prost(uint32, tag = "2")]
    reason: u32,
    #[prost(uint64, tag = "3")]
    sequence: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ResultValue {
    #[prost(bytes = "vec", tag = "1")]
    result: Vec<u8>,
    #[prost(uint64, tag = "2")]
    expires_at: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PolicyValue {
    #[prost(bytes = "vec", tag = "1")]
    body: Vec<u8>,
    #[prost(uint64, tag = "2")]
    stored_at: u64,
}

pub(super) fn certificate_value(certificate: &IssuedCertificate, sequence: u64) -> Vec<u8> {
    CertificateValue {
        subject_node: certificate.subject_node.clone(),
        dns_names: certificate.dns_names.clone(),
        profile: certificate.profile.clone(),
        spki_sha256: certificate.spki_sha256.to_vec(),
        issuer_key_id: certificate.issuer_key_id.clone(),
        not_before: certificate.not_before,
        not_after: certificate.not_after,
        log_index: certificate.log_index,
        sequence,
    }
    .encode_to_vec()
}

/// The certificate and the entry that issued it
pub(super) fn read_certificate(
    serial: Serial,
    value: &[u8],
) -> Result<(IssuedCertificate, u64), RecordsError> {
    let bad = || damaged("certificate");
    let value = CertificateValue::decode(value).map_err(|_wire| bad())?;
    let certificate = IssuedCertificate {
        serial,
        subject_node: value.subject_node,
        dns_names: value.dns_names,
        profile: value.profile,
        spki_sha256: value.spki_sha256.try_into().map_err(|_length| bad())?,
        issuer_key_id: value.issuer_key_id,
        not_before: value.not_before,
        not_after: value.not_after,
        log_index: value.log_index,
    };
    certificate.check()?;
    Ok((certificate, value.sequence))
}

pub(super) fn revocation_value(
    revoked_at: u64,
    reason: RevocationReason,
    sequence: u64,
) -> Vec<u8> {
    RevocationValue { revoked_at, reason: reason.code().into(), sequence }.encode_to_vec()
}

/// When, why and the entry that revoked
pub(super) fn read_revocation(value: &[u8]) -> Result<(u64, RevocationReason, u64), RecordsError> {
    let bad = || damaged("revocation");
    let value = RevocationValue::decode(value).map_err(|_wire| bad())?;
    let code = u8::try_from(value.reason).map_err(|_range| bad())?;
    let reason = RevocationReason::from_code(code).ok_or_else(bad)?;
    Ok((value.revoked_at, reason, value.sequence))
}

pub(super) fn result_value(answered: &IdempotentResult) -> Vec<u8> {
    ResultValue { result: answered.result.clone(), expires_at: answered.expires_at }.encode_to_vec()
}

pub(super) fn read_result(key: Vec<u8>, value: &[u8]) -> Result<IdempotentResult, RecordsError> {
    let value = ResultValue::decode(value).map_err(|_wire| damaged("result"))?;
    Ok(IdempotentResult { key, result: value.result, expires_at: value.expires_at })
}

pub(super) fn policy_value(document: &PolicyDocument) -> Vec<u8> {
    PolicyValue { body: document.body.clone(), stored_at: document.stored_at }.encode_to_vec()
}

pub(super) fn read_policy(
    name: String,
    version: u64,
    value: &[u8],
) -> Result<PolicyDocument, RecordsError> {
    let value = PolicyValue::decode(value).map_err(|_wire| damaged("policy"))?;
    Ok(PolicyDocument { name, version, body: value.body, stored_at: value.stored_at })
}

pub(super) fn read_journal(value: &[u8]) -> Result<JournalValue, RecordsError> {
    JournalValue::decode(value).map_err(|_wire| damaged("journal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_found_again_from_its_key() {
        let keys = Keys::new("a/b/");
        let serial = Serial::new(&[7; 16]).unwrap();
        let journal = JournalId::from_bytes([9; 16]);
        let places = [
            (keys.head(), Place::Head),
            (keys.journal(&journal), Place::Journal(journal)),
            (keys.certificate(&serial), Place::Certificate(serial.clone())),
            (keys.revocation(&serial), Place::Revocation(serial)),
            (keys.result(b"x/\0"), Place::Result(b"x/\0".to_vec())),
            (keys.policy("reach/é", 3), Place::Policy("reach/é".into(), 3)),
        ];
        let (first, end) = keys.everything();
        for (key, place) in places {
            assert_eq!(keys.place(&key), Ok(place));
            assert!(first <= key && key < end);
            let kind = key[first.len()];
            let (first, end) = keys.of_kind(kind);
            assert!(first <= key && key < end);
            assert!(KINDS.iter().any(|(known, _)| *known == kind));
        }
        for bad in ["a/b/", "a/b/x/1", "a/b/j/short", "a/c/h/", "a/b/c/", "a/b/p/name"] {
            assert!(keys.place(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
