//! The narrow waist between a worker and the kernel: lease a slab, fill it, send it as one train; be handed
//! received trains; sleep and be woken. Plain system calls, io_uring and, later, AF_XDP fit behind it.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use stoq_interface::IoProvider;
use stoq_memory::HugePages;

use crate::{MAX_TRAIN_BYTES, Waker};

pub use stoq_memory::Slab;

/// One received train: datagrams of one sender, all of `segment_bytes` but the last, which may be shorter
#[derive(Debug)]
pub struct Train<'a> {
    /// The datagrams one after the other; may be decrypted in place
    pub bytes: &'a mut [u8],
    /// Octets of each datagram, at least 1
    pub segment_bytes: usize,
    /// Sender
    pub from: SocketAddrV6,
    /// Local address it came to
    pub to: Option<Ipv6Addr>,
    /// Octets or control messages were cut off: the train is to be counted and dropped
    pub truncated: bool,
}

impl Train<'_> {
    /// The datagrams
    pub fn datagrams(&mut self) -> std::slice::ChunksMut<'_, u8> {
        self.bytes.chunks_mut(self.segment_bytes)
    }
}

/// What to do with a filled slab
#[derive(Clone, Copy, Debug)]
pub struct Transmit {
    /// Octets of all datagrams together, at most [`MAX_TRAIN_BYTES`]
    pub bytes: usize,
    /// Octets of each datagram; only the last may be shorter. At most
    /// [`segment_limit`](DatagramIo::segment_limit) of them.
    pub segment_bytes: usize,
    /// Destination
    pub to: SocketAddrV6,
    /// Local address to send from; `None` leaves it to the routing table
    pub from: Option<Ipv6Addr>,
}

impl Transmit {
    /// Number of datagrams
    pub fn datagrams(&self) -> usize {
        self.bytes.div_ceil(self.segment_bytes.max(1))
    }

    /// Whether a provider with this segment limit can send it
    pub fn is_valid(&self, segment_limit: usize) -> bool {
        self.bytes <= MAX_TRAIN_BYTES
            && (1..=MAX_TRAIN_BYTES).contains(&self.segment_bytes)
            && self.datagrams() <= segment_limit
    }
}

/// Whether [`DatagramIo::submit`] sleeps
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    /// Return at once
    No,
    /// Sleep until something completes, somebody wakes, or this much time has passed (`None`: no limit)
    Until(Option<Duration>),
}

macro_rules! io_counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a provider counts: plain numbers, its thread's own
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct IoCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl IoCounters {
            /// Name and value of every counter
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

io_counters! {
    /// System calls made
    system_calls,
    /// Trains received
    trains_received,
    /// Datagrams received
    datagrams_received,
    /// UDP payload octets received
    bytes_received,
    /// Trains handed over with octets or control messages cut off
    trains_truncated,
    /// Trains whose sender or layout could not be read; not handed over
    trains_unreadable,
    /// Trains sent: taken by the kernel
    trains_sent,
    /// Datagrams sent
    datagrams_sent,
    /// UDP payload octets sent
    bytes_sent,
    /// Trains the kernel refused, or that broke the rules of [`Transmit`]
    send_errors,
    /// Of those, refused because a datagram exceeds what the interface or the route takes (EMSGSIZE)
    sends_too_big,
    /// Of those, refused because the route cannot segment (EIO)
    sends_not_segmented,
    /// Times receive ran out of buffers and was armed again
    buffers_exhausted,
    /// Packets the kernel dropped because the socket's buffer was full
    socket_overflows,
    /// Times receive was armed
    receives_armed,
    /// Wake-ups seen
    wakes_received,
    /// Wake-ups sent to peers
    wakes_sent,
    /// Zero-copy sends asked for
    zero_copy_sends,
    /// Zero-copy sends that the kernel copied all the same
    zero_copy_copied,
}

impl IoCounters {
    /// Counts a train that is handed over
    pub fn received(&mut self, train: &Train<'_>) {
        self.trains_received += 1;
        self.datagrams_received += train.bytes.len().div_ceil(train.segment_bytes).max(1) as u64;
        self.bytes_received += train.bytes.len() as u64;
        self.trains_truncated += u64::from(train.truncated);
    }

    /// Counts a train the kernel took
    pub fn sent(&mut self, transmit: &Transmit) {
        self.trains_sent += 1;
        self.datagrams_sent += transmit.datagrams() as u64;
        self.bytes_sent += transmit.bytes as u64;
    }

    /// Counts a train the kernel refused: whether it means that segmentation does not work on this route
    pub fn refused(&mut self, error: &io::Error) -> bool {
        self.send_errors += 1;
        let cannot_segment = error.raw_os_error() == Some(libc::EIO);
        self.sends_too_big += u64::from(error.raw_os_error() == Some(libc::EMSGSIZE));
        self.sends_not_segmented += u64::from(cannot_segment);
        cannot_segment
    }

    /// Takes over the socket's running 32-bit total of dropped packets
    pub fn overflowed(&mut self, total: u32) {
        let before = self.socket_overflows as u32;
        self.socket_overflows += u64::from(total.wrapping_sub(before));
    }
}

/// When sends avoid the kernel's copy
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ZeroCopy {
    /// Never
    Off,
    /// Tried where the route is not loopback, kept only where the kernel reports that it did not copy
    #[default]
    Measured,
    /// Always, even where it is known not to pay and where the send memory is not registered: for tests and
    /// measurements
    Always,
}

/// Whether sends avoid the kernel's copy now
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ZeroCopyState {
    /// No, and why
    Off(String),
    /// Being tried
    Trying,
    /// Yes
    On,
}

impl fmt::Display for ZeroCopyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off(reason) => write!(f, "off: {reason}"),
            Self::Trying => f.write_str("being tried"),
            Self::On => f.write_str("on"),
        }
    }
}

