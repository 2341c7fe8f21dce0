//! `stoqctl consensus`: the validators' agreement, as this node sees it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use stoq_admin::api::{
    AgreementBlock, AgreementValidator, BLOCKS_LIMIT_DEFAULT, BLOCKS_LIMIT_MAX, Carried,
    ConsensusBlocks, ConsensusBlocksListed, ConsensusEvidence, ConsensusEvidenceExport,
    ConsensusEvidenceExported, ConsensusEvidenceListed, ConsensusGenesis, ConsensusGenesisShown,
    ConsensusGround, ConsensusGroundShown, ConsensusStatus, ConsensusStatusShown, ConsensusSubmit,
    ConsensusSubmitted, ConsensusUnblock, ConsensusUnblocked, ConsensusValidators,
    ConsensusValidatorsListed, EvidenceCase,
};
use stoq_admin::{ApiError, ExitCode};
use stoq_hypermesh::consensus::{FinalBlock, Status, SubmitError, Suspicion, ValidatorStatus};
use stoq_hypermesh::digest::{Digest, from_hex, to_hex};
use stoq_hypermesh::operation::{ValidatorKey, operation_id};
use stoq_hypermesh::requester::Ground;

use super::Admin;
use crate::agreement::{Agreement, RequestError, SubmitRefused, effect_name};
use crate::certifier::octets;

/// This node's part in HyperMesh
pub fn agreement(admin: &Admin) -> Result<Arc<Agreement>, ApiError> {
    admin.0.agreement.get().cloned().ok_or_else(|| {
        ApiError::conflict(
            "no-hypermesh",
            "this node takes no part in HyperMesh",
            "set enabled = true in [hypermesh] of stoqd.toml and restart",
        )
    })
}

/// The instant that is so many milliseconds after 1970
pub fn instant(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)).unwrap_or(UNIX_EPOCH)
}

/// A digest or key on the interface
pub fn digest(what: &'static str, text: &str) -> Result<Digest, ApiError> {
    from_hex(text).ok_or_else(|| {
        ApiError::usage(
            "bad-digest",
            format!("{what}: 64 digits 0-9 and a-f are expected, and `{text}` was given"),
            "copy it from where it is listed",
        )
    })
}

/// Why something was not agreed on
pub fn not_agreed(error: &RequestError) -> ApiError {
    let message = error.to_string();
    match error {
        RequestError::Submit(SubmitRefused(refused)) => not_submitted(refused),
        RequestError::Make(_) | RequestError::Plot(_) => ApiError::failed(
            "not-provable",
            message,
            "`stoqctl consensus status` shows stake and epoch, `stoqctl proof plot` makes a plot",
        ),
        RequestError::NotReady | RequestError::TimedOut => ApiError::timed_out(
            message,
            "`stoqctl consensus status` shows whether anything is agreed on; try again",
        ),
        RequestError::Proving => ApiError::timed_out(message, "try again later"),
        RequestError::NoReceipt(_) => ApiError::failed("no-receipt", message, ""),
        RequestError::Prover(_) => super::authority::broken("prover-ended", message),
    }
}

fn not_submitted(refused: &SubmitError) -> ApiError {
    let message = refused.to_string();
    match refused {
        SubmitError::Refused(_) => {
            ApiError::conflict("operation-refused", message, "correct the request")
        }
        SubmitError::TooLong => ApiError::usage("operation-too-long", message, "split it"),
        SubmitError::Busy { .. } => ApiError::timed_out(message, "try again"),
        SubmitError::Halted(_) => ApiError::new(
            ExitCode::OperatorNeeded,
            "halted",
            message,
            "`stoqctl consensus evidence` shows why; validators have to be replaced",
        ),
        _ => ApiError::failed("no-agreement", message, "see the log of stoqd"),
    }
}

fn ended() -> ApiError {
    ApiError::failed(
        "validator-ended",
        "the validator of this node has ended",
        "its log says why; restart stoqd",
    )
}

