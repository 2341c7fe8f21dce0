//! A peer that is revoked while it talks: closed everywhere within a second, and kept out.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use stoq_appliance_tests::{Node, Options, Server, Stream, alone, enrol, say, wait_until};

use crate::serial;

/// Time after which nothing of a revoked peer may be left
const LIMIT: Duration = Duration::from_secs(1);

/// A flow to the echo of `to`, which answers, and the socket it was made at
fn talking(from: &Node, to: &Node, echo: &Server) -> (Stream, String) {
    to.publish("echo", &echo.target(), &[from.name()]);
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
        while matches!(stream.read(&mut octet), Ok(1)) {}
        Instant::now()
    })
}

#[test]
fn a_revoked_peer_is_cut_off_everywhere_within_a_second() {
    let _turn = alone();
    let options = Options::default();
    let alpha = Node::start("alpha", &options);
    let (beta, gamma) = (Node::start("beta", &options), Node::start("gamma", &options));
    for node in [&beta, &gamma] {
        enrol(&alpha, node);
    }
    let at = gamma.stoq_address();
    beta.ask(&["node", "add", "gamma", &at]);
    let echo = Server::echo_tcp();
    // One flow to the node that revokes, one to a node that only hears of it.
    let (here, _) = talking(&beta, &alpha, &echo);
    let (there, at_gamma) = talking(&beta, &gamma, &echo);
    for node in [&beta, &gamma] {
        wait_until("the deny-list", Duration::from_secs(20), || {
            node.log().contains("deny-list in force").then_some(())
        });
    }
    let ended = [cut(here), cut(there)];
    let revoked = serial(&beta);
    let asked = Instant::now();
    alpha.ask(&["certificate", "revoke", &revoked, "--reason", "key-compromise"]);
    let answered = Instant::now();
    let took = ended.map(|one| one.join().unwrap().saturating_duration_since(asked));
    assert!(took.iter().all(|one| *one < LIMIT), "{took:?}");
    for node in [&alpha, &gamma] {
        let sessions = node.ask(&["session", "list"]);
        let sessions = sessions["sessions"].as_array().unwrap();
        assert!(!sessions.iter().any(|one| one["peer"] == "beta"), "{sessions:?}");
        assert_eq!(node.counter("refused", "unlogged"), 0);
    }
    // It comes again, and is refused for what it is.
    let mut again = Stream::connect(&at_gamma).unwrap();
    let mut octet = [0; 1];
    assert!(!matches!(again.read(&mut octet), Ok(1)));
    wait_until("the refusal is counted", Duration::from_secs(10), || {
        (gamma.counter("refused", "revoked") > 0).then_some(())
    });
    say(&format!(
        "revocation: closed after {took:?}, the command took {:?}",
        answered.duration_since(asked)
    ));
}
