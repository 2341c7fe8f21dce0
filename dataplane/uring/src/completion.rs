//! Reading completions: what has finished, and what follows from it.

use std::io;
use std::mem::MaybeUninit;

use io_uring::cqueue;
use stoq_udp::{ReceivedControl, Train};

use crate::provider::{Memory, Receive, UringIo};
use crate::tag::Tag;

/// Completions copied out of the ring at a time
const BATCH: usize = 64;

/// linux/io_uring.h: set in the result of a notification when the kernel copied after all
const NOTIFICATION_COPIED: u32 = 1 << 31;

impl UringIo {
    /// Takes every completion there is, or as many as hold the trains of one receive; the first error that is
    /// not one train's own ends up as the result, after those completions have been taken
    pub(crate) fn reap(&mut self, on_train: &mut dyn FnMut(Train<'_>)) -> io::Result<usize> {
        let mut trains = 0;
        let mut outcome = Ok(());
        while trains < self.trains_per_receive {
            let mut batch = [const { MaybeUninit::<cqueue::Entry>::uninit() }; BATCH];
            // No completion holds more than one train.
            let most = BATCH.min(self.trains_per_receive - trains);
            let batch = self.ring.take(&mut batch[..most]);
            if batch.is_empty() {
                break;
            }
            for entry in batch {
                let handled = self.completed(entry, on_train);
                match handled {
                    Ok(received) => trains += usize::from(received),
                    Err(error) => outcome = outcome.and(Err(error)),
                }
            }
        }
        self.counters.system_calls = self.ring.calls;
        outcome.map(|()| trains)
    }

    /// One completion: whether it was a train
    fn completed(
        &mut self,
        entry: &cqueue::Entry,
        on_train: &mut dyn FnMut(Train<'_>),
    ) -> io::Result<bool> {
        let covered = self.covered > 0;
        self.covered = self.covered.saturating_sub(1);
        match Tag::from_user_data(entry.user_data()) {
            Some(Tag::Receive) => return self.received(entry, on_train),
            Some(Tag::Send(index)) => self.sent(entry, index),
            Some(Tag::Eventfd) => {
                self.eventfd_armed = cqueue::more(entry.flags());
                if entry.result() >= 0 {
                    self.wake_up(covered);
                } else if entry.result() != -libc::ECANCELED {
                    return Err(failure(entry));
                }
            }
            Some(Tag::PeerWake) => self.wake_up(covered),
            // Only failures complete: the peer is gone, or its ring is full. Its eventfd always works.
            Some(Tag::WakePeer(index)) => {
                if let Some(peer) = self.peers.get(index as usize) {
                    peer.ring.waker().wake();
                    self.ring.calls += 1;
                }
            }
            // A full counter means that the program was woken and has not looked yet.
            Some(Tag::Notify) if entry.result() == -libc::EAGAIN => {}
            Some(Tag::Notify) => {
                if let Some(bell) = &self.bell {
                    bell.wake();
                    self.ring.calls += 1;
                }
            }
            Some(Tag::Cancel) => {}
            None => {
                let what = format!("a completion of nobody's: {:#x}", entry.user_data());
                return Err(io::Error::other(what));
            }
        }
        Ok(false)
    }

    /// A wake-up that the last sleep has returned for is over; any other ends the next sleep
    fn wake_up(&mut self, covered: bool) {
        self.counters.wakes_received += 1;
        self.woken |= !covered;
    }

    fn received(
        &mut self,
        entry: &cqueue::Entry,
        on_train: &mut dyn FnMut(Train<'_>),
    ) -> io::Result<bool> {
        self.receive_armed = cqueue::more(entry.flags());
        let buffer = cqueue::buffer_select(entry.flags());
        let Ok(filled) = usize::try_from(entry.result()) else {
            debug_assert!(buffer.is_none(), "a failed receive holds no buffer");
            return match -entry.result() {
                // What has arrived stays in the socket until receive is armed again.
                libc::ENOBUFS => {
                    self.counters.buffers_exhausted += 1;
                    Ok(false)
                }
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => Ok(false),
                _ => Err(failure(entry)),
            };
        };
        if filled == 0 && buffer.is_none() {
            // An empty datagram, received singly, leaves its buffer where it was.
            self.counters.trains_unreadable += 1;
            return Ok(false);
        }
        let Some(buffer) = buffer.filter(|buffer| self.memory.provided.has(*buffer)) else {
            return Err(io::Error::other("a train was received into no buffer of this ring"));
        };
        let Memory { provided, receive, .. } = &mut *self.memory;
        let read = match receive {
            Receive::Multishot(_) => provided.filled(buffer, filled),
            Receive::Single(single) => {
                provided.octets(buffer, filled).and_then(|octets| single.filled(octets))
            }
        };
        let handed_over = match read {
            None => {
                self.counters.trains_unreadable += 1;
                false
            }
            Some(read) => {
                let told = ReceivedControl::parse(read.control);
                if let Some(total) = told.overflows {
                    self.counters.overflowed(total);
                }
                let segment_bytes = told.segment_bytes.unwrap_or(read.payload.len()).max(1);
                let train = Train {
                    bytes: read.payload,
                    segment_bytes,
                    from: read.from,
                    to: told.to,
                    truncated: read.truncated,
                };
                self.counters.received(&train);
                on_train(train);
                true
            }
        };
        self.memory.provided.give(buffer);
        Ok(handed_over)
    }

    /// A plain send completes once. A zero-copy send completes with its result and, if that says so, again
    /// when the kernel has let go of the memory; the slab is free only then.
    fn sent(&mut self, entry: &cqueue::Entry, index: u32) {
        let Some(slot) = self.memory.slots.get(index as usize) else {
            debug_assert!(false, "completion of slab {index}");
            return;
        };
        let (transmit, zero_copy) = (slot.transmit, slot.zero_copy);
        if cqueue::notif(entry.flags()) {
            let copied = entry.result() as u32 & NOTIFICATION_COPIED != 0;
            self.counters.zero_copy_copied += u64::from(copied);
            self.zero_copy.notified(copied);
        } else if entry.result() >= 0 {
            if let Some(transmit) = transmit {
                self.counters.sent(&transmit);
            }
        } else {
            let error = failure(entry);
            if self.counters.refused(&error) {
                self.stop_segmenting(&error);
            }
            if zero_copy {
                self.zero_copy.refused(&error);
            }
        }
        if !cqueue::more(entry.flags()) {
            self.sends_in_flight = self.sends_in_flight.saturating_sub(1);
            self.free(index);
        }
    }

    fn stop_segmenting(&mut self, error: &io::Error) {
        if self.offloads.segments > 1 {
            self.offloads.segments = 1;
            let note = "segmentation offload was switched off: a route refused it (EIO)";
            tracing::warn!(%error, "{note}");
            self.offloads.notes.push(note.to_owned());
        }
    }

    /// Frees a slab whose send has ended
    pub(crate) fn free(&mut self, index: u32) {
        self.memory.slots[index as usize].transmit = None;
        let was_parked = self.memory.slabs.restore(index);
        debug_assert!(was_parked, "slab {index} completed but was not parked");
    }
}

fn failure(entry: &cqueue::Entry) -> io::Error {
    io::Error::from_raw_os_error(-entry.result())
}
