//! The end of an epoch: changes that were adopted are made, culprits are left out, stakes and validators of the next
//! epoch are fixed, tickets end. All of it happens in the last block of an epoch, on every validator alike.

use std::sync::Arc;

use super::validator_records::{Period, ValidatorRecord};
use super::{
    PERIODS_LIMIT, Registry, VALIDATOR_RECORDS_LIMIT, is_idle, validator_place, validator_requester,
};
use crate::digest::Digest;
use crate::merkle;
use crate::operation::{Change, RequesterId, Validator, ValidatorKey};
use crate::proof::{StakeHolding, StakeLeaf};
use crate::wire::{Reader, WireError, Writer};

/// An epoch that begins
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EpochStart {
    /// Its number; the next block is its first
    pub epoch: u64,
    /// Its validators, in the order of their keys
    pub validators: Vec<Validator>,
    /// Who was left out for an offence
    pub excluded: Vec<ValidatorKey>,
    /// Changes that were made
    pub made: Vec<Change>,
    /// Changes that others had made impossible by then
    pub dropped: Vec<Change>,
}

/// Who has how much stake in one epoch
#[derive(Clone, Debug)]
pub(super) struct StakeTable {
    /// In the order of requesters; the index is the place
    leaves: Vec<StakeLeaf>,
    tree: merkle::Tree,
}

impl Default for StakeTable {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl StakeTable {
    fn of(leaves: Vec<StakeLeaf>) -> Self {
        let digests: Vec<_> = leaves.iter().map(StakeLeaf::digest).collect();
        Self { tree: merkle::Tree::new(&digests), leaves }
    }

    pub(super) fn root(&self) -> (Digest, u64) {
        (self.tree.root(), self.tree.count())
    }

    pub(super) fn total(&self) -> u64 {
        self.leaves.iter().fold(0, |total, leaf| total.saturating_add(leaf.weight))
    }

    pub(super) fn holding(&self, requester: &RequesterId) -> Option<StakeHolding> {
        let found = self.leaves.binary_search_by(|leaf| leaf.requester.cmp(requester)).ok()?;
        Some(StakeHolding { leaf: self.leaves[found], path: self.tree.path(found)? })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.count(self.leaves.len());
        for leaf in &self.leaves {
            writer.fixed(&leaf.requester).u64(leaf.weight).fixed(&leaf.key);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>, limit: usize) -> Result<Self, WireError> {
        let mut leaves = Vec::new();
        for index in 0..reader.count(limit)? as u64 {
            let (requester, weight, key) = (reader.fixed()?, reader.u64()?, reader.fixed()?);
            leaves.push(StakeLeaf { index, requester, weight, key });
        }
        if !leaves.is_sorted_by(|one, next| one.requester < next.requester) {
            return Err(WireError::NotCanonical { what: "stakes" });
        }
        Ok(Self::of(leaves))
    }
}

impl Registry {
    /// Fixes the validators of the epoch
    pub(super) fn set_active(&mut self) {
        let records = self.validators.iter().map(|(_, record)| record);
        let mut active: Vec<_> = records
            .filter(|record| record.left_epoch().is_none())
            .map(|record| Validator { name: record.name.clone(), key: record.key })
            .collect();
        active.sort_by_key(|validator| validator.key);
        self.active = Arc::new(active);
    }

    /// Fixes the stakes of the epoch
    pub(super) fn set_stakes(&mut self) {
        let holders = self.requesters.iter().filter(|(_, requester)| requester.stake > 0);
        let leaves = (0..).zip(holders).map(|(index, (id, requester))| StakeLeaf {
            index,
            requester: *id,
            weight: requester.stake,
            key: requester.key,
        });
        self.stakes = Arc::new(StakeTable::of(leaves.collect()));
    }

