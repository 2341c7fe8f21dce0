//! Making the four proofs of a statement: look up and solve space, search work, claim the time, sign. It blocks for as
//! long as that takes, so it belongs on a thread of its own; the clock is read by the caller.

use std::ops::ControlFlow;

use ed25519_consensus::SigningKey;

use crate::digest::Digest;

use super::challenge;
use super::four::FourProof;
use super::plot::{Plot, PlotError};
use super::policy::Policy;
use super::space::{ATTEMPTS, SpaceProof};
use super::stake::{StakeHolding, StakeProof};
use super::statement::Statement;
use super::time::TimeProof;
use super::work;

/// What making proofs is at
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProveStep {
    /// The plot is asked for chains
    LookUp {
        /// From 0, of 32
        attempt: u8,
    },
    /// A chain was found and its proof is computed
    Solve {
        /// At which it was found
        attempt: u8,
    },
    /// Nonces are tried
    Work {
        /// How many so far
        hashes: u64,
        /// How many it takes on average
        expected: u64,
    },
}

/// Why there are no proofs
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The plot is someone else's
    #[error("the plot is for another requester or network; open or make one for this requester")]
    ForeignPlot,
    /// The policy does not take this plot
    #[error(
        "the plot has k {k} and strength {strength}; policy {policy} takes k {min} to {max} and strength {needed}: \
         make another plot"
    )]
    PlotBelowPolicy {
        /// Of the plot
        k: u8,
        /// Of the plot
        strength: u8,
        /// Which policy
        policy: u32,
        /// Its least size
        min: u8,
        /// Its largest size
        max: u8,
        /// Its strength
        needed: u8,
    },
    /// The statement names another policy
    #[error("the statement names policy {stated}, and policy {given} was given")]
    OtherPolicy {
        /// In the statement
        stated: u32,
        /// As given
        given: u32,
    },
    /// The stake is someone else's, or not this key's
    #[error("the stake is not this requester's with this key")]
    ForeignStake,
    /// The stake is too small
    #[error("the stake weighs {weight}, and policy {policy} takes {needed}: stake more")]
    StakeBelowPolicy {
        /// Of the stake
        weight: u64,
        /// Which policy
        policy: u32,
        /// What it takes
        needed: u64,
    },
    /// No attempt found a chain
    #[error("the plot answers none of this statement's {ATTEMPTS} challenges; take a newer beacon")]
    NoSpace,
    /// The plot could not be read
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// Whoever waited did not want to any longer
    #[error("making proofs was cancelled")]
    Cancelled,
}

/// One requester's means: its plot and its stake's key
pub struct Prover {
    plot: Plot,
    key: SigningKey,
}

/// Without the key, whose own `Debug` shows the secret
impl std::fmt::Debug for Prover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prover").field("plot", &self.plot).finish_non_exhaustive()
    }
}

impl Prover {
    /// With these means
    pub fn new(plot: Plot, key: SigningKey) -> Self {
        Self { plot, key }
    }

    /// The plot
    pub fn plot(&self) -> &Plot {
        &self.plot
    }

    /// Makes the proofs of a statement.
    ///
    /// `holding` is the stake in the statement's epoch, `claimed_ms` the time now in milliseconds since 1970.
    /// `watch` is told before every step that takes longer than a moment, and gives up by breaking.
    pub fn prove(
        &self,
        statement: &Statement,
        policy: &Policy,
        holding: &StakeHolding,
        claimed_ms: u64,
        watch: &mut dyn FnMut(ProveStep) -> ControlFlow<()>,
    ) -> Result<FourProof, ProveError> {
        self.check(statement, policy, holding)?;
        let digest = statement.digest();
        let space = self.space(&digest, statement, watch)?;

        let work_challenge = challenge::work(&digest, &space);
        let expected = 1 << policy.work_bits.min(63);
        let work = work::solve(&work_challenge, policy.work_bits, &mut |hashes| {
            watch(ProveStep::Work { hashes, expected })
        })
        .ok_or(ProveError::Cancelled)?;

        let link = challenge::time(&work_challenge, &work);
        let time = TimeProof {
            beacon_height: statement.beacon_height,
            beacon_hash: statement.beacon_hash,
            claimed_ms,
            link,
        };
        let stake_challenge = challenge::stake(&link, &time, &holding.leaf);
        let stake = StakeProof::sign(holding, &self.key, &stake_challenge);
        Ok(FourProof {
            policy: statement.policy,
            epoch: statement.epoch,
            beacon_height: statement.beacon_height,
            beacon_hash: statement.beacon_hash,
            space: Some(space),
            work: Some(work),
            time: Some(time),
            stake: Some(stake),
        })
    }

