//! The node as a whole: `status`, `version`, `drain`.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use stoq_interface::{NodeId, WorkerCounters};

use super::{Certificate, Listener, Worker};
use crate::text::{plain_option, timestamp};

/// Longest time a drain may take
pub const DRAIN_SECONDS_MAX: u64 = 3_600;

/// Asks for [`Status`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StatusShow {}

/// Something that keeps the node from being as it should
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Problem {
    /// Stable, kebab-case
    pub code: String,
    /// The cause, one sentence
    pub message: String,
    /// What to do
    pub remedy: String,
}

/// What all workers together have counted since the start
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Totals {
    /// Sessions now held
    pub sessions_open: u64,
    /// Connections now held
    pub connections_open: u64,
    /// Handshakes now under way
    pub half_open: u64,
    /// Flows now held
    pub flows_open: u64,
    /// UDP payload octets received
    pub bytes_received: u64,
    /// UDP payload octets sent
    pub bytes_sent: u64,
    /// Flow bytes delivered
    pub flow_bytes_received: u64,
    /// Flow bytes sent, first time only
    pub flow_bytes_sent: u64,
    /// UDP datagrams received
    pub datagrams_received: u64,
    /// UDP datagrams sent
    pub datagrams_sent: u64,
    /// Datagrams dropped, every cause together
    pub datagrams_dropped: u64,
    /// QUIC packets declared lost
    pub packets_lost: u64,
    /// Peers refused in the handshake, every reason together
    pub peers_refused: u64,
}

impl Totals {
    /// Adds up the workers
    pub fn of<'a>(workers: impl IntoIterator<Item = &'a WorkerCounters>) -> Self {
        let mut totals = Self::default();
        for worker in workers {
            for (total, counter) in [
                (&mut totals.sessions_open, &worker.sessions_open),
                (&mut totals.connections_open, &worker.connections_open),
                (&mut totals.half_open, &worker.half_open),
                (&mut totals.flows_open, &worker.flows_open),
                (&mut totals.bytes_received, &worker.bytes_received),
                (&mut totals.bytes_sent, &worker.bytes_sent),
                (&mut totals.flow_bytes_received, &worker.flow_bytes_received),
                (&mut totals.flow_bytes_sent, &worker.flow_bytes_sent),
                (&mut totals.datagrams_received, &worker.datagrams_received),
                (&mut totals.datagrams_sent, &worker.datagrams_sent),
                (&mut totals.packets_lost, &worker.packets_lost),
            ] {
                *total = total.wrapping_add(counter.get());
            }
            for (total, counters) in [
                (&mut totals.datagrams_dropped, worker.dropped.as_slice()),
                (&mut totals.peers_refused, worker.refused.as_slice()),
            ] {
                let sum = counters.iter().fold(0u64, |sum, one| sum.wrapping_add(one.get()));
                *total = total.wrapping_add(sum);
            }
        }
        totals
    }
}

/// The whole node
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    /// Whether every worker serves and a valid certificate is active
    pub ready: bool,
    /// Whether the node is finishing its work and takes no more
    pub draining: bool,
    /// Why it is not ready, and what else needs attention; worst first
    pub problems: Vec<Problem>,
    /// This node, once it has an identity
    #[serde(with = "plain_option")]
    pub node: Option<NodeId>,
    /// The certificate in use
    pub certificate: Option<Certificate>,
    /// Epoch of the snapshot in force
    pub epoch: u64,
    /// Version of `stoqd`
    pub version: String,
    /// Process
    pub pid: u32,
    /// Start of the process
    #[serde(with = "timestamp")]
    pub started_at: SystemTime,
    /// Bound addresses
    pub listeners: Vec<Listener>,
    /// Workers
    pub workers: Vec<Worker>,
    /// Services published here
    pub services_published: usize,
    /// Services of other nodes attached here
    pub services_attached: usize,
    /// Sums over all workers
    pub totals: Totals,
}

/// Asks for [`VersionShown`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VersionShow {}

/// What runs
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct VersionShown {
    /// Version of `stoqd`
    pub version: String,
    /// Commit it was built from, where the build knew
    pub commit: Option<String>,
    /// ALPN identifiers offered
    pub protocols: Vec<String>,
}

/// Asks the node to finish its work
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Time flows get to finish; at most [`DRAIN_SECONDS_MAX`]
    pub timeout_seconds: u64,
}

impl Drain {
    /// The time asked for and a margin to close what is left
    pub(super) fn patience_needed(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.min(DRAIN_SECONDS_MAX).saturating_add(10))
    }
}

/// How a drain ended
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Drained {
    /// Flows that had not finished when the time was up; zero is a clean end
    pub flows_cut: u64,
    /// Connections closed
    pub connections_closed: u64,
    /// Time it took
    pub seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_workers_and_causes() {
        let [one, two] = [WorkerCounters::default(), WorkerCounters::default()];
        one.bytes_sent.add(5);
        two.bytes_sent.add(7);
        one.dropped[0].add(1);
        two.dropped[3].add(2);
        two.refused[1].add(4);
        let totals = Totals::of([&one, &two]);
        assert_eq!((totals.bytes_sent, totals.datagrams_dropped, totals.peers_refused), (12, 3, 4));
    }
}
