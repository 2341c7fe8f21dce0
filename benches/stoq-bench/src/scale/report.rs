//! The record of a scale run and its text: arithmetic over what both ends said. Nothing is measured here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::compare::statistics::Spread;
use crate::digest::Outcome;
use crate::exchange::Verdict;
use crate::rig::Conditions;
use crate::vitals::{Memory, Vitals};

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.scale/1";

/// One run at one count of connections
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Point {
    /// Connections, each with one flow
    pub connections: usize,
    /// Which round over all counts
    pub round: usize,
    /// Measured time, on the receiver's clock
    pub seconds: f64,
    /// Octets that arrived in it
    pub bytes: u64,
    /// Their rate
    pub gbps: f64,
    /// Processor time of the sending process per octet
    pub sender_ns_per_byte: f64,
    /// Processor time of the receiving process per octet
    pub receiver_ns_per_byte: f64,
    /// Datagrams per send
    pub tx_train_mean: Option<f64>,
    /// Datagrams per receive
    pub rx_train_mean: Option<f64>,
    /// Memory of the sending process at the end
    pub sender_memory: Memory,
    /// Memory of the receiving process at the end
    pub receiver_memory: Memory,
    /// Flows whose every octet arrived as it left
    pub flows_equal: usize,
    /// Octets sent that did not arrive, over whole flows; absent where a flow has no trailer
    pub lost_bytes: Option<u64>,
    /// Packets the sender declared lost by then, over the whole run
    pub packets_lost: u64,
    /// Of those, found to have arrived
    pub packets_lost_spurious: u64,
    /// Buffers dropped at the receiver's socket, over the whole run
    pub socket_overflows: u64,
}

impl Point {
    /// Of two instants of both ends and what the receiver found; `None` where nothing arrived
    pub fn of(
        round: usize,
        before: &(Vitals, Vitals),
        after: &(Vitals, Vitals),
        verdicts: &[Verdict],
    ) -> Option<Self> {
        let far = |pair: &(Vitals, Vitals)| (pair.1.sample.data_bytes, pair.1.sample.at_ns);
        let ((bytes_before, ns_before), (bytes_after, ns_after)) = (far(before), far(after));
        let bytes = bytes_after.checked_sub(bytes_before).filter(|bytes| *bytes > 0)?;
        let ns = ns_after.checked_sub(ns_before).filter(|ns| *ns > 0)?;
        let cost = |before: &Vitals, after: &Vitals| {
            (after.cpu_seconds() - before.cpu_seconds()) * 1e9 / bytes as f64
        };
        let train = |before: &Vitals, after: &Vitals, datagrams: &str, trains: &str| {
            let gained = |name: &str| after.counter(name).saturating_sub(before.counter(name));
            (gained(trains) > 0).then(|| gained(datagrams) as f64 / gained(trains) as f64)
        };
        let lost = verdicts.iter().map(|v| Some(v.sent_bytes?.abs_diff(v.received_bytes)));
        Some(Self {
            connections: verdicts.len(),
            round,
            seconds: ns as f64 / 1e9,
            bytes,
            gbps: bytes as f64 * 8.0 / ns as f64,
            sender_ns_per_byte: cost(&before.0, &after.0),
            receiver_ns_per_byte: cost(&before.1, &after.1),
            tx_train_mean: train(&before.0, &after.0, "datagrams_sent", "trains_sent"),
            rx_train_mean: train(&before.1, &after.1, "datagrams_received", "trains_received"),
            sender_memory: after.0.memory,
            receiver_memory: after.1.memory,
            flows_equal: verdicts.iter().filter(|v| v.outcome == Outcome::Equal).count(),
            lost_bytes: lost.sum(),
            packets_lost: after.0.counter("packets_lost"),
            packets_lost_spurious: after.0.counter("packets_lost_spurious"),
            socket_overflows: after.1.counter("socket_overflows"),
        })
    }

    /// Whether every octet of every flow arrived as it left
    pub fn is_sound(&self) -> bool {
        self.flows_equal == self.connections && self.lost_bytes == Some(0)
    }

