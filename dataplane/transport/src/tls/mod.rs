//! Who is at the other end: the BoringSSL context of one role under one snapshot, and the verdict on the
//! peer's certificate in the handshake. Path validation is rustls-webpki's, signatures are BoringSSL's, the
//! node's identity and the profile's rules are checked here. Not a certificate authority, and no I/O.

mod leaf;
mod sct;
mod signature;
mod slot;
mod verify;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use boring::error::ErrorStack;
use boring::pkey::PKey;
use boring::ssl::{
    SslContextBuilder, SslMethod, SslOptions, SslSignatureAlgorithm, SslVerifyMode, SslVersion,
};
use boring::x509::X509;
use stoq_interface::{ControlSnapshot, Identity, PeerRefusal};

pub use slot::{PeerSlot, VerifiedPeer};
use verify::Verifier;

/// Which end of the handshake a context serves
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// Dials; expects a leaf with serverAuth
    Client,
    /// Accepts; expects a leaf with clientAuth
    Server,
}

/// Why a context could not be built
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The snapshot carries no identity
    #[error("this node has no certificate yet; enrol it before it dials or accepts")]
    NoIdentity,
    /// The identity's certificate or key is unusable
    #[error("this node's {part} is unusable: {cause}; enrol the node again")]
    Identity {
        /// Which part: certificate, chain or private key
        part: &'static str,
        /// What BoringSSL said
        cause: ErrorStack,
    },
    /// An issuing authority of the trust bundle does not parse
    #[error("issuing authority {index} of the trust bundle is unusable: {cause}")]
    Anchor {
        /// Position in [`ControlSnapshot::trust`]
        index: usize,
        /// What the path validator said
        cause: webpki::Error,
    },
    /// A transparency log of the trust bundle has an unusable key
    #[error("the key of log {index} of the trust bundle is unusable: {cause}")]
    Log {
        /// Position in [`stoq_interface::Transparency::Required`]
        index: usize,
        /// What is wrong with it
        cause: &'static str,
    },
    /// BoringSSL refused a setting
    #[error("BoringSSL refused a setting: {0}")]
    Boring(#[from] ErrorStack),
}

/// Key exchange groups, most wanted first
const GROUPS: &str = "X25519MLKEM768:X25519:P-256";
/// The same for a snapshot that leaves the post-quantum one out
const CLASSICAL_GROUPS: &str = "X25519:P-256";

/// The boring context for one role under one snapshot: TLS 1.3 only, both ends authenticated, no tickets
/// (they bypass verification, so nothing here resumes) and so no 0-RTT.
///
/// BoringSSL orders TLS 1.3 ciphers itself: AES-128-GCM first where the processor has AES instructions,
/// ChaCha20-Poly1305 first where it has not. ALPN is left to quiche. After this, never call
/// `quiche::Config::verify_peer`: it would make the client's certificate optional.
pub fn context(role: Role, snapshot: &ControlSnapshot) -> Result<SslContextBuilder, TlsError> {
    let identity = snapshot.identity.as_ref().ok_or(TlsError::NoIdentity)?;
    let mut builder = anonymous(role, snapshot)?;
    present(&mut builder, identity)?;
    Ok(builder)
}

/// The context before an identity is put into it
fn anonymous(role: Role, snapshot: &ControlSnapshot) -> Result<SslContextBuilder, TlsError> {
    let verifier = Verifier::new(role, snapshot)?;
    let mut builder = SslContextBuilder::new(SslMethod::tls())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_options(SslOptions::NO_TICKET);
    let post_quantum = snapshot.transport.post_quantum;
    builder.set_curves_list(if post_quantum { GROUPS } else { CLASSICAL_GROUPS })?;
    // Leaves are P-256 by profile; a P-384 signature from a stranger would cost ten times as much to refuse.
    builder.set_verify_algorithm_prefs(&[SslSignatureAlgorithm::ECDSA_SECP256R1_SHA256])?;
    builder.set_custom_verify_callback(
        SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
        move |ssl| verifier.judge(ssl),
    );
    Ok(builder)
}

/// Judges a certificate as the handshake of `role` would, without an expected node and without a memory: for
/// whoever wants to know what this host would say to it
pub fn judge_certificate(
    role: Role,
    snapshot: &ControlSnapshot,
    certificate_der: &[u8],
    now: SystemTime,
) -> Result<Result<VerifiedPeer, PeerRefusal>, TlsError> {
    Ok(Verifier::new(role, snapshot)?.verdict(certificate_der, None, now))
}

/// Puts the identity's chain and key into the context
fn present(builder: &mut SslContextBuilder, identity: &Identity) -> Result<(), TlsError> {
    let unusable = |part| move |cause| TlsError::Identity { part, cause };
    let (leaf, rest) = identity.chain_der.split_first().ok_or(TlsError::NoIdentity)?;
    let leaf = X509::from_der(leaf).map_err(unusable("certificate"))?;
    builder.set_certificate(&leaf).map_err(unusable("certificate"))?;
    for authority in rest {
        let authority = X509::from_der(authority).map_err(unusable("chain"))?;
        builder.add_extra_chain_cert(authority).map_err(unusable("chain"))?;
    }
    let key = PKey::private_key_from_pkcs8(identity.key.pkcs8_der());
    let key = key.map_err(unusable("private key"))?;
    builder.set_private_key(&key).map_err(unusable("private key"))?;
    builder.check_private_key().map_err(unusable("private key"))
}

/// Empties this thread's BoringSSL error queue.
///
/// quiche leaves entries behind after a failed handshake, and the next unrelated call on this thread would
/// report them as its own. Where a slot is at hand call [`PeerSlot::conclude`] instead, which also reads them.
pub fn drain_error_queue() {
    let _entries_are_of_no_use_here: ErrorStack = ErrorStack::get();
}
