//! The commit point: one task that puts whatever waits into one group of the journal, one write and one fdatasync,
//! and applies it when it is durable. Log batch, certificates, used tokens and enrolments of a group are in the
//! journal together or not at all. It signs nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stoq_store::journal::{AppendError, Appended, Appender, NewEntry, Pending};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};

use super::api::Refusal;
use super::entry::{Entry, Issued};
use super::shared::{Follower, Shared};
use super::state::Committed;
use crate::log::release::{Batch, Released};
use crate::log::sequencer::{SequencerError, Submitted};
use crate::log::{Submission, Ticket};

/// Steps back of the clock that are bridged with the log's last time
const CLOCK_TOLERANCE_MS: u64 = 1_000;
/// How long until a group is tried again for which there was no space, or until the clock is asked again
const PAUSE: Duration = Duration::from_millis(250);
/// Octets of entries of other parts in one group
pub(super) const APPENDS_LIMIT_BYTES: usize = 2 << 20;
/// Entries of other parts in one group
pub(super) const APPENDS_LIMIT_ENTRIES: usize = 1_024;

/// A certificate that is to be durable
pub(super) struct IssueCommit {
    /// Without its place in the log, which it gets here
    pub(super) issued: Issued,
    /// What belongs to it: a used token, an enrolment
    pub(super) others: Vec<Entry>,
    /// Let go when it is durable
    pub(super) holds: Holds,
    pub(super) done: oneshot::Sender<Result<Arc<Committed>, Refusal>>,
}

/// What a request keeps to itself until it is durable or given up
pub(super) struct Holds {
    pub(super) _token: Option<HeldToken>,
    pub(super) _turn: OwnedMutexGuard<()>,
}

/// A token set aside for one request
pub(super) struct HeldToken {
    pub(super) shared: Arc<Shared>,
    pub(super) id: String,
}

impl Drop for HeldToken {
    fn drop(&mut self) {
        self.shared.state().release_token(&self.id);
    }
}

/// Entries of another part that are to be durable
pub(super) struct AppendCommit {
    pub(super) entries: Vec<Entry>,
    /// Certificates of authorities whose records are among the entries: chains may refer to them afterwards
    pub(super) issuers: Vec<Vec<u8>>,
    pub(super) done: oneshot::Sender<Result<u64, Refusal>>,
}

pub(super) enum Message {
    Issue(Submission, Box<IssueCommit>),
    Append(AppendCommit),
}

/// What waits for the outcome of a group
struct Group {
    batch: Option<Batch>,
    entries: Vec<Entry>,
    issuers: Vec<Vec<u8>>,
    issues: Vec<Waiter>,
    /// With the place of their first entry in the group
    appends: Vec<(u64, oneshot::Sender<Result<u64, Refusal>>)>,
}

struct Waiter {
    done: oneshot::Sender<Result<Arc<Committed>, Refusal>>,
    holds: Holds,
}

pub(super) struct Committer {
    shared: Arc<Shared>,
    appender: Appender,
    followers: Vec<Box<dyn Follower>>,
    messages: mpsc::Receiver<Message>,
    issues: HashMap<Ticket, Box<IssueCommit>>,
    appends: VecDeque<AppendCommit>,
}

impl Committer {
    pub(super) fn new(
        shared: Arc<Shared>,
        appender: Appender,
        followers: Vec<Box<dyn Follower>>,
        messages: mpsc::Receiver<Message>,
    ) -> Self {
        let (issues, appends) = (HashMap::new(), VecDeque::new());
        Self { shared, appender, followers, messages, issues, appends }
    }

