//! One ring: making it, queueing entries, and the one system call that everything goes through. What the
//! entries mean is the provider's business.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::Timespec;
use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, squeue};

use crate::ProbeFailure;

/// Entries that may wait for submission; more are submitted early
const SUBMISSION_ENTRIES: u32 = 256;

/// Longer sleeps are cut to this, about 68 years, which the kernel's clock can hold
const SLEEP_MAX: Duration = Duration::from_secs(1 << 31);

// linux/io_uring.h; the crate does not export these.
const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;
const ANY_SLOT: u32 = u32::MAX;

/// `struct io_uring_rsrc_update`
#[repr(C)]
struct ResourceUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// `struct io_uring_getevents_arg`
#[repr(C)]
struct GetEventsArgument {
    signal_mask: u64,
    signal_mask_bytes: u32,
    minimum_wait_us: u32,
    timespec: u64,
}

/// A ring of the thread that made it
pub(crate) struct Ring {
    ring: IoUring,
    // A second descriptor of the ring, shared with those who wake it.
    shared: Arc<OwnedFd>,
    // Slot of the ring's descriptor in this thread's own table: spares a look-up per call.
    slot: Option<u32>,
    no_iowait: bool,
    // System calls so far.
    pub(crate) calls: u64,
    // The kernel accepts entries from the thread that made the ring only.
    _one_thread: PhantomData<*mut ()>,
}

