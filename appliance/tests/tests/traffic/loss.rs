//! Connections killed under a flow: a relay loses every packet of them, for good or for a while.

use std::io::{ErrorKind, Read as _, Write as _};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use stoq_appliance_tests::{
    DigestSink, Node, Options, Relay, Server, Stream, exchange_digest, say, shared, wait_until,
};

use crate::{pair, unix};

/// Octets of the flow; `STOQ_TEST_FLOW_BYTES` asks for more
fn length() -> u64 {
    match std::env::var("STOQ_TEST_FLOW_BYTES") {
        Ok(text) => text.parse().expect("STOQ_TEST_FLOW_BYTES is a number of octets"),
        Err(_) => 192 << 20,
    }
}
/// Lets an end notice within two seconds that a connection is dead
const QUICK: &str = "idle_timeout_ms = 2000\nkeep_alive_ms = 500\nhandshake_timeout_ms = 1000";

struct Scene {
    relay: Relay,
    sink: DigestSink,
    at: String,
    alpha: Node,
    beta: Node,
}

fn scene(transport: &str) -> Scene {
    let (alpha, beta) = pair(&Options::with_transport(transport));
    let relay = Relay::start(&alpha.stoq_address());
    beta.ask(&["node", "add", "alpha", &relay.address()]);
    // The session over which beta hears who was revoked was made without the relay.
    beta.ask(&["session", "close", "--peer", "alpha"]);
    let sink = DigestSink::start(&alpha.path("sink.sock"));
    alpha.publish("sink", &sink.target(), &["beta"]);
    let at = beta.attach("sink@alpha", &unix(&beta, "sink.sock"));
    Scene { relay, sink, at, alpha, beta }
}

impl Scene {
    /// A flow with a digest, under way
    fn flow(&self) -> JoinHandle<std::io::Result<bool>> {
        let (at, read) = (self.at.clone(), self.sink.bytes_read());
        let client = std::thread::spawn(move || {
            exchange_digest(Stream::connect(&at).unwrap(), 21, length())
        });
        wait_until("the flow is under way", Duration::from_secs(20), || {
            (self.sink.bytes_read() > read + length() / 16).then_some(())
        });
        client
    }
}

#[test]
fn a_flow_survives_the_death_of_its_connections() {
    let _turn = shared();
    let scene = scene(QUICK);
    let client = scene.flow();
    let ids = scene.relay.kill_connections();
    assert!(ids >= 2, "the relay saw no handshake: {ids}");
    assert!(scene.sink.bytes_read() < length(), "the flow was over before its connection died");
    let begin = Instant::now();
    assert!(client.join().unwrap().unwrap(), "the digest differs");
    let session = scene.beta.session();
    say(&format!(
        "death of a connection: {} octets, digest equal, {} lost datagrams, {} connections \
         lost, {} octets sent again, over after {:.1} s",
        length(),
        scene.relay.dropped(),
        session["losses"],
        session["bytes_resent"],
        begin.elapsed().as_secs_f64()
    ));
    assert!(session["losses"].as_u64() >= Some(1), "{session}");
    assert!(scene.relay.dropped() > 0);
    assert!(scene.relay.passed() > 1_000, "the traffic went past the relay");
}

#[test]
fn a_flow_survives_an_outage_shorter_than_the_linger() {
    let _turn = shared();
    let scene = scene(&format!("{QUICK}\nsession_linger_ms = 30000"));
    let client = scene.flow();
    scene.relay.set_outage(true);
    let begin = Instant::now();
    // The outage lasts as long as it is meant to: time is what this is about.
    wait_until("three seconds of outage", Duration::from_secs(5), || {
        (begin.elapsed() > Duration::from_secs(3)).then_some(())
    });
    scene.relay.set_outage(false);
    assert!(client.join().unwrap().unwrap(), "the digest differs");
    let session = scene.beta.session();
    say(&format!(
        "outage of 3 s: {} octets, digest equal, {} connections lost, over after {:.1} s",
        length(),
        session["losses"],
        begin.elapsed().as_secs_f64()
    ));
}

#[test]
fn an_outage_beyond_the_linger_ends_flows_and_nothing_else() {
    let _turn = shared();
    let scene = scene(&format!("{QUICK}\nsession_linger_ms = 1000"));
    let echo = Server::echo_tcp();
    scene.alpha.publish("echo", &echo.target(), &["beta"]);
    let at = scene.beta.attach("echo@alpha", "[::1]:0");
    let mut held = Stream::connect(&at).unwrap();
    held.write_all(b"before").unwrap();
    held.read_exact(&mut [0; 6]).unwrap();
    scene.relay.set_outage(true);
    let ended = held.read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(ended, Err(ErrorKind::ConnectionReset));
    for node in [&scene.beta, &scene.alpha] {
        wait_until("the cause is counted", Duration::from_secs(15), || {
            (node.counter("flow_errors", "session_lost") > 0).then_some(())
        });
    }
    scene.relay.set_outage(false);
    let mut back = [0; 5];
    wait_until("a new flow", Duration::from_secs(20), || {
        let mut stream = Stream::connect(&at).unwrap();
        stream.write_all(b"after").ok()?;
        stream.read_exact(&mut back).ok()
    });
    assert_eq!(&back, b"after");
}
