//! The provider itself: what it owns and what a worker calls. Completions are read in `completion`, the end
//! is made in `drain`.

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddrV6;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{Submitter, opcode, squeue, types};
use stoq_interface::IoProvider;
use stoq_memory::SlabPool;
use stoq_udp::{
    DatagramIo, IoCounters, IoDescription, IoSettings, Offloads, PeerRing, SendMessage, Slab,
    Socket, Train, Transmit, Wait, Waker, ZeroCopyState, offloads, send_slabs,
};

use crate::provided::{GROUP, ProvidedBuffers, receive_header};
use crate::ring::Ring;
use crate::single::SingleReceive;
use crate::tag::Tag;
use crate::{ProbeFailure, ZeroCopyPolicy};

// Registered files.
const SOCKET: types::Fixed = types::Fixed(0);
const EVENTFD: types::Fixed = types::Fixed(1);

// linux/io_uring.h: flags of a send, in the field the crate calls ioprio. The crate's SendMsgZc has no way to
// name a registered buffer; without a name it is number 0, which is the whole send arena.
const RECVSEND_FIXED_BUF: u16 = 1 << 2;
const SEND_ZC_REPORT_USAGE: u16 = 1 << 3;

/// Peers whose rings are remembered; beyond this many, wake-ups go through the eventfd
const PEERS_MAX: usize = 1024;

/// A socket that could not be given a ring, with the reason: use it another way
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct Refused {
    /// The socket, as it was
    pub socket: Box<Socket>,
    /// Why
    pub failure: ProbeFailure,
}

/// One send: what was asked and the storage the kernel reads
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) message: SendMessage,
    pub(crate) transmit: Option<Transmit>,
    pub(crate) zero_copy: bool,
}

/// Everything the kernel may read or write while operations are under way
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) slabs: SlabPool,
    pub(crate) slots: Box<[Slot]>,
    pub(crate) provided: ProvidedBuffers,
    pub(crate) receive: Receive,
}

/// How trains are asked for
#[derive(Debug)]
pub(crate) enum Receive {
    /// Once for all, with the room to leave before each
    Multishot(Box<libc::msghdr>),
    /// One at a time
    Single(SingleReceive),
}

pub(crate) struct Peer {
    pub(crate) ring: PeerRing,
    queued: bool,
}

/// I/O through one io_uring. It belongs to the thread that made it.
pub struct UringIo {
    pub(crate) ring: Ring,
    // Freed only after the ring is known to be done with it: see `drain`.
    pub(crate) memory: ManuallyDrop<Memory>,
    socket: Socket,
    waker: Waker,
    pub(crate) offloads: Offloads,
    pub(crate) zero_copy: ZeroCopyPolicy,
    pub(crate) registered_buffers: bool,
    pub(crate) counters: IoCounters,
    pub(crate) peers: Vec<Peer>,
    any_peer_queued: bool,
    // Kept open for the writes in the ring.
    pub(crate) bell: Option<Waker>,
    pub(crate) trains_per_receive: usize,
    pub(crate) receive_armed: bool,
    pub(crate) eventfd_armed: bool,
    pub(crate) sends_in_flight: usize,
    // A wake-up was taken that no sleep has returned for yet.
    pub(crate) woken: bool,
    // Completions that the last sleep returned for and that have not been taken yet.
    pub(crate) covered: usize,
    // An error of a call that cannot return one; the next `submit` does.
    deferred: Option<io::Error>,
}

impl UringIo {
    /// Makes a provider over `socket`, using the offloads that the self-test found good
    pub fn new(socket: Socket, settings: &IoSettings) -> Result<Self, Refused> {
        match offloads() {
            Ok(offloads) => Self::with_offloads(socket, settings, offloads.clone()),
            Err(reason) => Err(Refused {
                socket: Box::new(socket),
                failure: ProbeFailure::SelfTest(reason.clone()),
            }),
        }
    }

