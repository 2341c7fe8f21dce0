//! What a scale report makes of figures that are known.

use super::*;
use crate::process::{Sample, ThreadTime, WorkerSample};
use crate::rig::example_conditions;

fn vitals(at_s: u64, bytes: u64, cpu_seconds: f64, rss_bytes: u64) -> Vitals {
    let time = ThreadTime { user_seconds: cpu_seconds, system_seconds: 0.0 };
    let counters = [("datagrams_sent", bytes / 100), ("trains_sent", bytes / 1_000)];
    let counters = counters.map(|(name, value)| (name.to_owned(), value)).into();
    Vitals {
        sample: Sample {
            at_ns: at_s * 1_000_000_000,
            data_bytes: bytes,
            threads: [("workers".to_owned(), time)].into(),
            workers: vec![WorkerSample { counters, ..WorkerSample::default() }],
            ..Sample::default()
        },
        memory: Memory { rss_bytes, pss_bytes: rss_bytes / 2, anonymous_bytes: 0 },
        ..Vitals::default()
    }
}

fn equal(bytes: u64) -> Verdict {
    Verdict { received_bytes: bytes, sent_bytes: Some(bytes), outcome: Outcome::Equal }
}

fn point(verdicts: &[Verdict], cpu: f64) -> Point {
    let before = (vitals(0, 1_000, 1.0, 0), vitals(10, 1_000, 1.0, 0));
    let after = (vitals(2, 1_001_000, 1.0 + cpu, 0), vitals(12, 1_001_000, 1.0 + 2.0 * cpu, 0));
    Point::of(0, &before, &after, verdicts).unwrap()
}

#[test]
fn costs_are_processor_time_over_octets_that_arrived() {
    let point = point(&[equal(9), equal(9)], 0.001);
    assert_eq!((point.connections, point.bytes, point.seconds), (2, 1_000_000, 2.0));
    assert!((point.gbps - 0.004).abs() < 1e-12);
    assert!((point.sender_ns_per_byte - 1.0).abs() < 1e-6);
    assert!((point.receiver_ns_per_byte - 2.0).abs() < 1e-6);
    assert_eq!(point.tx_train_mean, Some(10.0));
    assert_eq!(point.rx_train_mean, None, "what was not counted is not known");
    assert!(point.is_sound());
}

#[test]
fn a_missing_octet_or_trailer_is_not_sound() {
    let differs = Verdict { outcome: Outcome::DigestDiffers, ..equal(9) };
    let torn = Verdict { sent_bytes: None, outcome: Outcome::NoTrailer, ..equal(9) };
    let short = Verdict { sent_bytes: Some(10), outcome: Outcome::CountDiffers, ..equal(9) };
    for bad in [differs, torn, short] {
        let point = point(&[equal(9), bad], 0.001);
        assert!(!point.is_sound(), "{bad:?}");
        assert!(point.line().contains("MISSING OR WRONG"));
    }
    assert_eq!(point(&[torn], 0.001).lost_bytes, None);
    assert_eq!(point(&[short, equal(1)], 0.001).lost_bytes, Some(1));
    let still = (vitals(0, 5, 1.0, 0), vitals(0, 5, 1.0, 0));
    let later = (vitals(1, 5, 1.0, 0), vitals(1, 5, 1.0, 0));
    assert_eq!(Point::of(0, &still, &later, &[equal(5)]), None, "nothing arrived");
}

#[test]
fn summaries_are_medians_relative_to_the_fewest_connections() {
    let one = [0.001, 0.5, 0.001].map(|cpu| point(&[equal(1)], cpu));
    let two = [point(&[equal(1), equal(1)], 0.0015)];
    let points: Vec<Point> = two.into_iter().chain(one).collect();
    let summary = summarise(&points);
    let counts: Vec<usize> = summary.iter().map(|one| one.connections).collect();
    assert_eq!(counts, [1, 2]);
    assert_eq!((summary[0].cost_relative, summary[0].gbps.count), (1.0, 3));
    assert!((summary[1].cost_relative - 1.5).abs() < 1e-6, "the outlier does not count");
    assert_eq!(summary[1].relative_to_connections, 1);
    assert!(summarise(&[]).is_empty());
}

#[test]
fn an_idle_side_is_weighed_per_connection() {
    let instants = [
        vitals(0, 0, 1.0, 1_000_000),
        vitals(1, 0, 3.0, 5_000_000),
        vitals(3, 0, 3.5, 4_000_000),
        vitals(4, 0, 3.5, 1_000_000),
    ];
    let [before, held, rested, closed] = &instants;
    let side = IdleSide::of(1_000, [before, held, rested, closed]);
    assert_eq!(side.rss_bytes_per_connection, 4_000.0);
    assert_eq!(side.pss_bytes_per_connection, 2_000.0);
    assert_eq!(side.rested_rss_bytes_per_connection, 3_000.0);
    assert_eq!(side.cpu_us_per_handshake, 2_000.0);
    assert_eq!(side.rest_cores, 0.25);
    let idle = Idle {
        sessions: 1_000,
        seconds: 2.0,
        handshakes_per_second: 500.0,
        keep_alive_seconds: 60.0,
        rest_seconds: 2.0,
        near: side,
        far: side,
        sampled: 100,
        sampled_equal: 100,
        closing_seconds: 1.0,
        retries: 0,
        near_reasons: BTreeMap::new(),
        far_reasons: BTreeMap::new(),
    };
    assert!(idle.is_sound());
    assert!(!Idle { sampled_equal: 99, ..idle.clone() }.is_sound());
    assert!(!Idle { sampled: 0, sampled_equal: 0, ..idle.clone() }.is_sound());
    let report = ScaleReport {
        schema: SCHEMA.into(),
        conditions: example_conditions(),
        points: vec![point(&[equal(1)], 1.0)],
        summary: summarise(&[point(&[equal(1)], 1.0)]),
        idle: Some(idle),
    };
    assert!(report.is_sound());
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<ScaleReport>(&text).unwrap(), report);
}
