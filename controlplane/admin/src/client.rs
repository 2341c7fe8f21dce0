//! The client of the admin interface: one connection and one request at a time, bounded in time and size.
//! Used by `stoqctl`, the console's server and tests. Renders nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

use crate::api::{CopyDone, CopyEvent, CopyProgress, CopyRun, Envelope, ErrorBody, Request};
use crate::{ApiError, ExitCode};

/// Time a connection and its handshake may take
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the client waits beyond the server's own patience
const MARGIN: Duration = Duration::from_secs(5);

/// Silence after which a stream is given up: six missed signs of life
const STREAM_SILENCE_MAX: Duration = Duration::from_secs(30);

/// Size of a reply at most
const REPLY_BYTES_MAX: usize = 64 << 20;

/// Size of one line of a stream at most
const LINE_BYTES_MAX: usize = 64 << 10;

/// Why there is no reply
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens
    #[error("stoqd cannot be reached at {}: {source}", path.display())]
    Unreachable {
        /// The socket
        path: PathBuf,
        /// Why not
        #[source]
        source: io::Error,
    },
    /// The socket is somebody else's
    #[error("no permission to use {}", path.display())]
    Permission {
        /// The socket
        path: PathBuf,
    },
    /// Nothing came in time
    #[error("stoqd did not answer within {} s", after.as_secs())]
    TimedOut {
        /// What was waited
        after: Duration,
    },
    /// The connection broke
    #[error("the connection to stoqd broke: {0}")]
    Broken(#[source] hyper::Error),
    /// The stream ended before its result
    #[error("stoqd ended the operation without a result")]
    NoResult,
    /// Not the expected kind of reply
    #[error("stoqd answered something else than expected: {0}")]
    Protocol(String),
    /// stoqd said no
    #[error(transparent)]
    Refused(#[from] ApiError),
}

impl From<ClientError> for ApiError {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        let (exit_code, code, remedy) = match error {
            ClientError::Refused(error) => return error,
            ClientError::Unreachable { .. } => (
                ExitCode::Unreachable,
                "stoqd-unreachable",
                "start it with `stoqd run`, or name its socket with --socket PATH or STOQ_SOCKET",
            ),
            ClientError::Permission { .. } => (
                ExitCode::Permission,
                "permission-denied",
                "run as the user of stoqd, or with sudo",
            ),
            ClientError::TimedOut { .. } => {
                (ExitCode::TimedOut, "timed-out", "the log of stoqd may say what it waits for")
            }
            ClientError::Broken(_) | ClientError::NoResult => (
                ExitCode::Failed,
                "connection-broken",
                "see whether stoqd has ended: `stoqctl status`, and its log",
            ),
            ClientError::Protocol(_) => (
                ExitCode::Failed,
                "unexpected-reply",
                "stoqctl and stoqd may be of different versions: compare with `stoqctl version`",
            ),
        };
        Self::new(exit_code, code, message, remedy)
    }
}

