//! The judgement of a soak: what grew, what was lost, what was dropped and whether it is known why. Pure: it is
//! given what both ends said at the end and the records made on the way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::Record;
use super::slope::slope;
use crate::digest::Outcome;
use crate::exchange;
use crate::vitals::Vitals;

/// Part of the run at its start in which memory may grow
const SETTLING: f64 = 0.1;
const SECONDS_PER_HOUR: f64 = 3_600.0;

/// The trend of one end's resident memory behind the settling time
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Trend {
    /// Median slope; absent of fewer than three records
    pub bytes_per_hour: Option<f64>,
    /// The first record behind the settling time
    pub first_rss_bytes: Option<u64>,
    /// The last record
    pub last_rss_bytes: Option<u64>,
}

impl Trend {
    fn of(records: &[Record], duration_s: f64, rss_bytes: fn(&Record) -> u64) -> Self {
        let settled: Vec<&Record> =
            records.iter().filter(|record| record.end_s >= duration_s * SETTLING).collect();
        let points: Vec<(f64, f64)> =
            settled.iter().map(|record| (record.end_s, rss_bytes(record) as f64)).collect();
        Self {
            bytes_per_hour: slope(&points).map(|per_second| per_second * SECONDS_PER_HOUR),
            first_rss_bytes: settled.first().map(|record| rss_bytes(record)),
            last_rss_bytes: settled.last().map(|record| rss_bytes(record)),
        }
    }

    fn is_flat(&self, bound_bytes_per_hour: u64) -> Option<bool> {
        self.bytes_per_hour.map(|slope| slope <= bound_bytes_per_hour as f64)
    }

    fn line(&self, name: &str) -> String {
        let mebibytes = |bytes: Option<u64>| {
            bytes.map_or("unknown".into(), |bytes| {
                format!("{:.1}", bytes as f64 / f64::from(1 << 20))
            })
        };
        let slope = self
            .bytes_per_hour
            .map_or("unknown".into(), |slope| format!("{:+.2}", slope / f64::from(1 << 20)));
        format!(
            "{name} {slope} MiB per hour ({} to {} MiB)",
            mebibytes(self.first_rss_bytes),
            mebibytes(self.last_rss_bytes)
        )
    }
}

/// What the verdict is made of, besides the records
pub struct Evidence<'a> {
    /// Time the flows were sending
    pub duration_s: f64,
    /// Growth of resident memory that is still called flat
    pub bound_bytes_per_hour: u64,
    /// This end when all connections were closed
    pub near: &'a Vitals,
    /// The sink, shortly after
    pub far: &'a Vitals,
    /// What the receiver found of each flow
    pub flows: &'a [exchange::Verdict],
    /// Replacements that were asked for
    pub replacements_asked: u64,
    /// Replacements that came about
    pub replacements: u64,
    /// Connections lost without a replacement standing by
    pub connections_lost: u64,
}

/// The judgement
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Verdict {
    /// Growth of resident memory that is still called flat
    pub bound_bytes_per_hour: u64,
    /// Resident memory of the sender
    pub sender_memory: Trend,
    /// Resident memory of the receiver
    pub receiver_memory: Trend,
    /// Whether both stay below the bound; absent where the run was too short to say
    pub memory_is_flat: Option<bool>,
    /// Octets sent that did not arrive; absent where a flow has no trailer
    pub lost_bytes: Option<u64>,
    /// Whether every flow arrived as it left
    pub verified: bool,
    /// Connections replaced
    pub replacements: u64,
    /// Replacements asked for
    pub replacements_asked: u64,
    /// Everything dropped, refused or lost, by end and cause
    pub drops: BTreeMap<String, u64>,
    /// Those among them that nothing in the run accounts for
    pub unexplained: BTreeMap<String, u64>,
}

