//! `stoqctl root`: the root of trust and the authorities it signs. Needs no daemon and no network, so the
//! root can live on a machine that has neither.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde::Serialize;
use stoq_admin::{ApiError, ExitCode};
use stoq_trustchain::authority::AuthorityError;
use stoq_trustchain::certificate::{CertificateError, read_pem, write_pem};
use stoq_trustchain::chain::check_root;
use stoq_trustchain::csr::CSR_LIMIT_BYTES;
use stoq_trustchain::root::{RootError, ShareError, Shares, init_shared_root, open_shared_root};
use stoq_trustchain::signer::{install_with, request_with};
use stoq_trustchain::{
    Authority, Fingerprint, Ipv6Subtree, Root as TrustRoot, init_root, install_issuing,
    issuing_csr, sign_issuing,
};

use super::passphrases;
use crate::context::Context;
use crate::render::{Report, cell};

mod held;

use held::{Held, key_error};

/// Name of the root's certificate in its directory
const ROOT_CERTIFICATE_FILE: &str = "root.pem";
/// The option that names a file of passphrases
const PASSPHRASES: &str = "--passphrases";

#[derive(Debug, Subcommand)]
pub(crate) enum Root {
    Init(Init),
    /// Prints the fingerprint of a root, which other nodes pin
    #[command(after_help = "Example:\n  stoqctl root fingerprint --directory /media/root")]
    Fingerprint {
        /// Where the root, or an authority under it, is
        #[arg(long, value_name = "DIR")]
        directory: PathBuf,
    },
    /// On the authority's host: makes its key and writes the request to take to the root
    RequestIssuing {
        /// Where the authority is, or will be
        #[arg(long, value_name = "DIR")]
        directory: PathBuf,
        /// The request; must not exist yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        held: Held,
    },
    SignIssuing(SignIssuing),
    InstallIssuing(InstallIssuing),
}

/// Makes a root and an issuing authority under it, or with --offline a root alone
#[derive(Args, Debug)]
#[command(after_help = "\
A root is never replaced: a directory that holds one is refused with 8.

Examples:
  stoqctl root init --directory /var/lib/stoq/authority    root and authority in one place
  stoqctl root init --directory /media/root --offline --shares 5 --threshold 3
      a root to be kept apart, its key in five encrypted files of which any three make it; then:
  stoqctl root request-issuing --directory /var/lib/stoq/authority --out issuing.csr
  stoqctl root sign-issuing --directory /media/root --request issuing.csr --out issuing.pem \\
      --share share-1.json --share share-3.json --share share-4.json
  stoqctl root install-issuing --directory /var/lib/stoq/authority --certificate issuing.pem \\
      --root /media/root/root.pem --fingerprint sha256:...")]
pub(crate) struct Init {
    /// Where it is made
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// Makes the root alone, for a machine without a network
    #[arg(long)]
    offline: bool,
    /// Splits the root's key into so many files, share-1.json and on; the key itself is written nowhere. Each file
    /// is encrypted with a passphrase of its own, which is asked for
    #[arg(long, value_name = "N", requires = "offline", requires = "threshold")]
    shares: Option<u8>,
    /// How many of the shares make the key
    #[arg(long, value_name = "K", requires = "shares")]
    threshold: Option<u8>,
    /// The shares' passphrases, one a line, in their order; `-` is standard input
    #[arg(long, value_name = "FILE", requires = "shares")]
    passphrases: Option<PathBuf>,
    /// Addresses that the authority may certify
    #[arg(long, value_name = "PREFIX", default_value_t, conflicts_with = "offline")]
    permit: Ipv6Subtree,
}

/// On the root's host: signs an authority's request
#[derive(Args, Debug)]
pub(crate) struct SignIssuing {
    /// Where the root is
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// A share of the root's key, as often as its threshold says; without it, the key is in the directory
    #[arg(long = "share", value_name = "FILE")]
    shares: Vec<PathBuf>,
    /// The passphrases of these shares, one a line, in the same order; `-` is standard input
    #[arg(long, value_name = "FILE", requires = "shares")]
    passphrases: Option<PathBuf>,
    /// What `stoqctl root request-issuing` wrote
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// The authority's certificate
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Addresses that the authority may certify
    #[arg(long, value_name = "PREFIX", default_value_t)]
    permit: Ipv6Subtree,
}

/// On the authority's host: installs the signed certificate
#[derive(Args, Debug)]
pub(crate) struct InstallIssuing {
    /// Where the authority's key is
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// What `stoqctl root sign-issuing` wrote
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// The root's certificate
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// What `stoqctl root fingerprint` printed on the root's host
    #[arg(long, value_name = "FINGERPRINT")]
    fingerprint: Fingerprint,
    #[command(flatten)]
    held: Held,
}

/// What every command here prints
#[derive(Serialize)]
struct Outcome {
    directory: PathBuf,
    fingerprint: Option<String>,
    file: Option<PathBuf>,
}

