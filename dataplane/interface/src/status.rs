//! What a worker reports about its connections, sessions and flows when asked: plain values, filled in
//! by the data plane and rendered elsewhere.

use std::net::SocketAddrV6;
use std::time::{Duration, SystemTime};

use crate::NodeId;

/// How a worker reaches the kernel
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IoProvider {
    /// One io_uring per worker
    IoUring,
    /// `recvmmsg` and `sendmsg`, because the kernel refused io_uring
    SystemCalls,
}

impl IoProvider {
    /// The label used in status and JSON
    pub const fn label(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::SystemCalls => "system_calls",
        }
    }
}

/// One worker
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    /// Index, as in connection IDs
    pub index: usize,
    /// Processor the thread is bound to, if it is
    pub core: Option<usize>,
    /// NUMA node of its memory
    pub node: Option<usize>,
    /// I/O in use
    pub io: IoProvider,
    /// Why io_uring is not in use, where it is not
    pub io_fallback: Option<String>,
    /// Whether sends carry several segments (UDP_SEGMENT), and how many at most
    pub gso_segments: usize,
    /// Whether receives merge segments (UDP_GRO)
    pub gro: bool,
    /// Whether zero-copy sends are in use, decided by measurement
    pub zero_copy: bool,
    /// Page size of the arena in octets
    pub page_bytes: usize,
    /// Socket receive buffer as the kernel granted it
    pub receive_buffer_bytes: usize,
}

/// One bound address
#[derive(Clone, Debug)]
pub struct ListenerStatus {
    /// The address
    pub address: SocketAddrV6,
    /// Sockets in the reuseport group
    pub sockets: usize,
    /// Whether the steering program is attached
    pub steered: bool,
}

/// One QUIC connection
#[derive(Clone, Debug)]
pub struct ConnectionStatus {
    /// Identifier within this process: worker and sequence
    pub id: u64,
    /// Worker that owns it
    pub worker: usize,
    /// The peer's node, once authenticated
    pub peer: Option<NodeId>,
    /// Serial number of the peer's certificate, once authenticated: lower-case hexadecimal
    pub peer_serial: Option<String>,
    /// End of the peer's certificate, once authenticated
    pub peer_not_after: Option<SystemTime>,
    /// Session it serves
    pub session: Option<u64>,
    /// Peer address
    pub remote: SocketAddrV6,
    /// Whether this host dialled
    pub dialled: bool,
    /// `handshake`, `active`, `draining` or `closing`
    pub state: &'static str,
    /// Age
    pub age: Duration,
    /// Smoothed round-trip time
    pub rtt: Duration,
    /// Congestion window in octets
    pub congestion_window_bytes: u64,
    /// Largest UDP payload now sent
    pub udp_payload_bytes: usize,
    /// Packets sent and received on the present keys
    pub packets_sent: u64,
    /// Packets received
    pub packets_received: u64,
    /// Packets declared lost
    pub packets_lost: u64,
    /// Of those, found to have arrived
    pub packets_lost_spurious: u64,
    /// Octets sent, headers included
    pub bytes_sent: u64,
    /// Octets received
    pub bytes_received: u64,
    /// TLS key exchange group
    pub key_exchange: String,
    /// Snapshot epoch under which the connection was made
    pub epoch: u64,
}

/// One session
#[derive(Clone, Debug)]
pub struct SessionStatus {
    /// Identifier within this process: home worker and sequence
    pub id: u64,
    /// Home worker
    pub worker: usize,
    /// The peer's node
    pub peer: NodeId,
    /// Whether this host dialled
    pub dialled: bool,
    /// Connections now joined
    pub connections: usize,
    /// Flows now open
    pub flows: usize,
    /// Connections replaced so far
    pub replacements: u64,
    /// Connections lost so far without a replacement standing by
    pub losses: u64,
    /// Flow bytes sent, first time only
    pub bytes_sent: u64,
    /// Flow bytes delivered
    pub bytes_received: u64,
    /// Flow bytes sent again
    pub bytes_resent: u64,
}

/// One flow
#[derive(Clone, Debug)]
pub struct FlowStatus {
    /// Flow id within its session
    pub id: u64,
    /// Service it reaches
    pub service: String,
    /// Legs in use by this host's sending direction
    pub legs: usize,
    /// Bytes sent
    pub bytes_sent: u64,
    /// Bytes received in order
    pub bytes_received: u64,
}
