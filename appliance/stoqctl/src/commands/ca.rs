//! `stoqctl ca`: the certificate authority of this node: how it is, what it may name, and having everything
//! renewed.

use std::net::Ipv6Addr;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use stoq_admin::api::{
    CaProfiles, CaRegister, CaRegistration, CaRegistrations, CaRenewAll, CaShow, CaShown,
    CaUnregister, CertificateProfile,
};
use stoq_admin::{ApiError, parse_duration};
use stoq_interface::NodeId;

use super::{name_of, or_dash, yes};
use crate::context::Context;
use crate::human;
use crate::render::{Cell, Report, Tone, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Ca {
    /// Shows how the authority is: what it issued, its key, its journal and its log
    Status,
    /// Lists the kinds of certificates it issues, and for how long
    Profiles,
    Register(Register),
    /// Takes a registration or an enrolled node back; what it has is not revoked by this
    #[command(after_help = "\
Nothing is issued or renewed for it any more. To end what it holds now: `stoqctl certificate revoke`.

Example:
  stoqctl ca unregister node beta")]
    Unregister {
        /// The profile: node, service, asset, dns-server or operator
        profile: String,
        /// The name it is registered under
        subject: String,
    },
    /// Lists everything certificates may name
    Registrations {
        /// Of this profile only
        #[arg(long)]
        profile: Option<String>,
    },
    /// Has everything renewed that was issued so far, spread over a while
    #[command(after_help = "\
Each node hears of it when it next asks when to renew, within a few minutes, and picks a moment in the window
by itself. For instance before the issuing key is replaced.

Example:
  stoqctl ca renew-all --within 30m")]
    RenewAll {
        /// Length of the window, which begins now, with its unit: 10m or 2h
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
        within: Duration,
    },
}

/// Registers a service, an asset, a DNS server or an operator, so that certificates may name it
#[derive(Args, Debug)]
#[command(after_help = "\
Nodes are registered by enrolling: `stoqctl token create`. Names and addresses of a certificate come from
here and never from a request. Registering again changes the registration.

Examples:
  stoqctl ca register service shop --owner beta
  stoqctl ca register dns-server ns1 --owner alpha --address 2001:db8::53
  stoqctl ca register operator ana")]
pub(crate) struct Register {
    /// The profile: node, service, asset, dns-server or operator
    profile: String,
    /// Its name, one label
    subject: String,
    /// The node whose certificate may ask for its certificates; without it the operator alone
    #[arg(long, value_name = "NODE")]
    owner: Option<NodeId>,
    /// An address its certificates carry; may be given more than once
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<Ipv6Addr>,
    /// Its certificates carry the profile's alternative names as well
    #[arg(long)]
    alternative_names: bool,
}

impl Ca {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Status => name_of::<CaShow>(),
            Self::Profiles => name_of::<CaProfiles>(),
            Self::Register(_) => name_of::<CaRegister>(),
            Self::Unregister { .. } => name_of::<CaUnregister>(),
            Self::Registrations { .. } => name_of::<CaRegistrations>(),
            Self::RenewAll { .. } => name_of::<CaRenewAll>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Status => status(context).await,
            Self::Profiles => profiles(context).await,
            Self::Register(register) => register.run(context).await,
            Self::Unregister { profile, subject } => {
                let gone = context.call(CaUnregister { profile, subject }).await?;
                let note =
                    format!("nothing is issued to {} {} any more", gone.profile, gone.subject);
                Ok(context.report(&gone)?.note(note))
            }
            Self::Registrations { profile } => registrations(context, profile).await,
            Self::RenewAll { within } => renew_all(context, within).await,
        }
    }
}

async fn status(context: &Context) -> Result<Report, ApiError> {
    let shown = context.call(CaShow {}).await?;
    let report = context.report(&shown)?.fields(fields(&shown, SystemTime::now()));
    let refused: Vec<Vec<Cell>> = shown
        .refused_since_start
        .iter()
        .map(|(code, count)| vec![cell(code), Cell::figure(count)])
        .collect();
    Ok(if refused.is_empty() { report } else { report.table(&["refused", "times"], refused, "") })
}

