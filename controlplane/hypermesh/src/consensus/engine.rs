//! The agreement engine of one epoch: `commonware-consensus` simplex with Ed25519 and leaders in turn. Only here is it
//! configured, and only here do its traits meet ours; what it asks is answered by `core`, over channels.

use std::num::{NonZeroU16, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use commonware_actor::Feedback;
use commonware_consensus::simplex::config::{Config, Floor, ForwardPolicy, SkipBudget, SkipPolicy};
use commonware_consensus::simplex::elector::RoundRobin;
use commonware_consensus::simplex::types::Context;
use commonware_consensus::simplex::{Engine, Plan};
use commonware_consensus::types::{Epoch, Round, ViewDelta};
use commonware_consensus::{Automaton, CertifiableAutomaton, Relay, Reporter};
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::Recipients;
use commonware_parallel::Sequential;
use commonware_runtime::buffer::paged::{CacheRef, page_size};
use commonware_runtime::{Clock, Handle, Metrics, Spawner, Storage};
use commonware_utils::NonZeroDuration;
use commonware_utils::channel::{mpsc, oneshot};
use rand_core_10::CryptoRng;

use super::convert::{self, Activity, Payload, Scheme};
use super::network::{Channel, Inbox};
use super::ports::{EngineReceiver, EngineSender, Gate, Outlet};
use super::settings::Timing;
use crate::digest::Digest;
use crate::operation::ValidatorKey;

/// What consensus runs on: a runtime with clock, tasks, storage and chance. In production that is tokio, in simulations
/// one that is repeatable.
pub trait Runtime: Clock + CryptoRng + Spawner + Storage + Metrics {}

impl<T: Clock + CryptoRng + Spawner + Storage + Metrics> Runtime for T {}

/// Octets of a page on disk
const PAGE: NonZeroU16 = page_size(4_096);
/// Pages of a journal that stay in memory
const PAGES: usize = 64;
/// Octets a journal gathers before it writes
const WRITE_BUFFER_BYTES: usize = 64 << 10;
/// Octets read at once when a journal is opened
const REPLAY_BUFFER_BYTES: usize = 1 << 20;
/// Messages that wait within the engine
const MAILBOX: usize = 1_024;
/// Questions of the engine that wait to be answered. It asks little at a time.
pub(crate) const QUESTIONS_LIMIT: usize = 256;
/// What the engine tells of that waits to be heard
pub(crate) const REPORTS_LIMIT: usize = 8_192;

pub(crate) const fn size(octets: usize) -> NonZeroUsize {
    match NonZeroUsize::new(octets) {
        Some(size) => size,
        None => NonZeroUsize::MIN,
    }
}

pub(crate) fn page_cache() -> CacheRef {
    CacheRef::new(PAGE, size(PAGES))
}

pub(crate) const fn write_buffer() -> NonZeroUsize {
    size(WRITE_BUFFER_BYTES)
}

pub(crate) const fn replay_buffer() -> NonZeroUsize {
    size(REPLAY_BUFFER_BYTES)
}

/// Where in the protocol a question is asked
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) epoch: u64,
    pub(crate) view: u64,
    /// Whose turn it is
    pub(crate) leader: ValidatorKey,
    /// The block that is built on
    pub(crate) parent: Digest,
}

/// What the engine asks. An answer that is never given is allowed, and means "not now".
#[derive(Debug)]
pub(crate) enum Question {
    /// A block for this view
    Propose { at: At, answer: oneshot::Sender<Payload> },
    /// Whether a block may be voted for
    Verify { at: At, block: Digest, answer: oneshot::Sender<bool> },
    /// Whether a block that a quorum voted for may be built on and called final
    Certify { epoch: u64, block: Digest, answer: oneshot::Sender<bool> },
    /// Others need this block: all of them, or these
    Send { block: Digest, to: Option<Vec<ValidatorKey>> },
}

fn at(context: &Context<Payload, PublicKey>) -> At {
    At {
        epoch: context.round.epoch().get(),
        view: context.round.view().get(),
        leader: convert::key(&context.leader),
        parent: convert::digest(&context.parent.1),
    }
}

/// Passes on what the engine asks
#[derive(Clone)]
struct Asker {
    questions: mpsc::Sender<Question>,
}

impl Asker {
    async fn ask(&self, question: Question) {
        // Without anyone to answer, the answer's channel closes, which the engine takes for a refusal.
        let _ = self.questions.send(question).await;
    }
}

impl Automaton for Asker {
    type Context = Context<Payload, PublicKey>;
    type Digest = Payload;

    async fn propose(&mut self, context: Self::Context) -> oneshot::Receiver<Payload> {
        let (answer, answered) = oneshot::channel();
        self.ask(Question::Propose { at: at(&context), answer }).await;
        answered
    }

    async fn verify(&mut self, context: Self::Context, block: Payload) -> oneshot::Receiver<bool> {
        let (answer, answered) = oneshot::channel();
        let block = convert::digest(&block);
        self.ask(Question::Verify { at: at(&context), block, answer }).await;
        answered
    }
}

