//! `stoqctl proof make`: an operation with its four proofs, as a file that a validator takes.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use stoq_admin::{ApiError, ExitCode, decode_pem};
use stoq_hypermesh::consensus::Genesis;
use stoq_hypermesh::digest::to_hex;
use stoq_hypermesh::operation::{
    AssetId, CertificateRequest, Operation, OperationBody, csr_statement,
};
use stoq_hypermesh::proof::{Plot, ProveError, ProveStep, Prover};
use stoq_hypermesh::registry::Registry;
use stoq_hypermesh::requester::{Ground, MakeError, Maker, RequesterKey};

use super::plot::plot_failed;
use crate::commands::agreement::{self, now_ms};
use crate::context::Context;
use crate::files;
use crate::human;
use crate::render::{Report, Stage, cell};

/// Makes an operation with its four proofs; works without stoqd
#[derive(Args, Debug)]
#[command(after_help = "\
Proofs are made from a young final block, which --ground names: take it from a node with `stoqctl consensus ground`. Without
it they are made from the genesis, which only counts while the network is younger than the policy lets proofs be.

Examples:
  stoqctl consensus ground --of 1f0c... > ground.json
  stoqctl proof make --genesis genesis.json --ground ground.json --key node.key --plot first.plot \\
      --ticket --out ticket.operation
  stoqctl proof make --genesis genesis.json --ground ground.json --key node.key --plot first.plot \\
      --csr disk.csr --asset storage-mfz... --out disk.operation
  stoqctl consensus submit disk.operation")]
#[command(group = clap::ArgGroup::new("what").required(true).args(["ticket", "csr"]))]
pub(crate) struct Make {
    /// The network
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// What the proofs are made from; `-` is the standard input
    #[arg(long, value_name = "FILE")]
    ground: Option<PathBuf>,
    /// Who asks
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Its plot
    #[arg(long, value_name = "FILE")]
    plot: PathBuf,
    /// Asks for a ticket, which stands for full proofs of single operations until the epoch ends
    #[arg(long)]
    ticket: bool,
    /// Asks for the validators' agreement to this certificate request, in PEM or DER
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// The asset that the certificate shall name; without it, it is one of the requester's node
    #[arg(long, value_name = "ID", requires = "csr")]
    asset: Option<AssetId>,
    /// The requester's own count; without it, one above the highest that was used
    #[arg(long, value_name = "N")]
    sequence: Option<u64>,
    /// The operation; must not exist yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// The operation that was made
#[derive(Serialize)]
struct Made {
    event: &'static str,
    file: String,
    operation: String,
    kind: &'static str,
    requester: String,
    sequence: u64,
    not_after_height: u64,
    epoch: u64,
    beacon_height: u64,
    policy: u32,
    bytes: usize,
    seconds: f64,
}

#[derive(Serialize)]
struct Failed {
    event: &'static str,
    error: ApiError,
}

impl Make {
    pub(super) fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self.make(context) {
            Ok(made) => Ok(shown(context.report_line(&made)?, &made)),
            Err(error) => {
                let line = Failed { event: "error", error: error.clone() };
                Ok(context.report_line(&line)?.failure(error))
            }
        }
    }

    fn make(&self, context: &Context) -> Result<Made, ApiError> {
        let genesis = agreement::genesis(&self.genesis)?;
        let key = agreement::key(&self.key)?;
        let ground = match &self.ground {
            Some(file) => ground_of_file(file, &genesis, &key)?,
            None => ground_of_genesis(&genesis, &key)?,
        };
        let plot = Plot::open(&self.plot).map_err(|error| plot_failed(&error))?;
        let sequence = self.sequence.unwrap_or(ground.newest_sequence.saturating_add(1));
        let begun = std::time::Instant::now();
        let mut stages = context.output().stages(context.schema());
        let mut watch = |step| {
            stages.show(&stage(step, begun.elapsed().as_secs_f64()));
            ControlFlow::Continue(())
        };
        let prover = Prover::new(plot, key.signing());
        let maker = Maker::new(&key, &ground);
        let made = maker.proven(self.body()?, sequence, &prover, now_ms(), &mut watch);
        let printed = stages.end();
        let operation = made.map_err(|error| make_failed(&error))?;
        printed.map_err(|error| {
            let message = format!("the proofs are made, but progress cannot be printed: {error}");
            ApiError::failed("unprintable-progress", message, "")
        })?;
        let octets = operation.encode();
        files::write_new(&self.out, &octets)?;
        Ok(self.made(&operation, &ground, octets.len(), begun.elapsed().as_secs_f64()))
    }

    fn body(&self) -> Result<OperationBody, ApiError> {
        let Some(file) = &self.csr else { return Ok(OperationBody::RequestTicket) };
        let csr_statement = csr_statement(&read_csr(file)?);
        let request = CertificateRequest { asset: self.asset, csr_statement };
        Ok(OperationBody::RequestCertificate(request))
    }

