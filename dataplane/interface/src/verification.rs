//! What a peer's certificate is held to beyond its signature and its dates: logs it must be in, what is denied
//! although it verifies, pinned keys, and how long the deny-list may be gone by. Filled in by the control plane.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use crate::{NodeId, PeerRefusal};

/// SHA-256 of a SubjectPublicKeyInfo in DER
pub type SpkiSha256 = [u8; 32];
/// The subject key identifier of an issuing authority, as its leaves carry it
/// (RFC 7093 section 2 method 1: 160 bits of SHA-256 over the public point)
pub type IssuerKeyId = [u8; 20];

/// A transparency log whose promises count
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogKey {
    /// SHA-256 of `spki_der`, as SCTs carry it (RFC 6962 section 3.2)
    pub log_id: [u8; 32],
    /// The log's P-256 key as SubjectPublicKeyInfo in DER
    pub spki_der: Vec<u8>,
}

/// Whether a certificate must have been logged before it is accepted
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Transparency {
    /// Not asked for: throwaway authorities of tests and benchmarks keep no log
    #[default]
    NotRequired,
    /// One SCT of one of these logs must verify; without a log nobody is accepted
    Required(Vec<LogKey>),
}

/// What is refused although it verifies
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Denied {
    /// Serial numbers: lower-case hexadecimal, two digits an octet, without leading zero octets. A serial has
    /// 128 random bits, so it names one certificate whoever issued it.
    pub serials: HashSet<String>,
    /// Keys of leaves
    pub keys: HashSet<SpkiSha256>,
    /// Keys of issuing authorities: every leaf of theirs is refused
    pub issuers: HashSet<IssuerKeyId>,
}

impl Denied {
    /// Why a leaf is refused, if it is
    pub fn refusal(
        &self,
        issuer: &IssuerKeyId,
        serial: &str,
        key: &SpkiSha256,
    ) -> Option<PeerRefusal> {
        if self.serials.contains(serial) {
            Some(PeerRefusal::Revoked)
        } else if self.keys.contains(key) {
            Some(PeerRefusal::KeyRevoked)
        } else if self.issuers.contains(issuer) {
            Some(PeerRefusal::IssuerRevoked)
        } else {
            None
        }
    }

    /// Whether nothing is denied
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty() && self.keys.is_empty() && self.issuers.is_empty()
    }
}

/// Keys that are accepted beyond what their signatures prove
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pins {
    /// Keys of roots
    pub roots: BTreeSet<SpkiSha256>,
    /// Keys of issuing authorities
    pub issuing: BTreeSet<SpkiSha256>,
    /// Pins of single peers: one of them must be of the leaf, its authority or its root
    pub peers: BTreeMap<NodeId, BTreeSet<SpkiSha256>>,
    /// The key of the root behind each issuing key, as the control plane has verified it
    pub root_of: BTreeMap<SpkiSha256, SpkiSha256>,
}

impl Pins {
    /// Why a chain is refused, if it is
    pub fn refusal(
        &self,
        node: &NodeId,
        leaf: &SpkiSha256,
        issuing: &SpkiSha256,
    ) -> Option<PeerRefusal> {
        let root = self.root_of.get(issuing);
        if !root.is_some_and(|root| self.roots.contains(root)) {
            return Some(PeerRefusal::RootNotPinned);
        }
        if !self.issuing.contains(issuing) {
            return Some(PeerRefusal::IssuingNotPinned);
        }
        let pins = self.peers.get(node)?;
        let pinned = [Some(leaf), Some(issuing), root];
        let pinned = pinned.into_iter().flatten().any(|key| pins.contains(key));
        (!pinned).then_some(PeerRefusal::PeerNotPinned)
    }
}

/// How long new connections may go by the deny-list. A control plane that has died lets this pass.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Freshness {
    /// After this instant new connections are refused
    pub until: SystemTime,
    /// The same for leaves of single issuing authorities, each of which keeps its own list
    pub by_issuer: BTreeMap<IssuerKeyId, SystemTime>,
    /// Nodes that may connect all the same: the authorities, without whom no newer list would come
    pub exempt: BTreeSet<NodeId>,
}

impl Freshness {
    /// Until when a leaf of this authority may be accepted
    pub fn until_of(&self, issuer: &IssuerKeyId) -> SystemTime {
        self.by_issuer.get(issuer).copied().unwrap_or(self.until)
    }
}

