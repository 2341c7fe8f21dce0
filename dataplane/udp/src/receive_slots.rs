//! The storage of one `recvmmsg`: headers, addresses, control messages and 64 KiB of buffer per message,
//! prepared once. Smaller buffers would cut merged trains off.

use std::io;
use std::net::SocketAddrV6;
use std::os::fd::{AsFd, AsRawFd};

use stoq_memory::Arena;

use crate::address::{ADDRESS_BYTES, from_kernel};
use crate::control_message::ControlBuffer;
use crate::{IoSettings, IoSetupError, RECEIVE_CONTROL_BYTES, Socket};

const BUFFER_BYTES: usize = 65_536;

/// One received message
pub(crate) struct ReceivedSlot<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) control: &'a [u8],
    pub(crate) from: SocketAddrV6,
    pub(crate) truncated: bool,
}

#[derive(Debug)]
pub(crate) struct ReceiveSlots {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_in6]>,
    controls: Box<[ControlBuffer<RECEIVE_CONTROL_BYTES>]>,
    arena: Arena,
    // How many messages the last call filled.
    filled: usize,
}

impl ReceiveSlots {
    pub(crate) fn new(slots: usize, settings: &IoSettings) -> Result<Self, IoSetupError> {
        let arena = Arena::new(slots * BUFFER_BYTES, settings.node, settings.prefer_huge)?;
        let vectors = (0..slots)
            .map(|index| libc::iovec {
                // SAFETY: index is below the number of buffers the arena was made for.
                iov_base: unsafe { arena.as_ptr().add(index * BUFFER_BYTES) }.as_ptr().cast(),
                iov_len: BUFFER_BYTES,
            })
            .collect();
        // SAFETY: all-zero headers and addresses are valid: no address, no data, no control messages.
        let (header, name) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Ok(Self {
            headers: vec![header; slots].into_boxed_slice(),
            vectors,
            names: vec![name; slots].into_boxed_slice(),
            controls: vec![ControlBuffer::default(); slots].into_boxed_slice(),
            arena,
            filled: 0,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.headers.len()
    }

    /// Receives as many messages as there are and fit; none is not an error
    pub(crate) fn receive(&mut self, socket: &Socket) -> io::Result<usize> {
        // The kernel overwrites lengths and flags, so all headers are described anew.
        for (index, header) in self.headers.iter_mut().enumerate() {
            let header = &mut header.msg_hdr;
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_namelen = ADDRESS_BYTES as libc::socklen_t;
            header.msg_iov = &raw mut self.vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].as_mut_bytes().as_mut_ptr().cast();
            header.msg_controllen = RECEIVE_CONTROL_BYTES;
            header.msg_flags = 0;
        }
        // SAFETY: every header points at boxed storage and arena memory of this struct with the true
        // lengths; all of it is borrowed mutably during the call, so nobody else touches it.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        self.filled = 0;
        if let Ok(received) = usize::try_from(received) {
            self.filled = received.min(self.headers.len());
            return Ok(self.filled);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
            _ => Err(error),
        }
    }

    /// Message `index` of the last call; `None` if there is none or its sender cannot be read
    pub(crate) fn train(&mut self, index: usize) -> Option<ReceivedSlot<'_>> {
        if index >= self.filled {
            return None;
        }
        let header = &self.headers[index];
        let from = from_kernel(&self.names[index])?;
        let control_bytes = header.msg_hdr.msg_controllen.min(RECEIVE_CONTROL_BYTES);
        let bytes = (header.msg_len as usize).min(BUFFER_BYTES);
        let truncated = header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
        // SAFETY: buffer `index` lies in the arena, which is initialised; slots do not overlap and self is
        // borrowed mutably for as long as the slice lives.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(
                self.arena.as_ptr().add(index * BUFFER_BYTES).as_ptr(),
                bytes,
            )
        };
        let control = &self.controls[index].as_mut_bytes()[..control_bytes];
        Some(ReceivedSlot { bytes, control, from, truncated })
    }
}
