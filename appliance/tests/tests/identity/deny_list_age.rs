//! What a node does that no longer hears who is revoked: with `trust.fail_closed` it makes no new connection in either
//! role, says so, and goes on when a list comes; without, it says so and goes on all the same.

use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;
use stoq_appliance_tests::{Node, Options, Server, Stream, alone, enrol, say, shared, wait_until};

/// Seconds the nodes' clocks show for one of the host's: a list of fifteen minutes is old after fifteen seconds
const RATE: u32 = 60;
const PATIENCE: Duration = Duration::from_secs(180);
const CODE: &str = "deny-list-too-old";
const TOO_OLD: &str = "stoq_node_deny_list_too_old";

fn options(fail_closed: bool) -> Options {
    Options::with_sections(&format!("[trust]\nfail_closed = {fail_closed}\n"))
}

/// Sends five octets through the flow and gets them back
fn answers(stream: &mut Stream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut back).is_ok() && back == *b"hello"
}

/// A new program at this end of a service: whether it is answered soon
fn is_answered(at: &str) -> bool {
    let Ok(mut stream) = Stream::connect(at) else { return false };
    stream.set_patience(Some(Duration::from_secs(5))).unwrap();
    answers(&mut stream)
}

fn refused(node: &Node) -> f64 {
    node.metric("stoq_worker_peers_refused_total", "reason=\"deny_list_too_old\"")
}

/// The check of the deny-list's age, and the exit code of doctor
fn doctor(node: &Node) -> (i32, Value) {
    let answer = node.ctl(&["doctor", "--json"]);
    let checks = answer.json()["checks"].as_array().expect("checks").clone();
    let found = checks.iter().find(|check| check["name"] == CODE).cloned();
    (answer.code, found.unwrap_or(Value::Null))
}

fn problem(node: &Node) -> Option<Value> {
    let status = node.ctl(&["status", "--json"]).json();
    let problems = status["problems"].as_array().expect("problems").clone();
    problems.into_iter().find(|problem| problem["code"] == CODE)
}

/// Waits until status, doctor and metrics agree that the lists are recent
fn is_recent(node: &Node) {
    wait_until(&format!("{}'s deny-list is recent", node.name()), PATIENCE, || {
        let (_, metrics) = node.metrics();
        let recent = metrics.lines().any(|line| line == format!("{TOO_OLD} 0"));
        (recent && problem(node).is_none()).then_some(())
    });
    assert_eq!(doctor(node), (0, Value::Null), "{}", node.log());
}

/// Waits until status, doctor and metrics agree that the lists are too old
fn is_too_old(node: &Node, health: &str, exit: i32) {
    let problem = wait_until(&format!("{} says so", node.name()), PATIENCE, || problem(node));
    let (code, check) = doctor(node);
    assert_eq!((code, &check["health"]), (exit, &health.into()), "{check}\n{}", node.log());
    assert_eq!(check["message"], problem["message"]);
    assert!(problem["message"].as_str().is_some_and(|text| text.contains("alpha")), "{problem}");
    assert!(!check["remedy"].as_str().unwrap_or_default().is_empty(), "{check}");
    assert_eq!(node.metric(TOO_OLD, ""), 1.0);
}

/// Four nodes of one mesh: beta insists on a recent list, gamma and delta do not
struct Mesh {
    alpha: Node,
    beta: Node,
    gamma: Node,
    delta: Node,
    _echo: Server,
}

impl Mesh {
    /// All enrolled and serving an echo to each other
    fn start() -> Self {
        let alpha = Node::start("alpha", &options(false));
        let beta = Node::start("beta", &options(true));
        let (gamma, delta) = (options(false), options(false));
        let (gamma, delta) = (Node::start("gamma", &gamma), Node::start("delta", &delta));
        let echo = Server::echo_tcp();
        let others = [&beta, &gamma, &delta];
        for node in others {
            enrol(&alpha, node);
        }
        for node in others {
            node.publish("echo", &echo.target(), &["any-enrolled"]);
            for other in others.iter().filter(|other| other.name() != node.name()) {
                node.ask(&["node", "add", other.name(), &other.stoq_address()]);
            }
        }
        Self { alpha, beta, gamma, delta, _echo: echo }
    }

