//! A child process that speaks JSON lines: started, told who it is, listened to, timed, ended.
//! Whatever goes wrong names the program and repeats its last words. What the lines mean is
//! `stacks`' and `tunnels`'.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::process::{parse_stat, ticks_per_second};

/// Time a program may take to start, or to end once it was asked to
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Lines of a program's error stream that an error repeats
const LAST_WORDS: usize = 6;
/// Octets of an answer's line that an error repeats
const LINE_SHOWN_BYTES: usize = 200;
/// Time between two looks at what no event announces
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Why there is no figure
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RunError {
    /// A program did not do its work
    #[error("{0}")]
    Failed(String),
    /// A run ended, but not every octet arrived as it left
    #[error("{0}: bytes are missing or differ, which proves a defect")]
    Unsound(String),
}

/// A program of this name on the search path, or where Debian keeps daemons
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let directories = std::env::split_paths(&path).chain(daemons);
    directories.map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// A running child; dropped, it is killed
pub struct Program {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    errors: Option<JoinHandle<VecDeque<String>>>,
}

impl Program {
    /// Starts a program; `name` is what errors call it
    pub fn start(name: &str, mut command: Command) -> Result<Self, RunError> {
        let failed = |cause: String| RunError::Failed(format!("{name} does not start: {cause}"));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|cause| failed(cause.to_string()))?;
        let input = child.stdin.take();
        let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed("it has no pipes".into()));
        };
        let errors = tokio::spawn(async move {
            let mut lines = BufReader::new(errors).lines();
            let mut last = VecDeque::with_capacity(LAST_WORDS + 1);
            // A line that is not text ends the reading: the words before it are what is known.
            while let Ok(Some(line)) = lines.next_line().await {
                last.push_back(line);
                if last.len() > LAST_WORDS {
                    last.pop_front();
                }
            }
            last
        });
        let output = BufReader::new(output).lines();
        Ok(Self { name: name.into(), child, input, output, errors: Some(errors) })
    }

    /// Its process id, while it runs
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Writes one line of JSON to its standard input, which stays open
    pub async fn tell(&mut self, what: &impl Serialize) -> Result<(), RunError> {
        let line = serde_json::to_string(what).map_err(|e| self.failed(&e.to_string()))? + "\n";
        let told = match &mut self.input {
            Some(input) => input.write_all(line.as_bytes()).await,
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        match told {
            Ok(()) => Ok(()),
            Err(cause) => Err(self.died(&format!("does not take its identity ({cause})")).await),
        }
    }

    /// The next line of its output, as JSON
    pub async fn hear<T: DeserializeOwned>(&mut self, within: Duration) -> Result<T, RunError> {
        let Ok(line) = timeout(within, self.output.next_line()).await else {
            return Err(self.failed(&format!("said nothing for {within:?}")));
        };
        let line = line.map_err(|cause| self.failed(&format!("cannot be read: {cause}")))?;
        let Some(line) = line else { return Err(self.died("ended early").await) };
        serde_json::from_str(&line).map_err(|cause| {
            let shown: String = line.chars().take(LINE_SHOWN_BYTES).collect();
            self.failed(&format!("says something else than expected ({cause}): {shown}"))
        })
    }

    /// How it ended, if it has
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for it to end by itself; an end with a failure is an error
    pub async fn finish(mut self) -> Result<(), RunError> {
        drop(self.input.take());
        let Ok(status) = timeout(PATIENCE, self.child.wait()).await else {
            return Err(self.failed(&format!("did not end within {PATIENCE:?}")));
        };
        let status = status.map_err(|cause| self.failed(&cause.to_string()))?;
        if status.success() { Ok(()) } else { Err(self.died("failed").await) }
    }

    /// Ends it without waiting for its consent
    pub async fn kill(mut self) -> Result<(), RunError> {
        self.child.kill().await.map_err(|cause| self.failed(&format!("is not killed: {cause}")))
    }

    /// Processor time of all its threads so far
    pub fn cpu_seconds(&self) -> Result<f64, RunError> {
        let pid = self.child.id().ok_or_else(|| self.failed("has ended"))?;
        let process = Path::new("/proc").join(pid.to_string());
        let read = || -> std::io::Result<Option<f64>> {
            let tick = ticks_per_second(&process)?;
            let text = std::fs::read_to_string(process.join("stat"))?;
            Ok(parse_stat(&text).map(|(_, user, system)| (user + system) as f64 / tick))
        };
        let seconds = read().map_err(|cause| self.failed(&format!("cannot be timed: {cause}")))?;
        seconds.ok_or_else(|| self.failed("has a stat file that does not parse"))
    }

    /// Waits until a TCP socket of its network listens at `port`: nothing announces that, so it is
    /// looked at
    pub async fn wait_listening(&mut self, port: u16) -> Result<(), RunError> {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            if self.ended().is_some() {
                return Err(self.died("ended before it listened").await);
            }
            let Some(pid) = self.pid() else { return Err(self.failed("has ended")) };
            let sockets = std::fs::read_to_string(format!("/proc/{pid}/net/tcp6"))
                .map_err(|cause| self.failed(&format!("has no socket table: {cause}")))?;
            if listens(&sockets, port) {
                return Ok(());
            }
            if tokio::time::Instant::now() > end {
                return Err(self.failed(&format!("did not listen within {PATIENCE:?}")));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// An error about it
    pub fn failed(&self, what: &str) -> RunError {
        RunError::Failed(format!("{} {what}", self.name))
    }

    /// An error about one that has ended or is ending, with its last words
    pub async fn died(&mut self, what: &str) -> RunError {
        let status = match timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(cause)) => cause.to_string(),
            Err(_) => "still running".into(),
        };
        let words = match self.errors.take() {
            Some(errors) => match timeout(PATIENCE, errors).await {
                Ok(Ok(words)) => words.into_iter().collect::<Vec<_>>().join(" | "),
                _ => "its error stream stays open".into(),
            },
            None => "said before".into(),
        };
        self.failed(&format!("{what} ({status}): {words}"))
    }
}

