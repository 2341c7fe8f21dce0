//! Start, reload, stop: what ends, what goes on, and what is refused.

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use stoq_appliance_tests::{
    Answer, DigestSink, Node, Options, Server, Stream, enrol, exchange_digest, program, shared,
    wait_until,
};

fn stoqd(words: &[&str]) -> Answer {
    let output = Command::new("timeout").arg("20").arg(program("stoqd")).args(words).output();
    let output = output.unwrap();
    Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn pair(options: &Options) -> (Node, Node, Server, String) {
    let alpha = Node::start("alpha", options);
    let beta = Node::start("beta", options);
    enrol(&alpha, &beta);
    let echo = Server::echo_tcp();
    alpha.publish("echo", &echo.target(), &["beta"]);
    let at = beta.attach("echo@alpha", "[::1]:0");
    (alpha, beta, echo, at)
}

fn round_trip(stream: &mut Stream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

#[test]
fn sigterm_lets_a_flow_finish_and_ends_with_success() {
    let _turn = shared();
    let (mut alpha, beta, _echo, at) = pair(&Options::default());
    let mut stream = Stream::connect(&at).unwrap();
    round_trip(&mut stream, b"before");
    alpha.signal(Signal::TERM);
    wait_until("alpha drains", Duration::from_secs(5), || {
        alpha.log().contains("draining").then_some(())
    });
    // The flow goes both ways still, and ends as usual.
    round_trip(&mut stream, b"while it drains");
    stream.shut_write().unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    let status = alpha.wait_exit(Duration::from_secs(15));
    assert!(status.success(), "{status}\n{}", alpha.log());
    assert!(!alpha.log().contains("flows were cut"), "{}", alpha.log());
    assert!(!alpha.path("admin.sock").exists(), "the socket goes with the daemon");
    drop(beta);
}

#[test]
fn sighup_takes_over_what_can_be_and_disturbs_no_flow() {
    let _turn = shared();
    let (alpha, beta, echo, at) = pair(&Options::default());
    let mut stream = Stream::connect(&at).unwrap();
    round_trip(&mut stream, b"before");
    let section = format!(
        "[limits]\nflows_per_session = 77\n[[service]]\nname = \"second\"\nto = \"{}\"\n\
         allow = \"any-enrolled\"\n",
        echo.target()
    );
    let mut next = Options { log_filter: "debug".into(), ..Options::with_sections(&section) };
    alpha.configure(&next);
    let diff = alpha.ctl(&["config", "diff", "--json"]);
    assert_eq!(diff.code, 3, "a reload would do: {diff:?}");
    alpha.signal(Signal::HUP);
    wait_until("the reload", Duration::from_secs(5), || {
        alpha.log().contains("configuration reloaded").then_some(())
    });
    assert_eq!(alpha.ask(&["log", "level", "get"])["level"], "debug");
    assert!(alpha.ctl(&["config", "show"]).stdout.contains("77"));
    let second = beta.attach("second@alpha", "[::1]:0");
    round_trip(&mut Stream::connect(&second).unwrap(), b"a service of the reload");
    round_trip(&mut stream, b"the flow from before");

    // What needs a restart is named and not half done; a mistake changes nothing.
    next.cores = "[0]".into();
    alpha.configure(&next);
    let reload = alpha.ctl(&["config", "reload", "--json"]);
    assert_eq!(reload.code, 4, "{reload:?}");
    assert_eq!(reload.json()["pending"][0]["key"], "workers.cores", "{reload:?}");
    alpha.configure(&Options::with_sections("[limits]\nflows = 1\n"));
    alpha.signal(Signal::HUP);
    wait_until("the refusal", Duration::from_secs(5), || {
        alpha.log().contains("the configuration was not reloaded").then_some(())
    });
    round_trip(&mut stream, b"and still the same flow");
    assert_eq!(alpha.ask(&["log", "level", "get"])["level"], "debug");
}

#[test]
fn limits_of_a_reload_hold_for_new_sessions() {
    let _turn = shared();
    let (alpha, beta, _echo, at) = pair(&Options::default());
    alpha.configure(&Options::with_sections("[limits]\nflows_per_session = 2\n"));
    alpha.ask(&["config", "reload"]);
    // Beta has a session already, over which it hears who was revoked.
    beta.ask(&["session", "close", "--peer", "alpha"]);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = Stream::connect(&at).unwrap();
        round_trip(&mut stream, b"within the limit");
        held.push(stream);
    }
    let mut third = Stream::connect(&at).unwrap();
    // The refusal may come before or after the write.
    let _ = third.write_all(b"over the limit");
    let mut back = [0; 1];
    assert!(!matches!(third.read(&mut back), Ok(1)), "a third flow was carried");
    let refused = || alpha.counter("flow_errors", "too_many_flows");
    wait_until("the count", Duration::from_secs(5), || {
        (refused() + beta.counter("flow_errors", "too_many_flows") > 0).then_some(())
    });
    for stream in &mut held {
        round_trip(stream, b"the neighbours notice nothing");
    }
}

#[test]
fn two_daemons_do_not_share_a_state_directory_or_a_port() {
    let _turn = shared();
    let node = Node::start("alpha", &Options::default());
    let text = std::fs::read_to_string(node.config()).unwrap();
    let second = node.path("second.toml");
    let run = |text: &str| {
        std::fs::write(&second, text).unwrap();
        let answer = stoqd(&["run", "--config", second.to_str().unwrap()]);
        assert_eq!(answer.code, 1, "{answer:?}");
        answer.stderr
    };
    let same_socket = run(&text);
    assert!(same_socket.contains("another stoqd already serves"), "{same_socket}");
    let text = text.replace("admin.sock", "second.sock");
    let same_state = run(&text);
    assert!(same_state.contains("is in use by another stoqd"), "{same_state}");
    let text = text.replace("/state\"", "/second\"");
    let same_port = run(&text);
    let named = format!("UDP port {} is held by another stoqd", node.stoq_port());
    assert!(same_port.contains(&named), "{same_port}");
    assert!(!same_port.contains("panicked"), "{same_port}");
    assert_eq!(node.ctl(&["status"]).code, 0, "the first one goes on");
}

#[test]
fn mistakes_in_the_configuration_are_named_with_file_and_line() {
    let _turn = shared();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("stoqd.toml");
    let path = file.to_str().unwrap();
    let run = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let (run, check) = (stoqd(&["run", "-c", path]), stoqd(&["check", "-c", path]));
        assert_eq!((run.code, check.code), (1, 1), "{run:?}\n{check:?}");
        assert_eq!(run.stderr, check.stderr);
        run.stderr
    };
    // An address of the old protocol, written so that no such address stands in this file.
    let old = format!("{}.0.2.1:8444", 192);
    let wrong = run(&format!("[node]\nname = \"alpha\"\n[listen]\nstoq = \"{old}\"\n"));
    assert!(wrong.contains(&format!("{path}:4:")), "{wrong}");
    assert!(wrong.contains("listen.stoq") && wrong.contains("IPv6"), "{wrong}");
    let wrong = run("[node]\nname = \"alpha\"\n\n[workers]\nthreads = 4\n");
    assert!(wrong.contains(&format!("{path}:5:")), "{wrong}");
    assert!(wrong.contains("threads"), "{wrong}");
    let wrong = run("[limits]\nhalf_open_per_worker = \"many\"\n[log]\nformat = \"xml\"\n");
    assert!(wrong.contains(&format!("{path}:2:")) && wrong.contains(&format!("{path}:4:")));
    let absent = stoqd(&["run", "--config", "/nonexistent/stoqd.toml"]);
    assert_eq!(absent.code, 1);
    assert!(absent.stderr.contains("/nonexistent/stoqd.toml"), "{absent:?}");
}

