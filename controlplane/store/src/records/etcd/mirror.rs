//! All records in memory as the cluster had them at one revision, with the orders in which they are asked for.
//! Pure: events come in, answers go out. How far it must be before it may answer is decided by its owner.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};

use super::super::{
    CertificateQuery, CertificateRecord, IdempotentResult, IssuedCertificate, PAGE_LIMIT, Page,
    PageToken, PolicyDocument, PolicyVersion, RecordsError, Revocation, RevocationQuery,
    RevocationReason, Serial,
};
use super::keys::{self, JournalValue, Keys, Place};
use crate::journal::JournalId;

/// End of validity and serial: the order of every page of certificates
type Order = (u64, Serial);

/// A result and the revision that made it
#[derive(Clone, Debug)]
struct Answered {
    result: IdempotentResult,
    mod_revision: i64,
}

/// The records
#[derive(Debug, Default)]
pub(super) struct Mirror {
    journals: BTreeMap<[u8; 16], JournalValue>,
    certificates: BTreeMap<Serial, (IssuedCertificate, u64)>,
    by_end: BTreeSet<Order>,
    by_name: BTreeSet<(String, Order)>,
    by_spki: BTreeSet<([u8; 32], Order)>,
    revocations: BTreeMap<Serial, (u64, RevocationReason, u64)>,
    results: BTreeMap<Vec<u8>, Answered>,
    policies: BTreeMap<(String, u64), PolicyDocument>,
}

fn bad_token() -> RecordsError {
    RecordsError::Invalid("the page token is not one of this question".into())
}

fn page_size(limit: usize) -> usize {
    if limit == 0 { PAGE_LIMIT } else { limit.min(PAGE_LIMIT) }
}

/// One more than fits is enough to know that there are more
fn page<T>(items: impl Iterator<Item = T>, limit: usize, key: impl Fn(&T) -> Vec<u8>) -> Page<T> {
    let size = page_size(limit);
    let mut items: Vec<T> = items.take(size + 1).collect();
    let more = items.len() > size;
    items.truncate(size);
    let next = items.last().filter(|_| more).map(|last| PageToken(key(last)));
    Page { items, next }
}

impl Mirror {
    /// Takes over a key as it stands now
    pub(super) fn put(
        &mut self,
        keys: &Keys,
        key: &[u8],
        value: &[u8],
        mod_revision: i64,
    ) -> Result<(), RecordsError> {
        match keys.place(key)? {
            Place::Head => {}
            Place::Journal(journal) => {
                self.journals.insert(*journal.as_bytes(), keys::read_journal(value)?);
            }
            Place::Certificate(serial) => {
                let (certificate, sequence) = keys::read_certificate(serial.clone(), value)?;
                self.remove_certificate(&serial);
                self.index(&certificate);
                self.certificates.insert(serial, (certificate, sequence));
            }
            Place::Revocation(serial) => {
                self.revocations.insert(serial, keys::read_revocation(value)?);
            }
            Place::Result(key) => {
                let result = keys::read_result(key.clone(), value)?;
                self.results.insert(key, Answered { result, mod_revision });
            }
            Place::Policy(name, version) => {
                let document = keys::read_policy(name.clone(), version, value)?;
                self.policies.insert((name, version), document);
            }
        }
        Ok(())
    }

    /// A key is no more
    pub(super) fn delete(&mut self, keys: &Keys, key: &[u8]) -> Result<(), RecordsError> {
        match keys.place(key)? {
            Place::Head => {}
            Place::Journal(journal) => drop(self.journals.remove(journal.as_bytes())),
            Place::Certificate(serial) => self.remove_certificate(&serial),
            Place::Revocation(serial) => drop(self.revocations.remove(&serial)),
            Place::Result(key) => drop(self.results.remove(&key)),
            Place::Policy(name, version) => drop(self.policies.remove(&(name, version))),
        }
        Ok(())
    }

    fn index(&mut self, certificate: &IssuedCertificate) {
        let order = (certificate.not_after, certificate.serial.clone());
        for name in std::iter::once(&certificate.subject_node).chain(&certificate.dns_names) {
            self.by_name.insert((name.clone(), order.clone()));
        }
        self.by_spki.insert((certificate.spki_sha256, order.clone()));
        self.by_end.insert(order);
    }

    fn remove_certificate(&mut self, serial: &Serial) {
        let Some((certificate, _)) = self.certificates.remove(serial) else { return };
        let order = (certificate.not_after, certificate.serial.clone());
        for name in std::iter::once(&certificate.subject_node).chain(&certificate.dns_names) {
            self.by_name.remove(&(name.clone(), order.clone()));
        }
        self.by_spki.remove(&(certificate.spki_sha256, order.clone()));
        self.by_end.remove(&order);
    }

    pub(super) fn applied_through(&self, journal: &JournalId) -> u64 {
        self.journals.get(journal.as_bytes()).map_or(0, |value| value.applied_through)
    }

    pub(super) fn certificate(&self, serial: &Serial) -> Option<CertificateRecord> {
        let (certificate, sequence) = self.certificates.get(serial)?.clone();
        let revoked = self.revocations.get(serial).map(|(at, reason, _)| (*at, *reason));
        Some(CertificateRecord { certificate, revoked, sequence })
    }

