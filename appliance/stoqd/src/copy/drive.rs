//! Joins a role's file thread to the flow: bytes in become events in a bounded queue, packed bytes out are
//! written as the flow takes them, and however the transfer ends, the peer is told what it can still be told.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::READ_BYTES;
use super::error::CopyError;
use super::tally::{Progress, Summary};
use super::wire::{DecodeError, Decoder, Event, Message};

/// How long a peer has to take in the last message and to close its side
const LAST_WORD_MAX: Duration = Duration::from_secs(5);

/// Less room than this at the end of the read buffer is not worth a read
const READ_ROOM_MIN_BYTES: usize = 16 * 1024;

/// The receiving direction of a flow
pub(super) struct Inbound<F> {
    flow: ReadHalf<F>,
    decoder: Decoder,
    buffer: BytesMut,
    chunk: Bytes,
    /// What a read met after it had already got octets
    failed: Option<io::Error>,
}

impl<F: AsyncRead> Inbound<F> {
    /// The next event; `None` when the peer has ended its direction between two messages
    pub async fn next(&mut self) -> Result<Option<Event>, CopyError> {
        loop {
            if let Some(event) = self.decoder.decode(&mut self.chunk)? {
                return Ok(Some(event));
            }
            if self.fill().await.map_err(CopyError::Flow)? == 0 {
                return match self.decoder.finish() {
                    Ok(()) => Ok(None),
                    Err(DecodeError::Truncated) => Err(CopyError::Truncated),
                    Err(error) => Err(error.into()),
                };
            }
            self.chunk = self.buffer.split().freeze();
        }
    }

    /// Waits for octets, then takes all that are there, so that a slow disk gets few large pieces
    async fn fill(&mut self) -> io::Result<usize> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.buffer.capacity() < READ_ROOM_MIN_BYTES {
            self.buffer.reserve(READ_BYTES);
        }
        let mut total = self.flow.read_buf(&mut self.buffer).await?;
        while total > 0 && self.buffer.capacity() > self.buffer.len() {
            let more = poll_fn(|context| {
                let read = pin!(self.flow.read_buf(&mut self.buffer));
                Poll::Ready(read.poll(context))
            });
            match more.await {
                // The end of the stream shows again on the next read.
                Poll::Pending | Poll::Ready(Ok(0)) => break,
                Poll::Ready(Ok(read)) => total += read,
                Poll::Ready(Err(error)) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        Ok(total)
    }
}

/// A flow in its two directions
pub(super) struct Link<F> {
    pub inbound: Inbound<F>,
    outbound: WriteHalf<F>,
}

impl<F: AsyncRead + AsyncWrite> Link<F> {
    pub fn new(flow: F) -> Self {
        let (flow, outbound) = tokio::io::split(flow);
        let (buffer, chunk) = (BytesMut::new(), Bytes::new());
        let inbound = Inbound { flow, decoder: Decoder::new(), buffer, chunk, failed: None };
        Self { inbound, outbound }
    }

    pub async fn send(&mut self, message: &Message) -> Result<(), CopyError> {
        send(&mut self.outbound, message).await
    }

    /// Tells the peer of `error`, if it is for the peer, and returns it
    pub async fn refuse(mut self, error: CopyError) -> CopyError {
        farewell(&mut self.outbound, &error, discard(&mut self.inbound)).await;
        error
    }
}

async fn send(flow: &mut (impl AsyncWrite + Unpin), message: &Message) -> Result<(), CopyError> {
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes)?;
    flow.write_all_buf(&mut bytes).await.map_err(CopyError::Flow)?;
    flow.flush().await.map_err(CopyError::Flow)
}

/// Sends the reason of an end, closes this side and waits for the peer to close its own, all within
/// [`LAST_WORD_MAX`]: a peer that does not listen cannot hold the transfer
async fn farewell(
    flow: &mut (impl AsyncWrite + Unpin),
    error: &CopyError,
    peer_closes: impl Future,
) {
    let Some((code, text)) = error.for_peer() else { return };
    let words = async {
        if send(flow, &Message::Error { code, text }).await.is_ok() && flow.shutdown().await.is_ok()
        {
            // Only the moment counts.
            drop(peer_closes.await);
        }
    };
    // Whether the peer heard it changes nothing here: `error` is what the caller gets.
    drop(timeout(LAST_WORD_MAX, words).await);
}

