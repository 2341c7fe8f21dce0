//! Nodes that agree, and what the tests ask of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use stoq_admin::encode_pem;
use stoq_appliance_tests::{Answer, Node, Options};
use stoq_trustchain::{KeyKind, KeyPair, csr};

/// Time until something agreed on is there, on a host that does other things as well
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A node alone, with the policy for tests
pub fn alone(name: &str, lines: &str) -> Node {
    let section = format!("[hypermesh]\nenabled = true\npolicy = \"test\"\n{lines}");
    let node = Node::start(name, &Options::with_sections(&section));
    agreeing(&node);
    node
}

/// Waits until blocks become final
pub fn agreeing(node: &Node) {
    until("blocks become final", PATIENCE, || {
        let status = node.ctl(&["consensus", "status", "--json"]);
        status.code == 0 && status.json()["height"].as_u64().unwrap_or(0) > 0
    });
}

pub fn status(node: &Node) -> Value {
    let answer = node.ctl(&["consensus", "status", "--json"]);
    assert!([0, 3].contains(&answer.code), "{answer:?}");
    answer.json()
}

pub fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no {field}: {value}")).to_owned()
}

/// A request for a key of its own, as a file
pub fn request(node: &Node, name: &str) -> PathBuf {
    let key = KeyPair::generate(KeyKind::P256).unwrap();
    let path = node.path(&format!("{name}.csr"));
    std::fs::write(&path, encode_pem("CERTIFICATE REQUEST", &csr::request(&key).unwrap())).unwrap();
    path
}

/// The genesis of the network the node is in, as a file
pub fn genesis(node: &Node) -> PathBuf {
    let path = node.path("exported.json");
    if !path.exists() {
        std::fs::write(&path, text(&node.ask(&["consensus", "genesis", "export"]), "genesis"))
            .unwrap();
    }
    path
}

/// Judges a receipt on this host alone
pub fn verify(receipt: &Path, genesis: &Path) -> Answer {
    let program = stoq_appliance_tests::program("stoqctl");
    let output = std::process::Command::new(program)
        .args(["--socket", "/nonexistent", "asset", "receipt", "verify"])
        .arg(receipt)
        .arg("--genesis")
        .arg(genesis)
        .arg("--json")
        .output()
        .unwrap();
    Answer::of(output)
}

/// Registers so much of a made-up kind; the asset
pub fn register(node: &Node, name: &str, capacity: u64) -> String {
    let capacity = capacity.to_string();
    let words = ["asset", "register", "container", name, "--capacity", &capacity];
    text(&node.ask(&words), "asset")
}

/// The assets a node knows, by name
pub fn assets(node: &Node) -> Vec<String> {
    let listed = node.ask(&["asset", "list", "--limit", "10000"]);
    let names = listed["assets"].as_array().unwrap().iter().map(|asset| text(asset, "name"));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Waits until it is so
pub fn until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    stoq_appliance_tests::wait_until(what, patience, || condition().then_some(()));
}
