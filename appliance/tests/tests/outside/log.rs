//! The transparency log, verified by a program that shares no line with it: in its directory and over HTTPS, while it
//! grows, after a restart, and with something wrong in it.

use std::path::Path;

use serde_json::Value;
use stoq_appliance_tests::{Options, say, shared};

use crate::scene::{Authority, outside, python, stoqctl, text, verify_log};

/// Certificates that carry the log beyond its first full tile
const MANY: usize = 260;

/// Makes keys and requests, and has each certified
fn fill(authority: &Authority, count: usize) -> Vec<String> {
    let requests = authority.path("requests");
    let made = outside("make_requests.py");
    let words = [made.as_str(), "--count", &count.to_string(), "--out", text(&requests)];
    python(&words).good();
    authority.node.ask(&["ca", "register", "operator", "many"]);
    (0..count)
        .map(|number| {
            let request = requests.join(format!("{number}.csr"));
            let out = requests.join(format!("{number}.pem"));
            let words = ["certificate", "issue", "--profile", "operator", "--subject", "many"];
            let files = ["--request", text(&request), "--out", text(&out)];
            authority.node.ask(&[&words[..], &files].concat());
            text(&out).to_owned()
        })
        .collect()
}

fn with_certificates<'a>(files: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    let certificates = files.iter().flat_map(|file| ["--certificate", file.as_str()]);
    certificates.chain(more.iter().copied()).collect()
}

/// Waits until the checkpoint covers an entry: a proof of it is only given then
fn settled(authority: &Authority, serial: &str) -> Value {
    authority.node.ask(&["log", "prove", serial])
}

#[test]
fn everything_the_log_says_is_verified_apart_from_it() {
    let _turn = shared();
    let mut authority = Authority::start(&Options::default());
    let log = authority.log();
    let first = authority.certify("operator", "ana", &[]);
    let proved = settled(&authority, first["serial"].as_str().expect("a serial number"));
    let earlier = authority.path("earlier");
    let note = authority.node.ctl(&["log", "checkpoint", "--note"]).stdout;
    std::fs::write(&earlier, &note).expect("the directory is ours");

    // The proof that travels: judged on this host alone, and of no use for another certificate
    let (proof, key) = (authority.path("ana.proof"), authority.path("log.pem"));
    std::fs::write(&proof, proved["proof"].as_str().expect("a proof")).expect("ours");
    let origin = authority.node.ask(&["log", "key"])["origin"].as_str().expect("a name").to_owned();
    let judge = |certificate: &Path| {
        let files = ["log", "verify", text(&proof), "--certificate", text(certificate)];
        stoqctl(&[&files[..], &["--key", text(&key), "--origin", &origin, "--json"]].concat())
    };
    assert_eq!(judge(&authority.path("ana.pem")).good().json()["index"], first["log_index"]);

    let files = fill(&authority, MANY);
    let last = authority.certify("operator", "ben", &[]);
    settled(&authority, last["serial"].as_str().expect("a serial number"));
    assert_eq!(judge(&authority.path("ben.pem")).code, 3, "ana's proof is not ben's");
    let kept = authority.path("kept");
    let more = with_certificates(&files, &["--earlier", text(&earlier), "--remember", text(&kept)]);
    let report = authority.verify(text(&log), &more).good().json();
    let entries = report["entries"].as_u64().expect("a number");
    assert!(entries > MANY as u64, "{report}");
    assert_eq!((&report["size"], &report["scts"]), (&entries.into(), &MANY.into()), "{report}");
    assert!(report["hash_tiles"].as_u64() >= Some(3), "a full tile has one above it: {report}");
    assert_eq!(report["consistencies"], 1, "{report}");
    let checked = authority.node.ask(&["log", "fsck"]);
    assert_eq!((&checked["errors"], &checked["checkpoints"]), (&0.into(), &1.into()), "{checked}");
    assert!(checked["entries"].as_u64() >= Some(entries), "{checked}");
    say(&format!(
        "outside: {entries} entries, {} hash tiles, {} SCTs verified apart; fsck: {} entries, {} errors",
        report["hash_tiles"], report["scts"], checked["entries"], checked["errors"]
    ));

    // The same as anybody reads it, over HTTPS, behind the checkpoint kept above
    let (url, root) = (format!("https://{}/log/", authority.https()), authority.root());
    let more = ["--cacert", text(&root), "--remember", text(&kept)];
    let report = authority.verify(&url, &more).good().json();
    assert!(report["entries"].as_u64() >= Some(entries), "{report}");
    assert_eq!(report["consistencies"], 1, "{report}");

    // And after a restart: it goes on where it was
    authority.node.restart();
    let next = authority.issue("operator", "ana", "again");
    settled(&authority, next["serial"].as_str().expect("a serial number"));
    let report = authority.verify(text(&log), &["--remember", text(&kept)]).good().json();
    assert!(report["entries"].as_u64() > Some(entries), "{report}");
    assert_eq!(report["consistencies"], 1, "{report}");
    let doctor = authority.node.ask(&["doctor", "--deep"]);
    let bad = doctor["checks"].as_array().expect("checks").iter().filter(|c| c["health"] == "bad");
    assert_eq!(bad.count(), 0, "{doctor}");
}

