//! UDP and TCP sockets as every peer gets them: IPv6 only, with buffers of 32 MiB where the kernel allows it.

use std::net::{SocketAddr, SocketAddrV6};

use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::Failure;

/// Size asked for each buffer of a socket, in octets
pub const BUFFER_BYTES: usize = 32 << 20;
/// Connections that may wait to be accepted
const BACKLOG: i32 = 4_096;

/// Most octets of one UDP datagram over IPv6, before it is cut into segments
const DATAGRAM_BYTES: usize = 65_535 - 8;

/// Segments of `payload` octets that one send can carry
pub const fn segments_that_fit(payload: usize) -> usize {
    let segments = DATAGRAM_BYTES / payload;
    if segments == 0 { 1 } else { segments }
}

/// A bound, non-blocking UDP socket
///
/// # Errors
/// Where the address cannot be had.
pub fn udp(address: SocketAddrV6) -> Result<std::net::UdpSocket, Failure> {
    let socket = bound(Type::DGRAM, Protocol::UDP, address)?;
    buffers(&socket)?;
    Ok(socket.into())
}

/// A listening, non-blocking TCP socket
///
/// # Errors
/// Where the address cannot be had.
pub fn tcp_listener(address: SocketAddrV6, mss: u32) -> Result<std::net::TcpListener, Failure> {
    let socket = bound(Type::STREAM, Protocol::TCP, address)?;
    socket.set_tcp_mss(mss)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A non-blocking TCP socket that is not connected yet
///
/// # Errors
/// Where the kernel has no more sockets.
pub fn tcp(mss: u32) -> Result<Socket, Failure> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_mss(mss)?;
    Ok(socket)
}

fn bound(kind: Type, protocol: Protocol, address: SocketAddrV6) -> Result<Socket, Failure> {
    let socket = Socket::new(Domain::IPV6, kind, Some(protocol))?;
    socket.set_only_v6(true)?;
    socket.set_nonblocking(true)?;
    socket
        .bind(&SocketAddr::V6(address).into())
        .map_err(|cause| format!("cannot bind {address}: {cause}; name a free local address"))?;
    Ok(socket)
}

/// The forced sizes need CAP_NET_ADMIN; without it the kernel cuts the plain ones to its limits
fn buffers(socket: &Socket) -> Result<(), Failure> {
    if sockopt::set_socket_recv_buffer_size_force(socket, BUFFER_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(socket, BUFFER_BYTES)?;
    }
    if sockopt::set_socket_send_buffer_size_force(socket, BUFFER_BYTES).is_err() {
        sockopt::set_socket_send_buffer_size(socket, BUFFER_BYTES)?;
    }
    Ok(())
}

/// What there is to say about the buffers of a UDP socket, if they are not what was asked for
pub fn note(socket: &std::net::UdpSocket) -> Result<Option<String>, Failure> {
    // The kernel reports twice what it was asked for: its own bookkeeping is in there.
    let received = sockopt::socket_recv_buffer_size(socket)? / 2;
    Ok((received < BUFFER_BYTES).then(|| {
        format!("socket receive buffer is {received} octets: net.core.rmem_max limits it")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_the_buffers_or_says_that_it_has_not() {
        let socket = udp("[::1]:0".parse().unwrap()).unwrap();
        let size = sockopt::socket_recv_buffer_size(&socket).unwrap() / 2;
        assert_eq!(note(&socket).unwrap().is_some(), size < BUFFER_BYTES);
        assert!(socket.local_addr().unwrap().is_ipv6());
    }

    #[test]
    fn an_address_of_another_host_is_refused_by_name() {
        let failure = udp("[2001:db8::1]:1".parse().unwrap()).unwrap_err().to_string();
        assert!(failure.contains("2001:db8::1"), "{failure}");
    }

    #[test]
    fn a_send_never_exceeds_a_datagram() {
        for payload in [1_200, 1_452, 8_952, 40_000, 65_000] {
            let segments = segments_that_fit(payload);
            assert!(
                segments * payload <= DATAGRAM_BYTES && (segments + 1) * payload > DATAGRAM_BYTES
            );
        }
    }
}