/// Reads to the end without looking
async fn discard<F: AsyncRead>(inbound: &mut Inbound<F>) {
    let mut buffer = BytesMut::new();
    while inbound.flow.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        buffer.clear();
    }
}

/// Hands events to the file thread until the peer's direction ends; what comes after the thread has ended
/// is discarded
async fn pump_in<F: AsyncRead, I: From<Event>>(
    inbound: &mut Inbound<F>,
    events: mpsc::Sender<I>,
    moved: &AtomicU64,
) -> Result<(), CopyError> {
    while let Some(event) = inbound.next().await? {
        moved.fetch_add(1, Relaxed);
        if events.send(I::from(event)).await.is_err() {
            discard(inbound).await;
            break;
        }
    }
    Ok(())
}

/// Writes what the file thread has packed, until it has ended
async fn pump_out<F: AsyncWrite>(
    flow: &mut WriteHalf<F>,
    mut packed: mpsc::Receiver<Bytes>,
    moved: &AtomicU64,
) -> io::Result<()> {
    while let Some(mut piece) = packed.recv().await {
        while !piece.is_empty() {
            if flow.write_buf(&mut piece).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            moved.fetch_add(1, Relaxed);
        }
        if packed.is_empty() {
            flow.flush().await?;
        }
    }
    Ok(())
}

/// The queues and the thread of a role
pub(super) struct Role<I> {
    pub thread: JoinHandle<Result<Summary, CopyError>>,
    pub events: mpsc::Sender<I>,
    pub packed: mpsc::Receiver<Bytes>,
    pub progress: watch::Receiver<Progress>,
    /// How long neither direction may move
    pub stall_max: Duration,
}

/// Runs a role over a flow to its end
pub(super) async fn drive<F, I>(
    link: Link<F>,
    role: Role<I>,
    report: impl Fn(Progress),
) -> Result<Summary, CopyError>
where
    F: AsyncRead + AsyncWrite,
    I: From<Event>,
{
    let Link { mut inbound, mut outbound } = link;
    let Role { mut thread, events, packed, mut progress, stall_max } = role;
    let moved = AtomicU64::new(0);
    let mut stalled = pin!(stall(&moved, stall_max));
    let mut reading = Some(Box::pin(pump_in(&mut inbound, events, &moved)));
    let mut writing = Some(Box::pin(pump_out(&mut outbound, packed, &moved)));
    let mut read: Option<Result<(), CopyError>> = None;
    let mut written: Option<io::Result<()>> = None;
    let mut watching = true;
    let mut deadline = pin!(sleep(Duration::MAX));
    let ended = loop {
        tokio::select! {
            ended = &mut thread => break ended,
            result = poll_some(&mut reading) => {
                read = Some(result);
                reading = None;
                deadline.as_mut().reset(Instant::now() + LAST_WORD_MAX);
            }
            result = poll_some(&mut writing) => {
                if result.is_err() {
                    deadline.as_mut().reset(Instant::now() + LAST_WORD_MAX);
                }
                written = Some(result);
                writing = None;
            }
            // Once one direction has ended, the thread comes to its end, unless it waits for a peer that
            // neither reads nor speaks in the other.
            () = &mut deadline, if reading.is_some() || writing.is_some() => {
                reading = None;
                writing = None;
            }
            () = &mut stalled, if read.is_none() => {
                read = Some(Err(CopyError::Stalled(stall_max.as_secs())));
                reading = None;
                writing = None;
            }
            changed = progress.changed(), if watching => {
                watching = changed.is_ok();
                report(progress.borrow_and_update().clone());
            }
        }
    };
    report(progress.borrow().clone());
    let result = ended.unwrap_or_else(|error| Err(CopyError::Worker(error.to_string())));
    let written = match (writing, &result) {
        (None, _) => written,
        // What the thread packed last is still on its way out.
        (Some(writing), Ok(_)) => Some(writing.await),
        (Some(writing), Err(_)) => timeout(LAST_WORD_MAX, writing).await.ok(),
    };
    // After half a message nothing could be understood.
    let in_step = matches!(written, Some(Ok(())));
    let result = blame(result, &mut read, written);
    let peer_closes = async {
        match read {
            Some(read) => read.is_ok(),
            None => poll_some(&mut reading).await.is_ok(),
        }
    };
    part(&mut outbound, result, in_step, peer_closes).await
}

