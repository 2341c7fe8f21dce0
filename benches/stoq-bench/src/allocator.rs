//! Which allocator this executable has: the system's, or with the feature `mimalloc` the daemon's. Two
//! executables, so that the ablation can set them side by side.

/// Its name
#[cfg(not(feature = "mimalloc"))]
pub const NAME: &str = "system";
/// The name of the other one
#[cfg(not(feature = "mimalloc"))]
pub const OTHER: &str = "mimalloc";
/// How to build an executable with the other one
#[cfg(not(feature = "mimalloc"))]
pub const BUILD: &str = "cargo build --profile dist -p stoq-bench, then copy \
    target/dist/stoq-bench away and build with --no-default-features again";

/// Its name
#[cfg(feature = "mimalloc")]
pub const NAME: &str = "mimalloc";
/// The name of the other one
#[cfg(feature = "mimalloc")]
pub const OTHER: &str = "system";
/// How to build an executable with the other one
#[cfg(feature = "mimalloc")]
pub const BUILD: &str = "cargo build --profile dist -p stoq-bench --no-default-features, then copy \
    target/dist/stoq-bench away and build without that option again";

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: stoq_memory::ProcessAllocator = stoq_memory::ProcessAllocator;

/// Sets it up as the daemon does
#[cfg(feature = "mimalloc")]
pub fn prepare() {
    stoq_memory::keep_freed_memory();
}

/// The system's needs nothing
#[cfg(not(feature = "mimalloc"))]
pub fn prepare() {}
