//! The server: HTTP/1.1 over the Unix socket for operations, over TCP for metrics and health. Bounds what a
//! client can make it hold and how long it can make it wait. Knows no operation; see [`crate::api`].

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::{Method, Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::api::{
    CopyRun, Envelope, ErrorBody, OPERATIONS, Request, Status, StatusShow, decode, dispatch,
    schema, too_slow,
};
use crate::{AdminSocket, ApiError, Backend, Caller, NodeGauges, metrics};

mod stream;

type Body = UnsyncBoxBody<Bytes, Infallible>;

const JSON: &str = "application/json";
const JSON_LINES: &str = "application/jsonl";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Bounds on what clients can make the server hold and wait for
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Connections served at the same time; others wait in the kernel's queue
    pub connections: usize,
    /// Copies under way at the same time; others are refused
    pub copies: usize,
    /// Time for a request's head, and again for its body
    pub receive_timeout: Duration,
    /// Size of a request's body
    pub body_bytes: usize,
    /// Time running requests get to finish when the server stops
    pub stop_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 128,
            copies: 32,
            receive_timeout: Duration::from_secs(10),
            body_bytes: 1 << 20,
            stop_timeout: Duration::from_secs(5),
        }
    }
}

/// Header fields of a request at most
const HEADERS_MAX: usize = 32;

/// Octets of a request's head at most
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Pause after a failed accept: descriptors come back when connections end
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time a connection of the metrics listener may take in all: its clients may be strangers
const METRICS_CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);

/// Serves every operation on the Unix socket until `stop` resolves; then lets running requests finish
pub async fn serve<B: Backend>(
    socket: AdminSocket,
    backend: Arc<B>,
    limits: ServerLimits,
    stop: impl Future<Output = ()> + Send,
) {
    run(&socket, Scope::Operations, backend, limits, stop).await;
}

/// Serves `/metrics`, `/healthz` and `/readyz` until `stop` resolves; no operation is reachable here
pub async fn serve_metrics<B: Backend>(
    listener: TcpListener,
    backend: Arc<B>,
    limits: ServerLimits,
    stop: impl Future<Output = ()> + Send,
) {
    run(&listener, Scope::Metrics, backend, limits, stop).await;
}

#[derive(Clone, Copy, PartialEq)]
enum Scope {
    Operations,
    Metrics,
}

trait Accept: Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// A connection, and who made it where the kernel knows
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<Caller>)>> + Send;
}

impl Accept for AdminSocket {
    type Stream = tokio::net::UnixStream;
    async fn accept(&self) -> io::Result<(Self::Stream, Option<Caller>)> {
        let (stream, _) = self.listener.accept().await?;
        let caller = Caller::of(&stream)?;
        Ok((stream, Some(caller)))
    }
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn accept(&self) -> io::Result<(Self::Stream, Option<Caller>)> {
        TcpListener::accept(self).await.map(|(stream, _)| (stream, None))
    }
}