    /// In text
    pub fn line(&self) -> String {
        let train = |mean: Option<f64>| mean.map_or("unknown".into(), |mean| format!("{mean:.1}"));
        let mebibytes = |memory: Memory| memory.rss_bytes >> 20;
        format!(
            "{:>5} connection(s): {:7.3} Gb/s; sender {:.3} ns/B, receiver {:.3} ns/B; trains {} out, {} in; \
             {} and {} MiB resident; {} packets lost, {} of them spurious, {} socket overflows; {}",
            self.connections,
            self.gbps,
            self.sender_ns_per_byte,
            self.receiver_ns_per_byte,
            train(self.tx_train_mean),
            train(self.rx_train_mean),
            mebibytes(self.sender_memory),
            mebibytes(self.receiver_memory),
            self.packets_lost,
            self.packets_lost_spurious,
            self.socket_overflows,
            if self.is_sound() { "every octet verified" } else { "OCTETS MISSING OR WRONG" },
        )
    }
}

/// All runs at one count
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Summary {
    /// Connections
    pub connections: usize,
    /// Goodput
    pub gbps: Spread,
    /// Processor time of both ends per octet
    pub ns_per_byte: Spread,
    /// The median of that over the median at the smallest count
    pub cost_relative: f64,
    /// The same of the sender alone
    pub sender_cost_relative: f64,
    /// The same of the receiver alone
    pub receiver_cost_relative: f64,
    /// The smallest count
    pub relative_to_connections: usize,
}

impl Summary {
    /// In text
    pub fn line(&self) -> String {
        format!(
            "{:>5} connection(s): median {:.3} Gb/s ({:.3} to {:.3}, {} run(s)); cost per octet {:.3} of that at \
             {} connection(s): sender {:.3}, receiver {:.3}",
            self.connections,
            self.gbps.median,
            self.gbps.least,
            self.gbps.most,
            self.gbps.count,
            self.cost_relative,
            self.relative_to_connections,
            self.sender_cost_relative,
            self.receiver_cost_relative,
        )
    }
}

/// Medians by count, in rising order
pub fn summarise(points: &[Point]) -> Vec<Summary> {
    let mut by_count: BTreeMap<usize, Vec<&Point>> = BTreeMap::new();
    for point in points {
        by_count.entry(point.connections).or_default().push(point);
    }
    let spread = |points: &[&Point], read: fn(&Point) -> f64| {
        Spread::of(&points.iter().map(|point| read(point)).collect::<Vec<_>>())
    };
    let sender = |point: &Point| point.sender_ns_per_byte;
    let receiver = |point: &Point| point.receiver_ns_per_byte;
    let both = |point: &Point| point.sender_ns_per_byte + point.receiver_ns_per_byte;
    let Some((first, base)) = by_count.first_key_value() else { return Vec::new() };
    let relative = |points: &[&Point], read: fn(&Point) -> f64| {
        Some(spread(points, read)?.median / spread(base, read)?.median)
    };
    let one = |(count, points): (&usize, &Vec<&Point>)| {
        Some(Summary {
            connections: *count,
            gbps: spread(points, |point| point.gbps)?,
            ns_per_byte: spread(points, both)?,
            cost_relative: relative(points, both)?,
            sender_cost_relative: relative(points, sender)?,
            receiver_cost_relative: relative(points, receiver)?,
            relative_to_connections: *first,
        })
    };
    by_count.iter().filter_map(one).collect()
}

/// One end with idle sessions
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct IdleSide {
    /// Before the first
    pub before: Memory,
    /// When the last was confirmed
    pub held: Memory,
    /// After the rest
    pub rested: Memory,
    /// When all were closed
    pub closed: Memory,
    /// Resident memory gained by then, per connection
    pub rss_bytes_per_connection: f64,
    /// Proportional memory gained by then, per connection
    pub pss_bytes_per_connection: f64,
    /// Resident memory gained after the rest, per connection
    pub rested_rss_bytes_per_connection: f64,
    /// Processor time per handshake while they were made
    pub cpu_us_per_handshake: f64,
    /// Processors kept busy during the rest
    pub rest_cores: f64,
}

