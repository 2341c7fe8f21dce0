//! Which local address a datagram came to, and which one an answer leaves from (`IPV6_PKTINFO`, RFC 3542
//! section 6): a server bound to `::` must answer from the address it was called at.

use std::io;
use std::net::Ipv6Addr;

use crate::control_message::{ControlBuffer, Message, NoRoom, space_bytes};
use crate::socket::Socket;

const VALUE_BYTES: usize = 20;

/// Octets the control message takes
pub const CONTROL_BYTES: usize = space_bytes(VALUE_BYTES);

/// Asks the kernel to tell the local address of every datagram
pub fn enable(socket: &Socket) -> io::Result<()> {
    socket.set_option(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
}

/// Sends from `from`. A link-local address needs the interface too: the destination's scope.
pub fn push<const N: usize>(
    control: &mut ControlBuffer<N>,
    from: Ipv6Addr,
    scope_id: u32,
) -> Result<(), NoRoom> {
    let interface = if from.is_unicast_link_local() { scope_id } else { 0 };
    let mut value = [0u8; VALUE_BYTES];
    value[..16].copy_from_slice(&from.octets());
    value[16..].copy_from_slice(&interface.to_ne_bytes());
    control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &value)
}

/// The local address and the interface index, if this is the message that tells them
pub fn parse(message: &Message<'_>) -> Option<(Ipv6Addr, u32)> {
    if message.level != libc::IPPROTO_IPV6 || message.kind != libc::IPV6_PKTINFO {
        return None;
    }
    let (address, rest) = message.value.split_first_chunk::<16>()?;
    let interface = u32::from_ne_bytes(rest.try_into().ok()?);
    Some((Ipv6Addr::from(*address), interface))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_message::Messages;

    fn round_trip(from: &str, scope_id: u32) -> Option<(Ipv6Addr, u32)> {
        let mut control = ControlBuffer::<CONTROL_BYTES>::default();
        push(&mut control, from.parse().unwrap(), scope_id).unwrap();
        Messages::new(control.as_bytes()).find_map(|message| parse(&message))
    }

    #[test]
    fn control_message_round_trip() {
        assert_eq!(round_trip("2001:db8::5", 9), Some(("2001:db8::5".parse().unwrap(), 0)));
        assert_eq!(round_trip("fe80::5", 9), Some(("fe80::5".parse().unwrap(), 9)));
    }

    #[test]
    fn a_value_of_another_length_is_nothing() {
        let mut control = ControlBuffer::<64>::default();
        control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &[0; 19]).unwrap();
        assert!(Messages::new(control.as_bytes()).all(|message| parse(&message).is_none()));
    }
}
