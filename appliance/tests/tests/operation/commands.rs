//! The commands that show what a node is: they parse, they agree, and they move.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use stoq_appliance_tests::{Node, Options, Server, Stream, enrol, program, shared, wait_until};

fn stoqd(words: &[&str]) -> (i32, String) {
    let output = Command::new("timeout").arg("20").arg(program("stoqd")).args(words).output();
    let output = output.unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn stoqd_explains_itself_without_running() {
    let _turn = shared();
    let directory = tempfile::tempdir().unwrap();
    let (code, default) = stoqd(&["default-config"]);
    assert_eq!(code, 0);
    let file = directory.path().join("stoqd.toml");
    std::fs::write(&file, &default).unwrap();
    let path = file.to_str().unwrap();
    let (code, checked) = stoqd(&["check", "--config", path]);
    assert_eq!(code, 0, "the default file is valid");
    assert!(checked.contains("valid") && checked.contains("[::1]:8444"), "{checked}");
    std::fs::write(&file, "[workers]\ncores = [0]\n").unwrap();
    let (code, topology) = stoqd(&["topology", "--config", path]);
    assert_eq!(code, 0);
    let worker = topology.lines().nth(1).unwrap_or_default();
    let words: Vec<_> = worker.split_whitespace().collect();
    assert_eq!(words.get(..2), Some(&["0", "0"][..]), "{topology}");
    let (code, version) = stoqd(&["version", "--json"]);
    assert_eq!(code, 0);
    let version: Value = serde_json::from_str(&version).unwrap();
    assert_eq!(version["schema"], "stoqd.version/1");
    assert_eq!(version["protocols"][0], "stoq/1.0");
    assert_eq!(
        stoqd(&["version"]).1.trim(),
        format!("stoqd {}", version["version"].as_str().unwrap())
    );
}

#[test]
fn every_worker_runs_on_io_uring_where_it_was_put() {
    let _turn = shared();
    let options = Options { cores: "[0, 1]".into(), ..Options::default() };
    let node = Node::start("alpha", &options);
    let workers = node.ask(&["worker", "list"])["workers"].clone();
    assert_eq!(workers.as_array().map(Vec::len), Some(2));
    for (index, worker) in workers.as_array().unwrap().iter().enumerate() {
        assert_eq!(worker["io"], "io_uring", "{worker}");
        assert_eq!(worker["io_fallback"], Value::Null, "{worker}");
        assert_eq!(worker["core"], index, "{worker}");
    }
    let listener = &node.ask(&["listener", "list"])["listeners"][0];
    assert_eq!(listener["address"], node.stoq_address().as_str());
    assert_eq!((&listener["sockets"], &listener["steered"]), (&2.into(), &true.into()));
    // The kernel agrees about the cores.
    let mut pinned = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{}/task", node.pid())).unwrap() {
        let status = std::fs::read_to_string(entry.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let name = field("Name:");
        if name.starts_with("stoq-worker-") {
            pinned.insert(name, field("Cpus_allowed_list:"));
        }
    }
    let expected = [("stoq-worker-0", "0"), ("stoq-worker-1", "1")];
    assert!(pinned.iter().map(|(a, b)| (a.as_str(), b.as_str())).eq(expected), "{pinned:?}");
}

#[test]
fn every_answer_names_its_schema() {
    let _turn = shared();
    let node = Node::start("alpha", &Options::default());
    for (words, schema) in [
        (&["status"][..], "stoqctl.status.show/1"),
        (&["node", "show"], "stoqctl.node.show/1"),
        (&["node", "list"], "stoqctl.node.list/1"),
        (&["session", "list"], "stoqctl.session.list/1"),
        (&["connection", "list"], "stoqctl.connection.list/1"),
        (&["worker", "list"], "stoqctl.worker.list/1"),
        (&["listener", "list"], "stoqctl.listener.list/1"),
        (&["service", "list"], "stoqctl.service.list/1"),
        (&["config", "show"], "stoqctl.config.show/1"),
        (&["log", "level", "get"], "stoqctl.log.level-get/1"),
    ] {
        assert_eq!(node.ask(words)["schema"], schema);
    }
    let version = node.ask(&["version"]);
    assert!(version["schema"].as_str().unwrap().starts_with("stoqctl.version."), "{version}");
    let absent = node.ctl(&["session", "show", "1f", "--json"]);
    assert_eq!((absent.code, absent.error_code().as_str()), (1, "not-found"), "{absent:?}");
    assert_eq!(node.ctl(&["node", "add", "beta", "[::1]:0", "--json"]).code, 2);
    let nowhere = std::process::Command::new(program("stoqctl"))
        .args(["--socket", "/nonexistent/admin.sock", "status", "--json"])
        .output()
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(6), "{nowhere:?}");
}

#[test]
fn metrics_parse_and_move() {
    let _turn = shared();
    let alpha = Node::start("alpha", &Options::default());
    let beta = Node::start("beta", &Options::default());
    enrol(&alpha, &beta);
    let echo = Server::echo_tcp();
    alpha.publish("echo", &echo.target(), &["beta"]);
    let at = beta.attach("echo@alpha", "[::1]:0");
    let received = "stoq_worker_flows_received_bytes_total";
    let before = alpha.metric(received, "");
    let mut stream = Stream::connect(&at).unwrap();
    let mut back = vec![0; 10_000];
    stream.write_all(&vec![7; back.len()]).unwrap();
    stream.read_exact(&mut back).unwrap();
    assert_eq!(alpha.metric(received, "") - before, 10_000.0);
    assert_eq!(alpha.metric("stoq_worker_flows_accepted_total", ""), 1.0);
    assert_eq!(alpha.metric("stoq_node_ready", ""), 1.0);

    let (status, body) = alpha.metrics();
    assert_eq!(status, "HTTP/1.1 200 OK");
    let mut declared = BTreeMap::new();
    for line in body.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (kind, name) = (words.next().unwrap(), words.next().unwrap());
            assert!(["HELP", "TYPE"].contains(&kind) && words.next().is_some(), "{line}");
            *declared.entry(name.to_owned()).or_insert(0) += 1;
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        value.parse::<f64>().unwrap_or_else(|error| panic!("{line}: {error}"));
        let name = sample.split('{').next().unwrap();
        assert_eq!(declared.get(name), Some(&2), "no HELP and TYPE before {line}");
        assert_eq!(sample.contains('{'), sample.ends_with('}'), "{line}");
    }
    assert!(declared.len() > 30, "{declared:?}");
}

#[test]
fn logs_are_json_where_asked_and_never_coloured_in_a_file() {
    let _turn = shared();
    let json =
        Options { log_format: "json".into(), log_filter: "debug".into(), ..Options::default() };
    let mut alpha = Node::start("alpha", &json);
    alpha.restart();
    let log = alpha.log();
    assert!(log.lines().count() >= 4, "{log}");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
    let human = Node::start("beta", &Options::default());
    let log = wait_until("the ready line", Duration::from_secs(5), || {
        Some(human.log()).filter(|log| log.contains("ready"))
    });
    assert!(log.contains("ready") && !log.contains('\u{1b}'), "{log:?}");
}
