//! `stoqctl backup`: copies of this node's authority. Making one is the daemon's, which may run meanwhile; checking and
//! restoring one needs no daemon.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use stoq_admin::api::{BackupCreate, Secret};
use stoq_admin::{ApiError, ExitCode};
use stoq_trustchain::backup::{
    BackupKeysError, BackupManifest, HighWaterFile, RestoreError, restore, verify, verify_keys,
};
use stoq_trustchain::root::Passphrase;

use super::{name_of, passphrases};
use crate::context::Context;
use crate::files;
use crate::human;
use crate::render::{Report, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    Create(Create),
    Verify(Verify),
    Restore(Restore),
}

/// The option that names a file with the passphrase
const PASSPHRASE_FILE: &str = "--passphrase-file";

/// Copies the authority's certificates, journal and log into a new directory, while it runs
#[derive(Args, Debug)]
#[command(after_help = "\
The daemon writes the directory, as its own user. With --with-keys the private keys are in it too, encrypted with a
passphrase, as far as they lie with the authority's state: those in a token or in a signing process never are. Whoever
has such a backup and its passphrase can issue certificates: keep both as you keep the root.

Examples:
  stoqctl backup create /var/backups/stoq/2026-11-22
  stoqctl backup create /var/backups/stoq/2026-11-22 --with-keys")]
pub(crate) struct Create {
    /// Where to; absolute, and must not exist yet
    directory: PathBuf,
    /// Private keys too; the passphrase is asked for
    #[arg(long)]
    with_keys: bool,
    /// Reads the passphrase from this file; - is the standard input
    #[arg(long, value_name = "FILE", requires = "with_keys")]
    passphrase_file: Option<PathBuf>,
}

/// Checks a backup: every file and every entry of its journal; works without stoqd
#[derive(Args, Debug)]
#[command(
    visible_alias = "check",
    after_help = "\
Examples:
  stoqctl backup verify /var/backups/stoq/2026-11-22
  stoqctl backup verify /var/backups/stoq/2026-11-22 --with-keys        opens its keys too"
)]
pub(crate) struct Verify {
    /// The backup
    directory: PathBuf,
    /// Its private keys too; the passphrase is asked for
    #[arg(long)]
    with_keys: bool,
    /// Reads the passphrase from this file; - is the standard input
    #[arg(long, value_name = "FILE", requires = "with_keys")]
    passphrase_file: Option<PathBuf>,
}

/// Restores a backup into an authority's directory, with stoqd stopped
#[derive(Args, Debug)]
#[command(after_help = "\
A restore cannot un-revoke and cannot give the log another history: --high-water names the file that remembers what
was published, and a backup that has less is refused. With --adopting, one that lacks nothing but revocations is
restored all the same; the authority then starts only with a deny-list that a node still has.

Certificates and keys that are there already must be those of the backup; a journal or an inventory must not be there.

Example:
  systemctl stop stoqd
  mv /var/lib/stoq/authority /var/lib/stoq/authority.lost
  stoqctl backup restore /var/backups/stoq/2026-11-22 --to /var/lib/stoq/authority --with-keys \\
      --high-water /var/lib/stoq/revocation-high-water.json
  chown -R stoq: /var/lib/stoq/authority")]
pub(crate) struct Restore {
    /// The backup
    from: PathBuf,
    /// The authority's directory
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The file that remembers what was published
    #[arg(long, value_name = "FILE")]
    high_water: PathBuf,
    /// Restores also where revocations are missing that a node's deny-list can bring back
    #[arg(long)]
    adopting: bool,
    /// Private keys too; the passphrase is asked for
    #[arg(long)]
    with_keys: bool,
    /// Reads the passphrase from this file; - is the standard input
    #[arg(long, value_name = "FILE", requires = "with_keys")]
    passphrase_file: Option<PathBuf>,
}

/// What `verify` and `restore` print
#[derive(Serialize)]
struct Found {
    directory: PathBuf,
    instance: String,
    taken_at: String,
    files: usize,
    bytes: u64,
    journal_sequence: u64,
    log_entries: u64,
    deny_list_epoch: u64,
    certificates: u64,
    with_keys: bool,
    /// Keys that were opened, or restored
    keys: Vec<String>,
    keys_left_out: Vec<String>,
    /// Why a deny-list must be adopted before the authority starts; nothing where none need be
    to_adopt: Option<String>,
}

impl Backup {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Create(_) => name_of::<BackupCreate>(),
            Self::Verify(_) => ("backup", "verify"),
            Self::Restore(_) => ("backup", "restore"),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Create(create) => create.run(context).await,
            Self::Verify(verify) => verify.run(context),
            Self::Restore(restore) => restore.run(context),
        }
    }
}

/// The passphrase of a backup's keys, where they are wanted
fn passphrase(
    with_keys: bool,
    file: Option<&Path>,
    twice: bool,
) -> Result<Option<Passphrase>, ApiError> {
    if !with_keys {
        return Ok(None);
    }
    let prompt = ["passphrase of the backup's keys".to_owned()];
    let read = passphrases::read(file, PASSPHRASE_FILE, &prompt, twice)?;
    Ok(read.into_iter().next())
}

