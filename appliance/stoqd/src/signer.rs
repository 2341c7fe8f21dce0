//! `stoqd signer`: the process that has the issuing and log keys, and nothing else of a node. It runs as a user of
//! its own and signs, over a Unix socket, for the users it was told. What is signed, and how, is trustchain's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use serde::Deserialize;
use stoq_config::LogFormat;
use stoq_trustchain::signer::remote::{ServerSettings, SignerServer};
use stoq_trustchain::signer::{
    KeyName, OpenBackend, Pkcs11Settings, Pool, PoolSettings, Signer as _, SoftSettings, TokenPin,
    block_on,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{logging, notify};

/// Octets of the largest configuration file
const FILE_LIMIT_BYTES: u64 = 64 << 10;

/// Keep the authority's keys in a process of their own and sign for it over a Unix socket
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
The configuration, all of it optional where an option says the same:

  socket = \"/run/stoq-signer/signer.sock\"
  allow_uids = [997]           users that are served, by number; without it, this process's own
  create = [\"issuing\", \"log\"]  keys made at the start where they are missing
  create_keys = true           callers may have further keys made, for rollovers
  workers = 2                  threads, each with its own session
  queue = 1024                 requests that may wait
  log = \"info\"

  [soft]                       keys in files, <name>.key, mode 0600
  directory = \"/var/lib/stoq-signer\"

  [pkcs11]                     or keys in a token
  module = \"/usr/lib/softhsm/libsofthsm2.so\"
  token = \"stoq\"               label of the token
  pin_file = \"/etc/stoq-signer/pin\"

With TRUSTCHAIN_MODE=production, keys that could have been outside their token are refused.

Examples:
  stoqd signer --config /etc/stoq/signer.toml
  stoqd signer --socket /run/stoq-signer/signer.sock --keys /var/lib/stoq-signer --allow-uid 997")]
pub struct Signer {
    /// The configuration file
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The socket to serve
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Keys in files of this directory
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// A user that is served, by number; may be given more than once
    #[arg(long = "allow-uid", value_name = "UID")]
    allow_uids: Vec<u32>,
    /// A key to make where it is missing; may be given more than once
    #[arg(long, value_name = "NAME")]
    create: Vec<KeyName>,
    /// Let callers have further keys made
    #[arg(long)]
    create_keys: bool,
    /// Let other processes of this user read this one's memory: for tests, which look for the keys in it
    #[arg(long, hide = true)]
    allow_tracing: bool,
}

/// The configuration file
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    socket: Option<PathBuf>,
    allow_uids: Vec<u32>,
    create: Vec<String>,
    create_keys: bool,
    workers: Option<usize>,
    queue: Option<usize>,
    log: Option<String>,
    soft: Option<Soft>,
    pkcs11: Option<Pkcs11>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Soft {
    directory: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pkcs11 {
    module: PathBuf,
    token: String,
    pin_file: PathBuf,
}

/// Serves until SIGTERM or SIGINT
pub fn serve(options: Signer) -> Result<(), String> {
    let file = options.config.as_deref().map(read).transpose()?.unwrap_or_default();
    let _logging = logging::start(LogFormat::Human, file.log.as_deref().unwrap_or("info"))?;
    if !options.allow_tracing {
        keep_to_itself()?;
    }
    let (settings, pool, create) = settle(options, file)?;
    let pool = pool.start(&create)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime could not be started: {error}"))?;
    let (socket, keys) = (settings.socket.clone(), pool.keys().len());
    runtime.block_on(async {
        let failed = |error: std::io::Error| format!("signals cannot be received: {error}");
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let uids = settings.allowed_uids.clone();
        let server = SignerServer::bind(settings, pool).map_err(|error| error.to_string())?;
        tracing::info!(socket = %socket.display(), keys, allow_uids = ?uids, "ready");
        notify::tell("READY=1");
        server
            .run(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                notify::tell("STOPPING=1");
            })
            .await;
        Ok(())
    })
}

fn read(path: &Path) -> Result<File, String> {
    use std::io::Read as _;
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_LIMIT_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| failed(&error))?;
    if text.len() as u64 > FILE_LIMIT_BYTES {
        return Err(failed(&"the file is too large"));
    }
    toml::from_str(&text).map_err(|error| failed(&error))
}

/// No core dump, and no other process of this user that reads the memory or attaches a debugger
fn keep_to_itself() -> Result<(), String> {
    let failed = |error: rustix::io::Errno| format!("the memory cannot be kept private: {error}");
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(failed)
}

/// Where the keys are, and how many threads stand in front of them
struct Keys {
    place: Place,
    pool: PoolSettings,
}

enum Place {
    Soft(PathBuf),
    Pkcs11(Pkcs11Settings),
}

fn settle(options: Signer, file: File) -> Result<(ServerSettings, Keys, Vec<KeyName>), String> {
    let socket = options.socket.or(file.socket).ok_or("which socket? Give --socket or `socket`")?;
    let mut allowed_uids = options.allow_uids;
    allowed_uids.extend(file.allow_uids);
    if allowed_uids.is_empty() {
        allowed_uids.push(rustix::process::geteuid().as_raw());
    }
    let mut create = options.create;
    for name in &file.create {
        create.push(name.parse().map_err(|error| format!("`create`: {error}"))?);
    }
    let production = match std::env::var("TRUSTCHAIN_MODE").as_deref() {
        Ok("production") => true,
        Err(std::env::VarError::NotPresent) => false,
        _ => {
            return Err(
                "TRUSTCHAIN_MODE has one value, `production`; set it to that or unset it".into()
            );
        }
    };
    let soft = options.keys.or(file.soft.map(|soft| soft.directory));
    let place = match (soft, file.pkcs11) {
        (Some(directory), None) => Place::Soft(directory),
        (None, Some(token)) => Place::Pkcs11(Pkcs11Settings {
            module: token.module,
            token: token.token,
            pin: TokenPin::read(&token.pin_file).map_err(|error| error.to_string())?,
            production,
        }),
        (None, None) => return Err("where are the keys? Give --keys, [soft] or [pkcs11]".into()),
        (Some(_), Some(_)) => {
            return Err("the keys are in one place: in files or in a token, not both".into());
        }
    };
    let mut pool = PoolSettings::default();
    pool.workers = file.workers.unwrap_or(pool.workers);
    pool.queue = file.queue.unwrap_or(pool.queue);
    let create_keys = options.create_keys || file.create_keys;
    Ok((ServerSettings { socket, allowed_uids, create_keys }, Keys { place, pool }, create))
}

impl Keys {
    fn start(self, create: &[KeyName]) -> Result<Arc<Pool>, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let backend: Arc<dyn OpenBackend> = match self.place {
            Place::Soft(directory) => {
                let soft = SoftSettings::read_or_create(&directory, &[]);
                Arc::new(soft.map_err(|error| text(&error))?)
            }
            Place::Pkcs11(token) => Arc::new(token.open().map_err(|error| text(&error))?),
        };
        let pool = Pool::start(backend, self.pool).map_err(|error| text(&error))?;
        for name in create {
            if pool.key(name).is_none() {
                block_on(pool.create_key(name)).map_err(|error| text(&error))?;
            }
        }
        if pool.keys().is_empty() {
            return Err("there is no key; make them with --create issuing --create log".into());
        }
        Ok(Arc::new(pool))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Signer {
        Signer {
            config: None,
            socket: None,
            keys: None,
            allow_uids: Vec::new(),
            create: Vec::new(),
            create_keys: false,
            allow_tracing: false,
        }
    }

    fn refusal(file: &str, options: Signer) -> String {
        match settle(options, toml::from_str(file).unwrap()) {
            Err(message) => message,
            Ok(_) => panic!("accepted: {file}"),
        }
    }

    #[test]
    fn the_file_and_the_options_are_put_together() {
        let file = "socket = '/a'\nallow_uids = [7]\ncreate = ['log']\nworkers = 5\n[soft]\ndirectory = '/k'";
        let given = Signer {
            socket: Some("/b".into()),
            allow_uids: vec![9],
            create: vec![KeyName::issuing()],
            ..options()
        };
        let (server, keys, create) = settle(given, toml::from_str(file).unwrap()).unwrap();
        assert_eq!(server.socket, Path::new("/b"));
        assert_eq!(server.allowed_uids, [9, 7]);
        assert!(!server.create_keys);
        assert_eq!((keys.pool.workers, keys.pool.queue), (5, 1_024));
        assert!(matches!(keys.place, Place::Soft(directory) if directory == Path::new("/k")));
        assert_eq!(create, [KeyName::issuing(), KeyName::log()]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert!(refusal("", options()).contains("--socket"));
        let socket = || Signer { socket: Some("/s".into()), ..options() };
        assert!(refusal("", socket()).contains("--keys"));
        assert!(
            refusal("create = ['root']\n[soft]\ndirectory = '/k'", socket()).contains("`root`")
        );
        let token = "[pkcs11]\nmodule = '/m'\ntoken = 't'\npin_file = '/nowhere/pin'";
        assert!(refusal(token, socket()).contains("/nowhere/pin"));
        assert!(
            toml::from_str::<File>("sokcet = '/s'").unwrap_err().to_string().contains("sokcet")
        );
    }
}
