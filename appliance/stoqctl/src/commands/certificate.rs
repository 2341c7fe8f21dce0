//! `stoqctl certificate`: the inventory of this node's authority, issuing for a request in hand, revoking. `verify`
//! judges a certificate on this host and needs no daemon.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde::Serialize;
use stoq_admin::api::{
    CertificateIssue, CertificateIssued, CertificateList, CertificateRevoke, CertificateShow,
    CertificateState, InventoryCertificate, RevocationReason, RevokeOf, RevokedCertificate,
};
use stoq_admin::{ApiError, ExitCode, encode_pem, parse_duration, show_time};
use stoq_trustchain::calls::wire;

use super::order::Elsewhere;
use super::{name_of, or_dash, yes};
use crate::context::Context;
use crate::files;
use crate::human;
use crate::render::{Cell, Report, Tone, cell};

mod pin;
mod verify;

pub(crate) use pin::Pin;
pub(crate) use verify::Verify;

#[derive(Debug, Subcommand)]
pub(crate) enum Certificate {
    Issue(Issue),
    List(List),
    /// Shows one certificate of the inventory
    Show {
        /// Its serial number, hexadecimal
        serial: String,
    },
    Revoke(Revoke),
    Verify(Verify),
    Pin(Pin),
}

/// Issues a certificate for a request in hand; what it names must be registered
#[derive(Args, Debug)]
#[command(after_help = "\
Of the request only the key counts, which must be P-256: names, addresses and usages come from the registration
(`stoqctl ca register`) and the profile. The same request again gets the same certificate.

Example:
  openssl ecparam -name prime256v1 -genkey -noout -out ana.key
  openssl req -new -key ana.key -subj / -out ana.csr
  stoqctl certificate issue --profile operator --subject ana --request ana.csr --out ana.pem
  stoqctl certificate issue --profile service --subject shop --request shop.csr \\
      --at alpha --operator ana.pem --operator-key ana.key     by the authority of alpha, from any node")]
pub(crate) struct Issue {
    /// The profile: node, service, asset, dns-server or operator
    #[arg(long)]
    profile: String,
    /// The name it is registered under
    #[arg(long, value_name = "NAME")]
    subject: String,
    /// The request, PKCS #10 in PEM; - is the standard input
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// Writes certificate and issuing authority to this file, which must not exist yet
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// Lists certificates, those that end first before the others
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  stoqctl certificate list --state valid --expiring 2h
  stoqctl certificate list --name beta --json
  stoqctl certificate list --after NEXT          where the last list ended")]
pub(crate) struct List {
    /// Those that name this node, service or asset, or have this DNS name
    #[arg(long)]
    name: Option<String>,
    /// Those of this profile
    #[arg(long)]
    profile: Option<String>,
    /// Those for this key: SHA-256 of its SubjectPublicKeyInfo, hexadecimal
    #[arg(long, value_name = "SHA-256")]
    spki: Option<String>,
    /// Those that are valid, revoked or expired
    #[arg(long)]
    state: Option<CertificateState>,
    /// Those that end within this time, with its unit: 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    expiring: Option<Duration>,
    /// At most this many [default: 100, at most 1000]
    #[arg(long)]
    limit: Option<usize>,
    /// Goes on where an earlier list ended
    #[arg(long, value_name = "NEXT")]
    after: Option<String>,
}

/// Revokes certificates, for good
#[derive(Args, Debug)]
#[command(after_help = "\
Every connected node hears of it within a second and closes what it has with the holder; the revocation lists
follow. There is no way back: a node that is to go on enrols again, with a new key.

Examples:
  stoqctl certificate revoke 3f9a...                        one certificate
  stoqctl certificate revoke --name beta --with-key         everything beta has, and its keys in whatever comes
  stoqctl certificate revoke --key SHA-256 --reason key-compromise
  stoqctl certificate revoke --name beta --reason superseded --at alpha --operator ana.pem --operator-key ana.key")]
pub(crate) struct Revoke {
    #[command(flatten)]
    of: Which,
    /// Why, which --at wants to be told: unspecified, key-compromise, ca-compromise, affiliation-changed, superseded,
    /// cessation-of-operation or privilege-withdrawn
    #[arg(long, default_value = "unspecified")]
    reason: RevocationReason,
    /// Also whatever is certified for the same keys later
    #[arg(long)]
    with_key: bool,
    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// What the authority of another node answered to `revoke`
#[derive(Serialize)]
struct RevokedElsewhere {
    #[serde(skip_serializing_if = "Option::is_none")]
    deny_list_epoch: Option<u64>,
    revoked_at: String,
    reason: RevocationReason,
    repeated: bool,
}

/// What is revoked
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Which {
    /// Its serial number, hexadecimal
    serial: Option<String>,
    /// Every certificate of this node, service or asset that has not ended
    #[arg(long)]
    name: Option<String>,
    /// This key, and every certificate for it: SHA-256 of its SubjectPublicKeyInfo, hexadecimal
    #[arg(long, value_name = "SHA-256")]
    key: Option<String>,
}

impl Certificate {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Issue(_) => name_of::<CertificateIssue>(),
            Self::List(_) => name_of::<CertificateList>(),
            Self::Show { .. } => name_of::<CertificateShow>(),
            Self::Revoke(revoke) if revoke.elsewhere.is_meant() => ("certificate", "revoke-at"),
            Self::Revoke(_) => name_of::<CertificateRevoke>(),
            Self::Verify(_) => ("certificate", "verify"),
            Self::Pin(_) => ("certificate", "pin"),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Issue(issue) => issue.run(context).await,
            Self::List(list) => list.run(context).await,
            Self::Show { serial } => show(context, serial).await,
            Self::Revoke(revoke) => revoke.run(context).await,
            Self::Verify(verify) => verify.run(context, SystemTime::now()),
            Self::Pin(pin) => pin.run(context),
        }
    }
}