impl Create {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let Self { directory, with_keys, passphrase_file } = self;
        if !directory.is_absolute() {
            return Err(ApiError::usage(
                "relative-path",
                format!("{} is relative, and the daemon runs elsewhere", directory.display()),
                "give the whole path",
            ));
        }
        let passphrase = passphrase(with_keys, passphrase_file.as_deref(), true)?;
        let keys_passphrase = passphrase.map(|passphrase| Secret(passphrase.expose().to_owned()));
        let made = context.call(BackupCreate { directory, keys_passphrase }).await?;
        let report = context.report(&made)?.fields(vec![
            ("written", cell(made.directory.display())),
            ("files", cell(format!("{}, {}", made.files, human::bytes(made.bytes)))),
            ("journal", cell(format!("up to entry {}", made.journal_sequence))),
            ("certificates", cell(made.certificates)),
            ("deny-list", cell(made.deny_list_epoch)),
            ("keys", cell(keys_text(with_keys, &made.keys))),
        ]);
        Ok(if made.keys_left_out.is_empty() {
            report
        } else {
            report.note(format!("private keys were left out: {}", made.keys_left_out.join(", ")))
        })
    }
}

fn keys_text(with_keys: bool, keys: &[String]) -> String {
    match (with_keys, keys) {
        (false, _) => "not in it".to_owned(),
        (true, []) => "in it, encrypted".to_owned(),
        (true, keys) => keys.join(", "),
    }
}

impl Verify {
    fn run(self, context: &Context) -> Result<Report, ApiError> {
        let Self { directory, with_keys, passphrase_file } = self;
        let (manifest, _replay) = verify(&directory).map_err(|error| refused(&error))?;
        let keys = match passphrase(with_keys, passphrase_file.as_deref(), false)? {
            Some(passphrase) => {
                verify_keys(&directory, &manifest, &passphrase).map_err(|error| refused(&error))?
            }
            None => Vec::new(),
        };
        report(context, found(&directory, manifest, keys, None))
    }
}

impl Restore {
    fn run(self, context: &Context) -> Result<Report, ApiError> {
        let seen = HighWaterFile::open(&self.high_water)
            .map_err(|error| files::failed("read", &self.high_water, &error))?;
        let passphrase = passphrase(self.with_keys, self.passphrase_file.as_deref(), false)?;
        let restored =
            restore(&self.from, &self.to, seen.held(), self.adopting, passphrase.as_ref())
                .map_err(|error| refused(&error))?;
        let to_adopt = restored.to_adopt.map(|behind| behind.to_string());
        report(context, found(&self.to, restored.manifest, restored.keys, to_adopt))
    }
}

fn found(
    directory: &Path,
    manifest: BackupManifest,
    keys: Vec<String>,
    to_adopt: Option<String>,
) -> Found {
    let taken = std::time::UNIX_EPOCH + std::time::Duration::from_secs(manifest.taken_at);
    Found {
        directory: directory.to_owned(),
        instance: manifest.reached.instance,
        taken_at: stoq_admin::show_time(taken),
        files: manifest.files.len(),
        bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        journal_sequence: manifest.reached.sequence,
        log_entries: manifest.reached.log_entries,
        deny_list_epoch: manifest.deny_list_epoch,
        certificates: manifest.certificates,
        with_keys: manifest.with_keys,
        keys,
        keys_left_out: manifest.keys_left_out,
        to_adopt,
    }
}

fn report(context: &Context, found: Found) -> Result<Report, ApiError> {
    let report = context.report(&found)?.fields(vec![
        ("directory", cell(found.directory.display())),
        ("authority", cell(&found.instance)),
        ("taken", cell(&found.taken_at)),
        ("files", cell(format!("{}, {}", found.files, human::bytes(found.bytes)))),
        ("journal", cell(format!("up to entry {}", found.journal_sequence))),
        ("log", cell(format!("{} entries", found.log_entries))),
        ("certificates", cell(found.certificates)),
        ("deny-list", cell(found.deny_list_epoch)),
        ("keys", cell(keys_text(found.with_keys, &found.keys))),
    ]);
    Ok(match &found.to_adopt {
        None => report,
        Some(why) => report
            .note(format!("a deny-list must be adopted before the authority starts: {why}"))
            .exit(ExitCode::OperatorNeeded),
    })
}

fn refused(error: &RestoreError) -> ApiError {
    match error {
        RestoreError::Behind(behind) if behind.is_mended_by_adopting() => ApiError::conflict(
            "behind",
            error.to_string(),
            "restore a newer backup, or this one with --adopting",
        ),
        RestoreError::Behind(_) => {
            ApiError::conflict("behind", error.to_string(), "restore a newer backup")
        }
        RestoreError::Occupied(_) => ApiError::conflict(
            "occupied",
            error.to_string(),
            "move what is there away; never restore over it",
        ),
        RestoreError::Keys(error @ BackupKeysError::NotInIt) => {
            ApiError::conflict("no-keys-in-it", error.to_string(), "leave --with-keys out")
        }
        RestoreError::Keys(error @ BackupKeysError::Sealed { .. }) => {
            ApiError::new(ExitCode::Permission, "wrong-passphrase", error.to_string(), "try again")
        }
        _ => ApiError::failed("bad-backup", error.to_string(), "use another backup"),
    }
}
