//! Datagrams from strangers at an endpoint with an identity: nothing panics, nothing grows beyond the
//! limits, and no more is sent to an unproven address than it sent. Input: any number of datagrams, each
//! behind its length in two octets.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use stoq_interface::{ControlSnapshot, Limits, WorkerCounters};
use stoq_simulation::pki::Authority;
use stoq_transport::{Endpoint, EndpointSecrets, EndpointSetup};

const CONNECTIONS: usize = 4;

static SNAPSHOT: LazyLock<Arc<ControlSnapshot>> = LazyLock::new(|| {
    let limits = Limits {
        connections_per_worker: CONNECTIONS,
        retry_above_half_open: 2,
        ..Limits::default()
    };
    Arc::new(ControlSnapshot { limits, ..Authority::new().snapshot("alpha") })
});

fuzz_target!(|data: &[u8]| {
    let now = Instant::now();
    let mut endpoint = Endpoint::new(EndpointSetup {
        worker: 0,
        workers: 1,
        local: "[::1]:8444".parse().expect("an address"),
        secrets: EndpointSecrets { token: [1; 32], reset: [2; 32], steering: 3 },
        seed: 4,
        snapshot: Arc::clone(&SNAPSHOT),
        counters: Arc::new(WorkerCounters::default()),
    });
    let from = "[2001:db8::1]:9".parse().expect("an address");
    let (mut received, mut sent) = (0, 0);
    let mut slab = vec![0; 65_536];
    let mut rest = data;
    while let Some((&[high, low], tail)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(tail.len());
        let (datagram, tail) = tail.split_at(length);
        rest = tail;
        received += datagram.len();
        endpoint.handle_datagram(now, &mut datagram.to_vec(), from);
        endpoint.settle(now);
        while let Some(train) = endpoint.poll_transmit(now, &mut slab, 16) {
            sent += train.bytes;
        }
    }
    assert!(endpoint.connection_status(now).len() <= CONNECTIONS);
    assert!(endpoint.session_status().is_empty(), "nobody has proved who they are");
    assert!(sent <= 3 * received, "{sent} octets for {received}");
});
