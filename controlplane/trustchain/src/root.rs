//! The root of a mesh: a P-384 key and a certificate that signs issuing authorities and nothing else. It
//! needs a directory and no daemon, so it can live on a machine without a network.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose,
};

use crate::certificate::{self, CertificateError, Fingerprint, hex, whole_seconds};
use crate::chain::{self, ChainError};
use crate::files;
use crate::keys::{KeyError, KeyKind, KeyPair};
use crate::signer::{key_identifier, key_identifier_method};

mod shamir;
mod share;
mod shared;

pub use crate::sealing::{Passphrase, PassphraseError};
pub use share::{SHARES_LIMIT, ShareError, ShareHeader};
pub use shared::{Shares, init_shared_root, open_shared_root};

/// Ten years
const LIFETIME: Duration = Duration::from_secs(3_652 * 24 * 3_600);
const KEY_FILE: &str = "root.key";
const CERTIFICATE_FILE: &str = "root.pem";

/// Why a root could not be made or opened
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// There is one already
    #[error(
        "{path} holds a root already; a root is never replaced in place, choose another directory"
    )]
    Exists {
        /// The directory
        path: PathBuf,
    },
    /// The key and the certificate do not belong together
    #[error("{path}: root.key is not the key of root.pem; restore both from the same backup")]
    Mismatch {
        /// The directory
        path: PathBuf,
    },
    /// A root's key where it does not belong
    #[error(
        "{path}: the root's key lies on the node, and production refuses that: whoever takes the node takes the \
         mesh. Make a root elsewhere (`stoqctl root init --offline --shares 5 --threshold 3`), have it sign this \
         authority, and remove this directory"
    )]
    OnNode {
        /// The directory
        path: PathBuf,
    },
    /// A share of the key
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The file system refused
    #[error("{path}: {source}")]
    Io {
        /// The directory
        path: PathBuf,
        /// What it said
        source: io::Error,
    },
    /// The key
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The certificate is no root in force
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The certificate could not be made
    #[error("the root certificate could not be made: {0}")]
    Encoding(#[from] rcgen::Error),
}

/// A root with its key
#[derive(Debug)]
pub struct Root {
    pub(crate) key: KeyPair,
    certificate_der: Vec<u8>,
}

impl Root {
    /// Opens the root in `directory`
    pub fn open(directory: &Path, now: SystemTime) -> Result<Self, RootError> {
        let key = KeyPair::load(&directory.join(KEY_FILE))?;
        let certificate_der = certificate::read_pem(&directory.join(CERTIFICATE_FILE))?;
        chain::check_root(&certificate_der, now)?;
        if certificate::parse(&certificate_der)?.public_key().raw != key.spki_der()? {
            return Err(RootError::Mismatch { path: directory.to_owned() });
        }
        Ok(Self { key, certificate_der })
    }

    /// Opens the root in `directory`, or makes one there
    pub fn open_or_init(directory: &Path, now: SystemTime) -> Result<Self, RootError> {
        if directory.join(CERTIFICATE_FILE).exists() {
            Self::open(directory, now)
        } else {
            init_root(directory, now)
        }
    }

    /// The certificate
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// What nodes pin: SHA-256 of the certificate
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate_der)
    }
}

/// Makes a root in `directory`: P-384, self-signed, path length 1, ten years.
///
/// The key is durable before the certificate; interrupted in between, a second call goes on with that key.
pub fn init_root(directory: &Path, now: SystemTime) -> Result<Root, RootError> {
    let path = directory.to_owned();
    if directory.join(CERTIFICATE_FILE).exists() {
        return Err(RootError::Exists { path });
    }
    files::create_directory(directory).map_err(|source| RootError::Io { path, source })?;
    let key = KeyPair::load_or_create(&directory.join(KEY_FILE), KeyKind::P384)?;
    let certificate_der = self_signed(&key, now)?;
    certificate::write_pem(&directory.join(CERTIFICATE_FILE), &certificate_der)?;
    Ok(Root { key, certificate_der })
}

fn self_signed(key: &KeyPair, now: SystemTime) -> Result<Vec<u8>, RootError> {
    let not_before = whole_seconds(now);
    let mut params = authority_params(key, "root", 1)?;
    params.not_before = not_before.into();
    params.not_after = (not_before + LIFETIME).into();
    let certificate_der = params.self_signed(key)?.der().to_vec();
    chain::check_root(&certificate_der, now)?;
    Ok(certificate_der)
}

