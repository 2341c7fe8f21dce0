//! Datagrams from nobody: garbage, short and flooding Initials, unknown versions and connections. Each is
//! counted by its reason, none makes the endpoint hold more than it may, none disturbs a neighbour.

mod support;

use std::net::SocketAddrV6;
use std::time::{Duration, Instant};

use stoq_interface::DropReason;
use stoq_simulation::network::Datagram;
use stoq_simulation::pki::Authority;
use support::{Client, ClientSetup, World};

fn dropped(world: &World, reason: DropReason) -> u64 {
    world.hosts[1].count(|counters| counters.dropped[reason.index()].get())
}

/// Hands a datagram to beta, and what beta answers back
fn deliver(world: &mut World, from: SocketAddrV6, bytes: Vec<u8>) -> Vec<Datagram> {
    let now = Instant::now();
    let to = world.hosts[1].address;
    world.hosts[1].receive(now, Datagram { from, to, bytes });
    world.hosts[1].settle(now);
    let mut answers = Vec::new();
    world.hosts[1].transmit(now, |datagram| answers.push(datagram));
    answers
}

/// The first datagram of a fresh client's handshake
fn initial(world: &World) -> Vec<u8> {
    let to = world.hosts[1].address;
    Client::dial(1, to, &ClientSetup::default()).datagrams().swap_remove(0).bytes
}

fn stranger(prefix: u16, port: u16) -> SocketAddrV6 {
    format!("[2001:db8:1:{prefix:x}::1]:{port}").parse().unwrap()
}

#[test]
fn garbage_is_counted_by_reason_and_held_nowhere() {
    let mut world = World::pair(1);
    let from = stranger(1, 1);
    assert!(deliver(&mut world, from, vec![]).is_empty());
    assert!(deliver(&mut world, from, vec![0xff; 3]).is_empty());
    assert_eq!(dropped(&world, DropReason::Malformed), 2);
    // A short header of no connection, too small to be answered.
    assert!(deliver(&mut world, from, vec![0x40; 30]).is_empty());
    assert_eq!(dropped(&world, DropReason::UnknownConnection), 1);
    let whole = initial(&world);
    for length in [7, 100, 600, 1_199] {
        assert!(deliver(&mut world, from, whole[..length].to_vec()).is_empty(), "{length}");
    }
    assert_eq!(
        dropped(&world, DropReason::ShortInitial) + dropped(&world, DropReason::Malformed) - 2,
        4
    );
    assert!(dropped(&world, DropReason::ShortInitial) >= 3);
    assert!(world.hosts[1].is_idle());
}

#[test]
fn an_initial_that_does_not_decrypt_is_not_held() {
    let mut world = World::pair(1);
    let mut bytes = initial(&world);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    deliver(&mut world, stranger(1, 1), bytes);
    assert_eq!(dropped(&world, DropReason::Refused), 1);
    assert_eq!(world.hosts[1].count(|c| c.half_open.get()), 0);
    assert!(world.hosts[1].is_idle());
}

#[test]
fn a_flood_of_initials_meets_the_limits_and_not_the_neighbours() {
    let authority = Authority::new();
    let mut world = World::of(&authority, 1, |snapshot| {
        snapshot.limits.half_open_per_prefix = 4;
        snapshot.limits.retry_above_half_open = 10;
        snapshot.limits.half_open_per_worker = 16;
        snapshot.transport.handshake_timeout = Duration::from_millis(300);
    });
    let keys = world.connect();
    // One prefix fills its share, whatever its ports.
    for port in 1..=50 {
        let bytes = initial(&world);
        deliver(&mut world, stranger(1, port), bytes);
    }
    assert_eq!(dropped(&world, DropReason::HalfOpenPrefix), 46);
    // Many prefixes reach the threshold; beyond it everybody is asked to prove its address.
    let mut retries = 0;
    for prefix in 2..60 {
        let bytes = initial(&world);
        let answers = deliver(&mut world, stranger(prefix, 1), bytes);
        retries += answers.iter().filter(|d| d.to == stranger(prefix, 1) && is_retry(d)).count();
    }
    assert_eq!(world.hosts[1].count(|c| c.half_open.get()), 10);
    assert_eq!(retries as u64, world.hosts[1].count(|c| c.retries_sent.get()));
    assert_eq!(retries, 58 - 6);
    // Ten strangers and the neighbour: nothing else is held.
    assert_eq!(world.hosts[1].endpoint(0).connection_status(Instant::now()).len(), 11);
    world.echo(keys, &[7; 100_000]);
    world.until("the strangers are forgotten", |world| {
        world.hosts[1].count(|c| c.half_open.get()) == 0
            && world.hosts[1].endpoint(0).connection_status(Instant::now()).len() == 1
    });
    world.echo(keys, &[8; 100_000]);
}

