//! `stoqctl doctor`: everything that can be wrong with this node and its authority, looked at once. With --directory
//! it looks at the files of an authority that does not run, and so says why it does not start.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use stoq_admin::api::{Check, Diagnosis, DoctorRun, Health};
use stoq_admin::{ApiError, ExitCode};
use stoq_trustchain::backup::doctor::{self, Places, Verdict};

use crate::context::Context;
use crate::render::{Cell, Report, Tone, cell};

/// Looks at everything that can be wrong, and says what to do; changes nothing
#[derive(Args, Debug)]
#[command(after_help = "\
Ends with 0 where nothing is wrong, also when there are warnings, and with 3 where something is.

Examples:
  stoqctl doctor --json | jq -r '.checks[] | select(.health == \"bad\") | .name + \": \" + .remedy'
  stoqctl doctor --directory /var/lib/stoq/authority --high-water /var/lib/stoq/revocation-high-water.json")]
pub(crate) struct Doctor {
    /// Also what may take minutes: reads the whole journal, log and audit log
    #[arg(long, conflicts_with = "directory")]
    deep: bool,
    /// Looks at the authority in this directory instead of asking stoqd
    #[arg(long, value_name = "DIR", requires = "high_water")]
    directory: Option<PathBuf>,
    /// With --directory: the file that remembers what was published
    #[arg(long, value_name = "FILE", requires = "directory")]
    high_water: Option<PathBuf>,
    /// With --directory: the latest backup
    #[arg(long, value_name = "DIR", requires = "directory")]
    backup: Option<PathBuf>,
}

impl Doctor {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        super::name_of::<DoctorRun>()
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let diagnosis = match (self.directory, self.high_water) {
            (Some(directory), Some(high_water)) => {
                let places = Places { directory, high_water, backup: self.backup };
                let checks = doctor::check_files(&places, SystemTime::now());
                Diagnosis { checks: checks.into_iter().map(shown).collect() }
            }
            _ => context.call(DoctorRun { deep: self.deep }).await?,
        };
        let rows = diagnosis.checks.iter().map(row).collect();
        let head = ["check", "state", "what was seen", "what to do"];
        let report = context.report(&diagnosis)?.table(&head, rows, "there was nothing to look at");
        Ok(match diagnosis.health() {
            Health::Bad => report.exit(ExitCode::Unhealthy),
            Health::Good | Health::Skipped | Health::Warning => report,
        })
    }
}

fn shown(check: doctor::Check) -> Check {
    let health = match check.verdict {
        Verdict::Good => Health::Good,
        Verdict::Warning => Health::Warning,
        Verdict::Bad => Health::Bad,
    };
    Check::new(&check.name.replace('_', "-"), health, check.found, check.remedy)
}

fn row(check: &Check) -> Vec<Cell> {
    let (word, tone) = match check.health {
        Health::Good => ("good", Tone::Good),
        Health::Skipped => ("skipped", Tone::Plain),
        Health::Warning => ("warning", Tone::Warning),
        Health::Bad => ("bad", Tone::Bad),
    };
    vec![cell(&check.name), Cell::toned(word, tone), cell(&check.message), cell(&check.remedy)]
}
