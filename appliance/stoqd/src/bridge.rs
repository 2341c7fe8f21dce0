//! Between a flow and a local socket, TCP or Unix: both directions, half-close, reset and back-pressure. An idle
//! bridge holds no buffer.

use std::io;
use std::net::SocketAddrV6;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;
use stoq::{Flow, FlowError, FlowReader, FlowWriter};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UnixStream};

use stoq_config::Target;

/// Bytes read from a local socket at once
const READ_BYTES: usize = 128 << 10;
/// Below this a read is copied, so that few bytes do not hold a whole buffer until they are acknowledged
const COPY_BELOW_BYTES: usize = READ_BYTES / 8;
/// Buffers kept for the next read
const SPARE_BUFFERS: usize = 256;

/// Buffers that wait for the next read. The worker that sends a buffer's last byte puts it back here: freed
/// there, it would cost the worker a system call whenever the allocator returns memory to the kernel.
static SPARES: LazyLock<ArrayQueue<Box<[u8]>>> = LazyLock::new(|| ArrayQueue::new(SPARE_BUFFERS));

/// A buffer that goes back to [`SPARES`] after use
struct Buffer {
    octets: Box<[u8]>,
    filled: usize,
}

impl Buffer {
    fn take() -> Self {
        let octets = SPARES.pop().unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
        Self { octets, filled: 0 }
    }

    fn into_bytes(self) -> Bytes {
        if self.filled < COPY_BELOW_BYTES {
            Bytes::copy_from_slice(self.as_ref())
        } else {
            Bytes::from_owner(self)
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.octets[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Where enough are spare already, this one is freed.
        let _ = SPARES.push(std::mem::take(&mut self.octets));
    }
}

/// Time a local service has to accept
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A local socket
#[derive(Debug)]
pub enum Local {
    /// TCP
    Tcp(TcpStream),
    /// Unix stream
    Unix(UnixStream),
}

impl Local {
    /// Connects to a published service's program
    pub async fn connect(target: &Target) -> io::Result<Self> {
        let connecting = async {
            match target {
                Target::Tcp(address) => Self::connect_tcp(*address).await,
                Target::Unix(path) => Self::connect_unix(path).await,
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn connect_tcp(address: SocketAddrV6) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    async fn connect_unix(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).await.map(Self::Unix)
    }

    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.ready(Interest::READABLE).await.map(drop),
            Self::Unix(stream) => stream.ready(Interest::READABLE).await.map(drop),
        }
    }

    fn try_read(&self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(out),
            Self::Unix(stream) => stream.try_read(out),
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let outcome = match self {
                Self::Tcp(stream) => {
                    stream.writable().await?;
                    stream.try_write(bytes)
                }
                Self::Unix(stream) => {
                    stream.writable().await?;
                    stream.try_write(bytes)
                }
            };
            match outcome {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn shut(&self) -> io::Result<()> {
        let how = rustix::net::Shutdown::Write;
        let done = match self {
            Self::Tcp(stream) => rustix::net::shutdown(stream, how),
            Self::Unix(stream) => rustix::net::shutdown(stream, how),
        };
        match done {
            // The program went first.
            Err(rustix::io::Errno::NOTCONN) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends a TCP connection with a reset, as the flow ended with one
    async fn abort(self) {
        match self {
            Self::Tcp(stream) => {
                // Where the option cannot be set the program sees an ordinary end.
                let _ = stream.set_zero_linger();
            }
            Self::Unix(mut stream) => {
                // A Unix socket has no reset: it is closed.
                let _ = stream.shutdown().await;
            }
        }
    }
}

/// Carries bytes both ways until both ends are done; returns why the flow ended early, if it did
pub async fn run(local: Local, flow: Flow) -> Result<(), FlowError> {
    let (reader, writer) = flow.split();
    let outcome = tokio::try_join!(upstream(&local, writer), downstream(&local, reader));
    match outcome {
        Ok(((), ())) => Ok(()),
        Err(error) => {
            local.abort().await;
            Err(error)
        }
    }
}

/// From the local socket to the flow
async fn upstream(local: &Local, mut writer: FlowWriter) -> Result<(), FlowError> {
    loop {
        let ready = local.readable().await;
        // Taken only when there is something to read, so that idle flows hold nothing.
        let mut buffer = Buffer::take();
        match ready.and_then(|()| local.try_read(&mut buffer.octets)) {
            Ok(0) => {
                drop(buffer);
                return writer.shut().await;
            }
            Ok(count) => {
                buffer.filled = count;
                writer.write_chunk(buffer.into_bytes()).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::debug!(%error, "a local socket failed while being read");
                writer.reset(FlowError::TargetFailed);
                return Err(FlowError::TargetFailed);
            }
        }
    }
}

/// From the flow to the local socket
async fn downstream(local: &Local, mut reader: FlowReader) -> Result<(), FlowError> {
    while let Some(bytes) = reader.read_chunk().await? {
        if let Err(error) = local.write_all(&bytes).await {
            tracing::debug!(%error, "a local socket failed while being written");
            reader.reset(FlowError::TargetFailed);
            return Err(FlowError::TargetFailed);
        }
    }
    local.shut().map_err(|error| {
        tracing::debug!(%error, "a local socket could not be half-closed");
        reader.reset(FlowError::TargetFailed);
        FlowError::TargetFailed
    })
}
