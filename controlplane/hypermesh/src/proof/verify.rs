//! The judge: whether four proofs are for this statement, here and now. Checks come in the order of what they cost, so
//! that rubbish is refused for the price of a comparison: presence and bindings, replay, thresholds, look-ups, one
//! hash of work, the space proof, the path of the stake, and one signature last.

use crate::digest::Digest;
use crate::operation::RequesterId;

use super::challenge;
use super::four::FourProof;
use super::policy::Policy;
use super::refusal::ProofRefusal;
use super::space::SpaceProof;
use super::stake::StakeProof;
use super::statement::Statement;
use super::time::TimeProof;
use super::view::ChainView;
use super::work::WorkProof;

/// What the proofs have shown
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verified {
    /// The digest of the statement, to be remembered as seen
    pub statement: Digest,
    /// Who asks
    pub requester: RequesterId,
    /// Whose thresholds were reached
    pub policy: u32,
    /// In which epoch
    pub epoch: u64,
    /// The stake behind it
    pub weight: u64,
    /// The key that signed
    pub stake_key: [u8; 32],
}

/// The proofs, once all of them are there
struct Present<'a> {
    space: &'a SpaceProof,
    work: &'a WorkProof,
    time: &'a TimeProof,
    stake: &'a StakeProof,
}

/// Judges the proofs of a statement against finalised state.
///
/// The first failure in the order of cost is the one that is named. Nothing is remembered: marking the sequence
/// number and the statement as used is the registry's.
pub fn verify(
    statement: &Statement,
    proof: &FourProof,
    view: &dyn ChainView,
) -> Result<Verified, ProofRefusal> {
    let present = present(proof)?;
    let policy = check_binding(statement, proof, view)?;
    check_expiry(statement.not_after_height, view)?;
    view.last_sequence_window(&statement.requester).check(statement.sequence)?;

    present.space.check_threshold(&policy)?;
    present.work.check_threshold(&policy)?;
    present.stake.check_threshold(&policy)?;
    present.time.verify(statement, &policy, view)?;

    let digest = statement.digest();
    if view.is_seen(&digest) {
        return Err(ProofRefusal::ReplayStatement);
    }
    check_chain(statement, &digest, &present, view)?;
    Ok(Verified {
        statement: digest,
        requester: statement.requester,
        policy: policy.id,
        epoch: statement.epoch,
        weight: present.stake.weight,
        stake_key: present.stake.key,
    })
}

fn present(proof: &FourProof) -> Result<Present<'_>, ProofRefusal> {
    Ok(Present {
        space: proof.space.as_ref().ok_or(ProofRefusal::SpaceMissing)?,
        work: proof.work.as_ref().ok_or(ProofRefusal::WorkMissing)?,
        time: proof.time.as_ref().ok_or(ProofRefusal::TimeMissing)?,
        stake: proof.stake.as_ref().ok_or(ProofRefusal::StakeMissing)?,
    })
}

fn check_binding(
    statement: &Statement,
    proof: &FourProof,
    view: &dyn ChainView,
) -> Result<Policy, ProofRefusal> {
    if statement.network != view.network() {
        return Err(ProofRefusal::BindingNetwork);
    }
    let same = proof.policy == statement.policy
        && proof.epoch == statement.epoch
        && proof.beacon_height == statement.beacon_height
        && proof.beacon_hash == statement.beacon_hash;
    if !same {
        return Err(ProofRefusal::BindingStatement);
    }
    let (stated, current) = (statement.epoch, view.epoch());
    if stated != current {
        return Err(ProofRefusal::BindingEpoch { stated, current });
    }
    let policy = statement.policy;
    view.policy(policy).ok_or(ProofRefusal::BindingPolicy { policy })
}

/// Whether the block under judgement is not too high for the operation
pub(super) fn check_expiry(
    not_after_height: u64,
    view: &dyn ChainView,
) -> Result<(), ProofRefusal> {
    if view.height() > not_after_height {
        return Err(ProofRefusal::TimeExpired { not_after_height });
    }
    Ok(())
}

