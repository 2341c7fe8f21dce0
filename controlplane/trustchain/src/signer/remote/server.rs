//! The signing process's end: a Unix socket that serves a signer to named users. Where the keys are is the
//! signer's business.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::frame::{self, REQUEST_LIMIT_BYTES};
use super::wire::{Answer, Failure, Keys, Request, Status, VERSION, answer, request};
use crate::signer::{KeyName, Pending, Signer, SignerError};

/// Connections at a time: one authority, and its successor while it restarts
const CONNECTIONS_LIMIT: usize = 8;
/// What one connection may have waiting, in units; a request takes one for each 64 KiB begun
const UNITS_LIMIT: usize = 1_024;
const UNIT_BYTES: usize = 64 << 10;
/// After an accept that failed
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The socket is its owner's alone, or everybody may connect and SO_PEERCRED decides
const OWN_MODE: u32 = 0o600;
const OTHERS_MODE: u32 = 0o666;

/// Who is served, and where
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The socket
    pub socket: PathBuf,
    /// Users that are served; nobody else is, not even root
    pub allowed_uids: Vec<u32>,
    /// Whether callers may have new keys made
    pub create_keys: bool,
}

/// Why the socket cannot be had
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process answers there
    #[error("another process already serves {}; stop it, or give this one another socket", .0.display())]
    Live(PathBuf),
    /// Something else is in the way
    #[error("{} exists and is no socket; move it away or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The file system refused
    #[error("the socket {}: {source}; check that its directory exists and is writable", path.display())]
    Io {
        /// The socket
        path: PathBuf,
        /// What it said
        source: io::Error,
    },
}

/// A bound socket with a signer behind it
#[derive(Debug)]
pub struct SignerServer {
    listener: UnixListener,
    serving: Arc<Serving>,
}

#[derive(Debug)]
struct Serving {
    signer: Arc<dyn Signer>,
    settings: ServerSettings,
}

impl SignerServer {
    /// Binds the socket, in a Tokio runtime. The file of a process that is gone is replaced.
    pub fn bind(settings: ServerSettings, signer: Arc<dyn Signer>) -> Result<Self, BindError> {
        let path = settings.socket.clone();
        let failed = |source| BindError::Io { path: path.clone(), source };
        let parent = crate::files::parent(&path);
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
        remove_dead(&path)?;
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let own = fs::metadata(&path).map_err(failed)?.uid();
        let others = settings.allowed_uids.iter().any(|uid| *uid != own);
        let mode = if others { OTHERS_MODE } else { OWN_MODE };
        fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(failed)?;
        Ok(Self { listener, serving: Arc::new(Serving { signer, settings }) })
    }

