//! Short runs of `latency`, `handshake`, `scale` and `soak` on [::1]: whether they prove what they claim to prove.
//! No test here looks at how fast anything is.

use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    let cores = &stoq_memory::host_topology().unwrap().cores;
    let [near, far] = [cores[0].index, cores[cores.len() - 1].index].map(|core| core.to_string());
    let output = Command::new(env!("CARGO_BIN_EXE_stoq-bench"))
        .args(arguments)
        .args(["--cores", &near, "--sink-cores", &far])
        .output()
        .unwrap();
    // Shown with a failing test: the test's own assertion says less than the program did.
    std::io::Write::write_all(&mut std::io::stderr(), &output.stderr).unwrap();
    output
}

fn record(arguments: &[&str]) -> Value {
    let output = bench(&[arguments, &["--json", "-"]].concat());
    assert!(output.status.success(), "{:?}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn latency_counts_every_exchange_from_its_intended_instant() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("distribution");
    let words = ["latency", "--at", "10,20", "--duration", "400ms", "--omit", "100ms"];
    let more = ["--search-step", "100ms", "--connections", "2", "--log", log.to_str().unwrap()];
    let record = record(&[&words[..], &more[..]].concat());
    assert_eq!(record["schema"], "stoq.bench.latency/1");
    assert_eq!(record["conditions"]["path"], "loopback");
    let kinds = record["kinds"].as_array().unwrap();
    assert_eq!(kinds.iter().map(|kind| &kind["of"]).collect::<Vec<_>>(), ["calls", "flows"]);
    for kind in kinds {
        let capacity = number(&kind["capacity_per_second"]);
        let steps = kind["search"].as_array().unwrap();
        assert!(steps.iter().any(|step| number(&step["per_second"]) == capacity));
        for (level, percent) in kind["levels"].as_array().unwrap().iter().zip([10.0, 20.0]) {
            let target = number(&level["target_per_second"]);
            assert!((target - capacity * percent / 100.0).abs() < 1e-6);
            let counts = &level["counts"];
            assert!(counts["good"].as_u64().unwrap() > 0);
            assert_eq!((&counts["wrong"], &counts["unanswered"]), (&0.into(), &0.into()));
            let latency = &level["latency_us"];
            assert_eq!(latency["count"], counts["good"]);
            let names = ["p50_us", "p90_us", "p99_us", "p99_9_us", "p99_99_us"];
            let rising: Vec<f64> = names.iter().map(|name| number(&latency[name])).collect();
            assert!(rising.is_sorted() && rising[0] > 0.0, "{rising:?}");
        }
    }
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("Total count").count(), 4);
}

#[test]
fn a_request_too_small_to_be_checked_is_refused() {
    let output = bench(&["latency", "--request", "8"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a request has 16 to"));
}

#[test]
fn handshakes_are_full_mutual_and_of_the_key_exchange_that_was_asked_for() {
    let record = record(&["handshake", "--duration", "300ms", "--in-flight", "4"]);
    assert_eq!(record["schema"], "stoq.bench.handshake/1");
    let shares = record["shares"].as_array().unwrap();
    let groups: Vec<&Value> = shares.iter().map(|share| &share["key_exchange"]).collect();
    assert_eq!(groups, ["X25519MLKEM768", "X25519"]);
    for share in shares {
        let dialled = share["dialled"].as_u64().unwrap();
        assert!(dialled > 0 && share["accepted_at_sink"].as_u64().unwrap() >= dialled);
        assert_eq!((&share["retries"], &share["counts"]["failed"]), (&0.into(), &0.into()));
        assert!(number(&share["near_cpu_us"]) > 0.0 && number(&share["far_cpu_us"]) > 0.0);
        assert!(share["unloaded_time_to_session_us"]["count"].as_u64().unwrap() > 0);
    }
}

#[test]
fn scale_verifies_every_flow_and_weighs_idle_connections() {
    let words = ["scale", "--connections", "1,3", "--duration", "400ms", "--omit", "200ms"];
    let more = ["--idle", "300", "--rest", "100ms"];
    let record = record(&[&words[..], &more[..]].concat());
    assert_eq!(record["schema"], "stoq.bench.scale/1");
    let points = record["points"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    for (point, count) in points.iter().zip([1, 3]) {
        assert_eq!((&point["connections"], &point["flows_equal"]), (&count.into(), &count.into()));
        assert_eq!(point["lost_bytes"], 0);
        assert!(number(&point["receiver_ns_per_byte"]) > 0.0);
    }
    assert_eq!(record["summary"][0]["cost_relative"], 1.0);
    let idle = &record["idle"];
    assert_eq!((&idle["sessions"], &idle["sampled"]), (&300.into(), &100.into()));
    assert_eq!(idle["sampled_equal"], 100);
    // Less than a connection needs, and it was not held; more than it may, and it holds a buffer it should not.
    for side in ["near", "far"] {
        let each = number(&idle[side]["rss_bytes_per_connection"]);
        assert!((1_000.0..1e6).contains(&each), "{side}: {each}");
    }
}

#[test]
fn a_soak_loses_nothing_while_connections_are_replaced() {
    let words = ["soak", "--duration", "3s", "--replace-every", "700ms", "--interval", "250ms"];
    let record = record(&[&words[..], &["--memory-bound", "1TiB"]].concat());
    assert_eq!(record["schema"], "stoq.bench.soak/1");
    let verdict = &record["verdict"];
    assert_eq!((&verdict["lost_bytes"], &verdict["verified"]), (&0.into(), &true.into()));
    assert!(verdict["replacements_asked"].as_u64().unwrap() >= 3);
    assert!(verdict["replacements"].as_u64() >= verdict["replacements_asked"].as_u64());
    assert_eq!(verdict["unexplained"], serde_json::json!({}));
    let records = record["records"].as_array().unwrap();
    assert!(records.len() >= 8);
    let carried: f64 = records.iter().map(|record| number(&record["bytes"])).sum();
    assert!(carried > 0.0 && carried <= number(&record["bytes"]));
}

#[test]
fn a_soak_too_short_to_judge_memory_proves_nothing() {
    let words = ["soak", "--duration", "500ms", "--interval", "10s", "--json", "-"];
    let output = bench(&words);
    assert_eq!(output.status.code(), Some(2));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(record["verdict"]["memory_is_flat"].is_null());
}
