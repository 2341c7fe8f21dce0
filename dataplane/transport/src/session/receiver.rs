//! The receiving half of a flow: reassembles by offset within a window, refuses what lies outside it or
//! contradicts itself, and lets the window grow with the reader's speed. Pure state; `now` is passed in.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoq_interface::FlowError;

/// Receiving state of one flow
#[derive(Debug)]
pub struct FlowReceiver {
    /// In order, not yet read
    ready: VecDeque<Bytes>,
    ready_bytes: u64,
    /// Out of order: offset to bytes; pieces do not overlap
    ahead: BTreeMap<u64, Bytes>,
    ahead_bytes: u64,
    /// Every byte below has arrived
    contiguous: u64,
    /// Every byte below has been read
    read: u64,
    /// What the sender may send up to, as last advertised
    limit: u64,
    window: u64,
    window_most: u64,
    fragments_most: usize,
    final_size: Option<u64>,
    window_since: Option<Instant>,
    window_read: u64,
    duplicates: u64,
}

impl FlowReceiver {
    /// A window of `initial` bytes that may grow to `most`, holding at most `fragments` pieces ahead
    pub fn new(initial: u64, most: u64, fragments: usize) -> Self {
        Self {
            ready: VecDeque::new(),
            ready_bytes: 0,
            ahead: BTreeMap::new(),
            ahead_bytes: 0,
            contiguous: 0,
            read: 0,
            limit: initial,
            window: initial,
            window_most: most.max(initial),
            fragments_most: fragments,
            final_size: None,
            window_since: None,
            window_read: 0,
            duplicates: 0,
        }
    }

    /// Takes in a piece; an error ends the flow
    pub fn handle_piece(&mut self, offset: u64, bytes: Bytes, end: bool) -> Result<(), FlowError> {
        let stop = offset.checked_add(bytes.len() as u64).ok_or(FlowError::FinalSize)?;
        if stop > self.limit {
            return Err(FlowError::WindowExceeded);
        }
        self.check_final_size(stop, end)?;
        self.insert(offset, bytes)?;
        self.advance();
        Ok(())
    }

