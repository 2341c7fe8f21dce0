//! Wakes a worker that sleeps in the kernel, from any thread, with one write to an eventfd.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// A handle to wake one I/O provider; clones wake the same one
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Makes an eventfd
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes plain numbers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made just now and nobody else knows it.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Wakes the provider; many wake-ups before it looks are one
    pub fn wake(&self) {
        let one = 1u64;
        // SAFETY: eight octets that live during the call are read from `one`.
        let written =
            unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
        if written < 0 {
            let error = io::Error::last_os_error();
            // A full counter means that the provider has been woken and has not looked yet.
            if error.kind() != io::ErrorKind::WouldBlock {
                tracing::error!(%error, "a worker could not be woken");
            }
        }
    }

    /// Takes back all wake-ups so far: whether there were any
    pub fn drain(&self) -> bool {
        let mut count = 0u64;
        // SAFETY: eight octets that live during the call are written to `count`.
        let read =
            unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
        read > 0 && count > 0
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wake_ups_are_one() {
        let waker = Waker::new().unwrap();
        assert!(!waker.drain());
        waker.wake();
        waker.clone().wake();
        assert!(waker.drain());
        assert!(!waker.drain());
    }
}
