//! `stoqctl log`: how much `stoqd` says.

use std::time::{Duration, SystemTime};

use clap::Subcommand;
use stoq_admin::api::{LogLevelGet, LogLevelSet};
use stoq_admin::{ApiError, parse_duration};

use crate::context::Context;
use crate::human;
use crate::render::Report;

#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// How much is logged
    #[command(subcommand)]
    Level(Level),
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
            Self::Level(Level::Get) => super::name_of::<LogLevelGet>(),
            Self::Level(Level::Set { .. }) => super::name_of::<LogLevelSet>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let returns = |at: Option<SystemTime>| {
            at.map(|at| {
                format!("the earlier level returns {}", human::moment(at, SystemTime::now()))
            })
        };
        let (report, reverts_at) = match self {
            Self::Level(Level::Get) => {
                let level = context.call(LogLevelGet {}).await?;
                (context.report(&level)?.text(&level.level), level.reverts_at)
            }
            Self::Level(Level::Set { level, for_time }) => {
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
