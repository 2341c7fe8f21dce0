//! The HTTPS interface as strangers use it: curl and openssl against a running authority on [::1]. Nothing here
//! speaks HTTP or TLS itself.

mod interfaces;

use std::path::Path;

use interfaces::office::{Office, SERVER_NAME};
use interfaces::tools::{certificates_of, key_and_request, openssl, run};
use stoq_trustchain::log::{ProofBundle, TreeHead};

/// What curl was told
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// curl, which trusts the root and nothing else
fn curl(office: &Office, path: &str, more: &[&str]) -> Answer {
    let at = |name: &str| office.file(name).to_str().unwrap().to_owned();
    let port = office.address.port();
    let (root, head, body) = (at("root.pem"), at("head"), at("body"));
    let resolve = format!("{SERVER_NAME}:{port}:[::1]");
    let url = format!("https://{SERVER_NAME}:{port}{path}");
    let _old = std::fs::remove_file(&body);
    let mut arguments = vec![
        "--silent",
        "--show-error",
        "--tlsv1.3",
        "--path-as-is",
        "--cacert",
        &root,
        "--resolve",
        &resolve,
        "--dump-header",
        &head,
        "--output",
        &body,
        "--write-out",
        "%{http_code}",
    ];
    arguments.extend_from_slice(more);
    arguments.push(&url);
    let said = run("curl", arguments);
    assert!(said.ok, "curl {path}: {}", said.err);
    let head = std::fs::read_to_string(head).unwrap();
    let body = std::fs::read(body).unwrap_or_default();
    Answer { status: said.text().parse().unwrap(), head, body }
}

fn est(office: &Office, operation: &str, request: &Path, more: &[&str]) -> Answer {
    let body = format!("@{}", request.display());
    let mut arguments =
        vec!["--header", "Content-Type: application/pkcs10", "--data-binary", &body];
    arguments.extend_from_slice(more);
    curl(office, &format!("/.well-known/est/{operation}"), &arguments)
}