    /// Serves until told to stop, then removes the socket and ends the connections
    pub async fn run(self, stopping: impl Future<Output = ()>) {
        let Self { listener, serving } = self;
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                () = &mut stopping => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => note(ended),
                accepted = listener.accept(), if connections.len() < CONNECTIONS_LIMIT => {
                    match accepted {
                        Ok((stream, _)) => {
                            connections.spawn(serve(Arc::clone(&serving), stream, stopped.clone()));
                        }
                        Err(error) => {
                            // Out of descriptors or memory: asking again at once would spin.
                            tracing::warn!(%error, "a connection to the signer was not accepted");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
        if let Err(error) = fs::remove_file(&serving.settings.socket) {
            tracing::warn!(%error, "the signer's socket was not removed");
        }
        // The receivers are the connections: if all have ended, nobody needs to be told.
        let _ = stop.send(true);
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    }
}

fn note(ended: Result<io::Result<()>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a connection to the signer was ended"),
        Err(error) => tracing::error!(%error, "a connection to the signer failed"),
    }
}

fn remove_dead(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        _ => Err(BindError::Live(path.to_owned())),
    }
}

async fn serve(
    serving: Arc<Serving>,
    stream: UnixStream,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if !serving.settings.allowed_uids.contains(&uid) {
        let message = format!("user {uid} is none of those that are served");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let (reading, writing) = stream.into_split();
    let (answers, to_write) = mpsc::channel(UNITS_LIMIT);
    let mut tasks = JoinSet::new();
    tasks.spawn(write_answers(to_write, writing));
    tokio::select! {
        read = read_requests(&serving, reading, answers) => read,
        _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
        Some(written) = tasks.join_next() => written.unwrap_or_else(|error| Err(io::Error::other(error))),
    }
}

async fn read_requests(
    serving: &Arc<Serving>,
    mut reading: OwnedReadHalf,
    answers: mpsc::Sender<(Answer, OwnedSemaphorePermit)>,
) -> io::Result<()> {
    let units = Arc::new(Semaphore::new(UNITS_LIMIT));
    let mut greeted = false;
    while let Some((request, length)) =
        frame::read::<Request>(&mut reading, REQUEST_LIMIT_BYTES).await?
    {
        let wanted = u32::try_from(length.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        // Back-pressure: a caller that asks faster than it is answered is not read.
        let permit = Arc::clone(&units).acquire_many_owned(wanted).await;
        let permit = permit.map_err(io::Error::other)?;
        let hello = matches!(&request.body, Some(request::Body::Hello(_)));
        if hello == greeted {
            let message = "a connection begins with one hello";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        greeted = true;
        let id = request.id;
        let answered = answer(serving, request.body);
        let answers = answers.clone();
        tokio::spawn(async move {
            let body =
                answered.await.unwrap_or_else(|error| answer::Body::Failure(Failure::of(&error)));
            // The connection may have ended; then nobody waits.
            let _ = answers.send((Answer { id, body: Some(body) }, permit)).await;
        });
    }
    Ok(())
}

fn refused(error: SignerError) -> Pending<answer::Body> {
    Box::pin(std::future::ready(Err(error)))
}

/// Begins with a request at once; what it returns waits for the outcome
fn answer(serving: &Arc<Serving>, body: Option<request::Body>) -> Pending<answer::Body> {
    let signer = &serving.signer;
    let key_name =
        |text: &str| KeyName::new(text).map_err(|error| SignerError::Refused(error.to_string()));
    match body {
        Some(request::Body::Hello(hello)) if hello.version == VERSION => {
            let keys = answer::Body::Keys(Keys::of(&signer.keys()));
            Box::pin(std::future::ready(Ok(keys)))
        }
        Some(request::Body::Hello(hello)) => refused(SignerError::Refused(format!(
            "the signing process speaks version {VERSION} of the protocol, not {}; install the same \
             release on both sides",
            hello.version
        ))),
        Some(request::Body::Sign(sign)) => match key_name(&sign.key) {
            Err(error) => refused(error),
            Ok(name) => {
                let signed = signer.sign(&name, sign.message);
                Box::pin(async move { Ok(answer::Body::Signature(signed.await?)) })
            }
        },
        Some(request::Body::CreateKey(_)) if !serving.settings.create_keys => {
            refused(SignerError::Refused(
                "the signing process makes no keys; allow it with --create-keys".into(),
            ))
        }
        Some(request::Body::CreateKey(create)) => match key_name(&create.key) {
            Err(error) => refused(error),
            Ok(name) => {
                let created = signer.create_key(&name);
                Box::pin(async move { Ok(answer::Body::Keys(Keys::of(&[created.await?]))) })
            }
        },
        Some(request::Body::GetStatus(_)) => {
            let status = signer.status();
            Box::pin(async move { Ok(answer::Body::Status(Status::of(&status.await?))) })
        }
        None => refused(SignerError::Refused("a request of an unknown kind".into())),
    }
}

async fn write_answers(
    mut answers: mpsc::Receiver<(Answer, OwnedSemaphorePermit)>,
    mut writing: OwnedWriteHalf,
) -> io::Result<()> {
    let mut octets = Vec::new();
    while let Some((answer, permit)) = answers.recv().await {
        octets.extend(frame::encode(&answer));
        let mut permits = vec![permit];
        // Whatever else is ready goes with it: one call for a batch.
        while let Ok((answer, permit)) = answers.try_recv() {
            octets.extend(frame::encode(&answer));
            permits.push(permit);
        }
        writing.write_all(&octets).await?;
        octets.clear();
    }
    Ok(())
}
