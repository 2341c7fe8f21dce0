//! `stoqctl backup create`: the authority's state, copied while it runs.

use stoq_admin::ApiError;
use stoq_admin::api::{BackupCreate, BackupCreated};
use stoq_trustchain::audit::{AuditEvent, AuditKind};
use stoq_trustchain::backup::{BackupError, BackupSource, take};

use super::Admin;
use super::authority::{OPERATOR, broken, desk};

pub async fn create(admin: &Admin, request: BackupCreate) -> Result<BackupCreated, ApiError> {
    let desk = desk(admin)?;
    if !request.directory.is_absolute() {
        return Err(ApiError::usage(
            "relative-path",
            format!("{} is relative", request.directory.display()),
            "give the whole path",
        ));
    }
    if request.with_keys {
        // They stand beside the directory that is copied: a backup without them must not be taken for one with.
        return Err(ApiError::usage(
            "keys-not-covered",
            "a running daemon's backup holds journal and log, not the keys",
            "leave --with-keys out, and copy authority/*.key and authority/*.pem of the state directory yourself",
        ));
    }
    let source = BackupSource {
        directory: desk.directory.clone(),
        instance: desk.ca.instance().clone(),
        with_keys: false,
    };
    let (target, now) = (request.directory.clone(), desk.ca.now());
    let manifest = tokio::task::spawn_blocking(move || take(&source, &target, now))
        .await
        .map_err(|error| broken("backup-failed", error))?
        .map_err(|error| refused(&error))?;
    let directory = request.directory;
    let event = AuditEvent::done(AuditKind::BackupTaken, OPERATOR, &directory.to_string_lossy())
        .with("sequence", manifest.reached.sequence)
        .with("with_keys", manifest.with_keys);
    desk.record(event).await;
    Ok(BackupCreated {
        directory,
        files: manifest.files.len() as u64,
        bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        journal_sequence: manifest.reached.sequence,
        deny_list_epoch: manifest.deny_list_epoch,
        certificates: manifest.certificates,
        keys_left_out: manifest.keys_left_out,
    })
}

fn refused(error: &BackupError) -> ApiError {
    match error {
        BackupError::Exists(_) => {
            ApiError::conflict("backup-exists", error.to_string(), "choose another directory")
        }
        _ => broken("backup-failed", error),
    }
}
