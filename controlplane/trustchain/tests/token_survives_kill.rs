//! A process uses a token and is killed with SIGKILL before it can do anything with the certificate it was
//! about to issue. The token stays used. Without a harness, because the killed process is this binary too.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stoq_interface::NodeId;
use stoq_trustchain::token::{DEFAULT_LIFETIME, TokenError};
use stoq_trustchain::{Fingerprint, JoinToken, Subject, TokenGrant, TokenStore};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.as_slice() {
        [_, role, directory, token] if role == "redeem-and-wait" => {
            redeem_and_wait(Path::new(directory), &token.parse().unwrap());
        }
        // Whatever the test runner passes (filters, thread counts) does not concern one test.
        _ => a_used_token_stays_used_after_a_kill(),
    }
}

fn redeem_and_wait(directory: &Path, token: &JoinToken) {
    let store = TokenStore::open(directory).unwrap();
    store.redeem(&token.id(), &token.secret, now()).unwrap();
    std::io::stdout().write_all(b"redeemed\n").unwrap();
    // Ends with the parent at the latest.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn a_used_token_stays_used_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let store = TokenStore::open(directory.path()).unwrap();
    let grant = TokenGrant {
        subject: Subject::new(NodeId::new("beta").unwrap(), []).unwrap(),
        ca_address: "[::1]:8443".parse().unwrap(),
        ca_node: NodeId::new("alpha").unwrap(),
        ca_stoq_address: "[::1]:8444".parse().unwrap(),
        root_fingerprint: Fingerprint::of(b"root"),
        lifetime: DEFAULT_LIFETIME,
    };
    let token = store.create(&grant, now()).unwrap();
    assert!(store.check(&token.id(), &token.secret, now()).is_ok());

    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("redeem-and-wait")
        .arg(directory.path())
        .arg(token.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "redeemed\n");
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());

    let restarted = TokenStore::open(directory.path()).unwrap();
    let second = restarted.redeem(&token.id(), &token.secret, now());
    assert!(matches!(second, Err(TokenError::Used)), "{second:?}");
}
