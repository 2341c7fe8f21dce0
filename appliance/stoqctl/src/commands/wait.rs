//! `stoqctl wait`: blocks until the node is as it should be.

use std::time::{Duration, Instant};

use clap::Subcommand;
use serde::Serialize;
use stoq_admin::api::StatusShow;
use stoq_admin::{ApiError, Client, ExitCode, parse_duration};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::context::Context;
use crate::human;
use crate::render::Report;

/// Time between two looks: while there is no daemon there is nobody who could tell
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(crate) enum Wait {
    /// Waits until every worker serves and a valid certificate is active
    #[command(after_help = "\
Also waits for stoqd to start. Ends with 7 when the time is up.

Example:
  stoqctl wait ready --timeout 30s && stoqctl service list")]
    Ready {
        /// Time to wait at most, with its unit: 250ms, 30s, 10m, 24h or 7d
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
        timeout: Duration,
    },
}

/// What is printed when the wait is over
#[derive(Serialize)]
struct Waited {
    ready: bool,
    seconds: f64,
}

impl Wait {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Ready { .. } => ("wait", "ready"),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let Self::Ready { timeout: patience } = self;
        let client = context.client()?;
        let begin = Instant::now();
        let mut seen = String::from("nothing was heard of stoqd");
        match timeout(patience, until_ready(&client, &mut seen)).await {
            Ok(Ok(())) => {
                let seconds = begin.elapsed().as_secs_f64();
                let note = format!("ready after {}", human::duration(seconds));
                Ok(context.report(&Waited { ready: true, seconds })?.note(note))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ApiError::timed_out(
                format!("not ready after {}: {seen}", human::duration(patience.as_secs_f64())),
                "`stoqctl status` shows what is missing",
            )),
        }
    }
}

/// Looks until the node is ready; an error that waiting cannot cure ends it
async fn until_ready(client: &Client, seen: &mut String) -> Result<(), ApiError> {
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        match client.call(&StatusShow {}).await {
            Ok(status) if status.ready => return Ok(()),
            Ok(status) => {
                *seen = match status.problems.first() {
                    Some(problem) => problem.message.clone(),
                    None => "stoqd runs and gives no reason".to_owned(),
                };
            }
            Err(error) => {
                let error = ApiError::from(error);
                let may_pass = matches!(
                    error.exit_code,
                    ExitCode::Unreachable | ExitCode::TimedOut | ExitCode::Unhealthy
                ) || error.code == "connection-broken";
                if !may_pass {
                    return Err(error);
                }
                *seen = error.message;
            }
        }
    }
}
