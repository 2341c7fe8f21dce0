//! The pool over soft keys, and over a token that fails in every way it can.

use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::signer::testing::{Fake, soft};
use crate::signer::{NamedKey, block_on};

fn sequence() -> Vec<u8> {
    vec![0x30, 3, 2, 1, 5]
}

fn status(pool: &Pool) -> SignerStatus {
    block_on(pool.status()).unwrap()
}

#[test]
fn soft_keys_sign_survive_and_are_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let pool = soft(directory.path());
    let (issuing, log) = (KeyName::issuing(), KeyName::log());
    let key = pool.key(&issuing).unwrap();
    let signature = block_on(pool.sign(&issuing, sequence())).unwrap();
    assert!(key.verifies(&sequence(), &signature));
    assert!(!pool.key(&log).unwrap().verifies(&sequence(), &signature));
    let second = KeyName::new("issuing-2").unwrap();
    let made = block_on(pool.create_key(&second)).unwrap();
    assert_eq!(pool.key(&second).unwrap(), made);
    assert!(block_on(pool.sign(&second, sequence())).is_ok());
    assert_eq!(block_on(pool.create_key(&second)), Err(SignerError::Exists("issuing-2".into())));
    let named: Vec<_> = status(&pool).keys.into_iter().map(|key| key.name).collect();
    assert_eq!(named, [issuing.clone(), second.clone(), log]);
    assert!(status(&pool).healthy);
    drop(pool);
    let again = soft(directory.path());
    assert_eq!((again.key(&issuing).unwrap(), again.key(&second).unwrap()), (key, made));
}

#[test]
fn a_key_signs_only_what_it_is_for() {
    let directory = tempfile::tempdir().unwrap();
    let pool = soft(directory.path());
    let (issuing, log) = (KeyName::issuing(), KeyName::log());
    let sign = |name: &KeyName, message: &[u8]| block_on(pool.sign(name, message.to_vec()));
    assert!(sign(&issuing, b"stoq-trustchain deny-list v1").is_ok());
    assert!(sign(&log, &[0, 0, 1, 2, 3]).is_ok());
    assert_eq!(sign(&log, &sequence()), Err(SignerError::Purpose("log".into())));
    for message in [&[0, 1, 2][..], &[0x30, 3, 2, 1], b"", b"stoq"] {
        assert_eq!(sign(&issuing, message), Err(SignerError::Purpose("issuing".into())));
    }
    let unknown = KeyName::new("log-2").unwrap();
    assert_eq!(sign(&unknown, &[0, 1]), Err(SignerError::UnknownKey("log-2".into())));
    let too_long = vec![0; MESSAGE_LIMIT_BYTES + 1];
    assert_eq!(sign(&log, &too_long), Err(SignerError::TooLong(MESSAGE_LIMIT_BYTES + 1)));
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let fake = Fake::new();
    let pool = fake.pool(1, 2);
    fake.levers.hold(true);
    let name = KeyName::issuing();
    // One is in the worker's hands as soon as it takes it; two wait.
    let first = pool.sign(&name, sequence());
    while status(&pool).queued > 0 {
        std::thread::yield_now();
    }
    let waiting = [pool.sign(&name, sequence()), pool.sign(&name, sequence())];
    match block_on(pool.sign(&name, sequence())) {
        Err(SignerError::Busy { queued: 2, retry_after }) => assert!(!retry_after.is_zero()),
        other => panic!("{other:?}"),
    }
    fake.levers.hold(false);
    assert!(block_on(first).is_ok());
    for one in waiting {
        assert!(block_on(one).is_ok());
    }
    let after = status(&pool);
    assert_eq!((after.signatures, after.refused_busy, after.failures), (3, 1, 0));
}

#[test]
fn a_wrong_signature_is_not_released() {
    let fake = Fake::new();
    let pool = fake.pool(1, 8);
    fake.levers.wrong_key.store(true, SeqCst);
    let name = KeyName::issuing();
    let refused = block_on(pool.sign(&name, sequence()));
    assert_eq!(refused, Err(SignerError::Unverified("issuing".into())));
    assert!(!status(&pool).healthy);
    fake.levers.wrong_key.store(false, SeqCst);
    assert!(block_on(pool.sign(&name, sequence())).is_ok());
    assert!(status(&pool).healthy);
}

