//! One share of a root's key as a file: encrypted with its holder's passphrase, and bound to the root, the
//! numbers and the place of the share. How the key is shared is in `shamir`.

use std::path::{Path, PathBuf};

use boring::error::ErrorStack;
use boring::symm::{Cipher, decrypt_aead, encrypt_aead};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::shamir::Point;
use crate::certificate::{Fingerprint, hex, unhex};
use crate::files;

/// The most shares of a root
pub const SHARES_LIMIT: u8 = 16;
/// Characters of the shortest passphrase
const PASSPHRASE_MIN: usize = 12;
/// Octets of the longest passphrase
const PASSPHRASE_LIMIT_BYTES: usize = 1_024;
/// Octets of the largest share file
const FILE_LIMIT_BYTES: u64 = 16 << 10;
const SCHEMA: &str = "stoq.root-share/1";
/// scrypt (RFC 7914): 128 MiB and about half a second for each guess. Unit tests take the least that is read.
const SCRYPT: Scrypt = Scrypt { n: if cfg!(test) { 1 << 14 } else { 1 << 17 }, r: 8, p: 1 };
/// The most that a file may make us spend, and the least that is a hindrance
const SCRYPT_N: std::ops::RangeInclusive<u64> = 1 << 14..=1 << 20;
const SALT_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// What a holder encrypts a share with. It is not printed and is erased when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// A passphrase of at least 12 characters
    pub fn new(text: String) -> Result<Self, ShareError> {
        let text = Zeroizing::new(text);
        match text.chars().count() >= PASSPHRASE_MIN && text.len() <= PASSPHRASE_LIMIT_BYTES {
            true => Ok(Self(text)),
            false => Err(ShareError::Passphrase),
        }
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Why a share cannot be made or used
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// Too short, or absurdly long
    #[error(
        "a passphrase has at least {PASSPHRASE_MIN} characters and at most {PASSPHRASE_LIMIT_BYTES} octets; \
         six random words are good"
    )]
    Passphrase,
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

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Scrypt {
    n: u64,
    r: u64,
    p: u64,
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
    scrypt: Scrypt,
    salt: Vec<u8>,
    nonce: Vec<u8>,
    ciphertext: Vec<u8>,
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
    let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_BYTES]);
    boring::rand::rand_bytes(&mut salt)?;
    boring::rand::rand_bytes(&mut nonce)?;
    let key = derive(passphrase, &salt, SCRYPT)?;
    let mut tag = [0; TAG_BYTES];
    let (cipher, data) = (Cipher::aes_256_gcm(), header.associated_data());
    let mut ciphertext =
        encrypt_aead(cipher, &key[..], Some(&nonce), &data, &point.values, &mut tag)?;
    ciphertext.extend(tag);
    let file = File {
        schema: SCHEMA.into(),
        root: header.root.to_string(),
        shares: header.shares,
        threshold: header.threshold,
        index: header.index,
        scrypt: SCRYPT,
        salt: hex(&salt),
        nonce: hex(&nonce),
        ciphertext: hex(&ciphertext),
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
        let Scrypt { n, r, p } = file.scrypt;
        if !(n.is_power_of_two() && SCRYPT_N.contains(&n) && r == 8 && (1..=4).contains(&p)) {
            return Err(malformed("its scrypt parameters are out of range"));
        }
        let numbers = ShareHeader::check_numbers(file.shares, file.threshold);
        if numbers.is_err() || !(1..=file.shares).contains(&file.index) {
            return Err(malformed("its numbers make no sense"));
        }
        let octets = |text: &str| unhex(text).ok_or_else(|| malformed("it has a wrong digit"));
        let (salt, nonce) = (octets(&file.salt)?, octets(&file.nonce)?);
        let ciphertext = octets(&file.ciphertext)?;
        if salt.len() != SALT_BYTES || nonce.len() != NONCE_BYTES || ciphertext.len() <= TAG_BYTES {
            return Err(malformed("a part of it has a wrong length"));
        }
        let (shares, threshold, index) = (file.shares, file.threshold, file.index);
        let header = ShareHeader { root, shares, threshold, index };
        Ok(Self { header, path: path.to_owned(), scrypt: file.scrypt, salt, nonce, ciphertext })
    }

    /// Where it was read
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it
    pub(super) fn open(&self, passphrase: &Passphrase) -> Result<Point, ShareError> {
        let key = derive(passphrase, &self.salt, self.scrypt)?;
        let (octets, tag) = self.ciphertext.split_at(self.ciphertext.len() - TAG_BYTES);
        let (cipher, data) = (Cipher::aes_256_gcm(), self.header.associated_data());
        let opened = decrypt_aead(cipher, &key[..], Some(&self.nonce), &data, octets, tag);
        let values = opened.map_err(|_| {
            // A wrong passphrase is an answer, not a failure of BoringSSL.
            let _answered: ErrorStack = ErrorStack::get();
            ShareError::Sealed { path: self.path.clone() }
        })?;
        Ok(Point { index: self.header.index, values: Zeroizing::new(values) })
    }
}

fn derive(
    passphrase: &Passphrase,
    salt: &[u8],
    scrypt: Scrypt,
) -> Result<Zeroizing<[u8; 32]>, ErrorStack> {
    let mut key = Zeroizing::new([0; 32]);
    let Scrypt { n, r, p } = scrypt;
    // 128 * n * r octets, and a little for the rest.
    let memory = usize::try_from(n * r * 160 + (1 << 20)).unwrap_or(usize::MAX);
    boring::pkcs5::scrypt(passphrase.0.as_bytes(), salt, n, r, p, memory, &mut key[..])?;
    Ok(key)
}

/// Whether two of them are equal
pub(super) fn any_twice(passphrases: &[Passphrase]) -> bool {
    let same = |(at, one): (usize, &Passphrase)| {
        passphrases[..at].iter().any(|other| other.0.as_str() == one.0.as_str())
    };
    passphrases.iter().enumerate().any(same)
}
