//! Whom evidence was found against, and whether there are more culprits than agreement can bear. One piece of evidence
//! decides; a few more are kept, the rest is noise that a culprit can make without end.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::evidence::{Evidence, Finding, Offence};
use super::store::EVIDENCE_LIMIT;
use super::validators::ValidatorSet;
use crate::digest::Digest;
use crate::operation::ValidatorKey;

/// Pieces of evidence against one validator that are kept
pub const PER_VALIDATOR_LIMIT: usize = 8;

/// Evidence that was verified, and what it shows
#[derive(Clone, Debug)]
pub struct Case {
    /// Its identity
    pub id: Digest,
    /// What it shows
    pub finding: Finding,
    /// When this validator learned of it, in milliseconds since 1970; 0 if before its last start
    pub found_ms: u64,
    /// The evidence
    pub evidence: Arc<Evidence>,
}

/// All evidence that is kept
#[derive(Debug, Default)]
pub struct Docket {
    cases: Vec<Case>,
    places: BTreeMap<(ValidatorKey, Offence, u64, u64), Digest>,
}

impl Docket {
    /// Whether evidence of this offence would be kept: it is the first of its view, and there are not enough already
    pub fn has_room(&self, finding: &Finding) -> bool {
        let Finding { validator, offence, epoch, view, .. } = finding;
        let of_culprit = |case: &&Case| case.finding.validator.key == validator.key;
        self.cases.len() < EVIDENCE_LIMIT
            && !self.places.contains_key(&(validator.key, *offence, *epoch, *view))
            && self.cases.iter().filter(of_culprit).count() < PER_VALIDATOR_LIMIT
    }

    /// Keeps a case
    pub fn file(&mut self, case: Case) {
        let Finding { validator, offence, epoch, view, .. } = &case.finding;
        self.places.insert((validator.key, *offence, *epoch, *view), case.id);
        self.cases.push(case);
    }

    /// All that is kept, in the order it was found
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Whether there is evidence against a validator
    pub fn convicts(&self, key: &ValidatorKey) -> bool {
        self.cases.iter().any(|case| case.finding.validator.key == *key)
    }

    /// How many validators of a set there is evidence against
    pub fn culprits(&self, set: &ValidatorSet) -> usize {
        set.iter().filter(|validator| self.convicts(&validator.key)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::evidence::contradiction;
    use crate::consensus::testing::{genesis, validator, vote};
    use crate::consensus::vote::{Proposal, Statement};

    fn case(culprit: u64, view: u64) -> Case {
        let genesis = genesis(4, 8);
        let proposal = |block| Proposal { epoch: 0, view, parent_view: 0, block: [block; 32] };
        let votes = [1, 2].map(|block| vote(&genesis, 0, Statement::Notarize(proposal(block))));
        let evidence = contradiction(&votes[0], &votes[1]).unwrap();
        let finding = Finding {
            validator: validator(culprit),
            offence: Offence::Equivocation,
            epoch: 0,
            view,
            reason: String::new(),
        };
        Case { id: evidence.id(), finding, found_ms: 1, evidence: Arc::new(evidence) }
    }

    #[test]
    fn an_offence_is_filed_once_and_a_culprit_a_few_times() {
        let mut docket = Docket::default();
        for view in 1..100 {
            let new = case(1, view);
            assert_eq!(docket.has_room(&new.finding), view <= PER_VALIDATOR_LIMIT as u64);
            if docket.has_room(&new.finding) {
                docket.file(new.clone());
                assert!(!docket.has_room(&new.finding), "again");
            }
        }
        assert!(docket.has_room(&case(2, 1).finding), "another is not covered by the first");
        assert_eq!(docket.cases().len(), PER_VALIDATOR_LIMIT);
    }

    #[test]
    fn culprits_are_counted_once_each_and_in_the_set_only() {
        let genesis = genesis(4, 8);
        let mut docket = Docket::default();
        for (culprit, view) in [(1, 1), (1, 2), (3, 1), (9, 1)] {
            docket.file(case(culprit, view));
        }
        assert_eq!(docket.culprits(genesis.validators()), 2);
        assert!(docket.convicts(&validator(9).key) && !docket.convicts(&validator(0).key));
    }
}