#[test]
fn a_key_that_does_not_sign_is_an_error_at_the_start() {
    let fake = Fake::new();
    fake.levers.wrong_key.store(true, SeqCst);
    let refused = Pool::start(Arc::new(fake.clone()), PoolSettings::default()).unwrap_err();
    assert_eq!(refused, SignerError::Unverified("issuing".into()));
    fake.levers.away.store(true, SeqCst);
    let refused = Pool::start(Arc::new(fake), PoolSettings::default()).unwrap_err();
    assert!(refused.is_transient(), "{refused}");
}

#[test]
fn a_lost_session_is_opened_again_and_nobody_notices() {
    let fake = Fake::new();
    let pool = fake.pool(2, 8);
    let opened = fake.levers.opened.load(SeqCst);
    fake.levers.lose.store(1, SeqCst);
    assert!(block_on(pool.sign(&KeyName::issuing(), sequence())).is_ok());
    assert_eq!(fake.levers.opened.load(SeqCst), opened + 1);
    assert_eq!((status(&pool).reopened, status(&pool).failures), (1, 0));
}

#[test]
fn a_token_that_was_away_is_used_again_without_a_restart() {
    let fake = Fake::new();
    let pool = fake.pool(1, 8);
    let name = KeyName::issuing();
    fake.levers.away.store(true, SeqCst);
    let refused = block_on(pool.sign(&name, sequence())).unwrap_err();
    assert!(refused.is_transient() && refused.to_string().contains("away"), "{refused}");
    assert!(!status(&pool).healthy);
    fake.levers.away.store(false, SeqCst);
    // The worker comes back by itself, without a request.
    let deadline = Instant::now() + Duration::from_secs(20);
    while status(&pool).reopened == 0 {
        assert!(Instant::now() < deadline, "the token is back and was not asked");
        std::thread::yield_now();
    }
    assert!(block_on(pool.sign(&name, sequence())).is_ok());
    assert!(status(&pool).healthy);
}

#[test]
fn self_tests_run_without_requests() {
    let fake = Fake::new();
    let settings = PoolSettings { workers: 1, queue: 8, self_test_every: Duration::from_millis(1) };
    let pool = Pool::start(Arc::new(fake.clone()), settings).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while status(&pool).self_tests < 3 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    fake.levers.wrong_key.store(true, SeqCst);
    while status(&pool).healthy {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert!(status(&pool).last_error.unwrap().contains("issuing"));
}

#[test]
fn what_is_queued_at_the_end_is_still_signed() {
    let fake = Fake::new();
    let pool = fake.pool(2, 64);
    let pending: Vec<_> = (0..50).map(|_| pool.sign(&KeyName::issuing(), sequence())).collect();
    drop(pool);
    for one in pending {
        assert!(block_on(one).is_ok());
    }
}

#[test]
fn one_key_under_two_names_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(soft(directory.path()));
    let copied = directory.path().join("log.key");
    std::fs::remove_file(&copied).unwrap();
    std::fs::copy(directory.path().join("issuing.key"), &copied).unwrap();
    let soft = crate::signer::SoftSettings::read(directory.path()).unwrap();
    let refused = Pool::start(Arc::new(soft), PoolSettings::default()).unwrap_err();
    assert!(refused.to_string().contains("same key"), "{refused}");
}

#[test]
fn weak_exposed_and_foreign_key_files_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("issuing.key");
    let read = || crate::signer::SoftSettings::read(directory.path()).unwrap_err().to_string();
    let write = |key: &crate::keys::KeyPair| {
        let pem = key.boring_key().private_key_to_pem_pkcs8().unwrap();
        crate::files::replace(&path, 0o600, &pem).unwrap();
    };
    let weak = crate::keys::KeyPair::from_scalar(crate::keys::KeyKind::P256, &[1, 2, 3]).unwrap();
    write(&weak);
    assert!(read().contains("weak key"), "{}", read());
    write(&crate::keys::KeyPair::generate(crate::keys::KeyKind::P384).unwrap());
    assert!(read().contains("P-256"), "{}", read());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(read().contains("chmod 600"), "{}", read());
}

#[test]
fn a_named_key_is_a_log_key_and_makes_requests() {
    let directory = tempfile::tempdir().unwrap();
    let pool: Arc<dyn Signer> = soft(directory.path());
    let issuing = NamedKey::new(Arc::clone(&pool), &KeyName::issuing()).unwrap();
    let csr = crate::csr::request(&issuing).unwrap();
    let proven = crate::csr::ProvenKey::from_csr(&csr).unwrap();
    assert_eq!(proven.spki_der(), issuing.public().spki_der());
    let log = NamedKey::new(Arc::clone(&pool), &KeyName::log()).unwrap();
    assert!(crate::log::LogSigner::new("log.example/2026", log).is_ok());
}
