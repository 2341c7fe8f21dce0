//! Making operations: what is asked, by the requester's key, with full proofs, a ticket or as a validator. Whoever
//! makes several at a time counts the sequence numbers.

use std::ops::ControlFlow;

use super::{Ground, RequesterKey};
use crate::digest::Digest;
use crate::operation::{
    Authorisation, Operation, OperationBody, ticket_message, validator_message,
};
use crate::proof::{Policy, ProveError, ProveStep, Prover, Statement};

/// Blocks after the beacon in which an operation may still be taken, unless its maker says otherwise
pub const LIFETIME_HEIGHTS: u64 = 512;

/// Why there is no operation
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// Nothing is at stake
    #[error(
        "this requester has no stake in epoch {epoch}; have stake given to it, which counts from the next epoch on"
    )]
    NoStake {
        /// Which epoch
        epoch: u64,
    },
    /// The policy is not in force
    #[error("policy {0} is not in force")]
    NoPolicy(u32),
    /// The proofs
    #[error(transparent)]
    Prove(#[from] ProveError),
}

/// Makes operations of one requester
#[derive(Clone, Copy, Debug)]
pub struct Maker<'a> {
    /// Whose they are
    pub key: &'a RequesterKey,
    /// From what they are made
    pub ground: &'a Ground,
    /// How many blocks after the beacon they may still be taken in
    pub lifetime_heights: u64,
}

impl<'a> Maker<'a> {
    /// With the usual lifetime
    pub fn new(key: &'a RequesterKey, ground: &'a Ground) -> Self {
        Self { key, ground, lifetime_heights: LIFETIME_HEIGHTS }
    }

    /// The policy that full proofs for this must be made for
    pub fn policy_for(&self, body: &OperationBody) -> u32 {
        let asks_certificate =
            |body: &OperationBody| matches!(body, OperationBody::RequestCertificate(_));
        let certificate = match body {
            OperationBody::Batch(parts) => parts.iter().any(asks_certificate),
            single => asks_certificate(single),
        };
        let Ground { certificates_policy, operations_policy, .. } = *self.ground;
        if certificate { certificates_policy } else { operations_policy }
    }

    /// The thresholds that full proofs for this must reach
    pub fn thresholds_for(&self, body: &OperationBody) -> Result<Policy, MakeError> {
        let id = self.policy_for(body);
        self.ground.policy(id).copied().ok_or(MakeError::NoPolicy(id))
    }

    fn unproven(&self, body: OperationBody, sequence: u64) -> Operation {
        Operation {
            network: self.ground.network,
            requester_key: self.key.public(),
            sequence,
            not_after_height: self.ground.beacon_height.saturating_add(self.lifetime_heights),
            body,
            authorisation: Authorisation::Validator { signature: [0; 64] },
        }
    }

    /// With full proofs. Blocks for as long as they take; `claimed_ms` is the time now, in milliseconds since 1970.
    pub fn proven(
        &self,
        body: OperationBody,
        sequence: u64,
        prover: &Prover,
        claimed_ms: u64,
        watch: &mut dyn FnMut(ProveStep) -> ControlFlow<()>,
    ) -> Result<Operation, MakeError> {
        let policy = self.thresholds_for(&body)?;
        let epoch = self.ground.epoch;
        let holding = self.ground.holding.as_ref().ok_or(MakeError::NoStake { epoch })?;
        let mut operation = self.unproven(body, sequence);
        let statement = Statement {
            network: operation.network,
            epoch,
            kind: operation.body.kind(),
            subject: operation.subject(),
            requester: operation.requester(),
            beacon_height: self.ground.beacon_height,
            beacon_hash: self.ground.beacon_hash,
            sequence,
            not_after_height: operation.not_after_height,
            policy: policy.id,
        };
        let proof = prover.prove(&statement, &policy, holding, claimed_ms, watch)?;
        operation.authorisation = Authorisation::Full(Box::new(proof));
        Ok(operation)
    }

    /// Paid for by a ticket
    pub fn with_ticket(&self, body: OperationBody, sequence: u64, ticket: Digest) -> Operation {
        let mut operation = self.unproven(body, sequence);
        let signature = self.key.sign(&ticket_message(&ticket, &operation.subject()));
        operation.authorisation = Authorisation::Ticket { ticket, signature };
        operation
    }