impl Root {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        let verb = match self {
            Self::Init(_) => "init",
            Self::Fingerprint { .. } => "fingerprint",
            Self::RequestIssuing { .. } => "request-issuing",
            Self::SignIssuing(_) => "sign-issuing",
            Self::InstallIssuing(_) => "install-issuing",
        };
        ("root", verb)
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let now = SystemTime::now();
        match self {
            Self::Init(init) => init.run(context, now),
            Self::Fingerprint { directory } => fingerprint(context, directory, now),
            Self::RequestIssuing { directory, out, held } => {
                request_issuing(context, directory, out, &held)
            }
            Self::SignIssuing(sign) => sign.run(context, now),
            Self::InstallIssuing(install) => install.run(context, now),
        }
    }
}

fn report(context: &Context, outcome: &Outcome, note: String) -> Result<Report, ApiError> {
    let report = context.report(outcome)?.note(note);
    Ok(match (&outcome.fingerprint, &outcome.file) {
        (Some(fingerprint), None) => report.text(fingerprint),
        (_, Some(file)) => report.fields(vec![("written", cell(file.display()))]),
        (None, None) => report,
    })
}

impl Init {
    fn run(self, context: &Context, now: SystemTime) -> Result<Report, ApiError> {
        let Self { directory, offline, shares, threshold, passphrases, permit } = self;
        if let (Some(shares), Some(threshold)) = (shares, threshold) {
            let numbers = Shares { shares, threshold };
            return init_shares(context, directory, numbers, passphrases.as_deref(), now);
        }
        let at = directory.display();
        let (fingerprint, note) = if offline {
            let root = init_root(&directory, now).map_err(|error| root_error(&error))?;
            (
                root.fingerprint(),
                format!("a root was made in {at}; its key never leaves this directory"),
            )
        } else {
            if directory.join(ROOT_CERTIFICATE_FILE).exists() {
                let path = directory.clone();
                return Err(root_error(&RootError::Exists { path }));
            }
            let authority = Authority::open_or_create(&directory, permit, now)
                .map_err(|error| authority_error(&error))?;
            let note =
                format!("a root and an authority were made in {at}; other nodes pin the root:");
            (authority.root_fingerprint(), note)
        };
        let fingerprint = Some(fingerprint.to_string());
        report(context, &Outcome { directory, fingerprint, file: None }, note)
    }
}

fn init_shares(
    context: &Context,
    directory: PathBuf,
    numbers: Shares,
    file: Option<&Path>,
    now: SystemTime,
) -> Result<Report, ApiError> {
    if directory.join(ROOT_CERTIFICATE_FILE).exists() {
        return Err(root_error(&RootError::Exists { path: directory }));
    }
    let prompts: Vec<_> =
        (1..=numbers.shares).map(|n| format!("passphrase of share {n}")).collect();
    let passphrases = passphrases::read(file, PASSPHRASES, &prompts, true)?;
    let (fingerprint, files) = init_shared_root(&directory, numbers, &passphrases, now)
        .map_err(|error| root_error(&error))?;
    let note = format!(
        "a root was made in {}; its key is in {} files of which any {} make it, and nowhere else: give each \
         holder one and keep none together",
        directory.display(),
        files.len(),
        numbers.threshold
    );
    let fingerprint = Some(fingerprint.to_string());
    report(context, &Outcome { directory, fingerprint, file: None }, note)
}

fn fingerprint(context: &Context, directory: PathBuf, now: SystemTime) -> Result<Report, ApiError> {
    let file = directory.join(ROOT_CERTIFICATE_FILE);
    let der = read_pem(&file).map_err(|error| certificate_error(&error))?;
    check_root(&der, now).map_err(|error| failed(error.to_string(), "make a new root"))?;
    let fingerprint = Some(Fingerprint::of(&der).to_string());
    let note = format!("the root in {}:", directory.display());
    report(context, &Outcome { directory, fingerprint, file: None }, note)
}

fn request_issuing(
    context: &Context,
    directory: PathBuf,
    out: PathBuf,
    held: &Held,
) -> Result<Report, ApiError> {
    let csr = match held.connect()? {
        Some(signer) => request_with(&signer, &held.key).map_err(|error| key_error(&error))?,
        None => issuing_csr(&directory).map_err(|error| authority_error(&error))?,
    };
    let written =
        OpenOptions::new().write(true).create_new(true).open(&out).and_then(|mut file| {
            file.write_all(&csr)?;
            file.sync_all()
        });
    written.map_err(|error| file_error("write", &out, &error))?;
    let note = "take the request to the root: `stoqctl root sign-issuing`".to_owned();
    report(context, &Outcome { directory, fingerprint: None, file: Some(out) }, note)
}

