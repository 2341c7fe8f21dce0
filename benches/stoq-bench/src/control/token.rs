//! SoftHSM for a run: a token of its own with two keys, in a process of its own, since the module reads where its
//! tokens are from the environment.

use std::path::Path;
use std::process::Command;

use stoq_trustchain::signer::{Pkcs11Settings, TokenPin};

use crate::sink::Failure;

use super::ControlArgs;
use super::office::Keys;
use super::report::Issuing;

const LABEL: &str = "bench";
const PIN: &str = "1234";

/// The keys of the token that the environment leads to
pub fn keys(module: &Path) -> Result<Keys, Failure> {
    let pin = TokenPin::new(PIN.to_owned());
    let (module, token) = (module.to_owned(), LABEL.to_owned());
    Ok(Keys::Token(Pkcs11Settings { module, token, pin, production: false }))
}

/// Measures with keys in SoftHSM, or says why not
pub fn measure(args: &ControlArgs, directory: &Path) -> Result<Result<Issuing, String>, Failure> {
    if args.without_hsm {
        return Ok(Err("left out by --without-hsm".into()));
    }
    if !args.module.exists() {
        let module = args.module.display();
        return Ok(Err(format!("{module} is not there: apt-get install softhsm2, or --module")));
    }
    let tokens = directory.join("tokens");
    std::fs::create_dir_all(&tokens)?;
    let configuration = directory.join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
    std::fs::write(&configuration, text)?;
    let init = ["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", PIN];
    let made = Command::new("softhsm2-util")
        .args(init)
        .env("SOFTHSM2_CONF", &configuration)
        .output()
        .map_err(|error| format!("softhsm2-util: {error}"))?;
    if !made.status.success() {
        return Err(format!("softhsm2-util: {}", String::from_utf8_lossy(&made.stderr)).into());
    }
    let output = Command::new(std::env::current_exe()?)
        .arg("control-token")
        .arg("--directory")
        .arg(directory.join("authority"))
        .arg("--module")
        .arg(&args.module)
        .arg("--duration")
        .arg(format!("{}ms", args.duration.as_millis()))
        .arg("--in-flight")
        .arg(args.in_flight.to_string())
        .env("SOFTHSM2_CONF", &configuration)
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the process with the token failed: {said}").into());
    }
    Ok(Ok(serde_json::from_slice(&output.stdout)?))
}
