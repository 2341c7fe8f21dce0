//! The sending half of a flow: keeps every byte until the receiver has acknowledged it, so that a leg can
//! be lost at any byte; hands out records in order of need (lost ranges first). Pure state, no clock.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

/// A piece of the flow to be put on a leg
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Piece {
    /// Offset within the flow
    pub offset: u64,
    /// The bytes
    pub bytes: Bytes,
    /// The flow ends behind them
    pub end: bool,
    /// Sent before, on a leg that was lost
    pub again: bool,
}

/// Sending state of one flow
#[derive(Debug, Default)]
pub struct FlowSender {
    /// Unacknowledged buffers with their offsets, ascending and adjoining
    retained: VecDeque<(u64, Bytes)>,
    /// Everything below has been acknowledged
    acknowledged: u64,
    /// Everything below has been handed out at least once
    next: u64,
    /// End of what the program has written
    written: u64,
    /// The receiver takes bytes below this offset
    limit: u64,
    /// Ranges to hand out again: offset to length
    lost: BTreeMap<u64, u64>,
    finished: bool,
    end_sent: bool,
    end_lost: bool,
    complete: bool,
}

impl FlowSender {
    /// A flow whose receiver takes `limit` bytes to begin with
    pub fn new(limit: u64) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Takes over bytes from the program
    pub fn write(&mut self, bytes: Bytes) {
        debug_assert!(!self.finished, "written after the end");
        if bytes.is_empty() || self.finished {
            return;
        }
        let offset = self.written;
        self.written += bytes.len() as u64;
        self.retained.push_back((offset, bytes));
    }

    /// No more bytes will be written
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Whether [`Self::finish`] was called
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Bytes held: written and not acknowledged
    pub fn retained_bytes(&self) -> u64 {
        self.written - self.acknowledged
    }

    /// Bytes written and never handed out
    pub fn backlog_bytes(&self) -> u64 {
        self.written - self.next
    }

    /// Bytes handed out at least once
    pub fn sent_bytes(&self) -> u64 {
        self.next
    }

    /// The receiver has everything, the end included
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether [`Self::next_piece`] would yield something
    pub fn has_piece(&self) -> bool {
        !self.lost.is_empty() || self.next < self.written.min(self.limit) || self.end_is_due()
    }

    fn end_is_due(&self) -> bool {
        self.finished
            && self.next == self.written
            && (!self.end_sent || self.end_lost)
            && !self.complete
    }

    /// The next piece of at most `most` bytes
    pub fn next_piece(&mut self, most: usize) -> Option<Piece> {
        if let Some((offset, length)) = self.lost.pop_first() {
            let bytes = self.slice(offset, length.min(most as u64) as usize);
            let taken = bytes.len() as u64;
            if taken < length {
                self.lost.insert(offset + taken, length - taken);
            }
            let end = self.covers_end(offset + taken) && self.lost.is_empty();
            if end {
                self.end_sent = true;
                self.end_lost = false;
            }
            return Some(Piece { offset, bytes, end, again: true });
        }
        let available = self.written.min(self.limit).saturating_sub(self.next);
        if available > 0 {
            let offset = self.next;
            let bytes = self.slice(offset, available.min(most as u64) as usize);
            self.next += bytes.len() as u64;
            let end = self.covers_end(self.next);
            self.end_sent |= end;
            return Some(Piece { offset, bytes, end, again: false });
        }
        if self.end_is_due() {
            self.end_sent = true;
            self.end_lost = false;
            return Some(Piece {
                offset: self.written,
                bytes: Bytes::new(),
                end: true,
                again: false,
            });
        }
        None
    }

    fn covers_end(&self, offset: u64) -> bool {
        self.finished && offset == self.written
    }

    /// Bytes from `offset` on, as many as lie in one buffer
    fn slice(&self, offset: u64, most: usize) -> Bytes {
        let index = self.retained.partition_point(|(start, _)| *start <= offset);
        let Some((start, bytes)) = index.checked_sub(1).and_then(|i| self.retained.get(i)) else {
            return Bytes::new();
        };
        let from = (offset - start) as usize;
        let to = (from + most).min(bytes.len());
        bytes.slice(from.min(to)..to)
    }

