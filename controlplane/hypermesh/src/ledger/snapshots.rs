//! The registry's state on disk, so that a validator that starts again replays a few blocks and not all. The journal of
//! blocks is the truth; a snapshot that is gone costs time and nothing else.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::LedgerError;
use crate::consensus::Header;
use crate::digest::Domain;
use crate::registry::{Registry, SNAPSHOT_LIMIT_BYTES};
use crate::wire::{Reader, Writer};

static SNAPSHOT: Domain = Domain::new("hypermesh v1 snapshot file");
const NAME: &str = "registry.snapshot";
const NEW: &str = "registry.snapshot.new";

/// Writes snapshots beside everything else, one at a time
#[derive(Debug)]
pub(super) struct Snapshots {
    directory: PathBuf,
    every_blocks: u64,
    started_height: u64,
    durable: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<String>>>,
    writer: Option<JoinHandle<()>>,
}

impl Snapshots {
    /// Opens the directory, and reads the snapshot if there is one
    pub(super) fn open(
        directory: &Path,
        every_blocks: u64,
    ) -> Result<(Self, Option<(Header, Registry)>), LedgerError> {
        let failed = |source| LedgerError::Directory { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        let path = directory.join(NAME);
        let kept = match fs::read(&path) {
            Ok(octets) => Some(
                read(&octets)
                    .map_err(|reason| LedgerError::Snapshot { path: path.clone(), reason })?,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let height = kept.as_ref().map_or(0, |(header, _)| header.height);
        let snapshots = Self {
            directory: directory.to_owned(),
            every_blocks: every_blocks.max(1),
            started_height: height,
            durable: Arc::new(AtomicU64::new(height)),
            failure: Arc::default(),
            writer: None,
        };
        Ok((snapshots, kept))
    }

    /// The height of the last snapshot that is on disk; 0 for none
    pub(super) fn durable_height(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Why the last one could not be written
    pub(super) fn failure(&self) -> Arc<Mutex<Option<String>>> {
        Arc::clone(&self.failure)
    }

    /// Begins to write the state after a block, if it is time for that
    pub(super) fn consider(&mut self, header: &Header, registry: &Registry) {
        if header.height < self.started_height.saturating_add(self.every_blocks)
            || self.writer.as_ref().is_some_and(|writer| !writer.is_finished())
        {
            return;
        }
        self.wait();
        self.started_height = header.height;
        let (header, registry) = (header.clone(), registry.clone());
        let (directory, durable) = (self.directory.clone(), Arc::clone(&self.durable));
        let failure = Arc::clone(&self.failure);
        let write = move || {
            let written = write(&directory, &header, &registry);
            let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
            match written {
                Ok(()) => {
                    durable.store(header.height, Ordering::Release);
                    *failure = None;
                }
                Err(error) => {
                    tracing::error!(%error, height = header.height, "the registry's snapshot cannot be written");
                    *failure = Some(error.to_string());
                }
            }
        };
        match std::thread::Builder::new().name("snapshot".to_owned()).spawn(write) {
            Ok(writer) => self.writer = Some(writer),
            Err(error) => {
                tracing::error!(%error, "no thread to write the registry's snapshot");
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(error.to_string());
            }
        }
    }

    /// Waits for what is being written
    pub(super) fn wait(&mut self) {
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("writing the registry's snapshot panicked");
        }
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        self.wait();
    }
}

fn write(directory: &Path, header: &Header, registry: &Registry) -> io::Result<()> {
    let state = registry.snapshot();
    let mut writer = Writer::with_capacity(state.len() + 512);
    header.encode(&mut writer);
    writer.bytes(&state);
    let octets = writer.into_vec();
    let new = directory.join(NEW);
    let mut file = File::create(&new)?;
    file.write_all(&SNAPSHOT.hash(&octets))?;
    file.write_all(&octets)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(NAME))?;
    File::open(directory)?.sync_all()
}

fn read(octets: &[u8]) -> Result<(Header, Registry), String> {
    let (sum, octets) = octets.split_first_chunk::<32>().ok_or("it is too short")?;
    if SNAPSHOT.hash(octets) != *sum {
        return Err("its checksum does not hold".to_owned());
    }
    let mut reader = Reader::new(octets);
    let header = Header::decode(&mut reader).map_err(|error| error.to_string())?;
    let state = reader.bytes(SNAPSHOT_LIMIT_BYTES).map_err(|error| error.to_string())?;
    let mut registry =
        Registry::restore(state, &header.state_root).map_err(|error| error.to_string())?;
    registry.seal(header.digest());
    Ok((header, registry))
}
