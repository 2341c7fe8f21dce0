//! `stoqctl ca key`: the issuing keys of this node's authority and the steps of their lives.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde::Serialize;
use stoq_admin::api::{
    CaKey, CaKeyActivate, CaKeyList, CaKeyPrepare, CaKeyRequest, CaKeyRevoke, CaKeyTaint,
};
use stoq_admin::{ApiError, decode_pem};

use crate::commands::{name_of, or_dash, yes};
use crate::context::Context;
use crate::files;
use crate::human;
use crate::render::{Cell, Report, Tone, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Lists the issuing keys and the state each is in
    #[command(after_help = "\
prepared   nodes learn of it and accept its certificates; it signs none yet
active     it issues; one key is active
tainted    it issues nothing any more; what it has issued stays good, and it still signs revocations of that
revoked    nothing it has signed counts any more; no key comes back

Example:
  stoqctl ca key list --json")]
    List,
    /// Makes a key where the authority's keys are kept and writes the request to take to the root
    #[command(after_help = "\
For an authority whose root is kept apart. Asked for again, it is the request for the same key.

Example:
  stoqctl ca key request issuing-2 --out issuing-2.csr
  stoqctl root sign-issuing --directory /media/root --request issuing-2.csr --out issuing-2.pem
  stoqctl ca key prepare issuing-2 --certificate issuing-2.pem")]
    Request {
        /// The key's name: `issuing-` and a suffix
        name: String,
        /// The request; must not exist yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    Prepare(Prepare),
    Activate(Activate),
    Taint(Taint),
    Revoke(Revoke),
}

/// Takes a key in that the root has certified, so that every node learns of it before it issues
#[derive(Args, Debug)]
#[command(after_help = "\
Nodes that pin issuing keys (trust.issuing_pins) need its pin before it is activated: `stoqctl ca key list`.

Examples:
  stoqctl ca key prepare issuing-2                                    the root is on this node: it certifies the key
  stoqctl ca key prepare issuing-2 --certificate issuing-2.pem        what the root signed elsewhere")]
pub(crate) struct Prepare {
    /// The key's name: `issuing-` and a suffix
    name: String,
    /// What `stoqctl root sign-issuing` made of the key's request
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
}

/// Lets a prepared key issue; the one that did is tainted as replaced
#[derive(Args, Debug)]
#[command(after_help = "\
A key has to be prepared for an hour, so that nodes that were away for a moment know it too.

Example:
  stoqctl ca key activate issuing-2")]
pub(crate) struct Activate {
    /// The key
    name: String,
    /// Does not wait: for when the key in force is in other hands. Nodes that have not heard of the key refuse its
    /// certificates until they have
    #[arg(long)]
    at_once: bool,
}

/// Stops a key from issuing; its certificates stay good
#[derive(Args, Debug)]
#[command(after_help = "\
Without another active key nothing is issued from then on, and it still signs revocations. With --compromised
everybody with a certificate of the key is told to renew now, if another key issues.

Example:
  stoqctl ca key taint issuing --compromised")]
pub(crate) struct Taint {
    /// The key
    name: String,
    /// Somebody else may have it
    #[arg(long)]
    compromised: bool,
}

/// Revokes a key with everything it has signed, for good
#[derive(Args, Debug)]
#[command(after_help = "\
The key has to be tainted, and another one to sign the deny-list that names it. Every connected node hears of it within
a second and closes what it has with holders of its certificates. Where such certificates are in force this is refused
unless --cut-off is given; their holders then get new ones with the key they enrolled with.

Example:
  stoqctl ca key revoke issuing --cut-off")]
pub(crate) struct Revoke {
    /// The key
    name: String,
    /// Also where certificates of it are in force
    #[arg(long)]
    cut_off: bool,
}

/// What `request` prints
#[derive(Serialize)]
struct Requested {
    name: String,
    pin: String,
    file: PathBuf,
}

impl Key {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::List => name_of::<CaKeyList>(),
            Self::Request { .. } => name_of::<CaKeyRequest>(),
            Self::Prepare(_) => name_of::<CaKeyPrepare>(),
            Self::Activate(_) => name_of::<CaKeyActivate>(),
            Self::Taint(_) => name_of::<CaKeyTaint>(),
            Self::Revoke(_) => name_of::<CaKeyRevoke>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::List => list(context).await,
            Self::Request { name, out } => request(context, name, out).await,
            Self::Prepare(Prepare { name, certificate }) => {
                let certificate_pem = certificate.as_deref().map(files::read_text).transpose()?;
                let changed = context.call(CaKeyPrepare { name, certificate_pem }).await?;
                let note =
                    "nodes learn of it now; in an hour it may take over: `stoqctl ca key activate`";
                Ok(one(context.report(&changed)?, &changed.key).note(note))
            }
            Self::Activate(Activate { name, at_once }) => {
                let changed = context.call(CaKeyActivate { name, at_once }).await?;
                let note = format!("certificates are issued with {} from now on", changed.key.name);
                Ok(one(context.report(&changed)?, &changed.key).note(note))
            }
            Self::Taint(Taint { name, compromised }) => {
                let changed = context.call(CaKeyTaint { name, compromised }).await?;
                let note = format!("{} issues nothing any more", changed.key.name);
                Ok(one(context.report(&changed)?, &changed.key).note(note))
            }
            Self::Revoke(Revoke { name, cut_off }) => {
                let revoked = context.call(CaKeyRevoke { name, cut_off }).await?;
                let note = match revoked.deny_list_epoch {
                    Some(epoch) => format!("the deny-list {epoch} names it"),
                    None => "it is on no deny-list: its certificate has ended, or the list cannot be signed now \
                             (`stoqctl crl list`)"
                        .to_owned(),
                };
                Ok(one(context.report(&revoked)?, &revoked.key).note(note))
            }
        }
    }
}

