//! Generic segmentation offload: one send of many equal datagrams (`UDP_SEGMENT`, `udp(7)`). This room
//! writes the control message and finds out how many segments the kernel takes.

use std::io;

use crate::address::to_kernel;
use crate::control_message::{ControlBuffer, NoRoom, space_bytes};
use crate::socket::Socket;

/// Octets the control message takes
pub const CONTROL_BYTES: usize = space_bytes(size_of::<u16>());

/// Segment limits kernels have had (`UDP_MAX_SEGMENTS`), the largest first: newer ones 128, older ones 64
pub const LIMITS: [usize; 2] = [128, 64];

/// Asks for segments of `segment_bytes`; leave it out when there is only one
pub fn push<const N: usize>(
    control: &mut ControlBuffer<N>,
    segment_bytes: u16,
) -> Result<(), NoRoom> {
    control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment_bytes.to_ne_bytes())
}

/// Sends `payload` from `socket` to itself in segments of `segment_bytes`: whether the kernel takes it
///
/// # Errors
/// What `sendmsg(2)` reports: `EINVAL` for too many segments, `EIO` where the route has no checksum offload.
pub fn send_to_self(socket: &Socket, payload: &[u8], segment_bytes: u16) -> io::Result<()> {
    let mut control = ControlBuffer::<CONTROL_BYTES>::default();
    push(&mut control, segment_bytes).map_err(io::Error::other)?;
    let address = to_kernel(&socket.local_address());
    socket.send_message(&address, payload, control.as_bytes())
}

/// The largest number of segments the kernel takes in one send on loopback; 1 means that segmentation
/// offload does not work here, with the reason
pub fn probe_limit(socket: &Socket) -> (usize, Option<io::Error>) {
    const SEGMENT_BYTES: u16 = 16;
    let payload = [0u8; LIMITS[0] * SEGMENT_BYTES as usize];
    let mut refusal = None;
    for limit in LIMITS {
        match send_to_self(socket, &payload[..limit * SEGMENT_BYTES as usize], SEGMENT_BYTES) {
            Ok(()) => return (limit, None),
            Err(error) => refusal = Some(error),
        }
    }
    (1, refusal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_message::{Message, Messages};
    use crate::socket::SocketOptions;
    use std::net::{Ipv6Addr, SocketAddrV6};

    #[test]
    fn control_message_round_trip() {
        let mut control = ControlBuffer::<CONTROL_BYTES>::default();
        push(&mut control, 1452).unwrap();
        let read: Vec<Message<'_>> = Messages::new(control.as_bytes()).collect();
        assert_eq!(read, [Message { level: 17, kind: 103, value: &1452u16.to_ne_bytes() }]);
        assert!(push(&mut control, 1).is_err(), "the buffer holds one message only");
    }

    #[test]
    fn the_probed_limit_is_the_last_one_that_works() {
        let address = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
        let socket = Socket::bind(address, &SocketOptions::default()).unwrap();
        let (limit, refusal) = probe_limit(&socket);
        assert!(LIMITS.contains(&limit), "{limit}: {refusal:?}");
        assert!(refusal.is_none());
        let payload = vec![0u8; (limit + 1) * 16];
        assert!(send_to_self(&socket, &payload, 16).is_err());
        assert!(send_to_self(&socket, &payload[..limit * 16], 16).is_ok());
    }
}
