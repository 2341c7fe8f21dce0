//! What a flow octet costs at either end, stage by stage, in processor time of the end's worker and program
//! threads. Stages of the workers' clocks are wall time: a thread that loses its processor within one counts that
//! time, too, and the rest that no stage explains may then be negative. It is shown as it comes out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ends::Ends;
use super::report::SideName;
use crate::ceiling::{Cipher, Tsc};

/// Where a figure comes from
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A clock around the work, during the run
    Clock,
    /// A measurement of the same work by itself, on the same processor before and after the run
    Calibrated,
    /// The scheduler's accounts of the threads (proc_pid_stat)
    Accounts,
    /// All the processor time less every stage
    Remainder,
}

/// What one stage costs per flow octet
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(from = "Record")]
pub struct StageCost {
    /// Absent where it was not measured
    pub ns_per_byte: Option<f64>,
    /// Ticks of the time stamp counter; absent where its frequency is unknown
    pub cycles_per_byte: Option<f64>,
    /// Where the figure comes from
    pub source: Source,
    /// Why a figure is absent, or what it contains besides its own work
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A stage as records hold it: earlier versions wrote the time alone
#[derive(Deserialize)]
#[serde(untagged)]
enum Record {
    Time(f64),
    Whole {
        ns_per_byte: Option<f64>,
        cycles_per_byte: Option<f64>,
        source: Source,
        #[serde(default)]
        reason: Option<String>,
    },
}

impl From<Record> for StageCost {
    fn from(record: Record) -> Self {
        match record {
            Record::Time(ns) => Self {
                ns_per_byte: Some(ns),
                cycles_per_byte: None,
                source: Source::Clock,
                reason: Some("recorded by an earlier version, which wrote no cycles".to_owned()),
            },
            Record::Whole { ns_per_byte, cycles_per_byte, source, reason } => {
                Self { ns_per_byte, cycles_per_byte, source, reason }
            }
        }
    }
}

/// Stages by name
pub type Stages = BTreeMap<String, StageCost>;

/// What the parts of a packet's protection take by themselves
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    seal_ns: f64,
    open_ns: f64,
    mask_ns: [f64; 2],
}

impl Calibration {
    /// Per packet of this size: the mean of what was measured before and after
    pub fn of(ciphers: &[Cipher], payload_bytes: u64) -> Option<Self> {
        let count = ciphers.len() as f64;
        let mean = |read: &dyn Fn(&Cipher) -> Option<f64>| -> Option<f64> {
            let all: Option<Vec<f64>> = ciphers.iter().map(read).collect();
            all.filter(|all| !all.is_empty()).map(|all| all.iter().sum::<f64>() / count)
        };
        let mask = |side: usize| {
            mean(&|cipher| cipher.header_protection_ns_per_packet.map(|masks| masks[side]))
        };
        Some(Self {
            seal_ns: mean(&|cipher| Some(cipher.seal_ns_per_byte))? * payload_bytes as f64,
            open_ns: mean(&|cipher| Some(cipher.open_ns_per_byte))? * payload_bytes as f64,
            mask_ns: [mask(0)?, mask(1)?],
        })
    }
}

const CLOCK_OFF: &str = "the stage clock is off at this end: --stages switches it on";
const NOT_CALIBRATED: &str = "not calibrated: the processors serve both ends, or another host";
const NOT_TAKEN_OUT: &str =
    "contains seal or open and header protection, which were not calibrated";
const KERNEL_WITHIN: &str =
    "plain system calls: the kernel's time lies within the stages that call it";

/// One end's clocks and accounts, in nanoseconds over the measured time
#[derive(Clone, Copy, Debug, Default)]
struct Clocks {
    receive: f64,
    transport_in: f64,
    services: f64,
    transport_out: f64,
    send_data: f64,
    send_ack: f64,
    receive_data: f64,
    receive_ack: f64,
    stream_send: f64,
    stream_receive: f64,
    datagram_in: f64,
    kernel: f64,
    application: f64,
    busy: f64,
    data_sent: f64,
    data_received: f64,
    is_ring: bool,
}

impl Clocks {
    fn of(ends: &Ends<'_>) -> Self {
        let stage = |name: &str| ends.stage_ns(name) as f64;
        let part = |name: &str| ends.sum(&format!("transport_ns.{name}")) as f64;
        let count = |name: &str| ends.sum(name) as f64;
        let (user, kernel) = ends.processor_ns("workers");
        let program = ends.processor_ns("application");
        let application = program.0 + program.1;
        Self {
            receive: stage("receive"),
            transport_in: stage("transport_in"),
            services: stage("services"),
            transport_out: stage("transport_out"),
            send_data: part("send_data"),
            send_ack: part("send_ack"),
            receive_data: part("receive_data"),
            receive_ack: part("receive_ack"),
            stream_send: part("stream_send"),
            stream_receive: part("stream_receive"),
            datagram_in: part("datagram_in"),
            kernel,
            application,
            busy: user + kernel + application,
            data_sent: count("datagrams_sent") - count("small_datagrams_sent"),
            data_received: count("datagrams_received") - count("small_datagrams_received"),
            is_ring: ends.about.workers.iter().all(|worker| worker.io == "io_uring"),
        }
    }