async fn asked(agreement: &Agreement) -> Result<Status, ApiError> {
    agreement.status().await.ok_or_else(ended)
}

pub async fn status(
    admin: &Admin,
    _request: ConsensusStatus,
) -> Result<ConsensusStatusShown, ApiError> {
    let agreement = agreement(admin)?;
    let status = asked(&agreement).await?;
    let registry = agreement.view.registry();
    let requester = agreement.key.requester();
    let counters = &agreement.links.counters;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let stake = registry.stake_holding(&requester).map_or(0, |holding| holding.leaf.weight);
    Ok(ConsensusStatusShown {
        name: agreement.genesis.name().to_string(),
        network: to_hex(&status.network),
        key: agreement.key.validator().to_string(),
        requester: to_hex(&requester),
        stake,
        votes: status.votes,
        epoch: registry.next_epoch(),
        epoch_ends_at_height: registry.epoch_end_height(),
        view: status.view,
        height: status.height,
        block_time: instant(registry.last_time_ms()),
        lowest_height: status.lowest,
        state_root: to_hex(&registry.state_root()),
        validators: status.validators.len(),
        quorum: status.quorum,
        faults: status.faults,
        backlog: status.backlog,
        assets: registry.assets_count(),
        issuance: admin.0.config.load().hypermesh.issuance.label().to_owned(),
        problem: gap(&status).or_else(|| agreement.problem()),
        halted: status.halted,
        frames: Carried {
            queued: count(&counters.queued),
            full: count(&counters.full),
            unreachable: count(&counters.unreachable),
            received: count(&counters.received),
            refused_flows: count(&counters.refused),
        },
    })
}

/// Why this node cannot catch up by itself, if so
fn gap(status: &Status) -> Option<String> {
    status.gap.map(|lowest| {
        format!(
            "this node is at height {}, and the others keep no block below {lowest} any more, so that it cannot catch up",
            status.height
        )
    })
}

pub async fn validators(
    admin: &Admin,
    _request: ConsensusValidators,
) -> Result<ConsensusValidatorsListed, ApiError> {
    let agreement = agreement(admin)?;
    let status = asked(&agreement).await?;
    Ok(ConsensusValidatorsListed { validators: status.validators.iter().map(shown).collect() })
}

fn shown(validator: &ValidatorStatus) -> AgreementValidator {
    let suspicion = validator.suspicion.map(|suspicion| match suspicion {
        Suspicion::Silent { for_ms } => format!("silent for {} s", for_ms / 1_000),
        Suspicion::MissesTurns { missed, of } => format!("missed {missed} of its last {of} turns"),
    });
    AgreementValidator {
        node: validator.name.to_string(),
        key: validator.key.to_string(),
        own: validator.own,
        silent_ms: validator.silent_ms,
        missed_turns: validator.missed_turns.0,
        turns: validator.missed_turns.1,
        suspicion,
        blocked: validator.blocked.map(str::to_owned),
        convicted: validator.convicted,
    }
}

pub async fn unblock(
    admin: &Admin,
    request: ConsensusUnblock,
) -> Result<ConsensusUnblocked, ApiError> {
    let key = ValidatorKey(digest("key", &request.key)?);
    let was_blocked = agreement(admin)?.client.unblock(key).await;
    Ok(ConsensusUnblocked { was_blocked })
}

pub async fn evidence(
    admin: &Admin,
    _request: ConsensusEvidence,
) -> Result<ConsensusEvidenceListed, ApiError> {
    let cases = agreement(admin)?.client.evidence().await;
    let cases = cases.into_iter().map(|case| EvidenceCase {
        id: to_hex(&case.id),
        validator: case.finding.validator.key.to_string(),
        offence: case.finding.offence.name().to_owned(),
        epoch: case.finding.epoch,
        view: case.finding.view,
        reason: case.finding.reason.clone(),
        found_at: instant(case.found_ms),
    });
    Ok(ConsensusEvidenceListed { cases: cases.collect() })
}

