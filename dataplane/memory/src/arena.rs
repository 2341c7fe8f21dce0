//! One large piece of memory for packets: huge pages where they can be had, bound to a NUMA node, touched
//! before the first packet so that no page fault happens under load. It hands out addresses, not slices:
//! who may touch which part when is the business of [`crate::SlabPool`] and of the receive rings.

use std::io;
use std::ptr::{self, NonNull};

use crate::pages::{
    HUGE_PAGE_BYTES, HugePages, host_memory_bytes, page_bytes, transparent_huge_bytes,
};
use crate::topology::bind_memory;

/// Why there is no arena
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// Nothing, or more than the host has, was asked for; checked first because an overcommitting kernel
    /// would say yes and kill somebody later
    #[error("an arena of {bytes} octets cannot be made on a host of {host_bytes} octets")]
    Size {
        /// What was asked for
        bytes: usize,
        /// Memory of the host
        host_bytes: usize,
    },
    /// The kernel refused the memory
    #[error(
        "{bytes} octets of packet memory could not be had: {source}; is the memory limit too low?"
    )]
    Memory {
        /// What was asked for
        bytes: usize,
        /// What the kernel said
        source: io::Error,
    },
    /// The memory could not be bound to the node asked for
    #[error("packet memory could not be bound to NUMA node {node}: {reason}")]
    Node {
        /// Node asked for
        node: usize,
        /// What hwloc or the kernel said
        reason: String,
    },
}

/// Zeroed, resident memory with a stable address, unmapped on drop
#[derive(Debug)]
pub struct Arena {
    start: NonNull<u8>,
    bytes: usize,
    page_bytes: usize,
    huge: HugePages,
    node: Option<usize>,
    // Declared last: dropped when nothing else refers to it.
    _mapping: Mapping,
}

