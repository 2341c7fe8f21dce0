//! The sections that may occur many times: `[[service]]`, `[[attachment]]`, `[[peer]]` and `[[pin]]`. Each row becomes
//! one typed value; what rows must not do to each other (share a name, a socket) is in `check`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV6;

use stoq_interface::{Allow, NodeId, ServiceName, SpkiSha256};
use toml::Value;

use crate::address::{self, ServiceAddress, Target};
use crate::error::Refusal;
use crate::kind::Kind;
use crate::schema::{ALLOW, PINS_EXAMPLE};
use crate::value::{allow_value, as_text, list, parse_allow, parse_name, parse_pins, pin_text};
use crate::{COPY_SERVICE, Config, HYPERMESH_SERVICE, MEASURE_SERVICE};

/// `[[service]]`: a local program published under a name
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// The name it is published under
    pub name: ServiceName,
    /// Where the local program listens
    pub to: Target,
    /// Which nodes may attach
    pub allow: Allow,
}

/// `[[attachment]]`: a remote service at a local socket
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    /// The remote service
    pub service: ServiceAddress,
    /// The local socket
    pub listen: Target,
}

/// `[[peer]]`: where a node is reached
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// The node
    pub node: NodeId,
    /// Its data-plane address
    pub address: SocketAddrV6,
}

/// `[[pin]]`: the keys of a node's chain that are accepted of it
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerPins {
    /// The node
    pub node: NodeId,
    /// One of them must be of its certificate, its authority or its root; two at least
    pub keys: BTreeSet<SpkiSha256>,
}

/// Pins of one node at most
const PEER_PINS_MAX: usize = 16;

impl Service {
    /// Refuses what the schema refuses: for services that are published at run time
    pub fn new(name: ServiceName, to: Target, allow: Allow) -> Result<Self, String> {
        if [COPY_SERVICE, HYPERMESH_SERVICE, MEASURE_SERVICE].contains(&name.as_str()) {
            return Err(format!("\"{name}\" is a built-in service; choose another name"));
        }
        Ok(Self { name, to, allow })
    }
}

impl Attachment {
    /// Refuses what the schema refuses: for attachments that are made at run time
    pub fn new(service: ServiceAddress, listen: Target) -> Result<Self, String> {
        if !listen.is_local() {
            return Err(format!(
                "{listen} could be reached by other hosts, which would be given this node's identity \
                 without proving their own; listen at \"[::1]:port\" or \"unix:/path\""
            ));
        }
        Ok(Self { service, listen })
    }
}

/// One key of a row
pub(crate) struct RowKey {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
}

/// The values of one row, already of the right kind
pub(crate) type Row = BTreeMap<&'static str, Value>;

