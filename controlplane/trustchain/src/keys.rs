//! Private keys: made where they are used, kept in PKCS #8 PEM files that only their owner may read, never
//! sent anywhere. Which certificate a key belongs to is not known here.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use boring::bn::{BigNum, BigNumContext};
use boring::ec::{EcGroup, EcKey, EcPoint, PointConversionForm};
use boring::error::ErrorStack;
use boring::nid::Nid;
use boring::pkey::{PKey, PKeyRef, Private};
use stoq_interface::PrivateKey;
use zeroize::Zeroizing;

use crate::files;

/// Size of the largest key file that is read
const KEY_FILE_LIMIT_BYTES: u64 = 16 << 10;

/// Curve of a key
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyKind {
    /// NIST P-256, signing with SHA-256: issuing authorities and leaves
    P256,
    /// NIST P-384, signing with SHA-384: roots
    P384,
}

impl KeyKind {
    fn nid(self) -> Nid {
        match self {
            Self::P256 => Nid::X9_62_PRIME256V1,
            Self::P384 => Nid::SECP384R1,
        }
    }
}

/// Why a key could not be made, written or read
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key file is never overwritten
    #[error("{path} exists already; a key is never overwritten, move the file away first")]
    Exists {
        /// The file
        path: PathBuf,
    },
    /// Others than the owner may read the file
    #[error(
        "{path} has mode {mode:04o}, so others may have read the key; if you are sure that nobody \
         has, run `chmod 600 {path}`, else replace the key"
    )]
    Exposed {
        /// The file
        path: PathBuf,
        /// Its permission bits
        mode: u32,
    },
    /// The file system refused
    #[error("{path}: {source}")]
    Io {
        /// The file
        path: PathBuf,
        /// What it said
        source: io::Error,
    },
    /// The file holds no P-256 or P-384 key
    #[error("{path} holds no unencrypted P-256 or P-384 private key in PKCS #8 PEM")]
    Malformed {
        /// The file
        path: PathBuf,
    },
    /// BoringSSL failed
    #[error("BoringSSL failed: {0}")]
    Boring(#[from] ErrorStack),
}

/// A private key in memory, with its public point
pub struct KeyPair {
    key: PKey<Private>,
    kind: KeyKind,
    point: Vec<u8>,
}

impl KeyPair {
    /// A new key, in memory only
    pub fn generate(kind: KeyKind) -> Result<Self, KeyError> {
        let group = EcGroup::from_curve_name(kind.nid())?;
        Self::from_ec_key(EcKey::generate(&group)?, kind)
    }

    /// A new key, durable at `path` with mode 0600 before this returns
    pub fn create(path: &Path, kind: KeyKind) -> Result<Self, KeyError> {
        let key = Self::generate(kind)?;
        let pem = Zeroizing::new(key.key.private_key_to_pem_pkcs8()?);
        match files::create_new(path, files::PRIVATE, &pem) {
            Ok(()) => Ok(key),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(KeyError::Exists { path: path.to_owned() })
            }
            Err(source) => Err(KeyError::Io { path: path.to_owned(), source }),
        }
    }

    /// Reads a key that only its owner may read
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        // Asked of the open file, so that nobody can exchange it in between.
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        let pem = files::read_open_file(file, KEY_FILE_LIMIT_BYTES).map_err(failed)?;
        let pem = Zeroizing::new(pem);
        Self::from_pem(&pem).ok_or_else(|| KeyError::Malformed { path: path.to_owned() })
    }

    /// Reads the key at `path`, or makes a new one there
    pub fn load_or_create(path: &Path, kind: KeyKind) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path, kind)
            }
            other => other,
        }
    }

    /// The key as the data plane takes it
    pub fn to_private_key(&self) -> Result<PrivateKey, KeyError> {
        Ok(PrivateKey::from_pkcs8_der(self.key.private_key_to_der_pkcs8()?))
    }

    /// The public key as SubjectPublicKeyInfo DER (RFC 5280 section 4.1)
    pub fn spki_der(&self) -> Result<Vec<u8>, KeyError> {
        Ok(self.key.public_key_to_der()?)
    }

    /// The curve
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The public point, uncompressed (SEC 1 section 2.3.3)
    pub fn public_point(&self) -> &[u8] {
        &self.point
    }

    /// A key by its private scalar, the highest octet first
    pub(crate) fn from_scalar(kind: KeyKind, scalar: &[u8]) -> Result<Self, KeyError> {
        let group = EcGroup::from_curve_name(kind.nid())?;
        let mut context = BigNumContext::new()?;
        let scalar = BigNum::from_slice(scalar)?;
        let mut point = EcPoint::new(&group)?;
        point.mul_generator(&group, &scalar, &mut context)?;
        // Checks range and point.
        let key = EcKey::from_private_components(&group, &scalar, &point)?;
        Self::from_ec_key(key, kind)
    }

    /// The private scalar, the highest octet first, as long as the curve's order
    pub(crate) fn scalar(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let length = match self.kind {
            KeyKind::P256 => 32,
            KeyKind::P384 => 48,
        };
        Ok(Zeroizing::new(self.key.ec_key()?.private_key().to_vec_padded(length)?))
    }

    /// The key as BoringSSL holds it
    pub(crate) fn boring_key(&self) -> &PKeyRef<Private> {
        &self.key
    }

    fn from_pem(pem: &[u8]) -> Option<Self> {
        let key = PKey::private_key_from_pem(pem).ok()?.ec_key().ok()?;
        let curve = key.group().curve_name()?;
        let kind = [KeyKind::P256, KeyKind::P384].into_iter().find(|kind| kind.nid() == curve)?;
        Self::from_ec_key(key, kind).ok()
    }

    fn from_ec_key(key: EcKey<Private>, kind: KeyKind) -> Result<Self, KeyError> {
        let group = EcGroup::from_curve_name(kind.nid())?;
        let form = PointConversionForm::UNCOMPRESSED;
        let mut context = BigNumContext::new()?;
        let point = key.public_key().to_bytes(&group, form, &mut context)?;
        Ok(Self { key: PKey::from_ec_key(key)?, kind, point })
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyPair({:?}, ..)", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_private_and_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        for kind in [KeyKind::P256, KeyKind::P384] {
            let path = directory.path().join(format!("{kind:?}.key"));
            let key = KeyPair::create(&path, kind).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
            let again = KeyPair::load(&path).unwrap();
            assert_eq!(again.public_point(), key.public_point());
            assert_eq!(again.kind(), kind);
            assert!(matches!(KeyPair::create(&path, kind), Err(KeyError::Exists { .. })));
        }
    }

    #[test]
    fn a_key_others_may_read_is_refused_with_its_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        KeyPair::create(&path, KeyKind::P256).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = KeyPair::load(&path).unwrap_err();
            assert!(matches!(error, KeyError::Exposed { mode: seen, .. } if seen == mode));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn junk_is_no_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        files::create_new(&path, files::PRIVATE, b"-----BEGIN PRIVATE KEY-----\n").unwrap();
        assert!(matches!(KeyPair::load(&path), Err(KeyError::Malformed { .. })));
        assert!(matches!(
            KeyPair::load_or_create(&path, KeyKind::P256),
            Err(KeyError::Malformed { .. })
        ));
    }
}
