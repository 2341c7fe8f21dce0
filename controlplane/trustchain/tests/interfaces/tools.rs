//! curl and openssl as they come with the system: the clients that were not written here.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

/// What a program printed
pub struct Said {
    pub ok: bool,
    pub out: Vec<u8>,
    pub err: String,
}

impl Said {
    fn of(output: Output) -> Self {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { ok: output.status.success(), out: output.stdout, err }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

/// Runs a program; panics where it is not installed
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Said {
    let output = Command::new(program).args(arguments).output();
    Said::of(output.unwrap_or_else(|error| panic!("{program}: {error}; install {program}")))
}

/// `openssl`, which has to succeed
pub fn openssl<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Said {
    let said = run("openssl", arguments);
    assert!(said.ok, "openssl: {}", said.err);
    said
}

/// A new key on a curve and a request for it in PEM, as a stranger would make them
pub fn key_and_request(directory: &Path, name: &str, curve: &str) {
    let (key, request) =
        (directory.join(format!("{name}.key")), directory.join(format!("{name}.csr")));
    openssl([
        OsStr::new("req"),
        OsStr::new("-new"),
        OsStr::new("-newkey"),
        OsStr::new("ec"),
        OsStr::new("-pkeyopt"),
        OsStr::new(&format!("ec_paramgen_curve:{curve}")),
        OsStr::new("-nodes"),
        OsStr::new("-subj"),
        OsStr::new("/CN=somebody.example"),
        OsStr::new("-keyout"),
        key.as_os_str(),
        OsStr::new("-out"),
        request.as_os_str(),
    ]);
}

/// Takes the certificates out of an EST answer (base64 of PKCS #7), in PEM
pub fn certificates_of(directory: &Path, answer: &[u8]) -> String {
    let (base64, der) = (directory.join("answer.b64"), directory.join("answer.p7"));
    std::fs::write(&base64, answer).unwrap();
    openssl([
        OsStr::new("base64"),
        OsStr::new("-d"),
        OsStr::new("-in"),
        base64.as_os_str(),
        OsStr::new("-out"),
        der.as_os_str(),
    ]);
    openssl([
        OsStr::new("pkcs7"),
        OsStr::new("-inform"),
        OsStr::new("DER"),
        OsStr::new("-print_certs"),
        OsStr::new("-in"),
        der.as_os_str(),
    ])
    .text()
}
