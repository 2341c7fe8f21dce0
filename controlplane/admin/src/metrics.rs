//! `/metrics`: the workers' counters and a few facts about the node as Prometheus text. Declares every
//! metric once; reads the counters only when scraped, so the data plane pays nothing.

mod names;

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};
use stoq_interface::{
    Counter, DropReason, FlowError, KEY_PACKETS, PeerRefusal, STAGES, WorkerCounters,
};
use thiserror::Error;

use names::Kind::{Counts, Level};
use names::{DROPPED, FLOWS_FAILED, KEY_USED, REFUSED, ROTATION, STAGE, TABLES, WORKER};

/// Why metrics cannot be rendered: a mistake in this file, never in the input
#[derive(Debug, Error)]
#[error("cannot render the metrics: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// What is true of the node as a whole when it is scraped
#[derive(Clone, Debug, Default)]
pub struct NodeGauges {
    /// Whether the node is ready
    pub ready: bool,
    /// Whether the node drains
    pub draining: bool,
    /// Epoch of the snapshot in force
    pub epoch: u64,
    /// End of the certificate's validity, seconds since 1970; nothing without a certificate
    pub certificate_not_after_seconds: Option<f64>,
    /// Start of the process, seconds since 1970
    pub started_at_seconds: f64,
    /// Version of `stoqd`
    pub version: String,
    /// What the control plane has to say
    pub control: ControlGauges,
}

