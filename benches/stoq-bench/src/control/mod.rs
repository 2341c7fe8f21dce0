//! `stoq-bench control`: durable, logged certificates a second and how long each takes at half load, in process
//! and over STOQ, with keys of the process and in SoftHSM; what the log alone can do; how long a revoked node
//! stays connected; and which steps of issuing cost most.

mod append;
mod closing;
mod load;
mod office;
mod over_stoq;
pub mod report;
mod steps;
mod token;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use stoq_trustchain::calls::CallPolicy;

use crate::host::Fingerprint;
use crate::render;
use crate::rig::write;
use crate::sink::Failure;
use crate::units::duration;
use office::{Keys, Office};
use over_stoq::Asker;
use report::{ControlReport, Issuing, SCHEMA};

/// Nodes whose certificates are renewed in turn
const MEMBERS: usize = 64;
/// Threads of the runtime that the authority runs on
const THREADS: usize = 2;
/// Calls one session may have under way: what a connection allows by default, and some room
const CALLS: usize = 192;

/// `stoq-bench control`
#[derive(Args, Clone, Debug)]
pub struct ControlArgs {
    /// Measured time of each load
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Requests under way at full load
    #[arg(long, default_value_t = 256, value_name = "COUNT")]
    pub in_flight: usize,
    /// Nodes that are revoked one after the other
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    pub revocations: usize,
    /// Where the authority's journal is for the time of the run; default: the directory for temporary files
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// SoftHSM's PKCS #11 module
    #[arg(long, default_value = "/usr/lib/softhsm/libsofthsm2.so", value_name = "FILE")]
    pub module: PathBuf,
    /// Leave SoftHSM out
    #[arg(long)]
    pub without_hsm: bool,
    /// Write the record as JSON to a file, or to standard output with `-`
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// The part of a run that is a process of its own, because SoftHSM reads its configuration from the environment
#[derive(Args, Clone, Debug)]
pub struct ControlTokenArgs {
    /// Where the authority is made
    #[arg(long)]
    pub directory: PathBuf,
    /// SoftHSM's PKCS #11 module
    #[arg(long)]
    pub module: PathBuf,
    /// Measured time of each load
    #[arg(long, value_parser = duration)]
    pub duration: Duration,
    /// Requests under way at full load
    #[arg(long)]
    pub in_flight: usize,
}

/// Runs and prints; the record is also returned
pub fn run(args: &ControlArgs) -> Result<ControlReport, Failure> {
    let directory = match &args.directory {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    let report = runtime()?.block_on(measure(args, directory.path()))?;
    let to_stdout = args.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
    let text = serde_json::to_string(&report)?;
    if to_stdout {
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

/// The process with the token: prints its part of the record
pub fn run_token(args: &ControlTokenArgs) -> Result<(), Failure> {
    let keys = token::keys(&args.module)?;
    let issuing = runtime()?.block_on(async {
        let office = Office::open(&args.directory, keys, MEMBERS).await?;
        let issuing = in_process(&office, args.in_flight, args.duration).await?;
        office.close().await?;
        Ok::<_, Failure>(issuing)
    })?;
    Ok(render::line(&serde_json::to_string(&issuing)?)?)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()
}

async fn in_process(office: &Office, in_flight: usize, time: Duration) -> Result<Issuing, Failure> {
    load::measure(office, in_flight, time, |number| office.issue(number)).await
}

async fn over_stoq(office: &Office, in_flight: usize, time: Duration) -> Result<Issuing, Failure> {
    let [authority, asking] = office.others(["bench-authority", "bench-asking"]).await?;
    let at_authority = over_stoq::endpoint(office, &authority)?;
    over_stoq::answer(&at_authority, office.desk(CallPolicy::default()));
    let asking = Arc::new(asking);
    let asker = Asker::connect(office, asking, &at_authority, &authority.node).await?;
    load::measure(office, in_flight.min(CALLS), time, |number| asker.issue(number)).await
}

async fn measure(
    args: &ControlArgs,
    directory: &std::path::Path,
) -> Result<ControlReport, Failure> {
    let office = Office::open(&directory.join("soft"), Keys::Soft, MEMBERS).await?;
    let in_process = in_process(&office, args.in_flight, args.duration).await?;
    let over_stoq = over_stoq(&office, args.in_flight, args.duration).await?;
    let closing = closing::measure(&office, args.revocations).await?;
    let most_expensive_steps = steps::measure(&office, &in_process)?;
    let leaf = office.members.first().ok_or("there is no member")?.leaf_der.clone();
    let authority = office.ca.authority();
    let chain = [authority.certificate_der().to_vec(), authority.root_der().to_vec()];
    office.close().await?;
    // On a thread of its own: within the runtime, waiting for the journal would use up the task's budget and
    // then wait for ever.
    let (at, time) = (directory.to_owned(), args.duration);
    let appended = tokio::task::spawn_blocking(move || {
        let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
        append::measure(&at, &chain, &leaf, time).map_err(|error| error.to_string())
    });
    let log_append_per_second = appended.await??;
    let (hsm, hsm_absent) = match token::measure(args, &directory.join("hsm"))? {
        Ok(issuing) => (Some(issuing), None),
        Err(reason) => (None, Some(reason)),
    };
    Ok(ControlReport {
        issue_per_second: in_process.per_second,
        issue_p50_ms: in_process.half_latency_us.p50_us / 1e3,
        issue_p99_ms: in_process.half_latency_us.p99_us / 1e3,
        issue_over_stoq_per_second: over_stoq.per_second,
        issue_over_stoq_p50_ms: over_stoq.half_latency_us.p50_us / 1e3,
        issue_over_stoq_p99_ms: over_stoq.half_latency_us.p99_us / 1e3,
        issue_hsm_per_second: hsm.as_ref().map(|issuing| issuing.per_second),
        log_append_per_second,
        revocation_to_closed_ms: closing.max_ms,
        most_expensive_steps,
        schema: SCHEMA.to_owned(),
        host: Fingerprint::read()?,
        directory: directory.display().to_string(),
        in_process,
        over_stoq,
        hsm,
        hsm_absent,
        closing,
        notes: notes(),
    })
}

fn notes() -> Vec<String> {
    vec![
        format!(
            "a request is a renewal: the caller's certificate and the request's proof of possession are verified, the \
             certificate is linted, logged and durable before it counts; {MEMBERS} nodes ask in turn"
        ),
        "the limits per identity are raised: what protects an authority from one node is not what is measured".into(),
        "the generator, the authority, its signer and its journal share the processors of this host".into(),
        "latency counts from the intended instant of a Poisson schedule at half of the measured full rate".into(),
        "log appends: entries of a certificate's size, in batches of the authority's, with a signed head and tiles \
         every 250 ms"
            .into(),
    ]
}
