//! What of the chain a requester's proofs are made from: a final block as beacon, the epoch, the requester's stake in
//! it and the sequence numbers it has used. Taken from a registry, or carried as a file to where the key and the plot
//! are. Nothing in it is secret, and nothing in it is believed by who judges the proofs.

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, from_hex, to_hex};
use crate::operation::{NetworkId, RequesterId};
use crate::proof::{Policy, StakeHolding, StakeLeaf};
use crate::registry::{Parameters, Registry};

/// Octets of the longest file
pub const GROUND_LIMIT_BYTES: usize = 64 << 10;

/// Why a file is no such thing
#[derive(Debug, thiserror::Error)]
pub enum GroundError {
    /// Too long to be one
    #[error("it has more than {GROUND_LIMIT_BYTES} octets")]
    TooLong,
    /// Not JSON, or not these fields
    #[error("it cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A digest or key is none
    #[error("{0} must be 64 digits 0-9 and a-f")]
    Hex(&'static str),
}

/// What proofs of one requester are made from
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ground {
    /// The network
    pub network: NetworkId,
    /// The epoch of the next block
    pub epoch: u64,
    /// The last final block
    pub beacon_height: u64,
    /// The digest of its header
    pub beacon_hash: Digest,
    /// Its time, in milliseconds since 1970
    pub beacon_time_ms: u64,
    /// The highest sequence number that the requester has used
    pub newest_sequence: u64,
    /// Its stake in the epoch, if it has any
    pub holding: Option<StakeHolding>,
    /// The policies in force, in the order of their ids
    pub policies: Vec<Policy>,
    /// The policy that proofs of operations must be made for
    pub operations_policy: u32,
    /// The policy that proofs of certificate requests must be made for
    pub certificates_policy: u32,
}

impl Ground {
    /// As it is after the last block of a registry; none until that block was sealed
    pub fn of(registry: &Registry, requester: &RequesterId) -> Option<Self> {
        let Parameters { operations_policy, certificates_policy, .. } = *registry.parameters();
        Some(Self {
            network: registry.network(),
            epoch: registry.next_epoch(),
            beacon_height: registry.last_height(),
            beacon_hash: registry.tip()?,
            beacon_time_ms: registry.last_time_ms(),
            newest_sequence: registry.requester(requester).map_or(0, |known| known.window.newest()),
            holding: registry.stake_holding(requester),
            policies: registry.policies().copied().collect(),
            operations_policy,
            certificates_policy,
        })
    }

    /// The policy of this id
    pub fn policy(&self, id: u32) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.id == id)
    }

    /// As a file
    pub fn write(&self) -> String {
        let mut text = serde_json::to_string_pretty(&GroundFile::from(self))
            .expect("strings, numbers and lists of them can be written");
        text.push('\n');
        text
    }

    /// Reads what [`Ground::write`] wrote
    pub fn read(octets: &[u8]) -> Result<Self, GroundError> {
        if octets.len() > GROUND_LIMIT_BYTES {
            return Err(GroundError::TooLong);
        }
        serde_json::from_slice::<GroundFile>(octets)?.try_into()
    }
}

/// [`Ground`] as JSON, its digests in hexadecimal
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct GroundFile {
    network: String,
    epoch: u64,
    beacon_height: u64,
    beacon_hash: String,
    beacon_time_ms: u64,
    newest_sequence: u64,
    stake: Option<StakeFile>,
    policies: Vec<Policy>,
    operations_policy: u32,
    certificates_policy: u32,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StakeFile {
    index: u64,
    requester: String,
    weight: u64,
    key: String,
    path: Vec<String>,
}

impl From<&Ground> for GroundFile {
    fn from(ground: &Ground) -> Self {
        let stake = ground.holding.as_ref().map(|StakeHolding { leaf, path }| StakeFile {
            index: leaf.index,
            requester: to_hex(&leaf.requester),
            weight: leaf.weight,
            key: to_hex(&leaf.key),
            path: path.iter().map(|digest| to_hex(digest)).collect(),
        });
        Self {
            network: to_hex(&ground.network),
            epoch: ground.epoch,
            beacon_height: ground.beacon_height,
            beacon_hash: to_hex(&ground.beacon_hash),
            beacon_time_ms: ground.beacon_time_ms,
            newest_sequence: ground.newest_sequence,
            stake,
            policies: ground.policies.clone(),
            operations_policy: ground.operations_policy,
            certificates_policy: ground.certificates_policy,
        }
    }
}

fn digest(text: &str, field: &'static str) -> Result<Digest, GroundError> {
    from_hex(text).ok_or(GroundError::Hex(field))
}

impl TryFrom<GroundFile> for Ground {
    type Error = GroundError;

    fn try_from(file: GroundFile) -> Result<Self, GroundError> {
        let holding = file.stake.map(|stake| -> Result<_, GroundError> {
            let leaf = StakeLeaf {
                index: stake.index,
                requester: digest(&stake.requester, "requester")?,
                weight: stake.weight,
                key: digest(&stake.key, "key")?,
            };
            let path = stake.path.iter().map(|step| digest(step, "path"));
            Ok(StakeHolding { leaf, path: path.collect::<Result<_, _>>()? })
        });
        Ok(Self {
            network: digest(&file.network, "network")?,
            epoch: file.epoch,
            beacon_height: file.beacon_height,
            beacon_hash: digest(&file.beacon_hash, "beacon_hash")?,
            beacon_time_ms: file.beacon_time_ms,
            newest_sequence: file.newest_sequence,
            holding: holding.transpose()?,
            policies: file.policies,
            operations_policy: file.operations_policy,
            certificates_policy: file.certificates_policy,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ground() -> Ground {
        let leaf = StakeLeaf { index: 1, requester: [2; 32], weight: 3, key: [4; 32] };
        Ground {
            network: [1; 32],
            epoch: 5,
            beacon_height: 6,
            beacon_hash: [7; 32],
            beacon_time_ms: 8,
            newest_sequence: 9,
            holding: Some(StakeHolding { leaf, path: vec![[5; 32], [6; 32]] }),
            policies: vec![Policy::TEST, Policy::DEFAULT],
            operations_policy: Policy::TEST_ID,
            certificates_policy: Policy::DEFAULT_ID,
        }
    }

    #[test]
    fn a_file_is_read_back_whole() {
        for ground in [ground(), Ground { holding: None, ..ground() }] {
            assert_eq!(Ground::read(ground.write().as_bytes()).unwrap(), ground);
        }
        assert_eq!(ground().policy(Policy::DEFAULT_ID), Some(&Policy::DEFAULT));
        assert_eq!(ground().policy(9), None);
    }

    #[test]
    fn what_is_no_such_file_is_refused_by_name() {
        let text = ground().write();
        let short = text.replacen("0101", "01", 1);
        assert!(matches!(Ground::read(short.as_bytes()), Err(GroundError::Hex("network"))));
        let other = text.replace("\"epoch\"", "\"era\"");
        assert!(matches!(Ground::read(other.as_bytes()), Err(GroundError::Json(_))));
        let long = vec![b' '; GROUND_LIMIT_BYTES + 1];
        assert!(matches!(Ground::read(&long), Err(GroundError::TooLong)));
    }
}
