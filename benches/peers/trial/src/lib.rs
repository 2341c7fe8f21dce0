//! For the tests in `tests/`: identities like the product's, and peers as child processes. Panics where a test
//! cannot go on; no program uses it.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::Value;

/// All peers
pub const ALL: [&str; 5] =
    ["peer-quinn", "peer-s2n-quic", "peer-tokio-quiche", "peer-msquic", "peer-tls-tcp"];
/// The peers that make calls
pub const CALLING: [&str; 3] = ["peer-quinn", "peer-s2n-quic", "peer-msquic"];
/// The peer that gets no name to compare, has no post-quantum group and no large packets, and says so
pub const LIMITED: &str = "peer-msquic";
/// The nodes' names as the product's harness has them
pub const SINK: &str = "bench-sink";
/// The dialling one
pub const LOAD: &str = "bench-load";

/// A root and an issuing authority below it; leaves carry a URI name alone
pub struct Authority {
    root_pem: String,
    issuing: CertifiedIssuer<'static, KeyPair>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority_params(name: &str, below: u8) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A fresh one
    pub fn new() -> Self {
        let key = || KeyPair::generate().expect("a key");
        let root =
            CertifiedIssuer::self_signed(authority_params("root", 1), key()).expect("a root");
        let issuing = authority_params("issuing", 0);
        let issuing = CertifiedIssuer::signed_by(issuing, key(), &root).expect("an authority");
        Self { root_pem: root.pem(), issuing }
    }

    /// A node's identity as a line of JSON
    pub fn identity(&self, node: &str) -> String {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(node);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let uri = format!("spiffe://hypermesh/node/{node}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("a URI"))];
        let leaf = params.signed_by(&key, &self.issuing).expect("a leaf");
        let identity = serde_json::json!({
            "node": node,
            "authority_pem": self.root_pem,
            "certificate_pem": leaf.pem() + &self.issuing.pem(),
            "key_pem": key.serialize_pem(),
        });
        format!("{identity}\n")
    }
}

/// Where a peer is, after cargo has made it what the source says
pub fn program(peer: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").expect("cargo runs the tests");
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = Command::new(cargo)
        // All of them: a choice of packages is a choice of features, and would build most of it again.
        .args(["build", "--release", "--quiet", "--workspace", "--bins"])
        .current_dir(&workspace)
        .status()
        .expect("cargo starts");
    assert!(built.success(), "the peers do not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| workspace.join("target")).join("release").join(peer)
}

/// A running sink
pub struct Sink {
    child: Child,
    lines: BufReader<ChildStdout>,
    /// Where it listens
    pub address: String,
}

impl Sink {
    /// Starts one and waits until it listens
    pub fn start(peer: &str, identity: &str, more: &[&str]) -> Self {
        let mut child = Command::new(program(peer))
            .args(["sink", "--listen", "[::1]:0", "--identity", "-"])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the sink starts");
        let input = child.stdin.as_mut().expect("a pipe");
        input.write_all(identity.as_bytes()).expect("the sink reads");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut first = String::new();
        lines.read_line(&mut first).expect("the sink writes");
        let first: Value = serde_json::from_str(&first).expect("JSON");
        let address = first["listening"]["address"].as_str().expect("an address").to_owned();
        assert!(first["version"].as_str().is_some_and(|v| v.contains('.')), "{first}");
        Self { child, lines, address }
    }

    /// Closes its input; returns the lines that were left once it has ended in order
    pub fn end(mut self) -> Vec<Value> {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).expect("the sink writes text");
        let status = self.child.wait().expect("the sink ends");
        assert!(status.success(), "the sink ended with {status}");
        rest.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// Runs a dialling role to its end
pub fn dial(peer: &str, role: &str, to: &str, identity: &str, more: &[&str]) -> Output {
    let mut child = Command::new(program(peer))
        .args([role, "--to", to, "--identity", "-"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the peer starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(identity.as_bytes()).expect("the peer reads");
    drop(input);
    child.wait_with_output().expect("the peer ends")
}

/// The report of a role that must succeed
pub fn report(output: &Output) -> Value {
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {words}", output.status);
    serde_json::from_slice(&output.stdout).expect("JSON")
}
