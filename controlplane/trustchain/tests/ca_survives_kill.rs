//! An authority under load is killed with SIGKILL, again and again. Whatever was delivered is in the log afterwards,
//! once and at its place; no serial number comes twice; no two heads disagree; what was revoked stays revoked and
//! a used token stays used. Without a harness, because the killed process is this binary.
//!
//! `STOQ_CA_KILLS`, or the first argument if it is a number, says how often (25 unless told).

#![forbid(unsafe_code)]

mod ca_common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Write, stderr, stdout};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

use ca_common::*;
use rand::Rng;
use stoq_store::journal::{self, Journal, Options};
use stoq_store::named_thread;
use stoq_trustchain::ca::entry::Revoked;
use stoq_trustchain::ca::{Ca, Credential, Entry, IssuedCertificate, fsck};
use stoq_trustchain::log::TreeHead;
use stoq_trustchain::log::sct::key_hash;
use stoq_trustchain::{TokenStore, certificate};

const DEFAULT_KILLS: usize = 25;
/// Kills after which a new authority begins, so that reading a journal stays quick
const KILLS_PER_AUTHORITY: usize = 50;
const TASKS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, directory] = arguments.as_slice()
        && role == "issue-until-killed"
    {
        return issue_until_killed(Path::new(directory));
    }
    // Whatever else the test runner passes (filters, thread counts) does not concern this test.
    let told = arguments.get(1).and_then(|count| count.parse().ok());
    let kills = told.or_else(|| std::env::var("STOQ_CA_KILLS").ok().map(|c| c.parse().unwrap()));
    nothing_delivered_is_ever_lost(kills.unwrap_or(DEFAULT_KILLS));
}

