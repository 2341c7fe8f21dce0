//! How a scenario came out: what it went through, or why and in which state it failed, with the line that
//! repeats it.

use crate::network::FaultCounts;

/// Why a scenario failed
#[derive(Clone, Debug, thiserror::Error)]
#[error("seed {seed} failed: {reason}\n{state}repeat it with:\n  {}", repeat_line(*seed))]
pub struct Failure {
    /// The seed
    pub seed: u64,
    /// What went wrong
    pub reason: String,
    /// What hosts and flows looked like then
    pub state: String,
}

/// The command that runs one seed again
pub fn repeat_line(seed: u64) -> String {
    format!("cargo run --release -p stoq-simulation --bin simulate -- --seed {seed}")
}

/// What a scenario, or many, went through
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Scenarios
    pub scenarios: u64,
    /// Flows that ended as planned
    pub flows: u64,
    /// Of those, given up on purpose
    pub resets: u64,
    /// Bytes checked at their reader
    pub bytes: u64,
    /// Bytes sent again on another connection
    pub bytes_resent: u64,
    /// Connections replaced, as each side counts
    pub replacements: u64,
    /// Connections lost, as each side counts
    pub losses: u64,
    /// Connections black-holed
    pub kills: u64,
    /// Connections closed on demand
    pub closes: u64,
    /// Total outages
    pub outages: u64,
    /// Changes of the network's rate, delay and faults
    pub changes: u64,
    /// Dials that failed
    pub failed_dials: u64,
    /// Datagrams handed from worker to worker
    pub handed_over: u64,
    /// What the network did
    pub faults: FaultCounts,
}

impl Report {
    /// Adds another's figures
    pub fn add(&mut self, other: &Self) {
        self.scenarios += other.scenarios;
        self.flows += other.flows;
        self.resets += other.resets;
        self.bytes += other.bytes;
        self.bytes_resent += other.bytes_resent;
        self.replacements += other.replacements;
        self.losses += other.losses;
        self.kills += other.kills;
        self.closes += other.closes;
        self.outages += other.outages;
        self.changes += other.changes;
        self.failed_dials += other.failed_dials;
        self.handed_over += other.handed_over;
        self.faults.add(&other.faults);
    }
}
