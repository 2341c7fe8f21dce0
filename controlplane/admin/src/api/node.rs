//! This node's identity, the peers it knows, and how nodes are enrolled.

use std::net::SocketAddrV6;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use stoq_interface::NodeId;

use crate::text::{address, plain, plain_option, timestamp};

/// A certificate in use
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Certificate {
    /// Serial number, lower-case hexadecimal
    pub serial: String,
    /// SHA-256 over the certificate, as `stoqctl root fingerprint` writes one: `sha256:` and 64 digits
    pub fingerprint: String,
    /// Start of validity
    #[serde(with = "timestamp")]
    pub not_before: SystemTime,
    /// End of validity
    #[serde(with = "timestamp")]
    pub not_after: SystemTime,
}

/// The keys of the chain in use, as pins write them: `spki-sha256:` and 64 hexadecimal digits
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ChainPins {
    /// Of the root
    pub root: String,
    /// Of the issuing key
    pub issuing: String,
    /// Of the node's certificate; another one with each certificate
    pub leaf: String,
}

/// Asks for [`NodeShown`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NodeShow {}

/// Who this node is
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeShown {
    /// Its name
    #[serde(with = "plain")]
    pub node: NodeId,
    /// Its certificate, once it has one
    pub certificate: Option<Certificate>,
    /// The root it trusts, `sha256:` and 64 digits: what a join token pins
    pub root_fingerprint: Option<String>,
    /// The keys of its chain
    pub pins: Option<ChainPins>,
    /// The node whose authority issued the certificate; this node itself where it runs one
    #[serde(with = "plain_option")]
    pub issuer: Option<NodeId>,
    /// Addresses it listens on
    pub addresses: Vec<SocketAddrV6>,
}

/// How this node came to know a peer
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerSource {
    /// Named in stoqd.toml
    Config,
    /// Enrolled here, or the node this one enrolled with
    Enrolled,
    /// Added by an operator
    Added,
    /// An authority of the mesh that said so itself
    Authority,
}

/// A node this one knows
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Peer {
    /// Its name
    #[serde(with = "plain")]
    pub node: NodeId,
    /// Where it is dialled, if that is known
    pub address: Option<SocketAddrV6>,
    /// How it came to be known
    pub source: PeerSource,
    /// Sessions now held with it
    pub sessions: usize,
}

/// Asks for [`NodeListed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NodeList {}

/// Known peers
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeListed {
    /// By name
    pub peers: Vec<Peer>,
}

/// Remembers a peer
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NodeAdd {
    /// Its name, which its certificate must prove
    #[serde(with = "plain")]
    pub node: NodeId,
    /// Where it listens
    #[serde(with = "address")]
    pub address: SocketAddrV6,
}

/// The peer as it is now known
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeAdded {
    /// The peer
    pub peer: Peer,
}

/// Forgets a peer
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRemove {
    /// Its name
    #[serde(with = "plain")]
    pub node: NodeId,
}

/// The peer as it was known
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeRemoved {
    /// The peer
    pub peer: Peer,
}

/// Makes a join token
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NodeTokenCreate {
    /// The node that may enrol with it
    #[serde(with = "plain")]
    pub node: NodeId,
    /// Time until it expires
    pub lifetime_seconds: u64,
}

/// A join token; a secret until it is used
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeTokenCreated {
    /// The node that may enrol with it
    #[serde(with = "plain")]
    pub node: NodeId,
    /// The token: one word, holding the address, the root's fingerprint and the secret
    pub token: String,
    /// When it expires
    #[serde(with = "timestamp")]
    pub expires_at: SystemTime,
    /// The root the joining node will trust
    pub root_fingerprint: String,
}

/// Enrols this node
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NodeJoin {
    /// What `node token create` printed on the other node
    pub token: String,
}

impl std::fmt::Debug for NodeJoin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeJoin(..)")
    }
}

/// The identity after joining
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeJoined {
    /// The name this node now bears
    #[serde(with = "plain")]
    pub node: NodeId,
    /// The node that issued the certificate
    #[serde(with = "plain")]
    pub issuer: NodeId,
    /// Its new certificate
    pub certificate: Certificate,
    /// The root it now trusts
    pub root_fingerprint: String,
}
