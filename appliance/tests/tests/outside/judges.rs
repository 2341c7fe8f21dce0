//! A table of leaves, good and bad, before four judges: OpenSSL, GnuTLS, Python's `cryptography` and the product. Where
//! they differ, the table says so and why; any other difference is a failure.

use serde_json::Value;
use stoq_appliance_tests::{say, shared};

use crate::scene::{Hierarchy, Said, outside, python, run, stoqctl, text};

/// Leaves that others accept and the product refuses, each with its reason. The product never accepts what
/// another judge refuses.
const STRICTER: &[(&str, &[&str], &str)] = &[
    (
        "without-purpose",
        &["openssl", "gnutls", "cryptography"],
        "RFC 5280 4.2.1.12: without the extension any purpose is allowed; here a leaf says what it is for",
    ),
    (
        "authority-as-leaf",
        &["openssl", "gnutls"],
        "RFC 5280 does not forbid CA:TRUE at the end of a path; here a leaf is none",
    ),
    (
        "authority-unconstrained",
        &["openssl", "gnutls", "cryptography"],
        "name constraints are optional in RFC 5280; here an authority without them could name anybody",
    ),
];

const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";

fn field<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap_or_else(|| panic!("{name} of {case}"))
}

fn openssl(case: &Value) -> bool {
    let purpose = format!("ssl{}", field(case, "usage"));
    let judged = [
        "verify",
        "-x509_strict",
        "-purpose",
        &purpose,
        "-CAfile",
        field(case, "root"),
        "-untrusted",
        field(case, "intermediates"),
        field(case, "leaf"),
    ];
    run("openssl", &judged).code == 0
}

/// Leaf and intermediates in one file, as GnuTLS and the product take them
fn chain(hierarchy: &Hierarchy, case: &Value) -> String {
    let read = |name| std::fs::read_to_string(field(case, name)).expect("a file of the case");
    let path = hierarchy.path(&format!("{}-chain.pem", field(case, "name")));
    std::fs::write(&path, read("leaf") + &read("intermediates")).expect("the directory is ours");
    text(&path).to_owned()
}

fn gnutls(case: &Value, chain: &str) -> bool {
    let purpose = if field(case, "usage") == "server" { SERVER_AUTH } else { CLIENT_AUTH };
    let root = field(case, "root");
    let judged = ["--verify", "--load-ca-certificate", root, "--verify-purpose", purpose];
    run("certtool", &[&judged[..], &["--infile", chain]].concat()).code == 0
}

fn product(case: &Value, chain: &str) -> bool {
    let said = stoqctl(&["certificate", "verify", chain, "--root", field(case, "root"), "--json"]);
    let usages = said.json()["usages"].clone();
    said.code == 0 && usages.as_array().is_some_and(|all| all.contains(&case["usage"]))
}

#[test]
fn others_accept_what_we_accept_and_we_refuse_what_they_refuse() {
    let _turn = shared();
    let hierarchy = Hierarchy::make();
    let (root, issuing, key, out) = (
        hierarchy.path("root/root.pem"),
        hierarchy.path("issuing.pem"),
        hierarchy.path("issuing.key"),
        hierarchy.path("cases"),
    );
    let made = outside("leaves.py");
    let files = ["--root", text(&root), "--issuing", text(&issuing), "--issuing-key", text(&key)];
    python(&[&[made.as_str()][..], &files, &["--inside", "fd77::1", "--out", text(&out)]].concat())
        .good();
    let listed = out.join("cases.json");
    let cases: Value =
        serde_json::from_slice(&std::fs::read(&listed).expect("cases.json")).expect("JSON");
    let cryptography: Said = python(&[&outside("judge.py"), text(&listed)]).good();
    let cryptography = cryptography.json();

    let (mut wrong, mut good, mut bad) = (Vec::new(), 0, 0);
    for case in cases.as_array().expect("a list") {
        let name = field(case, "name");
        let chain = chain(&hierarchy, case);
        let verdicts = [
            ("openssl", openssl(case)),
            ("gnutls", gnutls(case, &chain)),
            ("cryptography", cryptography[name].is_null()),
            ("stoq", product(case, &chain)),
        ];
        let laxer = STRICTER.iter().find(|(stricter, ..)| *stricter == name);
        let is_good = name.starts_with("good");
        for (judge, accepts) in verdicts {
            let expected = is_good || laxer.is_some_and(|(_, judges, _)| judges.contains(&judge));
            if accepts != expected {
                wrong.push(format!("{name}: {judge} accepts: {accepts}, expected: {expected}"));
            }
        }
        if is_good {
            good += 1
        } else {
            bad += 1
        }
        let shown = verdicts.map(|(judge, accepts)| {
            format!("{judge} {}", if accepts { "accepts" } else { "refuses" })
        });
        say(&format!("outside: {name:28} {}", shown.join(", ")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(good >= 5 && bad >= 20, "{good} good and {bad} bad leaves: the table has shrunk");
    for (name, _, why) in STRICTER {
        say(&format!("outside: {name}: {why}"));
    }
}
