//! Datagrams from nobody: garbage, truncated and well-formed beginnings of connections, and the old protocol.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use stoq_appliance_tests::{Options, fill, resident_bytes, say, shared, wait_until};

use crate::Scene;

const FLOOD: u64 = 20_000;
/// Datagrams between two round trips of the neighbour
const BATCH: u64 = 500;
const INITIAL_BYTES: usize = 1_200;

/// Sends datagrams made by `make`, with the neighbour's round trips in between
fn flood(scene: &mut Scene, mut make: impl FnMut(u64) -> Vec<u8>) -> UdpSocket {
    let socket = UdpSocket::bind(("::1", 0)).unwrap();
    socket.connect(("::1", scene.alpha.stoq_port())).unwrap();
    for index in 0..FLOOD {
        socket.send(&make(index)).unwrap();
        if index % BATCH == 0 {
            scene.round_trip();
        }
    }
    scene.round_trip();
    socket
}

fn dropped(scene: &Scene) -> f64 {
    scene.alpha.metric("stoq_worker_datagrams_dropped_total", "")
}

#[test]
fn a_flood_of_garbage_is_counted_and_disturbs_nobody() {
    let _turn = shared();
    let mut scene = Scene::start(&Options::default());
    scene.round_trip();
    let before = (dropped(&scene), resident_bytes(scene.alpha.pid()));
    flood(&mut scene, |index| {
        let mut datagram = vec![0; (index % 1_400) as usize];
        fill(index, 0, &mut datagram);
        datagram
    });
    // What the socket's buffer could not hold is the kernel's count, not a cause of the worker's.
    let overflowed = || scene.alpha.metric("stoq_worker_socket_overflowed_total", "");
    let counted = wait_until("the count", Duration::from_secs(10), || {
        let counted = dropped(&scene) - before.0;
        (counted + overflowed() >= FLOOD as f64 * 0.99).then_some(counted)
    });
    let grown = resident_bytes(scene.alpha.pid()).saturating_sub(before.1);
    say(&format!(
        "garbage: {FLOOD} datagrams, {counted} counted by cause, memory grew by {grown} octets, \
         slowest round trip of the neighbour {} ms",
        scene.slowest.as_millis()
    ));
    assert!(grown < 16 << 20, "{grown}");
    for cause in ["malformed", "unknown_connection"] {
        let label = format!("cause=\"{cause}\"");
        assert!(scene.alpha.metric("stoq_worker_datagrams_dropped_total", &label) > 0.0, "{cause}");
    }
}

/// The beginning of a connection as anybody can write it: right to the version, and noise behind
fn initial(seed: u64, length: usize) -> Vec<u8> {
    let mut datagram = vec![0; length];
    fill(seed, 0, &mut datagram);
    datagram[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
    // Destination and source of eight octets each, no token, and the rest as length.
    (datagram[5], datagram[14], datagram[23]) = (8, 8, 0);
    let rest = (length - 26) as u16 | 0x4000;
    datagram[24..26].copy_from_slice(&rest.to_be_bytes());
    datagram
}

#[test]
fn a_flood_of_initials_meets_limits_and_disturbs_nobody() {
    let _turn = shared();
    let limits = "[limits]\nhalf_open_per_worker = 256\nhalf_open_per_prefix = 128\n\
                  retry_above_half_open = 32\n";
    let mut scene = Scene::start(&Options::with_sections(limits));
    scene.round_trip();
    let before = (dropped(&scene), resident_bytes(scene.alpha.pid()));
    flood(&mut scene, |index| initial(index, INITIAL_BYTES));
    let state = |scene: &Scene| {
        (
            scene.alpha.metric("stoq_worker_retries_sent_total", ""),
            scene.alpha.metric("stoq_worker_handshakes_open", ""),
            dropped(scene) - before.0,
        )
    };
    let (retries, half_open, dropped_here) = state(&scene);
    let grown = resident_bytes(scene.alpha.pid()).saturating_sub(before.1);
    say(&format!(
        "initials: {FLOOD} datagrams, {retries} retries, {half_open} handshakes open, {dropped_here} \
         dropped by cause, memory grew by {grown} octets, slowest round trip of the neighbour {} ms",
        scene.slowest.as_millis()
    ));
    assert!(half_open <= 256.0, "{half_open}");
    assert!(retries + dropped_here > 0.0, "nothing was refused");
    assert!(grown < 48 << 20, "{grown}");
    scene.round_trip();
}

#[test]
fn truncated_initials_are_dropped_as_such() {
    let _turn = shared();
    let mut scene = Scene::start(&Options::default());
    let answers = flood(&mut scene, |index| initial(index, 40 + (index % 1_000) as usize));
    let label = "cause=\"short_initial\"";
    let short = wait_until("the count", Duration::from_secs(10), || {
        let short = scene.alpha.metric("stoq_worker_datagrams_dropped_total", label);
        (short > FLOOD as f64 * 0.5).then_some(short)
    });
    assert_eq!(scene.alpha.metric("stoq_worker_connections_accepted_total", ""), 1.0);
    answers.set_nonblocking(true).unwrap();
    let answer = answers.recv(&mut [0; 64]).map_err(|error| error.kind());
    assert_eq!(answer, Err(ErrorKind::WouldBlock), "a short Initial was answered");
    say(&format!("truncated initials: {short} of {FLOOD} dropped as short_initial, none answered"));
}

#[test]
fn a_foreign_version_is_told_which_are_spoken() {
    let _turn = shared();
    let scene = Scene::start(&Options::default());
    let socket = UdpSocket::bind(("::1", 0)).unwrap();
    socket.connect(("::1", scene.alpha.stoq_port())).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut datagram = initial(1, INITIAL_BYTES);
    datagram[1..5].copy_from_slice(&[0xba, 0xba, 0xba, 0xba]);
    socket.send(&datagram).unwrap();
    let mut answer = [0; 128];
    let length = socket.recv(&mut answer).expect("a version negotiation");
    assert!(length >= 27 && answer[0] & 0x80 != 0 && answer[1..5] == [0; 4], "{answer:?}");
    assert!(answer[..length].windows(4).any(|word| word == [0, 0, 0, 1]), "{answer:?}");
    assert_eq!(scene.alpha.metric("stoq_worker_versions_sent_total", ""), 1.0);
}

#[test]
fn the_old_protocol_reaches_nobody() {
    let _turn = shared();
    let mut scene = Scene::start(&Options::default());
    // Loopback of the old protocol, put together so that no such address stands in this file.
    let loopback = format!("{}.0.0.1", 127);
    let socket = UdpSocket::bind((loopback.as_str(), 0)).unwrap();
    socket.connect((loopback.as_str(), scene.alpha.stoq_port())).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send(&initial(1, INITIAL_BYTES)).unwrap();
    // The kernel itself says that there is no such socket: the event that proves nobody got it.
    let outcome = socket.recv(&mut [0; 64]).map_err(|error| error.kind());
    assert_eq!(outcome, Err(ErrorKind::ConnectionRefused));
    scene.round_trip();
}
