//! Asking the records. Every list is a page: ordered, limited, and gone on with by the key of its last item.

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::{
    CertificateQuery, CertificateRecord, IdempotentResult, Page, PageToken, PolicyDocument,
    PolicyVersion, RecordsError, Revocation, RevocationQuery, Serial, Stop, bound,
};
use crate::journal::JournalId;
use crate::records::{CertificateState, IssuedCertificate, PAGE_LIMIT, RevocationReason};

const CERTIFICATE_COLUMNS: &str = "c.serial, c.subject_node, c.dns_names, c.profile, c.spki_sha256, \
     c.issuer_key_id, c.not_before, c.not_after, c.log_index, c.revoked_at, c.reason, c.sequence";

fn damaged(what: &str) -> RecordsError {
    RecordsError::Damaged(format!("a recorded {what} makes no sense"))
}

/// What was written from a number above zero
fn number(row: &Row<'_>, column: usize) -> Result<u64, Stop> {
    let value: i64 = row.get(column)?;
    Ok(u64::try_from(value).map_err(|_range| damaged("number"))?)
}

fn reason(code: u8) -> Result<RevocationReason, RecordsError> {
    RevocationReason::from_code(code).ok_or_else(|| damaged("reason"))
}

/// How many to ask for: one more than are handed out, to see whether there are more
fn page_size(limit: usize) -> usize {
    if limit == 0 { PAGE_LIMIT } else { limit.min(PAGE_LIMIT) }
}

fn page<T>(mut items: Vec<T>, size: usize, key: impl Fn(&T) -> Vec<u8>) -> Page<T> {
    let more = items.len() > size;
    items.truncate(size);
    let next = items.last().filter(|_| more).map(|last| PageToken(key(last)));
    Page { items, next }
}

fn bad_token() -> RecordsError {
    RecordsError::Invalid("the page token is not one of this question".into())
}

pub(super) fn check(connection: &Connection) -> Result<(), Stop> {
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said != "ok" {
        return Err(RecordsError::Damaged(said).into());
    }
    Ok(())
}

pub(super) fn applied_through(connection: &Connection, journal: &JournalId) -> Result<u64, Stop> {
    let mut statement =
        connection.prepare("SELECT applied_through FROM journals WHERE journal = ?1")?;
    let mut rows = statement.query([journal.as_bytes()])?;
    rows.next()?.map_or(Ok(0), |row| number(row, 0))
}

fn certificate_of(row: &Row<'_>) -> Result<CertificateRecord, Stop> {
    let dns_names: String = row.get(2)?;
    let serial: Vec<u8> = row.get(0)?;
    let revoked_at: Option<i64> = row.get(9)?;
    let revoked = match (revoked_at, row.get::<_, Option<u8>>(10)?) {
        (Some(_), Some(code)) => Some((number(row, 9)?, reason(code)?)),
        (None, None) => None,
        _ => return Err(damaged("revocation").into()),
    };
    Ok(CertificateRecord {
        certificate: IssuedCertificate {
            serial: Serial::new(&serial)?,
            subject_node: row.get(1)?,
            dns_names: dns_names.split_terminator('\n').map(str::to_owned).collect(),
            profile: row.get(3)?,
            spki_sha256: row.get(4)?,
            issuer_key_id: row.get(5)?,
            not_before: number(row, 6)?,
            not_after: number(row, 7)?,
            log_index: number(row, 8)?,
        },
        revoked,
        sequence: number(row, 11)?,
    })
}

pub(super) fn certificate(
    connection: &Connection,
    serial: &Serial,
) -> Result<Option<CertificateRecord>, Stop> {
    let sql = format!("SELECT {CERTIFICATE_COLUMNS} FROM certificates c WHERE c.serial = ?");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([serial.as_bytes()])?;
    rows.next()?.map(certificate_of).transpose()
}

