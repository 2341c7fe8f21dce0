//! Tiles (C2SP static-ct-api, "Merkle Tree" and "Log entries"): where a tree's hashes and entries lie, how
//! they grow, and proofs computed from them. Where the bytes are kept is a matter of `store`.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use super::LOG_LIMIT_ENTRIES;
use super::merkle::{HASH_BYTES, Hash, node_hash, root_of, split_point};

/// Hashes or entries of a full tile
pub const TILE_WIDTH: u16 = 256;
/// The highest level of a tile: 256 to the fifth leaves are the limit of a log
pub const LEVEL_MAX: u8 = 5;
/// Length of the longest path of a tile: `tile/data/`, twelve digits of the index, a width
pub const PATH_LIMIT_BYTES: usize = 64;

/// What a tile holds
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TileKind {
    /// Tree hashes of a level; level 0 holds leaf hashes
    Hashes(u8),
    /// The entries themselves
    Entries,
}

/// A tile by kind, index in its level and width; as text its path below the log's prefix
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TilePath {
    kind: TileKind,
    index: u64,
    width: u16,
}

/// The text is no path of a tile
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a tile's path as C2SP static-ct-api writes it")]
pub struct TilePathError;

impl TilePath {
    /// A tile; widths are 1 to 256, levels 0 to 5, and no tile lies beyond the limit of a log
    pub fn new(kind: TileKind, index: u64, width: u16) -> Result<Self, TilePathError> {
        let level = match kind {
            TileKind::Hashes(level) => level,
            TileKind::Entries => 0,
        };
        if level > LEVEL_MAX || width == 0 || width > TILE_WIDTH {
            return Err(TilePathError);
        }
        // Its last hash or entry must still be within the log.
        let end = u128::from(index) * u128::from(TILE_WIDTH) + u128::from(width);
        if end << (8 * u32::from(level)) > u128::from(LOG_LIMIT_ENTRIES) {
            return Err(TilePathError);
        }
        Ok(Self { kind, index, width })
    }

    /// What it holds
    pub fn kind(&self) -> TileKind {
        self.kind
    }

    /// Its index in its level
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many hashes or entries it has
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Whether it is full
    pub fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }

    /// The same tile when it is full
    pub fn full(&self) -> Self {
        Self { width: TILE_WIDTH, ..*self }
    }

    /// The tree size from which on this tile is complete
    pub fn complete_at(&self) -> u64 {
        let level = match self.kind {
            TileKind::Hashes(level) => u32::from(level),
            TileKind::Entries => 0,
        };
        (self.index * u64::from(TILE_WIDTH) + u64::from(self.width)) << (8 * level)
    }

    /// The directory of its partial tiles, with a slash at the end
    pub fn partials(&self) -> String {
        format!("{}.p/", self.full())
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes(level) => write!(f, "tile/{level}/")?,
            TileKind::Entries => write!(f, "tile/data/")?,
        }
        let digits = self.index.to_string();
        let padded = format!("{digits:0>width$}", width = digits.len().next_multiple_of(3));
        for at in (0..padded.len()).step_by(3) {
            let last = at + 3 == padded.len();
            write!(f, "{}{}", if last { "" } else { "x" }, &padded[at..at + 3])?;
            if !last {
                write!(f, "/")?;
            }
        }
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

impl FromStr for TilePath {
    type Err = TilePathError;

    fn from_str(text: &str) -> Result<Self, TilePathError> {
        if text.len() > PATH_LIMIT_BYTES || !text.is_ascii() {
            return Err(TilePathError);
        }
        let rest = text.strip_prefix("tile/").ok_or(TilePathError)?;
        let (level, rest) = rest.split_once('/').ok_or(TilePathError)?;
        let kind = match level {
            "data" => TileKind::Entries,
            _ => TileKind::Hashes(level.parse().map_err(|_| TilePathError)?),
        };
        let (digits, width) = match rest.split_once(".p/") {
            Some((digits, width)) => (digits, width.parse().map_err(|_| TilePathError)?),
            None => (rest, TILE_WIDTH),
        };
        let mut index = 0u64;
        for element in digits.split('/') {
            let element = element.strip_prefix('x').unwrap_or(element);
            let value: u64 = element.parse().map_err(|_| TilePathError)?;
            let shifted = index.checked_mul(1_000);
            index = shifted.and_then(|sum| sum.checked_add(value % 1_000)).ok_or(TilePathError)?;
        }
        let tile = Self::new(kind, index, width)?;
        // One tile, one path: whatever else was tolerated above is caught by writing it again.
        if tile.to_string() == text { Ok(tile) } else { Err(TilePathError) }
    }
}

/// A tile with its bytes
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TileFile {
    /// Which
    pub path: TilePath,
    /// Its content
    pub bytes: Vec<u8>,
}

/// Builds all tiles of a growing log; it holds the tiles that are not full yet
#[derive(Clone, Debug, Default)]
pub struct TileBuilder {
    size: u64,
    levels: Vec<Vec<Hash>>,
    entries: Vec<u8>,
}

