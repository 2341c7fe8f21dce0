//! Bells of programs: rung through the ring, with no system call beside io_uring_enter.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant};

use stoq_udp::{DatagramIo, IoSettings, Socket, SocketOptions, Wait, Waker};
use stoq_uring::UringIo;

fn provider() -> UringIo {
    let any = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    let socket = Socket::bind(any, &SocketOptions::default()).unwrap();
    UringIo::new(socket, &IoSettings::default()).unwrap()
}

#[test]
fn a_bell_rings_with_the_next_submission_and_costs_no_call() {
    let mut io = provider();
    io.receive(&mut |_| {}).unwrap();
    io.submit(Wait::No).unwrap();
    let bell = Waker::new().unwrap();
    for _ in 0..3 {
        let before = io.counters().system_calls;
        io.notify(&bell);
        assert!(!bell.drain(), "nothing rings before the submission");
        io.submit(Wait::No).unwrap();
        assert!(bell.drain());
        io.receive(&mut |_| {}).unwrap();
        io.submit(Wait::No).unwrap();
        assert!(!bell.drain());
        assert!(io.counters().system_calls - before <= 2, "one to submit, one to reap at most");
    }
}

#[test]
fn it_rings_before_the_worker_sleeps() {
    let mut io = provider();
    io.receive(&mut |_| {}).unwrap();
    let bell = Waker::new().unwrap();
    io.notify(&bell);
    let begin = Instant::now();
    io.submit(Wait::Until(Some(Duration::from_millis(20)))).unwrap();
    assert!(bell.drain());
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_bell_that_was_rung_often_stays_rung() {
    let mut io = provider();
    let bell = Waker::new().unwrap();
    for _ in 0..1_000 {
        io.notify(&bell);
    }
    io.submit(Wait::No).unwrap();
    assert!(bell.drain());
    assert!(!bell.drain());
}

#[test]
fn bells_of_two_programs_both_ring() {
    let mut io = provider();
    let (one, other) = (Waker::new().unwrap(), Waker::new().unwrap());
    io.notify(&one);
    io.notify(&other);
    io.submit(Wait::No).unwrap();
    assert!(one.drain() && other.drain());
}
