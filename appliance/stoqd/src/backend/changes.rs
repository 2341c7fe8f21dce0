//! `stoqctl consensus change | stake`: who validates, and with how much at stake, by agreement of those who validate now.

use stoq::NodeId;
use stoq_admin::ApiError;
use stoq_admin::api::{
    ConsensusChanges, ConsensusChangesListed, ConsensusGive, ConsensusSubmitted, ConsensusVote,
    ConsensusVoted, ValidatorChange, WaitingChange,
};
use stoq_hypermesh::digest::to_hex;
use stoq_hypermesh::operation::{Change, OperationBody, StakeOperation, Validator, ValidatorKey};
use stoq_hypermesh::registry::Effect;

use super::Admin;
use super::consensus::{agreement, digest, instant, not_agreed};
use crate::agreement::effect_name;

fn key(text: &str) -> Result<ValidatorKey, ApiError> {
    digest("key", text).map(ValidatorKey)
}

fn change(asked: &ValidatorChange) -> Result<Change, ApiError> {
    Ok(match asked {
        ValidatorChange::Admit { node, key: text } => {
            let name = NodeId::new(node).map_err(|error| {
                let remedy = "name the node as its certificate does";
                ApiError::usage("bad-node", format!("`{node}`: {error}"), remedy)
            })?;
            Change::Admit(Validator { name, key: key(text)? })
        }
        ValidatorChange::Remove { key: text } => Change::Remove(key(text)?),
        ValidatorChange::Replace { key: text, new_key } => {
            Change::Replace { key: key(text)?, new_key: key(new_key)? }
        }
        ValidatorChange::Rules { what } => {
            return Err(ApiError::usage(
                "not-voted-for",
                format!("{what} is not voted for by this interface"),
                "vote for a validator to be admitted, removed or replaced",
            ));
        }
    })
}

fn shown(change: &Change) -> ValidatorChange {
    match change {
        Change::Admit(Validator { name, key }) => {
            ValidatorChange::Admit { node: name.to_string(), key: key.to_string() }
        }
        Change::Remove(key) => ValidatorChange::Remove { key: key.to_string() },
        Change::Replace { key, new_key } => {
            ValidatorChange::Replace { key: key.to_string(), new_key: new_key.to_string() }
        }
        Change::SetPolicy { id, .. } => ValidatorChange::Rules { what: format!("policy {id}") },
        Change::SetParameters(_) => ValidatorChange::Rules { what: "the parameters".to_owned() },
    }
}

pub async fn vote(admin: &Admin, request: ConsensusVote) -> Result<ConsensusVoted, ApiError> {
    let agreement = agreement(admin)?;
    if !agreement.view.registry().is_validator(&agreement.key.validator()) {
        return Err(ApiError::conflict(
            "no-validator",
            "this node does not validate, and so has no vote",
            "ask at a node that `stoqctl consensus validators` lists",
        ));
    }
    let body = OperationBody::Vote(change(&request.vote)?);
    let done = agreement.requester.perform(body).await.map_err(|error| not_agreed(&error))?;
    let voted = done.effects.iter().find_map(|effect| match effect {
        Effect::Voted { votes, quorum, adopted, .. } => Some((*votes, *quorum, *adopted)),
        _ => None,
    });
    let (votes, quorum, adopted) = voted.ok_or_else(|| {
        ApiError::failed(
            "no-outcome",
            "the vote is final, and this node does not remember what came of it",
            "see `stoqctl consensus change list`",
        )
    })?;
    Ok(ConsensusVoted {
        operation: to_hex(&done.operation),
        height: done.place.height,
        votes,
        quorum,
        adopted,
        epoch_ends_at_height: agreement.view.registry().epoch_end_height(),
        receipt: to_hex(&done.receipt.to_vec()),
    })
}

pub async fn list(
    admin: &Admin,
    _request: ConsensusChanges,
) -> Result<ConsensusChangesListed, ApiError> {
    let registry = agreement(admin)?.view.registry();
    let adopted = registry.adopted_changes().iter().map(|change| WaitingChange {
        change: shown(change),
        adopted: true,
        voters: Vec::new(),
    });
    let open = registry.ballots().map(|ballot| WaitingChange {
        change: shown(&ballot.change),
        adopted: false,
        voters: ballot.voters.iter().map(ToString::to_string).collect(),
    });
    Ok(ConsensusChangesListed {
        changes: adopted.chain(open).collect(),
        quorum: registry.quorum(),
        epoch_ends_at_height: registry.epoch_end_height(),
    })
}

pub async fn give(admin: &Admin, request: ConsensusGive) -> Result<ConsensusSubmitted, ApiError> {
    let to_key = digest("key", &request.to_key)?;
    let body = OperationBody::Stake(StakeOperation::Give { to_key, amount: request.amount });
    let done = agreement(admin)?.requester.perform(body).await;
    let done = done.map_err(|error| not_agreed(&error))?;
    Ok(ConsensusSubmitted {
        operation: to_hex(&done.operation),
        height: done.place.height,
        index: done.place.index,
        time: instant(done.place.time_ms),
        effects: done.effects.iter().map(|effect| effect_name(effect).to_owned()).collect(),
        receipt: to_hex(&done.receipt.to_vec()),
    })
}