/// The conditions of a query, with placeholders, and what they stand for
fn conditions(query: &CertificateQuery) -> Result<(Vec<&'static str>, Vec<Value>), RecordsError> {
    let (mut texts, mut values): (Vec<&'static str>, Vec<Value>) = (Vec::new(), Vec::new());
    let mut and = |text, value: Value| {
        texts.push(text);
        values.push(value);
    };
    if let Some(name) = &query.name {
        and("n.name = ?", name.clone().into());
    }
    if let Some(spki) = &query.spki_sha256 {
        and("c.spki_sha256 = ?", spki.to_vec().into());
    }
    if let Some(key_id) = &query.issuer_key_id {
        and("c.issuer_key_id = ?", key_id.clone().into());
    }
    if let Some(profile) = &query.profile {
        and("c.profile = ?", profile.clone().into());
    }
    if let Some(from) = query.not_after_from {
        and("c.not_after >= ?", bound(from).into());
    }
    if let Some(before) = query.not_after_before {
        and("c.not_after < ?", bound(before).into());
    }
    match query.state {
        Some((CertificateState::Valid, now)) => {
            and("c.revoked_at IS NULL AND c.not_after >= ?", bound(now).into());
        }
        Some((CertificateState::Expired, now)) => {
            and("c.revoked_at IS NULL AND c.not_after < ?", bound(now).into());
        }
        Some((CertificateState::Revoked, _)) => texts.push("c.revoked_at IS NOT NULL"),
        None => {}
    }
    if let Some(PageToken(token)) = &query.page {
        let (not_after, serial) = token.split_first_chunk::<8>().ok_or_else(bad_token)?;
        let serial = Serial::new(serial).map_err(|_serial| bad_token())?;
        texts.push("({key}.not_after, {key}.serial) > (?, ?)");
        values.push(i64::from_be_bytes(*not_after).into());
        values.push(serial.as_bytes().to_vec().into());
    }
    Ok((texts, values))
}

pub(super) fn certificates(
    connection: &Connection,
    query: &CertificateQuery,
) -> Result<Page<CertificateRecord>, Stop> {
    let size = page_size(query.limit);
    let (mut texts, mut values) = conditions(query)?;
    if texts.is_empty() {
        texts.push("TRUE");
    }
    // The names first: few certificates have one, and their index has the order of the page.
    let (tables, key) = match query.name {
        Some(_) => ("certificate_names n CROSS JOIN certificates c ON c.serial = n.serial", "n"),
        None => ("certificates c", "c"),
    };
    let conditions = texts.join(" AND ").replace("{key}", key);
    let sql = format!(
        "SELECT {CERTIFICATE_COLUMNS} FROM {tables} WHERE {conditions} \
         ORDER BY {key}.not_after, {key}.serial LIMIT ?"
    );
    values.push(Value::Integer(size as i64 + 1));
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        items.push(certificate_of(row)?);
    }
    Ok(page(items, size, |item: &CertificateRecord| {
        let not_after = item.certificate.not_after.to_be_bytes();
        [&not_after, item.certificate.serial.as_bytes()].concat()
    }))
}

pub(super) fn revocations(
    connection: &Connection,
    query: &RevocationQuery,
) -> Result<Page<Revocation>, Stop> {
    let size = page_size(query.limit);
    let after = query.page.as_ref().map_or(&[][..], |PageToken(token)| token);
    let mut statement = connection.prepare(
        "SELECT r.serial, r.revoked_at, r.reason, r.sequence, c.not_after
         FROM revocations r LEFT JOIN certificates c ON c.serial = r.serial
         WHERE r.serial > ?1 AND (c.not_after IS NULL OR c.not_after >= ?2)
         ORDER BY r.serial LIMIT ?3",
    )?;
    let least = bound(query.unexpired_at.unwrap_or(0));
    let mut rows = statement.query(params![after, least, size as i64 + 1])?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        let serial: Vec<u8> = row.get(0)?;
        let known = row.get::<_, Option<i64>>(4)?.is_some();
        items.push(Revocation {
            serial: Serial::new(&serial)?,
            revoked_at: number(row, 1)?,
            reason: reason(row.get(2)?)?,
            not_after: if known { Some(number(row, 4)?) } else { None },
            sequence: number(row, 3)?,
        });
    }
    Ok(page(items, size, |item: &Revocation| item.serial.as_bytes().to_vec()))
}

pub(super) fn idempotent_result(
    connection: &Connection,
    key: &[u8],
    now: u64,
) -> Result<Option<IdempotentResult>, Stop> {
    let mut statement = connection.prepare(
        "SELECT result, expires_at FROM idempotent_results WHERE key = ?1 AND expires_at >= ?2",
    )?;
    let mut rows = statement.query(params![key, bound(now)])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (result, expires_at) = (row.get(0)?, number(row, 1)?);
    Ok(Some(IdempotentResult { key: key.to_vec(), result, expires_at }))
}

pub(super) fn policy(
    connection: &Connection,
    name: &str,
    version: Option<u64>,
) -> Result<Option<PolicyDocument>, Stop> {
    let mut statement = connection.prepare(
        "SELECT version, body, stored_at FROM policies
         WHERE name = ?1 AND (?2 IS NULL OR version = ?2) ORDER BY version DESC LIMIT 1",
    )?;
    let mut rows = statement.query(params![name, version.map(bound)])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (version, body, stored_at) = (number(row, 0)?, row.get(1)?, number(row, 2)?);
    Ok(Some(PolicyDocument { name: name.to_owned(), version, body, stored_at }))
}

pub(super) fn policies(
    connection: &Connection,
    limit: usize,
    token: Option<&PageToken>,
) -> Result<Page<PolicyVersion>, Stop> {
    let size = page_size(limit);
    let (version, name) = match token {
        None => (-1, String::new()),
        Some(PageToken(token)) => {
            let (version, name) = token.split_first_chunk::<8>().ok_or_else(bad_token)?;
            let name = String::from_utf8(name.to_vec()).map_err(|_text| bad_token())?;
            (i64::from_be_bytes(*version), name)
        }
    };
    let mut statement = connection.prepare(
        "SELECT name, version, stored_at FROM policies WHERE (name, version) > (?1, ?2)
         ORDER BY name, version LIMIT ?3",
    )?;
    let mut rows = statement.query(params![name, version, size as i64 + 1])?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, version, stored_at) = (row.get(0)?, number(row, 1)?, number(row, 2)?);
        items.push(PolicyVersion { name, version, stored_at });
    }
    Ok(page(items, size, |item: &PolicyVersion| {
        [&item.version.to_be_bytes()[..], item.name.as_bytes()].concat()
    }))
}
