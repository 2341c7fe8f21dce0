//! `stoq-bench peers`: this product beside other stacks and beside what a user would run instead,
//! in interleaved pairs of fresh processes with the same certificates on the same cores. What one
//! run is, is `stacks`' and `tunnels`'; what the figures mean, `record`'s.

mod contestant;
mod elsewhere;
pub mod program;
pub mod record;
mod site;
pub mod stacks;
pub mod tcp;
mod tunnels;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, ValueEnum};

use crate::host::Fingerprint;
use crate::identity::{Bundle, LOAD, SINK, write_pair};
use crate::render;
use crate::report;
use crate::sink::Failure;
use crate::units::{Cores, cores, duration, size_bytes};
use contestant::{Contestant, NoContestant};
pub use contestant::{Presence, presence};
use program::RunError;
use record::{Conditions, Pair, PeersRecord, Row};
use tunnels::Tunnel;

/// A run ended, but not every byte arrived as it left
const UNSOUND: u8 = 2;
/// Time beyond the measured one that a run may take
const SLACK: Duration = Duration::from_secs(20);
/// Payloads that are measured, octets: what a stack may send on a path of IPv6's least MTU, and
/// what ours may at most
const PAYLOADS: std::ops::RangeInclusive<u64> = 1_200..=16_383;

/// What is measured beside this product
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Peer {
    /// QUIC: quinn
    Quinn,
    /// QUIC: s2n-quic
    S2nQuic,
    /// QUIC: tokio-quiche
    TokioQuiche,
    /// QUIC: msquic
    Msquic,
    /// TLS 1.3 over TCP: rustls
    TlsTcp,
    /// A tunnel: stunnel
    Stunnel,
    /// A tunnel: HAProxy in TCP mode
    Haproxy,
    /// A tunnel: the kernel's WireGuard
    Wireguard,
}

/// `stoq-bench peers`
#[derive(Args, Clone, Debug)]
pub struct PeersArgs {
    /// Interleaved pairs per peer and payload
    #[arg(long, default_value = "10", value_name = "COUNT",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub pairs: u16,
    /// UDP payloads of a full packet, in octets
    #[arg(long, default_value = "1452,8952", value_delimiter = ',', value_name = "LIST",
          value_parser = size_bytes)]
    pub payload: Vec<u64>,
    /// Peers, in the order measured
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "LIST",
        default_value = "quinn,s2n-quic,tokio-quiche,msquic,tls-tcp,stunnel,haproxy,wireguard"
    )]
    pub peer: Vec<Peer>,
    /// Time each transfer is measured, after its warm-up
    #[arg(long, default_value = "4s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Warm-up of each transfer, not measured
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub omit: Duration,
    /// Processor of the sending side and of the receiving side
    #[arg(long, default_value = "0,1", value_parser = cores, value_name = "LIST")]
    pub cores: Cores,
    /// Directory of the built `peer-*` programs; default: `benches/peers` of the source tree, built
    /// where needed
    #[arg(long, value_name = "DIR")]
    pub peers_dir: Option<PathBuf>,
    /// Write the record as JSON to a file, or to standard output with `-`
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw the record as SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// What every run of one payload has in common
pub struct Plan {
    /// This program
    own: PathBuf,
    /// UDP payload of a full packet, octets
    payload: u64,
    duration: Duration,
    omit: Duration,
    /// Of the sending and the receiving side
    cores: [usize; 2],
    /// Identities of the sink and the load
    bundles: [Bundle; 2],
    /// Temporary files of the whole comparison
    directory: PathBuf,
}

impl Plan {
    /// Time after which a silent transfer has failed
    fn patience(&self) -> Duration {
        self.omit + self.duration + SLACK
    }

    /// Directory of the identities
    fn identity(&self) -> PathBuf {
        self.directory.join("identity")
    }
}

