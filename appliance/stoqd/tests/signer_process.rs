//! `stoqd signer` as a process: an authority's process signs through it and has the key neither in its memory nor
//! in a file; the signing process is killed and comes back; it ends in order; its keys may be in a token. This
//! binary is the test and, with a variable set, the authority's process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boring::pkey::PKey;
use rcgen::{CertificateParams, Issuer};
use stoq_trustchain::log::LogSigner;
use stoq_trustchain::signer::remote::RemoteSettings;
use stoq_trustchain::signer::{
    KeyName, NamedKey, RemoteSigner, Signer, TbsCapture, block_on, signed_object,
};
use stoq_trustchain::{KeyKind, KeyPair, csr};

const AUTHORITY: &str = "STOQ_TEST_AUTHORITY_PROCESS";
/// Octets of memory read at once; needles across two reads are found by reading some twice
const WINDOW: usize = 1 << 20;
const OVERLAP: usize = 256;
/// Time until what only a defect could keep away
const PATIENCE: Duration = Duration::from_secs(180);

fn main() {
    if let Some(directory) = std::env::var_os(AUTHORITY) {
        return authority(Path::new(&directory));
    }
    let tests: [(&str, fn()); 3] = [
        ("the_key_is_in_the_signer_and_nowhere_in_the_authority", the_key_is_not_there),
        ("a_configuration_names_a_token", a_configuration_names_a_token),
        ("what_cannot_be_served_is_said", what_cannot_be_served_is_said),
    ];
    for (name, test) in tests {
        let started = Instant::now();
        test();
        say(&format!("{name} ... ok ({} ms)", started.elapsed().as_millis()));
    }
}

#[expect(clippy::print_stdout, reason = "the report of a test program with a main of its own")]
fn say(line: &str) {
    println!("{line}");
}

/// A child that ends with its handle
struct Process(Child);

