//! By what right an operation is asked: four proofs, a ticket that stands for them, or the signature of a validator.
//! What each right is good for is decided here; whether proofs hold is for `proof`.

use super::Registry;
use super::parameters::{KEPT_HEIGHTS, REQUESTERS_LIMIT, SEEN_LIMIT};
use super::refusal::Refusal;
use super::view::Judged;
use crate::digest::Digest;
use crate::operation::{Authorisation, Candidate, OperationBody, ValidatorKey};
use crate::proof::{
    ChainView, FourProof, ProofRefusal, SequenceWindow, TicketState, TicketUse, Verified, verify,
};

/// A right that was shown, and what is left of it once the operation is done
pub(super) struct Right {
    pub(super) basis: Basis,
    /// The requester's sequence numbers with this operation's
    pub(super) window: SequenceWindow,
}

pub(super) enum Basis {
    Full(Verified),
    Ticket { id: Digest, spent: TicketState },
    Validator(ValidatorKey),
}

/// Whether the operation may be asked for in the block under judgement. Nothing is changed.
pub(super) fn authorise(view: &Judged<'_>, candidate: &Candidate) -> Result<Right, Refusal> {
    let operation = candidate.operation();
    // What is remembered of an operation is forgotten this long after its block.
    if operation.not_after_height > view.height.saturating_add(KEPT_HEIGHTS) {
        return Err(Refusal::LivesTooLong);
    }
    let basis = match &operation.authorisation {
        Authorisation::Full(proof) => full(view, candidate, proof)?,
        Authorisation::Ticket { ticket, .. } => by_ticket(view, candidate, ticket)?,
        Authorisation::Validator { .. } => by_validator(view, candidate)?,
    };
    let mut window = view.last_sequence_window(candidate.requester());
    window.mark(operation.sequence).map_err(ProofRefusal::from)?;
    Ok(Right { basis, window })
}

fn full(view: &Judged<'_>, candidate: &Candidate, proof: &FourProof) -> Result<Basis, Refusal> {
    let (registry, body) = (view.registry, candidate.body());
    if is_for_validators(body) {
        return Err(Refusal::NeedsValidator { what: body.name() });
    }
    check_policy(registry, body, proof.policy)?;
    if registry.seen.len() >= SEEN_LIMIT {
        return Err(Refusal::Full { what: "statements", limit: SEEN_LIMIT });
    }
    let statement = candidate.statement().ok_or(ProofRefusal::BindingStatement)?;
    Ok(Basis::Full(verify(&statement, proof, view)?))
}

fn by_ticket(view: &Judged<'_>, candidate: &Candidate, ticket: &Digest) -> Result<Basis, Refusal> {
    let (operation, body) = (candidate.operation(), candidate.body());
    if is_for_validators(body) {
        return Err(Refusal::NeedsValidator { what: body.name() });
    }
    if !is_for_tickets(body) {
        return Err(Refusal::NeedsFullProof { what: body.name() });
    }
    let usage = TicketUse {
        ticket: *ticket,
        network: operation.network,
        requester_key: operation.requester_key,
        subject: *candidate.subject(),
        sequence: operation.sequence,
        not_after_height: operation.not_after_height,
    };
    let mut spent = usage.check(view)?;
    check_policy(view.registry, body, spent.policy)?;
    spent.spend()?;
    if !candidate.has_valid_signature() {
        return Err(ProofRefusal::BindingSignature.into());
    }
    Ok(Basis::Ticket { id: *ticket, spent })
}

fn by_validator(view: &Judged<'_>, candidate: &Candidate) -> Result<Basis, Refusal> {
    let (registry, operation) = (view.registry, candidate.operation());
    let what = candidate.body().name();
    if !is_for_validators(candidate.body()) {
        return Err(Refusal::NotForValidators { what });
    }
    if operation.network != registry.network {
        return Err(Refusal::OtherNetwork);
    }
    let not_after_height = operation.not_after_height;
    if view.height > not_after_height {
        return Err(Refusal::Expired { not_after_height });
    }
    let key = ValidatorKey(operation.requester_key);
    if !registry.is_validator(&key) {
        return Err(Refusal::NotValidator);
    }
    let known = registry.requesters.contains(candidate.requester());
    if !known && registry.requesters.len() >= REQUESTERS_LIMIT {
        return Err(Refusal::Full { what: "requesters", limit: REQUESTERS_LIMIT });
    }
    if !candidate.has_valid_signature() {
        return Err(Refusal::BadSignature);
    }
    Ok(Basis::Validator(key))
}

fn check_policy(registry: &Registry, body: &OperationBody, offered: u32) -> Result<(), Refusal> {
    let required = registry.parameters.policy_for(body);
    if offered == required { Ok(()) } else { Err(Refusal::OtherPolicy { offered, required }) }
}

/// What proves itself, or is a validator's own business
pub(super) fn is_for_validators(body: &OperationBody) -> bool {
    matches!(body, OperationBody::Vote(_) | OperationBody::Evidence(_))
}

/// Single operations on assets. Certificates, batches, stake and tickets themselves need proofs of their own.
pub(super) fn is_for_tickets(body: &OperationBody) -> bool {
    matches!(
        body,
        OperationBody::RegisterAsset(_)
            | OperationBody::Operate(_)
            | OperationBody::Transfer { .. }
            | OperationBody::EndCertificate { .. }
    )
}