/// How a provider is made
#[derive(Clone, Debug)]
pub struct IoSettings {
    /// Send slabs of 64 KiB; few stay in the cache
    pub send_slabs: u32,
    /// Receive buffers of 64 KiB: a power of two up to 32,768
    pub receive_buffers: u16,
    /// NUMA node of all packet memory
    pub node: Option<usize>,
    /// Try huge pages first
    pub prefer_huge: bool,
    /// Zero-copy sends
    pub zero_copy: ZeroCopy,
    /// Do not use io_uring even where it works
    pub system_calls_only: bool,
    /// Several datagrams per send, where the self-test found that it works; off for measurements
    pub gso: bool,
    /// Several datagrams per receive, where the self-test found that it works; off for measurements
    pub gro: bool,
    /// One request receives train after train; off, each train takes a request of its own. Rings only.
    pub multishot: bool,
    /// Register the send memory with the ring; off for measurements. Rings only.
    pub registered_buffers: bool,
    /// Trains that one [`receive`](DatagramIo::receive) hands over at most, at least 1. Everything that has
    /// arrived before anything is sent is what makes acknowledgements few; fewer for measurements.
    pub trains_per_receive: usize,
}

impl Default for IoSettings {
    fn default() -> Self {
        Self {
            send_slabs: 32,
            receive_buffers: 16,
            node: None,
            prefer_huge: true,
            zero_copy: ZeroCopy::default(),
            system_calls_only: false,
            gso: true,
            gro: true,
            multishot: true,
            registered_buffers: true,
            trains_per_receive: usize::MAX,
        }
    }
}

/// What a provider turned out to be: for status pages and benchmark records
#[derive(Clone, Debug)]
pub struct IoDescription {
    /// Which provider
    pub provider: IoProvider,
    /// Datagrams one send may carry; 1 means that segmentation offload is not in use
    pub gso_segments: usize,
    /// Whether received segments are merged
    pub gro: bool,
    /// Whether sends avoid the kernel's copy
    pub zero_copy: ZeroCopyState,
    /// Whether one request receives train after train
    pub multishot: bool,
    /// Whether the send arena is registered with the ring
    pub registered_buffers: bool,
    /// Whether the ring's own descriptor is registered
    pub registered_ring: bool,
    /// Page size of the send arena
    pub page_bytes: usize,
    /// Whether huge pages back the send arena
    pub huge_pages: HugePages,
    /// NUMA node of all packet memory
    pub node: Option<usize>,
    /// Receive buffer of the socket as granted
    pub receive_buffer_bytes: usize,
    /// What did not work in the self-test, in words
    pub notes: Vec<String>,
}

/// What others need to wake a provider
#[derive(Clone, Debug)]
pub struct PeerRing {
    ring: Option<Arc<OwnedFd>>,
    waker: Waker,
}

