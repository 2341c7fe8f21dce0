//! A node's identity on disk (`node.key`, `node.pem` with leaf and authority, `root.pem`) and as the data
//! plane takes it. The authority is verified against the root here, once, so that the handshake need not.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use stoq_interface::{Identity, NodeId, SPIFFE_NODE_PREFIX, TrustAnchor};
use x509_parser::extensions::GeneralName;

use crate::certificate::{self, CertificateError, Fingerprint};
use crate::chain::{self, ChainError, Usage};
use crate::csr::CsrError;
use crate::files;
use crate::keys::{KeyError, KeyKind, KeyPair};
use crate::rotation::CertificateFacts;

const KEY_FILE: &str = "node.key";
const CHAIN_FILE: &str = "node.pem";
const ROOT_FILE: &str = "root.pem";

/// Why an identity cannot be used
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nothing there yet
    #[error("{path} holds no identity; enrol the node with a join token")]
    Absent {
        /// The directory
        path: PathBuf,
    },
    /// The certificate is for another key
    #[error("{path}: node.pem is not for node.key; enrol the node again")]
    Mismatch {
        /// The directory
        path: PathBuf,
    },
    /// The certificate names no node, or another one
    #[error("the certificate does not name node {expected}; enrol the node again")]
    WrongNode {
        /// Who it should name
        expected: String,
    },
    /// The root is not the pinned one
    #[error(
        "the root is {found}, not the pinned {pinned}; this is not the authority you were invited by"
    )]
    WrongRoot {
        /// What was given
        found: Fingerprint,
        /// What was expected
        pinned: Fingerprint,
    },
    /// The chain does not verify now
    #[error("{0}; enrol the node again")]
    Chain(#[from] ChainError),
    /// The key
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A certificate file
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The request
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The file system refused
    #[error("{path}: {source}")]
    Io {
        /// The directory
        path: PathBuf,
        /// What it said
        source: io::Error,
    },
}

/// A verified identity with its trust
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    identity: Identity,
    not_before: SystemTime,
    anchor: TrustAnchor,
    root_der: Vec<u8>,
}

/// The certificates of an identity before they are stored
pub(crate) struct Certificates<'a> {
    pub(crate) leaf_der: &'a [u8],
    pub(crate) issuing_der: &'a [u8],
    pub(crate) root_der: &'a [u8],
}

impl NodeIdentity {
    /// Loads and verifies the identity in `directory`
    pub fn load(directory: &Path, now: SystemTime) -> Result<Self, IdentityError> {
        Self::load_at(directory, |_leaf_der| Ok(now))
    }

    /// Loads an identity that may begin later: it is verified at its own beginning then
    pub(crate) fn load_staged(directory: &Path, now: SystemTime) -> Result<Self, IdentityError> {
        Self::load_at(directory, |leaf_der| staged(leaf_der, now))
    }

    fn load_at(
        directory: &Path,
        at: impl FnOnce(&[u8]) -> Result<SystemTime, IdentityError>,
    ) -> Result<Self, IdentityError> {
        let chain = directory.join(CHAIN_FILE);
        if !chain.exists() {
            return Err(IdentityError::Absent { path: directory.to_owned() });
        }
        let key = KeyPair::load(&directory.join(KEY_FILE))?;
        let [leaf_der, issuing_der] = certificate::read_pem_chain(&chain)?;
        let root_der = certificate::read_pem(&directory.join(ROOT_FILE))?;
        let found =
            Certificates { leaf_der: &leaf_der, issuing_der: &issuing_der, root_der: &root_der };
        Self::verify(directory, &key, &found, at(&leaf_der)?)
    }

    /// Stores certificates that may begin later: they are verified at their own beginning then
    pub(crate) fn store_staged(
        directory: &Path,
        node: &NodeId,
        certificates: &Certificates<'_>,
        pinned: &Fingerprint,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let at = staged(certificates.leaf_der, now)?;
        Self::store(directory, node, certificates, pinned, at)
    }