// SAFETY: an Arena owns its mapping and hands out nothing but addresses; using an address is unsafe at the
// place of use, where the aliasing rules are argued. Moving or sharing the owner moves no memory.
unsafe impl Send for Arena {}
// SAFETY: as for Send: every method that takes &self only reads plain fields.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps `bytes` octets (rounded up to whole pages), binds them to `node` where one is given, and touches
    /// them. With `prefer_huge` reserved huge pages are tried first, then transparent ones; what came of it
    /// is told by [`Arena::huge`].
    ///
    /// # Errors
    /// When memory cannot be had at all, or not on the node asked for. Ordinary pages instead of huge ones
    /// are not an error.
    pub fn new(bytes: usize, node: Option<usize>, prefer_huge: bool) -> Result<Self, ArenaError> {
        let host_bytes = host_memory_bytes();
        if bytes == 0 || bytes > host_bytes {
            return Err(ArenaError::Size { bytes, host_bytes });
        }
        if !prefer_huge {
            return Self::ordinary(bytes, node, "huge pages were not asked for".to_owned());
        }
        if bytes < HUGE_PAGE_BYTES {
            return Self::ordinary(bytes, node, "smaller than one huge page".to_owned());
        }
        match Self::explicit(bytes, node) {
            Ok(arena) => Ok(arena),
            Err(refusal) => Self::transparent(bytes, node, &refusal),
        }
    }

    fn explicit(bytes: usize, node: Option<usize>) -> Result<Self, ArenaError> {
        let bytes = bytes.next_multiple_of(HUGE_PAGE_BYTES);
        let mapping = Mapping::new(
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_HUGETLB | libc::MAP_HUGE_2MB,
        )
        .map_err(|source| ArenaError::Memory { bytes, source })?;
        let start = mapping.start;
        let arena = Self {
            start,
            bytes,
            page_bytes: HUGE_PAGE_BYTES,
            huge: HugePages::Explicit,
            node,
            _mapping: mapping,
        };
        arena.bind()?;
        // Reservations are counted host-wide, not per node: touching a page the node does not have would
        // raise SIGBUS. Populating reports it as an error instead, so a kernel without it gets no huge pages.
        arena.populate().map_err(|source| ArenaError::Memory { bytes, source })?;
        Ok(arena)
    }

    fn transparent(
        bytes: usize,
        node: Option<usize>,
        refusal: &ArenaError,
    ) -> Result<Self, ArenaError> {
        let bytes = bytes.next_multiple_of(HUGE_PAGE_BYTES);
        let mut arena = Self::guarded(bytes, HUGE_PAGE_BYTES, node)?;
        let advised = arena.advise(libc::MADV_HUGEPAGE);
        arena.bind()?;
        arena.touch()?;
        let had = transparent_huge_bytes(arena.start.as_ptr() as usize);
        arena.huge = match (advised, had) {
            (_, Ok(had)) if had >= bytes => HugePages::Transparent,
            (Err(error), _) => HugePages::None(format!(
                "none are reserved ({refusal}) and transparent ones are not offered ({error})"
            )),
            (Ok(()), Ok(had)) => HugePages::None(format!(
                "none are reserved ({refusal}) and the kernel found transparent ones for {had} of \
                 {bytes} octets"
            )),
            (Ok(()), Err(error)) => HugePages::None(format!(
                "none are reserved ({refusal}) and whether transparent ones are in use cannot be \
                 read ({error})"
            )),
        };
        Ok(arena)
    }

    fn ordinary(bytes: usize, node: Option<usize>, reason: String) -> Result<Self, ArenaError> {
        let mut arena = Self::guarded(bytes.next_multiple_of(page_bytes()), page_bytes(), node)?;
        arena.huge = HugePages::None(reason);
        arena.bind()?;
        arena.touch()?;
        Ok(arena)
    }

    /// Reserves more address space than needed and opens an aligned part of it. What stays closed on both
    /// sides stops overruns and keeps the kernel from merging neighbours, so that `smaps` speaks of this
    /// arena alone.
    fn guarded(bytes: usize, align: usize, node: Option<usize>) -> Result<Self, ArenaError> {
        let memory = |source| ArenaError::Memory { bytes, source };
        let reserved = bytes + 2 * align.max(page_bytes());
        let mapping =
            Mapping::new(reserved, libc::PROT_NONE, libc::MAP_NORESERVE).map_err(memory)?;
        let first = mapping.start.as_ptr() as usize + page_bytes();
        let offset = first.next_multiple_of(align) - mapping.start.as_ptr() as usize;
        // SAFETY: offset is less than align plus one page, so offset + bytes stays inside the reservation.
        let start = unsafe { mapping.start.add(offset) };
        // SAFETY: the range lies inside a mapping that this function has just made and nobody else knows.
        let done = unsafe {
            libc::mprotect(start.as_ptr().cast(), bytes, libc::PROT_READ | libc::PROT_WRITE)
        };
        if done != 0 {
            return Err(memory(io::Error::last_os_error()));
        }
        let huge = HugePages::None(String::new());
        Ok(Self { start, bytes, page_bytes: page_bytes(), huge, node, _mapping: mapping })
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is this arena's own; the advices used here (HUGEPAGE, POPULATE_WRITE, DONTFORK)
        // change no contents.
        let done = unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, advice) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn bind(&self) -> Result<(), ArenaError> {
        let Some(node) = self.node else { return Ok(()) };
        // SAFETY: the range is mapped readable and writable, zero-filled by the kernel, and no other
        // reference to it exists yet; hwloc uses its address and length only.
        let memory = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) };
        bind_memory(memory, node).map_err(|reason| ArenaError::Node { node, reason })
    }

    fn populate(&self) -> io::Result<()> {
        // A child process has no use for packet memory, and pinned pages must not become copy-on-write.
        self.advise(libc::MADV_DONTFORK)?;
        self.advise(libc::MADV_POPULATE_WRITE)
    }

    fn touch(&mut self) -> Result<(), ArenaError> {
        match self.populate() {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                // Before Linux 5.14 there is no populating: write one octet per page.
                for offset in (0..self.bytes).step_by(page_bytes()) {
                    // SAFETY: offset is inside the arena, which is writable and not yet shared.
                    unsafe { self.start.add(offset).write_volatile(0) };
                }
                Ok(())
            }
            outcome => {
                let bytes = self.bytes;
                outcome.map_err(|source| ArenaError::Memory { bytes, source })
            }
        }
    }

    /// Address of the first octet, aligned to at least one page
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    /// Usable octets: what was asked for, rounded up to whole pages
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Page size asked of the kernel for this mapping; transparent huge pages leave it at the ordinary size
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Whether huge pages back the arena, and why not
    pub fn huge(&self) -> &HugePages {
        &self.huge
    }

    /// The NUMA node the memory is bound to, where one was asked for
    pub fn node(&self) -> Option<usize> {
        self.node
    }

    /// The NUMA node that really holds the page at `offset_bytes`
    ///
    /// # Errors
    /// `InvalidInput` outside the arena; else what the kernel reports, such as no support for nodes.
    pub fn resident_node(&self, offset_bytes: usize) -> io::Result<usize> {
        if offset_bytes >= self.bytes {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: the offset was checked above.
        let page = unsafe { self.start.add(offset_bytes) }.as_ptr();
        let mut status: libc::c_int = -1;
        // SAFETY: one page address in, one status out, both alive during the call; without target nodes the
        // call only asks.
        let done = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                1usize,
                &raw const page,
                ptr::null::<libc::c_int>(),
                &raw mut status,
                0,
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        usize::try_from(status).map_err(|_| io::Error::from_raw_os_error(-status))
    }
}

