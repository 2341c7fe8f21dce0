//! Pins by configuration: a peer whose chain matches none is refused for that, with its own counter, and pins that
//! would lock the node out or have no backup are refused themselves. How one key follows another without a gap.

use stoq_appliance_tests::{Node, Options, Server, enrol, shared};

use crate::{is_refused, pin, shown_by, talks, turn_over};

/// A pin of nobody's key
fn spare(digit: char) -> String {
    format!("spki-sha256:{}", digit.to_string().repeat(64))
}

fn list(pins: &[&str]) -> String {
    let quoted: Vec<_> = pins.iter().map(|pin| format!("\"{pin}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

/// Puts lines of the configuration into force; what the reload said
fn reload(node: &Node, sections: &str) -> Result<(), String> {
    node.configure(&Options::with_sections(sections));
    let answer = node.ctl(&["config", "reload", "--json"]);
    match answer.code {
        0 => Ok(()),
        _ => Err(answer.error_code()),
    }
}

#[test]
fn a_peer_whose_chain_matches_no_pin_is_refused_and_a_roll_over_leaves_no_gap() {
    let _turn = shared();
    let alpha = Node::start("alpha", &Options::default());
    let beta = Node::start("beta", &Options::default());
    enrol(&alpha, &beta);
    let echo = Server::echo_tcp();
    beta.publish("echo", &echo.target(), &["any-enrolled"]);
    let (root, issuing, spare) = (pin(&beta, "root"), pin(&beta, "issuing"), spare('a'));
    let both = |issuing: &[&str]| {
        let root = list(&[&root, &spare]);
        format!("[trust]\nroot_pins = {root}\nissuing_pins = {}\n", list(issuing))
    };
    assert_eq!(reload(&beta, &both(&[&issuing, &spare])), Ok(()));
    alpha.ask(&["node", "add", "beta", &beta.stoq_address()]);
    talks(&alpha, &beta);

    // Another issuing key of the same root: trusted, and not pinned
    turn_over(&alpha, "issuing-2");
    let gamma = Node::start("gamma", &Options::default());
    enrol(&alpha, &gamma);
    gamma.ask(&["node", "add", "beta", &beta.stoq_address()]);
    let next = pin(&gamma, "issuing");
    assert_ne!(next, issuing);
    is_refused(&shown_by(&gamma), &beta, "issuing_not_pinned");
    // The roll-over: its pin beside the old one, without a restart
    assert_eq!(reload(&beta, &both(&[&issuing, &next])), Ok(()));
    talks(&gamma, &beta);
    talks(&alpha, &beta);
    assert_eq!(reload(&beta, &both(&[&issuing, &spare])), Ok(()));
    is_refused(&shown_by(&gamma), &beta, "issuing_not_pinned");

    // Pins of one peer
    let of_gamma = |pins: &[&str]| format!("[[pin]]\nnode = \"gamma\"\nkeys = {}\n", list(pins));
    assert_eq!(reload(&beta, &of_gamma(&[&issuing, &spare])), Ok(()));
    is_refused(&shown_by(&gamma), &beta, "peer_not_pinned");
    assert_eq!(reload(&beta, &of_gamma(&[&next, &spare])), Ok(()));
    talks(&gamma, &beta);
}

#[test]
fn pins_without_a_backup_or_without_the_own_chain_are_refused() {
    let _turn = shared();
    let mut alpha = Node::start("alpha", &Options::default());
    let beta = Node::start("beta", &Options::default());
    enrol(&alpha, &beta);
    let (root, issuing) = (pin(&alpha, "root"), pin(&alpha, "issuing"));
    let (one, two) = (spare('1'), spare('2'));
    let trust = |key: &str, pins: &[&str]| format!("[trust]\n{key} = {}\n", list(pins));
    let refused = |alpha: &Node, key: &str, pins: &[&str]| reload(alpha, &trust(key, pins));
    let said = |code: &str| Err(code.to_owned());
    assert_eq!(refused(&alpha, "root_pins", &[&root]), said("bad-config"));
    assert_eq!(refused(&alpha, "root_pins", &[&root, &issuing]), said("pins-without-backup"));
    assert_eq!(refused(&alpha, "issuing_pins", &[&one, &two]), said("pins-lock-out"));
    let fingerprint = alpha.ask(&["node", "show"])["root_fingerprint"].as_str().unwrap().to_owned();
    assert_eq!(refused(&alpha, "root_pins", &[&fingerprint, &two]), said("bad-config"));
    // Nothing of that came into force.
    let shown = alpha.ask(&["config", "show"]).to_string();
    assert!(!shown.contains(&issuing) && !shown.contains(&two), "{shown}");

    // A node that starts with pins that leave out its own chain says so, and lets in whom it pins: nobody
    alpha.configure(&Options::with_sections(&trust("root_pins", &[&one, &two])));
    alpha.restart();
    let status = alpha.ctl(&["status", "--json"]).json();
    let problems = status["problems"].as_array().unwrap();
    assert!(problems.iter().any(|one| one["code"] == "pins-lock-out"), "{status}");
    is_refused(&shown_by(&beta), &alpha, "root_not_pinned");
    assert_eq!(reload(&alpha, &trust("root_pins", &[&root, &two])), Ok(()));
    let status = alpha.ctl(&["status", "--json"]).json();
    let problems = status["problems"].as_array().unwrap();
    assert!(!problems.iter().any(|one| one["code"] == "pins-lock-out"), "{status}");
}