    /// Verifies certificates for the key in `directory` and stores them; nothing is written that would not load
    pub(crate) fn store(
        directory: &Path,
        node: &NodeId,
        certificates: &Certificates<'_>,
        pinned: &Fingerprint,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let found = Fingerprint::of(certificates.root_der);
        if found != *pinned {
            return Err(IdentityError::WrongRoot { found, pinned: *pinned });
        }
        let key = KeyPair::load(&directory.join(KEY_FILE))?;
        let verified = Self::verify(directory, &key, certificates, now)?;
        if verified.identity.node != *node {
            return Err(IdentityError::WrongNode { expected: node.to_string() });
        }
        certificate::write_pem(&directory.join(ROOT_FILE), certificates.root_der)?;
        // Last and in one step: leaf and authority never disagree, and before it there is no identity.
        let chain = [certificates.leaf_der, certificates.issuing_der];
        certificate::write_pem_chain(&directory.join(CHAIN_FILE), &chain)?;
        Ok(verified)
    }

    /// The node's certificate and key for the data plane; the leaf alone goes on the wire
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The authorities whose leaves this node accepts, verified against the root
    pub fn trust(&self) -> Vec<TrustAnchor> {
        vec![self.anchor.clone()]
    }

    /// The root behind them
    pub fn root_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.root_der)
    }

    /// The root's certificate
    pub fn root_der(&self) -> &[u8] {
        &self.root_der
    }

    /// The certificate of the authority that issued the node's
    pub fn issuing_der(&self) -> &[u8] {
        &self.anchor.certificate_der
    }

    /// The node's certificate
    pub fn leaf_der(&self) -> &[u8] {
        self.identity.chain_der.first().map_or(&[], Vec::as_slice)
    }

    /// What rotation knows of the node's certificate
    pub fn facts(&self) -> CertificateFacts {
        CertificateFacts {
            serial: self.identity.serial.clone(),
            not_before: self.not_before,
            not_after: self.identity.not_after,
        }
    }

    fn verify(
        directory: &Path,
        key: &KeyPair,
        certificates: &Certificates<'_>,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let Certificates { leaf_der, issuing_der, root_der } = *certificates;
        for usage in [Usage::Server, Usage::Client] {
            chain::check_leaf(leaf_der, issuing_der, root_der, usage, now)?;
        }
        let leaf = certificate::parse(leaf_der)?;
        if leaf.public_key().raw != key.spki_der()? {
            return Err(IdentityError::Mismatch { path: directory.to_owned() });
        }
        let node = named_node(&leaf)
            .ok_or_else(|| IdentityError::WrongNode { expected: "<any>".to_owned() })?;
        let (not_before, not_after) = certificate::validity(&leaf)?;
        let (from, until) = certificate::validity(&certificate::parse(issuing_der)?)?;
        Ok(Self {
            identity: Identity {
                node,
                chain_der: vec![leaf_der.to_vec()],
                key: key.to_private_key()?,
                not_after,
                serial: certificate::serial_text(&leaf),
            },
            anchor: TrustAnchor {
                certificate_der: issuing_der.to_vec(),
                not_before: from,
                not_after: until,
            },
            not_before,
            root_der: root_der.to_vec(),
        })
    }
}

/// When a certificate that may begin later is to be judged: now, or at its beginning
fn staged(leaf_der: &[u8], now: SystemTime) -> Result<SystemTime, IdentityError> {
    let (not_before, _) = certificate::validity(&certificate::parse(leaf_der)?)?;
    Ok(now.max(not_before))
}

/// The node's key, made where there is none: durable and private before anything is asked for with it
pub(crate) fn prepare_key(directory: &Path) -> Result<KeyPair, IdentityError> {
    files::create_directory(directory)
        .map_err(|source| IdentityError::Io { path: directory.to_owned(), source })?;
    Ok(KeyPair::load_or_create(&directory.join(KEY_FILE), KeyKind::P256)?)
}

