//! `stoqctl config`: stoqd.toml on disk, and the configuration in force.

use std::io::ErrorKind;
use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;
use stoq_admin::api::{
    ConfigChange, ConfigDiff, ConfigExplain, ConfigExplained, ConfigReload, ConfigShow,
};
use stoq_admin::{ApiError, ExitCode};
use stoq_config::{ConfigErrors, DEFAULT_FILE, FILE_BYTES_MAX, LoadError};

use super::{name_of, or_dash};
use crate::context::Context;
use crate::render::{Cell, Report, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Checks a file; stoqd need not run
    #[command(after_help = "\
Ends with 1 when the file has a mistake; every mistake is shown with line, key, reason and remedy.

Example:
  stoqctl config check /etc/stoq/stoqd.toml && stoqctl config reload")]
    Check {
        /// The file
        file: PathBuf,
    },
    /// Prints the default file, which is the manual of every key
    Default,
    /// Prints a JSON Schema of the file, for editors
    Schema,
    /// Explains one key, or lists all keys; stoqd need not run
    #[command(after_help = "Example:\n  stoqctl config explain transport.pacing")]
    Explain {
        /// Dotted, as in stoqd.toml
        key: Option<String>,
    },
    /// Shows the configuration in force
    Show {
        /// Only what is not the default
        #[arg(long)]
        changed: bool,
    },
    /// Shows what a reload would change
    #[command(after_help = "\
Ends with 0 when nothing would change, 3 when a reload would do, 4 when a restart is needed.")]
    Diff {
        /// Compares with this file instead of the one stoqd was started with
        file: Option<PathBuf>,
    },
    /// Applies what can be applied without touching connections
    #[command(after_help = "Ends with 4 when some changes wait for a restart.")]
    Reload,
}

#[derive(Serialize)]
struct Checked {
    file: PathBuf,
    valid: bool,
    mistakes: Vec<Mistake>,
}

#[derive(Serialize)]
struct Mistake {
    line: usize,
    column: usize,
    key: String,
    reason: String,
    remedy: String,
}

#[derive(Serialize)]
struct DefaultFile {
    toml: &'static str,
}

#[derive(Serialize)]
struct JsonSchema {
    json_schema: serde_json::Value,
}

#[derive(Serialize)]
struct Keys {
    keys: Vec<String>,
}

impl Config {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Check { .. } => ("config", "check"),
            Self::Default => ("config", "default"),
            Self::Schema => ("config", "schema"),
            Self::Explain { key: Some(_) } => name_of::<ConfigExplain>(),
            Self::Explain { key: None } => ("config", "keys"),
            Self::Show { .. } => name_of::<ConfigShow>(),
            Self::Diff { .. } => name_of::<ConfigDiff>(),
            Self::Reload => name_of::<ConfigReload>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Check { file } => check(context, file),
            Self::Default => {
                Ok(context.report(&DefaultFile { toml: DEFAULT_FILE })?.text(DEFAULT_FILE))
            }
            Self::Schema => schema(context),
            Self::Explain { key: Some(key) } => explain(context, key),
            Self::Explain { key: None } => {
                let keys = stoq_config::Config::keys();
                let text = keys.join("\n");
                Ok(context.report(&Keys { keys })?.text(text))
            }
            Self::Show { changed } => show(context, changed).await,
            Self::Diff { file } => diff(context, file).await,
            Self::Reload => reload(context).await,
        }
    }
}

fn check(context: &Context, file: PathBuf) -> Result<Report, ApiError> {
    let mistakes = match stoq_config::Config::read(&file) {
        Ok(_) => Vec::new(),
        Err(LoadError::Invalid(errors)) => mistakes(&errors),
        Err(LoadError::Read { path, source }) => return Err(unreadable(&path, &source)),
    };
    let valid = mistakes.is_empty();
    let rows = mistakes.iter().map(mistake_row).collect();
    let fine = format!("{} is a valid configuration", file.display());
    let report = context.report(&Checked { file, valid, mistakes })?;
    Ok(report.table(&["at", "key", "reason", "remedy"], rows, &fine).exit(if valid {
        ExitCode::Done
    } else {
        ExitCode::Failed
    }))
}

fn mistakes(errors: &ConfigErrors) -> Vec<Mistake> {
    errors
        .iter()
        .map(|error| Mistake {
            line: error.line,
            column: error.column,
            key: error.key.clone(),
            reason: error.reason.clone(),
            remedy: error.remedy.clone(),
        })
        .collect()
}

