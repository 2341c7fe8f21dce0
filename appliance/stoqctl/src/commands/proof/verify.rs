//! `stoqctl proof verify`: whether an operation's proofs hold, judged on this host alone.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use stoq_admin::{ApiError, ExitCode};
use stoq_hypermesh::consensus::Genesis;
use stoq_hypermesh::digest::to_hex;
use stoq_hypermesh::operation::{Authorisation, Candidate, OPERATION_LIMIT_BYTES};
use stoq_hypermesh::proof::{FourProof, Policy, ProofRefusal};
use stoq_hypermesh::registry::{Refusal, Registry, check_stateless};

use crate::commands::agreement::{self, now_ms};
use crate::context::Context;
use crate::files;
use crate::human;
use crate::render::{Report, Tone, cell};

/// Judges the proofs of an operation; works without stoqd
#[derive(Args, Debug)]
#[command(after_help = "\
What follows from the proofs, the operation and the genesis is judged: that they are for exactly this operation, requester and
network, that each is real, and that they reach the genesis's thresholds. Whether the beacon became final, the stake is in
force and the sequence number is unused is known to validators; for proofs made from the genesis it is judged as well.

Ends with 3 where the proofs are refused, naming the one that failed.

Example:
  stoqctl proof verify disk.operation --genesis genesis.json")]
pub(crate) struct Verify {
    /// What `stoqctl proof make` wrote; `-` is the standard input
    operation: PathBuf,
    /// The network
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
}

/// What was found
#[derive(Serialize)]
struct Judged {
    accepted: bool,
    operation: String,
    kind: &'static str,
    requester: String,
    sequence: u64,
    epoch: u64,
    policy: u32,
    beacon_height: u64,
    k: u8,
    work_bits: u8,
    stake_weight: u64,
    /// Whether beacon, stake and sequence were judged as well
    against_state: bool,
    /// Which proof failed
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    judged_microseconds: u64,
}

impl Verify {
    pub(super) fn run(self, context: &Context) -> Result<Report, ApiError> {
        let genesis = agreement::genesis(&self.genesis)?;
        let octets = Bytes::from(files::read_up_to(&self.operation, OPERATION_LIMIT_BYTES as u64)?);
        let candidate = Candidate::decode(&octets).map_err(|error| {
            ApiError::usage(
                "bad-operation",
                format!("{}: {error}", self.operation.display()),
                "name what `stoqctl proof make` wrote",
            )
        })?;
        let Authorisation::Full(proof) = &candidate.operation().authorisation else {
            return Err(ApiError::usage(
                "no-proofs",
                "the operation has a ticket or a validator's signature in place of proofs",
                "only validators can judge it",
            ));
        };
        let begun = std::time::Instant::now();
        let (against_state, outcome) = judge(&genesis, &candidate, proof, &octets);
        let judged_microseconds = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let judged =
            Judged::new(&candidate, proof, against_state, outcome.err(), judged_microseconds);
        report(context, &judged)
    }
}

/// The cheapest first; against the state of the genesis where that is what the proofs were made from
fn judge(
    genesis: &Genesis,
    candidate: &Candidate,
    proof: &FourProof,
    octets: &Bytes,
) -> (bool, Result<(), Refusal>) {
    if proof.beacon_height == 0
        && let Ok(mut registry) = Registry::genesis(&genesis.registry())
    {
        registry.seal(genesis.header().digest());
        return (true, registry.check(candidate, now_ms()));
    }
    let height = proof.beacon_height.saturating_add(1);
    let thresholds = thresholds(genesis, proof);
    let judged =
        thresholds.and_then(|()| check_stateless(&genesis.network(), proof.epoch, height, octets));
    (false, judged)
}

fn thresholds(genesis: &Genesis, proof: &FourProof) -> Result<(), Refusal> {
    let known = |policy: &&Policy| policy.id == proof.policy;
    let policy = genesis.policies().iter().find(known);
    let policy = policy.ok_or(ProofRefusal::BindingPolicy { policy: proof.policy })?;
    proof.space.as_ref().ok_or(ProofRefusal::SpaceMissing)?.check_threshold(policy)?;
    proof.work.as_ref().ok_or(ProofRefusal::WorkMissing)?.check_threshold(policy)?;
    proof.stake.as_ref().ok_or(ProofRefusal::StakeMissing)?.check_threshold(policy)?;
    Ok(())
}

impl Judged {
    fn new(
        candidate: &Candidate,
        proof: &FourProof,
        against_state: bool,
        refusal: Option<Refusal>,
        judged_microseconds: u64,
    ) -> Self {
        let operation = candidate.operation();
        let failed = refusal.as_ref().map(|refusal| match refusal {
            Refusal::Proof(proof) => proof.proof().label(),
            _ => "binding",
        });
        Self {
            accepted: refusal.is_none(),
            operation: to_hex(candidate.id()),
            kind: operation.body.name(),
            requester: to_hex(candidate.requester()),
            sequence: operation.sequence,
            epoch: proof.epoch,
            policy: proof.policy,
            beacon_height: proof.beacon_height,
            k: proof.space.as_ref().map_or(0, |space| space.k),
            work_bits: proof.work.as_ref().map_or(0, |work| work.bits),
            stake_weight: proof.stake.as_ref().map_or(0, |stake| stake.weight),
            against_state,
            proof: failed,
            label: refusal.as_ref().map(Refusal::label),
            reason: refusal.map(|refusal| refusal.to_string()),
            judged_microseconds,
        }
    }
}

fn report(context: &Context, judged: &Judged) -> Result<Report, ApiError> {
    let state = if judged.against_state {
        "judged, as of the genesis"
    } else {
        "beacon, stake and sequence number: validators know"
    };
    let verdict = match (&judged.proof, &judged.label, &judged.reason) {
        (Some(proof), Some(label), Some(reason)) => {
            cell_of(&format!("refused by {proof}: {label}: {reason}"), Tone::Bad)
        }
        _ => cell_of("accepted", Tone::Good),
    };
    let report = context.report(judged)?.fields(vec![
        ("verdict", verdict),
        ("operation", cell(&judged.operation)),
        ("asks for", cell(judged.kind)),
        ("requester", cell(&judged.requester)),
        ("policy", cell(judged.policy)),
        ("space", cell(format!("k {}", judged.k))),
        ("work", cell(format!("{} bits", judged.work_bits))),
        ("time", cell(format!("block {} of epoch {}", judged.beacon_height, judged.epoch))),
        ("stake", cell(judged.stake_weight)),
        ("state", cell(state)),
        ("judged in", cell(human::duration(judged.judged_microseconds as f64 / 1e6))),
    ]);
    Ok(if judged.accepted { report } else { report.exit(ExitCode::Unhealthy) })
}

fn cell_of(text: &str, tone: Tone) -> crate::render::Cell {
    crate::render::Cell::toned(text, tone)
}
