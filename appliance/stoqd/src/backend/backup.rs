//! `stoqctl backup create`: the authority's certificates and state, copied while it runs, and its keys where they are
//! asked for and lie in files. Checking and restoring a backup needs no daemon.

use stoq_admin::ApiError;
use stoq_admin::api::{BackupCreate, BackupCreated, Secret};
use stoq_trustchain::audit::{AuditEvent, AuditKind, anchor};
use stoq_trustchain::backup::{BackupError, BackupKeysError, BackupSource, take};
use stoq_trustchain::root::Passphrase;

use super::Admin;
use super::authority::{broken, desk};

pub async fn create(admin: &Admin, request: BackupCreate) -> Result<BackupCreated, ApiError> {
    let desk = desk(admin)?;
    if !request.directory.is_absolute() {
        return Err(ApiError::usage(
            "relative-path",
            format!("{} is relative", request.directory.display()),
            "give the whole path",
        ));
    }
    let keys = request.keys_passphrase.map(passphrase).transpose()?;
    let source =
        BackupSource { directory: desk.home.clone(), instance: desk.ca.instance().clone(), keys };
    let (actor, directory) = (admin.actor(), request.directory);
    let subject = directory.to_string_lossy();
    let (kind, with_keys) = (AuditKind::BackupTaken, source.keys.is_some());
    // Written down and anchored first: so the backup has its own record, and nothing has to follow that it would lack.
    desk.record(AuditEvent::done(kind, &actor, &subject).with("with_keys", with_keys)).await;
    if let Err(error) = anchor(&desk.ca, &desk.audit).await {
        tracing::warn!(%error, "the audit log will be anchored later than the backup");
    }
    let (target, now) = (directory.clone(), desk.ca.now());
    let taken = tokio::task::spawn_blocking(move || take(&source, &target, now)).await;
    let taken = taken.map_err(|error| broken("backup-failed", error));
    let taken = taken.and_then(|taken| taken.map_err(|error| refused(&error)));
    let manifest = match taken {
        Ok(manifest) => manifest,
        Err(error) => {
            desk.record(AuditEvent::failed(kind, &actor, &subject, &error.message)).await;
            return Err(error);
        }
    };
    Ok(BackupCreated {
        directory,
        files: manifest.files.len() as u64,
        bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        journal_sequence: manifest.reached.sequence,
        deny_list_epoch: manifest.deny_list_epoch,
        certificates: manifest.certificates,
        keys: manifest.keys,
        keys_left_out: manifest.keys_left_out,
    })
}

fn passphrase(secret: Secret) -> Result<Passphrase, ApiError> {
    Passphrase::new(secret.0).map_err(|error| {
        ApiError::usage("bad-passphrase", error.to_string(), "choose another passphrase")
    })
}

fn refused(error: &BackupError) -> ApiError {
    match error {
        BackupError::Exists(_) => {
            ApiError::conflict("backup-exists", error.to_string(), "choose another directory")
        }
        BackupError::Keys(BackupKeysError::Nowhere(_)) => {
            ApiError::conflict("no-keys-here", error.to_string(), "leave --with-keys out")
        }
        _ => broken("backup-failed", error),
    }
}
