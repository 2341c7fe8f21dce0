//! The PKCS #11 signer against SoftHSM 2 (`apt-get install softhsm2`): keys made in the token, logins lost under
//! load, a restart, imported keys, wrong PINs, two users of one module. The parent makes tokens; the child, whose
//! environment names them, signs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use stoq_trustchain::signer::{
    KeyName, NamedKey, Pkcs11Settings, Pool, PoolSettings, Signer, SignerError, TokenPin, block_on,
};
use stoq_trustchain::{KeyKind, KeyPair, csr};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "87654321";
const CHILD: &str = "STOQ_TEST_PKCS11_CHILD";
/// Time until what only a defect could keep away
const PATIENCE: Duration = Duration::from_secs(180);

fn main() {
    match std::env::var_os(CHILD) {
        None => parent(),
        Some(directory) => child(Path::new(&directory)),
    }
}

fn parent() {
    assert!(Path::new(MODULE).exists(), "{MODULE} is missing: apt-get install softhsm2");
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let configuration = directory.path().join("softhsm2.conf");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    std::fs::write(&configuration, text).unwrap();
    for label in ["made", "imported", "locked"] {
        let arguments = ["--init-token", "--free", "--so-pin", "12345678", "--pin", PIN, "--label"];
        softhsm(&configuration, &arguments, label);
    }
    let key = directory.path().join("outside.pem");
    KeyPair::create(&key, KeyKind::P256).unwrap();
    let import = key.display().to_string();
    let arguments =
        ["--import", &import, "--token", "imported", "--pin", PIN, "--id", "01", "--label"];
    softhsm(&configuration, &arguments, "issuing");
    let child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, directory.path())
        .env("SOFTHSM2_CONF", &configuration)
        .status()
        .unwrap();
    assert!(child.success(), "{child}");
}

fn softhsm(configuration: &Path, arguments: &[&str], label: &str) {
    let output = Command::new("softhsm2-util")
        .args(arguments)
        .arg(label)
        .env("SOFTHSM2_CONF", configuration)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn settings(token: &str, pin: &str, production: bool) -> Pkcs11Settings {
    let pin = TokenPin::new(pin.into());
    Pkcs11Settings { module: PathBuf::from(MODULE), token: token.into(), pin, production }
}

fn pool(token: &str, workers: usize) -> Arc<Pool> {
    let backend = settings(token, PIN, true).open().unwrap();
    let settings = PoolSettings { workers, ..PoolSettings::default() };
    Arc::new(Pool::start(Arc::new(backend), settings).unwrap())
}

fn child(_directory: &Path) {
    let tests: [(&str, fn()); 7] = [
        ("keys_are_made_in_the_token_found_again_and_never_replaced", made_and_found),
        ("logins_lost_under_load_lose_no_signature", logged_out_under_load),
        ("a_token_that_restarts_is_used_again", restarted),
        ("two_users_of_one_module_do_not_disturb_each_other", two_users),
        ("a_key_from_outside_is_refused_in_production", imported),
        ("a_pin_that_became_wrong_is_asked_once", wrong_pin),
        ("an_unknown_token_or_module_is_named", unknown),
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

/// The same shared library once more, without initialising it: what is called here happens to the pools. To be
/// forgotten, since dropping it would finalise the module that they use.
fn other_hand(label: &str) -> (Pkcs11, Slot) {
    let module = Pkcs11::new(MODULE).unwrap();
    let mut slots = module.get_slots_with_token().unwrap().into_iter();
    let is_it = |slot: &Slot| module.get_token_info(*slot).is_ok_and(|info| info.label() == label);
    let slot = slots.find(is_it).unwrap();
    (module, slot)
}

fn made_and_found() {
    let pool = pool("made", 2);
    assert!(pool.keys().is_empty());
    let issuing = block_on(pool.create_key(&KeyName::issuing())).unwrap();
    let log = block_on(pool.create_key(&KeyName::log())).unwrap();
    let again = block_on(pool.create_key(&KeyName::log()));
    assert_eq!(again, Err(SignerError::Exists("log".into())));
    let key = NamedKey::new(Arc::clone(&pool) as Arc<dyn Signer>, &KeyName::issuing()).unwrap();
    let request = csr::request(&key).unwrap();
    // The request is verified by two parsers: it is a signature of this key and no other.
    assert_eq!(csr::ProvenKey::from_csr(&request).unwrap().spki_der(), issuing.spki_der());
    drop((key, pool));
    let found = self::pool("made", 1);
    assert_eq!(found.keys(), [issuing, log]);
}

fn logged_out_under_load() {
    let pool = pool("made", 4);
    let (module, slot) = other_hand("made");
    let session = module.open_ro_session(slot).unwrap();
    let (done, signed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (message, name) = (vec![0, 1, 2, 3], KeyName::log());
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    let outcome = block_on(pool.sign(&name, message.clone()));
                    assert!(outcome.is_ok(), "{outcome:?}");
                    signed.fetch_add(1, Relaxed);
                }
            });
        }
        for logout in 1..=10 {
            let enough = signed.load(Relaxed) + 200;
            while signed.load(Relaxed) < enough {
                assert!(started.elapsed() < PATIENCE, "stuck at logout {logout}");
                std::thread::yield_now();
            }
            // The login of all sessions goes, and with it every handle of a private key.
            session.logout().unwrap();
        }
        done.store(true, Relaxed);
    });
    let took = started.elapsed();
    let status = block_on(pool.status()).unwrap();
    assert!(status.reopened >= 10, "{status:?}");
    assert_eq!((status.failures, status.healthy), (0, true), "{status:?}");
    let rate = signed.load(Relaxed) as f64 / took.as_secs_f64();
    say(&format!(
        "  {} signatures by 4 sessions, {rate:.0} a second, {} sessions opened again",
        signed.load(Relaxed),
        status.reopened
    ));
    std::mem::forget((session, module));
}

