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
use prost::Message as _;
use serde_json::{Value, json};
use stoq_admin::api::{ConfigChange, ORDER_LABEL};
use stoq_admin::{ApiError, ExitCode, decode_pem};
use stoq_trustchain::backup::{BackupSource, take};
use stoq_trustchain::calls::wire;
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
        let place = |word: &str| word.replace("{}", &directory).replace("FIXTURE", FIXTURE);
        command.args(arguments.split_whitespace().map(place));
        command
    }

    /// The smallest backup there can be: of an authority whose journal is empty
    fn take_a_backup(&self) {
        let directory = self.path("authority");
        std::fs::create_dir_all(directory.join("ca")).unwrap();
        stoq_store::Journal::create(&directory.join("ca/journal")).unwrap();
        let instance = fake::node("alpha");
        let source = BackupSource { directory, instance, keys: None };
        take(&source, &self.path("taken"), std::time::SystemTime::now()).unwrap();
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

/// A proof and what it takes to judge it
const PROOF: &str = "FIXTURE/proof.txt --certificate FIXTURE/chain.pem --key FIXTURE/log.pem \
    --origin ca.trust.hypermesh/log";

/// Commands that need no daemon
const LOCAL: &[&str] = &[
    "root",
    "certificate verify",
    "certificate pin",
    "log verify",
    "backup verify",
    "backup restore",
    "config check",
    "config default",
    "config schema",
    "config explain",
    "completion",
    "consensus key",
    "consensus genesis make",
    "consensus genesis show",
    "proof plot",
];

fn is_local(name: &str) -> bool {
    LOCAL.iter().any(|prefix| name.starts_with(prefix))
}

/// Certificates and a log that another implementation made: appliance/tests/outside/make_log.py
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixture");

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
    ("doctor", "", "doctor.run"),
    ("ca status", "", "ca.status"),
    ("ca profiles", "", "ca.profiles"),
    ("ca register", "service shop --owner beta --address fd00::2", "ca.register"),
    ("ca unregister", "service shop", "ca.unregister"),
    ("ca registrations", "--profile service", "ca.registrations"),
    ("ca key list", "", "ca.key-list"),
    ("ca key request", "issuing-2 --out {}/issuing-2.csr", "ca.key-request"),
    ("ca key prepare", "issuing-2 --certificate FIXTURE/root.pem", "ca.key-prepare"),
    ("ca key activate", "issuing-2 --at-once", "ca.key-activate"),
    ("ca key taint", "issuing --compromised", "ca.key-taint"),
    ("ca key revoke", "issuing --cut-off", "ca.key-revoke"),
    ("ca authorities", "", "ca.authorities"),
    ("ca export", "", "ca.export"),
    ("ca trust", "FIXTURE/chain.pem", "ca.trust"),
    ("ca renew-all", "--within 30m", "ca.renew-all"),
    (
        "certificate issue",
        "--profile operator --subject ana --request FIXTURE/chain.pem",
        "certificate.issue",
    ),
    ("certificate list", "--state valid --expiring 2h", "certificate.list"),
    ("certificate show", "0badcafe", "certificate.show"),
    ("certificate revoke", "0badcafe --reason key-compromise", "certificate.revoke"),
    ("certificate verify", "FIXTURE/chain.pem --root FIXTURE/root.pem", "certificate.verify"),
    ("certificate pin", "FIXTURE/chain.pem", "certificate.pin"),
    ("consensus key make", "{}/own.key", "consensus.key-make"),
    ("consensus key show", "{}/own.key", "consensus.key-show"),
    (
        "consensus genesis make",
        "--network mesh --validator alpha=VALIDATOR --policy test --out {}/genesis.json",
        "consensus.genesis-make",
    ),
    ("consensus genesis show", "{}/genesis.json", "consensus.genesis-show"),
    ("proof plot", "--genesis {}/genesis.json --key {}/own.key {}/own.plot", "proof.plot"),
    ("consensus status", "", "consensus.status"),
    ("consensus validators", "", "consensus.validators"),
    ("consensus blocks", "--limit 5", "consensus.blocks"),
    ("consensus evidence list", "", "consensus.evidence"),
    ("consensus evidence export", "0a0a --out {}/evidence", "consensus.evidence-export"),
    ("consensus genesis export", "", "consensus.genesis-export"),
    ("consensus ground", "", "consensus.ground"),
    ("consensus submit", "FIXTURE/root.pem", "consensus.submit"),
    ("consensus unblock", "cdcd", "consensus.unblock"),
    ("consensus change admit", "epsilon=abab", "consensus.change-vote"),
    ("consensus change remove", "cdcd", "consensus.change-vote"),
    ("consensus change replace", "cdcd efef", "consensus.change-vote"),
    ("consensus change list", "", "consensus.change-list"),
    ("consensus stake give", "cdcd 10", "consensus.stake-give"),
    ("asset register", "container boxes --capacity 3", "asset.register"),
    ("asset list", "", "asset.list"),
    ("asset show", "cpu-abc", "asset.show"),
    ("asset operate allocate", "cpu-abc --quantity 500", "asset.operate"),
    ("asset operate use", "0d0d", "asset.operate"),
    ("asset operate fail", "0d0d", "asset.operate"),
    ("asset operate restore", "cpu-abc", "asset.operate"),
    ("asset operate retire", "cpu-abc", "asset.operate"),
    ("asset operate end-certificate", "cpu-abc", "asset.operate"),
    ("asset transfer", "cpu-abc --to efef", "asset.transfer"),
    ("asset release", "0d0d --receipt {}/release.receipt", "asset.release"),
    ("asset certificate", "cpu-abc --csr FIXTURE/request.pem", "asset.certificate"),
    ("asset receipt show", "--height 8201 --index 3 --out {}/shown.receipt", "asset.receipt-show"),
    ("token create", "beta --lifetime 10m", "token.create"),
    ("token list", "", "token.list"),
    ("token revoke", "4f9c", "token.revoke"),
    ("crl list", "", "crl.list"),
    ("crl show", "0", "crl.show"),
    ("audit tail", "--limit 5", "audit.tail"),
    ("audit verify", "", "audit.verify"),
    ("signer status", "", "signer.status"),
    ("signer test", "", "signer.test"),
    ("backup create", "{}/backup", "backup.create"),
    ("backup verify", "{}/taken", "backup.verify"),
    ("backup restore", "{}/taken --to {}/restored --high-water {}/high-water", "backup.restore"),
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
    ("log key", "", "log.key"),
    ("log checkpoint", "", "log.checkpoint"),
    ("log prove", "0badcafe", "log.prove"),
    ("log verify", PROOF, "log.verify"),
    ("log fsck", "", "log.fsck"),
    ("log level get", "", "log.level-get"),
    ("log level set", "debug --for 10m", "log.level-set"),
    ("drain", "--timeout 1s", "drain.run"),
    ("wait ready", "--timeout 5s", "wait.ready"),
    ("completion", "bash", "completion.show"),
    ("version", "", "version.show"),
];