impl Peer {
    /// Its name on the command line and in records
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn tunnel(self) -> Option<Tunnel> {
        match self {
            Self::Stunnel => Some(Tunnel::Stunnel),
            Self::Haproxy => Some(Tunnel::Haproxy),
            Self::Wireguard => Some(Tunnel::Wireguard),
            _ => None,
        }
    }
}

/// How the comparison as a whole came out; the worst counts
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Verdict {
    Sound,
    Failed,
    Unsound,
}

fn say(text: &str) {
    // Progress that nobody can read is no reason to lose the measurement.
    let _nobody_reads = writeln!(std::io::stderr().lock(), "{text}");
}

/// Says how far a comparison is
struct Progress {
    start: Instant,
    done: usize,
    all: usize,
}

impl Progress {
    fn pair(&mut self, row: &Row, pair: &Pair, wanted: usize) {
        self.done += 1;
        let left = self.start.elapsed().div_f64(self.done as f64) * (self.all - self.done) as u32;
        say(&format!(
            "{} at {}: pair {} of {wanted}: theirs {:.2} Gb/s, ours {:.2} Gb/s, ours over theirs \
             {:.2}; about {} s left",
            row.peer,
            row.payload,
            row.samples.len() + 1,
            pair.theirs.gbps,
            pair.ours.gbps,
            pair.ours.gbps / pair.theirs.gbps,
            left.as_secs(),
        ));
    }

    fn skipped(&mut self, row: &Row, pairs: usize, why: &str) {
        self.all -= pairs.min(self.all - self.done);
        say(&format!("{} at {}: {why}", row.peer, row.payload));
    }
}

/// `stoq-bench peers`
pub fn run(args: &PeersArgs) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (record, verdict) = runtime.block_on(async {
        // Dropping the comparison ends its children and takes down its namespaces.
        tokio::select! {
            // A request to stop may end the children as well: it counts before their end does.
            biased;
            stopped = stop_asked() => Err(stopped?.into()),
            done = measure(args) => done,
        }
    })?;
    let text = serde_json::to_string(&record)? + "\n";
    let to_output = args.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
    match &args.json {
        Some(_) if to_output => render::line(text.trim_end())?,
        Some(path) => put(path, &text)?,
        None => {}
    }
    if !to_output {
        render::line(&report::table::text(&record))?;
    }
    if let Some(path) = &args.plot {
        put(path, &report::plot::svg(&record)?)?;
    }
    Ok(match verdict {
        Verdict::Sound => ExitCode::SUCCESS,
        Verdict::Failed => ExitCode::FAILURE,
        Verdict::Unsound => UNSOUND.into(),
    })
}

fn put(path: &Path, text: &str) -> Result<(), Failure> {
    Ok(std::fs::write(path, text).map_err(|cause| format!("{}: {cause}", path.display()))?)
}

async fn stop_asked() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok("stopped on request; nothing is recorded")
}

async fn measure(args: &PeersArgs) -> Result<(PeersRecord, Verdict), Failure> {
    let &[near, far] = args.cores.0.as_slice() else {
        return Err("--cores names two processors: the sender's and the receiver's".into());
    };
    if let Some(payload) = args.payload.iter().find(|payload| !PAYLOADS.contains(*payload)) {
        return Err(format!("--payload {payload}: {PAYLOADS:?} octets can be measured").into());
    }
    let directory = tempfile::Builder::new().prefix("stoq-bench-peers-").tempdir()?;
    let identity = directory.path().join("identity");
    write_pair(&identity)?;
    let bundle = |node| Bundle::read(&identity, node);
    let mut plan = Plan {
        own: std::env::current_exe()?,
        payload: 0,
        duration: args.duration,
        omit: args.omit,
        cores: [near, far],
        bundles: [bundle(SINK)?, bundle(LOAD)?],
        directory: directory.path().to_owned(),
    };
    let pairs = usize::from(args.pairs);
    let all = pairs * args.payload.len() * args.peer.len();
    let mut progress = Progress { start: Instant::now(), done: 0, all };
    let (mut rows, mut verdict) = (Vec::new(), Verdict::Sound);
    for payload in &args.payload {
        plan.payload = *payload;
        for peer in &args.peer {
            let (row, found) = row(*peer, args, &plan, &mut progress).await;
            verdict = verdict.max(found);
            rows.push(row);
        }
    }
    let record = PeersRecord {
        rows,
        fingerprint: Fingerprint::read()?,
        conditions: conditions(args, &plan),
    };
    directory.close()?;
    Ok((record, verdict))
}

