//! `stoqctl consensus genesis`: the file that every validator of a network begins with, and that receipts are judged by.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use stoq_admin::api::ConsensusGenesis;
use stoq_admin::{ApiError, show_time};
use stoq_hypermesh::consensus::Genesis as Network;
use stoq_hypermesh::digest::{from_hex, to_hex};
use stoq_hypermesh::operation::{Validator, ValidatorKey};
use stoq_hypermesh::proof::Policy;
use stoq_hypermesh::registry::GenesisStake;
use stoq_interface::NodeId;

use crate::commands::agreement::{self, now_ms, parse_policy};
use crate::commands::name_of;
use crate::context::Context;
use crate::files;
use crate::render::{Report, cell};

/// Stake of a validator where nothing is said about stakes
const VALIDATOR_STAKE: u64 = 1_000;

#[derive(Debug, Subcommand)]
pub(crate) enum Genesis {
    Make(Make),
    /// Prints the genesis of the network that this node takes part in
    Export,
    /// Shows what is in a genesis, and the network it stands for
    Show {
        /// The genesis
        file: PathBuf,
    },
}

/// Makes the genesis of a new network
#[derive(Args, Debug)]
#[command(after_help = "\
Every validator gets the same file. Whoever shall prove operations needs a stake; without --stake each validator has 1000.

Policies:
  test         plots of 0.6 MB made in a second; for tests, refused in production
  default      plots of 55 MB; for one's own servers
  production   plots of 1 GB; for members who do not trust each other

Example:
  stoqctl consensus genesis make --network mesh --validator alpha=1f0c... --validator beta=77aa... \\
      --policy default --out genesis.json")]
pub(crate) struct Make {
    /// The network's name
    #[arg(long, value_name = "NAME")]
    network: NodeId,
    /// A validator: the node's name and its public key (`stoqctl consensus key show`); as often as there are validators
    #[arg(long = "validator", value_name = "NODE=KEY", required = true, value_parser = parse_validator)]
    validators: Vec<Validator>,
    /// A stake: a public key and how much
    #[arg(long = "stake", value_name = "KEY=AMOUNT", value_parser = parse_stake)]
    stakes: Vec<GenesisStake>,
    /// A policy in force: the first in the order above is for operations, the last for certificates
    #[arg(long = "policy", value_name = "NAME", value_parser = parse_policy, default_value = "default")]
    policies: Vec<Policy>,
    /// Blocks of an epoch, after which tickets end and stakes and validators may change
    #[arg(long, value_name = "N", default_value_t = 4_096)]
    epoch_blocks: u64,
    /// The genesis; must not exist yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Shown {
    file: String,
    name: String,
    network: String,
    began: String,
    epoch_blocks: u64,
    faults: usize,
    quorum: usize,
    validators: Vec<ShownValidator>,
    stakes: Vec<ShownStake>,
    policies: Vec<Policy>,
}

#[derive(Serialize)]
struct ShownValidator {
    node: String,
    key: String,
}

#[derive(Serialize)]
struct ShownStake {
    key: String,
    amount: u64,
}

impl Genesis {
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Make(_) => "genesis-make",
            Self::Export => name_of::<ConsensusGenesis>().1,
            Self::Show { .. } => "genesis-show",
        }
    }

    pub(super) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Make(make) => make.run(context),
            Self::Export => {
                let shown = context.call(ConsensusGenesis {}).await?;
                Ok(context.report(&shown)?.text(&shown.genesis))
            }
            Self::Show { file } => {
                let network = agreement::genesis(&file)?;
                report(context, &network, &file.display().to_string())
            }
        }
    }
}

impl Make {
    fn run(self, context: &Context) -> Result<Report, ApiError> {
        let Self { network, validators, stakes, policies, epoch_blocks, out } = self;
        let stakes = if stakes.is_empty() {
            let stake = |one: &Validator| GenesisStake { key: one.key.0, amount: VALIDATOR_STAKE };
            validators.iter().map(stake).collect()
        } else {
            stakes
        };
        let made = Network::new(network, now_ms(), epoch_blocks, validators)
            .and_then(|genesis| genesis.with_stakes(stakes))
            .and_then(|genesis| genesis.with_policies(policies))
            .map_err(|error| {
                ApiError::usage("bad-genesis", error.to_string(), "correct the request")
            })?;
        files::write_new(&out, made.write().as_bytes())?;
        report(context, &made, &out.display().to_string())
    }
}

fn report(context: &Context, network: &Network, file: &str) -> Result<Report, ApiError> {
    let began = std::time::UNIX_EPOCH
        .checked_add(std::time::Duration::from_millis(network.time_ms()))
        .map_or_else(|| "never".to_owned(), show_time);
    let set = network.validators();
    let shown = Shown {
        file: file.to_owned(),
        name: network.name().to_string(),
        network: to_hex(&network.network()),
        began,
        epoch_blocks: network.epoch_blocks(),
        faults: set.faults(),
        quorum: set.quorum(),
        validators: set
            .iter()
            .map(|one| ShownValidator { node: one.name.to_string(), key: one.key.to_string() })
            .collect(),
        stakes: network
            .stakes()
            .iter()
            .map(|one| ShownStake { key: to_hex(&one.key), amount: one.amount })
            .collect(),
        policies: network.policies().to_vec(),
    };
    let rows = shown.validators.iter().map(|one| vec![cell(&one.node), cell(&one.key)]).collect();
    let policies: Vec<_> = shown.policies.iter().map(|policy| policy.id.to_string()).collect();
    let fields = vec![
        ("name", cell(&shown.name)),
        ("network", cell(&shown.network)),
        ("began", cell(&shown.began)),
        ("epoch", cell(format!("{} blocks", shown.epoch_blocks))),
        ("may be faulty", cell(format!("{} of {}", shown.faults, shown.validators.len()))),
        ("quorum", cell(shown.quorum)),
        ("stakes", cell(shown.stakes.len())),
        ("policies", cell(policies.join(", "))),
    ];
    Ok(context.report(&shown)?.fields(fields).table(&["validator", "key"], rows, ""))
}

fn parse_validator(text: &str) -> Result<Validator, String> {
    let (name, key) = text.split_once('=').ok_or("NODE=KEY")?;
    let name = NodeId::new(name).map_err(|error| error.to_string())?;
    let key = from_hex(key).ok_or("the key has 64 digits 0-9 and a-f")?;
    Ok(Validator { name, key: ValidatorKey(key) })
}

fn parse_stake(text: &str) -> Result<GenesisStake, String> {
    let (key, amount) = text.split_once('=').ok_or("KEY=AMOUNT")?;
    let key = from_hex(key).ok_or("the key has 64 digits 0-9 and a-f")?;
    let amount = amount.parse().map_err(|_| "the amount is a whole number")?;
    Ok(GenesisStake { key, amount })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validators_and_stakes_are_read_strictly() {
        let key = "ab".repeat(32);
        let read = parse_validator(&format!("alpha={key}")).unwrap();
        assert_eq!((read.name.as_str(), read.key.0), ("alpha", [0xab; 32]));
        assert_eq!(parse_stake(&format!("{key}=7")).unwrap().amount, 7);
        for wrong in ["alpha", "alpha=ab", "a.b=ab"] {
            assert!(parse_validator(wrong).is_err(), "{wrong}");
        }
        for wrong in [key.clone(), format!("{key}=-1"), "7=7".to_owned()] {
            assert!(parse_stake(&wrong).is_err(), "{wrong}");
        }
    }
}
