//! What a run tells of its trains, its losses and its keys: counts of both ends' workers, put in order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stoq_interface::{KEY_PACKETS, TRAIN_LENGTHS, TrainEnd};

use super::ends::{Ends, ratio};
use super::report::Loss;

/// Trains that left one end, during the measured time
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct TrainsSent {
    /// Datagrams per train
    pub mean: Option<f64>,
    /// Trains by how many datagrams they hold
    pub by_length: BTreeMap<String, u64>,
    /// Trains by why they are not longer
    pub ended: BTreeMap<String, u64>,
    /// Trains that were not begun when a connection had its turn, by what held them back: they were begun later
    pub held_back: BTreeMap<String, u64>,
}

/// Trains that reached one end, during the measured time
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct TrainsReceived {
    /// Datagrams per train
    pub mean: Option<f64>,
    /// Trains by how many datagrams they hold
    pub by_length: BTreeMap<String, u64>,
}

/// Trains of one end
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct EndTrains {
    /// As they left
    pub sent: TrainsSent,
    /// As they came
    pub received: TrainsReceived,
}

/// Trains of both ends
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Trains {
    /// The end that sends flow octets
    pub sender: EndTrains,
    /// The end that receives them
    pub receiver: EndTrains,
}

impl EndTrains {
    pub(super) fn of(ends: &Ends<'_>) -> Self {
        let table = |table: &str, labels: &[&str]| -> BTreeMap<String, u64> {
            let value = |label: &&str| ((*label).to_owned(), ends.sum(&format!("{table}.{label}")));
            labels.iter().map(value).collect()
        };
        let held = |name: &str| ends.sum(&format!("trains_held_by_{name}"));
        let mean = |way: &str| {
            let sum = |what: &str| ends.sum(&format!("{what}_{way}"));
            ratio(sum("datagrams"), sum("trains"))
        };
        Self {
            sent: TrainsSent {
                mean: mean("sent"),
                by_length: table("trains_sent_by_length", &TRAIN_LENGTHS),
                ended: table("train_ends", &TrainEnd::ALL.map(TrainEnd::label)),
                held_back: ["pacing", "pool"].map(|name| (name.to_owned(), held(name))).into(),
            },
            received: TrainsReceived {
                mean: mean("received"),
                by_length: table("trains_received_by_length", &TRAIN_LENGTHS),
            },
        }
    }
}

/// What was lost and what that cost, over the whole run
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Losses {
    /// Packets by cause
    #[serde(flatten)]
    pub packets: Loss,
    /// Octets of stream data that the sender sent again on the same connection
    pub stream_bytes_retransmitted: u64,
    /// Flow octets sent again on another connection
    pub flow_bytes_resent: u64,
    /// Datagrams of at most 512 octets that the receiver sent: acknowledgements and control frames, which
    /// quiche does not tell apart
    pub small_datagrams_sent_by_receiver: u64,
    /// Of those, arrived at the sender
    pub small_datagrams_received_by_sender: u64,
}

impl Losses {
    pub(super) fn of(packets: Loss, sender: &Ends<'_>, receiver: &Ends<'_>) -> Self {
        Self {
            packets,
            stream_bytes_retransmitted: sender.over_the_run("stream_bytes_retransmitted"),
            flow_bytes_resent: sender.over_the_run("flow_bytes_resent"),
            small_datagrams_sent_by_receiver: receiver.over_the_run("small_datagrams_sent"),
            small_datagrams_received_by_sender: sender.over_the_run("small_datagrams_received"),
        }
    }
}

/// How far a key came towards what it may protect
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct PacketsPerKey {
    /// Packets one key may protect (RFC 9001 section 6.6)
    pub limit: u64,
    /// Most that one connection's keys protected, either way, at either end
    pub most: u64,
    /// Of the limit
    pub share: f64,
}

impl PacketsPerKey {
    pub(super) fn of(ends: [&Ends<'_>; 2]) -> Self {
        let most = ends.map(Ends::packets_per_key).into_iter().max().unwrap_or(0);
        Self { limit: KEY_PACKETS, most, share: most as f64 / KEY_PACKETS as f64 }
    }
}