/// Address space that goes back to the kernel on drop
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize, protection: libc::c_int, flags: libc::c_int) -> io::Result<Self> {
        // SAFETY: a new private anonymous mapping at an address of the kernel's choosing touches no
        // existing memory.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly what mmap returned, and the owner, who is gone, was its only user.
        let done = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::host_topology;

    fn write_and_read_back(arena: &Arena) {
        for offset in (0..arena.bytes()).step_by(1021) {
            let value = (offset % 251) as u8;
            // SAFETY: offset is inside the arena and this test is its only user.
            let read = unsafe {
                let place = arena.as_ptr().add(offset);
                assert_eq!(place.read(), 0, "fresh memory is zero");
                place.write(value);
                place.read()
            };
            assert_eq!(read, value);
        }
    }

    #[test]
    fn is_bound_to_the_node_asked_for() {
        let node = host_topology().unwrap().nodes[0];
        for prefer_huge in [false, true] {
            let arena = Arena::new(3 << 20, Some(node), prefer_huge).unwrap();
            assert_eq!(arena.node(), Some(node));
            for offset in [0, arena.bytes() / 2, arena.bytes() - 1] {
                assert_eq!(arena.resident_node(offset).unwrap(), node);
            }
            assert!(arena.resident_node(arena.bytes()).is_err());
            write_and_read_back(&arena);
        }
    }

    #[test]
    fn a_node_that_is_not_there_is_an_error_and_not_other_memory() {
        let error = Arena::new(4 << 20, Some(1000), true).unwrap_err();
        assert!(matches!(error, ArenaError::Node { node: 1000, .. }), "{error}");
    }

    #[test]
    fn states_its_pages_as_the_kernel_does() {
        let arena = Arena::new(5 << 20, None, true).unwrap();
        assert_eq!(arena.as_ptr().as_ptr() as usize % HUGE_PAGE_BYTES, 0);
        assert_eq!(arena.bytes(), 6 << 20);
        let transparent = transparent_huge_bytes(arena.as_ptr().as_ptr() as usize).unwrap();
        match arena.huge() {
            HugePages::Explicit => assert_eq!(arena.page_bytes(), HUGE_PAGE_BYTES),
            HugePages::Transparent => assert_eq!(transparent, arena.bytes()),
            HugePages::None(reason) => {
                assert!(transparent < arena.bytes());
                assert!(!reason.is_empty());
            }
        }
        let small = Arena::new(100, None, true).unwrap();
        assert_eq!(small.huge(), &HugePages::None("smaller than one huge page".to_owned()));
        assert_eq!(small.bytes(), page_bytes());
        let plain = Arena::new(4 << 20, None, false).unwrap();
        assert!(matches!(plain.huge(), HugePages::None(reason) if reason.contains("not asked")));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for bytes in [0, host_memory_bytes() + 1, usize::MAX] {
            assert!(matches!(Arena::new(bytes, None, true), Err(ArenaError::Size { .. })));
        }
    }
}