impl Issue {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let Self { profile, subject, request, out, elsewhere } = self;
        let issued = match elsewhere.is_meant() {
            false => {
                let request_pem = files::read_text(&request)?;
                context.call(CertificateIssue { profile, subject, request_pem }).await?
            }
            true => issued_elsewhere(context, &elsewhere, profile, subject, &request).await?,
        };
        let report = context.report(&issued)?;
        let ends = human::moment(issued.not_after, SystemTime::now());
        let note = format!(
            "certificate {} ends {ends}; it is entry {} of the log",
            issued.serial, issued.log_index
        );
        match out {
            None => Ok(report.note(note).text(&issued.chain_pem)),
            Some(file) => {
                files::write_new(&file, issued.chain_pem.as_bytes())?;
                Ok(report.note(note).fields(vec![("written", cell(file.display()))]))
            }
        }
    }
}

/// Has the authority of another node issue it
async fn issued_elsewhere(
    context: &Context,
    elsewhere: &Elsewhere,
    profile: String,
    subject: String,
    request: &Path,
) -> Result<CertificateIssued, ApiError> {
    let csr = files::read_pem("CERTIFICATE REQUEST", request)
        .or_else(|_| files::read_pem("NEW CERTIFICATE REQUEST", request))?;
    let csr = csr.into_iter().next().unwrap_or_default();
    let order = wire::CertifyRequest { csr, profile, subject, ..wire::CertifyRequest::default() };
    let issued: wire::CertifyReply = elsewhere.order(context, "trustchain/issue", &order).await?;
    let chain = issued.chain.iter().map(|der| encode_pem("CERTIFICATE", der));
    Ok(CertificateIssued {
        serial: issued.serial.iter().map(|octet| format!("{octet:02x}")).collect(),
        not_before: at(issued.not_before)?,
        not_after: at(issued.not_after)?,
        log_index: issued.leaf_index,
        repeated: issued.repeated,
        chain_pem: chain.collect(),
        root_pem: encode_pem("CERTIFICATE", &issued.root),
    })
}

/// An instant of another host, which may say anything
fn at(seconds: u64) -> Result<SystemTime, ApiError> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or_else(|| {
        ApiError::failed("bad-reply", format!("{seconds} s after 1970 is no instant"), "")
    })
}

impl List {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let Self { name, profile, spki, state, expiring, limit, after } = self;
        let request = CertificateList {
            name,
            profile,
            spki_sha256: spki,
            state,
            expiring_within_seconds: expiring.map(|time| time.as_secs()),
            limit,
            after,
        };
        let listed = context.call(request).await?;
        let now = SystemTime::now();
        let rows = listed.certificates.iter().map(|one| row(one, now)).collect();
        let head = ["serial", "profile", "name", "state", "ends", "log"];
        let report = context.report(&listed)?.table(&head, rows, "no certificate is like that");
        Ok(match &listed.next {
            Some(next) => report.note(format!("there are more: --after {next}")),
            None => report,
        })
    }
}

fn row(one: &InventoryCertificate, now: SystemTime) -> Vec<Cell> {
    vec![
        cell(&one.serial),
        cell(&one.profile),
        cell(&one.subject),
        state(one.state),
        cell(human::moment(one.not_after, now)),
        Cell::figure(one.log_index),
    ]
}

fn state(state: CertificateState) -> Cell {
    let tone = match state {
        CertificateState::Valid => Tone::Good,
        CertificateState::Revoked => Tone::Bad,
        CertificateState::Expired => Tone::Warning,
    };
    Cell::toned(state, tone)
}

