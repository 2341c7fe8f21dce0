//! The allocator of the programs around the data plane. What a worker receives is made on its thread and freed
//! on a program's: this allocator does that without a lock, and keeps what was freed.

use std::ffi::{c_int, c_long};

/// The general-purpose allocator: set it as the `#[global_allocator]` of a program that runs workers
pub use mimalloc::MiMalloc as ProcessAllocator;

/// `mi_option_purge_delay` (mimalloc.h, `enum mi_option_e`), which the bindings do not name
const PURGE_DELAY: c_int = 15;
/// "-1 for no purging at all" (mimalloc.h)
const NEVER: c_long = -1;

/// Keeps freed memory in the process for use again. The allocator would return it to the kernel after 10 ms, with
/// system calls and page faults on the thread that happens to free or allocate next: under load, a worker. The
/// process stays as large as it once was.
pub fn keep_freed_memory() {
    // SAFETY: the call takes two plain numbers and stores one; options may be set at any time by any thread.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, NEVER) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_purge_delay() {
        // SAFETY: reads one number.
        let delay = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert!(delay() > 0, "the default is a delay in milliseconds");
        keep_freed_memory();
        assert_eq!(delay(), NEVER);
    }
}
