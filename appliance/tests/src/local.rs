//! Local programs around a service: a stream that is TCP or Unix, a server with a thread per connection, and an
//! echo in a process of its own for tests that would run out of descriptors.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time after which a read or write of a test's stream has failed
const PATIENCE: Duration = Duration::from_secs(60);

/// A local connection
#[derive(Debug)]
pub enum Stream {
    /// TCP
    Tcp(TcpStream),
    /// Unix
    Unix(UnixStream),
}

impl Stream {
    /// Connects to what `stoqctl` calls a socket: `[::1]:port` or `unix:/path`
    pub fn connect(target: &str) -> io::Result<Self> {
        let stream = match target.strip_prefix("unix:") {
            Some(path) => Self::Unix(UnixStream::connect(path)?),
            None => Self::Tcp(TcpStream::connect(target)?),
        };
        stream.set_patience(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Time a read or write may take
    pub fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
        }
    }

    /// Ends the sending direction
    pub fn shut_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Ends a TCP connection with a reset, a Unix one by closing it
    pub fn abort(self) {
        if let Self::Tcp(stream) = self {
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))
                .expect("a TCP socket lingers as told");
        }
    }

    /// The same connection once more
    pub fn again(&self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().expect("a descriptor is free")),
            Self::Unix(stream) => Self::Unix(stream.try_clone().expect("a descriptor is free")),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(out),
            Self::Unix(stream) => stream.read(out),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// A program behind a service: a thread per connection
pub struct Server {
    target: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// On a free TCP port of `[::1]`
    pub fn tcp(handle: impl Fn(Stream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("::1", 0)).expect("a port of [::1] is free");
        let target = listener.local_addr().expect("a bound socket has an address").to_string();
        Self::serve(Listener::Tcp(listener), target, handle)
    }

    /// On a Unix socket
    pub fn unix(path: &Path, handle: impl Fn(Stream) + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(path).expect("the path is free");
        Self::serve(Listener::Unix(listener), format!("unix:{}", path.display()), handle)
    }

    /// Sends back what it gets, over TCP
    pub fn echo_tcp() -> Self {
        Self::tcp(echo)
    }

    /// Sends back what it gets, over a Unix socket
    pub fn echo_unix(path: &Path) -> Self {
        Self::unix(path, echo)
    }

    fn serve(
        listener: Listener,
        target: String,
        handle: impl Fn(Stream) + Send + Sync + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let handle = Arc::new(handle);
        let thread = std::thread::spawn(move || {
            while let Ok(stream) = listener.accept() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let handle = Arc::clone(&handle);
                std::thread::spawn(move || handle(stream));
            }
        });
        Self { target, stop, thread: Some(thread) }
    }

    /// What `service publish --to` takes
    pub fn target(&self) -> String {
        self.target.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accepting thread; where that fails it has ended already.
        let _ = Stream::connect(&self.target);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn echo(mut stream: Stream) {
    let mut back = stream.again();
    // An early end is the client's to notice.
    if io::copy(&mut stream, &mut back).is_ok() {
        let _ = back.shut_write();
    }
}

/// An echo in a process of its own; it ends with its standard input
pub struct EchoProcess {
    child: Child,
    path: PathBuf,
}

impl EchoProcess {
    /// `program` is the echo binary of this crate; it listens at the Unix socket `path`
    pub fn start(program: &str, path: &Path) -> Self {
        let mut child = Command::new(program)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut line = String::new();
        let stdout = child.stdout.take().expect("the output is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the echo speaks");
        assert_eq!(line.trim(), "ready");
        Self { child, path: path.to_owned() }
    }

    /// What `service publish --to` takes
    pub fn target(&self) -> String {
        format!("unix:{}", self.path.display())
    }
}

impl Drop for EchoProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
