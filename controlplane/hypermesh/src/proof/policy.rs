//! The thresholds of the four proofs, by policy id in finalised state, and what each costs who proves and who
//! cheats. A policy says how much; whether an operation needs it is the registry's to say.
//!
//! # What a policy buys
//!
//! The proofs limit how fast one staked, named requester can ask for things, and make a second identity cost a second
//! plot, a second stake and its work again. They do not make a stranger trustworthy.
//!
//! * **Space.** A plot of size `k` holds about 2^k entries; each step of 2 takes about four times the file and at
//!   least three times the time. It is computed once and then answers each challenge with a few reads and one solve.
//!   A challenge opens four small parts of the plot, and a proof may be found at any of 32 attempts, so that an honest
//!   prover all but always succeeds. Whoever kept only the part q needs about 2/q^4 look-ups for a proof in the place
//!   of two, of a millisecond each: 32 for a half, 1,250 for a fifth, 20,000 for a tenth. A statement has fields that
//!   may be varied to go on looking up, so count on a fifth of the stated size. Who can compute a whole plot within
//!   `beacon_age_ms` needs no space at all; that is so up to `k` 22 on any computer, and with a graphics processor
//!   further up. Space is then a second work proof, which is why the age of the beacon is limited in time as well.
//! * **Work.** `work_bits` zero bits take 2^`work_bits` hashes on average, for everyone alike; special hardware does
//!   them thousands of times faster. It is a rate limit, no more.
//! * **Time.** A proof cannot be made before the beacon was known, and not be used when the beacon is old. A leader
//!   can choose among beacons it may propose; nothing here is drawn by lot, so that gains it no more than the choice
//!   of its own challenges.
//! * **Stake.** What can be lost. A requester below `stake_weight_min` is refused whatever else it shows.

use serde::{Deserialize, Serialize};

use crate::wire::{Reader, WireError, Writer};

/// The smallest plot there is
pub const SPACE_K_FLOOR: u8 = 18;

/// The largest plot there is
pub const SPACE_K_CEILING: u8 = 28;

/// Bounds of a plot's strength. Each step doubles part of the work of plotting and of judging a proof.
pub const SPACE_STRENGTH_FLOOR: u8 = 2;

/// See [`SPACE_STRENGTH_FLOOR`]; here that part is 16 times what it is at the floor
pub const SPACE_STRENGTH_CEILING: u8 = 6;

/// More leading zero bits than this are a mistake in a genesis: a day's work for a large machine
pub const WORK_BITS_CEILING: u8 = 48;

/// Beacons older than this would have to be remembered by every validator
pub const BEACON_AGE_CEILING_HEIGHTS: u64 = 1 << 20;

/// Thresholds that proofs under this policy reach
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What statements name
    pub id: u32,
    /// The smallest plot that counts; even
    pub space_k_min: u8,
    /// The largest plot that counts; even
    pub space_k_max: u8,
    /// The one strength that counts: judging a stronger one would cost validators more
    pub space_strength: u8,
    /// Leading zero bits of the work
    pub work_bits: u8,
    /// The beacon may be this much lower than the block that holds the operation
    pub beacon_age_heights: u64,
    /// The beacon's block may be this much older, in milliseconds; not limited if absent
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beacon_age_ms: Option<u64>,
    /// The claimed time may lie this far before the time of the block, in milliseconds
    pub claim_age_ms: u64,
    /// The claimed time may lie this far after the time of the block, in milliseconds
    pub clock_tolerance_ms: u64,
    /// The least weight of the stake
    pub stake_weight_min: u64,
    /// How many operations a ticket pays for in its epoch; 0 where there are no tickets
    pub ticket_operations: u64,
}

/// Why a policy cannot be in a genesis
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("policy {id}: {field} is {value}, and must be {wanted}")]
pub struct PolicyError {
    /// Of which policy
    pub id: u32,
    /// Which field
    pub field: &'static str,
    /// What it holds
    pub value: u64,
    /// What it may hold
    pub wanted: &'static str,
}

