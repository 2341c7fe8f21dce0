//! Certificates asked for by an operator, one after the other from several threads, until told to stop.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use stoq_admin::encode_pem;
use stoq_appliance_tests::{Answer, Node};
use stoq_trustchain::{KeyKind, KeyPair, csr};

/// Whom the certificates are for
pub const SUBJECT: &str = "ana";

/// What was asked for and what came
pub struct Issuing<'a> {
    node: &'a Node,
    /// Where keys' requests and certificates go; not on the disk of the authority
    out: PathBuf,
    next: AtomicUsize,
    stop: AtomicBool,
    /// Serial numbers and files of what was delivered
    delivered: Mutex<Vec<(String, PathBuf)>>,
    refused: Mutex<Vec<Answer>>,
}

impl<'a> Issuing<'a> {
    /// Registers the subject, once in the life of the authority
    pub fn register(node: &Node) {
        node.ask(&["ca", "register", "operator", SUBJECT]);
    }

    pub fn new(node: &'a Node, out: &Path) -> Self {
        Self {
            node,
            out: out.to_owned(),
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            delivered: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// The same after a restart: what was delivered before counts
    pub fn going_on(node: &'a Node, out: &Path, delivered: Vec<(String, PathBuf)>) -> Self {
        let next = AtomicUsize::new(std::fs::read_dir(out).unwrap().count());
        Self { next, delivered: Mutex::new(delivered), ..Self::new(node, out) }
    }

    /// Asks for one certificate, for a key of its own
    pub fn one(&self) -> bool {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = |kind: &str| self.out.join(format!("{number}.{kind}"));
        let (request, certificate) = (path("csr"), path("pem"));
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let pem = encode_pem("CERTIFICATE REQUEST", &csr::request(&key).unwrap());
        std::fs::write(&request, pem).unwrap();
        let words = ["certificate", "issue", "--profile", "operator", "--subject", SUBJECT];
        let files = [
            "--request",
            request.to_str().unwrap(),
            "--out",
            certificate.to_str().unwrap(),
            "--json",
        ];
        let answer = self.node.ctl(&[&words[..], &files].concat());
        let good = answer.code == 0;
        if good {
            let serial = answer.json()["serial"].as_str().unwrap().to_owned();
            assert!(certificate.is_file());
            self.delivered.lock().unwrap().push((serial, certificate));
        } else {
            self.refused.lock().unwrap().push(answer);
        }
        good
    }

    /// Asks from several threads until told to stop, while `meanwhile` runs
    pub fn under_load<T>(&self, threads: usize, meanwhile: impl FnOnce() -> T) -> T {
        self.stop.store(false, Ordering::Release);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while !self.stop.load(Ordering::Acquire) {
                        self.one();
                    }
                });
            }
            // Also where `meanwhile` panics, or its threads would go on for ever.
            let _stopping = Stopping(&self.stop);
            meanwhile()
        })
    }

    pub fn delivered(&self) -> Vec<(String, PathBuf)> {
        self.delivered.lock().unwrap().clone()
    }

    /// The refusals since this was last asked
    pub fn take_refused(&self) -> Vec<Answer> {
        std::mem::take(&mut self.refused.lock().unwrap())
    }

    pub fn refused_count(&self) -> usize {
        self.refused.lock().unwrap().len()
    }
}

/// Says stop when it goes
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