impl IdleSide {
    /// Of an end before, when all were held, after the rest, and when all were closed
    pub fn of(count: usize, [before, held, rested, closed]: [&Vitals; 4]) -> Self {
        let each = |bytes: u64, base: u64| (bytes as f64 - base as f64) / count as f64;
        let rest = rested.sample.at_ns.saturating_sub(held.sample.at_ns) as f64 / 1e9;
        let spent = |from: &Vitals, to: &Vitals| to.cpu_seconds() - from.cpu_seconds();
        Self {
            before: before.memory,
            held: held.memory,
            rested: rested.memory,
            closed: closed.memory,
            rss_bytes_per_connection: each(held.memory.rss_bytes, before.memory.rss_bytes),
            pss_bytes_per_connection: each(held.memory.pss_bytes, before.memory.pss_bytes),
            rested_rss_bytes_per_connection: each(rested.memory.rss_bytes, before.memory.rss_bytes),
            cpu_us_per_handshake: spent(before, held) * 1e6 / count as f64,
            rest_cores: if rest > 0.0 { spent(held, rested) / rest } else { 0.0 },
        }
    }

    fn line(&self, name: &str) -> String {
        format!(
            "  {name}: {:.0} octets resident per connection ({:.0} proportional), {:.0} after the rest; {} MiB \
             before, {} held, {} closed; {:.0} us of processor time per handshake, {:.3} cores at rest",
            self.rss_bytes_per_connection,
            self.pss_bytes_per_connection,
            self.rested_rss_bytes_per_connection,
            self.before.rss_bytes >> 20,
            self.held.rss_bytes >> 20,
            self.closed.rss_bytes >> 20,
            self.cpu_us_per_handshake,
            self.rest_cores,
        )
    }
}

/// Idle sessions
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Idle {
    /// How many
    pub sessions: usize,
    /// Time it took to make them
    pub seconds: f64,
    /// Handshakes per second meanwhile
    pub handshakes_per_second: f64,
    /// Time between keep-alives
    pub keep_alive_seconds: f64,
    /// Time without traffic before the second reading
    pub rest_seconds: f64,
    /// The end that dialled
    pub near: IdleSide,
    /// The end that accepted
    pub far: IdleSide,
    /// Sessions that were asked for a flow at the end
    pub sampled: usize,
    /// Of those, how many carried it whole
    pub sampled_equal: usize,
    /// Time from the first close to the last connection gone at both ends
    pub closing_seconds: f64,
    /// Retry packets the sink sent
    pub retries: u64,
    /// Refusals and drops of the end that dialled, by cause
    pub near_reasons: BTreeMap<String, u64>,
    /// Refusals and drops of the end that accepted, by cause
    pub far_reasons: BTreeMap<String, u64>,
}

impl Idle {
    /// Whether every sampled session still carried its flow
    pub fn is_sound(&self) -> bool {
        self.sampled > 0 && self.sampled == self.sampled_equal
    }

    /// In text
    pub fn lines(&self) -> Vec<String> {
        vec![
            format!(
                "{} idle sessions, confirmed in {:.1} s ({:.0} handshakes/s); {} of {} sampled carried a verified \
                 flow after {:.1} s of rest; closed in {:.1} s; dropped or refused here {:?}, at the sink {:?}",
                self.sessions,
                self.seconds,
                self.handshakes_per_second,
                self.sampled_equal,
                self.sampled,
                self.rest_seconds,
                self.closing_seconds,
                self.near_reasons,
                self.far_reasons,
            ),
            self.near.line("dialling end"),
            self.far.line("accepting end"),
        ]
    }
}

/// A whole run
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ScaleReport {
    /// [`SCHEMA`]
    pub schema: String,
    /// What it was made under
    pub conditions: Conditions,
    /// Every run with traffic
    pub points: Vec<Point>,
    /// Medians by count
    pub summary: Vec<Summary>,
    /// Idle sessions, where asked for
    pub idle: Option<Idle>,
}

impl ScaleReport {
    /// Whether every octet arrived as it left
    pub fn is_sound(&self) -> bool {
        self.points.iter().all(Point::is_sound) && self.idle.as_ref().is_none_or(Idle::is_sound)
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
