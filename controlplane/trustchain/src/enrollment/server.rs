//! The enrolment server: accepts on one IPv6 socket, bounds what strangers can make it hold, answers two
//! routes. What it decides is in `desk`, how often it listens to whom in `guard`.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use boring::ssl::{Ssl, SslContext};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_boring::SslStreamBuilder;

use super::desk::{Desk, Refusal};
use super::guard::{Admission, Guard, GuardLimits};
use super::protocol::{
    ENROLL_PATH, ErrorDetail, ErrorResponse, REQUEST_LIMIT_BYTES, ROOT_PATH, RootResponse, encode,
};
use super::tls::{ServerContext, server_context};
use crate::authority::Authority;
use crate::profile::Subject;
use crate::registry::Registry;
use crate::token::TokenStore;

/// Where the server's time comes from
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Pause after the kernel refused to accept, mostly for want of file descriptors: there is no event to wait
/// for, and trying again at once would burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How the server behaves
#[derive(Clone, Debug)]
pub struct EnrollmentSettings {
    /// Address and TCP port; port 0 lets the kernel choose
    pub listen: SocketAddrV6,
    /// Connections at one time
    pub connections: usize,
    /// Of those, from one /64
    pub connections_per_prefix: usize,
    /// Time for the TLS handshake, and again for the request's head
    pub handshake_timeout: Duration,
    /// Time for everything from accept to the end of the answer
    pub exchange_timeout: Duration,
    /// Failed requests of one /64 within the window, after which it has to wait
    pub failures_per_prefix: usize,
    /// The window
    pub failure_window: Duration,
}

impl EnrollmentSettings {
    /// The defaults for an address
    pub fn new(listen: SocketAddrV6) -> Self {
        Self {
            listen,
            connections: 64,
            connections_per_prefix: 16,
            handshake_timeout: Duration::from_secs(5),
            exchange_timeout: Duration::from_secs(15),
            failures_per_prefix: 10,
            failure_window: Duration::from_secs(60),
        }
    }
}

/// Why the server does not run
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be had
    #[error("cannot listen on {address} for enrolment: {source}")]
    Listen {
        /// The address
        address: SocketAddrV6,
        /// What the kernel said
        source: io::Error,
    },
    /// No certificate for the server itself
    #[error("the authority could not issue the enrolment server's own certificate: {0}")]
    Certificate(Box<dyn std::error::Error + Send + Sync>),
}

struct Shared {
    desk: Desk,
    /// The node that runs the authority
    subject: Subject,
    settings: EnrollmentSettings,
    tls: Mutex<ServerContext>,
    guard: Arc<Guard>,
    clock: Clock,
}

/// A bound server
pub struct EnrollmentServer {
    listener: TcpListener,
    address: SocketAddrV6,
    shared: Arc<Shared>,
}

impl EnrollmentServer {
    /// Binds the socket (IPV6_V6ONLY before bind) and issues the server's own certificate.
    ///
    /// `subject` is the node that runs the authority. Call it within a tokio runtime; it blocks for one fsync.
    pub fn bind(
        settings: EnrollmentSettings,
        subject: Subject,
        authority: Arc<Authority>,
        tokens: Arc<TokenStore>,
        registry: Arc<Registry>,
        clock: Clock,
    ) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Listen { address: settings.listen, source };
        let tls =
            server_context(&authority, &subject, clock()).map_err(ServerError::Certificate)?;
        let listener = listen(&settings).map_err(failed)?;
        let address = match listener.local_addr().map_err(failed)? {
            SocketAddr::V6(address) => address,
            SocketAddr::V4(_) => return Err(failed(io::ErrorKind::AddrNotAvailable.into())),
        };
        let guard = Guard::new(GuardLimits {
            connections: settings.connections_per_prefix,
            failures: settings.failures_per_prefix,
            window: settings.failure_window,
        });
        let desk = Desk { authority, tokens, registry };
        let tls = Mutex::new(tls);
        let shared = Arc::new(Shared { desk, subject, settings, tls, guard, clock });
        Ok(Self { listener, address, shared })
    }

    /// The bound address
    pub fn local_address(&self) -> SocketAddrV6 {
        self.address
    }

    /// Serves until `shutdown` resolves, then lets exchanges under way end within their time
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let places = Arc::new(Semaphore::new(self.shared.settings.connections));
        let mut exchanges = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = self.listener.accept() => accepted,
                Some(_ended) = exchanges.join_next(), if !exchanges.is_empty() => continue,
            };
            let (stream, from) = match accepted {
                Ok((stream, SocketAddr::V6(from))) => (stream, from),
                // IPV6_V6ONLY keeps these away; should one come, it is not served.
                Ok((_, SocketAddr::V4(_))) => continue,
                Err(error) => {
                    tracing::warn!(%error, "enrolment server could not accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!(%from, limit = self.shared.settings.connections, "enrolment server is full");
                continue;
            };
            let Some(admission) = self.shared.guard.admit(from.ip(), Instant::now()) else {
                tracing::warn!(%from, "too many enrolment connections from one /64");
                continue;
            };
            let shared = Arc::clone(&self.shared);
            exchanges.spawn(async move {
                let limit = shared.settings.exchange_timeout;
                let exchange = exchange(shared, stream, from, admission);
                if tokio::time::timeout(limit, exchange).await.is_err() {
                    tracing::info!(%from, "enrolment exchange took too long");
                }
                drop(place);
            });
        }
        while exchanges.join_next().await.is_some() {}
    }
}

