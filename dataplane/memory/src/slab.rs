//! Fixed-size slabs leased from an arena: no allocation after construction, exhaustion is an answer and not
//! an error, and a lease is linear, so a slab is never with two owners. A slab given to the kernel is
//! *parked*: nobody can reach its bytes until the completion brings it back.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Arena, HugePages};

/// Why a pool cannot be made
#[derive(Debug, thiserror::Error)]
pub enum SlabError {
    /// No slabs, or slabs of no octets
    #[error("a pool needs at least one slab of at least one octet")]
    Empty,
    /// The arena is too small
    #[error("{slabs} slabs of {slab_bytes} octets do not fit an arena of {arena_bytes} octets")]
    TooSmall {
        /// Slabs asked for
        slabs: u32,
        /// Octets of each
        slab_bytes: usize,
        /// Octets there are
        arena_bytes: usize,
    },
}

/// The right to use one slab. It cannot be copied; give it back with [`SlabPool::release`] or hand it to
/// the kernel with [`SlabPool::park`]. One that is dropped instead stays leased for the life of the pool.
#[derive(Debug)]
#[must_use = "a slab that is not given back is lost to its pool"]
pub struct Slab {
    index: u32,
    pool: u32,
}

impl Slab {
    /// Position of the slab in its pool
    pub fn index(&self) -> u32 {
        self.index
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Free,
    Leased,
    Parked,
}

/// Slabs of equal size over one arena
#[derive(Debug)]
pub struct SlabPool {
    arena: Arena,
    slab_bytes: usize,
    identity: u32,
    states: Box<[State]>,
    // A stack: the slab used last is the one still in the cache.
    free: Vec<u32>,
}

impl SlabPool {
    /// Divides `arena` into `slabs` slabs of `slab_bytes` octets each
    pub fn new(arena: Arena, slab_bytes: usize, slabs: u32) -> Result<Self, SlabError> {
        // Tells leases of different pools apart; a process makes a few pools per worker, never 2^32.
        static POOLS: AtomicU32 = AtomicU32::new(0);
        if slab_bytes == 0 || slabs == 0 {
            return Err(SlabError::Empty);
        }
        let needed = slab_bytes.checked_mul(slabs as usize);
        if needed.is_none_or(|needed| needed > arena.bytes()) {
            return Err(SlabError::TooSmall { slabs, slab_bytes, arena_bytes: arena.bytes() });
        }
        Ok(Self {
            arena,
            slab_bytes,
            identity: POOLS.fetch_add(1, Ordering::Relaxed),
            states: vec![State::Free; slabs as usize].into_boxed_slice(),
            free: (0..slabs).rev().collect(),
        })
    }

    /// A free slab; `None` when all are leased or parked
    pub fn lease(&mut self) -> Option<Slab> {
        let index = self.free.pop()?;
        self.states[index as usize] = State::Leased;
        Some(Slab { index, pool: self.identity })
    }

    /// Gives a slab back
    pub fn release(&mut self, slab: Slab) {
        self.check(&slab);
        self.set_free(slab.index);
    }

    /// The slab's octets
    pub fn bytes_mut(&mut self, slab: &Slab) -> &mut [u8] {
        self.check(slab);
        let start = self.address(slab.index);
        // SAFETY: the slab lies inside the arena (checked at construction). Its lease is unique and the
        // pool is borrowed mutably for as long as the slice lives, so no other reference to these octets
        // exists; the kernel has only parked slabs, which have no lease.
        unsafe { std::slice::from_raw_parts_mut(start, self.slab_bytes) }
    }

    /// Ends the lease without freeing the slab: its octets are now the kernel's until [`SlabPool::restore`]
    pub fn park(&mut self, slab: Slab) -> u32 {
        self.check(&slab);
        self.states[slab.index as usize] = State::Parked;
        slab.index
    }

