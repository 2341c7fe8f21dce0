//! An issuing authority whose key is in a signer: the request that goes to the root, and the certificate that
//! comes back. Keys in the authority's own directory are `authority`'s.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, DistinguishedName};

use super::{KeyName, NamedKey, Signer, SignerError, TbsCapture, signed_object};
use crate::authority::AuthorityError;
use crate::certificate::{self, Fingerprint};
use crate::chain;
use crate::csr::ProvenKey;
use crate::files;

/// Files of an authority's directory, as `authority` names them
const CERTIFICATE_FILE: &str = "issuing.pem";
const ROOT_FILE: &str = "root.pem";

/// Why there is no request, or the certificate is not installed
#[derive(Debug, thiserror::Error)]
pub enum IssuingKeyError {
    /// The signer did not do it
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The certificate, the root or the directory
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl From<rcgen::Error> for IssuingKeyError {
    fn from(error: rcgen::Error) -> Self {
        Self::Authority(error.into())
    }
}

/// The request to take to the root, signed by that key of the signer. Blocks.
pub fn request_with(signer: &Arc<dyn Signer>, key: &KeyName) -> Result<Vec<u8>, IssuingKeyError> {
    let key = NamedKey::new(Arc::clone(signer), key)?;
    let capture = TbsCapture::new(key.public().clone());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(&capture)?;
    let info = capture.take().unwrap_or_default();
    let request = signed_object(&info, &key.sign_blocking(&info)?);
    ProvenKey::from_csr(&request).map_err(AuthorityError::from)?;
    Ok(request)
}

/// Installs a signed certificate of that key of the signer in the authority's directory, after checking it against
/// the pinned root. The directory gets no key.
pub fn install_with(
    directory: &Path,
    signer: &Arc<dyn Signer>,
    key: &KeyName,
    (certificate_der, root_der): (&[u8], &[u8]),
    pinned: &Fingerprint,
    now: SystemTime,
) -> Result<(), IssuingKeyError> {
    let key = NamedKey::new(Arc::clone(signer), key)?;
    let found = Fingerprint::of(root_der);
    if found != *pinned {
        return Err(AuthorityError::WrongRoot { found, pinned: *pinned }.into());
    }
    let install = || -> Result<(), AuthorityError> {
        chain::check_root(root_der, now)?;
        chain::check_issuing(certificate_der, root_der, now)?;
        let parsed = certificate::parse(certificate_der)?;
        if parsed.public_key().raw != key.public().spki_der() {
            return Err(AuthorityError::Mismatch { path: directory.to_owned() });
        }
        files::create_directory(directory)
            .map_err(|source| AuthorityError::Io { path: directory.to_owned(), source })?;
        // The authority's certificate comes last: its presence is what makes the directory an authority.
        certificate::write_pem(&directory.join(ROOT_FILE), root_der)?;
        Ok(certificate::write_pem(&directory.join(CERTIFICATE_FILE), certificate_der)?)
    };
    Ok(install()?)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::authority::sign_issuing;
    use crate::profile::Ipv6Subtree;
    use crate::root::init_root;
    use crate::signer::testing;

    #[test]
    fn an_authority_whose_key_is_elsewhere_is_certified_and_installed_without_a_key() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let signer: Arc<dyn Signer> = testing::soft(&at("keys"));
        let other: Arc<dyn Signer> = testing::soft(&at("other"));
        let root = init_root(&at("root"), now).unwrap();
        let name = KeyName::issuing();
        let request = request_with(&signer, &name).unwrap();
        let signed = sign_issuing(&root, &request, Ipv6Subtree::ALL, now).unwrap();
        let install = |signer: &Arc<dyn Signer>, pinned: &Fingerprint| {
            let chain = (&signed[..], root.certificate_der());
            install_with(&at("ca"), signer, &name, chain, pinned, now)
        };
        let wrong = install(&other, &root.fingerprint()).unwrap_err();
        assert!(matches!(wrong, IssuingKeyError::Authority(AuthorityError::Mismatch { .. })));
        let wrong = install(&signer, &Fingerprint::of(b"another")).unwrap_err();
        assert!(matches!(wrong, IssuingKeyError::Authority(AuthorityError::WrongRoot { .. })));
        assert!(!at("ca").exists());
        install(&signer, &root.fingerprint()).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(at("ca"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, [CERTIFICATE_FILE, ROOT_FILE]);
    }
}
