//! What every peer does in the same way: the command line, the identity on standard input, the bytes and
//! their digest, the framing of draft-banks-quic-performance, the measured window and the JSON. Nothing here
//! knows a transport: that is each peer's own crate.

#![forbid(unsafe_code)]

pub mod command_line;
pub mod identity;
pub mod latency;
pub mod pattern;
pub mod perf;
pub mod place;
pub mod report;
pub mod run;
pub mod socket;
#[cfg(feature = "rustls")]
pub mod tls;
pub mod transport;

/// What went wrong, for the terminal: cause and remedy
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The protocol name of draft-banks-quic-performance
pub const ALPN: &[u8] = b"perf";
/// Flow control window of a stream, in octets, as the product's own: for stacks that do best with it
pub const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// Streams open at once: more than any rate of calls needs
pub const STREAMS_MAX: u32 = 65_536;
/// First congestion window, in packets: no run waits for slow start
pub const INITIAL_WINDOW_PACKETS: u32 = 1_000;
/// Idle time after which a connection is given up
pub const IDLE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(20);