    /// Frees a parked slab, after the kernel has said that it is done with it. False if it was not parked.
    #[must_use]
    pub fn restore(&mut self, index: u32) -> bool {
        if self.states.get(index as usize) != Some(&State::Parked) {
            return false;
        }
        self.set_free(index);
        true
    }

    /// Address of a slab's first octet, for operations handed to the kernel
    ///
    /// # Panics
    /// If the pool has no such slab.
    pub fn address(&self, index: u32) -> *mut u8 {
        assert!((index as usize) < self.states.len(), "slab {index} is not in this pool");
        // SAFETY: index times slab_bytes is inside the arena, as checked at construction.
        unsafe { self.arena.as_ptr().add(index as usize * self.slab_bytes) }.as_ptr()
    }

    /// Slabs that can be leased now
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// All slabs
    pub fn capacity(&self) -> usize {
        self.states.len()
    }

    /// Octets of one slab
    pub fn slab_bytes(&self) -> usize {
        self.slab_bytes
    }

    /// The memory behind the pool
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Whether huge pages back the pool
    pub fn huge(&self) -> &HugePages {
        self.arena.huge()
    }

    fn check(&self, slab: &Slab) {
        assert_eq!(slab.pool, self.identity, "a slab was given to a pool that did not lease it");
        debug_assert_eq!(self.states[slab.index as usize], State::Leased);
    }

    fn set_free(&mut self, index: u32) {
        self.states[index as usize] = State::Free;
        self.free.push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(slabs: u32) -> SlabPool {
        SlabPool::new(Arena::new(slabs as usize * 8192, None, false).unwrap(), 8192, slabs).unwrap()
    }

    #[test]
    fn exhaustion_is_an_answer_and_ends_with_a_release() {
        let mut pool = pool(4);
        let mut leases: Vec<Slab> = std::iter::from_fn(|| pool.lease()).collect();
        assert_eq!(leases.len(), 4);
        assert!(pool.lease().is_none());
        let last = leases.pop().unwrap();
        let index = last.index();
        pool.release(last);
        assert_eq!(pool.available(), 1);
        let again = pool.lease().unwrap();
        assert_eq!(again.index(), index, "the slab used last comes first");
        leases.push(again);
        for slab in leases {
            pool.release(slab);
        }
        assert_eq!(pool.available(), pool.capacity());
    }

    #[test]
    fn slabs_do_not_overlap() {
        let mut pool = pool(8);
        let leases: Vec<Slab> = std::iter::from_fn(|| pool.lease()).collect();
        for slab in &leases {
            let value = slab.index() as u8 + 1;
            pool.bytes_mut(slab).fill(value);
        }
        for slab in &leases {
            let value = slab.index() as u8 + 1;
            assert!(pool.bytes_mut(slab).iter().all(|octet| *octet == value));
            assert_eq!(pool.bytes_mut(slab).as_ptr(), pool.address(slab.index()).cast_const());
        }
    }

    #[test]
    fn a_parked_slab_comes_back_once() {
        let mut pool = pool(1);
        let slab = pool.lease().unwrap();
        let index = pool.park(slab);
        assert!(pool.lease().is_none());
        assert!(pool.restore(index));
        assert!(!pool.restore(index), "a second completion frees nothing");
        assert!(!pool.restore(77));
        assert_eq!(pool.available(), 1);
    }

    #[test]
    #[should_panic(expected = "did not lease it")]
    fn a_lease_of_another_pool_is_refused() {
        let (mut one, mut other) = (pool(1), pool(1));
        let slab = one.lease().unwrap();
        other.release(slab);
    }

    #[test]
    fn a_pool_that_does_not_fit_is_refused() {
        let arena = || Arena::new(8192, None, false).unwrap();
        assert!(matches!(SlabPool::new(arena(), 8192, 2), Err(SlabError::TooSmall { .. })));
        assert!(matches!(SlabPool::new(arena(), usize::MAX, 2), Err(SlabError::TooSmall { .. })));
        assert!(matches!(SlabPool::new(arena(), 0, 2), Err(SlabError::Empty)));
    }
}
