//! `stoqctl log`: the transparency log of this node's authority. `prove` and `checkpoint` ask the daemon; `verify`
//! and `fsck --directory` judge what is in hand, without one. `level` is about the log that stoqd writes of itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use stoq_admin::api::{
    LogCheckpoint, LogFsck, LogKey, LogLevelGet, LogLevelSet, LogProve, LogProveOf,
};
use stoq_admin::{ApiError, ExitCode, parse_duration, show_time};
use stoq_trustchain::log::LogVerifier;

use super::name_of;
use crate::context::Context;
use crate::files;
use crate::human;
use crate::render::{Report, cell};

mod check;
mod verify;

use check::Fsck;
use verify::Verify;

#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Prints the transparency log's public key, as PEM
    #[command(after_help = "\
Whoever judges certificates or the log from outside needs it:

  stoqctl log key --out log.pem
  deploy/verify-log --log https://[2001:db8::a]:8443/log/ --cacert root.pem --key log.pem")]
    Key {
        /// Writes it to this file, which must not exist yet, instead of printing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Shows the transparency log's published checkpoint
    Checkpoint {
        /// Prints the signed note itself, to be kept and compared with a later one
        #[arg(long)]
        note: bool,
    },
    Prove(Prove),
    Verify(Verify),
    Fsck(Fsck),
    /// How much stoqd logs about itself; has nothing to do with the transparency log
    #[command(subcommand)]
    Level(Level),
}

/// Prints the proof that a certificate is in the transparency log
#[derive(Args, Debug)]
#[command(after_help = "\
A certificate is under a checkpoint within a second of being issued.

Example:
  stoqctl log prove 3f9a... > beta.tlog-proof
  stoqctl log verify beta.tlog-proof --certificate beta.pem --key log.pem --origin alpha.trust/log")]
#[group(required = true, multiple = false)]
pub(crate) struct Prove {
    /// The certificate's serial number, hexadecimal
    serial: Option<String>,
    /// The entry with this index instead
    #[arg(long)]
    index: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Level {
    /// Shows the level in force
    Get,
    /// Changes the level, for a while or until the restart
    #[command(after_help = "\
Examples:
  stoqctl log level set debug --for 10m
  stoqctl log level set info,stoq_transport=trace")]
    Set {
        /// error, warn, info, debug, trace, or directives such as info,stoq_transport=debug
        level: String,
        /// Time after which the earlier level returns, with its unit: 30s, 10m or 24h
        #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
        for_time: Option<Duration>,
    },
}

impl Log {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Key { .. } => name_of::<LogKey>(),
            Self::Checkpoint { .. } => name_of::<LogCheckpoint>(),
            Self::Prove(_) => name_of::<LogProve>(),
            Self::Verify(_) => ("log", "verify"),
            Self::Fsck(_) => name_of::<LogFsck>(),
            Self::Level(Level::Get) => name_of::<LogLevelGet>(),
            Self::Level(Level::Set { .. }) => name_of::<LogLevelSet>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Key { out } => key(context, out).await,
            Self::Checkpoint { note } => checkpoint(context, note).await,
            Self::Prove(prove) => prove.run(context).await,
            Self::Verify(verify) => verify.run(context, SystemTime::now()),
            Self::Fsck(fsck) => fsck.run(context).await,
            Self::Level(level) => level.run(context).await,
        }
    }
}

async fn key(context: &Context, out: Option<PathBuf>) -> Result<Report, ApiError> {
    let shown = context.call(LogKey {}).await?;
    let report = context.report(&shown)?;
    let note = format!("the log {}, known in certificates as {}", shown.origin, shown.log_id);
    match out {
        None => Ok(report.note(note).text(&shown.key_pem)),
        Some(file) => {
            files::write_new(&file, shown.key_pem.as_bytes())?;
            Ok(report.note(note).fields(vec![("written", cell(file.display()))]))
        }
    }
}

async fn checkpoint(context: &Context, note: bool) -> Result<Report, ApiError> {
    let shown = context.call(LogCheckpoint {}).await?;
    let report = context.report(&shown)?;
    if note {
        return Ok(report.text(&shown.note));
    }
    let signed = human::moment(shown.signed_at, SystemTime::now());
    Ok(report.fields(vec![
        ("log", cell(&shown.origin)),
        ("entries", cell(shown.size)),
        ("root", cell(&shown.root)),
        ("signed", cell(format!("{}, {signed}", show_time(shown.signed_at)))),
    ]))
}

impl Prove {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let of = match (self.serial, self.index) {
            (Some(serial), _) => LogProveOf::Serial(serial),
            (None, Some(index)) => LogProveOf::Index(index),
            (None, None) => {
                return Err(ApiError::usage(
                    "nothing-to-prove",
                    "neither a serial number nor an index is given",
                    "give a serial number of `stoqctl certificate list`",
                ));
            }
        };
        let proved = context.call(LogProve { of }).await?;
        let note =
            format!("entry {} is among the {} of the checkpoint:", proved.index, proved.size);
        Ok(context.report(&proved)?.note(note).text(&proved.proof))
    }
}

impl Level {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let returns = |at: Option<SystemTime>| {
            at.map(|at| {
                format!("the earlier level returns {}", human::moment(at, SystemTime::now()))
            })
        };
        let (report, reverts_at) = match self {
            Self::Get => {
                let level = context.call(LogLevelGet {}).await?;
                (context.report(&level)?.text(&level.level), level.reverts_at)
            }
            Self::Set { level, for_time } => {
                let for_seconds = for_time.map(|time| time.as_secs().max(1));
                let set = context.call(LogLevelSet { level, for_seconds }).await?;
                let note = format!("the level was {} and is {}", set.previous, set.level);
                (context.report(&set)?.note(note), set.reverts_at)
            }
        };
        Ok(match returns(reverts_at) {
            Some(note) => report.note(note),
            None => report,
        })
    }
}

/// The log with this public key and name
pub(crate) fn log_verifier(key: &Path, origin: &str) -> Result<LogVerifier, ApiError> {
    let keys = files::read_pem("PUBLIC KEY", key)?;
    let [spki] = keys.as_slice() else {
        return Err(ApiError::usage(
            "bad-key",
            format!("{} holds {} public keys", key.display(), keys.len()),
            "`stoqctl log key` on the authority's host prints the one that is meant",
        ));
    };
    LogVerifier::new(origin, spki).map_err(|error| {
        ApiError::usage("bad-key", error.to_string(), "`stoqctl log key` prints key and name")
    })
}

/// A time as the log counts it
pub(crate) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What is wrong with the log or a proof of it
fn disbelieved(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(
        ExitCode::Unhealthy,
        "not-proved",
        error.to_string(),
        "do not trust it; ask the authority's operator, and keep what you have as evidence",
    )
}
