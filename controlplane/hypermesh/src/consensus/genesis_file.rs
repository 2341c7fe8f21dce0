//! The genesis as a file: JSON, keys in hexadecimal, no field that is not known. What it says is judged where it is held.

use serde::{Deserialize, Serialize};
use stoq_interface::NodeId;

use super::genesis::{Genesis, GenesisError, refuse};
use crate::digest::{from_hex, to_hex};
use crate::operation::{Validator, ValidatorKey};
use crate::proof::Policy;
use crate::registry::{GenesisStake, Parameters};

/// Octets of the longest file
pub const FILE_LIMIT_BYTES: usize = 4 << 20;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    network: String,
    time_ms: u64,
    epoch_blocks: u64,
    validators: Vec<FileValidator>,
    #[serde(default)]
    stakes: Vec<FileStake>,
    policies: Vec<Policy>,
    parameters: Option<FileParameters>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FileValidator {
    name: String,
    key: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FileStake {
    key: String,
    amount: u64,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FileParameters {
    operations_policy: u32,
    certificates_policy: u32,
    certificate_lifetime_ms: u64,
    certificate_renewal_ms: u64,
    stake_min: u64,
    slash_permille: u16,
    exclude_culprits: bool,
    validators_min: u16,
}

impl Genesis {
    /// Reads a file
    pub fn read(octets: &[u8]) -> Result<Self, GenesisError> {
        if octets.len() > FILE_LIMIT_BYTES {
            return Err(GenesisError::TooLong);
        }
        let file: File = serde_json::from_slice(octets)?;
        let name = NodeId::new(&file.network)
            .map_err(|_| refuse("network", "1 to 63 characters a-z, 0-9 and '-'"))?;
        let mut validators = Vec::with_capacity(file.validators.len());
        for validator in &file.validators {
            let name = NodeId::new(&validator.name)
                .map_err(|_| refuse("name of a validator", "1 to 63 of a-z, 0-9 and '-'"))?;
            let key = from_hex(&validator.key)
                .ok_or(refuse("key of a validator", "64 digits 0-9 and a-f"))?;
            validators.push(Validator { name, key: ValidatorKey(key) });
        }
        let mut stakes = Vec::with_capacity(file.stakes.len());
        for stake in &file.stakes {
            let key =
                from_hex(&stake.key).ok_or(refuse("key of a stake", "64 digits 0-9 and a-f"))?;
            stakes.push(GenesisStake { key, amount: stake.amount });
        }
        let genesis = Self::new(name, file.time_ms, file.epoch_blocks, validators)?
            .with_stakes(stakes)?
            .with_policies(file.policies)?;
        match file.parameters {
            Some(parameters) => genesis.with_parameters(parameters.into()),
            None => Ok(genesis),
        }
    }

    /// The file
    pub fn write(&self) -> String {
        let file = File {
            network: self.name().as_str().to_owned(),
            time_ms: self.time_ms(),
            epoch_blocks: self.epoch_blocks(),
            validators: self.validators().iter().map(FileValidator::of).collect(),
            stakes: self.stakes().iter().map(FileStake::of).collect(),
            policies: self.policies().to_vec(),
            parameters: Some(FileParameters::from(self.parameters())),
        };
        let mut text = serde_json::to_string_pretty(&file)
            .expect("strings, numbers and lists of them can be written");
        text.push('\n');
        text
    }
}

impl FileValidator {
    fn of(validator: &Validator) -> Self {
        Self { name: validator.name.as_str().to_owned(), key: to_hex(&validator.key.0) }
    }
}

impl FileStake {
    fn of(stake: &GenesisStake) -> Self {
        Self { key: to_hex(&stake.key), amount: stake.amount }
    }
}

impl From<FileParameters> for Parameters {
    fn from(file: FileParameters) -> Self {
        Self {
            operations_policy: file.operations_policy,
            certificates_policy: file.certificates_policy,
            certificate_lifetime_ms: file.certificate_lifetime_ms,
            certificate_renewal_ms: file.certificate_renewal_ms,
            stake_min: file.stake_min,
            slash_permille: file.slash_permille,
            exclude_culprits: file.exclude_culprits,
            validators_min: file.validators_min,
        }
    }
}

impl From<&Parameters> for FileParameters {
    fn from(parameters: &Parameters) -> Self {
        Self {
            operations_policy: parameters.operations_policy,
            certificates_policy: parameters.certificates_policy,
            certificate_lifetime_ms: parameters.certificate_lifetime_ms,
            certificate_renewal_ms: parameters.certificate_renewal_ms,
            stake_min: parameters.stake_min,
            slash_permille: parameters.slash_permille,
            exclude_culprits: parameters.exclude_culprits,
            validators_min: parameters.validators_min,
        }
    }
}
