//! Services: what this node publishes, and what it has attached from others.

use serde::{Deserialize, Serialize};
use stoq_config::Target;
use stoq_interface::{Allow, NodeId, ServiceName};

use crate::text::{allow, plain, plain_option};

/// Where a service was declared
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceOrigin {
    /// In stoqd.toml: removed there
    Config,
    /// With `stoqctl`: removed with `stoqctl service remove`
    Operator,
}

/// A service this node publishes
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PublishedService {
    /// Its name
    #[serde(with = "plain")]
    pub name: ServiceName,
    /// The local socket behind it
    #[serde(with = "plain")]
    pub target: Target,
    /// Who may attach
    #[serde(with = "allow")]
    pub allow: Allow,
    /// Where it was declared
    pub origin: ServiceOrigin,
    /// Flows now open
    pub flows_open: u64,
    /// Flows since the start
    pub flows_total: u64,
}

/// Another node's service, offered at a local socket
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Attachment {
    /// The service's name
    #[serde(with = "plain")]
    pub service: ServiceName,
    /// The node that publishes it
    #[serde(with = "plain")]
    pub node: NodeId,
    /// The local socket; the port as bound
    #[serde(with = "plain")]
    pub listen: Target,
    /// Where it was declared
    pub origin: ServiceOrigin,
    /// Whether a session with the node now stands
    pub connected: bool,
    /// Flows now open
    pub flows_open: u64,
    /// Flows since the start
    pub flows_total: u64,
}

/// Publishes a service
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePublish {
    /// Its name
    #[serde(with = "plain")]
    pub name: ServiceName,
    /// The local socket behind it
    #[serde(with = "plain")]
    pub target: Target,
    /// Who may attach; nobody by default
    #[serde(with = "allow", default)]
    pub allow: Allow,
}

/// The service as published
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServicePublished {
    /// The service
    pub service: PublishedService,
}

/// Attaches a service
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAttach {
    /// The service's name
    #[serde(with = "plain")]
    pub service: ServiceName,
    /// The node that publishes it
    #[serde(with = "plain")]
    pub node: NodeId,
    /// Where it is offered here; port 0 means any free port
    #[serde(with = "plain")]
    pub listen: Target,
}

/// The attachment as made
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceAttached {
    /// The attachment
    pub attachment: Attachment,
}

/// Asks for [`ServiceListed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceList {}

/// What is published and attached
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceListed {
    /// Services this node publishes
    pub published: Vec<PublishedService>,
    /// Services of other nodes
    pub attached: Vec<Attachment>,
}

/// Ends a publication, or with `node` an attachment
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRemove {
    /// The service's name
    #[serde(with = "plain")]
    pub name: ServiceName,
    /// The node that publishes it, for an attachment
    #[serde(with = "plain_option", default)]
    pub node: Option<NodeId>,
}

/// What was removed
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceRemoved {
    /// The publication that ended
    pub published: Option<PublishedService>,
    /// The attachments that ended: one service may be attached at several sockets
    pub attached: Vec<Attachment>,
}