/// From the statement's digest through every challenge to the signature
fn check_chain(
    statement: &Statement,
    digest: &Digest,
    present: &Present<'_>,
    view: &dyn ChainView,
) -> Result<(), ProofRefusal> {
    let work_challenge = challenge::work(digest, present.space);
    present.work.verify(&work_challenge)?;
    let time_challenge = challenge::time(&work_challenge, present.work);
    present.time.check_link(&time_challenge)?;
    present.space.verify(digest, &statement.network, &statement.requester)?;

    let epoch = statement.epoch;
    let (root, count) = view.stake_root(epoch).ok_or(ProofRefusal::StakeRoot { epoch })?;
    let leaf = present.stake.leaf(&statement.requester);
    present.stake.verify_leaf(&leaf, &root, count)?;
    present.stake.verify_signature(&challenge::stake(&time_challenge, present.time, &leaf))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, Case};
    use super::*;

    fn judge(case: &Case) -> Result<Verified, ProofRefusal> {
        verify(&case.statement, &case.proof, &case.view)
    }

    #[test]
    fn honest_proofs_pass_and_say_what_they_showed() {
        let case = testing::case();
        let verified = judge(&case).unwrap();
        assert_eq!(verified.statement, case.statement.digest());
        assert_eq!(verified.requester, case.statement.requester);
        assert_eq!((verified.policy, verified.epoch), (Policy::TEST_ID, case.view.epoch));
        assert_eq!(Some(verified.weight), case.proof.stake.map(|stake| stake.weight));
    }

    #[test]
    fn what_passed_once_passes_until_it_is_remembered() {
        let mut case = testing::case();
        assert!(judge(&case).is_ok() && judge(&case).is_ok());
        let (requester, sequence) = (case.statement.requester, case.statement.sequence);
        let mut remembered = case.clone();
        remembered.view.seen.insert(case.statement.digest());
        assert_eq!(judge(&remembered), Err(ProofRefusal::ReplayStatement));
        case.view.windows.entry(requester).or_default().mark(sequence).unwrap();
        assert_eq!(judge(&case), Err(ProofRefusal::ReplaySequenceUsed { sequence }));
    }

    #[test]
    fn an_operation_expires_after_the_height_it_names() {
        let mut case = testing::case();
        case.view.height = case.statement.not_after_height;
        assert!(judge(&case).is_ok());
        case.view.height += 1;
        let not_after_height = case.statement.not_after_height;
        assert_eq!(judge(&case), Err(ProofRefusal::TimeExpired { not_after_height }));
    }

    #[test]
    fn no_octet_of_a_proof_is_free_to_change() {
        // Goal: nobody on the way can turn accepted proofs into other accepted ones. Method: every octet, one bit.
        let case = testing::case();
        let octets = case.proof.to_vec();
        for at in 0..octets.len() {
            let mut changed = octets.clone();
            changed[at] ^= 1 << (at % 8);
            if let Ok(proof) = FourProof::from_slice(&changed) {
                let judged = verify(&case.statement, &proof, &case.view);
                assert!(judged.is_err(), "octet {at} of {}", octets.len());
            }
        }
    }

    #[test]
    fn no_field_of_the_statement_is_free_to_change() {
        let case = testing::case();
        let honest = case.statement;
        let others = [
            Statement { network: [9; 32], ..honest },
            Statement { epoch: honest.epoch + 1, ..honest },
            Statement { kind: honest.kind + 1, ..honest },
            Statement { subject: [9; 32], ..honest },
            Statement { requester: [9; 32], ..honest },
            Statement { beacon_height: honest.beacon_height - 1, ..honest },
            Statement { beacon_hash: [9; 32], ..honest },
            Statement { sequence: honest.sequence + 1, ..honest },
            Statement { not_after_height: honest.not_after_height + 1, ..honest },
            Statement { policy: honest.policy + 1, ..honest },
        ];
        for (index, statement) in others.iter().enumerate() {
            assert!(verify(statement, &case.proof, &case.view).is_err(), "{index}");
        }
    }
}
