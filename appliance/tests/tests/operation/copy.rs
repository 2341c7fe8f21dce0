//! `stoqctl copy`: trees both ways, continued after a crash, and refused where it is not allowed.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use stoq_appliance_tests::{Answer, Node, Options, enrol, fill, shared, wait_until};

/// A file's length, mode, time and digest, by its path
type Listing = BTreeMap<String, (u64, u32, i64, blake3::Hash)>;

fn listing(root: &Path) -> Listing {
    fn walk(root: &Path, at: &Path, out: &mut Listing) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let digest = if metadata.is_file() {
                blake3::hash(&std::fs::read(&path).unwrap())
            } else if metadata.is_symlink() {
                blake3::hash(std::fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes())
            } else {
                walk(root, &path, out);
                blake3::hash(b"directory")
            };
            // Times of links cannot be trusted everywhere.
            let time = if metadata.is_file() { metadata.mtime() } else { 0 };
            let length = if metadata.is_file() { metadata.len() } else { 0 };
            out.insert(name, (length, metadata.mode() & 0o777, time, digest));
        }
    }
    let mut out = Listing::new();
    walk(root, root, &mut out);
    out
}

fn write(path: &Path, seed: u64, length: usize, mode: u32) {
    let mut bytes = vec![0; length];
    fill(seed, 0, &mut bytes);
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000 + seed);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn make_tree(root: &Path) {
    std::fs::create_dir_all(root.join("deep/er")).unwrap();
    std::fs::create_dir(root.join("empty")).unwrap();
    for index in 0..200 {
        write(&root.join(format!("deep/file-{index}")), index, (index * 37) as usize, 0o644);
    }
    write(&root.join("deep/er/large"), 1_000, 9 << 20, 0o600);
    write(&root.join("deep/er/a name with spaces and ü"), 1_001, 3, 0o640);
    write(&root.join("program"), 1_002, 70_000, 0o755);
    write(&root.join("nothing"), 1_003, 0, 0o644);
    symlink("program", root.join("link")).unwrap();
}

/// `alpha` lets beta copy below its `files`
fn pair(allow: &str) -> (Node, Node) {
    let mut alpha = Node::prepare("alpha", &Options::default());
    let files = alpha.path("files");
    std::fs::create_dir(&files).unwrap();
    let section = format!("[copy]\nroots = [\"{}\"]\nallow = {allow}\n", files.display());
    let transport = "idle_timeout_ms = 2000\nkeep_alive_ms = 500\nsession_linger_ms = 2000".into();
    alpha.configure(&Options { transport, ..Options::with_sections(&section) });
    alpha.launch();
    let beta = Node::start("beta", &Options::default());
    enrol(&alpha, &beta);
    (alpha, beta)
}

fn copy(node: &Node, from: &str, to: &str) -> Answer {
    node.ctl(&["copy", from, to, "--json"])
}

fn last_event(answer: &Answer) -> Value {
    let line = answer.stdout.lines().last().unwrap_or_else(|| panic!("{answer:?}"));
    for line in answer.stdout.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!(event["schema"], "stoqctl.copy.run/1", "{line}");
    }
    serde_json::from_str(line).unwrap()
}

#[test]
fn a_tree_goes_there_and_back_unchanged() {
    let _turn = shared();
    let (alpha, beta) = pair("[\"beta\"]");
    let source = beta.path("tree");
    make_tree(&source);
    let there = alpha.path("files/tree");
    // Into a directory that exists, under the name it has here.
    let into = format!("alpha:{}", alpha.path("files").display());
    let remote = format!("{into}/tree");
    let sent = copy(&beta, source.to_str().unwrap(), &into);
    assert_eq!(sent.code, 0, "{sent:?}");
    let done = last_event(&sent);
    assert_eq!(done["event"], "result");
    assert_eq!(done["files"], done["files_verified"]);
    assert!(done["files"].as_u64().unwrap() >= 204, "{done}");
    assert_eq!(listing(&there), listing(&source));

    let back = beta.path("back");
    let fetched = copy(&beta, &remote, back.to_str().unwrap());
    assert_eq!(fetched.code, 0, "{fetched:?}");
    assert_eq!(listing(&back), listing(&source));

    // Once more: nothing needs to move.
    let again = last_event(&copy(&beta, source.to_str().unwrap(), &into));
    assert_eq!(again["bytes_resumed"], again["bytes"], "{again}");
}