/// What the node's control plane counts and knows when it is scraped
#[derive(Clone, Debug, Default)]
pub struct ControlGauges {
    /// Every event of the rotation of the node's certificate, and how often it happened since the start
    pub rotation_events: Vec<(&'static str, u64)>,
    /// Connections watched for the end of a certificate
    pub rotation_connections: usize,
    /// How recent the deny-lists are; nothing where none is followed
    pub deny_list: Option<DenyListGauges>,
    /// The validators' agreement; nothing where this node takes no part
    pub consensus: Option<ConsensusGauges>,
}

/// How the validators' agreement stands, as this node sees it
#[derive(Clone, Copy, Debug, Default)]
pub struct ConsensusGauges {
    /// Whether anything is agreed on at the moment
    pub agreeing: bool,
    /// The last final block
    pub height: u64,
    /// Of the next block
    pub epoch: u64,
    /// Operations that wait for a block
    pub waiting: usize,
    /// Registered assets
    pub assets: usize,
    /// Validators with evidence against them on record
    pub evidence: usize,
    /// Frames put into a queue, dropped because it was full, dropped because nobody is reached, received
    pub frames: [u64; 4],
    /// Flows of validators that were refused
    pub refused_flows: u64,
}

/// How recent the deny-lists are that the node goes by
#[derive(Clone, Copy, Debug)]
pub struct DenyListGauges {
    /// Until when, seconds since 1970; zero where one is missing
    pub recent_until_seconds: f64,
    /// Whether that is past
    pub too_old: bool,
    /// Whether new connections are refused while it is
    pub fail_closed: bool,
}

/// Renders everything as Prometheus text (exposition format 0.0.4)
pub fn render(node: &NodeGauges, workers: &[Arc<WorkerCounters>]) -> Result<String, MetricsError> {
    let registry = Registry::new();
    registry.register(Box::new(WorkerCollector::new(workers)?))?;
    register_node(&registry, node)?;
    let mut text = String::with_capacity(64 << 10);
    TextEncoder::new().encode_utf8(&registry.gather(), &mut text)?;
    Ok(text)
}

fn register_node(registry: &Registry, node: &NodeGauges) -> Result<(), prometheus::Error> {
    let mut facts = vec![
        ("stoq_node_ready", "Whether the node is ready", f64::from(u8::from(node.ready))),
        ("stoq_node_draining", "Whether the node drains", f64::from(u8::from(node.draining))),
        ("stoq_node_snapshot_epoch", "Epoch of the snapshot in force", node.epoch as f64),
        (
            "stoq_node_start_timestamp_seconds",
            "Start of the process, seconds since 1970",
            node.started_at_seconds,
        ),
    ];
    if let Some(end) = node.certificate_not_after_seconds {
        facts.push((
            "stoq_node_certificate_expiry_timestamp_seconds",
            "End of the certificate's validity, seconds since 1970",
            end,
        ));
    }
    facts.push((
        "stoq_node_rotation_connections",
        "Connections watched for the end of a certificate",
        node.control.rotation_connections as f64,
    ));
    if let Some(list) = node.control.deny_list {
        facts.extend(deny_list_facts(list));
    }
    if let Some(consensus) = node.control.consensus {
        facts.extend(consensus_facts(consensus));
    }
    for (name, help, value) in facts {
        let gauge = prometheus::Gauge::new(name, help)?;
        gauge.set(value);
        registry.register(Box::new(gauge))?;
    }
    let build = GaugeVec::new(Opts::new("stoq_node_build_info", "What runs"), &["version"])?;
    build.with_label_values(&[node.version.as_str()]).set(1.0);
    registry.register(Box::new(build))?;
    let events = IntCounterVec::new(Opts::new(ROTATION.0, ROTATION.1), &["event"])?;
    for (event, count) in &node.control.rotation_events {
        events.with_label_values(&[*event]).inc_by(*count);
    }
    registry.register(Box::new(events))?;
    match node.control.consensus {
        Some(consensus) => register_frames(registry, &consensus),
        None => Ok(()),
    }
}

fn register_frames(
    registry: &Registry,
    consensus: &ConsensusGauges,
) -> Result<(), prometheus::Error> {
    let name = "stoq_consensus_frames_total";
    let help = "Frames between validators, by what became of them";
    let frames = IntCounterVec::new(Opts::new(name, help), &["outcome"])?;
    let outcomes = ["queued", "full", "unreachable", "received"];
    for (outcome, count) in outcomes.iter().zip(consensus.frames) {
        frames.with_label_values(&[*outcome]).inc_by(count);
    }
    registry.register(Box::new(frames))?;
    let name = "stoq_consensus_flows_refused_total";
    let help =
        "Flows of validators that were refused: another network, or a key that is not the node's";
    let refused = prometheus::IntCounter::new(name, help)?;
    refused.inc_by(consensus.refused_flows);
    registry.register(Box::new(refused))
}

fn consensus_facts(consensus: ConsensusGauges) -> [(&'static str, &'static str, f64); 6] {
    [
        (
            "stoq_consensus_agreeing",
            "Whether anything is agreed on at the moment",
            f64::from(u8::from(consensus.agreeing)),
        ),
        ("stoq_consensus_height", "The last final block", consensus.height as f64),
        ("stoq_consensus_epoch", "The epoch of the next block", consensus.epoch as f64),
        (
            "stoq_consensus_operations_waiting",
            "Operations that wait for a block",
            consensus.waiting as f64,
        ),
        ("stoq_consensus_assets", "Registered assets", consensus.assets as f64),
        (
            "stoq_consensus_evidence",
            "Pieces of evidence against validators that are on record",
            consensus.evidence as f64,
        ),
    ]
}

fn deny_list_facts(list: DenyListGauges) -> [(&'static str, &'static str, f64); 3] {
    let flag = |set: bool| f64::from(u8::from(set));
    [
        (
            "stoq_node_deny_list_recent_until_timestamp_seconds",
            "Until when the deny-lists are recent, seconds since 1970; zero where one is missing",
            list.recent_until_seconds,
        ),
        (
            "stoq_node_deny_list_too_old",
            "Whether a deny-list is missing or too old to go by",
            flag(list.too_old),
        ),
        (
            "stoq_node_deny_list_fail_closed",
            "Whether new connections are refused while a deny-list is too old",
            flag(list.fail_closed),
        ),
    ]
}

/// The counters of all workers, as they are at the moment of the scrape
struct WorkerCollector {
    families: Vec<Box<dyn Collector>>,
}

impl WorkerCollector {
    fn new(workers: &[Arc<WorkerCounters>]) -> Result<Self, prometheus::Error> {
        let mut families = plain_families(workers)?;
        let drops: Vec<_> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
        let refusals: Vec<_> = PeerRefusal::ALL.iter().map(|reason| reason.label()).collect();
        let failures: Vec<_> = FlowError::ALL.iter().map(|reason| reason.label()).collect();
        for (metric, label, values, field) in [
            (
                DROPPED,
                "cause",
                drops,
                (|w| w.dropped.as_slice()) as fn(&WorkerCounters) -> &[Counter],
            ),
            (REFUSED, "reason", refusals, |w| w.refused.as_slice()),
            (FLOWS_FAILED, "cause", failures, |w| w.flow_errors.as_slice()),
        ] {
            let family = IntCounterVec::new(Opts::new(metric.0, metric.1), &["worker", label])?;
            for (index, worker) in workers.iter().enumerate() {
                for (value, counter) in values.iter().zip(field(worker)) {
                    let labels = [index.to_string(), (*value).to_owned()];
                    family.with_label_values(&labels).inc_by(counter.get());
                }
            }
            families.push(Box::new(family));
        }
        families.push(Box::new(stage_family(workers)?));
        for table in TABLES {
            families.push(Box::new(table_family(table, workers)?));
        }
        families.push(Box::new(key_family(workers)?));
        Ok(Self { families })
    }
}

fn plain_families(
    workers: &[Arc<WorkerCounters>],
) -> Result<Vec<Box<dyn Collector>>, prometheus::Error> {
    let values: Vec<Vec<(&str, u64)>> = workers.iter().map(|worker| worker.entries()).collect();
    let mut families: Vec<Box<dyn Collector>> = Vec::with_capacity(WORKER.len() + 4);
    for (field, name, kind, help) in WORKER {
        let of_worker = |entries: &Vec<(&str, u64)>| {
            entries.iter().find(|(entry, _)| entry == field).map(|(_, value)| *value)
        };
        let counters = IntCounterVec::new(Opts::new(*name, *help), &["worker"])?;
        let levels = GaugeVec::new(Opts::new(*name, *help), &["worker"])?;
        for (index, entries) in values.iter().enumerate() {
            let Some(value) = of_worker(entries) else { continue };
            let labels = [index.to_string()];
            match kind {
                Counts => counters.with_label_values(&labels).inc_by(value),
                Level => levels.with_label_values(&labels).set(value as f64),
            }
        }
        families.push(if *kind == Counts { Box::new(counters) } else { Box::new(levels) });
    }
    Ok(families)
}

fn stage_family(workers: &[Arc<WorkerCounters>]) -> Result<CounterVec, prometheus::Error> {
    let family = CounterVec::new(Opts::new(STAGE.0, STAGE.1), &["worker", "stage"])?;
    for (index, worker) in workers.iter().enumerate() {
        for (stage, counter) in STAGES.iter().zip(&worker.stage_ns) {
            let labels = [index.to_string(), (*stage).to_owned()];
            family.with_label_values(&labels).inc_by(counter.get() as f64 / 1e9);
        }
    }
    Ok(family)
}

fn table_family(
    (field, name, label, help): &(&str, &str, &str, &str),
    workers: &[Arc<WorkerCounters>],
) -> Result<IntCounterVec, prometheus::Error> {
    let family = IntCounterVec::new(Opts::new(*name, *help), &["worker", label])?;
    for (index, worker) in workers.iter().enumerate() {
        let tables = worker.tables().into_iter().filter(|(table, _)| table == field);
        for (value, count) in tables.flat_map(|(_, values)| values) {
            let labels = [index.to_string(), value.to_owned()];
            family.with_label_values(&labels).inc_by(count);
        }
    }
    Ok(family)
}

fn key_family(workers: &[Arc<WorkerCounters>]) -> Result<GaugeVec, prometheus::Error> {
    let family = GaugeVec::new(Opts::new(KEY_USED.0, KEY_USED.1), &["worker"])?;
    for (index, worker) in workers.iter().enumerate() {
        let share = worker.packets_per_key_most.get() as f64 / KEY_PACKETS as f64;
        family.with_label_values(&[index.to_string()]).set(share);
    }
    Ok(family)
}

impl Collector for WorkerCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.families.iter().flat_map(|family| family.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.families.iter().flat_map(|family| family.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use stoq_interface::TrainEnd;

    use super::*;

    #[test]
    fn every_counter_of_a_worker_has_exactly_one_metric() {
        let entries = WorkerCounters::default().entries();
        let fields: BTreeSet<_> = entries.iter().map(|(name, _)| *name).collect();
        let declared: BTreeSet<_> = WORKER.iter().map(|(field, ..)| *field).collect();
        assert_eq!(fields, declared);
        let names: BTreeSet<_> = WORKER.iter().map(|(_, name, ..)| *name).collect();
        assert_eq!(names.len(), WORKER.len());
        for (_, name, kind, _) in WORKER {
            assert_eq!(name.ends_with("_total"), *kind == Counts, "{name}");
            assert!(name.starts_with("stoq_worker_"), "{name}");
        }
    }

    #[test]
    fn values_causes_and_stages_reach_the_text() {
        let workers = [Arc::new(WorkerCounters::default()), Arc::new(WorkerCounters::default())];
        workers[1].bytes_sent.add(1_452);
        workers[1].connections_open.set(3);
        workers[0].dropped[DropReason::BadToken.index()].add(7);
        workers[0].refused[PeerRefusal::Expired.index()].add(2);
        workers[0].flow_errors[FlowError::Busy.index()].add(5);
        workers[1].stage_ns[0].add(1_500_000_000);
        workers[0].trains_sent_by_length[3].add(4);
        workers[1].train_ends[TrainEnd::CongestionWindow.index()].add(6);
        workers[1].packets_per_key_most.set(KEY_PACKETS / 4);
        let node = NodeGauges {
            ready: true,
            certificate_not_after_seconds: Some(1_700_000_000.0),
            version: "1.2.3".into(),
            control: ControlGauges {
                rotation_events: vec![("activated", 3), ("failed", 0)],
                rotation_connections: 4,
                deny_list: Some(DenyListGauges {
                    recent_until_seconds: 1_700_000_900.0,
                    too_old: true,
                    fail_closed: false,
                }),
                consensus: Some(ConsensusGauges {
                    agreeing: true,
                    height: 8_200,
                    frames: [10, 1, 2, 9],
                    refused_flows: 3,
                    ..ConsensusGauges::default()
                }),
            },
            ..NodeGauges::default()
        };
        let text = render(&node, &workers).unwrap();
        for line in [
            "stoq_worker_datagrams_sent_bytes_total{worker=\"1\"} 1452",
            "stoq_worker_connections_open{worker=\"1\"} 3",
            "stoq_worker_datagrams_dropped_total{cause=\"bad_token\",worker=\"0\"} 7",
            "stoq_worker_peers_refused_total{reason=\"expired\",worker=\"0\"} 2",
            "stoq_worker_flows_failed_total{cause=\"busy\",worker=\"0\"} 5",
            "stoq_worker_stage_seconds_total{stage=\"receive\",worker=\"1\"} 1.5",
            "stoq_worker_trains_sent_by_length_total{datagrams=\"8-15\",worker=\"0\"} 4",
            "stoq_worker_trains_received_by_length_total{datagrams=\"64+\",worker=\"1\"} 0",
            "stoq_worker_trains_ended_total{reason=\"congestion_window\",worker=\"1\"} 6",
            "stoq_worker_packets_per_key{worker=\"1\"} 2097152",
            "stoq_worker_key_used_ratio{worker=\"1\"} 0.25",
            "stoq_node_ready 1",
            "stoq_node_certificate_expiry_timestamp_seconds 1700000000",
            "stoq_node_build_info{version=\"1.2.3\"} 1",
            "stoq_node_rotation_events_total{event=\"activated\"} 3",
            "stoq_node_rotation_events_total{event=\"failed\"} 0",
            "stoq_node_rotation_connections 4",
            "stoq_consensus_agreeing 1",
            "stoq_consensus_height 8200",
            "stoq_consensus_frames_total{outcome=\"unreachable\"} 2",
            "stoq_consensus_flows_refused_total 3",
            "stoq_node_deny_list_recent_until_timestamp_seconds 1700000900",
            "stoq_node_deny_list_too_old 1",
            "stoq_node_deny_list_fail_closed 0",
        ] {
            assert!(text.lines().any(|found| found == line), "missing: {line}\n{text}");
        }
    }

    #[test]
    fn a_node_without_workers_still_renders() {
        let text = render(&NodeGauges::default(), &[]).unwrap();
        assert!(text.contains("stoq_node_ready 0"));
        assert!(!text.contains("certificate_expiry") && !text.contains("deny_list"));
    }
}