    /// Makes a provider that uses the offloads given, tried or not, less those the settings switch off
    pub fn with_offloads(
        socket: Socket,
        settings: &IoSettings,
        offloads: Offloads,
    ) -> Result<Self, Refused> {
        let offloads = offloads.within(settings);
        let made = Waker::new()
            .map_err(|error| ProbeFailure::of("an eventfd", &error))
            .and_then(|waker| Ok((build(&socket, &waker, settings)?, waker)));
        let ((ring, memory, registered_buffers), waker) = match made {
            Ok(made) => made,
            Err(failure) => return Err(Refused { socket: Box::new(socket), failure }),
        };
        let mut socket = socket;
        if !offloads.gro
            && let Err(error) = socket.disable_gro()
        {
            let failure = ProbeFailure::of("switching UDP_GRO off", &error);
            return Err(Refused { socket: Box::new(socket), failure });
        }
        Ok(Self {
            ring,
            memory: ManuallyDrop::new(memory),
            socket,
            waker,
            offloads,
            zero_copy: ZeroCopyPolicy::new(settings.zero_copy, registered_buffers),
            registered_buffers,
            counters: IoCounters::default(),
            peers: Vec::new(),
            any_peer_queued: false,
            bell: None,
            trains_per_receive: settings.trains_per_receive.max(1),
            receive_armed: false,
            eventfd_armed: false,
            sends_in_flight: 0,
            woken: false,
            covered: 0,
            deferred: None,
        })
    }

    /// Arms what is not armed: multishot receive and the poll of the eventfd
    pub(crate) fn arm(&mut self) -> io::Result<()> {
        if !self.receive_armed {
            let entry = match &mut self.memory.receive {
                Receive::Multishot(header) => {
                    let header = std::ptr::from_ref(header.as_ref());
                    opcode::RecvMsgMulti::new(SOCKET, header, GROUP).build()
                }
                Receive::Single(single) => opcode::RecvMsg::new(SOCKET, single.header())
                    .buf_group(GROUP)
                    .build()
                    .flags(squeue::Flags::BUFFER_SELECT),
            };
            let entry = entry.user_data(Tag::Receive.to_user_data());
            // SAFETY: a multishot header is boxed and never changes; a single one lies in an arena and is
            // described anew only here, while none is under way. `drain` keeps either, and the provided
            // buffers, until the operation has completed.
            unsafe { self.ring.push(&entry)? };
            self.receive_armed = true;
            self.counters.receives_armed += 1;
        }
        if !self.eventfd_armed {
            let entry = opcode::PollAdd::new(EVENTFD, libc::POLLIN as u32)
                .multi(true)
                .build()
                .user_data(Tag::Eventfd.to_user_data());
            // SAFETY: the entry points at no memory; the eventfd is a registered file.
            unsafe { self.ring.push(&entry)? };
            self.eventfd_armed = true;
        }
        Ok(())
    }

    /// Queues the send of a parked slab
    fn push_send(&mut self, index: u32, transmit: &Transmit) -> io::Result<()> {
        let payload = self.memory.slabs.address(index);
        let zero_copy = self.zero_copy.wants(transmit.bytes, &transmit.to, transmit.from);
        let slot = &mut self.memory.slots[index as usize];
        let header = slot.message.describe(payload, transmit);
        slot.transmit = Some(*transmit);
        slot.zero_copy = zero_copy;
        let entry = if zero_copy {
            let registered = if self.registered_buffers { RECVSEND_FIXED_BUF } else { 0 };
            let flags = registered | SEND_ZC_REPORT_USAGE;
            opcode::SendMsgZc::new(SOCKET, header).ioprio(flags).build()
        } else {
            opcode::SendMsg::new(SOCKET, header).build()
        };
        let entry = entry.user_data(Tag::Send(index).to_user_data());
        // SAFETY: header, address and control messages live in a boxed slot that is described anew only when
        // its slab is leased again; the payload is a parked slab. Both stay until the completion (of a
        // zero-copy send: the notification) restores the slab, and `drain` keeps them for as long.
        unsafe { self.ring.push(&entry)? };
        self.counters.zero_copy_sends += u64::from(zero_copy);
        self.sends_in_flight += 1;
        Ok(())
    }