/// Runs a program to its end and returns what it printed
pub async fn ask(name: &str, mut command: Command) -> Result<String, RunError> {
    let failed = |cause: String| RunError::Failed(format!("{name}: {cause}"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output())
        .await
        .map_err(|_| failed(format!("did not end within {PATIENCE:?}")))?
        .map_err(|cause| failed(cause.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        // Some programs print their version on the error stream.
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        return Ok(if out.is_empty() { err } else { out });
    }
    Err(failed(format!("{}: {} {}", output.status, text(&output.stdout), text(&output.stderr))))
}

/// Whether a socket of `/proc/net/tcp6` listens at `port` (state 0A, port in hexadecimal)
fn listens(sockets: &str, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    sockets.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&wanted)) && fields.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn block<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work)
    }

    #[test]
    fn a_child_that_dies_in_the_middle_is_named_with_its_last_words() {
        block(async {
            let script = "echo '{\"a\":1}'; echo 'no buffers left' >&2; exit 7";
            let mut child = Program::start("peer-brittle", shell(script)).unwrap();
            let first: Value = child.hear(PATIENCE).await.unwrap();
            assert_eq!(first["a"], 1);
            let error = child.hear::<Value>(PATIENCE).await.unwrap_err().to_string();
            for part in ["peer-brittle", "ended early", "exit status: 7", "no buffers left"] {
                assert!(error.contains(part), "{part} is not in {error}");
            }
        });
    }

    #[test]
    fn a_silent_a_babbling_and_an_absent_program_are_errors_that_name_it() {
        block(async {
            let mut silent = Program::start("peer-silent", shell("cat")).unwrap();
            let error = silent.hear::<Value>(Duration::from_millis(30)).await.unwrap_err();
            assert!(error.to_string().contains("peer-silent said nothing"));
            silent.kill().await.unwrap();
            let mut babbling = Program::start("peer-babbling", shell("echo hello")).unwrap();
            let error = babbling.hear::<Value>(PATIENCE).await.unwrap_err().to_string();
            assert!(error.contains("peer-babbling") && error.contains("hello"));
            let absent = Program::start("peer-absent", Command::new("/nonexistent/peer"));
            assert!(absent.err().unwrap().to_string().contains("peer-absent does not start"));
        });
    }

    #[test]
    fn what_is_told_arrives_and_the_end_of_input_ends_it() {
        block(async {
            let mut child = Program::start("peer-echo", shell("cat; exit 0")).unwrap();
            child.tell(&serde_json::json!({"node": "n"})).await.unwrap();
            assert_eq!(child.hear::<Value>(PATIENCE).await.unwrap()["node"], "n");
            assert!(child.cpu_seconds().unwrap() >= 0.0);
            child.finish().await.unwrap();
            let failing = Program::start("peer-failing", shell("cat; exit 3")).unwrap();
            assert!(failing.finish().await.unwrap_err().to_string().contains("exit status: 3"));
        });
    }

    #[test]
    fn a_listening_port_is_told_from_a_connected_one() {
        let head = "  sl  local_address remote_address st\n";
        let local = "00000000000000000000000001000000";
        let line =
            |port: &str, state: &str| format!("  0: {local}:{port} {local}:0000 {state} 0\n");
        assert!(listens(&(head.to_owned() + &line("1F90", "0A")), 0x1f90));
        assert!(!listens(&(head.to_owned() + &line("1F90", "01")), 0x1f90));
        assert!(!listens(&(head.to_owned() + &line("1F91", "0A")), 0x1f90));
        assert!(!listens("", 1));
    }
}
