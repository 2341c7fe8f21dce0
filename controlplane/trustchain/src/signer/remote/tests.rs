//! Both ends over a real socket, and ends that do not keep to the protocol.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::signer::testing::{Fake, soft};
use crate::signer::{KeyName, Signer, SignerError, block_on};

/// A signing process in a thread
struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Serving {
    fn start(socket: &Path, uids: &[u32], signer: Arc<dyn Signer>) -> Self {
        let settings = ServerSettings {
            socket: socket.to_owned(),
            allowed_uids: uids.to_vec(),
            create_keys: true,
        };
        let (stop, stopped) = oneshot::channel();
        let (bound, ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let server = SignerServer::bind(settings, signer).unwrap();
                bound.send(()).unwrap();
                server.run(async { drop(stopped.await) }).await;
            });
        });
        ready.recv().unwrap();
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

struct House {
    directory: TempDir,
}

impl House {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("signer.sock")
    }

    fn uid(&self) -> u32 {
        std::fs::metadata(self.directory.path()).unwrap().uid()
    }

    fn serve(&self) -> Serving {
        let signer = soft(&self.directory.path().join("keys"));
        Serving::start(&self.socket(), &[self.uid()], signer)
    }

    fn settings(&self) -> RemoteSettings {
        let mut settings = RemoteSettings::new(self.socket(), self.uid());
        settings.timeout = Duration::from_secs(5);
        settings
    }

    fn connect(&self) -> Result<RemoteSigner, SignerError> {
        RemoteSigner::connect(self.settings())
    }
}

fn sequence() -> Vec<u8> {
    vec![0x30, 3, 2, 1, 5]
}

#[test]
fn a_remote_signer_is_a_signer() {
    let house = House::new();
    let _serving = house.serve();
    let remote = house.connect().unwrap();
    let (issuing, log) = (KeyName::issuing(), KeyName::log());
    assert_eq!(remote.keys().len(), 2);
    let signature = block_on(remote.sign(&issuing, sequence())).unwrap();
    assert!(remote.key(&issuing).unwrap().verifies(&sequence(), &signature));
    let made = block_on(remote.create_key(&KeyName::new("log-2").unwrap())).unwrap();
    assert_eq!(remote.key(made.name()), Some(made.clone()));
    assert!(block_on(remote.sign(made.name(), vec![0, 1, 9])).is_ok());
    let again = block_on(remote.create_key(made.name()));
    assert_eq!(again, Err(SignerError::Exists("log-2".into())));
    assert_eq!(block_on(remote.sign(&log, sequence())), Err(SignerError::Purpose("log".into())));
    let status = block_on(remote.status()).unwrap();
    assert_eq!((status.backend.as_str(), status.signatures), ("remote soft", 2));
    // A CRL of a megabyte goes through as well.
    let mut crl = vec![0x30, 0x83, 0x10, 0, 0];
    crl.resize(5 + 0x10_0000, 7);
    assert!(block_on(remote.sign(&issuing, crl)).is_ok());
}

#[test]
fn many_at_once_are_answered_each_with_its_own() {
    let house = House::new();
    let _serving = house.serve();
    let remote = house.connect().unwrap();
    let key = remote.key(&KeyName::issuing()).unwrap();
    let message = |number: u16| [&[0x30, 4, 2, 2][..], &number.to_be_bytes()].concat();
    let pending: Vec<_> =
        (0..1_000).map(|number| remote.sign(key.name(), message(number))).collect();
    let mut released = std::collections::BTreeSet::new();
    for (number, one) in (0..).zip(pending) {
        let signature = block_on(one).unwrap();
        assert!(key.verifies(&message(number), &signature));
        assert!(released.insert(signature));
    }
}

#[test]
fn a_signing_process_that_comes_back_is_used_again_if_it_has_the_same_keys() {
    let house = House::new();
    let serving = house.serve();
    let remote = house.connect().unwrap();
    let name = KeyName::issuing();
    drop(serving);
    let away = block_on(remote.sign(&name, sequence())).unwrap_err();
    assert!(away.is_transient(), "{away}");
    let wait_until = |signs: bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let last = block_on(remote.sign(&name, sequence()));
            match last {
                Ok(_) if signs => return None,
                Err(SignerError::Refused(reason)) if !signs => return Some(reason),
                _ => assert!(Instant::now() < deadline, "{last:?}"),
            }
            std::thread::yield_now();
        }
    };
    let serving = house.serve();
    wait_until(true);
    assert_eq!(block_on(remote.status()).unwrap().reopened, 1);
    drop(serving);
    // Another key under the same name: nothing of it is believed.
    std::fs::remove_file(house.directory.path().join("keys/issuing.key")).unwrap();
    let _serving = house.serve();
    let reason = wait_until(false).unwrap();
    assert!(reason.contains("another key `issuing`"), "{reason}");
}

