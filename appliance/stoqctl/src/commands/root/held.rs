//! An authority's key that is not in its directory but in `stoqd signer`: which one, and the way to it.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use stoq_admin::ApiError;
use stoq_trustchain::signer::remote::RemoteSettings;
use stoq_trustchain::signer::{IssuingKeyError, KeyName, RemoteSigner, Signer, SignerError};

use super::{authority_error, file_error};

/// Where the authority's key is, if not in its directory
#[derive(Args, Debug)]
pub(crate) struct Held {
    /// The key is in the process that serves this socket, `stoqd signer`; the directory gets none
    #[arg(long, value_name = "SOCKET")]
    signer: Option<PathBuf>,
    /// The key's name there
    #[arg(long, value_name = "NAME", default_value_t = KeyName::issuing(), requires = "signer")]
    pub(super) key: KeyName,
}

impl Held {
    /// The signing process, where one is named. The socket's owner is who has to serve it.
    pub(super) fn connect(&self) -> Result<Option<Arc<dyn Signer>>, ApiError> {
        let Some(socket) = &self.signer else { return Ok(None) };
        let metadata =
            std::fs::metadata(socket).map_err(|error| file_error("reach", socket, &error))?;
        let settings = RemoteSettings::new(socket.clone(), metadata.uid());
        let signer = RemoteSigner::connect(settings).map_err(|error| signer_error(&error))?;
        Ok(Some(Arc::new(signer)))
    }
}

pub(super) fn key_error(error: &IssuingKeyError) -> ApiError {
    match error {
        IssuingKeyError::Authority(error) => authority_error(error),
        IssuingKeyError::Signer(error) => signer_error(error),
    }
}

fn signer_error(error: &SignerError) -> ApiError {
    let remedy = "check that `stoqd signer` runs, serves this user and has the key";
    ApiError::failed("signer-failed", error.to_string(), remedy)
}
