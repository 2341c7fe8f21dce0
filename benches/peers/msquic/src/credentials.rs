//! Certificates for msquic, which on Linux reads them from files only: they are written to a private directory
//! and gone again once msquic has them.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use msquic_async::msquic::{
    AllowedCipherSuiteFlags, CertificateFile, Configuration, Credential, CredentialConfig,
    CredentialFlags,
};
use peer_harness::Failure;
use peer_harness::identity::{Identity, Role};

/// A private directory, removed with what is in it
struct Private(PathBuf);

impl Private {
    fn new() -> Result<Self, Failure> {
        // The identity is read once per process: its number is name enough, and what exists is never used.
        let path = std::env::temp_dir().join(format!("peer-msquic-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).map_err(|cause| {
            format!("{}: {cause}; remove it if no peer with that number runs", path.display())
        })?;
        Ok(Self(path))
    }

    fn put(&self, name: &str, pem: &str) -> Result<String, Failure> {
        let path = self.0.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(pem.as_bytes())?;
        text(&path)
    }
}

fn text(path: &Path) -> Result<String, Failure> {
    let name = path.to_str().ok_or("the directory for temporary files has no name in UTF-8")?;
    Ok(name.to_owned())
}

impl Drop for Private {
    fn drop(&mut self) {
        // What cannot be removed is readable by this user alone and worth nothing in a day.
        let _stays = std::fs::remove_dir_all(&self.0);
    }
}

/// Loads an identity into a configuration: mutual TLS 1.3 with TLS_AES_128_GCM_SHA256
///
/// # Errors
/// Where msquic refuses it.
pub fn load(configuration: &Configuration, identity: &Identity, role: Role) -> Result<(), Failure> {
    let files = Private::new()?;
    let key = files.put("node.key", &identity.key_pem)?;
    let certificate = files.put("node.pem", &identity.certificate_pem)?;
    let authority = files.put("authority.pem", &identity.authority_pem)?;
    let mut config = match role {
        Role::Client => CredentialConfig::new_client(),
        Role::Server => CredentialConfig::new()
            .set_credential_flags(CredentialFlags::REQUIRE_CLIENT_AUTHENTICATION),
    };
    if !identity.anonymous {
        let own = CertificateFile::new(key, certificate);
        config = config.set_credential(Credential::CertificateFile(own));
    }
    let config = config
        .set_ca_certificate_file(authority)
        .set_allowed_cipher_suites(AllowedCipherSuiteFlags::AES_128_GCM_SHA256);
    configuration.load_credential(&config).map_err(|status| {
        format!("msquic refuses the identity of {}: {status}; make a new one", identity.node).into()
    })
}
