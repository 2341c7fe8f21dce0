//! Datagrams as they leave: trains of equal size to one destination, one connection after the other.

use std::time::{Duration, Instant};

use stoq_interface::{TrainEnd, train_length_index};

use super::held::Held;
use super::slots::SlotKey;
use super::{Endpoint, Transmit};

/// A release time this close is now: timers are no finer
const PACING_SLACK: Duration = Duration::from_micros(200);

/// How filling a train came to its end
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stopped {
    /// The slab or the send takes no more
    Full,
    /// The last datagram is shorter than the others
    Short,
    /// A datagram is kept for the next train
    Differs,
    /// The connection has none
    Nothing,
}

impl Endpoint {
    /// Fills `slab` with the next train; `None` when nothing is to be sent now
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        slab: &mut [u8],
        segments: usize,
    ) -> Option<Transmit> {
        if let Some(answer) = self.stateless.pop_front() {
            let length = answer.bytes.len().min(slab.len());
            slab[..length].copy_from_slice(&answer.bytes[..length]);
            let (to, from) = (answer.to, answer.from);
            self.counters.trains_sent_by_length[0].add(1);
            self.count_end(TrainEnd::Other);
            return Some(Transmit { bytes: length, segment_bytes: length, to, from });
        }
        while let Some(key) = self.ready.pop_front() {
            let Some(held) = self.connections.get_mut(key) else { continue };
            held.is_ready = false;
            held.paced_until =
                held.connection.release_time(now).filter(|at| *at > now + PACING_SLACK);
            if held.paced_until.is_some() {
                self.counters.trains_held_by_pacing.add(1);
                self.rearm(key);
                continue;
            }
            let (transmit, stopped) = fill_train(held, &mut self.scratch, slab, segments);
            if transmit.is_some() {
                held.last_sent = now;
            }
            self.count_train(key, transmit, stopped);
            if stopped != Stopped::Nothing {
                // Others have their turn first.
                self.mark_ready(key);
            }
            self.rearm(key);
            if transmit.is_some() {
                return transmit;
            }
        }
        None
    }

    fn count_end(&self, end: TrainEnd) {
        self.counters.train_ends[end.index()].add(1);
    }

    /// Counts a train by its length and by why it ended; of one that ended with a short datagram the reason is
    /// known once its connection is asked for more
    fn count_train(&mut self, key: SlotKey, transmit: Option<Transmit>, stopped: Stopped) {
        let Some(held) = self.connections.get_mut(key) else { return };
        let was_short = std::mem::take(&mut held.ended_short);
        if let Some(train) = transmit {
            let datagrams = train.bytes.div_ceil(train.segment_bytes.max(1));
            self.counters.trains_sent_by_length[train_length_index(datagrams)].add(1);
            held.ended_short = stopped == Stopped::Short;
        }
        match (stopped, transmit) {
            (Stopped::Full, _) => self.count_end(TrainEnd::Full),
            (Stopped::Differs, _) => self.count_end(TrainEnd::Other),
            (Stopped::Nothing, Some(_)) => self.count_nothing_more(key),
            (Stopped::Short, _) | (Stopped::Nothing, None) => {}
        }
        match (was_short, transmit) {
            // There was more, of another size.
            (true, Some(_)) => self.count_end(TrainEnd::Other),
            (true, None) => self.count_nothing_more(key),
            (false, _) => {}
        }
    }

    /// A connection has nothing to send: its own windows, its session's or the program are the reason
    fn count_nothing_more(&mut self, key: SlotKey) {
        let Some(held) = self.connections.get_mut(key) else { return };
        let end = held.connection.train_end();
        let session = held.joined().filter(|session| usize::from(session.worker) == self.worker);
        let entry = session.and_then(|session| self.sessions.get(session.slot));
        let is_window_bound = entry
            .and_then(|entry| entry.session.as_ref())
            .is_some_and(|session| session.is_window_bound());
        self.count_end(match end {
            TrainEnd::Application if is_window_bound => TrainEnd::FlowControl,
            end => end,
        });
    }
}

/// Writes datagrams of one size and one destination until the connection has no more, the slab is full or a
/// datagram differs; that one is kept for the next train. Returns the train and how it ended.
fn fill_train(
    held: &mut Held,
    scratch: &mut [u8],
    slab: &mut [u8],
    segments: usize,
) -> (Option<Transmit>, Stopped) {
    let mut train: Option<Transmit> = None;
    let from = held.source;
    if let Some((bytes, to)) = held.kept.take() {
        slab[..bytes.len()].copy_from_slice(&bytes);
        train = Some(Transmit { bytes: bytes.len(), segment_bytes: bytes.len(), to, from });
    }
    let mut count = usize::from(train.is_some());
    loop {
        let filled = train.map_or(0, |train| train.bytes);
        let segment = train.map_or(0, |train| train.segment_bytes);
        let room = slab.len() - filled;
        if count >= segments || (count > 0 && room < segment) {
            return (train, Stopped::Full);
        }
        // A probe of the path MTU may be larger than the others: it must not be cut by the slab's end.
        let direct = count == 0 || !held.settings.discover_path_mtu || room >= 16_384;
        let target = if direct { &mut slab[filled..] } else { &mut scratch[..] };
        let Some((length, to)) = held.connection.poll_datagram(target) else {
            return (train, Stopped::Nothing);
        };
        match &mut train {
            None => train = Some(Transmit { bytes: length, segment_bytes: length, to, from }),
            Some(train) if length <= segment && to == train.to => {
                if !direct {
                    slab[filled..filled + length].copy_from_slice(&scratch[..length]);
                }
                train.bytes += length;
                if length < segment {
                    return (Some(*train), Stopped::Short);
                }
            }
            Some(_) => {
                let bytes = if direct { &slab[filled..] } else { &scratch[..] };
                held.kept = Some((bytes[..length].to_vec(), to));
                return (train, Stopped::Differs);
            }
        }
        count += 1;
    }
}
