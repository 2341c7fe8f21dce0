//! A whole daemon whose state lies on a disk that runs full while it issues: it says so, it delivers nothing that is
//! not durable, and everything it has delivered is there afterwards. The disk is a tmpfs in a mount namespace of its
//! own.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use stoq_appliance_tests::{Node, Options, alone, say, wait_until};

use crate::issuing::Issuing;

const DISK_MIB: u64 = 24;
/// What is left when the disk is filled: some dozens of certificates
const LEFT_BYTES: u64 = 200 << 10;
const THREADS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(180);

/// A small file system that only those see who enter its namespace
struct SmallDisk {
    holder: Child,
    at: PathBuf,
}

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir(at).unwrap();
        let mount = format!("mount -t tmpfs -o size={DISK_MIB}m,mode=0700 tmpfs \"$0\"");
        let script = format!("{mount} && echo mounted && exec cat");
        let mut command = Command::new("unshare");
        command.args(user_namespace(&["--user", "--map-root-user"])).args(["--mount", "--"]);
        command.args(["sh", "-c", &script]).arg(at);
        let mut holder =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare starts");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let what = "this test needs a mount namespace: run it as root, or let users have \
                    namespaces (sysctl user.max_user_namespaces)";
        assert_eq!(line.trim(), "mounted", "{what}");
        Self { holder, at: at.to_owned() }
    }

    /// What a command begins with to be run in the namespace
    fn enter(&self) -> Vec<String> {
        let pid = self.holder.id().to_string();
        let mut words = vec!["nsenter", "--target", &pid, "--mount"];
        words.extend(user_namespace(&["--user", "--preserve-credentials"]));
        words.push("--");
        words.into_iter().map(str::to_owned).collect()
    }

    /// A file of it, seen from outside
    fn path(&self, name: &str) -> PathBuf {
        let inside = self.at.strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inside).join(name)
    }

    /// Fills it but for `left_bytes`
    fn fill(&self, left_bytes: u64) {
        let mut ballast = File::create(self.path("ballast")).unwrap();
        let piece = [0x5a; 16 << 10];
        let mut written: u64 = 0;
        loop {
            match ballast.write(&piece) {
                Ok(count) => written += count as u64,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("the ballast: {error}"),
            }
        }
        assert!(written > left_bytes, "the disk was full before");
        ballast.set_len(written - left_bytes).unwrap();
    }

    fn free(&self) {
        std::fs::remove_file(self.path("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The file system goes with the last process in its namespace.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// These words where mounting takes a namespace of users
fn user_namespace<'a>(words: &[&'a str]) -> Vec<&'a str> {
    if rustix::process::geteuid().is_root() { Vec::new() } else { words.to_vec() }
}

/// Name, state and message of the checks that are bad
fn bad_checks(node: &Node) -> Vec<(String, String)> {
    let answer = node.ctl(&["doctor", "--json"]);
    let checks = answer.json()["checks"].as_array().expect("checks").clone();
    let bad: Vec<_> = checks
        .iter()
        .filter(|check| check["health"] == "bad")
        .map(|check| (check["name"].to_string(), check["message"].to_string()))
        .collect();
    assert_eq!(answer.code, if bad.is_empty() { 0 } else { 3 }, "{answer:?}");
    bad
}

/// Everything that was delivered is in the inventory and in the log, each at a place of its own
fn all_there(node: &Node, issuing: &Issuing<'_>) {
    let mut places = BTreeSet::new();
    let delivered = issuing.delivered();
    for (serial, file) in &delivered {
        let shown = node.ask(&["certificate", "show", serial]);
        assert_eq!(shown["certificate"]["serial"], **serial, "{shown}");
        let proved = node.ask(&["log", "prove", serial]);
        let index = proved["index"].as_u64().expect("a place in the log");
        assert!(places.insert(index), "{serial} is at {index}, and so is another");
        assert!(std::fs::metadata(file).unwrap().len() > 0);
    }
    let checked = node.ask(&["log", "fsck"]);
    assert_eq!(checked["errors"], 0, "{checked}");
    assert!(checked["entries"].as_u64() >= Some(delivered.len() as u64), "{checked}");
}

#[test]
fn a_full_disk_is_said_and_loses_nothing_that_was_delivered() {
    let _turn = alone();
    let mut node = Node::prepare("alpha", &Options::default());
    let disk = SmallDisk::mount(&node.state());
    node.run_through(disk.enter());
    node.launch();
    let out = tempfile::tempdir().unwrap();
    Issuing::register(&node);
    let before = {
        let issuing = Issuing::new(&node, out.path());
        for _ in 0..10 {
            assert!(issuing.one(), "{:?}", issuing.take_refused());
        }
        assert_eq!(bad_checks(&node), []);
        disk.fill(LEFT_BYTES);
        issuing.under_load(THREADS, || {
            wait_until("the authority refuses", PATIENCE, || {
                (issuing.refused_count() > 0).then_some(())
            });
        });
        // Each refusal says whose fault it is, and so do doctor, status and log.
        let codes: BTreeSet<_> =
            issuing.take_refused().iter().map(|one| one.error_code()).collect();
        assert!(
            codes.iter().all(|code| ["no-space", "stopped", "busy"].contains(&code.as_str())),
            "{codes:?}"
        );
        let reason = wait_until("why nothing is issued", PATIENCE, || {
            node.ask(&["ca", "status"])["not_issuing"].as_str().map(str::to_owned)
        });
        let bad = bad_checks(&node);
        assert!(bad.iter().any(|(name, _)| name.contains("issuing")), "{bad:?}");
        let said = ["no space for the journal", "the certificate authority has stopped"];
        assert!(said.iter().any(|text| node.log().contains(text)), "{}", node.log());
        // The node itself goes on: it answers, and carries what it carried.
        assert_eq!(node.ask(&["status"])["node"], "alpha");
        say(&format!(
            "full disk: {} delivered, then refused as {codes:?}: {reason}",
            issuing.delivered().len()
        ));
        disk.free();
        if !reason.contains("stopped") {
            wait_until("it issues again by itself", PATIENCE, || issuing.one().then_some(()));
        }
        issuing.delivered()
    };
    node.signal(Signal::TERM);
    assert!(node.wait_exit(PATIENCE).success(), "{}", node.log());
    node.launch();
    let issuing = Issuing::going_on(&node, out.path(), before);
    assert!(issuing.one(), "{:?}", issuing.take_refused());
    all_there(&node, &issuing);
    assert_eq!(bad_checks(&node), []);
}
