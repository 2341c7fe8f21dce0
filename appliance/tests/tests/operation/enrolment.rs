//! Enrolment: a token works once, for one root; keys are private; identities last.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use stoq_appliance_tests::{Node, Options, enrol, shared};

fn serial(node: &Node) -> String {
    node.ask(&["node", "show"])["certificate"]["serial"].as_str().unwrap().to_owned()
}

fn root(node: &Node) -> String {
    node.ask(&["node", "show"])["root_fingerprint"].as_str().unwrap().to_owned()
}

fn token(issuer: &Node, name: &str) -> String {
    issuer.ask(&["node", "token", "create", name])["token"].as_str().unwrap().to_owned()
}

#[test]
fn a_token_enrols_one_node_once() {
    let _turn = shared();
    let alpha = Node::start("alpha", &Options::default());
    let beta = Node::start("beta", &Options::default());
    let gamma = Node::start("gamma", &Options::default());
    assert_ne!(root(&alpha), root(&beta), "each node begins with a root of its own");
    let token = token(&alpha, "beta");
    let joined = beta.ask(&["node", "join", &token]);
    assert_eq!(joined["node"], "beta");
    assert_eq!(joined["issuer"], "alpha");
    assert_eq!(root(&beta), root(&alpha));

    // A second use is refused, in a word for programs and a sentence for people.
    let before = (serial(&gamma), root(&gamma));
    let again = gamma.ctl(&["node", "join", &token, "--json"]);
    assert_eq!(again.code, 1, "{again:?}");
    assert_eq!(again.error_code(), "join-refused");
    assert!(again.stdout.contains("used before"), "{again:?}");
    assert_eq!((serial(&gamma), root(&gamma)), before, "a refused node stays who it was");
}

#[test]
fn a_token_that_was_changed_or_pins_another_root_is_refused() {
    let _turn = shared();
    let alpha = Node::start("alpha", &Options::default());
    let other = Node::start("other", &Options::default());
    let beta = Node::start("beta", &Options::default());
    let token = token(&alpha, "beta");
    let cut = beta.ctl(&["node", "join", &token[..token.len() - 4], "--json"]);
    assert_eq!((cut.code, cut.error_code().as_str()), (2, "bad-token"), "{cut:?}");

    let mut pinned: stoq_trustchain::JoinToken = token.parse().unwrap();
    pinned.root_fingerprint = root(&other).parse().unwrap();
    let wrong = beta.ctl(&["node", "join", &pinned.to_string(), "--json"]);
    assert_eq!((wrong.code, wrong.error_code().as_str()), (1, "join-refused"), "{wrong:?}");
    assert_ne!(root(&beta), root(&alpha));
    // The pin is judged before the secret leaves the node, so the right token is good still.
    beta.ask(&["node", "join", &token]);
    assert_eq!(root(&beta), root(&alpha));
}

fn keys_below(directory: &Path, found: &mut Vec<(String, u32)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            // The transparency log is for everyone to read, where the directory around it lets them.
            let is_public = entry.path().iter().any(|part| part == "log");
            assert!(is_public || metadata.permissions().mode() & 0o077 == 0, "{:?}", entry.path());
            keys_below(&entry.path(), found);
        } else if entry.path().extension().is_some_and(|extension| extension == "key") {
            found.push((entry.path().display().to_string(), metadata.permissions().mode() & 0o777));
        }
    }
}

#[test]
fn identities_are_private_and_survive_restarts() {
    let _turn = shared();
    let mut alpha = Node::start("alpha", &Options::default());
    let mut beta = Node::start("beta", &Options::default());
    enrol(&alpha, &beta);
    for (node, least) in [(&alpha, 3), (&beta, 4)] {
        let mut keys = Vec::new();
        keys_below(&node.state(), &mut keys);
        assert!(keys.len() >= least, "{keys:?}");
        assert!(keys.iter().all(|(_, mode)| *mode == 0o600), "{keys:?}");
    }
    let before = [serial(&alpha), serial(&beta), root(&alpha), root(&beta)];
    alpha.restart();
    beta.restart();
    assert_eq!([serial(&alpha), serial(&beta), root(&alpha), root(&beta)], before);
    let known = beta.ask(&["node", "list"]);
    assert_eq!(known["peers"][0]["node"], "alpha");
    let known = alpha.ask(&["node", "list"]);
    assert_eq!(known["peers"][0]["source"], "enrolled");
}
