//! The proof of time: a finalised block that nobody could name before it was there and that is still young, and the
//! time the requester's clock shows. It says when proofs can have been made at the earliest, and is judged by look-up.

use crate::digest::Digest;
use crate::wire::{Reader, WireError, Writer};

use super::policy::Policy;
use super::refusal::ProofRefusal;
use super::statement::Statement;
use super::view::ChainView;

/// A beacon, a claimed time, and what they follow
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TimeProof {
    /// The height of the beacon; that of the statement
    pub beacon_height: u64,
    /// The digest of the beacon's header; that of the statement
    pub beacon_hash: Digest,
    /// The requester's clock, in milliseconds since 1970
    pub claimed_ms: u64,
    /// The challenge this was made for: whoever takes it elsewhere takes that along
    pub link: Digest,
}

impl TimeProof {
    /// Octets of the encoding
    pub const BYTES: usize = 8 + 32 + 8 + 32;

    /// Whether the beacon is the statement's, finalised and young, and the claimed time near the block's. Whether it
    /// follows this operation's work is for [`TimeProof::check_link`].
    pub fn verify(
        &self,
        statement: &Statement,
        policy: &Policy,
        view: &dyn ChainView,
    ) -> Result<(), ProofRefusal> {
        let height = self.beacon_height;
        if height != statement.beacon_height || self.beacon_hash != statement.beacon_hash {
            return Err(ProofRefusal::TimeBeaconOther);
        }
        let Some(age @ 1..) = view.height().checked_sub(height) else {
            return Err(ProofRefusal::TimeBeaconAhead { height });
        };
        let limit = policy.beacon_age_heights;
        if age > limit {
            return Err(ProofRefusal::TimeBeaconStale { age, limit });
        }
        match view.beacon(height) {
            None => return Err(ProofRefusal::TimeBeaconUnknown { height }),
            Some(finalised) if finalised != self.beacon_hash => {
                return Err(ProofRefusal::TimeBeaconForged { height });
            }
            Some(_) => {}
        }
        if let Some(limit_ms) = policy.beacon_age_ms {
            let made = view.beacon_time_ms(height);
            let made = made.ok_or(ProofRefusal::TimeBeaconUndated { height })?;
            // Block times only rise; a block before its beacon would be refused for that.
            let age_ms = view.block_time_ms().saturating_sub(made);
            if age_ms > limit_ms {
                return Err(ProofRefusal::TimeBeaconOld { age_ms, limit_ms });
            }
        }
        self.check_claim(policy, view.block_time_ms())
    }

    fn check_claim(&self, policy: &Policy, block_time_ms: u64) -> Result<(), ProofRefusal> {
        let ahead_ms = self.claimed_ms.saturating_sub(block_time_ms);
        if ahead_ms > policy.clock_tolerance_ms {
            return Err(ProofRefusal::TimeClaimAhead { ahead_ms });
        }
        let age_ms = block_time_ms.saturating_sub(self.claimed_ms);
        if age_ms > policy.claim_age_ms {
            return Err(ProofRefusal::TimeClaimOld { age_ms, limit_ms: policy.claim_age_ms });
        }
        Ok(())
    }

    /// Whether this was made for the challenge
    pub fn check_link(&self, challenge: &Digest) -> Result<(), ProofRefusal> {
        if self.link == *challenge { Ok(()) } else { Err(ProofRefusal::TimeLink) }
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        writer
            .u64(self.beacon_height)
            .fixed(&self.beacon_hash)
            .u64(self.claimed_ms)
            .fixed(&self.link);
    }

