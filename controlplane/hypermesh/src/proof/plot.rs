//! Plots: the files that space proofs are made from, found again by what stands in their header. Making one is
//! `plotting`, judging a proof is `space`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use chia_pos2::PlotQualityChain;

use crate::digest::{Digest, to_hex};
use crate::operation::{NetworkId, RequesterId};
use crate::wire::{Reader, WireError, Writer};

use super::space::{META_GROUP, plot_group};

/// The form of what a plot's header says about its owner
const MEMO_VERSION: u8 = 1;

/// Why there is no plot
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// Something is where the plot shall be
    #[error("{0} exists already; remove it or choose another path")]
    Exists(PathBuf),
    /// The library takes paths that are text
    #[error("{0:?} cannot be the path of a plot: it must be UTF-8 without NUL")]
    BadPath(PathBuf),
    /// There are no plots of that size
    #[error("a plot's size is even and 18 to 28; {0} was asked for")]
    Size(u8),
    /// There are no plots of that strength
    #[error("a plot's strength is 2 to 6; {0} was asked for")]
    Strength(u8),
    /// The library did not say why
    #[error(
        "making {path} with k {k} failed; check that its directory can be written, that there is room, and that \
         there is memory: each step of 2 takes about four times as much"
    )]
    Make {
        /// The file
        path: PathBuf,
        /// Its size
        k: u8,
    },
    /// The system refused
    #[error("{path}: {source}")]
    Io {
        /// The file
        path: PathBuf,
        /// Why
        source: io::Error,
    },
    /// The file is no plot
    #[error("{0} is no whole plot of the second format; make it again")]
    NotPlot(PathBuf),
    /// The plot was not made by this program, or its header was changed
    #[error("{0} was not made as a plot of HyperMesh, or was changed since; make it again")]
    NotOurs(PathBuf),
    /// A plot was made, and is not what was asked for
    #[error(
        "{0} was made and is not the plot that was asked for; check the disk and make it again"
    )]
    Differs(PathBuf),
    /// Whoever waited did not want to any longer
    #[error(
        "making {0} was cancelled; computing ends by itself and the unfinished file is removed then"
    )]
    Cancelled(PathBuf),
}

/// Who a plot belongs to, as its header says
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Memo {
    pub(super) network: NetworkId,
    pub(super) requester: RequesterId,
    pub(super) salt: [u8; 32],
}

impl Memo {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(97);
        writer.u8(MEMO_VERSION).fixed(&self.network).fixed(&self.requester).fixed(&self.salt);
        writer.into_vec()
    }

    fn decode(octets: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(octets);
        match reader.u8()? {
            MEMO_VERSION => {}
            tag => return Err(WireError::BadTag { what: "plot memo", tag: tag.into() }),
        }
        let memo =
            Self { network: reader.fixed()?, requester: reader.fixed()?, salt: reader.fixed()? };
        reader.finish()?;
        Ok(memo)
    }
}

/// A finished plot
pub struct Plot {
    library: chia_pos2::Prover,
    path: PathBuf,
    memo: Memo,
}

impl std::fmt::Debug for Plot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plot")
            .field("path", &self.path)
            .field("requester", &to_hex(&self.memo.requester))
            .field("k", &self.k())
            .field("strength", &self.strength())
            .finish()
    }
}

impl Plot {
    /// Opens a plot that [`Plot::make`] made
    pub fn open(path: &Path) -> Result<Self, PlotError> {
        check_path(path)?;
        // The library does not say why; a file that is not there or may not be read is said here.
        File::open(path).map_err(|source| io_error(path, source))?;
        let library =
            chia_pos2::Prover::new(path).map_err(|_| PlotError::NotPlot(path.to_owned()))?;
        let memo =
            Memo::decode(library.get_memo()).map_err(|_| PlotError::NotOurs(path.to_owned()))?;
        let group = plot_group(&memo.network, &memo.requester, &memo.salt);
        if *library.plot_group_id() != group || library.get_meta_group() != META_GROUP {
            return Err(PlotError::NotOurs(path.to_owned()));
        }
        Ok(Self { library, path: path.to_owned(), memo })
    }

    /// Where it is
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The network its proofs are for
    pub fn network(&self) -> &NetworkId {
        &self.memo.network
    }

    /// The requester its proofs are for
    pub fn requester(&self) -> &RequesterId {
        &self.memo.requester
    }

    /// What tells it from the requester's other plots
    pub fn salt(&self) -> &[u8; 32] {
        &self.memo.salt
    }

    /// All that its header says of whom it is for
    pub(super) fn memo(&self) -> &Memo {
        &self.memo
    }

    /// Its size
    pub fn k(&self) -> u8 {
        self.library.size()
    }

    /// Its strength
    pub fn strength(&self) -> u8 {
        self.library.get_strength()
    }

    /// The chains that answer a challenge: none for about every second, rarely more than a few. Reads a little of
    /// the file.
    pub(super) fn look_up(&self, challenge: &Digest) -> Result<Vec<PlotQualityChain>, PlotError> {
        self.library.get_qualities_for_challenge(challenge).map_err(|_| {
            // The library does not say why, and opens the file anew each time.
            match File::open(&self.path) {
                Ok(_) => PlotError::NotPlot(self.path.clone()),
                Err(source) => io_error(&self.path, source),
            }
        })
    }

    /// The proof behind a chain; none if the plotter's shortcuts lost it. Computes on all processors.
    pub(super) fn solve(&self, found: &PlotQualityChain) -> Option<Vec<u8>> {
        let plot_id = self.library.plot_id_for_index(found.plot_index);
        let proof = chia_pos2::solve_proof(&found.chain, &plot_id, self.k(), self.strength());
        (!proof.is_empty()).then_some(proof)
    }
}

pub(super) fn io_error(path: &Path, source: io::Error) -> PlotError {
    PlotError::Io { path: path.to_owned(), source }
}

/// The library takes C strings, and would panic over some that are none
pub(super) fn check_path(path: &Path) -> Result<(), PlotError> {
    match path.to_str() {
        Some(text) if !text.contains('\0') => Ok(()),
        _ => Err(PlotError::BadPath(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::space::PLOT_INDEX;
    use super::*;

    #[test]
    fn what_is_no_plot_of_ours_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let absent = directory.path().join("absent.plot");
        assert!(matches!(Plot::open(&absent), Err(PlotError::Io { .. })));
        let text = directory.path().join("text.plot");
        fs::write(&text, b"pos2 or not").unwrap();
        assert!(matches!(Plot::open(&text), Err(PlotError::NotPlot(_))));
        let foreign = directory.path().join("foreign.plot");
        chia_pos2::create_v2_single_plot_group(
            &foreign, 18, 2, &[9; 32], PLOT_INDEX, META_GROUP, &[0; 112],
        )
        .unwrap();
        assert!(matches!(Plot::open(&foreign), Err(PlotError::NotOurs(_))));
        // A header that claims another's plot: the identity does not follow from it.
        let claimed = directory.path().join("claimed.plot");
        let memo = Memo { network: [1; 32], requester: [2; 32], salt: [3; 32] }.encode();
        chia_pos2::create_v2_single_plot_group(
            &claimed, 18, 2, &[9; 32], PLOT_INDEX, META_GROUP, &memo,
        )
        .unwrap();
        assert!(matches!(Plot::open(&claimed), Err(PlotError::NotOurs(_))));
    }
}
