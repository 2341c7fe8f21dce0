//! The keys of the authority are in `stoqd signer`: while `stoqd run` issues certificates under load, neither its
//! memory nor any file of it has them. The same search finds them where they are, so it would find them there as well.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use stoq_appliance_tests::{
    Node, Options, Secret, alone, files_below, files_of, program, resident_bytes, say, stoqctl,
    wait_until,
};

use crate::issuing::Issuing;

/// Searches of the daemon's memory while it issues: a key could be there for moments only
const SEARCHES: usize = 3;
const THREADS: usize = 3;
/// Certificates that must have been issued while it was searched
const ISSUED: usize = 30;
const PATIENCE: Duration = Duration::from_secs(120);

/// The signing process; it ends with its handle
struct Signer(Child);

impl Signer {
    fn start(directory: &Path) -> Self {
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let mut command = Command::new(program("stoqd"));
        command.arg("signer").arg("--socket").arg(directory.join("sock"));
        command.arg("--keys").arg(directory.join("keys"));
        command.args(["--create", "issuing", "--create", "log", "--allow-tracing"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let mut signer = Self(child.unwrap());
        wait_until("the signer is ready", PATIENCE, || {
            let said = std::fs::read_to_string(directory.join("log")).unwrap();
            assert!(signer.0.try_wait().unwrap().is_none(), "the signer has ended: {said}");
            said.contains("ready").then_some(())
        });
        signer
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn end(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes an offline root and has it certify the signer's issuing key for the node
fn certify(node: &Node, home: &Path) {
    let at = |name: &str| home.join(name).display().to_string();
    let authority = node.state().join("authority").display().to_string();
    let (root, socket, request, issuing) =
        (at("root"), at("sock"), at("issuing.csr"), at("issuing.pem"));
    let root_file = at("root/root.pem");
    stoqctl(&["root", "init", "--directory", &root, "--offline"]);
    let keyed = ["--directory", &authority, "--signer", &socket];
    stoqctl(&[&["root", "request-issuing", "--out", &request][..], &keyed].concat());
    let signed = ["--request", &request, "--out", &issuing];
    stoqctl(&[&["root", "sign-issuing", "--directory", &root][..], &signed].concat());
    let said = stoqctl(&["root", "fingerprint", "--directory", &root, "--json"]);
    let said = said.json();
    let fingerprint = said["fingerprint"].as_str().unwrap();
    let files = ["--certificate", &issuing, "--root", &root_file, "--fingerprint", fingerprint];
    stoqctl(&[&["root", "install-issuing"][..], &keyed, &files].concat());
}

/// The keys that must not be in the daemon
fn keys(directory: &Path) -> [(&'static str, Secret); 2] {
    ["issuing", "log"]
        .map(|name| (name, Secret::of_key(&directory.join(format!("keys/{name}.key")))))
}

/// Searches memory and files of a daemon; panics with what it finds
fn is_without(node: &Node, keys: &[(&'static str, Secret)]) {
    for (name, key) in keys {
        let sought = key.in_memory(node.pid());
        assert_eq!(sought.found, [""; 0], "{name} is in the daemon's memory");
        // Everything that is resident was looked at, or it cannot be read by anybody this way.
        let resident = resident_bytes(node.pid());
        assert!(sought.bytes >= resident / 2, "{sought:?}, and {resident} octets are resident");
        let files = [files_below(node.directory()), files_of(node.pid())].concat();
        let in_files = key.in_files(&files);
        assert_eq!(in_files.found, [""; 0], "{name} is in files of the daemon");
        say(&format!(
            "keys: {name} is not in {} MiB of memory ({} KiB unreadable), nor in {} files of {} KiB",
            sought.bytes >> 20,
            sought.unreadable_bytes >> 10,
            files.len(),
            in_files.bytes >> 10,
        ));
    }
}

/// A key that the daemon does have is found by the same search, in its memory and in its files
fn own_key_is_found(node: &Node) {
    let files = files_below(&node.state().join("identity"));
    let own = files.iter().find(|file| file.ends_with("node.key")).expect("the node has a key");
    let own = Secret::of_key(own);
    let sought = own.in_memory(node.pid());
    assert!(!sought.found.is_empty(), "the search does not find the daemon's own key: {sought:?}");
    let in_files = own.in_files(&files_below(node.directory()));
    assert!(!in_files.found.is_empty(), "the search of files does not find a key: {in_files:?}");
}

#[test]
fn a_daemon_with_a_signer_has_its_authoritys_keys_neither_in_memory_nor_in_files() {
    let _turn = alone();
    let home = tempfile::Builder::new().prefix("stoq-test-signer-").tempdir().unwrap();
    let signer = Signer::start(home.path());
    let mut node = Node::prepare("alpha", &Options::default());
    certify(&node, home.path());
    let socket = home.path().join("sock");
    let section = format!("[trust]\nsigner_socket = \"{}\"\n", socket.display());
    node.configure(&Options::with_sections(&section));
    node.launch();
    let backend = node.ask(&["signer", "status"])["backend"].as_str().unwrap().to_owned();
    assert!(backend.starts_with("remote"), "{backend}");
    let keys = keys(home.path());

    Issuing::register(&node);
    let issuing = Issuing::new(&node, home.path());
    assert!(issuing.one(), "{:?}", issuing.take_refused());
    issuing.under_load(THREADS, || {
        let mut before = issuing.delivered().len();
        for _ in 0..SEARCHES {
            is_without(&node, &keys);
            // It issues while it is searched, not before and after.
            wait_until("certificates are issued", PATIENCE, || {
                (issuing.delivered().len() >= before + ISSUED / SEARCHES).then_some(())
            });
            before = issuing.delivered().len();
        }
    });
    let delivered = issuing.delivered().len();
    assert!(delivered > ISSUED, "{delivered}: {:?}", issuing.take_refused());
    // At rest as well, and after it has ended: what it leaves behind has no key.
    is_without(&node, &keys);
    own_key_is_found(&node);
    let signatures = node.ask(&["signer", "status"])["signatures"].as_u64().unwrap();
    assert!(signatures >= 3 * delivered as u64, "{signatures} signatures for {delivered}");
    node.signal(Signal::TERM);
    assert!(node.wait_exit(PATIENCE).success());
    for (name, key) in &keys {
        let left = key.in_files(&files_below(node.directory()));
        assert_eq!(left.found, [""; 0], "{name}");
        // The counter-check: the process that has them, and its files
        let sought = key.in_memory(signer.pid());
        assert!(!sought.found.is_empty(), "{name} is not found where it is: {sought:?}");
        assert!(!key.in_files(&files_below(&home.path().join("keys"))).found.is_empty());
        say(&format!("keys: {name} in the signer: {}", sought.found.join(", ")));
    }
    say(&format!("keys: {delivered} certificates were issued meanwhile"));
    signer.end();
}

/// What the test above would find if the daemon had the keys
#[test]
fn a_daemon_without_a_signer_has_its_authoritys_keys_and_the_search_finds_them() {
    let _turn = alone();
    let node = Node::start("alpha", &Options::default());
    let authority = node.state().join("authority");
    for name in ["issuing", "log"] {
        let key = Secret::of_key(&authority.join(format!("{name}.key")));
        let sought = key.in_memory(node.pid());
        assert!(!sought.found.is_empty(), "{name}: {sought:?}");
        assert!(!key.in_files(&files_below(node.directory())).found.is_empty(), "{name}");
    }
}
