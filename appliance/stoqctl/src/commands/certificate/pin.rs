//! `stoqctl certificate pin`: what `trust.root_pins`, `trust.issuing_pins` and `[[pin]]` name a key by.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use stoq_admin::ApiError;
use stoq_trustchain::pinning::Pin as KeyPin;

use crate::context::Context;
use crate::files;
use crate::render::Report;

/// Prints the pin of a certificate's key, one for each certificate of the file; works without stoqd
#[derive(Args, Debug)]
#[command(after_help = "\
A pin is of the key and not of the certificate: it stays when the certificate is renewed.

Examples:
  stoqctl certificate pin /var/lib/stoq/authority/root.pem        for trust.root_pins
  stoqctl certificate pin issuing-2.pem                           for trust.issuing_pins")]
pub(crate) struct Pin {
    /// Certificates, in PEM; - is the standard input
    file: PathBuf,
}

#[derive(Serialize)]
struct Pins {
    pins: Vec<String>,
}

impl Pin {
    pub(crate) fn run(self, context: &Context) -> Result<Report, ApiError> {
        let certificates = files::read_pem("CERTIFICATE", &self.file)?;
        let pin = |der: &Vec<u8>| KeyPin::of_certificate(der).map(|pin| pin.to_string());
        let pins = certificates.iter().map(pin).collect::<Result<Vec<_>, _>>();
        let pins = pins.map_err(|error| {
            let message = format!("{}: {error}", self.file.display());
            ApiError::usage("bad-certificate", message, "name a PEM file of certificates")
        })?;
        if pins.is_empty() {
            let message = format!("{} holds no certificate", self.file.display());
            return Err(ApiError::usage(
                "no-certificate",
                message,
                "name a PEM file of certificates",
            ));
        }
        let text: String = pins.iter().map(|pin| format!("{pin}\n")).collect();
        Ok(context.report(&Pins { pins })?.text(text))
    }
}