    /// Reads what [`TimeProof::encode`] wrote
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            beacon_height: reader.u64()?,
            beacon_hash: reader.fixed()?,
            claimed_ms: reader.u64()?,
            link: reader.fixed()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, View};
    use super::*;

    fn judge(view: &View, policy: &Policy, proof: &TimeProof) -> Result<(), ProofRefusal> {
        let statement = Statement {
            beacon_height: proof.beacon_height,
            beacon_hash: proof.beacon_hash,
            ..testing::case().statement
        };
        proof.verify(&statement, policy, view)
    }

    fn at(view: &View, height: u64) -> TimeProof {
        TimeProof {
            beacon_height: height,
            beacon_hash: testing::beacon(height),
            claimed_ms: view.block_time_ms,
            link: [0; 32],
        }
    }

    #[test]
    fn a_beacon_is_good_from_the_next_block_to_the_last_of_its_age() {
        let view = testing::case().view;
        let policy = Policy::TEST;
        let lowest = view.height - policy.beacon_age_heights;
        assert_eq!(judge(&view, &policy, &at(&view, view.height - 1)), Ok(()));
        assert_eq!(judge(&view, &policy, &at(&view, lowest)), Ok(()));
        assert_eq!(
            judge(&view, &policy, &at(&view, lowest - 1)),
            Err(ProofRefusal::TimeBeaconStale { age: 65, limit: 64 })
        );
        for height in [view.height, view.height + 1, u64::MAX] {
            assert_eq!(
                judge(&view, &policy, &at(&view, height)),
                Err(ProofRefusal::TimeBeaconAhead { height })
            );
        }
    }

    #[test]
    fn a_beacon_is_the_block_that_was_finalised() {
        let mut view = testing::case().view;
        let height = view.height - 1;
        let forged = TimeProof { beacon_hash: [9; 32], ..at(&view, height) };
        let judged = judge(&view, &Policy::TEST, &forged);
        assert_eq!(judged, Err(ProofRefusal::TimeBeaconForged { height }));
        view.beacons.remove(&height);
        let judged = judge(&view, &Policy::TEST, &at(&view, height));
        assert_eq!(judged, Err(ProofRefusal::TimeBeaconUnknown { height }));
    }

    #[test]
    fn a_beacon_ages_in_time_where_the_policy_says_so() {
        let mut view = testing::case().view;
        let height = view.height - 1;
        let policy = Policy { beacon_age_ms: Some(1_000), ..Policy::TEST };
        view.beacon_times_ms.insert(height, view.block_time_ms - 1_000);
        assert_eq!(judge(&view, &policy, &at(&view, height)), Ok(()));
        view.beacon_times_ms.insert(height, view.block_time_ms - 1_001);
        assert_eq!(
            judge(&view, &policy, &at(&view, height)),
            Err(ProofRefusal::TimeBeaconOld { age_ms: 1_001, limit_ms: 1_000 })
        );
        assert_eq!(judge(&view, &Policy::TEST, &at(&view, height)), Ok(()));
        view.beacon_times_ms.remove(&height);
        assert_eq!(
            judge(&view, &policy, &at(&view, height)),
            Err(ProofRefusal::TimeBeaconUndated { height })
        );
    }

    #[test]
    fn a_claimed_time_is_near_the_blocks() {
        let view = testing::case().view;
        let policy = Policy::TEST;
        let claim = |claimed_ms| {
            let proof = TimeProof { claimed_ms, ..at(&view, view.height - 1) };
            judge(&view, &policy, &proof)
        };
        let now = view.block_time_ms;
        assert_eq!(claim(now + 500), Ok(()));
        assert_eq!(claim(now + 501), Err(ProofRefusal::TimeClaimAhead { ahead_ms: 501 }));
        assert_eq!(claim(now - 60_000), Ok(()));
        assert_eq!(
            claim(now - 60_001),
            Err(ProofRefusal::TimeClaimOld { age_ms: 60_001, limit_ms: 60_000 })
        );
        assert!(claim(u64::MAX).is_err() && claim(0).is_err());
    }

    #[test]
    fn the_beacon_and_the_link_are_this_operations() {
        let case = testing::case();
        let proof = TimeProof { link: [1; 32], ..at(&case.view, case.view.height - 2) };
        assert_eq!(
            proof.verify(&case.statement, &Policy::TEST, &case.view),
            Err(ProofRefusal::TimeBeaconOther)
        );
        assert_eq!(proof.check_link(&[1; 32]), Ok(()));
        assert_eq!(proof.check_link(&[2; 32]), Err(ProofRefusal::TimeLink));
    }
}
