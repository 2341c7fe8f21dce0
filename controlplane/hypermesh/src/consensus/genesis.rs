//! What a network begins with, as a file and as the digest that is its identity. Whoever has the file can judge every
//! receipt and every piece of evidence of the network, offline. What the registry makes of stakes and policies is the
//! registry's.

use std::sync::{Arc, OnceLock};

use stoq_interface::NodeId;

use super::genesis_file::FILE_LIMIT_BYTES;
use super::header::{Header, VERSION};
use super::validators::{ValidatorSet, ValidatorsError};
use crate::digest::{Digest, Domain};
use crate::merkle;
use crate::operation::Validator;
use crate::proof::{Policy, PolicyError};
use crate::registry::{GenesisStake, POLICIES_LIMIT, Parameters, ParametersError, RegistryGenesis};
use crate::wire::Writer;

static GENESIS: Domain = Domain::new("hypermesh v1 genesis");

/// Stakes of the longest file
pub const STAKES_LIMIT: usize = 10_000;
/// Blocks of the shortest epoch: the next set of validators is known one block before it votes
pub const EPOCH_BLOCKS_FLOOR: u64 = 2;

/// Why a file is no genesis
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// Too long to be one
    #[error("a genesis has at most {FILE_LIMIT_BYTES} octets")]
    TooLong,
    /// Not JSON, or not these fields
    #[error("the genesis cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A field holds what it may not
    #[error("{field} of the genesis must be {wanted}")]
    Field {
        /// Which
        field: &'static str,
        /// What it may hold
        wanted: &'static str,
    },
    /// The validators form no set
    #[error("the validators of the genesis: {0}")]
    Validators(#[from] ValidatorsError),
    /// A policy no proof can satisfy
    #[error("the policies of the genesis: {0}")]
    Policy(#[from] PolicyError),
    /// Rules that would stop the network
    #[error("the parameters of the genesis: {0}")]
    Parameters(#[from] ParametersError),
}

/// What a network begins with
#[derive(Clone, Debug)]
pub struct Genesis {
    name: NodeId,
    time_ms: u64,
    epoch_blocks: u64,
    validators: Arc<ValidatorSet>,
    stakes: Vec<GenesisStake>,
    policies: Vec<Policy>,
    parameters: Parameters,
    digest: OnceLock<Digest>,
}

pub(super) fn refuse(field: &'static str, wanted: &'static str) -> GenesisError {
    GenesisError::Field { field, wanted }
}

impl Genesis {
    /// A network of this name, these validators and nothing else.
    ///
    /// `time_ms` since 1970 is the time of its beginning; an epoch has `epoch_blocks` blocks.
    pub fn new(
        name: NodeId,
        time_ms: u64,
        epoch_blocks: u64,
        validators: Vec<Validator>,
    ) -> Result<Self, GenesisError> {
        if epoch_blocks < EPOCH_BLOCKS_FLOOR {
            return Err(refuse("epoch_blocks", "at least 2"));
        }
        Ok(Self {
            name,
            time_ms,
            epoch_blocks,
            validators: Arc::new(ValidatorSet::new(validators)?),
            stakes: Vec::new(),
            policies: Vec::new(),
            parameters: Parameters::default(),
            digest: OnceLock::new(),
        })
    }

    /// The same with these stakes
    pub fn with_stakes(mut self, mut stakes: Vec<GenesisStake>) -> Result<Self, GenesisError> {
        if stakes.len() > STAKES_LIMIT {
            return Err(refuse("stakes", "at most 10000"));
        }
        stakes.sort_by_key(|stake| stake.key);
        if stakes.windows(2).any(|pair| pair[0].key == pair[1].key) {
            return Err(refuse("stakes", "one for each key"));
        }
        if stakes.iter().any(|stake| stake.amount == 0) {
            return Err(refuse("stakes", "above 0 each"));
        }
        self.stakes = stakes;
        self.digest = OnceLock::new();
        Ok(self)
    }

    /// The same with these policies, and the rules that go with them unless others are given
    pub fn with_policies(mut self, mut policies: Vec<Policy>) -> Result<Self, GenesisError> {
        if policies.len() > POLICIES_LIMIT {
            return Err(refuse("policies", "at most 64"));
        }
        policies.sort_by_key(|policy| policy.id);
        if policies.windows(2).any(|pair| pair[0].id == pair[1].id) {
            return Err(refuse("policies", "one for each id"));
        }
        for policy in &policies {
            policy.validate()?;
        }
        self.parameters = Parameters::for_policies(&policies);
        self.policies = policies;
        self.digest = OnceLock::new();
        Ok(self)
    }

    /// The same with these rules
    pub fn with_parameters(mut self, parameters: Parameters) -> Result<Self, GenesisError> {
        let policies = &self.policies;
        parameters.validate(|id| policies.iter().any(|policy| policy.id == id))?;
        self.parameters = parameters;
        self.digest = OnceLock::new();
        Ok(self)
    }

    /// The name of the network, for people
    pub fn name(&self) -> &NodeId {
        &self.name
    }

    /// When it began, in milliseconds since 1970
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Blocks of an epoch
    pub fn epoch_blocks(&self) -> u64 {
        self.epoch_blocks
    }

    /// The validators of the first epoch
    pub fn validators(&self) -> &Arc<ValidatorSet> {
        &self.validators
    }

    /// The first stakes, in the order of their keys
    pub fn stakes(&self) -> &[GenesisStake] {
        &self.stakes
    }

    /// The first policies, in the order of their ids
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// The first rules of the registry
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// What the registry starts from
    pub fn registry(&self) -> RegistryGenesis {
        RegistryGenesis {
            network: self.network(),
            time_ms: self.time_ms,
            epoch_blocks: self.epoch_blocks,
            validators: self.validators.iter().cloned().collect(),
            stakes: self.stakes.clone(),
            policies: self.policies.clone(),
            parameters: self.parameters.clone(),
        }
    }

    /// The identity of the network
    pub fn network(&self) -> Digest {
        *self.digest.get_or_init(|| {
            let mut writer = Writer::new();
            writer.u16(VERSION).bytes(self.name.as_str().as_bytes());
            writer.u64(self.time_ms).u64(self.epoch_blocks);
            self.validators.encode(&mut writer);
            writer.count(self.stakes.len());
            for stake in &self.stakes {
                writer.fixed(&stake.key).u64(stake.amount);
            }
            writer.count(self.policies.len());
            for policy in &self.policies {
                policy.encode(&mut writer);
            }
            self.parameters.encode(&mut writer);
            GENESIS.hash(writer.as_slice())
        })
    }

    /// The epoch of a height. The genesis, height 0, is counted to the first.
    pub fn epoch(&self, height: u64) -> u64 {
        height.saturating_sub(1) / self.epoch_blocks
    }

    /// Whether the block at a height is the last of its epoch
    pub fn is_boundary(&self, height: u64) -> bool {
        height > 0 && height.is_multiple_of(self.epoch_blocks)
    }

    /// The header that the first block follows. It has no operations, and its state is what follows from this file.
    pub fn header(&self) -> Header {
        let empty = merkle::root(&[]);
        Header {
            version: VERSION,
            network: self.network(),
            epoch: 0,
            height: 0,
            parent: [0; 32],
            time_ms: self.time_ms,
            operations_root: empty,
            operations_count: 0,
            state_root: [0; 32],
            evidence_root: empty,
            validators_root: self.validators.digest(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::testing::{genesis, validator};

    fn full() -> Genesis {
        genesis(4, 16)
            .with_stakes(vec![
                GenesisStake { key: [9; 32], amount: 7 },
                GenesisStake { key: [1; 32], amount: 5 },
            ])
            .unwrap()
            .with_policies(vec![Policy::DEFAULT, Policy::TEST])
            .unwrap()
    }

    #[test]
    fn a_file_is_read_back_to_the_same_network() {
        let genesis = full();
        let read = Genesis::read(genesis.write().as_bytes()).unwrap();
        assert_eq!(read.network(), genesis.network());
        assert_eq!(read.validators(), genesis.validators());
        assert_eq!(read.stakes(), genesis.stakes());
        assert_eq!(read.policies(), genesis.policies());
        assert_eq!(read.registry(), genesis.registry());
    }

    #[test]
    fn every_field_makes_another_network() {
        let name = || NodeId::new("test").unwrap();
        let members = |count: u64| (0..count).map(validator).collect::<Vec<_>>();
        let base = || Genesis::new(name(), 1, 16, members(4)).unwrap();
        let stake = |amount| vec![GenesisStake { key: [1; 32], amount }];
        let networks = [
            base(),
            Genesis::new(NodeId::new("other").unwrap(), 1, 16, members(4)).unwrap(),
            Genesis::new(name(), 2, 16, members(4)).unwrap(),
            Genesis::new(name(), 1, 17, members(4)).unwrap(),
            Genesis::new(name(), 1, 16, members(5)).unwrap(),
            base().with_stakes(stake(1)).unwrap(),
            base().with_stakes(stake(2)).unwrap(),
            base().with_policies(vec![Policy::TEST]).unwrap(),
            base().with_policies(vec![Policy::DEFAULT]).unwrap(),
            base()
                .with_policies(vec![Policy::DEFAULT])
                .unwrap()
                .with_parameters(Parameters { slash_permille: 1, ..Parameters::default() })
                .unwrap(),
        ];
        let mut identities: Vec<_> = networks.iter().map(Genesis::network).collect();
        identities.sort();
        identities.dedup();
        assert_eq!(identities.len(), networks.len());
    }

    #[test]
    fn what_is_no_genesis_is_refused_by_name() {
        let text = full().write();
        let cases = [
            (text.replace("\"epoch_blocks\": 16", "\"epoch_blocks\": 1"), "epoch_blocks"),
            (text.replace("\"network\": \"test\"", "\"network\": \"a.b\""), "network"),
            (text.replace("\"amount\": 7", "\"amount\": 0"), "stakes"),
            (text.replace("\"work_bits\": 8", "\"work_bits\": 99"), "work_bits"),
            (text.replace("\"time_ms\"", "\"time\""), "time"),
            (text.replace("\"stakes\"", "\"stake\""), "stake"),
            (text.replace("\"validators_min\": 1", "\"validators_min\": 0"), "validators_min"),
            ("{}".to_owned(), "network"),
        ];
        for (case, named) in cases {
            assert_ne!(case, text);
            let error = Genesis::read(case.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        let long = vec![b' '; FILE_LIMIT_BYTES + 1];
        assert!(matches!(Genesis::read(&long), Err(GenesisError::TooLong)));
    }

    #[test]
    fn epochs_are_counted_in_blocks() {
        let genesis = genesis(1, 4);
        let epochs: Vec<_> = (0..10).map(|height| genesis.epoch(height)).collect();
        assert_eq!(epochs, [0, 0, 0, 0, 0, 1, 1, 1, 1, 2]);
        let boundaries: Vec<_> = (0..10).filter(|height| genesis.is_boundary(*height)).collect();
        assert_eq!(boundaries, [4, 8]);
    }
}
