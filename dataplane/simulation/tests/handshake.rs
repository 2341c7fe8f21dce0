//! Who gets in: mutual handshakes between endpoints, and every stranger that is turned away by name.

mod support;

use std::sync::Arc;
use std::time::Instant;

use stoq_interface::{CloseReason, ControlSnapshot, PeerRefusal};
use stoq_simulation::host::Host;
use stoq_simulation::pki::Authority;
use stoq_transport::Event;
use support::{Client, ClientSetup, World, node, snapshot};

fn refused(world: &World, host: usize, reason: PeerRefusal) -> u64 {
    world.hosts[host].count(|counters| counters.refused[reason.index()].get())
}

fn failed_dial(world: &mut World) -> (CloseReason, Option<PeerRefusal>) {
    world.event("the dial fails", |_, event| match event {
        Event::ConnectFailed { reason, refusal, .. } => Some((*reason, *refusal)),
        _ => None,
    })
}

#[test]
fn a_handshake_joins_a_session_on_both_sides() {
    let mut world = World::pair(1);
    let keys = world.connect();
    for (host, key) in keys.into_iter().enumerate() {
        let all = world.hosts[host].endpoint(0).connection_status(Instant::now());
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].key_exchange, "X25519MLKEM768");
        assert_eq!(all[0].session, Some(key.number()));
        assert_eq!(all[0].peer, Some(node(["beta", "alpha"][host])));
        assert_eq!(all[0].dialled, host == 0);
    }
    let echo: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    world.echo(keys, &echo);
    assert_eq!(world.hosts[1].count(|c| c.connections_accepted.get()), 1);
    assert_eq!(world.hosts[0].count(|c| c.connections_dialled.get()), 1);
    assert_eq!(world.hosts[1].count(|c| c.half_open.get()), 0);
}

#[test]
fn a_foreign_root_is_refused_in_both_roles() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    // As a client: alpha does not know the authority of beta.
    let mut world = World::new(vec![
        Host::new(1, 1, 1, Arc::new(snapshot(&ours, "alpha"))),
        Host::new(2, 1, 2, Arc::new(snapshot(&foreign, "beta"))),
    ]);
    let to = world.hosts[1].address;
    world.hosts[0].endpoint(0).connect(Instant::now(), to, node("beta"), 7);
    let (reason, refusal) = failed_dial(&mut world);
    assert_eq!((reason, refusal), (CloseReason::Tls, Some(PeerRefusal::BadSignature)));
    assert_eq!(refused(&world, 0, PeerRefusal::BadSignature), 1);

    // As a server: alpha knows both, beta does not know that of alpha.
    let alpha = ControlSnapshot {
        trust: vec![ours.anchor().clone(), foreign.anchor().clone()],
        ..snapshot(&foreign, "alpha")
    };
    let mut world = World::new(vec![
        Host::new(1, 1, 1, Arc::new(alpha)),
        Host::new(2, 1, 2, Arc::new(snapshot(&ours, "beta"))),
    ]);
    world.hosts[0].endpoint(0).connect(Instant::now(), to, node("beta"), 7);
    assert_eq!(failed_dial(&mut world), (CloseReason::Tls, None));
    world.until("beta has counted", |world| refused(world, 1, PeerRefusal::BadSignature) == 1);
    assert!(world.hosts[1].is_idle() || world.hosts[1].endpoint(0).session_status().is_empty());
}

#[test]
fn another_node_than_the_dialled_one_is_refused() {
    let mut world = World::pair(1);
    let to = world.hosts[1].address;
    world.hosts[0].endpoint(0).connect(Instant::now(), to, node("gamma"), 7);
    let outcome = failed_dial(&mut world);
    assert_eq!(outcome, (CloseReason::Tls, Some(PeerRefusal::WrongNode)));
    assert_eq!(refused(&world, 0, PeerRefusal::WrongNode), 1);
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let mut world = World::pair(1);
    let to = world.hosts[1].address;
    world.clients.push(Client::dial(1, to, &ClientSetup::default()));
    world.until("the client is told", |world| world.clients[0].closed_with().is_some());
    // TLS alert 116: certificate_required.
    assert_eq!(world.clients[0].closed_with(), Some(0x100 + 116));
    world.until("beta has counted", |world| refused(world, 1, PeerRefusal::NoCertificate) == 1);
    world.until("beta has forgotten it", |world| world.hosts[1].is_idle());
}

#[test]
fn a_client_of_another_protocol_is_refused() {
    let authority = Authority::new();
    let mut world = World::of(&authority, 1, |_| {});
    let to = world.hosts[1].address;
    let snapshot = authority.snapshot("mallory");
    let setup = ClientSetup {
        snapshot: Some(&snapshot),
        protocols: &[b"h3", b"perf"],
        ..ClientSetup::default()
    };
    world.clients.push(Client::dial(1, to, &setup));
    world.until("the client is told", |world| world.clients[0].closed_with().is_some());
    // TLS alert 120: no_application_protocol. `perf` is not offered unless switched on.
    assert_eq!(world.clients[0].closed_with(), Some(0x100 + 120));
    let reason = world.event("beta names it", |host, event| match event {
        Event::ConnectionClosed { reason, .. } if host == 1 => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, CloseReason::Tls);
}

#[test]
fn an_endpoint_without_identity_neither_dials_nor_accepts() {
    let authority = Authority::new();
    let nobody = ControlSnapshot { identity: None, ..snapshot(&authority, "alpha") };
    let mut world = World::new(vec![
        Host::new(1, 1, 1, Arc::new(snapshot(&authority, "alpha"))),
        Host::new(2, 1, 2, Arc::new(nobody)),
    ]);
    assert!(world.hosts[1].endpoint(0).config_error().is_some());
    let to = world.hosts[1].address;
    world.hosts[0].endpoint(0).connect(Instant::now(), to, node("beta"), 7);
    let reason = stoq_interface::DropReason::NotAccepting.index();
    world.until("beta drops it", |world| world.hosts[1].count(|c| c.dropped[reason].get()) > 0);
    let back = world.hosts[0].address;
    world.hosts[1].endpoint(0).connect(Instant::now(), back, node("alpha"), 8);
    assert_eq!(failed_dial(&mut world).0, CloseReason::Tls);
}