impl SignIssuing {
    fn run(self, context: &Context, now: SystemTime) -> Result<Report, ApiError> {
        let Self { directory, shares, passphrases, request, out, permit } = self;
        let csr = read_request(&request)?;
        let root = if shares.is_empty() {
            TrustRoot::open(&directory, now)
        } else {
            let prompt = |share: &PathBuf| format!("passphrase of {}", share.display());
            let prompts: Vec<_> = shares.iter().map(prompt).collect();
            let passphrases =
                passphrases::read(passphrases.as_deref(), PASSPHRASES, &prompts, false)?;
            let shares: Vec<_> = shares.into_iter().zip(passphrases).collect();
            open_shared_root(&directory.join(ROOT_CERTIFICATE_FILE), &shares, now)
        };
        let root = root.map_err(|error| root_error(&error))?;
        let certificate =
            sign_issuing(&root, &csr, permit, now).map_err(|error| authority_error(&error))?;
        write_pem(&out, &certificate).map_err(|error| certificate_error(&error))?;
        let fingerprint = Some(root.fingerprint().to_string());
        let note = "take the certificate back to the authority: `stoqctl root install-issuing`";
        report(context, &Outcome { directory, fingerprint, file: Some(out) }, note.to_owned())
    }
}

fn read_request(file: &Path) -> Result<Vec<u8>, ApiError> {
    let mut csr = Vec::new();
    // One octet more than may be: the parser then refuses by its own limit.
    let limit = CSR_LIMIT_BYTES as u64 + 1;
    File::open(file)
        .and_then(|opened| opened.take(limit).read_to_end(&mut csr))
        .map_err(|error| file_error("read", file, &error))?;
    Ok(csr)
}

impl InstallIssuing {
    fn run(self, context: &Context, now: SystemTime) -> Result<Report, ApiError> {
        let read = |file: &Path| read_pem(file).map_err(|error| certificate_error(&error));
        let (certificate, root) = (read(&self.certificate)?, read(&self.root)?);
        let (directory, pinned) = (&self.directory, &self.fingerprint);
        match self.held.connect()? {
            Some(signer) => {
                let chain = (&certificate[..], &root[..]);
                install_with(directory, &signer, &self.held.key, chain, pinned, now)
                    .map_err(|error| key_error(&error))?;
            }
            None => install_issuing(directory, &certificate, &root, pinned, now)
                .map_err(|error| authority_error(&error))?,
        }
        let directory = self.directory;
        let note = format!("{} is an authority now; restart stoqd", directory.display());
        let fingerprint = Some(self.fingerprint.to_string());
        report(context, &Outcome { directory, fingerprint, file: None }, note)
    }
}

fn failed(message: String, remedy: &str) -> ApiError {
    ApiError::failed("root-failed", message, remedy)
}

fn exit_of(error: &std::io::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::PermissionDenied => ExitCode::Permission,
        ErrorKind::AlreadyExists => ExitCode::Conflict,
        _ => ExitCode::Failed,
    }
}

fn file_error(action: &str, file: &Path, error: &std::io::Error) -> ApiError {
    let message = format!("cannot {action} {}: {error}", file.display());
    ApiError::new(exit_of(error), "file-failed", message, "check the path and its permissions")
}

fn certificate_error(error: &CertificateError) -> ApiError {
    let exit = match error {
        CertificateError::Io { source, .. } => exit_of(source),
        _ => ExitCode::Failed,
    };
    let remedy = "check the path; a file of a certificate holds one in PEM";
    ApiError::new(exit, "certificate-failed", error.to_string(), remedy)
}

fn root_error(error: &RootError) -> ApiError {
    match error {
        RootError::Exists { .. } => ApiError::conflict(
            "root-exists",
            error.to_string(),
            "`stoqctl root fingerprint` shows the one that is there",
        ),
        RootError::Io { source, .. } => {
            ApiError::new(exit_of(source), "root-failed", error.to_string(), "check the directory")
        }
        RootError::Certificate(error) => certificate_error(error),
        RootError::Share(error) => {
            let exit = match error {
                ShareError::Io { source, .. } => exit_of(source),
                _ => ExitCode::Failed,
            };
            let remedy = "check the shares, their passphrases and their order";
            ApiError::new(exit, "share-failed", error.to_string(), remedy)
        }
        _ => failed(error.to_string(), "check the directory"),
    }
}

fn authority_error(error: &AuthorityError) -> ApiError {
    match error {
        AuthorityError::Root(error) => root_error(error),
        AuthorityError::Io { source, .. } => {
            ApiError::new(exit_of(source), "root-failed", error.to_string(), "check the directory")
        }
        AuthorityError::Certificate(error) => certificate_error(error),
        AuthorityError::WrongRoot { .. } => ApiError::conflict(
            "wrong-root",
            error.to_string(),
            "compare with `stoqctl root fingerprint` on the root's host; somebody may be deceiving you",
        ),
        AuthorityError::Csr(_) => failed(
            format!("the request is refused: {error}"),
            "it must be what `stoqctl root request-issuing` wrote",
        ),
        _ => failed(error.to_string(), "check the directory"),
    }
}