    /// Runs until nobody can send any more and everything that was sent is durable or refused
    pub(super) async fn run(mut self) {
        loop {
            if self.issues.is_empty() && self.appends.is_empty() {
                match self.messages.recv().await {
                    Some(message) => self.take(message),
                    None => return,
                }
            }
            // Whatever came while the last group was written goes into the next.
            while let Ok(message) = self.messages.try_recv() {
                self.take(message);
            }
            if let Some(reason) = self.shared.stopped() {
                let refusal = Refusal::Stopped(reason.to_owned());
                self.refuse_all(&refusal);
                continue;
            }
            match self.next_group() {
                Ok(Some(group)) => self.write(group).await,
                // Whatever waits makes a group, or this would turn for ever.
                Ok(None) => self.shared.stop("what waits for the log is not in its pool".into()),
                Err(SequencerError::ClockWentBack { last_ms, now_ms }) => {
                    tracing::error!(last_ms, now_ms, "the clock went back; nothing is issued");
                    self.shared.clock_went_back.store(true, Ordering::Relaxed);
                    // There is no event for a clock that is right again.
                    tokio::time::sleep(PAUSE).await;
                    self.refuse_abandoned();
                }
                Err(error) => self.shared.stop(error.to_string()),
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Append(append) => self.appends.push_back(append),
            Message::Issue(submission, issue) => {
                let submitted = self.shared.sequencer().submit(submission);
                match submitted {
                    Ok(Submitted::Waiting(ticket)) => drop(self.issues.insert(ticket, issue)),
                    // Its serial number is new, so nothing like it can be there.
                    Ok(Submitted::Logged(_)) => {
                        let reason = "a new precertificate is in the log already".to_owned();
                        answer(issue.done, Err(Refusal::Internal(reason)));
                    }
                    Err(SequencerError::Busy { retry_after_ms }) => {
                        let retry_after = Duration::from_millis(retry_after_ms);
                        answer(issue.done, Err(Refusal::Busy { retry_after }));
                    }
                    Err(error) => answer(issue.done, Err(Refusal::Stopped(error.to_string()))),
                }
            }
        }
    }

    /// Puts together what waits; the log's batch comes first
    fn next_group(&mut self) -> Result<Option<Group>, SequencerError> {
        let now_ms = self.shared.now_ms();
        let mut sequencer = self.shared.sequencer();
        let batch = match sequencer.seal(now_ms) {
            Err(SequencerError::ClockWentBack { last_ms, now_ms })
                if last_ms - now_ms <= CLOCK_TOLERANCE_MS =>
            {
                sequencer.seal(last_ms)
            }
            other => other,
        }?;
        drop(sequencer);
        self.shared.clock_went_back.store(false, Ordering::Relaxed);
        let mut group = Group {
            batch,
            entries: Vec::new(),
            issuers: Vec::new(),
            issues: Vec::new(),
            appends: Vec::new(),
        };
        if let Some(batch) = &group.batch {
            group.entries.push(Entry::Log(batch.record().to_vec()));
            for (ticket, leaf_index) in batch.tickets().iter().zip(batch.first_index()..) {
                let Some(issue) = self.issues.remove(ticket) else { continue };
                let IssueCommit { mut issued, others, holds, done } = *issue;
                (issued.leaf_index, issued.timestamp_ms) = (leaf_index, batch.timestamp_ms());
                group.entries.extend(others);
                group.entries.push(Entry::Issued(issued));
                group.issues.push(Waiter { done, holds });
            }
        }
        let (mut octets, mut count) = (0, 0);
        while let Some(next) = self.appends.front() {
            octets += next.entries.iter().map(|entry| entry.encode().payload.len()).sum::<usize>();
            count += next.entries.len();
            // Each by itself was held to the limit before it came here.
            let full = octets > APPENDS_LIMIT_BYTES || count > APPENDS_LIMIT_ENTRIES;
            if full && !group.appends.is_empty() {
                break;
            }
            let Some(append) = self.appends.pop_front() else { break };
            group.appends.push((group.entries.len() as u64, append.done));
            group.entries.extend(append.entries);
            group.issuers.extend(append.issuers);
        }
        Ok((!group.entries.is_empty()).then_some(group))
    }

    /// Writes a group until it is durable or has failed for good
    async fn write(&mut self, group: Group) {
        loop {
            let encoded: Vec<NewEntry> = group.entries.iter().map(Entry::encode).collect();
            let outcome = match self.appender.submit(encoded) {
                Ok(pending) => self.wait(pending).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(appended) => {
                    self.shared.no_space.store(false, Ordering::Relaxed);
                    return self.land(group, appended);
                }
                // Nothing of it is in the journal: the same again, when there is space.
                Err(AppendError::NoSpace(error)) => {
                    if !self.shared.no_space.swap(true, Ordering::Relaxed) {
                        tracing::error!(%error, "no space for the journal; nothing is issued");
                    }
                    // There is no event for space.
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    self.shared.stop(error.to_string());
                    return group.refuse(&Refusal::Stopped(error.to_string()));
                }
            }
        }
    }

    /// Waits for the disk; what comes meanwhile is put into the sequencer's pool
    async fn wait(&mut self, mut pending: Pending) -> Result<Appended, AppendError> {
        loop {
            tokio::select! {
                biased;
                outcome = &mut pending => return outcome,
                message = self.messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => return pending.await,
                },
            }
        }
    }