    /// As a validator
    pub fn as_validator(&self, body: OperationBody, sequence: u64) -> Operation {
        let mut operation = self.unproven(body, sequence);
        let signature = self.key.sign(&validator_message(&operation.subject()));
        operation.authorisation = Authorisation::Validator { signature };
        operation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{
        AssetKind, AssetName, Candidate, CertificateRequest, Registration, Sharing, Validator,
    };
    use crate::proof::{Plot, PlotOrder};
    use crate::registry::{GenesisStake, Parameters, Registry, RegistryGenesis};
    use stoq_interface::NodeId;

    struct World {
        _directory: tempfile::TempDir,
        key: RequesterKey,
        prover: Prover,
        registry: Registry,
    }

    fn world() -> World {
        let directory = tempfile::tempdir().unwrap();
        let key = RequesterKey::from_secret([3; 32]);
        let genesis = RegistryGenesis {
            network: [1; 32],
            time_ms: 1_000,
            epoch_blocks: 16,
            validators: vec![Validator { name: NodeId::new("a").unwrap(), key: key.validator() }],
            stakes: vec![GenesisStake { key: key.public(), amount: 5 }],
            policies: vec![Policy::TEST],
            parameters: Parameters::for_policies(&[Policy::TEST]),
        };
        let mut registry = Registry::genesis(&genesis).unwrap();
        assert_eq!(Ground::of(&registry, &key.requester()), None, "not sealed yet");
        registry.seal([9; 32]);
        let order = PlotOrder {
            path: directory.path().join("a.plot"),
            network: [1; 32],
            requester: key.requester(),
            salt: [2; 32],
            k: 18,
            strength: 2,
        };
        let plot = Plot::make(&order, &mut |_| ControlFlow::Continue(())).unwrap();
        World { prover: Prover::new(plot, key.signing()), _directory: directory, key, registry }
    }

    fn register() -> OperationBody {
        OperationBody::RegisterAsset(Registration {
            kind: AssetKind::Cpu,
            name: AssetName::new("main").unwrap(),
            node: NodeId::new("a").unwrap(),
            capacity: 2_000,
            sharing: Sharing::Owner,
        })
    }

    #[test]
    fn what_is_made_is_taken_and_of_another_key_is_not() {
        let World { key, prover, registry, _directory } = world();
        let ground = Ground::of(&registry, &key.requester()).unwrap();
        let maker = Maker::new(&key, &ground);
        let patient = &mut |_| ControlFlow::Continue(());
        let made = maker.proven(register(), 1, &prover, 1_000, patient).unwrap();
        let candidate = Candidate::new(&made).unwrap();
        registry.check(&candidate, 1_001).unwrap();
        let mut stolen = made;
        stolen.requester_key = RequesterKey::from_secret([4; 32]).public();
        assert!(registry.check(&Candidate::new(&stolen).unwrap(), 1_001).is_err());
    }

    #[test]
    fn without_stake_nothing_is_begun() {
        let World { prover, registry, _directory, .. } = world();
        let other = RequesterKey::from_secret([4; 32]);
        let ground = Ground::of(&registry, &other.requester()).unwrap();
        let made = Maker::new(&other, &ground).proven(
            OperationBody::RequestTicket,
            1,
            &prover,
            1_000,
            &mut |_| ControlFlow::Break(()),
        );
        assert!(matches!(made, Err(MakeError::NoStake { epoch: 0 })));
    }

    #[test]
    fn a_certificate_in_a_batch_takes_the_policy_of_certificates() {
        let World { key, registry, .. } = world();
        let mut ground = Ground::of(&registry, &key.requester()).unwrap();
        ground.certificates_policy = 7;
        let maker = Maker::new(&key, &ground);
        let request = CertificateRequest { asset: None, csr_statement: [0; 32] };
        let certificate = OperationBody::RequestCertificate(request);
        assert_eq!(maker.policy_for(&register()), Policy::TEST_ID);
        assert_eq!(maker.policy_for(&certificate), 7);
        assert_eq!(
            maker.policy_for(&OperationBody::Batch(vec![register(), certificate.clone()])),
            7
        );
        assert!(matches!(maker.thresholds_for(&certificate), Err(MakeError::NoPolicy(7))));
    }
}
