//! The issuing authority's files: its key made where it runs, its certificate signed by a root that is either kept
//! beside it (the embedded root of a node without configuration) or far away. What it issues is `ca`'s.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::Issuer;

use crate::certificate::{self, CertificateError, Fingerprint, whole_seconds};
use crate::chain::{self, ChainError};
use crate::csr::{self, CsrError, ProvenKey};
use crate::files;
use crate::keys::{KeyError, KeyKind, KeyPair};
use crate::profile::Ipv6Subtree;
use crate::root::{Root, RootError, authority_params};

/// Ninety days
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3_600);
/// An authority with an embedded root renews its own certificate when opened with less than this left
pub const RENEW_BELOW: Duration = Duration::from_secs(30 * 24 * 3_600);
/// For clocks that are slow
const BACKDATE: Duration = Duration::from_secs(300);

const KEY_FILE: &str = "issuing.key";
const CERTIFICATE_FILE: &str = "issuing.pem";
const ROOT_FILE: &str = "root.pem";
const EMBEDDED_ROOT: &str = "root";

/// Why an authority could not be made, opened or installed
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate is for another key
    #[error("{path}: the certificate is not for issuing.key; sign the request of this directory")]
    Mismatch {
        /// The directory
        path: PathBuf,
    },
    /// The root is not the pinned one
    #[error("the root is {found}, not the pinned {pinned}")]
    WrongRoot {
        /// What was given
        found: Fingerprint,
        /// What was expected
        pinned: Fingerprint,
    },
    /// The root would end before the authority
    #[error("the root ends before the new authority would; make a new root")]
    RootEndsFirst,
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
    /// The request
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// A certificate file
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The chain to the root
    #[error("{0}; sign the request of `stoqctl root sign-issuing` anew if it has expired")]
    Chain(#[from] ChainError),
    /// The embedded root
    #[error(transparent)]
    Root(#[from] RootError),
    /// The certificate could not be made
    #[error("the certificate could not be made: {0}")]
    Encoding(#[from] rcgen::Error),
}

/// An authority as it is installed in a directory: its certificate is for the key there, and of the root there
#[derive(Debug)]
pub struct Authority {
    certificate_der: Vec<u8>,
    root_der: Vec<u8>,
    not_after: SystemTime,
}

impl Authority {
    /// Opens the authority in `directory`; where there is none, makes a root (in `directory/root`) and an
    /// authority under it.
    ///
    /// This is the embedded root: convenient, and as safe as this one directory. With the root at hand the
    /// authority's certificate is renewed here when less than 30 days of it are left.
    pub fn open_or_create(
        directory: &Path,
        permitted: Ipv6Subtree,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let embedded = directory.join(EMBEDDED_ROOT);
        let installed = directory.join(CERTIFICATE_FILE).exists();
        if installed && !embedded.exists() {
            return Self::open(directory, now);
        }
        let due = !installed || {
            let der = certificate::read_pem(&directory.join(CERTIFICATE_FILE))?;
            let (_, not_after) = certificate::validity(&certificate::parse(&der)?)?;
            now + RENEW_BELOW > not_after
        };
        if due {
            let csr = issuing_csr(directory)?;
            let root = Root::open_or_init(&embedded, now)?;
            let signed = sign_issuing(&root, &csr, permitted, now)?;
            install_issuing(directory, &signed, root.certificate_der(), &root.fingerprint(), now)?;
        }
        Self::open(directory, now)
    }

    /// Opens the authority installed in `directory`
    pub fn open(directory: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::load(&directory.join(KEY_FILE))?;
        let root_der = certificate::read_pem(&directory.join(ROOT_FILE))?;
        let certificate_der = certificate::read_pem(&directory.join(CERTIFICATE_FILE))?;
        check(directory, &key, &certificate_der, &root_der, now)?;
        let (_, not_after) = certificate::validity(&certificate::parse(&certificate_der)?)?;
        Ok(Self { certificate_der, root_der, not_after })
    }

    /// The authority's certificate
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// The root's certificate
    pub fn root_der(&self) -> &[u8] {
        &self.root_der
    }

    /// What nodes pin
    pub fn root_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.root_der)
    }

    /// Last instant of the authority's validity; no leaf outlives it
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// Makes the authority's key where there is none, and returns the request to take to the root
pub fn issuing_csr(directory: &Path) -> Result<Vec<u8>, AuthorityError> {
    files::create_directory(directory)
        .map_err(|source| AuthorityError::Io { path: directory.to_owned(), source })?;
    let key = KeyPair::load_or_create(&directory.join(KEY_FILE), KeyKind::P256)?;
    Ok(csr::request(&key)?)
}

/// Signs an authority's request with the root: path length 0, 90 days, the four zones, `permitted` and no
/// IPv4. Returns the authority's certificate.
pub fn sign_issuing(
    root: &Root,
    csr_der: &[u8],
    permitted: Ipv6Subtree,
    now: SystemTime,
) -> Result<Vec<u8>, AuthorityError> {
    let key = ProvenKey::from_csr(csr_der)?;
    let not_before = whole_seconds(now) - BACKDATE;
    let not_after = not_before + LIFETIME;
    let (_, root_ends) = certificate::validity(&certificate::parse(root.certificate_der())?)?;
    if not_after > root_ends {
        return Err(AuthorityError::RootEndsFirst);
    }
    let mut params = authority_params(&key, "issuing", 0)?;
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.use_authority_key_identifier_extension = true;
    params.name_constraints = Some(permitted.name_constraints());
    let root_params = authority_params(&root.key, "root", 1)?;
    let issuer = Issuer::from_params(&root_params, &root.key);
    let certificate_der = params.signed_by(&key, &issuer)?.der().to_vec();
    chain::check_issuing(&certificate_der, root.certificate_der(), now)?;
    Ok(certificate_der)
}

/// Installs a signed authority certificate beside its key, after checking it against the pinned root
pub fn install_issuing(
    directory: &Path,
    certificate_der: &[u8],
    root_der: &[u8],
    pinned: &Fingerprint,
    now: SystemTime,
) -> Result<(), AuthorityError> {
    let found = Fingerprint::of(root_der);
    if found != *pinned {
        return Err(AuthorityError::WrongRoot { found, pinned: *pinned });
    }
    let key = KeyPair::load(&directory.join(KEY_FILE))?;
    check(directory, &key, certificate_der, root_der, now)?;
    // The authority's certificate comes last: its presence is what makes the directory an authority.
    certificate::write_pem(&directory.join(ROOT_FILE), root_der)?;
    certificate::write_pem(&directory.join(CERTIFICATE_FILE), certificate_der)?;
    Ok(())
}

fn check(
    directory: &Path,
    key: &KeyPair,
    certificate_der: &[u8],
    root_der: &[u8],
    now: SystemTime,
) -> Result<(), AuthorityError> {
    chain::check_root(root_der, now)?;
    chain::check_issuing(certificate_der, root_der, now)?;
    if certificate::parse(certificate_der)?.public_key().raw != key.spki_der()? {
        return Err(AuthorityError::Mismatch { path: directory.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use x509_parser::extensions::GeneralName;

    use super::*;
    use crate::root::init_root;

    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn an_issuing_certificate_has_the_promised_fields() {
        let directory = tempfile::tempdir().unwrap();
        let permitted = "fd77::/48".parse().unwrap();
        let authority = Authority::open_or_create(directory.path(), permitted, now()).unwrap();
        let parsed = certificate::parse(authority.certificate_der()).unwrap();
        let constraints = parsed.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        let names = parsed.name_constraints().unwrap().unwrap();
        assert!(names.critical);
        let permitted = names.value.permitted_subtrees.as_ref().unwrap();
        let zones: Vec<_> = permitted.iter().map(|subtree| format!("{:?}", subtree.base)).collect();
        for zone in ["hypermesh", "caesar", "trust", "assets"] {
            assert!(zones.iter().any(|name| name.contains(&format!("\"{zone}\""))), "{zones:?}");
        }
        assert_eq!(permitted.len(), 5);
        let mut prefix = [0; 32];
        prefix[..2].copy_from_slice(&[0xfd, 0x77]);
        prefix[16..22].fill(0xff);
        assert_eq!(permitted[4].base, GeneralName::IPAddress(&prefix));
        let excluded = names.value.excluded_subtrees.as_ref().unwrap();
        assert_eq!(excluded.len(), 1);
        assert_eq!(excluded[0].base, GeneralName::IPAddress(&[0; 8]));
        let root = certificate::parse(authority.root_der()).unwrap();
        assert_eq!(parsed.issuer().as_raw(), root.subject().as_raw());
        let (not_before, not_after) = certificate::validity(&parsed).unwrap();
        assert_eq!(not_after.duration_since(not_before).unwrap(), 90 * DAY);
    }

    #[test]
    fn an_authority_opens_again_and_renews_under_its_embedded_root() {
        let directory = tempfile::tempdir().unwrap();
        let open = |now| Authority::open_or_create(directory.path(), Ipv6Subtree::ALL, now);
        let first = open(now()).unwrap().certificate_der().to_vec();
        assert_eq!(open(now() + 50 * DAY).unwrap().certificate_der(), first);
        let renewed = open(now() + 70 * DAY).unwrap();
        assert_ne!(renewed.certificate_der(), first);
        assert!(renewed.not_after() > now() + 150 * DAY);
        let (old, new) =
            (certificate::parse(&first).unwrap(), certificate::parse(renewed.certificate_der()));
        assert_eq!(old.public_key().raw, new.unwrap().public_key().raw);
    }

    #[test]
    fn an_offline_root_signs_and_only_the_pinned_one_is_installed() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (directory.path().join("ours"), directory.path().join("theirs"));
        let root = init_root(&ours, now()).unwrap();
        let foreign = init_root(&theirs, now()).unwrap();
        let state = directory.path().join("state");
        let csr = issuing_csr(&state).unwrap();
        let signed = sign_issuing(&root, &csr, Ipv6Subtree::ALL, now()).unwrap();
        let install = |certificate: &[u8], root: &Root, pin: &Root| {
            install_issuing(&state, certificate, root.certificate_der(), &pin.fingerprint(), now())
        };
        assert!(matches!(install(&signed, &foreign, &root), Err(AuthorityError::WrongRoot { .. })));
        assert!(matches!(install(&signed, &foreign, &foreign), Err(AuthorityError::Chain(_))));
        let other = issuing_csr(&directory.path().join("other")).unwrap();
        let other = sign_issuing(&root, &other, Ipv6Subtree::ALL, now()).unwrap();
        assert!(matches!(install(&other, &root, &root), Err(AuthorityError::Mismatch { .. })));
        install(&signed, &root, &root).unwrap();
        assert!(Authority::open(&state, now()).is_ok());
        // Without the root at hand an expired authority is refused, not silently renewed.
        let late =
            Authority::open_or_create(&state, Ipv6Subtree::ALL, now() + 91 * DAY).unwrap_err();
        assert!(late.to_string().contains("expired"), "{late}");
        assert!(matches!(
            sign_issuing(&root, &csr, Ipv6Subtree::ALL, now() + 3_600 * DAY),
            Err(AuthorityError::RootEndsFirst)
        ));
    }
}
