//! The stages of both ends on clocks made by hand: each figure in its place, and nothing counted twice.

use super::*;
use crate::exchange::{Description, WorkerDescription};
use crate::process::{Sample, ThreadTime, WorkerSample};

const BYTES: u64 = 1_000;

fn about(io: &str) -> Description {
    let worker = serde_json::json!({
        "core": 0, "node": 0, "io": io, "io_fallback": null, "gso_segments": 64, "gro": true,
        "multishot": true, "registered_buffers": true, "page_bytes": 4096, "huge_pages": "no",
        "zero_copy": "off", "receive_buffer_bytes": 1,
    });
    let worker: WorkerDescription = serde_json::from_value(worker).unwrap();
    Description { workers: vec![worker], ..Description::default() }
}

/// Clocks in nanoseconds; the stage clock ran only where `fine`
fn after(fine: bool) -> Sample {
    let stages = [
        ("receive", 100),
        ("transport_in", 200),
        ("services", 300),
        ("transport_out", 1_000),
        ("submit", 50),
        ("idle", 5_000),
    ];
    let parts = [
        ("transport_ns.send_data", 700),
        ("transport_ns.send_ack", 100),
        ("transport_ns.receive_data", 30),
        ("transport_ns.receive_ack", 20),
        ("transport_ns.stream_send", 60),
        ("transport_ns.stream_receive", 40),
        ("transport_ns.datagram_in", 70),
    ];
    let counts = [
        ("datagrams_sent", 12),
        ("small_datagrams_sent", 2),
        ("datagrams_received", 7),
        ("small_datagrams_received", 3),
    ];
    let map = |pairs: &[(&str, u64)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
    let mut counters: BTreeMap<String, u64> = map(&counts);
    if fine {
        counters.extend(map(&parts));
    }
    let time = |user_ns: f64, system_ns: f64| ThreadTime {
        user_seconds: user_ns / 1e9,
        system_seconds: system_ns / 1e9,
    };
    Sample {
        threads: BTreeMap::from([
            ("workers".to_owned(), time(1_500.0, 400.0)),
            ("application".to_owned(), time(90.0, 10.0)),
            ("other".to_owned(), time(9_999.0, 0.0)),
        ]),
        workers: vec![WorkerSample { counters, stage_ns: map(&stages) }],
        ..Sample::default()
    }
}

fn tsc() -> Tsc {
    Tsc { gigahertz: Some(2.0), origin: "by hand".into() }
}

fn calibration() -> Calibration {
    let cipher = |seal: f64| Cipher {
        seal_ns_per_byte: seal,
        open_ns_per_byte: 0.01,
        header_protection_ns_per_packet: Some([2.0, 3.0]),
        ..Cipher::default()
    };
    Calibration::of(&[cipher(0.1), cipher(0.3)], 100).unwrap()
}

fn stages(side: SideName, fine: bool, io: &str, with: Option<Calibration>) -> (Stages, f64) {
    let (before, after, about) = (Sample::default(), after(fine), about(io));
    let ends = Ends { first: &before, before: &before, after: &after, about: &about, last: &after };
    of(side, &ends, BYTES, with, &tsc())
}

/// Nanoseconds in all, as they were put in
fn ns(stages: &Stages, name: &str) -> Option<f64> {
    stages[name].ns_per_byte.map(|ns| (ns * BYTES as f64 * 1e6).round() / 1e6)
}

fn assert_whole(stages: &Stages, busy: f64) {
    let sum: f64 = stages.values().filter_map(|stage| stage.ns_per_byte).sum();
    assert!((sum - busy).abs() < 1e-9, "{sum} {busy}");
    assert!((busy - 2.0).abs() < 1e-9, "the program's and the worker's threads, no other");
}

#[test]
fn a_sender_is_taken_apart() {
    let (stages, busy) = stages(SideName::Sender, true, "io_uring", Some(calibration()));
    let expected = [
        ("produce", 440.0),
        ("stream_send", 60.0),
        ("packetise", 480.0),
        ("seal", 200.0),
        ("header_protection", 20.0),
        ("submit", 200.0),
        ("kernel", 400.0),
        ("ack", 200.0),
        ("application", 100.0),
        ("unattributed", -100.0),
    ];
    for (name, value) in expected {
        assert_eq!(ns(&stages, name), Some(value), "{name}");
        let stage = &stages[name];
        assert_eq!(stage.cycles_per_byte, stage.ns_per_byte.map(|ns| ns * 2.0), "{name}");
        assert_eq!(stage.reason, None, "{name}");
    }
    assert_eq!(stages.len(), expected.len());
    assert_eq!(stages["seal"].source, Source::Calibrated);
    assert_eq!(stages["packetise"].source, Source::Clock);
    assert_eq!(stages["kernel"].source, Source::Accounts);
    assert_whole(&stages, busy);
}

#[test]
fn a_receiver_is_taken_apart() {
    let (stages, busy) = stages(SideName::Receiver, true, "io_uring", Some(calibration()));
    let expected = [
        ("receive", 30.0),
        ("split", 20.0),
        ("open", 4.0),
        ("header_protection", 12.0),
        ("parse", 34.0),
        ("reassemble", 40.0),
        ("deliver", 460.0),
        ("ack", 800.0),
        ("submit", 200.0),
        ("kernel", 400.0),
        ("application", 100.0),
        ("unattributed", -100.0),
    ];
    for (name, value) in expected {
        assert_eq!(ns(&stages, name), Some(value), "{name}");
    }
    assert_eq!(stages.len(), expected.len());
    assert_whole(&stages, busy);
}

#[test]
fn without_the_stage_clock_the_workers_clock_fills_what_it_can() {
    let (sender, busy) = stages(SideName::Sender, false, "io_uring", Some(calibration()));
    assert_eq!(ns(&sender, "packetise"), Some(780.0));
    assert_eq!(sender["packetise"].reason.as_deref(), Some("contains submit"));
    assert_eq!((ns(&sender, "produce"), ns(&sender, "ack")), (Some(500.0), Some(100.0)));
    for name in ["stream_send", "submit"] {
        assert_eq!(ns(&sender, name), None, "{name}");
        assert!(sender[name].reason.as_ref().unwrap().contains("--stages"), "{name}");
    }
    assert_whole(&sender, busy);
    let (receiver, busy) = stages(SideName::Receiver, false, "io_uring", Some(calibration()));
    assert_eq!(ns(&receiver, "parse"), Some(84.0));
    assert_eq!((ns(&receiver, "deliver"), ns(&receiver, "ack")), (Some(500.0), Some(1_000.0)));
    assert_whole(&receiver, busy);
}

#[test]
fn what_was_not_calibrated_stays_where_it_is_contained() {
    for (side, whole, parts) in [
        (SideName::Sender, ("packetise", 700.0), ["seal", "header_protection"]),
        (SideName::Receiver, ("parse", 50.0), ["open", "header_protection"]),
    ] {
        let (stages, busy) = stages(side, true, "io_uring", None);
        assert_eq!(ns(&stages, whole.0), Some(whole.1));
        assert!(stages[whole.0].reason.as_ref().unwrap().contains("contains seal"));
        assert!(parts.iter().all(|part| ns(&stages, part).is_none()));
        assert_whole(&stages, busy);
    }
    let old = Cipher { seal_ns_per_byte: 1.0, ..Cipher::default() };
    assert_eq!(Calibration::of(&[old], 100), None, "a record without header protection");
    assert_eq!(Calibration::of(&[], 100), None);
}

#[test]
fn plain_calls_hide_the_kernel_and_an_unknown_counter_the_cycles() {
    let (stages, _) = stages(SideName::Sender, true, "system_calls", None);
    assert_eq!(ns(&stages, "kernel"), None);
    assert!(stages["kernel"].reason.is_some());
    let mut sheet = Sheet {
        bytes: 10.0,
        tsc: &Tsc { gigahertz: None, origin: "nobody says".into() },
        stages: Stages::new(),
        explained_ns: 0.0,
    };
    sheet.put("open", 5.0, Source::Calibrated, Some("a note"));
    let stage = &sheet.stages["open"];
    assert_eq!((stage.ns_per_byte, stage.cycles_per_byte), (Some(0.5), None));
    assert_eq!(stage.reason.as_deref(), Some("a note; no cycles: nobody says"));
}

#[test]
fn the_dearest_stage_of_the_busier_end_binds_whatever_is_left_over() {
    let stage = |ns: f64| StageCost {
        ns_per_byte: Some(ns),
        cycles_per_byte: None,
        source: Source::Clock,
        reason: None,
    };
    let end = |pairs: &[(&str, f64)]| -> Stages {
        pairs.iter().map(|(name, ns)| ((*name).to_owned(), stage(*ns))).collect()
    };
    let sender = end(&[("kernel", 0.9), ("seal", 0.1)]);
    let receiver = end(&[("parse", 0.3), ("open", 0.2), ("unattributed", 5.0)]);
    let costs = |sender_ns, receiver_ns| Costs {
        stages: [sender.clone(), receiver.clone()],
        busy_ns: [sender_ns, receiver_ns],
    };
    assert_eq!(costs(1.0, 5.5).binding_stage(), "receiver.parse");
    assert_eq!(costs(6.0, 5.5).binding_stage(), "sender.kernel");
}

#[test]
fn stages_are_read_back_and_so_are_those_of_earlier_versions() {
    let (stages, _) = stages(SideName::Sender, false, "io_uring", None);
    let text = serde_json::to_string(&stages).unwrap();
    assert_eq!(serde_json::from_str::<Stages>(&text).unwrap(), stages);
    let old: Stages = serde_json::from_str(r#"{"transport_out": 0.7}"#).unwrap();
    assert_eq!(old["transport_out"].ns_per_byte, Some(0.7));
    assert!(old["transport_out"].reason.is_some());
}
