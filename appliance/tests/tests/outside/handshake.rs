//! The node's own verdict, asked for by another QUIC implementation (aioquic): leaves signed with the real keys of the
//! authority and the log, each with one thing wrong, and each refused with its own reason and counter.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use stoq_appliance_tests::{Options, say, shared, wait_until};

use crate::scene::{Authority, outside, python, text};

const WANTED: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// Case, and the label of the reason that refuses it
const REFUSED: &[(&str, &str)] = &[
    ("expired", "expired"),
    ("not-yet-valid", "not_yet_valid"),
    ("for-servers-only", "key_usage"),
    ("for-code-signing", "key_usage"),
    ("without-purpose", "key_usage"),
    ("authority-as-leaf", "authority_as_leaf"),
    ("without-digital-signature", "key_usage"),
    ("unknown-critical-extension", "profile"),
    ("name-outside", "name_constraint"),
    ("address-of-version-4", "name_constraint"),
    ("wildcard", "profile"),
    ("without-node", "no_node_identity"),
    ("two-nodes", "no_node_identity"),
    ("foreign-trust-domain", "no_node_identity"),
    ("never-logged", "unlogged"),
    ("logged-elsewhere", "unknown_log"),
    ("logged-tomorrow", "bad_timestamp"),
    ("forged-issuer", "bad_signature"),
    ("foreign-issuer", "unknown_issuer"),
];

fn client(authority: &Authority, leaves: &std::path::Path, case: &str) -> Value {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("interop/perf_client.py");
    let state = authority.node.state().join("authority");
    let (port, wanted) = (authority.node.stoq_port().to_string(), WANTED.to_string());
    let (root, issuing) = (state.join("root.pem"), state.join("issuing.pem"));
    let (leaf, key) = (leaves.join(format!("{case}.pem")), leaves.join(format!("{case}.key")));
    let mut words = vec![text(&script), "--port", &port, "--node", "alpha", "--bytes", &wanted];
    words.extend(["--trust", text(&root), "--trust", text(&issuing)]);
    words.extend(["--certificate", text(&leaf), "--key", text(&key)]);
    python(&words).good().json()
}

#[test]
fn each_bad_leaf_is_refused_for_its_own_reason_and_a_good_one_is_served() {
    let _turn = shared();
    let authority = Authority::start(&Options::with_transport("perf = true"));
    let state = authority.node.state().join("authority");
    let leaves = authority.path("leaves");
    let file = |name: &str| text(&state.join(name)).to_owned();
    let made = outside("strangers.py");
    let (root, issuing, issuing_key, log_key) =
        (file("root.pem"), file("issuing.pem"), file("issuing.key"), file("log.key"));
    let keys = ["--issuing-key", &issuing_key, "--log-key", &log_key, "--out", text(&leaves)];
    python(&[&[made.as_str(), "--root", &root, "--issuing", &issuing][..], &keys].concat()).good();

    // The control: with the same keys a leaf that is good is served, so nothing below is refused for its maker.
    let served = client(&authority, &leaves, "good");
    assert_eq!((&served["received"], &served["error"]), (&WANTED.into(), &Value::Null), "{served}");
    let refused = |label: &str| {
        authority.node.metric("stoq_worker_peers_refused_total", &format!("reason=\"{label}\""))
    };
    let mut wrong = Vec::new();
    for (case, label) in REFUSED {
        let before = refused(label);
        let result = client(&authority, &leaves, case);
        if result["received"] != 0 || result["error"].is_null() {
            wrong.push(format!("{case} was served: {result}"));
            continue;
        }
        let counted = std::panic::catch_unwind(|| {
            wait_until("the refusal is counted", PATIENCE, || {
                (refused(label) > before).then_some(())
            });
        });
        if counted.is_err() {
            let (_, metrics) = authority.node.metrics();
            let refusals: Vec<_> = metrics
                .lines()
                .filter(|l| l.contains("peers_refused_total{") && !l.ends_with(" 0"))
                .collect();
            wrong.push(format!("{case} was not counted as {label}: {refusals:?}"));
        }
        say(&format!("outside: aioquic with {case:28} refused as {label}: {}", result["error"]));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
