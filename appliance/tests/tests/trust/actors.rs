//! Who did it: the audit log names the user at the other end of the admin socket, as the kernel tells it, and not
//! whoever the daemon is.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use stoq_appliance_tests::{Answer, Node, Options, say, shared};

/// A user who is nobody in particular
const OTHER: &str = "65534";

/// The actors of the records about registrations, the first first
fn actors(alpha: &Node) -> Vec<(String, String)> {
    let tail = alpha.ask(&["audit", "tail", "--limit", "100"]);
    let records = tail["records"].as_array().unwrap().iter();
    let registered = records.filter(|record| record["event"] == "registered");
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    registered.map(|record| (word(&record["subject"]), word(&record["actor"]))).collect()
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_audit_log_names_the_user_who_gave_the_order() {
    let _turn = shared();
    let alpha = Node::start("alpha", &Options::default());
    let uid = rustix::process::geteuid();
    alpha.ask(&["ca", "register", "operator", "ana"]);
    let own = format!("operator:uid={}", uid.as_raw());
    assert_eq!(actors(&alpha), [("ana".to_owned(), own.clone())]);
    if !uid.is_root() {
        say("actors: only root can ask as another user; what one user does is tested");
        return;
    }
    // Whoever may open the socket may give orders: here that is everybody.
    mode(alpha.directory(), 0o755);
    mode(&alpha.path("admin.sock"), 0o666);
    let asking = alpha.command(&["ca", "register", "operator", "ben"]);
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", OTHER, "--regid", OTHER, "--clear-groups"]);
    command.arg(asking.get_program()).args(asking.get_args()).stdin(std::process::Stdio::null());
    let answer = Answer::of(command.output().expect("setpriv is part of util-linux"));
    assert_eq!(answer.code, 0, "{answer:?}");
    let other = format!("operator:uid={OTHER}");
    assert_eq!(actors(&alpha), [("ana".to_owned(), own), ("ben".to_owned(), other)]);
}