impl PeerRing {
    /// Describes a provider that has a ring, or none
    pub fn new(ring: Option<Arc<OwnedFd>>, waker: Waker) -> Self {
        Self { ring, waker }
    }

    /// The ring, if the provider has one; shared, so that the number cannot come to mean something else
    pub fn ring(&self) -> Option<&Arc<OwnedFd>> {
        self.ring.as_ref()
    }

    /// The way that always works
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// Moves trains of datagrams between one thread and one socket. A provider belongs to the thread that made
/// it. A turn of a worker's loop is: `receive`, work, `send`, `submit`.
pub trait DatagramIo {
    /// A free slab to fill; `None` when all are in flight: `submit`, `receive`, try again
    fn slab(&mut self) -> Option<Slab>;

    /// The slab's octets: 64 KiB, contiguous, in registered memory where there is such
    fn slab_bytes(&mut self, slab: &Slab) -> &mut [u8];

    /// Queues the slab as one train; it leaves with `submit` and becomes free again by itself. A failed send
    /// is counted: to the transport it is a lost packet. A `transmit` that breaks the rules is counted too.
    fn send(&mut self, slab: Slab, transmit: Transmit);

    /// Gives back a slab that was not needed
    fn release(&mut self, slab: Slab);

    /// Datagrams one train may carry now; falls to 1 when a route turns out unable to segment
    fn segment_limit(&self) -> usize;

    /// Hands every train that has arrived to `on_train`, takes back the slabs that were sent, and arms
    /// receive again where needed. Never sleeps. Returns the number of trains.
    fn receive(&mut self, on_train: &mut dyn FnMut(Train<'_>)) -> io::Result<usize>;

    /// Starts what is queued; with [`Wait::Until`] sleeps until anything completes. A wake-up sent at any time
    /// since the last such call returned makes this one return: none is lost between `receive` and the
    /// sleep. It may return early for no reason.
    fn submit(&mut self, wait: Wait) -> io::Result<()>;

    /// A handle for other threads
    fn waker(&self) -> Waker;

    /// Wakes another provider: ring to ring where both have one, which costs no system call of its own and
    /// happens with the next `submit`; through the eventfd, at once, elsewhere
    fn wake_peer(&mut self, peer: &PeerRing);

    /// Wakes whoever sleeps on this eventfd: with the next `submit` and without a system call of its own where
    /// there is a ring, at once elsewhere
    fn notify(&mut self, bell: &Waker);

    /// What others need to wake this one
    fn peer_ring(&self) -> PeerRing;

    /// Counters so far
    fn counters(&self) -> &IoCounters;

    /// The socket's address
    fn local_address(&self) -> SocketAddrV6;

    /// What this provider is and what it uses
    fn describe(&self) -> IoDescription;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transmit(bytes: usize, segment_bytes: usize) -> Transmit {
        let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 0, 0);
        Transmit { bytes, segment_bytes, to, from: None }
    }

    #[test]
    fn a_transmit_keeps_the_rules() {
        assert!(transmit(44 * 1452, 1452).is_valid(64));
        assert!(transmit(44 * 1452 - 1, 1452).is_valid(44));
        assert!(!transmit(44 * 1452 + 1, 1452).is_valid(44));
        assert!(!transmit(MAX_TRAIN_BYTES + 1, 1452).is_valid(64));
        assert!(!transmit(10, 0).is_valid(64));
        assert!(transmit(10, 1452).is_valid(1));
    }

    #[test]
    fn overflow_totals_wrap_without_losing_counts() {
        let mut counters = IoCounters::default();
        counters.overflowed(u32::MAX - 1);
        counters.overflowed(3);
        assert_eq!(counters.socket_overflows, u64::from(u32::MAX) + 4);
        counters.overflowed(3);
        assert_eq!(counters.socket_overflows, u64::from(u32::MAX) + 4);
    }

    #[test]
    fn an_empty_datagram_counts_as_one() {
        let mut counters = IoCounters::default();
        let from = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 0, 0);
        let mut train =
            Train { bytes: &mut [], segment_bytes: 1, from, to: None, truncated: false };
        counters.received(&train);
        assert_eq!((counters.trains_received, counters.datagrams_received), (1, 1));
        assert_eq!(train.datagrams().count(), 0);
    }
}
