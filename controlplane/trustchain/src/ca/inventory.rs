//! Asking what was issued: by serial number, name, key, state and expiry, in pages, in the form operators see. The
//! answers come from the records, which follow the journal; nothing is decided here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use stoq_store::Records;
use stoq_store::records::{
    CertificateQuery, CertificateRecord, CertificateState, PageToken, RecordsError,
    RevocationQuery, RevocationReason, Serial,
};

use super::api::{Ca, Refusal};
use crate::certificate::{hex, unhex, unix_seconds};

/// Certificates that one name or key may have in force when all of them are wanted at once
pub const LIVE_LIMIT: usize = 10_000;

/// Why there is no answer
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The authority runs without records
    #[error("this authority keeps no inventory; configure its records")]
    NoRecords,
    /// The records
    #[error("the inventory does not answer: {0}")]
    Records(#[from] RecordsError),
    /// The records do not reflect the journal yet
    #[error("the inventory is behind: {0}")]
    Behind(#[from] Refusal),
    /// A field of the question
    #[error("{0}")]
    Malformed(&'static str),
    /// Too many
    #[error("more than {LIVE_LIMIT} certificates are in force for that; narrow it down")]
    TooMany,
}

/// A question; every condition that is set must hold
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InventoryQuery {
    /// Serial number, hexadecimal
    pub serial: Option<String>,
    /// Subject or DNS name
    pub name: Option<String>,
    /// SHA-256 of the SubjectPublicKeyInfo, hexadecimal
    pub spki_sha256: Option<String>,
    /// Key identifier of the issuing key, hexadecimal
    pub issuer_key_id: Option<String>,
    /// Profile
    pub profile: Option<String>,
    /// State now
    pub state: Option<CertificateState>,
    /// Ends within this time from now, and has not ended
    pub expires_within: Option<Duration>,
    /// Ends at this time or later
    pub expires_from: Option<SystemTime>,
    /// Ends before this time
    pub expires_before: Option<SystemTime>,
    /// Most rows; zero is the most there can be
    pub limit: usize,
    /// Where the last page ended, as [`InventoryPage::next`] said
    pub page: Option<String>,
}

/// A certificate as operators see it; times in seconds since 1970
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct InventoryRow {
    /// Serial number, hexadecimal
    pub serial: String,
    /// Whom it names
    pub subject: String,
    /// DNS names
    pub dns_names: Vec<String>,
    /// Profile
    pub profile: String,
    /// SHA-256 of the SubjectPublicKeyInfo, hexadecimal
    pub spki_sha256: String,
    /// Key identifier of the issuing key, hexadecimal
    pub issuer_key_id: String,
    /// First second of validity
    pub not_before: u64,
    /// Last second of validity
    pub not_after: u64,
    /// Index in the transparency log
    pub leaf_index: u64,
    /// `valid`, `revoked` or `expired`
    pub state: &'static str,
    /// When it was revoked
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<u64>,
    /// Why, as the CRLReason
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<u8>,
    /// The journal entry that issued it
    pub sequence: u64,
}

/// Rows in the order of their end
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct InventoryPage {
    /// The rows
    pub rows: Vec<InventoryRow>,
    /// Where to go on
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A revocation as operators see it; times in seconds since 1970
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct RevocationRow {
    /// Serial number, hexadecimal
    pub serial: String,
    /// When
    pub revoked_at: u64,
    /// Why, as the CRLReason
    pub reason: u8,
    /// Last second of validity, if it is in the inventory
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<u64>,
}

/// The label used in tables and JSON
pub const fn state_label(state: CertificateState) -> &'static str {
    match state {
        CertificateState::Valid => "valid",
        CertificateState::Revoked => "revoked",
        CertificateState::Expired => "expired",
    }
}

/// The state behind a label
pub fn state_of_label(label: &str) -> Option<CertificateState> {
    [CertificateState::Valid, CertificateState::Revoked, CertificateState::Expired]
        .into_iter()
        .find(|state| state_label(*state) == label)
}

fn row(record: CertificateRecord, now: u64) -> InventoryRow {
    let state = state_label(record.state(now));
    let (revoked_at, reason) = record.revoked.unzip();
    let it = record.certificate;
    InventoryRow {
        serial: it.serial.to_string(),
        subject: it.subject_node,
        dns_names: it.dns_names,
        profile: it.profile,
        spki_sha256: hex(&it.spki_sha256),
        issuer_key_id: hex(&it.issuer_key_id),
        not_before: it.not_before,
        not_after: it.not_after,
        leaf_index: it.log_index,
        state,
        revoked_at,
        reason: reason.map(RevocationReason::code),
        sequence: record.sequence,
    }
}

/// The inventory of an authority. Cheap to clone.
#[derive(Clone)]
pub struct Inventory {
    records: Arc<dyn Records>,
    ca: Option<Ca>,
}

impl std::fmt::Debug for Inventory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inventory")
    }
}

impl Inventory {
    /// Of an authority that runs
    pub fn of(ca: &Ca) -> Result<Self, InventoryError> {
        let records = ca.records().ok_or(InventoryError::NoRecords)?;
        Ok(Self { records, ca: Some(ca.clone()) })
    }

