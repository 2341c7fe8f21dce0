//! What can go wrong between asking for a socket and having it, with the option that failed by name.

use std::io;
use std::net::SocketAddrV6;

/// Why there is no socket
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel gave no socket
    #[error(
        "the kernel gave no IPv6 UDP socket: {0}; is IPv6 enabled, and the file limit high enough?"
    )]
    Create(io::Error),
    /// An option that everything relies on was refused
    #[error("the kernel refused the socket option {option}: {source}")]
    Option {
        /// Name of the option as in the manual pages
        option: &'static str,
        /// What the kernel said
        source: io::Error,
    },
    /// The address cannot be bound
    #[error("{address} cannot be bound: {source}")]
    Bind {
        /// Address asked for
        address: SocketAddrV6,
        /// What the kernel said
        source: io::Error,
    },
    /// Another STOQ process of this network namespace has the port
    #[error(
        "UDP port {port} is held by another stoqd of this network namespace; stop it, or set \
         another port"
    )]
    PortHeld {
        /// The port
        port: u16,
    },
    /// Some other socket has the port, or one that is still being torn down
    #[error(
        "{address} is in use by another socket (`ss -ulpn 'sport = {port}'` names it); a process \
         that has just ended may hold it for another moment", port = address.port()
    )]
    PortInUse {
        /// The address
        address: SocketAddrV6,
    },
    /// The lock could not be tried
    #[error("the lock of UDP port {port} could not be taken: {source}")]
    Lock {
        /// The port
        port: u16,
        /// What the kernel said
        source: io::Error,
    },
    /// A group needs one to 65,536 sockets
    #[error("a reuseport group has 1 to 65536 sockets, not {sockets}")]
    GroupSize {
        /// What was asked for
        sockets: usize,
    },
}
