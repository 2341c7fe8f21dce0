//! The body of a copy's reply: JSON lines of progress while the copy runs, then its result. The copy lives
//! in a task that ends with the body, so a client that goes away ends its copy.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::poll_fn;
use http_body_util::StreamBody;
use hyper::body::{Body, Frame};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::api::{CopyEvent, CopyProgress, CopyRun, Envelope, ProgressSink, Request};
use crate::{ApiError, Backend};

/// Progress lines are at least this far apart
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// A line is sent at least this often, as a sign of life; the client gives up after several of these
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// Lines that wait for the client; progress beyond them is skipped, the result waits
const LINES_WAITING_MAX: usize = 8;

/// Ends the task when the body is dropped
struct EndWithBody(AbortHandle);

impl Drop for EndWithBody {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) fn copy_body<B: Backend>(
    backend: Arc<B>,
    request: CopyRun,
    permit: OwnedSemaphorePermit,
) -> impl Body<Data = Bytes, Error = Infallible> + Send + 'static {
    let (lines, mut waiting) = mpsc::channel(LINES_WAITING_MAX);
    let task = tokio::spawn(async move {
        let _permit = permit;
        copy(&*backend, request, lines).await;
    });
    let end_with_body = EndWithBody(task.abort_handle());
    StreamBody::new(poll_fn(move |context| {
        let _held_by_the_body = &end_with_body;
        match waiting.poll_recv(context) {
            Poll::Ready(Some(line)) => Poll::Ready(Some(Ok(Frame::data(line)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }))
}

async fn copy<B: Backend>(backend: &B, request: CopyRun, lines: mpsc::Sender<Bytes>) {
    let (sink, mut progress) = ProgressSink::channel();
    let mut copying = std::pin::pin!(backend.copy_run(request, sink));
    let mut sent = CopyProgress::default();
    let mut sent_at = Instant::now() - PROGRESS_INTERVAL;
    let outcome = loop {
        let has_news = *progress.borrow() != sent;
        let due = if has_news { PROGRESS_INTERVAL } else { HEARTBEAT };
        tokio::select! {
            outcome = &mut copying => break outcome,
            () = sleep_until(sent_at + due) => {
                sent = progress.borrow_and_update().clone();
                sent_at = Instant::now();
                offer(&lines, CopyEvent::Progress(sent.clone()));
            }
            // Wakes the loop only to set the nearer deadline.
            () = reported(&mut progress), if !has_news => {}
        }
    };
    let newest = progress.borrow().clone();
    if newest != sent {
        offer(&lines, CopyEvent::Progress(newest));
    }
    let last = match outcome {
        Ok(done) => CopyEvent::Result(done),
        Err(error) => CopyEvent::Error { error },
    };
    if lines.send(line(last)).await.is_err() {
        tracing::debug!("the client of a copy left before its result");
    }
}

/// Sends a line if there is room. A full queue is a client that reads slowly: it gets the next report
/// instead, and the copy does not wait for it.
fn offer(lines: &mpsc::Sender<Bytes>, event: CopyEvent) {
    if let Err(error) = lines.try_send(line(event)) {
        tracing::trace!(%error, "a progress line was skipped");
    }
}

/// Resolves when something was reported; never when the copy has dropped its sink
async fn reported(progress: &mut watch::Receiver<CopyProgress>) {
    if progress.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn line(event: CopyEvent) -> Bytes {
    let envelope = Envelope { schema: CopyRun::schema(), body: event };
    let mut json = serde_json::to_vec(&envelope).unwrap_or_else(|error| {
        // Not a number where one should be; the client gets the reason in place of the line.
        let error = ApiError::failed("unprintable-reply", error.to_string(), "");
        let body = CopyEvent::Error { error };
        serde_json::to_vec(&Envelope { schema: CopyRun::schema(), body }).unwrap_or_default()
    });
    json.push(b'\n');
    json.into()
}
