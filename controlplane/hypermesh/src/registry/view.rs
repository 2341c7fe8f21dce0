//! What can be asked of the registry: by operators and programs, and by the judge of proofs. Nothing here changes it.

use super::parameters::Parameters;
use super::records::{Allocation, Asset, Requester};
use super::validator_records::{Ballot, ValidatorRecord};
use super::{EvidenceRecord, Registry, height_place, validator_place};
use crate::digest::Digest;
use crate::operation::{
    AllocationId, AssetId, Change, NetworkId, RequesterId, Validator, ValidatorKey,
};
use crate::proof::{ChainView, Policy, SequenceWindow, StakeHolding, TicketState};

/// Faulty validators that n can bear: the quorum is n - f, and n comes from the configuration alone
pub(super) fn tolerated(validators: usize) -> usize {
    validators.saturating_sub(1) / 3
}

impl Registry {
    /// The network
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// The height of the last block; 0 before the first
    pub fn last_height(&self) -> u64 {
        self.height
    }

    /// The time of the last block, or of the genesis, in milliseconds since 1970
    pub fn last_time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The digest of the last block's header, if it was told
    pub fn tip(&self) -> Option<Digest> {
        self.tip
    }

    /// The epoch of the next block
    pub fn next_epoch(&self) -> u64 {
        self.epoch
    }

    /// The last block of the epoch that the next block is in
    pub fn epoch_end_height(&self) -> u64 {
        self.epoch_base_height.saturating_add(self.epoch_blocks)
    }

    /// The rules in force
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The policies in force, by number
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values()
    }

    /// The validators of the next block, in the order of their keys
    pub fn validators(&self) -> &[Validator] {
        &self.active
    }

    /// The validators of an epoch up to that of the next block, in the order of their keys
    pub fn validators_of(&self, epoch: u64) -> Vec<Validator> {
        let records = self.validator_records().filter(|record| record.took_part_in(epoch));
        let mut validators: Vec<_> = records
            .map(|record| Validator { name: record.name.clone(), key: record.key })
            .collect();
        validators.sort_by_key(|validator| validator.key);
        validators
    }

    /// How many of them must agree
    pub fn quorum(&self) -> usize {
        self.active.len() - tolerated(self.active.len())
    }

    /// Whether a key is that of a validator of the next block
    pub fn is_validator(&self, key: &ValidatorKey) -> bool {
        self.active.binary_search_by(|validator| validator.key.cmp(key)).is_ok()
    }

    /// Everybody who is or was a validator
    pub fn validator_records(&self) -> impl Iterator<Item = &ValidatorRecord> {
        self.validators.iter().map(|(_, record)| record)
    }

    /// Somebody who is or was a validator
    pub fn validator_record(&self, key: &ValidatorKey) -> Option<&ValidatorRecord> {
        self.validators.get(&validator_place(key))
    }

    /// What is put to the vote
    pub fn ballots(&self) -> impl Iterator<Item = &Ballot> {
        self.ballots.iter().map(|(_, ballot)| ballot)
    }

    /// What will be changed when the next epoch begins
    pub fn adopted_changes(&self) -> &[Change] {
        &self.adopted
    }

    /// Evidence on record
    pub fn evidence(&self) -> impl Iterator<Item = &EvidenceRecord> {
        self.evidence.iter().map(|(_, record)| record)
    }

    /// An asset
    pub fn asset(&self, id: &AssetId) -> Option<&Asset> {
        self.assets.get(&id.key())
    }

    /// All assets, those retired a while ago included
    pub fn assets(&self) -> impl Iterator<Item = &Asset> {
        self.assets.iter().map(|(_, asset)| asset)
    }

    /// How many assets there are
    pub fn assets_count(&self) -> usize {
        self.assets.len()
    }

    /// An allocation
    pub fn allocation(&self, id: &AllocationId) -> Option<&Allocation> {
        self.allocations.get(id)
    }

    /// All allocations, those that ended a while ago included
    pub fn allocations(&self) -> impl Iterator<Item = (&AllocationId, &Allocation)> {
        self.allocations.iter()
    }

    /// Somebody who may ask
    pub fn requester(&self, id: &RequesterId) -> Option<&Requester> {
        self.requesters.get(id)
    }

    /// All stakes that count in the epoch, together
    pub fn total_stake(&self) -> u64 {
        self.stakes.total()
    }

    /// The stake of a requester as proofs of this epoch must show it
    pub fn stake_holding(&self, requester: &RequesterId) -> Option<StakeHolding> {
        self.stakes.holding(requester)
    }
}

