//! Blocks that are not final yet, over the last one that is: which are here, which are missing, what was found of each.
//! Memory only; `store` keeps them, and `core` decides what becomes of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::application::Invalidity;
use super::header::{Block, Header, HeaderFault};
use super::validators::ValidatorSet;
use crate::digest::Digest;
use crate::operation::ValidatorKey;

/// Octets of all blocks that are not final together
pub const PENDING_LIMIT_BYTES: usize = 256 << 20;
/// Blocks that are not final
pub const PENDING_LIMIT: usize = 4_096;
/// Blocks of one validator that nobody voted for yet
pub const UNASKED_LIMIT: usize = 16;
/// How far above the last final block one may be
pub const HEIGHT_LIMIT: u64 = 1_024;
/// Final headers that are remembered
const RECENT_LIMIT: usize = 1_024;

/// Why a block is invalid
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Its header does not follow its parent's
    Header(HeaderFault),
    /// Other validators than its state gives
    Validators,
    /// The application says so
    Application(Invalidity),
}

impl Fault {
    /// In words, for operators
    pub fn reason(&self) -> String {
        match self {
            Self::Header(fault) => fault.to_string(),
            Self::Validators => "the block names other validators than its state gives".to_owned(),
            Self::Application(invalidity) => invalidity.reason.clone(),
        }
    }
}

/// What was found of a block
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Nothing yet
    Open,
    /// It may be agreed on
    Valid,
    /// It may not
    Invalid(Fault),
}

/// Whether a block would be here after a crash
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kept {
    /// It would not
    No,
    /// It is being written
    Writing,
    /// It would
    Durable,
}

/// A block that is not final
#[derive(Debug)]
pub struct Pending {
    /// The block
    pub block: Arc<Block>,
    /// What was found of it
    pub verdict: Verdict,
    /// Whether it is on disk
    pub kept: Kept,
    /// The validators of the next epoch, where it changes them
    pub next: Option<Arc<ValidatorSet>>,
    /// Who sent it unasked, while no vote is known for it
    unasked: Option<ValidatorKey>,
    /// A quorum voted for it: it must not be forgotten
    certified: bool,
    bytes: usize,
    order: u64,
}

/// Where a digest stands
#[derive(Debug)]
pub enum Place<'a> {
    /// Final, at this height
    Final(u64),
    /// Not final
    Pending(&'a Pending),
    /// Not here
    Missing,
}

/// How a block hangs together with the last final one
#[derive(Debug, Eq, PartialEq)]
pub enum Lineage {
    /// From the child of the last final block to the block itself; empty if it is final itself
    Whole(Vec<Digest>),
    /// This block is missing between
    Missing(Digest),
    /// It does not descend from the last final block
    Forked,
}

/// Blocks over the last final one
#[derive(Debug)]
pub struct Chain {
    tip: Header,
    digest: Digest,
    recent: VecDeque<Header>,
    heights: HashMap<Digest, u64>,
    pending: HashMap<Digest, Pending>,
    bytes: usize,
    limit_bytes: usize,
    order: u64,
}

impl Chain {
    /// With `tip` as the last final block
    pub fn new(tip: Header) -> Self {
        let mut chain = Self {
            digest: tip.digest(),
            recent: VecDeque::new(),
            heights: HashMap::new(),
            pending: HashMap::new(),
            bytes: 0,
            limit_bytes: PENDING_LIMIT_BYTES,
            order: 0,
            tip: tip.clone(),
        };
        chain.remember(tip);
        chain
    }

    fn remember(&mut self, header: Header) {
        self.heights.insert(header.digest(), header.height);
        self.recent.push_back(header);
        if self.recent.len() > RECENT_LIMIT
            && let Some(oldest) = self.recent.pop_front()
        {
            self.heights.remove(&oldest.digest());
        }
    }

    /// The last final header
    pub fn tip(&self) -> &Header {
        &self.tip
    }

    /// Its digest
    pub fn tip_digest(&self) -> &Digest {
        &self.digest
    }