/// What is wrong with a row, and at which key
pub(crate) type RowRefusal = (&'static str, Refusal);

/// One repeatable section
pub(crate) struct RowSection {
    pub(crate) name: &'static str,
    pub(crate) keys: &'static [RowKey],
    /// Appends the row to the configuration
    pub(crate) push: fn(&mut Config, &Row) -> Result<(), RowRefusal>,
    /// All rows of a configuration, with what identifies each
    pub(crate) rows: fn(&Config) -> Vec<(String, Row)>,
}

const fn text(name: &'static str, example: &'static str) -> RowKey {
    RowKey { name, kind: Kind::Text { example }, required: true }
}

/// Every repeatable section, in the order of the manual
pub(crate) const SECTIONS: &[RowSection] = &[
    RowSection {
        name: "service",
        keys: &[
            text("name", "web"),
            text("to", "[::1]:8080"),
            RowKey { name: "allow", kind: ALLOW, required: false },
        ],
        push: push_service,
        rows: |config| config.services.iter().map(service_row).collect(),
    },
    RowSection {
        name: "attachment",
        keys: &[text("service", "web@beta"), text("listen", "[::1]:9000")],
        push: push_attachment,
        rows: |config| config.attachments.iter().map(attachment_row).collect(),
    },
    RowSection {
        name: "peer",
        keys: &[text("node", "beta"), text("address", "[::1]:9444")],
        push: push_peer,
        rows: |config| config.peers.iter().map(peer_row).collect(),
    },
    RowSection {
        name: "pin",
        keys: &[
            text("node", "beta"),
            RowKey {
                name: "keys",
                kind: Kind::Texts { items_max: PEER_PINS_MAX, example: PINS_EXAMPLE },
                required: true,
            },
        ],
        push: push_pins,
        rows: |config| config.pins.iter().map(pins_row).collect(),
    },
];

/// Reads and parses the text of one key
fn parse<T>(
    row: &Row,
    key: &'static str,
    parse: impl FnOnce(&str) -> Result<T, Refusal>,
) -> Result<T, RowRefusal> {
    let missing = || Refusal::new("is missing", "every row needs it");
    let value = row.get(key).ok_or_else(|| (key, missing()))?;
    as_text(value).and_then(parse).map_err(|refusal| (key, refusal))
}

/// Splits a sentence "reason; remedy" of a constructor
fn refusal(sentence: String) -> Refusal {
    match sentence.rsplit_once("; ") {
        Some((reason, remedy)) => Refusal::new(reason, remedy),
        None => Refusal::new(sentence, "write another value"),
    }
}

fn push_service(config: &mut Config, row: &Row) -> Result<(), RowRefusal> {
    let name = parse(row, "name", parse_name)?;
    let to = parse(row, "to", |text| Ok(address::parse_destination(text)?))?;
    let allow = match row.get("allow") {
        Some(value) => parse_allow(value).map_err(|refusal| ("allow", refusal))?,
        None => Allow::Nobody,
    };
    let service = Service::new(name, to, allow).map_err(|text| ("name", refusal(text)))?;
    config.services.push(service);
    Ok(())
}

fn push_attachment(config: &mut Config, row: &Row) -> Result<(), RowRefusal> {
    let service = parse(row, "service", |text| Ok(text.parse::<ServiceAddress>()?))?;
    let listen = parse(row, "listen", |text| Ok(text.parse::<Target>()?))?;
    let attachment = Attachment::new(service, listen).map_err(|text| ("listen", refusal(text)))?;
    config.attachments.push(attachment);
    Ok(())
}

fn push_peer(config: &mut Config, row: &Row) -> Result<(), RowRefusal> {
    let node = parse(row, "node", parse_name)?;
    let address = parse(row, "address", |text| Ok(address::parse_remote_address(text)?))?;
    config.peers.push(Peer { node, address });
    Ok(())
}

fn push_pins(config: &mut Config, row: &Row) -> Result<(), RowRefusal> {
    let node = parse(row, "node", parse_name)?;
    let keys = row.get("keys").map(parse_pins).transpose().map_err(|refusal| ("keys", refusal))?;
    let keys = keys.unwrap_or_default();
    if keys.is_empty() {
        let reason = "without a pin the node would be refused whatever it shows";
        return Err(("keys", Refusal::new(reason, "write two pins at least, or remove the row")));
    }
    config.pins.push(PeerPins { node, keys });
    Ok(())
}

fn service_row(service: &Service) -> (String, Row) {
    let row = Row::from([
        ("name", Value::String(service.name.to_string())),
        ("to", Value::String(service.to.to_string())),
        ("allow", allow_value(&service.allow)),
    ]);
    (service.name.to_string(), row)
}

fn attachment_row(attachment: &Attachment) -> (String, Row) {
    let row = Row::from([
        ("service", Value::String(attachment.service.to_string())),
        ("listen", Value::String(attachment.listen.to_string())),
    ]);
    // The socket identifies an attachment: one service may be attached at several.
    (attachment.listen.to_string(), row)
}

fn peer_row(peer: &Peer) -> (String, Row) {
    let row = Row::from([
        ("node", Value::String(peer.node.to_string())),
        ("address", Value::String(peer.address.to_string())),
    ]);
    (peer.node.to_string(), row)
}

fn pins_row(pins: &PeerPins) -> (String, Row) {
    let row = Row::from([
        ("node", Value::String(pins.node.to_string())),
        ("keys", list(&pins.keys, pin_text)),
    ]);
    (pins.node.to_string(), row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_published_at_run_time_meets_the_same_rules() {
        let name = ServiceName::new(COPY_SERVICE).unwrap();
        let to: Target = "[::1]:1".parse().unwrap();
        assert!(Service::new(name, to, Allow::Nobody).unwrap_err().contains("built-in"));
    }

    #[test]
    fn an_attachment_never_opens_the_node_to_other_hosts() {
        let service: ServiceAddress = "web@beta".parse().unwrap();
        for (listen, fits) in [("[::1]:9", true), ("unix:/run/x", true), ("[::]:9", false)] {
            let made = Attachment::new(service.clone(), listen.parse().unwrap());
            assert_eq!(made.is_ok(), fits, "{listen}");
        }
    }
}