    /// Whether the stage clock ran
    fn is_fine(&self) -> bool {
        self.datagram_in > 0.0
    }
}

/// Collects stages; what is left of the whole comes last
struct Sheet<'a> {
    bytes: f64,
    tsc: &'a Tsc,
    stages: Stages,
    explained_ns: f64,
}

impl Sheet<'_> {
    fn put(&mut self, name: &str, ns: f64, source: Source, note: Option<&str>) {
        self.explained_ns += ns;
        let ns_per_byte = ns / self.bytes;
        let cycles_per_byte = self.tsc.cycles(ns_per_byte);
        let unknown = cycles_per_byte.is_none().then(|| format!("no cycles: {}", self.tsc.origin));
        let reason = match (note, unknown) {
            (Some(note), Some(unknown)) => Some(format!("{note}; {unknown}")),
            (note, unknown) => note.map(str::to_owned).or(unknown),
        };
        let cost = StageCost { ns_per_byte: Some(ns_per_byte), cycles_per_byte, source, reason };
        self.stages.insert(name.to_owned(), cost);
    }

    fn absent(&mut self, name: &str, source: Source, reason: &str) {
        let reason = Some(reason.to_owned());
        let cost = StageCost { ns_per_byte: None, cycles_per_byte: None, source, reason };
        self.stages.insert(name.to_owned(), cost);
    }

    fn put_or(&mut self, name: &str, ns: Option<f64>, source: Source, reason: &str) {
        match ns {
            Some(ns) => self.put(name, ns, source, None),
            None => self.absent(name, source, reason),
        }
    }
}

/// Every stage of one end, and the processor time per flow octet that they are to explain
fn of(
    side: SideName,
    ends: &Ends<'_>,
    bytes: u64,
    calibration: Option<Calibration>,
    tsc: &Tsc,
) -> (Stages, f64) {
    let clocks = Clocks::of(ends);
    let mut sheet = Sheet { bytes: bytes as f64, tsc, stages: Stages::new(), explained_ns: 0.0 };
    match side {
        SideName::Sender => sender(&mut sheet, &clocks, calibration),
        SideName::Receiver => receiver(&mut sheet, &clocks, calibration),
    }
    sheet.put_or(
        "kernel",
        clocks.is_ring.then_some(clocks.kernel),
        Source::Accounts,
        KERNEL_WITHIN,
    );
    sheet.put("application", clocks.application, Source::Accounts, None);
    let rest = clocks.busy - sheet.explained_ns;
    sheet.put("unattributed", rest, Source::Remainder, None);
    (sheet.stages, clocks.busy / bytes as f64)
}

fn sender(sheet: &mut Sheet<'_>, clocks: &Clocks, calibration: Option<Calibration>) {
    let fine = clocks.is_fine();
    let seal = calibration.map(|one| one.seal_ns * clocks.data_sent);
    let mask = calibration.map(|one| one.mask_ns[0] * clocks.data_sent);
    let produce = clocks.transport_in + clocks.services;
    if fine {
        sheet.put("produce", produce - clocks.stream_send, Source::Clock, None);
        sheet.put("stream_send", clocks.stream_send, Source::Clock, None);
        // What comes back to a sender is acknowledgements, of packets and of flows.
        sheet.put("ack", clocks.receive + clocks.send_ack, Source::Clock, None);
        let queueing = clocks.transport_out - clocks.send_data - clocks.send_ack;
        sheet.put("submit", queueing, Source::Clock, None);
    } else {
        sheet.put("produce", produce, Source::Clock, Some("contains stream_send"));
        sheet.absent("stream_send", Source::Clock, CLOCK_OFF);
        sheet.put("ack", clocks.receive, Source::Clock, None);
        sheet.absent("submit", Source::Clock, CLOCK_OFF);
    }
    let (sending, coarse) = if fine {
        (clocks.send_data, None)
    } else {
        (clocks.transport_out, Some("contains submit"))
    };
    let protected = seal.unwrap_or(0.0) + mask.unwrap_or(0.0);
    let note = if seal.is_none() { Some(NOT_TAKEN_OUT) } else { coarse };
    sheet.put("packetise", sending - protected, Source::Clock, note);
    sheet.put_or("seal", seal, Source::Calibrated, NOT_CALIBRATED);
    sheet.put_or("header_protection", mask, Source::Calibrated, NOT_CALIBRATED);
}

