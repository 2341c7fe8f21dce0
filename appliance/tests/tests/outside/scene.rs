//! Where the outside tests run: the interpreter, the other programs, and an authority to be judged.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use stoq_appliance_tests::{Node, Options, program};
use tempfile::TempDir;

/// Longest time one of the other programs may take
const PATIENCE_SECONDS: &str = "240";

/// What a program said, and how it ended
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Said {
    /// The one JSON object it printed
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The same, of a program that must have succeeded
    pub fn good(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// Runs a program of this host. One that is missing is a failure with its package's name, never a test passed over.
pub fn run(name: &str, arguments: &[&str]) -> Said {
    let mut command = Command::new("timeout");
    command.arg(PATIENCE_SECONDS).arg(name).args(arguments);
    let said = Said::from(command.output().expect("coreutils are installed"));
    assert_ne!(said.code, 127, "{name} is missing: deploy/test installs it ({said:?})");
    said
}

/// Runs the product's own command line, which is not asked about a daemon
pub fn stoqctl(arguments: &[&str]) -> Said {
    run(program("stoqctl").to_str().expect("a path in UTF-8"), arguments)
}

/// The directory of this crate's Python programs
pub fn outside(file: &str) -> String {
    format!("{}/outside/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// The verifier of the transparency log
pub fn verify_log() -> String {
    format!("{}/../../deploy/verify-log", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a Python program with the packages of interop/requirements.txt
pub fn python(arguments: &[&str]) -> Said {
    run(interpreter().to_str().expect("a path in UTF-8"), &[&["-B"][..], arguments].concat())
}

/// A program beside the interpreter, such as a linter
pub fn beside_python(name: &str) -> String {
    interpreter().with_file_name(name).to_str().expect("a path in UTF-8").to_owned()
}

fn interpreter() -> PathBuf {
    let Some(python) = std::env::var_os("STOQ_INTEROP_PYTHON") else {
        panic!(
            "STOQ_INTEROP_PYTHON must name a Python with the packages of \
             appliance/tests/interop/requirements.txt; deploy/test does this"
        );
    };
    PathBuf::from(python)
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A root and an issuing authority for `fd77::/48`, made by the product's command line for a key that OpenSSL made:
/// the key is at hand, so that bad certificates can be signed with it
pub struct Hierarchy {
    pub directory: TempDir,
}

impl Hierarchy {
    pub fn make() -> Self {
        let hierarchy = Self { directory: tempfile::tempdir().expect("a directory") };
        let path = |name: &str| text(&hierarchy.path(name)).to_owned();
        let root = path("root");
        stoqctl(&["root", "init", "--directory", &root, "--offline"]).good();
        hierarchy.request("issuing", "prime256v1");
        let signed = hierarchy.sign("issuing");
        assert_eq!(signed.code, 0, "{signed:?}");
        hierarchy
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A key and a request for it, as OpenSSL makes them by default
    pub fn request(&self, name: &str, curve: &str) {
        let (key, request) = (self.path(&format!("{name}.key")), self.path(&format!("{name}.csr")));
        let group = format!("ec_paramgen_curve:{curve}");
        run("openssl", &["genpkey", "-algorithm", "EC", "-pkeyopt", &group, "-out", text(&key)])
            .good();
        let subject = format!("/CN={name}");
        let made = ["req", "-new", "-key", text(&key), "-subj", &subject];
        run("openssl", &[&made[..], &["-outform", "DER", "-out", text(&request)]].concat()).good();
    }

    /// Has the root sign a request
    pub fn sign(&self, name: &str) -> Said {
        let (root, request) = (self.path("root"), self.path(&format!("{name}.csr")));
        let out = self.path(&format!("{name}.pem"));
        stoqctl(&[
            "root",
            "sign-issuing",
            "--directory",
            text(&root),
            "--request",
            text(&request),
            "--out",
            text(&out),
            "--permit",
            "fd77::/48",
            "--json",
        ])
    }
}

/// A daemon with its authority
pub struct Authority {
    pub node: Node,
    /// Where keys and certificates go
    pub files: TempDir,
}

impl Authority {
    pub fn start(options: &Options) -> Self {
        let node = Node::start("alpha", options);
        let authority = Self { node, files: tempfile::tempdir().expect("a directory") };
        let key = authority.path("log.pem");
        let said = authority.node.ctl(&["log", "key", "--out", text(&key)]);
        assert_eq!(said.code, 0, "{said:?}");
        authority
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// The transparency log's published files
    pub fn log(&self) -> PathBuf {
        self.node.state().join("authority/ca/log")
    }

    pub fn root(&self) -> PathBuf {
        self.node.state().join("authority/root.pem")
    }

    /// Where the authority serves HTTPS
    pub fn https(&self) -> String {
        let file = std::fs::read_to_string(self.node.config()).expect("the configuration");
        let line = file.lines().find_map(|line| line.strip_prefix("enrollment = "));
        line.expect("listen.enrollment is set").trim_matches('"').to_owned()
    }

    /// Issues a certificate for a new key of OpenSSL's; the chain is written to `<name>.pem`
    pub fn issue(&self, profile: &str, subject: &str, name: &str) -> Value {
        let (key, request) = (self.path(&format!("{name}.key")), self.path(&format!("{name}.csr")));
        run(
            "openssl",
            &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", text(&key)],
        )
        .good();
        let made = ["req", "-new", "-key", text(&key), "-subj", "/", "-out", text(&request)];
        run("openssl", &made).good();
        let out = self.path(&format!("{name}.pem"));
        self.node.ask(&[
            "certificate",
            "issue",
            "--profile",
            profile,
            "--subject",
            subject,
            "--request",
            text(&request),
            "--out",
            text(&out),
        ])
    }

    /// Registers something and issues a certificate for it
    pub fn certify(&self, profile: &str, subject: &str, more: &[&str]) -> Value {
        self.node.ask(&[&["ca", "register", profile, subject][..], more].concat());
        self.issue(profile, subject, subject)
    }

    /// What the verifier of the log says
    pub fn verify(&self, log: &str, more: &[&str]) -> Said {
        let (program, key) = (verify_log(), self.path("log.pem"));
        let plain = [program.as_str(), "--log", log, "--key", text(&key), "--json"];
        python(&[&plain[..], more].concat())
    }
}