    /// How many blocks are here that are not final
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Where a digest stands
    pub fn place(&self, digest: &Digest) -> Place<'_> {
        if let Some(pending) = self.pending.get(digest) {
            return Place::Pending(pending);
        }
        self.heights.get(digest).map_or(Place::Missing, |height| Place::Final(*height))
    }

    /// A block that is not final
    pub fn get(&self, digest: &Digest) -> Option<&Pending> {
        self.pending.get(digest)
    }

    /// A block that is not final
    pub fn get_mut(&mut self, digest: &Digest) -> Option<&mut Pending> {
        self.pending.get_mut(digest)
    }

    /// The header of a block that is not final, or was made final lately
    pub fn header(&self, digest: &Digest) -> Option<&Header> {
        if let Some(pending) = self.pending.get(digest) {
            return Some(&pending.block.header);
        }
        let height = self.heights.get(digest)?;
        let first = self.recent.front()?.height;
        self.recent.get(usize::try_from(height.checked_sub(first)?).ok()?)
    }

    /// Takes in a block. `unasked` is who sent it of its own accord.
    ///
    /// False if it is here already, is no use any more, or exceeds a limit.
    pub fn insert(&mut self, digest: Digest, block: Block, unasked: Option<ValidatorKey>) -> bool {
        let height = block.header.height;
        let near = height > self.tip.height && height - self.tip.height <= HEIGHT_LIMIT;
        if !near || self.pending.contains_key(&digest) {
            return false;
        }
        if let Some(from) = unasked {
            self.make_room_of(&from);
        }
        let bytes = super::header::HEADER_BYTES
            + block.operations.iter().map(|operation| operation.len() + 64).sum::<usize>();
        while self.pending.len() >= PENDING_LIMIT || self.bytes + bytes > self.limit_bytes {
            if !self.evict(|pending| !pending.certified) {
                return false;
            }
        }
        self.order += 1;
        self.bytes += bytes;
        let pending = Pending {
            block: Arc::new(block),
            verdict: Verdict::Open,
            kept: Kept::No,
            next: None,
            unasked,
            certified: false,
            bytes,
            order: self.order,
        };
        self.pending.insert(digest, pending);
        true
    }

    fn make_room_of(&mut self, from: &ValidatorKey) {
        let of_peer = |pending: &Pending| pending.unasked.as_ref() == Some(from);
        while self.pending.values().filter(|pending| of_peer(pending)).count() >= UNASKED_LIMIT {
            self.evict(of_peer);
        }
    }

    /// Forgets the oldest block that may be forgotten
    fn evict(&mut self, may: impl Fn(&Pending) -> bool) -> bool {
        let oldest = self
            .pending
            .iter()
            .filter(|(_, pending)| may(pending) && pending.kept != Kept::Writing)
            .min_by_key(|(_, pending)| pending.order)
            .map(|(digest, _)| *digest);
        oldest.is_some_and(|digest| self.remove(&digest))
    }

    fn remove(&mut self, digest: &Digest) -> bool {
        let Some(pending) = self.pending.remove(digest) else { return false };
        self.bytes -= pending.bytes;
        true
    }

    /// Somebody voted for it, so it is no longer its sender's to crowd out
    pub fn voted(&mut self, digest: &Digest) {
        if let Some(pending) = self.pending.get_mut(digest) {
            pending.unasked = None;
        }
    }

    /// A quorum voted for it
    pub fn certified(&mut self, digest: &Digest) {
        if let Some(pending) = self.pending.get_mut(digest) {
            pending.unasked = None;
            pending.certified = true;
        }
    }

    /// The blocks between the last final one and this one
    pub fn lineage(&self, digest: &Digest) -> Lineage {
        let mut line = Vec::new();
        let mut at = *digest;
        while at != self.digest {
            let Some(pending) = self.pending.get(&at) else {
                let known = self.heights.contains_key(&at);
                return match (known, line.is_empty()) {
                    (true, true) => Lineage::Whole(Vec::new()),
                    (true, false) => Lineage::Forked,
                    (false, _) => Lineage::Missing(at),
                };
            };
            let header = &pending.block.header;
            if header.height <= self.tip.height {
                return Lineage::Forked;
            }
            line.push(at);
            at = header.parent;
            // The parent of the block above the last final one can only be that one.
            if header.height == self.tip.height + 1 && at != self.digest {
                return Lineage::Forked;
            }
        }
        line.reverse();
        Lineage::Whole(line)
    }

    /// The child of the last final block becomes the last final block; it and all others of its height are gone
    pub fn advance(&mut self, header: Header) {
        debug_assert_eq!(header.parent, self.digest);
        self.digest = header.digest();
        self.tip = header.clone();
        self.remember(header);
        let gone: Vec<Digest> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.block.header.height <= self.tip.height)
            .map(|(digest, _)| *digest)
            .collect();
        for digest in gone {
            self.remove(&digest);
        }
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
