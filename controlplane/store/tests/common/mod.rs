//! What the tests of this crate share: a journal to look at, copies of its files as a crash would leave them,
//! and a disk that fails where it is told to.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use stoq_store::journal::{
    AppendError, Appended, Disk, DiskFile, EntryKind, Journal, NewEntry, OpenError, Opened,
    Options, UringDisk, UringFile,
};
use stoq_store::named_thread;
use tokio::sync::Semaphore;

/// No space left on device
pub const ENOSPC: i32 = 28;
/// Input/output error
pub const EIO: i32 = 5;

/// Sequence, kind and payload
pub type Seen = Vec<(u64, u16, Vec<u8>)>;

/// Segments and groups so small that a few entries fill several
pub fn small() -> Options {
    Options { segment_bytes: 4 << 10, group_bytes: 4 << 10, ..Options::default() }
}

pub fn open(directory: &Path, options: Options) -> Result<(Journal, Opened, Seen), OpenError> {
    open_on(UringDisk, directory, options)
}

pub fn open_on<D: Disk>(
    disk: D,
    directory: &Path,
    options: Options,
) -> Result<(Journal, Opened, Seen), OpenError> {
    let mut seen = Vec::new();
    let (journal, opened) = Journal::open_on(disk, directory, options, &named_thread, |entry| {
        seen.push((entry.sequence, entry.kind.0, entry.payload.to_vec()));
        Ok(())
    })?;
    Ok((journal, opened, seen))
}

pub fn entry(payload: &[u8]) -> NewEntry {
    NewEntry { kind: EntryKind(7), payload: payload.to_vec() }
}

/// Appends one entry and waits for it
pub fn append(journal: &Journal, payload: &[u8]) -> Result<u64, AppendError> {
    append_all(journal, &[payload]).map(|appended| appended.first)
}

pub fn append_all(journal: &Journal, payloads: &[&[u8]]) -> Result<Appended, AppendError> {
    let entries = payloads.iter().map(|payload| entry(payload)).collect();
    journal.appender().submit(entries)?.wait()
}

/// The entry that [`filled`] writes as number `sequence`
pub fn payload(sequence: u64) -> Vec<u8> {
    let length = 20 + (sequence as usize * 37) % 200;
    (0..length).map(|at| (sequence as usize * 11 + at) as u8).collect()
}

/// Entries 1 to `count`, one group each, in a journal that stays open
pub fn filled(directory: &Path, count: u64) -> Journal {
    Journal::create(directory).unwrap();
    let (journal, ..) = open(directory, small()).unwrap();
    for sequence in 1..=count {
        assert_eq!(append(&journal, &payload(sequence)).unwrap(), sequence);
    }
    journal
}

pub fn expected(count: u64) -> Seen {
    (1..=count).map(|sequence| (sequence, 7, payload(sequence))).collect()
}

/// Copies a journal's files as they are now, without the lock
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "lock" {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

/// The segment files in order
pub fn segments(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    paths.sort();
    paths
}

/// A step that can be made to fail
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Step {
    Create,
    WriteFile,
    Rename,
    Remove,
    SyncDirectory,
    WriteAt,
    SyncData,
    SetLength,
}

#[derive(Debug, Default)]
struct Plan {
    /// How many times the step still succeeds, and what it says then
    rules: HashMap<Step, (usize, i32)>,
    /// Bytes that can still be written to segments
    space_bytes: Option<usize>,
    longest_write_bytes: Option<usize>,
    gate: Option<(Arc<Semaphore>, Sender<()>)>,
    steps: Vec<Step>,
}

/// The real disk, but for what it is told
#[derive(Clone, Debug, Default)]
pub struct FaultyDisk(Arc<Mutex<Plan>>);

impl FaultyDisk {
    /// After `successes` more of these steps, every one fails
    pub fn fail(&self, step: Step, successes: usize, errno: i32) {
        self.0.lock().unwrap().rules.insert(step, (successes, errno));
    }

    pub fn heal(&self) {
        let mut plan = self.0.lock().unwrap();
        plan.rules.clear();
        plan.space_bytes = None;
    }

    pub fn set_space(&self, bytes: usize) {
        self.0.lock().unwrap().space_bytes = Some(bytes);
    }

    pub fn set_longest_write(&self, bytes: usize) {
        self.0.lock().unwrap().longest_write_bytes = Some(bytes);
    }

    /// From now on each sync reports that it has begun and waits for a permit
    pub fn hold_syncs(&self, begun: Sender<()>) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.0.lock().unwrap().gate = Some((gate.clone(), begun));
        gate
    }

    /// Every step since this was last asked
    pub fn take_steps(&self) -> Vec<Step> {
        std::mem::take(&mut self.0.lock().unwrap().steps)
    }

    fn check(&self, step: Step) -> io::Result<()> {
        let mut plan = self.0.lock().unwrap();
        plan.steps.push(step);
        match plan.rules.get_mut(&step) {
            None => Ok(()),
            Some((0, errno)) => Err(io::Error::from_raw_os_error(*errno)),
            Some((successes, _)) => {
                *successes -= 1;
                Ok(())
            }
        }
    }

    /// How many of `wanted` bytes can be written now
    fn grant(&self, wanted: usize) -> io::Result<usize> {
        let mut plan = self.0.lock().unwrap();
        let longest = plan.longest_write_bytes.unwrap_or(wanted);
        let granted = wanted.min(longest).min(plan.space_bytes.unwrap_or(wanted));
        if granted == 0 && wanted > 0 {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        if let Some(space_bytes) = &mut plan.space_bytes {
            *space_bytes -= granted;
        }
        Ok(granted)
    }
}

impl Disk for FaultyDisk {
    type File = FaultyFile;

    fn create(&self, path: &Path) -> io::Result<FaultyFile> {
        self.check(Step::Create)?;
        Ok(FaultyFile { file: UringDisk.create(path)?, disk: self.clone() })
    }

    fn open(&self, path: &Path) -> io::Result<FaultyFile> {
        Ok(FaultyFile { file: UringDisk.open(path)?, disk: self.clone() })
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.check(Step::WriteFile)?;
        UringDisk.write_file(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(Step::Rename)?;
        UringDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check(Step::Remove)?;
        UringDisk.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.check(Step::SyncDirectory)?;
        UringDisk.sync_directory(path)
    }
}

pub struct FaultyFile {
    file: UringFile,
    disk: FaultyDisk,
}

impl DiskFile for FaultyFile {
    async fn write_at(
        &self,
        buffer: Vec<u8>,
        from: usize,
        offset: u64,
    ) -> (io::Result<usize>, Vec<u8>) {
        let granted =
            self.disk.check(Step::WriteAt).and_then(|()| self.disk.grant(buffer.len() - from));
        match granted {
            Err(error) => (Err(error), buffer),
            Ok(granted) => {
                let part = buffer[from..from + granted].to_vec();
                let (written, _) = self.file.write_at(part, 0, offset).await;
                (written, buffer)
            }
        }
    }

    async fn sync_data(&self) -> io::Result<()> {
        let gate = self.disk.0.lock().unwrap().gate.clone();
        if let Some((gate, begun)) = gate {
            begun.send(()).unwrap();
            gate.acquire().await.unwrap().forget();
        }
        self.disk.check(Step::SyncData)?;
        self.file.sync_data().await
    }

    fn set_length(&self, length_bytes: u64) -> io::Result<()> {
        self.disk.check(Step::SetLength)?;
        self.file.set_length(length_bytes)
    }

    async fn close(self) -> io::Result<()> {
        self.file.close().await
    }
}
