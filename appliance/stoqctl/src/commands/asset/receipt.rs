//! `stoqctl asset receipt`: what a receipt shows, judged on this host with nothing but the genesis.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use stoq_admin::api::AssetReceipt;
use stoq_admin::{ApiError, ExitCode, show_time};
use stoq_hypermesh::digest::to_hex;
use stoq_hypermesh::operation::Operation;
use stoq_hypermesh::receipt::{RECEIPT_LIMIT_BYTES, Receipt as Shown, VerifiedReceipt};

use crate::commands::agreement::{self, from_hex, write_receipt};
use crate::commands::name_of;
use crate::context::Context;
use crate::files;
use crate::human;
use crate::render::{Report, Tone, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Receipt {
    /// Writes the receipt of a final operation
    Show {
        /// The height of its block
        #[arg(long)]
        height: u64,
        /// Its place in the block
        #[arg(long, default_value_t = 0)]
        index: u32,
        /// The receipt; must not exist yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Judges a receipt; works without stoqd and without a network
    #[command(after_help = "\
A receipt holds the operation, its path to the root in a block's header, the quorum certificate of the block, and every
change of the validators up to it. The genesis must come from somebody you trust. Ends with 3 where the receipt proves nothing.

Example:
  stoqctl asset receipt verify disk.receipt --genesis genesis.json")]
    Verify {
        /// The receipt; `-` is the standard input
        file: PathBuf,
        /// The network
        #[arg(long, value_name = "FILE")]
        genesis: PathBuf,
    },
}

/// What was found
#[derive(Serialize)]
struct Judged {
    proven: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(flatten)]
    agreed: Option<Agreed>,
    judged_microseconds: u64,
}

/// What was agreed on
#[derive(Serialize)]
struct Agreed {
    operation: String,
    kind: &'static str,
    requester: String,
    sequence: u64,
    height: u64,
    index: u32,
    epoch: u64,
    time: String,
    block: String,
    signatures: usize,
}

impl Receipt {
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Show { .. } => name_of::<AssetReceipt>().1,
            Self::Verify { .. } => "receipt-verify",
        }
    }

    pub(super) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Show { height, index, out } => {
                let shown = context.call(AssetReceipt { height, index }).await?;
                write_receipt(Some(&out), &from_hex(&shown.receipt)?)?;
                Ok(context.report(&shown)?.fields(vec![("file", cell(out.display()))]))
            }
            Self::Verify { file, genesis } => verify(context, &file, &genesis),
        }
    }
}

fn verify(context: &Context, file: &Path, genesis: &Path) -> Result<Report, ApiError> {
    let genesis = agreement::genesis(genesis)?;
    let octets = files::read_up_to(file, RECEIPT_LIMIT_BYTES as u64)?;
    let begun = std::time::Instant::now();
    let read = Shown::decode(&octets);
    let verified = read.and_then(|receipt| Ok((receipt.verify(&genesis)?, receipt)));
    let judged_microseconds = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    let judged = match verified {
        Ok((verified, receipt)) => Judged {
            proven: true,
            reason: None,
            agreed: Some(agreed(&verified, receipt.certificate.quorum.signatures.len())?),
            judged_microseconds,
        },
        Err(refusal) => Judged {
            proven: false,
            reason: Some(refusal.to_string()),
            agreed: None,
            judged_microseconds,
        },
    };
    report(context, &judged)
}

fn agreed(verified: &VerifiedReceipt, signatures: usize) -> Result<Agreed, ApiError> {
    let operation = Operation::decode(&verified.operation).map_err(|error| {
        ApiError::failed(
            "not-an-operation",
            format!("something was agreed on that is no operation: {error}"),
            "this stoqctl may be older than the network: compare with `stoqctl version`",
        )
    })?;
    let time = std::time::UNIX_EPOCH
        .checked_add(std::time::Duration::from_millis(verified.time_ms))
        .map_or_else(|| "never".to_owned(), show_time);
    Ok(Agreed {
        operation: to_hex(&operation.id()),
        kind: operation.body.name(),
        requester: to_hex(&operation.requester()),
        sequence: operation.sequence,
        height: verified.height,
        index: verified.index,
        epoch: verified.epoch,
        time,
        block: to_hex(&verified.block),
        signatures,
    })
}

fn report(context: &Context, judged: &Judged) -> Result<Report, ApiError> {
    let report = context.report(judged)?;
    let Some(agreed) = &judged.agreed else {
        let reason = judged.reason.as_deref().unwrap_or_default();
        let verdict = crate::render::Cell::toned(format!("proves nothing: {reason}"), Tone::Bad);
        return Ok(report.fields(vec![("verdict", verdict)]).exit(ExitCode::Unhealthy));
    };
    Ok(report.fields(vec![
        ("verdict", crate::render::Cell::toned("agreed on", Tone::Good)),
        ("operation", cell(&agreed.operation)),
        ("asks for", cell(agreed.kind)),
        ("requester", cell(&agreed.requester)),
        ("sequence", cell(agreed.sequence)),
        ("block", cell(format!("{} of epoch {}", agreed.height, agreed.epoch))),
        ("place", cell(agreed.index)),
        ("time", cell(&agreed.time)),
        ("signatures", cell(agreed.signatures)),
        ("judged in", cell(human::duration(judged.judged_microseconds as f64 / 1e6))),
    ]))
}
