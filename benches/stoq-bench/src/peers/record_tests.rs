//! The arithmetic of a comparison on pairs made by hand, and what is refused.

use super::*;

fn transfer(gbps: f64) -> Transfer {
    Transfer {
        gbps,
        bytes: 1_000,
        seconds: 4.0,
        cpu_sender: Some(0.9),
        cpu_receiver: Some(0.5),
        other_cpu: Some(0.01),
    }
}

fn pair(ours: f64, theirs: f64) -> Pair {
    Pair { ours: transfer(ours), theirs: transfer(theirs) }
}

fn about(peer: &str, payload: u64) -> Row {
    Row {
        peer: peer.into(),
        version: "1.2".into(),
        ours: "stoq-bench load".into(),
        payload,
        path: "loopback".into(),
        ..Row::default()
    }
}

/// A record as it is written: two peers at two payloads, one of them skipped
pub fn example() -> PeersRecord {
    let measured = |payload| {
        let pairs = vec![pair(8.0, 4.0), pair(9.0, 3.0), pair(6.0, 4.0)];
        Row::of(about("quinn", payload), pairs).unwrap()
    };
    let skipped = |payload| {
        let about = Row { version: String::new(), ..about("wireguard", payload) };
        Row::skipped(about, "no such <link> here".into())
    };
    PeersRecord {
        rows: vec![measured(1_452), skipped(1_452), measured(8_952), skipped(8_952)],
        fingerprint: Fingerprint::read().unwrap(),
        conditions: Conditions {
            schema: SCHEMA.into(),
            date: "2026-11-22".into(),
            stoq_version: "0.1.0".into(),
            commit: None,
            peers: vec!["quinn".into(), "wireguard".into()],
            payloads: vec![1_452, 8_952],
            pairs: 3,
            duration_s: 4.0,
            omit_s: 1.0,
            cores: [0, 1],
            order: "A B, B A".into(),
            verified: "XXH3".into(),
        },
    }
}

#[test]
fn the_ratio_is_taken_pair_by_pair() {
    // Medians of 8 and 4 would give 2 as well; of the pairs 2, 3 and 1.5 the middle is 2. A drift
    // that halves one pair's both sides must not count at all.
    let row = Row::of(about("quinn", 1_452), vec![pair(8.0, 4.0), pair(4.5, 1.5), pair(3.0, 2.0)]);
    let row = row.unwrap();
    assert_eq!(row.ratio_median, Some(2.0));
    assert_eq!(row.ratio_quartiles, Some([1.75, 2.5]));
    assert_eq!((row.gbps_median, row.ours_gbps_median, row.pairs), (Some(2.0), Some(4.5), 3));
    assert_ne!(row.ratio_median, Some(4.5 / 2.0));
    // 0.9 of a processor at 4 Gb/s is 1.8 s for each 10^9 octets; at 1.5 and 2 Gb/s 4.8 and 3.6.
    assert!((row.cpu_sender_s_per_gb.unwrap() - 3.6).abs() < 1e-12);
    assert_eq!(Row::of(about("quinn", 1_452), Vec::new()), None);
}

#[test]
fn a_figure_that_one_pair_lacks_is_not_known() {
    let mut unknown = pair(4.0, 2.0);
    unknown.theirs.cpu_sender = None;
    let row = Row::of(about("wireguard", 1_452), vec![pair(4.0, 2.0), unknown]).unwrap();
    assert_eq!((row.cpu_sender, row.cpu_sender_s_per_gb), (None, None));
    assert_eq!(row.cpu_receiver, Some(0.5));
}

#[test]
fn a_busy_host_is_told_in_the_row_and_only_once() {
    let mut pairs = vec![pair(4.0, 2.0); 3];
    assert_eq!(Row::of(about("quinn", 1_452), pairs.clone()).unwrap().notes, Vec::<String>::new());
    for pair in &mut pairs {
        pair.theirs.other_cpu = Some(1.5);
        pair.ours.other_cpu = Some(1.5);
    }
    let row = Row::of(about("quinn", 1_452), pairs.clone()).unwrap();
    assert!(row.notes[0].contains("NOT QUIET: other work kept 1.5 processors"));
    assert_eq!(Row::of(row.clone(), pairs).unwrap().notes.len(), 1);
}

#[test]
fn a_record_survives_json_with_every_field_by_its_name() {
    let record = example();
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<PeersRecord>(&text).unwrap(), record);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value.as_object().unwrap().len(), 3);
    let row = value["rows"][0].as_object().unwrap();
    for name in ["gbps_median", "ours_gbps_median", "ratio_median", "cpu_sender", "cpu_receiver"] {
        assert!(row[name].is_f64(), "{name}");
    }
    for name in ["ours_cpu_sender", "ours_cpu_receiver", "cpu_sender_s_per_gb"] {
        assert!(row[name].is_f64(), "{name}");
    }
    assert_eq!(row["ratio_quartiles"].as_array().unwrap().len(), 2);
    assert_eq!((&row["pairs"], &row["payload"]), (&3.into(), &1_452.into()));
    assert!(row["skipped"].is_null() && row["notes"].is_array());
    assert_eq!((&row["peer"], &row["path"]), (&"quinn".into(), &"loopback".into()));
    let skipped = &value["rows"][1];
    assert_eq!(skipped["skipped"], "no such <link> here");
    assert!(skipped["gbps_median"].is_null() && skipped["ratio_median"].is_null());
}

fn refused(spoil: impl FnOnce(&mut PeersRecord)) -> String {
    let mut record = example();
    record.check().unwrap();
    spoil(&mut record);
    record.check().unwrap_err().to_string()
}

#[test]
fn incomplete_and_inconsistent_records_are_refused() {
    assert!(refused(|r| drop(r.rows.pop())).contains("no row for wireguard at payload 8952"));
    assert!(refused(|r| r.rows[0].ratio_median = None).contains("missing"));
    assert!(refused(|r| r.rows[0].ratio_median = Some(9.0)).contains("not those of its pairs"));
    assert!(refused(|r| r.rows[0].gbps_quartiles = Some([1.0, 9.0])).contains("not those"));
    assert!(refused(|r| r.rows[0].samples.clear()).contains("neither pairs nor a reason"));
    assert!(refused(|r| r.rows[0].samples[0].theirs.gbps = 0.0).contains("no goodput"));
    assert!(refused(|r| r.rows[1].skipped = Some(String::new())).contains("without a reason"));
    assert!(refused(|r| r.rows[1].gbps_median = Some(4.0)).contains("has figures"));
    assert!(refused(|r| r.conditions.pairs = 10).contains("3 of 10 pairs"));
    assert!(refused(|r| r.conditions.schema = "x/1".into()).contains("x/1"));
}