    /// Of records alone, which are taken as they are
    pub fn of_records(records: Arc<dyn Records>) -> Self {
        Self { records, ca: None }
    }

    /// The records
    pub fn records(&self) -> &Arc<dyn Records> {
        &self.records
    }

    /// Waits until everything that was issued or revoked before can be asked for
    pub async fn settle(&self) -> Result<(), InventoryError> {
        match &self.ca {
            Some(ca) => Ok(ca.records_caught_up().await?),
            None => Ok(()),
        }
    }

    /// Answers a question with a page
    pub async fn find(
        &self,
        query: &InventoryQuery,
        now: SystemTime,
    ) -> Result<InventoryPage, InventoryError> {
        self.settle().await?;
        let now_seconds = unix_seconds(now);
        let wanted = translate(query, now)?;
        if let Some(serial) = &query.serial {
            // One certificate at most: the other conditions are checked on it.
            let serial: Serial = serial.parse()?;
            let found = self.records.certificate(serial).await?;
            let found = found.filter(|record| holds(&wanted, record));
            let rows = found.map(|record| row(record, now_seconds)).into_iter().collect();
            return Ok(InventoryPage { rows, next: None });
        }
        let page = self.records.certificates(wanted).await?;
        Ok(InventoryPage {
            rows: page.items.into_iter().map(|record| row(record, now_seconds)).collect(),
            next: page.next.map(|token| hex(token.as_bytes())),
        })
    }

    /// One certificate
    pub async fn certificate(
        &self,
        serial: &Serial,
    ) -> Result<Option<CertificateRecord>, InventoryError> {
        Ok(self.records.certificate(serial.clone()).await?)
    }

    /// All certificates of a name that have not ended, revoked or not, also those that begin later
    pub async fn unexpired_of_name(
        &self,
        name: &str,
        now: SystemTime,
    ) -> Result<Vec<CertificateRecord>, InventoryError> {
        let name = Some(name.to_owned());
        self.unexpired(CertificateQuery { name, ..CertificateQuery::default() }, now).await
    }

    /// All certificates of a key that have not ended, revoked or not
    pub async fn unexpired_of_key(
        &self,
        spki_sha256: &[u8; 32],
        now: SystemTime,
    ) -> Result<Vec<CertificateRecord>, InventoryError> {
        let spki_sha256 = Some(*spki_sha256);
        self.unexpired(CertificateQuery { spki_sha256, ..CertificateQuery::default() }, now).await
    }

    async fn unexpired(
        &self,
        mut query: CertificateQuery,
        now: SystemTime,
    ) -> Result<Vec<CertificateRecord>, InventoryError> {
        query.not_after_from = Some(unix_seconds(now));
        let mut all = Vec::new();
        loop {
            let page = self.records.certificates(query.clone()).await?;
            all.extend(page.items);
            if all.len() > LIVE_LIMIT {
                return Err(InventoryError::TooMany);
            }
            query.page = page.next;
            if query.page.is_none() {
                return Ok(all);
            }
        }
    }

    /// Revocations of certificates that have not ended, a page at a time, by serial number
    pub async fn revocations(
        &self,
        now: SystemTime,
        page: Option<String>,
    ) -> Result<(Vec<RevocationRow>, Option<String>), InventoryError> {
        self.settle().await?;
        let query = RevocationQuery {
            unexpired_at: Some(unix_seconds(now)),
            limit: 0,
            page: token(page.as_deref())?,
        };
        let page = self.records.revocations(query).await?;
        let rows = page.items.into_iter().map(|revocation| RevocationRow {
            serial: revocation.serial.to_string(),
            revoked_at: revocation.revoked_at,
            reason: revocation.reason.code(),
            not_after: revocation.not_after,
        });
        Ok((rows.collect(), page.next.map(|token| hex(token.as_bytes()))))
    }
}

fn token(text: Option<&str>) -> Result<Option<PageToken>, InventoryError> {
    let read = |text| unhex(text).ok_or(InventoryError::Malformed("the page is none"));
    Ok(text.map(read).transpose()?.map(|bytes| PageToken::from_bytes(&bytes)))
}

fn translate(query: &InventoryQuery, now: SystemTime) -> Result<CertificateQuery, InventoryError> {
    let digits = |text: &String, bad| unhex(text).ok_or(InventoryError::Malformed(bad));
    let spki = query.spki_sha256.as_ref();
    let bad_spki = "the hash of a key has 64 hexadecimal digits";
    let spki = spki.map(|text| {
        let octets = digits(text, bad_spki)?;
        octets.try_into().map_err(|_length| InventoryError::Malformed(bad_spki))
    });
    let issuer = query.issuer_key_id.as_ref();
    let issuer = issuer.map(|text| digits(text, "a key identifier is hexadecimal digits"));
    let mut from = query.expires_from.map(unix_seconds);
    let mut before = query.expires_before.map(unix_seconds);
    if let Some(within) = query.expires_within {
        let seconds = unix_seconds(now);
        from = Some(from.unwrap_or(0).max(seconds));
        let end = seconds.saturating_add(within.as_secs()).saturating_add(1);
        before = Some(before.unwrap_or(u64::MAX).min(end));
    }
    Ok(CertificateQuery {
        name: query.name.clone(),
        spki_sha256: spki.transpose()?,
        issuer_key_id: issuer.transpose()?,
        profile: query.profile.clone(),
        state: query.state.map(|state| (state, unix_seconds(now))),
        not_after_from: from,
        not_after_before: before,
        limit: query.limit,
        page: token(query.page.as_deref())?,
    })
}