/// Commands that judge or make what only a network can have agreed on: appliance/tests runs them beside one
const BESIDE_A_NETWORK: &[&str] =
    &["asset receipt verify", "consensus evidence verify", "proof make", "proof verify"];

/// The arguments of a command, with what an earlier one made: the fingerprint of the root, the key of the validator
fn arguments(house: &House, name: &str, rest: &str) -> String {
    let made = [
        ("ROOT", "root fingerprint --directory {}/root --json", "fingerprint"),
        ("VALIDATOR", "consensus key show {}/own.key --json", "public_key"),
    ];
    let mut line = format!("{name} {rest}");
    for (word, asked, field) in made {
        if line.contains(word) {
            let shown = house.run(asked).expect(0).json();
            line = line.replace(word, shown[0][field].as_str().unwrap());
        }
    }
    line
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
    let listed = COMMANDS.iter().map(|(name, ..)| *name).chain(BESIDE_A_NETWORK.iter().copied());
    let listed: BTreeSet<_> = listed.map(str::to_owned).collect();
    assert_eq!(found, listed);
}

#[test]
fn every_command_prints_its_envelope_with_json_and_text_without() {
    let (with_json, without) = (House::new(), House::new());
    for house in [&with_json, &without] {
        std::fs::write(house.path("good.toml"), "[node]\nname = \"alpha\"\n").unwrap();
        house.take_a_backup();
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
    let house = House::new();
    std::fs::write(house.path("good.toml"), "").unwrap();
    let refusal = ApiError::conflict("held", "somebody else holds it", "wait for them");
    *house.fake.fail_with.lock().unwrap() = Some(refusal);
    for (name, rest, schema) in COMMANDS {
        if is_local(name) {
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
        if is_local(name) || ["wait ready", "version"].contains(name) {
            continue;
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("good.toml"), "").unwrap();
        let place = directory.path().display().to_string();
        let mut command = program();
        command.env("STOQ_SOCKET", directory.path().join("none.sock"));
        let line = format!("{name} {rest}").replace("{}", &place).replace("FIXTURE", FIXTURE);
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
        "ca register service",
        "ca register service shop --address 192.0.2.1",
        "ca renew-all --within 0s",
        "certificate revoke 0a --reason certificate-hold",
        "certificate list --state unknown",
        "certificate revoke",
        "certificate revoke 0a --name beta",
        "certificate revoke 0a --at alpha",
        "certificate revoke 0a --operator FIXTURE/chain.pem",
        "ca register service shop --at alpha --operator FIXTURE/chain.pem",
        "certificate verify FIXTURE/chain.pem",
        "certificate verify FIXTURE/root.pem --root FIXTURE/root.pem",
        "certificate verify FIXTURE/log.pem --root FIXTURE/root.pem",
        "token create beta --lifetime 10",
        "log prove",
        "log prove 0a --index 4",
        "log fsck --directory /nowhere",
        "log level",
        "crl show x",
        "backup create relative",
        "backup create {}/backup --passphrase-file {}/file",
        "ca key prepare issuing-2 --certificate FIXTURE/proof.txt --certificate FIXTURE/root.pem",
        "ca key request issuing-2",
        "certificate pin FIXTURE/log.pem",
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
        (
            "ca key activate issuing-2",
            "ca.key-activate",
            json!({"name": "issuing-2", "at_once": false}),
        ),
        (
            "ca key revoke issuing --cut-off",
            "ca.key-revoke",
            json!({"name": "issuing", "cut_off": true}),
        ),
        ("crl show 0 --issuer ab", "crl.show", json!({"shard": 0, "issuer_key_id": "ab"})),
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
            "ca register dns-server ns1 --owner alpha --address fd00::53 --alternative-names",
            "ca.register",
            json!({"registration": {
                "profile": "dns-server", "subject": "ns1", "owner": "alpha",
                "addresses": ["fd00::53"], "alternative_names": true
            }}),
        ),
        ("ca renew-all", "ca.renew-all", json!({"within_seconds": 3_600})),
        (
            "certificate revoke 0a --reason superseded --with-key",
            "certificate.revoke",
            json!({"of": {"serial": "0a"}, "reason": "superseded", "with_key": true}),
        ),
        (
            "certificate revoke --name beta",
            "certificate.revoke",
            json!({"of": {"name": "beta"}, "reason": "unspecified", "with_key": false}),
        ),
        (
            "certificate list --name beta --expiring 2h --limit 5",
            "certificate.list",
            json!({
                "name": "beta", "profile": null, "spki_sha256": null, "state": null,
                "expiring_within_seconds": 7_200, "limit": 5, "after": null
            }),
        ),
        (
            "token create beta --address fd00::2",
            "token.create",
            json!({"node": "beta", "lifetime_seconds": 900, "addresses": ["fd00::2"]}),
        ),
        ("log prove --index 4", "log.prove", json!({"of": {"index": 4}})),
        ("log prove 0a", "log.prove", json!({"of": {"serial": "0a"}})),
        ("doctor --deep", "doctor.run", json!({"deep": true})),
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
fn what_a_check_finds_wrong_is_3_and_is_said() {
    let house = House::new();
    *house.fake.findings.lock().unwrap() = vec!["it is another entry".to_owned()];
    for line in ["log fsck", "audit verify", "signer test", "doctor"] {
        let ended = house.run(line).expect(3);
        assert!(ended.stdout.contains("it is another entry"), "{line}: {}", ended.stdout);
    }
    let checked = house.run("log fsck --json").expect(3).json();
    assert_eq!(
        (&checked[0]["entries"], &checked[0]["checkpoints"], &checked[0]["errors"]),
        (&json!(7), &json!(1), &json!(1))
    );
    let diagnosis = house.run("doctor --json").expect(3).json();
    assert_eq!(diagnosis[0]["checks"][1]["remedy"], "run `stoqctl log fsck`");
}

#[test]
fn another_implementations_log_is_sound_and_no_changed_one_is() {
    let house = House::new();
    let fsck = "log fsck --directory {}/log --key FIXTURE/log.pem";
    let copy = || {
        let mut copying = Command::new("cp");
        copying.arg("-rT").arg(format!("{FIXTURE}/log")).arg(house.path("log"));
        assert!(copying.status().unwrap().success());
    };
    copy();
    let checked = house.run(&format!("{fsck} --json")).expect(0).json();
    assert_eq!(checked[0]["schema"], "stoqctl.log.fsck/1");
    assert_eq!(checked[0]["entries"], 5);
    assert_eq!((&checked[0]["checkpoints"], &checked[0]["errors"]), (&json!(1), &json!(0)));
    house.run(&format!("{fsck} --origin ca.trust.hypermesh/other")).expect(3);
    for file in ["checkpoint", "tile/0/000.p/5", "tile/data/000.p/5"] {
        let path = house.path("log").join(file);
        let mut content = std::fs::read(&path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(&path, &content).unwrap();
        let ended = house.run(&format!("{fsck} --origin ca.trust.hypermesh/log --json")).expect(3);
        assert_ne!(ended.json()[0]["errors"], 0, "{file}");
        copy();
    }
    assert!(house.fake.asked.lock().unwrap().is_empty(), "no daemon is asked");
}

#[test]
fn a_proof_and_a_certificate_of_another_implementation_are_judged_alike() {
    let house = House::new();
    let proved = house.run(&format!("log verify {PROOF} --json")).expect(0).json();
    assert_eq!((&proved[0]["index"], &proved[0]["size"]), (&json!(4), &json!(5)));
    let logged = "--log-key FIXTURE/log.pem --origin ca.trust.hypermesh/log";
    let line = format!("certificate verify FIXTURE/chain.pem --root FIXTURE/root.pem {logged}");
    let judged = house.run(&format!("{line} --json")).expect(0).json();
    assert_eq!(judged[0]["usages"], json!(["server", "client"]));
    assert_eq!(judged[0]["logged"]["index"], 4);

    // Another log's key, another name, a changed proof
    let other = std::fs::read_to_string(format!("{FIXTURE}/proof.txt")).unwrap();
    std::fs::write(house.path("proof"), other.replace("index 4", "index 3")).unwrap();
    let changed = PROOF.replace("FIXTURE/proof.txt", "{}/proof");
    let ended = house.run(&format!("log verify {changed} --json")).expect(3);
    assert_eq!(ended.json()[0]["error"]["code"], "not-proved");
    house.run(&format!("log verify {}", PROOF.replace("hypermesh/log", "hypermesh/x"))).expect(3);
    let foreign = line.replace("hypermesh/log", "hypermesh/x");
    // A log's name is no part of an SCT; its key is.
    house.run(&foreign).expect(0);
    house.run("root init --directory {}/r --offline").expect(0);
    let strange = "certificate verify FIXTURE/chain.pem --root {}/r/root.pem --json";
    let refused = house.run(strange).expect(1).json();
    assert_eq!(refused[0]["error"]["code"], "certificate-refused");
}

#[test]
fn what_is_written_to_a_file_never_replaces_one() {
    let house = House::new();
    for line in ["log key --out {}/key", "crl show 0 --out {}/crl", "ca export --out {}/ca"] {
        house.run(line).expect(0);
        house.run(line).expect(8);
    }
    let issue = "certificate issue --profile operator --subject ana --request FIXTURE/chain.pem";
    house.run(&format!("{issue} --out {{}}/chain")).expect(0);
    house.run(&format!("{issue} --out {{}}/chain")).expect(8);
    house.run("certificate issue --profile node --subject a --request {}/none").expect(1);
}

#[test]
fn an_order_is_signed_where_it_is_given_and_the_key_stays_there() {
    let house = House::new();
    // Any certificate with its key will do: this node passes on what it does not judge.
    for name in ["ana", "ben"] {
        house.run(&format!("root init --directory {{}}/{name} --offline")).expect(0);
    }
    let by = "--at alpha --operator {}/ana/root.pem --operator-key";
    let line = format!(
        "certificate revoke --name gamma --reason superseded {by} {{}}/ana/root.key --json"
    );
    let revoked = house.run(&line).expect(0).json();
    assert_eq!(revoked[0]["schema"], "stoqctl.certificate.revoke-at/1");
    assert_eq!(revoked[0]["deny_list_epoch"], 5);
    assert_eq!(revoked[0]["revoked_at"], "2027-01-15T08:00:00Z");
    let (name, request) = house.fake.last();
    assert_eq!((&*name, &request["authority"]), ("ca.operate", &json!("alpha")));
    let key = std::fs::read_to_string(house.path("ana/root.key")).unwrap();
    assert!(!request.to_string().contains(key.lines().nth(1).unwrap()));
    let signed = decode_pem(ORDER_LABEL, request["order_pem"].as_str().unwrap()).unwrap();
    let signed = wire::OperateRequest::decode(signed[0].as_slice()).unwrap();
    let order = wire::OperatorOrder::decode(signed.order.as_slice()).unwrap();
    let shown = house.run("node show --json").expect(0).json();
    assert_eq!((&*order.authority, json!(order.node)), ("alpha", shown[0]["node"].clone()));
    assert_eq!(order.method, "trustchain/revoke");
    let request = wire::RevokeRequest::decode(order.request.as_slice()).unwrap();
    assert_eq!((&*request.subject, request.with_key), ("gamma", false));
    // The key of somebody else makes no order.
    let line = format!(
        "certificate revoke --name gamma --reason superseded {by} {{}}/ben/root.key --json"
    );
    let refused = house.run(&line).expect(2).json();
    assert_eq!(refused[0]["error"]["code"], "bad-operator");
    assert_eq!(house.fake.last().0, "node.show");
}

#[test]
fn a_backup_is_checked_and_restored_into_an_empty_place_only() {
    let house = House::new();
    house.take_a_backup();
    let restore = "backup restore {}/taken --to {}/restored --high-water {}/high-water --json";
    let restored = house.run(restore).expect(0).json();
    assert_eq!(restored[0]["to_adopt"], Value::Null);
    assert_eq!(house.run(restore).expect(8).json()[0]["error"]["code"], "occupied");
    house.run("backup verify {}/restored").expect(1);
    let taken = house.run("backup verify {}/taken --json").expect(0).json();
    assert_eq!(taken[0]["keys"], json!([]));
    std::fs::write(house.path("file"), "four words are enough\n").unwrap();
    let keys = "backup verify {}/taken --with-keys --passphrase-file {}/file --json";
    assert_eq!(house.run(keys).expect(8).json()[0]["error"]["code"], "no-keys-in-it");
    let journal = house.path("taken/ca/journal");
    let file = std::fs::read_dir(&journal).unwrap().next().unwrap().unwrap().path();
    let mut content = std::fs::read(&file).unwrap();
    content[0] ^= 1;
    std::fs::write(&file, content).unwrap();
    assert_eq!(
        house.run("backup check {}/taken --json").expect(1).json()[0]["error"]["code"],
        "bad-backup"
    );
}

#[test]
fn a_stopped_authority_is_looked_at_without_a_daemon() {
    let house = House::new();
    house.take_a_backup();
    let line = "doctor --directory {}/authority --high-water {}/high-water --json";
    let checks = house.run(line).expect(3).json();
    let health = |name: &str| {
        let all = checks[0]["checks"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap()["health"].clone()
    };
    assert_eq!(health("journal"), "good");
    assert_eq!(health("issuing-certificate"), "bad");
    assert_eq!(health("backup"), "warning");
    assert!(house.fake.asked.lock().unwrap().is_empty(), "no daemon is asked");
}

#[test]
fn the_two_logs_are_told_apart_by_their_help() {
    let house = House::new();
    let help = house.run("log --help").expect(0).stdout;
    assert!(help.contains("transparency log"), "{help}");
    assert!(help.contains("has nothing to do with the transparency log"), "{help}");
}

#[test]
fn no_color_and_quiet_are_honoured() {
    let house = House::new();
    let ended = Ended::from(house.command("status").env("NO_COLOR", "1").output().unwrap());
    assert!(!ended.expect(0).stdout.contains('\u{1b}'));
    let quiet = house.run("session close 1f --quiet").expect(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}
