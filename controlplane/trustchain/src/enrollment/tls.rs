//! TLS 1.3 for enrolment: the server's short-lived leaf from the same authority, and a client that trusts one
//! pinned root and nothing else. No ticket on either side, so nothing is resumed unverified.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use boring::error::ErrorStack;
use boring::pkey::PKey;
use boring::ssl::{
    SslAlert, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslVerifyError,
    SslVerifyMode, SslVersion,
};
use boring::x509::X509;
use rustls_pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

use crate::authority::Authority;
use crate::certificate::Fingerprint;
use crate::chain::{self, Usage};
use crate::csr::{self, ProvenKey};
use crate::keys::{KeyKind, KeyPair};
use crate::profile::{SERVER, Subject};

/// Key exchange groups, most wanted first
const GROUPS: &str = "X25519MLKEM768:X25519:P-256";

/// A server context and when it has to be made anew
pub(super) struct ServerContext {
    pub(super) context: SslContext,
    pub(super) renew_at: SystemTime,
}

/// Issues the server a leaf for a new key that lives in memory only. Blocks for one fsync.
pub(super) fn server_context(
    authority: &Authority,
    subject: &Subject,
    now: SystemTime,
) -> Result<ServerContext, Box<dyn std::error::Error + Send + Sync>> {
    let key = KeyPair::generate(KeyKind::P256)?;
    let proven = ProvenKey::from_csr(&csr::request(&key)?)?;
    let issued = authority.issue(&SERVER, subject, &proven, now)?;
    let mut builder = base()?;
    let leaf = X509::from_der(&issued.certificate_der)?;
    builder.set_certificate(&leaf)?;
    // The whole chain: the client knows the root by its fingerprint only.
    for der in [authority.certificate_der(), authority.root_der()] {
        builder.add_extra_chain_cert(X509::from_der(der)?)?;
    }
    let key = PKey::private_key_from_pkcs8(key.to_private_key()?.pkcs8_der())?;
    builder.set_private_key(&key)?;
    let left = issued.not_after.duration_since(now)?;
    Ok(ServerContext { context: builder.build(), renew_at: now + left / 2 })
}

/// Why the client refused the server, once it has
pub(super) type Reason = Arc<OnceLock<String>>;

/// A client context that accepts the holder of `dns_name` under the pinned root
pub(super) fn client_context(
    pinned: Fingerprint,
    dns_name: String,
    now: SystemTime,
) -> Result<(SslContext, Reason), ErrorStack> {
    let reason = Reason::default();
    let told = Arc::clone(&reason);
    let mut builder = base()?;
    builder.set_custom_verify_callback(SslVerifyMode::PEER, move |ssl| {
        judge(ssl, &pinned, &dns_name, now).map_err(|why| {
            // Only the first refusal is the cause.
            let _ = told.set(why);
            SslVerifyError::Invalid(SslAlert::UNKNOWN_CA)
        })
    });
    Ok((builder.build(), reason))
}

fn base() -> Result<SslContextBuilder, ErrorStack> {
    let mut builder = SslContextBuilder::new(SslMethod::tls())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_options(SslOptions::NO_TICKET);
    builder.set_curves_list(GROUPS)?;
    Ok(builder)
}

fn judge(
    ssl: &SslRef,
    pinned: &Fingerprint,
    dns_name: &str,
    now: SystemTime,
) -> Result<(), String> {
    let sent = ssl.peer_cert_chain().ok_or("the server sent no certificate")?;
    let chain: Result<Vec<Vec<u8>>, ErrorStack> = sent.iter().map(|one| one.to_der()).collect();
    let chain = chain.map_err(|error| error.to_string())?;
    let [leaf, issuing, root] = chain.as_slice() else {
        return Err(format!("the server sent {} certificates instead of three", chain.len()));
    };
    let found = Fingerprint::of(root);
    if found != *pinned {
        return Err(format!("its root is {found}, the token pins {pinned}"));
    }
    chain::check_leaf(leaf, issuing, root, Usage::Server, now)
        .map_err(|error| error.to_string())?;
    let leaf = CertificateDer::from(leaf.as_slice());
    let name = ServerName::try_from(dns_name).map_err(|error| error.to_string())?;
    EndEntityCert::try_from(&leaf)
        .and_then(|leaf| leaf.verify_is_valid_for_subject_name(&name))
        .map_err(|_| format!("its certificate is not for {dns_name}"))
}
