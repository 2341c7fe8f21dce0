//! A real daemon in a directory of its own, and `stoqctl` asking it. The daemon ends and its files go when the
//! node is dropped; when a test fails, its log is shown.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::host::wait_until;
use crate::options::{Options, Ports};

/// Time a daemon may take until it is ready
const READY_PATIENCE: Duration = Duration::from_secs(120);
/// Time one `stoqctl` may take
const COMMAND_SECONDS: &str = "180";
/// Lines of the log that a failed test shows
const LOG_LINES_SHOWN: usize = 60;

/// The path of one of the product's programs, beside the test's own
///
/// # Panics
/// Where it was not built.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running test has a path");
    // target/release/deps/test-1234 -> target/release
    let directory = own.parent().and_then(Path::parent).expect("tests are built under target");
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "{} is not there: build the programs first, with `cargo build --release --bins`",
        path.display()
    );
    path
}

/// Runs `stoqctl` without a daemon; it must succeed
pub fn stoqctl(words: &[&str]) -> Answer {
    let mut command = Command::new("timeout");
    command.arg(COMMAND_SECONDS).arg(program("stoqctl")).args(words).stdin(Stdio::null());
    let answer = Answer::of(command.output().expect("stoqctl starts"));
    assert_eq!(answer.code, 0, "stoqctl {words:?}: {answer:?}");
    answer
}

/// What a command said and how it ended
#[derive(Debug)]
pub struct Answer {
    /// Its exit code
    pub code: i32,
    /// Its standard output
    pub stdout: String,
    /// Its error stream
    pub stderr: String,
}

impl Answer {
    /// What a finished command has left
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The standard output as JSON
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The stable code of the error, `""` where there is none
    pub fn error_code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A daemon and its directory
pub struct Node {
    name: String,
    ports: Ports,
    child: Option<Child>,
    directory: TempDir,
    test_clock: Option<String>,
    /// What its command line begins with; nothing for most
    runner: Vec<String>,
}

impl Node {
    /// Starts a daemon and waits until it is ready
    pub fn start(name: &str, options: &Options) -> Self {
        let mut node = Self::prepare(name, options);
        node.launch();
        node
    }

    /// Everything but the process
    pub fn prepare(name: &str, options: &Options) -> Self {
        let prefix = format!("stoq-test-{name}-");
        let directory = tempfile::Builder::new().prefix(&prefix).tempdir().expect("a directory");
        let (ports, test_clock) = (Ports::choose(), options.test_clock.clone());
        let (name, runner) = (name.into(), Vec::new());
        let node = Self { name, ports, child: None, directory, test_clock, runner };
        node.configure(options);
        node
    }

    /// Writes the configuration file anew; a reload or a restart makes it count
    pub fn configure(&self, options: &Options) {
        let text = options.render(&self.name, self.directory.path(), self.ports);
        std::fs::write(self.config(), text).expect("the directory takes a file");
    }

    /// From the next start on the process is run by these words, which become it
    pub fn run_through(&mut self, runner: Vec<String>) {
        self.runner = runner;
    }

    /// From the next start on its clock is this one: `FROM:RATE`
    pub fn set_test_clock(&mut self, clock: &str) {
        self.test_clock = Some(clock.to_owned());
    }

    /// Starts the process and waits until it is ready
    pub fn launch(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// Starts the process and waits until it answers, ready or not
    pub fn launch_unready(&mut self) {
        self.spawn();
        wait_until("the daemon answers", READY_PATIENCE, || {
            (self.ctl(&["worker", "list"]).code == 0).then_some(())
        });
    }

    fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log");
        let stoqd = program("stoqd").into_os_string();
        let mut words = self.runner.iter().map(Into::into).chain([stoqd]);
        let child = Command::new(words.next().expect("the program itself at least"))
            .args(words)
            .args(["run", "--config"])
            .arg(self.config())
            .args(self.test_clock.iter().flat_map(|clock| ["--test-clock", clock]))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("stoqd starts");
        self.child = Some(child);
    }

    fn wait_ready(&mut self) {
        let end = Instant::now() + READY_PATIENCE;
        loop {
            let answer = self.ctl(&["wait", "ready", "--timeout", "2s", "--quiet"]);
            if answer.code == 0 {
                return;
            }
            let ended = self.child.as_mut().map(|child| child.try_wait().expect("a child is ours"));
            if ended.flatten().is_some() || Instant::now() > end {
                panic!("{} did not become ready: {answer:?}\n{}", self.name, self.log());
            }
        }
    }

