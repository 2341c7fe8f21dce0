//! The HTTPS server: accepts on one IPv6 socket, bounds what strangers can make it hold, hands each request to
//! its route. What is answered is in `certify` and `reads`, how often whom is listened to in `guard`.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boring::ssl::{Ssl, SslContext};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_boring::{SslStream, SslStreamBuilder};

use super::guard::{Admission, Guard, GuardLimits};
use super::reply::{Form, Refusal, Reply, wrong_method};
use super::route::Route;
use super::settings::HttpsSettings;
use super::tls::{self, ContextError, ServerContext};
use crate::ca::Ca;
use crate::ca::revoke::Revocations;

/// Pause after the kernel refused to accept, mostly for want of file descriptors: there is no event to wait
/// for, and trying again at once would burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Octets of the longest head of a request: the largest credentials and some fields
const HEAD_LIMIT_BYTES: usize = 16 << 10;
/// Fields of a request
const HEAD_LIMIT_FIELDS: usize = 64;

/// Why the server does not run
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be had
    #[error("cannot listen on {address} for HTTPS: {source}")]
    Listen {
        /// The address
        address: SocketAddrV6,
        /// What the kernel said
        source: io::Error,
    },
    /// No certificate for the server itself
    #[error("the authority could not issue the HTTPS server's own certificate: {0}")]
    Certificate(Box<dyn std::error::Error + Send + Sync>),
}

pub(super) struct Shared {
    pub(super) ca: Ca,
    pub(super) revocations: Revocations,
    /// Reads of files under way
    pub(super) reads: Semaphore,
    settings: HttpsSettings,
    /// `None` until the authority issues
    tls: Mutex<Option<ServerContext>>,
    guard: Arc<Guard>,
}

/// A bound server
pub struct HttpsServer {
    listener: TcpListener,
    address: SocketAddrV6,
    shared: Arc<Shared>,
}

/// Who is at the other end of a connection
pub(super) struct Caller {
    pub(super) from: SocketAddrV6,
    /// The certificate shown, whose key the client holds
    pub(super) leaf_der: Option<Vec<u8>>,
    admission: Admission,
}

impl HttpsServer {
    /// Binds the socket (IPV6_V6ONLY before bind) and has the server's own certificate issued
    pub async fn bind(
        settings: HttpsSettings,
        ca: Ca,
        revocations: Revocations,
    ) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Listen { address: settings.listen, source };
        tls::register(&ca, &settings.addresses)
            .await
            .map_err(|refusal| ServerError::Certificate(refusal.into()))?;
        // One that may not issue now, because its key is tainted, still has files to serve when it may again.
        let tls = match ca.status().not_issuing {
            Some(reason) => {
                tracing::error!(reason, "the HTTPS server waits for a certificate");
                None
            }
            None => Some(tls::server_context(&ca).await.map_err(ServerError::Certificate)?),
        };
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
        let (tls, reads) = (Mutex::new(tls), Semaphore::new(super::reads::READS_LIMIT));
        let shared = Arc::new(Shared { ca, revocations, reads, settings, tls, guard });
        Ok(Self { listener, address, shared })
    }

    /// The bound address
    pub fn local_address(&self) -> SocketAddrV6 {
        self.address
    }

    /// Serves until `shutdown` resolves, then lets exchanges under way end within their time
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let places = Arc::new(Semaphore::new(self.shared.settings.connections));
        let (stop, stopping) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = self.listener.accept() => accepted,
                Some(_ended) = connections.join_next(), if !connections.is_empty() => continue,
            };
            let (stream, from) = match accepted {
                Ok((stream, SocketAddr::V6(from))) => (stream, from),
                // IPV6_V6ONLY keeps these away; should one come, it is not served.
                Ok((_, SocketAddr::V4(_))) => continue,
                Err(error) => {
                    tracing::warn!(%error, "the HTTPS server could not accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                let limit = self.shared.settings.connections;
                tracing::warn!(%from, limit, "the HTTPS server is full");
                continue;
            };
            let Some(admission) = self.shared.guard.admit(from.ip(), Instant::now()) else {
                tracing::warn!(%from, "too many HTTPS connections from one /64");
                continue;
            };
            let (shared, stopping) = (Arc::clone(&self.shared), stopping.clone());
            connections.spawn(async move {
                connection(shared, stream, from, admission, stopping).await;
                drop(place);
            });
        }
        drop(self.listener);
        // Who has no request under way is closed at once.
        let _nobody_listens = stop.send(true);
        while connections.join_next().await.is_some() {}
    }
}

fn listen(settings: &HttpsSettings) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&settings.listen.into())?;
    socket.listen(i32::try_from(settings.connections).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

/// One connection: handshake, then requests for as long as it may last
async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    from: SocketAddrV6,
    admission: Admission,
    mut stopping: watch::Receiver<bool>,
) {
    let Some((tls, leaf_der)) = handshake(&shared, stream, from, &admission).await else { return };
    let caller = Caller { from, leaf_der, admission };
    let caller = &caller;
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, request, caller).await) }
    });
    let settings = &shared.settings;
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.handshake_timeout)
        .max_buf_size(HEAD_LIMIT_BYTES)
        .max_headers(HEAD_LIMIT_FIELDS)
        .serve_connection(TokioIo::new(tls), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => Some(ended),
        () = tokio::time::sleep(settings.connection_lifetime) => None,
        _ = stopping.wait_for(|stopping| *stopping) => None,
    };
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => {
            served.as_mut().graceful_shutdown();
            tokio::time::timeout(settings.exchange_timeout, served).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) if error.is_timeout() => {
            tracing::debug!(%from, "an HTTPS connection was idle for too long");
        }
        Ok(Err(error)) => {
            tracing::info!(%from, %error, "an HTTPS connection ended early");
            if error.is_parse() {
                caller.admission.failed(Instant::now());
            }
        }
        Err(_elapsed) => tracing::info!(%from, "an HTTPS exchange took too long"),
    }
}

