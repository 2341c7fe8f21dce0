//! `stoqctl consensus change | stake`: who validates, and with how much at stake.

use clap::Subcommand;
use stoq_admin::ApiError;
use stoq_admin::api::{
    ConsensusChanges, ConsensusGive, ConsensusVote, ValidatorChange, WaitingChange,
};

use crate::commands::name_of;
use crate::context::Context;
use crate::human;
use crate::render::{Cell, Report, Tone, cell};

/// Votes of this node's validator; a change that a quorum wants is made when the epoch ends
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Every validator votes with the same words on its own node. Leaving, and another key for oneself, need nobody else's vote.

Examples:
  stoqctl consensus change admit epsilon=KEY       # KEY: `stoqctl consensus key make` on epsilon
  stoqctl consensus change remove KEY
  stoqctl consensus change replace OLD NEW         # then name NEW's file in hypermesh.key and restart
  stoqctl consensus change list")]
pub(crate) enum Changes {
    /// For a validator to join
    Admit {
        /// The name in the node's certificate, and its public key
        #[arg(value_name = "NODE=KEY", value_parser = validator)]
        validator: (String, String),
    },
    /// For a validator to leave
    Remove {
        /// Its key (`stoqctl consensus validators`)
        key: String,
    },
    /// For a validator to go on under another key
    Replace {
        /// The key it has
        key: String,
        /// The key it shall have
        new_key: String,
    },
    /// Lists the changes that wait for votes, or for the end of the epoch
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Stake {
    /// Gives of this node's stake to the holder of a key, who can prove operations with it from the next epoch on
    #[command(after_help = "Example:\n  stoqctl consensus stake give KEY 10")]
    Give {
        /// The public key (`stoqctl consensus key show`)
        key: String,
        /// How much
        amount: u64,
    },
}

fn validator(text: &str) -> Result<(String, String), String> {
    let (node, key) = text.split_once('=').ok_or("NODE=KEY is expected")?;
    Ok((node.to_owned(), key.to_owned()))
}

impl Changes {
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::List => name_of::<ConsensusChanges>().1,
            _ => name_of::<ConsensusVote>().1,
        }
    }

    pub(super) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let vote = match self {
            Self::Admit { validator: (node, key) } => ValidatorChange::Admit { node, key },
            Self::Remove { key } => ValidatorChange::Remove { key },
            Self::Replace { key, new_key } => ValidatorChange::Replace { key, new_key },
            Self::List => return list(context).await,
        };
        let done = context.call(ConsensusVote { vote }).await?;
        let becomes = match done.adopted {
            true => format!("adopted: made after height {}", done.epoch_ends_at_height),
            false => {
                human::count((done.quorum - done.votes.min(done.quorum)) as u64, "vote")
                    + " missing"
            }
        };
        Ok(context.report(&done)?.fields(vec![
            ("vote", cell(&done.operation)),
            ("block", cell(done.height)),
            ("votes", cell(format!("{} of {}", done.votes, done.quorum))),
            ("change", cell(becomes)),
        ]))
    }
}

async fn list(context: &Context) -> Result<Report, ApiError> {
    let listed = context.call(ConsensusChanges {}).await?;
    let end = listed.epoch_ends_at_height;
    let rows = listed.changes.iter().map(|one| row(one, listed.quorum, end)).collect();
    Ok(context.report(&listed)?.table(&["change", "of", "state"], rows, "no change waits"))
}

fn row(one: &WaitingChange, quorum: usize, epoch_ends_at_height: u64) -> Vec<Cell> {
    let (what, of) = match &one.change {
        ValidatorChange::Admit { node, key } => ("admit", format!("{node}={key}")),
        ValidatorChange::Remove { key } => ("remove", key.clone()),
        ValidatorChange::Replace { key, new_key } => ("replace", format!("{key} {new_key}")),
        ValidatorChange::Rules { what } => ("rules", what.clone()),
    };
    let state = match one.adopted {
        true => Cell::toned(format!("made after height {epoch_ends_at_height}"), Tone::Good),
        false => cell(format!("{} of {quorum} votes", one.voters.len())),
    };
    vec![cell(what), cell(of), state]
}

impl Stake {
    pub(super) fn verb(&self) -> &'static str {
        name_of::<ConsensusGive>().1
    }

    pub(super) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let Self::Give { key, amount } = self;
        let done = context.call(ConsensusGive { to_key: key, amount }).await?;
        Ok(context.report(&done)?.fields(vec![
            ("operation", cell(&done.operation)),
            ("block", cell(done.height)),
            ("did", cell(done.effects.join(", "))),
        ]))
    }
}