    /// Queues a wake-up of a peer's ring; false if there is none or no room to remember it
    fn push_wake(&mut self, peer: &PeerRing) -> io::Result<bool> {
        let Some(ring) = peer.ring() else { return Ok(false) };
        let known = self
            .peers
            .iter()
            .position(|known| known.ring.ring().is_some_and(|known| Arc::ptr_eq(known, ring)));
        let index = match known {
            Some(index) => index,
            None if self.peers.len() < PEERS_MAX => {
                self.peers.push(Peer { ring: peer.clone(), queued: false });
                self.peers.len() - 1
            }
            None => return Ok(false),
        };
        if !self.peers[index].queued {
            let target = types::Fd(ring.as_raw_fd());
            let message = Tag::PeerWake.to_user_data();
            let entry = opcode::MsgRingData::new(target, 0, message, None)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(Tag::WakePeer(index as u32).to_user_data());
            // SAFETY: the entry points at no memory; the target's descriptor is kept open by `peers`.
            unsafe { self.ring.push(&entry)? };
            self.peers[index].queued = true;
            self.any_peer_queued = true;
            self.counters.wakes_sent += 1;
        }
        Ok(true)
    }

    /// Queues a write to an eventfd that is not this ring's own
    fn push_notify(&mut self, bell: &Waker) -> io::Result<()> {
        let target = bell.as_fd().as_raw_fd();
        if self.bell.as_ref().is_none_or(|known| known.as_fd().as_raw_fd() != target) {
            // Writes to the one before must have left before it may be closed.
            self.ring.submit()?;
            self.bell = Some(bell.clone());
        }
        let entry = opcode::Write::new(types::Fd(target), (&raw const ONE).cast(), 8)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(Tag::Notify.to_user_data());
        // SAFETY: the eight octets are static, and the descriptor is kept open by `bell`.
        unsafe { self.ring.push(&entry) }
    }
}

/// What a write to an eventfd adds
static ONE: u64 = 1;

/// Makes ring and memory and registers everything: files 0 and 1, buffer 0, buffer group 0
fn build(
    socket: &Socket,
    waker: &Waker,
    settings: &IoSettings,
) -> Result<(Ring, Memory, bool), ProbeFailure> {
    let setup = |error: stoq_udp::IoSetupError| ProbeFailure::Setup(error.to_string());
    let slabs = send_slabs(settings).map_err(setup)?;
    let mut provided = ProvidedBuffers::new(settings).map_err(setup)?;
    // Room for what can complete in one go: every receive buffer, two completions per send, and wake-ups.
    let completions = 2 * settings.send_slabs.min(16_384) + u32::from(settings.receive_buffers);
    let ring = Ring::new(2 * completions)?;
    let submitter = ring.submitter();
    submitter
        .register_files(&[socket.as_fd().as_raw_fd(), waker.as_fd().as_raw_fd()])
        .map_err(|error| ProbeFailure::of("registered files", &error))?;
    let registered = settings.registered_buffers && register_arena(&submitter, &slabs);
    provided
        .register(&submitter)
        .map_err(|error| ProbeFailure::of("a ring of provided buffers", &error))?;
    let slots = (0..slabs.capacity())
        .map(|_| Slot { message: SendMessage::default(), transmit: None, zero_copy: false })
        .collect();
    let receive = if settings.multishot {
        Receive::Multishot(Box::new(receive_header()))
    } else {
        let single = SingleReceive::new(settings);
        Receive::Single(single.map_err(|error| ProbeFailure::Setup(error.to_string()))?)
    };
    Ok((ring, Memory { slabs, slots, provided, receive }, registered))
}

/// Registers the send memory as buffer 0; whether the kernel took it
fn register_arena(submitter: &Submitter<'_>, slabs: &SlabPool) -> bool {
    let arena = libc::iovec {
        iov_base: slabs.arena().as_ptr().as_ptr().cast(),
        iov_len: slabs.arena().bytes(),
    };
    // SAFETY: the arena stays mapped until `drain` has unregistered it, or for ever.
    match unsafe { submitter.register_buffers(&[arena]) } {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(
                %error,
                bytes = arena.iov_len,
                "the send memory could not be registered, so sends will be copied; raise the limit of \
                 locked memory (LimitMEMLOCK=, ulimit -l)"
            );
            false
        }
    }
}