impl TileBuilder {
    /// Entries taken so far
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next entry, as leaf hash and as it stands in a data tile; tiles that become full are added
    /// to `full`
    pub fn push(&mut self, leaf: Hash, entry: &[u8], full: &mut Vec<TileFile>) {
        self.entries.extend_from_slice(entry);
        self.size += 1;
        if self.size.is_multiple_of(u64::from(TILE_WIDTH)) {
            let index = self.size / u64::from(TILE_WIDTH) - 1;
            let path = TilePath { kind: TileKind::Entries, index, width: TILE_WIDTH };
            full.push(TileFile { path, bytes: std::mem::take(&mut self.entries) });
        }
        let (mut carried, mut count) = (leaf, self.size);
        for level in 0..=LEVEL_MAX {
            if self.levels.len() <= usize::from(level) {
                self.levels.push(Vec::with_capacity(usize::from(TILE_WIDTH)));
            }
            let hashes = &mut self.levels[usize::from(level)];
            hashes.push(carried);
            if hashes.len() < usize::from(TILE_WIDTH) {
                return;
            }
            count /= u64::from(TILE_WIDTH);
            let kind = TileKind::Hashes(level);
            let path = TilePath { kind, index: count - 1, width: TILE_WIDTH };
            full.push(TileFile { path, bytes: hashes.concat() });
            carried = root_of(hashes);
            hashes.clear();
        }
    }

    /// The partial tiles of the tree as it is now
    pub fn partial(&self) -> Vec<TileFile> {
        let mut found = Vec::new();
        let width = (self.size % u64::from(TILE_WIDTH)) as u16;
        if width > 0 {
            let index = self.size / u64::from(TILE_WIDTH);
            let path = TilePath { kind: TileKind::Entries, index, width };
            found.push(TileFile { path, bytes: self.entries.clone() });
        }
        let mut count = self.size;
        for (level, hashes) in self.levels.iter().enumerate() {
            let index = count / u64::from(TILE_WIDTH);
            count = index;
            if !hashes.is_empty() {
                let kind = TileKind::Hashes(level as u8);
                let path = TilePath { kind, index, width: hashes.len() as u16 };
                found.push(TileFile { path, bytes: hashes.concat() });
            }
        }
        found
    }
}

/// The tiles of one tree, read when a proof needs them; each is read once
pub struct TileTree<F> {
    size: u64,
    read: F,
    tiles: HashMap<(u8, u64), Vec<u8>>,
}

impl<E: From<ProofRangeError>, F: FnMut(TilePath) -> Result<Vec<u8>, E>> TileTree<F> {
    /// A tree of `size` entries; `read` returns exactly the tile that it is asked for
    pub fn new(size: u64, read: F) -> Self {
        Self { size, read, tiles: HashMap::new() }
    }

    /// The root
    pub fn root(&mut self) -> Result<Hash, E> {
        if self.size == 0 { Ok(super::merkle::empty_root()) } else { self.range(0, self.size) }
    }

    /// The hashes that prove that entry `index` is in the tree (RFC 6962 section 2.1.1)
    pub fn inclusion(&mut self, index: u64) -> Result<Vec<Hash>, E> {
        if index >= self.size {
            return Err(ProofRangeError.into());
        }
        let (mut start, mut end, mut path) = (0, self.size, Vec::new());
        while end - start > 1 {
            let middle = start + split_point(end - start);
            if index < middle {
                path.push(self.range(middle, end)?);
                end = middle;
            } else {
                path.push(self.range(start, middle)?);
                start = middle;
            }
        }
        path.reverse();
        Ok(path)
    }

    /// The hashes that prove that the tree continues the one of `old` entries (RFC 6962 section 2.1.2)
    pub fn consistency(&mut self, old: u64) -> Result<Vec<Hash>, E> {
        if old > self.size {
            return Err(ProofRangeError.into());
        }
        let (mut start, mut end, mut path) = (0, self.size, Vec::new());
        if old == 0 {
            return Ok(path);
        }
        while end != old {
            let middle = start + split_point(end - start);
            if old <= middle {
                path.push(self.range(middle, end)?);
                end = middle;
            } else {
                path.push(self.range(start, middle)?);
                start = middle;
            }
        }
        // The older root itself is known to whoever asks, unless it is only part of a left edge.
        if start != 0 {
            path.push(self.range(start, end)?);
        }
        path.reverse();
        Ok(path)
    }

    /// Hash of the entries from `start` to before `end`, a range that RFC 6962 cuts
    fn range(&mut self, start: u64, end: u64) -> Result<Hash, E> {
        let length = end - start;
        if length.is_power_of_two() {
            return self.node(length.trailing_zeros(), start / length);
        }
        let middle = start + split_point(length);
        let left = self.range(start, middle)?;
        Ok(node_hash(&left, &self.range(middle, end)?))
    }

    /// Hash of a perfect subtree `height` above the leaves
    fn node(&mut self, height: u32, index: u64) -> Result<Hash, E> {
        let level = (height / 8) as u8;
        let first = index << (height % 8);
        let tile_index = first / u64::from(TILE_WIDTH);
        if !self.tiles.contains_key(&(level, tile_index)) {
            let hashes = self.size >> (8 * u32::from(level));
            let width = (hashes - tile_index * u64::from(TILE_WIDTH)).min(u64::from(TILE_WIDTH));
            let kind = TileKind::Hashes(level);
            let path = TilePath { kind, index: tile_index, width: width as u16 };
            let bytes = (self.read)(path)?;
            if bytes.len() != usize::from(path.width) * HASH_BYTES {
                return Err(ProofRangeError.into());
            }
            self.tiles.insert((level, tile_index), bytes);
        }
        let (hashes, _) = self.tiles[&(level, tile_index)].as_chunks::<HASH_BYTES>();
        let at = (first % u64::from(TILE_WIDTH)) as usize;
        Ok(root_of(&hashes[at..at + (1 << (height % 8))]))
    }
}

/// A proof was asked for beyond the tree, or a tile has the wrong size
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the proof asks for more than this tree and its tiles hold")]
pub struct ProofRangeError;

#[cfg(test)]
#[path = "tile_tests.rs"]
mod tests;