impl Process {
    fn signer(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stoqd"));
        command.arg("signer").args(arguments).env_remove("TRUSTCHAIN_MODE");
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Tells it to end; its exit code
    fn terminate(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn own_uid() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

fn connect(socket: &Path) -> RemoteSigner {
    let mut settings = RemoteSettings::new(socket.to_owned(), own_uid());
    settings.timeout = Duration::from_secs(60);
    RemoteSigner::connect(settings).unwrap()
}

/// The authority's process: has 200 certificates signed, keeps them and a mark in memory, and signs one more for
/// each line it is sent
fn authority(directory: &Path) {
    let signer: Arc<dyn Signer> = Arc::new(connect(&directory.join("signer.sock")));
    let issuing = NamedKey::new(Arc::clone(&signer), &KeyName::issuing()).unwrap();
    let log = NamedKey::new(Arc::clone(&signer), &KeyName::log()).unwrap();
    let log = LogSigner::new("log.example/2026", log).unwrap();
    std::fs::write(directory.join("ca/request.csr"), csr::request(&issuing).unwrap()).unwrap();
    let capture = TbsCapture::new(issuing.public().clone());
    let issuer = Issuer::new(CertificateParams::default(), capture);
    let issue = |number: usize| {
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let mut params = CertificateParams::default();
        params.serial_number = Some((number as u64 + 1).into());
        params.signed_by(&key, &issuer).unwrap();
        let tbs = issuer.key().take().unwrap();
        let signature = block_on(signer.sign(issuing.public().name(), tbs.clone()))?;
        block_on(signer.sign(&KeyName::log(), vec![0, 1, 2, 3]))?;
        let certificate = signed_object(&tbs, &signature);
        std::fs::write(directory.join(format!("ca/{number}.der")), &certificate).unwrap();
        Ok::<_, stoq_trustchain::signer::SignerError>(certificate)
    };
    let certificates: Vec<_> = (0..200).map(|number| issue(number).unwrap()).collect();
    let mut mark = [0; 32];
    boring::rand::rand_bytes(&mut mark).unwrap();
    let hex: String = mark.iter().map(|octet| format!("{octet:02x}")).collect();
    say(&format!("{hex} {} {}", certificates.len(), log.verifier().origin()));
    // Kept on the heap, to be found.
    let kept = Box::new(mark);
    for (line, number) in std::io::stdin().lines().zip(certificates.len()..) {
        drop(line.unwrap());
        match issue(number) {
            Ok(_) => say("signed"),
            Err(error) => say(&format!("refused: {error}")),
        }
    }
    std::hint::black_box(&kept);
}

struct Authority {
    process: Process,
    asks: ChildStdin,
    says: BufReader<ChildStdout>,
    mark: Vec<u8>,
}

impl Authority {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(AUTHORITY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let asks = child.stdin.take().unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        let process = Process(child);
        let mut authority = Self { process, asks, says, mark: Vec::new() };
        let line = authority.line();
        let (mark, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest, "200 log.example/2026");
        let octet = |at: usize| u8::from_str_radix(&mark[at..at + 2], 16).unwrap();
        authority.mark = (0..mark.len()).step_by(2).map(octet).collect();
        authority
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn issue(&mut self) -> String {
        self.asks.write_all(b"issue\n").unwrap();
        self.line()
    }
}

/// A key in every shape it could have: the scalar with the highest octet first, as BoringSSL keeps it (the lowest
/// first), in hexadecimal, and the lines of the PEM file
fn needles(file: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let pem = std::fs::read(file).unwrap();
    let key = PKey::private_key_from_pem(&pem).unwrap().ec_key().unwrap();
    let scalar = key.private_key().to_vec_padded(32).unwrap();
    let reversed = scalar.iter().rev().copied().collect();
    let hex: String = scalar.iter().map(|octet| format!("{octet:02x}")).collect();
    let lines: Vec<_> = std::str::from_utf8(&pem).unwrap().lines().collect();
    // The first line has the beginning of the scalar, the second its end.
    vec![
        ("scalar", scalar),
        ("reversed", reversed),
        ("hexadecimal", hex.into_bytes()),
        ("pem 1", lines[1].into()),
        ("pem 2", lines[2].into()),
    ]
}

/// Which of the needles are in a process's memory, and how many octets were looked at
fn in_memory(pid: u32, needles: &[(&'static str, Vec<u8>)]) -> (Vec<&'static str>, usize) {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"))
        .unwrap_or_else(|error| panic!("the memory of {pid} cannot be read: {error}"));
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let (mut found, mut looked_at) = (Vec::new(), 0);
    let mut window = vec![0; WINDOW + OVERLAP];
    for map in maps.lines() {
        let mut fields = map.split_whitespace();
        let (range, mode) = (fields.next().unwrap(), fields.next().unwrap());
        let special =
            ["[vvar]", "[vvar_vclock]", "[vsyscall]"].contains(&fields.next_back().unwrap_or(""));
        if !mode.starts_with('r') || special {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let parse = |text| u64::from_str_radix(text, 16).unwrap();
        let (mut at, end) = (parse(from), parse(to));
        while at < end {
            let length = window.len().min(usize::try_from(end - at).unwrap());
            // Pages of io_uring and of files that became shorter cannot be read.
            let Ok(read) = memory.read_at(&mut window[..length], at) else { break };
            for (name, needle) in needles {
                if contains(&window[..read], needle) {
                    found.push(*name);
                }
            }
            looked_at += read;
            if read == 0 || at + read as u64 >= end {
                break;
            }
            at += read.saturating_sub(OVERLAP).max(1) as u64;
        }
    }
    found.sort_unstable();
    found.dedup();
    (found, looked_at)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|octet| octet == first) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// Every file below a directory, and every regular file that the process has open
fn files_of(pid: u32, directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let open = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    files.extend(open.filter(|path| path.is_file()));
    files
}

fn the_key_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let text = |name: &str| at(name).display().to_string();
    std::fs::create_dir(at("ca")).unwrap();
    let (socket, keys) = (text("signer.sock"), text("keys"));
    let arguments =
        ["--socket", &socket, "--keys", &keys, "--create", "issuing", "--create", "log"];
    let arguments = [&arguments[..], &["--allow-tracing"]].concat();
    let signer = Process::signer(&arguments);
    let mut authority = Authority::start(directory.path());
    assert_eq!(authority.issue(), "signed");

    for name in ["issuing", "log"] {
        let needles = needles(&at(&format!("keys/{name}.key")));
        let (found, looked_at) = in_memory(signer.pid(), &needles);
        assert!(found.contains(&"reversed"), "{name}: the signer has its key: {found:?}");
        assert!(looked_at > 1 << 20);
        let (found, looked_at) = in_memory(authority.process.pid(), &needles);
        assert_eq!(found, [""; 0], "{name}: in the authority's memory");
        say(&format!(
            "  {name}: in the signer; not in {looked_at} octets of the authority's memory"
        ));
        let files = files_of(authority.process.pid(), &at("ca"));
        assert!(files.len() > 200, "{}", files.len());
        for file in &files {
            let octets = std::fs::read(file).unwrap();
            for (shape, needle) in &needles {
                assert!(!contains(&octets, needle), "{name} ({shape}) in {}", file.display());
            }
        }
        let kept = std::fs::read(at(&format!("keys/{name}.key"))).unwrap();
        assert!(contains(&kept, &needles[3].1), "a search of files finds a key where one is");
    }
    // The search of the authority's memory does find what is there.
    let mark = [("mark", authority.mark.clone())];
    assert_eq!(in_memory(authority.process.pid(), &mark).0, ["mark"]);

    // The signing process is killed and comes back: the authority goes on without a restart.
    drop(signer);
    assert!(authority.issue().starts_with("refused: the signer is not available"));
    let signer = Process::signer(&arguments);
    let deadline = Instant::now() + PATIENCE;
    while authority.issue() != "signed" {
        assert!(Instant::now() < deadline, "the signer is back and is not used");
    }
    assert_eq!(signer.terminate(), Some(0));
    assert!(!at("signer.sock").exists(), "the socket goes with the process");
}

fn a_configuration_names_a_token() {
    const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
    assert!(Path::new(MODULE).exists(), "{MODULE} is missing: apt-get install softhsm2");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::create_dir(at("tokens")).unwrap();
    let tokens = format!("directories.tokendir = {}\nlog.level = ERROR\n", at("tokens").display());
    std::fs::write(at("softhsm2.conf"), tokens).unwrap();
    let initialised = Command::new("softhsm2-util")
        .args([
            "--init-token",
            "--free",
            "--label",
            "stoq",
            "--so-pin",
            "12345678",
            "--pin",
            "87654321",
        ])
        .env("SOFTHSM2_CONF", at("softhsm2.conf"))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(initialised.success());
    let pin = at("pin");
    std::fs::write(&pin, "87654321\n").unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&pin, private).unwrap();
    let text = format!(
        "socket = '{}'\ncreate = ['issuing', 'log']\nworkers = 3\n[pkcs11]\nmodule = '{MODULE}'\n\
         token = 'stoq'\npin_file = '{}'\n",
        at("signer.sock").display(),
        pin.display()
    );
    std::fs::write(at("signer.toml"), text).unwrap();
    let start = || {
        Process(
            Command::new(env!("CARGO_BIN_EXE_stoqd"))
                .arg("signer")
                .arg("--config")
                .arg(at("signer.toml"))
                .env("SOFTHSM2_CONF", at("softhsm2.conf"))
                .env("TRUSTCHAIN_MODE", "production")
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    };
    let signer = start();
    let remote = connect(&at("signer.sock"));
    let sign = || block_on(remote.sign(&KeyName::issuing(), vec![0x30, 0]));
    assert!(sign().is_ok());
    let status = block_on(remote.status()).unwrap();
    assert_eq!((status.backend.as_str(), status.workers), ("remote pkcs11", 3));
    let refused = block_on(remote.create_key(&KeyName::new("log-2").unwrap())).unwrap_err();
    assert!(refused.to_string().contains("--create-keys"), "{refused}");
    // The same token, another process.
    assert_eq!(signer.terminate(), Some(0));
    let _signer = start();
    let deadline = Instant::now() + PATIENCE;
    while sign().is_err() {
        assert!(Instant::now() < deadline, "the token is back and is not used");
        std::thread::yield_now();
    }
}

fn what_cannot_be_served_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s").display().to_string();
    let keys = directory.path().join("keys").display().to_string();
    let refusal = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_stoqd"))
            .arg("signer")
            .args(arguments)
            .env_remove("TRUSTCHAIN_MODE")
            .output()
            .unwrap();
        assert_eq!(output.status.code().map(|code| code != 0), Some(true));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refusal(&["--socket", &socket, "--keys", &keys]).contains("--create issuing"));
    assert!(refusal(&["--keys", &keys]).contains("--socket"));
    assert!(
        refusal(&["--socket", &socket, "--keys", &keys, "--create", "root"])
            .contains("no name of a key")
    );
    assert!(refusal(&["--config", "/nowhere/signer.toml"]).contains("/nowhere/signer.toml"));
}
