//! The peers as programs on [::1]: what is sent is what arrives, strangers are refused, connections and calls
//! are counted. Nothing here is a measurement.

#![forbid(unsafe_code)]

use peer_trial::{ALL, Authority, CALLING, LIMITED, LOAD, SINK, Sink, dial, report};

const BRIEF: [&str; 4] = ["--duration", "300ms", "--omit", "100ms"];

/// Sends for a moment and compares what both ends say
fn transfer(peer: &str, more: &[&str]) {
    let authority = Authority::new();
    let of_sink: Vec<&str> = ["--omit", "100ms"].iter().chain(more).copied().collect();
    let sink = Sink::start(peer, &authority.identity(SINK), &of_sink);
    let of_load: Vec<&str> = BRIEF.iter().chain(more).copied().collect();
    let output = dial(peer, "load", &sink.address, &authority.identity(LOAD), &of_load);
    let sent = report(&output);
    let lines = sink.end();
    assert_eq!(lines.len(), 1, "{peer} {more:?}: {lines:?}");
    let got = &lines[0]["transfer"];
    assert_eq!(got["digest"], sent["digest"], "{peer} {more:?}");
    assert_eq!(got["total_bytes"], sent["total_bytes"], "{peer} {more:?}");
    assert!(got["total_bytes"].as_u64().is_some_and(|bytes| bytes > 1_000_000), "{peer}: {got}");
    assert!(got["bytes"].as_u64() < got["total_bytes"].as_u64(), "{peer}: {got}");
    assert!(got["gbps"].as_f64().is_some_and(|gbps| gbps > 0.0), "{peer}: {got}");
}

#[test]
fn what_is_sent_is_what_arrives_at_both_sizes() {
    for peer in ALL {
        transfer(peer, &["--payload", "1452"]);
        if peer == LIMITED {
            let large = ["--payload", "8952"];
            let identity = Authority::new().identity(LOAD);
            let output = dial(peer, "load", "[::1]:9", &identity, &large);
            assert!(!output.status.success(), "{peer} claims packets that it cannot send");
        } else {
            transfer(peer, &["--payload", "8952"]);
        }
    }
    transfer("peer-tls-tcp", &["--plain"]);
}

/// Whether a load with `identity` gets an upload through to a sink
fn is_let_in(peer: &str, of_sink: (&str, &[&str]), of_load: (&str, &[&str])) -> bool {
    let sink = Sink::start(peer, of_sink.0, of_sink.1);
    let more: Vec<&str> = BRIEF.iter().chain(of_load.1).copied().collect();
    let output = dial(peer, "load", &sink.address, of_load.0, &more);
    let arrived = !sink.end().is_empty();
    assert_eq!(output.status.success(), arrived, "{peer}: the ends disagree: {output:?}");
    arrived
}

#[test]
fn strangers_are_refused_at_both_ends() {
    let authority = Authority::new();
    let (sink, load) = (authority.identity(SINK), authority.identity(LOAD));
    let strange = Authority::new().identity(LOAD);
    let strange_sink = Authority::new().identity(SINK);
    for peer in ALL {
        let judge = |of_sink, of_load| is_let_in(peer, of_sink, of_load);
        assert!(judge((&sink, &[]), (&load, &[])), "{peer} refuses the right one");
        let none: &[&str] = &["--anonymous"];
        assert!(!judge((&sink, &[]), (&load, none)), "{peer} takes one without certificate");
        assert!(!judge((&sink, &[]), (&strange, &[])), "{peer} takes one of another authority");
        let other: &[&str] = &["--peer", "other"];
        if peer == LIMITED {
            // It says that it cannot rather than not comparing the name.
            assert!(!dial(peer, "load", "[::1]:9", &load, other).status.success(), "{peer}");
        } else {
            assert!(!judge((&sink, other), (&load, &[])), "{peer}'s sink takes another name");
            assert!(!judge((&sink, &[]), (&load, other)), "{peer}'s load takes another name");
        }
        assert!(!judge((&strange_sink, &[]), (&load, &[])), "{peer} dials another authority");
    }
}

#[test]
fn handshakes_are_made_with_either_key_share() {
    let authority = Authority::new();
    for peer in ALL {
        let sink = Sink::start(peer, &authority.identity(SINK), &[]);
        for share in ["x25519", "x25519mlkem768"] {
            let more = ["--duration", "300ms", "--in-flight", "2", "--key-share", share];
            let load = authority.identity(LOAD);
            let output = dial(peer, "handshakes", &sink.address, &load, &more);
            if peer == LIMITED && share == "x25519mlkem768" {
                assert!(!output.status.success(), "{peer} claims a group that it has not");
                continue;
            }
            let made = report(&output);
            assert!(made["handshakes"].as_u64().is_some_and(|n| n > 0), "{peer}: {made}");
            assert_eq!((&made["failed"], &made["key_share"]), (&0.into(), &share.into()), "{peer}");
        }
        let stranger = Authority::new().identity(LOAD);
        let more = ["--duration", "100ms", "--key-share", "x25519"];
        let output = dial(peer, "handshakes", &sink.address, &stranger, &more);
        assert!(!output.status.success(), "{peer} counts handshakes that were refused");
        assert!(sink.end().is_empty(), "{peer} reports a handshake as a transfer");
    }
}

#[test]
fn calls_are_answered_at_a_rate_and_as_fast_as_they_come() {
    let authority = Authority::new();
    for peer in CALLING {
        let sink = Sink::start(peer, &authority.identity(SINK), &[]);
        for (rate, least) in [("200", 80), ("0", 10)] {
            let more = ["--rate", rate, "--duration", "500ms", "--omit", "100ms"];
            let load = authority.identity(LOAD);
            let made = report(&dial(peer, "calls", &sink.address, &load, &more));
            assert!(made["calls"].as_u64().is_some_and(|n| n >= least), "{peer}: {made}");
            assert_eq!((&made["failed"], &made["unanswered"]), (&0.into(), &0.into()), "{peer}");
            let latency = &made["latency_us"];
            assert!(latency["p50"].as_f64() <= latency["p9999"].as_f64(), "{peer}: {made}");
            assert!(latency["p50"].as_f64() > Some(1.0), "{peer}: {made}");
        }
        assert!(sink.end().is_empty(), "{peer} reports a call as a transfer");
    }
}
