//! What programs see of services: bytes both ways, ends, resets, back-pressure, and connections that go away
//! underneath.

#![forbid(unsafe_code)]

mod loss;
mod many_flows;
mod measure;
mod permissions;
mod replacement;
mod services;

use stoq_appliance_tests::{Node, Options, enrol};

/// `alpha`, and `beta` enrolled with it
fn pair(options: &Options) -> (Node, Node) {
    let alpha = Node::start("alpha", options);
    let beta = Node::start("beta", options);
    enrol(&alpha, &beta);
    (alpha, beta)
}

/// A Unix socket of a node, as `stoqctl` takes it
fn unix(node: &Node, name: &str) -> String {
    format!("unix:{}", node.path(name).display())
}
