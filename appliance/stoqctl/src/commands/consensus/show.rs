//! How agreement stands, for people: the node on one screen, the validators, and final blocks.

use stoq_admin::api::{
    AgreementBlock, AgreementValidator, ConsensusBlocks, ConsensusStatus, ConsensusValidators,
};
use stoq_admin::{ApiError, ExitCode, show_time};

use crate::commands::yes;
use crate::context::Context;
use crate::human;
use crate::render::{Cell, Report, Tone, cell};

pub(super) async fn status(context: &Context) -> Result<Report, ApiError> {
    let status = context.call(ConsensusStatus {}).await?;
    let problem = status.halted.as_ref().or(status.problem.as_ref());
    let verdict = match problem {
        Some(problem) => Cell::toned(problem, Tone::Bad),
        None => Cell::toned("agreeing", Tone::Good),
    };
    let frames = &status.frames;
    let report = context.report(&status)?.fields(vec![
        ("state", verdict),
        ("network", cell(format!("{} {}", status.name, status.network))),
        ("key", cell(&status.key)),
        ("requester", cell(&status.requester)),
        ("stake", cell(status.stake)),
        ("votes", cell(yes(status.votes))),
        ("validators", cell(status.validators)),
        ("quorum", cell(format!("{}, {} may be faulty", status.quorum, status.faults))),
        ("height", cell(format!("{}, {}", status.height, show_time(status.block_time)))),
        ("epoch", cell(format!("{}, to height {}", status.epoch, status.epoch_ends_at_height))),
        ("kept from", cell(status.lowest_height)),
        ("state root", cell(&status.state_root)),
        ("waiting", cell(human::count(status.backlog as u64, "operation"))),
        ("assets", cell(status.assets)),
        ("certificates", cell(&status.issuance)),
        (
            "frames",
            cell(format!(
                "{} out, {} in, {} dropped, {} unreachable",
                frames.queued, frames.received, frames.full, frames.unreachable
            )),
        ),
    ]);
    Ok(if problem.is_some() { report.exit(ExitCode::Unhealthy) } else { report })
}

pub(super) async fn validators(context: &Context) -> Result<Report, ApiError> {
    let listed = context.call(ConsensusValidators {}).await?;
    let rows = listed.validators.iter().map(validator).collect();
    let head = ["node", "key", "silent", "missed turns", "state"];
    Ok(context.report(&listed)?.table(&head, rows, "there is no validator"))
}

fn validator(one: &AgreementValidator) -> Vec<Cell> {
    let state = match (&one.convicted, &one.blocked, &one.suspicion) {
        (true, ..) => Cell::toned("convicted", Tone::Bad),
        (_, Some(reason), _) => Cell::toned(format!("blocked: {reason}"), Tone::Bad),
        (.., Some(reason)) => Cell::toned(format!("suspect: {reason}"), Tone::Warning),
        _ if one.own => Cell::toned("this node", Tone::Good),
        _ => Cell::toned("good", Tone::Good),
    };
    vec![
        cell(&one.node),
        cell(&one.key),
        Cell::figure(human::duration(one.silent_ms as f64 / 1e3)),
        Cell::figure(format!("{} of {}", one.missed_turns, one.turns)),
        state,
    ]
}

pub(super) async fn blocks(
    context: &Context,
    request: ConsensusBlocks,
) -> Result<Report, ApiError> {
    let listed = context.call(request).await?;
    let rows = listed.blocks.iter().map(block).collect();
    let head = ["height", "epoch", "time", "operations", "signatures", "block"];
    Ok(context.report(&listed)?.table(&head, rows, "there is no such block here"))
}

fn block(one: &AgreementBlock) -> Vec<Cell> {
    vec![
        Cell::figure(one.height),
        Cell::figure(one.epoch),
        cell(show_time(one.time)),
        Cell::figure(one.operations.len()),
        Cell::figure(one.signatures),
        cell(&one.block),
    ]
}