#[test]
fn the_verifier_and_fsck_find_every_change_of_a_file() {
    let _turn = shared();
    let mut authority = Authority::start(&Options::default());
    let last = authority.certify("operator", "ana", &[]);
    settled(&authority, last["serial"].as_str().expect("a serial number"));
    let key = authority.path("log.pem");
    // Nothing may be published while files are compared.
    authority.node.kill();
    let (log, leaf, damage) = (authority.log(), authority.path("ana.pem"), outside("damage.py"));
    let files = ["--log", text(&log), "--key", text(&key), "--certificate", text(&leaf)];
    let said = python(&[&[damage.as_str()][..], &files, &["--rounds", "400"]].concat()).good();
    let result = said.json();
    assert_eq!(result["sound"], Value::Array(Vec::new()), "{result}");
    assert_eq!(result["missed"], Value::Array(Vec::new()), "{result}");
    assert!(result["changes"].as_u64() > Some(400), "{result}");
    for history in ["forked", "differs", "shrunk"] {
        assert_eq!(result["histories"][history].as_array().map(Vec::len), Some(1), "{result}");
    }
    assert_eq!(result["histories"]["continued"], Value::Array(Vec::new()), "{result}");
    say(&format!("outside: {} changes of a log, all found", result["changes"]));

    // The product's own check, of the same files, without a daemon
    let fsck = ["log", "fsck", "--directory", text(&log), "--key", text(&key), "--json"];
    assert_eq!(stoqctl(&fsck).good().json()["errors"], 0);
    let checkpoint = std::fs::read(log.join("checkpoint")).expect("a checkpoint");
    let mut changed = checkpoint.clone();
    let at = changed.len() - 8;
    changed[at] ^= 1;
    std::fs::write(log.join("checkpoint"), &changed).expect("the files are ours");
    let said = stoqctl(&fsck);
    assert!(said.code == 3 && said.json()["errors"].as_u64() >= Some(1), "{said:?}");
    assert_eq!(authority.verify(text(&log), &[]).code, 1);
    std::fs::write(log.join("checkpoint"), &checkpoint).expect("the files are ours");
    assert_eq!(authority.verify(text(&log), &[]).code, 0);
}

#[test]
fn the_verifier_runs_alone_and_says_what_it_cannot_do() {
    let _turn = shared();
    let fixture = format!("{}/../stoqctl/tests/fixture", env!("CARGO_MANIFEST_DIR"));
    let (program, log) = (verify_log(), format!("{fixture}/log"));
    let (key, chain) = (format!("{fixture}/log.pem"), format!("{fixture}/chain.pem"));
    let plain = [program.as_str(), "--log", &log, "--key", &key];
    let said = python(&[&plain[..], &["--certificate", &chain]].concat()).good();
    assert!(
        said.stdout.contains("5 of 5 entries") && said.stdout.contains("nothing is wrong"),
        "{said:?}"
    );
    let said = python(&[&plain[..], &["--origin", "another.example/log"]].concat());
    assert!(said.code == 1 && said.stdout.contains("another.example/log"), "{said:?}");
    let said = python(&[program.as_str(), "--log", &log, "--key", "/nowhere"]);
    assert_eq!(said.code, 2, "{said:?}");
    let root = format!("{fixture}/root.pem");
    let said = python(&[&plain[..], &["--certificate", &root]].concat());
    assert!(said.code == 1 && said.stdout.contains("never logged"), "{said:?}");
}
