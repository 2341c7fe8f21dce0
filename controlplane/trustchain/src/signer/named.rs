//! A signer's key in the shape of rcgen's `SigningKey`, for callers on threads that may wait: the log's
//! sequencer, CRLs, requests. It is not for a runtime's threads; there, `Signer::sign` is awaited.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};

use super::{KeyInfo, KeyName, Signer, SignerError};

/// One key of a signer
#[derive(Clone)]
pub struct NamedKey {
    signer: Arc<dyn Signer>,
    public: KeyInfo,
}

impl NamedKey {
    /// The key with that name
    pub fn new(signer: Arc<dyn Signer>, name: &KeyName) -> Result<Self, SignerError> {
        let unknown = || SignerError::UnknownKey(name.to_string());
        let public = signer.key(name).ok_or_else(unknown)?;
        Ok(Self { signer, public })
    }

    /// Its public half
    pub fn public(&self) -> &KeyInfo {
        &self.public
    }

    /// Signs and waits
    pub fn sign_blocking(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        block_on(self.signer.sign(self.public.name(), message.to_vec()))
    }
}

impl fmt::Debug for NamedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NamedKey").field(&self.public.name()).finish()
    }
}

impl PublicKeyData for NamedKey {
    fn der_bytes(&self) -> &[u8] {
        self.public.public_point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl SigningKey for NamedKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign_blocking(message).map_err(|error| {
            // rcgen's error has no room for the reason.
            tracing::error!(key = %self.public.name(), %error, "nothing was signed");
            rcgen::Error::RemoteKeyError
        })
    }
}

/// Waits on this thread for something other threads bring about, as a signer's do
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
