//! `stoq-bench scale`: what an octet costs either end as connections become many, and what an idle connection
//! holds. Each count gets fresh processes.

mod idle;
pub mod report;
mod throughput;

pub use throughput::close;

use std::time::Duration;

use clap::Args;

use crate::rig::{Conditions, RigArgs};
use crate::sink::Failure;
use crate::units::duration;
use crate::vitals::available_bytes;
use report::{Point, SCHEMA, ScaleReport, summarise};

/// Counts of connections where none are named
const CONNECTIONS: [usize; 4] = [1, 10, 100, 1_000];
/// Memory that must stay available: the host has other things to do
const SPARE_BYTES: u64 = 2 << 30;
/// Time between two looks at it
const GUARD_EVERY: Duration = Duration::from_millis(200);

/// `stoq-bench scale`
#[derive(Args, Clone, Debug)]
pub struct ScaleArgs {
    /// Connections that each carry one flow; default 1,10,100,1000 unless --idle is given alone
    #[arg(long, value_delimiter = ',', value_name = "COUNTS")]
    pub connections: Vec<usize>,
    /// Connections to hold without traffic
    #[arg(long, value_name = "COUNT")]
    pub idle: Option<usize>,
    /// Measured time of each count
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Warm-up of each count
    #[arg(long, default_value = "2s", value_parser = duration, value_name = "TIME")]
    pub omit: Duration,
    /// Rounds over all counts; medians are reported
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub rounds: usize,
    /// Handshakes under way at any time while idle connections are made
    #[arg(long, default_value_t = 64, value_name = "COUNT")]
    pub in_flight: usize,
    /// Time without traffic before the memory of idle connections is read
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub rest: Duration,
    /// Where both ends run
    #[command(flatten)]
    pub rig: RigArgs,
}

impl ScaleArgs {
    fn counts(&self) -> &[usize] {
        match (self.connections.as_slice(), self.idle) {
            ([], None) => &CONNECTIONS,
            (counts, _) => counts,
        }
    }
}

/// Runs and prints; the record is also returned
pub fn run(args: &ScaleArgs) -> Result<ScaleReport, Failure> {
    if args.counts().contains(&0) || args.idle == Some(0) {
        return Err("a count of connections is at least 1".into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(measure(args))?;
    args.rig.record(&report)?;
    Ok(report)
}

async fn measure(args: &ScaleArgs) -> Result<ScaleReport, Failure> {
    let mut conditions = None;
    let mut points: Vec<Point> = Vec::new();
    for round in 0..if args.counts().is_empty() { 0 } else { args.rounds.max(1) } {
        for count in args.counts() {
            let (point, about) = throughput::measure(args, *count, round).await?;
            told(args, &mut conditions, about)?;
            args.rig.say(&point.line())?;
            points.push(point);
        }
    }
    let summary = summarise(&points);
    for line in summary.iter().map(report::Summary::line) {
        args.rig.say(&line)?;
    }
    let idle = match args.idle {
        Some(count) => {
            let (idle, about) = idle::measure(args, count).await?;
            told(args, &mut conditions, about)?;
            for line in idle.lines() {
                args.rig.say(&line)?;
            }
            Some(idle)
        }
        None => None,
    };
    let conditions = conditions.ok_or("nothing was measured")?;
    Ok(ScaleReport { schema: SCHEMA.to_owned(), conditions, points, summary, idle })
}

/// Prints the first conditions; the others differ in limits alone
fn told(
    args: &ScaleArgs,
    conditions: &mut Option<Conditions>,
    about: Conditions,
) -> Result<(), Failure> {
    if conditions.is_none() {
        for line in about.lines() {
            args.rig.say(&line)?;
        }
        *conditions = Some(about);
    }
    Ok(())
}

/// Whether the host has memory to spare
///
/// # Errors
/// Where not, and where the kernel does not say.
fn check_memory() -> Result<(), Failure> {
    judge_memory(available_bytes()?)
}

fn judge_memory(available: u64) -> Result<(), Failure> {
    if available >= SPARE_BYTES {
        return Ok(());
    }
    let mebibytes = |bytes: u64| bytes >> 20;
    Err(format!(
        "stopped: {} MiB of memory are available, and {} MiB are left to the host; use fewer connections or a \
         host with more memory",
        mebibytes(available),
        mebibytes(SPARE_BYTES)
    )
    .into())
}

/// Ends, with the reason, once the host has no memory to spare
async fn guard_memory() -> Failure {
    let mut looks = tokio::time::interval(GUARD_EVERY);
    loop {
        looks.tick().await;
        if let Err(error) = check_memory() {
            return error;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ScaleArgs,
    }

    fn counts(words: &[&str]) -> Vec<usize> {
        let words = std::iter::once(&"scale").chain(words);
        Line::try_parse_from(words).unwrap().args.counts().to_vec()
    }

    #[test]
    fn what_is_named_is_what_runs() {
        assert_eq!(counts(&[]), CONNECTIONS);
        assert_eq!(counts(&["--idle", "5"]), Vec::<usize>::new());
        assert_eq!(counts(&["--idle", "5", "--connections", "2,3"]), [2, 3]);
    }

    #[test]
    fn a_host_without_memory_to_spare_is_left_alone() {
        judge_memory(SPARE_BYTES).unwrap();
        let error = judge_memory(SPARE_BYTES - 1).unwrap_err().to_string();
        assert!(error.contains("2047 MiB") && error.contains("fewer connections"), "{error}");
    }
}
