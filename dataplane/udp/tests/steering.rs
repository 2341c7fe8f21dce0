//! Steering and port ownership against the real kernel: which socket of a group gets which datagram, and who
//! is kept out.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use stoq_udp::{
    CONNECTION_ID_BYTES, PortLock, Socket, SocketError, SocketGroup, SocketOptions, Steering,
};

const WORKERS: usize = 4;

fn any_port() -> SocketAddrV6 {
    SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0)
}

fn connection_id(steering: &Steering, worker: usize, number: u32) -> [u8; CONNECTION_ID_BYTES] {
    let mut id = [0x5a; CONNECTION_ID_BYTES];
    id[8..].copy_from_slice(&number.to_be_bytes());
    steering.place(&mut id, worker, number.wrapping_mul(0x9e37_79b9));
    id
}

fn short(id: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x40];
    datagram.extend(id);
    datagram.extend([0; 30]);
    datagram
}

fn long(first: u8, id: &[u8]) -> Vec<u8> {
    let mut datagram = vec![first, 0, 0, 0, 1, id.len() as u8];
    datagram.extend(id);
    datagram.extend([0; 30]);
    datagram
}

fn group(steering: &Steering) -> (SocketAddrV6, Vec<UdpSocket>, PortLock) {
    let group =
        SocketGroup::bind(any_port(), WORKERS, &SocketOptions::default(), Some(steering)).unwrap();
    assert!(group.steered());
    let address = group.address();
    let (sockets, lock) = group.into_parts();
    let sockets = sockets.into_iter().map(|s| UdpSocket::from(OwnedFd::from(s))).collect();
    (address, sockets, lock)
}

/// Waits for one datagram on the socket that should get it, and makes sure no other socket got one
fn arrival(sockets: &[UdpSocket], expected: usize, datagram: &[u8]) {
    let mut buffer = [0; 2048];
    sockets[expected].set_nonblocking(false).unwrap();
    sockets[expected].set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (bytes, _) = sockets[expected]
        .recv_from(&mut buffer)
        .unwrap_or_else(|error| panic!("socket {expected} got nothing: {error}"));
    assert_eq!(&buffer[..bytes], datagram);
    sockets[expected].set_nonblocking(true).unwrap();
    for (index, socket) in sockets.iter().enumerate() {
        assert!(socket.recv_from(&mut buffer).is_err(), "socket {index} got a stray datagram");
    }
}

#[test]
fn every_datagram_reaches_the_worker_its_connection_id_names() {
    let steering = Steering::new(0x7feb_352d, WORKERS as u32);
    let (address, sockets, _lock) = group(&steering);
    let client = UdpSocket::bind(any_port()).unwrap();
    for number in 0..256u32 {
        let worker = number as usize % WORKERS;
        let id = connection_id(&steering, worker, number);
        // Short header, Handshake and Retry: the sender's port, and so its hash, changes nothing.
        for datagram in [short(&id), long(0xe3, &id), long(0xf0, &id)] {
            assert_eq!(steering.worker_of_datagram(&datagram), Some(worker));
            client.send_to(&datagram, address).unwrap();
            arrival(&sockets, worker, &datagram);
        }
    }
}

#[test]
fn first_flights_and_foreign_ids_go_by_processor() {
    let core = stoq_memory::host_topology().unwrap().cores[0].index;
    stoq_memory::bind_current_thread(core).unwrap();
    let steering = Steering::new(0x846c_a68b, WORKERS as u32);
    let (address, sockets, _lock) = group(&steering);
    let client = UdpSocket::bind(any_port()).unwrap();
    let elsewhere = (core + 1) % WORKERS;
    let id = connection_id(&steering, elsewhere, 1);
    // Initial, 0-RTT, an ID of another length, and datagrams too short to have one.
    let datagrams =
        [long(0xc3, &id), long(0xd3, &id), long(0xe3, &id[..8]), vec![0x40, 1], long(0xe3, &[])];
    for datagram in datagrams {
        assert_eq!(steering.worker_of_datagram(&datagram), None);
        client.send_to(&datagram, address).unwrap();
        // Loopback delivers on the processor that sends.
        arrival(&sockets, core % WORKERS, &datagram);
    }
}

#[test]
fn a_group_refuses_everybody_else() {
    let steering = Steering::new(1, 2);
    let options = SocketOptions::default();
    let group = SocketGroup::bind(any_port(), 2, &options, Some(&steering)).unwrap();
    let address = group.address();
    // Another STOQ, whatever address it wants the port on.
    let other = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, address.port(), 0, 0);
    for wanted in [address, other] {
        let error = SocketGroup::bind(wanted, 2, &options, Some(&steering)).unwrap_err();
        assert!(
            matches!(error, SocketError::PortHeld { port } if port == address.port()),
            "{error}"
        );
    }
    // Another program, without the lock.
    let error = Socket::bind(address, &options).unwrap_err();
    assert!(matches!(error, SocketError::PortInUse { .. }), "{error}");
    drop(group);
    SocketGroup::bind(address, 2, &options, Some(&steering)).unwrap();
}

#[test]
fn a_port_of_another_program_is_found_even_if_it_would_share() {
    let sharing = SocketOptions { reuse_port: true, ..SocketOptions::default() };
    let foreign = Socket::bind(any_port(), &sharing).unwrap();
    let error =
        SocketGroup::bind(foreign.local_address(), 2, &SocketOptions::default(), None).unwrap_err();
    assert!(matches!(error, SocketError::PortInUse { .. }), "{error}");
}

#[test]
fn impossible_groups_are_refused_and_one_socket_needs_no_program() {
    let options = SocketOptions::default();
    for sockets in [0, 65_537] {
        let error = SocketGroup::bind(any_port(), sockets, &options, None).unwrap_err();
        assert!(matches!(error, SocketError::GroupSize { .. }));
    }
    let steering = Steering::new(1, 1);
    let one = SocketGroup::bind(any_port(), 1, &options, Some(&steering)).unwrap();
    assert!(!one.steered());
    assert_eq!(one.into_parts().0.len(), 1);
}
