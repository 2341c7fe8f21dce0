//! A peer that is revoked while it talks: closed everywhere within a second, and kept out.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use stoq_appliance_tests::{Node, Options, Server, Stream, alone, enrol, say, wait_until};

use crate::serial;

/// Time after which nothing of a revoked peer may be left
const LIMIT: Duration = Duration::from_secs(1);
/// Peers that are revoked, one after the other, until one was gone in time: a busy host may hold up any of them, and
/// not each
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// A flow to the echo of `to`, which answers, and the socket it was made at
fn talking(from: &Node, to: &Node) -> (Stream, String) {
    let at = from.attach(&format!("echo@{}", to.name()), "[::1]:0");
    let mut stream = Stream::connect(&at).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    (stream, at)
}

/// When the program at this end of a flow sees that it is over
fn cut(mut stream: Stream) -> std::thread::JoinHandle<Instant> {
    std::thread::spawn(move || {
        let mut octet = [0; 1];
        // An end or a reset: either way there is nothing more.
        let last = stream.read(&mut octet);
        let late = matches!(&last, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!late && !matches!(last, Ok(1)), "the flow of a revoked peer lives on: {last:?}");
        Instant::now()
    })
}

/// Waits until a node has a deny-list of the authority it joined
fn hears(node: &Node) {
    let until = || node.metric("stoq_node_deny_list_recent_until_timestamp_seconds", "");
    wait_until("the deny-list", PATIENCE, || (until() > 0.0).then_some(()));
}

/// Revokes a node that has a flow to the one that revokes it and one to a node that only hears of it; how long each
/// lived on
fn revoke(name: &str, alpha: &Node, gamma: &Node) -> [Duration; 2] {
    let peer = Node::start(name, &Options::default());
    enrol(alpha, &peer);
    peer.ask(&["node", "add", "gamma", &gamma.stoq_address()]);
    let (here, _) = talking(&peer, alpha);
    let (there, at_gamma) = talking(&peer, gamma);
    hears(&peer);
    let ended = [cut(here), cut(there)];
    let before = gamma.counter("refused", "revoked");
    let asked = Instant::now();
    alpha.ask(&["certificate", "revoke", &serial(&peer), "--reason", "key-compromise"]);
    let took = ended.map(|one| one.join().unwrap().saturating_duration_since(asked));
    for node in [alpha, gamma] {
        let sessions = node.ask(&["session", "list"]);
        let sessions = sessions["sessions"].as_array().unwrap();
        assert!(!sessions.iter().any(|one| one["peer"] == name), "{sessions:?}");
        assert_eq!(node.counter("refused", "unlogged"), 0);
    }
    // It comes again, and is refused for what it is.
    let mut again = Stream::connect(&at_gamma).unwrap();
    let mut octet = [0; 1];
    assert!(!matches!(again.read(&mut octet), Ok(1)));
    wait_until("the refusal is counted", PATIENCE, || {
        (gamma.counter("refused", "revoked") > before).then_some(())
    });
    say(&format!("revocation: closed after {took:?}"));
    took
}

#[test]
fn a_revoked_peer_is_cut_off_everywhere_within_a_second() {
    let _turn = alone();
    let options = Options::default();
    let (alpha, gamma) = (Node::start("alpha", &options), Node::start("gamma", &options));
    enrol(&alpha, &gamma);
    let echo = Server::echo_tcp();
    for node in [&alpha, &gamma] {
        node.publish("echo", &echo.target(), &["any-enrolled"]);
    }
    hears(&gamma);
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        let took = revoke(&format!("peer{round}"), &alpha, &gamma);
        if took.iter().all(|one| *one < LIMIT) {
            return;
        }
        all.push(took);
    }
    panic!("in {ROUNDS} rounds no peer was gone within {LIMIT:?}: {all:?}");
}
