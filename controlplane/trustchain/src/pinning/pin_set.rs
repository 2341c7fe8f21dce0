//! The pins of a node: refused where they could lock it out or leave it without a backup, and asked in every
//! handshake. How one set becomes another without a gap is in `rollover`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use stoq_interface::NodeId;

use super::pin::{ChainKeys, Pin, Tier};
use crate::certificate::unix_seconds;

/// Pins of roots, and of issuing keys
pub const PINS_PER_TIER_LIMIT: usize = 64;
/// Peers with pins of their own
pub const PEERS_LIMIT: usize = 65_536;
/// Pins of one peer
pub const PINS_PER_PEER_LIMIT: usize = 16;

/// Why a set of pins is refused
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PinSetError {
    /// A chain in use is not pinned
    #[error(
        "no {tier} pin is for the key in use ({key}), so every handshake would be refused; add \
         that pin"
    )]
    LocksOut {
        /// Where
        tier: Tier,
        /// What is in use
        key: Pin,
    },
    /// Every pin is for a key in use
    #[error(
        "no {tier} pin is a backup: if the key in use is lost or stolen, no node could follow to \
         another; make the next key now, keep it offline, and pin it too"
    )]
    NoBackup {
        /// Where
        tier: Tier,
    },
    /// A peer's present chain does not match
    #[error(
        "none of the pins for {peer} is for its chain in use, so it would be refused; add a pin of \
         its issuing key"
    )]
    LocksOutPeer {
        /// Whom
        peer: NodeId,
    },
    /// A peer without backup
    #[error(
        "the pins for {peer} have no backup: pin a second key that its chain does not use now, such \
         as the next issuing key"
    )]
    NoPeerBackup {
        /// Whose
        peer: NodeId,
    },
    /// Too many pins
    #[error("more than {limit} {what} are not kept")]
    TooMany {
        /// Of what
        what: &'static str,
        /// The limit
        limit: usize,
    },
}

impl PinSetError {
    /// The label used in logs, metrics and JSON
    pub const fn label(&self) -> &'static str {
        match self {
            Self::LocksOut { .. } => "locks_out",
            Self::NoBackup { .. } => "no_backup",
            Self::LocksOutPeer { .. } => "locks_out_peer",
            Self::NoPeerBackup { .. } => "no_peer_backup",
            Self::TooMany { .. } => "too_many",
        }
    }
}

/// Why a chain is refused in the handshake
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PinRefusal {
    /// The root's key is not pinned
    #[error("the chain leads to a root whose key is not pinned")]
    Root,
    /// The issuing authority's key is not pinned
    #[error("the chain was issued with a key that is not pinned")]
    Issuing,
    /// The peer has pins, and none is of this chain
    #[error("the peer has pins of its own and none of them is for a key of this chain")]
    Peer,
}

impl PinRefusal {
    /// Every refusal
    pub const ALL: [Self; 3] = [Self::Root, Self::Issuing, Self::Peer];

    /// The label used in logs, metrics and JSON
    pub const fn label(self) -> &'static str {
        match self {
            Self::Root => "root_not_pinned",
            Self::Issuing => "issuing_not_pinned",
            Self::Peer => "peer_not_pinned",
        }
    }
}

/// A set of pins as it is kept; it counts only once [`PinSet::from_record`] has checked it
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PinSetRecord {
    /// Grows with every change
    pub version: u64,
    /// Pins of roots, each with the second since 1970 it was added
    pub roots: BTreeMap<Pin, u64>,
    /// Pins of issuing keys, likewise
    pub issuing: BTreeMap<Pin, u64>,
    /// Pins of peers
    pub peers: BTreeMap<String, Vec<Pin>>,
}

/// Pins with the second since 1970 they were added
pub(super) type Dated = BTreeMap<Pin, u64>;

/// The pins in force
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinSet {
    pub(super) version: u64,
    pub(super) roots: Dated,
    pub(super) issuing: Dated,
    pub(super) peers: BTreeMap<NodeId, Vec<Pin>>,
}

impl PinSet {
    /// A first set. `current` is this node's own chain: it has to match, and each tier needs a backup that is
    /// not in it.
    pub fn new(
        roots: impl IntoIterator<Item = Pin>,
        issuing: impl IntoIterator<Item = Pin>,
        current: &ChainKeys,
        now: SystemTime,
    ) -> Result<Self, PinSetError> {
        let added = unix_seconds(now);
        let set = Self {
            version: 1,
            roots: roots.into_iter().map(|pin| (pin, added)).collect(),
            issuing: issuing.into_iter().map(|pin| (pin, added)).collect(),
            peers: BTreeMap::new(),
        };
        set.check(current)?;
        Ok(set)
    }

