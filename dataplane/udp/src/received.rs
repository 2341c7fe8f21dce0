//! Everything the kernel tells beside a datagram's octets, read from the control messages in one pass.

use std::net::Ipv6Addr;

use crate::control_message::Messages;
use crate::{gro, overflow, pktinfo};

/// Room for all control messages a socket of this crate is told: segment size, local address, overflow
pub const RECEIVE_CONTROL_BYTES: usize =
    gro::CONTROL_BYTES + pktinfo::CONTROL_BYTES + overflow::CONTROL_BYTES;

/// What came with one train
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReceivedControl {
    /// Octets of each segment; absent when the train is one datagram
    pub segment_bytes: Option<usize>,
    /// Local address it came to
    pub to: Option<Ipv6Addr>,
    /// The socket's running total of dropped packets; absent while it is zero
    pub overflows: Option<u32>,
}

impl ReceivedControl {
    /// Reads the control messages as the kernel left them
    pub fn parse(control: &[u8]) -> Self {
        let mut read = Self::default();
        for message in Messages::new(control) {
            if let Some(bytes) = gro::parse(&message) {
                read.segment_bytes = Some(bytes);
            } else if let Some((address, _)) = pktinfo::parse(&message) {
                read.to = Some(address);
            } else if let Some(total) = overflow::parse(&message) {
                read.overflows = Some(total);
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_message::ControlBuffer;

    #[test]
    fn reads_all_three_in_any_order_and_skips_others() {
        let mut control = ControlBuffer::<{ RECEIVE_CONTROL_BYTES + 24 }>::default();
        control.push(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &3u32.to_ne_bytes()).unwrap();
        control.push(libc::SOL_SOCKET, libc::SCM_RIGHTS, &[0; 4]).unwrap();
        pktinfo::push(&mut control, Ipv6Addr::LOCALHOST, 0).unwrap();
        control.push(libc::SOL_UDP, libc::UDP_GRO, &8952i32.to_ne_bytes()).unwrap();
        let expected = ReceivedControl {
            segment_bytes: Some(8952),
            to: Some(Ipv6Addr::LOCALHOST),
            overflows: Some(3),
        };
        assert_eq!(ReceivedControl::parse(control.as_bytes()), expected);
        assert_eq!(ReceivedControl::parse(&[]), ReceivedControl::default());
    }
}
