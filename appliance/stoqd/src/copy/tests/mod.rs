//! Both ends of the engine over an in-memory flow, and each end against a scripted peer. Here is what the
//! tests share: rooms on disk, a tree to copy, a comparison, a flow that breaks, the scripted peer.

mod hostile;
mod resume;
mod tree;

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf,
};

use super::wire::{
    Decoder, Direction, Entry, EntryKind, EntryPath, Event, Hello, HelloOptions, Message, Modified,
    RemotePath, Source, VERSION, encode_data_header,
};
use super::{CopyError, Options, Permission, Progress, Roots, Summary, pull, push, serve};

const FLOW_BYTES: usize = 256 * 1024;
const ALL: Permission = Permission { read: true, write: true };

type Result = std::result::Result<Summary, CopyError>;

/// Two directories: what is served, and what is the client's own
struct Room {
    directory: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("served")).unwrap();
        fs::create_dir(directory.path().join("own")).unwrap();
        Self { directory }
    }

    fn served(&self, path: &str) -> PathBuf {
        self.directory.path().join("served").join(path)
    }

    fn own(&self, path: &str) -> PathBuf {
        self.directory.path().join("own").join(path)
    }

    fn roots(&self) -> Roots {
        Roots::new([self.served("")]).unwrap()
    }

    async fn push(&self, source: &str, remote: &str) -> (Result, Result) {
        self.push_with(source, remote, Options::default()).await
    }

    async fn push_with(&self, source: &str, remote: &str, options: Options) -> (Result, Result) {
        let (near, far) = tokio::io::duplex(FLOW_BYTES);
        let (source, roots) = (self.own(source), self.roots());
        tokio::join!(push(near, &source, remote, options, |_| {}), serve(far, &roots, ALL))
    }

    async fn pull(&self, remote: &str, destination: &str) -> (Result, Result) {
        let (near, far) = tokio::io::duplex(FLOW_BYTES);
        let (destination, roots) = (self.own(destination), self.roots());
        let options = Options::default();
        tokio::join!(pull(near, remote, &destination, options, |_| {}), serve(far, &roots, ALL))
    }

    /// A server and the scripted peer it serves
    fn script(&self) -> (Script, impl Future<Output = Result> + use<>) {
        let (near, far) = tokio::io::duplex(FLOW_BYTES);
        let roots = self.roots();
        (Script::new(near), async move { serve(far, &roots, ALL).await })
    }
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).unwrap();
}

/// Octets that repeat nowhere nearby
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut content = Vec::with_capacity(length + 8);
    while content.len() < length {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        content.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    content.truncate(length);
    content
}

fn set_modified(path: &Path, seconds: u64, nanoseconds: u32) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// Everything a copy carries of one entry
#[derive(Debug, Eq, PartialEq)]
struct Seen {
    path: PathBuf,
    kind: u32,
    mode: u32,
    modified: (i64, i64),
    content: Vec<u8>,
}

/// Everything a copy carries of a tree, in order
fn look(root: &Path) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        // Joined with nothing, a path would end in a slash, which no file bears.
        let full = if path.as_os_str().is_empty() { root.into() } else { root.join(&path) };
        let metadata = fs::symlink_metadata(&full).unwrap();
        let content = if metadata.is_dir() {
            let names = fs::read_dir(&full).unwrap();
            waiting.extend(names.map(|entry| path.join(entry.unwrap().file_name())));
            Vec::new()
        } else if metadata.is_symlink() {
            fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            fs::read(&full).unwrap()
        };
        seen.push(Seen {
            path,
            kind: metadata.mode() & 0o170_000,
            mode: metadata.mode() & 0o7777,
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            content,
        });
    }
    seen.sort_by(|a, b| a.path.cmp(&b.path));
    seen
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A flow that fails for good after so many octets were written to it
struct Breaking<F> {
    flow: F,
    left: usize,
}

impl<F: AsyncRead + Unpin> AsyncRead for Breaking<F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.flow).poll_read(context, buffer)
    }
}

impl<F: AsyncWrite + Unpin> AsyncWrite for Breaking<F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let bytes = &bytes[..bytes.len().min(self.left)];
        let written = std::task::ready!(Pin::new(&mut self.flow).poll_write(context, bytes))?;
        self.left -= written;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.flow).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.flow).poll_shutdown(context)
    }
}

/// A peer that says what the test wants
struct Script {
    flow: DuplexStream,
    decoder: Decoder,
    chunk: Bytes,
}

impl Script {
    fn new(flow: DuplexStream) -> Self {
        Self { flow, decoder: Decoder::new(), chunk: Bytes::new() }
    }

    async fn raw(&mut self, bytes: &[u8]) {
        self.flow.write_all(bytes).await.unwrap();
    }

    async fn say(&mut self, message: Message) {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes).unwrap();
        self.raw(&bytes).await;
    }

    async fn content(&mut self, content: &[u8]) {
        let mut bytes = BytesMut::new();
        encode_data_header(content.len(), &mut bytes).unwrap();
        bytes.extend_from_slice(content);
        self.raw(&bytes).await;
    }

    /// The next message; `None` at the end of the flow
    async fn hear(&mut self) -> Option<Message> {
        loop {
            match self.decoder.decode(&mut self.chunk).unwrap() {
                Some(Event::Message(message)) => return Some(message),
                Some(Event::Data(_)) => continue,
                None => {}
            }
            let mut buffer = BytesMut::with_capacity(4096);
            if self.flow.read_buf(&mut buffer).await.unwrap() == 0 {
                return None;
            }
            self.chunk = buffer.freeze();
        }
    }

    async fn hello(&mut self, direction: Direction, path: &str) {
        let path = RemotePath::parse(path).unwrap();
        let options = HelloOptions::default();
        self.say(Message::Hello(Hello { versions: vec![VERSION], direction, options, path })).await;
        assert_eq!(self.hear().await, Some(Message::Welcome { version: VERSION }));
    }

    /// Starts to push a directory's content to the served root
    async fn push_directory(&mut self) {
        self.hello(Direction::Push, ".").await;
        self.say(Message::Source(Source { name: None, files: 0, bytes: 0 })).await;
        self.offer(&[], EntryKind::Directory).await;
        assert!(matches!(self.hear().await, Some(Message::Verdict { entry: 0, .. })));
    }

    async fn offer(&mut self, path: &[&[u8]], kind: EntryKind) {
        let path = EntryPath::from_components(path.iter().copied()).unwrap();
        let modified = Modified { seconds: 1_000_000, nanoseconds: 1 };
        self.say(Message::Entry(Entry { path, mode: 0o644, modified, kind })).await;
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
