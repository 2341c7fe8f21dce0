//! The two clocks of rotation side by side: validity is judged by the wall clock, waits by the monotone one,
//! and where they disagree the wall clock was set or the host was suspended.

use std::time::{Duration, Instant, SystemTime};

/// Deadlines by the wall clock are judged anew at least this often: it may be set, and the monotone clock
/// stands still while the host is suspended
pub const CLOCK_REREAD_LIMIT: Duration = Duration::from_secs(30);
/// Disagreement of the two clocks between two looks above which the wall clock has jumped
pub const CLOCK_JUMP_TOLERANCE: Duration = Duration::from_secs(2);
/// Disagreement with the authority's clock above which an operator should know
pub const CLOCK_SKEW_WARNING: Duration = Duration::from_secs(60);

/// The time, read from both clocks at once
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Now {
    /// What validity is judged by
    pub wall: SystemTime,
    /// What waits are measured by
    pub monotone: Instant,
}

/// How far the wall clock moved beyond what the monotone clock counted
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Jump {
    Forward(Duration),
    Backward(Duration),
}

impl Now {
    /// Compares two looks at the clocks; `None` where they agree
    pub(super) fn jump_since(&self, last: &Now) -> Option<Jump> {
        let counted = self.monotone.saturating_duration_since(last.monotone);
        let expected = last.wall.checked_add(counted)?;
        match self.wall.duration_since(expected) {
            Ok(ahead) => (ahead > CLOCK_JUMP_TOLERANCE).then_some(Jump::Forward(ahead)),
            Err(behind) => {
                let behind = behind.duration();
                (behind > CLOCK_JUMP_TOLERANCE).then_some(Jump::Backward(behind))
            }
        }
    }

    /// When the monotone clock will show what the wall clock should: at once for times past
    pub(super) fn monotone_at(&self, wall: SystemTime) -> Instant {
        let wait = wall.duration_since(self.wall).unwrap_or_default();
        self.monotone.checked_add(wait).unwrap_or(self.monotone + CLOCK_REREAD_LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn only_disagreement_beyond_the_tolerance_is_a_jump() {
        let last =
            Now { wall: UNIX_EPOCH + Duration::from_secs(1_000_000), monotone: Instant::now() };
        let look = |wall_seconds: i64, monotone_seconds: u64| {
            let wall = if wall_seconds < 0 {
                last.wall - Duration::from_secs(wall_seconds.unsigned_abs())
            } else {
                last.wall + Duration::from_secs(wall_seconds.unsigned_abs())
            };
            let monotone = last.monotone + Duration::from_secs(monotone_seconds);
            Now { wall, monotone }.jump_since(&last)
        };
        assert_eq!(look(30, 30), None);
        assert_eq!(look(32, 30), None);
        assert_eq!(look(28, 30), None);
        assert_eq!(look(3_630, 30), Some(Jump::Forward(Duration::from_secs(3_600))));
        assert_eq!(look(-30, 30), Some(Jump::Backward(Duration::from_secs(60))));
    }
}