async fn list(context: &Context) -> Result<Report, ApiError> {
    let listed = context.call(CaKeyList {}).await?;
    let now = SystemTime::now();
    let row = |key: &CaKey| {
        vec![
            cell(&key.name),
            state(key),
            cell(human::moment(key.since, now)),
            cell(human::moment(key.not_after, now)),
            cell(or_dash(key.last_leaf_ends.map(|ends| human::moment(ends, now)))),
            cell(yes(key.signs_lists)),
            cell(&key.pin),
        ]
    };
    let rows = listed.keys.iter().map(row).collect();
    let head = ["key", "state", "since", "ends", "last leaf ends", "signs lists", "pin"];
    Ok(context.report(&listed)?.table(&head, rows, "there is no issuing key"))
}

fn state(key: &CaKey) -> Cell {
    let tone = match key.state.as_str() {
        "active" => Tone::Good,
        "revoked" => Tone::Bad,
        _ => Tone::Plain,
    };
    match &key.taint {
        Some(why) => Cell::toned(format!("{} ({why})", key.state), tone),
        None => Cell::toned(&key.state, tone),
    }
}

fn one(report: Report, key: &CaKey) -> Report {
    report.fields(vec![("key", cell(&key.name)), ("state", state(key)), ("pin", cell(&key.pin))])
}

async fn request(context: &Context, name: String, out: PathBuf) -> Result<Report, ApiError> {
    let requested = context.call(CaKeyRequest { name }).await?;
    let bad = |why: String| {
        ApiError::failed("bad-reply", why, "compare the versions of stoqctl and stoqd")
    };
    let blocks = decode_pem("CERTIFICATE REQUEST", &requested.request_pem)
        .map_err(|error| bad(error.to_string()))?;
    let [csr_der] = blocks.as_slice() else {
        return Err(bad(format!("{} requests", blocks.len())));
    };
    // In DER, as `stoqctl root` takes it.
    files::write_new(&out, csr_der)?;
    let told = Requested { name: requested.name, pin: requested.pin, file: out };
    let report = context.report(&told)?.fields(vec![
        ("key", cell(&told.name)),
        ("pin", cell(&told.pin)),
        ("written", cell(told.file.display())),
    ]);
    Ok(report.note("take the request to the root: `stoqctl root sign-issuing`"))
}