impl CertifiableAutomaton for Asker {
    async fn certify(&mut self, round: Round, block: Payload) -> oneshot::Receiver<bool> {
        let (answer, answered) = oneshot::channel();
        let (epoch, block) = (round.epoch().get(), convert::digest(&block));
        self.ask(Question::Certify { epoch, block, answer }).await;
        answered
    }
}

impl Relay for Asker {
    type Digest = Payload;
    type PublicKey = PublicKey;
    type Plan = Plan<PublicKey>;

    fn broadcast(&mut self, block: Payload, plan: Plan<PublicKey>) -> Feedback {
        let to = match plan {
            Plan::Prepare { .. } | Plan::Propose { .. } => None,
            Plan::Forward { recipients: Recipients::All, .. } => None,
            Plan::Forward { recipients: Recipients::Some(some), .. } => {
                Some(some.iter().map(convert::key).collect())
            }
            Plan::Forward { recipients: Recipients::One(one), .. } => {
                Some(vec![convert::key(&one)])
            }
        };
        let question = Question::Send { block: convert::digest(&block), to };
        match self.questions.try_send(question) {
            Ok(()) => Feedback::Ok,
            // Whoever needs the block asks for it.
            Err(mpsc::error::TrySendError::Full(_)) => Feedback::Backoff,
            Err(mpsc::error::TrySendError::Closed(_)) => Feedback::Closed,
        }
    }
}

/// Passes on what the engine tells of, without ever holding it up
#[derive(Clone)]
pub(crate) struct Listener {
    reports: mpsc::Sender<Activity>,
    lost: Arc<AtomicU64>,
}

impl Listener {
    pub(crate) fn new(reports: mpsc::Sender<Activity>, lost: Arc<AtomicU64>) -> Self {
        Self { reports, lost }
    }
}

impl Reporter for Listener {
    type Activity = Activity;

    fn report(&mut self, activity: Activity) -> Feedback {
        match self.reports.try_send(activity) {
            Ok(()) => Feedback::Ok,
            // A lost vote may hide an offence here, which others still see. A lost certificate is made up for by the
            // next one, which makes all before it final too.
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                Feedback::Backoff
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Feedback::Closed,
        }
    }
}

/// An epoch that is to be run
pub(crate) struct Start {
    pub(crate) number: u64,
    pub(crate) scheme: Scheme,
    /// The block the first view builds on
    pub(crate) base: Digest,
    /// A block of this epoch that is known to be final, to begin from there
    pub(crate) floor: Option<commonware_consensus::simplex::types::Finalization<Scheme, Payload>>,
    pub(crate) partition: String,
    pub(crate) timing: Timing,
    pub(crate) inbox: Inbox,
    pub(crate) outlet: Outlet,
    pub(crate) questions: mpsc::Sender<Question>,
    pub(crate) listener: Listener,
}

fn duration(ms: u64) -> Duration {
    Duration::from_millis(ms.max(1))
}

/// Runs an epoch until the handle is aborted
pub(crate) fn start<E: Runtime>(
    context: E,
    start: Start,
    receivers: [EngineReceiver; 3],
) -> Handle<()> {
    let Start { number, outlet, timing, .. } = start;
    let asker = Asker { questions: start.questions };
    let floor = match start.floor {
        Some(finalization) => Floor::Finalized(finalization),
        None => Floor::Genesis(convert::payload(start.base)),
    };
    let config = Config {
        scheme: start.scheme,
        elector: RoundRobin::<commonware_cryptography::Sha256>::default(),
        blocker: Gate::new(start.inbox),
        automaton: asker.clone(),
        relay: asker,
        reporter: start.listener,
        track_historical_votes: true,
        strategy: Sequential,
        partition: start.partition,
        mailbox_size: size(MAILBOX),
        epoch: Epoch::new(number),
        floor,
        replay_buffer: replay_buffer(),
        write_buffer: write_buffer(),
        page_cache: page_cache(),
        leader_timeout: duration(timing.leader_ms),
        certification_timeout: duration(timing.certification_ms),
        timeout_retry: duration(timing.retry_ms),
        view_retention: ViewDelta::new(timing.view_retention.max(1)),
        skip: SkipPolicy::Enabled {
            timeout: duration(timing.skip_ms),
            budget: SkipBudget::Participants,
        },
        fetch_timeout: NonZeroDuration::new_panic(duration(timing.fetch_ms)),
        fetch_retry_delay: duration(timing.fetch_retry_ms),
        forward: ForwardPolicy::SilentLeader,
    };
    let [votes, certificates, resolver] = receivers;
    let sender = |channel| EngineSender::new(outlet.clone(), channel, number);
    Engine::new(context, config).start(
        (sender(Channel::Votes), votes),
        (sender(Channel::Certificates), certificates),
        (sender(Channel::Resolver), resolver),
    )
}
