//! The provider for kernels that refuse io_uring: `recvmmsg` with receive offload, `sendmmsg` with
//! segmentation offload, `ppoll` to sleep. The same behaviour as the ring's, with more system calls.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddrV6;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use stoq_interface::IoProvider;
use stoq_memory::SlabPool;

use crate::receive_slots::ReceiveSlots;
use crate::self_test::{Offloads, offloads};
use crate::{
    DatagramIo, IoCounters, IoDescription, IoSettings, IoSetupError, PeerRing, ReceivedControl,
    SendMessage, Slab, Socket, Train, Transmit, Wait, Waker, ZeroCopyState, send_slabs,
};

/// Messages of one `recvmmsg` or `sendmmsg`: 1 MiB of buffers, which stays in the cache
const BATCH: usize = 16;

/// Batches one `receive` takes before the worker gets its turn
const BATCHES_PER_RECEIVE: usize = 8;

/// I/O by plain system calls
#[derive(Debug)]
pub struct SystemCallIo {
    socket: Socket,
    waker: Waker,
    slabs: SlabPool,
    messages: Box<[SendMessage]>,
    queue: VecDeque<(u32, Transmit)>,
    // The socket's send buffer is full: wait for room before sending on.
    blocked: bool,
    slots: ReceiveSlots,
    trains_per_receive: usize,
    offloads: Offloads,
    counters: IoCounters,
}

impl SystemCallIo {
    /// Makes a provider over `socket`, using the offloads that the self-test found good
    pub fn new(socket: Socket, settings: &IoSettings) -> Result<Self, IoSetupError> {
        let offloads = offloads().map_err(IoSetupError::SelfTest)?;
        Self::with_offloads(socket, settings, offloads.clone())
    }

    /// Makes a provider that uses the offloads given, tried or not, less those the settings switch off
    pub fn with_offloads(
        mut socket: Socket,
        settings: &IoSettings,
        offloads: Offloads,
    ) -> Result<Self, IoSetupError> {
        let offloads = offloads.within(settings);
        if !offloads.gro {
            socket.disable_gro().map_err(IoSetupError::kernel("switching UDP_GRO off"))?;
        }
        let slabs = send_slabs(settings)?;
        let trains_per_receive = settings.trains_per_receive.clamp(1, BATCHES_PER_RECEIVE * BATCH);
        let batch = BATCH.min(settings.receive_buffers.max(1).into()).min(trains_per_receive);
        Ok(Self {
            socket,
            waker: Waker::new().map_err(IoSetupError::kernel("an eventfd"))?,
            messages: (0..slabs.capacity()).map(|_| SendMessage::default()).collect(),
            queue: VecDeque::with_capacity(slabs.capacity()),
            blocked: false,
            slots: ReceiveSlots::new(batch, settings)?,
            trains_per_receive,
            slabs,
            offloads,
            counters: IoCounters::default(),
        })
    }

    /// Sends what is queued until nothing is left or the socket is full
    fn flush(&mut self) -> io::Result<()> {
        self.blocked = false;
        while !self.queue.is_empty() {
            // SAFETY: an all-zero mmsghdr is valid: no address, no data, no control messages.
            let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
            let batch = self.queue.len().min(BATCH);
            for (header, (index, _)) in headers.iter_mut().zip(&self.queue) {
                header.msg_hdr = self.messages[*index as usize].header();
            }
            self.counters.system_calls += 1;
            // SAFETY: the first `batch` headers were described by `send` for slabs that are parked since: they
            // point into boxed messages and at slabs of the arena, none of which moves or changes; sendmmsg
            // reads them and writes only the lengths in `headers`.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_fd().as_raw_fd(),
                    headers.as_mut_ptr(),
                    batch as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            if let Ok(sent) = usize::try_from(sent) {
                for _ in 0..sent {
                    if let Some(transmit) = self.take_first() {
                        self.counters.sent(&transmit);
                    }
                }
                continue;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) => {
                    self.blocked = true;
                    return Ok(());
                }
                // The descriptor itself is broken: nothing will ever be sent.
                Some(libc::EBADF | libc::ENOTSOCK) => return Err(error),
                // This train is lost, as a packet on the way would be; the next may pass.
                _ => {
                    self.take_first();
                    self.refused(&error);
                }
            }
        }
        Ok(())
    }

    fn refused(&mut self, error: &io::Error) {
        if self.counters.refused(error) && self.offloads.segments > 1 {
            self.offloads.segments = 1;
            let note = "segmentation offload was switched off: a route refused it (EIO)";
            tracing::warn!(%error, "{note}");
            self.offloads.notes.push(note.to_owned());
        }
    }

    fn take_first(&mut self) -> Option<Transmit> {
        let (index, transmit) = self.queue.pop_front()?;
        let was_parked = self.slabs.restore(index);
        debug_assert!(was_parked, "slab {index} was queued but not parked");
        Some(transmit)
    }

    /// Sleeps until the socket or the eventfd has something; takes back wake-ups
    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let room = if self.blocked { libc::POLLOUT } else { 0 };
        let mut wanted = [
            libc::pollfd {
                fd: self.socket.as_fd().as_raw_fd(),
                events: libc::POLLIN | room,
                revents: 0,
            },
            libc::pollfd { fd: self.waker.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 },
        ];
        let limit = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        self.counters.system_calls += 1;
        // SAFETY: two pollfds and the timespec live during the call; a null mask leaves signals alone.
        let ready = unsafe {
            libc::ppoll(
                wanted.as_mut_ptr(),
                wanted.len() as libc::nfds_t,
                limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
                std::ptr::null(),
            )
        };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        if wanted[1].revents != 0 {
            self.counters.system_calls += 1;
            self.counters.wakes_received += u64::from(self.waker.drain());
        }
        Ok(())
    }
}

