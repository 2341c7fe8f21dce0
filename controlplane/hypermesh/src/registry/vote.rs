//! Votes of validators for changes. A change that a quorum wants is adopted, and made when the epoch ends; what a
//! validator decides about itself needs nobody else.

use std::sync::Arc;

use super::refusal::Refusal;
use super::validator_records::Ballot;
use super::{
    BALLOTS_PER_VALIDATOR_LIMIT, Effect, POLICIES_LIMIT, Registry, VALIDATORS_LIMIT, is_key,
    validator_place,
};
use crate::operation::{Change, Validator, ValidatorKey};

impl Registry {
    pub(super) fn vote(&mut self, voter: ValidatorKey, change: &Change) -> Result<Effect, Refusal> {
        self.check_change(change)?;
        if self.adopted.contains(change) {
            return Err(Refusal::AlreadyVoted);
        }
        let quorum = self.quorum();
        if is_own(voter, change) {
            // One decision about oneself in an epoch; the changes that wait have a limit by that.
            if self.adopted.iter().any(|other| is_own(voter, other)) {
                return Err(Refusal::AlreadyVoted);
            }
            Arc::make_mut(&mut self.adopted).push(change.clone());
            return Ok(Effect::Voted { change: change.digest(), votes: 1, quorum, adopted: true });
        }
        let place = change.digest();
        let mut ballot = match self.ballots.get(&place) {
            Some(ballot) => ballot.clone(),
            None => self.open_ballot(voter, change)?,
        };
        let Err(at) = ballot.voters.binary_search(&voter) else {
            return Err(Refusal::AlreadyVoted);
        };
        ballot.voters.insert(at, voter);
        let votes = ballot.voters.len();
        let adopted = votes >= quorum;
        if adopted {
            self.ballots.remove(&place);
            Arc::make_mut(&mut self.adopted).push(ballot.change);
        } else {
            self.ballots.insert(place, ballot);
        }
        Ok(Effect::Voted { change: place, votes, quorum, adopted })
    }

    fn open_ballot(&self, voter: ValidatorKey, change: &Change) -> Result<Ballot, Refusal> {
        let opened = self.ballots.iter().filter(|(_, ballot)| ballot.opened_by == voter).count();
        if opened >= BALLOTS_PER_VALIDATOR_LIMIT {
            return Err(Refusal::TooManyBallots);
        }
        Ok(Ballot { change: change.clone(), opened_by: voter, voters: Vec::new() })
    }

    /// Whether the change could be made if the epoch ended now
    pub(super) fn check_change(&self, change: &Change) -> Result<(), Refusal> {
        match change {
            Change::Admit(validator) => {
                let known = self.active.iter();
                let mut known =
                    known.map(|other| other.key == validator.key || other.name == validator.name);
                if known.any(|known| known) {
                    return Err(Refusal::ValidatorKnown);
                }
                if self.active.len() >= VALIDATORS_LIMIT {
                    return Err(Refusal::Full { what: "validators", limit: VALIDATORS_LIMIT });
                }
                self.check_key(validator)
            }
            Change::Remove(key) => self.check_active(key),
            Change::Replace { key, new_key } => {
                self.check_active(key)?;
                // A key that has been a validator's stands for what it did then.
                if self.validators.contains(&validator_place(new_key)) {
                    return Err(Refusal::ValidatorKnown);
                }
                if is_key(&new_key.0) { Ok(()) } else { Err(Refusal::BadKey) }
            }
            Change::SetPolicy { id, policy } => {
                if policy.id != *id {
                    return Err(Refusal::PolicyNumber { stated: policy.id });
                }
                if !self.policies.contains_key(id) && self.policies.len() >= POLICIES_LIMIT {
                    return Err(Refusal::Full { what: "policies", limit: POLICIES_LIMIT });
                }
                policy.validate().map_err(Refusal::BadPolicy)
            }
            Change::SetParameters(parameters) => parameters
                .validate(|policy| self.policies.contains_key(&policy))
                .map_err(Refusal::BadParameters),
        }
    }

    fn check_active(&self, key: &ValidatorKey) -> Result<(), Refusal> {
        let known = self.is_validator(key);
        if known { Ok(()) } else { Err(Refusal::NoSuchValidator { key: *key }) }
    }

    /// A validator that comes back has the name it had
    fn check_key(&self, validator: &Validator) -> Result<(), Refusal> {
        match self.validator_record(&validator.key) {
            Some(known) if known.name != validator.name => Err(Refusal::ValidatorKnown),
            Some(_) => Ok(()),
            None if is_key(&validator.key.0) => Ok(()),
            None => Err(Refusal::BadKey),
        }
    }
}

/// Whether this is what a validator decides about itself
fn is_own(voter: ValidatorKey, change: &Change) -> bool {
    match change {
        Change::Remove(key) | Change::Replace { key, .. } => *key == voter,
        _ => false,
    }
}
