//! The real program against the real server with a backend of fixed answers: every command in JSON and in
//! text, every exit code, and what reaches the backend.

#[path = "../../../controlplane/admin/tests/fake/mod.rs"]
mod fake;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fake::Fake;
use serde_json::{Value, json};
use stoq_admin::api::ConfigChange;
use stoq_admin::{ApiError, ExitCode};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A node with fixed answers, and a directory for files
struct House {
    fake: Arc<Fake>,
    directory: TempDir,
    /// The server stops when this goes
    _served: fake::Served,
    _runtime: Runtime,
}

impl House {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake::default());
        let socket = directory.path().join("stoqd.sock");
        let served = runtime.block_on(async { fake.serve_at(socket) });
        Self { fake, directory, _served: served, _runtime: runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The program with this node's socket; `{}` in an argument stands for the directory
    fn command(&self, arguments: &str) -> Command {
        let directory = self.directory.path().display().to_string();
        let mut command = program();
        command.arg("--socket").arg(self.path("stoqd.sock"));
        command.args(arguments.split_whitespace().map(|word| word.replace("{}", &directory)));
        command
    }

    fn run(&self, arguments: &str) -> Ended {
        Ended::from(self.command(arguments).output().unwrap())
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stoqctl"));
    command.env_remove("STOQ_SOCKET").env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

struct Ended {
    exit: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            exit: output.status.code().expect("not killed by a signal"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// Every object printed: one, or one per line of a stream
    fn json(&self) -> Vec<Value> {
        serde_json::Deserializer::from_str(&self.stdout)
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap_or_else(|error| panic!("{error}: {:?} {:?}", self.stdout, self.stderr))
    }

    fn expect(self, exit: i32) -> Self {
        assert_eq!(self.exit, exit, "{:?} {:?}", self.stdout, self.stderr);
        self
    }
}

/// Command, arguments, schema. In the order in which they can run one after the other.
const COMMANDS: &[(&str, &str, &str)] = &[
    ("status", "", "status.show"),
    ("node show", "", "node.show"),
    ("node list", "", "node.list"),
    ("node add", "beta [fd00::2]:8444", "node.add"),
    ("node remove", "beta", "node.remove"),
    ("node token create", "beta --lifetime 10m", "node.token-create"),
    ("node join", "a-token", "node.join"),
    ("session list", "", "session.list"),
    ("session show", "--peer beta", "session.show"),
    ("session close", "1f", "session.close"),
    ("session replace", "1f", "session.replace"),
    ("connection list", "", "connection.list"),
    ("connection show", "a", "connection.show"),
    ("worker list", "", "worker.list"),
    ("worker show", "0", "worker.show"),
    ("listener list", "", "listener.list"),
    ("service publish", "web --to [::1]:8080 --allow beta", "service.publish"),
    ("service attach", "web@beta --listen unix:{}/web.sock", "service.attach"),
    ("service list", "", "service.list"),
    ("service remove", "web@beta", "service.remove"),
    ("copy", "/etc/hostname beta:/tmp/h", "copy.run"),
    ("measure", "beta --bytes 1MiB", "measure.show"),
    ("root init", "--directory {}/root --offline", "root.init"),
    ("root fingerprint", "--directory {}/root", "root.fingerprint"),
    ("root request-issuing", "--directory {}/ca --out {}/ca.csr", "root.request-issuing"),
    (
        "root sign-issuing",
        "--directory {}/root --request {}/ca.csr --out {}/ca.pem",
        "root.sign-issuing",
    ),
    (
        "root install-issuing",
        "--directory {}/ca --certificate {}/ca.pem --root {}/root/root.pem --fingerprint ROOT",
        "root.install-issuing",
    ),
    ("config check", "{}/good.toml", "config.check"),
    ("config default", "", "config.default"),
    ("config schema", "", "config.schema"),
    ("config explain", "transport.pacing", "config.explain"),
    ("config show", "", "config.show"),
    ("config diff", "{}/good.toml", "config.diff"),
    ("config reload", "", "config.reload"),
    ("log level get", "", "log.level-get"),
    ("log level set", "debug --for 10m", "log.level-set"),
    ("drain", "--timeout 1s", "drain.run"),
    ("wait ready", "--timeout 5s", "wait.ready"),
    ("completion", "bash", "completion.show"),
    ("version", "", "version.show"),
];

/// The arguments of a command, with the fingerprint of the root that an earlier one made
fn arguments(house: &House, name: &str, rest: &str) -> String {
    let rest = match rest.contains("ROOT") {
        true => {
            let shown = house.run("root fingerprint --directory {}/root --json").expect(0).json();
            rest.replace("ROOT", shown[0]["fingerprint"].as_str().unwrap())
        }
        false => rest.to_owned(),
    };
    format!("{name} {rest}")
}

fn leaves(command: &clap::Command, name: &str, found: &mut BTreeSet<String>) {
    let mut children = command.get_subcommands().peekable();
    if children.peek().is_none() {
        found.insert(name.to_owned());
    }
    for child in children {
        leaves(child, format!("{name} {}", child.get_name()).trim(), found);
    }
}

#[test]
fn the_table_of_this_test_names_every_command() {
    let mut found = BTreeSet::new();
    leaves(&stoqctl::command(), "", &mut found);
    let listed: BTreeSet<_> = COMMANDS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(found, listed);
}

#[test]
fn every_command_prints_its_envelope_with_json_and_text_without() {
    let (with_json, without) = (House::new(), House::new());
    for house in [&with_json, &without] {
        std::fs::write(house.path("good.toml"), "[node]\nname = \"alpha\"\n").unwrap();
    }
    for (name, rest, schema) in COMMANDS {
        let wanted = format!("stoqctl.{schema}/1");
        let line = arguments(&with_json, name, rest);
        let ended = with_json.run(&format!("{line} --json")).expect(0);
        let objects = ended.json();
        assert!(!objects.is_empty(), "{line} --json prints nothing");
        for object in &objects {
            assert_eq!(object["schema"], wanted, "{line}");
            assert!(object.as_object().unwrap().len() > 1, "{line} says nothing: {object}");
        }
        assert!(ended.stderr.is_empty(), "{line} --json talks: {}", ended.stderr);

        let line = arguments(&without, name, rest);
        let ended = without.run(&line).expect(0);
        assert!(!ended.stdout.contains("\"schema\":"), "{line} prints JSON unasked");
        assert!(!(ended.stdout.is_empty() && ended.stderr.is_empty()), "{line} is silent");
        assert!(!ended.stdout.contains('\u{1b}'), "{line} colours a pipe");
    }
}

#[test]
fn every_command_of_the_daemon_reports_a_refusal_with_its_own_exit_code() {
    let local = ["root", "config check", "config default", "config schema", "config explain"];
    let house = House::new();
    std::fs::write(house.path("good.toml"), "").unwrap();
    let refusal = ApiError::conflict("held", "somebody else holds it", "wait for them");
    *house.fake.fail_with.lock().unwrap() = Some(refusal);
    for (name, rest, schema) in COMMANDS {
        if local.iter().any(|prefix| name.starts_with(prefix)) || *name == "completion" {
            continue;
        }
        let ended = house.run(&format!("{name} {rest} --json"));
        if *name == "version" {
            assert_eq!(ended.expect(0).json()[0]["stoqd_error"]["code"], "held");
            continue;
        }
        let ended = ended.expect(8);
        let last = ended.json().pop().unwrap();
        assert_eq!(last["schema"], format!("stoqctl.{schema}/1"));
        assert_eq!(last["error"]["code"], "held", "{name}: {last}");
        assert!(ended.stderr.contains("error: somebody else holds it\nremedy: wait"), "{name}");
    }
}

#[test]
fn an_unreachable_daemon_is_6_with_the_remedy_and_version_still_answers() {
    for (name, rest, _) in COMMANDS {
        if ["root", "config check", "config default", "config schema", "config explain"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            || ["completion", "wait ready", "version"].contains(name)
        {
            continue;
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("good.toml"), "").unwrap();
        let place = directory.path().display().to_string();
        let mut command = program();
        command.env("STOQ_SOCKET", directory.path().join("none.sock"));
        let line = format!("{name} {rest}").replace("{}", &place);
        let ended = Ended::from(command.args(line.split_whitespace()).output().unwrap()).expect(6);
        assert!(ended.stdout.is_empty(), "{line}: {}", ended.stdout);
        assert!(ended.stderr.contains("remedy: start it with `stoqd run`"), "{line}");
        assert!(ended.stderr.contains("none.sock"), "{line} does not name the socket");
    }
    let mut command = program();
    command.args(["--socket", "/nonexistent/s", "version", "--json"]);
    let version = Ended::from(command.output().unwrap()).expect(0).json();
    assert_eq!(version[0]["stoqctl"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version[0]["stoqd_error"]["exit_code"], 6);
}

#[test]
fn each_exit_code_of_a_refusal_reaches_the_shell() {
    let house = House::new();
    for exit in ExitCode::ALL.into_iter().skip(1) {
        *house.fake.fail_with.lock().unwrap() = Some(ApiError::new(exit, "ordered", "no", ""));
        house.run("service list").expect(i32::from(u8::from(exit)));
    }
}

#[test]
fn an_ipv4_target_is_refused_with_a_sentence() {
    let house = House::new();
    for line in [
        "service publish web --to 127.0.0.1:8080",
        "service publish web --to [::ffff:127.0.0.1]:8080",
        "service attach web@beta --listen 0.0.0.0:9000",
        "node add beta 192.0.2.1:8444",
    ] {
        let ended = house.run(line).expect(2);
        assert!(ended.stderr.contains("IPv6 only"), "{line}: {}", ended.stderr);
    }
    assert!(house.fake.asked.lock().unwrap().is_empty(), "nothing of it reaches stoqd");
}

#[test]
fn what_makes_no_sense_is_2_and_never_reaches_the_daemon() {
    let house = House::new();
    for line in [
        "",
        "nonsense",
        "service publish",
        "service publish web",
        "service publish We.b --to [::1]:1",
        "service publish copy --to [::1]:1",
        "service publish web --to [::1]:0",
        "service publish web --to localhost:80",
        "service publish web --to unix:relative",
        "service publish web --to [::1]:1 --allow any-enrolled --allow beta",
        "service attach web --listen [::1]:1",
        "service attach web@beta --listen [::]:9000",
        "service remove web@",
        "session show",
        "session show 1f --peer beta",
        "session show xyz",
        "connection show -1",
        "worker show x",
        "node token create beta --lifetime 10",
        "node token create beta --lifetime 10ms",
        "node join",
        "copy /a /b",
        "copy alpha:/a beta:/b",
        "copy beta: /b",
        "drain --timeout 2d",
        "config explain no.such.key",
        "completion powershell",
    ] {
        let ended = house.run(line).expect(2);
        assert!(!ended.stderr.is_empty(), "{line} gives no reason");
    }
    assert!(house.fake.asked.lock().unwrap().is_empty());
}

#[test]
fn a_usage_error_is_json_where_json_was_asked_for() {
    let house = House::new();
    let ended = house.run("service publish web --to 10.0.0.1:1 --json").expect(2);
    assert_eq!(ended.json()[0]["error"]["exit_code"], 2);
    let help = house.run("service publish --help").expect(0);
    assert!(help.stdout.contains("Examples:"), "{}", help.stdout);
}

#[test]
fn requests_carry_what_was_typed() {
    let house = House::new();
    for (line, name, request) in [
        (
            "service publish db --to unix:/run/db.sock --allow gamma --allow beta",
            "service.publish",
            json!({"name": "db", "target": "unix:/run/db.sock", "allow": ["beta", "gamma"]}),
        ),
        (
            "service publish web --to [::1]:80",
            "service.publish",
            json!({"name": "web", "target": "[::1]:80", "allow": []}),
        ),
        (
            "service attach web@beta --listen [::1]:0",
            "service.attach",
            json!({"service": "web", "node": "beta", "listen": "[::1]:0"}),
        ),
        ("service remove web", "service.remove", json!({"name": "web", "node": null})),
        ("session replace 1f", "session.replace", json!({"session": {"id": "1f"}})),
        ("session close --peer beta", "session.close", json!({"session": {"peer": "beta"}})),
        (
            "node token create beta --lifetime 2h",
            "node.token-create",
            json!({"node": "beta", "lifetime_seconds": 7_200}),
        ),
        (
            "log level set debug --for 90s",
            "log.level-set",
            json!({"level": "debug", "for_seconds": 90}),
        ),
        ("drain --timeout 1500ms", "drain.run", json!({"timeout_seconds": 2})),
        (
            "copy beta:/a /b --verify-existing",
            "copy.run",
            json!({
                "source": {"remote": {"node": "beta", "path": "/a"}},
                "destination": {"local": "/b"},
                "options": {"verify_existing": true}
            }),
        ),
    ] {
        house.run(line).expect(0);
        assert_eq!(house.fake.last(), (name.to_owned(), request), "{line}");
    }
}

#[test]
fn a_relative_local_path_is_made_absolute_where_it_was_typed() {
    let house = House::new();
    let ended = house.command("copy a/b beta:/c").current_dir(house.directory.path()).output();
    Ended::from(ended.unwrap()).expect(0);
    let (_, request) = house.fake.last();
    assert_eq!(request["source"]["local"], house.path("a/b").display().to_string());
}

#[test]
fn a_join_token_is_read_from_a_file_or_the_standard_input() {
    let house = House::new();
    std::fs::write(house.path("token"), "from-a-file\n").unwrap();
    house.run("node join --token-file {}/token").expect(0);
    assert_eq!(house.fake.last().1["token"], "from-a-file");

    let mut command = house.command("node join --token-file -");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from-a-pipe\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(house.fake.last().1["token"], "from-a-pipe");

    house.run("node join --token-file {}/none").expect(1);
}

#[test]
fn a_token_is_the_only_data_of_its_command() {
    let house = House::new();
    let ended = house.run("node token create beta").expect(0);
    assert_eq!(ended.stdout, "stoq-join-secret\n");
    let quiet = house.run("node token create beta --quiet").expect(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("stoq-join-secret\n", ""));
}

#[test]
fn a_node_that_is_not_ready_is_3_and_waiting_for_it_is_7() {
    let house = House::new();
    house.fake.ready.store(false, Ordering::SeqCst);
    let ended = house.run("status").expect(3);
    assert!(ended.stdout.contains("no-certificate"), "{}", ended.stdout);
    assert_eq!(house.run("status --json").expect(3).json()[0]["ready"], false);
    let ended = house.run("wait ready --timeout 300ms --json").expect(7);
    assert!(ended.json()[0]["error"]["message"].as_str().unwrap().contains("no certificate"));
}

#[test]
fn waiting_sees_a_daemon_that_starts_late() {
    let runtime = Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("late.sock");
    let mut waiting = program()
        .arg("--socket")
        .arg(&socket)
        .args(["wait", "ready", "--timeout", "20s", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let fake = Arc::new(Fake::default());
    let served = runtime.block_on(async { fake.serve_at(socket) });
    assert!(waiting.wait().unwrap().success());
    runtime.block_on(served.stop());
}

#[test]
fn a_copy_shows_lines_off_a_terminal_and_escapes_hostile_names() {
    let house = House::new();
    let ended = house.run("copy /a beta:/b").expect(0);
    assert!(ended.stderr.contains("512 B of 1.0 KiB, 0 of 1 file"), "{}", ended.stderr);
    assert!(!ended.stderr.contains('\u{1b}'), "a file's name must not steer the terminal");
    assert!(ended.stdout.contains("1.0 KiB in 1 file"), "{}", ended.stdout);

    let events = house.run("copy /a beta:/b --json").expect(0).json();
    assert_eq!(events.first().unwrap()["event"], "progress");
    assert_eq!(events.last().unwrap()["event"], "result");
    assert_eq!(events.last().unwrap()["files_verified"], 1);

    *house.fake.fail_with.lock().unwrap() = Some(ApiError::timed_out("beta is silent", ""));
    let events = house.run("copy /a beta:/b --json").expect(7).json();
    assert_eq!(events.last().unwrap()["event"], "error");
}

#[test]
fn flows_that_a_drain_had_to_cut_are_7() {
    let house = House::new();
    *house.fake.flows_cut.lock().unwrap() = 3;
    assert_eq!(house.run("drain --json").expect(7).json()[0]["flows_cut"], 3);
}

#[test]
fn a_configuration_that_differs_is_3_or_4_and_a_wrong_file_is_1() {
    let house = House::new();
    let change = |key: &str, reloadable| ConfigChange {
        key: key.to_owned(),
        before: Some("false".to_owned()),
        after: Some("true".to_owned()),
        reloadable,
    };
    *house.fake.changes.lock().unwrap() = vec![change("transport.pacing", true)];
    house.run("config diff").expect(3);
    house.run("config reload").expect(0);
    house.fake.changes.lock().unwrap().push(change("workers.cores", false));
    house.run("config diff").expect(4);
    let reloaded = house.run("config reload --json").expect(4).json();
    assert_eq!(reloaded[0]["pending"][0]["key"], "workers.cores");

    std::fs::write(house.path("bad.toml"), "[transport]\npacing = 7\n").unwrap();
    let checked = house.run("config check {}/bad.toml --json").expect(1).json();
    assert_eq!(checked[0]["valid"], false);
    assert_eq!(checked[0]["mistakes"][0]["line"], 2);
    house.run("config check {}/none.toml").expect(1);
    house.run("config diff {}/none.toml").expect(1);
}

#[test]
fn a_root_is_never_replaced_and_its_fingerprint_is_stable() {
    let house = House::new();
    let made = house.run("root init --directory {}/r --json").expect(0).json();
    let print = made[0]["fingerprint"].as_str().unwrap().to_owned();
    let shown = house.run("root fingerprint --directory {}/r").expect(0);
    assert_eq!(shown.stdout.trim(), print);
    house.run("root init --directory {}/r").expect(8);
    house.run("root init --directory {}/offline --offline").expect(0);
    house.run("root init --directory {}/offline --offline").expect(8);
    assert_eq!(house.run("root fingerprint --directory {}/r").expect(0).stdout.trim(), print);
    house.run("root fingerprint --directory {}/none").expect(1);
}

#[test]
fn an_authority_takes_only_the_pinned_root() {
    let house = House::new();
    house.run("root init --directory {}/root --offline").expect(0);
    house.run("root init --directory {}/other --offline").expect(0);
    house.run("root request-issuing --directory {}/ca --out {}/csr").expect(0);
    house.run("root request-issuing --directory {}/ca --out {}/csr").expect(8);
    house.run("root sign-issuing --directory {}/root --request {}/csr --out {}/pem").expect(0);
    let other = house.run("root fingerprint --directory {}/other").expect(0);
    let install = format!(
        "root install-issuing --directory {{}}/ca --certificate {{}}/pem --root {{}}/root/root.pem \
         --fingerprint {}",
        other.stdout.trim()
    );
    house.run(&install).expect(8);
    std::fs::write(house.path("garbage"), b"\x30\x80\xff").unwrap();
    house.run("root sign-issuing --directory {}/root --request {}/garbage --out {}/p").expect(1);
    assert!(!house.path("p").exists());
}

#[test]
fn no_color_and_quiet_are_honoured() {
    let house = House::new();
    let ended = Ended::from(house.command("status").env("NO_COLOR", "1").output().unwrap());
    assert!(!ended.expect(0).stdout.contains('\u{1b}'));
    let quiet = house.run("session close 1f --quiet").expect(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}
