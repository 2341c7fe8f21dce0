//! What an operator changed at run time and expects to find after a restart: peers, published services,
//! attachments. One JSON file, replaced by rename after fsync; what it says is durable once a command has
//! been answered.

use std::io::Write as _;
use std::net::SocketAddrV6;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Largest file that is read back
const FILE_LIMIT_BYTES: u64 = 16 << 20;
const VERSION: u32 = 1;

/// Why the file cannot be used
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Reading or writing failed
    #[error("{path}: {cause}")]
    Io {
        /// The file
        path: PathBuf,
        /// What the kernel said
        cause: std::io::Error,
    },
    /// The file does not parse
    #[error("{path} does not parse: {cause}; move it away to start without it")]
    Parse {
        /// The file
        path: PathBuf,
        /// Where and why
        cause: serde_json::Error,
    },
    /// Written by a newer stoqd, or far too long
    #[error("{path} is not a file of this version; move it away to start without it")]
    Foreign {
        /// The file
        path: PathBuf,
    },
}

/// A published service as stored
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StoredService {
    /// Its name
    pub name: String,
    /// Where its program listens
    pub to: String,
    /// `any-enrolled`, or node names; empty: nobody
    pub allow: Vec<String>,
}

/// An attachment as stored
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StoredAttachment {
    /// The service
    pub service: String,
    /// The node that publishes it
    pub node: String,
    /// Where local programs connect
    pub listen: String,
}

/// A peer as stored
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StoredPeer {
    /// The node
    pub node: String,
    /// Where it is
    pub address: SocketAddrV6,
}

/// The content of the file
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    version: u32,
    /// Services an operator published
    pub services: Vec<StoredService>,
    /// Services an operator attached
    pub attachments: Vec<StoredAttachment>,
    /// Peers an operator added or that came with an enrolment
    pub peers: Vec<StoredPeer>,
    /// The node whose authority issued the certificate, where this node has joined another
    #[serde(default)]
    pub issuer: Option<String>,
}

/// The file
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    stored: Mutex<Stored>,
}

impl State {
    /// Reads the file, or begins without one
    pub fn open(path: PathBuf) -> Result<Self, StateError> {
        let stored = match std::fs::metadata(&path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                Stored { version: VERSION, ..Stored::default() }
            }
            Err(cause) => return Err(StateError::Io { path, cause }),
            Ok(meta) if meta.len() > FILE_LIMIT_BYTES => return Err(StateError::Foreign { path }),
            Ok(_) => read(&path)?,
        };
        Ok(Self { path, stored: Mutex::new(stored) })
    }

    /// What is stored
    pub fn read(&self) -> Stored {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is stored; durable when this returns
    pub fn change(&self, change: impl FnOnce(&mut Stored)) -> Result<(), StateError> {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = stored.clone();
        change(&mut next);
        if next != *stored {
            write(&self.path, &next)
                .map_err(|cause| StateError::Io { path: self.path.clone(), cause })?;
            *stored = next;
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Stored, StateError> {
    let text =
        std::fs::read(path).map_err(|cause| StateError::Io { path: path.to_owned(), cause })?;
    let stored: Stored = serde_json::from_slice(&text)
        .map_err(|cause| StateError::Parse { path: path.to_owned(), cause })?;
    if stored.version != VERSION {
        return Err(StateError::Foreign { path: path.to_owned() });
    }
    Ok(stored)
}

fn write(path: &Path, stored: &Stored) -> std::io::Result<()> {
    let fresh = path.with_extension("json.new");
    let mut file = std::fs::File::create(&fresh)?;
    serde_json::to_writer_pretty(&mut file, stored)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("operator.json");
        let state = State::open(path.clone()).unwrap();
        let peer = StoredPeer { node: "beta".into(), address: "[::1]:1".parse().unwrap() };
        state.change(|stored| stored.peers.push(peer.clone())).unwrap();
        assert_eq!(State::open(path.clone()).unwrap().read().peers, [peer]);
        std::fs::write(&path, b"{").unwrap();
        assert!(matches!(State::open(path.clone()), Err(StateError::Parse { .. })));
        std::fs::write(&path, br#"{"version":2,"services":[],"attachments":[],"peers":[]}"#)
            .unwrap();
        assert!(matches!(State::open(path), Err(StateError::Foreign { .. })));
    }
}
