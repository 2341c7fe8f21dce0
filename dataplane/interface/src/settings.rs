//! What the data plane may use and how it behaves: every limit by name, every transport knob, with the
//! defaults that `stoqd.toml` documents.

use std::time::Duration;

/// Congestion control algorithm of a path
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum CongestionControl {
    /// RFC 9438, without HyStart++
    #[default]
    Cubic,
    /// BBR version 2; wants pacing
    Bbr2,
    /// RFC 9002 NewReno
    Reno,
}

/// Every bound on what a peer or a local program can make this host hold
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Connections one worker holds, established or not
    pub connections_per_worker: usize,
    /// Connections one worker holds whose handshake has not finished
    pub half_open_per_worker: usize,
    /// Half-open connections from one /64 prefix
    pub half_open_per_prefix: usize,
    /// Half-open connections above which a Retry is demanded (RFC 9000 section 8.1.2)
    pub retry_above_half_open: usize,
    /// Flows of one session, both directions of opening together
    pub flows_per_session: usize,
    /// Sessions one worker is home of
    pub sessions_per_worker: usize,
    /// Connections of one session
    pub connections_per_session: usize,
    /// Calls in progress on one connection, per direction
    pub calls_per_connection: usize,
    /// Size of a call's request or reply body
    pub call_body_bytes: usize,
    /// Bytes of a flow that may arrive before the local program reads, at the start
    pub flow_window_initial_bytes: u64,
    /// The same, after the window has grown with the reader's speed
    pub flow_window_bytes: u64,
    /// Bytes all flows of a session may hold unread; windows stop growing beyond it
    pub session_buffer_bytes: u64,
    /// Separate out-of-order pieces one flow may hold
    pub flow_fragments: usize,
    /// Bytes of one control frame
    pub control_frame_bytes: usize,
    /// New flows waiting for their service to take them, per service
    pub accept_backlog: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_worker: 65_536,
            half_open_per_worker: 4_096,
            half_open_per_prefix: 512,
            retry_above_half_open: 256,
            flows_per_session: 32_768,
            sessions_per_worker: 16_384,
            connections_per_session: 128,
            calls_per_connection: 256,
            call_body_bytes: 1 << 20,
            flow_window_initial_bytes: 64 << 10,
            flow_window_bytes: 8 << 20,
            session_buffer_bytes: 256 << 20,
            flow_fragments: 16_384,
            control_frame_bytes: 4_096,
            accept_backlog: 4_096,
        }
    }
}

/// How connections behave; a change takes effect for connections made after it
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TransportSettings {
    /// Largest UDP payload sent: 1,200 to 16,383 octets (quiche caps a packet there)
    pub max_udp_payload_bytes: usize,
    /// Probe the path up to `max_udp_payload_bytes` instead of trusting it from the start
    pub discover_path_mtu: bool,
    /// Congestion control
    pub congestion_control: CongestionControl,
    /// Spread sends over the round trip; needed on real paths, costs train length on clean ones
    pub pacing: bool,
    /// Initial congestion window in packets
    pub initial_window_packets: usize,
    /// Round-trip time assumed before the first measurement
    pub initial_rtt: Duration,
    /// Silence after which a connection ends
    pub idle_timeout: Duration,
    /// Interval of keep-alive pings on an otherwise silent connection; below `idle_timeout`
    pub keep_alive: Duration,
    /// Time a handshake may take
    pub handshake_timeout: Duration,
    /// Whether the post-quantum key exchange X25519MLKEM768 is offered and preferred; without it X25519 is
    pub post_quantum: bool,
    /// Connection-level flow control window
    pub connection_window_bytes: u64,
    /// Stream-level flow control window
    pub stream_window_bytes: u64,
    /// Packets per key and direction at which a connection is replaced: 7/8 of 2^23
    /// (RFC 9001 section 6.6 allows 2^23; quiche neither counts nor updates keys)
    pub replace_after_packets: u64,
    /// Time a replaced or drained connection gets to finish what is under way
    pub drain_timeout: Duration,
    /// Time a session survives without any connection
    pub session_linger: Duration,
    /// Bytes a flow must have queued before it is striped over further connections
    pub stripe_above_bytes: u64,
    /// Connections a session grows to when a flow is striped; 0 means one per worker
    pub stripe_connections: usize,
    /// Whether the `perf` protocol (draft-banks-quic-performance-00) is answered
    pub perf: bool,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            max_udp_payload_bytes: 1_452,
            discover_path_mtu: false,
            congestion_control: CongestionControl::Cubic,
            pacing: false,
            initial_window_packets: 256,
            initial_rtt: Duration::from_millis(100),
            idle_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            post_quantum: true,
            connection_window_bytes: 24 << 20,
            stream_window_bytes: 8 << 20,
            replace_after_packets: (1 << 23) / 8 * 7,
            drain_timeout: Duration::from_secs(10),
            session_linger: Duration::from_secs(30),
            stripe_above_bytes: 4 << 20,
            stripe_connections: 0,
            perf: false,
        }
    }
}
