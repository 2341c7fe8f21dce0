//! The rules of one network: what the genesis says of the registry, and the numbers that validators may change by
//! vote. How hard proofs are is in `proof::policy`; limits that protect a validator's memory are constants here.

use crate::operation::{NetworkId, OperationBody, Validator};
use crate::proof::Policy;
use crate::wire::{Reader, WireError, Writer};

/// Heights after which an operation that could still have come is out of date for everyone: the furthest that
/// [`crate::operation::Operation::not_after_height`] may lie ahead, and how long ended things are remembered
pub const KEPT_HEIGHTS: u64 = 8_192;
/// Operations of one block
pub const BLOCK_OPERATIONS_LIMIT: usize = 16_384;
/// Operations of one block, the parts of batches counted one by one
pub const BLOCK_PARTS_LIMIT: usize = 32_768;
/// Octets of one block's operations
pub const BLOCK_LIMIT_BYTES: usize = 4 << 20;
/// Assets of one network
pub const ASSETS_LIMIT: usize = 1 << 20;
/// Assets of one requester
pub const ASSETS_PER_REQUESTER_LIMIT: u32 = 1 << 17;
/// Allocations of one network, those that ended less than [`KEPT_HEIGHTS`] ago included
pub const ALLOCATIONS_LIMIT: usize = 1 << 22;
/// Allocations one requester holds
pub const ALLOCATIONS_PER_REQUESTER_LIMIT: u32 = 1 << 17;
/// Requesters of one network
pub const REQUESTERS_LIMIT: usize = 1 << 20;
/// Tickets of one epoch
pub const TICKETS_LIMIT: usize = 1 << 20;
/// Statements that are remembered
pub const SEEN_LIMIT: usize = 1 << 22;
/// Validators of one epoch: every one of them sends every vote to every other
pub const VALIDATORS_LIMIT: usize = 128;
/// Validators that are remembered; of those that have left, the ones gone longest are forgotten first
pub const VALIDATOR_RECORDS_LIMIT: usize = 1_024;
/// Times a validator has come and gone; the oldest are forgotten
pub const PERIODS_LIMIT: usize = 64;
/// Pieces of evidence against one validator; the first one decides
pub const EVIDENCE_PER_VALIDATOR_LIMIT: u32 = 16;
/// Changes one validator may have put to the vote in one epoch
pub const BALLOTS_PER_VALIDATOR_LIMIT: usize = 16;
/// Policies in force
pub const POLICIES_LIMIT: usize = 64;

/// The rules that a quorum of validators can change
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parameters {
    /// The policy that proofs of operations must be made for
    pub operations_policy: u32,
    /// The policy that proofs of certificate requests must be made for
    pub certificates_policy: u32,
    /// How long an asset's certificate counts as its one
    pub certificate_lifetime_ms: u64,
    /// How long after one certificate the next may be asked for
    pub certificate_renewal_ms: u64,
    /// The least stake a requester can have other than none
    pub stake_min: u64,
    /// What part of its stake a validator loses that is shown to have broken the protocol
    pub slash_permille: u16,
    /// Whether such a validator is left out from the next epoch on
    pub exclude_culprits: bool,
    /// Nobody is left out by that rule where fewer validators would remain
    pub validators_min: u16,
}

/// Why parameters cannot be in force
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParametersError {
    /// A field is out of its range
    #[error("{field} must be {wanted}")]
    Field {
        /// Which
        field: &'static str,
        /// What it may be
        wanted: &'static str,
    },
    /// A policy that is named is not there
    #[error("{field} names policy {policy}, which is not in force; add the policy first")]
    Policy {
        /// Which field
        field: &'static str,
        /// The policy
        policy: u32,
    },
}

const HOUR_MS: u64 = 3_600_000;

impl Default for Parameters {
    /// Certificates of a day that are renewed after two thirds of it
    fn default() -> Self {
        Self {
            operations_policy: Policy::DEFAULT_ID,
            certificates_policy: Policy::DEFAULT_ID,
            certificate_lifetime_ms: 24 * HOUR_MS,
            certificate_renewal_ms: 16 * HOUR_MS,
            stake_min: 1,
            slash_permille: 1_000,
            exclude_culprits: true,
            validators_min: 1,
        }
    }
}

impl Parameters {
    /// Refuses what would stop the network
    pub fn validate(&self, has_policy: impl Fn(u32) -> bool) -> Result<(), ParametersError> {
        let checks = [
            (
                (1..=8_760 * HOUR_MS).contains(&self.certificate_lifetime_ms),
                "certificate_lifetime_ms",
                "above 0 and at most a year",
            ),
            (
                self.certificate_renewal_ms < self.certificate_lifetime_ms,
                "certificate_renewal_ms",
                "below certificate_lifetime_ms",
            ),
            (self.stake_min > 0, "stake_min", "above 0"),
            (self.slash_permille <= 1_000, "slash_permille", "at most 1000"),
            (self.validators_min > 0, "validators_min", "above 0"),
        ];
        for (holds, field, wanted) in checks {
            if !holds {
                return Err(ParametersError::Field { field, wanted });
            }
        }
        for (field, policy) in [
            ("operations_policy", self.operations_policy),
            ("certificates_policy", self.certificates_policy),
        ] {
            if !has_policy(policy) {
                return Err(ParametersError::Policy { field, policy });
            }
        }
        Ok(())
    }

