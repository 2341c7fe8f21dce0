//! Workers and listeners: where the data plane runs and what it counted.

use std::collections::BTreeMap;
use std::net::SocketAddrV6;

use serde::{Deserialize, Serialize};
use stoq_interface::{
    DropReason, FlowError, ListenerStatus, PeerRefusal, STAGES, WorkerCounters, WorkerStatus,
};

/// One worker
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Worker {
    /// Index, as in connection IDs
    pub index: usize,
    /// Processor the thread is bound to
    pub core: Option<usize>,
    /// NUMA node of its memory
    pub numa_node: Option<usize>,
    /// `io_uring` or `system_calls`
    pub io: String,
    /// Why io_uring is not in use, where it is not
    pub io_fallback: Option<String>,
    /// Segments one send carries at most
    pub gso_segments: usize,
    /// Whether receives merge segments
    pub gro: bool,
    /// Whether zero-copy sends are in use
    pub zero_copy: bool,
    /// Page size of the arena
    pub page_bytes: usize,
    /// Socket receive buffer as the kernel granted it
    pub receive_buffer_bytes: usize,
}

impl From<&WorkerStatus> for Worker {
    fn from(status: &WorkerStatus) -> Self {
        Self {
            index: status.index,
            core: status.core,
            numa_node: status.node,
            io: status.io.label().to_owned(),
            io_fallback: status.io_fallback.clone(),
            gso_segments: status.gso_segments,
            gro: status.gro,
            zero_copy: status.zero_copy,
            page_bytes: status.page_bytes,
            receive_buffer_bytes: status.receive_buffer_bytes,
        }
    }
}

/// Asks for [`WorkerListed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerList {}

/// The workers
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WorkerListed {
    /// By index
    pub workers: Vec<Worker>,
}

/// Asks for [`WorkerShown`]
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerShow {
    /// Its index
    pub index: usize,
}

/// One worker with everything it counts
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct WorkerShown {
    /// The worker
    pub worker: Worker,
    /// Plain counters by name
    pub counters: BTreeMap<String, u64>,
    /// Datagrams dropped, by cause
    pub dropped: BTreeMap<String, u64>,
    /// Peers refused, by reason
    pub refused: BTreeMap<String, u64>,
    /// Flows that ended early, by cause
    pub flow_errors: BTreeMap<String, u64>,
    /// Time per stage of the loop
    pub stage_seconds: BTreeMap<String, f64>,
}

impl WorkerShown {
    /// Puts a worker's placement and counters together
    pub fn new(status: &WorkerStatus, counters: &WorkerCounters) -> Self {
        Self {
            worker: Worker::from(status),
            counters: counters
                .entries()
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            dropped: DropReason::ALL
                .iter()
                .zip(&counters.dropped)
                .map(|(reason, counter)| (reason.label().to_owned(), counter.get()))
                .collect(),
            refused: PeerRefusal::ALL
                .iter()
                .zip(&counters.refused)
                .map(|(reason, counter)| (reason.label().to_owned(), counter.get()))
                .collect(),
            flow_errors: FlowError::ALL
                .iter()
                .zip(&counters.flow_errors)
                .map(|(reason, counter)| (reason.label().to_owned(), counter.get()))
                .collect(),
            stage_seconds: STAGES
                .iter()
                .zip(&counters.stage_ns)
                .map(|(stage, counter)| ((*stage).to_owned(), counter.get() as f64 / 1e9))
                .collect(),
        }
    }
}

/// One bound address
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Listener {
    /// The address
    pub address: SocketAddrV6,
    /// Sockets in the reuseport group
    pub sockets: usize,
    /// Whether the steering program is attached
    pub steered: bool,
}

impl From<&ListenerStatus> for Listener {
    fn from(status: &ListenerStatus) -> Self {
        Self { address: status.address, sockets: status.sockets, steered: status.steered }
    }
}

/// Asks for [`ListenerListed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerList {}

/// Bound addresses
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ListenerListed {
    /// In the order they were bound
    pub listeners: Vec<Listener>,
}
