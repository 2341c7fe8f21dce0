//! The whole state as octets, for a validator that joins late or starts again without replaying every block. A
//! snapshot is believed for its root, which a header that a quorum signed must hold, and for nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Registry;
use super::epoch::StakeTable;
use super::parameters::{
    ALLOCATIONS_LIMIT, ASSETS_LIMIT, BALLOTS_PER_VALIDATOR_LIMIT, EVIDENCE_PER_VALIDATOR_LIMIT,
    KEPT_HEIGHTS, POLICIES_LIMIT, Parameters, REQUESTERS_LIMIT, SEEN_LIMIT, TICKETS_LIMIT,
    VALIDATOR_RECORDS_LIMIT, VALIDATORS_LIMIT,
};
use super::refusal::SnapshotError;
use super::tree::Tree;
use crate::digest::Digest;
use crate::operation::Change;
use crate::proof::Policy;
use crate::proof::policy::BEACON_AGE_CEILING_HEIGHTS;
use crate::wire::{Reader, WireError, Writer};

/// Octets of the longest snapshot that is read
pub const SNAPSHOT_LIMIT_BYTES: usize = 1 << 30;
const MAGIC: &[u8; 8] = b"HMSTATE\x01";
const BALLOTS_LIMIT: usize = VALIDATORS_LIMIT * BALLOTS_PER_VALIDATOR_LIMIT;
const EVIDENCE_LIMIT: usize = VALIDATOR_RECORDS_LIMIT * EVIDENCE_PER_VALIDATOR_LIMIT as usize;
/// Every ballot, and what each validator decides about itself
const ADOPTED_LIMIT: usize = BALLOTS_LIMIT + VALIDATORS_LIMIT;
/// Policies look back this far, and one block more
const BEACONS_LIMIT: usize = BEACON_AGE_CEILING_HEIGHTS as usize + 2;
/// One for each height that is remembered
const EXPIRIES_LIMIT: usize = KEPT_HEIGHTS as usize + 2;

impl Registry {
    /// The whole state
    pub fn snapshot(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(1 << 16);
        writer.fixed(MAGIC);
        self.encode_numbers(&mut writer);
        self.stakes.encode(&mut writer);
        writer.bool(self.tip.is_some());
        if let Some(tip) = &self.tip {
            writer.fixed(tip);
        }
        self.assets.encode(&mut writer);
        self.allocations.encode(&mut writer);
        self.requesters.encode(&mut writer);
        self.tickets.encode(&mut writer);
        self.seen.encode(&mut writer);
        self.beacons.encode(&mut writer);
        self.expiries.encode(&mut writer);
        self.validators.encode(&mut writer);
        self.ballots.encode(&mut writer);
        self.evidence.encode(&mut writer);
        writer.into_vec()
    }

    /// The state of a snapshot whose root is `state_root`, the one that was agreed on.
    ///
    /// The digest of the last header is not covered by the root: [`Registry::seal`] the result with the header that
    /// the root was taken from. A judge of evidence has to be given anew.
    pub fn restore(octets: &[u8], state_root: &Digest) -> Result<Self, SnapshotError> {
        if octets.len() > SNAPSHOT_LIMIT_BYTES {
            return Err(SnapshotError::TooLong { limit: SNAPSHOT_LIMIT_BYTES });
        }
        let mut reader = Reader::new(octets);
        if reader.fixed::<8>()? != *MAGIC {
            return Err(WireError::NotCanonical { what: "beginning of a snapshot" }.into());
        }
        let mut registry = Self::decode_state(&mut reader)?;
        reader.finish()?;
        registry.set_active();
        if registry.state_root() != *state_root {
            return Err(SnapshotError::OtherRoot);
        }
        Ok(registry)
    }

    /// What the state root covers beside the maps
    pub(super) fn encode_head(&self, writer: &mut Writer) {
        self.encode_numbers(writer);
        let (root, count) = self.stakes.root();
        writer.fixed(&root).u64(count);
    }

    fn encode_numbers(&self, writer: &mut Writer) {
        writer
            .fixed(&self.network)
            .u64(self.height)
            .u64(self.time_ms)
            .u64(self.epoch)
            .u64(self.epoch_base_height)
            .u64(self.epoch_blocks)
            .u64(self.beacons_from_height);
        self.parameters.encode(writer);
        writer.count(self.policies.len());
        for policy in self.policies.values() {
            policy.encode(writer);
        }
        writer.count(self.adopted.len());
        for change in self.adopted.iter() {
            change.encode(writer);
        }
    }

    /// All but the validators of the epoch, which follow from their records
    fn decode_state(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        // In the order of the fields, which is that of the encoding
        Ok(Self {
            network: reader.fixed()?,
            height: reader.u64()?,
            time_ms: reader.u64()?,
            epoch: reader.u64()?,
            epoch_base_height: reader.u64()?,
            epoch_blocks: reader.u64()?,
            beacons_from_height: reader.u64()?,
            parameters: Parameters::decode(reader)?,
            policies: Arc::new(decode_policies(reader)?),
            active: Arc::default(),
            adopted: Arc::new(decode_adopted(reader)?),
            stakes: Arc::new(StakeTable::decode(reader, REQUESTERS_LIMIT)?),
            tip: if reader.bool()? { Some(reader.fixed()?) } else { None },
            assets: Tree::decode(reader, ASSETS_LIMIT)?,
            allocations: Tree::decode(reader, ALLOCATIONS_LIMIT)?,
            requesters: Tree::decode(reader, REQUESTERS_LIMIT)?,
            tickets: Tree::decode(reader, TICKETS_LIMIT)?,
            seen: Tree::decode(reader, SEEN_LIMIT)?,
            beacons: Tree::decode(reader, BEACONS_LIMIT)?,
            expiries: Tree::decode(reader, EXPIRIES_LIMIT)?,
            validators: Tree::decode(reader, VALIDATOR_RECORDS_LIMIT)?,
            ballots: Tree::decode(reader, BALLOTS_LIMIT)?,
            evidence: Tree::decode(reader, EVIDENCE_LIMIT)?,
            judge: None,
        })
    }
}

fn decode_policies(reader: &mut Reader<'_>) -> Result<BTreeMap<u32, Policy>, WireError> {
    let mut policies = BTreeMap::new();
    for _policy in 0..reader.count(POLICIES_LIMIT)? {
        let policy = Policy::decode(reader)?;
        let ascending = policies.last_key_value().is_none_or(|(last, _)| *last < policy.id);
        if !ascending {
            return Err(WireError::NotCanonical { what: "order of policies" });
        }
        policies.insert(policy.id, policy);
    }
    Ok(policies)
}

fn decode_adopted(reader: &mut Reader<'_>) -> Result<Vec<Change>, WireError> {
    let mut adopted = Vec::new();
    for _change in 0..reader.count(ADOPTED_LIMIT)? {
        adopted.push(Change::decode(reader)?);
    }
    Ok(adopted)
}