    fn made(&self, operation: &Operation, ground: &Ground, bytes: usize, seconds: f64) -> Made {
        Made {
            event: "result",
            file: self.out.display().to_string(),
            operation: to_hex(&operation.id()),
            kind: operation.body.name(),
            requester: to_hex(&operation.requester()),
            sequence: operation.sequence,
            not_after_height: operation.not_after_height,
            epoch: ground.epoch,
            beacon_height: ground.beacon_height,
            policy: operation.statement().map_or(0, |statement| statement.policy),
            bytes,
            seconds,
        }
    }
}

fn shown(report: Report, made: &Made) -> Report {
    report.fields(vec![
        ("file", cell(&made.file)),
        ("operation", cell(&made.operation)),
        ("asks for", cell(made.kind)),
        ("requester", cell(&made.requester)),
        ("sequence", cell(made.sequence)),
        ("epoch", cell(made.epoch)),
        ("beacon", cell(format!("block {}", made.beacon_height))),
        ("policy", cell(made.policy)),
        ("until", cell(format!("block {}", made.not_after_height))),
        ("size", cell(human::bytes(made.bytes as u64))),
        ("time", cell(human::duration(made.seconds))),
    ])
}

fn stage(step: ProveStep, elapsed_seconds: f64) -> Stage {
    let (stage, fraction, text) = match step {
        ProveStep::LookUp { attempt } => {
            ("space", Some(0.0), format!("looking for space, attempt {}", attempt + 1))
        }
        ProveStep::Solve { attempt } => {
            ("space", Some(0.3), format!("solving space of attempt {}", attempt + 1))
        }
        ProveStep::Work { hashes, expected } => {
            let part = hashes as f64 / expected.max(1) as f64;
            (
                "work",
                Some((0.6 + 0.4 * part).min(0.99)),
                format!("{hashes} hashes of about {expected}"),
            )
        }
    };
    Stage { stage, fraction, elapsed_seconds, text }
}

/// A certificate request in DER
pub(in crate::commands) fn read_csr(file: &Path) -> Result<Vec<u8>, ApiError> {
    let octets = files::read(file)?;
    if octets.first() == Some(&0x30) {
        return Ok(octets);
    }
    let bad = |why: String| {
        let message = format!("{}: {why}", file.display());
        ApiError::usage("bad-request", message, "name a PKCS #10 request in PEM or DER")
    };
    let text = String::from_utf8(octets).map_err(|_| bad("neither PEM nor DER".to_owned()))?;
    let mut blocks =
        decode_pem("CERTIFICATE REQUEST", &text).map_err(|error| bad(error.to_string()))?;
    blocks.pop().ok_or_else(|| bad("holds no request".to_owned()))
}

fn ground_of_file(file: &Path, genesis: &Genesis, key: &RequesterKey) -> Result<Ground, ApiError> {
    let bad = |why: String| {
        let message = format!("{}: {why}", file.display());
        ApiError::usage("bad-ground", message, "take it from a node: `stoqctl consensus ground`")
    };
    let ground = Ground::read(&files::read(file)?).map_err(|error| bad(error.to_string()))?;
    if ground.network != genesis.network() {
        return Err(bad("it is of another network than the genesis".to_owned()));
    }
    let requester = key.requester();
    if ground.holding.as_ref().is_some_and(|holding| holding.leaf.requester != requester) {
        return Err(bad(format!("it is for another requester than {}", to_hex(&requester))));
    }
    Ok(ground)
}

/// Before the first block
fn ground_of_genesis(genesis: &Genesis, key: &RequesterKey) -> Result<Ground, ApiError> {
    let mut registry = Registry::genesis(&genesis.registry()).map_err(|error| {
        ApiError::usage("bad-genesis", error.to_string(), "make another genesis")
    })?;
    registry.seal(genesis.header().digest());
    Ground::of(&registry, &key.requester()).ok_or_else(|| {
        ApiError::failed("no-ground", "the genesis has no header", "report it with the genesis")
    })
}

fn make_failed(error: &MakeError) -> ApiError {
    let message = error.to_string();
    match error {
        MakeError::NoStake { .. } => ApiError::conflict(
            "no-stake",
            message,
            "put a stake for this key into the genesis, or have its owner give some",
        ),
        MakeError::NoPolicy(_) => {
            ApiError::failed("no-policy", message, "take a newer --ground from a node")
        }
        MakeError::Prove(ProveError::Plot(error)) => plot_failed(error),
        MakeError::Prove(ProveError::Cancelled) => {
            ApiError::new(ExitCode::Failed, "cancelled", message, "")
        }
        MakeError::Prove(
            ProveError::ForeignPlot
            | ProveError::PlotBelowPolicy { .. }
            | ProveError::OtherPolicy { .. }
            | ProveError::ForeignStake
            | ProveError::StakeBelowPolicy { .. }
            | ProveError::NoSpace,
        ) => ApiError::failed("not-provable", message, "see `stoqctl proof make --help`"),
    }
}
