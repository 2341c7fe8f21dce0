//! Short runs of the ablation, of the bare loop and of the overhead on [::1]: the shape of what they print, and
//! that what a row speaks of was really switched. The figures of runs this short mean nothing and are not judged.

use std::process::{Command, Output};

use serde_json::Value;

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

fn json(arguments: &[&str]) -> Value {
    let output = bench(arguments);
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Short runs on both processors, as JSON
fn short(subcommand: &str, more: &[&str]) -> Value {
    let pair = cores().join(",");
    let mut arguments =
        vec![subcommand, "--cores", &pair, "--duration", "200ms", "--omit", "100ms"];
    arguments.extend(["--pairs", "1", "--json", "-"]);
    arguments.extend(more);
    json(&arguments)
}

#[test]
fn switches_are_turned_and_their_worth_is_told() {
    let record = short("ablate", &["--only", "gso,multishot,allocator,payload"]);
    assert_eq!(record["schema"], "stoq.bench.ablate/1");
    assert!(record["host"]["id"].is_string());
    let rows = record["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["switch"].as_str().unwrap()).collect();
    assert_eq!(names, ["gso", "multishot", "payload", "payload", "allocator"]);
    for row in &rows[..4] {
        assert_eq!((&row["pairs"], &row["skipped"]), (&1.into(), &Value::Null), "{row}");
        let median = |name: &str| row[name]["goodput_gbps"]["median"].as_f64().unwrap();
        let ratio = median("variant_figures") / median("default_figures");
        assert!((row["ratio"]["median"].as_f64().unwrap() - ratio).abs() < 1e-9, "{row}");
        assert!(row["returns"]["median"].as_f64().unwrap() > 0.0);
        assert!(row["default_figures"]["sender_cpu_ns_per_byte"]["median"].is_f64());
        assert_eq!(row["path"], "loopback");
    }
    let allocator = &rows[4];
    assert!(allocator["skipped"].as_str().unwrap().contains("cargo build"), "{allocator}");
    assert!(allocator["ratio"].is_null() && allocator["verdict"].is_null());
}

#[test]
fn the_table_names_every_row_and_unknown_switches_are_refused() {
    let pair = cores().join(",");
    let run = |only: &str| {
        let times = ["--duration", "200ms", "--omit", "100ms", "--pairs", "1"];
        bench(&[&["ablate", "--cores", &pair, "--only", only][..], &times].concat())
    };
    let output = run("gro");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let row = text.lines().find(|line| line.starts_with("gro")).unwrap();
    assert!(row.contains("on") && row.contains("off") && row.contains(" to "), "{row}");
    let refused = run("warp");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("registered-buffers"));
}

#[test]
fn a_bare_transfer_is_verified_and_pinned_where_it_is_told() {
    let [near, far] = cores();
    let (near, far) = (format!("--cores={near}"), format!("--sink-cores={far}"));
    for (io, label) in [("auto", "io_uring"), ("system-calls", "system_calls")] {
        let io = format!("--io={io}");
        let times = ["--duration=200ms", "--omit=100ms", "--payload=8952"];
        let report = json(&[&["bare-load", &near, &far, &io][..], &times].concat());
        assert_eq!(report["schema"], "stoq.bench.bare/1");
        assert_eq!((&report["verified"], &report["lost_bytes"]), (&true.into(), &0.into()));
        assert_eq!(report["io"], serde_json::json!([label, label]));
        assert!(report["goodput_gbps"].as_f64().unwrap() > 0.0);
        assert!(report["seconds"].as_f64().unwrap() > 0.05);
        for name in ["sender_cores", "receiver_cores"] {
            let cores = report[name].as_f64().unwrap();
            assert!(cores > 0.0 && cores < 1.1, "{name} {cores}");
        }
        assert!(report["tx_train_mean"].as_f64().unwrap() > 1.0, "{report}");
    }
    let output = bench(&["bare-load", &near, &far, "--pacing"]);
    assert!(!output.status.success(), "the bare loop does not pace");
}

#[test]
fn the_overhead_is_told_per_payload_with_every_run() {
    let record = short("overhead", &["--payload", "1452,8952"]);
    assert_eq!(record["schema"], "stoq.bench.overhead/1");
    let (rows, runs) = (record["rows"].as_array().unwrap(), record["runs"].as_array().unwrap());
    assert_eq!((rows.len(), runs.len()), (8, 8));
    for run in runs {
        assert_eq!(run["verified"], run["contender"] != "bare", "{run}");
        assert!(run["sender_cpu_ns_per_byte"].as_f64().unwrap() > 0.0, "{run}");
    }
    let gbps = |payload: u64, contender: &str| {
        let found = runs
            .iter()
            .find(|run| run["payload_bytes"] == payload && run["contender"] == contender);
        found.unwrap()["goodput_gbps"].as_f64().unwrap()
    };
    for (row, payload) in [(&rows[0], 1_452), (&rows[4], 8_952)] {
        assert_eq!(row["overhead_of"], "sessions, verification and metrics");
        assert_eq!((&row["payload_bytes"], &row["pairs"]), (&payload.into(), &1.into()));
        let ratio = gbps(payload, "product") / gbps(payload, "bare");
        assert!((row["ratio"]["median"].as_f64().unwrap() - ratio).abs() < 1e-9, "{row}");
        let percent = row["overhead_percent"]["median"].as_f64().unwrap();
        assert!((percent - (1.0 - ratio) * 100.0).abs() < 1e-6, "{row}");
        // One round decides nothing.
        assert!(row["within_target"].is_null() && row["host_busy_share"].is_f64(), "{row}");
    }
}
