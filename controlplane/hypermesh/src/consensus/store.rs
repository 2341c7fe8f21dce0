//! What a validator keeps across crashes, beside the engine's own journal of votes: final blocks with their
//! certificates, blocks it called valid that are not final yet, changes of the validators, and evidence. Nothing is
//! reported before it is here. Storage is the runtime's, so simulations crash it too.

use std::collections::BTreeSet;

use bytes::Bytes;
use commonware_runtime::{Handle, ReadOptions};
use commonware_storage::journal::Error as JournalError;
use commonware_storage::journal::contiguous::{Contiguous as _, variable as contiguous};
use commonware_storage::journal::segmented::variable as segmented;

use super::certificate::{TRANSITIONS_LIMIT, Transition};
use super::engine::{Runtime, page_cache, replay_buffer, write_buffer};
use super::evidence::Evidence;
use super::header::{BLOCK_ENCODING_LIMIT_BYTES, Block};
use super::message::{FinalBlock, MESSAGE_LIMIT_BYTES};
use crate::wire::{Reader, WireError, Writer};

/// Final blocks of one file
const FILE_BLOCKS: std::num::NonZeroU64 = std::num::NonZeroU64::new(4_096).unwrap();
/// Heights of one file of blocks that are not final
const FILE_HEIGHTS: u64 = 64;
/// Pieces of evidence that are kept
pub const EVIDENCE_LIMIT: usize = 4_096;

/// Why what a validator keeps cannot be used
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The storage refused
    #[error("the consensus journal: {0}; check the disk, then restart")]
    Journal(#[from] JournalError),
    /// A write failed
    #[error("the consensus journal could not be made durable: {0}; check the disk, then restart")]
    Sync(#[from] commonware_runtime::Error),
    /// What is stored cannot be read
    #[error(
        "the consensus journal holds {what} that cannot be read: {source}; begin with a copy of another node's \
         blocks and registry, under a new key: an older state of this one would forget its votes"
    )]
    Damaged {
        /// What
        what: &'static str,
        /// Why
        source: WireError,
    },
    /// A block is missing between
    #[error("the consensus journal lacks block {height}, which it must have")]
    Gap {
        /// Its height
        height: u64,
    },
    /// An earlier failure left nothing to write to
    #[error("the consensus journal has failed before; restart")]
    Failed,
}

type Final<E> = contiguous::Journal<E, Bytes>;
type Open<E> = segmented::Journal<E, Bytes>;

/// What was kept
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The last final block
    pub(crate) tip: Option<FinalBlock>,
    /// Changes of the validators, in order
    pub(crate) transitions: Vec<Transition>,
    /// Blocks above the last final one
    pub(crate) open: Vec<Block>,
    /// Evidence, in the order it was found
    pub(crate) evidence: Vec<Evidence>,
}

/// What a validator keeps
pub(crate) struct Store<E: Runtime> {
    finals: Option<Final<E>>,
    open: Option<Open<E>>,
    transitions: Option<Final<E>>,
    evidence: Option<Final<E>>,
    unsynced: BTreeSet<u64>,
    pruned_section: u64,
}

fn contiguous_config(prefix: &str, what: &str, limit: usize) -> contiguous::Config<BytesLimit> {
    contiguous::Config {
        partition: format!("{prefix}-{what}"),
        items_per_section: FILE_BLOCKS,
        compression: None,
        codec_config: (0..=limit).into(),
        page_cache: page_cache(),
        write_buffer: write_buffer(),
        replay_buffer: replay_buffer(),
    }
}

type BytesLimit = commonware_codec::RangeCfg<usize>;