fn fields(shown: &CaShown, now: SystemTime) -> Vec<(&'static str, Cell)> {
    let well = |problem: &Option<String>, good: &str| match problem {
        Some(problem) => Cell::toned(problem, Tone::Bad),
        None => Cell::toned(good, Tone::Good),
    };
    let published = match shown.log_published_at {
        Some(at) => format!("{} entries, {}", shown.log_published, human::moment(at, now)),
        None => "no checkpoint yet".to_owned(),
    };
    vec![
        ("authority", cell(&shown.instance)),
        ("mode", cell(&shown.mode)),
        ("issuing", well(&shown.not_issuing, "yes")),
        ("root", cell(&shown.root_fingerprint)),
        ("issuing key", cell(&shown.issuing_key_id)),
        ("its certificate", cell(format!("ends {}", human::moment(shown.issuing_not_after, now)))),
        ("issued", cell(format!("{}, {} since the start", shown.issued, shown.issued_since_start))),
        ("repeated", cell(format!("{} since the start", shown.repeated_since_start))),
        ("under way", cell(format!("{} of {}", shown.in_flight, shown.in_flight_limit))),
        ("revoked", cell(shown.revoked)),
        ("nodes", cell(shown.nodes)),
        ("journal", cell(format!("entry {}", shown.journal_sequence))),
        ("inventory", cell(format!("entry {}", or_dash(shown.records_sequence)))),
        ("log", cell(format!("{} entries", shown.log_entries))),
        ("checkpoint", cell(published)),
        ("publishing", well(&shown.log_problem, "yes")),
    ]
}

async fn profiles(context: &Context) -> Result<Report, ApiError> {
    let listed = context.call(CaProfiles {}).await?;
    let row = |one: &CertificateProfile| {
        vec![
            cell(&one.name),
            cell(human::duration(one.lifetime_seconds as f64)),
            cell(one.usages.join(", ")),
            cell(one.names.join(", ")),
            cell(yes(one.addresses)),
        ]
    };
    let rows = listed.profiles.iter().map(row).collect();
    let head = ["profile", "lifetime", "usages", "names", "addresses"];
    Ok(context.report(&listed)?.table(&head, rows, "there is no profile"))
}

impl Register {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let Self { profile, subject, owner, addresses, alternative_names } = self;
        let registration = CaRegistration { profile, subject, owner, addresses, alternative_names };
        let registered = context.call(CaRegister { registration }).await?;
        let CaRegistration { profile, subject, .. } = &registered.registration;
        let note = format!("certificates of the profile {profile} may name {subject}");
        Ok(context.report(&registered)?.note(note))
    }
}

async fn registrations(context: &Context, profile: Option<String>) -> Result<Report, ApiError> {
    let listed = context.call(CaRegistrations { profile }).await?;
    let row = |one: &CaRegistration| {
        let addresses: Vec<_> = one.addresses.iter().map(ToString::to_string).collect();
        vec![
            cell(&one.profile),
            cell(&one.subject),
            cell(or_dash(one.owner.as_ref())),
            cell(addresses.join(", ")),
            cell(yes(one.alternative_names)),
        ]
    };
    let rows = listed.registrations.iter().map(row).collect();
    let head = ["profile", "name", "owner", "addresses", "alternative"];
    let empty = "nothing is registered; `stoqctl ca register` names something";
    Ok(context.report(&listed)?.table(&head, rows, empty))
}

async fn renew_all(context: &Context, within: Duration) -> Result<Report, ApiError> {
    let within_seconds = within.as_secs();
    if within_seconds == 0 {
        return Err(ApiError::usage(
            "short-window",
            "the window must have a second at least",
            "give --within as 10m or 2h",
        ));
    }
    let window = context.call(CaRenewAll { within_seconds }).await?;
    let end = human::moment(window.end, SystemTime::now());
    let note = format!("everything issued so far is renewed by {end}");
    Ok(context.report(&window)?.note(note))
}