    /// What would be refused anyway is not begun
    fn check(
        &self,
        statement: &Statement,
        policy: &Policy,
        holding: &StakeHolding,
    ) -> Result<(), ProveError> {
        if statement.policy != policy.id {
            return Err(ProveError::OtherPolicy { stated: statement.policy, given: policy.id });
        }
        let plot = &self.plot;
        if *plot.network() != statement.network || *plot.requester() != statement.requester {
            return Err(ProveError::ForeignPlot);
        }
        let sizes = policy.space_k_min..=policy.space_k_max;
        if !sizes.contains(&plot.k()) || plot.strength() != policy.space_strength {
            return Err(ProveError::PlotBelowPolicy {
                k: plot.k(),
                strength: plot.strength(),
                policy: policy.id,
                min: policy.space_k_min,
                max: policy.space_k_max,
                needed: policy.space_strength,
            });
        }
        let (leaf, key) = (&holding.leaf, self.key.verification_key().to_bytes());
        if leaf.requester != statement.requester || leaf.key != key {
            return Err(ProveError::ForeignStake);
        }
        if leaf.weight < policy.stake_weight_min {
            return Err(ProveError::StakeBelowPolicy {
                weight: leaf.weight,
                policy: policy.id,
                needed: policy.stake_weight_min,
            });
        }
        Ok(())
    }

    fn space(
        &self,
        digest: &Digest,
        statement: &Statement,
        watch: &mut dyn FnMut(ProveStep) -> ControlFlow<()>,
    ) -> Result<SpaceProof, ProveError> {
        let mut go_on = |step| match watch(step) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ProveError::Cancelled),
        };
        for attempt in 0..ATTEMPTS {
            go_on(ProveStep::LookUp { attempt })?;
            for found in self.plot.look_up(&challenge::space(digest, attempt))? {
                go_on(ProveStep::Solve { attempt })?;
                let Some(proof) = self.plot.solve(&found) else { continue };
                let space = SpaceProof {
                    salt: *self.plot.salt(),
                    k: self.plot.k(),
                    strength: self.plot.strength(),
                    attempt,
                    proof,
                };
                // A damaged plot yields proofs that are none; the next attempt may not touch the damage.
                if space.verify(digest, &statement.network, &statement.requester).is_ok() {
                    return Ok(space);
                }
            }
        }
        Err(ProveError::NoSpace)
    }
}

#[cfg(test)]
mod tests {
    use super::super::plotting::PlotOrder;
    use super::super::stake::StakeLeaf;
    use super::*;
    use crate::operation::requester_id;

    struct Means {
        _directory: tempfile::TempDir,
        prover: Prover,
        statement: Statement,
        holding: StakeHolding,
    }

    fn means() -> Means {
        let directory = tempfile::tempdir().unwrap();
        let key = SigningKey::from([7; 32]);
        let public = key.verification_key().to_bytes();
        let (network, requester) = ([1; 32], requester_id(&public));
        let order = PlotOrder {
            path: directory.path().join("a.plot"),
            network,
            requester,
            salt: [2; 32],
            k: 18,
            strength: 2,
        };
        let plot = Plot::make(&order, &mut |_| ControlFlow::Continue(())).unwrap();
        let statement = Statement {
            network,
            epoch: 1,
            kind: 1,
            subject: [3; 32],
            requester,
            beacon_height: 4,
            beacon_hash: [5; 32],
            sequence: 1,
            not_after_height: 9,
            policy: Policy::TEST_ID,
        };
        let leaf = StakeLeaf { index: 0, requester, weight: 1, key: public };
        Means {
            _directory: directory,
            prover: Prover::new(plot, key),
            statement,
            holding: StakeHolding { leaf, path: Vec::new() },
        }
    }