fn conditions(args: &PeersArgs, plan: &Plan) -> Conditions {
    Conditions {
        schema: record::SCHEMA.to_owned(),
        date: time::OffsetDateTime::from(SystemTime::now()).date().to_string(),
        stoq_version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("STOQ_COMMIT").map(str::to_owned),
        peers: args.peer.iter().map(|peer| peer.name()).collect(),
        payloads: args.payload.clone(),
        pairs: usize::from(args.pairs),
        duration_s: plan.duration.as_secs_f64(),
        omit_s: plan.omit.as_secs_f64(),
        cores: plan.cores,
        order: "A B, then B A, and so on; fresh processes for every run".to_owned(),
        verified: "XXH3 of every octet of a transfer, at its sender and at its receiver".to_owned(),
    }
}

/// Measures all pairs of one peer at one payload
async fn row(peer: Peer, args: &PeersArgs, plan: &Plan, progress: &mut Progress) -> (Row, Verdict) {
    let pairs = usize::from(args.pairs);
    let mut about = Row { peer: peer.name(), payload: plan.payload, ..Row::default() };
    about.ours =
        if peer.tunnel().is_some() { "two stoqd, service attached" } else { "stoq-bench load" }
            .into();
    about.path = "loopback".into();
    let contestant = match Contestant::find(peer, args.peers_dir.as_deref()).await {
        Ok(contestant) => contestant,
        Err(NoContestant::Absent(why)) => {
            progress.skipped(&about, pairs, &format!("not measured: {why}"));
            return (Row::skipped(about, why), Verdict::Sound);
        }
        Err(NoContestant::Failed(why)) => {
            progress.skipped(&about, pairs, &why);
            return (Row::skipped(about, why), Verdict::Failed);
        }
    };
    about.path = contestant.path().into();
    for index in 0..pairs {
        match pair(&contestant, index, plan, &mut about).await {
            Ok(pair) => {
                progress.pair(&about, &pair, pairs);
                about.samples.push(pair);
            }
            Err(error) => {
                progress.skipped(&about, pairs - index, &error.to_string());
                about.samples.clear();
                let verdict = match error {
                    RunError::Failed(_) => Verdict::Failed,
                    RunError::Unsound(_) => Verdict::Unsound,
                };
                return (Row::skipped(about, format!("failed: {error}")), verdict);
            }
        }
    }
    let samples = std::mem::take(&mut about.samples);
    match Row::of(about.clone(), samples) {
        Some(row) => (row, Verdict::Sound),
        None => (Row::skipped(about, "failed: no pair was measured".into()), Verdict::Failed),
    }
}

/// Both runs of a pair; every other pair begins with the peer, so that a drift of the host favours
/// neither
async fn pair(
    contestant: &Contestant,
    index: usize,
    plan: &Plan,
    about: &mut Row,
) -> Result<Pair, RunError> {
    let (ours, theirs) = if index.is_multiple_of(2) {
        let ours = contestant.ours(plan).await?;
        (ours, contestant.theirs(plan).await?)
    } else {
        let theirs = contestant.theirs(plan).await?;
        (contestant.ours(plan).await?, theirs)
    };
    about.version = theirs.version;
    for note in theirs.notes {
        if !about.notes.contains(&note) {
            about.notes.push(note);
        }
    }
    Ok(Pair { ours: ours.transfer, theirs: theirs.transfer })
}

#[cfg(test)]
#[path = "comparison_tests.rs"]
mod tests;