/// Ends the flow as the transfer ended
async fn part(
    flow: &mut (impl AsyncWrite + Unpin),
    result: Result<Summary, CopyError>,
    in_step: bool,
    peer_closes: impl Future<Output = bool>,
) -> Result<Summary, CopyError> {
    match result {
        Ok(summary) => {
            close(flow, peer_closes).await?;
            complete(summary)
        }
        Err(error) => {
            if in_step {
                farewell(flow, &error, peer_closes).await;
            }
            Err(error)
        }
    }
}

/// Finds the error to report: the thread only sees that its queues ended, why is known here
fn blame(
    result: Result<Summary, CopyError>,
    read: &mut Option<Result<(), CopyError>>,
    written: Option<io::Result<()>>,
) -> Result<Summary, CopyError> {
    match (result, written) {
        (Err(CopyError::Truncated), written) => {
            let unwritten = written.and_then(Result::err).map(CopyError::Flow);
            let unread = match read {
                Some(Err(error)) => Some(std::mem::replace(error, CopyError::Truncated)),
                _ => None,
            };
            Err(unread.or(unwritten).unwrap_or(CopyError::Truncated))
        }
        // Everything is done, but the peer was not told.
        (Ok(_), Some(Err(error))) => Err(CopyError::Flow(error)),
        (Ok(_), None) => Err(CopyError::Truncated),
        (result, _) => result,
    }
}

/// Ends when nothing has moved for that long
async fn stall(moved: &AtomicU64, stall_max: Duration) {
    let mut before = None;
    loop {
        let now = moved.load(Relaxed);
        if before == Some(now) {
            return;
        }
        before = Some(now);
        sleep(stall_max).await;
    }
}

/// Waits for a future that may be gone already, then for ever
async fn poll_some<T: Future>(future: &mut Option<Pin<Box<T>>>) -> T::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Ends this side's direction after a transfer that ran to its end and gives the peer time to end its own
async fn close(
    flow: &mut (impl AsyncWrite + Unpin),
    peer_closes: impl Future<Output = bool>,
) -> Result<(), CopyError> {
    let shut = flow.shutdown().await;
    let closed = timeout(LAST_WORD_MAX, peer_closes).await;
    match shut {
        // A peer that closed first has taken in everything.
        Err(error) if closed != Ok(true) => Err(CopyError::Flow(error)),
        _ => Ok(()),
    }
}

fn complete(summary: Summary) -> Result<Summary, CopyError> {
    if summary.failed == 0 { Ok(summary) } else { Err(CopyError::Incomplete(Box::new(summary))) }
}

#[cfg(test)]
mod tests {
    use tokio::task::spawn_blocking;

    use super::*;

    fn role(stall_max: Duration) -> Role<Event> {
        let (events, mut incoming) = mpsc::channel(1);
        let (outbox, packed) = mpsc::channel(1);
        let (_, progress) = watch::channel(Progress::default());
        let thread = spawn_blocking(move || {
            while incoming.blocking_recv().is_some() {}
            drop(outbox);
            Err(CopyError::Truncated)
        });
        Role { thread, events, packed, progress, stall_max }
    }

    #[tokio::test]
    async fn a_peer_that_stays_silent_does_not_hold_the_transfer() {
        let (near, _far) = tokio::io::duplex(64);
        let ended = drive(Link::new(near), role(Duration::from_millis(20)), |_| {}).await;
        assert!(matches!(ended, Err(CopyError::Stalled(_))), "{ended:?}");
    }

    #[tokio::test]
    async fn a_peer_that_speaks_nonsense_is_told() {
        let (near, mut far) = tokio::io::duplex(64);
        let peer = async {
            far.write_all(b"\x1c\x00").await.unwrap();
            let mut told = Vec::new();
            far.read_to_end(&mut told).await.unwrap();
            drop(far);
            told
        };
        let ended = drive(Link::new(near), role(Duration::from_secs(60)), |_| {});
        let (ended, told) = tokio::join!(ended, peer);
        assert!(matches!(ended, Err(CopyError::Decode(_))), "{ended:?}");
        // ERROR, two octets of length, the code for a broken protocol.
        assert_eq!((told[0], told[3]), (0x1a, 0x01));
    }
}
