//! One interval of a soak: what was carried in it, and everything that had been counted by its end. Differences of
//! what both ends said; nothing is judged here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::vitals::{Memory, Vitals};

/// One interval
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// Since the run began
    pub start_s: f64,
    /// Since the run began
    pub end_s: f64,
    /// Flow octets that arrived in it
    pub bytes: u64,
    /// Their rate
    pub gbps: f64,
    /// Flow octets sent for the first time since the run began
    pub bytes_sent: u64,
    /// Flow octets that have arrived since then; the rest is under way, and lost if it never comes
    pub bytes_received: u64,
    /// Flow octets sent again in the interval
    pub bytes_resent: u64,
    /// Flow octets that arrived a second time in the interval
    pub bytes_duplicate: u64,
    /// Connections replaced in the interval
    pub replacements: u64,
    /// Memory of the sender
    pub sender_memory: Memory,
    /// Memory of the receiver
    pub receiver_memory: Memory,
    /// Buffers dropped at the receiver's socket in the interval
    pub socket_overflows: u64,
    /// Packets the sender declared lost in the interval
    pub packets_lost: u64,
    /// Packets declared lost that were found to have arrived, in the interval
    pub packets_lost_spurious: u64,
    /// Dropped, refused and reset at the sender in the interval, by cause
    pub sender_reasons: BTreeMap<String, u64>,
    /// Dropped, refused and reset at the receiver in the interval, by cause
    pub receiver_reasons: BTreeMap<String, u64>,
}

/// Both ends at one mark
#[derive(Clone, Debug, Default)]
pub struct Mark {
    /// Since the run began
    pub at_s: f64,
    /// This end
    pub near: Vitals,
    /// The sink
    pub far: Vitals,
    /// Connections replaced so far
    pub replacements: u64,
}

impl Record {
    /// Between two marks
    pub fn between(before: &Mark, after: &Mark) -> Self {
        let gained = |read: fn(&Mark) -> &Vitals, counter: &str| {
            read(after).counter(counter).saturating_sub(read(before).counter(counter))
        };
        let bytes = after.far.sample.data_bytes.saturating_sub(before.far.sample.data_bytes);
        let ns = after.far.sample.at_ns.saturating_sub(before.far.sample.at_ns);
        Self {
            start_s: before.at_s,
            end_s: after.at_s,
            bytes,
            gbps: if ns > 0 { bytes as f64 * 8.0 / ns as f64 } else { 0.0 },
            bytes_sent: after.near.counter("flow_bytes_sent"),
            bytes_received: after.far.counter("flow_bytes_received"),
            bytes_resent: gained(|mark| &mark.near, "flow_bytes_resent"),
            bytes_duplicate: gained(|mark| &mark.far, "flow_bytes_duplicate"),
            replacements: after.replacements.saturating_sub(before.replacements),
            sender_memory: after.near.memory,
            receiver_memory: after.far.memory,
            socket_overflows: gained(|mark| &mark.far, "socket_overflows"),
            packets_lost: gained(|mark| &mark.near, "packets_lost"),
            packets_lost_spurious: gained(|mark| &mark.near, "packets_lost_spurious"),
            sender_reasons: less(&after.near.reasons, &before.near.reasons),
            receiver_reasons: less(&after.far.reasons, &before.far.reasons),
        }
    }

    /// In text, for progress
    pub fn line(&self) -> String {
        let mebibytes = |memory: Memory| memory.rss_bytes as f64 / f64::from(1 << 20);
        let reasons = |name: &str, all: &BTreeMap<String, u64>| {
            if all.is_empty() { String::new() } else { format!("; {name} {all:?}") }
        };
        format!(
            "{:7.0} s  {:7.3} Gb/s; {:.1} and {:.1} MiB resident; {} replaced; {} octets sent again; {} packets \
             lost, {} of them spurious, {} socket overflows{}{}",
            self.end_s,
            self.gbps,
            mebibytes(self.sender_memory),
            mebibytes(self.receiver_memory),
            self.replacements,
            self.bytes_resent,
            self.packets_lost,
            self.packets_lost_spurious,
            self.socket_overflows,
            reasons("sender", &self.sender_reasons),
            reasons("receiver", &self.receiver_reasons),
        )
    }
}

/// What has been added
fn less(after: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let old = |name: &String| before.get(name).copied().unwrap_or(0);
    let gained = after.iter().map(|(name, count)| (name.clone(), count.saturating_sub(old(name))));
    gained.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::WorkerSample;

    fn mark(at_s: f64, bytes: u64, counts: u64) -> Mark {
        let names =
            ["flow_bytes_resent", "flow_bytes_duplicate", "socket_overflows", "packets_lost"];
        let counters = names.map(|name| (name.to_owned(), counts)).into();
        let mut end = Vitals::default();
        end.sample.at_ns = (at_s * 1e9) as u64;
        end.sample.data_bytes = bytes;
        end.sample.workers = vec![WorkerSample { counters, ..WorkerSample::default() }];
        end.reasons = [("dropped.refused".to_owned(), counts)].into();
        Mark { at_s, near: end.clone(), far: end, replacements: counts }
    }

    #[test]
    fn an_interval_holds_what_was_added_in_it() {
        let record = Record::between(&mark(10.0, 1_000, 5), &mark(12.0, 501_000, 7));
        assert_eq!((record.start_s, record.end_s, record.bytes), (10.0, 12.0, 500_000));
        assert!((record.gbps - 0.002).abs() < 1e-9);
        let two = [
            record.bytes_resent,
            record.bytes_duplicate,
            record.socket_overflows,
            record.packets_lost,
            record.replacements,
            record.sender_reasons["dropped.refused"],
            record.receiver_reasons["dropped.refused"],
        ];
        assert_eq!(two, [2; 7]);
        let quiet = Record::between(&mark(1.0, 0, 3), &mark(2.0, 0, 3));
        assert!(quiet.sender_reasons.is_empty() && quiet.gbps == 0.0);
    }
}
