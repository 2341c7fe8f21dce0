//! Whole runs of the program on [::1]: what it prints as JSON, and what it refuses.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

const BYTES: u64 = 64 << 20;

fn bench(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_stoq-bench")).args(arguments).output().unwrap();
    // Shown with a failing test: the test's own assertion says less than the program did.
    std::io::Write::write_all(&mut std::io::stderr(), &output.stderr).unwrap();
    output
}

/// The first and the last processor this test may use, as the program wants them
fn cores() -> [String; 2] {
    let cores = &stoq_memory::host_topology().unwrap().cores;
    [cores[0].index, cores[cores.len() - 1].index].map(|core| core.to_string())
}

fn load(more: &[&str]) -> Value {
    let [near, far] = cores();
    let mut arguments = vec!["load", "--cores", &near, "--sink-cores", &far, "--bytes", "64MiB"];
    arguments.extend(["--json", "-"]);
    arguments.extend(more);
    let output = bench(&arguments);
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Stages explain all of the processor time, the rest included, or say why they are absent
fn assert_costs(report: &Value, side: &str) {
    let stages = report["ns_per_byte"][side].as_object().unwrap();
    let mut sum = 0.0;
    for (name, stage) in stages {
        match stage["ns_per_byte"].as_f64() {
            Some(ns) => sum += ns,
            None => assert!(stage["reason"].is_string(), "{name}"),
        }
        assert!(stage["source"].is_string(), "{name}");
        assert!(stage["cycles_per_byte"].is_f64() || stage["reason"].is_string(), "{name}");
    }
    let busy = report["busy_ns_per_byte"][side].as_f64().unwrap();
    assert!((sum - busy).abs() < 1e-6 * busy.max(1.0), "{sum} {busy}");
    let per_core = report["gbps_per_core"][side].as_f64().unwrap();
    assert!((per_core * busy - 8.0).abs() < 1e-6);
    for name in ["unattributed", "application", "header_protection", "kernel", "ack", "submit"] {
        assert!(stages.contains_key(name), "{side} {name}");
    }
}

fn assert_sound(report: &Value) {
    assert_eq!(report["schema"], "stoq.bench.load/1");
    assert_eq!(report["bytes"], BYTES);
    assert_eq!(report["verified"], true);
    assert_eq!(report["lost_bytes"], 0);
    assert!(report["goodput_gbps"].as_f64().unwrap() > 0.0);
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
    for side in ["sender", "receiver"] {
        let stages = report[side]["ns_per_byte"].as_object().unwrap();
        assert!(stages["transport_in"].as_f64().unwrap() > 0.0);
        assert_eq!(stages.len(), 6);
        assert_costs(report, side);
    }
    let ended = report["trains"]["sender"]["sent"]["ended"].as_object().unwrap();
    assert!(ended.values().map(|count| count.as_u64().unwrap()).sum::<u64>() > 0);
    for (side, way) in [("sender", "sent"), ("receiver", "received")] {
        let lengths = report["trains"][side][way]["by_length"].as_object().unwrap();
        let trains: u64 = lengths.values().map(|count| count.as_u64().unwrap()).sum();
        assert!(trains > 0, "{side} {way}");
    }
    let keys = &report["packets_per_key"];
    assert_eq!(keys["limit"], 1 << 23);
    assert!(keys["most"].as_u64().unwrap() > 0);
    for cause in ["packets_lost", "spurious", "stream_bytes_retransmitted"] {
        assert!(report["losses"][cause].is_u64(), "{cause}");
    }
    let workers = report["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2);
    for worker in workers {
        assert!(worker["core"].is_u64() && worker["io"].is_string());
        assert!(worker["tx_train_mean"].as_f64().unwrap() >= 1.0);
        assert!(worker["rx_train_mean"].as_f64().unwrap() >= 1.0);
    }
    // Every octet went through a packet of 1,452, and the receiver saw at least that many datagrams.
    let datagrams = report["receiver"]["datagrams_received"].as_u64().unwrap();
    assert!(datagrams >= BYTES / 1_452, "{datagrams}");
    assert_eq!(report["start"]["path"], "loopback");
    assert!(!report["binding_stage"].as_str().unwrap().is_empty());
}

#[test]
fn a_load_is_verified_at_the_receiver_beside_its_ceiling() {
    let report = load(&[]);
    assert_sound(&report);
    let ceiling = report["ceiling_gbps"].as_f64().unwrap();
    let fraction = report["fraction_of_ceiling"].as_f64().unwrap();
    let goodput = report["goodput_gbps"].as_f64().unwrap();
    assert!((fraction - goodput / ceiling).abs() < 1e-9);
    for part in report["ceilings"].as_array().unwrap() {
        assert_eq!(part["schema"], "stoq.bench.ceiling/1");
        assert_eq!(part["payload_bytes"], 1_452);
    }
}

#[test]
fn stages_are_told_apart_where_they_are_asked_for() {
    let report = load(&["--stages"]);
    for (side, names) in [
        ("sender", &["produce", "stream_send", "packetise", "seal", "submit", "ack"][..]),
        ("receiver", &["receive", "split", "open", "parse", "reassemble", "deliver", "ack"]),
    ] {
        assert_costs(&report, side);
        for name in names {
            let stage = &report["ns_per_byte"][side][name];
            assert!(stage["ns_per_byte"].is_f64(), "{side} {name} {stage}");
        }
        for name in ["stream_send", "seal", "split", "open", "reassemble", "header_protection"] {
            let stage = &report["ns_per_byte"][side][name];
            assert!(stage.is_null() || stage["ns_per_byte"].as_f64().unwrap() > 0.0, "{name}");
        }
    }
    assert_eq!(report["ns_per_byte"]["sender"]["seal"]["source"], "calibrated");
    assert_eq!(report["ns_per_byte"]["receiver"]["parse"]["source"], "clock");
    // Without a ceiling the ciphers are measured all the same.
    let report = load(&["--stages", "--no-ceiling"]);
    assert!(report["fraction_of_ceiling"].is_null());
    assert!(report["ns_per_byte"]["sender"]["seal"]["ns_per_byte"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_sink_can_send_and_connections_can_be_replaced() {
    let report = load(&["--no-ceiling", "--reverse", "--flows", "3", "--verify", "blake3"]);
    assert_sound(&report);
    assert_eq!(report["flows"].as_array().unwrap().len(), 3);
    assert!(report["fraction_of_ceiling"].is_null());
    let report = load(&["--no-ceiling", "--replace-after-packets", "20000"]);
    assert_sound(&report);
    assert!(report["connection_replacements"].as_u64().unwrap() >= 1);
}

#[test]
fn without_digests_nothing_is_called_verified() {
    let report = load(&["--no-ceiling", "--verify", "none", "--io", "system-calls"]);
    assert_eq!((&report["verified"], &report["lost_bytes"]), (&false.into(), &0.into()));
    assert_eq!(report["workers"][0]["io"], "system_calls");
}

#[test]
fn two_processes_with_written_identities_and_lines_of_json() {
    let directory = tempfile::tempdir().unwrap();
    let identity = directory.path().join("identity");
    let identity = identity.to_str().unwrap();
    assert!(bench(&["identity", "--out", identity]).status.success());
    let mut sink = Command::new(env!("CARGO_BIN_EXE_stoq-bench"))
        .args(["sink", "--identity", identity, "--json", "--cores", &cores()[1]])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let mut lines = std::io::BufReader::new(sink.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut lines, &mut ready).unwrap();
    let ready: Value = serde_json::from_str(&ready).unwrap();
    let address = ready["address"].as_str().unwrap().to_owned();
    let arguments = ["load", "--to", &address, "--identity", identity, "--bytes", "64MiB"];
    let output = bench(&[&arguments[..], &["--json-lines"]].concat());
    sink.kill().unwrap();
    sink.wait().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.first().unwrap()["event"], "start");
    let end = lines.last().unwrap();
    assert_eq!(end["event"], "end");
    assert_sound(&end["report"]);
    // The far cores are not this process's to measure.
    assert!(end["report"]["ceiling_gbps"].is_null());
}

#[test]
fn records_of_another_host_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let mut report = load(&["--no-ceiling"]);
    std::fs::write(path("a"), report.to_string()).unwrap();
    report["start"]["host"]["id"] = "0000000000000000".into();
    report["goodput_gbps"] = (report["goodput_gbps"].as_f64().unwrap() * 2.0).into();
    std::fs::write(path("b"), report.to_string()).unwrap();
    let refused = bench(&["compare", &path("a"), &path("b")]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("different hosts"));
    let forced = bench(&["compare", &path("a"), &path("b"), "--force", "--json"]);
    let comparison: Value = serde_json::from_slice(&forced.stdout).unwrap();
    let goodput = &comparison["figures"][0];
    assert_eq!(goodput["name"], "goodput_gbps");
    assert!((goodput["ratio"]["median"].as_f64().unwrap() - 2.0).abs() < 1e-9);
}

#[test]
fn a_run_within_its_warm_up_fails_and_says_so() {
    let output = bench(&["load", "--bytes", "1MiB", "--omit", "60s", "--no-ceiling"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("warm-up"));
}
