//! `stoqctl certificate verify`: what a node of the mesh would say about a certificate, said without one.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use serde::Serialize;
use stoq_admin::{ApiError, show_time};
use stoq_trustchain::certificate::{self, CertificateError, Fingerprint};
use stoq_trustchain::chain::{self, ChainError, Usage};
use stoq_trustchain::log::sct;

use crate::commands::log::{log_verifier, milliseconds};
use crate::context::Context;
use crate::files;
use crate::render::{Report, cell};

/// Judges a certificate against its root, and with --log-key against the transparency log; works without stoqd
#[derive(Args, Debug)]
#[command(after_help = "\
The file holds the certificate and, behind it, its issuing authority, as `stoqctl certificate issue` writes them.
Whether it was revoked is not judged here: `stoqctl certificate show` knows.

Examples:
  stoqctl certificate verify ana.pem --root root.pem
  stoqctl certificate verify ana.pem --root root.pem --log-key log.pem --origin alpha.trust/log")]
pub(crate) struct Verify {
    /// Certificate and issuing authority, in PEM
    file: PathBuf,
    /// The root's certificate, in PEM
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// The log's public key in PEM (`stoqctl log key`): the certificate must carry this log's promise
    #[arg(long, value_name = "FILE", requires = "origin")]
    log_key: Option<PathBuf>,
    /// The log's name (`stoqctl log key`)
    #[arg(long, value_name = "NAME", requires = "log_key")]
    origin: Option<String>,
}

/// What was found
#[derive(Serialize)]
struct Verified {
    serial: String,
    fingerprint: String,
    root_fingerprint: String,
    not_before: String,
    not_after: String,
    /// What it may be used for
    usages: Vec<&'static str>,
    /// Where it is in the log; nothing where the log was not asked about
    logged: Option<Logged>,
}

#[derive(Serialize)]
struct Logged {
    origin: String,
    index: u64,
    leaf_hash: String,
    timestamp_ms: u64,
}

impl Verify {
    pub(crate) fn run(self, context: &Context, now: SystemTime) -> Result<Report, ApiError> {
        let chain = files::read_pem("CERTIFICATE", &self.file)?;
        let roots = files::read_pem("CERTIFICATE", &self.root)?;
        let ([leaf, issuing, ..], [root]) = (chain.as_slice(), roots.as_slice()) else {
            return Err(ApiError::usage(
                "incomplete-chain",
                format!(
                    "{} holds {} certificates and {} holds {}",
                    self.file.display(),
                    chain.len(),
                    self.root.display(),
                    roots.len()
                ),
                "the first must hold the certificate and its issuing authority, the second the root alone",
            ));
        };
        let usages = usages(leaf, issuing, root, now)?;
        let logged = match (&self.log_key, &self.origin) {
            (Some(key), Some(origin)) => {
                let log = log_verifier(key, origin)?;
                let issuer = sct::key_hash(issuing).map_err(|error| unreadable(&error))?;
                let logs = std::slice::from_ref(&log);
                let found = sct::verify_embedded(leaf, &issuer, logs, milliseconds(now))
                    .map_err(|error| refused(&error))?;
                Some(Logged {
                    origin: origin.clone(),
                    index: found.leaf_index,
                    leaf_hash: hex(&found.leaf_hash),
                    timestamp_ms: found.timestamp_ms,
                })
            }
            _ => None,
        };
        let parsed = certificate::parse(leaf).map_err(|error| unreadable(&error))?;
        let (not_before, not_after) =
            certificate::validity(&parsed).map_err(|error| unreadable(&error))?;
        let verified = Verified {
            serial: certificate::serial_text(&parsed),
            fingerprint: Fingerprint::of(leaf).to_string(),
            root_fingerprint: Fingerprint::of(root).to_string(),
            not_before: show_time(not_before),
            not_after: show_time(not_after),
            usages,
            logged,
        };
        report(context, &verified)
    }
}

fn report(context: &Context, verified: &Verified) -> Result<Report, ApiError> {
    let logged = verified.logged.as_ref().map_or_else(
        || "not judged; --log-key does".to_owned(),
        |logged| format!("entry {} of {}", logged.index, logged.origin),
    );
    Ok(context.report(verified)?.fields(vec![
        ("serial", cell(&verified.serial)),
        ("fingerprint", cell(&verified.fingerprint)),
        ("root", cell(&verified.root_fingerprint)),
        ("begins", cell(&verified.not_before)),
        ("ends", cell(&verified.not_after)),
        ("good for", cell(verified.usages.join(", "))),
        ("logged", cell(logged)),
    ]))
}

/// What the certificate may be used for; one use at least
fn usages(
    leaf: &[u8],
    issuing: &[u8],
    root: &[u8],
    now: SystemTime,
) -> Result<Vec<&'static str>, ApiError> {
    let mut good = Vec::new();
    let mut last = None;
    for (usage, word) in [(Usage::Server, "server"), (Usage::Client, "client")] {
        match chain::check_leaf(leaf, issuing, root, usage, now) {
            Ok(()) => good.push(word),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) if good.is_empty() => Err(chain_refused(&error)),
        _ => Ok(good),
    }
}

fn chain_refused(error: &ChainError) -> ApiError {
    match error {
        ChainError::Certificate(error) => unreadable(error),
        _ => refused(error),
    }
}

fn refused(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::failed(
        "certificate-refused",
        error.to_string(),
        "do not accept it; a node would refuse it as well",
    )
}

fn unreadable(error: &CertificateError) -> ApiError {
    ApiError::failed("certificate-failed", error.to_string(), "check the file")
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
