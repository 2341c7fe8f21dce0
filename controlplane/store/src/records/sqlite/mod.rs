//! Records in one SQLite file: a thread that writes, one transaction per batch, and a fixed number of threads
//! that read, each with a connection of its own and a bounded queue before it. SQLite's types stay in here.

mod read;
mod schema;
mod write;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crossbeam::channel::{self, TrySendError};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use super::{
    Answer, Batch, CertificateQuery, CertificateRecord, IdempotentResult, Page, PageToken,
    PolicyDocument, PolicyVersion, Records, RecordsError, Revocation, RevocationQuery, Serial,
};
use crate::journal::JournalId;
use crate::lock::Lock;
use crate::{StartThread, ThreadBody};

/// Most threads that read
const READERS_LIMIT: usize = 64;

/// How the records are kept
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SqliteOptions {
    /// Threads that read, each with a connection; 1 to 64
    pub readers: usize,
    /// Most questions that wait; more are refused as `Busy`
    pub reads_waiting: usize,
    /// Most batches that wait; whoever brings more waits for room
    pub writes_waiting: usize,
    /// Most bytes of the file, without its write-ahead log; beyond that batches are refused as `NoSpace`
    pub limit_bytes: u64,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { readers: 4, reads_waiting: 256, writes_waiting: 64, limit_bytes: 64 << 30 }
    }
}

/// What is done with a connection
type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// Records in a SQLite file. Dropping it ends its threads once they have done what waits.
#[derive(Debug)]
pub struct SqliteRecords {
    writes: mpsc::Sender<Work>,
    reads: channel::Sender<Work>,
    failed: Arc<OnceLock<String>>,
    threads: Vec<JoinHandle<()>>,
}

/// Why work on a connection stopped
#[derive(Debug)]
enum Stop {
    Sql(rusqlite::Error),
    Records(RecordsError),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<RecordsError> for Stop {
    fn from(error: RecordsError) -> Self {
        Self::Records(error)
    }
}

impl From<Stop> for RecordsError {
    fn from(stop: Stop) -> Self {
        let error = match stop {
            Stop::Records(error) => return error,
            Stop::Sql(error) => error,
        };
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::NoSpace(text),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(text),
            _ => Self::Failed(text),
        }
    }
}

impl SqliteRecords {
    /// Opens the records in a file, which is created if there is none, and starts the threads. Blocks.
    pub fn open(
        path: &Path,
        options: SqliteOptions,
        start: StartThread<'_>,
    ) -> Result<Self, RecordsError> {
        let usable = (1..=READERS_LIMIT).contains(&options.readers)
            && options.reads_waiting > 0
            && options.writes_waiting > 0;
        if !usable {
            let text =
                format!("1 to {READERS_LIMIT} readers and queues of one at least are needed");
            return Err(RecordsError::Invalid(text));
        }
        let failed =
            |error: io::Error| RecordsError::Failed(format!("{}: {error}", path.display()));
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = Lock::take(&PathBuf::from(lock_path)).map_err(failed)?;
        let Some(lock) = lock else {
            let text = format!("{} is in use by another process", path.display());
            return Err(RecordsError::Failed(text));
        };
        // SQLite gives its other files the mode of this one.
        let created =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        created.map_err(failed)?;
        let writer = open_writer(path, &options)?;
        let (writes, mut write_queue) = mpsc::channel::<Work>(options.writes_waiting);
        let (reads, read_queue) = channel::bounded::<Work>(options.reads_waiting);
        let mut bodies: Vec<(String, ThreadBody)> = Vec::new();
        for number in 0..options.readers {
            let mut reader = open_reader(path)?;
            let queue = read_queue.clone();
            let body = move || queue.iter().for_each(|work| work(&mut reader));
            bodies.push((format!("records-read-{number}"), Box::new(body)));
        }
        let body = move || {
            let (mut writer, _lock) = (writer, lock);
            while let Some(work) = write_queue.blocking_recv() {
                work(&mut writer);
            }
        };
        bodies.push(("records-write".into(), Box::new(body)));
        let threads = bodies.into_iter().map(|(name, body)| start(&name, body));
        let threads = threads.collect::<io::Result<Vec<_>>>().map_err(failed)?;
        Ok(Self { writes, reads, failed: Arc::new(OnceLock::new()), threads })
    }

