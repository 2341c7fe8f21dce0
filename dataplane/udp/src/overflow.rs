//! How many packets the kernel dropped because this socket's buffer was full (`SO_RXQ_OVFL`): told with a
//! datagram, as a running 32-bit total of the socket.

use std::io;

use crate::control_message::{Message, space_bytes, value_u32};
use crate::socket::Socket;

/// Octets the control message takes
pub const CONTROL_BYTES: usize = space_bytes(size_of::<u32>());

/// Asks the kernel to tell the total with every datagram
pub fn enable(socket: &Socket) -> io::Result<()> {
    socket.set_option(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)
}

/// The socket's total, if this is the message that tells it
pub fn parse(message: &Message<'_>) -> Option<u32> {
    (message.level == libc::SOL_SOCKET && message.kind == libc::SO_RXQ_OVFL)
        .then(|| value_u32(message.value))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_message::{ControlBuffer, Messages};

    #[test]
    fn reads_the_total() {
        let mut control = ControlBuffer::<64>::default();
        control.push(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &77u32.to_ne_bytes()).unwrap();
        control.push(libc::SOL_UDP, libc::SO_RXQ_OVFL, &78u32.to_ne_bytes()).unwrap();
        let read: Vec<_> = Messages::new(control.as_bytes()).map(|m| parse(&m)).collect();
        assert_eq!(read, [Some(77), None]);
    }
}
