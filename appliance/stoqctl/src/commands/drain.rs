//! `stoqctl drain`: lets a node finish its work.

use std::time::Duration;

use clap::Args;
use stoq_admin::api::{self, DRAIN_SECONDS_MAX};
use stoq_admin::{ApiError, ExitCode, parse_duration};

use crate::context::Context;
use crate::human;
use crate::render::{Report, cell};

/// Refuses new work, lets open flows finish, then closes every connection
#[derive(Args, Debug)]
#[command(after_help = "\
Ends with 7 when flows had to be cut because the time was up.

Example:
  stoqctl drain --timeout 2m && systemctl restart stoqd")]
pub(crate) struct Drain {
    /// Time open flows get to finish, with its unit: 250ms, 30s, 10m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
}

impl Drain {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        super::name_of::<api::Drain>()
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let timeout_seconds = self.timeout.as_millis().div_ceil(1_000) as u64;
        if timeout_seconds > DRAIN_SECONDS_MAX {
            return Err(ApiError::usage(
                "long-timeout",
                format!("a drain takes at most {DRAIN_SECONDS_MAX} s"),
                "give a shorter --timeout",
            ));
        }
        let drained = context.call(api::Drain { timeout_seconds }).await?;
        let exit = if drained.flows_cut == 0 { ExitCode::Done } else { ExitCode::TimedOut };
        Ok(context
            .report(&drained)?
            .fields(vec![
                ("connections closed", cell(drained.connections_closed)),
                ("flows cut", cell(drained.flows_cut)),
                ("time", cell(human::duration(drained.seconds))),
            ])
            .exit(exit))
    }
}
