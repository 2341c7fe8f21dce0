//! Measuring between two nodes: a bulk flow through the daemons' own workers, counted, timed and verified by
//! whoever receives it.

use serde::{Deserialize, Serialize};
use stoq_interface::NodeId;

use crate::Id;
use crate::text::plain;

/// Starts a measurement
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MeasureStart {
    /// The other node; it answers where its `transport.perf` is on
    #[serde(with = "plain")]
    pub node: NodeId,
    /// Octets to move
    pub bytes: u64,
    /// From the other node to this one
    #[serde(default)]
    pub reverse: bool,
}

/// The measurement runs
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct MeasureStarted {
    /// Its id, for as long as the daemon remembers it
    pub measurement: Id,
}

/// Asks how far a measurement is
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MeasureShow {
    /// Its id
    pub measurement: Id,
}

/// How far a measurement is
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct MeasureShown {
    /// Whether it is over
    pub done: bool,
    /// Why it failed, where it did
    pub failure: Option<String>,
    /// Octets to move
    pub bytes: u64,
    /// Octets moved so far, seen from this node
    pub bytes_done: u64,
    /// Time so far; once done, from the first octet to the last at the receiver
    pub seconds: f64,
    /// Goodput: flow octets at the receiver over its time; absent until done
    pub bits_per_second: Option<f64>,
    /// Whether the receiver's BLAKE3 of everything agreed with the sender's; absent until done
    pub verified: Option<bool>,
    /// Octets that were sent and did not arrive; absent until done
    pub lost_bytes: Option<u64>,
    /// Connections of the session replaced meanwhile
    pub connection_replacements: u64,
    /// Connections of the session lost meanwhile
    pub connection_losses: u64,
    /// Flow octets sent again on another connection meanwhile, by this node
    pub bytes_resent: u64,
}
