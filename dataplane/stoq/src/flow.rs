//! Flows as programs see them: bytes in, bytes out, half-close, reset; by chunks without a copy, or through the
//! read and write traits of tokio and of futures-io.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use stoq_interface::{FlowError, NodeId, ServiceName};
use stoq_worker::{FlowPort, ReadState, WriteState};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Largest piece handed to the worker at once
const PIECE_BYTES: usize = 256 << 10;

/// The reading half of a flow
#[derive(Debug)]
pub struct FlowReader {
    port: Arc<FlowPort>,
    /// What a short read left over
    rest: Bytes,
    _half: Arc<Half>,
}

/// The writing half of a flow
#[derive(Debug)]
pub struct FlowWriter {
    port: Arc<FlowPort>,
    /// What did not fit and must go first
    rest: Bytes,
    _half: Arc<Half>,
}

/// Both halves hold one; the flow is abandoned with the last
#[derive(Debug)]
struct Half(Arc<FlowPort>);

impl Drop for Half {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// A reliable, ordered byte stream in both directions between a program here and a service of a peer.
///
/// Dropped before [`Flow::finish`], the flow is reset with [`FlowError::Cancelled`], unless it was read to its
/// end and never written; dropped after it, what was written still arrives and what the peer still sends is
/// thrown away.
#[derive(Debug)]
pub struct Flow {
    reader: FlowReader,
    writer: FlowWriter,
}

fn broken(error: FlowError) -> io::Error {
    let kind = match error {
        FlowError::NotAuthorized => io::ErrorKind::PermissionDenied,
        FlowError::NoSuchService => io::ErrorKind::NotFound,
        FlowError::TargetRefused => io::ErrorKind::ConnectionRefused,
        FlowError::SessionLost => io::ErrorKind::ConnectionAborted,
        FlowError::Busy | FlowError::TooManyFlows => io::ErrorKind::ResourceBusy,
        _ => io::ErrorKind::ConnectionReset,
    };
    io::Error::new(kind, error)
}

impl FlowReader {
    /// The node at the other end
    pub fn peer(&self) -> &NodeId {
        self.port.peer()
    }

    /// The next bytes without a copy; `None` at the end of the flow
    pub async fn read_chunk(&mut self) -> Result<Option<Bytes>, FlowError> {
        poll_fn(|context| self.poll_chunk(context)).await
    }

    /// The next bytes without a copy; `None` at the end of the flow
    pub fn poll_chunk(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, FlowError>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        let state = match self.port.read() {
            ReadState::Pending => {
                self.port.on_readable(context.waker());
                // What came before the waker was in place would wake nobody.
                self.port.read()
            }
            state => state,
        };
        match state {
            ReadState::Data(bytes) => Poll::Ready(Ok(Some(bytes))),
            ReadState::End => Poll::Ready(Ok(None)),
            ReadState::Failed(error) => Poll::Ready(Err(error)),
            ReadState::Pending => Poll::Pending,
        }
    }

    fn poll_into(
        &mut self,
        context: &mut Context<'_>,
        room: usize,
        mut put: impl FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        if room == 0 {
            return Poll::Ready(Ok(0));
        }
        match ready!(self.poll_chunk(context)).map_err(broken)? {
            None => Poll::Ready(Ok(0)),
            Some(mut bytes) => {
                let length = bytes.len().min(room);
                put(&bytes[..length]);
                bytes.advance(length);
                self.rest = bytes;
                Poll::Ready(Ok(length))
            }
        }
    }
}

impl FlowWriter {
    /// The node at the other end
    pub fn peer(&self) -> &NodeId {
        self.port.peer()
    }

    /// Writes bytes without a copy; waits while the flow's buffers are full
    pub async fn write_chunk(&mut self, bytes: Bytes) -> Result<(), FlowError> {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            poll_fn(|context| self.poll_rest(context)).await?;
            self.rest = bytes.split_to(bytes.len().min(PIECE_BYTES));
        }
        poll_fn(|context| self.poll_rest(context)).await
    }

    /// Hands over what is left of the last write
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<Result<(), FlowError>> {
        if self.rest.is_empty() {
            return Poll::Ready(self.port.error().map_or(Ok(()), Err));
        }
        let rest = std::mem::take(&mut self.rest);
        let state = match self.port.write(rest) {
            WriteState::Full(rest) => {
                self.port.on_writable(context.waker());
                // Room made before the waker was in place would wake nobody.
                self.port.write(rest)
            }
            state => state,
        };
        match state {
            WriteState::Taken => Poll::Ready(Ok(())),
            WriteState::Failed(error) => Poll::Ready(Err(error)),
            WriteState::Full(rest) => {
                self.rest = rest;
                Poll::Pending
            }
        }
    }