fn listen(settings: &EnrollmentSettings) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&settings.listen.into())?;
    socket.listen(i32::try_from(settings.connections).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

/// One connection: handshake, one request, one answer
async fn exchange(
    shared: Arc<Shared>,
    stream: TcpStream,
    from: SocketAddrV6,
    admission: Admission,
) {
    let context = match shared.context().await {
        Ok(context) => context,
        Err(error) => {
            tracing::error!(%error, "enrolment server has no certificate");
            return;
        }
    };
    let ssl = match Ssl::new(&context) {
        Ok(ssl) => ssl,
        Err(error) => {
            tracing::error!(%error, "enrolment server cannot start TLS");
            return;
        }
    };
    let limit = shared.settings.handshake_timeout;
    let handshake = SslStreamBuilder::new(ssl, stream).accept();
    let tls = match tokio::time::timeout(limit, handshake).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            tracing::info!(%from, %error, "enrolment handshake failed");
            admission.failed(Instant::now());
            return;
        }
        Err(_elapsed) => {
            tracing::info!(%from, "enrolment handshake took too long");
            admission.failed(Instant::now());
            return;
        }
    };
    let admission = &admission;
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(shared, request, from, admission).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limit)
        .max_buf_size(REQUEST_LIMIT_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(tls), service)
        .await;
    if let Err(error) = served {
        tracing::info!(%from, %error, "enrolment request ended early");
        admission.failed(Instant::now());
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    from: SocketAddrV6,
    admission: &Admission,
) -> Response<Full<Bytes>> {
    if let Some(wait) = admission.must_wait(Instant::now()) {
        let seconds = wait.as_secs() + 1;
        let message =
            format!("too many failures from your network; try again in {seconds} seconds");
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", message);
        let mut response = refuse(&refusal);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        return response;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let refusal = match (path.as_str(), method) {
        (ENROLL_PATH, Method::POST) => match enroll(shared, request, from).await {
            Ok(response) => return response,
            Err(refusal) => refusal,
        },
        (ROOT_PATH, Method::GET) => {
            let authority = &shared.desk.authority;
            let root = encode(authority.root_der());
            let fingerprint = authority.root_fingerprint().to_string();
            return json(StatusCode::OK, &RootResponse { root, fingerprint });
        }
        (ENROLL_PATH | ROOT_PATH, _) => {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", "wrong method for this path")
        }
        _ => Refusal::new(StatusCode::NOT_FOUND, "path", "there is no such path"),
    };
    tracing::info!(%from, code = refusal.code, reason = refusal.message, "enrolment refused");
    admission.failed(Instant::now());
    let mut response = refuse(&refusal);
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = if path == ENROLL_PATH { "POST" } else { "GET" };
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    }
    response
}

async fn enroll(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    from: SocketAddrV6,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let body = Limited::new(request.into_body(), REQUEST_LIMIT_BYTES).collect().await;
    let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => {
            let message = format!("at most {REQUEST_LIMIT_BYTES} bytes are read");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
        }
        None => Refusal::new(StatusCode::BAD_REQUEST, "malformed_request", error.to_string()),
    })?;
    let body = body.to_bytes();
    let decided = tokio::task::spawn_blocking(move || {
        let now = (shared.clock)();
        shared.desk.enroll(&body, from, now)
    });
    let response = decided.await.map_err(|error| Refusal::internal(&error))??;
    Ok(json(StatusCode::OK, &response))
}

impl Shared {
    /// The context in force; a new certificate is issued at half of the old one's life
    async fn context(self: &Arc<Self>) -> Result<SslContext, ServerError> {
        let now = (self.clock)();
        {
            let tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
            if now < tls.renew_at {
                return Ok(tls.context.clone());
            }
        }
        let shared = Arc::clone(self);
        let renewed = tokio::task::spawn_blocking(move || {
            // Under the lock, so that of many connections one renews.
            let mut tls = shared.tls.lock().unwrap_or_else(PoisonError::into_inner);
            if now >= tls.renew_at {
                *tls = server_context(&shared.desk.authority, &shared.subject, now)?;
            }
            Ok(tls.context.clone())
        });
        match renewed.await {
            Ok(renewed) => renewed.map_err(ServerError::Certificate),
            Err(error) => Err(ServerError::Certificate(error.into())),
        }
    }
}

fn refuse(refusal: &Refusal) -> Response<Full<Bytes>> {
    let (code, message) = (refusal.code.to_owned(), refusal.message.clone());
    json(refusal.status, &ErrorResponse { error: ErrorDetail { code, message } })
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let (status, body) = match serde_json::to_vec(body) {
        Ok(body) => (status, body),
        Err(error) => {
            tracing::error!(%error, "an answer could not be encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, Vec::new())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_ipv6_only() {
        let settings = EnrollmentSettings::new("[::]:0".parse().unwrap());
        let listener = listen(&settings).unwrap();
        assert!(socket2::SockRef::from(&listener).only_v6().unwrap());
    }
}