    /// Its name in the configuration
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory, which goes with it
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path in its directory
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its state directory
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Its configuration file
    pub fn config(&self) -> PathBuf {
        self.path("stoqd.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.path("log")
    }

    /// What it logged so far
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Port of the data plane
    pub fn stoq_port(&self) -> u16 {
        self.ports.stoq
    }

    /// Address of the data plane
    pub fn stoq_address(&self) -> String {
        format!("[::1]:{}", self.ports.stoq)
    }

    /// Process id
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// `stoqctl` with these words, not run yet
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg(COMMAND_SECONDS).arg(program("stoqctl")).arg("--socket");
        command.arg(self.path("admin.sock")).args(words).stdin(Stdio::null());
        command
    }

    /// Runs `stoqctl`
    pub fn ctl(&self, words: &[&str]) -> Answer {
        Answer::of(self.command(words).output().expect("stoqctl starts"))
    }

    /// Runs `stoqctl --json`, which must succeed, and returns what it says
    pub fn ask(&self, words: &[&str]) -> Value {
        let answer = self.ctl(&[words, &["--json"]].concat());
        assert_eq!(answer.code, 0, "stoqctl {words:?} on {}: {answer:?}", self.name);
        answer.json()
    }

    /// Publishes a service
    pub fn publish(&self, name: &str, target: &str, allow: &[&str]) {
        let mut words = vec!["service", "publish", name, "--to", target];
        for node in allow {
            words.extend(["--allow", node]);
        }
        self.ask(&words);
    }

    /// Attaches a service and returns the socket at which it is offered
    pub fn attach(&self, service: &str, listen: &str) -> String {
        let attached = self.ask(&["service", "attach", service, "--listen", listen]);
        attached["attachment"]["listen"].as_str().expect("the bound socket").to_owned()
    }

    /// The one session it holds, once it holds one
    pub fn session(&self) -> Value {
        wait_until("one session", Duration::from_secs(60), || {
            let listed = self.ask(&["session", "list"]);
            let sessions = listed["sessions"].as_array().expect("a list");
            (sessions.len() == 1).then(|| sessions[0].clone())
        })
    }

    /// A counter of its workers, summed; `group` is empty for plain ones, else `dropped`, `refused`, `flow_errors`
    pub fn counter(&self, group: &str, name: &str) -> u64 {
        let workers = self.ask(&["worker", "list"])["workers"].as_array().map_or(0, Vec::len);
        let group = if group.is_empty() { "counters" } else { group };
        (0..workers)
            .map(|index| {
                let shown = self.ask(&["worker", "show", &index.to_string()]);
                shown[group][name].as_u64().unwrap_or_else(|| panic!("no {group}.{name}: {shown}"))
            })
            .sum()
    }

    /// GET /metrics: status line and body
    pub fn metrics(&self) -> (String, String) {
        let mut stream = TcpStream::connect(("::1", self.ports.metrics)).expect("metrics listen");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout above zero");
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("a request is taken");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer in UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }

    /// The sum of a metric's samples whose line contains `label`
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let (_, body) = self.metrics();
        let samples = body.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && line.contains(label)
        });
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Sends a signal
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process id is not zero");
        kill_process(pid, signal).expect("our child can be signalled");
    }

    /// Waits for the process to end by itself
    pub fn wait_exit(&mut self, patience: Duration) -> ExitStatus {
        let child = self.child.as_mut().expect("the daemon runs");
        let status = wait_until("the daemon ends by itself", patience, || {
            child.try_wait().expect("a child is ours")
        });
        self.child = None;
        status
    }

    /// Ends the process without a warning
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, the end with 0, and a new start
    pub fn restart(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_exit(Duration::from_secs(20));
        assert!(status.success(), "{} ended with {status}\n{}", self.name, self.log());
        self.launch();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            crate::say(&format!("log of {}:\n{}", self.name, shown.join("\n")));
        }
    }
}

/// Enrols `guest` with `host`: afterwards both trust `host`'s root
pub fn enrol(host: &Node, guest: &Node) {
    let made = host.ask(&["node", "token", "create", guest.name()]);
    let token = made["token"].as_str().expect("a token");
    guest.ask(&["node", "join", token]);
}
