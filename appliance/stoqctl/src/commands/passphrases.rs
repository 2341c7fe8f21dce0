//! Passphrases: asked for at the terminal without showing them, or read from a file, one a line, where a program does
//! the asking.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use stoq_admin::ApiError;
use stoq_trustchain::root::Passphrase;

use crate::files;

/// Octets of the longest file of passphrases
const FILE_LIMIT_BYTES: u64 = 64 << 10;

/// As many passphrases as there are prompts, in that order. `option` is what names a file of them.
pub(crate) fn read(
    file: Option<&Path>,
    option: &str,
    prompts: &[String],
    twice: bool,
) -> Result<Vec<Passphrase>, ApiError> {
    let texts = match file {
        Some(path) if path == Path::new("-") => lines(std::io::stdin(), path, prompts.len())?,
        Some(path) => {
            let opened = File::open(path).map_err(|error| files::failed("read", path, &error))?;
            lines(opened, path, prompts.len())?
        }
        None => ask(option, prompts, twice)?,
    };
    let passphrase = |text| {
        Passphrase::new(text).map_err(|error| failed(error.to_string(), "choose a longer one"))
    };
    texts.into_iter().map(passphrase).collect()
}

fn failed(message: String, remedy: &str) -> ApiError {
    ApiError::failed("no-passphrase", message, remedy)
}

fn lines(from: impl Read, path: &Path, count: usize) -> Result<Vec<String>, ApiError> {
    let reader = BufReader::new(from.take(FILE_LIMIT_BYTES));
    let mut texts = Vec::new();
    for line in reader.lines() {
        texts.push(line.map_err(|error| files::failed("read", path, &error))?);
    }
    match texts.len() == count {
        true => Ok(texts),
        false => Err(failed(
            format!("{} has {} passphrases and {count} are needed", path.display(), texts.len()),
            "write one a line, in the order in which they are asked for",
        )),
    }
}

fn ask(option: &str, prompts: &[String], twice: bool) -> Result<Vec<String>, ApiError> {
    if !std::io::stdin().is_terminal() {
        return Err(failed(
            "there is no terminal to ask for passphrases at".into(),
            &format!("give them with {option} FILE, one a line"),
        ));
    }
    let silent = Silent::new().map_err(|error| terminal_error(&error.into()))?;
    let mut texts = Vec::new();
    for prompt in prompts {
        let text = ask_one(prompt)?;
        if twice && ask_one(&format!("{prompt}, again"))? != text {
            return Err(failed("the two were not the same".into(), "begin anew"));
        }
        texts.push(text);
    }
    drop(silent);
    Ok(texts)
}

fn ask_one(prompt: &str) -> Result<String, ApiError> {
    let mut terminal = std::io::stderr();
    let mut text = String::new();
    write!(terminal, "{prompt}: ")
        .and_then(|()| terminal.flush())
        .and_then(|()| std::io::stdin().read_line(&mut text))
        // The line break that was typed is not shown either.
        .and_then(|_| writeln!(terminal))
        .map_err(|error| terminal_error(&error))?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(text)
}

fn terminal_error(error: &std::io::Error) -> ApiError {
    files::failed("use", &PathBuf::from("the terminal"), error)
}

/// While it lives, the terminal does not show what is typed
struct Silent(Termios);

impl Silent {
    fn new() -> rustix::io::Result<Self> {
        let before = tcgetattr(std::io::stdin().as_fd())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin().as_fd(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Flush, &self.0);
    }
}
