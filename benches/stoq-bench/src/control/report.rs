//! The record of a control plane run and its text. Figures come in; nothing is measured here.

use serde::{Deserialize, Serialize};

use crate::host::Fingerprint;
use crate::latency::tally::{Counts, Quantiles};

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.control/1";

/// Certificates at full load and at half of it
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Issuing {
    /// Durable, logged certificates a second with so many requests under way
    pub per_second: f64,
    /// How many
    pub in_flight: usize,
    /// At full load, by how they ended
    pub full: Counts,
    /// Certificates a second that were asked for at half load
    pub half_per_second: f64,
    /// At half load, by how they ended
    pub half: Counts,
    /// At half load, from the intended instant of an open-loop schedule
    pub half_latency_us: Quantiles,
    /// Processor time of the whole process per certificate at full load, the generator's included
    pub cpu_us: f64,
    /// Signatures per certificate at full load
    pub signatures: f64,
    /// Certificates per group of the journal, each of which is one fdatasync
    pub per_group: f64,
}

impl Issuing {
    fn is_sound(&self) -> bool {
        let whole = |counts: &Counts| counts.is_sound() && counts.refused + counts.failed == 0;
        whole(&self.full) && whole(&self.half) && self.per_second > 0.0
    }

    fn line(&self, what: &str) -> String {
        format!(
            "{what}: {:.0} certificates/s with {} under way; at {:.0}/s p50 {:.2} ms, p99 {:.2} ms; {:.0} us of \
             processor time each, {:.1} signatures, {:.0} a group",
            self.per_second,
            self.in_flight,
            self.half_per_second,
            self.half_latency_us.p50_us / 1e3,
            self.half_latency_us.p99_us / 1e3,
            self.cpu_us,
            self.signatures,
            self.per_group
        )
    }
}

/// A step of issuing
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Step {
    /// What it is
    pub step: String,
    /// Processor time per certificate
    pub cpu_us: f64,
    /// Of the processor time of a certificate
    pub share: f64,
}

/// How long a revoked node stays connected
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Closing {
    /// Revocations
    pub revocations: usize,
    /// From the call that revokes to the end of the node's connection at another node: the middle one
    pub p50_ms: f64,
    /// The longest
    pub max_ms: f64,
}

/// A whole run. The first fields are what a gate reads.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ControlReport {
    /// Durable, logged certificates a second, in process, keys of the process
    pub issue_per_second: f64,
    /// At half load
    pub issue_p50_ms: f64,
    /// At half load
    pub issue_p99_ms: f64,
    /// The same over STOQ, one mutually authenticated session
    pub issue_over_stoq_per_second: f64,
    /// At half load
    pub issue_over_stoq_p50_ms: f64,
    /// At half load
    pub issue_over_stoq_p99_ms: f64,
    /// The same in process with keys in SoftHSM; absent where that is not installed
    pub issue_hsm_per_second: Option<f64>,
    /// Entries the log makes durable a second, in batches of the authority's size, heads and tiles included
    pub log_append_per_second: f64,
    /// The longest of the revocations
    pub revocation_to_closed_ms: f64,
    /// The three most expensive steps of issuing, the most expensive first
    pub most_expensive_steps: Vec<Step>,
    /// [`SCHEMA`]
    pub schema: String,
    /// The host
    pub host: Fingerprint,
    /// Where the journal was, and on what
    pub directory: String,
    /// In process
    pub in_process: Issuing,
    /// Over STOQ
    pub over_stoq: Issuing,
    /// In SoftHSM
    pub hsm: Option<Issuing>,
    /// Why there is nothing about SoftHSM
    pub hsm_absent: Option<String>,
    /// Revocations
    pub closing: Closing,
    /// What a reader must know
    pub notes: Vec<String>,
}

impl ControlReport {
    /// Whether nothing was refused or lost anywhere
    pub fn is_sound(&self) -> bool {
        self.in_process.is_sound()
            && self.over_stoq.is_sound()
            && self.hsm.as_ref().is_none_or(Issuing::is_sound)
            && self.log_append_per_second > 0.0
            && self.closing.revocations > 0
    }

    /// In text
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("journal in {}", self.directory),
            self.in_process.line("in process"),
            self.over_stoq.line("over STOQ"),
        ];
        match (&self.hsm, &self.hsm_absent) {
            (Some(hsm), _) => lines.push(hsm.line("in process, keys in SoftHSM")),
            (None, Some(reason)) => lines.push(format!("SoftHSM: not measured: {reason}")),
            (None, None) => lines.push("SoftHSM: not measured".into()),
        }
        lines.push(format!("log: {:.0} entries/s durable", self.log_append_per_second));
        lines.push(format!(
            "revocation to closed connection: p50 {:.1} ms, longest {:.1} ms of {}",
            self.closing.p50_ms, self.closing.max_ms, self.closing.revocations
        ));
        for step in &self.most_expensive_steps {
            let share = step.share * 100.0;
            lines.push(format!("  {:.0} us ({share:.0} %) {}", step.cpu_us, step.step));
        }
        if !self.is_sound() {
            let counts = (&self.in_process.full, &self.in_process.half);
            lines.push(format!("NOT SOUND: in process {counts:?}, over STOQ {:?}", self.over_stoq));
        }
        lines
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn issuing() -> Issuing {
        Issuing {
            per_second: 2_000.0,
            in_flight: 256,
            full: Counts { good: 10_000, ..Counts::default() },
            half_per_second: 1_000.0,
            half: Counts { good: 5_000, ..Counts::default() },
            half_latency_us: Quantiles::default(),
            cpu_us: 400.0,
            signatures: 3.0,
            per_group: 40.0,
        }
    }

    #[test]
    fn what_was_refused_or_lost_makes_a_run_unsound() {
        assert!(issuing().is_sound());
        let bends: [fn(&mut Issuing); 4] = [
            |issuing| issuing.full.refused = 1,
            |issuing| issuing.half.failed = 1,
            |issuing| issuing.half.unanswered = 1,
            |issuing| issuing.full.good = 0,
        ];
        for bend in bends {
            let mut bent = issuing();
            bend(&mut bent);
            assert!(!bent.is_sound(), "{bent:?}");
        }
    }
}