/// Enrols a node as a stranger would; returns the path of its certificate
fn enrol(office: &Office, node: &str) -> String {
    key_and_request(office.path(), node, "prime256v1");
    let user = format!("any:{}", office.token(node));
    let request = office.file(&format!("{node}.csr"));
    let answer = est(office, "simpleenroll", &request, &["--user", &user]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.field("content-type").unwrap().starts_with("application/pkcs7-mime"));
    let path = office.file(&format!("{node}.pem"));
    std::fs::write(&path, certificates_of(office.path(), &answer.body)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn verify(office: &Office, certificate: &str) -> bool {
    let (root, issuing) = (office.file("root.pem"), office.file("issuing.pem"));
    let (root, issuing) = (root.to_str().unwrap(), issuing.to_str().unwrap());
    let arguments = ["verify", "-x509_strict", "-CAfile", root, "-untrusted", issuing, certificate];
    run("openssl", arguments).ok
}

fn names(certificate: &str) -> String {
    openssl(["x509", "-in", certificate, "-noout", "-subject", "-ext", "subjectAltName"]).text()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn est_hands_out_the_authorities_and_says_what_a_request_needs() {
    let office = Office::open().await;
    let answer = curl(&office, "/.well-known/est/cacerts", &[]);
    assert_eq!(answer.status, 200);
    let kind = "application/pkcs7-mime; smime-type=certs-only";
    assert_eq!(answer.field("content-type"), Some(kind));
    assert_eq!(answer.field("content-transfer-encoding"), Some("base64"));
    let certificates = certificates_of(office.path(), &answer.body);
    assert_eq!(certificates.matches("BEGIN CERTIFICATE").count(), 2);
    for known in ["root.pem", "issuing.pem"] {
        let pem = std::fs::read_to_string(office.file(known)).unwrap();
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        assert!(certificates.replace('\n', "").contains(&body), "{known}");
    }
    let answer = curl(&office, "/.well-known/est/csrattrs", &[]);
    assert_eq!(answer.status, 200);
    std::fs::write(office.file("attributes"), &answer.body).unwrap();
    let attributes = office.file("attributes");
    let parsed = openssl(["asn1parse", "-in", attributes.to_str().unwrap()]).text();
    for word in ["id-ecPublicKey", "prime256v1", "ecdsa-with-SHA256"] {
        assert!(parsed.contains(word), "{parsed}");
    }
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_enrols_and_reenrols_with_curl_and_openssl() {
    let office = Office::open().await;
    let first = enrol(&office, "beta");
    assert!(verify(&office, &first));
    let named = names(&first);
    // The registry's names, not those the request asks for
    for name in
        ["beta.nodes.hypermesh", "spiffe://hypermesh/node/beta", "IP Address:0:0:0:0:0:0:0:1"]
    {
        assert!(named.contains(name), "{named}");
    }
    assert!(!named.contains("somebody.example"), "{named}");

    key_and_request(office.path(), "next", "prime256v1");
    let key = office.file("beta.key").to_str().unwrap().to_owned();
    let shown = ["--cert", first.as_str(), "--key", key.as_str()];
    let answer = est(&office, "simplereenroll", &office.file("next.csr"), &shown);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let second = office.file("next.pem");
    std::fs::write(&second, certificates_of(office.path(), &answer.body)).unwrap();
    let second = second.to_str().unwrap();
    assert!(verify(&office, second));
    assert_eq!(names(second), named);
    let serial = |path: &str| openssl(["x509", "-in", path, "-noout", "-serial"]).text();
    assert_ne!(serial(&first), serial(second));
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_for_one_request_and_that_may_be_repeated() {
    let office = Office::open().await;
    let token = format!("any:{}", office.token("beta"));
    let user = ["--user", token.as_str()];
    key_and_request(office.path(), "beta", "prime256v1");
    let request = office.file("beta.csr");
    let first = est(&office, "simpleenroll", &request, &user);
    assert_eq!(first.status, 200, "{}", first.text());
    // As after an answer that was lost
    assert_eq!(est(&office, "simpleenroll", &request, &user).body, first.body);
    key_and_request(office.path(), "thief", "prime256v1");
    let thief = est(&office, "simpleenroll", &office.file("thief.csr"), &user);
    assert_eq!(thief.status, 409, "{}", thief.text());
    assert!(thief.text().contains("token_used"));
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_certified_is_refused_with_its_reason() {
    let office = Office::open().await;
    key_and_request(office.path(), "beta", "prime256v1");
    key_and_request(office.path(), "large", "secp384r1");
    let (good, large) = (office.file("beta.csr"), office.file("large.csr"));
    let token = format!("any:{}", office.token("beta"));
    let user = ["--user", token.as_str()];
    let wrong = format!("{}:{}", "ab".repeat(16), "cd".repeat(32));

    let refused = est(&office, "simpleenroll", &good, &[]);
    assert_eq!(refused.status, 401);
    assert!(refused.field("www-authenticate").unwrap().starts_with("Basic realm="));
    let refused = est(&office, "simpleenroll", &good, &["--user", &wrong]);
    assert_eq!((refused.status, refused.text().contains("token_unknown")), (401, true));
    // OpenSSL signs a P-384 request with SHA-256 by default; it is refused for its key.
    let refused = est(&office, "simpleenroll", &large, &user);
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("P-384"), "{}", refused.text());
    std::fs::write(office.file("noise"), "no request").unwrap();
    let refused = est(&office, "simpleenroll", &office.file("noise"), &user);
    assert_eq!(refused.status, 400, "{}", refused.text());
    std::fs::write(office.file("flood"), vec![b'A'; 64 << 10]).unwrap();
    let refused = est(&office, "simpleenroll", &office.file("flood"), &user);
    assert_eq!(refused.status, 413, "{}", refused.text());
    let json = ["--header", "Content-Type: application/json", "--data", "{}", "--user", &token];
    assert_eq!(curl(&office, "/.well-known/est/simpleenroll", &json).status, 415);

    assert_eq!(est(&office, "simplereenroll", &good, &[]).status, 401);
    // A certificate that somebody made, over the names of a node
    let (key, own) = (office.file("beta.key"), office.file("own.pem"));
    let (key, own) = (key.to_str().unwrap(), own.to_str().unwrap());
    openssl([
        "req",
        "-x509",
        "-new",
        "-key",
        key,
        "-subj",
        "/",
        "-days",
        "1",
        "-out",
        own,
        "-addext",
        "subjectAltName=DNS:beta.nodes.hypermesh,URI:spiffe://hypermesh/node/beta",
    ]);
    let refused = est(&office, "simplereenroll", &good, &["--cert", own, "--key", key]);
    assert!([401, 403].contains(&refused.status), "{} {}", refused.status, refused.text());
    // The token was not used by any of that.
    let answer = est(&office, "simpleenroll", &good, &user);
    assert_eq!(answer.status, 200, "{}", answer.text());
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_gets_no_successor_and_stands_on_its_crl() {
    let office = Office::open().await;
    let certificate = enrol(&office, "beta");
    let text = openssl(["x509", "-in", &certificate, "-noout", "-text"]).text();
    let uri = |marker: &str| {
        let rest = &text[text.find(marker).unwrap_or_else(|| panic!("{marker}: {text}"))..];
        let uri = rest.split("URI:").nth(1).unwrap().split_whitespace().next().unwrap();
        uri.strip_prefix(Office::BASE_URI).unwrap().to_owned()
    };
    // What the certificate names is served where it names it.
    let issuer = curl(&office, &format!("/{}", uri("Authority Information Access")), &[]);
    assert_eq!(issuer.field("content-type"), Some("application/pkix-cert"));
    assert_eq!(issuer.body, office.ca.authority().certificate_der());
    let crl_path = format!("/{}", uri("CRL Distribution Points"));
    let check = |certificate: &str| {
        let crl = curl(&office, &crl_path, &[]);
        assert_eq!((crl.status, crl.field("content-type")), (200, Some("application/pkix-crl")));
        std::fs::write(office.file("crl.der"), &crl.body).unwrap();
        let at = |name: &str| office.file(name).to_str().unwrap().to_owned();
        openssl(["crl", "-inform", "DER", "-in", &at("crl.der"), "-out", &at("crl.pem")]);
        let (root, issuing, crl) = (at("root.pem"), at("issuing.pem"), at("crl.pem"));
        run(
            "openssl",
            [
                "verify",
                "-crl_check",
                "-CRLfile",
                &crl,
                "-CAfile",
                &root,
                "-untrusted",
                &issuing,
                certificate,
            ],
        )
    };
    let before = check(&certificate);
    assert!(before.ok, "{}", before.err);

    office.revoke(&certificate).await;
    let after = check(&certificate);
    assert!(!after.ok && after.err.contains("certificate revoked"), "{}", after.err);
    key_and_request(office.path(), "next", "prime256v1");
    let key = office.file("beta.key").to_str().unwrap().to_owned();
    let shown = ["--cert", certificate.as_str(), "--key", key.as_str()];
    let refused = est(&office, "simplereenroll", &office.file("next.csr"), &shown);
    assert_eq!((refused.status, refused.text().contains("revoked")), (403, true));
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_read_and_its_proofs_hold() {
    let office = Office::open().await;
    let leaf = office.issue("beta").await;
    let proof = curl(&office, &format!("/v1/proof/{}", leaf.leaf_index), &[]);
    assert_eq!(proof.status, 200, "{}", proof.text());
    let bundle = ProofBundle::parse(&proof.body).unwrap();
    let issuer = stoq_trustchain::log::sct::key_hash(&leaf.issuing_der).unwrap();
    let latest = u64::MAX;
    let log = office.ca.log();
    bundle.verify_certificate(&leaf.certificate_der, &issuer, log, latest).unwrap();

    let checkpoint = curl(&office, "/log/checkpoint", &[]);
    assert_eq!(checkpoint.field("cache-control"), Some("no-cache"));
    let verified = log.verify_checkpoint(&checkpoint.body, &[]).unwrap();
    let TreeHead { size, .. } = verified.head;
    assert!(size > leaf.leaf_index);
    let tile = curl(&office, &format!("/log/tile/0/000.p/{size}"), &[]);
    assert_eq!((tile.status, tile.body.len() as u64), (200, 32 * size));
    assert!(tile.field("cache-control").unwrap().contains("immutable"));
    let key = curl(&office, "/v1/log-key", &[]).text();
    assert!(key.contains(log.origin()), "{key}");
    for path in ["/log/tile/0/001", "/log/../journal/1", "/v1/proof/999999", "/nothing", "/"] {
        assert_eq!(curl(&office, path, &[]).status, 404, "{path}");
    }
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_reads_and_methods() {
    let office = Office::open().await;
    let root = curl(&office, "/ca/root.crt", &[]);
    assert_eq!(root.body, office.ca.authority().root_der());
    let head = curl(&office, "/ca/root.crt", &["--head"]);
    assert_eq!(head.status, 200);
    assert_eq!(head.field("content-length").unwrap(), root.body.len().to_string());
    let put = curl(&office, "/v1/root", &["--request", "PUT"]);
    assert_eq!((put.status, put.field("allow")), (405, Some("GET, HEAD")));
    let get = curl(&office, "/v1/enroll", &[]);
    assert_eq!((get.status, get.field("allow")), (405, Some("POST")));
    let list = curl(&office, "/v1/deny-list", &[]);
    assert_eq!(list.status, 200);
    assert_eq!(list.body, office.deny_list());
    let leaf = office.issue("beta").await;
    let window = curl(&office, &format!("/v1/renewal-information/{}", leaf.serial), &[]);
    assert_eq!(window.status, 200, "{}", window.text());
    assert!(window.field("retry-after").unwrap().parse::<u64>().unwrap() > 0);
    let fields: Vec<String> = (0..70).map(|number| format!("X-{number}: x")).collect();
    let many: Vec<&str> = fields.iter().flat_map(|field| ["--header", field]).collect();
    assert_eq!(curl(&office, "/v1/root", &many).status, 431);
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_close_the_door_for_certificates_and_not_for_reading() {
    let office = Office::with(|settings| settings.failures_per_prefix = 2).await;
    key_and_request(office.path(), "beta", "prime256v1");
    let wrong = format!("{}:{}", "ab".repeat(16), "cd".repeat(32));
    let attempt = || est(&office, "simpleenroll", &office.file("beta.csr"), &["--user", &wrong]);
    assert_eq!((attempt().status, attempt().status), (401, 401));
    let closed = attempt();
    assert_eq!(closed.status, 429);
    assert!((1..=61).contains(&closed.field("retry-after").unwrap().parse::<u64>().unwrap()));
    assert_eq!(curl(&office, "/v1/root", &[]).status, 200);
    office.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_enrolments_are_named_and_spend_no_token() {
    let office = Office::with(|settings| settings.failures_per_prefix = 100).await;
    key_and_request(office.path(), "large", "secp384r1");
    let token = office.token("beta");
    let secret: String = token.secret.iter().map(|octet| format!("{octet:02x}")).collect();
    let request = |name: &str| {
        let (from, to) = (office.file(&format!("{name}.csr")), office.file("csr.der"));
        let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
        openssl(["req", "-in", from, "-outform", "DER", "-out", to]);
        openssl(["base64", "-A", "-in", to]).text()
    };
    let body = |csr: &str, address: &str| {
        let id = token.id();
        format!(
            r#"{{"token_id":"{id}","secret":"{secret}","csr_der":"{csr}","stoq_address":"{address}"}}"#
        )
    };
    key_and_request(office.path(), "good", "prime256v1");
    let (good, large) = (request("good"), request("large"));
    let cases = [
        ("{".to_owned(), 400, "malformed_request"),
        (r#"{"token_id":"","is_ca":true}"#.into(), 400, "malformed_request"),
        (body("!", "[::1]:1"), 400, "malformed_request"),
        (body(&good, "[ff02::1]:1"), 400, "malformed_request"),
        (body(&good, "[::1]:0"), 400, "malformed_request"),
        (body(&large, "[::1]:1"), 400, "csr_refused"),
        (" ".repeat(17 << 10), 413, "too_large"),
        (body(&good, "[::]:9444"), 200, "chain"),
    ];
    for (text, status, code) in cases {
        let data = office.file("body.json");
        std::fs::write(&data, &text).unwrap();
        let data = format!("@{}", data.display());
        let answer = curl(&office, "/v1/enroll", &["--data-binary", &data]);
        assert_eq!(answer.status, status, "{text:.60} {}", answer.text());
        assert!(answer.text().contains(code), "{text:.60} {}", answer.text());
    }
    let at = office.ca.node(&token.node).unwrap().address;
    assert_eq!(at, "[::1]:9444".parse().unwrap());
    office.close().await;
}
