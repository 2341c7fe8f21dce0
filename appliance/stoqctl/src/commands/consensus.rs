//! `stoqctl consensus`: keys and the genesis of a network, made on this host alone, and how agreement stands.

use std::path::PathBuf;

use clap::Subcommand;
use stoq_admin::ApiError;
use stoq_admin::api::{
    ConsensusBlocks, ConsensusGround, ConsensusStatus, ConsensusSubmit, ConsensusUnblock,
    ConsensusValidators,
};
use stoq_hypermesh::operation::OPERATION_LIMIT_BYTES;

use super::name_of;
use crate::commands::agreement::{from_hex, to_hex, write_receipt};
use crate::context::Context;
use crate::files;
use crate::render::{Report, cell};

mod change;
mod evidence;
mod genesis;
mod key;
mod show;

#[derive(Debug, Subcommand)]
pub(crate) enum Consensus {
    /// How agreement stands; 3 where nothing is agreed on
    Status,
    /// The validators of the epoch, as this node sees them
    Validators,
    /// Listens to a validator again that broke the protocol towards this node
    Unblock {
        /// Its key (`stoqctl consensus validators`)
        key: String,
    },
    /// What shows that validators broke the protocol
    #[command(subcommand)]
    Evidence(evidence::Evidence),
    #[command(subcommand)]
    Change(change::Changes),
    /// What requesters have at stake
    #[command(subcommand)]
    Stake(change::Stake),
    /// Final blocks, the last ones unless said otherwise
    Blocks {
        /// The first height
        #[arg(long, value_name = "HEIGHT")]
        from: Option<u64>,
        /// How many heights are looked at [default: 20]
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Without those that hold no operation
        #[arg(long)]
        skip_empty: bool,
    },
    /// Prints what proofs of a requester are made from: `stoqctl proof make --ground` reads it
    Ground {
        /// The requester (`stoqctl consensus key show`) [default: this node]
        #[arg(long, value_name = "REQUESTER")]
        of: Option<String>,
    },
    /// Hands in an operation that `stoqctl proof make` wrote, and waits until it is final
    Submit {
        /// The operation; `-` is the standard input
        operation: PathBuf,
        /// Writes the receipt there; must not exist yet
        #[arg(long, value_name = "FILE")]
        receipt: Option<PathBuf>,
    },
    /// Keys of validators and requesters; works without stoqd
    #[command(subcommand)]
    Key(key::Key),
    /// What a network begins with; works without stoqd but for `export`
    #[command(subcommand)]
    Genesis(genesis::Genesis),
}

impl Consensus {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Status => name_of::<ConsensusStatus>(),
            Self::Validators => name_of::<ConsensusValidators>(),
            Self::Unblock { .. } => name_of::<ConsensusUnblock>(),
            Self::Evidence(evidence) => ("consensus", evidence.verb()),
            Self::Change(changes) => ("consensus", changes.verb()),
            Self::Stake(stake) => ("consensus", stake.verb()),
            Self::Blocks { .. } => name_of::<ConsensusBlocks>(),
            Self::Ground { .. } => name_of::<ConsensusGround>(),
            Self::Submit { .. } => name_of::<ConsensusSubmit>(),
            Self::Key(key) => ("consensus", key.verb()),
            Self::Genesis(genesis) => ("consensus", genesis.verb()),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Status => show::status(context).await,
            Self::Validators => show::validators(context).await,
            Self::Unblock { key } => {
                let done = context.call(ConsensusUnblock { key }).await?;
                let note =
                    if done.was_blocked { "it is listened to again" } else { "it was not blocked" };
                Ok(context.report(&done)?.note(note))
            }
            Self::Evidence(evidence) => evidence.run(context).await,
            Self::Change(changes) => changes.run(context).await,
            Self::Stake(stake) => stake.run(context).await,
            Self::Blocks { from, limit, skip_empty } => {
                show::blocks(context, ConsensusBlocks { from, limit, skip_empty }).await
            }
            Self::Ground { of } => {
                let shown = context.call(ConsensusGround { requester: of }).await?;
                Ok(context.report(&shown)?.text(&shown.ground))
            }
            Self::Submit { operation, receipt } => {
                let octets = files::read_up_to(&operation, OPERATION_LIMIT_BYTES as u64)?;
                let request = ConsensusSubmit { operation: to_hex(&octets) };
                let done = context.call(request).await?;
                write_receipt(receipt.as_deref(), &from_hex(&done.receipt)?)?;
                Ok(context.report(&done)?.fields(vec![
                    ("operation", cell(&done.operation)),
                    ("block", cell(done.height)),
                    ("place", cell(done.index)),
                    ("did", cell(done.effects.join(", "))),
                ]))
            }
            Self::Key(key) => key.run(context),
            Self::Genesis(genesis) => genesis.run(context).await,
        }
    }
}
