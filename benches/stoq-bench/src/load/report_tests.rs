//! The report's arithmetic on samples made by hand.

use super::*;
use crate::exchange::Description;
use crate::process::{Sample, ThreadTime, WorkerSample};

fn worker(entries: &[(&str, u64)], stages: &[(&str, u64)]) -> WorkerSample {
    let map = |pairs: &[(&str, u64)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
    WorkerSample { counters: map(entries), stage_ns: map(stages) }
}

fn sample(at_s: u64, data_bytes: u64, worker: WorkerSample, user_seconds: f64) -> Sample {
    let time = ThreadTime { user_seconds, system_seconds: 0.0 };
    Sample {
        at_ns: at_s * 1_000_000_000,
        data_bytes,
        first_byte_ns: (data_bytes > 0).then_some(1_500_000_000),
        last_byte_ns: None,
        threads: BTreeMap::from([("workers".to_owned(), time)]),
        workers: vec![worker],
    }
}

fn description() -> Description {
    let worker = WorkerDescription {
        core: Some(0),
        node: Some(0),
        io: "io_uring".into(),
        io_fallback: None,
        gso_segments: 64,
        gro: true,
        multishot: Some(true),
        registered_buffers: Some(true),
        page_bytes: 4_096,
        huge_pages: "no".into(),
        zero_copy: "off".into(),
        receive_buffer_bytes: 1 << 25,
    };
    Description { workers: vec![worker], replacements: 3, ..Description::default() }
}

fn start(verify: Verify) -> Start {
    Start {
        host: Fingerprint::read().unwrap(),
        path: Some(PathKind::Loopback),
        commit: None,
        payload_bytes: 1_452,
        flows: 1,
        sessions: 1,
        striped: false,
        reverse: false,
        verify,
        transport: String::new(),
        workers: Vec::new(),
    }
}

fn tsc() -> Tsc {
    Tsc { gigahertz: Some(2.0), origin: "by hand".into() }
}

fn equal(bytes: u64) -> Verdict {
    Verdict { received_bytes: bytes, sent_bytes: Some(bytes), outcome: Outcome::Equal }
}

fn between<'a>(before: &'a Sample, after: &'a Sample, about: &'a Description) -> Ends<'a> {
    Ends { first: before, before, after, about, last: after }
}

fn ends<'a>(samples: &'a [Sample; 2], about: &'a Description) -> Ends<'a> {
    between(&samples[0], &samples[1], about)
}

fn report(verify: Verify, flows: Vec<Verdict>) -> Result<LoadReport, ReportError> {
    let about = description();
    let sending = [
        sample(10, 0, worker(&[("datagrams_sent", 100), ("trains_sent", 10)], &[]), 1.0),
        sample(
            12,
            0,
            worker(
                &[
                    ("datagrams_sent", 1_100),
                    ("trains_sent", 35),
                    ("packets_lost", 10),
                    ("packets_lost_spurious", 3),
                    ("system_calls", 50),
                ],
                &[("transport_out", 1_000), ("submit", 400), ("idle", 600)],
            ),
            2.5,
        ),
    ];
    let mut receiving = [
        sample(2, 1_000, worker(&[], &[]), 0.0),
        sample(
            4,
            5_000,
            worker(
                &[("datagrams_received", 990), ("datagrams_sent", 99), ("socket_overflows", 5)],
                &[("receive", 1_000), ("idle", 1_000)],
            ),
            0.0,
        ),
    ];
    // The last octet came half a second before the sample.
    receiving[1].last_byte_ns = Some(3_500_000_000);
    LoadReport::of(Inputs {
        start: start(verify),
        intervals: Vec::new(),
        sender: ends(&sending, &about),
        receiver: ends(&receiving, &about),
        flows,
        ceilings: None,
        ciphers: None,
        tsc: tsc(),
    })
}

/// A whole report, for tests elsewhere
pub fn example() -> LoadReport {
    report(Verify::Xxh3, vec![equal(5_000)]).unwrap()
}

#[test]
fn goodput_is_what_arrived_between_warm_up_and_the_last_octet() {
    let report = example();
    assert_eq!((report.bytes, report.seconds), (4_000, 1.5));
    assert!((report.goodput_gbps - 4_000.0 * 8.0 / 1.5e9).abs() < 1e-15);
    assert!(report.verified && report.is_sound());
    assert_eq!(report.lost_bytes, Some(0));
}

