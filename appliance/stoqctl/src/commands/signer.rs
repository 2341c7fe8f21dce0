//! `stoqctl signer`: what signs for this node's authority, in this process, in a token or in a process of its own.

use clap::Subcommand;
use stoq_admin::api::{SignerShow, SignerStatus, SignerTest, SignerTestedKey};
use stoq_admin::{ApiError, ExitCode};

use super::{name_of, or_dash};
use crate::context::Context;
use crate::human;
use crate::render::{Cell, Report, Tone, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Signer {
    /// Shows where the keys are and how signing goes
    Status,
    /// Signs a test message with every key and verifies it; 3 where one fails
    Test,
}

impl Signer {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Status => name_of::<SignerShow>(),
            Self::Test => name_of::<SignerTest>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Status => {
                let shown = context.call(SignerShow {}).await?;
                let keys =
                    shown.keys.iter().map(|key| vec![cell(&key.name), cell(&key.spki_sha256)]);
                let report = context.report(&shown)?.fields(fields(&shown));
                Ok(report.table(
                    &["key", "sha-256 of its public key"],
                    keys.collect(),
                    "it has no key",
                ))
            }
            Self::Test => test(context).await,
        }
    }
}

fn fields(shown: &SignerStatus) -> Vec<(&'static str, Cell)> {
    let health = match shown.healthy {
        true => Cell::toned("good", Tone::Good),
        false => Cell::toned("bad", Tone::Bad),
    };
    vec![
        ("keys in", cell(&shown.backend)),
        ("health", health),
        ("last error", cell(or_dash(shown.last_error.as_ref()))),
        ("waiting", cell(format!("{} of {}", shown.queued, shown.queue_limit))),
        ("threads", cell(shown.workers)),
        ("signatures", cell(shown.signatures)),
        ("failures", cell(shown.failures)),
        ("refused, busy", cell(shown.refused_busy)),
        ("self-tests", cell(shown.self_tests)),
        ("reopened", cell(shown.reopened)),
    ]
}

async fn test(context: &Context) -> Result<Report, ApiError> {
    let tested = context.call(SignerTest {}).await?;
    let row = |one: &SignerTestedKey| {
        let outcome = match &one.error {
            None => Cell::toned("good", Tone::Good),
            Some(error) => Cell::toned(error, Tone::Bad),
        };
        vec![cell(&one.name), Cell::figure(human::duration(one.milliseconds / 1e3)), outcome]
    };
    let rows = tested.keys.iter().map(row).collect();
    let report = context.report(&tested)?.table(&["key", "time", "outcome"], rows, "it has no key");
    let failed = tested.keys.iter().any(|key| key.error.is_some());
    Ok(if failed { report.exit(ExitCode::Unhealthy) } else { report })
}
