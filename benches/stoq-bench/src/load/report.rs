//! The report of a load: pure arithmetic over samples of both ends. Goodput is what the receiver verified
//! between the end of the warm-up and the last octet. What was not measured is absent, never zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cost::{Calibration, Costs, Stages, why_no_instructions};
use super::ends::{Ends, ratio};
use super::trains::{EndTrains, Losses, PacketsPerKey, Trains};
use crate::ceiling::{Ceiling, Cipher, Tsc};
use crate::digest::{Outcome, Verify};
use crate::exchange::{Verdict, WorkerDescription};
use crate::host::{Fingerprint, PathKind};

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.load/1";

/// Which end
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SideName {
    /// The end that sends flow bytes
    Sender,
    /// The end that receives them
    Receiver,
}

impl SideName {
    /// In text
    pub const fn label(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Receiver => "receiver",
        }
    }
}

/// A worker of either end, as it is
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PlacedWorker {
    /// Which end
    pub side: SideName,
    /// The worker
    #[serde(flatten)]
    pub about: WorkerDescription,
}

/// The conditions of a run
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Start {
    /// The host of the load
    pub host: Fingerprint,
    /// What packets went over
    pub path: Option<PathKind>,
    /// The build's commit, where the build was told
    pub commit: Option<String>,
    /// UDP payload of a full packet
    pub payload_bytes: u64,
    /// Flows
    pub flows: usize,
    /// Sessions
    pub sessions: usize,
    /// Whether flows were striped over the workers
    pub striped: bool,
    /// Whether the sink sent
    pub reverse: bool,
    /// What the receiver compared
    pub verify: Verify,
    /// Transport settings of both ends, in words
    pub transport: String,
    /// Workers of both ends
    pub workers: Vec<PlacedWorker>,
}

/// One interval
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Interval {
    /// Since the first octet
    pub start_s: f64,
    /// Since the first octet
    pub end_s: f64,
    /// Octets that arrived
    pub bytes: u64,
    /// Their rate
    pub gbps: f64,
    /// Part of the warm-up
    pub omitted: bool,
}

/// Processor use of one kind of thread, in processors
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct CpuUse {
    /// In user mode
    pub user_cores: f64,
    /// In the kernel
    pub system_cores: f64,
}

/// One end during the measured time
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Side {
    /// By kind of thread
    pub cpu: BTreeMap<String, CpuUse>,
    /// UDP datagrams
    pub datagrams_sent: u64,
    /// UDP datagrams
    pub datagrams_received: u64,
    /// Datagrams per send
    pub tx_train_mean: Option<f64>,
    /// Datagrams per receive
    pub rx_train_mean: Option<f64>,
    /// System calls of the workers' I/O
    pub system_calls: u64,
    /// Datagrams, both ways, per system call
    pub datagrams_per_system_call: Option<f64>,
    /// Turns of the workers' loops
    pub turns: u64,
    /// Sleeps of the workers
    pub sleeps: u64,
    /// Time of the workers by stage, per flow octet that arrived
    pub ns_per_byte: BTreeMap<String, f64>,
}

/// QUIC packets that the sender declared lost, by cause, over the whole run
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Loss {
    /// All
    pub packets_lost: u64,
    /// Declared lost, but arrived
    pub spurious: u64,
    /// Buffers dropped at the receiver's socket, as the kernel counted: on a path without a segmenting device
    /// each holds a whole train
    pub socket_overflow_buffers: u64,
    /// Of those lost, at the receiver's socket. Absent where buffers were dropped there and the path can lose
    /// packets, too: how many packets a dropped buffer held is not known.
    pub socket: Option<u64>,
    /// Of those lost, between the hosts; absent with the one above
    pub network: Option<u64>,
}

impl Loss {
    fn of(lost: u64, spurious: u64, buffers: u64, path: Option<PathKind>) -> Self {
        let real = lost.saturating_sub(spurious);
        let (socket, network) = match (buffers, path) {
            (0, _) => (Some(0), Some(real)),
            // Loopback has no other place to lose a packet.
            (_, Some(PathKind::Loopback)) => (Some(real), Some(0)),
            _ => (None, None),
        };
        Self { packets_lost: lost, spurious, socket_overflow_buffers: buffers, socket, network }
    }
}

/// A worker in the report
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct WorkerReport {
    /// Which end
    pub side: SideName,
    /// Processor
    pub core: Option<usize>,
    /// NUMA node
    pub node: Option<usize>,
    /// Provider
    pub io: String,
    /// Datagrams per send
    pub tx_train_mean: Option<f64>,
    /// Datagrams per receive
    pub rx_train_mean: Option<f64>,
}

