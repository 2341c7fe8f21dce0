//! pkilint, an independent linter, over every kind of certificate and list that the authority makes. What it finds and
//! is accepted is named here with its reason; anything else is a failure, and so is a waiver that nothing needs.
//! zlint, the other one of its kind, is not in Debian 12.

use serde_json::Value;
use stoq_appliance_tests::{Options, say, shared};

use crate::scene::{Authority, beside_python, run, text};

/// Findings that are accepted, and why
const WAIVED: &[(&str, &str)] = &[
    (
        "pkix.invalid_domain_name_syntax",
        "the zones of the mesh are single labels, which pkilint takes for no domain name; RFC 1034 allows them",
    ),
    (
        "pkix.invalid_uri_syntax",
        "the trust domain of a SPIFFE URI is a single label, which pkilint takes for no host",
    ),
];

/// Severities that count
const SERIOUS: &[&str] = &["WARNING", "ERROR", "FATAL"];

/// Codes of the serious findings of one file
fn findings(tool: &str, arguments: &[&str], file: &str) -> Vec<String> {
    let said = run(
        &beside_python(tool),
        &[&["lint"][..], arguments, &["--format", "JSON", "--severity", "INFO", file]].concat(),
    );
    let report: Value = serde_json::from_str(&said.stdout)
        .unwrap_or_else(|error| panic!("{tool} {file}: {error}: {said:?}"));
    let results = report["results"].as_array().unwrap_or_else(|| panic!("{report}"));
    let mut found = Vec::new();
    for result in results {
        for one in result["finding_descriptions"].as_array().expect("findings") {
            let severity = one["severity"].as_str().expect("a severity");
            if SERIOUS.contains(&severity) {
                let (place, code) = (&result["node_path"], one["code"].as_str().expect("a code"));
                say(&format!("outside: pkilint: {severity} {code} at {place}: {}", one["message"]));
                found.push(code.to_owned());
            }
        }
    }
    found
}

#[test]
fn an_independent_linter_finds_nothing_that_is_not_waived() {
    let _turn = shared();
    let authority = Authority::start(&Options::default());
    authority.certify("operator", "ana", &[]);
    authority.certify("service", "shop", &["--alternative-names"]);
    authority.certify("asset", "pump7", &[]);
    authority.certify("dns-server", "ns1", &["--address", "fd77::53"]);
    authority.certify("node", "delta", &["--address", "fd77::4"]);
    let state = authority.node.state();
    let mut files: Vec<_> = ["ana", "shop", "pump7", "ns1", "delta"]
        .map(|name| authority.path(&format!("{name}.pem")))
        .into();
    files.extend(["root.pem", "issuing.pem"].map(|name| state.join("authority").join(name)));
    let mut unexpected = Vec::new();
    let mut waived = Vec::new();
    let mut judge = |file: &str, codes: Vec<String>| {
        for code in codes {
            match WAIVED.iter().find(|(name, _)| *name == code) {
                Some((name, _)) if waived.contains(name) => {}
                Some((name, _)) => waived.push(name),
                None => unexpected.push(format!("{file}: {code}")),
            }
        }
    };
    for file in &files {
        // A chain's first certificate alone: the issuing authority has a file of its own.
        let pem = std::fs::read_to_string(file).expect("a certificate");
        let end = pem.find("-----END CERTIFICATE-----").expect("PEM") + 26;
        let alone = authority.path("alone.pem");
        std::fs::write(&alone, &pem[..end.min(pem.len())]).expect("the directory is ours");
        judge(text(file), findings("lint_pkix_cert", &[], text(&alone)));
    }
    let listed = authority.node.ask(&["crl", "list"]);
    let crls = listed["crls"].as_array().expect("lists");
    assert!(!crls.is_empty(), "{listed}");
    let shard = crls[0]["shard"].to_string();
    let list = authority.path("list.pem");
    let said = authority.node.ctl(&["crl", "show", &shard, "--out", text(&list)]);
    assert_eq!(said.code, 0, "{said:?}");
    judge("crl", findings("lint_crl", &["--type", "CRL", "--profile", "PKIX"], text(&list)));
    assert!(unexpected.is_empty(), "{}", unexpected.join("\n"));
    for (name, why) in WAIVED {
        assert!(waived.contains(name), "{name} is waived and nothing needs that: take it out");
        say(&format!("outside: pkilint: {name} waived: {why}"));
    }
}
