//! `stoqctl log`: the transparency log's key, checkpoint and proofs, and a check of everything it has published.

use std::time::Duration;

use stoq_admin::api::{
    LogChecked, LogCheckpoint, LogCheckpointShown, LogFinding, LogFsck, LogKey, LogKeyShown,
    LogProve, LogProveOf, LogProved,
};
use stoq_admin::{ApiError, encode_pem};
use stoq_store::journal;
use stoq_trustchain::log::note::Note;
use stoq_trustchain::log::store::CHECKPOINT_PATH;
use stoq_trustchain::log::{Checkpoint, directory::DirectoryReader, fsck};

use super::Admin;
use super::authority::{broken, desk, hex, refused};

/// Time a proof gets to be covered by a checkpoint; one second is promised
const PROOF_PATIENCE: Duration = Duration::from_secs(10);

pub async fn key(admin: &Admin, _request: LogKey) -> Result<LogKeyShown, ApiError> {
    let desk = desk(admin)?;
    let ca = &desk.ca;
    let log = ca.log();
    Ok(LogKeyShown {
        origin: log.origin().to_owned(),
        log_id: hex(log.log_id()),
        key_pem: encode_pem("PUBLIC KEY", log.spki_der()),
    })
}

pub async fn checkpoint(
    admin: &Admin,
    _request: LogCheckpoint,
) -> Result<LogCheckpointShown, ApiError> {
    let desk = desk(admin)?;
    let ca = &desk.ca;
    let served = ca.log_file(CHECKPOINT_PATH).map_err(|error| refused(&error))?;
    let served = served.ok_or_else(|| {
        ApiError::failed("no-checkpoint", "nothing is published yet", "try again in a second")
    })?;
    let log = ca.log();
    let verified = log
        .verify_checkpoint(&served.bytes, &[])
        .map_err(|error| broken("bad-checkpoint", error))?;
    Ok(LogCheckpointShown {
        origin: log.origin().to_owned(),
        size: verified.head.size,
        root: hex(&verified.head.root),
        signed_at: std::time::UNIX_EPOCH + Duration::from_millis(verified.timestamp_ms),
        note: verified.note().to_owned(),
    })
}

pub async fn prove(admin: &Admin, request: LogProve) -> Result<LogProved, ApiError> {
    let desk = desk(admin)?;
    let ca = &desk.ca;
    let (index, what) = match request.of {
        LogProveOf::Index(index) => (index, format!("{index}")),
        LogProveOf::Serial(serial) => {
            (super::certificate::find(admin, &serial).await?.leaf_index, serial)
        }
    };
    let bundle =
        ca.inclusion_proof(index, PROOF_PATIENCE).await.map_err(|error| refused(&error))?;
    let bundle = bundle
        .ok_or_else(|| ApiError::not_found("entry of the log", &what, "stoqctl log checkpoint"))?;
    let size = Note::parse(bundle.checkpoint.as_bytes())
        .and_then(|note| Checkpoint::parse(note.text()))
        .map_err(|error| broken("bad-checkpoint", error))?
        .head
        .size;
    Ok(LogProved { index: bundle.index, size, proof: bundle.encode() })
}

/// Reads everything again: the published files against the log's key, and the journal against itself
pub async fn check(admin: &Admin, _request: LogFsck) -> Result<LogChecked, ApiError> {
    let desk = desk(admin)?;
    let verifier = desk.ca.log().clone();
    let (log, books) = (desk.log_directory(), desk.journal_directory());
    let checked = tokio::task::spawn_blocking(move || {
        let report = fsck(&DirectoryReader::new(&log), &verifier, None);
        (report, journal::fsck(&books))
    });
    let (report, books) = checked.await.map_err(|error| broken("fsck-failed", error))?;
    let mut findings: Vec<LogFinding> = report
        .errors
        .iter()
        .map(|one| LogFinding { place: one.place.clone(), problem: one.problem.clone() })
        .collect();
    let journal = |problem: String| LogFinding { place: "journal".into(), problem };
    let mut left_out = 0;
    match books {
        Ok(books) => {
            findings.extend(books.errors.iter().map(|damage| journal(damage.to_string())));
            left_out = books.errors_left_out;
        }
        Err(error) => findings.push(journal(error.to_string())),
    }
    Ok(LogChecked {
        entries: report.entries,
        checkpoints: report.checkpoints,
        errors: findings.len() as u64 + left_out,
        files_ahead: report.files_ahead,
        findings,
    })
}
