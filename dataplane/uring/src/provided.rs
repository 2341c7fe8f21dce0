//! The buffers the kernel receives into, and the ring through which it is given them. Each holds a whole
//! merged train: the incremental kind of ring (IOU_PBUF_RING_INC) would cut trains at a buffer's tail without
//! a word, so it is never used.

use std::io;
use std::net::SocketAddrV6;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use stoq_memory::Arena;
use stoq_udp::{IoSettings, IoSetupError, RECEIVE_CONTROL_BYTES, address};

/// The one buffer group of a ring
pub(crate) const GROUP: u16 = 0;

// A buffer as multishot receive fills it: four numbers, sender, control messages, payload.
const NUMBERS_BYTES: usize = 16;
pub(crate) const NAME_BYTES: usize = 32;
pub(crate) const CONTROL_BYTES: usize = 144;
const PAYLOAD_AT: usize = NUMBERS_BYTES + NAME_BYTES + CONTROL_BYTES;
const PAYLOAD_BYTES: usize = 65_536;
const BUFFER_BYTES: usize = PAYLOAD_AT + PAYLOAD_BYTES;
const _: () =
    assert!(CONTROL_BYTES >= RECEIVE_CONTROL_BYTES && NAME_BYTES >= address::ADDRESS_BYTES);
const _: () = assert!(PAYLOAD_AT.is_multiple_of(64), "payloads start on a cache line");

const ENTRIES_MAX: u16 = 32_768;

/// The header that tells multishot receive how much room to leave before the payload
pub(crate) fn receive_header() -> libc::msghdr {
    // SAFETY: an all-zero msghdr is a valid one without address, data and control messages.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_namelen = NAME_BYTES as libc::socklen_t;
    header.msg_controllen = CONTROL_BYTES;
    header
}

/// One received train in its buffer
#[derive(Debug)]
pub(crate) struct Filled<'a> {
    pub(crate) payload: &'a mut [u8],
    pub(crate) control: &'a [u8],
    pub(crate) from: SocketAddrV6,
    pub(crate) truncated: bool,
}

impl<'a> Filled<'a> {
    /// Reads a buffer of which the kernel filled `buffer`; `None` if it does not hold together
    fn parse(buffer: &'a mut [u8]) -> Option<Self> {
        let (head, payload) = buffer.split_at_mut_checked(PAYLOAD_AT)?;
        let number = |at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(*head.get(at..)?.first_chunk()?))
        };
        let (name_bytes, control_bytes) = (number(0)? as usize, number(4)? as usize);
        let (payload_bytes, flags) = (number(8)? as usize, number(12)? as libc::c_int);
        let (name, control) = head[NUMBERS_BYTES..].split_at(NAME_BYTES);
        let from = address::parse(&name[..name_bytes.min(NAME_BYTES)])?;
        // The kernel tells the length the datagram had; what is missing here was cut off.
        let cut = flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0
            || payload_bytes > payload.len()
            || control_bytes > CONTROL_BYTES;
        let payload_bytes = payload_bytes.min(payload.len());
        Some(Self {
            payload: &mut payload[..payload_bytes],
            control: &control[..control_bytes.min(CONTROL_BYTES)],
            from,
            truncated: cut,
        })
    }
}

/// The buffers and their ring
#[derive(Debug)]
pub(crate) struct ProvidedBuffers {
    ring: Arena,
    buffers: Arena,
    entries: u16,
    tail: u16,
}

impl ProvidedBuffers {
    pub(crate) fn new(settings: &IoSettings) -> Result<Self, IoSetupError> {
        let entries = settings.receive_buffers;
        if !entries.is_power_of_two() || entries > ENTRIES_MAX {
            return Err(IoSetupError::ReceiveBuffers(entries));
        }
        let ring_bytes = usize::from(entries) * size_of::<BufRingEntry>();
        Ok(Self {
            ring: Arena::new(ring_bytes, settings.node, false)?,
            buffers: Arena::new(
                usize::from(entries) * BUFFER_BYTES,
                settings.node,
                settings.prefer_huge,
            )?,
            entries,
            tail: 0,
        })
    }

