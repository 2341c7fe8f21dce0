//! Evidence that a validator broke the protocol: on record once, against somebody who was a validator then, with the
//! consequences the rules say. Whether octets show an offence is for the [`EvidenceJudge`]; silence is never one.

use std::sync::Arc;

use super::refusal::Refusal;
use super::tree::Value;
use super::{EVIDENCE_PER_VALIDATOR_LIMIT, Effect, Registry, validator_place, validator_requester};
use crate::digest::{Digest, Domain};
use crate::operation::{EVIDENCE_LIMIT_BYTES, EvidenceOctets, NetworkId, Validator, ValidatorKey};
use crate::wire::{Reader, WireError, Writer};

static EVIDENCE: Domain = Domain::new("hypermesh v1 evidence place");

/// How a validator broke the protocol
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Offence {
    /// It signed two things that exclude each other
    Equivocation,
    /// It signed a proposal that can never be valid
    InvalidProposal,
    /// It voted for such a proposal
    InvalidVote,
}

impl Offence {
    /// As a word
    pub const fn name(self) -> &'static str {
        match self {
            Self::Equivocation => "equivocation",
            Self::InvalidProposal => "invalid proposal",
            Self::InvalidVote => "vote for an invalid proposal",
        }
    }

    const fn tag(self) -> u8 {
        match self {
            Self::Equivocation => 1,
            Self::InvalidProposal => 2,
            Self::InvalidVote => 3,
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match reader.u8()? {
            1 => Ok(Self::Equivocation),
            2 => Ok(Self::InvalidProposal),
            3 => Ok(Self::InvalidVote),
            tag => Err(WireError::BadTag { what: "offence", tag: tag.into() }),
        }
    }
}

/// What evidence shows
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Finding {
    /// Who
    pub culprit: ValidatorKey,
    /// What
    pub offence: Offence,
    /// In which epoch
    pub epoch: u64,
    /// In which view of that epoch
    pub view: u64,
}

/// Tells what evidence shows.
///
/// The answer is part of what validators agree on: it follows from what is handed over and from nothing else, such as
/// blocks that one validator happens to have kept.
pub trait EvidenceJudge: Send + Sync {
    /// What the octets show, or why nothing. `validators` tells the validators of an epoch, in the order of their keys.
    fn judge(
        &self,
        network: &NetworkId,
        validators: &dyn Fn(u64) -> Vec<Validator>,
        octets: &[u8],
    ) -> Result<Finding, String>;
}

/// Evidence on record
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EvidenceRecord {
    /// What it shows
    pub finding: Finding,
    /// The block that recorded it
    pub recorded_height: u64,
    /// The evidence, which anyone can judge again
    pub octets: Arc<[u8]>,
}

impl Value for EvidenceRecord {
    fn encode(&self, writer: &mut Writer) {
        let Finding { culprit, offence, epoch, view } = &self.finding;
        writer.fixed(&culprit.0).u8(offence.tag()).u64(*epoch).u64(*view);
        writer.u64(self.recorded_height).bytes(&self.octets);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            finding: Finding {
                culprit: ValidatorKey(reader.fixed()?),
                offence: Offence::decode(reader)?,
                epoch: reader.u64()?,
                view: reader.u64()?,
            },
            recorded_height: reader.u64()?,
            octets: reader.bytes(EVIDENCE_LIMIT_BYTES)?.into(),
        })
    }
}

/// One offence has one place, however many pieces of evidence show it
fn place(finding: &Finding) -> Digest {
    let Finding { culprit, offence, epoch, view } = finding;
    EVIDENCE.derive(&[&culprit.0, &[offence.tag()], &epoch.to_be_bytes(), &view.to_be_bytes()])
}

impl Registry {
    /// What evidence shows
    pub fn judge_evidence(&self, octets: &[u8]) -> Result<Finding, Refusal> {
        let judge = self.judge.as_ref().ok_or(Refusal::NoJudge)?;
        judge
            .judge(&self.network, &|epoch| self.validators_of(epoch), octets)
            .map_err(|reason| Refusal::BadEvidence { reason })
    }

    /// Whether evidence of this would be put on record
    pub fn wants_evidence(&self, finding: &Finding) -> Result<(), Refusal> {
        let key = finding.culprit;
        let culprit = self.validator_record(&key);
        // Nobody can be accused of what is still to come.
        let culprit = culprit
            .filter(|record| record.took_part_in(finding.epoch) && finding.epoch <= self.epoch)
            .ok_or(Refusal::EvidenceAgainstNobody { key })?;
        if self.evidence.contains(&place(finding)) {
            return Err(Refusal::EvidenceKnown);
        }
        if culprit.offences >= EVIDENCE_PER_VALIDATOR_LIMIT {
            return Err(Refusal::EvidenceEnough);
        }
        Ok(())
    }

    pub(super) fn record_evidence(
        &mut self,
        octets: &EvidenceOctets,
        height: u64,
    ) -> Result<Effect, Refusal> {
        let finding = self.judge_evidence(octets.as_slice())?;
        self.wants_evidence(&finding)?;
        let key = finding.culprit;
        let octets = octets.as_slice().into();
        let record = EvidenceRecord { finding, recorded_height: height, octets };
        self.evidence.insert(place(&finding), record);
        let slashed = self.punish(&key);
        Ok(Effect::EvidenceRecorded { finding, slashed })
    }

    /// Counts the offence and takes the stake; who is left out is decided when the epoch ends
    fn punish(&mut self, key: &ValidatorKey) -> u64 {
        let mut slashed = 0;
        for key in self.same_node(key) {
            if let Some(record) = self.validators.get_mut(&validator_place(&key)) {
                record.offences = record.offences.saturating_add(1);
            }
            let permille = self.parameters.slash_permille;
            if let Some(requester) = self.requesters.get_mut(&validator_requester(&key)) {
                let part = u128::from(requester.stake) * u128::from(permille) / 1_000;
                let part = u64::try_from(part).unwrap_or(requester.stake);
                requester.stake -= part;
                slashed += part;
            }
        }
        slashed
    }

    /// The key, and the one under which its node is a validator by now: a new key sheds no offence
    fn same_node(&self, key: &ValidatorKey) -> Vec<ValidatorKey> {
        let name = self.validator_record(key).map(|record| &record.name);
        let now = self.active.iter().find(|validator| Some(&validator.name) == name);
        let other = now.map(|validator| validator.key).filter(|now| now != key);
        [*key].into_iter().chain(other).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offences_are_read_back_and_have_places_of_their_own() {
        let finding = Finding {
            culprit: ValidatorKey([1; 32]),
            offence: Offence::Equivocation,
            epoch: 2,
            view: 3,
        };
        let others = [
            Finding { culprit: ValidatorKey([0; 32]), ..finding },
            Finding { offence: Offence::InvalidProposal, ..finding },
            Finding { offence: Offence::InvalidVote, ..finding },
            Finding { epoch: 0, ..finding },
            Finding { view: 0, ..finding },
        ];
        for other in others {
            assert_ne!(place(&other), place(&finding));
            let record =
                EvidenceRecord { finding: other, recorded_height: 4, octets: vec![5; 6].into() };
            let mut writer = Writer::new();
            record.encode(&mut writer);
            assert_eq!(EvidenceRecord::decode(&mut Reader::new(writer.as_slice())), Ok(record));
        }
        let refused = Err(WireError::BadTag { what: "offence", tag: 4 });
        assert_eq!(Offence::decode(&mut Reader::new(&[4])), refused);
    }
}