    pub(super) fn certificates(
        &self,
        query: &CertificateQuery,
    ) -> Result<Page<CertificateRecord>, RecordsError> {
        let after = match &query.page {
            None => None,
            Some(PageToken(token)) => {
                let (end, serial) = token.split_first_chunk::<8>().ok_or_else(bad_token)?;
                let serial = Serial::new(serial).map_err(|_serial| bad_token())?;
                Some((u64::from_be_bytes(*end), serial))
            }
        };
        let records = self
            .candidates(query, after)
            .filter_map(|(_, serial)| self.certificate(serial))
            .filter(|record| matches(query, record));
        Ok(page(records, query.limit, |record| {
            let end = record.certificate.not_after.to_be_bytes();
            [&end, record.certificate.serial.as_bytes()].concat()
        }))
    }

    /// By the condition that leaves the fewest, in the order of the page, behind where the last one ended
    fn candidates<'a>(
        &'a self,
        query: &'a CertificateQuery,
        after: Option<Order>,
    ) -> Box<dyn Iterator<Item = &'a Order> + 'a> {
        let from = query.not_after_from.unwrap_or(0);
        let before = query.not_after_before.unwrap_or(u64::MAX);
        let in_time = move |order: &&Order| order.0 >= from && order.0 < before;
        let goes_on = move |order: &&Order| after.as_ref().is_none_or(|after| *order > after);
        if let Some(name) = &query.name {
            let least = (name.clone(), (from, Serial::least()));
            let named = self.by_name.range(least..).take_while(move |(other, _)| other == name);
            return Box::new(named.map(|(_, order)| order).filter(in_time).filter(goes_on));
        }
        if let Some(spki) = &query.spki_sha256 {
            let least = (*spki, (from, Serial::least()));
            let held = self.by_spki.range(least..).take_while(move |(other, _)| other == spki);
            return Box::new(held.map(|(_, order)| order).filter(in_time).filter(goes_on));
        }
        let first = (from, Serial::least());
        let ended = self.by_end.range(first..).take_while(move |order| order.0 < before);
        Box::new(ended.filter(goes_on))
    }

    pub(super) fn revocations(&self, query: &RevocationQuery) -> Page<Revocation> {
        let begin = match &query.page {
            None => Unbounded,
            Some(PageToken(token)) => match Serial::new(token) {
                Ok(serial) => Excluded(serial),
                // An empty token comes before every serial.
                Err(_) => Unbounded,
            },
        };
        let least = query.unexpired_at.unwrap_or(0);
        let revocations =
            self.revocations.range((begin, Unbounded)).filter_map(|(serial, value)| {
                let (revoked_at, reason, sequence) = *value;
                let not_after = self.certificates.get(serial).map(|(issued, _)| issued.not_after);
                let serial = serial.clone();
                let kept = not_after.is_none_or(|end| end >= least);
                kept.then_some(Revocation { serial, revoked_at, reason, not_after, sequence })
            });
        page(revocations, query.limit, |item| item.serial.as_bytes().to_vec())
    }

    pub(super) fn result(&self, key: &[u8], now: u64) -> Option<IdempotentResult> {
        let answered = self.results.get(key)?;
        (answered.result.expires_at >= now).then(|| answered.result.clone())
    }

    /// Keys of results that ended before `now`, with the revision of each, at most `most`
    pub(super) fn ended_results(&self, now: u64, most: usize) -> Vec<(Vec<u8>, i64)> {
        let ended = self.results.iter().filter(|(_, answered)| answered.result.expires_at < now);
        ended.map(|(key, answered)| (key.clone(), answered.mod_revision)).take(most).collect()
    }

    pub(super) fn policy(&self, name: &str, version: Option<u64>) -> Option<PolicyDocument> {
        let (least, most) = version.map_or((0, u64::MAX), |version| (version, version));
        let range = (Included((name.to_owned(), least)), Included((name.to_owned(), most)));
        self.policies.range(range).next_back().map(|(_, document)| document.clone())
    }

    pub(super) fn has_policy(&self, name: &str, version: u64) -> bool {
        self.policies.contains_key(&(name.to_owned(), version))
    }

    pub(super) fn policies(
        &self,
        limit: usize,
        token: Option<&PageToken>,
    ) -> Result<Page<PolicyVersion>, RecordsError> {
        let begin = match token {
            None => Unbounded,
            Some(PageToken(token)) => {
                let (version, name) = token.split_first_chunk::<8>().ok_or_else(bad_token)?;
                let name = String::from_utf8(name.to_vec()).map_err(|_text| bad_token())?;
                Excluded((name, u64::from_be_bytes(*version)))
            }
        };
        let versions =
            self.policies.range((begin, Unbounded)).map(|((name, version), document)| {
                let stored_at = document.stored_at;
                PolicyVersion { name: name.clone(), version: *version, stored_at }
            });
        Ok(page(versions, limit, |item| {
            [&item.version.to_be_bytes()[..], item.name.as_bytes()].concat()
        }))
    }
}

/// The conditions that no order answers
fn matches(query: &CertificateQuery, record: &CertificateRecord) -> bool {
    let certificate = &record.certificate;
    let named =
        |name: &String| certificate.subject_node == *name || certificate.dns_names.contains(name);
    query.name.as_ref().is_none_or(named)
        && query.spki_sha256.is_none_or(|spki| certificate.spki_sha256 == spki)
        && query.issuer_key_id.as_ref().is_none_or(|id| certificate.issuer_key_id == *id)
        && query.profile.as_ref().is_none_or(|profile| certificate.profile == *profile)
        && query.state.is_none_or(|(state, now)| record.state(now) == state)
}
