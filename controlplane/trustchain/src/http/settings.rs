//! How the HTTPS server behaves: every bound on what strangers can make it hold, by name.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

/// Bounds and times of the HTTPS server
#[derive(Clone, Debug)]
pub struct HttpsSettings {
    /// Address and TCP port; port 0 lets the kernel choose
    pub listen: SocketAddrV6,
    /// Addresses the server's certificate carries, for clients that dial an address and no name
    pub addresses: Vec<Ipv6Addr>,
    /// Connections at one time
    pub connections: usize,
    /// Of those, from one /64
    pub connections_per_prefix: usize,
    /// Time for the TLS handshake, and again for a request's head
    pub handshake_timeout: Duration,
    /// Time from a request's head to its answer
    pub exchange_timeout: Duration,
    /// Time a connection may serve requests; one under way then is still answered
    pub connection_lifetime: Duration,
    /// Refused requests of one /64 within the window, after which it has to wait
    pub failures_per_prefix: usize,
    /// The window
    pub failure_window: Duration,
}

impl HttpsSettings {
    /// The defaults for an address, which the server's certificate carries unless it stands for all
    pub fn new(listen: SocketAddrV6) -> Self {
        let addresses = if listen.ip().is_unspecified() { Vec::new() } else { vec![*listen.ip()] };
        Self {
            listen,
            addresses,
            connections: 256,
            connections_per_prefix: 64,
            handshake_timeout: Duration::from_secs(5),
            exchange_timeout: Duration::from_secs(15),
            connection_lifetime: Duration::from_secs(60),
            failures_per_prefix: 10,
            failure_window: Duration::from_secs(60),
        }
    }
}
