//! Requests that OpenSSL makes, and revocation as OpenSSL and GnuTLS see it.

use stoq_appliance_tests::{Options, say, shared};

use crate::scene::{Authority, Hierarchy, run, text};

#[test]
fn openssls_default_request_for_p384_is_refused_and_for_p256_is_not() {
    let _turn = shared();
    // OpenSSL signs a request for P-384 with SHA-256: its signature's name says nothing about its key's curve.
    let hierarchy = Hierarchy::make();
    hierarchy.request("large", "secp384r1");
    let large = hierarchy.path("large.csr");
    let shown = run("openssl", &["req", "-inform", "DER", "-in", text(&large), "-noout", "-text"]);
    assert!(shown.stdout.contains("ecdsa-with-SHA256"), "{shown:?}");
    assert!(shown.stdout.contains("P-384"), "{shown:?}");
    let refused = hierarchy.sign("large");
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(!hierarchy.path("large.pem").exists());
    say(&format!("outside: P-384 by default: {}", refused.json()["error"]["message"]));

    let authority = Authority::start(&Options::default());
    authority.certify("operator", "ana", &[]);
    for (name, options) in [
        ("p384", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"][..]),
        ("rsa", &["-newkey", "rsa:2048"]),
        ("ed25519", &["-newkey", "ed25519"]),
    ] {
        let (key, request) =
            (authority.path(&format!("{name}.key")), authority.path(&format!("{name}.csr")));
        let rest = ["-nodes", "-subj", "/CN=ana", "-keyout", text(&key), "-out", text(&request)];
        run("openssl", &[&["req", "-new"][..], options, &rest].concat()).good();
        let order = ["certificate", "issue", "--profile", "operator", "--subject", "ana"];
        let said =
            authority.node.ctl(&[&order[..], &["--request", text(&request), "--json"]].concat());
        assert_eq!((said.code, said.error_code().as_str()), (2, "csr-refused"), "{name}: {said:?}");
    }
}

#[test]
fn what_a_request_asks_for_counts_for_nothing() {
    let _turn = shared();
    let authority = Authority::start(&Options::default());
    authority.node.ask(&["ca", "register", "operator", "ana"]);
    let (key, request, out) =
        (authority.path("ana.key"), authority.path("ana.csr"), authority.path("ana.pem"));
    // A request for an authority with somebody else's name
    let made =
        ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let asked = [
        "-subj",
        "/CN=root/O=evil",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-addext",
        "subjectAltName=DNS:evil.example,DNS:alpha.nodes.hypermesh,URI:spiffe://hypermesh/node/alpha",
        "-addext",
        "keyUsage=keyCertSign",
    ];
    let files = ["-keyout", text(&key), "-out", text(&request)];
    run("openssl", &[&made[..], &asked, &files].concat()).good();
    let order = ["certificate", "issue", "--profile", "operator", "--subject", "ana"];
    let said = authority
        .node
        .ctl(&[&order[..], &["--request", text(&request), "--out", text(&out)]].concat());
    if said.code != 0 {
        // To refuse such a request is as good as to pass over what it asks for.
        assert_eq!(said.code, 2, "{said:?}");
        return;
    }
    let shown = run("openssl", &["x509", "-in", text(&out), "-noout", "-text"]).good().stdout;
    assert!(shown.contains("CA:FALSE") && !shown.contains("CA:TRUE"), "{shown}");
    for unwanted in ["evil", "alpha.nodes", "node/alpha", "Certificate Sign"] {
        assert!(!shown.contains(unwanted), "{unwanted}: {shown}");
    }
}

#[test]
fn others_see_a_revocation_in_the_lists() {
    let _turn = shared();
    let authority = Authority::start(&Options::default());
    let revoked = authority.certify("operator", "ana", &[]);
    authority.certify("operator", "ben", &[]);
    let serial = revoked["serial"].as_str().expect("a serial number");
    let said = authority.node.ask(&["certificate", "revoke", serial, "--reason", "key-compromise"]);
    assert_eq!(said["revoked"][0]["serial"], serial);
    let again = authority.node.ask(&["certificate", "revoke", serial]);
    assert_eq!(again["revoked"][0]["repeated"], true, "{again}");
    assert_eq!(
        authority.node.ask(&["certificate", "show", serial])["certificate"]["state"],
        "revoked"
    );

    // The list that the certificate itself names: its number stands before `.crl`
    let leaf = authority.path("ana.pem");
    let shown =
        run("openssl", &["x509", "-in", text(&leaf), "-noout", "-ext", "crlDistributionPoints"]);
    let uri = shown.stdout.split("URI:").nth(1).expect("a distribution point").trim().to_owned();
    let shard = uri.rsplit_once('-').and_then(|(_, rest)| rest.strip_suffix(".crl"));
    let shard = shard.unwrap_or_else(|| panic!("no shard in {uri}"));
    let list = stoq_appliance_tests::wait_until(
        "the revocation is in the list",
        std::time::Duration::from_secs(120),
        || {
            let pem = authority.node.ctl(&["crl", "show", shard]).stdout;
            let list = authority.path("list.pem");
            std::fs::write(&list, pem).expect("the directory is ours");
            let shown = run("openssl", &["crl", "-in", text(&list), "-noout", "-text"]).stdout;
            shown.to_lowercase().contains(&serial.to_lowercase()).then_some(list)
        },
    );
    // The root's certificate has no list of its own: only the leaf is checked (-crl_check, not -crl_check_all).
    let root = authority.root();
    let judge = |leaf: &str| {
        let files = ["-CAfile", text(&root), "-untrusted", leaf, "-CRLfile", text(&list)];
        run("openssl", &[&["verify", "-x509_strict", "-crl_check"][..], &files, &[leaf]].concat())
    };
    let said = judge(text(&leaf));
    assert!(said.code != 0 && said.stderr.contains("certificate revoked"), "{said:?}");
    let told = run("certtool", &["--crl-info", "--infile", text(&list)]).good();
    assert!(told.stdout.to_lowercase().contains(&serial.to_lowercase()), "{told:?}");
    say(&format!("outside: OpenSSL and GnuTLS see {serial} revoked in the list {shard}"));

    // The same list over the address in the certificate, as anybody fetches it, in DER
    let path = uri.splitn(4, '/').nth(3).expect("a path").to_owned();
    let (fetched, url) =
        (authority.path("fetched.crl"), format!("https://{}/{path}", authority.https()));
    run("curl", &["--silent", "--fail", "--cacert", text(&root), "--output", text(&fetched), &url])
        .good();
    let shown =
        run("openssl", &["crl", "-inform", "DER", "-in", text(&fetched), "-noout", "-text"]);
    assert!(shown.good().stdout.to_lowercase().contains(&serial.to_lowercase()));
}
