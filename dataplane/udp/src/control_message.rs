//! Control messages (`cmsg(3)`) written and read octet by octet, so that no length the kernel or anybody
//! else puts there can reach outside the buffer. What the messages mean stands in the file of each feature.

/// Octets of a control message's header on 64-bit Linux: length, level, type
pub const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

const ALIGN: usize = size_of::<usize>();
const LEVEL_AT: usize = size_of::<usize>();
const KIND_AT: usize = LEVEL_AT + size_of::<libc::c_int>();

/// Octets one message with a value of `value_bytes` takes in a buffer, padding included
pub const fn space_bytes(value_bytes: usize) -> usize {
    HEADER_BYTES + value_bytes.next_multiple_of(ALIGN)
}

/// The buffer has no room for another message
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a control message of {needed} octets does not fit the {left} octets left")]
pub struct NoRoom {
    /// Octets the message takes
    pub needed: usize,
    /// Octets there are
    pub left: usize,
}

/// A buffer for control messages, aligned as the kernel wants it
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct ControlBuffer<const N: usize> {
    octets: [u8; N],
    used: usize,
}

impl<const N: usize> Default for ControlBuffer<N> {
    fn default() -> Self {
        Self { octets: [0; N], used: 0 }
    }
}

impl<const N: usize> ControlBuffer<N> {
    /// Forgets all messages
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Appends one message
    pub fn push(&mut self, level: i32, kind: i32, value: &[u8]) -> Result<(), NoRoom> {
        let needed = space_bytes(value.len());
        let left = N - self.used;
        let Some(place) = self.octets[self.used..].get_mut(..needed) else {
            return Err(NoRoom { needed, left });
        };
        place.fill(0);
        place[..LEVEL_AT].copy_from_slice(&(HEADER_BYTES + value.len()).to_ne_bytes());
        place[LEVEL_AT..KIND_AT].copy_from_slice(&level.to_ne_bytes());
        place[KIND_AT..HEADER_BYTES].copy_from_slice(&kind.to_ne_bytes());
        place[HEADER_BYTES..HEADER_BYTES + value.len()].copy_from_slice(value);
        self.used += needed;
        Ok(())
    }

    /// The messages so far
    pub fn as_bytes(&self) -> &[u8] {
        &self.octets[..self.used]
    }

    /// The whole buffer, for the kernel to fill
    pub fn as_mut_bytes(&mut self) -> &mut [u8; N] {
        &mut self.octets
    }
}

/// One control message
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message<'a> {
    /// Protocol, such as `SOL_UDP`
    pub level: i32,
    /// Kind within the protocol, such as `UDP_GRO`
    pub kind: i32,
    /// The value; its length is whatever the sender of the message wrote
    pub value: &'a [u8],
}

/// The messages of a buffer as the kernel filled it; ends at the first one that does not hold together
#[derive(Clone, Debug)]
pub struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    /// Reads the messages of `control`, which is as long as the kernel said
    pub fn new(control: &'a [u8]) -> Self {
        Self(control)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let (header, _) = self.0.split_first_chunk::<HEADER_BYTES>()?;
        let (length, rest) = header.split_first_chunk::<{ size_of::<usize>() }>()?;
        let (level, kind) = rest.split_first_chunk::<4>()?;
        let length = usize::from_ne_bytes(*length);
        let Some(value) = self.0.get(HEADER_BYTES..length) else {
            self.0 = &[];
            return None;
        };
        let message = Message {
            level: i32::from_ne_bytes(*level),
            kind: i32::from_ne_bytes(*kind.first_chunk()?),
            value,
        };
        // `length` is within the buffer, so rounding it up cannot overflow; the last message may lack padding.
        self.0 = self.0.get(length.next_multiple_of(ALIGN)..).unwrap_or(&[]);
        Some(message)
    }
}

/// A value that is one native-endian 32-bit number, as most are
pub fn value_u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_the_kernels() {
        for bytes in [0, 1, 2, 4, 7, 8, 20, 33] {
            // SAFETY: CMSG_SPACE and CMSG_LEN only compute; they touch no memory.
            let (space, length) =
                unsafe { (libc::CMSG_SPACE(bytes) as usize, libc::CMSG_LEN(bytes) as usize) };
            assert_eq!(space_bytes(bytes as usize), space);
            assert_eq!(HEADER_BYTES + bytes as usize, length);
        }
    }

    #[test]
    fn messages_come_back_as_written() {
        let mut buffer = ControlBuffer::<96>::default();
        buffer.push(17, 103, &1452u16.to_ne_bytes()).unwrap();
        buffer.push(41, 50, &[9; 20]).unwrap();
        buffer.push(1, 40, &7u32.to_ne_bytes()).unwrap();
        let read: Vec<Message<'_>> = Messages::new(buffer.as_bytes()).collect();
        assert_eq!(read.len(), 3);
        assert_eq!(read[0], Message { level: 17, kind: 103, value: &1452u16.to_ne_bytes() });
        assert_eq!(read[1], Message { level: 41, kind: 50, value: &[9; 20] });
        assert_eq!(value_u32(read[2].value), Some(7));
        let error = buffer.push(1, 1, &[0; 8]).unwrap_err();
        assert_eq!(error, NoRoom { needed: 24, left: 8 });
        buffer.clear();
        assert!(buffer.as_bytes().is_empty());
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        let mut buffer = ControlBuffer::<64>::default();
        buffer.push(17, 104, &[1, 2, 3, 4]).unwrap();
        let whole = buffer.as_bytes().to_vec();
        for lie in [0usize, 1, 15, 25, 4096, usize::MAX] {
            let mut octets = whole.clone();
            octets[..8].copy_from_slice(&lie.to_ne_bytes());
            assert_eq!(Messages::new(&octets).count(), 0, "length {lie}");
        }
        for cut in 0..HEADER_BYTES + 4 {
            assert_eq!(Messages::new(&whole[..cut]).count(), 0, "cut at {cut}");
        }
        // Exactly header and value, without padding, is what a full buffer may end with.
        assert_eq!(Messages::new(&whole[..HEADER_BYTES + 4]).count(), 1);
    }
}
