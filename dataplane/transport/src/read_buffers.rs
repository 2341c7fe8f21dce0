//! Memory for what streams deliver, shared by the connections of one worker: a few buffers that stay in its cache,
//! cut into pieces as they fill and used again once every piece has been let go. An idle connection holds none.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};

/// One buffer, in octets
const BUFFER_BYTES: usize = 128 << 10;
/// Smallest room worth reading into
const ROOM_LEAST_BYTES: usize = 16 << 10;
/// Pieces below this size get memory of their own: unread, one must not hold a whole buffer
const SHARED_LEAST_BYTES: usize = 16 << 10;
/// Buffers kept for use again: more than a program's queue holds, so that a reader that lags costs no allocation
const KEPT: usize = 64;

/// The buffers of one worker; clones are the same
#[derive(Clone, Debug, Default)]
pub struct ReadBuffers(Rc<RefCell<Buffers>>);

#[derive(Debug, Default)]
struct Buffers {
    current: BytesMut,
    /// Buffers whose pieces may still be held, oldest first
    spent: VecDeque<BytesMut>,
}

impl ReadBuffers {
    /// Lets `fill` append to a buffer and takes what it appended; `fill` returns that length and its own result
    pub fn read<T, E>(
        &self,
        fill: impl FnOnce(bytes::buf::Limit<&mut BytesMut>) -> Result<(usize, T), E>,
    ) -> Result<(Bytes, T), E> {
        let mut buffers = self.0.borrow_mut();
        if buffers.current.capacity() < ROOM_LEAST_BYTES {
            buffers.next();
        }
        let current = &mut buffers.current;
        let room = current.capacity();
        let (length, result) = fill(current.limit(room))?;
        if length < SHARED_LEAST_BYTES {
            let own = Bytes::copy_from_slice(&current[..length]);
            current.clear();
            return Ok((own, result));
        }
        Ok((current.split_to(length).freeze(), result))
    }
}

impl Buffers {
    /// Takes the latest buffer whose pieces are all gone, which the cache may still hold, or a new one
    fn next(&mut self) {
        self.spent.push_back(std::mem::take(&mut self.current));
        let free = self.spent.iter_mut().rposition(|buffer| buffer.try_reclaim(BUFFER_BYTES));
        if let Some(buffer) = free.and_then(|index| self.spent.remove(index)) {
            self.current = buffer;
            return;
        }
        if self.spent.len() > KEPT {
            self.spent.pop_front();
        }
        self.current = BytesMut::with_capacity(BUFFER_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(buffers: &ReadBuffers, length: usize, octet: u8) -> Bytes {
        let outcome = buffers.read(|mut room| {
            room.put_bytes(octet, length);
            Ok::<_, ()>((length, ()))
        });
        outcome.unwrap().0
    }

    #[test]
    fn pieces_keep_their_octets_while_buffers_are_used_again() {
        let buffers = ReadBuffers::default();
        let mut held = VecDeque::new();
        for round in 0..1_000_u32 {
            let octet = round as u8;
            let length = 1 + (round as usize * 7_919) % (100 << 10);
            let length = length.min(buffers.0.borrow().current.capacity().max(ROOM_LEAST_BYTES));
            held.push_back((octet, length, read(&buffers, length, octet)));
            if held.len() > 20 {
                held.pop_front();
            }
            for (octet, length, bytes) in &held {
                assert_eq!(bytes.len(), *length);
                assert!(bytes.iter().all(|found| found == octet));
            }
        }
        assert!(buffers.0.borrow().spent.len() <= 21, "buffers that are free are used again");
    }

    #[test]
    fn a_reader_that_lets_go_needs_one_buffer() {
        let buffers = ReadBuffers::default();
        for _ in 0..100 {
            drop(read(&buffers, BUFFER_BYTES / 2, 1));
        }
        assert!(buffers.0.borrow().spent.len() <= 1);
    }

    #[test]
    fn no_more_buffers_are_kept_than_the_limit() {
        let buffers = ReadBuffers::default();
        let held: Vec<Bytes> = (0..3 * KEPT).map(|_| read(&buffers, BUFFER_BYTES, 2)).collect();
        assert!(buffers.0.borrow().spent.len() <= KEPT);
        assert!(held.iter().all(|bytes| bytes.iter().all(|octet| *octet == 2)));
    }

    #[test]
    fn a_small_piece_holds_no_buffer() {
        let buffers = ReadBuffers::default();
        let small = read(&buffers, 100, 3);
        drop(read(&buffers, BUFFER_BYTES, 4));
        drop(read(&buffers, BUFFER_BYTES, 5));
        assert!(buffers.0.borrow().spent.len() <= 1, "the small piece pins nothing");
        assert_eq!(small.as_ref(), [3; 100]);
    }

    #[test]
    fn an_error_leaves_the_buffer_usable() {
        let buffers = ReadBuffers::default();
        assert_eq!(buffers.read(|_| Err::<(usize, ()), _>(7)), Err(7));
        assert_eq!(read(&buffers, 10, 6).len(), 10);
    }
}
