//! The Ed25519 key of a requester or validator, and its file: PKCS #8 in PEM (RFC 8410 section 7), as
//! `openssl genpkey -algorithm ed25519` writes it. What is signed with it is for its users.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_consensus::SigningKey;

use crate::operation::{RequesterId, ValidatorKey, requester_id};

/// Octets of the longest key file that is read
pub const KEY_FILE_LIMIT_BYTES: u64 = 1_024;
/// PrivateKeyInfo of an Ed25519 key up to the 32 octets of the key (RFC 8410 section 10.3)
const PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Why there is no key
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system refused
    #[error("{path}: {source}")]
    Io {
        /// The file
        path: PathBuf,
        /// Why
        source: io::Error,
    },
    /// The file holds something else
    #[error("{0} is no Ed25519 key in PKCS #8 PEM; make one with `stoqctl consensus key make`")]
    NotKey(PathBuf),
    /// Others can read the secret
    #[error("{path} can be read by others (mode {mode:03o}); run `chmod 600 {path}`")]
    Readable {
        /// The file
        path: PathBuf,
        /// Its permissions
        mode: u32,
    },
}

/// An Ed25519 key
#[derive(Clone)]
pub struct RequesterKey(SigningKey);

/// Without the secret, which the key's own `Debug` shows
impl fmt::Debug for RequesterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequesterKey({})", self.validator())
    }
}

impl RequesterKey {
    /// A new key
    pub fn random() -> Self {
        Self::from_secret(rand::random())
    }

    /// The key of this secret
    pub fn from_secret(secret: [u8; 32]) -> Self {
        Self(SigningKey::from(secret))
    }

    /// Reads a file that only its owner can read
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Readable { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(KEY_FILE_LIMIT_BYTES).read_to_string(&mut text).map_err(failed)?;
        secret_of(&text).map(Self::from_secret).ok_or_else(|| KeyError::NotKey(path.to_owned()))
    }

    /// Writes a file that does not exist yet, durably and for its owner alone
    pub fn write_new(&self, path: &Path) -> Result<(), KeyError> {
        let write = || {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(text_of(self.0.as_bytes()).as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| KeyError::Io { path: path.to_owned(), source })
    }

    /// The key that signs
    pub fn signing(&self) -> SigningKey {
        self.0.clone()
    }

    /// The 32 octets that must stay secret
    pub fn secret(&self) -> [u8; 32] {
        *self.0.as_bytes()
    }

    /// The key that everyone knows
    pub fn public(&self) -> [u8; 32] {
        self.0.verification_key().to_bytes()
    }

    /// The same as that of a validator
    pub fn validator(&self) -> ValidatorKey {
        ValidatorKey(self.public())
    }

    /// Whose operations it signs
    pub fn requester(&self) -> RequesterId {
        requester_id(&self.public())
    }

    /// Its signature
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

fn text_of(secret: &[u8; 32]) -> String {
    // 48 octets are 64 characters: one line, no padding.
    let mut line = String::with_capacity(64);
    for three in [&PREFIX[..], secret].concat().chunks_exact(3) {
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for shift in [18, 12, 6, 0] {
            line.push(char::from(BASE64[(bits >> shift & 63) as usize]));
        }
    }
    format!("{BEGIN}\n{line}\n{END}\n")
}

fn secret_of(text: &str) -> Option<[u8; 32]> {
    let body = text.trim().strip_prefix(BEGIN)?.strip_suffix(END)?.trim();
    if body.len() != 64 {
        return None;
    }
    let mut octets = Vec::with_capacity(48);
    for four in body.as_bytes().chunks_exact(4) {
        let mut bits = 0u32;
        for character in four {
            let value = BASE64.iter().position(|known| known == character)?;
            bits = bits << 6 | value as u32;
        }
        octets.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    octets.strip_prefix(&PREFIX)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Of RFC 8410 section 10.3, with the public key of section 10.1
    const RFC: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    const RFC_PUBLIC: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

    #[test]
    fn the_example_of_the_standard_is_read_and_written() {
        let secret = secret_of(RFC).unwrap();
        let key = RequesterKey::from_secret(secret);
        assert_eq!(key.validator().to_string(), RFC_PUBLIC);
        assert_eq!(text_of(&secret), RFC);
    }

    #[test]
    fn a_key_is_read_back_and_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        let key = RequesterKey::random();
        key.write_new(&path).unwrap();
        assert_eq!(RequesterKey::read(&path).unwrap().secret(), key.secret());
        assert!(matches!(RequesterKey::random().write_new(&path), Err(KeyError::Io { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(RequesterKey::read(&path), Err(KeyError::Readable { mode: 0o640, .. })));
    }

    #[test]
    fn what_is_no_such_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for (number, text) in [
            String::new(),
            RFC.replace("MC4", "MC5"),
            RFC.replace("Vh", "V"),
            RFC.replace("Vh", "V*"),
            RFC.replace("END", "FIN"),
            "x".repeat(5_000),
        ]
        .iter()
        .enumerate()
        {
            let path = directory.path().join(number.to_string());
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(RequesterKey::read(&path), Err(KeyError::NotKey(_))), "{number}");
        }
    }

    #[test]
    fn a_key_does_not_print_its_secret() {
        let key = RequesterKey::from_secret([7; 32]);
        assert!(!format!("{key:?}").contains("0707"));
    }
}