impl Verdict {
    /// Judges
    pub fn of(records: &[Record], evidence: &Evidence<'_>) -> Self {
        let trend = |rss: fn(&Record) -> u64| Trend::of(records, evidence.duration_s, rss);
        let sender_memory = trend(|record| record.sender_memory.rss_bytes);
        let receiver_memory = trend(|record| record.receiver_memory.rss_bytes);
        let bound = evidence.bound_bytes_per_hour;
        let flat = sender_memory.is_flat(bound).zip(receiver_memory.is_flat(bound));
        let flows = evidence.flows;
        let lost = flows.iter().map(|flow| Some(flow.sent_bytes?.abs_diff(flow.received_bytes)));
        let drops = drops(evidence);
        Self {
            bound_bytes_per_hour: bound,
            sender_memory,
            receiver_memory,
            memory_is_flat: flat.map(|(sender, receiver)| sender && receiver),
            lost_bytes: lost.sum(),
            verified: !flows.is_empty() && flows.iter().all(|flow| flow.outcome == Outcome::Equal),
            replacements: evidence.replacements,
            replacements_asked: evidence.replacements_asked,
            unexplained: unexplained(&drops, evidence.replacements),
            drops,
        }
    }

    /// Whether the run proves what it set out to
    pub fn is_sound(&self) -> bool {
        self.memory_is_flat == Some(true)
            && self.lost_bytes == Some(0)
            && self.verified
            && self.unexplained.is_empty()
            && self.replacements >= self.replacements_asked
    }

    /// In text
    pub fn lines(&self) -> Vec<String> {
        let flat = match self.memory_is_flat {
            Some(true) => "flat",
            Some(false) => "GROWS",
            None => "NOT JUDGED: fewer than three records behind the first tenth",
        };
        let lost = self.lost_bytes.map_or("an unknown number of".into(), |bytes| bytes.to_string());
        vec![
            format!(
                "memory {flat}: {}, {}; bound {} MiB per hour",
                self.sender_memory.line("sender"),
                self.receiver_memory.line("receiver"),
                self.bound_bytes_per_hour >> 20
            ),
            format!(
                "{lost} octets lost, {}; {} connections replaced of {} asked for",
                if self.verified { "every octet verified" } else { "NOT VERIFIED" },
                self.replacements,
                self.replacements_asked
            ),
            format!("dropped, refused or lost, by cause: {:?}", self.drops),
            format!("unexplained: {:?}", self.unexplained),
            (if self.is_sound() { "SOUND" } else { "NOT SOUND" }).to_owned(),
        ]
    }
}

/// Everything dropped, refused or lost, by end and cause; what did not occur is left out
fn drops(evidence: &Evidence<'_>) -> BTreeMap<String, u64> {
    let (near, far) = (evidence.near, evidence.far);
    let mut all = BTreeMap::new();
    for (name, end) in [("sender", near), ("receiver", far)] {
        for (reason, count) in &end.reasons {
            all.insert(format!("{name}.{reason}"), *count);
        }
        for counter in ["send_errors", "socket_overflows"] {
            all.insert(format!("{name}.{counter}"), end.counter(counter));
        }
        let (lost, spurious) = (end.counter("packets_lost"), end.counter("packets_lost_spurious"));
        all.insert(format!("{name}.packets_lost_spurious"), spurious);
        all.insert(format!("{name}.packets_lost_for_good"), lost.saturating_sub(spurious));
    }
    // The receiver was asked after the sender: it can only have received more than is counted here.
    let vanished = |from: &Vitals, to: &Vitals| {
        from.counter("datagrams_sent").saturating_sub(to.counter("datagrams_received"))
    };
    all.insert("sender.datagrams_vanished".into(), vanished(near, far));
    all.insert("sender.connections_lost".into(), evidence.connections_lost);
    all.retain(|_, count| *count > 0);
    all
}

/// Those drops that nothing accounts for
fn unexplained(drops: &BTreeMap<String, u64>, replacements: u64) -> BTreeMap<String, u64> {
    let overflowed = |end: &str| drops.contains_key(&format!("{end}.socket_overflows"));
    let other = |end: &str| if end == "sender" { "receiver" } else { "sender" };
    let explained = |name: &str| {
        let (end, cause) = name.split_once('.').unwrap_or((name, ""));
        match cause {
            // Declared lost, but arrived: nothing was dropped. Overflows are a cause, counted by the kernel.
            "packets_lost_spurious" | "socket_overflows" => true,
            // The other end's socket was full.
            "packets_lost_for_good" | "datagrams_vanished" => overflowed(other(end)),
            // Under way to a connection that had been replaced and was gone when they came.
            "dropped.unknown_connection" => replacements > 0,
            _ => false,
        }
    };
    let left = drops.iter().filter(|(name, _)| !explained(name));
    left.map(|(name, count)| (name.clone(), *count)).collect()
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
