//! Publishing the log: a signed head over what is durable, itself durable before anybody sees it, then the tiles
//! and the checkpoint. One task, as often as there is something new but not oftener than the interval.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::api::Refusal;
use super::commit::{AppendCommit, Message};
use super::entry::Entry;
use super::shared::Shared;
use crate::log::publisher::PublishError;
use crate::log::release::SignedHead;
use crate::log::sequencer::SequencerError;
use crate::log::{Directory, DurableHead, LogSigner, LogVerifier, Publisher};
use crate::signer::NamedKey;

/// Steps back of the clock that are bridged with the log's last time
const CLOCK_TOLERANCE_MS: u64 = 1_000;
/// How long until a head is signed again that could not be signed
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct PublishTask {
    shared: Arc<Shared>,
    /// The strong one is the service's; when that is gone, this task ends
    messages: mpsc::WeakSender<Message>,
    signer: Arc<LogSigner<NamedKey>>,
    /// Away while a thread writes with it, and for good if that thread panicked
    publisher: Option<Publisher<Directory>>,
    interval: Duration,
}

/// Why a head was not published
enum Problem {
    /// It may work the next time
    Later(String),
    /// It will not before a restart
    Final(String),
}

impl PublishTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        messages: mpsc::WeakSender<Message>,
        signer: Arc<LogSigner<NamedKey>>,
        publisher: Publisher<Directory>,
        interval: Duration,
    ) -> Self {
        Self { shared, messages, signer, publisher: Some(publisher), interval }
    }

    /// Runs until the authority is closed, dropped or stopped
    pub(super) async fn run(mut self) {
        loop {
            let begun = Instant::now();
            let closing = self.is_closing();
            let pause = match self.publish().await {
                Ok(()) => {
                    self.shared.log_problem().take();
                    self.interval
                }
                Err(Problem::Later(reason)) => {
                    tracing::warn!(reason, "no tree head was published; trying again");
                    *self.shared.log_problem() = Some(reason);
                    PAUSE
                }
                Err(Problem::Final(reason)) => {
                    *self.shared.log_problem() = Some(reason.clone());
                    self.shared.stop(format!("the log cannot be published: {reason}"));
                    return;
                }
            };
            if closing || self.shared.stopped().is_some() {
                return;
            }
            if self.shared.unpublished().is_empty() && !self.is_closing() {
                self.shared.to_publish.notified().await;
            }
            if !self.is_closing() {
                tokio::time::sleep_until(begun + pause).await;
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.shared.closing.load(Ordering::Acquire) || self.messages.strong_count() == 0
    }

    /// Signs and publishes a head over everything that is durable
    async fn publish(&mut self) -> Result<(), Problem> {
        let Some(durable) = self.next_head().await? else { return Ok(()) };
        let gone = || Problem::Final("an earlier write ended early".into());
        let mut publisher = self.publisher.take().ok_or_else(gone)?;
        let wanted = durable.head().size.saturating_sub(publisher.size());
        let leaves: Vec<_> = {
            let mut unpublished = self.shared.unpublished();
            let count = usize::try_from(wanted).unwrap_or(usize::MAX).min(unpublished.len());
            unpublished.drain(..count).collect()
        };
        // Those first: entries refer to them.
        let issuers = std::mem::take(&mut *self.shared.new_issuers());
        let signer = self.signer.clone();
        let write = move || -> Result<_, PublishError> {
            for der in issuers {
                publisher.issuer(&der)?;
            }
            for (leaf_hash, tile_leaf) in leaves {
                publisher.entry(leaf_hash, &tile_leaf)?;
            }
            publisher.publish(&durable, signer.verifier())?;
            Ok((publisher, durable))
        };
        let written = tokio::task::spawn_blocking(write).await;
        let written = written.map_err(|error| Problem::Final(error.to_string()))?;
        let (publisher, durable) = written.map_err(|error| Problem::Final(error.to_string()))?;
        announce(&self.shared, &publisher, Some(durable));
        self.publisher = Some(publisher);
        Ok(())
    }

    /// The next head: signed, and in the journal
    async fn next_head(&self) -> Result<Option<DurableHead>, Problem> {
        let later = |error: &dyn std::fmt::Display| Problem::Later(error.to_string());
        let now_ms = self.shared.now_ms();
        let next = {
            let mut sequencer = self.shared.sequencer();
            match sequencer.next_head(now_ms) {
                Err(SequencerError::ClockWentBack { last_ms, now_ms })
                    if last_ms - now_ms <= CLOCK_TOLERANCE_MS =>
                {
                    sequencer.next_head(last_ms)
                }
                other => other,
            }
        };
        let Some(unsigned) = next.map_err(|error| later(&error))? else { return Ok(None) };
        let signer = self.signer.clone();
        let sign = move || {
            let signed = unsigned.sign(&signer);
            (unsigned, signed)
        };
        let signed = match tokio::task::spawn_blocking(sign).await {
            Ok((_, Ok(signed))) => signed,
            Ok((unsigned, Err(error))) => {
                self.shared.sequencer().head_abandoned(unsigned);
                return Err(later(&error));
            }
            Err(error) => return Err(Problem::Final(error.to_string())),
        };
        self.record(&signed).await.map_err(|error| Problem::Final(error.to_string()))?;
        let durable = self.shared.sequencer().head_durable(signed);
        durable.map(Some).map_err(|error| Problem::Final(error.to_string()))
    }

    async fn record(&self, signed: &SignedHead) -> Result<u64, Refusal> {
        let gone = || Refusal::Stopped("it is being closed".into());
        let messages = self.messages.upgrade().ok_or_else(gone)?;
        let (done, outcome) = oneshot::channel();
        let entries = vec![Entry::Log(signed.record().to_vec())];
        let append = Message::Append(AppendCommit { entries, issuers: Vec::new(), done });
        messages.send(append).await.map_err(|_| gone())?;
        drop(messages);
        outcome.await.map_err(|_| gone())?
    }
}

/// Tells everybody what is published
pub(super) fn announce(
    shared: &Shared,
    publisher: &Publisher<Directory>,
    durable: Option<DurableHead>,
) {
    shared.head.send_replace(durable);
    shared.published.send_replace(publisher.published().cloned().map(Arc::new));
}

/// Publishes a head that the journal has and the world does not, because of a crash in between. Where entries
/// came after it, the next head covers them all and this one is not needed.
pub(super) fn publish_last(
    publisher: &mut Publisher<Directory>,
    last: Option<&DurableHead>,
    verifier: &LogVerifier,
) -> Result<(), PublishError> {
    let Some(last) = last else { return Ok(()) };
    let published = publisher.published().map(|checkpoint| checkpoint.head);
    if published == Some(last.head()) || last.head().size != publisher.size() {
        return Ok(());
    }
    publisher.publish(last, verifier)
}
