//! What rotation does is counted in /metrics from the first moment on, each event under its own label, while the
//! authority is away and when it is back. The clocks run fast: an hour takes a second.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use stoq_appliance_tests::{Node, Options, alone, enrol, say, wait_until};
use stoq_trustchain::rotation::Event;

/// Seconds the nodes' clocks show for one of the host's
const RATE: u32 = 3_600;
const PATIENCE: Duration = Duration::from_secs(180);
const FAMILY: &str = "stoq_node_rotation_events_total";
const ENDS: &str = "stoq_node_certificate_expiry_timestamp_seconds";

/// The counters by event, as they are scraped
fn events(node: &Node) -> BTreeMap<String, u64> {
    let (_, metrics) = node.metrics();
    let samples = metrics.lines().filter_map(|line| {
        let (event, count) =
            line.strip_prefix(FAMILY)?.strip_prefix("{event=\"")?.split_once("\"} ")?;
        Some((event.to_owned(), count.parse().expect("a count")))
    });
    samples.collect()
}

/// Waits until an event was counted so often
fn counted(node: &Node, event: &str, times: u64) -> BTreeMap<String, u64> {
    let what = format!("{} counts {event} {times} times", node.name());
    wait_until(&what, PATIENCE, || {
        let events = events(node);
        (events.get(event) >= Some(&times)).then_some(events)
    })
}

/// How often the log names an event
fn logged(node: &Node, event: &str) -> u64 {
    let text = format!("rotation: {event}");
    node.log().lines().filter(|line| line.contains(&text)).count() as u64
}

#[test]
fn each_event_of_rotation_is_counted_where_it_is_scraped() {
    let _turn = alone();
    let options = Options { log_filter: "info,stoqd=debug".into(), ..Options::default() };
    let (mut alpha, mut beta) = (Node::start("alpha", &options), Node::start("beta", &options));
    enrol(&alpha, &beta);
    // Every event is there before it happens, so that an alarm can be set on it.
    let labels: Vec<String> = Event::LABELS.iter().map(ToString::to_string).collect();
    let quiet = events(&beta);
    assert!(labels.iter().all(|label| quiet.contains_key(label)), "{quiet:?}");
    assert_eq!(quiet.len(), labels.len());
    assert_eq!((quiet["failed"], quiet["activated"]), (0, 0));
    for node in [&mut beta, &mut alpha] {
        node.signal(Signal::TERM);
        assert!(node.wait_exit(PATIENCE).success(), "{}", node.log());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let clock = format!("{now}:{RATE}");
    beta.set_test_clock(&clock);
    alpha.set_test_clock(&clock);
    beta.launch();
    let before = beta.metric(ENDS, "");
    // The authority is away when a successor is due.
    let away = counted(&beta, "failed", 2);
    assert!(away["requested"] >= 2, "{away:?}");
    assert_eq!((away["acquired"], away["activated"]), (0, 0), "{away:?}");
    alpha.launch();
    counted(&beta, "acquired", 1);
    let back = counted(&beta, "activated", 1);
    wait_until("the new certificate's end", PATIENCE, || {
        (beta.metric(ENDS, "") > before).then_some(())
    });
    // What is counted is what the log says, event by event: it is logged first and counted then.
    for event in ["requested", "failed", "acquired", "activated"] {
        let said = logged(&beta, event);
        let count = counted(&beta, event, said)[event];
        assert!(count <= logged(&beta, event), "{event}: {count} counted, {said} logged");
    }
    say(&format!("rotation: counted {back:?}"));
}
