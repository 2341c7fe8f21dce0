//! What may be asked of `stoq-bench latency`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::client::Kind;
use super::schedule::Arrivals;
use crate::beside::Peer;
use crate::rig::RigArgs;
use crate::units::{duration, size_bytes};

/// Calls, flows or both
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Of {
    /// Calls
    Calls,
    /// Small flows
    Flows,
    /// Both
    #[default]
    Both,
}

impl Of {
    /// One by one
    pub const fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Calls => &[Kind::Calls],
            Self::Flows => &[Kind::Flows],
            Self::Both => &[Kind::Calls, Kind::Flows],
        }
    }
}

/// Reads a percentage above 0
pub fn percent(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is not a percentage"))?;
    let sensible = value > 0.0 && value <= 1_000.0;
    if sensible { Ok(value) } else { Err(format!("{text:?}: above 0, at most 1000")) }
}

/// `stoq-bench latency`
#[derive(Args, Clone, Debug)]
pub struct LatencyArgs {
    /// What is measured
    #[arg(long, value_enum, default_value_t)]
    pub of: Of,
    /// Rates, in percent of the capacity that is measured first
    #[arg(long, value_parser = percent, value_delimiter = ',', default_values_t = [10.0, 50.0, 80.0, 95.0])]
    pub at: Vec<f64>,
    /// Measured time of each rate
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Warm-up of each rate
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub omit: Duration,
    /// Time of each step of the search for capacity
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub search_step: Duration,
    /// Octets of a request
    #[arg(long, default_value = "512", value_parser = size_bytes, value_name = "SIZE")]
    pub request: u64,
    /// Octets of a response
    #[arg(long, default_value = "4000", value_parser = size_bytes, value_name = "SIZE")]
    pub response: u64,
    /// Sessions, each with a connection of its own
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub connections: usize,
    /// How arrivals are spread
    #[arg(long, value_enum, default_value_t)]
    pub arrivals: Arrivals,
    /// Seed of the arrivals
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
    /// Write the percentile distributions to a file
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Run other stacks at the same rates, in turn with this one (calls only)
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PEERS")]
    pub beside: Vec<Peer>,
    /// Where both ends run
    #[command(flatten)]
    pub rig: RigArgs,
}