    /// The receiver has everything below `offset`; returns the bytes freed, or `None` when the receiver
    /// acknowledges what was never sent
    pub fn acknowledge(&mut self, offset: u64, complete: bool) -> Option<u64> {
        if offset > self.next || (complete && !(self.finished && offset == self.written)) {
            return None;
        }
        self.complete |= complete;
        if offset <= self.acknowledged {
            return Some(0);
        }
        let freed = offset - self.acknowledged;
        self.acknowledged = offset;
        while let Some((start, bytes)) = self.retained.front() {
            if start + bytes.len() as u64 > offset {
                break;
            }
            self.retained.pop_front();
        }
        while let Some((start, length)) = self.lost.first_key_value().map(|(s, l)| (*s, *l)) {
            if start >= offset {
                break;
            }
            self.lost.remove(&start);
            if start + length > offset {
                self.lost.insert(offset, start + length - offset);
            }
        }
        Some(freed)
    }

    /// Everything written has arrived: the receiver has closed the flow
    pub fn complete(&mut self) {
        self.complete = true;
        self.acknowledged = self.written;
        self.next = self.written;
        self.retained.clear();
        self.lost.clear();
    }

    /// The receiver takes bytes below `limit`; limits never shrink
    pub fn raise_limit(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// The answer to the end of the flow may be lost: the end is due again where it was sent
    pub fn lose_end(&mut self) {
        self.end_lost |= self.end_sent && !self.complete;
    }

    /// The leg that carried this range is gone; returns the bytes to be sent again
    pub fn lose(&mut self, offset: u64, length: u64, end: bool) -> u64 {
        if end && !self.complete {
            self.end_lost = true;
        }
        let start = offset.max(self.acknowledged);
        let stop = (offset + length).min(self.next);
        if start >= stop {
            return 0;
        }
        self.lost.insert(start, stop - start);
        stop - start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(sender: &mut FlowSender, most: usize) -> Vec<Piece> {
        std::iter::from_fn(|| sender.next_piece(most)).collect()
    }

    #[test]
    fn nothing_leaves_beyond_the_limit() {
        let mut sender = FlowSender::new(4);
        sender.write(Bytes::from_static(b"abcdef"));
        assert_eq!(drain(&mut sender, 3).iter().map(|p| p.bytes.len()).sum::<usize>(), 4);
        assert!(!sender.has_piece());
        sender.raise_limit(6);
        sender.finish();
        let rest = drain(&mut sender, 100);
        assert_eq!(rest.len(), 1);
        assert_eq!((&rest[0].bytes[..], rest[0].end), (&b"ef"[..], true));
    }

    #[test]
    fn a_lost_leg_is_sent_again_from_the_acknowledged_offset() {
        let mut sender = FlowSender::new(100);
        sender.write(Bytes::from_static(b"abcdef"));
        sender.write(Bytes::from_static(b"ghij"));
        sender.finish();
        let first = drain(&mut sender, 100);
        assert_eq!(first.len(), 2);
        assert!(first[1].end);
        assert_eq!(sender.acknowledge(4, false), Some(4));
        for piece in &first {
            sender.lose(piece.offset, piece.bytes.len() as u64, piece.end);
        }
        let again = drain(&mut sender, 3);
        let bytes: Vec<u8> = again.iter().flat_map(|p| p.bytes.to_vec()).collect();
        assert_eq!(bytes, b"efghij");
        assert!(again.iter().all(|p| p.again) && again.last().is_some_and(|p| p.end));
        assert_eq!(sender.acknowledge(10, true), Some(6));
        assert!(sender.is_complete() && sender.retained_bytes() == 0);
    }

    #[test]
    fn the_end_alone_can_be_lost() {
        let mut sender = FlowSender::new(0);
        sender.finish();
        let end = sender.next_piece(10).unwrap();
        assert!(end.end && end.bytes.is_empty() && !sender.has_piece());
        sender.lose(0, 0, true);
        assert!(sender.next_piece(10).is_some_and(|p| p.end));
        assert_eq!(sender.acknowledge(0, true), Some(0));
        sender.lose(0, 0, true);
        assert!(!sender.has_piece());
    }

    #[test]
    fn acknowledging_the_unsent_is_refused() {
        let mut sender = FlowSender::new(100);
        sender.write(Bytes::from_static(b"abc"));
        assert_eq!(sender.acknowledge(1, false), None);
        assert!(sender.next_piece(2).is_some());
        assert_eq!(sender.acknowledge(2, true), None);
        assert_eq!(sender.acknowledge(2, false), Some(2));
    }
}
