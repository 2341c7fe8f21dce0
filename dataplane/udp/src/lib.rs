//! UDP over IPv6: sockets and their offloads, one file per feature; steering of a reuseport group by
//! connection ID; the port lock; the narrow [`DatagramIo`] trait that every I/O provider implements, and the
//! provider that needs nothing but plain system calls. Rings live in `stoq-uring`; nothing here knows QUIC
//! beyond where a connection ID stands in a datagram.

pub mod address;
pub mod control_message;
mod error;
pub mod gro;
mod group;
pub mod gso;
pub mod io;
mod io_buffers;
mod overflow;
pub mod pktinfo;
mod port_lock;
mod receive_slots;
mod received;
pub mod self_test;
mod send_message;
mod socket;
mod steering;
mod system_calls;
mod waker;

pub use error::SocketError;
pub use group::SocketGroup;
pub use io::{
    DatagramIo, IoCounters, IoDescription, IoSettings, PeerRing, Slab, Train, Transmit, Wait,
    ZeroCopy, ZeroCopyState,
};
pub use io_buffers::{IoSetupError, SLAB_BYTES, send_slabs};
pub use port_lock::PortLock;
pub use received::{RECEIVE_CONTROL_BYTES, ReceivedControl};
pub use self_test::{Offloads, SelfTestFailure, offloads};
pub use send_message::SendMessage;
pub use socket::{Socket, SocketOptions};
pub use steering::{CONNECTION_ID_BYTES, Steering};
pub use system_calls::SystemCallIo;
pub use waker::Waker;

/// Most octets of UDP payload one send can carry, all segments together: 65,535 less the IPv6 and UDP
/// headers (RFC 8200 section 4.5 leaves no room for jumbograms in GSO)
pub const MAX_TRAIN_BYTES: usize = 65_487;