impl Policy {
    /// Of the policy for tests
    pub const TEST_ID: u32 = 1;
    /// Of the policy a network has unless it says otherwise
    pub const DEFAULT_ID: u32 = 2;
    /// Of the policy for networks with strangers in them
    pub const PRODUCTION_ID: u32 = 3;

    /// For tests.
    ///
    /// Prover: a plot of 0.6 to 2.9 MB, made in under a second; a proof in about a tenth of one.
    /// Attacker: nothing. The plot is made anew faster than the beacon ages, and 256 hashes are no time at all. A
    /// node in production refuses this policy.
    pub const TEST: Self = Self {
        id: Self::TEST_ID,
        space_k_min: 18,
        space_k_max: 20,
        space_strength: 2,
        work_bits: 8,
        beacon_age_heights: 64,
        beacon_age_ms: None,
        claim_age_ms: 60_000,
        clock_tolerance_ms: 500,
        stake_weight_min: 1,
        ticket_operations: 1 << 20,
    };

    /// For one's own servers.
    ///
    /// Prover: a plot of some 55 MB, made once in seconds with about 1 GB of memory; per proof one solve and 65,536
    /// hashes, together well under a second.
    /// Attacker: for each identity a stake, and the plot kept or computed anew within two seconds, which takes a
    /// machine several times faster than the one the plot was meant for.
    pub const DEFAULT: Self = Self {
        id: Self::DEFAULT_ID,
        space_k_min: 24,
        space_k_max: 28,
        space_strength: 2,
        work_bits: 16,
        beacon_age_heights: 8_192,
        beacon_age_ms: Some(2_000),
        claim_age_ms: 2_000,
        clock_tolerance_ms: 500,
        stake_weight_min: 1,
        ticket_operations: 1 << 20,
    };

    /// For networks whose members do not trust each other.
    ///
    /// Prover: a plot of about 1 GB, made once in minutes with many times as much memory; per proof one solve of
    /// seconds and about a million hashes.
    /// Attacker: for each identity a stake, and the gigabyte kept, or hardware that makes the plot anew within 30
    /// seconds for every proof; that is a good graphics processor.
    pub const PRODUCTION: Self = Self {
        id: Self::PRODUCTION_ID,
        space_k_min: 28,
        space_k_max: 28,
        space_strength: 2,
        work_bits: 20,
        beacon_age_heights: 65_536,
        beacon_age_ms: Some(30_000),
        claim_age_ms: 30_000,
        clock_tolerance_ms: 500,
        stake_weight_min: 100,
        ticket_operations: 1 << 16,
    };

    /// Refuses thresholds that no proof can reach, or that would let a proof cost validators too much
    pub fn validate(&self) -> Result<(), PolicyError> {
        let sizes = SPACE_K_FLOOR..=SPACE_K_CEILING;
        let even = |k: u8| k.is_multiple_of(2) && sizes.contains(&k);
        let strengths = SPACE_STRENGTH_FLOOR..=SPACE_STRENGTH_CEILING;
        let checks: [(bool, &'static str, u64, &'static str); 8] = [
            (even(self.space_k_min), "space_k_min", self.space_k_min.into(), "even, 18 to 28"),
            (
                even(self.space_k_max) && self.space_k_max >= self.space_k_min,
                "space_k_max",
                self.space_k_max.into(),
                "even, at least space_k_min, at most 28",
            ),
            (
                strengths.contains(&self.space_strength),
                "space_strength",
                self.space_strength.into(),
                "2 to 6",
            ),
            (self.work_bits <= WORK_BITS_CEILING, "work_bits", self.work_bits.into(), "at most 48"),
            (
                (1..=BEACON_AGE_CEILING_HEIGHTS).contains(&self.beacon_age_heights),
                "beacon_age_heights",
                self.beacon_age_heights,
                "1 to 1048576",
            ),
            (self.beacon_age_ms != Some(0), "beacon_age_ms", 0, "above 0, or absent"),
            (self.claim_age_ms > 0, "claim_age_ms", 0, "above 0"),
            (self.stake_weight_min > 0, "stake_weight_min", 0, "above 0"),
        ];
        for (holds, field, value, wanted) in checks {
            if !holds {
                return Err(PolicyError { id: self.id, field, value, wanted });
            }
        }
        Ok(())
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        writer
            .u32(self.id)
            .u8(self.space_k_min)
            .u8(self.space_k_max)
            .u8(self.space_strength)
            .u8(self.work_bits)
            .u64(self.beacon_age_heights)
            .bool(self.beacon_age_ms.is_some());
        if let Some(age) = self.beacon_age_ms {
            writer.u64(age);
        }
        writer
            .u64(self.claim_age_ms)
            .u64(self.clock_tolerance_ms)
            .u64(self.stake_weight_min)
            .u64(self.ticket_operations);
    }