fn restarted() {
    let pool = pool("made", 2);
    let name = KeyName::issuing();
    assert!(block_on(pool.sign(&name, vec![0x30, 0])).is_ok());
    // The module is finalised, which ends every session and every handle, as a token that loses its power does.
    let (module, _) = other_hand("made");
    module.finalize().unwrap();
    let away = block_on(pool.sign(&name, vec![0x30, 0])).unwrap_err();
    assert!(away.is_transient(), "{away}");
    // It is back.
    let module = Pkcs11::new(MODULE).unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    std::mem::forget(module);
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = block_on(pool.sign(&name, vec![0x30, 0])) {
        assert!(error.is_transient() && Instant::now() < deadline, "{error}");
        std::thread::yield_now();
    }
    let status = || block_on(pool.status()).unwrap();
    while status().reopened < 2 {
        assert!(Instant::now() < deadline, "{:?}", status());
        std::thread::yield_now();
    }
    assert!(status().healthy);
}

fn two_users() {
    let (one, two) = (pool("made", 1), pool("made", 1));
    assert!(block_on(one.sign(&KeyName::log(), vec![0, 1])).is_ok());
    drop(one);
    // Its sessions were closed; the login is held by the one that is never closed.
    assert!(block_on(two.sign(&KeyName::log(), vec![0, 1])).is_ok());
}

fn imported() {
    let backend = Arc::new(settings("imported", PIN, true).open().unwrap());
    let refused = Pool::start(backend, PoolSettings::default()).unwrap_err();
    assert!(refused.to_string().contains("outside its token"), "{refused}");
    let backend = Arc::new(settings("imported", PIN, false).open().unwrap());
    let pool = Pool::start(backend, PoolSettings::default()).unwrap();
    assert!(block_on(pool.sign(&KeyName::issuing(), vec![0x30, 0])).is_ok());
}

fn wrong_pin() {
    let Err(refused) = settings("locked", "00000000", true).open() else {
        panic!("a wrong PIN was accepted")
    };
    assert!(refused.to_string().to_lowercase().contains("pin"), "{refused}");
    let pool = pool("locked", 1);
    let name = KeyName::log();
    block_on(pool.create_key(&name)).unwrap();
    // The PIN is changed, and the login lost: the pool's PIN is wrong now.
    let (module, slot) = other_hand("locked");
    let session = module.open_rw_session(slot).unwrap();
    session.set_pin(&AuthPin::from(PIN.to_owned()), &AuthPin::from("11112222".to_owned())).unwrap();
    session.logout().unwrap();
    let refused = block_on(pool.sign(&name, vec![0, 1])).unwrap_err();
    assert!(refused.to_string().to_lowercase().contains("pin"), "{refused}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let refused = block_on(pool.sign(&name, vec![0, 1])).unwrap_err().to_string();
        if refused.contains("is not asked again") {
            break;
        }
        assert!(Instant::now() < deadline, "{refused}");
        std::thread::yield_now();
    }
    std::mem::forget((session, module));
}

fn unknown() {
    let Err(refused) = settings("nowhere", PIN, true).open() else { panic!("no such token") };
    assert!(refused.to_string().contains("no token `nowhere`"), "{refused}");
    let mut settings = settings("made", PIN, true);
    settings.module = "/nowhere/module.so".into();
    let Err(refused) = settings.open() else { panic!("no such module") };
    assert!(refused.to_string().contains("/nowhere/module.so"), "{refused}");
}
