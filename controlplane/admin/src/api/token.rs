//! Join tokens: making one, what waits for use, taking one back. `node token create` makes them as well.

use std::net::Ipv6Addr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use stoq_interface::NodeId;

use crate::text::{plain, timestamp};

/// Makes a join token
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// The node that may enrol with it
    #[serde(with = "plain")]
    pub node: NodeId,
    /// Time until it expires
    pub lifetime_seconds: u64,
    /// Addresses that the node's certificates will carry
    #[serde(default)]
    pub addresses: Vec<Ipv6Addr>,
}

/// A join token; a secret until it is used
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct TokenCreated {
    /// Its public name, by which it is listed and revoked
    pub id: String,
    /// The node that may enrol with it
    #[serde(with = "plain")]
    pub node: NodeId,
    /// The token: one word
    pub token: String,
    /// When it expires
    #[serde(with = "timestamp")]
    pub expires_at: SystemTime,
    /// The root the joining node will trust
    pub root_fingerprint: String,
}

impl std::fmt::Debug for TokenCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenCreated({} for {}, ..)", self.id, self.node)
    }
}

/// A token that waits for use
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WaitingToken {
    /// Its public name
    pub id: String,
    /// The node that may enrol with it
    #[serde(with = "plain")]
    pub node: NodeId,
    /// When it expires
    #[serde(with = "timestamp")]
    pub expires_at: SystemTime,
}

/// Asks for [`TokenListed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenList {}

/// Tokens that wait for use; never the secrets
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TokenListed {
    /// Those that expire first before the others
    pub tokens: Vec<WaitingToken>,
}

/// Takes a token back
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRevoke {
    /// Its public name
    pub id: String,
}

/// The token that nobody can use any more
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TokenRevoked {
    /// As it was
    pub token: WaitingToken,
}
