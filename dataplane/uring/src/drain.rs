//! The end of a provider: nothing the kernel may still read or write is freed. Everything is cancelled and
//! waited for; what does not end in time is leaked on purpose, with a word about it.

use std::io;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use io_uring::opcode::AsyncCancel2;
use io_uring::types::CancelBuilder;

use crate::provided::GROUP;
use crate::provider::UringIo;
use crate::tag::Tag;

/// Zero-copy sends end when the device is done with them, which no cancellation hastens
const PATIENCE: Duration = Duration::from_secs(5);

impl UringIo {
    fn is_quiet(&self) -> bool {
        !self.receive_armed && !self.eventfd_armed && self.sends_in_flight == 0
    }

    /// How an operation ends no longer matters, only that it does
    fn reap_at_end(&mut self) {
        if let Err(error) = self.reap(&mut |_| {}) {
            tracing::debug!(%error, "an operation failed while its ring was brought to rest");
        }
    }

    /// Sends what is queued, cancels the rest and waits: whether nothing is left under way
    fn drain(&mut self) -> io::Result<bool> {
        // First what is queued: a farewell to a peer may be among it.
        self.ring.submit()?;
        self.reap_at_end();
        let entry = AsyncCancel2::new(CancelBuilder::any().all())
            .build()
            .user_data(Tag::Cancel.to_user_data());
        // SAFETY: the entry points at no memory.
        unsafe { self.ring.push(&entry)? };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.ring.submit_and_sleep(Some(left))?;
            self.reap_at_end();
            if self.is_quiet() {
                return Ok(true);
            }
        }
    }

    /// Takes memory and files from the ring at once; closing its descriptor alone would do so some time later
    fn unregister(&self) -> io::Result<()> {
        let submitter = self.ring.submitter();
        submitter.unregister_buf_ring(GROUP)?;
        if self.registered_buffers {
            submitter.unregister_buffers()?;
        }
        submitter.unregister_files()
    }
}

impl Drop for UringIo {
    fn drop(&mut self) {
        let outcome = self.drain().and_then(|quiet| {
            if quiet { self.unregister() } else { Err(io::Error::from(io::ErrorKind::TimedOut)) }
        });
        match outcome {
            // SAFETY: no operation is under way and nothing is registered any more, so the kernel neither reads
            // nor writes this memory; the field is not used again.
            Ok(()) => unsafe { ManuallyDrop::drop(&mut self.memory) },
            Err(error) => tracing::error!(
                %error,
                sends_in_flight = self.sends_in_flight,
                "a ring could not be brought to rest; its packet memory is left allocated, because the \
                 kernel may still use it"
            ),
        }
    }
}
