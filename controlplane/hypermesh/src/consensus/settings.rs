//! How a validator paces itself. Nothing here is agreed on: validators with other settings still agree, only slower.

/// Why settings cannot be used
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("consensus setting {field} must be {wanted}")]
pub struct SettingsError {
    /// Which
    pub field: &'static str,
    /// What it may be
    pub wanted: &'static str,
}

/// How long the engine waits for others, in milliseconds unless the name says otherwise
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// For a proposal of whose turn it is
    pub leader_ms: u64,
    /// For a quorum behind it, from the beginning of the view
    pub certification_ms: u64,
    /// Between two wishes to go on to the next view
    pub retry_ms: u64,
    /// Who was silent for so long, while a quorum was not, is passed over at once
    pub skip_ms: u64,
    /// For the answer to a request for a certificate
    pub fetch_ms: u64,
    /// Before such a request is made again
    pub fetch_retry_ms: u64,
    /// Views below the last final one whose votes are still looked at
    pub view_retention: u64,
}

impl Default for Timing {
    /// For validators in one building or one region
    fn default() -> Self {
        Self {
            leader_ms: 500,
            certification_ms: 1_000,
            retry_ms: 1_000,
            skip_ms: 2_000,
            fetch_ms: 1_000,
            fetch_retry_ms: 100,
            view_retention: 64,
        }
    }
}

/// How a validator paces itself
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The engine's patience
    pub timing: Timing,
    /// With nothing to agree on, a proposal waits so long for something; below [`Timing::leader_ms`]
    pub idle_ms: u64,
    /// A block may lie this far in the future of this validator's clock. One further ahead waits until it does not.
    pub clock_tolerance_ms: u64,
    /// Added to the host's clock: what is known of its error
    pub clock_offset_ms: i64,
    /// For the answer to a request for a block; then another validator is asked
    pub fetch_ms: u64,
    /// How often others are told how far this validator is
    pub announce_ms: u64,
    /// Without a new final block for so long, while others have some, those are asked for
    pub catch_up_ms: u64,
    /// Where two blocks had supporters in a view, nothing is called final for so long: time enough to hear of offences
    pub contested_ms: u64,
    /// A validator is suspected after so much silence
    pub silence_ms: u64,
    /// Final blocks that are kept for others, at least; 0 keeps all
    pub blocks_kept: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            idle_ms: 250,
            clock_tolerance_ms: 500,
            clock_offset_ms: 0,
            fetch_ms: 100,
            announce_ms: 1_000,
            catch_up_ms: 500,
            contested_ms: 250,
            silence_ms: 5_000,
            blocks_kept: 0,
        }
    }
}

impl Settings {
    /// Refuses what the engine would not start with
    pub fn validate(&self) -> Result<(), SettingsError> {
        let timing = &self.timing;
        let checks = [
            (timing.leader_ms > 0, "leader_ms", "above 0"),
            (timing.certification_ms > timing.leader_ms, "certification_ms", "above leader_ms"),
            (timing.retry_ms > 0, "retry_ms", "above 0"),
            (
                timing.skip_ms > timing.certification_ms.max(timing.retry_ms),
                "skip_ms",
                "above certification_ms and retry_ms",
            ),
            (timing.fetch_ms > 0, "timing.fetch_ms", "above 0"),
            (timing.view_retention > 0, "view_retention", "above 0"),
            (self.idle_ms > 0 && self.idle_ms < timing.leader_ms, "idle_ms", "below leader_ms"),
            (self.fetch_ms > 0, "fetch_ms", "above 0"),
            (self.announce_ms > 0, "announce_ms", "above 0"),
            (self.catch_up_ms > 0, "catch_up_ms", "above 0"),
            (self.silence_ms > 0, "silence_ms", "above 0"),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            Some((_, field, wanted)) => Err(SettingsError { field, wanted }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_can_be_used_and_what_the_engine_refuses_cannot() {
        let sound = Settings::default();
        assert_eq!(sound.validate(), Ok(()));
        let timing = sound.timing;
        let with = |timing| Settings { timing, ..sound };
        let cases = [
            (with(Timing { leader_ms: 0, ..timing }), "leader_ms"),
            (with(Timing { certification_ms: 500, ..timing }), "certification_ms"),
            (with(Timing { skip_ms: 1_000, ..timing }), "skip_ms"),
            (with(Timing { retry_ms: 0, ..timing }), "retry_ms"),
            (with(Timing { view_retention: 0, ..timing }), "view_retention"),
            (Settings { idle_ms: 500, ..sound }, "idle_ms"),
            (Settings { fetch_ms: 0, ..sound }, "fetch_ms"),
        ];
        for (settings, field) in cases {
            assert_eq!(settings.validate().map_err(|error| error.field), Err(field));
        }
    }
}