pub async fn export(
    admin: &Admin,
    request: ConsensusEvidenceExport,
) -> Result<ConsensusEvidenceExported, ApiError> {
    let id = digest("evidence", &request.id)?;
    let file = agreement(admin)?.client.evidence_file(id).await.ok_or_else(|| {
        ApiError::not_found("piece of evidence", &request.id, "stoqctl consensus evidence list")
    })?;
    Ok(ConsensusEvidenceExported { id: request.id, file: to_hex(&file.to_vec()) })
}

pub async fn blocks(
    admin: &Admin,
    request: ConsensusBlocks,
) -> Result<ConsensusBlocksListed, ApiError> {
    let agreement = agreement(admin)?;
    let limit = request.limit.unwrap_or(BLOCKS_LIMIT_DEFAULT).clamp(1, BLOCKS_LIMIT_MAX);
    let last = agreement.view.registry().last_height();
    let from = request.from.unwrap_or_else(|| last.saturating_sub(limit - 1)).max(1);
    let until = last.min(from.saturating_add(limit - 1));
    let mut blocks = Vec::new();
    for height in from..=until {
        if let Some(block) = agreement.client.block(height).await
            && !(request.skip_empty && block.block.operations.is_empty())
        {
            blocks.push(block_shown(&block));
        }
    }
    Ok(ConsensusBlocksListed { blocks })
}

fn block_shown(block: &FinalBlock) -> AgreementBlock {
    let header = &block.block.header;
    let operations = &block.block.operations;
    AgreementBlock {
        height: header.height,
        epoch: header.epoch,
        time: instant(header.time_ms),
        block: to_hex(&header.digest()),
        operations: operations.iter().map(|octets| to_hex(&operation_id(octets))).collect(),
        state_root: to_hex(&header.state_root),
        signatures: block.certificate.quorum.signatures.len(),
    }
}

pub async fn ground(
    admin: &Admin,
    request: ConsensusGround,
) -> Result<ConsensusGroundShown, ApiError> {
    let agreement = agreement(admin)?;
    let requester = match &request.requester {
        Some(text) => digest("requester", text)?,
        None => agreement.key.requester(),
    };
    let ground = Ground::of(&agreement.view.registry(), &requester)
        .ok_or_else(|| not_agreed(&RequestError::NotReady))?;
    Ok(ConsensusGroundShown { ground: ground.write() })
}

pub async fn submit(
    admin: &Admin,
    request: ConsensusSubmit,
) -> Result<ConsensusSubmitted, ApiError> {
    let agreement = agreement(admin)?;
    let octets = octets(&request.operation).ok_or_else(|| {
        ApiError::usage("bad-operation", "the operation is no hexadecimal", "name a file")
    })?;
    let id = operation_id(&octets);
    let submitted = agreement.client.submit(Bytes::from(octets)).await;
    let place = submitted.map_err(|error| not_submitted(&error))?;
    let receipt = agreement.client.receipt(place.height, place.index).await;
    let receipt = receipt.ok_or_else(|| not_agreed(&RequestError::NoReceipt(place.height)))?;
    let outcome = agreement.view.outcome(place.height);
    let done = outcome
        .as_ref()
        .and_then(|block| block.outcome.operations.iter().find(|one| one.operation == id));
    let effects = done.map(|done| done.effects.iter().map(|one| effect_name(one).into()).collect());
    Ok(ConsensusSubmitted {
        operation: to_hex(&id),
        height: place.height,
        index: place.index,
        time: instant(place.time_ms),
        effects: effects.unwrap_or_default(),
        receipt: to_hex(&receipt.to_vec()),
    })
}

pub async fn genesis(
    admin: &Admin,
    _request: ConsensusGenesis,
) -> Result<ConsensusGenesisShown, ApiError> {
    let genesis = &agreement(admin)?.genesis;
    Ok(ConsensusGenesisShown { network: to_hex(&genesis.network()), genesis: genesis.write() })
}
