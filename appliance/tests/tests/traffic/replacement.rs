//! Connections replaced under a flow that goes on.

use std::time::Duration;

use stoq_appliance_tests::{DigestSink, Options, Stream, exchange_digest, say, shared, wait_until};

use crate::{pair, unix};

const LENGTH: u64 = 384 << 20;

#[test]
fn replacement_on_demand_loses_no_byte() {
    let _turn = shared();
    let (alpha, beta) = pair(&Options::default());
    let sink = DigestSink::start(&alpha.path("sink.sock"));
    alpha.publish("sink", &sink.target(), &["beta"]);
    let at = beta.attach("sink@alpha", &unix(&beta, "sink.sock"));
    let client =
        std::thread::spawn(move || exchange_digest(Stream::connect(&at).unwrap(), 11, LENGTH));
    let mut replaced = 0;
    for part in 1..=3 {
        wait_until("the flow moves on", Duration::from_secs(30), || {
            (sink.bytes_read() > part * (LENGTH / 8)).then_some(())
        });
        let done = beta.ask(&["session", "replace", "--peer", "alpha"]);
        replaced += done["replaced"].as_u64().unwrap();
        assert!(sink.bytes_read() < LENGTH, "the flow was over before the replacement");
    }
    assert!(client.join().unwrap().unwrap(), "the digest differs");
    let session = beta.session();
    assert!(replaced >= 3, "{replaced}");
    assert!(session["replacements"].as_u64() >= Some(3), "{session}");
    assert_eq!(session["losses"], 0, "{session}");
    assert_eq!(alpha.session()["losses"], 0);
    say(&format!("replacement: {LENGTH} octets, {replaced} connections replaced, digest equal"));
}

#[test]
fn replacement_by_the_packet_rule_loses_no_byte() {
    let _turn = shared();
    let (alpha, beta) = pair(&Options::with_transport("replace_after_packets = 50000"));
    let sink = DigestSink::start(&alpha.path("sink.sock"));
    alpha.publish("sink", &sink.target(), &["beta"]);
    let at = beta.attach("sink@alpha", &unix(&beta, "sink.sock"));
    assert!(exchange_digest(Stream::connect(&at).unwrap(), 12, LENGTH).unwrap());
    let by_rule = beta.counter("", "replaced_for_packets");
    say(&format!(
        "replacement: {LENGTH} octets, {by_rule} connections replaced by the packet rule"
    ));
    assert!(by_rule >= 2, "{by_rule}");
    let session = beta.session();
    assert_eq!(session["losses"], 0, "{session}");
}