impl Ring {
    /// Makes a ring that can hold `completions` completions at a time
    pub(crate) fn new(completions: u32) -> Result<Self, ProbeFailure> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(completions.max(2 * SUBMISSION_ENTRIES).next_power_of_two())
            .dontfork()
            .build(SUBMISSION_ENTRIES)
            .map_err(|error| ProbeFailure::of_setup(&error))?;
        let parameters = ring.params();
        for (there, what) in [
            (parameters.is_feature_ext_arg(), "waiting with a timeout (IORING_FEAT_EXT_ARG)"),
            (
                parameters.is_feature_nodrop(),
                "completions that are never lost (IORING_FEAT_NODROP)",
            ),
            (parameters.is_feature_submit_stable(), "IORING_FEAT_SUBMIT_STABLE"),
            (parameters.is_feature_skip_cqe_on_success(), "IORING_FEAT_CQE_SKIP"),
        ] {
            if !there {
                return Err(ProbeFailure::Lacks { what });
            }
        }
        check_operations(&ring)?;
        let no_iowait = parameters.is_feature_no_iowait();
        // SAFETY: the descriptor is open for as long as `ring`, which outlives this borrow.
        let borrowed = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        let shared = borrowed
            .try_clone_to_owned()
            .map_err(|error| ProbeFailure::of("a second descriptor of the ring", &error))?;
        let mut ring = Self {
            ring,
            shared: Arc::new(shared),
            slot: None,
            no_iowait,
            calls: 0,
            _one_thread: PhantomData,
        };
        ring.slot = ring.register_descriptor();
        Ok(ring)
    }

    /// A thread has few slots for ring descriptors; without one the plain descriptor serves
    fn register_descriptor(&self) -> Option<u32> {
        let mut update =
            ResourceUpdate { offset: ANY_SLOT, reserved: 0, data: self.ring.as_raw_fd() as u64 };
        self.register(REGISTER_RING_FDS, &mut update).ok()?;
        Some(update.offset)
    }

    fn register(&self, operation: libc::c_uint, update: &mut ResourceUpdate) -> io::Result<()> {
        // SAFETY: one update of the layout the kernel expects lives during the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.ring.as_raw_fd(),
                operation,
                std::ptr::from_mut(update),
                1,
            )
        };
        if done == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(crate) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// The descriptor to hand to those who wake this ring
    pub(crate) fn shared(&self) -> &Arc<OwnedFd> {
        &self.shared
    }

    pub(crate) fn has_registered_descriptor(&self) -> bool {
        self.slot.is_some()
    }

    /// Queues an entry; submits early when there is no room
    ///
    /// # Safety
    /// Whatever the entry points at must stay as it is until the entry has been submitted, and whatever the
    /// kernel keeps using must stay until the operation has completed.
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: passed on to the caller.
        if unsafe { self.ring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        self.submit()?;
        // SAFETY: as above.
        unsafe { self.ring.submission().push(entry) }
            .map_err(|_| io::Error::other("the submission queue stays full"))
    }

    /// Entries queued and not yet submitted
    pub(crate) fn pending(&mut self) -> usize {
        self.ring.submission().len()
    }

    /// Whether the kernel has completions that only a call brings forth
    pub(crate) fn must_enter(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Completions that can be taken without a call
    pub(crate) fn completed(&mut self) -> usize {
        self.ring.completion().len()
    }

    /// Takes completions, as many as there are and fit
    pub(crate) fn take<'a>(
        &mut self,
        batch: &'a mut [std::mem::MaybeUninit<cqueue::Entry>],
    ) -> &'a mut [cqueue::Entry] {
        self.ring.completion().fill(batch)
    }

    /// Submits what is queued and runs what the kernel has deferred; does not sleep
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        self.enter(0, None)
    }

    /// The same, and sleeps until there is at least one completion or the time has passed
    pub(crate) fn submit_and_sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.enter(1, timeout)
    }

    fn enter(&mut self, completions: u32, timeout: Option<Duration>) -> io::Result<()> {
        let to_submit = self.pending() as libc::c_uint;
        let mut flags = EnterFlags::GETEVENTS.bits();
        let timespec = timeout.map(|timeout| Timespec::from(timeout.min(SLEEP_MAX)));
        let argument = GetEventsArgument {
            signal_mask: 0,
            signal_mask_bytes: 0,
            minimum_wait_us: 0,
            timespec: timespec.as_ref().map_or(0, |timespec| std::ptr::from_ref(timespec) as u64),
        };
        let (pointer, bytes) = if timespec.is_some() {
            flags |= EnterFlags::EXT_ARG.bits();
            (std::ptr::from_ref(&argument), size_of::<GetEventsArgument>())
        } else {
            (std::ptr::null(), 0)
        };
        if completions > 0 && self.no_iowait {
            // A sleeping worker is idle, not waiting for a disk.
            flags |= EnterFlags::NO_IOWAIT.bits();
        }
        let fd = match self.slot {
            Some(slot) => {
                flags |= EnterFlags::REGISTERED_RING.bits();
                slot as libc::c_int
            }
            None => self.ring.as_raw_fd(),
        };
        self.calls += 1;
        // SAFETY: the descriptor or slot is this ring's; argument and timespec live during the call; what the
        // queued entries point at is vouched for by whoever called `push`.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                fd,
                to_submit,
                completions,
                flags,
                pointer,
                bytes,
            )
        };
        if done >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Time has passed, a signal came, or completions must be taken first: all ends of a turn.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY) => Ok(()),
            _ => Err(error),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The slot holds the ring open; the thread may live on and need its slots.
        if let Some(offset) = self.slot.take() {
            let mut update = ResourceUpdate { offset, reserved: 0, data: 0 };
            if let Err(error) = self.register(UNREGISTER_RING_FDS, &mut update) {
                tracing::warn!(%error, "a ring's descriptor slot could not be given back");
            }
        }
    }
}

fn check_operations(ring: &IoUring) -> Result<(), ProbeFailure> {
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| ProbeFailure::of("asking what io_uring can do", &error))?;
    for (code, what) in [
        (opcode::SendMsg::CODE, "IORING_OP_SENDMSG"),
        (opcode::SendMsgZc::CODE, "IORING_OP_SENDMSG_ZC"),
        (opcode::RecvMsgMulti::CODE, "IORING_OP_RECVMSG"),
        (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
        (opcode::MsgRingData::CODE, "IORING_OP_MSG_RING"),
        (opcode::AsyncCancel2::CODE, "IORING_OP_ASYNC_CANCEL"),
    ] {
        if !probe.is_supported(code) {
            return Err(ProbeFailure::Lacks { what });
        }
    }
    Ok(())
}