#[test]
fn both_sides_are_differences_of_their_samples() {
    let report = example();
    assert_eq!(report.sender.datagrams_sent, 1_000);
    assert_eq!(report.sender.tx_train_mean, Some(40.0));
    assert_eq!(report.sender.rx_train_mean, None);
    assert_eq!(report.sender.datagrams_per_system_call, Some(20.0));
    assert_eq!(report.sender.cpu["workers"].user_cores, 0.75);
    assert_eq!(report.ack_ratio, Some(0.1));
    assert_eq!(report.sender.ns_per_byte["transport_out"], 0.25);
    // 1.5 s of processor time over 4,000 octets, most of it within the stage that builds packets.
    assert!((report.busy_ns_per_byte["sender"] - 375_000.0).abs() < 1e-6);
    assert!((report.busy_cycles_per_byte["sender"] - 750_000.0).abs() < 1e-6);
    assert!((report.gbps_per_core["sender"] - 8.0 / 375_000.0).abs() < 1e-15);
    assert!(!report.gbps_per_core.contains_key("receiver"), "no time, no rate");
    assert_eq!(report.binding_stage, "sender.packetise");
    assert_eq!(report.connection_replacements, 3);
}

#[test]
fn loss_is_told_apart_by_cause() {
    let loss = |buffers, path| Loss::of(10, 3, buffers, path);
    assert_eq!(example().loss, loss(5, Some(PathKind::Loopback)));
    let parts = |loss: Loss| (loss.socket, loss.network);
    assert_eq!(parts(loss(5, Some(PathKind::Loopback))), (Some(7), Some(0)));
    assert_eq!(parts(loss(0, Some(PathKind::Nic))), (Some(0), Some(7)));
    // A dropped buffer may have held one packet or a train of them.
    assert_eq!(parts(loss(5, Some(PathKind::Nic))), (None, None));
}

#[test]
fn what_is_counted_when_connections_are_asked_at_the_end_belongs_to_the_run() {
    let counted = |at, lost, most| {
        let entries = [("packets_lost", lost), ("packets_per_key_most", most)];
        sample(at, 0, worker(&entries, &[]), 0.0)
    };
    let (first, after, last) = (counted(1, 2, 70), counted(2, 3, 90), counted(3, 9, 100));
    let about = description();
    let ends = Ends { last: &last, ..between(&first, &after, &about) };
    assert_eq!(ends.over_the_run("packets_lost"), 7);
    assert_eq!(ends.sum("packets_lost"), 1);
    // A level, not a count: no difference of it means anything.
    assert_eq!(ends.packets_per_key(), 100);
}

#[test]
fn what_was_not_measured_is_absent() {
    let text = serde_json::to_value(example()).unwrap();
    for name in ["ceiling_gbps", "fraction_of_ceiling", "ceilings", "rtt_us"] {
        assert!(text[name].is_null(), "{name}");
    }
    assert_eq!(text["schema"], SCHEMA);
    assert_eq!(text["receiver"]["ns_per_byte"]["receive"], 0.25);
    let split = &text["ns_per_byte"]["receiver"]["split"];
    assert!(split["ns_per_byte"].is_null() && split["cycles_per_byte"].is_null());
    assert!(split["reason"].as_str().unwrap().contains("--stages"));
    assert!(text["instructions_per_byte"].is_null());
    assert!(!text["instructions_per_byte_reason"].as_str().unwrap().is_empty());
    assert_eq!(text["workers"][0]["tx_train_mean"], 40.0);
}

#[test]
fn a_wrong_digest_a_missing_byte_and_a_missing_trailer_are_unsound() {
    let differs = Verdict { outcome: Outcome::DigestDiffers, ..equal(5_000) };
    let short =
        Verdict { received_bytes: 4_999, sent_bytes: Some(5_000), outcome: Outcome::CountDiffers };
    let cut = Verdict { received_bytes: 10, sent_bytes: None, outcome: Outcome::NoTrailer };
    for (bad, lost) in [(differs, Some(0)), (short, Some(1)), (cut, None)] {
        let report = report(Verify::Xxh3, vec![equal(1), bad]).unwrap();
        assert!(!report.verified && !report.is_sound());
        assert_eq!(report.lost_bytes, lost);
    }
    let none = report(Verify::Xxh3, Vec::new()).unwrap();
    assert!(!none.verified && !none.is_sound());
}

