//! A backup of the whole authority: certificates, books and, where they are asked for, the keys, encrypted. The host is
//! lost, the backup comes back, and the mesh goes on with the same root. What was revoked stays revoked.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use stoq_appliance_tests::{
    Answer, Node, Options, Secret, Server, enrol, files_below, program, shared,
};

use crate::{PATIENCE, is_refused, pin, serial, shown_by, states, talks, turn_over};

const ROUNDS: usize = 4;
const PASSPHRASE: &str = "four words are enough";

/// `stoqctl` without a daemon, which may refuse
fn offline(words: &[&str]) -> Answer {
    let mut command = std::process::Command::new("timeout");
    command.arg("120").arg(program("stoqctl")).args(words).arg("--json");
    Answer::of(command.stdin(std::process::Stdio::null()).output().unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn stop(node: &mut Node) {
    node.signal(Signal::TERM);
    assert!(node.wait_exit(PATIENCE).success());
}

/// The words of a restore into the place where the authority was
fn restoring(alpha: &Node, from: &Path) -> Vec<String> {
    let (home, high_water) =
        (alpha.state().join("authority"), alpha.state().join("revocation-high-water.json"));
    let words =
        ["backup", "restore", text(from), "--to", text(&home), "--high-water", text(&high_water)];
    words.map(str::to_owned).to_vec()
}

fn run(words: &[String], more: &[&str]) -> Answer {
    let words: Vec<_> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
    offline(&words)
}

#[test]
fn an_authority_comes_back_from_its_backup_with_its_keys() {
    let _turn = shared();
    let mut alpha = Node::start("alpha", &Options::default());
    let beta = Node::start("beta", &Options::default());
    enrol(&alpha, &beta);
    let echo = Server::echo_tcp();
    alpha.publish("echo", &echo.target(), &["any-enrolled"]);
    turn_over(&alpha, "issuing-2");
    let file: PathBuf = alpha.path("passphrase");
    std::fs::write(&file, format!("{PASSPHRASE}\n")).unwrap();
    let wrong: PathBuf = alpha.path("wrong");
    std::fs::write(&wrong, "four other words here\n").unwrap();
    let with_keys = ["--with-keys", "--passphrase-file", text(&file)];
    let (backup, bare) = (alpha.path("backup"), alpha.path("bare"));
    let made = alpha.ask(&["backup", "create", text(&bare)]);
    assert!(made["keys"].as_array().unwrap().is_empty(), "{made}");
    assert_eq!(made["keys_left_out"].as_array().unwrap().len(), 4, "{made}");
    // The last thing the authority does: what it logged afterwards no backup could bring back.
    let made = alpha.ask(&[&["backup", "create", text(&backup)][..], &with_keys].concat());
    let keys: Vec<_> = made["keys"].as_array().unwrap().iter().map(|key| key.to_string()).collect();
    for name in ["issuing.key", "issuing-2.key", "log.key", "root/root.key"] {
        assert!(keys.contains(&format!("\"{name}\"")), "{name}: {made}");
    }
    let (root, states_before) = (pin(&alpha, "root"), states(&alpha));
    let serial_before = serial(&beta);
    stop(&mut alpha);
    // No key is in it that can be read, and each is there where it belongs.
    for key in ["issuing.key", "issuing-2.key", "log.key"] {
        let secret = Secret::of_key(&alpha.state().join("authority").join(key));
        for directory in [&backup, &bare] {
            assert_eq!(secret.in_files(&files_below(directory)).found, [""; 0], "{key}");
        }
        assert!(!secret.in_files(&files_below(&alpha.state())).found.is_empty());
    }
    let verified = offline(&[&["backup", "verify", text(&backup)][..], &with_keys].concat());
    assert_eq!(verified.json()["keys"].as_array().unwrap().len(), 4, "{verified:?}");
    let wrongly = ["--with-keys", "--passphrase-file", text(&wrong)];
    let refused = offline(&[&["backup", "verify", text(&backup)][..], &wrongly].concat());
    assert_eq!(refused.error_code(), "wrong-passphrase", "{refused:?}");
    let refused = offline(&[&["backup", "verify", text(&bare)][..], &with_keys].concat());
    assert_eq!(refused.error_code(), "no-keys-in-it", "{refused:?}");

    // The host is lost but for what is remembered apart.
    let home = alpha.state().join("authority");
    std::fs::rename(&home, alpha.path("lost")).unwrap();
    std::fs::remove_dir_all(alpha.state().join("identity")).unwrap();
    let words = restoring(&alpha, &backup);
    let refused = run(&words, &wrongly);
    assert_eq!(refused.error_code(), "wrong-passphrase", "{refused:?}");
    assert!(!home.join("ca").exists(), "nothing was restored");
    let restored = run(&words, &with_keys);
    assert_eq!(restored.code, 0, "{restored:?}");
    let again = run(&words, &with_keys);
    assert_eq!(again.error_code(), "occupied", "{again:?}");
    alpha.launch();
    assert_eq!(pin(&alpha, "root"), root);
    assert_eq!(states(&alpha), states_before);
    talks(&beta, &alpha);
    let known = alpha.ask(&["certificate", "show", &serial_before]);
    assert_eq!(
        known["certificate"]["state"], "valid",
        "the inventory is made anew from the journal: {known}"
    );
    let gamma = Node::start("gamma", &Options::default());
    enrol(&alpha, &gamma);
    talks(&gamma, &alpha);
}

/// Books that are moved away and back
struct Books {
    there: [PathBuf; 2],
    away: [PathBuf; 2],
}

impl Books {
    fn of(alpha: &Node) -> Self {
        let home = alpha.state().join("authority");
        let names = ["ca", "inventory.db"];
        Self { there: names.map(|name| home.join(name)), away: names.map(|name| alpha.path(name)) }
    }

    fn lose(&self) {
        for (there, away) in self.there.iter().zip(&self.away) {
            std::fs::rename(there, away).unwrap();
        }
    }

    fn bring_back(&self) {
        for (there, away) in self.there.iter().zip(&self.away) {
            std::fs::rename(away, there).unwrap();
        }
    }
}

/// A backup lacks a revocation: it is refused, and where that is all it lacks the authority goes on from the deny-list
/// it has published. Once a minute the authority adds to the log by itself; a backup that lacks that is of no use.
#[test]
fn a_restore_cannot_unrevoke() {
    let _turn = shared();
    let mut alpha = Node::start("alpha", &Options::default());
    let books = Books::of(&alpha);
    for round in 0..ROUNDS {
        // The minute begins with the start.
        alpha.restart();
        let peer = Node::start(&format!("peer{round}"), &Options::default());
        enrol(&alpha, &peer);
        let backup = alpha.path(&format!("backup-{round}"));
        alpha.ask(&["backup", "create", text(&backup)]);
        let holder = shown_by(&peer);
        alpha.ask(&["certificate", "revoke", &serial(&peer), "--reason", "key-compromise"]);
        is_refused(&holder, &alpha, "revoked");
        stop(&mut alpha);
        books.lose();
        let words = restoring(&alpha, &backup);
        let refused = run(&words, &[]);
        assert_eq!((refused.code, refused.error_code().as_str()), (8, "behind"), "{refused:?}");
        assert!(!books.there[0].exists(), "nothing was restored");
        let adopting = run(&words, &["--adopting"]);
        if adopting.error_code() == "behind" {
            books.bring_back();
            alpha.launch();
            continue;
        }
        assert!(adopting.json()["to_adopt"].is_string(), "{adopting:?}");
        alpha.launch();
        is_refused(&holder, &alpha, "revoked");
        assert!(alpha.log().contains("the deny-list was adopted"), "{}", alpha.log());
        // From here on it is an authority like any other.
        let guest = Node::start("guest", &Options::default());
        enrol(&alpha, &guest);
        alpha.restart();
        is_refused(&holder, &alpha, "revoked");
        return;
    }
    panic!("in {ROUNDS} rounds the authority always added to its log between backup and stop");
}
