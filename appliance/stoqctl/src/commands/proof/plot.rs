//! `stoqctl proof plot`: the file that space proofs are made from.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use stoq_admin::{ApiError, ExitCode};
use stoq_hypermesh::digest::to_hex;
use stoq_hypermesh::proof::{Plot as SpacePlot, PlotError, PlotOrder, PlotProgress, PlotStage};

use crate::commands::agreement;
use crate::context::Context;
use crate::files;
use crate::human;
use crate::render::{Report, Stage, cell};

/// Makes a plot, which only this key can use and only in this network; works without stoqd
#[derive(Args, Debug)]
#[command(after_help = "\
Without --k and --strength they are the least that the genesis's policy for certificates takes. Each step of 2 in k takes
four times the file: 18 is 0.6 MB, 24 is 55 MB, 28 is 1 GB, and many times as much memory while it is made. With --json each line is an object; the last has \"event\":\"result\" or
\"event\":\"error\".

Example:
  stoqctl proof plot --genesis genesis.json --key node.key /var/lib/stoq/hypermesh/first.plot")]
pub(crate) struct Plot {
    /// The plot; must not exist yet
    file: PathBuf,
    /// The network
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// Whose it shall be
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Its size: even, 18 to 28
    #[arg(long)]
    k: Option<u8>,
    /// Its strength: 2 to 6
    #[arg(long)]
    strength: Option<u8>,
}

/// The plot that was made
#[derive(Serialize)]
struct Plotted {
    event: &'static str,
    file: String,
    network: String,
    requester: String,
    k: u8,
    strength: u8,
    bytes: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct Failed {
    event: &'static str,
    error: ApiError,
}

impl Plot {
    pub(super) fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self.make(context) {
            Ok(plotted) => Ok(shown(context.report_line(&plotted)?, &plotted)),
            // The last line of the stream says that and why it failed.
            Err(error) => {
                let line = Failed { event: "error", error: error.clone() };
                Ok(context.report_line(&line)?.failure(error))
            }
        }
    }

    fn make(&self, context: &Context) -> Result<Plotted, ApiError> {
        let genesis = agreement::genesis(&self.genesis)?;
        let key = agreement::key(&self.key)?;
        let wanted = genesis.parameters().certificates_policy;
        let policy = genesis.policies().iter().find(|policy| policy.id == wanted);
        let (k, strength) = policy.map_or((18, 2), |one| (one.space_k_min, one.space_strength));
        let order = PlotOrder {
            path: self.file.clone(),
            network: genesis.network(),
            requester: key.requester(),
            salt: rand::random(),
            k: self.k.unwrap_or(k),
            strength: self.strength.unwrap_or(strength),
        };
        let begun = std::time::Instant::now();
        let mut stages = context.output().stages(context.schema());
        let made = SpacePlot::make(&order, &mut |progress| {
            stages.show(&stage(&progress));
            ControlFlow::Continue(())
        });
        let printed = stages.end();
        let plot = made.map_err(|error| plot_failed(&error))?;
        printed.map_err(|error| {
            let message = format!("the plot is made, but its progress cannot be printed: {error}");
            ApiError::failed("unprintable-progress", message, "")
        })?;
        let bytes = std::fs::metadata(&self.file)
            .map_err(|error| files::failed("read", &self.file, &error))?
            .len();
        Ok(Plotted {
            event: "result",
            file: self.file.display().to_string(),
            network: to_hex(&order.network),
            requester: to_hex(&order.requester),
            k: plot.k(),
            strength: plot.strength(),
            bytes,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }
}

fn shown(report: Report, plotted: &Plotted) -> Report {
    report.fields(vec![
        ("plot", cell(&plotted.file)),
        ("k", cell(plotted.k)),
        ("strength", cell(plotted.strength)),
        ("size", cell(human::bytes(plotted.bytes))),
        ("time", cell(human::duration(plotted.seconds))),
        ("requester", cell(&plotted.requester)),
    ])
}

fn stage(progress: &PlotProgress) -> Stage {
    let (name, text) = match progress.stage {
        PlotStage::Waiting => ("waiting", "waiting for another plotter at the same path"),
        PlotStage::Estimating => {
            ("estimating", "making a small plot, to know how fast this host is")
        }
        PlotStage::Computing => ("computing", "computing"),
        PlotStage::Checking => ("checking", "making it durable"),
    };
    let left = progress.estimated.and_then(|whole| whole.checked_sub(progress.elapsed));
    let left = left.filter(|_| progress.stage == PlotStage::Computing);
    let left = left.map(|left| format!(", about {} left", human::duration(left.as_secs_f64())));
    Stage {
        stage: name,
        fraction: progress.fraction(),
        elapsed_seconds: progress.elapsed.as_secs_f64(),
        text: format!("{text}{}", left.unwrap_or_default()),
    }
}

/// Why there is no plot, and what to do
pub(super) fn plot_failed(error: &PlotError) -> ApiError {
    let message = error.to_string();
    match error {
        PlotError::Exists(_) => ApiError::conflict("plot-exists", message, "choose another name"),
        PlotError::Io { path, source } => files::failed("use", path, source),
        PlotError::BadPath(_) | PlotError::Size(_) | PlotError::Strength(_) => {
            ApiError::usage("bad-plot-request", message, "correct the request")
        }
        PlotError::NotPlot(_) | PlotError::NotOurs(_) | PlotError::Differs(_) => ApiError::failed(
            "bad-plot",
            message,
            "`stoqctl proof plot` makes one for this network and key",
        ),
        PlotError::Make { path, .. } => ApiError::failed("plot-failed", message, room(path)),
        PlotError::Cancelled(_) => ApiError::new(ExitCode::Failed, "cancelled", message, ""),
    }
}

fn room(path: &Path) -> String {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    format!("look at `df {}` and `free`, or take a smaller --k", directory.display())
}