    /// Reads what [`Policy::encode`] wrote
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            id: reader.u32()?,
            space_k_min: reader.u8()?,
            space_k_max: reader.u8()?,
            space_strength: reader.u8()?,
            work_bits: reader.u8()?,
            beacon_age_heights: reader.u64()?,
            beacon_age_ms: if reader.bool()? { Some(reader.u64()?) } else { None },
            claim_age_ms: reader.u64()?,
            clock_tolerance_ms: reader.u64()?,
            stake_weight_min: reader.u64()?,
            ticket_operations: reader.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_policies_are_sound_and_read_back() {
        for policy in [Policy::TEST, Policy::DEFAULT, Policy::PRODUCTION] {
            assert_eq!(policy.validate(), Ok(()));
            let mut writer = Writer::new();
            policy.encode(&mut writer);
            let octets = writer.into_vec();
            let mut reader = Reader::new(&octets);
            assert_eq!(Policy::decode(&mut reader), Ok(policy));
            assert_eq!(reader.finish(), Ok(()));
            for end in 0..octets.len() {
                let short = Policy::decode(&mut Reader::new(&octets[..end]));
                assert_eq!(short, Err(WireError::Truncated), "{end}");
            }
            let text = serde_json::to_string(&policy).unwrap();
            assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
        }
    }

    #[test]
    fn each_policy_asks_for_more_than_the_one_before() {
        for (less, more) in [(Policy::TEST, Policy::DEFAULT), (Policy::DEFAULT, Policy::PRODUCTION)]
        {
            assert!(less.space_k_min < more.space_k_min);
            assert!(less.work_bits < more.work_bits);
            assert!(less.stake_weight_min <= more.stake_weight_min);
            assert!(less.id != more.id);
        }
    }

    #[test]
    fn each_unsound_field_is_named() {
        let sound = Policy::TEST;
        let cases = [
            ("space_k_min", Policy { space_k_min: 16, ..sound }),
            ("space_k_min", Policy { space_k_min: 19, ..sound }),
            ("space_k_max", Policy { space_k_max: 30, ..sound }),
            ("space_k_max", Policy { space_k_min: 20, space_k_max: 18, ..sound }),
            ("space_strength", Policy { space_strength: 1, ..sound }),
            ("space_strength", Policy { space_strength: 7, ..sound }),
            ("work_bits", Policy { work_bits: 49, ..sound }),
            ("beacon_age_heights", Policy { beacon_age_heights: 0, ..sound }),
            ("beacon_age_heights", Policy { beacon_age_heights: u64::MAX, ..sound }),
            ("beacon_age_ms", Policy { beacon_age_ms: Some(0), ..sound }),
            ("claim_age_ms", Policy { claim_age_ms: 0, ..sound }),
            ("stake_weight_min", Policy { stake_weight_min: 0, ..sound }),
        ];
        for (field, policy) in cases {
            assert_eq!(policy.validate().map_err(|error| error.field), Err(field));
        }
    }

    #[test]
    fn a_misspelt_field_in_a_genesis_is_refused() {
        let mut text = serde_json::to_value(Policy::TEST).unwrap();
        text["work_bit"] = 30.into();
        assert!(serde_json::from_value::<Policy>(text).is_err());
    }
}
