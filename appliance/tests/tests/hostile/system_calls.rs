//! The system calls of workers under load, as the kernel sees them: strace on the worker threads while a bulk
//! flow runs.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use stoq_appliance_tests::{
    DigestSink, Node, Options, Stream, alone, enrol, exchange_until, say, wait_until,
};

/// Time the workers are watched
const WATCH: Duration = Duration::from_secs(2);
/// Octets that pass before the watch: what grows with the windows has grown then
const WARM_UP_BYTES: u64 = 1 << 30;
/// Fewer than one call per this many datagrams
const DATAGRAMS_PER_CALL: u64 = 16;

struct Watch {
    strace: Child,
    node: &'static str,
}

fn worker_thread(node: &Node) -> u32 {
    let tasks = format!("/proc/{}/task", node.pid());
    for entry in std::fs::read_dir(tasks).unwrap() {
        let entry = entry.unwrap();
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap();
        if name.trim() == "stoq-worker-0" {
            return entry.file_name().to_str().unwrap().parse().unwrap();
        }
    }
    panic!("{} has no thread named stoq-worker-0", node.name());
}

impl Watch {
    /// Begins; returns when the kernel has accepted the tracer
    fn begin(node: &Node, name: &'static str) -> Self {
        let thread = worker_thread(node).to_string();
        let out = node.path("strace");
        let mut strace = Command::new("strace")
            .args(["-c", "-S", "calls", "-U", "calls,name", "-p", &thread, "-o"])
            .arg(out)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("strace: {error}; install it: apt-get install strace"));
        let mut line = String::new();
        BufReader::new(strace.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(
            line.contains("attached"),
            "strace may not trace here ({line:?}); run as root or allow it: sysctl kernel.yama.ptrace_scope=0"
        );
        Self { strace, node: name }
    }

    /// Ends; returns the calls by name
    fn end(mut self, node: &Node) -> BTreeMap<String, u64> {
        let pid = Pid::from_raw(self.strace.id().cast_signed()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        self.strace.wait().unwrap();
        let text = std::fs::read_to_string(node.path("strace")).unwrap();
        let calls: BTreeMap<_, _> = text
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let count = words.next()?.parse().ok()?;
                let name = words.next()?;
                (name != "total").then(|| (name.to_owned(), count))
            })
            .collect();
        assert!(!calls.is_empty(), "{}: strace saw nothing: {text}", self.node);
        calls
    }
}

fn datagrams(node: &Node) -> u64 {
    node.counter("", "datagrams_sent") + node.counter("", "datagrams_received")
}

#[test]
fn loaded_workers_make_one_kind_of_call_and_few_of_them() {
    let _turn = alone();
    let alpha = Node::start("alpha", &Options::default());
    let beta = Node::start("beta", &Options::default());
    enrol(&alpha, &beta);
    let sink = DigestSink::start(&alpha.path("sink.sock"));
    alpha.publish("sink", &sink.target(), &["beta"]);
    let at = format!("unix:{}", beta.path("sink.sock").display());
    let at = beta.attach("sink@alpha", &at);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let client =
        std::thread::spawn(move || exchange_until(Stream::connect(&at).unwrap(), &stopped));
    wait_until("queues and windows have grown", Duration::from_secs(30), || {
        (sink.bytes_read() > WARM_UP_BYTES).then_some(())
    });
    let watches =
        [(&beta, Watch::begin(&beta, "sender")), (&alpha, Watch::begin(&alpha, "receiver"))];
    // Counted within the time that strace watches, so that the ratio errs to the strict side.
    let before = [datagrams(&beta), datagrams(&alpha)];
    let begin = Instant::now();
    wait_until("the workers were watched", 2 * WATCH, || (begin.elapsed() >= WATCH).then_some(()));
    let after = [datagrams(&beta), datagrams(&alpha)];
    let seen = watches.map(|(node, watch)| (watch.node, watch.end(node)));
    stop.store(true, Ordering::Release);
    let (sent, intact) = client.join().unwrap().unwrap();
    assert!(intact, "the digest of {sent} octets differs");
    for (index, (name, calls)) in seen.iter().enumerate() {
        let moved = after[index] - before[index];
        let made: u64 = calls.values().sum();
        say(&format!(
            "system calls of the {name}: {calls:?} for {moved} datagrams: one per {:.1}",
            moved as f64 / made as f64
        ));
        assert!(moved > 10_000, "the {name} was not loaded: {moved} datagrams");
        assert!(made * DATAGRAMS_PER_CALL < moved, "{made} calls for {moved} datagrams");
    }
    for (name, calls) in &seen {
        assert!(
            calls.keys().eq(["io_uring_enter"]),
            "the {name} makes other calls than io_uring_enter: {calls:?}"
        );
    }
}