/// Where `stoqd` is asked
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Asks at this socket; connects when something is asked
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for one operation and waits for its reply
    pub async fn call<R: Request>(&self, request: &R) -> Result<R::Reply, ClientError> {
        let after = request.patience().saturating_add(MARGIN);
        let exchange = async {
            let (response, _connection) = self.send(request).await?;
            let body = Limited::new(response.into_body(), REPLY_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| ClientError::Protocol(error.to_string()))?;
            decode::<R::Reply>(&body.to_bytes(), &R::schema())
        };
        tokio::time::timeout(after, exchange).await.map_err(|_| ClientError::TimedOut { after })?
    }

    /// Asks for a copy; `on_progress` sees every report. Dropping the future ends the copy.
    pub async fn copy(
        &self,
        request: &CopyRun,
        mut on_progress: impl FnMut(CopyProgress),
    ) -> Result<CopyDone, ClientError> {
        let silence = ClientError::TimedOut { after: STREAM_SILENCE_MAX };
        let sent = tokio::time::timeout(STREAM_SILENCE_MAX, self.send(request));
        let (response, _connection) =
            sent.await.map_err(|_| ClientError::TimedOut { after: STREAM_SILENCE_MAX })??;
        let accepted = response.status().is_success();
        let mut body = response.into_body();
        let mut pending = BytesMut::new();
        loop {
            let Ok(frame) = tokio::time::timeout(STREAM_SILENCE_MAX, body.frame()).await else {
                return Err(silence);
            };
            let Some(frame) = frame else {
                // A refusal is one object without a line's end.
                return Err(match accepted {
                    true => ClientError::NoResult,
                    false => decode::<CopyDone>(&pending, &CopyRun::schema())
                        .map_or_else(|error| error, |_| ClientError::NoResult),
                });
            };
            if let Ok(data) = frame.map_err(ClientError::Broken)?.into_data() {
                pending.extend_from_slice(&data);
            }
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line = pending.split_to(end + 1);
                match decode::<CopyEvent>(&line, &CopyRun::schema())? {
                    CopyEvent::Progress(progress) => on_progress(progress),
                    CopyEvent::Result(done) => return Ok(done),
                    CopyEvent::Error { error } => return Err(ClientError::Refused(error)),
                }
            }
            if pending.len() > LINE_BYTES_MAX {
                return Err(ClientError::Protocol(format!(
                    "a line is longer than {LINE_BYTES_MAX} octets"
                )));
            }
        }
    }

    async fn send<R: Request>(
        &self,
        request: &R,
    ) -> Result<(hyper::Response<Incoming>, ConnectionTask), ClientError> {
        let body = serde_json::to_vec(request)
            .map_err(|error| ClientError::Protocol(format!("the request: {error}")))?;
        let (mut sender, connection) = tokio::time::timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .map_err(|_| ClientError::TimedOut { after: CONNECT_TIMEOUT })??;
        let request = hyper::Request::post(R::path())
            .header(HOST, "stoqd")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ClientError::Protocol(format!("the request: {error}")))?;
        let response = sender.send_request(request).await.map_err(ClientError::Broken)?;
        Ok((response, connection))
    }

    async fn connect(&self) -> Result<(SendRequest<Full<Bytes>>, ConnectionTask), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| {
            let path = self.socket.clone();
            if source.kind() == io::ErrorKind::PermissionDenied {
                ClientError::Permission { path }
            } else {
                ClientError::Unreachable { path, source }
            }
        })?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(ClientError::Broken)?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                // The reader of the body sees the same error; this is for the log of a library user.
                tracing::debug!(%error, "an admin connection ended early");
            }
        });
        Ok((sender, ConnectionTask(task.abort_handle())))
    }
}

/// Moves the bytes of one connection; ends with its user
struct ConnectionTask(AbortHandle);

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is looked at first in a reply: whose it is, and whether it is an error
#[derive(Deserialize)]
struct Peek {
    schema: String,
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

fn decode<T: DeserializeOwned>(json: &[u8], schema: &str) -> Result<T, ClientError> {
    let wrong = |error: serde_json::Error| ClientError::Protocol(error.to_string());
    let peek: Peek = serde_json::from_slice(json).map_err(wrong)?;
    if peek.error.is_some() && peek.event.is_none() {
        let refusal: ErrorBody = serde_json::from_slice(json).map_err(wrong)?;
        return Err(ClientError::Refused(refusal.error));
    }
    if peek.schema != schema {
        return Err(ClientError::Protocol(format!("{} instead of {schema}", peek.schema)));
    }
    serde_json::from_slice::<Envelope<T>>(json).map(|envelope| envelope.body).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_of_another_version_is_not_taken_for_this_one() {
        let json = br#"{"schema":"stoqctl.node.list/2","peers":[]}"#;
        let error = decode::<crate::api::NodeListed>(json, "stoqctl.node.list/1").unwrap_err();
        assert!(matches!(error, ClientError::Protocol(_)), "{error}");
    }

    #[test]
    fn a_refusal_is_recognised_whatever_its_schema() {
        let json =
            br#"{"schema":"x","error":{"code":"c","message":"m","remedy":"r","exit_code":5}}"#;
        match decode::<crate::api::NodeListed>(json, "stoqctl.node.list/1") {
            Err(ClientError::Refused(error)) => assert_eq!(error.exit_code, ExitCode::Permission),
            other => panic!("{other:?}"),
        }
    }
}
