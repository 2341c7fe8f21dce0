//! Who a node is over time: certificates that are renewed under load, peers that are revoked while they talk, and
//! strangers that are refused each for its own reason, and what a node does that no longer hears who is revoked.

#![forbid(unsafe_code)]

mod deny_list_age;
mod forge;
mod refusals;
mod revocation;
mod rotation;
mod rotation_metrics;

use stoq_appliance_tests::Node;

/// The serial number of a node's certificate
fn serial(node: &Node) -> String {
    node.ask(&["node", "show"])["certificate"]["serial"].as_str().unwrap().to_owned()
}
