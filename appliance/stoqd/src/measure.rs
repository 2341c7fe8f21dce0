//! Measurements between two nodes: the built-in `measure` service and the flows an operator starts to it. The
//! receiver counts, times and digests; a figure that was not taken there is not shown.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoq::{Flow, FlowError, FlowReader, FlowWriter, ServiceName, SessionStatus};
use stoq_admin::api::{MeasureShown, MeasureStart, MeasureStarted};
use stoq_admin::{ApiError, Id};
use stoq_transport::wire::WireError;
use stoq_transport::wire::measure::{
    DIGEST_BYTES, MeasureRequest, MeasureVerdict, REQUEST_BYTES, VERDICT_BYTES,
};
use tokio::io::AsyncReadExt as _;

use crate::node::Node;

/// Name of the service
pub const SERVICE: &str = stoq_config::MEASURE_SERVICE;
/// Measurements remembered
const REMEMBERED: usize = 64;
/// Measurements served at a time
const SERVED_MAX: usize = 16;
/// Size of one piece of data
const PIECE_BYTES: usize = 256 << 10;
/// Pseudo-random octets that pieces are cut from, each at another offset
const POOL_BYTES: usize = 1 << 20;

/// Why a measurement failed
#[derive(Debug, thiserror::Error)]
enum MeasureError {
    #[error("the flow ended: {0}")]
    Flow(#[from] FlowError),
    #[error("the flow ended: {0}")]
    Io(#[from] std::io::Error),
    #[error("the other node speaks another measure protocol: {0}")]
    Wire(#[from] WireError),
    #[error("{0} more octets came than were announced")]
    Excess(u64),
}

#[derive(Debug)]
struct Running {
    session: u64,
    before: Option<SessionStatus>,
    started: Instant,
    bytes: u64,
    moved: AtomicU64,
    /// Verdict or failure, and the session as it was then
    end: Mutex<Option<Ended>>,
}

type Ended = (Result<MeasureVerdict, String>, Option<SessionStatus>);

/// The measurements of this node
#[derive(Debug, Default)]
pub struct Measurements {
    next: AtomicU64,
    known: Mutex<BTreeMap<u64, Arc<Running>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn session_status(node: &Node, number: u64) -> Option<SessionStatus> {
    node.endpoint.sessions().await.into_iter().find(|session| session.id == number)
}

impl Measurements {
    /// Starts one
    pub async fn start(
        &self,
        node: &Arc<Node>,
        request: MeasureStart,
    ) -> Result<MeasureStarted, ApiError> {
        let session = node.peers.session(&request.node).await.map_err(|error| {
            let remedy = "check `stoqctl node list` and that stoqd runs there";
            ApiError::failed("node-unreachable", error.to_string(), remedy)
        })?;
        let service = ServiceName::new(SERVICE).map_err(|error| {
            ApiError::failed("bad-service-name", error.to_string(), "report this as a defect")
        })?;
        let running = Arc::new(Running {
            session: session.number(),
            before: session_status(node, session.number()).await,
            started: Instant::now(),
            bytes: request.bytes,
            moved: AtomicU64::new(0),
            end: Mutex::new(None),
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        {
            let mut known = lock(&self.known);
            known.insert(id, Arc::clone(&running));
            while known.len() > REMEMBERED {
                known.pop_first();
            }
        }
        let flow = session.open(&service);
        let node = Arc::clone(node);
        let wanted = MeasureRequest { bytes: request.bytes, reverse: request.reverse };
        tokio::spawn(async move {
            let verdict = ask(flow, wanted, &running.moved).await.map_err(|e| e.to_string());
            let after = session_status(&node, running.session).await;
            *lock(&running.end) = Some((verdict, after));
        });
        Ok(MeasureStarted { measurement: Id(id) })
    }

    /// How far one is
    pub async fn show(&self, node: &Node, id: Id) -> Result<MeasureShown, ApiError> {
        let running = lock(&self.known).get(&id.0).cloned();
        let running = running
            .ok_or_else(|| ApiError::not_found("measurement", id, "stoqctl measure NODE"))?;
        let end = lock(&running.end).clone();
        let mut shown = MeasureShown {
            done: end.is_some(),
            bytes: running.bytes,
            bytes_done: running.moved.load(Ordering::Relaxed),
            seconds: running.started.elapsed().as_secs_f64(),
            ..MeasureShown::default()
        };
        let now = match end {
            None => session_status(node, running.session).await,
            Some((Err(failure), after)) => {
                shown.failure = Some(failure);
                after
            }
            Some((Ok(verdict), after)) => {
                shown.bytes_done = verdict.bytes;
                shown.seconds = verdict.elapsed_ns as f64 / 1e9;
                shown.bits_per_second =
                    (verdict.elapsed_ns > 0).then(|| verdict.bytes as f64 * 8.0 / shown.seconds);
                shown.verified = Some(verdict.verified);
                shown.lost_bytes = Some(running.bytes.saturating_sub(verdict.bytes));
                after
            }
        };
        if let (Some(before), Some(now)) = (&running.before, &now) {
            shown.connection_replacements = now.replacements - before.replacements;
            shown.connection_losses = now.losses - before.losses;
            shown.bytes_resent = now.bytes_resent - before.bytes_resent;
        }
        Ok(shown)
    }
}

/// The opener's side
async fn ask(
    flow: Flow,
    request: MeasureRequest,
    moved: &AtomicU64,
) -> Result<MeasureVerdict, MeasureError> {
    let (mut reader, mut writer) = flow.split();
    writer.write_chunk(Bytes::copy_from_slice(&request.encode())).await?;
    if request.reverse {
        writer.shut().await?;
        return receive(&mut reader, request.bytes, moved).await;
    }
    send(&mut writer, request.bytes, moved).await?;
    writer.shut().await?;
    let mut verdict = [0; VERDICT_BYTES];
    reader.read_exact(&mut verdict).await?;
    // The flow is whole once its end has been read.
    while reader.read_chunk().await?.is_some() {}
    Ok(MeasureVerdict::parse(&verdict)?)
}

/// Serves measurements where `transport.perf` is on; the snapshot decides
pub async fn serve(node: Arc<Node>) {
    let Ok(name) = ServiceName::new(SERVICE) else { return };
    let mut incoming = match node.endpoint.serve(name) {
        Ok(incoming) => incoming,
        Err(error) => return tracing::error!(%error, "the measure service could not start"),
    };
    let places = Arc::new(tokio::sync::Semaphore::new(SERVED_MAX));
    while let Some(mut flow) = incoming.next().await {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            flow.reset(FlowError::Busy);
            continue;
        };
        tokio::spawn(async move {
            let peer = flow.peer().clone();
            if let Err(error) = answer(flow).await {
                tracing::warn!(%peer, %error, "a measurement failed");
            }
            drop(place);
        });
    }
}

/// The serving side
async fn answer(flow: Flow) -> Result<(), MeasureError> {
    let (mut reader, mut writer) = flow.split();
    let mut request = [0; REQUEST_BYTES];
    reader.read_exact(&mut request).await?;
    let request = MeasureRequest::parse(&request)?;
    let moved = AtomicU64::new(0);
    if request.reverse {
        send(&mut writer, request.bytes, &moved).await?;
    } else {
        let verdict = receive(&mut reader, request.bytes, &moved).await?;
        writer.write_chunk(Bytes::copy_from_slice(&verdict.encode())).await?;
    }
    Ok(writer.finish().await?)
}

/// Sends the data and its digest
async fn send(writer: &mut FlowWriter, bytes: u64, moved: &AtomicU64) -> Result<(), MeasureError> {
    let pool = pool();
    let mut digest = blake3::Hasher::new();
    let mut left = bytes;
    let mut turn = 0usize;
    while left > 0 {
        let length = left.min(PIECE_BYTES as u64) as usize;
        // Another offset each time: a piece out of place changes the digest.
        let from = (turn * 4_099) % (POOL_BYTES - PIECE_BYTES);
        let piece = pool.slice(from..from + length);
        digest.update(&piece);
        writer.write_chunk(piece).await?;
        left -= length as u64;
        turn += 1;
        moved.fetch_add(length as u64, Ordering::Relaxed);
    }
    Ok(writer.write_chunk(Bytes::copy_from_slice(digest.finalize().as_bytes())).await?)
}

fn pool() -> Bytes {
    let mut out = vec![0; POOL_BYTES];
    blake3::Hasher::new().update(b"stoq measure").finalize_xof().fill(&mut out);
    Bytes::from(out)
}

/// Receives `bytes` of data and the digest that follows, up to the end of the flow
async fn receive(
    reader: &mut FlowReader,
    bytes: u64,
    moved: &AtomicU64,
) -> Result<MeasureVerdict, MeasureError> {
    let mut digest = blake3::Hasher::new();
    let mut trailer = Vec::with_capacity(DIGEST_BYTES);
    let mut received = 0u64;
    let mut first = None;
    let mut elapsed = Duration::ZERO;
    while let Some(mut piece) = reader.read_chunk().await? {
        let first = *first.get_or_insert_with(Instant::now);
        let data = piece.split_to((bytes - received).min(piece.len() as u64) as usize);
        if !data.is_empty() {
            received += data.len() as u64;
            moved.store(received, Ordering::Relaxed);
            digest.update(&data);
            elapsed = first.elapsed();
        }
        if trailer.len() + piece.len() > DIGEST_BYTES {
            return Err(MeasureError::Excess(piece.len() as u64));
        }
        trailer.extend_from_slice(&piece);
    }
    let verified = received == bytes && trailer == digest.finalize().as_bytes();
    Ok(MeasureVerdict {
        bytes: received,
        elapsed_ns: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
        verified,
    })
}
