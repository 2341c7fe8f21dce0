//! `stoqctl audit`: the newest records, and whether the chain is whole and its anchors are in the transparency log.

use std::collections::VecDeque;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use stoq_admin::ApiError;
use stoq_admin::api::{
    AUDIT_LIMIT_DEFAULT, AUDIT_LIMIT_MAX, AuditRecord, AuditTail, AuditTailed, AuditVerified,
    AuditVerify,
};
use stoq_trustchain::audit;
use stoq_trustchain::ca::Ca;
use stoq_trustchain::log::LogEntry;
use stoq_trustchain::log::tile::{TILE_WIDTH, TileKind, TilePath};

use super::Admin;
use super::authority::{broken, desk};

/// Octets of records that one verification holds in memory
const VERIFY_LIMIT_BYTES: usize = 512 << 20;

pub async fn tail(admin: &Admin, request: AuditTail) -> Result<AuditTailed, ApiError> {
    let desk = desk(admin)?;
    let limit = request.limit.unwrap_or(AUDIT_LIMIT_DEFAULT).clamp(1, AUDIT_LIMIT_MAX);
    let recent = desk.audit.recent(limit);
    // What was recorded before the start is in the journal alone.
    let all_there = recent.len() == limit || recent.len() as u64 == desk.audit.head().count;
    let records = if all_there {
        recent
    } else {
        let directory = desk.journal_directory();
        let read = tokio::task::spawn_blocking(move || {
            let mut last = VecDeque::with_capacity(limit);
            audit::export(&directory, |record, _line| {
                if last.len() == limit {
                    last.pop_front();
                }
                last.push_back(record.clone());
                Ok(())
            })
            .map(|_head| last)
        });
        let read = read.await.map_err(|error| broken("audit-failed", error))?;
        read.map_err(|error| broken("audit-failed", error))?.into()
    };
    Ok(AuditTailed { records: records.into_iter().map(shown).collect() })
}

fn shown(record: audit::AuditRecord) -> AuditRecord {
    AuditRecord {
        number: record.number,
        at: UNIX_EPOCH + Duration::from_millis(record.time_ms),
        event: word(&record.kind),
        outcome: word(&record.outcome),
        actor: record.actor,
        subject: record.subject,
        details: record.details,
        previous: record.previous,
    }
}

/// The stable word of a kind or an outcome, as the record has it
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => format!("{other:?}"),
    }
}

pub async fn verify(admin: &Admin, _request: AuditVerify) -> Result<AuditVerified, ApiError> {
    let desk = desk(admin)?;
    let (directory, ca) = (desk.journal_directory(), desk.ca.clone());
    let (anchored, claimed) = (desk.audit.anchored(), desk.audit.head());
    let verified = tokio::task::spawn_blocking(move || verify_all(&directory, &ca));
    let (count, head, mut errors) =
        verified.await.map_err(|error| broken("audit-failed", error))?;
    if count < claimed.count {
        errors.push(format!("the journal has {count} records, and {} were written", claimed.count));
    }
    Ok(AuditVerified { records: count, anchored, head, errors })
}

/// How many records there are, the last one's hash, and what is wrong
fn verify_all(directory: &std::path::Path, ca: &Ca) -> (u64, String, Vec<String>) {
    let mut lines = Vec::new();
    let mut bytes = 0;
    let read = audit::export(directory, |_record, line| {
        bytes += line.len();
        if bytes > VERIFY_LIMIT_BYTES {
            return Err(std::io::Error::other(format!(
                "the audit log has more than {VERIFY_LIMIT_BYTES} bytes: export it and verify it apart"
            )));
        }
        lines.push(line.to_vec());
        Ok(())
    });
    let head = match read {
        Ok(head) => head,
        Err(error) => return (lines.len() as u64, String::new(), vec![error.to_string()]),
    };
    let entry = |index| entry(ca, index);
    let errors = match audit::verify_anchors(lines.iter().map(Vec::as_slice), entry) {
        Ok((end, _anchors)) if end.hash == head.hash => Vec::new(),
        Ok(_) => vec!["the records changed while they were read".to_owned()],
        Err(error) => vec![error.to_string()],
    };
    (head.count, head.hash_text(), errors)
}

/// An entry of the transparency log, from its published data tile
fn entry(ca: &Ca, index: u64) -> Option<LogEntry> {
    let size = ca.checkpoint().borrow().as_ref()?.head().size;
    let width = u64::from(TILE_WIDTH);
    let tile = index / width;
    let there = size.checked_sub(tile * width)?.min(width);
    let path = TilePath::new(TileKind::Entries, tile, u16::try_from(there).ok()?).ok()?;
    let served = ca.log_file(&path.to_string()).ok()??;
    let entries = LogEntry::decode_all(&served.bytes).ok()?;
    entries.into_iter().nth(usize::try_from(index % width).ok()?)
}
