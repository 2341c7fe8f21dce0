//! Calls to the cluster: gRPC over HTTP/2, one connection at a time, to the next member when one fails. What is
//! asked and why is not known here. A call that failed may have been carried out all the same.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddrV6;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::dial::Dial;

/// Largest message that is read; etcd's own limit on what it accepts is 1.5 MiB, a page of values can be more
const MESSAGE_LIMIT_BYTES: usize = 64 << 20;
/// Longest status text that is repeated
const TEXT_LIMIT_BYTES: usize = 512;
/// How often a quiet connection is asked whether it is still there, and how long that may take
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Before a member is tried again after all have failed
const PAUSE: Duration = Duration::from_millis(50);

/// Status codes of gRPC that mean something here
pub(super) const OUT_OF_RANGE: u32 = 11;
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNAVAILABLE: u32 = 14;

/// Why a call came to nothing
#[derive(Clone, Debug)]
pub(super) enum CallError {
    /// The connection or the member failed; another may do better
    Connection(String),
    /// The cluster answered with an error
    Status { code: u32, text: String },
}

impl CallError {
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Connection(_) => true,
            Self::Status { code, text } => {
                let crowded = *code == RESOURCE_EXHAUSTED && !self.is_no_space();
                // A member that has just lost its leader says so in several ways.
                let leaderless = text.contains("leader");
                crowded || leaderless || matches!(*code, DEADLINE_EXCEEDED | UNAVAILABLE)
            }
        }
    }

    pub(super) fn is_no_space(&self) -> bool {
        matches!(self, Self::Status { code: RESOURCE_EXHAUSTED, text } if text.contains("space"))
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(text) => formatter.write_str(text),
            Self::Status { code, text } => write!(formatter, "etcd says: {text} (status {code})"),
        }
    }
}

fn connection(error: impl fmt::Display) -> CallError {
    CallError::Connection(error.to_string())
}

/// The body of a request: one message, after which the stream ends or is kept open until dropped
#[derive(Debug)]
struct RequestBody {
    message: Option<Bytes>,
    keep_open: bool,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.message.take() {
            Some(message) => Poll::Ready(Some(Ok(Frame::data(message)))),
            // Nothing more is ever sent; the stream ends with its answer.
            None if self.keep_open => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && !self.keep_open
    }
}

type Sender = SendRequest<RequestBody>;

#[derive(Debug)]
struct Current {
    /// Counts changes, so that two callers who saw one failure go on once
    generation: u64,
    member: usize,
    sender: Option<Sender>,
}

/// How long calls may take
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For one member
    pub(super) attempt: Duration,
    /// For all of them
    pub(super) whole: Duration,
}

/// The cluster
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    members: Arc<[SocketAddrV6]>,
    dial: Arc<dyn Dial>,
    patience: Patience,
    current: Arc<Mutex<Current>>,
}

impl Cluster {
    pub(super) fn new(members: &[SocketAddrV6], dial: Arc<dyn Dial>, patience: Patience) -> Self {
        let current = Current { generation: 0, member: 0, sender: None };
        let current = Arc::new(Mutex::new(current));
        Self { members: members.into(), dial, patience, current }
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// Asks one member after the other until one answers or patience ends
    pub(super) async fn call<Q: Message, A: Message + Default>(
        &self,
        path: &'static str,
        request: &Q,
    ) -> Result<A, CallError> {
        let deadline = Instant::now() + self.patience.whole;
        let message = frame(request);
        loop {
            let (generation, outcome) = self.attempt(path, message.clone()).await;
            let error = match outcome {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.is_transient() || Instant::now() + PAUSE >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, path, "the next member of the cluster is asked");
            self.give_up(generation).await;
            sleep(PAUSE).await;
        }
    }

    async fn attempt<A: Message + Default>(
        &self,
        path: &'static str,
        message: Bytes,
    ) -> (u64, Result<A, CallError>) {
        let (generation, sender) = self.sender().await;
        let outcome = async {
            let mut answer = open(sender?, path, message, false).await?;
            let read = answer.next::<A>().await?;
            let read = read.ok_or_else(|| connection("the answer had no message"))?;
            match answer.next::<A>().await? {
                None => Ok(read),
                Some(_) => Err(connection("the answer had two messages")),
            }
        };
        let late = |_elapsed| Err(connection("no answer in time"));
        (generation, timeout(self.patience.attempt, outcome).await.unwrap_or_else(late))
    }

    /// Begins a stream of answers to one request
    pub(super) async fn stream<Q: Message>(
        &self,
        path: &'static str,
        request: &Q,
    ) -> (u64, Result<Answers, CallError>) {
        let (generation, sender) = self.sender().await;
        let opened = async { open(sender?, path, frame(request), true).await };
        let late = |_elapsed| Err(connection("no answer in time"));
        (generation, timeout(self.patience.attempt, opened).await.unwrap_or_else(late))
    }

    /// Goes on to the next member, unless somebody has done so already
    pub(super) async fn give_up(&self, generation: u64) {
        let mut current = self.current.lock().await;
        if current.generation == generation {
            current.generation += 1;
            current.member = (current.member + 1) % self.members.len();
            current.sender = None;
        }
    }

    async fn sender(&self) -> (u64, Result<Sender, CallError>) {
        let mut current = self.current.lock().await;
        if current.sender.as_ref().is_none_or(Sender::is_closed) {
            let member = self.members[current.member];
            let connected = timeout(self.patience.attempt, self.connect(member)).await;
            current.sender = match connected {
                Ok(Ok(sender)) => Some(sender),
                Ok(Err(error)) => {
                    return (current.generation, Err(connection(format!("{member}: {error}"))));
                }
                Err(_elapsed) => {
                    let text = format!("{member}: no connection in time");
                    return (current.generation, Err(connection(text)));
                }
            };
        }
        let sender = current.sender.clone().ok_or_else(|| connection("not connected"));
        (current.generation, sender)
    }

    async fn connect(&self, member: SocketAddrV6) -> Result<Sender, CallError> {
        let stream = self.dial.dial(member).await.map_err(connection)?;
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(connection)?;
        // Ends with the connection, which ends with its last sender.
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, %member, "a connection to the cluster ended");
            }
        });
        Ok(sender)
    }
}

fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    // What is sent is bounded by etcd's limit on requests.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes.freeze()
}

async fn open(
    mut sender: Sender,
    path: &'static str,
    message: Bytes,
    keep_open: bool,
) -> Result<Answers, CallError> {
    sender.ready().await.map_err(connection)?;
    let request = Request::builder()
        .method(Method::POST)
        // The authority is checked by nobody; members are told apart by address and certificate.
        .uri(format!("http://etcd{path}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        // A member cut off from the others must say so instead of serving what it remembers.
        .header("hasleader", "true")
        .body(RequestBody { message: Some(message), keep_open })
        .map_err(connection)?;
    let response = sender.send_request(request).await.map_err(connection)?;
    if response.status() != StatusCode::OK {
        return Err(connection(format!("it answered with HTTP status {}", response.status())));
    }
    let (head, body) = response.into_parts();
    // An error without a message comes in the headers.
    if head.headers.contains_key("grpc-status") {
        status(&head.headers)?;
    }
    Ok(Answers { body, buffer: BytesMut::new(), _sender: sender })
}

fn text(value: Option<&HeaderValue>) -> String {
    let bytes = value.map_or(&[][..], HeaderValue::as_bytes);
    String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_LIMIT_BYTES)]).replace("%20", " ")
}

fn status(headers: &HeaderMap) -> Result<(), CallError> {
    let code = headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(CallError::Status { code, text: text(headers.get("grpc-message")) }),
        None => Err(connection("the answer ended without a status")),
    }
}

/// The messages of an answer
#[derive(Debug)]
pub(super) struct Answers {
    body: Incoming,
    buffer: BytesMut,
    // The connection lives as long as somebody may send on it.
    _sender: Sender,
}

impl Answers {
    /// The next message; `None` when the answer ended well
    pub(super) async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, CallError> {
        loop {
            if let Some(message) = self.take_message()? {
                return A::decode(message).map(Some).map_err(connection);
            }
            match self.body.frame().await {
                None => return Err(connection("the answer ended without a status")),
                Some(Err(error)) => return Err(connection(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        let Ok(trailers) = frame.into_trailers() else { continue };
                        status(&trailers)?;
                        return match self.buffer.is_empty() {
                            true => Ok(None),
                            false => Err(connection("the answer ended within a message")),
                        };
                    }
                },
            }
        }
    }

    fn take_message(&mut self) -> Result<Option<Bytes>, CallError> {
        let Some((head, _)) = self.buffer.split_first_chunk::<5>() else { return Ok(None) };
        let [compressed, length @ ..] = *head;
        let length = u32::from_be_bytes(length) as usize;
        if compressed != 0 || length > MESSAGE_LIMIT_BYTES {
            let text = "the answer is compressed, or longer than 64 MiB";
            return Err(connection(text));
        }
        if self.buffer.len() < 5 + length {
            self.buffer.reserve(5 + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(5);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_leader_is_waited_out_and_a_full_disk_is_not() {
        let status = |code, text: &str| CallError::Status { code, text: text.into() };
        assert!(status(UNAVAILABLE, "etcdserver: leader changed").is_transient());
        assert!(status(2, "etcdserver: no leader").is_transient());
        assert!(status(RESOURCE_EXHAUSTED, "etcdserver: too many requests").is_transient());
        assert!(connection("refused").is_transient());
        let full = status(RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded");
        assert!(full.is_no_space() && !full.is_transient());
        assert!(!status(OUT_OF_RANGE, "required revision has been compacted").is_transient());
        assert!(!status(7, "permission denied").is_transient());
    }

    #[test]
    fn a_message_is_framed_with_its_length() {
        use super::super::messages::PutRequest;
        let put = PutRequest { key: b"key".to_vec(), value: b"value".to_vec() };
        let framed = frame(&put);
        assert_eq!(framed[..5], [0, 0, 0, 0, 12]);
        assert_eq!(PutRequest::decode(&framed[5..]).unwrap(), put);
    }
}
