//! The nodes this authority has enrolled: who, reachable where, with which certificate. One JSON file,
//! replaced in one step. Not a source of trust: certificates are.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddrV6;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use stoq_interface::NodeId;

use crate::files;

/// Nodes one registry holds
pub const REGISTRY_LIMIT_NODES: usize = 65_536;
const FILE_LIMIT_BYTES: u64 = 64 << 20;
const VERSION: u32 = 1;

/// One enrolled node
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolledNode {
    /// The node
    #[serde(with = "node_text")]
    pub node: NodeId,
    /// Where it says it listens for STOQ; for dialling, and proven only by its certificate when dialled
    pub address: SocketAddrV6,
    /// Serial of its certificate, lower-case hexadecimal
    pub serial: String,
    /// SHA-256 of its SubjectPublicKeyInfo, hexadecimal
    pub spki_sha256: String,
    /// Last second of validity, since 1970
    pub not_after: u64,
}

/// Why the registry cannot be read or written
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file does not parse
    #[error("{path} is damaged ({reason}); restore it from a backup")]
    Damaged {
        /// The file
        path: PathBuf,
        /// What is wrong
        reason: String,
    },
    /// No room for another node
    #[error("the registry holds {REGISTRY_LIMIT_NODES} nodes, its limit")]
    Full,
    /// The file system refused
    #[error("{path}: {source}")]
    Io {
        /// The file
        path: PathBuf,
        /// What it said
        source: io::Error,
    },
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    nodes: Vec<EnrolledNode>,
}

/// The open registry
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    nodes: Mutex<BTreeMap<NodeId, EnrolledNode>>,
}

impl Registry {
    /// Opens the registry; a file that does not exist is an empty one
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        let nodes = match files::read_limited(path, FILE_LIMIT_BYTES) {
            Ok(bytes) => parse(path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(RegistryError::Io { path: path.to_owned(), source }),
        };
        Ok(Self { path: path.to_owned(), nodes: Mutex::new(nodes) })
    }

    /// Adds a node or replaces its entry, durable before this returns
    pub fn record(&self, node: EnrolledNode) -> Result<(), RegistryError> {
        let mut nodes = self.nodes();
        if nodes.len() >= REGISTRY_LIMIT_NODES && !nodes.contains_key(&node.node) {
            return Err(RegistryError::Full);
        }
        let mut next = nodes.clone();
        next.insert(node.node.clone(), node);
        let document = Document { version: VERSION, nodes: next.values().cloned().collect() };
        serde_json::to_vec_pretty(&document)
            .map_err(io::Error::other)
            .and_then(|bytes| files::replace(&self.path, files::PRIVATE, &bytes))
            .map_err(|source| RegistryError::Io { path: self.path.clone(), source })?;
        *nodes = next;
        Ok(())
    }

    /// Whether another node may still be added
    pub fn has_room_for(&self, node: &NodeId) -> bool {
        let nodes = self.nodes();
        nodes.len() < REGISTRY_LIMIT_NODES || nodes.contains_key(node)
    }

    /// One node
    pub fn get(&self, node: &NodeId) -> Option<EnrolledNode> {
        self.nodes().get(node).cloned()
    }

    /// Every node, by name
    pub fn nodes_by_name(&self) -> Vec<EnrolledNode> {
        self.nodes().values().cloned().collect()
    }

    /// The node that was certified for a key
    pub fn node_of_key(&self, spki_sha256: &str) -> Option<NodeId> {
        let nodes = self.nodes();
        nodes.values().find(|node| node.spki_sha256 == spki_sha256).map(|node| node.node.clone())
    }

    /// The map is only ever exchanged as a whole, so a panicking holder leaves no half change
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, EnrolledNode>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<BTreeMap<NodeId, EnrolledNode>, RegistryError> {
    let damaged = |reason: String| RegistryError::Damaged { path: path.to_owned(), reason };
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if document.version != VERSION {
        return Err(damaged(format!("version {} is not {VERSION}", document.version)));
    }
    if document.nodes.len() > REGISTRY_LIMIT_NODES {
        return Err(RegistryError::Full);
    }
    let mut nodes = BTreeMap::new();
    for node in document.nodes {
        if let Some(twice) = nodes.insert(node.node.clone(), node) {
            return Err(damaged(format!("node {} stands there twice", twice.node)));
        }
    }
    Ok(nodes)
}

/// A node name as a JSON string
pub(crate) mod node_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use stoq_interface::NodeId;

    pub(crate) fn serialize<S: Serializer>(node: &NodeId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(node.as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<NodeId, D::Error> {
        NodeId::new(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, serial: &str) -> EnrolledNode {
        EnrolledNode {
            node: NodeId::new(name).unwrap(),
            address: "[::1]:8444".parse().unwrap(),
            serial: serial.into(),
            spki_sha256: format!("key of {name}"),
            not_after: 7,
        }
    }

    #[test]
    fn nodes_survive_reopening_and_replace_themselves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.json");
        let registry = Registry::open(&path).unwrap();
        registry.record(node("beta", "01")).unwrap();
        registry.record(node("alpha", "02")).unwrap();
        registry.record(node("beta", "03")).unwrap();
        let again = Registry::open(&path).unwrap();
        assert_eq!(again.nodes_by_name(), [node("alpha", "02"), node("beta", "03")]);
        assert_eq!(again.node_of_key("key of beta"), Some(NodeId::new("beta").unwrap()));
        assert_eq!(again.get(&NodeId::new("gamma").unwrap()), None);
    }

    #[test]
    fn a_damaged_file_is_refused_not_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.json");
        let twice = Document { version: 1, nodes: vec![node("a", "1"), node("a", "2")] };
        let twice = serde_json::to_string(&twice).unwrap();
        for damage in ["", "{}", r#"{"version":2,"nodes":[]}"#, &twice] {
            std::fs::write(&path, damage).unwrap();
            assert!(
                matches!(Registry::open(&path), Err(RegistryError::Damaged { .. })),
                "{damage}"
            );
        }
    }
}