fn is_retry(datagram: &Datagram) -> bool {
    datagram.bytes[0] & 0xf0 == 0xf0
}

#[test]
fn a_retry_completes_a_handshake() {
    let authority = Authority::new();
    let mut world = World::of(&authority, 2, |snapshot| snapshot.limits.retry_above_half_open = 0);
    let keys = world.connect();
    assert!(world.hosts[1].count(|c| c.retries_sent.get()) >= 1);
    world.echo(keys, &[1; 10_000]);
}

#[test]
fn a_forged_token_is_refused() {
    let mut world = World::pair(1);
    let mut bytes = initial(&world);
    // Type and version, then both IDs, then the token's length: none in the client's first Initial.
    let at = 6 + usize::from(bytes[5]);
    let at = at + 1 + usize::from(bytes[at]);
    assert_eq!(bytes[at], 0);
    bytes[at] = 32;
    bytes.splice(at + 1..at + 1, [9; 32]);
    assert!(deliver(&mut world, stranger(1, 1), bytes).is_empty());
    assert_eq!(dropped(&world, DropReason::BadToken), 1);
}

#[test]
fn an_unknown_version_is_answered_with_the_known_ones() {
    let mut world = World::pair(1);
    let mut bytes = initial(&world);
    bytes[1..5].copy_from_slice(&0x1a2a_3a4au32.to_be_bytes());
    let answers = deliver(&mut world, stranger(1, 1), bytes.clone());
    assert_eq!(answers.len(), 1);
    let answer = &answers[0].bytes;
    assert_eq!(answer[1..5], [0; 4], "version negotiation");
    assert!(answer.windows(4).any(|word| word == 1u32.to_be_bytes()), "offers version 1");
    assert_eq!(world.hosts[1].count(|c| c.versions_sent.get()), 1);
    bytes.truncate(1_000);
    assert!(deliver(&mut world, stranger(1, 1), bytes).is_empty(), "too short to be answered");
    assert_eq!(dropped(&world, DropReason::Version), 2);
    assert!(world.hosts[1].is_idle());
}

#[test]
fn an_unknown_connection_gets_a_shorter_stateless_reset() {
    let mut world = World::pair(1);
    let answers = deliver(&mut world, stranger(1, 1), vec![0x55; 100]);
    assert_eq!(answers.len(), 1);
    assert!(answers[0].bytes.len() < 100 && answers[0].bytes.len() >= 21);
    assert_eq!(answers[0].bytes[0] & 0xc0, 0x40, "looks like a short header");
    let again = deliver(&mut world, stranger(1, 1), vec![0x55; 100]);
    let token = |datagram: &Datagram| datagram.bytes[datagram.bytes.len() - 16..].to_vec();
    assert_eq!(token(&answers[0]), token(&again[0]), "the token belongs to the connection ID");
    assert_eq!(world.hosts[1].count(|c| c.resets_sent.get()), 2);
}

#[test]
fn a_dialler_learns_by_the_reset_that_its_peer_has_restarted() {
    let authority = Authority::new();
    let mut world = World::of(&authority, 1, |_| {});
    let [key, _] = world.connect();
    // Beta restarts with the same secrets, which follow from the seed, and without its connections.
    let snapshot = std::sync::Arc::new(support::snapshot(&authority, "beta"));
    world.hosts[1] = stoq_simulation::host::Host::new(2, 1, 2, snapshot);
    world.hosts[0].home(key).with_session(key, |session| {
        let flow = session.open_flow(support::service("echo"), 0).unwrap();
        session.write(flow, bytes::Bytes::from_static(&[1; 1_000]));
    });
    // Long before its idle timeout; the session is gone with the peer's memory.
    let reason = world.event("the session ends", |host, event| match event {
        stoq_transport::Event::SessionEnded { reason, .. } if host == 0 => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, stoq_interface::CloseReason::SessionUnknown);
    assert!(world.hosts[1].count(|c| c.resets_sent.get()) >= 1);
}
