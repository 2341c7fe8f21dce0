//! The per-connection channel between the verify callback and the code that owns the connection: who was
//! expected and what time it is on the way in, the verified peer or the exact refusal on the way out.

use std::sync::{Arc, LazyLock, OnceLock};
use std::time::SystemTime;

use boring::error::ErrorStack;
use boring::ex_data::Index;
use boring::ssl::{Ssl, SslRef};
use stoq_interface::{IssuerKeyId, NodeId, PeerCertificate, PeerRefusal, SpkiSha256};

use super::TlsError;

/// A peer whose certificate was accepted
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedPeer {
    /// The node its SPIFFE URI names
    pub node: NodeId,
    /// Serial number: lower-case hexadecimal, two digits an octet, without leading zero octets
    pub serial: String,
    /// SHA-256 of the leaf in DER
    pub certificate_sha256: [u8; 32],
    /// The leaf's key
    pub spki_sha256: SpkiSha256,
    /// The key of the authority that issued it
    pub issuer_key_id: IssuerKeyId,
    /// End of the certificate's validity: the connection must be replaced before
    pub not_after: SystemTime,
}

impl VerifiedPeer {
    /// The certificate, as whoever answers a call of this peer may compare it
    pub fn certificate(&self) -> PeerCertificate {
        PeerCertificate { sha256: self.certificate_sha256, serial: self.serial.clone() }
    }
}

/// One connection's slot. Clones are the same slot; it outlives the connection.
#[derive(Clone)]
pub struct PeerSlot(Arc<Inner>);

struct Inner {
    expected: Option<NodeId>,
    now: Box<dyn Fn() -> SystemTime + Send + Sync>,
    verdict: OnceLock<Result<VerifiedPeer, PeerRefusal>>,
}

/// Where BoringSSL keeps the slot in its connection object
static INDEX: LazyLock<Result<Index<Ssl, PeerSlot>, ErrorStack>> = LazyLock::new(Ssl::new_ex_index);

impl PeerSlot {
    /// Puts a fresh slot into a connection, before its handshake begins.
    ///
    /// A client names the node it dials; a server passes `None`. `now` is asked when the certificate is
    /// judged. A connection without a slot refuses every peer.
    pub fn install(
        ssl: &mut SslRef,
        expected: Option<NodeId>,
        now: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let index = INDEX.as_ref().map_err(|cause| TlsError::Boring(cause.clone()))?;
        let slot = Self(Arc::new(Inner { expected, now: Box::new(now), verdict: OnceLock::new() }));
        ssl.set_ex_data(*index, slot.clone());
        Ok(slot)
    }

    /// The verified peer, once the handshake has judged it.
    ///
    /// On a client this says who the server is, not that the server has accepted this node: TLS 1.3 lets a
    /// client finish before its own certificate was judged.
    pub fn peer(&self) -> Option<VerifiedPeer> {
        self.0.verdict.get()?.as_ref().ok().cloned()
    }

    /// Why the peer was refused, if it was
    pub fn refusal(&self) -> Option<PeerRefusal> {
        self.0.verdict.get()?.as_ref().err().copied()
    }

    /// To be called after a handshake failed (`quiche::Error::TlsFail`), on the thread where it failed:
    /// empties the error queue and returns the refusal.
    ///
    /// A peer without a certificate, or with one that is not X.509, fails inside BoringSSL before the verify
    /// callback runs; the entry it leaves in the queue is what tells.
    pub fn conclude(&self) -> Option<PeerRefusal> {
        let queue = ErrorStack::get();
        if let Some(refusal) = queue.errors().iter().find_map(refusal_of) {
            // A verdict of the callback is more precise and stands.
            let _ = self.0.verdict.set(Err(refusal));
        }
        self.refusal()
    }

    /// The slot of a connection
    pub(super) fn of(ssl: &SslRef) -> Option<Self> {
        ssl.ex_data(*INDEX.as_ref().ok()?).cloned()
    }

    pub(super) fn expected(&self) -> Option<&NodeId> {
        self.0.expected.as_ref()
    }

    pub(super) fn now(&self) -> SystemTime {
        (self.0.now)()
    }

    /// Records the verdict; the first one stands
    pub(super) fn record(&self, verdict: Result<VerifiedPeer, PeerRefusal>) {
        let _ = self.0.verdict.set(verdict);
    }
}

/// BoringSSL's own refusals of a peer's certificate
fn refusal_of(error: &boring::error::Error) -> Option<PeerRefusal> {
    match error.library_reason(boring_sys::ERR_LIB_SSL)? {
        boring_sys::SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE => Some(PeerRefusal::NoCertificate),
        boring_sys::SSL_R_KEY_USAGE_BIT_INCORRECT => Some(PeerRefusal::KeyUsage),
        boring_sys::SSL_R_CANNOT_PARSE_LEAF_CERT | boring_sys::SSL_R_CERT_LENGTH_MISMATCH => {
            Some(PeerRefusal::Malformed)
        }
        _ => None,
    }
}
