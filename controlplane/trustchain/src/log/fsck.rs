//! Checking a log from outside: every entry is read and hashed again, every issuer's signature verified, every
//! file compared with what it has to be, and the journal, where it is at hand, read as at a start. It changes
//! nothing.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use boring::sha::sha256;

use super::checkpoint::VerifiedCheckpoint;
use super::entry::{LogEntry, SignedEntry};
use super::key::LogVerifier;
use super::merkle::{HASH_BYTES, Hash, Tree, TreeHead};
use super::publisher::issuer_path;
use super::recovery::{Recovered, Recovery};
use super::sequencer::Limits;
use super::store::{
    CHECKPOINT_PATH, ISSUER_PREFIX, Journal, Published, StoreError, prefix_bytes, read_tile,
};
use super::submission::{IssuerChain, logged_tbs};
use super::tile::{TILE_WIDTH, TileBuilder, TileFile, TileKind, TilePath};
use crate::certificate::hex;

/// Findings after which a check ends
pub const FINDINGS_LIMIT: usize = 1_000;

/// What a check has found
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FsckReport {
    /// Entries that were recomputed
    pub entries: u64,
    /// Signed heads that were verified
    pub checkpoints: u64,
    /// Files that belong to no checkpoint yet; without the journal nobody can say whether they are right
    pub files_ahead: u64,
    /// What is wrong, at most `FINDINGS_LIMIT`
    pub errors: Vec<Finding>,
}

/// One thing that is wrong
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Where: a file or an entry
    pub place: String,
    /// What
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

impl FsckReport {
    /// Whether nothing is wrong
    pub fn is_sound(&self) -> bool {
        self.errors.is_empty()
    }
}

/// Checks a log's published files, and its journal where one is given
pub fn fsck(
    store: &dyn Published,
    verifier: &LogVerifier,
    journal: Option<&mut dyn Journal>,
) -> FsckReport {
    let mut check = Check { store, report: FsckReport::default(), chains: HashMap::new() };
    let checkpoint = check.checkpoint(verifier);
    let head = checkpoint.as_ref().map_or(Tree::default().head(), |one| one.head);
    if let Some(checkpoint) = &checkpoint {
        check.report.checkpoints = 1;
        check.entries(checkpoint);
    }
    let ahead = check.files(head.size);
    check.report.files_ahead = ahead.len() as u64;
    if let Some(journal) = journal {
        check.journal(journal, verifier, head, &ahead);
    }
    check.report
}

/// Hash of an entry's leaf, and the entry as it stands in its data tile
type Leaf = (Hash, Vec<u8>);

struct Check<'a> {
    store: &'a dyn Published,
    report: FsckReport,
    chains: HashMap<Vec<Hash>, Option<Rc<IssuerChain>>>,
}