async fn show(context: &Context, serial: String) -> Result<Report, ApiError> {
    let shown = context.call(CertificateShow { serial }).await?;
    let now = SystemTime::now();
    let one = &shown.certificate;
    let renewal = match (shown.renew_from, shown.renew_until) {
        (Some(from), Some(until)) => format!("{} to {}", show_time(from), show_time(until)),
        _ => "-".to_owned(),
    };
    let revoked = one.revoked_at.map(|at| {
        format!("{}, {}", show_time(at), one.revoked_for.as_deref().unwrap_or("no reason given"))
    });
    Ok(context.report(&shown)?.fields(vec![
        ("serial", cell(&one.serial)),
        ("profile", cell(&one.profile)),
        ("name", cell(&one.subject)),
        ("dns names", cell(one.dns_names.join(", "))),
        ("state", state(one.state)),
        ("begins", cell(show_time(one.not_before))),
        (
            "ends",
            cell(format!("{}, {}", show_time(one.not_after), human::moment(one.not_after, now))),
        ),
        ("renewal", cell(renewal)),
        ("revoked", cell(or_dash(revoked))),
        ("key", cell(&one.spki_sha256)),
        ("issuing key", cell(&one.issuer_key_id)),
        ("log entry", cell(one.log_index)),
    ]))
}

impl Revoke {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let Self { of, reason, with_key, elsewhere } = self;
        if elsewhere.is_meant() {
            return revoke_elsewhere(context, &elsewhere, of, reason, with_key).await;
        }
        let of = match of {
            Which { serial: Some(serial), .. } => RevokeOf::Serial(serial),
            Which { name: Some(name), .. } => RevokeOf::Name(name),
            Which { key: Some(key), .. } => RevokeOf::Key(key),
            Which { .. } => {
                return Err(ApiError::usage(
                    "nothing-to-revoke",
                    "neither a serial number nor a name nor a key is given",
                    "`stoqctl certificate list` shows what there is",
                ));
            }
        };
        let revoked = context.call(CertificateRevoke { of, reason, with_key }).await?;
        let rows = revoked.revoked.iter().map(revoked_row).collect();
        let head = ["serial", "key", "name", "before"];
        let report = context.report(&revoked)?.table(&head, rows, "nothing was left to revoke");
        Ok(match revoked.deny_list_epoch {
            Some(epoch) => report.note(format!("the deny-list {epoch} tells every node")),
            // It is durable, and no node knows of it yet: that is for an operator now.
            None => report
                .note(
                    "no deny-list can be signed now, so no node knows of it: see `stoqctl doctor`",
                )
                .exit(ExitCode::Unhealthy),
        })
    }
}

/// Has the authority of another node revoke it
async fn revoke_elsewhere(
    context: &Context,
    elsewhere: &Elsewhere,
    of: Which,
    reason: RevocationReason,
    with_key: bool,
) -> Result<Report, ApiError> {
    let octets = |text: Option<String>| {
        let text = text.unwrap_or_default();
        let bad = || {
            let remedy = "copy it from `stoqctl certificate list`";
            ApiError::usage("bad-target", format!("'{text}' is not hexadecimal"), remedy)
        };
        let pair =
            |at: usize| text.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
        let octets: Option<Vec<u8>> = (0..text.len()).step_by(2).map(pair).collect();
        octets.ok_or_else(bad)
    };
    if reason == RevocationReason::Unspecified {
        return Err(ApiError::usage(
            "no-reason",
            "an authority elsewhere wants to know why",
            "say it with --reason; `stoqctl certificate revoke --help` lists what there is",
        ));
    }
    let order = wire::RevokeRequest {
        serial: octets(of.serial)?,
        spki_sha256: octets(of.key)?,
        subject: of.name.unwrap_or_default(),
        reason: reason.code().into(),
        with_key,
    };
    let revoked: wire::RevokeReply = elsewhere.order(context, "trustchain/revoke", &order).await?;
    let told = RevokedElsewhere {
        deny_list_epoch: Some(revoked.epoch).filter(|epoch| *epoch > 0),
        revoked_at: show_time(at(revoked.revoked_at)?),
        reason,
        repeated: revoked.repeated,
    };
    let report = context.report(&told)?.fields(vec![
        ("revoked", cell(&told.revoked_at)),
        ("before", cell(yes(told.repeated))),
        ("deny-list", cell(or_dash(told.deny_list_epoch))),
    ]);
    Ok(match told.deny_list_epoch {
        Some(_) => report,
        None => report.exit(ExitCode::Unhealthy),
    })
}

fn revoked_row(one: &RevokedCertificate) -> Vec<Cell> {
    vec![
        cell(or_dash(one.serial.as_ref())),
        cell(or_dash(one.spki_sha256.as_ref())),
        cell(or_dash(one.subject.as_ref())),
        cell(yes(one.repeated)),
    ]
}