impl DatagramIo for UringIo {
    fn slab(&mut self) -> Option<Slab> {
        self.memory.slabs.lease()
    }

    fn slab_bytes(&mut self, slab: &Slab) -> &mut [u8] {
        self.memory.slabs.bytes_mut(slab)
    }

    fn send(&mut self, slab: Slab, transmit: Transmit) {
        if !transmit.is_valid(self.offloads.segments) {
            self.memory.slabs.release(slab);
            self.counters.send_errors += 1;
            return;
        }
        let index = self.memory.slabs.park(slab);
        if let Err(error) = self.push_send(index, &transmit) {
            self.counters.refused(&error);
            self.free(index);
            self.deferred = Some(error);
        }
    }

    fn release(&mut self, slab: Slab) {
        self.memory.slabs.release(slab);
    }

    fn segment_limit(&self) -> usize {
        self.offloads.segments
    }

    fn receive(&mut self, on_train: &mut dyn FnMut(Train<'_>)) -> io::Result<usize> {
        if self.ring.must_enter() {
            self.ring.submit()?;
        }
        let trains = self.reap(on_train)?;
        self.arm()?;
        match self.memory.receive {
            Receive::Multishot(_) => Ok(trains),
            Receive::Single(_) => self.receive_singly(trains, on_train),
        }
    }

    fn submit(&mut self, wait: Wait) -> io::Result<()> {
        if let Some(error) = self.deferred.take() {
            return Err(error);
        }
        if std::mem::take(&mut self.any_peer_queued) {
            self.peers.iter_mut().for_each(|peer| peer.queued = false);
        }
        let ready = self.woken || self.ring.completed() > 0;
        let outcome = match wait {
            Wait::Until(timeout) if !ready && timeout != Some(Duration::ZERO) => {
                self.ring.submit_and_sleep(timeout)
            }
            _ if self.ring.pending() > 0 => self.ring.submit(),
            _ => Ok(()),
        };
        self.counters.system_calls = self.ring.calls;
        if wait != Wait::No {
            self.woken = false;
            self.covered = self.ring.completed();
        }
        outcome
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn wake_peer(&mut self, peer: &PeerRing) {
        let queued = self.push_wake(peer);
        if !matches!(queued, Ok(true)) {
            self.counters.wakes_sent += 1;
            self.ring.calls += 1;
            peer.waker().wake();
        }
        if let Err(error) = queued {
            self.deferred = Some(error);
        }
    }

    fn notify(&mut self, bell: &Waker) {
        if let Err(error) = self.push_notify(bell) {
            bell.wake();
            self.ring.calls += 1;
            self.deferred = Some(error);
        }
    }

    fn peer_ring(&self) -> PeerRing {
        PeerRing::new(Some(Arc::clone(self.ring.shared())), self.waker.clone())
    }

    fn counters(&self) -> &IoCounters {
        &self.counters
    }

    fn local_address(&self) -> SocketAddrV6 {
        self.socket.local_address()
    }

    fn describe(&self) -> IoDescription {
        let arena = self.memory.slabs.arena();
        let zero_copy: ZeroCopyState = self.zero_copy.state();
        IoDescription {
            provider: IoProvider::IoUring,
            gso_segments: self.offloads.segments,
            gro: self.socket.gro(),
            zero_copy,
            multishot: matches!(self.memory.receive, Receive::Multishot(_)),
            registered_buffers: self.registered_buffers,
            registered_ring: self.ring.has_registered_descriptor(),
            page_bytes: arena.page_bytes(),
            huge_pages: arena.huge().clone(),
            node: arena.node(),
            receive_buffer_bytes: self.socket.receive_buffer_bytes(),
            notes: self.offloads.notes.clone(),
        }
    }
}
