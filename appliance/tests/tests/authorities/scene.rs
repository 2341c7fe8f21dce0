//! What these tests have in common: one offline root with authorities under it, nodes that talk, and flows that end.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stoq_admin::encode_pem;
use stoq_appliance_tests::{Answer, Node, Stream, stoqctl, wait_until};
use stoq_trustchain::{KeyKind, KeyPair, csr};
use tempfile::TempDir;

pub const PATIENCE: Duration = Duration::from_secs(120);

/// A root that is kept apart
pub struct Root {
    directory: TempDir,
    fingerprint: String,
}

impl Root {
    pub fn make() -> Self {
        let directory = tempfile::Builder::new().prefix("stoq-test-root-").tempdir().unwrap();
        let at = directory.path().display().to_string();
        stoqctl(&["root", "init", "--directory", &at, "--offline"]);
        let said = stoqctl(&["root", "fingerprint", "--directory", &at, "--json"]).json();
        let fingerprint = said["fingerprint"].as_str().unwrap().to_owned();
        Self { directory, fingerprint }
    }

    /// Certifies the authority of a node that was not started yet
    pub fn certify(&self, node: &Node) {
        let at = |name: &str| self.directory.path().join(name).display().to_string();
        let authority = node.state().join("authority").display().to_string();
        let (request, issuing) =
            (at(&format!("{}.csr", node.name())), at(&format!("{}.pem", node.name())));
        let (root, root_file) = (at(""), at("root.pem"));
        let there = ["--directory", &authority];
        stoqctl(&[&["root", "request-issuing", "--out", &request][..], &there].concat());
        let signed = ["--request", &request, "--out", &issuing];
        stoqctl(&[&["root", "sign-issuing", "--directory", &root][..], &signed].concat());
        let pin = ["--root", &root_file, "--fingerprint", &self.fingerprint];
        let files = [&["root", "install-issuing", "--certificate", &issuing][..], &pin].concat();
        stoqctl(&[&files[..], &there].concat());
    }
}

/// The serial number of a node's certificate
pub fn serial(node: &Node) -> String {
    node.ask(&["node", "show"])["certificate"]["serial"].as_str().unwrap().to_owned()
}

/// The authorities a node knows, by name
pub fn known(node: &Node) -> Vec<String> {
    let listed = node.ask(&["ca", "authorities"]);
    let listed = listed["authorities"].as_array().unwrap();
    listed.iter().map(|one| one["instance"].as_str().unwrap().to_owned()).collect()
}

/// Waits until a node knows these authorities and has the deny-list of each
pub fn knows(node: &Node, authorities: &[&str]) {
    let what = format!("{} knows {authorities:?}", node.name());
    wait_until(&what, PATIENCE, || {
        let has_list = |name: &&str| {
            node.name() == *name || node.state().join("deny-list").join(name).exists()
        };
        (known(node) == authorities && authorities.iter().all(has_list)).then_some(())
    });
}

/// A flow to the echo of a node, which is attached for it, and answers
pub fn talking(from: &Node, to: &Node) -> Stream {
    from.ask(&["node", "add", to.name(), &to.stoq_address()]);
    let at = from.attach(&format!("echo@{}", to.name()), "[::1]:0");
    answering(&at, &format!("{} and {} talk", from.name(), to.name()))
}

/// A flow through what is attached at a socket, once one answers
pub fn answering(at: &str, what: &str) -> Stream {
    wait_until(what, PATIENCE, || {
        let mut stream = Stream::connect(at).ok()?;
        answers(&mut stream).then_some(stream)
    })
}

/// Sends five octets through the flow and gets them back
pub fn answers(stream: &mut Stream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut back).is_ok() && back == *b"hello"
}

/// When the program at this end of a flow sees that it is over
pub fn cut(mut stream: Stream) -> std::thread::JoinHandle<Instant> {
    std::thread::spawn(move || {
        let mut octet = [0; 1];
        // An end or a reset: either way there is nothing more.
        let last = stream.read(&mut octet);
        let late = matches!(&last, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!late && !matches!(last, Ok(1)), "the flow of a revoked peer lives on: {last:?}");
        Instant::now()
    })
}

/// A person with a key, and the certificate they are to have
pub struct Person {
    pub key: PathBuf,
    pub request: PathBuf,
    pub certificate: PathBuf,
}

impl Person {
    pub fn new(name: &str, directory: &Path) -> Self {
        let at = |kind: &str| directory.join(format!("{name}.{kind}"));
        let person = Self { key: at("key"), request: at("csr"), certificate: at("pem") };
        let key = KeyPair::load_or_create(&person.key, KeyKind::P256).unwrap();
        let pem = encode_pem("CERTIFICATE REQUEST", &csr::request(&key).unwrap());
        std::fs::write(&person.request, pem).unwrap();
        person
    }

    /// An operator, registered and certified at the authority itself
    pub fn operator(name: &str, authority: &Node, directory: &Path) -> Self {
        let person = Self::new(name, directory);
        authority.ask(&["ca", "register", "operator", name]);
        let issued = person.certified("operator", name, authority, &[]);
        assert_eq!(issued.code, 0, "{issued:?}");
        person
    }

    /// Has a certificate issued for this key
    pub fn certified(&self, profile: &str, subject: &str, through: &Node, more: &[&str]) -> Answer {
        let (request, out) = (self.request.to_str().unwrap(), self.certificate.to_str().unwrap());
        let words = ["certificate", "issue", "--profile", profile, "--subject", subject];
        let files = ["--request", request, "--out", out, "--json"];
        through.ctl(&[&words[..], &files, more].concat())
    }

    /// The words with which this person gives an order to a node's authority
    pub fn at<'a>(&'a self, authority: &'a Node) -> [&'a str; 6] {
        let (certificate, key) = (self.certificate.to_str().unwrap(), self.key.to_str().unwrap());
        ["--at", authority.name(), "--operator", certificate, "--operator-key", key]
    }
}
