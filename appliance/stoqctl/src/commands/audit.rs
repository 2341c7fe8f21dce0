//! `stoqctl audit`: what was done with this node's authority, and by whom.

use clap::Subcommand;
use stoq_admin::api::{AuditRecord, AuditTail, AuditVerify};
use stoq_admin::{ApiError, ExitCode, show_time};

use super::name_of;
use crate::context::Context;
use crate::render::{Cell, Report, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Shows the newest records
    #[command(after_help = "\
Example:
  stoqctl audit tail --limit 500 --json | jq '.records[] | select(.event == \"revoked\")'")]
    Tail {
        /// At most this many [default: 50]
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Checks the whole chain: no record is missing, changed or out of order; 3 where one is
    Verify,
}

impl Audit {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Tail { .. } => name_of::<AuditTail>(),
            Self::Verify => name_of::<AuditVerify>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Tail { limit } => {
                let tailed = context.call(AuditTail { limit }).await?;
                let rows = tailed.records.iter().map(row).collect();
                let head = ["number", "time", "event", "outcome", "by", "to what", "more"];
                Ok(context.report(&tailed)?.table(&head, rows, "nothing was recorded yet"))
            }
            Self::Verify => verify(context).await,
        }
    }
}

fn row(record: &AuditRecord) -> Vec<Cell> {
    let details: Vec<_> =
        record.details.iter().map(|(name, value)| format!("{name}={value}")).collect();
    vec![
        Cell::figure(record.number),
        cell(show_time(record.at)),
        cell(&record.event),
        cell(&record.outcome),
        cell(&record.actor),
        cell(&record.subject),
        cell(details.join(" ")),
    ]
}

async fn verify(context: &Context) -> Result<Report, ApiError> {
    let verified = context.call(AuditVerify {}).await?;
    let report = context.report(&verified)?.fields(vec![
        ("records", cell(verified.records)),
        ("anchored", cell(format!("up to record {}", verified.anchored))),
        ("head", cell(&verified.head)),
        ("errors", cell(verified.errors.len())),
    ]);
    if verified.errors.is_empty() {
        return Ok(report);
    }
    let rows = verified.errors.iter().map(|error| vec![cell(error)]).collect();
    Ok(report.table(&["error"], rows, "").exit(ExitCode::Unhealthy))
}
