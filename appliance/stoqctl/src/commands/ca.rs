//! `stoqctl ca`: the certificate authority of this node: how it is, what it may name, and having everything
//! renewed.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use stoq_admin::api::{
    CaAuthorities, CaExport, CaProfiles, CaRegister, CaRegistered, CaRegistration, CaRegistrations,
    CaRenewAll, CaShow, CaShown, CaTrust, CaUnregister, CaUnregistered, CertificateProfile,
    KnownAuthority,
};
use stoq_admin::{ApiError, parse_duration};
use stoq_interface::NodeId;
use stoq_trustchain::calls::wire;

use super::order::Elsewhere;
use super::{name_of, or_dash, yes};
use crate::context::Context;
use crate::files;
use crate::human;
use crate::render::{Cell, Report, Tone, cell};

mod key;

use key::Key;

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
        #[command(flatten)]
        elsewhere: Elsewhere,
    },
    /// Lists everything certificates may name
    Registrations {
        /// Of this profile only
        #[arg(long)]
        profile: Option<String>,
    },
    /// Issuing keys: prepared, active, tainted, revoked
    #[command(subcommand)]
    Key(Key),
    /// Lists the authorities of the mesh whose nodes this one accepts and whose deny-lists it follows
    Authorities,
    /// Writes what this node's authority says of itself, for `stoqctl ca trust` on other nodes
    Export {
        /// The file, which must not exist yet; without it, it is printed
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Trusts another authority under the same root: its nodes, its log, its deny-list
    #[command(after_help = "\
Authorities that share records ([store.etcd]) know each other by themselves, and every node learns from its own
authority which others there are. This is for authorities that share nothing: tell one of them, on its node, and its
nodes follow. Only what the common root has signed is taken.

Example:
  beta$  stoqctl ca export --out beta.statement
  alpha$ stoqctl ca trust beta.statement")]
    Trust {
        /// What `stoqctl ca export` wrote; - is the standard input
        statement: PathBuf,
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
    #[command(flatten)]
    elsewhere: Elsewhere,
}

impl Ca {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Status => name_of::<CaShow>(),
            Self::Profiles => name_of::<CaProfiles>(),
            Self::Register(_) => name_of::<CaRegister>(),
            Self::Unregister { .. } => name_of::<CaUnregister>(),
            Self::Registrations { .. } => name_of::<CaRegistrations>(),
            Self::Key(key) => key.name(),
            Self::Authorities => name_of::<CaAuthorities>(),
            Self::Export { .. } => name_of::<CaExport>(),
            Self::Trust { .. } => name_of::<CaTrust>(),
            Self::RenewAll { .. } => name_of::<CaRenewAll>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Status => status(context).await,
            Self::Profiles => profiles(context).await,
            Self::Register(register) => register.run(context).await,
            Self::Unregister { profile, subject, elsewhere } => {
                let gone = match elsewhere.is_meant() {
                    false => context.call(CaUnregister { profile, subject }).await?,
                    true => unregistered_elsewhere(context, &elsewhere, profile, subject).await?,
                };
                let note =
                    format!("nothing is issued to {} {} any more", gone.profile, gone.subject);
                Ok(context.report(&gone)?.note(note))
            }
            Self::Registrations { profile } => registrations(context, profile).await,
            Self::Key(key) => key.run(context).await,
            Self::Authorities => authorities(context).await,
            Self::Export { out } => export(context, out).await,
            Self::Trust { statement } => trust(context, &statement).await,
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
        let Self { profile, subject, owner, addresses, alternative_names, elsewhere } = self;
        let registration = CaRegistration { profile, subject, owner, addresses, alternative_names };
        let registered = match elsewhere.is_meant() {
            false => context.call(CaRegister { registration }).await?,
            true => {
                let texts = registration.addresses.iter().map(ToString::to_string);
                let order = wire::RegisterRequest {
                    profile: registration.profile.clone(),
                    subject: registration.subject.clone(),
                    owner: registration.owner.as_ref().map(NodeId::to_string).unwrap_or_default(),
                    addresses: texts.collect(),
                    alternative_names: registration.alternative_names,
                };
                let method = "trustchain/register";
                let _: wire::RegisterReply = elsewhere.order(context, method, &order).await?;
                CaRegistered { registration }
            }
        };
        let CaRegistration { profile, subject, .. } = &registered.registration;
        let note = format!("certificates of the profile {profile} may name {subject}");
        Ok(context.report(&registered)?.note(note))
    }
}

async fn unregistered_elsewhere(
    context: &Context,
    elsewhere: &Elsewhere,
    profile: String,
    subject: String,
) -> Result<CaUnregistered, ApiError> {
    let order = wire::UnregisterRequest { profile: profile.clone(), subject: subject.clone() };
    let done: wire::UnregisterReply =
        elsewhere.order(context, "trustchain/unregister", &order).await?;
    if !done.was_registered {
        let name = format!("{profile} {subject}");
        return Err(ApiError::not_found("registration", name, "stoqctl ca registrations"));
    }
    Ok(CaUnregistered { profile, subject })
}

async fn authorities(context: &Context) -> Result<Report, ApiError> {
    let listed = context.call(CaAuthorities {}).await?;
    let now = SystemTime::now();
    let row = |one: &KnownAuthority| {
        vec![
            cell(&one.instance),
            cell(or_dash(one.address)),
            cell(&one.issuing_key_id),
            cell(human::moment(one.not_after, now)),
            cell(yes(one.is_own)),
        ]
    };
    let rows = listed.authorities.iter().map(row).collect();
    let head = ["authority", "address", "issuing key", "ends", "own"];
    let empty = "no authority has said anything of itself yet; the log of stoqd may say why";
    Ok(context.report(&listed)?.table(&head, rows, empty))
}

async fn export(context: &Context, out: Option<PathBuf>) -> Result<Report, ApiError> {
    let exported = context.call(CaExport {}).await?;
    let report = context.report(&exported)?;
    Ok(match out {
        None => report.text(&exported.statement_pem),
        Some(file) => {
            files::write_new(&file, exported.statement_pem.as_bytes())?;
            report.fields(vec![("written", cell(file.display()))])
        }
    })
}

async fn trust(context: &Context, statement: &Path) -> Result<Report, ApiError> {
    let statement_pem = files::read_text(statement)?;
    let trusted = context.call(CaTrust { statement_pem }).await?;
    let name = &trusted.authority.instance;
    let note = match trusted.is_news {
        true => format!("the authority {name} is trusted: its nodes, its log and its deny-list"),
        false => format!("the authority {name} was known already"),
    };
    Ok(context.report(&trusted)?.note(note))
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
