//! What is wrong with an operation whatever the state: forged proofs and signatures, other networks, what no operation
//! may ask for. A block that holds such an operation convicts who voted for it, before anyone who has only the
//! genesis. So nothing may be refused here that a block could hold: whatever this refuses, `execute` refuses too.

use bytes::Bytes;

use super::authorise::{is_for_tickets, is_for_validators};
use super::parameters::KEPT_HEIGHTS;
use super::refusal::Refusal;
use crate::operation::{
    AssetOperation, Authorisation, Candidate, NetworkId, Operation, OperationBody, Registration,
};
use crate::proof::policy::{SPACE_K_CEILING, SPACE_K_FLOOR, SPACE_STRENGTH_CEILING};
use crate::proof::{FourProof, Policy, ProofRefusal, SpaceProof, challenge};

/// Whether an operation could be in a block of this network, epoch and height, on some state
pub fn check_stateless(
    network: &NetworkId,
    epoch: u64,
    height: u64,
    octets: &Bytes,
) -> Result<(), Refusal> {
    let candidate = Candidate::decode(octets).map_err(Refusal::Encoding)?;
    let operation = candidate.operation();
    if operation.network != *network {
        return Err(Refusal::OtherNetwork);
    }
    check_heights(operation, height)?;
    if operation.sequence == 0 {
        return Err(ProofRefusal::ReplaySequenceOld { sequence: 0 }.into());
    }
    check_right(&candidate)?;
    match candidate.body() {
        OperationBody::Batch(parts) => {
            for (part, body) in parts.iter().enumerate() {
                check_part(body)
                    .map_err(|reason| Refusal::Part { part, reason: Box::new(reason) })?;
            }
        }
        single => check_body(single)?,
    }
    match &operation.authorisation {
        Authorisation::Full(proof) => check_proof(&candidate, proof, epoch, height),
        Authorisation::Ticket { .. } | Authorisation::Validator { .. } => {
            if candidate.has_valid_signature() { Ok(()) } else { Err(Refusal::BadSignature) }
        }
    }
}

fn check_heights(operation: &Operation, height: u64) -> Result<(), Refusal> {
    let not_after_height = operation.not_after_height;
    if height > not_after_height {
        return Err(Refusal::Expired { not_after_height });
    }
    if not_after_height > height.saturating_add(KEPT_HEIGHTS) {
        return Err(Refusal::LivesTooLong);
    }
    Ok(())
}

fn check_right(candidate: &Candidate) -> Result<(), Refusal> {
    let body = candidate.body();
    let what = body.name();
    match (&candidate.operation().authorisation, is_for_validators(body)) {
        (Authorisation::Validator { .. }, false) => Err(Refusal::NotForValidators { what }),
        (Authorisation::Full(_) | Authorisation::Ticket { .. }, true) => {
            Err(Refusal::NeedsValidator { what })
        }
        (Authorisation::Ticket { .. }, false) if !is_for_tickets(body) => {
            Err(Refusal::NeedsFullProof { what })
        }
        _ => Ok(()),
    }
}

fn check_part(body: &OperationBody) -> Result<(), Refusal> {
    if is_for_validators(body) {
        return Err(Refusal::NeedsValidator { what: body.name() });
    }
    check_body(body)
}

fn check_body(body: &OperationBody) -> Result<(), Refusal> {
    match body {
        OperationBody::RegisterAsset(Registration { capacity: 0, .. }) => Err(Refusal::NoCapacity),
        OperationBody::Operate(AssetOperation::Allocate { quantity: 0, .. }) => {
            Err(Refusal::NoQuantity)
        }
        _ => Ok(()),
    }
}

/// The proofs against each other. Thresholds, the beacon and the stake's root are the state's.
fn check_proof(
    candidate: &Candidate,
    proof: &FourProof,
    epoch: u64,
    height: u64,
) -> Result<(), Refusal> {
    let statement = candidate.statement().ok_or(ProofRefusal::BindingStatement)?;
    let space = proof.space.as_ref().ok_or(ProofRefusal::SpaceMissing)?;
    let work = proof.work.as_ref().ok_or(ProofRefusal::WorkMissing)?;
    let time = proof.time.as_ref().ok_or(ProofRefusal::TimeMissing)?;
    let stake = proof.stake.as_ref().ok_or(ProofRefusal::StakeMissing)?;
    if statement.epoch != epoch {
        let stated = statement.epoch;
        return Err(ProofRefusal::BindingEpoch { stated, current: epoch }.into());
    }
    let beacon = (time.beacon_height, time.beacon_hash);
    if beacon != (statement.beacon_height, statement.beacon_hash) {
        return Err(ProofRefusal::TimeBeaconOther.into());
    }
    if time.beacon_height >= height {
        return Err(ProofRefusal::TimeBeaconAhead { height: time.beacon_height }.into());
    }
    check_space_bounds(space)?;
    let digest = statement.digest();
    let work_challenge = challenge::work(&digest, space);
    work.verify(&work_challenge)?;
    let time_challenge = challenge::time(&work_challenge, work);
    time.check_link(&time_challenge)?;
    space.verify(&digest, &statement.network, &statement.requester)?;
    let leaf = stake.leaf(&statement.requester);
    stake.verify_signature(&challenge::stake(&time_challenge, time, &leaf))?;
    Ok(())
}

/// What no policy lets through, and would cost whoever judges it more than any policy may
fn check_space_bounds(space: &SpaceProof) -> Result<(), Refusal> {
    let strength = space.strength;
    if strength > SPACE_STRENGTH_CEILING {
        let needed = SPACE_STRENGTH_CEILING;
        return Err(ProofRefusal::SpaceStrength { strength, needed }.into());
    }
    let widest = Policy {
        space_k_min: SPACE_K_FLOOR,
        space_k_max: SPACE_K_CEILING,
        space_strength: strength,
        ..Policy::TEST
    };
    Ok(space.check_threshold(&widest)?)
}