/// A whole run
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LoadReport {
    /// [`SCHEMA`]
    pub schema: String,
    /// Conditions
    pub start: Start,
    /// Intervals, warm-up included
    pub intervals: Vec<Interval>,
    /// Flow octets that arrived in the measured time
    pub bytes: u64,
    /// The measured time: end of the warm-up to the last octet
    pub seconds: f64,
    /// Flow octets per time, at the receiver
    pub goodput_gbps: f64,
    /// Whether every flow's count and digest agree; false where no digest was taken
    pub verified: bool,
    /// Octets sent that did not arrive, over the whole run; absent where a flow has no trailer
    pub lost_bytes: Option<u64>,
    /// What became of each flow
    pub flows: Vec<Verdict>,
    /// The sending end
    pub sender: Side,
    /// The receiving end
    pub receiver: Side,
    /// Loss by cause
    pub loss: Loss,
    /// Datagrams the receiver sent per datagram it received
    pub ack_ratio: Option<f64>,
    /// Connections replaced, over the whole run
    pub connection_replacements: u64,
    /// Flow octets sent again on another connection
    pub flow_bytes_resent: u64,
    /// Largest at the sender's end, when the run ended
    pub congestion_window_bytes: Option<u64>,
    /// Largest at the sender's end, when the run ended
    pub rtt_us: Option<f64>,
    /// Packets on one pair of keys, most
    pub packets_per_key_max: Option<u64>,
    /// Before and after the load; absent where the two ends are not this host's to measure
    pub ceilings: Option<[Ceiling; 2]>,
    /// Mean of what the two ceilings' models allow one core per side, times the workers of the smaller side; absent where a core serves both ends
    pub ceiling_gbps: Option<f64>,
    /// Goodput over that
    pub fraction_of_ceiling: Option<f64>,
    /// The dearest stage of the busier end
    pub binding_stage: String,
    /// What a flow octet costs, by end and stage
    pub ns_per_byte: BTreeMap<String, Stages>,
    /// Processor time of workers and program threads per flow octet, by end: what its stages explain
    #[serde(default)]
    pub busy_ns_per_byte: BTreeMap<String, f64>,
    /// The same in ticks of the time stamp counter; empty where its frequency is unknown
    #[serde(default)]
    pub busy_cycles_per_byte: BTreeMap<String, f64>,
    /// Goodput over the processors that workers and program threads kept busy, by end
    #[serde(default)]
    pub gbps_per_core: BTreeMap<String, f64>,
    /// Instructions of workers and program threads per flow octet
    #[serde(default)]
    pub instructions_per_byte: Option<f64>,
    /// Why they are absent
    #[serde(default)]
    pub instructions_per_byte_reason: Option<String>,
    /// How fast the time stamp counter runs, for the cycles above
    #[serde(default)]
    pub tsc: Option<Tsc>,
    /// Trains of both ends
    #[serde(default)]
    pub trains: Option<Trains>,
    /// Loss by cause, and what it cost
    #[serde(default)]
    pub losses: Option<Losses>,
    /// How far keys came towards what they may protect
    #[serde(default)]
    pub packets_per_key: Option<PacketsPerKey>,
    /// Workers of both ends
    pub workers: Vec<WorkerReport>,
}

/// Everything a report is made of
pub struct Inputs<'a> {
    /// Conditions
    pub start: Start,
    /// Intervals
    pub intervals: Vec<Interval>,
    /// The sending end
    pub sender: Ends<'a>,
    /// The receiving end
    pub receiver: Ends<'a>,
    /// What became of each flow
    pub flows: Vec<Verdict>,
    /// Ceilings before and after
    pub ceilings: Option<[Ceiling; 2]>,
    /// The ciphers alone, before and after, where there are no ceilings
    pub ciphers: Option<[Cipher; 2]>,
    /// This host's time stamp counter
    pub tsc: Tsc,
}

/// Why there is no report
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReportError {
    /// Nothing arrived
    #[error("nothing arrived at the receiver")]
    Nothing,
    /// The run was shorter than its warm-up
    #[error("the run ended within its warm-up: send more, or omit less")]
    OnlyWarmUp,
}

fn lost_bytes(flows: &[Verdict]) -> Option<u64> {
    flows.iter().map(|flow| Some(flow.sent_bytes?.abs_diff(flow.received_bytes))).sum()
}

