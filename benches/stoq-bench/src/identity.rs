//! Throwaway identities for two benchmark processes: an authority and one certificate each for the sink and
//! the load, as PEM in files or over a pipe. Real nodes enrol; these keys are worth nothing and expire in a day.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boring::asn1::{Asn1Time, Asn1TimeRef};
use boring::pkey::PKey;
use boring::x509::X509;
use serde::{Deserialize, Serialize};
use stoq::{ControlSnapshot, Identity, NodeId, PrivateKey, TrustAnchor};
use stoq_simulation::pki::{Authority, VALIDITY};

/// The node that receives connections
pub const SINK: &str = "bench-sink";
/// The node that dials
pub const LOAD: &str = "bench-load";

/// Why an identity could not be had
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written
    #[error("{path}: {cause}; make identities with `stoq-bench identity --out DIR`")]
    File {
        /// Which
        path: String,
        /// Why
        cause: std::io::Error,
    },
    /// The PEM does not hold what it should
    #[error(
        "the identity of {node} does not parse: {cause}; make a new one with `stoq-bench identity`"
    )]
    Parse {
        /// Whose
        node: String,
        /// Why
        cause: String,
    },
}

/// One node's identity and whom it trusts, as text
#[derive(Clone, Deserialize, Serialize)]
pub struct Bundle {
    /// The node's name
    pub node: String,
    /// The authority's certificate, PEM
    pub authority_pem: String,
    /// The node's certificate, PEM
    pub certificate_pem: String,
    /// The node's key, PKCS #8 PEM
    pub key_pem: String,
}

/// Fresh identities of both nodes under a fresh authority
///
/// # Errors
/// Where BoringSSL cannot turn what was just made into PEM.
pub fn make() -> Result<[Bundle; 2], IdentityError> {
    let made = make_for(&[SINK.to_owned(), LOAD.to_owned()])?;
    made.try_into().map_err(|_| IdentityError::Parse {
        node: SINK.to_owned(),
        cause: "two were asked for".to_owned(),
    })
}

/// Fresh identities of these nodes under a fresh authority
///
/// # Errors
/// As for [`make`].
pub fn make_for(nodes: &[String]) -> Result<Vec<Bundle>, IdentityError> {
    let authority = Authority::new();
    let bundle = |node: &str| {
        let identity = authority.identity(node, VALIDITY);
        let failed = |cause: boring::error::ErrorStack| IdentityError::Parse {
            node: node.to_owned(),
            cause: cause.to_string(),
        };
        let pem = |der: &[u8]| X509::from_der(der).and_then(|c| c.to_pem()).map_err(failed);
        let key = PKey::private_key_from_der(identity.key.pkcs8_der())
            .and_then(|key| key.private_key_to_pem_pkcs8())
            .map_err(failed)?;
        let text = |pem: Vec<u8>| String::from_utf8_lossy(&pem).into_owned();
        Ok(Bundle {
            node: node.to_owned(),
            authority_pem: text(pem(&authority.anchor().certificate_der)?),
            certificate_pem: text(pem(&identity.chain_der[0])?),
            key_pem: text(key),
        })
    };
    nodes.iter().map(|node| bundle(node)).collect()
}

impl Bundle {
    /// Writes the three files into `directory`; the key with mode 0600
    ///
    /// # Errors
    /// [`IdentityError::File`], also where a file exists: an identity is never overwritten.
    pub fn write(&self, directory: &Path) -> Result<(), IdentityError> {
        let shared = directory.join("authority.pem");
        if !shared.exists() {
            put(&shared, &self.authority_pem, 0o644)?;
        }
        put(&directory.join(format!("{}.pem", self.node)), &self.certificate_pem, 0o644)?;
        put(&directory.join(format!("{}.key", self.node)), &self.key_pem, 0o600)
    }

    /// Reads a node's files out of `directory`
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn read(directory: &Path, node: &str) -> Result<Self, IdentityError> {
        let get = |name: String| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).map_err(|cause| file_error(&path, cause))
        };
        Ok(Self {
            node: node.to_owned(),
            authority_pem: get("authority.pem".into())?,
            certificate_pem: get(format!("{node}.pem"))?,
            key_pem: get(format!("{node}.key"))?,
        })
    }

    /// A snapshot with this identity and this trust; the rest is default
    ///
    /// # Errors
    /// [`IdentityError::Parse`].
    pub fn snapshot(&self) -> Result<ControlSnapshot, IdentityError> {
        let failed = |cause: String| IdentityError::Parse { node: self.node.clone(), cause };
        let node = NodeId::new(&self.node).map_err(|cause| failed(cause.to_string()))?;
        let parse = || -> Result<ControlSnapshot, boring::error::ErrorStack> {
            let authority = X509::from_pem(self.authority_pem.as_bytes())?;
            let leaf = X509::from_pem(self.certificate_pem.as_bytes())?;
            let key = PKey::private_key_from_pem(self.key_pem.as_bytes())?;
            let serial = leaf.serial_number().to_bn()?.to_hex_str()?.to_lowercase();
            let identity = Identity {
                node,
                chain_der: vec![leaf.to_der()?],
                key: PrivateKey::from_pkcs8_der(key.private_key_to_der_pkcs8()?),
                not_after: system_time(leaf.not_after())?,
                serial,
            };
            let anchor = TrustAnchor {
                certificate_der: authority.to_der()?,
                not_before: system_time(authority.not_before())?,
                not_after: system_time(authority.not_after())?,
            };
            Ok(ControlSnapshot {
                epoch: 1,
                identity: Some(identity),
                trust: vec![anchor],
                ..ControlSnapshot::default()
            })
        };
        parse().map_err(|cause| failed(cause.to_string()))
    }
}

fn system_time(time: &Asn1TimeRef) -> Result<SystemTime, boring::error::ErrorStack> {
    let since = Asn1Time::from_unix(0)?.diff(time)?;
    let seconds = i64::from(since.days) * 86_400 + i64::from(since.secs);
    Ok(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn file_error(path: &Path, cause: std::io::Error) -> IdentityError {
    IdentityError::File { path: path.display().to_string(), cause }
}

fn put(path: &Path, text: &str, mode: u32) -> Result<(), IdentityError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|cause| file_error(path, cause))
}

/// Makes both identities and writes them into `directory`, which is made with mode 0700 where it is missing
///
/// # Errors
/// See [`Bundle::write`].
pub fn write_pair(directory: &Path) -> Result<(), IdentityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|cause| file_error(directory, cause))?;
    for bundle in make()? {
        bundle.write(directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_written_is_read_back_and_keys_are_private() {
        let directory = tempfile::tempdir().unwrap();
        write_pair(directory.path()).unwrap();
        for node in [SINK, LOAD] {
            let bundle = Bundle::read(directory.path(), node).unwrap();
            let snapshot = bundle.snapshot().unwrap();
            let identity = snapshot.identity.unwrap();
            assert_eq!(identity.node.as_str(), node);
            assert!(identity.not_after > SystemTime::now() + Duration::from_secs(3_600));
            assert!(snapshot.trust[0].not_before < SystemTime::now());
            let key = directory.path().join(format!("{node}.key"));
            assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(matches!(write_pair(directory.path()), Err(IdentityError::File { .. })));
    }

    #[test]
    fn a_key_that_is_none_is_refused_by_name() {
        let [mut bundle, _] = make().unwrap();
        bundle.key_pem = bundle.certificate_pem.clone();
        assert!(bundle.snapshot().is_err_and(|error| error.to_string().contains(SINK)));
    }
}
