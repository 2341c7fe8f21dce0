//! Generic receive offload: the kernel hands over a run of equal datagrams of one sender as one train
//! (`UDP_GRO`, `udp(7)`). This room switches it on and reads the segment size.

use std::io;

use crate::control_message::{Message, space_bytes, value_u32};
use crate::socket::Socket;

/// Octets the control message takes: the kernel writes an `int`
pub const CONTROL_BYTES: usize = space_bytes(size_of::<libc::c_int>());

/// Switches receive offload on
pub fn enable(socket: &Socket) -> io::Result<()> {
    socket.set_option(libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// The segment size in octets, if this is the message that tells it; without one the train is one datagram
pub fn parse(message: &Message<'_>) -> Option<usize> {
    if message.level != libc::SOL_UDP || message.kind != libc::UDP_GRO {
        return None;
    }
    value_u32(message.value)
        .map(|bytes| bytes as usize)
        .filter(|bytes| (1..=65_535).contains(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_message::{ControlBuffer, Messages};

    #[test]
    fn reads_the_segment_size_and_nothing_else() {
        let mut control = ControlBuffer::<128>::default();
        control.push(libc::SOL_UDP, libc::UDP_GRO, &1452i32.to_ne_bytes()).unwrap();
        control.push(libc::SOL_UDP, libc::UDP_GRO, &0i32.to_ne_bytes()).unwrap();
        control.push(libc::SOL_UDP, libc::UDP_GRO, &(-1i32).to_ne_bytes()).unwrap();
        control.push(libc::SOL_UDP, libc::UDP_GRO, &[1, 2]).unwrap();
        control.push(libc::SOL_SOCKET, libc::UDP_GRO, &9i32.to_ne_bytes()).unwrap();
        let read: Vec<_> = Messages::new(control.as_bytes()).map(|m| parse(&m)).collect();
        assert_eq!(read, [Some(1452), None, None, None, None]);
    }
}
