//! `stoqctl backup`: copies of this node's authority. Making one is the daemon's, which may run meanwhile; checking and
//! restoring one needs no daemon.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use stoq_admin::api::BackupCreate;
use stoq_admin::{ApiError, ExitCode};
use stoq_trustchain::backup::{BackupManifest, HighWaterFile, RestoreError, restore, verify};

use super::name_of;
use crate::context::Context;
use crate::files;
use crate::human;
use crate::render::{Report, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    Create(Create),
    /// Checks a backup: every file and every entry of its journal; works without stoqd
    #[command(after_help = "Example:\n  stoqctl backup check /var/backups/stoq/2026-11-22")]
    Check {
        /// The backup
        directory: PathBuf,
    },
    Restore(Restore),
}

/// Copies the authority's state into a new directory, while it runs
#[derive(Args, Debug)]
#[command(after_help = "\
The daemon writes the directory, as its own user. Private keys are left out unless --with-keys is given; those in a
token or in a signing process are never in it. Whoever has a backup with keys can issue certificates: keep it as
you keep the root.

Example:
  stoqctl backup create /var/backups/stoq/2026-11-22")]
pub(crate) struct Create {
    /// Where to; absolute, and must not exist yet
    directory: PathBuf,
    /// Private keys too
    #[arg(long)]
    with_keys: bool,
}

/// Restores a backup into an authority's directory, with stoqd stopped
#[derive(Args, Debug)]
#[command(after_help = "\
A restore cannot un-revoke and cannot give the log another history: --high-water names the file that remembers what
was published, and a backup that has less is refused. With --adopting, one that lacks nothing but revocations is
restored all the same; the authority then starts only with a deny-list that a node still has.

Example:
  systemctl stop stoqd
  mv /var/lib/stoq/authority/ca /var/lib/stoq/authority/ca.lost
  stoqctl backup restore /var/backups/stoq/2026-11-22 --to /var/lib/stoq/authority/ca \\
      --high-water /var/lib/stoq/revocation-high-water.json")]
pub(crate) struct Restore {
    /// The backup
    from: PathBuf,
    /// The authority's directory; empty, or not there
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The file that remembers what was published
    #[arg(long, value_name = "FILE")]
    high_water: PathBuf,
    /// Restores also where revocations are missing that a node's deny-list can bring back
    #[arg(long)]
    adopting: bool,
}

/// What `check` and `restore` print
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
    keys_left_out: Vec<String>,
    /// Why a deny-list must be adopted before the authority starts; nothing where none need be
    to_adopt: Option<String>,
}

impl Backup {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Create(_) => name_of::<BackupCreate>(),
            Self::Check { .. } => ("backup", "check"),
            Self::Restore(_) => ("backup", "restore"),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Create(create) => create.run(context).await,
            Self::Check { directory } => check(context, &directory),
            Self::Restore(restore) => restore.run(context),
        }
    }
}

impl Create {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let Self { directory, with_keys } = self;
        if !directory.is_absolute() {
            return Err(ApiError::usage(
                "relative-path",
                format!("{} is relative, and the daemon runs elsewhere", directory.display()),
                "give the whole path",
            ));
        }
        let made = context.call(BackupCreate { directory, with_keys }).await?;
        let report = context.report(&made)?.fields(vec![
            ("written", cell(made.directory.display())),
            ("files", cell(format!("{}, {}", made.files, human::bytes(made.bytes)))),
            ("journal", cell(format!("up to entry {}", made.journal_sequence))),
            ("certificates", cell(made.certificates)),
            ("deny-list", cell(made.deny_list_epoch)),
        ]);
        Ok(if made.keys_left_out.is_empty() {
            report
        } else {
            report.note(format!("private keys were left out: {}", made.keys_left_out.join(", ")))
        })
    }
}

fn check(context: &Context, directory: &Path) -> Result<Report, ApiError> {
    let (manifest, _replay) = verify(directory).map_err(|error| refused(&error))?;
    report(context, found(directory, manifest, None))
}

impl Restore {
    fn run(self, context: &Context) -> Result<Report, ApiError> {
        let seen = HighWaterFile::open(&self.high_water)
            .map_err(|error| files::failed("read", &self.high_water, &error))?;
        let restored = restore(&self.from, &self.to, seen.held(), self.adopting)
            .map_err(|error| refused(&error))?;
        let to_adopt = restored.to_adopt.map(|behind| behind.to_string());
        report(context, found(&self.to, restored.manifest, to_adopt))
    }
}

fn found(directory: &Path, manifest: BackupManifest, to_adopt: Option<String>) -> Found {
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
        ("keys", cell(if found.with_keys { "in it" } else { "not in it" })),
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
        _ => ApiError::failed("bad-backup", error.to_string(), "use another backup"),
    }
}