async fn run<A: Accept, B: Backend>(
    listener: &A,
    scope: Scope,
    backend: Arc<B>,
    limits: ServerLimits,
    stop: impl Future<Output = ()> + Send,
) {
    let server = Arc::new(Server {
        copies: Arc::new(Semaphore::new(limits.copies)),
        backend,
        limits: limits.clone(),
        scope,
    });
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let may_accept = connections.len() < limits.connections;
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if may_accept => match accepted {
                Ok((stream, caller)) => {
                    connections.spawn(serve_connection(Arc::clone(&server), stream, caller));
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin interface cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.stop_timeout, finish).await.is_err() {
        tracing::warn!(left = connections.len(), "the admin interface cuts requests off");
        connections.shutdown().await;
    }
}

/// One request per connection: nothing idles, and the limit of connections is one of requests
async fn serve_connection<B: Backend, S>(server: Arc<Server<B>>, stream: S, caller: Option<Caller>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (receive_timeout, scope) = (server.limits.receive_timeout, server.scope);
    let service = hyper::service::service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.answer(request, caller).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(receive_timeout)
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let served = match scope {
        Scope::Operations => connection.await,
        Scope::Metrics => {
            match tokio::time::timeout(METRICS_CONNECTION_TIME_MAX, connection).await {
                Ok(served) => served,
                Err(_) => return tracing::debug!("a metrics client was too slow"),
            }
        }
    };
    if let Err(error) = served {
        // The client's doing: it left early, was too slow, or does not speak HTTP.
        tracing::debug!(%error, "an admin connection ended early");
    }
}

struct Server<B> {
    backend: Arc<B>,
    limits: ServerLimits,
    copies: Arc<Semaphore>,
    scope: Scope,
}

impl<B: Backend> Server<B> {
    async fn answer(
        &self,
        request: HttpRequest<Incoming>,
        caller: Option<Caller>,
    ) -> Response<Body> {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::GET | &Method::HEAD, "/healthz") => text(StatusCode::OK, PLAIN_TEXT, "ok\n"),
            (&Method::GET | &Method::HEAD, "/readyz") => self.readiness().await,
            (&Method::GET | &Method::HEAD, "/metrics") => self.metrics().await,
            (_, "/healthz" | "/readyz" | "/metrics") => not_allowed("GET, HEAD"),
            (method, path) if self.scope == Scope::Operations => match (operation_of(path), caller)
            {
                (Some(operation), Some(caller)) if method == Method::POST => {
                    let backend = self.backend.called_by(caller);
                    self.operate(&backend, operation, request.into_body()).await
                }
                (Some(_), _) => not_allowed("POST"),
                (None, _) => no_such_operation(path),
            },
            (_, path) => no_such_operation(path),
        }
    }

    async fn operate(
        &self,
        backend: &Arc<B>,
        (noun, verb): (&str, &str),
        body: Incoming,
    ) -> Response<Body> {
        let body = match self.receive(body).await {
            Ok(body) => body,
            Err(error) => return refusal(&schema(noun, verb), error),
        };
        if (noun, verb) == (CopyRun::NOUN, CopyRun::VERB) {
            return self.copy(Arc::clone(backend), &body);
        }
        match dispatch(&**backend, noun, verb, &body).await {
            Some(Ok(json)) => respond(StatusCode::OK, JSON, Full::from(json).boxed_unsync()),
            Some(Err(error)) => refusal(&schema(noun, verb), error),
            None => no_such_operation(&format!("/v1/{noun}/{verb}")),
        }
    }

    async fn receive(&self, body: Incoming) -> Result<Bytes, ApiError> {
        let limit = self.limits.body_bytes;
        let collected = Limited::new(body, limit).collect();
        match tokio::time::timeout(self.limits.receive_timeout, collected).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                Err(ApiError::usage(
                    "request-too-large",
                    format!("the request is larger than {limit} octets"),
                    "send less",
                ))
            }
            Ok(Err(error)) => Err(ApiError::usage(
                "request-cut",
                format!("the request ended early: {error}"),
                "send it again",
            )),
            Err(_) => {
                Err(ApiError::timed_out("the request did not arrive in time", "send it again"))
            }
        }
    }

    fn copy(&self, backend: Arc<B>, body: &[u8]) -> Response<Body> {
        let schema = CopyRun::schema();
        let request = match decode::<CopyRun>(body) {
            Ok(request) => request,
            Err(error) => return refusal(&schema, error),
        };
        if let Err(error) = request.validate() {
            return refusal(&schema, error);
        }
        let Ok(permit) = Arc::clone(&self.copies).try_acquire_owned() else {
            return refusal(
                &schema,
                ApiError::conflict(
                    "too-many-copies",
                    format!("{} copies are under way", self.limits.copies),
                    "wait until one has ended",
                ),
            );
        };
        let body = stream::copy_body(backend, request, permit);
        respond(StatusCode::OK, JSON_LINES, body.boxed_unsync())
    }

    async fn status(&self) -> Result<Status, ApiError> {
        let request = StatusShow {};
        let patience = request.patience();
        let status = tokio::time::timeout(patience, self.backend.status_show(request)).await;
        status.unwrap_or_else(|_| Err(too_slow(patience)))
    }

    async fn readiness(&self) -> Response<Body> {
        match self.status().await {
            Ok(status) if status.ready => text(StatusCode::OK, PLAIN_TEXT, "ready\n"),
            Ok(status) => {
                let mut reasons = String::from("not ready\n");
                for problem in &status.problems {
                    reasons.push_str(&format!("{}: {}\n", problem.code, problem.message));
                }
                text(StatusCode::SERVICE_UNAVAILABLE, PLAIN_TEXT, reasons)
            }
            Err(error) => {
                let reason = format!("not ready\n{}: {}\n", error.code, error.message);
                text(StatusCode::SERVICE_UNAVAILABLE, PLAIN_TEXT, reason)
            }
        }
    }

    async fn metrics(&self) -> Response<Body> {
        let status = match self.status().await {
            Ok(status) => status,
            Err(error) => {
                return text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN_TEXT, format!("{error}\n"));
            }
        };
        let seconds = |time: std::time::SystemTime| {
            time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
        };
        let node = NodeGauges {
            ready: status.ready,
            draining: status.draining,
            epoch: status.epoch,
            certificate_not_after_seconds: status
                .certificate
                .as_ref()
                .map(|certificate| seconds(certificate.not_after)),
            started_at_seconds: seconds(status.started_at),
            version: status.version,
            control: self.backend.control(),
        };
        match metrics::render(&node, &self.backend.counters()) {
            Ok(rendered) => text(StatusCode::OK, PROMETHEUS_TEXT, rendered),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN_TEXT, format!("{error}\n")),
        }
    }
}

/// The noun and verb of `/v1/noun/verb`, if there is such an operation
fn operation_of(path: &str) -> Option<(&'static str, &'static str)> {
    let (noun, verb) = path.strip_prefix("/v1/")?.split_once('/')?;
    OPERATIONS
        .iter()
        .copied()
        .chain([(CopyRun::NOUN, CopyRun::VERB)])
        .find(|operation| *operation == (noun, verb))
}

fn refusal(schema: &str, error: ApiError) -> Response<Body> {
    let status = error.http_status();
    let envelope = Envelope { schema: schema.to_owned(), body: ErrorBody { error } };
    match serde_json::to_vec(&envelope) {
        Ok(json) => respond(status, JSON, Full::from(json).boxed_unsync()),
        // Only strings and a number: this cannot happen, and if it does the status says enough.
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN_TEXT, format!("{error}\n")),
    }
}

fn no_such_operation(path: &str) -> Response<Body> {
    refusal(
        &schema("admin", "error"),
        ApiError::usage(
            "no-such-operation",
            format!("there is no operation at {}", path.escape_debug()),
            "stoqctl and stoqd may be of different versions: compare with `stoqctl version`",
        ),
    )
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let error = ApiError::usage("method-not-allowed", format!("only {methods} here"), "");
    let mut response = refusal(&schema("admin", "error"), error);
    response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static(methods));
    response
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    respond(status, content_type, Full::new(body.into()).boxed_unsync())
}

fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}