    fn patient(_: ProveStep) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn steps_are_told_in_order_and_any_of_them_can_be_the_last() {
        let means = means();
        let run = |limit: usize| {
            let mut steps = Vec::new();
            let outcome = means.prover.prove(
                &means.statement,
                &Policy::TEST,
                &means.holding,
                0,
                &mut |step| {
                    steps.push(step);
                    if steps.len() > limit {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                },
            );
            (outcome, steps)
        };
        let (whole, steps) = run(usize::MAX);
        let whole = whole.unwrap();
        assert_eq!(steps[0], ProveStep::LookUp { attempt: 0 });
        assert_eq!(steps.last(), Some(&ProveStep::Work { hashes: 0, expected: 256 }));
        let attempt = whole.space.unwrap().attempt;
        assert!(steps.contains(&ProveStep::Solve { attempt }));
        for limit in 0..steps.len() {
            let (outcome, told) = run(limit);
            assert!(matches!(outcome, Err(ProveError::Cancelled)), "{limit}");
            assert_eq!(told, steps[..=limit]);
        }
    }

    #[test]
    fn proofs_that_would_be_refused_are_not_begun() {
        let means = means();
        let begin = |statement: &Statement, policy: &Policy, holding: &StakeHolding| {
            means
                .prover
                .prove(statement, policy, holding, 0, &mut |_| panic!("nothing is begun"))
                .map(|_| ())
                .unwrap_err()
        };
        let (statement, holding) = (&means.statement, &means.holding);
        let foreign = Statement { network: [9; 32], ..*statement };
        let refused = begin(&foreign, &Policy::TEST, holding);
        assert!(matches!(refused, ProveError::ForeignPlot));
        let foreign = Statement { requester: [9; 32], ..*statement };
        let refused = begin(&foreign, &Policy::TEST, holding);
        assert!(matches!(refused, ProveError::ForeignPlot));
        let refused = begin(statement, &Policy::DEFAULT, holding);
        assert!(matches!(refused, ProveError::OtherPolicy { stated: 1, given: 2 }));
        let larger = Policy { space_k_min: 20, ..Policy::TEST };
        let refused = begin(statement, &larger, holding);
        assert!(matches!(refused, ProveError::PlotBelowPolicy { k: 18, min: 20, .. }));
        let richer = Policy { stake_weight_min: 2, ..Policy::TEST };
        let refused = begin(statement, &richer, holding);
        assert!(matches!(refused, ProveError::StakeBelowPolicy { weight: 1, needed: 2, .. }));
        let mut other = holding.clone();
        other.leaf.key = [9; 32];
        let refused = begin(statement, &Policy::TEST, &other);
        assert!(matches!(refused, ProveError::ForeignStake));
    }

    #[test]
    fn a_plot_answers_nearly_every_statement() {
        // Goal: 32 attempts are enough. Method: 100 statements, one plot; a miss has odds of about one in 10^8 each.
        let means = means();
        let mut latest = 0;
        for sequence in 1..=100 {
            let statement = Statement { sequence, ..means.statement };
            let digest = statement.digest();
            let attempt = (0..ATTEMPTS)
                .find(|attempt| {
                    let challenge = challenge::space(&digest, *attempt);
                    !means.prover.plot.look_up(&challenge).unwrap().is_empty()
                })
                .expect("one attempt is answered");
            latest = latest.max(attempt);
        }
        assert!(latest > 0, "every first attempt was answered: attempts are not told apart");
    }

    #[test]
    fn a_prover_does_not_print_its_key() {
        let printed = format!("{:?}", means().prover);
        assert!(printed.contains("a.plot") && !printed.contains("0707"), "{printed}");
    }

    #[test]
    fn a_plot_that_went_away_is_said_to_have() {
        let means = means();
        std::fs::remove_file(means.prover.plot().path()).unwrap();
        let outcome =
            means.prover.prove(&means.statement, &Policy::TEST, &means.holding, 0, &mut patient);
        assert!(matches!(outcome, Err(ProveError::Plot(PlotError::Io { .. }))));
    }
}