    /// Half-close: nothing more will be written. Does not wait.
    pub async fn shut(&mut self) -> Result<(), FlowError> {
        poll_fn(|context| self.poll_rest(context)).await?;
        self.port.finish();
        Ok(())
    }

    /// Half-close; resolves once the peer's node has everything
    pub async fn finish(&mut self) -> Result<(), FlowError> {
        self.shut().await?;
        poll_fn(|context| self.poll_sent(context)).await
    }

    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<(), FlowError>> {
        self.port.on_writable(context.waker());
        if self.port.is_sent() {
            return Poll::Ready(Ok(()));
        }
        self.port.error().map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
    }

    fn poll_take(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_rest(context)).map_err(broken)?;
        let length = bytes.len().min(PIECE_BYTES);
        self.rest = Bytes::copy_from_slice(&bytes[..length]);
        // Taken over: it goes now or with the next write, flush or finish.
        match self.poll_rest(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(broken(error))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(length)),
        }
    }

    fn poll_shut(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(context)).map_err(broken)?;
        self.port.finish();
        Poll::Ready(Ok(()))
    }
}

impl Flow {
    pub(crate) fn new(port: Arc<FlowPort>) -> Self {
        let half = Arc::new(Half(Arc::clone(&port)));
        Self {
            reader: FlowReader {
                port: Arc::clone(&port),
                rest: Bytes::new(),
                _half: Arc::clone(&half),
            },
            writer: FlowWriter { port, rest: Bytes::new(), _half: half },
        }
    }

    /// The node at the other end
    pub fn peer(&self) -> &NodeId {
        self.reader.peer()
    }

    /// The service the flow reaches
    pub fn service(&self) -> &ServiceName {
        self.reader.port.service()
    }

    /// The next bytes without a copy; `None` at the end of the flow
    pub async fn read_chunk(&mut self) -> Result<Option<Bytes>, FlowError> {
        self.reader.read_chunk().await
    }

    /// Writes bytes without a copy; waits while the flow's buffers are full
    pub async fn write_chunk(&mut self, bytes: Bytes) -> Result<(), FlowError> {
        self.writer.write_chunk(bytes).await
    }

    /// Half-close; resolves once the peer's node has everything
    pub async fn finish(&mut self) -> Result<(), FlowError> {
        self.writer.finish().await
    }

    /// Ends the flow in both directions, telling the peer why
    pub fn reset(&mut self, reason: FlowError) {
        self.reader.port.reset(reason);
    }

    /// Both directions apart
    pub fn split(self) -> (FlowReader, FlowWriter) {
        (self.reader, self.writer)
    }
}

impl FlowReader {
    /// Ends the flow in both directions, telling the peer why
    pub fn reset(&mut self, reason: FlowError) {
        self.port.reset(reason);
    }
}

impl FlowWriter {
    /// Ends the flow in both directions, telling the peer why
    pub fn reset(&mut self, reason: FlowError) {
        self.port.reset(reason);
    }
}

impl AsyncRead for FlowReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = out.remaining();
        self.poll_into(context, room, |bytes| out.put_slice(bytes)).map_ok(|_| ())
    }
}

impl futures_util::io::AsyncRead for FlowReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let room = out.len();
        self.poll_into(context, room, |bytes| out[..bytes.len()].copy_from_slice(bytes))
    }
}

impl AsyncWrite for FlowWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_take(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_rest(context).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shut(context)
    }
}

impl futures_util::io::AsyncWrite for FlowWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_take(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_rest(context).map_err(broken)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shut(context)
    }
}

macro_rules! both_directions {
    ($read:path, $write:path, $close:ident, |$flow:ident, $context:ident, $out:ident: $buffer:ty| -> $filled:ty) => {
        impl $read for Flow {
            fn poll_read(
                mut self: Pin<&mut Self>,
                $context: &mut Context<'_>,
                $out: $buffer,
            ) -> Poll<io::Result<$filled>> {
                <FlowReader as $read>::poll_read(Pin::new(&mut self.reader), $context, $out)
            }
        }

        impl $write for Flow {
            fn poll_write(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.writer.poll_take(context, bytes)
            }

            fn poll_flush(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                self.writer.poll_rest(context).map_err(broken)
            }

            fn $close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.writer.poll_shut(context)
            }
        }
    };
}

both_directions!(AsyncRead, AsyncWrite, poll_shutdown, |flow, context, out: &mut ReadBuf<'_>| -> ());
both_directions!(
    futures_util::io::AsyncRead,
    futures_util::io::AsyncWrite,
    poll_close,
    |flow, context, out: &mut [u8]| -> usize
);