impl DatagramIo for SystemCallIo {
    fn slab(&mut self) -> Option<Slab> {
        self.slabs.lease()
    }

    fn slab_bytes(&mut self, slab: &Slab) -> &mut [u8] {
        self.slabs.bytes_mut(slab)
    }

    fn send(&mut self, slab: Slab, transmit: Transmit) {
        if !transmit.is_valid(self.offloads.segments) {
            self.slabs.release(slab);
            self.counters.send_errors += 1;
            return;
        }
        let index = self.slabs.park(slab);
        let payload = self.slabs.address(index);
        self.messages[index as usize].describe(payload, &transmit);
        self.queue.push_back((index, transmit));
    }

    fn release(&mut self, slab: Slab) {
        self.slabs.release(slab);
    }

    fn segment_limit(&self) -> usize {
        self.offloads.segments
    }

    fn receive(&mut self, on_train: &mut dyn FnMut(Train<'_>)) -> io::Result<usize> {
        let mut trains = 0;
        for _ in 0..BATCHES_PER_RECEIVE {
            self.counters.system_calls += 1;
            let arrived = self.slots.receive(&self.socket)?;
            for index in 0..arrived {
                let Some(slot) = self.slots.train(index) else {
                    self.counters.trains_unreadable += 1;
                    continue;
                };
                let told = ReceivedControl::parse(slot.control);
                if let Some(total) = told.overflows {
                    self.counters.overflowed(total);
                }
                let segment_bytes = told.segment_bytes.unwrap_or(slot.bytes.len()).max(1);
                let train = Train {
                    bytes: slot.bytes,
                    segment_bytes,
                    from: slot.from,
                    to: told.to,
                    truncated: slot.truncated,
                };
                self.counters.received(&train);
                on_train(train);
                trains += 1;
            }
            if arrived < self.slots.len() || trains + self.slots.len() > self.trains_per_receive {
                break;
            }
        }
        Ok(trains)
    }

    fn submit(&mut self, wait: Wait) -> io::Result<()> {
        self.flush()?;
        match wait {
            Wait::No => Ok(()),
            // The eventfd keeps wake-ups until `sleep` takes them back, so none is lost before it.
            Wait::Until(timeout) => self.sleep(timeout),
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn wake_peer(&mut self, peer: &PeerRing) {
        self.counters.system_calls += 1;
        self.counters.wakes_sent += 1;
        peer.waker().wake();
    }

    fn notify(&mut self, bell: &Waker) {
        self.counters.system_calls += 1;
        bell.wake();
    }

    fn peer_ring(&self) -> PeerRing {
        PeerRing::new(None, self.waker.clone())
    }

    fn counters(&self) -> &IoCounters {
        &self.counters
    }

    fn local_address(&self) -> SocketAddrV6 {
        self.socket.local_address()
    }

    fn describe(&self) -> IoDescription {
        IoDescription {
            provider: IoProvider::SystemCalls,
            gso_segments: self.offloads.segments,
            gro: self.socket.gro(),
            zero_copy: ZeroCopyState::Off("plain system calls copy".to_owned()),
            multishot: false,
            registered_buffers: false,
            registered_ring: false,
            page_bytes: self.slabs.arena().page_bytes(),
            huge_pages: self.slabs.huge().clone(),
            node: self.slabs.arena().node(),
            receive_buffer_bytes: self.socket.receive_buffer_bytes(),
            notes: self.offloads.notes.clone(),
        }
    }
}
