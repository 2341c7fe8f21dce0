//! The times of rotation, with defaults for certificates of 24 hours. How they are used is in the machine.

use std::time::Duration;

use super::schedule::INFORMATION_INTERVAL_SHORTEST;

const HOUR: Duration = Duration::from_secs(3_600);

/// When a node renews, activates and retires certificates.
///
/// The offsets `acquire_from`, `acquire_until` and `activate_at` count from the start of validity of a
/// certificate that lives `lifetime`; one that lives longer or shorter is treated in proportion.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RotationSettings {
    /// The lifetime that the three offsets below are given for
    pub lifetime: Duration,
    /// Earliest time to fetch the successor, where the authority suggests no window
    pub acquire_from: Duration,
    /// Latest time to begin fetching it; the rest up to `lifetime` is the outage that is survived
    pub acquire_until: Duration,
    /// When the successor takes over
    pub activate_at: Duration,
    /// Shortest wait after a failed request
    pub backoff_base: Duration,
    /// Longest wait after a failed request; with n nodes it bounds a herd to about 2 n / cap requests per second
    pub backoff_cap: Duration,
    /// Time an authority gets to answer
    pub request_timeout: Duration,
    /// Failures at one authority after which the next one is asked
    pub failures_per_authority: u32,
    /// How often the authority is asked for its suggested window, unless it says otherwise (RFC 9773 section 4.3)
    pub information_interval: Duration,
    /// Earliest replacement of a connection before a certificate on it ends
    pub replace_margin_longest: Duration,
    /// Latest replacement of a connection before a certificate on it ends
    pub replace_margin_shortest: Duration,
    /// How long a connection may outlive the certificate it was made with; its replacement has failed by then
    pub grace_after_end: Duration,
}

impl Default for RotationSettings {
    fn default() -> Self {
        Self {
            lifetime: 24 * HOUR,
            acquire_from: 16 * HOUR,
            acquire_until: 17 * HOUR,
            activate_at: 23 * HOUR,
            backoff_base: Duration::from_secs(5),
            backoff_cap: Duration::from_secs(300),
            request_timeout: Duration::from_secs(30),
            failures_per_authority: 3,
            information_interval: HOUR,
            replace_margin_longest: Duration::from_secs(30 * 60),
            replace_margin_shortest: Duration::from_secs(5 * 60),
            grace_after_end: HOUR,
        }
    }
}

/// Why settings cannot work
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RotationSettingsError {
    /// The offsets are not in order
    #[error(
        "rotation: acquire_from, acquire_until, activate_at and lifetime must grow in this order, \
         and acquire_from must not be zero"
    )]
    Offsets,
    /// The waits after failures are not in order
    #[error("rotation: backoff_base must be above zero and at most backoff_cap")]
    Backoff,
    /// An authority gets no time
    #[error("rotation: request_timeout must be above zero")]
    RequestTimeout,
    /// An authority gets no chance
    #[error("rotation: failures_per_authority must be at least 1")]
    Failures,
    /// The authority would be asked too often
    #[error("rotation: information_interval must be at least one minute (RFC 9773 section 4.3.3)")]
    InformationInterval,
    /// The margins are not in order
    #[error(
        "rotation: replace_margin_shortest must be above zero and at most replace_margin_longest, \
         and that below lifetime"
    )]
    Margins,
}

impl RotationSettings {
    /// Checks that the times fit together
    pub fn check(&self) -> Result<(), RotationSettingsError> {
        use RotationSettingsError as Error;
        let ensure = |holds: bool, error: Error| if holds { Ok(()) } else { Err(error) };
        let offsets = [
            Duration::ZERO,
            self.acquire_from,
            self.acquire_until,
            self.activate_at,
            self.lifetime,
        ];
        let grows = offsets.is_sorted() && self.acquire_from > Duration::ZERO;
        ensure(
            grows && self.acquire_until < self.activate_at && self.activate_at < self.lifetime,
            Error::Offsets,
        )?;
        let waits = self.backoff_base > Duration::ZERO && self.backoff_base <= self.backoff_cap;
        ensure(waits, Error::Backoff)?;
        ensure(self.request_timeout > Duration::ZERO, Error::RequestTimeout)?;
        ensure(self.failures_per_authority >= 1, Error::Failures)?;
        let interval = self.information_interval >= INFORMATION_INTERVAL_SHORTEST;
        ensure(interval, Error::InformationInterval)?;
        let margins = self.replace_margin_shortest > Duration::ZERO
            && self.replace_margin_shortest <= self.replace_margin_longest
            && self.replace_margin_longest < self.lifetime;
        ensure(margins, Error::Margins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_and_survive_six_hours_without_an_authority() {
        let settings = RotationSettings::default();
        assert_eq!(settings.check(), Ok(()));
        let budget = settings.lifetime - settings.acquire_until;
        assert!(budget >= 6 * HOUR + 2 * settings.backoff_cap, "{budget:?}");
    }

    #[test]
    fn each_mistake_has_its_own_error() {
        use RotationSettingsError as Error;
        type Spoil = fn(&mut RotationSettings);
        let mistakes: [(Spoil, Error); 10] = [
            (|s| s.acquire_from = Duration::ZERO, Error::Offsets),
            (|s| s.acquire_until = s.acquire_from - HOUR, Error::Offsets),
            (|s| s.activate_at = s.acquire_until, Error::Offsets),
            (|s| s.lifetime = s.activate_at, Error::Offsets),
            (|s| s.backoff_base = Duration::ZERO, Error::Backoff),
            (|s| s.backoff_cap = s.backoff_base / 2, Error::Backoff),
            (|s| s.request_timeout = Duration::ZERO, Error::RequestTimeout),
            (|s| s.failures_per_authority = 0, Error::Failures),
            (|s| s.information_interval = Duration::from_secs(59), Error::InformationInterval),
            (|s| s.replace_margin_shortest = s.replace_margin_longest * 2, Error::Margins),
        ];
        for (spoil, expected) in mistakes {
            let mut settings = RotationSettings::default();
            spoil(&mut settings);
            assert_eq!(settings.check(), Err(expected), "{settings:?}");
        }
    }
}