#[test]
fn a_run_that_only_counts_is_sound_but_not_verified() {
    let report = report(Verify::None, vec![equal(5_000)]).unwrap();
    assert!(report.is_sound() && !report.verified);
}

#[test]
fn a_run_within_its_warm_up_has_no_goodput() {
    let about = description();
    let sent = sample(1, 0, worker(&[], &[]), 0.0);
    let mut received = sample(4, 5_000, worker(&[], &[]), 0.0);
    received.last_byte_ns = Some(3_500_000_000);
    let of = |receiver: &Sample| {
        LoadReport::of(Inputs {
            start: start(Verify::Xxh3),
            intervals: Vec::new(),
            sender: between(&sent, &sent, &about),
            receiver: between(receiver, receiver, &about),
            flows: vec![equal(5_000)],
            ceilings: None,
            ciphers: None,
            tsc: tsc(),
        })
    };
    assert_eq!(of(&received), Err(ReportError::OnlyWarmUp));
    assert_eq!(of(&sent), Err(ReportError::Nothing));
}

#[test]
fn trains_losses_and_keys_are_told_with_their_causes() {
    let about = description();
    let at = |at, factor: u64| {
        let count = |value: u64| value * factor;
        let entries = [
            ("datagrams_sent", count(90)),
            ("trains_sent", count(3)),
            ("trains_sent_by_length.16-31", count(2)),
            ("trains_sent_by_length.32-63", count(1)),
            ("trains_received_by_length.1", count(5)),
            ("train_ends.full", count(1)),
            ("train_ends.congestion_window", count(2)),
            ("trains_held_by_pool", count(4)),
            ("stream_bytes_retransmitted", count(1_452)),
            ("small_datagrams_received", count(6)),
            ("packets_per_key_most", 1 << 21),
        ];
        sample(at, 1_000 * factor, worker(&entries, &[]), 0.0)
    };
    let (before, mut after) = (at(2, 1), at(4, 3));
    after.last_byte_ns = Some(3_500_000_000);
    let report = LoadReport::of(Inputs {
        start: start(Verify::Xxh3),
        intervals: Vec::new(),
        sender: between(&before, &after, &about),
        receiver: between(&before, &after, &about),
        flows: vec![equal(3_000)],
        ceilings: None,
        ciphers: None,
        tsc: tsc(),
    });
    let text = serde_json::to_value(report.unwrap()).unwrap();
    let sent = &text["trains"]["sender"]["sent"];
    assert_eq!(sent["mean"], 30.0);
    assert_eq!(sent["by_length"]["16-31"], 4);
    assert_eq!(sent["by_length"]["64+"], 0);
    assert_eq!(sent["ended"]["congestion_window"], 4);
    assert_eq!(sent["ended"].as_object().unwrap().len(), 5);
    assert_eq!(sent["held_back"], serde_json::json!({"pacing": 0, "pool": 8}));
    assert_eq!(text["trains"]["sender"]["received"]["by_length"]["1"], 10);
    let losses = &text["losses"];
    assert_eq!(losses["stream_bytes_retransmitted"], 2_904);
    assert_eq!(losses["small_datagrams_received_by_sender"], 12);
    for cause in ["packets_lost", "spurious", "socket", "network"] {
        assert_eq!(losses[cause], 0, "{cause}");
    }
    let keys = &text["packets_per_key"];
    assert_eq!((&keys["limit"], &keys["most"]), (&(1 << 23).into(), &(1 << 21).into()));
    assert_eq!(keys["share"], 0.25);
}

/// Records of the first version, which are kept in `benches/results`
#[test]
fn recorded_runs_stay_readable() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../results");
    let mut read = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("load-1452-") && !name.starts_with("load-8952-") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let records = serde_json::Deserializer::from_str(&text).into_iter::<LoadReport>();
        for record in records {
            let record = record.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(record.goodput_gbps > 0.0 && !record.ns_per_byte["sender"].is_empty());
            read += 1;
        }
    }
    assert!(read >= 10, "{read}");
}
