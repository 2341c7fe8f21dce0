//! Orders of operators that come from another node: carried out for whoever may give them, refused for everybody else,
//! and on record either way.

use std::time::{Duration, Instant};

use stoq_appliance_tests::{Answer, Node, Options, Server, alone, enrol, say};

use crate::scene::{Person, cut, serial, talking};

/// Time after which a revoked peer must be gone
const LIMIT: Duration = Duration::from_secs(5);

/// Revokes by name what a node has, as a person, from another node
fn revoke(through: &Node, authority: &Node, person: &Person, name: &str) -> Answer {
    let words = ["certificate", "revoke", "--name", name, "--reason", "key-compromise", "--json"];
    through.ctl(&[&words[..], &person.at(authority)].concat())
}

/// What the audit log of an authority has of an operator's orders from beta: event and outcome
fn on_record(authority: &Node, name: &str) -> Vec<(String, String)> {
    let actor = format!("operator:{name} over beta");
    let tail = authority.ask(&["audit", "tail", "--limit", "500"]);
    let records = tail["records"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let by = records.iter().filter(|one| one["actor"] == actor.as_str());
    by.map(|one| (text(&one["event"]), text(&one["outcome"]))).collect()
}

#[test]
fn an_operator_gives_orders_from_any_node_and_nobody_else_does() {
    let _turn = alone();
    let alpha = Node::start("alpha", &Options::with_sections("[trust]\noperators = [\"ana\"]\n"));
    let plain = Options::default();
    let [beta, gamma, delta] = ["beta", "gamma", "delta"].map(|name| Node::start(name, &plain));
    for node in [&beta, &gamma, &delta] {
        enrol(&alpha, node);
    }
    let echo = Server::echo_tcp();
    delta.publish("echo", &echo.target(), &["any-enrolled"]);
    let mut flow = talking(&gamma, &delta);
    let files = tempfile::tempdir().unwrap();
    let [ana, ben] = ["ana", "ben"].map(|name| Person::operator(name, &alpha, files.path()));

    // Ben is an operator, and not one whose orders come from afar.
    let refused = revoke(&beta, &alpha, &ben, "gamma");
    assert_eq!(refused.code, 5, "{refused:?}");
    assert_eq!(refused.error_code(), "not-permitted", "{refused:?}");
    // A node's own certificate gives no orders either.
    let node = Person {
        key: beta.state().join("joined/node.key"),
        certificate: beta.state().join("joined/node.pem"),
        request: files.path().join("none"),
    };
    let refused = revoke(&beta, &alpha, &node, "gamma");
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(crate::scene::answers(&mut flow), "nobody was revoked");

    let silent = ["certificate", "revoke", "--name", "gamma", "--json"];
    let refused = beta.ctl(&[&silent[..], &ana.at(&alpha)].concat());
    assert_eq!((refused.code, refused.error_code().as_str()), (2, "no-reason"), "{refused:?}");

    // Ana's orders are carried out: she registers, has issued, and revokes, and is never on alpha's host.
    let words = ["ca", "register", "service", "shop", "--json"];
    let registered = beta.ctl(&[&words[..], &ana.at(&alpha)].concat());
    assert_eq!(registered.code, 0, "{registered:?}");
    let shop = Person::new("shop", files.path());
    let issued = shop.certified("service", "shop", &beta, &ana.at(&alpha));
    assert_eq!(issued.code, 0, "{issued:?}");
    let number = issued.json()["serial"].as_str().unwrap().to_owned();
    let shown = alpha.ask(&["certificate", "show", &number]);
    assert_eq!(shown["certificate"]["subject"], "shop");
    let ended = cut(flow);
    let asked = Instant::now();
    let (of_gamma, revoked) = (serial(&gamma), revoke(&beta, &alpha, &ana, "gamma"));
    assert_eq!(revoked.code, 0, "{revoked:?}");
    assert!(revoked.json()["deny_list_epoch"].as_u64().is_some(), "{revoked:?}");
    let took = ended.join().unwrap().saturating_duration_since(asked);
    assert!(took < LIMIT, "{took:?}");
    say(&format!("orders: gamma is closed {took:?} after an order from beta"));
    let shown = alpha.ask(&["certificate", "show", &of_gamma]);
    assert_eq!(shown["certificate"]["state"], "revoked");

    // Revoked herself, she is nobody.
    alpha.ask(&["certificate", "revoke", "--name", "ana"]);
    let refused = revoke(&beta, &alpha, &ana, "delta");
    assert_eq!(refused.code, 5, "{refused:?}");
    let (by_ana, by_ben) = (on_record(&alpha, "ana"), on_record(&alpha, "ben"));
    let done: Vec<_> = by_ana.iter().map(|(event, outcome)| (&**event, &**outcome)).collect();
    assert_eq!(done, [("registered", "done"), ("revoked", "done")]);
    assert!(by_ben.iter().all(|(_, outcome)| outcome == "refused"), "{by_ben:?}");
    assert!(!by_ben.is_empty());
}
