//! What a mesh trusts and how that changes: issuing keys from state to state, pins, backups of the authority, a root
//! that is kept off nodes, and who is written down for what was done.

#![forbid(unsafe_code)]

mod actors;
mod backup;
mod issuing_keys;
mod pins;
mod production;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use stoq::{ConnectError, ControlSnapshot, Endpoint, NodeId, TrustAnchor};
use stoq_admin::api::STATEMENT_LABEL;
use stoq_admin::decode_pem;
use stoq_appliance_tests::{Node, Stream, wait_until};
use stoq_trustchain::NodeIdentity;
use stoq_trustchain::key_slots::KeySlots;
use stoq_trustchain::mesh::AuthorityStatement;

const PATIENCE: Duration = Duration::from_secs(60);

/// The serial number of a node's certificate
fn serial(node: &Node) -> String {
    node.ask(&["node", "show"])["certificate"]["serial"].as_str().unwrap().to_owned()
}

/// The pin of the key that issued a node's certificate, or of its root
fn pin(node: &Node, tier: &str) -> String {
    node.ask(&["node", "show"])["pins"][tier].as_str().unwrap().to_owned()
}

/// The issuing keys of an authority with the state of each
fn states(alpha: &Node) -> Vec<(String, String)> {
    let listed = alpha.ask(&["ca", "key", "list"]);
    let word = |key: &Value, field: &str| key[field].as_str().unwrap().to_owned();
    let keys = listed["keys"].as_array().unwrap().iter();
    keys.map(|key| (word(key, "name"), word(key, "state"))).collect()
}

/// Takes a new key into operation at once
fn turn_over(alpha: &Node, name: &str) {
    alpha.ask(&["ca", "key", "prepare", name]);
    alpha.ask(&["ca", "key", "activate", name, "--at-once"]);
}

/// A flow to the echo of `to` that answers; it is tried until it does
fn talks(from: &Node, to: &Node) {
    let service = format!("echo@{}", to.name());
    let at = from.attach(&service, "[::1]:0");
    wait_until(&format!("{} talks to {}", from.name(), to.name()), PATIENCE, || {
        let mut stream = Stream::connect(&at).unwrap();
        stream.write_all(b"hello").ok()?;
        let mut back = [0; 5];
        stream.read_exact(&mut back).ok()?;
        (&back == b"hello").then_some(())
    });
    from.ask(&["service", "remove", &service]);
}

/// What a node that has joined shows in handshakes, with its key
fn shown_by(node: &Node) -> NodeIdentity {
    let found = KeySlots::of(node.state().join("joined")).find(SystemTime::now()).unwrap();
    found.turns(SystemTime::now()).0.unwrap().identity.clone()
}

/// The issuing keys behind what a node shows: its own, where it is the authority
fn issuers_of(node: &Node, root_der: &[u8]) -> Vec<TrustAnchor> {
    if node.state().join("joined").exists() {
        return shown_by(node).trust();
    }
    let exported = node.ask(&["ca", "export"]);
    let statement = decode_pem(STATEMENT_LABEL, exported["statement_pem"].as_str().unwrap());
    let signed = statement.unwrap().remove(0);
    AuthorityStatement::open(&signed, root_der, SystemTime::now()).unwrap().trust_anchors()
}

/// Somebody who has a node's certificate and key dials another node
fn dials(identity: &NodeIdentity, to: &Node) -> Result<(), ConnectError> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        // What the node shows may be of another issuing key than what is shown to it.
        let mut trust = identity.trust();
        trust.extend(issuers_of(to, identity.root_der()));
        let identity = Some(identity.identity().clone());
        let snapshot = ControlSnapshot { epoch: 1, identity, trust, ..ControlSnapshot::default() };
        let builder = Endpoint::builder().listen("[::1]:0".parse().unwrap());
        let endpoint = builder.snapshot(snapshot).build().unwrap();
        let (address, name) = (to.stoq_address(), NodeId::new(to.name()).unwrap());
        let connecting = endpoint.connect(address.parse().unwrap(), &name);
        let outcome = tokio::time::timeout(PATIENCE, connecting).await;
        outcome.expect("an answer in time").map(drop)
    })
}

/// The refusals that a node has counted, by reason, summed over its workers
fn refusals(node: &Node) -> BTreeMap<String, u64> {
    let (_, body) = node.metrics();
    let mut reasons = BTreeMap::new();
    for line in body.lines().filter(|line| line.starts_with("stoq_worker_peers_refused_total{")) {
        let (_, rest) = line.split_once("reason=\"").expect("a label");
        let (reason, _) = rest.split_once('"').expect("a value");
        let count: u64 = line.rsplit(' ').next().unwrap().parse().expect("a count");
        *reasons.entry(reason.to_owned()).or_default() += count;
    }
    reasons
}

/// The holder of this identity is refused by a node, which counts it under `reason` and under no other
fn is_refused(identity: &NodeIdentity, by: &Node, reason: &str) {
    let before = refusals(by);
    let grown = |after: &BTreeMap<String, u64>| -> Vec<String> {
        let grown = after.iter().filter(|(name, count)| before.get(*name) != Some(count));
        grown.map(|(name, _)| name.clone()).collect()
    };
    let outcome = dials(identity, by);
    assert!(matches!(outcome, Err(ConnectError::Closed(_))), "{reason}: {outcome:?}");
    wait_until(&format!("the refusal is counted as {reason}"), PATIENCE, || {
        let grown = grown(&refusals(by));
        (!grown.is_empty()).then(|| assert_eq!(grown, [reason], "{}", by.log()))
    });
}
