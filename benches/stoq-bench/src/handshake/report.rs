//! The record of a handshake run and its text. Figures come in; nothing is measured here.

use serde::{Deserialize, Serialize};

use crate::beside::PeerHandshakes;
use crate::latency::tally::{Counts, Quantiles};
use crate::rig::Conditions;

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.handshake/1";

/// One key exchange
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ShareReport {
    /// What it was made under
    pub conditions: Conditions,
    /// The key exchange as it was negotiated
    pub key_exchange: String,
    /// Handshakes under way at any time
    pub in_flight: usize,
    /// Measured time
    pub seconds: f64,
    /// Sessions in the measured time, per second of it
    pub per_second: f64,
    /// Attempts by how they ended
    pub counts: Counts,
    /// Processor time of this end per handshake
    pub near_cpu_us: f64,
    /// Processor time of the sink per handshake
    pub far_cpu_us: f64,
    /// From dialling to the session, so many under way
    pub time_to_session_us: Quantiles,
    /// The same, one at a time
    pub unloaded_time_to_session_us: Quantiles,
    /// Sessions this end was given, warm-up included
    pub dialled: u64,
    /// Handshakes the sink finished in the same time
    pub accepted_at_sink: u64,
    /// Retry packets the sink sent
    pub retries: u64,
    /// Refusals and drops of this end, by cause
    pub near_reasons: std::collections::BTreeMap<String, u64>,
    /// Refusals and drops of the sink, by cause
    pub far_reasons: std::collections::BTreeMap<String, u64>,
    /// The same handshakes by other stacks
    pub beside: Vec<PeerHandshakes>,
}

impl ShareReport {
    /// Whether this was the measurement it claims to be: every attempt ended in a session that the sink saw,
    /// none through a Retry
    pub fn is_sound(&self) -> bool {
        let Counts { refused, failed, .. } = self.counts;
        self.counts.is_sound()
            && refused + failed == 0
            && self.retries == 0
            && self.accepted_at_sink >= self.dialled
    }

    /// In text
    pub fn lines(&self) -> Vec<String> {
        let (loaded, alone) = (&self.time_to_session_us, &self.unloaded_time_to_session_us);
        let mut lines = vec![
            format!(
                "{}: {:.0} mutual handshakes/s, {} under way; processor time per handshake {:.0} us here, \
                 {:.0} us at the sink",
                self.key_exchange,
                self.per_second,
                self.in_flight,
                self.near_cpu_us,
                self.far_cpu_us
            ),
            format!(
                "  time to session: p50 {:.0} us, p99 {:.0} us; one at a time p50 {:.0} us, p99 {:.0} us",
                loaded.p50_us, loaded.p99_us, alone.p50_us, alone.p99_us
            ),
        ];
        if !self.is_sound() {
            lines.push(format!(
                "  NOT SOUND: {:?}, {} at the sink, {} retries, here {:?}, sink {:?}",
                self.counts,
                self.accepted_at_sink,
                self.retries,
                self.near_reasons,
                self.far_reasons
            ));
        }
        lines.extend(self.beside.iter().map(PeerHandshakes::line));
        lines
    }
}

/// A whole run
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HandshakeReport {
    /// [`SCHEMA`]
    pub schema: String,
    /// By key exchange
    pub shares: Vec<ShareReport>,
}

impl HandshakeReport {
    /// Whether every part is
    pub fn is_sound(&self) -> bool {
        !self.shares.is_empty() && self.shares.iter().all(ShareReport::is_sound)
    }
}