/// State as judges of proofs see it: the block under judgement is the next one
pub(super) struct Judged<'a> {
    pub(super) registry: &'a Registry,
    pub(super) height: u64,
    pub(super) time_ms: u64,
}

impl ChainView for Judged<'_> {
    fn network(&self) -> Digest {
        self.registry.network
    }

    fn epoch(&self) -> u64 {
        self.registry.epoch
    }

    fn height(&self) -> u64 {
        self.height
    }

    fn beacon(&self, height: u64) -> Option<Digest> {
        if height == self.registry.height
            && let Some(tip) = self.registry.tip
        {
            return Some(tip);
        }
        self.registry.beacons.get(&height_place(height)).map(|beacon| beacon.hash)
    }

    fn beacon_time_ms(&self, height: u64) -> Option<u64> {
        if height == self.registry.height && self.registry.tip.is_some() {
            return Some(self.registry.time_ms);
        }
        self.registry.beacons.get(&height_place(height)).map(|beacon| beacon.time_ms)
    }

    fn block_time_ms(&self) -> u64 {
        self.time_ms
    }

    fn stake_root(&self, epoch: u64) -> Option<(Digest, u64)> {
        (epoch == self.registry.epoch).then(|| self.registry.stakes.root())
    }

    fn policy(&self, id: u32) -> Option<Policy> {
        self.registry.policies.get(&id).copied()
    }

    fn is_seen(&self, statement: &Digest) -> bool {
        self.registry.seen.contains(statement)
    }

    fn last_sequence_window(&self, requester: &RequesterId) -> SequenceWindow {
        self.registry.requesters.get(requester).map(|known| known.window).unwrap_or_default()
    }

    fn ticket(&self, id: &Digest) -> Option<TicketState> {
        self.registry.tickets.get(id).copied()
    }
}

/// As it stands between blocks: the block under judgement is the next one, and not later than now known
impl ChainView for Registry {
    fn network(&self) -> Digest {
        self.network
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn height(&self) -> u64 {
        self.height + 1
    }

    fn beacon(&self, height: u64) -> Option<Digest> {
        self.judged(self.time_ms).beacon(height)
    }

    fn beacon_time_ms(&self, height: u64) -> Option<u64> {
        self.judged(self.time_ms).beacon_time_ms(height)
    }

    fn block_time_ms(&self) -> u64 {
        self.time_ms
    }

    fn stake_root(&self, epoch: u64) -> Option<(Digest, u64)> {
        self.judged(self.time_ms).stake_root(epoch)
    }

    fn policy(&self, id: u32) -> Option<Policy> {
        self.policies.get(&id).copied()
    }

    fn is_seen(&self, statement: &Digest) -> bool {
        self.seen.contains(statement)
    }

    fn last_sequence_window(&self, requester: &RequesterId) -> SequenceWindow {
        self.judged(self.time_ms).last_sequence_window(requester)
    }

    fn ticket(&self, id: &Digest) -> Option<TicketState> {
        self.tickets.get(id).copied()
    }
}

impl Registry {
    /// For the next block, at a time
    pub(super) fn judged(&self, time_ms: u64) -> Judged<'_> {
        Judged { registry: self, height: self.height + 1, time_ms }
    }
}