#[test]
fn a_copy_goes_on_where_a_killed_daemon_stopped() {
    let _turn = shared();
    let (alpha, mut beta) = pair("\"any-enrolled\"");
    let source = beta.path("large");
    let length = 768 << 20;
    write(&source, 5, length, 0o644);
    let there = alpha.path("files/large");
    let remote = format!("alpha:{}", there.display());
    let mut command = beta.command(&["copy", source.to_str().unwrap(), &remote, "--json"]);
    let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let received = || alpha.counter("", "flow_bytes_received");
    wait_until("a part is there", Duration::from_secs(20), || {
        (received() > 64 << 20).then_some(())
    });
    beta.kill();
    assert!(!running.wait().unwrap().success(), "the copy was over before the daemon was killed");
    assert!(!there.exists(), "an unfinished file has its name already");
    beta.launch();
    // Until alpha has noticed that the first copy's session is over, it keeps that copy's place.
    let done = wait_until("the place of the first copy is free", Duration::from_secs(30), || {
        let done = copy(&beta, source.to_str().unwrap(), &remote);
        if done.code == 1 && done.stderr.contains("another copy is writing") {
            return None;
        }
        assert_eq!(done.code, 0, "{done:?}");
        Some(done)
    });
    let done = last_event(&done);
    let resumed = done["bytes_resumed"].as_u64().unwrap();
    stoq_appliance_tests::say(&format!("copy resumed: {resumed} of {length} octets were in place"));
    assert!(resumed >= 16 << 20 && resumed < length as u64, "{done}");
    assert_eq!(
        blake3::hash(&std::fs::read(&there).unwrap()),
        blake3::hash(&std::fs::read(&source).unwrap())
    );
    let left: Vec<_> =
        std::fs::read_dir(alpha.path("files")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["large"], "nothing temporary is left");
}

#[test]
fn nobody_copies_without_permission_or_out_of_the_roots() {
    let _turn = shared();
    let (alpha, beta) = pair("[\"gamma\"]");
    let source = beta.path("source");
    write(&source, 1, 1_000, 0o644);
    let source = source.to_str().unwrap();
    let files = alpha.path("files");
    let refused = |answer: Answer| {
        assert_eq!(answer.code, 1, "{answer:?}");
        let event = last_event(&answer);
        assert_eq!(event["event"], "error", "{event}");
        let error = event["error"].clone();
        assert!(!error["remedy"].as_str().unwrap().is_empty(), "{error}");
        error["message"].as_str().unwrap().to_owned()
    };
    refused(copy(&beta, source, &format!("alpha:{}/new", files.display())));
    assert!(!files.join("new").exists());

    let section = format!("[copy]\nroots = [\"{}\"]\nallow = [\"beta\"]\n", files.display());
    alpha.configure(&Options::with_sections(&section));
    alpha.ask(&["config", "reload"]);
    let outside = alpha.path("outside");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, files.join("door")).unwrap();
    for path in ["outside/new", "files/../outside/new", "files/door/new"] {
        let message =
            refused(copy(&beta, source, &format!("alpha:{}", alpha.path(path).display())));
        assert!(message.len() > 10, "{message}");
        assert!(!outside.join("new").exists(), "{path} was written");
    }
    std::fs::write(outside.join("secret"), "secret").unwrap();
    for path in ["outside/secret", "files/door/secret"] {
        let target = beta.path("stolen");
        refused(copy(
            &beta,
            &format!("alpha:{}", alpha.path(path).display()),
            target.to_str().unwrap(),
        ));
        assert!(!target.exists(), "{path} was read");
    }
    let fine = copy(&beta, source, &format!("alpha:{}/new", files.display()));
    assert_eq!(fine.code, 0, "{fine:?}");
}
