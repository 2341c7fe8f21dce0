//! Memory for packets: what the host looks like ([`HostTopology`]), arenas bound to a NUMA node and on huge
//! pages where they can be had ([`Arena`]), and fixed-size slabs leased from an arena ([`SlabPool`]). This
//! room neither reads packets nor knows sockets; it only says where bytes live.

#[cfg(feature = "allocator")]
mod allocator;
mod arena;
mod pages;
mod slab;
mod topology;

#[cfg(feature = "allocator")]
pub use allocator::{ProcessAllocator, keep_freed_memory};
pub use arena::{Arena, ArenaError};
pub use pages::{HUGE_PAGE_BYTES, HugePages};
pub use slab::{Slab, SlabError, SlabPool};
pub use topology::{
    Core, HostTopology, NetworkInterface, TopologyError, bind_current_thread, current_core,
    host_topology,
};
