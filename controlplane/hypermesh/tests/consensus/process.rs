//! Validators on threads of their own, and one in a process that is killed.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use futures_util::future::join_all;
use stoq_hypermesh::consensus::{Channel, Inbox, Sent, Settings, Validator, ValidatorConfig, Wire};
use stoq_hypermesh::operation::ValidatorKey;

use super::ledger::{Faults, Ledger};
use super::world::{genesis, secret, validator};

/// Tells the child what to do
const CHILD: &str = "HYPERMESH_TEST_CHILD";

/// Validators of one process, each on its own thread
#[derive(Default)]
pub struct Hub {
    doors: RwLock<BTreeMap<ValidatorKey, Inbox>>,
}

impl Hub {
    pub fn add(&self, key: ValidatorKey, inbox: Inbox) {
        self.doors.write().expect("nobody panics with it").insert(key, inbox);
    }

    pub fn remove(&self, key: &ValidatorKey) {
        self.doors.write().expect("nobody panics with it").remove(key);
    }
}

/// A validator's way to the others
pub struct Port {
    from: ValidatorKey,
    hub: Arc<Hub>,
}

impl Port {
    pub fn new(from: ValidatorKey, hub: &Arc<Hub>) -> Self {
        Self { from, hub: Arc::clone(hub) }
    }
}

impl Wire for Port {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        let doors = self.hub.doors.read().expect("nobody panics with it");
        let Some(door) = doors.get(to) else { return Sent::Unreachable };
        door.deliver(&self.from, channel, frame);
        Sent::Queued
    }
}

fn start(count: u64, number: u64, directory: &Path, hub: &Arc<Hub>) -> Validator {
    let genesis = genesis(count, 16);
    let ledger = Ledger::new(&genesis, Arc::new(Mutex::default()), Faults::default());
    let config = ValidatorConfig {
        genesis,
        secret: secret(number).to_bytes(),
        directory: directory.join(number.to_string()),
        settings: Settings::default(),
        contacts: Vec::new(),
        threads: 1,
    };
    let key = validator(number).key;
    let port = Port::new(key, hub);
    let started = Validator::start(config, Box::new(ledger), Arc::new(port));
    let started = started.expect("it starts");
    hub.add(key, started.inbox());
    started
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn four_threads_agree_and_one_that_was_stopped_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Arc::new(Hub::default());
    let mut validators: Vec<_> =
        (0..4).map(|number| start(4, number, directory.path(), &hub)).collect();
    let clients: Vec<_> = validators.iter().map(Validator::client).collect();
    let runtime = runtime();
    let submit = |client: usize, name: String| {
        let client = clients[client].clone();
        async move { client.submit(Bytes::from(name)).await.expect("agreed on") }
    };
    runtime.block_on(join_all((0..40).map(|it| submit(it % 4, format!("operation {it}")))));
    let stopped = validators.remove(0);
    hub.remove(&validator(0).key);
    stopped.stop().expect("it ran until it was stopped");
    let gone = runtime.block_on(clients[0].submit(Bytes::from_static(b"too late")));
    assert!(gone.is_err());
    let later = (40..80).map(|it| submit(it % 3 + 1, format!("operation {it}")));
    let places = runtime.block_on(join_all(later));
    let height = places.iter().map(|place| place.height).max().expect("forty");
    let again = start(4, 0, directory.path(), &hub);
    runtime.block_on(async {
        let mut blocks = again.client().subscribe(1_000).await;
        while again.client().status().await.expect("it runs").height < height {
            blocks.recv().await.expect("more blocks become final");
        }
        for place in &places {
            let receipt = again.client().receipt(place.height, place.index).await;
            let genesis = genesis(4, 16);
            receipt.expect("it has caught up").verify(&genesis).expect("it holds");
        }
    });
    validators.push(again);
    for validator in validators {
        assert!(validator.is_running());
        validator.stop().expect("it ran until it was stopped");
    }
}

/// Agrees with itself until it is killed, and says what is final. Run by the test below, in a process of its own.
#[test]
#[ignore = "a part of a test, which starts it as a process to kill"]
fn child() {
    let directory = std::env::var(CHILD).expect("only the test below runs this");
    let validator = start(1, 0, Path::new(&directory), &Arc::default());
    let client = validator.client();
    runtime().block_on(async {
        let height = client.status().await.expect("it runs").height;
        let mut last = 0;
        for height in 1..=height {
            let block = client.block(height).await.expect("it is here");
            for operation in block.block.operations {
                say(&format!("has {}", String::from_utf8_lossy(&operation)));
                last += 1;
            }
        }
        say("ready");
        loop {
            let each = (last..last + 8).map(|number| {
                let client = client.clone();
                async move {
                    let operation = Bytes::from(format!("{number}"));
                    client.submit(operation).await.expect("agreed on");
                    say(&format!("final {number}"));
                }
            });
            join_all(each).await;
            last += 8;
        }
    });
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever reads this may be gone; then this process is about to be killed.
    let _ = writeln!(out, "\n{line}").and_then(|()| out.flush());
}

fn spawn(directory: &Path) -> Child {
    let program = std::env::current_exe().expect("this program");
    Command::new(program)
        .args(["--exact", "process::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process")
}

#[test]
fn what_a_killed_process_had_acknowledged_is_there_when_it_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut acknowledged: Vec<String> = Vec::new();
    for life in 0..6 {
        let mut child = spawn(directory.path());
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut has = Vec::new();
        let mut finals = 0;
        for line in out.lines() {
            let line = line.expect("text");
            if let Some(operation) = line.strip_prefix("has ") {
                has.push(operation.to_owned());
            } else if line == "ready" {
                for operation in &acknowledged {
                    assert!(has.contains(operation), "life {life} has lost {operation}");
                }
                let distinct: std::collections::BTreeSet<_> = has.iter().collect();
                assert_eq!(distinct.len(), has.len(), "an operation is final twice");
            } else if let Some(operation) = line.strip_prefix("final ") {
                acknowledged.push(operation.to_owned());
                finals += 1;
                if finals == 10 + 7 * life {
                    // SIGKILL, in the middle of whatever it is doing.
                    child.kill().expect("it is there to be killed");
                }
            }
        }
        assert!(finals > 0, "life {life} agreed on nothing");
        child.wait().expect("it is dead");
    }
    assert!(acknowledged.len() > 100);
}
