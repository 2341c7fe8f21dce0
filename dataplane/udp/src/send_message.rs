//! The storage of one `sendmsg`: header, vector, address and control messages in one place that does not move
//! while the kernel may read it. Providers keep one per send slab, so that sending allocates nothing.

use crate::address::{ADDRESS_BYTES, to_kernel};
use crate::control_message::ControlBuffer;
use crate::{Transmit, gso, pktinfo};

const CONTROL_BYTES: usize = gso::CONTROL_BYTES + pktinfo::CONTROL_BYTES;

/// A `msghdr` and all it points at but the payload
#[derive(Debug)]
pub struct SendMessage {
    header: libc::msghdr,
    vector: libc::iovec,
    name: libc::sockaddr_in6,
    control: ControlBuffer<CONTROL_BYTES>,
}

impl Default for SendMessage {
    fn default() -> Self {
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: an all-zero msghdr and sockaddr_in6 are valid: no address, no data, no control messages.
        let (header, name) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Self { header, vector: nothing, name, control: ControlBuffer::default() }
    }
}

impl SendMessage {
    /// Describes sending `transmit.bytes` octets at `payload`. The header that is returned points into `self`
    /// and at the payload: it is good until either moves, ends or is described anew.
    pub fn describe(&mut self, payload: *mut u8, transmit: &Transmit) -> *const libc::msghdr {
        const ROOM: &str = "the buffer has room for one message of each kind";
        self.vector.iov_base = payload.cast();
        self.vector.iov_len = transmit.bytes;
        self.name = to_kernel(&transmit.to);
        self.control.clear();
        // A train of one datagram is sent as such: not every route can segment.
        if transmit.bytes > transmit.segment_bytes {
            // Transmit::is_valid bounds the segment size; a larger one would not be segmented.
            let segment = u16::try_from(transmit.segment_bytes).unwrap_or(u16::MAX);
            gso::push(&mut self.control, segment).expect(ROOM);
        }
        if let Some(from) = transmit.from {
            pktinfo::push(&mut self.control, from, transmit.to.scope_id()).expect(ROOM);
        }
        self.header.msg_name = (&raw mut self.name).cast();
        self.header.msg_namelen = ADDRESS_BYTES as libc::socklen_t;
        self.header.msg_iov = &raw mut self.vector;
        self.header.msg_iovlen = 1;
        let control_bytes = self.control.as_bytes().len();
        self.header.msg_control = if control_bytes == 0 {
            std::ptr::null_mut()
        } else {
            self.control.as_mut_bytes().as_mut_ptr().cast()
        };
        self.header.msg_controllen = control_bytes;
        &raw const self.header
    }

    /// The header as described last, for arrays of headers; the same conditions hold
    pub fn header(&self) -> libc::msghdr {
        self.header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv6Addr, SocketAddrV6};

    #[test]
    fn carries_only_what_is_needed() {
        let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 9, 0, 0);
        let mut transmit = Transmit { bytes: 1452, segment_bytes: 1452, to, from: None };
        let mut message = SendMessage::default();
        let mut payload = [0u8; 8];
        message.describe(payload.as_mut_ptr(), &transmit);
        assert_eq!((message.header.msg_controllen, message.header.msg_iovlen), (0, 1));
        assert!(message.header.msg_control.is_null());
        transmit.bytes += 1;
        message.describe(payload.as_mut_ptr(), &transmit);
        assert_eq!(message.header.msg_controllen, gso::CONTROL_BYTES);
        transmit.from = Some(Ipv6Addr::LOCALHOST);
        message.describe(payload.as_mut_ptr(), &transmit);
        assert_eq!(message.header.msg_controllen, CONTROL_BYTES);
        assert_eq!(message.vector.iov_len, 1453);
    }
}
