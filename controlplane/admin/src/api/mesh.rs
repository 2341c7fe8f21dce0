//! The authorities under one root: which are known, telling one of another, and passing on what an operator orders an
//! authority elsewhere to do.

use std::net::SocketAddrV6;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use stoq_interface::NodeId;

use crate::text::{plain, timestamp};

/// Asks for [`CaAuthoritiesListed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaAuthorities {}

/// An authority of the mesh
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct KnownAuthority {
    /// Its name, which is that of its node
    #[serde(with = "plain")]
    pub instance: NodeId,
    /// Key identifier of its issuing key, hexadecimal
    pub issuing_key_id: String,
    /// SHA-256 of its log's key, hexadecimal
    pub log_id: String,
    /// Where its node listens for STOQ, if it said so
    pub address: Option<SocketAddrV6>,
    /// End of its certificate
    #[serde(with = "timestamp")]
    pub not_after: SystemTime,
    /// Whether it is this node's own
    pub is_own: bool,
}

/// The authorities whose nodes this one accepts, whose logs count here and whose deny-lists are followed
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaAuthoritiesListed {
    /// By name
    pub authorities: Vec<KnownAuthority>,
}

/// Asks for [`CaExported`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaExport {}

/// What this node's authority says of itself
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaExported {
    /// Its name
    #[serde(with = "plain")]
    pub instance: NodeId,
    /// Signed with its issuing key; PEM
    pub statement_pem: String,
}

/// Has this node know an authority of its own root, and so all who ask this node's authority
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaTrust {
    /// What [`CaExported`] had on the authority's node
    pub statement_pem: String,
}

/// Which authority is known now
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaTrusted {
    /// It
    pub authority: KnownAuthority,
    /// Whether it said something new
    pub is_news: bool,
}

/// Passes an operator's signed order on to the authority of another node
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaOperate {
    /// The node whose authority is to carry it out
    #[serde(with = "plain")]
    pub authority: NodeId,
    /// `OperateRequest` of trustchain.proto; PEM
    pub order_pem: String,
}

/// What the authority answered
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaOperated {
    /// The reply of the method that was ordered; PEM
    pub reply_pem: String,
}

/// Label of a statement in PEM
pub const STATEMENT_LABEL: &str = "STOQ AUTHORITY STATEMENT";
/// Label of an order in PEM
pub const ORDER_LABEL: &str = "STOQ OPERATOR ORDER";
/// Label of the reply to an order in PEM
pub const REPLY_LABEL: &str = "STOQ OPERATOR REPLY";