impl Check<'_> {
    fn note(&mut self, place: impl fmt::Display, problem: impl fmt::Display) {
        if self.report.errors.len() < FINDINGS_LIMIT {
            let (place, problem) = (place.to_string(), problem.to_string());
            self.report.errors.push(Finding { place, problem });
        }
    }

    fn is_full(&self) -> bool {
        self.report.errors.len() >= FINDINGS_LIMIT
    }

    fn checkpoint(&mut self, verifier: &LogVerifier) -> Option<VerifiedCheckpoint> {
        match self.store.read(CHECKPOINT_PATH) {
            Ok(Some(note)) => match verifier.verify_checkpoint(&note, &[]) {
                Ok(verified) => return Some(verified),
                Err(error) => self.note(CHECKPOINT_PATH, error),
            },
            Ok(None) => self.note(CHECKPOINT_PATH, "missing"),
            Err(error) => self.note(CHECKPOINT_PATH, error),
        }
        None
    }

    /// Reads all entries under the checkpoint, builds the tree anew and compares its tiles
    fn entries(&mut self, checkpoint: &VerifiedCheckpoint) {
        let size = checkpoint.head.size;
        let (mut builder, mut tree, mut full) =
            (TileBuilder::default(), Tree::default(), Vec::new());
        let mut last_ms = 0;
        while tree.size() < size && !self.is_full() {
            let index = tree.size() / u64::from(TILE_WIDTH);
            let width = (size - tree.size()).min(u64::from(TILE_WIDTH)) as u16;
            let Ok(path) = TilePath::new(TileKind::Entries, index, width) else { return };
            let Some((leaves, sound)) = self.data_tile(path, &mut last_ms, checkpoint) else {
                return;
            };
            for (leaf_hash, tile_leaf) in leaves {
                tree.push(leaf_hash);
                builder.push(leaf_hash, &tile_leaf, &mut full);
            }
            let last = tree.size() == size;
            let partial = if last { builder.partial() } else { Vec::new() };
            for tile in full.drain(..).chain(partial) {
                if sound || tile.path.kind() != TileKind::Entries {
                    self.compare(&tile);
                }
            }
        }
        self.report.entries = tree.size();
        if tree.size() == size && tree.root() != checkpoint.head.root {
            self.note(CHECKPOINT_PATH, "the entries do not lead to its root");
        }
    }

    /// Leaf hashes and encodings of a data tile, and whether it is sound; of one that cannot be read the
    /// hashes are taken from its level 0 tile, so that the rest can be checked
    fn data_tile(
        &mut self,
        path: TilePath,
        last_ms: &mut u64,
        checkpoint: &VerifiedCheckpoint,
    ) -> Option<(Vec<Leaf>, bool)> {
        let read = read_tile(self.store, path);
        let decoded = read.map_err(|error| error.to_string()).and_then(|bytes| {
            let entries = LogEntry::decode_all(&bytes).map_err(|error| error.to_string())?;
            let counted = entries.len() == usize::from(path.width());
            if counted { Ok(entries) } else { Err("it has another number of entries".into()) }
        });
        let problem = match decoded {
            Ok(entries) => {
                let mut leaves = Vec::with_capacity(entries.len());
                for (index, entry) in (path.index() * u64::from(TILE_WIDTH)..).zip(&entries) {
                    leaves.extend(self.entry(entry, index, last_ms, checkpoint));
                }
                if leaves.len() == usize::from(path.width()) {
                    return Some((leaves, true));
                }
                "an entry cannot be hashed".into()
            }
            Err(problem) => problem,
        };
        self.note(path, problem);
        let hashes = TilePath::new(TileKind::Hashes(0), path.index(), path.width()).ok()?;
        let bytes = read_tile(self.store, hashes).ok()?;
        let (hashes, _) = bytes.as_chunks::<HASH_BYTES>();
        let complete = hashes.len() == usize::from(path.width());
        complete.then(|| (hashes.iter().map(|hash| (*hash, Vec::new())).collect(), false))
    }

    /// One entry: at its place and time, what was submitted is what was hashed, and its issuer signed it
    fn entry(
        &mut self,
        entry: &LogEntry,
        index: u64,
        last_ms: &mut u64,
        checkpoint: &VerifiedCheckpoint,
    ) -> Option<Leaf> {
        let place = format!("entry {index}");
        let timestamp_ms = entry.timestamped.timestamp_ms;
        if entry.timestamped.leaf_index != index {
            self.note(&place, "it says that it is another entry");
        }
        if timestamp_ms < *last_ms || timestamp_ms > checkpoint.timestamp_ms {
            self.note(&place, "its time is not between the entry before it and the checkpoint");
        }
        *last_ms = timestamp_ms;
        let chain = self.chain(&entry.chain);
        match (&entry.timestamped.signed, &entry.precertificate_der, chain) {
            (_, _, None) => self.note(&place, "its issuing chain is missing or damaged"),
            (SignedEntry::Precertificate { issuer_key_hash, tbs_der }, Some(der), Some(chain)) => {
                if issuer_key_hash != chain.key_hash() || !chain.signed(der) {
                    self.note(&place, "its issuer has not signed the precertificate");
                }
                if !logged_tbs(der).is_ok_and(|logged| logged == *tbs_der) {
                    self.note(&place, "its precertificate is not what was logged");
                }
            }
            (SignedEntry::Certificate { der }, _, Some(chain)) if !chain.signed(der) => {
                self.note(&place, "its issuer has not signed the certificate");
            }
            _ => {}
        }
        let hashed = entry.timestamped.leaf_hash().ok().zip(entry.encode().ok());
        if hashed.is_none() {
            self.note(&place, "it exceeds a limit of this log");
        }
        hashed
    }

    fn chain(&mut self, fingerprints: &[Hash]) -> Option<Rc<IssuerChain>> {
        if let Some(known) = self.chains.get(fingerprints) {
            return known.clone();
        }
        let certificates: Option<Vec<Vec<u8>>> = fingerprints
            .iter()
            .map(|one| {
                let der = self.store.read(&issuer_path(one)).ok().flatten()?;
                (sha256(&der) == *one).then_some(der)
            })
            .collect();
        let chain = certificates.and_then(|certificates| {
            let slices: Vec<&[u8]> = certificates.iter().map(Vec::as_slice).collect();
            IssuerChain::new(&slices).ok().map(Rc::new)
        });
        self.chains.insert(fingerprints.to_vec(), chain.clone());
        chain
    }

    fn compare(&mut self, tile: &TileFile) {
        match read_tile(self.store, tile.path) {
            Ok(bytes) if bytes == tile.bytes => {}
            Ok(_) => self.note(tile.path, "it differs from what the entries or the journal give"),
            Err(StoreError::Missing { .. }) => self.note(tile.path, "missing"),
            Err(error) => self.note(tile.path, error),
        }
    }

    /// Looks at every file there is; returns the tiles that no checkpoint covers yet
    fn files(&mut self, size: u64) -> Vec<TilePath> {
        let paths = match self.store.list("") {
            Ok(paths) => paths,
            Err(error) => {
                self.note("listing", error);
                return Vec::new();
            }
        };
        let mut ahead = Vec::new();
        for path in paths {
            if path == CHECKPOINT_PATH {
                continue;
            }
            if let Some(fingerprint) = path.strip_prefix(ISSUER_PREFIX) {
                match self.store.read(&path) {
                    Ok(Some(der)) if hex(&sha256(&der)) == fingerprint => {}
                    _ => self.note(&path, "it is not the certificate that its name says"),
                }
                continue;
            }
            match path.parse::<TilePath>() {
                Ok(tile) if tile.complete_at() > size => ahead.push(tile),
                // Full tiles and the last partial ones were compared with the entries before.
                Ok(tile) if !tile.is_full() => self.partial(tile, size),
                Ok(_) => {}
                Err(_) => self.note(&path, "no file of a log has this name"),
            }
        }
        ahead
    }

    /// A partial tile of an older checkpoint must be what the wider one begins with
    fn partial(&mut self, tile: TilePath, size: u64) {
        let level = match tile.kind() {
            TileKind::Hashes(level) => u32::from(level),
            TileKind::Entries => 0,
        };
        let now = (size >> (8 * level)) - tile.index() * u64::from(TILE_WIDTH);
        let width = now.min(u64::from(TILE_WIDTH)) as u16;
        if width == tile.width() {
            return; // the one of the present checkpoint, which was compared with the entries
        }
        let wider = TilePath::new(tile.kind(), tile.index(), width);
        let wider = wider.ok().and_then(|path| read_tile(self.store, path).ok());
        let found = self.store.read(&tile.to_string()).ok().flatten();
        if !begins(wider.as_deref(), found.as_deref(), tile) {
            self.note(tile, "it differs from the tile that it became");
        }
    }

    /// Reads the journal as at a start, and compares with it the files that are ahead of the checkpoint
    fn journal(
        &mut self,
        journal: &mut dyn Journal,
        verifier: &LogVerifier,
        published: TreeHead,
        ahead: &[TilePath],
    ) {
        let (mut builder, mut full) = (TileBuilder::default(), Vec::new());
        let recovery = Recovery::new(verifier.clone(), Limits::default(), &[published]);
        let records = journal.replay();
        let (mut recovery, records) = match (recovery, records) {
            (Ok(recovery), Ok(records)) => (recovery, records),
            (Err(error), _) => return self.note("journal", error),
            (_, Err(error)) => return self.note("journal", error),
        };
        for record in records {
            let recovered = match record {
                Ok(record) => recovery.record(&record),
                Err(error) => return self.note("journal", error),
            };
            match recovered {
                Ok(Recovered::Entries(entries)) => {
                    for entry in entries {
                        builder.push(entry.leaf_hash, &entry.tile_leaf, &mut full);
                        if builder.size() == published.size {
                            builder.partial().iter().for_each(|tile| self.compare_again(tile));
                        }
                    }
                    for tile in full.drain(..) {
                        if tile.path.complete_at() <= published.size {
                            self.compare_again(&tile);
                        }
                        self.compare_ahead(&tile, ahead);
                    }
                }
                Ok(_) => {}
                Err(error) => return self.note("journal", error),
            }
        }
        builder.partial().iter().for_each(|tile| self.compare_ahead(tile, ahead));
        for tile in ahead.iter().filter(|tile| tile.complete_at() > builder.size()) {
            self.note(tile, "it holds more than the journal");
        }
        self.report.entries = recovery.entries();
        self.report.checkpoints = recovery.heads();
        // The clock of whoever checks says nothing about the log.
        if let Err(error) = recovery.finish(u64::MAX) {
            self.note("journal", error);
        }
    }

    /// Compares with the journal what was compared with the entries before, which do not cover everything
    fn compare_again(&mut self, tile: &TileFile) {
        let place = tile.path.to_string();
        if !self.report.errors.iter().any(|finding| finding.place == place) {
            self.compare(tile);
        }
    }

    fn compare_ahead(&mut self, tile: &TileFile, ahead: &[TilePath]) {
        let same = |one: &&TilePath| {
            let place = one.kind() == tile.path.kind() && one.index() == tile.path.index();
            place && one.width() <= tile.path.width()
        };
        for path in ahead.iter().filter(same) {
            let found = self.store.read(&path.to_string()).ok().flatten();
            if !begins(Some(&tile.bytes), found.as_deref(), *path) {
                self.note(path, "it differs from what the journal gives");
            }
        }
    }
}

/// Whether the narrower tile `path` is what the wider one begins with
fn begins(wider: Option<&[u8]>, found: Option<&[u8]>, path: TilePath) -> bool {
    let (Some(wider), Some(found)) = (wider, found) else { return false };
    prefix_bytes(path, wider).is_some_and(|end| wider[..end] == *found)
}

#[cfg(test)]
#[path = "fsck_tests.rs"]
mod tests;