impl LoadReport {
    /// Makes a report
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn of(inputs: Inputs<'_>) -> Result<Self, ReportError> {
        let (sender, receiver) = (&inputs.sender, &inputs.receiver);
        let first = receiver.after.first_byte_ns.ok_or(ReportError::Nothing)?;
        let last = receiver.after.last_byte_ns.ok_or(ReportError::Nothing)?;
        let begun = receiver.before.at_ns.max(first);
        let bytes = receiver.after.data_bytes - receiver.before.data_bytes;
        if last <= begun || bytes == 0 {
            return Err(ReportError::OnlyWarmUp);
        }
        let nanoseconds = (last - begun) as f64;
        let goodput_gbps = bytes as f64 * 8.0 / nanoseconds;
        let both = |ceilings: &[Ceiling; 2]| [ceilings[0].aead, ceilings[1].aead];
        let ciphers = inputs.ceilings.as_ref().map(both).or(inputs.ciphers);
        let calibration =
            ciphers.and_then(|ciphers| Calibration::of(&ciphers, inputs.start.payload_bytes));
        let costs = Costs::of([sender, receiver], bytes, calibration, &inputs.tsc);
        let equal = inputs.flows.iter().all(|flow| flow.outcome == Outcome::Equal);
        let (sending, receiving) = (sender.side(bytes), receiver.side(bytes));
        let workers = sender.about.workers.len().min(receiver.about.workers.len());
        let ceiling_gbps = inputs
            .ceilings
            .as_ref()
            .map(|[before, after]| (before.model.gbps + after.model.gbps) / 2.0 * workers as f64);
        let overflow = receiver.over_the_run("socket_overflows");
        let lost = sender.over_the_run("packets_lost");
        let spurious = sender.over_the_run("packets_lost_spurious");
        let loss = Loss::of(lost, spurious, overflow, inputs.start.path);
        let connections = &sender.about.connections;
        let mut all = sender.worker_reports(SideName::Sender);
        all.extend(receiver.worker_reports(SideName::Receiver));
        let trains = Trains { sender: EndTrains::of(sender), receiver: EndTrains::of(receiver) };
        Ok(Self {
            schema: SCHEMA.to_owned(),
            bytes,
            seconds: nanoseconds / 1e9,
            goodput_gbps,
            verified: equal && !inputs.flows.is_empty() && inputs.start.verify != Verify::None,
            lost_bytes: lost_bytes(&inputs.flows),
            losses: Some(Losses::of(loss, sender, receiver)),
            loss,
            ack_ratio: ratio(receiving.datagrams_sent, receiving.datagrams_received),
            connection_replacements: sender.about.replacements.max(receiver.about.replacements),
            flow_bytes_resent: sender.sum("flow_bytes_resent"),
            congestion_window_bytes: connections.iter().map(|c| c.congestion_window_bytes).max(),
            rtt_us: connections.iter().map(|c| c.rtt_us).max_by(f64::total_cmp),
            packets_per_key_max: connections.iter().map(|c| c.packets_sent).max(),
            ceiling_gbps,
            fraction_of_ceiling: ceiling_gbps.map(|ceiling| goodput_gbps / ceiling),
            binding_stage: costs.binding_stage(),
            busy_ns_per_byte: costs.by_end(Some),
            busy_cycles_per_byte: costs.by_end(|ns| inputs.tsc.cycles(ns)),
            // Octets in eight bits each, over the time that one processor spends on an octet.
            gbps_per_core: costs.by_end(|ns| (ns > 0.0).then(|| 8.0 / ns)),
            instructions_per_byte: None,
            instructions_per_byte_reason: Some(why_no_instructions()),
            packets_per_key: Some(PacketsPerKey::of([sender, receiver])),
            trains: Some(trains),
            ns_per_byte: costs.stages_by_end(),
            workers: all,
            tsc: Some(inputs.tsc),
            ceilings: inputs.ceilings,
            start: inputs.start,
            intervals: inputs.intervals,
            flows: inputs.flows,
            sender: sending,
            receiver: receiving,
        })
    }

    /// Whether the run proves what it set out to: all bytes arrived and, where digests were on, are equal
    pub fn is_sound(&self) -> bool {
        let equal = self.flows.iter().all(|flow| flow.outcome == Outcome::Equal);
        equal && !self.flows.is_empty() && self.lost_bytes == Some(0)
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;

#[cfg(test)]
pub use tests::example;
