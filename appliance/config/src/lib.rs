//! The schema of `stoqd.toml`: what an operator may write, parsed into typed values or refused with file,
//! line, key, reason and remedy. One table of keys is the source of parsing, comparison, explanation and the
//! JSON Schema. This room opens no socket and starts nothing; apart from [`Config::read`] it is pure.
//!
//! The commented default file is the manual ([`DEFAULT_FILE`]); tests prove that it says what the code does.

#![forbid(unsafe_code)]

mod address;
mod check;
mod diff;
mod environment;
mod error;
mod json_schema;
mod kind;
mod manual;
mod place;
mod read;
mod rows;
mod schema;
mod sections;
mod value;
mod write;

pub use address::{AddressError, ServiceAddress, Target, parse_listen_address};
pub use diff::Change;
pub use environment::{Environment, EnvironmentError, Throughput, ThroughputError};
pub use error::{ConfigError, ConfigErrors, LoadError};
pub use place::{
    HostProblem, Placement, SOCKET_PATH_BYTES_MAX, Surroundings, node_name_from_host_name,
};
pub use rows::{Attachment, Peer, PeerPins, Service};
pub use sections::{
    CopyAccess, Cores, Etcd, EtcdTls, Hypermesh, HypermeshPolicy, IoChoice, Issuance, Listen, Log,
    LogFormat, Node, Operators, Role, Store, Trust, Workers,
};

use stoq_interface::{Allow, Limits, ServiceName, ServiceTable, TransportSettings};

/// The commented default file: the manual of every key, as `stoqd default-config` prints it
pub const DEFAULT_FILE: &str = include_str!("../defaults/stoqd.toml");

/// Largest configuration file that is read, in octets
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Rows of one kind (`[[service]]`, `[[attachment]]`, `[[peer]]`, `[[pin]]`) that a file may hold
pub const ROWS_MAX: usize = 4_096;

/// The service name under which `[copy]` is reached; no `[[service]]` may take it
pub const COPY_SERVICE: &str = "copy";

/// The service over which validators talk to each other; no `[[service]]` may take it
pub const HYPERMESH_SERVICE: &str = "hypermesh";

/// The name of the built-in measure service, answered where `transport.perf` is on
pub const MEASURE_SERVICE: &str = "measure";

/// Everything `stoqd.toml` says, validated
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Config {
    /// `[node]`: who this node is and what it does
    pub node: Node,
    /// `[listen]`: where it can be reached
    pub listen: Listen,
    /// `[workers]`: the threads of the data plane
    pub workers: Workers,
    /// `[transport]`: how connections behave
    pub transport: TransportSettings,
    /// `[limits]`: what peers and local programs may make this host hold
    pub limits: Limits,
    /// `[[service]]`: what is published, and to whom
    pub services: Vec<Service>,
    /// `[[attachment]]`: services of other nodes at local sockets
    pub attachments: Vec<Attachment>,
    /// `[[peer]]`: where other nodes are reached
    pub peers: Vec<Peer>,
    /// `[[pin]]`: the keys that are accepted of single nodes
    pub pins: Vec<PeerPins>,
    /// `[copy]`: which directories `stoqctl copy` may reach from another node
    pub copy: CopyAccess,
    /// `[trust]`: who renews this node's certificate, how old a deny-list may be, and which keys are accepted
    pub trust: Trust,
    /// `[hypermesh]`: this node's part in the validators' agreement
    pub hypermesh: Hypermesh,
    /// `[store]`: where the authority's records are
    pub store: Store,
    /// `[log]`: what is logged, and how
    pub log: Log,
}

impl Config {
    /// Parses the text of a file; `file` is only the name used in errors
    ///
    /// Every mistake is reported, not only the first, up to [`ConfigErrors::MAX`].
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigErrors> {
        read::parse(file, text)
    }

    /// Reads and parses a file of at most [`FILE_BYTES_MAX`] octets
    pub fn read(path: &std::path::Path) -> Result<Self, LoadError> {
        read::read(path)
    }

    /// What a change from `self` to `other` touches, key by key in the order of the manual
    pub fn diff(&self, other: &Self) -> Vec<Change> {
        diff::diff(self, other)
    }

    /// The manual's text on a key (`transport.pacing`, `service.to`) or a section (`transport`)
    pub fn explain(key: &str) -> Option<String> {
        manual::explain(key)
    }

    /// Every key of the schema, dotted, in the order of the manual
    pub fn keys() -> Vec<String> {
        let rows = rows::SECTIONS.iter().flat_map(|section| {
            section.keys.iter().map(|key| format!("{}.{}", section.name, key.name))
        });
        schema::KEYS.iter().map(|key| key.name.to_owned()).chain(rows).collect()
    }

    /// This configuration as a file that parses to the same values, every key written out
    pub fn effective_toml(&self) -> String {
        write::effective_toml(self)
    }

    /// A JSON Schema (draft 2020-12) of the file, for editors
    pub fn json_schema() -> serde_json::Value {
        json_schema::json_schema()
    }

    /// The bounds to publish in a snapshot
    pub fn limits(&self) -> Limits {
        self.limits.clone()
    }

    /// The transport behaviour to publish in a snapshot
    pub fn transport(&self) -> TransportSettings {
        self.transport.clone()
    }

    /// Which node may attach to what: the services and, where a directory is open to it, `copy`
    pub fn service_table(&self) -> ServiceTable {
        let mut table: ServiceTable = self
            .services
            .iter()
            .map(|service| (service.name.clone(), service.allow.clone()))
            .collect();
        if self.copy.allow != Allow::Nobody
            && let Ok(name) = ServiceName::new(COPY_SERVICE)
        {
            table.insert(name, self.copy.allow.clone());
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoq_interface::NodeId;

    #[test]
    fn the_default_file_parses_to_the_default_configuration() {
        let parsed = Config::parse("defaults/stoqd.toml", DEFAULT_FILE).unwrap();
        assert_eq!(parsed, Config::default());
        assert_eq!(Config::parse("empty", "").unwrap(), Config::default());
    }

    #[test]
    fn copy_is_in_the_service_table_only_where_somebody_may_use_it() {
        let mut config = Config::default();
        assert!(config.service_table().is_empty());
        let alpha = NodeId::new("alpha").unwrap();
        config.copy.allow = Allow::Nodes([alpha.clone()].into());
        assert!(config.service_table()[COPY_SERVICE].permits(&alpha));
    }
}
