//! TLS 1.3 for enrolment: a client that trusts one pinned root and nothing else. No ticket, so nothing is resumed
//! unverified.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use boring::error::ErrorStack;
use boring::ssl::{
    SslAlert, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslVerifyError,
    SslVerifyMode, SslVersion,
};
use rustls_pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

use crate::certificate::Fingerprint;
use crate::chain::{self, Usage};

/// Key exchange groups, most wanted first
const GROUPS: &str = "X25519MLKEM768:X25519:P-256";

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