    fn check_final_size(&mut self, stop: u64, end: bool) -> Result<(), FlowError> {
        let highest = self
            .ahead
            .last_key_value()
            .map_or(self.contiguous, |(offset, bytes)| offset + bytes.len() as u64);
        match self.final_size {
            Some(size) if stop > size || (end && stop != size) => Err(FlowError::FinalSize),
            None if end && highest > stop => Err(FlowError::FinalSize),
            None if end => {
                self.final_size = Some(stop);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Stores the parts of a piece that are new; parts still held must agree byte for byte
    fn insert(&mut self, offset: u64, mut bytes: Bytes) -> Result<(), FlowError> {
        let mut offset = offset;
        if offset < self.contiguous {
            let old = (self.contiguous - offset).min(bytes.len() as u64);
            self.compare_ready(offset, &bytes[..old as usize])?;
            self.duplicates += old;
            bytes::Buf::advance(&mut bytes, old as usize);
            offset += old;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if offset == self.contiguous && self.ahead.is_empty() {
            self.push_ready(bytes);
            return Ok(());
        }
        self.insert_ahead(offset, bytes)
    }

    fn insert_ahead(&mut self, mut offset: u64, mut bytes: Bytes) -> Result<(), FlowError> {
        // The held piece that starts before `offset` may cover its front.
        if let Some((start, held)) = self.ahead.range(..=offset).next_back() {
            let held_stop = start + held.len() as u64;
            if held_stop > offset {
                let common = (held_stop - offset).min(bytes.len() as u64) as usize;
                let from = (offset - start) as usize;
                if held[from..from + common] != bytes[..common] {
                    return Err(FlowError::DataConflict);
                }
                self.duplicates += common as u64;
                bytes::Buf::advance(&mut bytes, common);
                offset += common as u64;
            }
        }
        while !bytes.is_empty() {
            let Some((start, held)) = self.ahead.range(offset..).next() else {
                return self.store_ahead(offset, bytes);
            };
            let start = *start;
            let gap = (start - offset).min(bytes.len() as u64) as usize;
            let common = (bytes.len() - gap).min(held.len());
            if held[..common] != bytes[gap..gap + common] {
                return Err(FlowError::DataConflict);
            }
            self.duplicates += common as u64;
            let front = bytes.split_to(gap);
            bytes::Buf::advance(&mut bytes, common);
            if !front.is_empty() {
                self.store_ahead(offset, front)?;
            }
            offset = start + common as u64;
        }
        Ok(())
    }

    fn store_ahead(&mut self, offset: u64, bytes: Bytes) -> Result<(), FlowError> {
        if self.ahead.len() >= self.fragments_most && offset != self.contiguous {
            return Err(FlowError::Fragmented);
        }
        self.ahead_bytes += bytes.len() as u64;
        self.ahead.insert(offset, bytes);
        Ok(())
    }

    /// Bytes already in order can be compared only while they are unread
    fn compare_ready(&self, offset: u64, bytes: &[u8]) -> Result<(), FlowError> {
        let stop = offset + bytes.len() as u64;
        let mut start = self.read;
        for held in &self.ready {
            let held_stop = start + held.len() as u64;
            let from = offset.max(start);
            let to = stop.min(held_stop);
            if from < to {
                let ours = &held[(from - start) as usize..(to - start) as usize];
                let theirs = &bytes[(from - offset) as usize..(to - offset) as usize];
                if ours != theirs {
                    return Err(FlowError::DataConflict);
                }
            }
            if held_stop >= stop {
                break;
            }
            start = held_stop;
        }
        Ok(())
    }

    fn push_ready(&mut self, bytes: Bytes) {
        self.contiguous += bytes.len() as u64;
        self.ready_bytes += bytes.len() as u64;
        self.ready.push_back(bytes);
    }

    fn advance(&mut self) {
        while let Some(entry) = self.ahead.first_entry() {
            if *entry.key() != self.contiguous {
                break;
            }
            let bytes = entry.remove();
            self.ahead_bytes -= bytes.len() as u64;
            self.push_ready(bytes);
        }
    }

    /// The next bytes in order
    pub fn read(&mut self) -> Option<Bytes> {
        let bytes = self.ready.pop_front()?;
        self.ready_bytes -= bytes.len() as u64;
        self.read += bytes.len() as u64;
        Some(bytes)
    }

    /// Whether [`Self::read`] would yield bytes
    pub fn is_readable(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Everything has arrived and been read
    pub fn is_drained(&self) -> bool {
        self.final_size == Some(self.read)
    }

    /// Everything has arrived, the end included
    pub fn is_complete(&self) -> bool {
        self.final_size == Some(self.contiguous)
    }

    /// Every byte below has arrived
    pub fn contiguous(&self) -> u64 {
        self.contiguous
    }

    /// Bytes that arrived more than once
    pub fn duplicate_bytes(&self) -> u64 {
        self.duplicates
    }

    /// Bytes held
    pub fn buffered_bytes(&self) -> u64 {
        self.ready_bytes + self.ahead_bytes
    }

    /// The limit as last advertised
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes the peer may be ahead of the reader
    pub fn window_bytes(&self) -> u64 {
        self.window
    }

    /// A new limit to advertise, once the reader has used up half of the window. The window doubles where that
    /// took less than `fast`; zero keeps it as it is.
    pub fn poll_limit(&mut self, now: Instant, fast: Duration) -> Option<u64> {
        if self.final_size.is_some() || self.limit >= self.read + self.window / 2 + self.window % 2
        {
            return None;
        }
        if let Some(since) = self.window_since
            && now.duration_since(since) < fast
            && self.read - self.window_read >= self.window / 2
        {
            self.window = (self.window * 2).min(self.window_most);
        }
        self.window_since = Some(now);
        self.window_read = self.read;
        self.limit = self.read + self.window;
        Some(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(200);

    fn receiver() -> FlowReceiver {
        FlowReceiver::new(64, 256, 8)
    }

    fn text(receiver: &mut FlowReceiver) -> Vec<u8> {
        std::iter::from_fn(|| receiver.read()).flat_map(|b| b.to_vec()).collect()
    }

    #[test]
    fn pieces_arrive_in_any_order_and_twice() {
        let whole: Vec<u8> = (0..60).collect();
        let cuts: [(usize, usize); 7] =
            [(20, 40), (50, 60), (10, 30), (0, 15), (35, 55), (0, 60), (40, 50)];
        let mut r = receiver();
        for (from, to) in cuts {
            let end = to == 60;
            r.handle_piece(from as u64, Bytes::copy_from_slice(&whole[from..to]), end).unwrap();
        }
        assert!(r.is_complete());
        assert_eq!(text(&mut r), whole);
        assert!(r.is_drained() && r.buffered_bytes() == 0);
        assert!(r.duplicate_bytes() > 0);
    }

    #[test]
    fn outside_the_window_is_refused() {
        let mut r = receiver();
        let piece = Bytes::from_static(&[0; 2]);
        assert_eq!(r.handle_piece(63, piece.clone(), false), Err(FlowError::WindowExceeded));
        assert_eq!(r.handle_piece(u64::MAX, piece, false), Err(FlowError::FinalSize));
    }

    #[test]
    fn contradicting_bytes_are_refused_ahead_and_in_order() {
        let mut r = receiver();
        r.handle_piece(10, Bytes::from_static(b"abcd"), false).unwrap();
        let other = Bytes::from_static(b"aXcd");
        assert_eq!(r.handle_piece(10, other, false), Err(FlowError::DataConflict));
        let spanning = Bytes::from_static(b"0123456789aX");
        assert_eq!(r.handle_piece(0, spanning, false), Err(FlowError::DataConflict));
        let mut r = receiver();
        r.handle_piece(0, Bytes::from_static(b"abcd"), false).unwrap();
        let other = Bytes::from_static(b"cX");
        assert_eq!(r.handle_piece(2, other, false), Err(FlowError::DataConflict));
    }

    #[test]
    fn the_final_size_is_final() {
        let mut r = receiver();
        r.handle_piece(0, Bytes::from_static(b"abcd"), true).unwrap();
        let more = Bytes::from_static(b"abcde");
        assert_eq!(r.handle_piece(0, more.clone(), false), Err(FlowError::FinalSize));
        let less = Bytes::from_static(b"abc");
        assert_eq!(r.handle_piece(0, less, true), Err(FlowError::FinalSize));
        let mut r = receiver();
        r.handle_piece(5, more, false).unwrap();
        assert_eq!(r.handle_piece(4, Bytes::new(), true), Err(FlowError::FinalSize));
    }

    #[test]
    fn fragments_are_bounded() {
        let mut r = receiver();
        for index in 0..8 {
            r.handle_piece(2 + index * 2, Bytes::from_static(b"x"), false).unwrap();
        }
        let one = Bytes::from_static(b"x");
        assert_eq!(r.handle_piece(30, one.clone(), false), Err(FlowError::Fragmented));
        assert_eq!(r.handle_piece(0, Bytes::from_static(b"yy"), false), Ok(()));
    }

    #[test]
    fn the_window_grows_with_a_fast_reader_only() {
        let start = Instant::now();
        let mut fast = receiver();
        let mut slow = receiver();
        let mut offset = 0;
        for step in 0..3u32 {
            for (r, pace) in [(&mut fast, 1), (&mut slow, 1_000)] {
                r.handle_piece(offset, Bytes::from(vec![0; 40]), false).unwrap();
                while r.read().is_some() {}
                r.poll_limit(start + Duration::from_millis(pace) * step, FAST);
            }
            offset += 40;
        }
        assert!(fast.limit() - offset > slow.limit() - offset);
        assert!(slow.limit() <= offset + 64);
        assert_eq!(receiver().poll_limit(start, FAST), None);
    }
}