    /// A group is durable
    fn land(&mut self, group: Group, appended: Appended) {
        if let Err(reason) = self.apply(group, appended) {
            // The journal has something that this process does not understand: only a start can tell.
            self.shared.stop(format!("a durable entry does not fit what was before it: {reason}"));
        }
    }

    fn apply(&mut self, group: Group, appended: Appended) -> Result<(), String> {
        let Group { batch, entries, issuers, issues, appends } = group;
        let mut released = Vec::new();
        if let Some(batch) = batch {
            let now_ms = self.shared.now_ms();
            let mut sequencer = self.shared.sequencer();
            let landed = sequencer.batch_durable(batch, now_ms).map_err(|e| e.to_string())?;
            self.shared.log_entries.store(sequencer.head().size, Ordering::Relaxed);
            released = landed;
        }
        for der in issuers {
            self.shared.sequencer().issuer_durable(boring::sha::sha256(&der));
            self.shared.new_issuers().push(der);
        }
        let first_index = released.first().map_or(0, |one| one.durable.entry().leaf_index);
        let mut waiters = issues.into_iter();
        let now = crate::certificate::unix_seconds(self.shared.now());
        // Letting go takes the lock on the state, so that comes after the lock is free again.
        let mut let_go = Vec::new();
        let mut state = self.shared.state();
        state.forget_ended(now);
        for (entry, sequence) in entries.iter().zip(appended.first..) {
            match entry {
                Entry::Issued(issued) => {
                    let one: Option<&Released> = issued
                        .leaf_index
                        .checked_sub(first_index)
                        .and_then(|at| released.get(usize::try_from(at).ok()?));
                    let durable = one.ok_or("a certificate without its log entry")?.durable.clone();
                    let committed = state.apply_issued(issued, durable, sequence)?;
                    if let Some(Waiter { done, holds }) = waiters.next() {
                        answer(done, Ok(committed));
                        let_go.push(holds);
                    }
                }
                other => state.apply(other)?,
            }
        }
        drop(state);
        drop(let_go);
        if entries.iter().any(|entry| matches!(entry, Entry::IssuingKey(_))) {
            self.shared.keys_changed.send_modify(|count| *count += 1);
        }
        for (entry, sequence) in entries.iter().zip(appended.first..) {
            for follower in &mut self.followers {
                follower.follow(sequence, entry)?;
            }
        }
        if let Some(feed) = &self.shared.feed {
            feed.put(&entries, appended);
        }
        if !released.is_empty() {
            let leaves = released.into_iter().map(|one| (*one.durable.leaf_hash(), one.tile_leaf));
            self.shared.unpublished().extend(leaves);
            self.shared.to_publish.notify_one();
        }
        self.shared.committed.send_replace(appended.last);
        for (offset, done) in appends {
            answer(done, Ok(appended.first + offset));
        }
        Ok(())
    }

    fn refuse_all(&mut self, refusal: &Refusal) {
        for (_, issue) in self.issues.drain() {
            answer(issue.done, Err(refusal.clone()));
        }
        for append in self.appends.drain(..) {
            answer(append.done, Err(refusal.clone()));
        }
    }

    /// Those who no longer wait need no answer; their entries stay in the pool, which nobody can take back
    fn refuse_abandoned(&mut self) {
        self.appends.retain(|append| !append.done.is_closed());
    }
}

impl Group {
    fn refuse(self, refusal: &Refusal) {
        for waiter in self.issues {
            answer(waiter.done, Err(refusal.clone()));
        }
        for (_, done) in self.appends {
            answer(done, Err(refusal.clone()));
        }
    }
}

fn answer<T>(done: oneshot::Sender<Result<T, Refusal>>, what: Result<T, Refusal>) {
    // A caller that no longer waits has said that it does not want to know.
    drop(done.send(what));
}