fn say(text: &str) {
    stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn started(directory: &Path, known_heads: Vec<TreeHead>) -> Ca {
    let signer = signer(directory);
    let mut settings = settings(directory, Arc::new(SystemTime::now));
    settings.known_heads = known_heads;
    open(settings, parts(directory, &signer, SystemTime::now())).unwrap().0
}

/// The process that is killed: it says what it has delivered, line by line
fn issue_until_killed(directory: &Path) {
    runtime().block_on(async {
        let ca = started(directory, Vec::new());
        tell("ready");
        let tokens = Arc::new(TokenStore::open(&directory.join("tokens")).unwrap());
        let tasks: Vec<_> =
            (0..TASKS).map(|_| tokio::spawn(work(ca.clone(), tokens.clone()))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn work(ca: Ca, tokens: Arc<TokenStore>) {
    loop {
        let draw: u32 = rand::random_range(0..20);
        match draw {
            0 => enrol(&ca, &tokens).await,
            1 => revoke(&ca).await,
            _ => {
                let mut asked = request("node", &key(), operator());
                asked.subject = Some("alpha".into());
                let issued = ca.issue(asked).await.unwrap();
                delivered(&issued);
                if draw < 6 {
                    let index = issued.leaf_index;
                    let proof = ca.inclusion_proof(index, PATIENCE).await.unwrap().unwrap();
                    let issuer = key_hash(&issued.issuing_der).unwrap();
                    let leaf = &issued.certificate_der;
                    let seen = proof.verify_certificate(leaf, &issuer, ca.log(), u64::MAX);
                    let head = seen.unwrap().head;
                    tell(&format!("head {} {}", head.size, hex(&head.root)));
                }
            }
        }
    }
}

/// A node enrols, and a second use of its token is refused
async fn enrol(ca: &Ca, tokens: &TokenStore) {
    let name = format!("n{:016x}", rand::random::<u64>());
    let token = tokens.create(&grant(&name), SystemTime::now()).unwrap();
    let issued = ca.issue(request("node", &key(), of_token(&token))).await.unwrap();
    delivered(&issued);
    tell(&format!("token {} {}", token.id(), hex(&token.secret[..])));
    let again = ca.issue(request("node", &key(), of_token(&token))).await;
    assert!(again.is_err(), "a token was used twice");
}

async fn revoke(ca: &Ca) {
    let serial: [u8; 16] = rand::random::<u128>().to_be_bytes();
    let revoked = Revoked {
        serial: serial.to_vec(),
        issuer_key_id: ca.authority().key_id().as_bytes().to_vec(),
        ends_at: u64::MAX / 2,
        ..Revoked::default()
    };
    ca.append(vec![Entry::Revoked(revoked)]).await.unwrap();
    tell(&format!("revoked {}", hex(&serial)));
}

fn delivered(issued: &IssuedCertificate) {
    let leaf = hex(&issued.certificate_der);
    tell(&format!("certificate {} {} {leaf}", issued.serial, issued.leaf_index));
}

fn tell(line: &str) {
    // The parent going away is the end as well.
    if stdout().lock().write_all(format!("{line}\n").as_bytes()).is_err() {
        std::process::exit(0);
    }
}

/// What was said by all processes of one authority
#[derive(Default)]
struct Said {
    /// Serial number to leaf index and certificate
    certificates: HashMap<String, (u64, Vec<u8>)>,
    heads: BTreeMap<u64, [u8; 32]>,
    tokens: Vec<(String, [u8; 32])>,
    revoked: Vec<String>,
    ready: usize,
}

impl Said {
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["ready"] => self.ready += 1,
            ["certificate", serial, index, leaf] => {
                let one = (index.parse().unwrap(), unhex(leaf));
                let before = self.certificates.insert((*serial).to_owned(), one);
                assert!(before.is_none(), "serial {serial} was delivered twice");
            }
            ["head", size, root] => {
                let root: [u8; 32] = unhex(root).try_into().unwrap();
                let known = self.heads.entry(size.parse().unwrap()).or_insert(root);
                assert_eq!(*known, root, "two heads of {size} entries");
            }
            ["token", id, secret] => {
                self.tokens.push(((*id).to_owned(), unhex(secret).try_into().unwrap()));
            }
            ["revoked", serial] => self.revoked.push((*serial).to_owned()),
            other => panic!("{other:?}"),
        }
    }

    fn known_heads(&self) -> Vec<TreeHead> {
        self.heads.iter().map(|(size, root)| TreeHead { size: *size, root: *root }).collect()
    }
}

fn nothing_delivered_is_ever_lost(kills: usize) {
    let begun = Instant::now();
    let (mut left, mut certificates, mut heads, mut torn, mut idle) = (kills, 0, 0, 0, 0);
    let (mut tokens, mut revoked) = (0, 0);
    while left > 0 {
        let rounds = left.min(KILLS_PER_AUTHORITY);
        left -= rounds;
        let home = tempfile::tempdir().unwrap();
        let directory = home.path();
        prepare(directory);
        let mut said = Said::default();
        for round in 0..rounds {
            // Some are killed while they open, and while nobody has been answered yet.
            let lines = if round % 6 == 5 { 0 } else { rand::rng().random_range(2..250) };
            let before = said.ready;
            let status = kill_after(directory, lines, &mut said);
            assert!(!status.success() && status.code().is_none(), "{status}");
            idle += usize::from(said.ready == before);
            let report = journal::fsck(&directory.join("ca/journal")).unwrap();
            assert!(report.is_sound(), "{:?}", report.errors);
            torn += usize::from(report.torn_tail.is_some());
            if round % 10 == 9 || round + 1 == rounds {
                runtime().block_on(check(directory, &said));
            }
        }
        certificates += said.certificates.len();
        heads += said.heads.len();
        tokens += said.tokens.len();
        revoked += said.revoked.len();
        say(&format!(
            "{} kills left: {certificates} certificates delivered and logged, {heads} heads seen, \
             {tokens} tokens used once, {revoked} revocations kept, {torn} torn groups, {idle} \
             killed before they were ready, {} s",
            left,
            begun.elapsed().as_secs()
        ));
    }
    assert!(certificates > 5 * kills, "the processes did next to nothing");
}

fn prepare(directory: &Path) {
    let now = SystemTime::now();
    make_authority(directory, "::/0", now);
    let signer = signer(directory);
    create(&settings(directory, Arc::new(SystemTime::now)), &signer).unwrap();
    runtime().block_on(async {
        let ca = started(directory, Vec::new());
        ca.register(registration("node", "alpha", None)).await.unwrap();
        ca.close().await.unwrap();
    });
}

/// Starts a process, lets it say `lines` lines and go on for some moments, kills it, and takes every whole line
fn kill_after(directory: &Path, lines: usize, said: &mut Said) -> ExitStatus {
    let mut child: Child = Command::new(std::env::current_exe().unwrap())
        .arg("issue-until-killed")
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (sender, heard) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut line = String::new();
        while output.read_line(&mut line).unwrap() > 0 {
            if line.ends_with('\n') {
                sender.send(line.trim_end().to_owned()).unwrap();
            }
            line.clear();
        }
    });
    for count in 0..lines {
        match heard.recv_timeout(PATIENCE) {
            Ok(line) => said.take(&line),
            Err(error) => panic!("the process said {count} lines only: {error}"),
        }
    }
    let most = if lines == 0 { 15_000 } else { 40_000 };
    let until = Instant::now() + Duration::from_micros(rand::rng().random_range(0..most));
    while let Ok(line) = heard.recv_timeout(until.saturating_duration_since(Instant::now())) {
        said.take(&line);
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    reader.join().unwrap();
    heard.try_iter().for_each(|line| said.take(&line));
    status
}

/// Opens the authority and asks it, and the world's files, about everything that was said
async fn check(directory: &Path, said: &Said) {
    // It must lead through every head that anybody was shown.
    let ca = started(directory, said.known_heads());
    let newest = ca.status().log_entries;
    if newest > 0 {
        assert!(ca.inclusion_proof(newest - 1, PATIENCE).await.unwrap().is_some());
    }
    let mut places = HashSet::new();
    let authority = ca.authority();
    let (issuer, root) = (authority.certificate_der(), authority.root_der());
    let issuer_hash = key_hash(issuer).unwrap();
    for (at, (serial, (index, leaf))) in said.certificates.iter().enumerate() {
        assert_eq!(ca.leaf_index(serial), Some(*index), "{serial} is not where it was delivered");
        assert!(places.insert(*index), "two certificates at {index}");
        let parsed = certificate::parse(leaf).unwrap();
        assert_eq!(certificate::serial_text(&parsed), *serial);
        // All of the log is read below; a part is proven as anybody would.
        if at % 8 == 0 {
            let proof = ca.inclusion_proof(*index, PATIENCE).await.unwrap().unwrap();
            proof.verify_certificate(leaf, &issuer_hash, ca.log(), u64::MAX).unwrap();
        }
    }
    assert!(!root.is_empty());
    for serial in &said.revoked {
        assert!(ca.is_revoked(serial, &[0; 32]), "{serial} is no longer revoked");
    }
    for (id, secret) in &said.tokens {
        let credential = Credential::Token { id: id.clone(), secret: (*secret).into() };
        let again = ca.issue(request("node", &key(), credential)).await;
        assert!(again.is_err(), "token {id} is good again");
    }
    let log = ca.log().clone();
    ca.close().await.unwrap();
    // Everything else that could be wrong: each entry, each tile, each head of the journal, each serial number.
    let mut serials = HashSet::new();
    let (journal, _) =
        Journal::open(&directory.join("ca/journal"), Options::default(), &named_thread, |entry| {
            if let Entry::Issued(issued) = Entry::decode(entry.kind, entry.payload)? {
                assert!(serials.insert(issued.serial), "a serial number twice in the journal");
            }
            Ok(())
        })
        .unwrap();
    let report = fsck(&directory.join("ca/log"), &log, Some(&journal));
    assert!(report.is_sound(), "{:?}", report.errors);
    assert_eq!(report.entries, serials.len() as u64);
    journal.close().await.unwrap();
}
