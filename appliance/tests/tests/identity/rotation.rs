//! Rotation with a fast clock: an hour takes a second. Nodes change their certificates again and again under a flow
//! at full speed, while the authority is away for six hours, and after a certificate has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use stoq_appliance_tests::{
    DigestSink, Node, Options, Stream, alone, enrol, exchange_until, say, wait_until,
};

use crate::serial;

/// Seconds the nodes' clocks show for one of the host's: a certificate of a day lives 24 seconds
const RATE: u32 = 3_600;
/// The same where the shortest margin before a certificate's end, five minutes, must be enough for a handshake and
/// for what is under way on a machine with two cores: a quarter of a second
const SLOWER: u32 = 1_200;
/// Time the nodes have to enrol by the host's clock, before theirs leave it
const QUIET: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(24);

/// When the clocks begin to run fast, in seconds since 1970, and the options that say so
fn fast(rate: u32) -> (u64, Options) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let from = (now + QUIET).as_secs();
    let options = Options {
        test_clock: Some(format!("{from}:{rate}")),
        log_filter: "info,stoqd=debug".into(),
        // Ten seconds, as usual, would be hours: the call that waits for the next deny-list keeps a connection open
        // until then.
        ..Options::with_transport("drain_timeout_ms = 100")
    };
    (from, options)
}

/// Waits for a moment so many seconds behind `from`: nothing announces it but the clock
fn wait_for(from: u64, after: Duration) {
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(from) + after;
    wait_until("the time", Duration::from_secs(300), || (SystemTime::now() >= until).then_some(()));
}

/// A flow from `from` to `to` that sends until it is told to stop
struct Flowing {
    sink: DigestSink,
    stop: Arc<AtomicBool>,
    client: std::thread::JoinHandle<std::io::Result<(u64, bool)>>,
}

impl Flowing {
    fn start(from: &Node, to: &Node) -> Self {
        let sink = DigestSink::start(&to.path("sink.sock"));
        to.publish("sink", &sink.target(), &[from.name()]);
        let socket = format!("unix:{}", from.path("sink.sock").display());
        let at = from.attach(&format!("sink@{}", to.name()), &socket);
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let client =
            std::thread::spawn(move || exchange_until(Stream::connect(&at).unwrap(), &told));
        let flowing = Self { sink, stop, client };
        flowing.moves();
        flowing
    }

    /// Waits until it has moved on by some octets
    fn moves(&self) {
        let before = self.sink.bytes_read();
        wait_until("the flow moves on", Duration::from_secs(20), || {
            (self.sink.bytes_read() > before + (1 << 20)).then_some(())
        });
    }

    /// Ends it; every octet must have come, in its place. Returns how many.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        let (sent, same) = self.client.join().unwrap().expect("the flow was cut");
        assert!(same, "the digest of {sent} octets differs");
        assert_eq!(self.sink.bytes_read(), sent);
        sent
    }
}

/// How often a node's log says that a certificate took over
fn activations(node: &Node) -> usize {
    node.log().lines().filter(|line| line.contains("rotation: activated")).count()
}

#[test]
fn certificates_change_under_a_flow_and_nothing_is_lost() {
    let _turn = alone();
    let (from, options) = fast(SLOWER);
    let (alpha, beta) = (Node::start("alpha", &options), Node::start("beta", &options));
    enrol(&alpha, &beta);
    let first = [serial(&alpha), serial(&beta)];
    let flowing = Flowing::start(&beta, &alpha);
    let begun = [activations(&alpha), activations(&beta)];
    // Certificates made before the clocks ran fast end a day after it: two more take their turns by then.
    wait_for(from, (2 * DAY + DAY / 2) * (RATE / SLOWER));
    flowing.moves();
    let session = beta.session();
    assert_eq!(session["losses"], 0, "{session}\n{}", beta.log());
    assert!(session["replacements"].as_u64() >= Some(2), "{session}");
    assert_eq!(alpha.session()["losses"], 0);
    for (node, (first, begun)) in [&alpha, &beta].into_iter().zip(first.iter().zip(begun)) {
        let times = activations(node) - begun;
        assert!(times >= 2, "{} changed {times} times\n{}", node.name(), node.log());
        assert_ne!(serial(node), *first);
        assert!(!node.log().contains("rotation: expired"), "{}", node.log());
    }
    for node in [&alpha, &beta] {
        let log = node.log();
        assert!(!log.contains("rotation: connections_past_end"), "{}: {log}", node.name());
        assert!(!log.contains("rotation: connections_closed"), "{}: {log}", node.name());
    }
    let sent = flowing.end();
    say(&format!(
        "rotation: {sent} octets, {} and {} changes, {} connections replaced",
        activations(&alpha) - begun[0],
        activations(&beta) - begun[1],
        session["replacements"],
    ));
}

#[test]
fn an_authority_that_is_away_for_six_hours_costs_nothing() {
    let _turn = alone();
    let (from, options) = fast(RATE);
    let mut alpha = Node::start("alpha", &options);
    let (beta, gamma) = (Node::start("beta", &options), Node::start("gamma", &options));
    for node in [&beta, &gamma] {
        enrol(&alpha, node);
    }
    let at = gamma.stoq_address();
    beta.ask(&["node", "add", "gamma", &at]);
    let flowing = Flowing::start(&beta, &gamma);
    // Away when successors are due, from the sixteenth hour to the seventeenth, and until the first who asked late
    // has given up: a request may take five seconds of the host's clock.
    wait_for(from, Duration::from_millis(15_500));
    alpha.kill();
    wait_for(from, Duration::from_millis(22_200));
    flowing.moves();
    let (before, failed) = (serial(&beta), beta.log().contains("no certificate"));
    assert!(failed, "nobody asked the authority that was away\n{}", beta.log());
    alpha.launch();
    wait_for(from, DAY + Duration::from_secs(4));
    flowing.moves();
    for node in [&beta, &gamma] {
        assert!(!node.log().contains("rotation: expired"), "{}", node.log());
        assert!(activations(node) >= 1, "{}", node.log());
    }
    assert_ne!(serial(&beta), before);
    let session = beta.ask(&["session", "list"]);
    let sessions = session["sessions"].as_array().unwrap();
    let with_gamma = sessions.iter().find(|one| one["peer"] == "gamma").unwrap();
    assert_eq!(with_gamma["losses"], 0, "{with_gamma}");
    say(&format!("outage: {} octets, none lost", flowing.end()));
}

#[test]
fn a_node_whose_certificate_has_ended_comes_back_with_its_enrolled_key() {
    let _turn = alone();
    let (from, options) = fast(RATE);
    let (alpha, mut beta) = (Node::start("alpha", &options), Node::start("beta", &options));
    enrol(&alpha, &beta);
    let before = serial(&beta);
    beta.kill();
    wait_for(from, DAY + Duration::from_secs(3));
    beta.launch();
    let now = wait_until("a new certificate", Duration::from_secs(15), || {
        let shown = beta.ask(&["node", "show"]);
        shown["certificate"]["serial"].as_str().map(ToOwned::to_owned)
    });
    assert_ne!(now, before);
    assert_eq!(beta.ask(&["node", "show"])["node"], "beta");
    Flowing::start(&beta, &alpha).end();
}
