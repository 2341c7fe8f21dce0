//! What the world reads: tiles, issuing certificates and the checkpoint, derived from the journal and written
//! before the checkpoint that needs them. Everything here can be built again; nothing that was published is
//! ever changed.

use boring::sha::sha256;

use super::checkpoint::VerifiedCheckpoint;
use super::key::LogVerifier;
use super::merkle::Hash;
use super::recovery::StartError;
use super::release::DurableHead;
use super::store::{
    CHECKPOINT_PATH, ISSUER_PREFIX, Presence, Published, StoreError, read_tile, settle_file,
};
use super::tile::{TileBuilder, TileFile, TilePath};
use crate::certificate::hex;

/// Full tiles that wait for the next checkpoint before they are written anyway
const WAITING_TILES_LIMIT: usize = 32;

/// Whether files that were published may be missing at the start
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Start {
    /// What the published checkpoint covers must be there
    #[default]
    Checked,
    /// The operator has moved the files away: they are built again from the journal
    Rebuild,
}

/// Why a checkpoint was not published
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The storage
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Entries are missing or too many
    #[error("the checkpoint covers {checkpoint} entries and the tiles {tiles}; publish in order")]
    Order {
        /// Entries under the checkpoint
        checkpoint: u64,
        /// Entries handed to the publisher
        tiles: u64,
    },
}

/// Builds and writes the published files of one log
#[derive(Debug)]
pub struct Publisher<P> {
    store: P,
    builder: TileBuilder,
    waiting: Vec<TileFile>,
    completed: Vec<TilePath>,
    published: Option<VerifiedCheckpoint>,
    start: Start,
    /// Entries under the checkpoint that was found at the start
    covered_size: u64,
}

impl<P: Published> Publisher<P> {
    /// Begins with an empty tree; the journal's entries are handed in again, which checks the files of what
    /// was published and makes those that a crash has prevented
    pub fn new(store: P, verifier: &LogVerifier, start: Start) -> Result<Self, StartError> {
        let published = match store.read(CHECKPOINT_PATH).map_err(StoreError::Io)? {
            Some(note) => Some(verifier.verify_checkpoint(&note, &[])?),
            None => None,
        };
        let covered_size = published.as_ref().map_or(0, |checkpoint| checkpoint.head.size);
        let builder = TileBuilder::default();
        let (waiting, completed) = (Vec::new(), Vec::new());
        Ok(Self { store, builder, waiting, completed, published, start, covered_size })
    }

    /// The checkpoint that is published
    pub fn published(&self) -> Option<&VerifiedCheckpoint> {
        self.published.as_ref()
    }

    /// The files
    pub fn store(&self) -> &P {
        &self.store
    }

    /// Entries handed in
    pub fn size(&self) -> u64 {
        self.builder.size()
    }

    /// Publishes an issuing certificate
    pub fn issuer(&mut self, der: &[u8]) -> Result<(), StoreError> {
        let path = issuer_path(&sha256(der));
        let presence = self.presence(self.builder.size() + 1);
        settle_file(&mut self.store, &path, der, presence)
    }

    /// Takes the next durable entry
    pub fn entry(&mut self, leaf_hash: Hash, tile_leaf: &[u8]) -> Result<(), StoreError> {
        self.builder.push(leaf_hash, tile_leaf, &mut self.waiting);
        if self.builder.size() == self.covered_size {
            self.settle_partial()?;
        }
        if self.waiting.len() >= WAITING_TILES_LIMIT { self.settle_full() } else { Ok(()) }
    }

    /// Publishes a checkpoint over exactly the entries that were handed in: first the tiles, then itself
    pub fn publish(
        &mut self,
        head: &DurableHead,
        verifier: &LogVerifier,
    ) -> Result<(), PublishError> {
        let (checkpoint, tiles) = (head.head().size, self.builder.size());
        if checkpoint != tiles {
            return Err(PublishError::Order { checkpoint, tiles });
        }
        self.settle_full()?;
        self.settle_partial()?;
        let note = head.note().as_bytes();
        // What is served is read the way everyone will read it.
        let verified = verifier
            .verify_checkpoint(note, &[])
            .map_err(|_| StoreError::Mismatch { path: CHECKPOINT_PATH.into() })?;
        self.store.replace(CHECKPOINT_PATH, note).map_err(StoreError::Io)?;
        self.published = Some(verified);
        self.drop_partials()?;
        Ok(())
    }

    /// Everything that was handed in is written as far as full tiles go
    pub fn settle_full(&mut self) -> Result<(), StoreError> {
        for tile in std::mem::take(&mut self.waiting) {
            let presence = self.presence(tile.path.complete_at());
            settle_file(&mut self.store, &tile.path.to_string(), &tile.bytes, presence)?;
            if presence == Presence::MayBeNew {
                self.completed.push(tile.path);
            }
        }
        Ok(())
    }

    fn settle_partial(&mut self) -> Result<(), StoreError> {
        for tile in self.builder.partial() {
            let presence = self.presence(self.builder.size());
            // A backup may have an older checkpoint than tiles: then the full tile stands for the part.
            match read_tile(&self.store, tile.path) {
                Err(StoreError::Missing { .. }) if presence == Presence::MayBeNew => {
                    self.store.create(&tile.path.to_string(), &tile.bytes)?;
                }
                Ok(found) if found != tile.bytes => {
                    return Err(StoreError::Mismatch { path: tile.path.to_string() });
                }
                found => drop(found?),
            }
        }
        Ok(())
    }

    /// Removes the partial tiles of tiles that are full and covered by the checkpoint (C2SP static-ct-api,
    /// "Partial Tiles")
    fn drop_partials(&mut self) -> Result<(), StoreError> {
        for tile in std::mem::take(&mut self.completed) {
            for path in self.store.list(&tile.partials())? {
                self.store.remove(&path)?;
            }
        }
        Ok(())
    }

    fn presence(&self, size: u64) -> Presence {
        let covered = size <= self.covered_size && self.start == Start::Checked;
        if covered { Presence::Required } else { Presence::MayBeNew }
    }
}

/// Where an issuing certificate is published
pub(crate) fn issuer_path(fingerprint: &Hash) -> String {
    format!("{ISSUER_PREFIX}{}", hex(fingerprint))
}