fn holds(query: &CertificateQuery, record: &CertificateRecord) -> bool {
    let it = &record.certificate;
    let named = |name: &String| it.subject_node == *name || it.dns_names.contains(name);
    query.name.as_ref().is_none_or(named)
        && query.spki_sha256.is_none_or(|spki| it.spki_sha256 == spki)
        && query.issuer_key_id.as_ref().is_none_or(|id| it.issuer_key_id == *id)
        && query.profile.as_ref().is_none_or(|profile| it.profile == *profile)
        && query.state.is_none_or(|(state, now)| record.state(now) == state)
        && query.not_after_from.is_none_or(|from| it.not_after >= from)
        && query.not_after_before.is_none_or(|before| it.not_after < before)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use stoq_store::records::{
        Batch, Change, ChangeKind, IssuedCertificate, SqliteOptions, SqliteRecords,
    };
    use stoq_store::{JournalId, named_thread};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    async fn inventory(directory: &std::path::Path) -> Inventory {
        let path = directory.join("records");
        let records = SqliteRecords::open(&path, SqliteOptions::default(), &named_thread).unwrap();
        let issued = |number: u64| IssuedCertificate {
            serial: Serial::new(&number.to_be_bytes()).unwrap(),
            subject_node: format!("node{}", number % 2),
            dns_names: vec![format!("node{}.nodes.hypermesh", number % 2)],
            profile: "node".into(),
            spki_sha256: [number as u8; 32],
            issuer_key_id: vec![1; 20],
            not_before: NOW - 100,
            not_after: NOW - 200 + 100 * number,
            log_index: number,
        };
        let mut changes: Vec<Change> = (1..=6)
            .map(|number| Change { sequence: number, kind: ChangeKind::Issued(issued(number)) })
            .collect();
        let kind = ChangeKind::Revoked {
            serial: Serial::new(&[4]).unwrap(),
            revoked_at: NOW,
            reason: RevocationReason::KeyCompromise,
        };
        changes.push(Change { sequence: 7, kind });
        let journal = JournalId::from_bytes([1; 16]);
        records.apply(Batch { journal, first: 1, last: 7, changes }).await.unwrap();
        Inventory::of_records(Arc::new(records))
    }

    async fn serials(inventory: &Inventory, query: InventoryQuery) -> Vec<String> {
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        let page = inventory.find(&query, now).await.unwrap();
        page.rows.into_iter().map(|row| format!("{} {}", row.serial, row.state)).collect()
    }

    #[tokio::test]
    async fn what_was_issued_is_found_by_what_operators_know() {
        let directory = tempfile::tempdir().unwrap();
        let inventory = inventory(directory.path()).await;
        let query = InventoryQuery::default;
        let named = InventoryQuery { name: Some("node1".into()), ..query() };
        assert_eq!(serials(&inventory, named).await, ["01 expired", "03 valid", "05 valid"]);
        let key = InventoryQuery { spki_sha256: Some("04".repeat(32)), ..query() };
        assert_eq!(serials(&inventory, key).await, ["04 revoked"]);
        let expiring = InventoryQuery { expires_within: Some(Duration::from_secs(150)), ..query() };
        assert_eq!(serials(&inventory, expiring).await, ["02 valid", "03 valid"]);
        let state = Some(CertificateState::Revoked);
        assert_eq!(serials(&inventory, InventoryQuery { state, ..query() }).await, ["04 revoked"]);
        let one = InventoryQuery { serial: Some("3".into()), ..query() };
        assert_eq!(serials(&inventory, one.clone()).await, ["03 valid"]);
        let neither = InventoryQuery { name: Some("node0".into()), ..one };
        assert!(serials(&inventory, neither).await.is_empty());
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        let first = inventory.find(&InventoryQuery { limit: 4, ..query() }, now).await.unwrap();
        let rest = InventoryQuery { page: first.next, ..query() };
        assert_eq!(serials(&inventory, rest).await, ["05 valid", "06 valid"]);
        let bad = InventoryQuery { spki_sha256: Some("04".into()), ..query() };
        assert!(matches!(inventory.find(&bad, now).await, Err(InventoryError::Malformed(_))));
        let found = inventory.unexpired_of_name("node0", now).await.unwrap();
        assert_eq!(found.len(), 3);
        let (revoked, next) = inventory.revocations(now, None).await.unwrap();
        assert_eq!((revoked.len(), next), (1, None));
    }

    #[test]
    fn states_have_labels() {
        for label in ["valid", "revoked", "expired"] {
            assert_eq!(state_of_label(label).map(state_label), Some(label));
        }
        assert_eq!(state_of_label("gone"), None);
    }
}
