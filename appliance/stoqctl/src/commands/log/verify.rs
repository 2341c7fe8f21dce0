//! `stoqctl log verify`: whether a proof shows that a certificate is in the log, judged on this host alone.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use serde::Serialize;
use stoq_admin::{ApiError, show_time};
use stoq_trustchain::log::ProofBundle;
use stoq_trustchain::log::sct;

use super::{disbelieved, log_verifier, milliseconds};
use crate::context::Context;
use crate::files;
use crate::render::{Report, cell};

/// Judges a proof that a certificate is in the transparency log; works without stoqd
#[derive(Args, Debug)]
#[command(after_help = "\
The log's name and key must come from somebody you trust, not from where the proof came from.

Example:
  stoqctl log verify beta.tlog-proof --certificate beta.pem --key log.pem --origin alpha.trust/log")]
pub(crate) struct Verify {
    /// The proof, as `stoqctl log prove` prints it; - is the standard input
    proof: PathBuf,
    /// The certificate and its issuing authority, in PEM
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// The log's public key, in PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The log's name
    #[arg(long, value_name = "NAME")]
    origin: String,
}

/// What the proof shows
#[derive(Serialize)]
struct Proved {
    origin: String,
    index: u64,
    size: u64,
    checkpoint_signed_at: String,
}

impl Verify {
    pub(super) fn run(self, context: &Context, now: SystemTime) -> Result<Report, ApiError> {
        let log = log_verifier(&self.key, &self.origin)?;
        let bundle = ProofBundle::parse(&files::read(&self.proof)?)
            .map_err(|error| disbelieved(&format!("{}: {error}", self.proof.display())))?;
        let chain = files::read_pem("CERTIFICATE", &self.certificate)?;
        let [leaf, issuing, ..] = chain.as_slice() else {
            return Err(ApiError::usage(
                "incomplete-chain",
                format!("{} holds one certificate", self.certificate.display()),
                "put its issuing authority behind it: the log knows it by that key",
            ));
        };
        let issuer = sct::key_hash(issuing).map_err(|error| disbelieved(&error))?;
        let checkpoint = bundle
            .verify_certificate(leaf, &issuer, &log, milliseconds(now))
            .map_err(|error| disbelieved(&error))?;
        let signed = std::time::UNIX_EPOCH
            + std::time::Duration::from_millis(checkpoint.timestamp_ms.min(1 << 50));
        let proved = Proved {
            origin: self.origin,
            index: bundle.index,
            size: checkpoint.head.size,
            checkpoint_signed_at: show_time(signed),
        };
        Ok(context.report(&proved)?.fields(vec![
            ("log", cell(&proved.origin)),
            ("entry", cell(format!("{} of {}", proved.index, proved.size))),
            ("checkpoint", cell(&proved.checkpoint_signed_at)),
        ]))
    }
}