    /// Ends the epoch with the block at this height
    pub(super) fn begin_epoch(&mut self, height: u64) -> EpochStart {
        let excluded = self.exclude_culprits();
        let (mut made, mut dropped) = (Vec::new(), Vec::new());
        for change in std::mem::take(&mut self.adopted).iter() {
            let change = change.clone();
            if self.make(&change) { made.push(change) } else { dropped.push(change) }
        }
        self.epoch += 1;
        self.epoch_base_height = height;
        self.tickets = Default::default();
        self.ballots = Default::default();
        self.forget_idle_requesters();
        self.set_stakes();
        EpochStart {
            epoch: self.epoch,
            validators: self.active.as_ref().clone(),
            excluded,
            made,
            dropped,
        }
    }

    /// Leaves out who has offences on record, in the order of their keys, as long as enough remain
    fn exclude_culprits(&mut self) -> Vec<ValidatorKey> {
        let mut excluded = Vec::new();
        if !self.parameters.exclude_culprits {
            return excluded;
        }
        let least = usize::from(self.parameters.validators_min).max(1);
        for validator in self.active.clone().iter() {
            let offended =
                self.validator_record(&validator.key).is_some_and(|record| record.offences > 0);
            if offended && self.active.len() > least {
                self.leave(&validator.key);
                excluded.push(validator.key);
            }
        }
        excluded
    }

    pub(super) fn leave(&mut self, key: &ValidatorKey) {
        let epoch = self.epoch;
        let record = self.validators.get_mut(&validator_place(key));
        if let Some(period) = record.and_then(|record| record.periods.last_mut()) {
            period.last_epoch = Some(epoch);
        }
        self.set_active();
    }

    pub(super) fn join(&mut self, validator: Validator) {
        let Validator { name, key } = validator;
        let known = self.validators.get(&validator_place(&key));
        let mut periods = known.map(|record| record.periods.clone()).unwrap_or_default();
        if periods.len() >= PERIODS_LIMIT {
            periods.remove(0);
        }
        periods.push(Period { first_epoch: self.epoch + 1, last_epoch: None });
        if known.is_none() && self.validators.len() >= VALIDATOR_RECORDS_LIMIT {
            self.forget_validator();
        }
        let record = ValidatorRecord { name, key, periods, offences: 0 };
        self.validators.insert(validator_place(&key), record);
        self.set_active();
    }

    /// Makes room for a validator: forgets the one that has been gone longest, and the evidence against it
    fn forget_validator(&mut self) {
        let gone = self.validator_records().filter(|record| record.left_epoch().is_some());
        let Some(key) = gone.min_by_key(|record| record.left_epoch()).map(|record| record.key)
        else {
            return;
        };
        self.validators.remove(&validator_place(&key));
        let against: Vec<_> = self
            .evidence
            .iter()
            .filter(|(_, record)| record.finding.culprit == key)
            .map(|(place, _)| *place)
            .collect();
        for place in against {
            self.evidence.remove(&place);
        }
    }

    /// Makes a change, unless what went before has made it impossible
    fn make(&mut self, change: &Change) -> bool {
        if self.check_change(change).is_err() {
            return false;
        }
        match change {
            Change::Admit(validator) => self.join(validator.clone()),
            // Without validators there is no next block.
            Change::Remove(_) if self.active.len() == 1 => return false,
            Change::Remove(key) => self.leave(key),
            Change::Replace { key, new_key } => {
                let found = self.active.iter().find(|validator| validator.key == *key);
                let Some(name) = found.map(|validator| validator.name.clone()) else {
                    return false;
                };
                self.leave(key);
                self.join(Validator { name, key: *new_key });
            }
            Change::SetPolicy { id, policy } => {
                Arc::make_mut(&mut self.policies).insert(*id, *policy);
            }
            Change::SetParameters(parameters) => self.parameters = parameters.clone(),
        }
        true
    }

    /// Forgets requesters who have nothing left. Their old operations are bound to this epoch and can never come
    /// again; those of validators are not, so validators are remembered.
    fn forget_idle_requesters(&mut self) {
        let validators: std::collections::BTreeSet<_> =
            self.validator_records().map(|record| validator_requester(&record.key)).collect();
        let idle: Vec<_> = self
            .requesters
            .iter()
            .filter(|(id, requester)| is_idle(requester) && !validators.contains(*id))
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.requesters.remove(&id);
        }
    }
}
