//! What one worker counts. Only its worker writes; anyone reads. Relaxed atomics on a worker's own cache
//! lines: a counter costs an uncontended add and never a fence.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{DropReason, FlowError, PeerRefusal};

/// A number that only grows
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`; single writer, so a load and a store suffice
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// The value now
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces the value: for gauges kept in the same place
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// The stages of a worker's loop whose time is kept apart
pub const STAGES: [&str; 6] =
    ["receive", "transport_in", "services", "transport_out", "submit", "idle"];

/// Nanoseconds spent per stage of [`STAGES`]
pub type StageClock = [Counter; STAGES.len()];

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Everything one worker counts
        #[derive(Debug)]
        #[repr(align(128))]
        pub struct WorkerCounters {
            $($(#[$doc])* pub $name: Counter,)*
            /// Datagrams dropped, by [`DropReason::index`]
            pub dropped: [Counter; DropReason::ALL.len()],
            /// Peers refused in the handshake, by [`PeerRefusal::index`]
            pub refused: [Counter; PeerRefusal::ALL.len()],
            /// Flows that ended early, by [`FlowError::index`]
            pub flow_errors: [Counter; FlowError::ALL.len()],
            /// Time per stage of the loop
            pub stage_ns: StageClock,
        }

        impl Default for WorkerCounters {
            fn default() -> Self {
                Self {
                    $($name: Counter::default(),)*
                    dropped: std::array::from_fn(|_| Counter::default()),
                    refused: std::array::from_fn(|_| Counter::default()),
                    flow_errors: std::array::from_fn(|_| Counter::default()),
                    stage_ns: std::array::from_fn(|_| Counter::default()),
                }
            }
        }

        impl WorkerCounters {
            /// Name and value of every plain counter, for metrics and JSON
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Turns of the loop
    turns,
    /// Times the worker slept in the kernel
    sleeps,
    /// System calls made by the I/O provider
    system_calls,
    /// UDP datagrams received (segments, not trains)
    datagrams_received,
    /// UDP payload octets received
    bytes_received,
    /// Receive completions, each one train
    trains_received,
    /// UDP datagrams sent
    datagrams_sent,
    /// UDP payload octets sent
    bytes_sent,
    /// Sends, each one train
    trains_sent,
    /// Sends that failed in the kernel
    send_errors,
    /// Zero-copy sends, as asked for
    zero_copy_sends,
    /// Zero-copy sends that the kernel copied all the same
    zero_copy_copied,
    /// Times the provided-buffer ring ran dry and receive was re-armed
    buffers_exhausted,
    /// Datagrams the kernel dropped because the socket's buffer was full (SO_RXQ_OVFL)
    socket_overflows,
    /// Datagrams handed to the worker that owns the connection
    handed_over,
    /// Connections accepted whose handshake finished
    connections_accepted,
    /// Connections dialled whose session was joined
    connections_dialled,
    /// Connections that ended
    connections_closed,
    /// Connections now held
    connections_open,
    /// Handshakes now under way
    half_open,
    /// Retry packets sent
    retries_sent,
    /// Version negotiation packets sent
    versions_sent,
    /// Stateless resets sent
    resets_sent,
    /// Connections replaced because of the packet limit of a key
    replaced_for_packets,
    /// Connections replaced on demand or for a drain
    replaced_on_demand,
    /// Sessions now held
    sessions_open,
    /// Flows now held
    flows_open,
    /// Flows opened by local programs
    flows_opened,
    /// Flows accepted from peers
    flows_accepted,
    /// Flow bytes sent for the first time
    flow_bytes_sent,
    /// Flow bytes sent again on another connection
    flow_bytes_resent,
    /// Flow bytes received in order and handed on
    flow_bytes_received,
    /// Flow bytes received that were already there
    flow_bytes_duplicate,
    /// Calls made
    calls_made,
    /// Calls answered
    calls_answered,
    /// QUIC packets declared lost
    packets_lost,
    /// QUIC packets declared lost that arrived after all
    packets_lost_spurious,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_show_what_was_added() {
        let counters = WorkerCounters::default();
        counters.turns.add(2);
        counters.turns.add(3);
        assert!(counters.entries().contains(&("turns", 5)));
    }
}