fn receiver(sheet: &mut Sheet<'_>, clocks: &Clocks, calibration: Option<Calibration>) {
    let fine = clocks.is_fine();
    let open = calibration.map(|one| one.open_ns * clocks.data_received);
    let mask = calibration.map(|one| one.mask_ns[1] * clocks.data_received);
    let quic = clocks.receive_data + clocks.receive_ack;
    let deliver = clocks.transport_in + clocks.services;
    if fine {
        sheet.put("receive", clocks.receive - clocks.datagram_in, Source::Clock, None);
        sheet.put("split", clocks.datagram_in - quic, Source::Clock, None);
        sheet.put("reassemble", clocks.stream_receive, Source::Clock, None);
        sheet.put("deliver", deliver - clocks.stream_receive, Source::Clock, None);
        sheet.put("ack", clocks.send_ack + clocks.send_data, Source::Clock, None);
        let queueing = clocks.transport_out - clocks.send_data - clocks.send_ack;
        sheet.put("submit", queueing, Source::Clock, None);
    } else {
        for name in ["receive", "split", "reassemble", "submit"] {
            sheet.absent(name, Source::Clock, CLOCK_OFF);
        }
        sheet.put("deliver", deliver, Source::Clock, Some("contains reassemble"));
        sheet.put("ack", clocks.transport_out, Source::Clock, Some("contains submit"));
    }
    let (parsing, coarse) =
        if fine { (quic, None) } else { (clocks.receive, Some("contains receive and split")) };
    let protected = open.unwrap_or(0.0) + mask.unwrap_or(0.0);
    let note = if open.is_none() { Some(NOT_TAKEN_OUT) } else { coarse };
    sheet.put("parse", parsing - protected, Source::Clock, note);
    sheet.put_or("open", open, Source::Calibrated, NOT_CALIBRATED);
    sheet.put_or("header_protection", mask, Source::Calibrated, NOT_CALIBRATED);
}

/// What the sending and the receiving end spent per flow octet, by stage and in all
pub struct Costs {
    stages: [Stages; 2],
    busy_ns: [f64; 2],
}

const SIDES: [SideName; 2] = [SideName::Sender, SideName::Receiver];

impl Costs {
    pub(super) fn of(
        ends: [&Ends<'_>; 2],
        bytes: u64,
        calibration: Option<Calibration>,
        tsc: &Tsc,
    ) -> Self {
        let [sender, receiver] = ends;
        let sender = of(SideName::Sender, sender, bytes, calibration, tsc);
        let receiver = of(SideName::Receiver, receiver, bytes, calibration, tsc);
        Self { stages: [sender.0, receiver.0], busy_ns: [sender.1, receiver.1] }
    }

    /// The dearest stage of the busier end
    pub fn binding_stage(&self) -> String {
        let busier = usize::from(self.busy_ns[1] > self.busy_ns[0]);
        let (side, stages) = (SIDES[busier].label(), &self.stages[busier]);
        let explained = stages.iter().filter(|(name, _)| *name != "unattributed");
        let known = explained.filter_map(|(name, stage)| Some((name, stage.ns_per_byte?)));
        let dearest = known.max_by(|a, b| a.1.total_cmp(&b.1));
        dearest.map_or_else(|| side.to_owned(), |(name, _)| format!("{side}.{name}"))
    }

    /// A figure made of each end's processor time, where it can be made
    pub fn by_end(&self, figure: impl Fn(f64) -> Option<f64>) -> BTreeMap<String, f64> {
        let ends = SIDES.into_iter().zip(self.busy_ns);
        ends.filter_map(|(side, busy)| Some((side.label().to_owned(), figure(busy)?))).collect()
    }

    /// Every stage of both ends
    pub fn stages_by_end(&self) -> BTreeMap<String, Stages> {
        SIDES.map(|side| side.label().to_owned()).into_iter().zip(self.stages.clone()).collect()
    }
}

/// Why instructions per octet are absent
pub(super) fn why_no_instructions() -> String {
    let counters = std::path::Path::new("/sys/bus/event_source/devices/cpu").exists();
    let reason = if counters {
        "not counted here: run both ends under `perf stat -e instructions`"
    } else {
        "this host offers no hardware counters (no cpu in /sys/bus/event_source/devices)"
    };
    reason.to_owned()
}

#[cfg(test)]
#[path = "cost_tests.rs"]
mod tests;
