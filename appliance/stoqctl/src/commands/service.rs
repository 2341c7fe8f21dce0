//! `stoqctl service`: local sockets published to other nodes, and theirs attached here.

use clap::{Args, Subcommand};
use stoq_admin::api::{
    Attachment, PublishedService, ServiceAttach, ServiceList, ServiceOrigin, ServicePublish,
    ServiceRemove,
};
use stoq_admin::{ANY_ENROLLED, ApiError, parse_allow, parse_remote_address, show_allow};
use stoq_config::{ServiceAddress, Target};
use stoq_interface::{Allow, NodeId, ServiceName};

use super::name_of;
use crate::context::Context;
use crate::render::{Cell, Report, Tone, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    Publish(Publish),
    Attach(Attach),
    /// Lists what is published and attached
    List,
    /// Ends a publication (NAME) or an attachment (NAME@NODE)
    #[command(after_help = "\
Examples:
  stoqctl service remove web         no longer publish web
  stoqctl service remove web@beta    no longer offer beta's web here")]
    Remove {
        /// A service of this node, or of another
        #[arg(value_name = "NAME|NAME@NODE", value_parser = parse_removal)]
        service: Removal,
    },
}

/// Publishes a local socket to other nodes under a name; kept across restarts
#[derive(Args, Debug)]
#[command(after_help = "\
Without --allow nobody may attach.

Examples:
  stoqctl service publish web --to [::1]:8080 --allow any-enrolled
  stoqctl service publish db --to unix:/run/postgresql/.s.PGSQL.5432 --allow beta --allow gamma")]
pub(crate) struct Publish {
    /// The name under which other nodes attach
    name: ServiceName,
    /// The local socket: [::1]:PORT or unix:/path
    #[arg(long, value_name = "SOCKET", value_parser = parse_destination)]
    to: Target,
    /// A node that may attach; repeat it for more, or name any-enrolled alone
    #[arg(long, value_name = "NODE|any-enrolled")]
    allow: Vec<String>,
}

/// Offers a service of another node at a local socket; kept across restarts
#[derive(Args, Debug)]
#[command(after_help = "\
Port 0 takes any free port; the answer names it.

Examples:
  stoqctl service attach web@beta --listen [::1]:9000
  stoqctl service attach db@beta --listen unix:/run/db.sock")]
pub(crate) struct Attach {
    /// The service and the node that publishes it
    #[arg(value_name = "NAME@NODE")]
    service: ServiceAddress,
    /// The local socket: [::1]:PORT or unix:/path
    #[arg(long, value_name = "SOCKET")]
    listen: Target,
}

/// What `service remove` names
#[derive(Clone, Debug)]
pub(crate) struct Removal {
    name: ServiceName,
    node: Option<NodeId>,
}

fn parse_removal(text: &str) -> Result<Removal, String> {
    if text.contains('@') {
        let address: ServiceAddress = text.parse().map_err(|error| format!("{error}"))?;
        return Ok(Removal { name: address.service, node: Some(address.node) });
    }
    let name = text.parse().map_err(|error| format!("{error}"))?;
    Ok(Removal { name, node: None })
}

/// A socket that must be reached: a port is needed
fn parse_destination(text: &str) -> Result<Target, stoq_config::AddressError> {
    match text.parse()? {
        Target::Tcp(_) => parse_remote_address(text).map(Target::Tcp),
        unix => Ok(unix),
    }
}

impl Service {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Publish(_) => name_of::<ServicePublish>(),
            Self::Attach(_) => name_of::<ServiceAttach>(),
            Self::List => name_of::<ServiceList>(),
            Self::Remove { .. } => name_of::<ServiceRemove>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Publish(publish) => publish.run(context).await,
            Self::Attach(attach) => attach.run(context).await,
            Self::List => list(context).await,
            Self::Remove { service } => remove(context, service).await,
        }
    }
}

impl Publish {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let allow = parse_allow(&self.allow).map_err(|why| {
            ApiError::usage(
                "bad-allow",
                why,
                format!("name nodes with --allow NODE, or --allow {ANY_ENROLLED} alone"),
            )
        })?;
        let service = stoq_config::Service::new(self.name, self.to, allow)
            .map_err(|why| ApiError::usage("bad-service", why, ""))?;
        let request =
            ServicePublish { name: service.name, target: service.to, allow: service.allow };
        let done = context.call(request).await?;
        let service = &done.service;
        let note = match service.allow {
            Allow::Nobody => format!(
                "{} is published, but nobody may attach: publish it with --allow",
                service.name
            ),
            _ => format!("{} is published to {}", service.name, allowed(&service.allow)),
        };
        Ok(context.report(&done)?.note(note))
    }
}

impl Attach {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let wanted = stoq_config::Attachment::new(self.service, self.listen)
            .map_err(|why| ApiError::usage("bad-attachment", why, ""))?;
        let ServiceAddress { service, node } = wanted.service;
        let request = ServiceAttach { service, node, listen: wanted.listen };
        let done = context.call(request).await?;
        let made = &done.attachment;
        let note = format!("{}@{} is offered at the socket below", made.service, made.node);
        Ok(context.report(&done)?.note(note).text(made.listen.to_string()))
    }
}

async fn list(context: &Context) -> Result<Report, ApiError> {
    let listed = context.call(ServiceList {}).await?;
    let published = listed.published.iter().map(published_row).collect();
    let attached = listed.attached.iter().map(attached_row).collect();
    let published_head = ["published", "target", "allowed", "declared", "open flows", "all flows"];
    let attached_head = ["attached", "listening", "session", "declared", "open flows", "all flows"];
    Ok(context.report(&listed)?.table(&published_head, published, "nothing is published").table(
        &attached_head,
        attached,
        "nothing is attached",
    ))
}

fn published_row(service: &PublishedService) -> Vec<Cell> {
    vec![
        cell(&service.name),
        cell(&service.target),
        cell(allowed(&service.allow)),
        cell(declared(service.origin)),
        Cell::figure(service.flows_open),
        Cell::figure(service.flows_total),
    ]
}

fn attached_row(attachment: &Attachment) -> Vec<Cell> {
    let session = match attachment.connected {
        true => Cell::toned("up", Tone::Good),
        false => cell("none"),
    };
    vec![
        cell(format!("{}@{}", attachment.service, attachment.node)),
        cell(&attachment.listen),
        session,
        cell(declared(attachment.origin)),
        Cell::figure(attachment.flows_open),
        Cell::figure(attachment.flows_total),
    ]
}

fn allowed(allow: &Allow) -> String {
    match allow {
        Allow::Nobody => "nobody".to_owned(),
        _ => show_allow(allow).join(", "),
    }
}

fn declared(origin: ServiceOrigin) -> &'static str {
    match origin {
        ServiceOrigin::Config => "stoqd.toml",
        ServiceOrigin::Operator => "stoqctl",
    }
}

async fn remove(context: &Context, service: Removal) -> Result<Report, ApiError> {
    let done = context.call(ServiceRemove { name: service.name, node: service.node }).await?;
    let mut report = context.report(&done)?;
    if let Some(published) = &done.published {
        report = report.note(format!("{} is no longer published", published.name));
    }
    for attached in &done.attached {
        let Attachment { service, node, listen, .. } = attached;
        report = report.note(format!("{service}@{node} is no longer offered at {listen}"));
    }
    Ok(report)
}
