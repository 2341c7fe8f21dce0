//! The `perf` protocol against a client that knows nothing but QUIC: eight octets ask for bytes, both kinds
//! of streams, uploads drained; and nothing of it where it is not switched on (see `handshake`).

mod support;

use std::collections::HashMap;

use stoq_interface::ALPN_PERF;
use stoq_simulation::pki::Authority;
use support::{Client, ClientSetup, World};

/// Reads everything readable; bytes and end by stream
fn read(client: &mut Client, seen: &mut HashMap<u64, (u64, bool)>) {
    let mut buffer = [0; 65_536];
    while let Some(stream) = client.quic.stream_readable_next() {
        while let Ok((length, end)) = client.quic.stream_recv(stream, &mut buffer) {
            assert!(buffer[..length].iter().all(|octet| *octet == 0));
            let entry = seen.entry(stream).or_default();
            entry.0 += length as u64;
            entry.1 |= end;
        }
    }
}

#[test]
fn downloads_and_uploads_on_both_kinds_of_streams() {
    let authority = Authority::new();
    let mut world = World::of(&authority, 1, |snapshot| snapshot.transport.perf = true);
    let snapshot = authority.snapshot("mallory");
    let setup = ClientSetup {
        snapshot: Some(&snapshot),
        protocols: &[ALPN_PERF],
        ..ClientSetup::default()
    };
    let to = world.hosts[1].address;
    world.clients.push(Client::dial(1, to, &setup));
    world.until("the handshake", |world| world.clients[0].quic.is_established());
    let client = &mut world.clients[0];
    client.write(0, &5_000_000u64.to_be_bytes(), true);
    client.write(4, &[&100u64.to_be_bytes()[..], &[1; 5_000]].concat(), true);
    client.write(2, &3_000_000u64.to_be_bytes(), true);
    client.write(6, &[&0u64.to_be_bytes()[..], &[1; 5_000]].concat(), true);
    // The request may arrive octet by octet.
    client.write(8, &[0; 7], false);
    let mut seen = HashMap::new();
    let mut late = false;
    world.until("all answers", |world| {
        let client = &mut world.clients[0];
        read(client, &mut seen);
        if !late && seen.contains_key(&4) {
            late = true;
            client.write(8, &[10], true);
        }
        let ended = seen.values().filter(|(_, end)| *end).count();
        ended == 4
    });
    assert_eq!(seen[&0], (5_000_000, true));
    assert_eq!(seen[&4], (100, true));
    assert_eq!(seen[&8], (10, true));
    // The first stream the server opens answers the request of stream 2; that of stream 6 wants nothing.
    assert_eq!(seen[&3], (3_000_000, true));
    assert_eq!(seen.len(), 4);
    assert!(world.hosts[1].endpoint(0).session_status().is_empty());
}
