//! The four proofs together, as they travel with an operation. A proof that is not there is a fact the judge names, so
//! reading does not refuse it.

use crate::digest::Digest;
use crate::wire::{Reader, WireError, Writer};

use super::space::SpaceProof;
use super::stake::StakeProof;
use super::time::TimeProof;
use super::work::WorkProof;

const VERSION: u8 = 1;

/// Octets of the longest encoding
pub const FOUR_PROOF_LIMIT_BYTES: usize = 1
    + 4
    + 8
    + 8
    + 32
    + 1
    + SpaceProof::LIMIT_BYTES
    + WorkProof::BYTES
    + TimeProof::BYTES
    + StakeProof::LIMIT_BYTES;

const HAS_SPACE: u8 = 1;
const HAS_WORK: u8 = 2;
const HAS_TIME: u8 = 4;
const HAS_STAKE: u8 = 8;
const HAS_ALL: u8 = HAS_SPACE | HAS_WORK | HAS_TIME | HAS_STAKE;

/// The proofs for one statement, and of the statement what only the prover chooses
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FourProof {
    /// The policy of the statement
    pub policy: u32,
    /// The epoch of the statement
    pub epoch: u64,
    /// The height of the statement's beacon
    pub beacon_height: u64,
    /// The digest of the statement's beacon
    pub beacon_hash: Digest,
    /// Nothing passes without it
    pub space: Option<SpaceProof>,
    /// Nothing passes without it
    pub work: Option<WorkProof>,
    /// Nothing passes without it
    pub time: Option<TimeProof>,
    /// Nothing passes without it
    pub stake: Option<StakeProof>,
}

impl FourProof {
    fn present(&self) -> u8 {
        let flag = |present: bool, flag: u8| if present { flag } else { 0 };
        flag(self.space.is_some(), HAS_SPACE)
            | flag(self.work.is_some(), HAS_WORK)
            | flag(self.time.is_some(), HAS_TIME)
            | flag(self.stake.is_some(), HAS_STAKE)
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        writer
            .u8(VERSION)
            .u32(self.policy)
            .u64(self.epoch)
            .u64(self.beacon_height)
            .fixed(&self.beacon_hash)
            .u8(self.present());
        if let Some(space) = &self.space {
            space.encode(writer);
        }
        if let Some(work) = &self.work {
            work.encode(writer);
        }
        if let Some(time) = &self.time {
            time.encode(writer);
        }
        if let Some(stake) = &self.stake {
            stake.encode(writer);
        }
    }

    /// Reads what [`FourProof::encode`] wrote
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = reader.u8()?;
        if version != VERSION {
            return Err(WireError::BadTag { what: "version of proofs", tag: version.into() });
        }
        let (policy, epoch) = (reader.u32()?, reader.u64()?);
        let (beacon_height, beacon_hash) = (reader.u64()?, reader.fixed()?);
        let present = reader.u8()?;
        if present & !HAS_ALL != 0 {
            return Err(WireError::BadTag { what: "set of proofs", tag: present.into() });
        }
        let has = |flag: u8| present & flag != 0;
        Ok(Self {
            policy,
            epoch,
            beacon_height,
            beacon_hash,
            space: has(HAS_SPACE).then(|| SpaceProof::decode(reader)).transpose()?,
            work: has(HAS_WORK).then(|| WorkProof::decode(reader)).transpose()?,
            time: has(HAS_TIME).then(|| TimeProof::decode(reader)).transpose()?,
            stake: has(HAS_STAKE).then(|| StakeProof::decode(reader)).transpose()?,
        })
    }

    /// The encoding alone, as in a file
    pub fn to_vec(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(1024);
        self.encode(&mut writer);
        writer.into_vec()
    }

    /// Reads what [`FourProof::to_vec`] wrote, and nothing after it
    pub fn from_slice(octets: &[u8]) -> Result<Self, WireError> {
        if octets.len() > FOUR_PROOF_LIMIT_BYTES {
            return Err(WireError::TooLong { limit: FOUR_PROOF_LIMIT_BYTES });
        }
        let mut reader = Reader::new(octets);
        let proof = Self::decode(&mut reader)?;
        reader.finish()?;
        Ok(proof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest() -> FourProof {
        FourProof {
            policy: 1,
            epoch: 2,
            beacon_height: 3,
            beacon_hash: [4; 32],
            space: Some(SpaceProof {
                salt: [5; 32],
                k: 28,
                strength: 2,
                attempt: 6,
                proof: vec![7; 448],
            }),
            work: Some(WorkProof { bits: 8, nonce: 9 }),
            time: Some(TimeProof {
                beacon_height: 3,
                beacon_hash: [4; 32],
                claimed_ms: 10,
                link: [11; 32],
            }),
            stake: Some(StakeProof {
                index: 12,
                weight: 13,
                key: [14; 32],
                path: vec![[15; 32]; 64],
                signature: [16; 64],
            }),
        }
    }

    #[test]
    fn every_set_of_proofs_is_read_back() {
        let full = largest();
        assert_eq!(full.to_vec().len(), FOUR_PROOF_LIMIT_BYTES);
        for present in 0..=HAS_ALL {
            let mut some = full.clone();
            some.space = some.space.filter(|_| present & HAS_SPACE != 0);
            some.work = some.work.filter(|_| present & HAS_WORK != 0);
            some.time = some.time.filter(|_| present & HAS_TIME != 0);
            some.stake = some.stake.filter(|_| present & HAS_STAKE != 0);
            let octets = some.to_vec();
            assert_eq!(FourProof::from_slice(&octets), Ok(some), "{present}");
            for end in 0..octets.len() {
                assert_eq!(FourProof::from_slice(&octets[..end]), Err(WireError::Truncated));
            }
        }
    }

    #[test]
    fn other_versions_sets_and_lengths_are_refused() {
        let octets = largest().to_vec();
        let mut version = octets.clone();
        version[0] = 2;
        let refused = Err(WireError::BadTag { what: "version of proofs", tag: 2 });
        assert_eq!(FourProof::from_slice(&version), refused);
        let mut set = octets.clone();
        set[53] = 0x1f;
        let refused = Err(WireError::BadTag { what: "set of proofs", tag: 0x1f });
        assert_eq!(FourProof::from_slice(&set), refused);
        let mut longer = octets;
        longer.push(0);
        let refused = Err(WireError::TooLong { limit: FOUR_PROOF_LIMIT_BYTES });
        assert_eq!(FourProof::from_slice(&longer), refused);
        let mut spaceless = largest();
        spaceless.space = None;
        let mut longer = spaceless.to_vec();
        longer.push(0);
        assert_eq!(FourProof::from_slice(&longer), Err(WireError::Trailing { octets: 1 }));
    }

    #[test]
    fn what_is_read_is_written_as_it_was() {
        // Goal: no two encodings of one value. Method: change each octet; what still reads must write the same.
        let octets = largest().to_vec();
        for at in 0..octets.len() {
            let mut changed = octets.clone();
            changed[at] ^= 0x81;
            if let Ok(read) = FourProof::from_slice(&changed) {
                assert_eq!(read.to_vec(), changed, "{at}");
            }
        }
    }
}
