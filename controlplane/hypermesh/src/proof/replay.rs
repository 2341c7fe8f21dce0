//! The window of sequence numbers of one requester, after RFC 4303 section 3.4.3: numbers may arrive out of order
//! within 64 of the newest, and each is taken once. Whose window it is, and when it is marked, is the registry's.

use crate::wire::{Reader, WireError, Writer};

/// Numbers this far behind the newest are told apart; older ones are refused
pub const SEQUENCE_WINDOW: u64 = 64;

/// A number may be this far ahead of the newest: a requester that loses count skips ahead, and none burns them all
pub const SEQUENCE_LEAP_LIMIT: u64 = 1 << 32;

/// Why a sequence number is refused
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SequenceRefusal {
    /// It was taken before
    #[error("sequence number {sequence} was used before")]
    Used {
        /// The number
        sequence: u64,
    },
    /// It is behind the window, or 0, which is never used
    #[error("sequence number {sequence} is too far behind")]
    Old {
        /// The number
        sequence: u64,
    },
    /// It is further ahead than [`SEQUENCE_LEAP_LIMIT`]
    #[error("sequence number {sequence} is too far ahead")]
    Ahead {
        /// The number
        sequence: u64,
    },
}

/// Which of a requester's sequence numbers were used. The first is 1.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct SequenceWindow {
    newest: u64,
    /// Bit `n`: `newest - n` was used
    used: u64,
}

impl SequenceWindow {
    /// The highest number used; 0 if none was
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether this number may be used
    pub fn check(&self, sequence: u64) -> Result<(), SequenceRefusal> {
        if sequence == 0 {
            return Err(SequenceRefusal::Old { sequence });
        }
        let Some(behind) = self.newest.checked_sub(sequence) else {
            return if sequence - self.newest > SEQUENCE_LEAP_LIMIT {
                Err(SequenceRefusal::Ahead { sequence })
            } else {
                Ok(())
            };
        };
        if behind >= SEQUENCE_WINDOW {
            Err(SequenceRefusal::Old { sequence })
        } else if self.used >> behind & 1 == 1 {
            Err(SequenceRefusal::Used { sequence })
        } else {
            Ok(())
        }
    }

    /// Uses this number
    pub fn mark(&mut self, sequence: u64) -> Result<(), SequenceRefusal> {
        self.check(sequence)?;
        match self.newest.checked_sub(sequence) {
            Some(behind) => self.used |= 1 << behind,
            None => {
                let ahead = sequence - self.newest;
                let kept = if ahead < SEQUENCE_WINDOW { self.used << ahead } else { 0 };
                self.used = kept | 1;
                self.newest = sequence;
            }
        }
        Ok(())
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        writer.u64(self.newest).u64(self.used);
    }

    /// Reads what [`SequenceWindow::encode`] wrote, and only windows that numbers can leave behind
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let window = Self { newest: reader.u64()?, used: reader.u64()? };
        let possible = match window.newest {
            0 => 0,
            newest if newest < SEQUENCE_WINDOW => (1 << newest) - 1,
            _ => u64::MAX,
        };
        let newest_is_used = window.newest == 0 || window.used & 1 == 1;
        if window.used & !possible != 0 || !newest_is_used {
            return Err(WireError::NotCanonical { what: "window of sequence numbers" });
        }
        Ok(window)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn read(newest: u64, used: u64) -> Result<SequenceWindow, WireError> {
        let mut writer = Writer::new();
        writer.u64(newest).u64(used);
        SequenceWindow::decode(&mut Reader::new(writer.as_slice()))
    }

    #[test]
    fn numbers_are_taken_once_in_any_order_within_the_window() {
        let mut window = SequenceWindow::default();
        for sequence in [5, 3, 1, 4, 2, 64, 60] {
            assert_eq!(window.mark(sequence), Ok(()), "{sequence}");
            assert_eq!(window.mark(sequence), Err(SequenceRefusal::Used { sequence }));
        }
        assert_eq!(window.newest(), 64);
        assert_eq!(window.mark(65), Ok(()));
        assert_eq!(window.check(1), Err(SequenceRefusal::Old { sequence: 1 }));
        assert_eq!(window.check(2), Err(SequenceRefusal::Used { sequence: 2 }));
        assert_eq!(window.mark(1_000), Ok(()));
        assert_eq!(window.check(936), Err(SequenceRefusal::Old { sequence: 936 }));
        assert_eq!(window.check(937), Ok(()));
    }

    #[test]
    fn zero_and_leaps_are_refused() {
        let mut window = SequenceWindow::default();
        assert_eq!(window.check(0), Err(SequenceRefusal::Old { sequence: 0 }));
        let far = SEQUENCE_LEAP_LIMIT + 1;
        assert_eq!(window.check(far), Err(SequenceRefusal::Ahead { sequence: far }));
        assert_eq!(window.mark(far - 1), Ok(()));
        assert_eq!(window.mark(far), Ok(()));
        assert_eq!(window.check(u64::MAX), Err(SequenceRefusal::Ahead { sequence: u64::MAX }));
    }

    #[test]
    fn the_last_number_of_all_can_be_used_once() {
        let mut window = read(u64::MAX - 1, 1).unwrap();
        assert_eq!(window.mark(u64::MAX), Ok(()));
        assert_eq!(window.mark(u64::MAX), Err(SequenceRefusal::Used { sequence: u64::MAX }));
    }

    proptest::proptest! {
        /// Goal: the window agrees with a set of all numbers used; method: the same numbers to both.
        #[test]
        fn the_window_is_a_set_with_a_horizon(numbers in proptest::collection::vec(0_u64..300, 0..200)) {
            let mut window = SequenceWindow::default();
            let mut used = HashSet::new();
            for sequence in numbers {
                let expected = if sequence == 0 || sequence + SEQUENCE_WINDOW <= window.newest() {
                    Err(SequenceRefusal::Old { sequence })
                } else if used.contains(&sequence) {
                    Err(SequenceRefusal::Used { sequence })
                } else {
                    Ok(())
                };
                proptest::prop_assert_eq!(window.mark(sequence), expected);
                if expected.is_ok() {
                    used.insert(sequence);
                }
                proptest::prop_assert_eq!(read(window.newest, window.used), Ok(window));
            }
        }
    }

    #[test]
    fn windows_that_cannot_be_are_refused() {
        let refused = Err(WireError::NotCanonical { what: "window of sequence numbers" });
        for (newest, used) in [(0, 1), (1, 0), (1, 2), (1, 3), (63, 1 << 63), (64, 2), (9, 1 << 9)]
        {
            assert_eq!(read(newest, used), refused, "{newest} {used}");
        }
        assert!(
            read(64, u64::MAX).is_ok() && read(63, u64::MAX >> 1).is_ok() && read(0, 0).is_ok()
        );
    }
}