    /// Ends the threads once they have done what waits, and waits for them; blocks
    pub fn close(self) -> Result<(), RecordsError> {
        let Self { writes, reads, failed, threads } = self;
        drop((writes, reads));
        for thread in threads {
            let ended = thread.join();
            ended.map_err(|_panic| {
                RecordsError::Failed("a thread of the records panicked".into())
            })?;
        }
        match failed.get() {
            Some(text) => Err(RecordsError::Failed(text.clone())),
            None => Ok(()),
        }
    }

    /// Lets SQLite check the whole file
    pub fn check(&self) -> Answer<'_, ()> {
        self.read(read::check)
    }

    fn write<T, F>(&self, work: F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, Stop> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let failed = self.failed.clone();
        let work: Work = Box::new(move |connection| {
            // After a failed sync nothing that is written later can be trusted to be on the disk.
            let outcome = match failed.get() {
                Some(text) => Err(RecordsError::Failed(text.clone())),
                None => work(connection).map_err(RecordsError::from),
            };
            if let Err(RecordsError::Failed(text)) = &outcome {
                tracing::error!(%text, "the records have failed");
                // Only the writing thread sets it; a second failure adds nothing.
                let _ = failed.set(text.clone());
            }
            // Whoever no longer waits has said that it does not want to know.
            let _ = answer.send(outcome);
        });
        Box::pin(async move {
            self.writes.send(work).await.map_err(|_ended| RecordsError::Closed)?;
            result.await.map_err(|_ended| RecordsError::Closed)?
        })
    }

    fn read<T, F>(&self, work: F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Stop> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            // Whoever no longer waits has said that it does not want to know.
            let _ = answer.send(work(connection).map_err(RecordsError::from));
        });
        Box::pin(async move {
            self.reads.try_send(work).map_err(|error| match error {
                TrySendError::Full(_) => RecordsError::Busy,
                TrySendError::Disconnected(_) => RecordsError::Closed,
            })?;
            result.await.map_err(|_ended| RecordsError::Closed)?
        })
    }
}

fn open_writer(path: &Path, options: &SqliteOptions) -> Result<Connection, RecordsError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(Stop::Sql)?;
    Ok(schema::prepare(connection, options.limit_bytes)?)
}

fn open_reader(path: &Path) -> Result<Connection, RecordsError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(path, flags).map_err(Stop::Sql)?)
}

impl Records for SqliteRecords {
    fn applied_through(&self, journal: JournalId) -> Answer<'_, u64> {
        self.read(move |connection| read::applied_through(connection, &journal))
    }

    fn apply(&self, batch: Batch) -> Answer<'_, ()> {
        self.write(move |connection| write::apply(connection, &batch))
    }

    fn clear(&self) -> Answer<'_, ()> {
        self.write(write::clear)
    }

    fn certificate(&self, serial: Serial) -> Answer<'_, Option<CertificateRecord>> {
        self.read(move |connection| read::certificate(connection, &serial))
    }

    fn certificates(&self, query: CertificateQuery) -> Answer<'_, Page<CertificateRecord>> {
        self.read(move |connection| read::certificates(connection, &query))
    }

    fn revocations(&self, query: RevocationQuery) -> Answer<'_, Page<Revocation>> {
        self.read(move |connection| read::revocations(connection, &query))
    }

    fn idempotent_result(&self, key: Vec<u8>, now: u64) -> Answer<'_, Option<IdempotentResult>> {
        self.read(move |connection| read::idempotent_result(connection, &key, now))
    }

    fn forget_idempotent_results(&self, now: u64) -> Answer<'_, u64> {
        self.write(move |connection| write::forget_idempotent_results(connection, now))
    }

    fn policy(&self, name: String, version: Option<u64>) -> Answer<'_, Option<PolicyDocument>> {
        self.read(move |connection| read::policy(connection, &name, version))
    }

    fn policies(&self, limit: usize, page: Option<PageToken>) -> Answer<'_, Page<PolicyVersion>> {
        self.read(move |connection| read::policies(connection, limit, page.as_ref()))
    }
}

/// SQLite's integers are signed; what does not fit is refused rather than bent
fn integer(value: u64) -> Result<i64, RecordsError> {
    i64::try_from(value)
        .map_err(|_range| RecordsError::Invalid(format!("{value} is above 2^63 - 1")))
}

/// For bounds: nothing that is stored is above, so the largest integer means the same
fn bound(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
