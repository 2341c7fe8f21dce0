//! The private keys of a backup: one file, encrypted with a passphrase and bound to the authority and journal they
//! belong to. Which keys there are is the manifest's to say; where they come from and go to is `take`'s and
//! `restore`'s.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use boring::error::ErrorStack;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::high_water::HighWater;
use crate::files;
use crate::sealing::{OpenError, Passphrase, Scrypt, Sealed, SealedText};

/// Name of the file
pub const KEYS_FILE: &str = "keys.sealed";
/// Octets of the largest file of that name
const FILE_LIMIT_BYTES: u64 = 1 << 20;
/// Octets of the largest key
pub(super) const KEY_LIMIT_BYTES: u64 = 16 << 10;
const SCHEMA: &str = "stoq.backup-keys/1";

/// Why keys are not sealed or not opened
#[derive(Debug, thiserror::Error)]
pub enum BackupKeysError {
    /// There are none
    #[error(
        "no key lies in {0}: the authority's keys are in a signing process or a token; back them up there, and take \
         this backup without keys"
    )]
    Nowhere(PathBuf),
    /// The file is none
    #[error("{path} holds no sealed keys: {reason}")]
    Malformed {
        /// The file
        path: PathBuf,
        /// Why
        reason: &'static str,
    },
    /// It does not open
    #[error("{path} does not open: the passphrase is wrong, or the file or its backup was changed")]
    Sealed {
        /// The file
        path: PathBuf,
    },
    /// The backup was taken without
    #[error(
        "the backup has no keys in it; restore it without, and bring the keys back from where they are kept"
    )]
    NotInIt,
    /// The file system refused
    #[error("{path}: {source}")]
    Io {
        /// The file
        path: PathBuf,
        /// What it said
        source: io::Error,
    },
    /// BoringSSL failed
    #[error("BoringSSL failed: {0}")]
    Boring(#[from] ErrorStack),
}

/// Keys by their path below the authority's directory. Erased when dropped, and never printed.
pub(super) type Keys = BTreeMap<String, Zeroizing<Vec<u8>>>;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: String,
    scrypt: Scrypt,
    salt: String,
    nonce: String,
    ciphertext: String,
}

/// What the encryption authenticates besides the keys
fn bound(reached: &HighWater) -> Vec<u8> {
    let (instance, journal) = (reached.instance.as_bytes(), reached.journal.as_bytes());
    [&b"stoq-trustchain backup-keys v1\0"[..], instance, b"\0", journal].concat()
}

/// Writes keys into a backup
pub(super) fn seal(
    backup: &Path,
    keys: &Keys,
    reached: &HighWater,
    passphrase: &Passphrase,
) -> Result<(), BackupKeysError> {
    let content = encode(keys);
    let sealed = Sealed::seal(&content, &bound(reached), passphrase)?;
    let SealedText { scrypt, salt, nonce, ciphertext } = sealed.to_text();
    let file = File { schema: SCHEMA.into(), scrypt, salt, nonce, ciphertext };
    let path = backup.join(KEYS_FILE);
    let failed = |source| BackupKeysError::Io { path: path.clone(), source };
    let mut text = serde_json::to_vec_pretty(&file).map_err(|error| failed(error.into()))?;
    text.push(b'\n');
    files::create_new(&path, files::PRIVATE, &text).map_err(failed)
}

/// Reads the keys of a backup whose manifest says this
pub(super) fn open(
    backup: &Path,
    reached: &HighWater,
    passphrase: &Passphrase,
) -> Result<Keys, BackupKeysError> {
    let path = backup.join(KEYS_FILE);
    let malformed = |reason| BackupKeysError::Malformed { path: path.clone(), reason };
    let text = files::read_limited(&path, FILE_LIMIT_BYTES)
        .map_err(|source| BackupKeysError::Io { path: path.clone(), source })?;
    let file: File =
        serde_json::from_slice(&text).map_err(|_| malformed("it is not the JSON of such"))?;
    if file.schema != SCHEMA {
        return Err(malformed("it has another schema; it may be of a newer release"));
    }
    let File { scrypt, salt, nonce, ciphertext, .. } = file;
    let text = SealedText { scrypt, salt, nonce, ciphertext };
    let sealed = Sealed::from_text(&text).map_err(malformed)?;
    let content = sealed.open(&bound(reached), passphrase).map_err(|error| match error {
        OpenError::Sealed => BackupKeysError::Sealed { path: path.clone() },
        OpenError::Boring(error) => error.into(),
    })?;
    decode(&content).ok_or_else(|| malformed("its content has another form"))
}

/// Number of keys, then of each its path and its octets, every one behind its length in four octets
fn encode(keys: &Keys) -> Zeroizing<Vec<u8>> {
    // As much as is needed at once: growing would leave copies behind.
    let length: usize = keys.iter().map(|(path, key)| 8 + path.len() + key.len()).sum();
    let mut content = Zeroizing::new(Vec::with_capacity(4 + length));
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    content.extend_from_slice(&number(keys.len()));
    for (path, key) in keys {
        for octets in [path.as_bytes(), key] {
            content.extend_from_slice(&number(octets.len()));
            content.extend_from_slice(octets);
        }
    }
    content
}

fn decode(content: &[u8]) -> Option<Keys> {
    fn number(rest: &mut &[u8]) -> Option<usize> {
        let (octets, after) = rest.split_first_chunk::<4>()?;
        *rest = after;
        usize::try_from(u32::from_be_bytes(*octets)).ok()
    }
    fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        let length = number(rest)?;
        let (octets, after) = rest.split_at_checked(length)?;
        *rest = after;
        Some(octets)
    }
    let mut rest = content;
    let mut keys = Keys::new();
    for _ in 0..number(&mut rest)? {
        let path = String::from_utf8(field(&mut rest)?.to_vec()).ok()?;
        keys.insert(path, Zeroizing::new(field(&mut rest)?.to_vec()));
    }
    rest.is_empty().then_some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_for_their_authority_and_passphrase_only() {
        let directory = tempfile::tempdir().unwrap();
        let phrase = |text: &str| Passphrase::new(text.to_owned()).unwrap();
        let ours = phrase("a long passphrase");
        let reached = HighWater { instance: "alpha".into(), ..HighWater::default() };
        let keys = Keys::from([
            ("issuing.key".to_owned(), Zeroizing::new(b"one".to_vec())),
            ("root/root.key".to_owned(), Zeroizing::new(Vec::new())),
        ]);
        seal(directory.path(), &keys, &reached, &ours).unwrap();
        assert_eq!(open(directory.path(), &reached, &ours).unwrap(), keys);
        let text = std::fs::read(directory.path().join(KEYS_FILE)).unwrap();
        assert!(!text.windows(3).any(|window| window == b"one"));
        let wrong = open(directory.path(), &reached, &phrase("another passphrase"));
        assert!(matches!(wrong, Err(BackupKeysError::Sealed { .. })));
        let foreign = HighWater { instance: "beta".into(), ..HighWater::default() };
        let wrong = open(directory.path(), &foreign, &ours);
        assert!(matches!(wrong, Err(BackupKeysError::Sealed { .. })));
        for cut in [&[][..], &[0, 0, 0, 1], &[0, 0, 0, 0, 7]] {
            assert_eq!(decode(cut), None, "{cut:?}");
        }
    }
}