impl<E: Runtime> Store<E> {
    /// Opens what is there, or begins
    pub(crate) async fn open(context: &E, prefix: &str) -> Result<(Self, Kept), StoreError> {
        let journal = |what: &'static str| {
            let config = contiguous_config(prefix, what, MESSAGE_LIMIT_BYTES);
            Final::<E>::init(context.child("journal").with_attribute("of", what), config)
        };
        let finals = journal("final").await?;
        let transitions = journal("transitions").await?;
        let evidence = journal("evidence").await?;
        let mut kept = Kept::default();
        for position in transitions.bounds() {
            let octets = transitions.read(position).await?;
            let mut reader = Reader::new(&octets);
            let transition = Transition::decode(&mut reader)
                .and_then(|read| reader.finish().map(|()| read))
                .map_err(|source| StoreError::Damaged { what: "a change of validators", source })?;
            if kept.transitions.last() != Some(&transition) {
                kept.transitions.push(transition);
            }
        }
        for position in evidence.bounds() {
            let octets = evidence.read(position).await?;
            let found = Evidence::from_bytes(&octets)
                .map_err(|source| StoreError::Damaged { what: "evidence", source })?;
            kept.evidence.push(found);
        }
        if let Some(last) = finals.bounds().last() {
            kept.tip = Some(read_final(&finals.read(last).await?)?);
        }
        let height = kept.tip.as_ref().map_or(0, |tip| tip.block.header.height);
        let (open, blocks) = Self::open_blocks(context, prefix, height).await?;
        kept.open = blocks;
        let store = Self {
            finals: Some(finals),
            open: Some(open),
            transitions: Some(transitions),
            evidence: Some(evidence),
            unsynced: BTreeSet::new(),
            pruned_section: 0,
        };
        Ok((store, kept))
    }

    async fn open_blocks(
        context: &E,
        prefix: &str,
        tip: u64,
    ) -> Result<(Open<E>, Vec<Block>), StoreError> {
        let config = segmented::Config {
            partition: format!("{prefix}-open"),
            compression: None,
            codec_config: (0..=BLOCK_ENCODING_LIMIT_BYTES).into(),
            page_cache: page_cache(),
            write_buffer: write_buffer(),
        };
        let context = context.child("journal").with_attribute("of", "open");
        let journal = Open::<E>::init(context, config).await?;
        let options = ReadOptions::default();
        let mut replay = journal.replay(0, 0, replay_buffer(), options).await?;
        let mut blocks = Vec::new();
        while let Some(item) = replay.next().await {
            let (.., octets) = item?;
            let block = Block::from_bytes(&octets)
                .map_err(|source| StoreError::Damaged { what: "a block", source })?;
            if block.header.height > tip {
                blocks.push(block);
            }
        }
        Ok((replay.finish()?, blocks))
    }

    /// The lowest final block that is here, and the one after the highest, by height
    pub(crate) fn heights(&self) -> (u64, u64) {
        let bounds = self.finals.as_ref().map_or(0..0, |finals| finals.bounds());
        (bounds.start + 1, bounds.end + 1)
    }

    /// Takes in a final block, which is the one after the last. Durable after [`Store::sync_finals`].
    pub(crate) async fn append_final(&mut self, block: &FinalBlock) -> Result<(), StoreError> {
        let next = self.finals.as_ref().ok_or(StoreError::Failed)?.size() + 1;
        if next != block.block.header.height {
            return Err(StoreError::Gap { height: next });
        }
        let finals = self.finals.take().ok_or(StoreError::Failed)?;
        let (finals, _) = finals.append(&block.to_bytes()).await?;
        self.finals = Some(finals);
        Ok(())
    }

    /// Begins to make all final blocks durable
    pub(crate) async fn sync_finals(&mut self) -> Result<Handle<()>, StoreError> {
        let finals = self.finals.take().ok_or(StoreError::Failed)?;
        let (finals, handle) = finals.start_sync().await?;
        self.finals = Some(finals);
        Ok(handle)
    }

    /// A final block as it is stored; none if it is not here
    pub(crate) async fn octets(&self, height: u64) -> Result<Option<Bytes>, StoreError> {
        let finals = self.finals.as_ref().ok_or(StoreError::Failed)?;
        match height.checked_sub(1) {
            Some(position) if finals.bounds().contains(&position) => {
                Ok(Some(finals.read(position).await?))
            }
            _ => Ok(None),
        }
    }

    /// A final block; none if it is not here
    pub(crate) async fn final_block(&self, height: u64) -> Result<Option<FinalBlock>, StoreError> {
        self.octets(height).await?.map(|octets| read_final(&octets)).transpose()
    }

    /// Forgets final blocks below a height, as far as whole files go
    pub(crate) async fn prune_finals(&mut self, height: u64) -> Result<(), StoreError> {
        let finals = self.finals.take().ok_or(StoreError::Failed)?;
        let (finals, _) = finals.prune(height.saturating_sub(1)).await?;
        self.finals = Some(finals);
        Ok(())
    }

    /// Takes in a block that is not final. Durable after [`Store::sync_open`].
    pub(crate) async fn append_open(&mut self, block: &Block) -> Result<(), StoreError> {
        let section = block.header.height / FILE_HEIGHTS;
        if section < self.pruned_section {
            return Ok(());
        }
        let open = self.open.take().ok_or(StoreError::Failed)?;
        let (open, ..) = open.append(section, &block.to_bytes()).await?;
        self.open = Some(open);
        self.unsynced.insert(section);
        Ok(())
    }

    /// Begins to make all blocks that are not final durable
    pub(crate) async fn sync_open(&mut self) -> Result<Handle<()>, StoreError> {
        let open = self.open.take().ok_or(StoreError::Failed)?;
        let (open, handle) = open.start_sync(std::mem::take(&mut self.unsynced)).await?;
        self.open = Some(open);
        Ok(handle)
    }

    /// Forgets blocks that were not final where final ones are by now
    pub(crate) async fn prune_open(&mut self, tip: u64) -> Result<(), StoreError> {
        let section = tip / FILE_HEIGHTS;
        if section <= self.pruned_section {
            return Ok(());
        }
        self.pruned_section = section;
        self.unsynced = self.unsynced.split_off(&section);
        let open = self.open.take().ok_or(StoreError::Failed)?;
        let (open, _) = open.prune(section).await?;
        self.open = Some(open);
        Ok(())
    }

    /// Keeps a change of the validators; it is durable when this returns
    pub(crate) async fn keep_transition(&mut self, change: &Transition) -> Result<(), StoreError> {
        let mut writer = Writer::new();
        change.encode(&mut writer);
        let journal = self.transitions.take().ok_or(StoreError::Failed)?;
        if journal.size() >= TRANSITIONS_LIMIT as u64 * 2 {
            let source = WireError::TooLong { limit: TRANSITIONS_LIMIT };
            return Err(StoreError::Damaged { what: "changes of validators", source });
        }
        let (journal, _) = journal.append(&Bytes::from(writer.into_vec())).await?;
        self.transitions = Some(journal.commit().await?);
        Ok(())
    }

    /// Keeps evidence; it is durable when this returns
    pub(crate) async fn keep_evidence(&mut self, evidence: &Evidence) -> Result<(), StoreError> {
        let journal = self.evidence.take().ok_or(StoreError::Failed)?;
        let (journal, _) = journal.append(&Bytes::from(evidence.to_vec())).await?;
        self.evidence = Some(journal.commit().await?);
        Ok(())
    }
}

fn read_final(octets: &Bytes) -> Result<FinalBlock, StoreError> {
    FinalBlock::from_bytes(octets)
        .map_err(|source| StoreError::Damaged { what: "a final block", source })
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