fn mistake_row(mistake: &Mistake) -> Vec<Cell> {
    vec![
        cell(format!("{}:{}", mistake.line, mistake.column)),
        cell(&mistake.key),
        cell(&mistake.reason),
        cell(&mistake.remedy),
    ]
}

fn unreadable(path: &std::path::Path, error: &std::io::Error) -> ApiError {
    let exit = match error.kind() {
        ErrorKind::PermissionDenied => ExitCode::Permission,
        _ => ExitCode::Failed,
    };
    let message = format!("{} cannot be read: {error}", path.display());
    ApiError::new(exit, "unreadable-file", message, "check the path and who may read it")
}

fn schema(context: &Context) -> Result<Report, ApiError> {
    let json_schema = stoq_config::Config::json_schema();
    let text = serde_json::to_string_pretty(&json_schema).map_err(|error| {
        ApiError::failed("unprintable-schema", format!("the schema is no JSON: {error}"), "")
    })?;
    Ok(context.report(&JsonSchema { json_schema })?.text(text))
}

fn explain(context: &Context, key: String) -> Result<Report, ApiError> {
    let Some(text) = stoq_config::Config::explain(&key) else {
        return Err(ApiError::usage(
            "no-such-key",
            format!("there is no key {key}"),
            "`stoqctl config explain` without a key lists them all",
        ));
    };
    Ok(context.report(&ConfigExplained { key, text: text.clone() })?.text(text))
}

async fn show(context: &Context, changed: bool) -> Result<Report, ApiError> {
    let shown = context.call(ConfigShow {}).await?;
    let report = context.report(&shown)?;
    let report = match &shown.file {
        Some(file) => report.note(format!("read from {}", file.display())),
        None => report.note("no file was read: every value is the default"),
    };
    Ok(if changed {
        let rows = shown.not_default.iter().map(change_row).collect();
        report.table(&["key", "default", "in force", "needs"], rows, "every value is the default")
    } else {
        report.text(shown.toml)
    })
}

async fn diff(context: &Context, file: Option<PathBuf>) -> Result<Report, ApiError> {
    let text = match &file {
        Some(file) => Some(read(file)?),
        None => None,
    };
    let diffed = context.call(ConfigDiff { text }).await?;
    let rows = diffed.changes.iter().map(change_row).collect();
    let exit = match diffed.changes.iter().map(|change| change.reloadable).min() {
        None => ExitCode::Done,
        Some(true) => ExitCode::Unhealthy,
        Some(false) => ExitCode::OperatorNeeded,
    };
    let head = ["key", "in force", "in the file", "needs"];
    Ok(context.report(&diffed)?.table(&head, rows, "nothing would change").exit(exit))
}

fn read(file: &std::path::Path) -> Result<String, ApiError> {
    let metadata = std::fs::metadata(file).map_err(|error| unreadable(file, &error))?;
    if metadata.len() > FILE_BYTES_MAX as u64 {
        return Err(ApiError::usage(
            "large-file",
            format!("{} is larger than {FILE_BYTES_MAX} octets", file.display()),
            "this cannot be a stoqd.toml: check the path",
        ));
    }
    std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))
}

async fn reload(context: &Context) -> Result<Report, ApiError> {
    let reloaded = context.call(ConfigReload {}).await?;
    let applied = reloaded.applied.iter().map(change_row).collect();
    let pending: Vec<_> = reloaded.pending.iter().map(change_row).collect();
    let exit = if pending.is_empty() { ExitCode::Done } else { ExitCode::OperatorNeeded };
    let mut report = context
        .report(&reloaded)?
        .table(&["applied", "before", "after", "needs"], applied, "nothing was changed")
        .exit(exit);
    if !pending.is_empty() {
        report = report
            .table(&["pending", "in force", "in the file", "needs"], pending, "")
            .note("some changes wait for a restart of stoqd");
    }
    Ok(report)
}

fn change_row(change: &ConfigChange) -> Vec<Cell> {
    let needs = if change.reloadable { "reload" } else { "restart" };
    vec![
        cell(&change.key),
        cell(or_dash(change.before.as_ref())),
        cell(or_dash(change.after.as_ref())),
        cell(needs),
    ]
}
