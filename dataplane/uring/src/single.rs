//! Receiving one train per request: what multishot receive replaced, kept so that its worth can be measured.
//! The train lies in a provided buffer as ever; sender and control messages lie here, so one request is
//! under way at a time.

use std::io;
use std::net::SocketAddrV6;
use std::ptr::{addr_of, addr_of_mut};

use stoq_memory::{Arena, ArenaError};
use stoq_udp::{IoSettings, Train, address};

use crate::UringIo;
use crate::provided::{CONTROL_BYTES, Filled, NAME_BYTES};

/// What the kernel reads when a request starts and writes before it completes
#[repr(C)]
struct Storage {
    header: libc::msghdr,
    name: [u8; NAME_BYTES],
    control: [u8; CONTROL_BYTES],
}

/// The storage of the one request
#[derive(Debug)]
pub(crate) struct SingleReceive {
    // Reached through its address only, as the kernel does: no reference into it outlives a method.
    arena: Arena,
}

impl SingleReceive {
    pub(crate) fn new(settings: &IoSettings) -> Result<Self, ArenaError> {
        Ok(Self { arena: Arena::new(size_of::<Storage>(), settings.node, false)? })
    }

    fn storage(&self) -> *mut Storage {
        self.arena.as_ptr().as_ptr().cast()
    }

    /// Describes the room for sender and control messages anew: the kernel has overwritten the lengths. Called
    /// while no request is under way. The header has no vector: the provided buffer is the room.
    pub(crate) fn header(&mut self) -> *mut libc::msghdr {
        let storage = self.storage();
        // SAFETY: an all-zero msghdr is a valid one without address, data and control messages.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        // SAFETY: storage points at the start of a zeroed arena that is large enough and page-aligned; only
        // addresses are taken, nothing is read.
        let (name, control) =
            unsafe { (addr_of_mut!((*storage).name), addr_of_mut!((*storage).control)) };
        header.msg_name = name.cast();
        header.msg_namelen = NAME_BYTES as libc::socklen_t;
        header.msg_control = control.cast();
        header.msg_controllen = CONTROL_BYTES;
        // SAFETY: as above; no request is under way, so the kernel neither reads nor writes the header now.
        unsafe {
            let at = addr_of_mut!((*storage).header);
            at.write(header);
            at
        }
    }

    /// The train of the request that has just completed with these octets; `None` if it has no sender
    pub(crate) fn filled<'a>(&'a self, payload: &'a mut [u8]) -> Option<Filled<'a>> {
        let storage = self.storage();
        // SAFETY: the arena is initialised and holds a Storage; the request has completed and the next is made
        // by `header`, which borrows self mutably, so the kernel writes none of it while these live.
        let (header, name, control) = unsafe {
            (
                addr_of!((*storage).header).read(),
                &*addr_of!((*storage).name),
                &*addr_of!((*storage).control),
            )
        };
        let from: SocketAddrV6 =
            address::parse(&name[..(header.msg_namelen as usize).min(NAME_BYTES)])?;
        Some(Filled {
            payload,
            control: &control[..header.msg_controllen.min(CONTROL_BYTES)],
            from,
            truncated: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        })
    }
}

impl UringIo {
    /// Where `arrived` trains came with what was asked for before: asks for one after the other until none is
    /// there, or until as many have come as multishot receive has buffers for. Returns all of them.
    pub(crate) fn receive_singly(
        &mut self,
        arrived: usize,
        on_train: &mut dyn FnMut(Train<'_>),
    ) -> io::Result<usize> {
        let most = self.memory.provided.count().min(self.trains_per_receive);
        let (mut all, mut last) = (arrived, arrived);
        while last > 0 && all < most {
            self.ring.submit()?;
            last = self.reap(on_train)?;
            self.arm()?;
            all += last;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_described_anew_and_read_back() {
        let mut single = SingleReceive::new(&IoSettings::default()).unwrap();
        assert!(single.filled(&mut []).is_none(), "nobody has sent anything");
        let header = single.header();
        // SAFETY: the header was written just now and no kernel knows it; the room it names is the arena's.
        unsafe {
            assert_eq!(((*header).msg_namelen, (*header).msg_iovlen), (NAME_BYTES as u32, 0));
            assert_eq!((*header).msg_controllen, CONTROL_BYTES);
            let mut name = [0; NAME_BYTES];
            name[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            name[2..4].copy_from_slice(&8444u16.to_be_bytes());
            (*header).msg_name.cast::<[u8; NAME_BYTES]>().write(name);
            (*header).msg_namelen = 28;
            (*header).msg_controllen = 24;
            (*header).msg_flags = libc::MSG_TRUNC;
        }
        let mut payload = *b"hello";
        let filled = single.filled(&mut payload).unwrap();
        assert_eq!((filled.from.port(), filled.control.len()), (8444, 24));
        assert!(filled.truncated && &*filled.payload == b"hello");
        let header = single.header();
        // SAFETY: as above.
        assert_eq!(unsafe { (*header).msg_namelen }, NAME_BYTES as u32);
        assert!(!single.filled(&mut payload).unwrap().truncated);
    }
}
