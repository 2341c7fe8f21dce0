//! A root whose key is in shares, by the real program: made, used by a quorum, refused to fewer, its key nowhere.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const PHRASES: [&str; 3] = ["ann keeps this one", "bob keeps that one", "cyd keeps another"];

fn run(directory: &Path, arguments: &str, input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_stoqctl"))
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(octets: &[u8]) -> &str {
    std::str::from_utf8(octets).unwrap()
}

#[test]
fn a_quorum_of_holders_signs_and_one_holder_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let ok = |arguments: &str, input: &str| {
        let output = run(at, arguments, input);
        assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    let phrases = PHRASES.join("\n");
    let init = "root init --directory root --offline --shares 3 --threshold 2 --passphrases -";
    let fingerprint = ok(init, &phrases);
    assert!(fingerprint.starts_with("sha256:"), "{fingerprint}");
    assert_eq!(ok("root fingerprint --directory root", ""), fingerprint);
    let mut names: Vec<_> = std::fs::read_dir(at.join("root"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["root.pem", "share-1.json", "share-2.json", "share-3.json"]);

    ok("root request-issuing --directory ca --out ca.csr", "");
    let sign = |shares: &[usize], input: &str| {
        let shares: String =
            shares.iter().map(|n| format!(" --share root/share-{n}.json")).collect();
        let arguments = format!(
            "root sign-issuing --directory root --request ca.csr --out ca.pem{shares} --passphrases -"
        );
        run(at, &arguments, input)
    };
    let alone = sign(&[1], PHRASES[0]);
    assert_eq!(alone.status.code(), Some(1));
    assert!(text(&alone.stderr).contains("1 different shares were given and 2 are needed"));
    let swapped = sign(&[3, 1], &format!("{}\n{}\n", PHRASES[0], PHRASES[2]));
    assert_eq!(swapped.status.code(), Some(1));
    assert!(
        text(&swapped.stderr).contains("share-3.json does not open"),
        "{}",
        text(&swapped.stderr)
    );
    assert!(!at.join("ca.pem").exists());
    let signed = sign(&[3, 1], &format!("{}\n{}\n", PHRASES[2], PHRASES[0]));
    assert!(signed.status.success(), "{}", text(&signed.stderr));
    let install = "root install-issuing --directory ca --certificate ca.pem --root root/root.pem --fingerprint";
    ok(&format!("{install} {fingerprint}"), "");

    let again = run(at, init, &phrases);
    assert_eq!(again.status.code(), Some(8), "a root is never replaced");
}

#[test]
fn arguments_that_protect_nothing_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |arguments: &str, input: &str, code: i32, part: &str| {
        let output = run(directory.path(), arguments, input);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        assert!(said.contains(part), "{arguments}: {said}");
    };
    let init = "root init --directory root --offline";
    refused(&format!("{init} --shares 3"), "", 2, "--threshold");
    refused("root init --directory root --shares 3 --threshold 2", "", 2, "--offline");
    let shared = format!("{init} --shares 2 --threshold 2 --passphrases -");
    refused(&shared, "only one passphrase\n", 1, "has 1 passphrases and 2 are needed");
    refused(&shared, "a long passphrase\na long passphrase\n", 1, "same passphrase");
    refused(&shared, "short\nalso short\n", 1, "at least 12 characters");
    let weak = format!("{init} --shares 2 --threshold 1 --passphrases -");
    refused(&weak, "a long passphrase\nanother long one\n", 1, "1 of 2 shares");
    let nobody = format!("{init} --shares 2 --threshold 2");
    refused(&nobody, "", 1, "--passphrases FILE");
    assert!(!directory.path().join("root/root.pem").exists());
}

/// The key is in another process, here one of this test's own; the authority's directory gets none
#[test]
fn an_authority_whose_key_is_in_a_signer_is_certified_and_installed() {
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::Arc;
    use stoq_trustchain::signer::remote::{ServerSettings, SignerServer};
    use stoq_trustchain::signer::{KeyName, Pool, PoolSettings, SoftSettings};

    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let soft = SoftSettings::read_or_create(&at.join("keys"), &[KeyName::issuing()]).unwrap();
    let pool = Arc::new(Pool::start(Arc::new(soft), PoolSettings::default()).unwrap());
    let settings = ServerSettings {
        socket: at.join("signer.sock"),
        allowed_uids: vec![std::fs::metadata(at).unwrap().uid()],
        create_keys: false,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let entered = runtime.enter();
    runtime.spawn(SignerServer::bind(settings, pool).unwrap().run(std::future::pending()));
    drop(entered);

    let ok = |arguments: &str| {
        let output = run(at, arguments, "");
        assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    let fingerprint = ok("root init --directory root --offline");
    ok("root request-issuing --directory ca --out ca.csr --signer signer.sock");
    ok("root sign-issuing --directory root --request ca.csr --out ca.pem");
    let install = format!(
        "root install-issuing --directory ca --certificate ca.pem --root root/root.pem --fingerprint {fingerprint}"
    );
    let without = run(at, &install, "");
    assert_eq!(without.status.code(), Some(1), "there is no key in the directory");
    ok(&format!("{install} --signer signer.sock"));
    assert!(at.join("ca/issuing.pem").exists() && !at.join("ca/issuing.key").exists());
    let unknown = run(
        at,
        "root request-issuing --directory ca --out b.csr --signer signer.sock --key issuing-9",
        "",
    );
    assert!(text(&unknown.stderr).contains("no key `issuing-9`"), "{}", text(&unknown.stderr));
}
