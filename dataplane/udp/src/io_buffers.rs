//! What every provider needs before it can run: send memory, one arena cut into slabs of 64 KiB; and the ways
//! in which making a provider fails.

use stoq_memory::{Arena, ArenaError, SlabError, SlabPool};

use crate::IoSettings;

/// Octets of one send slab; the largest train is a little shorter, see [`crate::MAX_TRAIN_BYTES`]
pub const SLAB_BYTES: usize = 65_536;

/// Why a provider cannot be made
#[derive(Debug, thiserror::Error)]
pub enum IoSetupError {
    /// No arena
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// No slabs
    #[error(transparent)]
    Slabs(#[from] SlabError),
    /// No eventfd, or a socket option refused
    #[error("the kernel refused {what}: {source}")]
    Kernel {
        /// What was asked for
        what: &'static str,
        /// What the kernel said
        source: std::io::Error,
    },
    /// The offloads could not be tried
    #[error("{0}")]
    SelfTest(String),
    /// Not a number of receive buffers a ring can have
    #[error("the number of receive buffers must be a power of two from 1 to 32768, not {0}")]
    ReceiveBuffers(u16),
}

impl IoSetupError {
    /// For `map_err`: names what was asked of the kernel
    pub fn kernel(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Kernel { what, source }
    }
}

/// The send slabs the settings ask for
pub fn send_slabs(settings: &IoSettings) -> Result<SlabPool, IoSetupError> {
    let bytes = (settings.send_slabs as usize).saturating_mul(SLAB_BYTES);
    let arena = Arena::new(bytes, settings.node, settings.prefer_huge)?;
    Ok(SlabPool::new(arena, SLAB_BYTES, settings.send_slabs)?)
}