#[test]
fn only_the_right_users_talk() {
    let house = House::new();
    let signer = soft(&house.directory.path().join("keys"));
    let serving = Serving::start(&house.socket(), &[house.uid() + 1], signer);
    let mode = std::fs::metadata(house.socket()).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o666, "others may connect and are judged by their user");
    let mut settings = house.settings();
    settings.timeout = Duration::from_millis(300);
    let refused = RemoteSigner::connect(settings.clone()).unwrap_err();
    assert!(refused.to_string().contains("does it serve this user"), "{refused}");
    drop(serving);
    let _serving = house.serve();
    assert_eq!(std::fs::metadata(house.socket()).unwrap().mode() & 0o777, 0o600);
    settings.signer_uid += 1;
    let refused = RemoteSigner::connect(settings).unwrap_err();
    assert!(matches!(&refused, SignerError::Refused(reason) if reason.contains("served by user")));
}

#[test]
fn no_process_and_a_silent_process_are_told_in_time() {
    let house = House::new();
    let mut settings = house.settings();
    settings.timeout = Duration::from_millis(200);
    let away = RemoteSigner::connect(settings.clone()).unwrap_err();
    assert!(away.is_transient() && away.to_string().contains("stoqd signer"), "{away}");
    let _silent = std::os::unix::net::UnixListener::bind(house.socket()).unwrap();
    let silent = RemoteSigner::connect(settings).unwrap_err();
    assert!(silent.to_string().contains("does not answer"), "{silent}");
}

#[test]
fn an_answer_that_does_not_come_ends_the_connection_and_not_the_caller() {
    let house = House::new();
    let fake = Fake::new();
    let serving = Serving::start(&house.socket(), &[house.uid()], Arc::new(fake.pool(1, 8)));
    let mut settings = house.settings();
    settings.timeout = Duration::from_millis(200);
    let remote = RemoteSigner::connect(settings).unwrap();
    fake.levers.hold(true);
    let late = block_on(remote.sign(&KeyName::issuing(), sequence())).unwrap_err();
    assert!(late.is_transient() && late.to_string().contains("no answer within"), "{late}");
    fake.levers.hold(false);
    drop(remote);
    drop(serving);
}

#[test]
fn a_full_queue_is_told_across_the_socket() {
    let house = House::new();
    let fake = Fake::new();
    let _serving = Serving::start(&house.socket(), &[house.uid()], Arc::new(fake.pool(1, 1)));
    let remote = house.connect().unwrap();
    fake.levers.hold(true);
    let pending: Vec<_> = (0..8).map(|_| remote.sign(&KeyName::issuing(), sequence())).collect();
    let status = || block_on(remote.status()).unwrap();
    while status().refused_busy < 6 {
        std::thread::yield_now();
    }
    fake.levers.hold(false);
    let outcomes: Vec<_> = pending.into_iter().map(block_on).collect();
    let busy = |outcome: &Result<_, _>| matches!(outcome, Err(SignerError::Busy { queued: 1, .. }));
    let busy = outcomes.iter().filter(|outcome| busy(outcome)).count();
    let signed = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!((6..=7).contains(&busy) && signed == 8 - busy, "{outcomes:?}");
}

#[test]
fn a_socket_in_use_and_a_file_in_the_way_are_refused_and_a_dead_one_is_replaced() {
    let house = House::new();
    let serving = house.serve();
    let bind = |socket: PathBuf| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let settings =
            ServerSettings { socket, allowed_uids: vec![house.uid()], create_keys: false };
        SignerServer::bind(settings, soft(&house.directory.path().join("keys"))).map(drop)
    };
    assert!(matches!(bind(house.socket()), Err(BindError::Live(_))));
    drop(serving);
    assert!(!house.socket().exists());
    drop(std::os::unix::net::UnixListener::bind(house.socket()).unwrap());
    bind(house.socket()).unwrap();
    let file = house.directory.path().join("file");
    std::fs::write(&file, b"precious").unwrap();
    assert!(matches!(bind(file.clone()), Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read(file).unwrap(), b"precious");
}

#[test]
fn a_caller_that_does_not_keep_to_the_protocol_is_cut_off_and_others_are_not() {
    let house = House::new();
    let _serving = house.serve();
    let remote = house.connect().unwrap();
    let hello = [0, 0, 0, 4, 0x12, 2, 8, 1];
    let foreign_version = [0, 0, 0, 4, 0x12, 2, 8, 9];
    let unasked = [0, 0, 0, 2, 0x2a, 0];
    let wrong: [&[u8]; 5] = [
        &[0xff; 64],
        &[0, 0, 0, 3, 0xff, 0xff, 0xff],
        &unasked,
        &[&hello[..], &hello].concat(),
        &[0x7f, 0xff, 0xff, 0xff],
    ];
    for octets in wrong {
        let mut stream = UnixStream::connect(house.socket()).unwrap();
        stream.write_all(octets).unwrap();
        let mut answer = Vec::new();
        // The end of the stream, at once: nothing waits for the rest of a message that is too long.
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    let mut stream = UnixStream::connect(house.socket()).unwrap();
    stream.write_all(&foreign_version).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("speaks version 1"));
    assert!(block_on(remote.sign(&KeyName::issuing(), sequence())).is_ok());
}
