//! Another implementation of QUIC (aioquic) as the client of `perf`: a mutual handshake with a certificate from
//! enrolment, an exact number of octets, and a refusal without the certificate.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use stoq_appliance_tests::{Node, Options, enrol, say, shared, wait_until};

const WANTED: u64 = 8 << 20;

/// The interpreter with aioquic
fn interpreter() -> PathBuf {
    let Some(python) = std::env::var_os("STOQ_INTEROP_PYTHON") else {
        panic!(
            "STOQ_INTEROP_PYTHON must name a Python with aioquic; deploy/test does this: \
             `python3 -m venv target/interop && target/interop/bin/pip install -r \
             appliance/tests/interop/requirements.txt`, then STOQ_INTEROP_PYTHON=$PWD/target/interop/bin/python"
        );
    };
    PathBuf::from(python)
}

struct Scene {
    alpha: Node,
    gamma: Node,
}

impl Scene {
    fn start(perf: bool) -> Self {
        let alpha = Node::start("alpha", &Options::with_transport(&format!("perf = {perf}")));
        let gamma = Node::start("gamma", &Options::default());
        enrol(&alpha, &gamma);
        Self { alpha, gamma }
    }

    /// Runs the client; its certificate is gamma's
    fn client(&self, more: &[&str]) -> Value {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("interop/perf_client.py");
        let joined = self.gamma.state().join("joined");
        let mut command = Command::new("timeout");
        command.arg("60").arg(interpreter()).arg(script);
        command.args(["--port", &self.alpha.stoq_port().to_string(), "--node", "alpha"]);
        for anchor in ["authority/root.pem", "authority/issuing.pem"] {
            command.arg("--trust").arg(self.alpha.state().join(anchor));
        }
        command.args(["--bytes", &WANTED.to_string()]);
        if !more.contains(&"--anonymous") {
            command.arg("--certificate").arg(joined.join("node.pem"));
            command.arg("--key").arg(joined.join("node.key"));
        }
        let output = command.args(more).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}\n{said}"))
    }

    fn refused(&self, reason: &str) -> f64 {
        let label = format!("reason=\"{reason}\"");
        self.alpha.metric("stoq_worker_peers_refused_total", &label)
    }
}

#[test]
fn an_independent_client_with_a_certificate_gets_exactly_what_it_asks_for() {
    let _turn = shared();
    let scene = Scene::start(true);
    let result = scene.client(&[]);
    assert_eq!(result["error"], Value::Null, "{result}\n{}", scene.alpha.log());
    assert_eq!(result["received"], WANTED, "{result}");
    assert_eq!(result["ended"], true, "{result}");
    assert_eq!(result["alpn"], "perf", "{result}");
    say(&format!("interop: aioquic {} got {WANTED} of {WANTED} octets", result["aioquic"]));
}

#[test]
fn an_independent_client_without_a_certificate_is_refused() {
    let _turn = shared();
    let scene = Scene::start(true);
    let result = scene.client(&["--anonymous"]);
    // QUIC's code for the TLS alert certificate_required (RFC 9001 section 4.8, RFC 8446 section 6).
    let said = result["error"].as_str().unwrap_or_default();
    assert!(said.starts_with("0x174"), "{result}\n{}", scene.alpha.log());
    assert_eq!(result["received"], 0, "{result}");
    say(&format!("interop: aioquic without a certificate was refused: {}", result["error"]));
    wait_until("the refusal is counted", Duration::from_secs(5), || {
        (scene.refused("no_certificate") >= 1.0).then_some(())
    });
}

#[test]
fn what_is_not_switched_on_is_not_spoken() {
    let _turn = shared();
    let scene = Scene::start(false);
    let result = scene.client(&[]);
    assert_ne!(result["error"], Value::Null, "perf was answered without transport.perf: {result}");
    assert_eq!(result["received"], 0, "{result}");
    let result = scene.client(&["--alpn", "h3"]);
    assert_ne!(result["error"], Value::Null, "{result}");
}