async fn handshake(
    shared: &Arc<Shared>,
    stream: TcpStream,
    from: SocketAddrV6,
    admission: &Admission,
) -> Option<(SslStream<TcpStream>, Option<Vec<u8>>)> {
    let ssl = match shared.context().await {
        Ok(context) => Ssl::new(&context).map_err(ContextError::from),
        Err(error) => Err(error),
    };
    let ssl = match ssl {
        Ok(ssl) => ssl,
        Err(error) => {
            tracing::error!(%error, "the HTTPS server has no certificate");
            return None;
        }
    };
    let handshake = SslStreamBuilder::new(ssl, stream).accept();
    let reason = match tokio::time::timeout(shared.settings.handshake_timeout, handshake).await {
        Ok(Ok(tls)) => match tls::client_leaf(tls.ssl()) {
            Ok(leaf_der) => return Some((tls, leaf_der)),
            Err(error) => error.to_string(),
        },
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => "it took too long".to_owned(),
    };
    tracing::info!(%from, reason, "an HTTPS handshake failed");
    admission.failed(Instant::now());
    None
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>, caller: &Caller) -> Reply {
    let from = caller.from;
    let Some(route) = Route::parse(request.uri().path()) else {
        let refusal = Refusal::new(StatusCode::NOT_FOUND, "path", "there is no such path");
        return refusal.reply(Form::Json);
    };
    let form = if route.is_est() { Form::Text } else { Form::Json };
    let (asked, wanted) = (request.method().clone(), route.method());
    if asked != wanted && !(asked == Method::HEAD && wanted == Method::GET) {
        return wrong_method(&wanted, form);
    }
    if wanted == Method::POST
        && let Some(wait) = caller.admission.must_wait(Instant::now())
    {
        let message = "too many refused requests from your network; wait and try again";
        let status = StatusCode::TOO_MANY_REQUESTS;
        let mut refusal = Refusal::new(status, "too_many_failures", message);
        refusal.retry_after = Some(wait);
        return refusal.reply(form);
    }
    let limit = shared.settings.exchange_timeout;
    let answered = tokio::time::timeout(limit, shared.answer(route, request, caller)).await;
    let refusal = match answered {
        Ok(Ok(reply)) => return reply,
        Ok(Err(refusal)) => refusal,
        Err(_elapsed) => {
            let message = "the exchange took too long; ask the same again";
            Refusal::later("timeout", message, Duration::from_secs(1))
        }
    };
    tracing::info!(%from, code = refusal.code, reason = refusal.message, "HTTPS request refused");
    if wanted == Method::POST && refusal.counts {
        caller.admission.failed(Instant::now());
    }
    refusal.reply(form)
}

impl Shared {
    async fn answer(
        self: &Arc<Self>,
        route: Route,
        request: Request<Incoming>,
        caller: &Caller,
    ) -> Result<Reply, Refusal> {
        match route {
            Route::Enroll => self.enroll(request, caller).await,
            Route::Renew => self.renew(request, caller).await,
            Route::EstEnroll => self.est_enroll(request, caller).await,
            Route::EstReenroll => self.est_reenroll(request, caller).await,
            Route::EstCertificates => Ok(self.est_certificates()),
            Route::EstAttributes => Ok(self.est_attributes()),
            Route::Root => Ok(self.root()),
            Route::RootCertificate => Ok(self.root_certificate()),
            Route::Authority(key) => self.authority_certificate(&key),
            Route::Crl(key, shard) => self.crl(&key, shard),
            Route::DenyList => self.deny_list(),
            Route::Log(path) => self.log_file(path).await,
            Route::LogKey => Ok(self.log_key()),
            Route::IssuingKeys => Ok(self.issuing_keys()),
            Route::Proof(index) => self.proof(index).await,
            Route::RenewalInformation(serial) => self.renewal_information(&serial),
        }
    }

    /// The context in force; a new certificate is issued at half of the old one's life, and when another issuing key
    /// has taken over. Where that fails the old one goes on as long as it lasts.
    async fn context(&self) -> Result<SslContext, ContextError> {
        // Under the lock, so that of many connections one renews.
        let mut tls = self.tls.lock().await;
        let now = self.ca.now();
        let key_id = self.ca.authority().key_id();
        let held = tls.as_ref().filter(|held| now < held.ends_at && held.issuer == key_id);
        if held.is_none_or(|held| now >= held.renew_at) {
            match tls::server_context(&self.ca).await {
                Ok(renewed) => *tls = Some(renewed),
                Err(error) if tls.as_ref().is_some_and(|held| now < held.ends_at) => {
                    tracing::warn!(%error, "the HTTPS server's certificate could not be renewed");
                }
                Err(error) => return Err(error),
            }
        }
        let held = tls.as_ref().ok_or("the authority does not issue")?;
        Ok(held.context.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_ipv6_only() {
        let settings = HttpsSettings::new("[::]:0".parse().unwrap());
        let listener = listen(&settings).unwrap();
        assert!(socket2::SockRef::from(&listener).only_v6().unwrap());
    }
}
