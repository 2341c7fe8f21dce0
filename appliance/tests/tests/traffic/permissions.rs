//! Who may attach: nobody unless named.

use std::io::{ErrorKind, Read as _, Write as _};

use stoq_appliance_tests::{Node, Options, Server, Stream, enrol, shared};

use crate::pair;

fn reaches(socket: &str) -> bool {
    let mut stream = Stream::connect(socket).unwrap();
    // A refusal may come before or after the write.
    let _ = stream.write_all(b"anyone?");
    let mut back = [0; 7];
    match stream.read_exact(&mut back) {
        Ok(()) => back == *b"anyone?",
        Err(error) => {
            let ended = [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof];
            assert!(ended.contains(&error.kind()), "{error}");
            false
        }
    }
}

#[test]
fn only_named_nodes_may_attach() {
    let _turn = shared();
    let (alpha, beta) = pair(&Options::default());
    let gamma = Node::start("gamma", &Options::default());
    enrol(&alpha, &gamma);
    let echo = Server::echo_tcp();
    alpha.publish("closed", &echo.target(), &[]);
    alpha.publish("for-gamma", &echo.target(), &["gamma"]);
    alpha.publish("for-all", &echo.target(), &["any-enrolled"]);
    for (node, service, expected) in [
        (&beta, "closed", false),
        (&gamma, "closed", false),
        (&beta, "for-gamma", false),
        (&gamma, "for-gamma", true),
        (&beta, "for-all", true),
        (&gamma, "for-all", true),
        (&beta, "absent", false),
    ] {
        let socket = node.attach(&format!("{service}@alpha"), "[::1]:0");
        assert_eq!(reaches(&socket), expected, "{} at {service}", node.name());
    }
    // The refusals were counted under their causes, by both ends or by the one that saw them.
    let refused = |cause| {
        [&alpha, &beta, &gamma].iter().map(|node| node.counter("flow_errors", cause)).sum::<u64>()
    };
    assert!(refused("not_authorized") >= 3, "{}", refused("not_authorized"));
    assert!(refused("no_such_service") >= 1, "{}", refused("no_such_service"));
}

#[test]
fn a_node_of_another_root_attaches_to_nothing() {
    let _turn = shared();
    let (alpha, _beta) = pair(&Options::default());
    let stranger = Node::start("stranger", &Options::default());
    let echo = Server::echo_tcp();
    alpha.publish("echo", &echo.target(), &["any-enrolled"]);
    stranger.ask(&["node", "add", "alpha", &alpha.stoq_address()]);
    let socket = stranger.attach("echo@alpha", "[::1]:0");
    assert!(!reaches(&socket));
    assert!(stranger.counter("refused", "unknown_issuer") > 0, "{}", stranger.log());
    let list = alpha.ask(&["session", "list"]);
    let sessions = list["sessions"].as_array().unwrap();
    assert!(sessions.iter().all(|session| session["peer"] == "beta"), "{list}");
}

#[test]
fn a_node_that_is_not_who_was_asked_for_is_refused() {
    let _turn = shared();
    let (alpha, beta) = pair(&Options::default());
    let gamma = Node::start("gamma", &Options::default());
    enrol(&alpha, &gamma);
    let echo = Server::echo_tcp();
    gamma.publish("echo", &echo.target(), &["any-enrolled"]);
    // Beta is told that delta is where gamma is.
    beta.ask(&["node", "add", "delta", &gamma.stoq_address()]);
    let socket = beta.attach("echo@delta", "[::1]:0");
    assert!(!reaches(&socket));
    assert!(beta.counter("refused", "wrong_node") > 0, "{}", beta.log());
}
