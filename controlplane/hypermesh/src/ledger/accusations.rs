//! Evidence on its way into the registry: each piece is handed in as an operation of this validator until it is on
//! record, whoever put it there.

use std::collections::BTreeMap;

use ed25519_consensus::SigningKey;

use crate::consensus::Evidence;
use crate::digest::Digest;
use crate::operation::{
    Candidate, EvidenceOctets, Operation, OperationBody, ValidatorKey, requester_id,
};
use crate::proof::ChainView as _;
use crate::registry::{Finding, Refusal, Registry};

/// Pieces of evidence that are not on record
const ACCUSATIONS_LIMIT: usize = 1_024;
/// How often one is handed in that is refused for another reason than what it says
const ATTEMPTS_LIMIT: u32 = 16;
/// Blocks in which it may be taken before it is handed in anew
const LIFETIME_BLOCKS: u64 = 1_024;

#[derive(Debug)]
struct Accusation {
    octets: EvidenceOctets,
    finding: Finding,
    attempts: u32,
    /// The operation that waits with it
    operation: Option<Digest>,
}

/// What becomes of operations with evidence
#[derive(Debug, Default)]
pub(super) struct Due {
    /// To be handed in
    pub(super) new: Vec<Candidate>,
    /// Handed in before, and of no use any more
    pub(super) settled: Vec<Digest>,
}

/// Evidence that is not on record
pub(super) struct Accusations {
    key: Option<SigningKey>,
    open: BTreeMap<Digest, Accusation>,
    sequence: u64,
}

impl Accusations {
    pub(super) fn new(secret: Option<[u8; 32]>) -> Self {
        Self { key: secret.map(SigningKey::from), open: BTreeMap::new(), sequence: 0 }
    }

    /// Takes a piece of evidence in, if the registry can judge it
    pub(super) fn take(&mut self, evidence: &Evidence, registry: &Registry) {
        if self.key.is_none() || self.open.len() >= ACCUSATIONS_LIMIT {
            return;
        }
        let octets = evidence.to_vec();
        match (registry.judge_evidence(&octets), EvidenceOctets::new(octets)) {
            (Ok(finding), Ok(octets)) => {
                let accusation = Accusation { octets, finding, attempts: 0, operation: None };
                self.open.entry(evidence.id()).or_insert(accusation);
            }
            (Err(refusal), _) => tracing::info!(%refusal, "evidence is not for the record"),
            (_, Err(error)) => tracing::info!(%error, "evidence is not for the record"),
        }
    }

    /// What is to be handed in now, with the sequence numbers that are free, and what need not wait any more
    pub(super) fn due(&mut self, registry: &Registry) -> Due {
        let mut due = Due::default();
        let Some(key) = &self.key else { return due };
        let public = key.verification_key().to_bytes();
        if !registry.is_validator(&ValidatorKey(public)) {
            return due;
        }
        let newest = registry.last_sequence_window(&requester_id(&public)).newest();
        self.sequence = self.sequence.max(newest);
        self.open.retain(|_, accusation| {
            if let Err(refusal) = registry.wants_evidence(&accusation.finding) {
                tracing::debug!(%refusal, "evidence need not be handed in any more");
                due.settled.extend(accusation.operation);
                return false;
            }
            if accusation.operation.is_some() {
                return true;
            }
            if accusation.attempts >= ATTEMPTS_LIMIT {
                tracing::error!("evidence against a validator was never taken on record");
                return false;
            }
            self.sequence += 1;
            let operation = Operation::by_validator(
                key,
                registry.network(),
                self.sequence,
                registry.last_height() + LIFETIME_BLOCKS,
                OperationBody::Evidence(accusation.octets.clone()),
            );
            let Ok(candidate) = Candidate::new(&operation) else {
                tracing::error!("evidence against a validator makes no operation");
                return false;
            };
            accusation.attempts += 1;
            accusation.operation = Some(*candidate.id());
            due.new.push(candidate);
            true
        });
        due
    }

    /// Whether a refused operation was one of these. Then nobody else waits for it.
    pub(super) fn refused(&mut self, candidate: &Candidate, refusal: &Refusal) -> bool {
        let of_operation =
            |accusation: &&mut Accusation| accusation.operation.as_ref() == Some(candidate.id());
        let Some(accusation) = self.open.values_mut().find(of_operation) else { return false };
        tracing::debug!(%refusal, "evidence handed in is refused");
        accusation.operation = None;
        true
    }

    /// How many are not on record
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}