#[test]
fn a_drained_node_that_cannot_finish_cuts_and_says_so() {
    let _turn = shared();
    let (alpha, _beta, _echo, at) = pair(&Options::default());
    let mut stream = Stream::connect(&at).unwrap();
    round_trip(&mut stream, b"never ended");
    let drained = alpha.ctl(&["drain", "--timeout", "1s", "--json"]);
    assert_eq!(drained.code, 7, "{drained:?}");
    assert_eq!(drained.json()["flows_cut"], 1, "{drained:?}");
    let status = alpha.ctl(&["status", "--json"]);
    assert_eq!((status.code, &status.json()["draining"]), (3, &true.into()));
}

#[test]
fn a_bulk_flow_outlasts_the_drain_of_its_target() {
    let _turn = shared();
    let mut alpha = Node::start("alpha", &Options::default());
    let beta = Node::start("beta", &Options::default());
    enrol(&alpha, &beta);
    let sink = DigestSink::start(&alpha.path("sink.sock"));
    alpha.publish("sink", &sink.target(), &["beta"]);
    let at = beta.attach("sink@alpha", &format!("unix:{}", beta.path("sink.sock").display()));
    let client =
        std::thread::spawn(move || exchange_digest(Stream::connect(&at).unwrap(), 7, 256 << 20));
    wait_until("the flow is under way", Duration::from_secs(10), || {
        (sink.bytes_read() > 1 << 20).then_some(())
    });
    alpha.signal(Signal::TERM);
    assert!(client.join().unwrap().unwrap(), "the digest differs");
    let status = alpha.wait_exit(Duration::from_secs(20));
    assert!(status.success(), "{status}\n{}", alpha.log());
}
