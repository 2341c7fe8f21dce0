//! What the control plane tells the data plane: one immutable snapshot, published atomically and read by
//! each worker once per turn of its loop. A dead control plane leaves the last snapshot in force.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::{
    Denied, Freshness, Limits, NodeId, Pins, ServiceName, Transparency, TransportSettings,
    WallClock,
};

/// A private key as PKCS #8 DER; never printed, wiped when dropped
#[derive(Clone)]
pub struct PrivateKey(Arc<WipedBytes>);

struct WipedBytes(Vec<u8>);

impl Drop for WipedBytes {
    fn drop(&mut self) {
        // `black_box` keeps the stores: the buffer is read once more after them.
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}

impl PrivateKey {
    /// Takes over PKCS #8 DER
    pub fn from_pkcs8_der(der: Vec<u8>) -> Self {
        Self(Arc::new(WipedBytes(der)))
    }

    /// The PKCS #8 DER
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.0.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// Who this node is: the leaf certificate and its key
#[derive(Clone, Debug)]
pub struct Identity {
    /// The node the certificate names
    pub node: NodeId,
    /// Leaf first; the leaf alone goes on the wire where the peer's anchor is the issuing authority
    pub chain_der: Vec<Vec<u8>>,
    /// The leaf's key
    pub key: PrivateKey,
    /// End of the leaf's validity
    pub not_after: SystemTime,
    /// The leaf's serial number, lower-case hexadecimal
    pub serial: String,
}

/// An issuing authority that the control plane has verified against the root for this epoch
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustAnchor {
    /// The issuing authority's certificate
    pub certificate_der: Vec<u8>,
    /// Start of its validity; the path validator ignores an anchor's own dates, so they are checked apart
    pub not_before: SystemTime,
    /// End of its validity
    pub not_after: SystemTime,
}

/// Which nodes may attach to a service
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Allow {
    /// Nobody: the default
    #[default]
    Nobody,
    /// Every node with a valid certificate
    AnyEnrolled,
    /// These nodes only
    Nodes(BTreeSet<NodeId>),
}

impl Allow {
    /// Whether `node` may attach
    pub fn permits(&self, node: &NodeId) -> bool {
        match self {
            Self::Nobody => false,
            Self::AnyEnrolled => true,
            Self::Nodes(nodes) => nodes.contains(node),
        }
    }
}

/// The services this node publishes, and to whom
pub type ServiceTable = BTreeMap<ServiceName, Allow>;

/// Everything the data plane knows about the world, for one epoch
#[derive(Clone, Debug, Default)]
pub struct ControlSnapshot {
    /// Grows by one with every published snapshot
    pub epoch: u64,
    /// Without an identity the endpoint neither accepts nor dials
    pub identity: Option<Identity>,
    /// The authorities whose leaves are accepted; an empty list accepts nobody
    pub trust: Vec<TrustAnchor>,
    /// The logs one of which must have taken a peer's certificate
    pub transparency: Transparency,
    /// Certificates, keys and authorities that are refused although they verify, in handshakes and on live
    /// connections
    pub denied: Arc<Denied>,
    /// Pinned keys; `None` where nothing is pinned
    pub pins: Option<Arc<Pins>>,
    /// Until when new connections may go by `denied`; `None` for ever
    pub deny_list_freshness: Option<Freshness>,
    /// What time certificates are judged by
    pub clock: WallClock,
    /// Published services
    pub services: ServiceTable,
    /// Bounds
    pub limits: Limits,
    /// Transport behaviour for connections made under this snapshot
    pub transport: TransportSettings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_may_attach_unless_named() {
        let alpha = NodeId::new("alpha").unwrap();
        let beta = NodeId::new("beta").unwrap();
        assert!(!Allow::default().permits(&alpha));
        assert!(Allow::AnyEnrolled.permits(&alpha));
        let only = Allow::Nodes(BTreeSet::from([alpha.clone()]));
        assert!(only.permits(&alpha) && !only.permits(&beta));
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", PrivateKey::from_pkcs8_der(vec![1, 2, 3])), "PrivateKey(..)");
    }
}
