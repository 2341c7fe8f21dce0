//! Proofs made and judged without a daemon, and what a daemon says of those that are not good.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use stoq_appliance_tests::{Answer, program, shared, stoqctl};

use super::scene::{alone, text};

/// A directory with a genesis, two keys of which one has stake, and a plot of that one
struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { directory: tempfile::tempdir().unwrap() };
        let key = |name: &str| {
            let made = stoqctl(&["consensus", "key", "make", &desk.at(name), "--json"]);
            text(&made.json(), "public_key")
        };
        let (own, _other) = (key("own.key"), key("other.key"));
        let validator = format!("alpha={own}");
        for name in ["genesis.json", "foreign.json"] {
            let network = name.split('.').next().unwrap();
            stoqctl(&[
                "consensus",
                "genesis",
                "make",
                "--network",
                network,
                "--validator",
                &validator,
                "--policy",
                "test",
                "--out",
                &desk.at(name),
            ]);
        }
        desk
    }

    fn at(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn run(&self, words: &[&str]) -> Answer {
        let mut command = Command::new(program("stoqctl"));
        command.args(["--socket", "/nonexistent"]).args(words).arg("--json");
        Answer::of(command.output().unwrap())
    }

    fn plot(&self, key: &str, name: &str) -> Answer {
        let (genesis, key, plot) = (self.at("genesis.json"), self.at(key), self.at(name));
        self.run(&["proof", "plot", &plot, "--genesis", &genesis, "--key", &key])
    }

    fn make(&self, genesis: &str, key: &str, plot: &str, out: &str) -> Answer {
        let [genesis, key, plot, out] = [genesis, key, plot, out].map(|name| self.at(name));
        self.run(&[
            "proof",
            "make",
            "--genesis",
            &genesis,
            "--key",
            &key,
            "--plot",
            &plot,
            "--ticket",
            "--out",
            &out,
        ])
    }

    fn verify(&self, operation: &str, genesis: &str) -> Answer {
        let [operation, genesis] = [operation, genesis].map(|name| self.at(name));
        self.run(&["proof", "verify", &operation, "--genesis", &genesis])
    }
}

/// The last line of a stream of JSON
fn last(answer: &Answer) -> Value {
    let line = answer.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {answer:?}"))
}

#[test]
fn proofs_are_made_and_judged_offline_and_wrong_ones_named() {
    let _turn = shared();
    let desk = Desk::new();
    let plotted = desk.plot("own.key", "own.plot");
    assert_eq!(plotted.code, 0, "{plotted:?}");
    assert_eq!(
        (last(&plotted)["event"].as_str(), last(&plotted)["k"].as_u64()),
        (Some("result"), Some(18))
    );
    assert!(plotted.stdout.lines().any(|line| line.contains("\"progress\"")), "{plotted:?}");
    let again = desk.plot("own.key", "own.plot");
    assert_eq!((again.code, last(&again)["error"]["code"].as_str()), (8, Some("plot-exists")));

    assert_eq!(desk.make("genesis.json", "own.key", "own.plot", "good.operation").code, 0);
    let judged = desk.verify("good.operation", "genesis.json");
    assert_eq!((judged.code, judged.json()["accepted"].as_bool()), (0, Some(true)), "{judged:?}");
    assert_eq!(judged.json()["against_state"], true);

    // Another's plot, no stake, another network
    let foreign = desk.make("genesis.json", "other.key", "own.plot", "a.operation");
    assert_eq!((foreign.code, last(&foreign)["error"]["code"].as_str()), (8, Some("no-stake")));
    let foreign = desk.make("foreign.json", "own.key", "own.plot", "b.operation");
    assert_eq!((foreign.code, last(&foreign)["error"]["code"].as_str()), (1, Some("not-provable")));
    let elsewhere = desk.verify("good.operation", "foreign.json");
    assert_eq!((elsewhere.code, elsewhere.json()["accepted"].as_bool()), (3, Some(false)));
    assert_eq!(elsewhere.json()["proof"], "binding", "{elsewhere:?}");

    // Any octet changed: it cannot be read, or is refused with a proof named.
    let octets = std::fs::read(desk.at("good.operation")).unwrap();
    for place in (0..octets.len()).step_by(11) {
        let mut octets = octets.clone();
        octets[place] ^= 0x10;
        std::fs::write(desk.at("changed.operation"), octets).unwrap();
        let answer = desk.verify("changed.operation", "genesis.json");
        match answer.code {
            3 => assert!(answer.json()["proof"].is_string(), "octet {place}: {answer:?}"),
            2 => assert_eq!(answer.error_code(), "bad-operation", "octet {place}"),
            _ => panic!("octet {place}: {answer:?}"),
        }
    }
}

#[test]
fn a_daemon_takes_a_proven_operation_once() {
    let _turn = shared();
    let node = alone("alpha", "");
    let home = node.state().join("hypermesh");
    let at = |path: &Path| path.display().to_string();
    let (key, genesis) = (at(&home.join("node.key")), at(&home.join("genesis.json")));
    // Having something agreed on shows that the plot is there.
    super::scene::register(&node, "first", 1);
    let (ground, made) = (at(&node.path("ground.json")), at(&node.path("ticket.operation")));
    std::fs::write(&ground, text(&node.ask(&["consensus", "ground"]), "ground")).unwrap();
    stoqctl(&[
        "proof",
        "make",
        "--genesis",
        &genesis,
        "--ground",
        &ground,
        "--key",
        &key,
        "--plot",
        &at(&home.join("node.plot")),
        "--ticket",
        "--out",
        &made,
    ]);
    let done = node.ask(&["consensus", "submit", &made]);
    assert_eq!(done["effects"][0], "ticket-granted");
    let again = node.ctl(&["consensus", "submit", &made, "--json"]);
    assert_eq!((again.code, again.error_code().as_str()), (8, "operation-refused"), "{again:?}");
    std::fs::write(node.path("junk"), b"no operation").unwrap();
    let junk = node.ctl(&["consensus", "submit", &at(&node.path("junk")), "--json"]);
    assert_eq!((junk.code, junk.error_code().as_str()), (8, "operation-refused"), "{junk:?}");
}
