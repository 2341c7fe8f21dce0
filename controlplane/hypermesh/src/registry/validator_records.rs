//! What the registry holds of validators and of their votes, and its encoding. How either changes is in `vote`, `epoch`
//! and `evidence`.

use stoq_interface::NodeId;

use super::parameters::{PERIODS_LIMIT, VALIDATORS_LIMIT};
use super::tree::Value;
use crate::operation::asset::{decode_node, encode_node};
use crate::operation::{Change, ValidatorKey};
use crate::wire::{Reader, WireError, Writer};

/// Somebody who is or was a validator
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ValidatorRecord {
    /// The node it runs at
    pub name: NodeId,
    /// Its key
    pub key: ValidatorKey,
    /// When it took part, in the order of time; at least once
    pub periods: Vec<Period>,
    /// Offences on record since it joined last
    pub offences: u32,
}

/// Epochs in which a validator took part
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Period {
    /// The first
    pub first_epoch: u64,
    /// The last, if it has left
    pub last_epoch: Option<u64>,
}

impl ValidatorRecord {
    /// Whether it was a validator in an epoch
    pub fn took_part_in(&self, epoch: u64) -> bool {
        self.periods.iter().any(|period| {
            period.first_epoch <= epoch && period.last_epoch.is_none_or(|last| epoch <= last)
        })
    }

    /// The last epoch it took part in, if it has left
    pub fn left_epoch(&self) -> Option<u64> {
        self.periods.last()?.last_epoch
    }

    /// Only the last period may go on, and each begins after the one before
    fn is_sound(&self) -> bool {
        let ends = self.periods.iter().map(|period| (period.first_epoch, period.last_epoch));
        !self.periods.is_empty()
            && ends.clone().all(|(first, last)| last.is_none_or(|last| first <= last))
            && ends
                .clone()
                .zip(ends.skip(1))
                .all(|((_, last), (next, _))| last.is_some_and(|last| last < next))
    }
}

impl Value for ValidatorRecord {
    fn encode(&self, writer: &mut Writer) {
        encode_node(&self.name, writer);
        writer.fixed(&self.key.0).u32(self.offences).count(self.periods.len());
        for period in &self.periods {
            writer.u64(period.first_epoch).bool(period.last_epoch.is_some());
            if let Some(last) = period.last_epoch {
                writer.u64(last);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (name, key) = (decode_node(reader)?, ValidatorKey(reader.fixed()?));
        let offences = reader.u32()?;
        let mut periods = Vec::new();
        for _period in 0..reader.count(PERIODS_LIMIT)? {
            let first_epoch = reader.u64()?;
            let last_epoch = if reader.bool()? { Some(reader.u64()?) } else { None };
            periods.push(Period { first_epoch, last_epoch });
        }
        let record = Self { name, key, periods, offences };
        if record.is_sound() {
            Ok(record)
        } else {
            Err(WireError::NotCanonical { what: "periods of a validator" })
        }
    }
}

/// A change and who wants it
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ballot {
    /// The change
    pub change: Change,
    /// Who put it to the vote
    pub opened_by: ValidatorKey,
    /// Who wants it, in the order of their keys
    pub voters: Vec<ValidatorKey>,
}

impl Value for Ballot {
    fn encode(&self, writer: &mut Writer) {
        self.change.encode(writer);
        writer.fixed(&self.opened_by.0).count(self.voters.len());
        for voter in &self.voters {
            writer.fixed(&voter.0);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let change = Change::decode(reader)?;
        let opened_by = ValidatorKey(reader.fixed()?);
        let count = reader.count(VALIDATORS_LIMIT)?;
        let mut voters = Vec::new();
        for _voter in 0..count {
            voters.push(ValidatorKey(reader.fixed()?));
        }
        if !voters.is_sorted_by(|one, next| one < next) {
            return Err(WireError::NotCanonical { what: "voters" });
        }
        Ok(Self { change, opened_by, voters })
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::tests::read_back;
    use super::*;

    fn validator(periods: &[(u64, Option<u64>)]) -> ValidatorRecord {
        let periods = periods
            .iter()
            .map(|(first_epoch, last_epoch)| Period {
                first_epoch: *first_epoch,
                last_epoch: *last_epoch,
            })
            .collect();
        let name = NodeId::new("alpha").unwrap();
        ValidatorRecord { name, key: ValidatorKey([1; 32]), periods, offences: 3 }
    }

    #[test]
    fn a_validator_takes_part_in_its_periods() {
        let record = validator(&[(2, Some(4)), (7, Some(7)), (9, None)]);
        assert_eq!(read_back(&record), Ok(record.clone()));
        let epochs: Vec<_> = (0..12).filter(|epoch| record.took_part_in(*epoch)).collect();
        assert_eq!(epochs, [2, 3, 4, 7, 9, 10, 11]);
        assert_eq!((record.left_epoch(), validator(&[(2, Some(4))]).left_epoch()), (None, Some(4)));
        let refused = Err(WireError::NotCanonical { what: "periods of a validator" });
        let wrong: [&[_]; 5] = [
            &[],
            &[(3, Some(2))],
            &[(2, None), (4, None)],
            &[(2, Some(4)), (4, None)],
            &[(5, Some(6)), (2, None)],
        ];
        for periods in wrong {
            assert_eq!(read_back(&validator(periods)), refused, "{periods:?}");
        }
    }

    #[test]
    fn voters_are_written_in_the_order_of_their_keys() {
        let keys = |keys: &[u8]| keys.iter().map(|key| ValidatorKey([*key; 32])).collect();
        let ballot = |voters| Ballot {
            change: Change::Remove(ValidatorKey([9; 32])),
            opened_by: ValidatorKey([2; 32]),
            voters: keys(voters),
        };
        assert_eq!(read_back(&ballot(&[1, 2, 3])), Ok(ballot(&[1, 2, 3])));
        let refused = Err(WireError::NotCanonical { what: "voters" });
        assert_eq!(read_back(&ballot(&[2, 1])), refused);
        assert_eq!(read_back(&ballot(&[1, 1])), refused);
    }
}
