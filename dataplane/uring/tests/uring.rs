//! The provider over io_uring, against everything a provider must do and what only a ring can.

#[path = "../../udp/tests/suite/mod.rs"]
mod suite;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use stoq_interface::IoProvider;
use stoq_udp::{
    DatagramIo, IoSettings, PeerRing, Socket, SocketOptions, SystemCallIo, Transmit, Wait,
    ZeroCopy, ZeroCopyState,
};
use stoq_uring::{ProbeFailure, UringIo, open, probe};

const PATIENCE: Duration = Duration::from_secs(10);

fn make(socket: Socket, settings: &IoSettings) -> Box<dyn DatagramIo> {
    Box::new(UringIo::new(socket, settings).unwrap())
}

fn make_zero_copy(socket: Socket, settings: &IoSettings) -> Box<dyn DatagramIo> {
    make(socket, &IoSettings { zero_copy: ZeroCopy::Always, ..settings.clone() })
}

macro_rules! suite {
    ($($name:ident,)*) => {
        $(#[test] fn $name() { suite::$name(make); })*
    };
}

suite! {
    carries_trains,
    carries_without_offloads,
    hands_over_few_at_a_time,
    slabs_run_out_and_come_back,
    refuses_what_cannot_be_sent,
    sends_from_the_address_given,
    sleeps_until_the_timeout,
    keeps_every_wake_up,
    is_woken_by_another_thread,
    peers_wake_each_other,
    counts_what_the_socket_dropped,
}

#[test]
fn recovers_from_exhausted_buffers() {
    let receiver = suite::recovers_from_exhausted_buffers(make);
    assert!(receiver.buffers_exhausted > 0, "the ring never ran dry: {receiver:?}");
    assert!(receiver.receives_armed > receiver.buffers_exhausted);
}

fn make_single(socket: Socket, settings: &IoSettings) -> Box<dyn DatagramIo> {
    make(socket, &IoSettings { multishot: false, ..settings.clone() })
}

#[test]
fn receives_singly() {
    suite::carries_trains(make_single);
    suite::carries_without_offloads(make_single);
    suite::hands_over_few_at_a_time(make_single);
    suite::slabs_run_out_and_come_back(make_single);
    suite::keeps_every_wake_up(make_single);
    suite::counts_what_the_socket_dropped(make_single);
    let receiver = suite::recovers_from_exhausted_buffers(make_single);
    // Each train took a request of its own, where multishot receive takes one for many.
    assert!(receiver.receives_armed >= receiver.trains_received, "{receiver:?}");
    assert!(receiver.system_calls >= receiver.trains_received, "{receiver:?}");
    assert!(!suite::provider(make_single, &suite::settings()).describe().multishot);
    assert!(suite::provider(make, &suite::settings()).describe().multishot);
}

/// With provided buffers an empty datagram takes none, and receiving goes on behind it
#[test]
fn an_empty_datagram_ends_nothing() {
    for make in [make, make_single] {
        let mut io = suite::provider(make, &suite::settings());
        let sender = UdpSocket::bind("[::1]:0").unwrap();
        for datagram in [&b""[..], b"", b"after"] {
            sender.send_to(datagram, io.local_address()).unwrap();
        }
        let mut seen = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while !seen.contains(&b"after".to_vec()) {
            assert!(Instant::now() < deadline, "{seen:?} {:?}", io.counters());
            io.submit(Wait::Until(Some(PATIENCE))).unwrap();
            io.receive(&mut |train| seen.push(train.bytes.to_vec())).unwrap();
        }
        assert_eq!(seen.len() as u64 + io.counters().trains_unreadable, 3, "{seen:?}");
    }
}

/// Without registered memory sends work, copied or not; the measured kind of zero copy stays off
#[test]
fn sends_from_memory_that_is_not_registered() {
    fn plain(socket: Socket, settings: &IoSettings) -> Box<dyn DatagramIo> {
        make(socket, &IoSettings { registered_buffers: false, ..settings.clone() })
    }
    fn forced(socket: Socket, settings: &IoSettings) -> Box<dyn DatagramIo> {
        plain(socket, &IoSettings { zero_copy: ZeroCopy::Always, ..settings.clone() })
    }
    let description = suite::provider(plain, &suite::settings()).describe();
    assert!(!description.registered_buffers);
    assert!(
        matches!(&description.zero_copy, ZeroCopyState::Off(why) if why.contains("registered"))
    );
    suite::carries_trains(plain);
    suite::carries_trains(forced);
    suite::slabs_run_out_and_come_back(forced);
}

#[test]
fn carries_trains_with_zero_copy() {
    suite::carries_trains(make_zero_copy);
}

#[test]
fn slabs_come_back_after_their_notification() {
    suite::slabs_run_out_and_come_back(make_zero_copy);
    suite::refuses_what_cannot_be_sent(make_zero_copy);
}

#[test]
fn probe_passes_and_open_gives_the_ring() {
    assert_eq!(probe(), Ok(()));
    let opened = open(suite::socket(&SocketOptions::default()), &suite::settings()).unwrap();
    assert_eq!(opened.fallback, None);
    let description = opened.io.describe();
    assert_eq!(description.provider, IoProvider::IoUring);
    assert!(description.registered_buffers && description.registered_ring, "{description:?}");
    assert!(description.gro && description.gso_segments >= 64, "{description:?}");
}

#[test]
fn open_falls_back_and_says_why() {
    let settings = IoSettings { system_calls_only: true, ..suite::settings() };
    let opened = open(suite::socket(&SocketOptions::default()), &settings).unwrap();
    assert_eq!(opened.fallback, Some(ProbeFailure::NotWanted));
    assert_eq!(opened.io.describe().provider, IoProvider::SystemCalls);
}

#[test]
fn a_refused_socket_comes_back_usable() {
    let socket = suite::socket(&SocketOptions::default());
    let address = socket.local_address();
    let settings = IoSettings { receive_buffers: 3, ..suite::settings() };
    let Err(refused) = UringIo::new(socket, &settings) else { panic!("three is no power of two") };
    assert!(refused.failure.to_string().contains("not 3"), "{}", refused.failure);
    let again = UringIo::new(*refused.socket, &suite::settings()).unwrap();
    assert_eq!(again.local_address(), address);
}

/// On loopback the kernel copies every zero-copy send and says so: the notification is read
#[test]
fn notifications_tell_that_loopback_copies() {
    let mut io = suite::provider(make_zero_copy, &suite::settings());
    let to = io.local_address();
    let slab = io.slab().unwrap();
    io.send(slab, Transmit { bytes: 58_080, segment_bytes: 1452, to, from: None });
    let deadline = Instant::now() + PATIENCE;
    // Copied, the memory is let go of only when the receiver has taken the data.
    while io.counters().zero_copy_copied < 1 {
        assert!(Instant::now() < deadline, "{:?}", io.counters());
        io.submit(Wait::Until(Some(PATIENCE))).unwrap();
        io.receive(&mut |_| {}).unwrap();
    }
    let counters = io.counters();
    assert_eq!((counters.zero_copy_sends, counters.trains_sent, counters.send_errors), (1, 1, 0));
}

#[test]
fn measured_zero_copy_stays_off_on_loopback() {
    let mut io = suite::provider(make, &suite::settings());
    let to = io.local_address();
    for _ in 0..20 {
        let slab = io.slab().unwrap();
        io.send(slab, Transmit { bytes: 58_080, segment_bytes: 1452, to, from: None });
        io.submit(Wait::No).unwrap();
        io.receive(&mut |_| {}).unwrap();
    }
    assert_eq!(io.counters().zero_copy_sends, 0);
    assert_eq!(io.describe().zero_copy, ZeroCopyState::Trying);
}

/// A ring wakes a provider without a ring, and one whose owner is gone
#[test]
fn wakes_peers_without_a_ring() {
    let mut io = suite::provider(make, &suite::settings());
    let socket = suite::socket(&SocketOptions::default());
    let mut other = SystemCallIo::new(socket, &suite::settings()).unwrap();
    io.wake_peer(&other.peer_ring());
    let start = Instant::now();
    other.submit(Wait::Until(Some(PATIENCE))).unwrap();
    assert!(start.elapsed() < PATIENCE / 2);
    // The thread that owned the ring has ended; its descriptor lives on in the handle.
    let orphan: PeerRing =
        std::thread::spawn(|| suite::provider(make, &suite::settings()).peer_ring())
            .join()
            .unwrap();
    for _ in 0..3 {
        io.wake_peer(&orphan);
        io.submit(Wait::No).unwrap();
        io.receive(&mut |_| {}).unwrap();
    }
    assert_eq!(io.counters().wakes_sent, 4);
}

/// Many wake-ups of one peer in one turn are one message
#[test]
fn wake_ups_of_a_turn_are_one() {
    let (mut io, mut peer) =
        (suite::provider(make, &suite::settings()), suite::provider(make, &suite::settings()));
    let target = peer.peer_ring();
    for _ in 0..1000 {
        io.wake_peer(&target);
    }
    io.submit(Wait::No).unwrap();
    peer.submit(Wait::Until(Some(PATIENCE))).unwrap();
    peer.receive(&mut |_| {}).unwrap();
    assert_eq!((io.counters().wakes_sent, peer.counters().wakes_received), (1, 1));
}

/// Dropping a provider with receives armed and sends queued sends them, and frees the port at once
#[test]
fn dropping_sends_what_is_queued_and_frees_the_port() {
    let listener = UdpSocket::bind("[::1]:0").unwrap();
    listener.set_read_timeout(Some(PATIENCE)).unwrap();
    let std::net::SocketAddr::V6(to) = listener.local_addr().unwrap() else { panic!() };
    for make in [make, make_zero_copy] {
        let mut io = suite::provider(make, &suite::settings());
        let handle = io.peer_ring();
        let address = io.local_address();
        let slab = io.slab().unwrap();
        io.slab_bytes(&slab)[..8].copy_from_slice(b"farewell");
        io.send(slab, Transmit { bytes: 8, segment_bytes: 8, to, from: None });
        drop(io);
        let mut buffer = [0; 16];
        let (bytes, from) = listener.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..bytes], from), (&b"farewell"[..], address.into()));
        // Even while somebody still holds the ring's descriptor.
        UdpSocket::bind(address).unwrap();
        drop(handle);
    }
}

/// A loaded ring makes few system calls: the sending and the receiving one together under one per 16
#[test]
fn makes_few_system_calls() {
    let (mut sender, mut receiver) =
        (suite::provider(make, &suite::settings()), suite::provider(make, &suite::settings()));
    let to = receiver.local_address();
    let mut datagrams = 0;
    let deadline = Instant::now() + PATIENCE;
    while datagrams < 40 * 400 {
        assert!(Instant::now() < deadline);
        for _ in 0..4 {
            let slab = sender.slab().unwrap();
            sender.send(slab, Transmit { bytes: 58_080, segment_bytes: 1452, to, from: None });
        }
        sender.submit(Wait::No).unwrap();
        sender.receive(&mut |_| {}).unwrap();
        receiver.receive(&mut |mut train| datagrams += train.datagrams().count()).unwrap();
        receiver.submit(Wait::No).unwrap();
    }
    let calls = sender.counters().system_calls + receiver.counters().system_calls;
    assert!(calls * 16 < datagrams as u64, "{calls} calls for {datagrams} datagrams");
}