    /// A set that was kept; judged like a new one
    pub fn from_record(record: &PinSetRecord, current: &ChainKeys) -> Result<Self, RecordError> {
        let mut peers = BTreeMap::new();
        for (name, pins) in &record.peers {
            let name = NodeId::new(name).map_err(|_| RecordError::Peer(name.clone()))?;
            check_peer(&name, pins, None)?;
            peers.insert(name, pins.clone());
        }
        let set = Self {
            version: record.version,
            roots: record.roots.clone(),
            issuing: record.issuing.clone(),
            peers,
        };
        set.check(current)?;
        Ok(set)
    }

    /// The set as it is kept
    pub fn to_record(&self) -> PinSetRecord {
        let peers = self.peers.iter().map(|(name, pins)| (name.to_string(), pins.clone()));
        PinSetRecord {
            version: self.version,
            roots: self.roots.clone(),
            issuing: self.issuing.clone(),
            peers: peers.collect(),
        }
    }

    /// Judges a chain in the handshake, after its signatures were verified: its root and its issuing key must
    /// be pinned, and where the peer has pins of its own, one of them must be of this chain.
    pub fn evaluate(&self, chain: &ChainKeys, peer: &NodeId) -> Result<(), PinRefusal> {
        if !self.roots.contains_key(&chain.root) {
            return Err(PinRefusal::Root);
        }
        if !self.issuing.contains_key(&chain.issuing) {
            return Err(PinRefusal::Issuing);
        }
        match self.peers.get(peer) {
            Some(pins) if !pins.iter().any(|pin| chain.contains(pin)) => Err(PinRefusal::Peer),
            _ => Ok(()),
        }
    }

    /// Grows with every change
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The pins of a tier
    pub fn pins(&self, tier: Tier) -> impl Iterator<Item = &Pin> {
        self.tier(tier).keys()
    }

    /// The pins of a peer; none where it has none of its own
    pub fn peer_pins(&self, peer: &NodeId) -> &[Pin] {
        self.peers.get(peer).map_or(&[], Vec::as_slice)
    }

    pub(super) fn tier(&self, tier: Tier) -> &Dated {
        match tier {
            Tier::Root => &self.roots,
            Tier::Issuing => &self.issuing,
        }
    }

    /// That the node would not lock itself out, now or when a key is lost
    pub(super) fn check(&self, current: &ChainKeys) -> Result<(), PinSetError> {
        for tier in Tier::ALL {
            let (pins, key) = (self.tier(tier), current.of(tier));
            if pins.len() > PINS_PER_TIER_LIMIT {
                let limit = PINS_PER_TIER_LIMIT;
                return Err(PinSetError::TooMany { what: "pins of one tier", limit });
            }
            if !pins.contains_key(&key) {
                return Err(PinSetError::LocksOut { tier, key });
            }
            if !pins.keys().any(|pin| !current.contains(pin)) {
                return Err(PinSetError::NoBackup { tier });
            }
        }
        if self.peers.len() > PEERS_LIMIT {
            return Err(PinSetError::TooMany { what: "peers with pins", limit: PEERS_LIMIT });
        }
        Ok(())
    }
}

/// Why a kept set is refused
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// A peer's name does not parse
    #[error("`{0}` is no name of a node")]
    Peer(String),
    /// The set could lock the node out
    #[error(transparent)]
    Set(#[from] PinSetError),
}

/// A peer's pins need a backup; where its chain is known, one must match it and one must not
pub(super) fn check_peer(
    peer: &NodeId,
    pins: &[Pin],
    current: Option<&ChainKeys>,
) -> Result<(), PinSetError> {
    if pins.len() > PINS_PER_PEER_LIMIT {
        let limit = PINS_PER_PEER_LIMIT;
        return Err(PinSetError::TooMany { what: "pins of one peer", limit });
    }
    let no_backup = Err(PinSetError::NoPeerBackup { peer: peer.clone() });
    if !pins.iter().any(|pin| *pin != pins[0]) {
        return no_backup;
    }
    match current {
        Some(chain) if !pins.iter().any(|pin| chain.contains(pin)) => {
            Err(PinSetError::LocksOutPeer { peer: peer.clone() })
        }
        Some(chain) if pins.iter().all(|pin| chain.contains(pin)) => no_backup,
        _ => Ok(()),
    }
}