/// The node that a certificate names, verified or not
pub(crate) fn named_in(leaf_der: &[u8]) -> Option<NodeId> {
    named_node(&certificate::parse(leaf_der).ok()?)
}

/// The node in the one SPIFFE URI
fn named_node(leaf: &x509_parser::certificate::X509Certificate<'_>) -> Option<NodeId> {
    let names = leaf.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let node = NodeId::new(uris.next()?.strip_prefix(SPIFFE_NODE_PREFIX)?).ok()?;
    uris.next().is_none().then_some(node)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::testing::LooseAuthority;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn issue(directory: &Path, now: SystemTime) -> NodeIdentity {
        let authority = LooseAuthority::make(&directory.join("ca"), now);
        authority.identity(&directory.join("node"), &NodeId::new("alpha").unwrap(), now)
    }

    #[test]
    fn an_identity_loads_as_it_was_stored() {
        let directory = tempfile::tempdir().unwrap();
        let stored = issue(directory.path(), now());
        let node = directory.path().join("node");
        let loaded = NodeIdentity::load(&node, now()).unwrap();
        assert_eq!(loaded.identity().node.as_str(), "alpha");
        assert_eq!(loaded.identity().serial, stored.identity().serial);
        assert_eq!(loaded.identity().chain_der.len(), 1);
        assert_eq!(loaded.trust(), stored.trust());
        assert_eq!(loaded.root_fingerprint(), stored.root_fingerprint());
        assert_eq!(std::fs::metadata(node.join(KEY_FILE)).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn expired_foreign_and_absent_identities_are_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let node = directory.path().join("node");
        let absent = NodeIdentity::load(&node, now()).unwrap_err();
        assert!(matches!(absent, IdentityError::Absent { .. }));
        let identity = issue(directory.path(), now());
        let late = identity.identity().not_after + Duration::from_secs(1);
        let expired = NodeIdentity::load(&node, late).unwrap_err();
        assert!(expired.to_string().contains("CertExpired"), "{expired}");

        let elsewhere = tempfile::tempdir().unwrap();
        issue(elsewhere.path(), now());
        let theirs = elsewhere.path().join("node");
        std::fs::copy(theirs.join(ROOT_FILE), node.join(ROOT_FILE)).unwrap();
        let foreign = NodeIdentity::load(&node, now()).unwrap_err();
        assert!(foreign.to_string().contains("another root"), "{foreign}");
        std::fs::copy(theirs.join(CHAIN_FILE), node.join(CHAIN_FILE)).unwrap();
        let mismatch = NodeIdentity::load(&node, now()).unwrap_err();
        assert!(matches!(mismatch, IdentityError::Mismatch { .. }), "{mismatch}");
    }

    #[test]
    fn another_implementation_accepts_the_chain() {
        let directory = tempfile::tempdir().unwrap();
        // openssl judges by the real clock.
        issue(directory.path(), SystemTime::now());
        let node = directory.path().join("node");
        let verify = |root: &Path| {
            Command::new("openssl")
                .args(["verify", "-x509_strict", "-CAfile"])
                .arg(root)
                .arg("-untrusted")
                .arg(node.join(CHAIN_FILE))
                .arg(node.join(CHAIN_FILE))
                .output()
        };
        let accepted = match verify(&node.join(ROOT_FILE)) {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Straight to the terminal: the test harness would swallow it.
                use std::io::Write;
                writeln!(io::stderr(), "SKIPPED: no openssl binary to verify the chain with")
                    .unwrap();
                return;
            }
            Err(error) => panic!("openssl did not run: {error}"),
        };
        let said = String::from_utf8_lossy(&accepted.stderr);
        assert!(accepted.status.success(), "{said}");
        let elsewhere = tempfile::tempdir().unwrap();
        issue(elsewhere.path(), SystemTime::now());
        let refused = verify(&elsewhere.path().join("node").join(ROOT_FILE)).unwrap();
        assert!(!refused.status.success());
    }
}
