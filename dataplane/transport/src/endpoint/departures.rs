//! Datagrams as they leave: trains of equal size to one destination, one connection after the other.

use std::time::{Duration, Instant};

use super::held::Held;
use super::{Endpoint, Transmit};

/// A release time this close is now: timers are no finer
const PACING_SLACK: Duration = Duration::from_micros(200);

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
            return Some(Transmit { bytes: length, segment_bytes: length, to, from });
        }
        while let Some(key) = self.ready.pop_front() {
            let Some(held) = self.connections.get_mut(key) else { continue };
            held.is_ready = false;
            held.paced_until =
                held.connection.release_time(now).filter(|at| *at > now + PACING_SLACK);
            if held.paced_until.is_some() {
                self.rearm(key);
                continue;
            }
            let (transmit, more) = fill_train(held, &mut self.scratch, slab, segments);
            if transmit.is_some() {
                held.last_sent = now;
            }
            if more {
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
}

/// Writes datagrams of one size and one destination until the connection has no more, the slab is full or a
/// datagram differs; that one is kept for the next train. Returns the train and whether there may be more.
fn fill_train(
    held: &mut Held,
    scratch: &mut [u8],
    slab: &mut [u8],
    segments: usize,
) -> (Option<Transmit>, bool) {
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
            return (train, true);
        }
        // A probe of the path MTU may be larger than the others: it must not be cut by the slab's end.
        let direct = room >= 16_384 || count == 0;
        let target = if direct { &mut slab[filled..] } else { &mut scratch[..] };
        let Some((length, to)) = held.connection.poll_datagram(target) else {
            return (train, false);
        };
        match &mut train {
            None => train = Some(Transmit { bytes: length, segment_bytes: length, to, from }),
            Some(train) if length <= segment && to == train.to => {
                if !direct {
                    slab[filled..filled + length].copy_from_slice(&scratch[..length]);
                }
                train.bytes += length;
                if length < segment {
                    return (Some(*train), true);
                }
            }
            Some(_) => {
                let bytes = if direct { &slab[filled..] } else { &scratch[..] };
                held.kept = Some((bytes[..length].to_vec(), to));
                return (train, true);
            }
        }
        count += 1;
    }
}