/// What time certificates are judged by
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum WallClock {
    /// The host's
    #[default]
    Host,
    /// For tests: the host's until `from`, and from there on so many times as fast
    Accelerated {
        /// Where it leaves the host's clock
        from: SystemTime,
        /// How many seconds it shows for one of the host's; at least one
        rate: u32,
    },
}

impl WallClock {
    /// The time now
    pub fn now(self) -> SystemTime {
        self.at(SystemTime::now())
    }

    /// The time when the host's clock shows `host`
    pub fn at(self, host: SystemTime) -> SystemTime {
        match self {
            Self::Host => host,
            Self::Accelerated { from, rate } => match host.duration_since(from) {
                Ok(since) => from.checked_add(since * rate.max(1)).unwrap_or(host),
                Err(_before) => host,
            },
        }
    }

    /// The host's time in which this clock moves on by `shown`
    pub fn wait(self, shown: Duration) -> Duration {
        self.wait_from(SystemTime::now(), shown)
    }

    fn wait_from(self, host: SystemTime, shown: Duration) -> Duration {
        match self {
            Self::Host => shown,
            Self::Accelerated { from, rate } => {
                let alike = from.duration_since(host).unwrap_or_default().min(shown);
                alike + (shown - alike) / rate.max(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn each_kind_of_denial_has_its_own_reason() {
        let denied = Denied {
            serials: HashSet::from(["0a".to_owned()]),
            keys: HashSet::from([[1; 32]]),
            issuers: HashSet::from([[2; 20]]),
        };
        let refusal = |issuer, serial, key| denied.refusal(&[issuer; 20], serial, &[key; 32]);
        assert_eq!(refusal(9, "0a", 9), Some(PeerRefusal::Revoked));
        assert_eq!(refusal(9, "0b", 1), Some(PeerRefusal::KeyRevoked));
        assert_eq!(refusal(2, "0b", 9), Some(PeerRefusal::IssuerRevoked));
        assert_eq!(refusal(9, "0b", 9), None);
        assert!(!denied.is_empty() && Denied::default().is_empty());
    }

    #[test]
    fn each_kind_of_pin_has_its_own_reason() {
        let (alpha, beta) = (NodeId::new("alpha").unwrap(), NodeId::new("beta").unwrap());
        let pins = Pins {
            roots: BTreeSet::from([[3; 32]]),
            issuing: BTreeSet::from([[2; 32], [9; 32]]),
            peers: BTreeMap::from([(beta.clone(), BTreeSet::from([[1; 32]]))]),
            root_of: BTreeMap::from([([2; 32], [3; 32]), ([4; 32], [3; 32]), ([9; 32], [8; 32])]),
        };
        let refusal =
            |node: &NodeId, leaf, issuing| pins.refusal(node, &[leaf; 32], &[issuing; 32]);
        assert_eq!(refusal(&alpha, 7, 2), None);
        assert_eq!(refusal(&beta, 1, 2), None);
        assert_eq!(refusal(&beta, 7, 2), Some(PeerRefusal::PeerNotPinned));
        assert_eq!(refusal(&alpha, 7, 4), Some(PeerRefusal::IssuingNotPinned));
        assert_eq!(refusal(&alpha, 7, 9), Some(PeerRefusal::RootNotPinned));
        // An authority whose root nobody verified counts as one of no pinned root.
        assert_eq!(refusal(&alpha, 7, 5), Some(PeerRefusal::RootNotPinned));
    }

    #[test]
    fn an_accelerated_clock_agrees_with_the_host_until_it_leaves_it() {
        let from = UNIX_EPOCH + Duration::from_secs(1_000);
        let clock = WallClock::Accelerated { from, rate: 600 };
        let second = Duration::from_secs(1);
        assert_eq!(clock.at(from - second), from - second);
        assert_eq!(clock.at(from + second), from + 600 * second);
        assert_eq!(clock.wait_from(from - 5 * second, 3 * second), 3 * second);
        assert_eq!(clock.wait_from(from - 5 * second, 605 * second), 6 * second);
        assert_eq!(clock.wait_from(from + second, 600 * second), second);
        assert_eq!(WallClock::Host.wait(second), second);
    }
}
