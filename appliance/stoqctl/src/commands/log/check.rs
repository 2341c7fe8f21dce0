//! `stoqctl log fsck`: everything the log has published, read and computed again: by the daemon, which knows the
//! journal as well, or here from a directory.

use std::path::{Path, PathBuf};

use clap::Args;
use stoq_admin::api::{LogChecked, LogFinding, LogFsck};
use stoq_admin::{ApiError, ExitCode};
use stoq_trustchain::log::{
    Checkpoint, FsckReport, LogVerifier, Published, directory::DirectoryReader, fsck, note::Note,
};

use super::log_verifier;
use crate::context::Context;
use crate::files;
use crate::render::{Report, cell};

/// Checks everything the transparency log has published: entries, tiles, checkpoint; 3 where something is wrong
#[derive(Args, Debug)]
#[command(after_help = "\
Asks stoqd, which compares with its journal as well. With --directory it reads the files here and needs no stoqd:
of a stopped authority, of a copy, of another host's log.

Examples:
  stoqctl log fsck --json
  stoqctl log fsck --directory /var/lib/stoq/authority/log --key log.pem")]
pub(crate) struct Fsck {
    /// The log's published files
    #[arg(long, value_name = "DIR", requires = "key")]
    directory: Option<PathBuf>,
    /// The log's public key, in PEM
    #[arg(long, value_name = "FILE", requires = "directory")]
    key: Option<PathBuf>,
    /// The name the log must have; without it the one its checkpoint says
    #[arg(long, value_name = "NAME", requires = "directory")]
    origin: Option<String>,
}

impl Fsck {
    pub(super) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let checked = match (&self.directory, &self.key) {
            (Some(directory), Some(key)) => {
                let store = DirectoryReader::new(directory);
                let verifier = self.verifier(&store, key)?;
                checked(&fsck(&store, &verifier, None))
            }
            _ => context.call(LogFsck {}).await?,
        };
        let report = context.report(&checked)?.fields(vec![
            ("entries", cell(checked.entries)),
            ("checkpoints", cell(checked.checkpoints)),
            ("files ahead", cell(checked.files_ahead)),
            ("errors", cell(checked.errors)),
        ]);
        if checked.errors == 0 {
            return Ok(report);
        }
        let row = |one: &LogFinding| vec![cell(&one.place), cell(&one.problem)];
        let rows = checked.findings.iter().map(row).collect();
        Ok(report.table(&["where", "what is wrong"], rows, "").exit(ExitCode::Unhealthy))
    }

    /// The log that the directory must be of
    fn verifier(&self, store: &DirectoryReader, key: &Path) -> Result<LogVerifier, ApiError> {
        if let Some(origin) = &self.origin {
            return log_verifier(key, origin);
        }
        let unreadable = |why: String| {
            ApiError::failed(
                "no-checkpoint",
                format!("the directory has no checkpoint that says the log's name: {why}"),
                "check the path, or say the name with --origin",
            )
        };
        let note = store
            .read("checkpoint")
            .map_err(|error| {
                files::failed("read", &self.directory.clone().unwrap_or_default(), &error)
            })?
            .ok_or_else(|| unreadable("it is missing".to_owned()))?;
        let note = Note::parse(&note).map_err(|error| unreadable(error.to_string()))?;
        let parsed =
            Checkpoint::parse(note.text()).map_err(|error| unreadable(error.to_string()))?;
        log_verifier(key, &parsed.origin)
    }
}

fn checked(report: &FsckReport) -> LogChecked {
    let finding = |one: &stoq_trustchain::log::fsck::Finding| LogFinding {
        place: one.place.clone(),
        problem: one.problem.clone(),
    };
    LogChecked {
        entries: report.entries,
        checkpoints: report.checkpoints,
        errors: report.errors.len() as u64,
        files_ahead: report.files_ahead,
        findings: report.errors.iter().map(finding).collect(),
    }
}
