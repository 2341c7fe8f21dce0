//! Every metric of a worker by name, and the families of the node, with its help line. Values and rendering are the parent's.

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Counts,
    Level,
}
use Kind::{Counts, Level};

/// Field of [`WorkerCounters`], metric, kind, help
pub(super) const WORKER: &[(&str, &str, Kind, &str)] = &[
    ("turns", "stoq_worker_loop_turns_total", Counts, "Turns of the loop"),
    ("sleeps", "stoq_worker_loop_sleeps_total", Counts, "Times the worker slept in the kernel"),
    ("system_calls", "stoq_worker_system_calls_total", Counts, "System calls of the I/O provider"),
    (
        "datagrams_received",
        "stoq_worker_datagrams_received_total",
        Counts,
        "UDP datagrams received",
    ),
    (
        "bytes_received",
        "stoq_worker_datagrams_received_bytes_total",
        Counts,
        "UDP payload received",
    ),
    ("trains_received", "stoq_worker_trains_received_total", Counts, "Receive completions"),
    ("datagrams_sent", "stoq_worker_datagrams_sent_total", Counts, "UDP datagrams sent"),
    ("bytes_sent", "stoq_worker_datagrams_sent_bytes_total", Counts, "UDP payload sent"),
    ("trains_sent", "stoq_worker_trains_sent_total", Counts, "Sends, each one train"),
    ("send_errors", "stoq_worker_sends_failed_total", Counts, "Sends that failed in the kernel"),
    ("zero_copy_sends", "stoq_worker_zero_copy_sends_total", Counts, "Zero-copy sends asked for"),
    (
        "zero_copy_copied",
        "stoq_worker_zero_copy_copied_total",
        Counts,
        "Zero-copy sends that the kernel copied all the same",
    ),
    (
        "buffers_exhausted",
        "stoq_worker_receive_buffers_exhausted_total",
        Counts,
        "Times the provided-buffer ring ran dry",
    ),
    (
        "socket_overflows",
        "stoq_worker_socket_overflowed_total",
        Counts,
        "Datagrams the kernel dropped because the socket's buffer was full",
    ),
    (
        "handed_over",
        "stoq_worker_datagrams_handed_over_total",
        Counts,
        "Datagrams passed to the worker that owns the connection",
    ),
    (
        "connections_accepted",
        "stoq_worker_connections_accepted_total",
        Counts,
        "Accepted connections whose handshake finished",
    ),
    (
        "connections_dialled",
        "stoq_worker_connections_dialled_total",
        Counts,
        "Dialled connections whose session was joined",
    ),
    (
        "connections_closed",
        "stoq_worker_connections_closed_total",
        Counts,
        "Connections that ended",
    ),
    ("connections_open", "stoq_worker_connections_open", Level, "Connections now held"),
    ("half_open", "stoq_worker_handshakes_open", Level, "Handshakes now under way"),
    ("retries_sent", "stoq_worker_retries_sent_total", Counts, "Retry packets sent"),
    ("versions_sent", "stoq_worker_versions_sent_total", Counts, "Version negotiations sent"),
    ("resets_sent", "stoq_worker_resets_sent_total", Counts, "Stateless resets sent"),
    (
        "replaced_for_packets",
        "stoq_worker_connections_replaced_for_packets_total",
        Counts,
        "Connections replaced because of the packet limit of a key",
    ),
    (
        "replaced_on_demand",
        "stoq_worker_connections_replaced_on_demand_total",
        Counts,
        "Connections replaced on demand or for a drain",
    ),
    ("sessions_open", "stoq_worker_sessions_open", Level, "Sessions now held"),
    ("flows_open", "stoq_worker_flows_open", Level, "Flows now held"),
    ("flows_opened", "stoq_worker_flows_opened_total", Counts, "Flows opened by local programs"),
    ("flows_accepted", "stoq_worker_flows_accepted_total", Counts, "Flows accepted from peers"),
    (
        "flow_bytes_sent",
        "stoq_worker_flows_sent_bytes_total",
        Counts,
        "Flow bytes sent for the first time",
    ),
    (
        "flow_bytes_resent",
        "stoq_worker_flows_resent_bytes_total",
        Counts,
        "Flow bytes sent again on another connection",
    ),
    (
        "flow_bytes_received",
        "stoq_worker_flows_received_bytes_total",
        Counts,
        "Flow bytes received in order",
    ),
    (
        "flow_bytes_duplicate",
        "stoq_worker_flows_duplicate_bytes_total",
        Counts,
        "Flow bytes received that were already there",
    ),
    ("calls_made", "stoq_worker_calls_made_total", Counts, "Calls made"),
    ("calls_answered", "stoq_worker_calls_answered_total", Counts, "Calls answered"),
    ("packets_lost", "stoq_worker_packets_lost_total", Counts, "QUIC packets declared lost"),
    (
        "packets_lost_spurious",
        "stoq_worker_packets_lost_spurious_total",
        Counts,
        "QUIC packets declared lost that arrived after all",
    ),
    (
        "stream_bytes_retransmitted",
        "stoq_worker_streams_retransmitted_bytes_total",
        Counts,
        "Stream bytes sent again because a packet was declared lost",
    ),
    (
        "packets_per_key_most",
        "stoq_worker_packets_per_key",
        Level,
        "Most packets that the keys of one connection have protected",
    ),
    (
        "small_datagrams_sent",
        "stoq_worker_small_datagrams_sent_total",
        Counts,
        "UDP datagrams sent that hold acknowledgements and control frames: at most 512 octets",
    ),
    (
        "small_datagrams_received",
        "stoq_worker_small_datagrams_received_total",
        Counts,
        "UDP datagrams received of at most 512 octets",
    ),
    (
        "trains_held_by_pacing",
        "stoq_worker_trains_held_by_pacing_total",
        Counts,
        "Times pacing held a connection back that had its turn",
    ),
    (
        "trains_held_by_pool",
        "stoq_worker_trains_held_by_pool_total",
        Counts,
        "Times no train was begun because every slab was in flight",
    ),
];

pub(super) const DROPPED: (&str, &str) =
    ("stoq_worker_datagrams_dropped_total", "Datagrams that went no further, by cause");
pub(super) const REFUSED: (&str, &str) =
    ("stoq_worker_peers_refused_total", "Peers refused in the handshake, by reason");
pub(super) const FLOWS_FAILED: (&str, &str) =
    ("stoq_worker_flows_failed_total", "Flows that ended early, by cause");
pub(super) const ROTATION: (&str, &str) = (
    "stoq_node_rotation_events_total",
    "What the rotation of the node's certificate did, by event",
);
pub(super) const STAGE: (&str, &str) =
    ("stoq_worker_stage_seconds_total", "Time spent in each stage of the loop");
pub(super) const KEY_USED: (&str, &str) = (
    "stoq_worker_key_used_ratio",
    "Greatest share of the packets one key may protect (RFC 9001 section 6.6) that a connection has used",
);
/// Table of [`WorkerCounters::tables`], metric, label, help. Transport time is not among them: its clock runs only
/// where somebody measures.
pub(super) const TABLES: &[(&str, &str, &str, &str)] = &[
    (
        "trains_sent_by_length",
        "stoq_worker_trains_sent_by_length_total",
        "datagrams",
        "Trains sent, by how many datagrams they hold",
    ),
    (
        "trains_received_by_length",
        "stoq_worker_trains_received_by_length_total",
        "datagrams",
        "Trains received, by how many datagrams they hold",
    ),
    (
        "train_ends",
        "stoq_worker_trains_ended_total",
        "reason",
        "Trains sent, by why they are not longer",
    ),
];
