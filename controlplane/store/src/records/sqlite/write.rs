//! Changing the records: batches, clearing, forgetting. Each is one transaction.

use std::collections::HashMap;

use rusqlite::{Connection, ErrorCode, Statement, TransactionBehavior, params};

use super::read::applied_through;
use super::{Batch, RecordsError, Serial, Stop, bound, integer};
use crate::records::{
    Change, ChangeKind, IdempotentResult, IssuedCertificate, PolicyDocument, RevocationReason,
};

const APPLIED: &str = "INSERT INTO journals (journal, applied_through) VALUES (?1, ?2)
    ON CONFLICT (journal) DO UPDATE SET applied_through = excluded.applied_through";
const ISSUE: &str = "INSERT INTO certificates (serial, subject_node, dns_names, profile,
        spki_sha256, issuer_key_id, not_before, not_after, log_index, sequence, revoked_at, reason)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,
        (SELECT revoked_at FROM revocations WHERE serial = ?1),
        (SELECT reason FROM revocations WHERE serial = ?1))";
// The subject can be one of the DNS names.
const NAME: &str = "INSERT INTO certificate_names (name, not_after, serial) VALUES (?1, ?2, ?3)
    ON CONFLICT DO NOTHING";
const REVOKE: &str = "INSERT INTO revocations (serial, revoked_at, reason, sequence)
    VALUES (?1, ?2, ?3, ?4) ON CONFLICT (serial) DO NOTHING";
const MARK_REVOKED: &str = "UPDATE certificates SET revoked_at = ?2, reason = ?3 WHERE serial = ?1";
const ANSWER: &str = "INSERT INTO idempotent_results (key, result, expires_at, sequence)
    VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (key) DO UPDATE SET result = excluded.result,
        expires_at = excluded.expires_at, sequence = excluded.sequence";
const STORE_POLICY: &str = "INSERT INTO policies (name, version, body, stored_at, sequence)
    VALUES (?1, ?2, ?3, ?4, ?5)";

/// The statements of one batch, each prepared when it is first needed
struct Statements<'c> {
    connection: &'c Connection,
    prepared: HashMap<&'static str, Statement<'c>>,
}

impl<'c> Statements<'c> {
    fn new(connection: &'c Connection) -> Self {
        Self { connection, prepared: HashMap::new() }
    }

    fn execute(
        &mut self,
        sql: &'static str,
        parameters: &[&dyn rusqlite::ToSql],
    ) -> rusqlite::Result<usize> {
        if let Some(statement) = self.prepared.get_mut(sql) {
            return statement.execute(parameters);
        }
        let mut statement = self.connection.prepare(sql)?;
        let changed = statement.execute(parameters);
        self.prepared.insert(sql, statement);
        changed
    }
}

pub(super) fn apply(connection: &mut Connection, batch: &Batch) -> Result<(), Stop> {
    batch.check()?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let expected = applied_through(&transaction, &batch.journal)? + 1;
    if batch.first != expected {
        return Err(RecordsError::Gap { expected, found: batch.first }.into());
    }
    let mut statements = Statements::new(&transaction);
    for change in &batch.changes {
        apply_change(&mut statements, change)?;
    }
    statements.execute(APPLIED, params![batch.journal.as_bytes(), integer(batch.last)?])?;
    drop(statements);
    transaction.commit()?;
    Ok(())
}

fn apply_change(statements: &mut Statements<'_>, change: &Change) -> Result<(), Stop> {
    let sequence = integer(change.sequence)?;
    match &change.kind {
        ChangeKind::Issued(certificate) => issue(statements, certificate, sequence),
        ChangeKind::Revoked { serial, revoked_at, reason } => {
            revoke(statements, serial, *revoked_at, *reason, sequence)
        }
        ChangeKind::Answered(answered) => answer(statements, answered, sequence),
        ChangeKind::PolicyStored(document) => store_policy(statements, document, sequence),
    }
}

fn is_repeat(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
}

fn issue(
    statements: &mut Statements<'_>,
    certificate: &IssuedCertificate,
    sequence: i64,
) -> Result<(), Stop> {
    let serial = certificate.serial.as_bytes();
    let not_after = integer(certificate.not_after)?;
    // No name holds a control character, so this can be taken apart again.
    let dns_names = certificate.dns_names.join("\n");
    let inserted = statements.execute(
        ISSUE,
        params![
            serial,
            certificate.subject_node,
            dns_names,
            certificate.profile,
            certificate.spki_sha256,
            certificate.issuer_key_id,
            integer(certificate.not_before)?,
            not_after,
            integer(certificate.log_index)?,
            sequence,
        ],
    );
    inserted.map_err(|error| match is_repeat(&error) {
        true => Stop::Records(RecordsError::SerialRepeats(certificate.serial.clone())),
        false => Stop::Sql(error),
    })?;
    for name in std::iter::once(&certificate.subject_node).chain(&certificate.dns_names) {
        statements.execute(NAME, params![name, not_after, serial])?;
    }
    Ok(())
}

fn revoke(
    statements: &mut Statements<'_>,
    serial: &Serial,
    revoked_at: u64,
    reason: RevocationReason,
    sequence: i64,
) -> Result<(), Stop> {
    let (revoked_at, serial) = (integer(revoked_at)?, serial.as_bytes());
    let first = statements.execute(REVOKE, params![serial, revoked_at, reason.code(), sequence])?;
    if first == 1 {
        statements.execute(MARK_REVOKED, params![serial, revoked_at, reason.code()])?;
    }
    Ok(())
}

fn answer(
    statements: &mut Statements<'_>,
    answered: &IdempotentResult,
    sequence: i64,
) -> Result<(), Stop> {
    let expires_at = integer(answered.expires_at)?;
    statements.execute(ANSWER, params![answered.key, answered.result, expires_at, sequence])?;
    Ok(())
}

fn store_policy(
    statements: &mut Statements<'_>,
    document: &PolicyDocument,
    sequence: i64,
) -> Result<(), Stop> {
    let (version, stored_at) = (integer(document.version)?, integer(document.stored_at)?);
    let inserted = statements
        .execute(STORE_POLICY, params![document.name, version, document.body, stored_at, sequence]);
    inserted.map_err(|error| match is_repeat(&error) {
        true => {
            let (name, version) = (document.name.clone(), document.version);
            Stop::Records(RecordsError::PolicyRepeats { name, version })
        }
        false => Stop::Sql(error),
    })?;
    Ok(())
}

pub(super) fn clear(connection: &mut Connection) -> Result<(), Stop> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "DELETE FROM journals; DELETE FROM certificates; DELETE FROM certificate_names;
         DELETE FROM revocations; DELETE FROM idempotent_results; DELETE FROM policies",
    )?;
    transaction.commit()?;
    Ok(())
}

pub(super) fn forget_idempotent_results(
    connection: &mut Connection,
    now: u64,
) -> Result<u64, Stop> {
    let sql = "DELETE FROM idempotent_results WHERE expires_at < ?1";
    let forgotten = connection.execute(sql, [bound(now)])?;
    Ok(forgotten as u64)
}
