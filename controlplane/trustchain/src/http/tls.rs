//! TLS 1.3 for the HTTPS interface: the server's short-lived leaf from the same authority, its key in memory
//! only. A client may show a certificate; that it holds the key TLS verifies, whether the certificate is good
//! the authority judges where it counts, so that a client is told why and not just dropped. No ticket, so
//! nothing is resumed.

use std::net::Ipv6Addr;
use std::time::SystemTime;

use boring::error::ErrorStack;
use boring::pkey::PKey;
use boring::ssl::{
    SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslVerifyMode, SslVersion,
};
use boring::x509::X509;

use crate::ca::{
    Activation, Ca, Credential, IssueRequest, IssuedCertificate, Refusal, Registration,
};
use crate::certificate;
use crate::csr;
use crate::keys::{KeyKind, KeyPair};
use crate::log::CERTIFICATE_LIMIT_BYTES;
use crate::revocation::KeyId;

/// Key exchange groups, most wanted first
const GROUPS: &str = "X25519MLKEM768:X25519:P-256";
/// The profile of the server's certificate
const PROFILE: &str = "server";

/// Why there is no server certificate
pub(super) type ContextError = Box<dyn std::error::Error + Send + Sync>;

/// A server context and when it has to be made anew
pub(super) struct ServerContext {
    pub(super) context: SslContext,
    pub(super) renew_at: SystemTime,
    pub(super) ends_at: SystemTime,
    /// The key that issued its certificate
    pub(super) issuer: KeyId,
}

/// Registers the server with the addresses its certificates carry, unless it is so already
pub(super) async fn register(ca: &Ca, addresses: &[Ipv6Addr]) -> Result<(), Refusal> {
    let wanted = Registration {
        profile: PROFILE.to_owned(),
        subject: ca.instance().to_string(),
        owner: None,
        addresses: addresses.to_vec(),
        alternative_names: false,
    };
    if ca.registrations().contains(&wanted) {
        return Ok(());
    }
    ca.register(wanted).await
}

/// Has the authority certify a new key for the server
pub(super) async fn server_context(ca: &Ca) -> Result<ServerContext, ContextError> {
    let key = KeyPair::generate(KeyKind::P256)?;
    let request = IssueRequest {
        profile: PROFILE.to_owned(),
        subject: Some(ca.instance().to_string()),
        csr_der: csr::request(&key)?,
        credential: Credential::Operator { name: "https interface".to_owned() },
        idempotency_key: Vec::new(),
        consensus_proof: None,
        stoq_address: None,
        activation: Activation::Now,
    };
    let issued = ca.issue(request).await?;
    let now = ca.now();
    let left = issued.not_after.duration_since(now)?;
    let (context, ends_at) = (context(&key, &issued)?, issued.not_after);
    let issuer = KeyId::of_issuer(&certificate::parse(&issued.certificate_der)?)?;
    Ok(ServerContext { context, renew_at: now + left / 2, ends_at, issuer })
}

fn context(key: &KeyPair, issued: &IssuedCertificate) -> Result<SslContext, ContextError> {
    let mut builder = SslContextBuilder::new(SslMethod::tls())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_options(SslOptions::NO_TICKET);
    builder.set_curves_list(GROUPS)?;
    builder.set_certificate(&*X509::from_der(&issued.certificate_der)?)?;
    // The whole chain: a node that enrols knows the root by its fingerprint only.
    let issuing = X509::from_der(&issued.issuing_der)?;
    builder.add_client_ca(&issuing)?;
    builder.add_extra_chain_cert(issuing)?;
    builder.add_extra_chain_cert(X509::from_der(&issued.root_der)?)?;
    builder.set_private_key(&*PKey::private_key_from_pkcs8(key.to_private_key()?.pkcs8_der())?)?;
    // Every certificate passes here, and none counts for anything by that: see `client_leaf`.
    builder.set_custom_verify_callback(SslVerifyMode::PEER, |_| Ok(()));
    Ok(builder.build())
}

/// The certificate the client has shown, whose key it holds; nothing else about it is known
pub(super) fn client_leaf(ssl: &SslRef) -> Result<Option<Vec<u8>>, ErrorStack> {
    let Some(leaf) = ssl.peer_certificate() else { return Ok(None) };
    let der = leaf.to_der()?;
    // What is larger was not issued here.
    Ok((der.len() <= CERTIFICATE_LIMIT_BYTES).then_some(der))
}
