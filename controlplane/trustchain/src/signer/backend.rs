//! Where keys are: what a place has to offer to the pool of threads in front of it. A backend belongs to one
//! thread and may block; queueing, self-tests, verification and counting are the pool's.

use super::{KeyInfo, KeyInfoError, KeyName};

/// Opens backends, one for each thread of a pool
pub trait OpenBackend: Send + Sync {
    /// `soft` or `pkcs11`
    fn label(&self) -> &'static str;

    /// One more way to the same keys
    fn open(&self) -> Result<Box<dyn Backend>, BackendError>;
}

/// One thread's way to the keys
pub trait Backend: Send {
    /// All keys there are
    fn keys(&mut self) -> Result<Vec<KeyInfo>, BackendError>;

    /// Signs with ECDSA and SHA-256; returns a DER ECDSA-Sig-Value that nobody has verified yet
    fn sign(&mut self, key: &KeyInfo, message: &[u8]) -> Result<Vec<u8>, BackendError>;

    /// Makes a P-256 key, durable before this returns
    fn create(&mut self, name: &KeyName) -> Result<KeyInfo, BackendError>;

    /// After [`BackendError::Lost`]: opens its session again
    fn reopen(&mut self) -> Result<(), BackendError>;
}

/// Why a backend did not do it
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BackendError {
    /// The session or the token is gone; after `reopen` the same may succeed
    #[error("{0}")]
    Lost(String),
    /// It works and says no
    #[error("{0}")]
    Refused(String),
    /// There is no such key
    #[error("there is no key `{0}`")]
    UnknownKey(String),
    /// The name is taken
    #[error("there is a key `{0}` already")]
    Exists(String),
    /// A key that no signer may have
    #[error(transparent)]
    Key(#[from] KeyInfoError),
}
