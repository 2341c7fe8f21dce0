//! One share of a root's key as a file: encrypted with its holder's passphrase, and bound to the root, the
//! numbers and the place of the share. How the key is shared is in `shamir`, how it is encrypted in `sealing`.

use std::path::{Path, PathBuf};

use boring::error::ErrorStack;
use serde::{Deserialize, Serialize};

use super::shamir::Point;
use crate::certificate::Fingerprint;
use crate::files;
use crate::sealing::{self, OpenError, Passphrase, Scrypt, SealedText};

/// The most shares of a root
pub const SHARES_LIMIT: u8 = 16;
/// Octets of the largest share file
const FILE_LIMIT_BYTES: u64 = 16 << 10;
const SCHEMA: &str = "stoq.root-share/1";

/// Why a share cannot be made or used
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The numbers make no sense
    #[error(
        "{threshold} of {shares} shares: there are 2 to {SHARES_LIMIT} shares, and the threshold is at least 2 and \
         at most their number"
    )]
    Numbers {
        /// Shares
        shares: u8,
        /// How many are needed
        threshold: u8,
    },
    /// Another number of passphrases than shares
    #[error(
        "{expected} shares need {expected} passphrases, one for each holder; {found} were given"
    )]
    Passphrases {
        /// Shares
        expected: usize,
        /// Passphrases
        found: usize,
    },
    /// Two holders with one passphrase
    #[error("two shares have the same passphrase; whoever knows it holds both: give each its own")]
    SamePassphrase,
    /// The file is none
    #[error("{path} is no share of a root: {reason}")]
    Malformed {
        /// The file
        path: PathBuf,
        /// Why
        reason: &'static str,
    },
    /// It does not open
    #[error("{path} does not open: the passphrase is wrong, or the file was changed")]
    Sealed {
        /// The file
        path: PathBuf,
    },
    /// It belongs to another root
    #[error("{path} is a share of the root {found}, not of {expected}")]
    OtherRoot {
        /// The file
        path: PathBuf,
        /// Its root
        found: Fingerprint,
        /// The root that is opened
        expected: Fingerprint,
    },
    /// Not enough
    #[error("{given} different shares were given and {threshold} are needed")]
    TooFew {
        /// Different shares
        given: usize,
        /// How many are needed
        threshold: u8,
    },
    /// All open and still it is not the key
    #[error("the shares do not make the root's key; are they of the same `root init`?")]
    NotTheKey,
    /// The file system refused
    #[error("{path}: {source}")]
    Io {
        /// The file
        path: PathBuf,
        /// What it said
        source: std::io::Error,
    },
    /// BoringSSL failed
    #[error("BoringSSL failed: {0}")]
    Boring(#[from] ErrorStack),
}

/// What a share says about itself before it is opened; none of it is secret, all of it is bound to the rest
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ShareHeader {
    /// The root's certificate
    pub root: Fingerprint,
    /// Shares there are
    pub shares: u8,
    /// How many are needed
    pub threshold: u8,
    /// Which one this is, from 1
    pub index: u8,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: String,
    root: String,
    shares: u8,
    threshold: u8,
    index: u8,
    scrypt: Scrypt,
    salt: String,
    nonce: String,
    ciphertext: String,
}

/// A share read from its file
pub(super) struct Sealed {
    pub(super) header: ShareHeader,
    path: PathBuf,
    sealed: sealing::Sealed,
}

impl ShareHeader {
    pub(super) fn check_numbers(shares: u8, threshold: u8) -> Result<(), ShareError> {
        match (2..=SHARES_LIMIT).contains(&shares) && (2..=shares).contains(&threshold) {
            true => Ok(()),
            false => Err(ShareError::Numbers { shares, threshold }),
        }
    }

    /// What the encryption authenticates besides the share
    fn associated_data(&self) -> Vec<u8> {
        let numbers = [self.shares, self.threshold, self.index];
        [&b"stoq-trustchain root-share v1\0"[..], self.root.as_bytes(), &numbers].concat()
    }
}

/// Encrypts a share and writes it to a file that must not exist yet, mode 0600
pub(super) fn seal(
    path: &Path,
    header: &ShareHeader,
    point: &Point,
    passphrase: &Passphrase,
) -> Result<(), ShareError> {
    let sealed = sealing::Sealed::seal(&point.values, &header.associated_data(), passphrase)?;
    let SealedText { scrypt, salt, nonce, ciphertext } = sealed.to_text();
    let file = File {
        schema: SCHEMA.into(),
        root: header.root.to_string(),
        shares: header.shares,
        threshold: header.threshold,
        index: header.index,
        scrypt,
        salt,
        nonce,
        ciphertext,
    };
    let failed = |source| ShareError::Io { path: path.to_owned(), source };
    let mut text = serde_json::to_vec_pretty(&file).map_err(|error| failed(error.into()))?;
    text.push(b'\n');
    files::create_new(path, files::PRIVATE, &text).map_err(failed)
}

impl Sealed {
    /// Reads a share's file; the passphrase comes later
    pub(super) fn read(path: &Path) -> Result<Self, ShareError> {
        let malformed = |reason| ShareError::Malformed { path: path.to_owned(), reason };
        let text = files::read_limited(path, FILE_LIMIT_BYTES)
            .map_err(|source| ShareError::Io { path: path.to_owned(), source })?;
        let file: File =
            serde_json::from_slice(&text).map_err(|_| malformed("it is not the JSON of one"))?;
        if file.schema != SCHEMA {
            return Err(malformed("it has another schema; it may be of a newer release"));
        }
        let root = file.root.parse().map_err(|_| malformed("its root is no fingerprint"))?;
        let numbers = ShareHeader::check_numbers(file.shares, file.threshold);
        if numbers.is_err() || !(1..=file.shares).contains(&file.index) {
            return Err(malformed("its numbers make no sense"));
        }
        let (shares, threshold, index) = (file.shares, file.threshold, file.index);
        let header = ShareHeader { root, shares, threshold, index };
        let File { scrypt, salt, nonce, ciphertext, .. } = file;
        let text = SealedText { scrypt, salt, nonce, ciphertext };
        let sealed = sealing::Sealed::from_text(&text).map_err(malformed)?;
        Ok(Self { header, path: path.to_owned(), sealed })
    }

    /// Where it was read
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it
    pub(super) fn open(&self, passphrase: &Passphrase) -> Result<Point, ShareError> {
        let opened = self.sealed.open(&self.header.associated_data(), passphrase);
        let values = opened.map_err(|error| match error {
            OpenError::Sealed => ShareError::Sealed { path: self.path.clone() },
            OpenError::Boring(error) => error.into(),
        })?;
        Ok(Point { index: self.header.index, values })
    }
}

/// Whether two of them are equal
pub(super) fn any_twice(passphrases: &[Passphrase]) -> bool {
    let same =
        |(at, one): (usize, &Passphrase)| passphrases[..at].iter().any(|other| other.is(one));
    passphrases.iter().enumerate().any(same)
}
