//! `stoq-bench agree`: operations a second that validators agree on, how long one takes to be final as the client sees it,
//! what proofs and receipts cost to judge, and how soon validators that vote twice are named. Each validator of a row but
//! the first has a process of its own; they reach each other over STOQ sessions on this host.

mod carrier;
pub mod child;
mod costs;
mod culprits;
mod liar;
mod load;
mod member;
pub mod report;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::host::Fingerprint;
use crate::render;
use crate::rig::write;
use crate::sink::Failure;
use crate::units::duration;
use report::{AgreeReport, Row, SCHEMA};
use world::World;

/// Longest wait for the convictions
const NAMING_PATIENCE: Duration = Duration::from_secs(60);

/// `stoq-bench agree`
#[derive(Args, Clone, Debug)]
pub struct AgreeArgs {
    /// Measured time of each load
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// How many validators, one row each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 10], value_name = "COUNT")]
    pub validators: Vec<usize>,
    /// Operations under way at full load
    #[arg(long, default_value_t = 8_192, value_name = "COUNT")]
    pub in_flight: usize,
    /// Requesters, each with a stake, a ticket and a count of its own
    #[arg(long, default_value_t = 64, value_name = "COUNT")]
    pub requesters: usize,
    /// Where the validators' journals are for the time of the run; default: the directory for temporary files
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Write the record as JSON to a file, or to standard output with `-`
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Runs and prints; the record is also returned
pub fn run(args: &AgreeArgs) -> Result<AgreeReport, Failure> {
    let directory = match &args.directory {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut rows = Vec::new();
    for count in &args.validators {
        let at = directory.path().join(count.to_string());
        let row = runtime.block_on(async {
            let mut world = World::start(*count, args.requesters, &at).await?;
            let row = measure(args, &mut world).await?;
            world.stop().await?;
            Ok::<_, Failure>(row)
        });
        rows.push(row?);
    }
    let report = AgreeReport {
        rows,
        schema: SCHEMA.to_owned(),
        host: Fingerprint::read()?,
        directory: directory.path().display().to_string(),
        notes: notes(args),
    };
    let text = serde_json::to_string(&report)?;
    if args.json.as_ref().is_some_and(|path| path.as_os_str() == "-") {
        render::line(&text)?;
    } else {
        for line in report.lines() {
            render::line(&line)?;
        }
        if let Some(path) = &args.json {
            write(path, &(text + "\n"))?;
        }
    }
    Ok(report)
}

async fn measure(args: &AgreeArgs, world: &mut World) -> Result<Row, Failure> {
    let mut requesters = world.requesters().await?;
    let full = load::full(world, &mut requesters, args.in_flight, args.duration).await?;
    let half = load::half(world, &mut requesters, full.per_second / 2.0, args.duration).await?;
    let costs = costs::measure(world, &mut requesters).await?;
    let named = tokio::time::timeout(NAMING_PATIENCE, culprits::measure(world)).await;
    let byzantine_named_ms =
        named.map_err(|_| "validators that vote twice were not named by all others")??;
    Ok(Row {
        n: world.count(),
        operations_per_second: full.per_second,
        finality_p50_ms: half.p50_ms,
        finality_p99_ms: half.p99_ms,
        proof_verify_us: costs.proof_verify_us,
        ticket_verify_us: costs.ticket_verify_us,
        receipt_cold_us: costs.receipt_cold_us,
        receipt_warm_us: costs.receipt_warm_us,
        receipt_bytes: costs.receipt_bytes,
        byzantine_named_ms,
        byzantine: world.faults(),
        committed: full.committed,
        refused: full.refused + half.refused,
        blocks: full.blocks,
        cpu_us_per_operation_and_validator: full.cpu_us / world.count() as f64,
        processors_busy: full.processors_busy,
        half_per_second: half.per_second,
    })
}

/// The clock that all processes of a host have in common
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

/// What this process has spent
fn processor_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(spent.tv_sec).unwrap_or_default(),
        u32::try_from(spent.tv_nsec).unwrap_or_default(),
    )
}

fn notes(args: &AgreeArgs) -> Vec<String> {
    vec![
        "each validator but the first has a process of its own, the first is in the client's; each has its own key, journal, \
         registry and endpoint, and frames go over STOQ sessions on [::1]"
            .into(),
        format!(
            "an operation registers an asset under a ticket; {} requesters ask in turn, all of them at one validator; it \
             counts once the client is told that it is final and durable there",
            args.requesters
        ),
        "operations are signed before the measured time; all validators and the client share this host's processors, so \
         with many validators the processors bind: processor time for each validator is the figure to go by"
            .into(),
        "latency: at half of the measured full rate, from the intended instant of each operation".into(),
        "proofs: policy `test`, k 18; a proof of a larger plot takes its judge longer".into(),
        "named: (n - 1) / 3 validators begin to vote for one block towards half of the others and for another towards the \
         rest; from a culprit's first such vote to the moment when every honest validator lists it as convicted, looked at \
         every 5 ms; the slowest culprit counts"
            .into(),
    ]
}
