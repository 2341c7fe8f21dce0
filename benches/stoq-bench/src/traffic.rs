//! The two halves of a load: one task writes slices and a trailer, one task reads and verifies. Slices are
//! handed over whole; nothing is copied here. The threads they run on are bound and few.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoq::{FlowReader, FlowWriter};
use stoq_memory::bind_current_thread;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::digest::{Digest, Verifier, Verify};
use crate::exchange::{ExchangeError, Preamble, Verdict};
use crate::pattern::{CHUNK_BYTES, Pattern};
use crate::process::Meter;

/// Sends what a preamble asks for, trailer included; returns the octets in front of the trailer
///
/// # Errors
/// [`ExchangeError::Flow`].
pub async fn send(writer: &mut FlowWriter, order: &Preamble) -> Result<u64, ExchangeError> {
    let deadline = Instant::now().checked_add(order.time);
    let mut pattern = Pattern::new(order.seed);
    let mut digest = Digest::new(order.verify);
    while digest.bytes() < order.bytes && deadline.is_none_or(|end| Instant::now() < end) {
        let chunk = pattern.next_chunk((order.bytes - digest.bytes()).min(CHUNK_BYTES as u64));
        digest.update(&chunk);
        writer.write_chunk(chunk).await?;
    }
    writer.write_chunk(digest.trailer().encode()).await?;
    writer.shut().await?;
    Ok(digest.bytes())
}

/// Receives and verifies a flow to its end; `rest` is what came with the preamble
///
/// # Errors
/// [`ExchangeError::Flow`].
pub async fn receive(
    reader: &mut FlowReader,
    rest: Bytes,
    verify: Verify,
    meter: &Meter,
) -> Result<Verdict, ExchangeError> {
    let mut verifier = Verifier::new(verify);
    meter.add(verifier.take(rest));
    while let Some(chunk) = reader.read_chunk().await? {
        meter.add(verifier.take(chunk));
    }
    meter.flow_ended();
    let received_bytes = verifier.bytes();
    let (outcome, sent_bytes) = verifier.finish();
    Ok(Verdict { received_bytes, sent_bytes, outcome })
}

/// Why the application's threads did not start
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// The thread or its runtime could not be made
    #[error("an application thread could not be started: {0}")]
    Start(#[from] std::io::Error),
    /// The processor could not be had
    #[error(transparent)]
    Core(#[from] stoq_memory::TopologyError),
    /// The thread ended before it was ready
    #[error("an application thread ended before it was ready")]
    Gone,
}

/// Plain threads, each with a runtime of its own, each bound to a processor
pub struct AppThreads {
    handles: Vec<Handle>,
    ends: Vec<oneshot::Sender<()>>,
    threads: Vec<std::thread::JoinHandle<()>>,
    next: std::sync::atomic::AtomicUsize,
}

impl AppThreads {
    /// One thread per place: a processor, or `None` for one that the scheduler chooses
    ///
    /// # Errors
    /// [`ThreadError`].
    pub fn start(places: &[Option<usize>]) -> Result<Arc<Self>, ThreadError> {
        let mut all = Self {
            handles: Vec::new(),
            ends: Vec::new(),
            threads: Vec::new(),
            next: std::sync::atomic::AtomicUsize::new(0),
        };
        for (index, core) in places.iter().copied().enumerate() {
            let (ready, is_ready) = std::sync::mpsc::channel();
            let (end, ended) = oneshot::channel::<()>();
            let thread = std::thread::Builder::new()
                .name(format!("bench-app-{index}"))
                .spawn(move || run(core, &ready, ended))?;
            all.threads.push(thread);
            all.ends.push(end);
            all.handles.push(is_ready.recv().map_err(|_| ThreadError::Gone)??);
        }
        Ok(Arc::new(all))
    }

    /// The runtime whose turn it is
    pub fn next(&self) -> &Handle {
        let turn = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        &self.handles[turn % self.handles.len()]
    }
}

impl Drop for AppThreads {
    fn drop(&mut self) {
        for end in self.ends.drain(..) {
            let _has_ended_already = end.send(());
        }
        for thread in self.threads.drain(..) {
            // A panic in a task is that task's outcome, and was reported there.
            let _panicked = thread.join();
        }
    }
}

type Ready = std::sync::mpsc::Sender<Result<Handle, ThreadError>>;

fn run(core: Option<usize>, ready: &Ready, ended: oneshot::Receiver<()>) {
    let start = || -> Result<tokio::runtime::Runtime, ThreadError> {
        if let Some(core) = core {
            bind_current_thread(core)?;
        }
        Ok(Builder::new_current_thread().enable_all().build()?)
    };
    match start() {
        Err(error) => {
            let _starter_has_given_up = ready.send(Err(error));
        }
        Ok(runtime) => {
            if ready.send(Ok(runtime.handle().clone())).is_ok() {
                // An end that is dropped is an end as well.
                let _dropped_is_ended = runtime.block_on(ended);
                runtime.shutdown_timeout(Duration::from_secs(1));
            }
        }
    }
}