/// In production, refuses an authority whose directory, or the directory `root` in it, has a root's key
pub fn refuse_root_key_on_node(directory: &Path, production: bool) -> Result<(), RootError> {
    for path in [directory.to_owned(), directory.join("root")] {
        let found = path.join(KEY_FILE).try_exists();
        let found = found.map_err(|source| RootError::Io { path: path.clone(), source })?;
        if production && found {
            return Err(RootError::OnNode { path });
        }
    }
    Ok(())
}

/// What roots and issuing authorities have in common. The name holds part of the key's identifier, so that
/// two authorities never share a name.
pub(crate) fn authority_params(
    key: &impl rcgen::PublicKeyData,
    kind: &str,
    path_length: u8,
) -> Result<CertificateParams, KeyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = authority_name(key, kind);
    params.serial_number = Some(random_serial()?.to_vec().into());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = key_identifier_method(key.der_bytes());
    Ok(params)
}

/// The name of an authority, which follows from its key
pub(crate) fn authority_name(key: &impl rcgen::PublicKeyData, kind: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "hypermesh");
    let identifier = hex(&key_identifier(key.der_bytes())[..8]);
    name.push(DnType::CommonName, format!("{kind} {identifier}"));
    name
}

/// 128 random bits, not all zero; always encoded as a positive number
pub(crate) fn random_serial() -> Result<[u8; 16], KeyError> {
    let mut serial = [0; 16];
    boring::rand::rand_bytes(&mut serial)?;
    // RFC 5280 section 4.1.2.2 forbids zero; the chance is 2^-128, so one bit costs nothing.
    if serial == [0; 16] {
        serial[15] = 1;
    }
    Ok(serial)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn a_root_has_the_promised_fields_and_opens_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root");
        let root = init_root(&path, now()).unwrap();
        let parsed = certificate::parse(root.certificate_der()).unwrap();
        let constraints = parsed.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(1));
        let usage = parsed.key_usage().unwrap().unwrap().value;
        assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
        assert_eq!(parsed.public_key().subject_public_key.data.len(), 97);
        assert_eq!(certificate::validity(&parsed).unwrap(), (now(), now() + LIFETIME));
        assert_eq!(std::fs::metadata(path.join(KEY_FILE)).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(Root::open(&path, now()).unwrap().fingerprint(), root.fingerprint());
        assert!(matches!(init_root(&path, now()), Err(RootError::Exists { .. })));
    }

    #[test]
    fn an_interrupted_ceremony_goes_on_with_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let first = init_root(directory.path(), now()).unwrap();
        std::fs::remove_file(directory.path().join(CERTIFICATE_FILE)).unwrap();
        let second = init_root(directory.path(), now()).unwrap();
        assert_eq!(first.key.public_point(), second.key.public_point());
    }

    #[test]
    fn an_expired_root_or_a_foreign_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        init_root(&one, now()).unwrap();
        init_root(&two, now()).unwrap();
        let late = now() + LIFETIME + Duration::from_secs(1);
        let error = Root::open(&one, late).unwrap_err();
        assert!(error.to_string().contains("expired"), "{error}");
        std::fs::copy(two.join(KEY_FILE), one.join(KEY_FILE)).unwrap();
        assert!(matches!(Root::open(&one, now()), Err(RootError::Mismatch { .. })));
    }

    #[test]
    fn production_refuses_a_root_key_on_the_node() {
        let directory = tempfile::tempdir().unwrap();
        refuse_root_key_on_node(directory.path(), true).unwrap();
        init_root(&directory.path().join("root"), now()).unwrap();
        refuse_root_key_on_node(directory.path(), false).unwrap();
        let refused = refuse_root_key_on_node(directory.path(), true).unwrap_err();
        assert!(matches!(refused, RootError::OnNode { .. }), "{refused}");
    }

    #[test]
    fn serials_do_not_repeat() {
        let drawn: std::collections::BTreeSet<_> =
            (0..10_000).map(|_| random_serial().unwrap()).collect();
        assert_eq!(drawn.len(), 10_000);
    }
}