    /// Ends all and starts them again with clocks that run fast from now on
    fn run_fast(&mut self) {
        for node in [&mut self.beta, &mut self.gamma, &mut self.delta, &mut self.alpha] {
            node.signal(Signal::TERM);
            assert!(node.wait_exit(PATIENCE).success(), "{}", node.log());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let clock = format!("{now}:{RATE}");
        for node in [&mut self.alpha, &mut self.beta, &mut self.gamma, &mut self.delta] {
            node.set_test_clock(&clock);
            node.launch();
        }
    }
}

fn has_session(node: &Node, peer: &Node) -> bool {
    let sessions = node.ask(&["session", "list"]);
    let sessions = sessions["sessions"].as_array().expect("a list");
    sessions.iter().any(|one| one["peer"] == peer.name())
}

/// Closes what two nodes have with each other, and waits until neither has anything
fn close_sessions(one: &Node, other: &Node) {
    one.ask(&["session", "close", "--peer", other.name()]);
    wait_until("the end of the sessions", PATIENCE, || {
        (!has_session(one, other) && !has_session(other, one)).then_some(())
    });
}

fn attach(from: &Node, to: &Node) -> String {
    from.attach(&format!("echo@{}", to.name()), "[::1]:0")
}

#[test]
fn without_a_recent_list_a_node_closes_or_goes_on_as_it_was_told_and_opens_when_one_comes() {
    let _turn = alone();
    let mut mesh = Mesh::start();
    mesh.run_fast();
    let Mesh { alpha, beta, gamma, delta, .. } = &mut mesh;
    for node in [&*alpha, beta, gamma, delta] {
        is_recent(node);
    }
    // One flow of each from before: gamma and beta, gamma and delta
    let (to_beta, to_delta) = (attach(gamma, beta), attach(gamma, delta));
    wait_until("a flow to beta", PATIENCE, || is_answered(&to_beta).then_some(()));
    wait_until("a flow to delta", PATIENCE, || is_answered(&to_delta).then_some(()));
    let mut before = Stream::connect(&to_beta).unwrap();
    assert!(answers(&mut before));

    alpha.kill();
    is_too_old(beta, "bad", 3);
    for node in [&*gamma, delta] {
        is_too_old(node, "warning", 0);
        let text = "connections are made all the same";
        wait_until("the warning", PATIENCE, || node.log().contains(text).then_some(()));
    }
    let text = "new connections are refused";
    wait_until("the alarm", PATIENCE, || beta.log().contains(text).then_some(()));
    assert!(answers(&mut before), "a connection from before lives on");
    // New ones: beta accepts none ...
    close_sessions(gamma, beta);
    let counted = refused(beta);
    wait_until("beta refuses gamma", PATIENCE, || {
        assert!(!is_answered(&to_beta), "beta accepts what it cannot judge");
        (refused(beta) > counted).then_some(())
    });
    // ... and makes none ...
    let to_gamma = attach(beta, gamma);
    let counted = refused(beta);
    wait_until("beta does not dial gamma", PATIENCE, || {
        assert!(!is_answered(&to_gamma), "beta dials whom it cannot judge");
        (refused(beta) > counted).then_some(())
    });
    assert!(!has_session(beta, gamma) && !has_session(gamma, beta));
    // ... while those go on that were told to.
    close_sessions(gamma, delta);
    wait_until("a new session of gamma and delta", PATIENCE, || {
        is_answered(&to_delta).then_some(())
    });
    assert_eq!((refused(gamma), refused(delta)), (0.0, 0.0));

    // With the authority the list comes back, and nobody has to do anything.
    alpha.launch();
    for node in [&*beta, gamma, delta] {
        is_recent(node);
    }
    wait_until("gamma reaches beta again", PATIENCE, || is_answered(&to_beta).then_some(()));
    wait_until("beta reaches gamma again", PATIENCE, || is_answered(&to_gamma).then_some(()));
    say(&format!(
        "deny-list: beta refused {} handshakes while its list was too old",
        refused(beta)
    ));
}

#[test]
fn a_node_that_cannot_read_its_lists_lets_nobody_in_if_it_was_told_to() {
    let _turn = shared();
    let alpha = Node::start("alpha", &options(false));
    let (mut beta, gamma) =
        (Node::start("beta", &options(true)), Node::start("gamma", &options(false)));
    let echo = Server::echo_tcp();
    for node in [&beta, &gamma] {
        enrol(&alpha, node);
    }
    alpha.publish("echo", &echo.target(), &["beta"]);
    beta.publish("echo", &echo.target(), &["gamma"]);
    gamma.ask(&["node", "add", "beta", &beta.stoq_address()]);
    is_recent(&beta);
    let to_beta = attach(&gamma, &beta);
    wait_until("a flow to beta", PATIENCE, || is_answered(&to_beta).then_some(()));
    let mark = beta.state().join("deny-list/alpha/mark.json");
    wait_until("what was seen last is remembered", PATIENCE, || mark.exists().then_some(()));
    beta.signal(Signal::TERM);
    assert!(beta.wait_exit(PATIENCE).success());
    let kept = std::fs::read(&mark).unwrap();
    std::fs::write(&mark, b"{").unwrap();
    beta.launch();
    is_too_old(&beta, "bad", 3);
    assert!(beta.log().contains("no deny-list is followed"), "{}", beta.log());
    let counted = refused(&beta);
    wait_until("beta refuses gamma", PATIENCE, || {
        assert!(!is_answered(&to_beta), "beta accepts what it cannot judge");
        (refused(&beta) > counted).then_some(())
    });
    // The authority is let in: without it no list would ever come.
    let to_alpha = attach(&beta, &alpha);
    wait_until("beta reaches its authority", PATIENCE, || is_answered(&to_alpha).then_some(()));
    // With the file as it was it opens again.
    beta.signal(Signal::TERM);
    assert!(beta.wait_exit(PATIENCE).success());
    std::fs::write(&mark, kept).unwrap();
    beta.launch();
    is_recent(&beta);
    wait_until("gamma reaches beta again", PATIENCE, || is_answered(&to_beta).then_some(()));
}
