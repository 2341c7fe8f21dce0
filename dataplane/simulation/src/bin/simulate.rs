//! Runs scenarios by seed and says what they went through. A failing seed prints the line that repeats it.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use stoq_simulation::{runner, scenario::Report};

/// Two hosts and a faulty network in memory, by seed
#[derive(Parser)]
struct Arguments {
    /// Run one seed
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run a range of seeds, the last one excluded
    #[arg(long, value_name = "FROM..TO", value_parser = parse_range)]
    seeds: Option<std::ops::Range<u64>>,
    /// Threads; each keeps dozens of scenarios under way
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn parse_range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("expected FROM..TO, such as 0..1000")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let (from, to) = (number(from)?, number(to)?);
    if from < to { Ok(from..to) } else { Err("the range is empty".into()) }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let seeds = match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => seeds,
        (None, None) => 0..100,
    };
    let count = seeds.end - seeds.start;
    let started = Instant::now();
    let ended = AtomicU64::new(0);
    let outcome = runner::run(seeds, arguments.threads, |_, _| {
        let ended = ended.fetch_add(1, Ordering::Relaxed) + 1;
        if ended.is_multiple_of(100) && ended < count {
            render::progress(ended, count);
        }
    });
    match outcome {
        Ok(report) => {
            render::summary(&report, started.elapsed());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            render::failure(&failure);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's output")]
mod render {
    use super::*;
    use std::time::Duration;

    pub fn progress(ended: u64, count: u64) {
        eprintln!("{ended} of {count} seeds passed");
    }

    pub fn failure(failure: &stoq_simulation::scenario::Failure) {
        eprintln!("{failure}");
    }

    pub fn summary(report: &Report, elapsed: Duration) {
        let faults = &report.faults;
        println!(
            "{} scenarios passed in {:.1} s; {} flows, {} of them given up on purpose; \
             {:.1} MB checked byte for byte",
            report.scenarios,
            elapsed.as_secs_f64(),
            report.flows,
            report.resets,
            report.bytes as f64 / 1e6,
        );
        println!(
            "connections: {} replaced, {} lost (both sides counted); {} black-holed, {} closed on \
             demand; {} failed dials; {:.1} MB sent again",
            report.replacements,
            report.losses,
            report.kills,
            report.closes,
            report.failed_dials,
            report.bytes_resent as f64 / 1e6,
        );
        println!(
            "network: {} datagrams, {} lost, {} overflowed, {} in {} outages, {} swallowed, {} \
             duplicated, {} reordered, {} corrupted; {} changes; {} handed from worker to worker",
            faults.sent,
            faults.lost,
            faults.overflowed,
            faults.outage,
            report.outages,
            faults.swallowed,
            faults.duplicated,
            faults.reordered,
            faults.corrupted,
            report.changes,
            report.handed_over,
        );
    }
}