    /// Tells the kernel about the ring and gives it every buffer
    pub(crate) fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        // SAFETY: the arena is page-aligned, zeroed and holds this many entries; the provider keeps it until
        // the group is unregistered, or for ever.
        unsafe {
            submitter.register_buf_ring_with_flags(
                self.ring.as_ptr().as_ptr() as u64,
                self.entries,
                GROUP,
                0,
            )?;
        }
        for buffer in 0..self.entries {
            self.give(buffer);
        }
        Ok(())
    }

    /// Gives a buffer to the kernel; from then on nobody here may touch it
    pub(crate) fn give(&mut self, buffer: u16) {
        let place = usize::from(self.tail & (self.entries - 1));
        let base = self.ring.as_ptr().as_ptr().cast::<BufRingEntry>();
        // SAFETY: place is below the number of entries the ring arena was made for. The kernel reads entries
        // only below the tail that is published afterwards, and never writes them, so this exclusive
        // reference to one entry has no rival; zeroed memory is a valid entry. The setters leave alone the
        // two octets of entry 0 in which the tail lives.
        let entry = unsafe { &mut *base.add(place) };
        entry.set_addr(self.address(buffer) as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: base is the first entry of the ring; the tail is two aligned octets inside it, shared with
        // the kernel and accessed atomically from here on.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn address(&self, buffer: u16) -> *mut u8 {
        debug_assert!(buffer < self.entries);
        // SAFETY: buffer is below the number of buffers the arena was made for.
        unsafe { self.buffers.as_ptr().add(usize::from(buffer) * BUFFER_BYTES) }.as_ptr()
    }

    /// The train in a buffer the kernel has just completed with `filled` octets; `None` if it cannot be read
    pub(crate) fn filled(&mut self, buffer: u16, filled: usize) -> Option<Filled<'_>> {
        Filled::parse(self.octets(buffer, filled)?)
    }

    /// The octets of a buffer the kernel has just completed, as it left them; `None` if there is no such buffer
    pub(crate) fn octets(&mut self, buffer: u16, filled: usize) -> Option<&mut [u8]> {
        if buffer >= self.entries || filled > BUFFER_BYTES {
            return None;
        }
        // SAFETY: the buffer lies inside the arena, which is initialised. The kernel gave it up with the
        // completion and does not touch it until `give`; self is borrowed mutably while the slice lives.
        Some(unsafe { std::slice::from_raw_parts_mut(self.address(buffer), filled) })
    }

    /// How many buffers there are
    pub(crate) fn count(&self) -> usize {
        self.entries.into()
    }

    /// Whether the kernel can have meant a buffer of this ring
    pub(crate) fn has(&self, buffer: u16) -> bool {
        buffer < self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(numbers: [u32; 4], payload: &[u8]) -> Vec<u8> {
        let mut buffer: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        buffer.extend((libc::AF_INET6 as u16).to_ne_bytes());
        buffer.extend(8444u16.to_be_bytes());
        buffer.extend([0; 4]);
        buffer.extend(std::net::Ipv6Addr::LOCALHOST.octets());
        buffer.resize(PAYLOAD_AT, 0);
        buffer.extend(payload);
        buffer
    }

    #[test]
    fn reads_a_buffer_as_the_kernel_fills_it() {
        let mut octets = buffer([28, 24, 5, 0], b"hello");
        let filled = Filled::parse(&mut octets).unwrap();
        assert_eq!((&*filled.payload, filled.control.len()), (&b"hello"[..], 24));
        assert_eq!(filled.from.port(), 8444);
        assert!(!filled.truncated);
    }

    #[test]
    fn lengths_beyond_the_buffer_are_cut_and_told() {
        let mut octets = buffer([28, 0, 70_000, 0], b"hello");
        let filled = Filled::parse(&mut octets).unwrap();
        assert!(filled.truncated && &*filled.payload == b"hello");
        let mut octets = buffer([28, u32::MAX, 5, 0], b"hello");
        let filled = Filled::parse(&mut octets).unwrap();
        assert!(filled.truncated && filled.control.len() == CONTROL_BYTES);
        let mut octets = buffer([28, 0, 5, libc::MSG_TRUNC as u32], b"hello");
        assert!(Filled::parse(&mut octets).unwrap().truncated);
    }

    #[test]
    fn a_buffer_without_sender_or_too_short_is_nothing() {
        assert!(Filled::parse(&mut buffer([0, 0, 5, 0], b"hello")).is_none());
        let whole = buffer([28, 0, 0, 0], b"");
        for length in 0..PAYLOAD_AT {
            assert!(Filled::parse(&mut whole[..length].to_vec()).is_none());
        }
        assert!(Filled::parse(&mut whole.clone()).unwrap().payload.is_empty());
    }

    #[test]
    fn impossible_numbers_of_buffers_are_refused() {
        for receive_buffers in [0, 3, 65_535] {
            let settings = IoSettings { receive_buffers, ..IoSettings::default() };
            let error = ProvidedBuffers::new(&settings).unwrap_err();
            assert!(matches!(error, IoSetupError::ReceiveBuffers(n) if n == receive_buffers));
        }
    }
}