    /// The policy that a full proof for this must be made for
    pub fn policy_for(&self, body: &OperationBody) -> u32 {
        match body {
            OperationBody::RequestCertificate(_) => self.certificates_policy,
            OperationBody::Batch(parts) => {
                // A certificate in a batch needs what it needs alone.
                let certificate =
                    parts.iter().any(|part| matches!(part, OperationBody::RequestCertificate(_)));
                if certificate { self.certificates_policy } else { self.operations_policy }
            }
            _ => self.operations_policy,
        }
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer
            .u32(self.operations_policy)
            .u32(self.certificates_policy)
            .u64(self.certificate_lifetime_ms)
            .u64(self.certificate_renewal_ms)
            .u64(self.stake_min)
            .u16(self.slash_permille)
            .bool(self.exclude_culprits)
            .u16(self.validators_min);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            operations_policy: reader.u32()?,
            certificates_policy: reader.u32()?,
            certificate_lifetime_ms: reader.u64()?,
            certificate_renewal_ms: reader.u64()?,
            stake_min: reader.u64()?,
            slash_permille: reader.u16()?,
            exclude_culprits: reader.bool()?,
            validators_min: reader.u16()?,
        })
    }
}

/// Stake at the beginning of a network
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GenesisStake {
    /// The Ed25519 key that signs for it
    pub key: [u8; 32],
    /// How much
    pub amount: u64,
}

impl Parameters {
    /// The default with policies that are there: the first in the order of numbers for operations, the last, which is
    /// the strictest of the three that come with the product, for certificates
    pub fn for_policies(policies: &[Policy]) -> Self {
        let numbers = || policies.iter().map(|policy| policy.id);
        let fallback = Self::default();
        Self {
            operations_policy: numbers().min().unwrap_or(fallback.operations_policy),
            certificates_policy: numbers().max().unwrap_or(fallback.certificates_policy),
            ..fallback
        }
    }
}

/// What the registry starts from. Its form as a file and its digest, which is the network, are `consensus`'s.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RegistryGenesis {
    /// The digest of the genesis
    pub network: NetworkId,
    /// When it was made, in milliseconds since 1970: blocks are later
    pub time_ms: u64,
    /// Blocks of one epoch; at least 1
    pub epoch_blocks: u64,
    /// The first validators
    pub validators: Vec<Validator>,
    /// Who has stake at first
    pub stakes: Vec<GenesisStake>,
    /// The policies in force
    pub policies: Vec<Policy>,
    /// The rules
    pub parameters: Parameters,
}

/// Why a network cannot start
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GenesisError {
    /// Nobody would agree
    #[error("the genesis names no validator; name at least one")]
    NoValidators,
    /// A list is too long
    #[error("the genesis names more than {limit} {what}")]
    TooMany {
        /// Of what
        what: &'static str,
        /// How many may be
        limit: usize,
    },
    /// An epoch has no end
    #[error("an epoch of the genesis has {epoch_blocks} blocks; give it at least one")]
    NoBlocks {
        /// How many
        epoch_blocks: u64,
    },
    /// Nobody can sign with it
    #[error("the key of validator {name} is no Ed25519 key")]
    BadKey {
        /// Whose
        name: stoq_interface::NodeId,
    },
    /// Something stands there twice
    #[error("{what} stands twice in the genesis")]
    Twice {
        /// What
        what: String,
    },
    /// A stake is below the least
    #[error("stake {amount} of the genesis is below stake_min, {min}")]
    StakeTooSmall {
        /// The stake
        amount: u64,
        /// The least
        min: u64,
    },
    /// All stake together does not fit 64 bits
    #[error("all stakes of the genesis together must be below 2^64")]
    StakeOverflow,
    /// The thresholds of a policy
    #[error(transparent)]
    Policy(#[from] crate::proof::PolicyError),
    /// The rules
    #[error(transparent)]
    Parameters(#[from] ParametersError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_rules_may_be_in_force_where_their_policies_are() {
        let rules = Parameters::default();
        assert_eq!(rules.validate(|policy| policy == Policy::DEFAULT_ID), Ok(()));
        let missing = ParametersError::Policy { field: "operations_policy", policy: 2 };
        assert_eq!(rules.validate(|_| false), Err(missing));
    }

    #[test]
    fn each_field_that_would_stop_the_network_is_named() {
        let rules = Parameters::default();
        for (changed, name) in [
            (Parameters { certificate_lifetime_ms: 0, ..rules.clone() }, "certificate_lifetime_ms"),
            (
                Parameters { certificate_lifetime_ms: u64::MAX, ..rules.clone() },
                "certificate_lifetime_ms",
            ),
            (
                Parameters { certificate_renewal_ms: 24 * HOUR_MS, ..rules.clone() },
                "certificate_renewal_ms",
            ),
            (Parameters { stake_min: 0, ..rules.clone() }, "stake_min"),
            (Parameters { slash_permille: 1_001, ..rules.clone() }, "slash_permille"),
            (Parameters { validators_min: 0, ..rules.clone() }, "validators_min"),
        ] {
            let refused = changed.validate(|_| true);
            assert!(
                matches!(refused, Err(ParametersError::Field { field, .. }) if field == name),
                "{name}: {refused:?}"
            );
        }
    }

    #[test]
    fn rules_for_policies_name_those_that_are_there() {
        let rules = Parameters::for_policies(&[Policy::PRODUCTION, Policy::DEFAULT]);
        let named = (rules.operations_policy, rules.certificates_policy);
        assert_eq!(named, (Policy::DEFAULT_ID, Policy::PRODUCTION_ID));
        let rules = Parameters::for_policies(&[Policy::TEST]);
        assert_eq!(rules.validate(|policy| policy == Policy::TEST_ID), Ok(()));
    }

    #[test]
    fn rules_are_read_back() {
        let rules = Parameters { slash_permille: 7, validators_min: 3, ..Parameters::default() };
        let mut writer = Writer::new();
        rules.encode(&mut writer);
        let mut reader = Reader::new(writer.as_slice());
        assert_eq!(Parameters::decode(&mut reader), Ok(rules));
        assert_eq!(reader.finish(), Ok(()));
    }
}
