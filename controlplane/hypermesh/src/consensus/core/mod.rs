//! What surrounds the engine: it answers the engine's questions, carries blocks, makes what was agreed on durable and
//! hands it to the application, catches up, and keeps evidence. One task owns all of it, so nothing is locked; the
//! engine, the transport and callers reach it over channels.

mod answer;
mod build;
mod client;
mod config;
mod conviction;
mod epoch;
mod exchange;
mod finality;
mod restore;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use commonware_cryptography::ed25519::PrivateKey;
use commonware_runtime::Handle;
use commonware_utils::channel::{mpsc, oneshot};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

pub use client::{Client, Finalised, Requests, Status, SubmitError, ValidatorStatus};
pub(crate) use client::{Request, channel};
pub use config::{NodeConfig, NodeError};

use super::application::Application;
use super::attendance::Attendance;
use super::catch_up::CatchUp;
use super::certificate::{Transition, Trust};
use super::chain::Chain;
use super::convert::Activity;
use super::docket::Docket;
use super::engine::{Listener, QUESTIONS_LIMIT, Question, REPORTS_LIMIT, Runtime};
use super::message::{FinalBlock, Message};
use super::network::{Channel, Inbox, Wire};
use super::peers::Frame;
use super::ports::Outlet;
use super::quorum::Quorum;
use super::settings::Settings;
use super::store::{Store, StoreError};
use super::validators::ValidatorSet;
use super::wants::Wants;
use super::witness::Witness;
use crate::digest::Digest;
use crate::operation::ValidatorKey;

use answer::{Certifying, Proposing, Verifying};
use finality::Settling;

/// Before something that could not be judged yet is looked at again, in milliseconds
const LATER_MS: u64 = 20;
/// How often it is noted who was heard of, in milliseconds
const SAMPLE_MS: u64 = 200;
/// What is taken from each channel before the others have their turn
const BATCH: usize = 64;

/// Something durable now
enum Synced {
    /// Final blocks up to a height
    Finals(u64),
    /// Blocks that are not final
    Open(Vec<Digest>),
}

type Sync = BoxFuture<'static, Result<Synced, commonware_runtime::Error>>;

fn sync(handle: Handle<()>, synced: Synced) -> Sync {
    Box::pin(async move { handle.await.map(|()| synced) })
}

/// An operation that came in here and is not final, and who waits for it
struct Waiting {
    operation: Bytes,
    told_ms: u64,
    callers: Vec<oneshot::Sender<Answer>>,
}

/// What a caller hears in the end
type Answer = Result<Finalised, SubmitError>;

/// By the operation's leaf
type Waiters = BTreeMap<Digest, Waiting>;

pub(crate) struct Core<E: Runtime> {
    context: E,
    settings: Settings,
    prefix: String,
    own: ValidatorKey,
    secret: PrivateKey,
    contacts: Vec<ValidatorKey>,
    application: Box<dyn Application>,

    trust: Trust,
    transitions: Vec<Transition>,
    store: Store<E>,
    chain: Chain,
    /// The last final block that was made durable and handed to the application
    delivered: u64,
    undelivered: VecDeque<Arc<FinalBlock>>,
    last_certificate: Option<(u64, Quorum)>,
    syncs: FuturesUnordered<Sync>,
    finals_syncing: bool,
    open_syncing: bool,
    open_written: Vec<Digest>,

    epoch: u64,
    set: Arc<ValidatorSet>,
    engine: Option<Handle<()>>,
    questions: (mpsc::Sender<Question>, mpsc::Receiver<Question>),
    reports: (mpsc::Sender<Activity>, mpsc::Receiver<Activity>),
    reports_lost: Arc<AtomicU64>,
    proposing: Option<Proposing>,
    verifying: Vec<Verifying>,
    certifying: Vec<Certifying>,
    later_ms: Option<u64>,

    settling: BTreeMap<u64, Settling>,
    quorums: HashMap<Digest, Quorum>,
    witness: Witness,
    docket: Docket,
    attendance: Attendance,
    turns: BTreeMap<u64, bool>,
    view: u64,
    holds: HashMap<u32, u32>,
    halted: Option<String>,

    wire: Arc<dyn Wire>,
    inbox: Inbox,
    outlet: Outlet,
    frames: mpsc::UnboundedReceiver<Frame>,
    wants: Wants,
    catch_up: CatchUp,
    gap: Option<u64>,
    served: BTreeMap<ValidatorKey, exchange::Served>,
    followers: exchange::FollowersShare,
    outgoing: Vec<Bytes>,

    requests: mpsc::Receiver<Request>,
    submitted: Vec<(Bytes, client::Submitted)>,
    waiters: Waiters,
    subscribers: Vec<mpsc::Sender<Arc<FinalBlock>>>,
    announce_ms: u64,
    sample_ms: u64,
}

/// What woke the task
enum Event {
    Synced(Result<Synced, commonware_runtime::Error>),
    Question(Question),
    Report(Box<Activity>),
    Frame(Frame),
    Request(Option<Request>),
    Engine(Result<(), commonware_runtime::Error>),
    Time,
}

fn elapsed_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What a node is made of before it runs
pub(crate) struct Parts {
    pub(crate) config: NodeConfig,
    pub(crate) application: Box<dyn Application>,
    pub(crate) wire: Arc<dyn Wire>,
    pub(crate) inbox: Inbox,
    pub(crate) frames: mpsc::UnboundedReceiver<Frame>,
    pub(crate) requests: mpsc::Receiver<Request>,
}

impl<E: Runtime> Core<E> {
    /// Opens what is stored, brings the application up to it, and starts the engine of the epoch
    pub(crate) async fn open(context: E, parts: Parts) -> Result<Self, NodeError> {
        parts.config.settings.validate()?;
        let secret = super::convert::private(&parts.config.secret).ok_or(NodeError::Key)?;
        let (store, kept) = Store::open(&context, &parts.config.prefix).await?;
        let mut core = Self::assemble(context, parts, secret, store);
        core.restore(kept).await?;
        let epoch = core.trust.genesis().epoch(core.delivered + 1);
        core.open_epoch(epoch).await?;
        Ok(core)
    }

    fn assemble(context: E, parts: Parts, secret: PrivateKey, store: Store<E>) -> Self {
        let Parts { config, application, wire, inbox, frames, requests } = parts;
        let NodeConfig { genesis, settings, prefix, contacts, .. } = config;
        let own = super::convert::key(&commonware_cryptography::Signer::public_key(&secret));
        let now_ms = elapsed_ms(context.current());
        let set = Arc::clone(genesis.validators());
        let outlet = Outlet::new(Arc::clone(&wire), inbox.clone(), &set, &own);
        Self {
            settings,
            prefix,
            own,
            secret,
            contacts,
            application,
            chain: Chain::new(genesis.header()),
            witness: Witness::new(genesis.network()),
            trust: Trust::new(genesis),
            transitions: Vec::new(),
            store,
            delivered: 0,
            undelivered: VecDeque::new(),
            last_certificate: None,
            syncs: FuturesUnordered::new(),
            finals_syncing: false,
            open_syncing: false,
            open_written: Vec::new(),
            epoch: 0,
            set,
            engine: None,
            questions: mpsc::channel(QUESTIONS_LIMIT),
            reports: mpsc::channel(REPORTS_LIMIT),
            reports_lost: Arc::default(),
            proposing: None,
            verifying: Vec::new(),
            certifying: Vec::new(),
            later_ms: None,
            settling: BTreeMap::new(),
            quorums: HashMap::new(),
            docket: Docket::default(),
            attendance: Attendance::new(now_ms, settings.silence_ms),
            turns: BTreeMap::new(),
            view: 0,
            holds: HashMap::new(),
            halted: None,
            wire,
            inbox,
            outlet,
            frames,
            wants: Wants::new(settings.fetch_ms),
            catch_up: CatchUp::new(settings.catch_up_ms, now_ms),
            gap: None,
            served: BTreeMap::new(),
            followers: exchange::FollowersShare::default(),
            outgoing: Vec::new(),
            requests,
            submitted: Vec::new(),
            waiters: Waiters::new(),
            subscribers: Vec::new(),
            announce_ms: 0,
            sample_ms: 0,
            context,
        }
    }

    /// Runs until it is told to stop, or cannot go on
    pub(crate) async fn run(mut self) -> Result<(), NodeError> {
        loop {
            match self.next().await {
                Event::Request(None | Some(Request::Stop)) => return Ok(()),
                event => self.handle(event).await?,
            }
            if !self.drain().await? {
                return Ok(());
            }
            self.tick().await?;
        }
    }

    async fn next(&mut self) -> Event {
        let deadline = UNIX_EPOCH + Duration::from_millis(self.deadline_ms());
        let time = self.context.sleep_until(deadline);
        let engine = async {
            match &mut self.engine {
                Some(engine) => engine.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(synced) = self.syncs.next(), if !self.syncs.is_empty() => Event::Synced(synced),
            Some(question) = self.questions.1.recv() => Event::Question(question),
            Some(report) = self.reports.1.recv() => Event::Report(Box::new(report)),
            Some(frame) = self.frames.recv() => Event::Frame(frame),
            request = self.requests.recv() => Event::Request(request),
            ended = engine => Event::Engine(ended),
            () = time => Event::Time,
        }
    }

    async fn handle(&mut self, event: Event) -> Result<(), NodeError> {
        match event {
            Event::Synced(synced) => self.on_synced(synced.map_err(StoreError::Sync)?).await,
            Event::Question(question) => self.on_question(question).await,
            Event::Report(report) => self.on_report(*report).await,
            Event::Frame(frame) => self.on_frame(frame).await,
            Event::Request(Some(request)) => self.on_request(request).await,
            Event::Request(None) | Event::Time => Ok(()),
            Event::Engine(ended) => {
                let reason =
                    ended.err().map_or_else(|| "without an error".to_owned(), |e| e.to_string());
                Err(NodeError::Engine(reason))
            }
        }
    }

    /// Takes a little of everything that waits, so that no channel holds up another. False when told to stop.
    async fn drain(&mut self) -> Result<bool, NodeError> {
        for _ in 0..BATCH {
            let mut idle = true;
            if let Ok(question) = self.questions.1.try_recv() {
                idle = false;
                self.on_question(question).await?;
            }
            if let Ok(report) = self.reports.1.try_recv() {
                idle = false;
                self.on_report(report).await?;
            }
            if let Ok(frame) = self.frames.try_recv() {
                idle = false;
                self.on_frame(frame).await?;
            }
            match self.requests.try_recv() {
                Ok(Request::Stop) => return Ok(false),
                Ok(request) => {
                    idle = false;
                    self.on_request(request).await?;
                }
                Err(_) => {}
            }
            if idle {
                break;
            }
        }
        Ok(true)
    }

    /// Milliseconds since 1970, as the host has them: for patience
    fn now_ms(&self) -> u64 {
        elapsed_ms(self.context.current())
    }

    /// Milliseconds since 1970, as far as they are known: for blocks
    fn block_time_ms(&self) -> u64 {
        self.now_ms().saturating_add_signed(self.settings.clock_offset_ms)
    }

    fn deadline_ms(&self) -> u64 {
        let idle = self.proposing.as_ref().map(|it| it.since_ms + self.settings.idle_ms);
        // One whose time has come and whose block has not is looked at again, but not without a pause.
        let held = self.settling.values().filter_map(|it| it.hold_ms).min();
        let held = held.map(|held| held.max(self.now_ms() + 1));
        [
            Some(self.announce_ms),
            Some(self.sample_ms),
            self.later_ms,
            idle.filter(|idle| *idle > self.now_ms()),
            held,
            self.wants.next_ms(),
            self.catch_up.next_ms(self.chain.tip().height),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(u64::MAX)
    }

    /// What time brings, and what became possible by what just happened
    async fn tick(&mut self) -> Result<(), NodeError> {
        let now_ms = self.now_ms();
        if self.later_ms.is_some_and(|later| later <= now_ms) {
            self.later_ms = None;
        }
        self.admit();
        self.advance().await?;
        self.settle().await?;
        self.answer_dropped();
        self.send_operations();
        for (to, block) in self.wants.due(self.outlet.others(), now_ms) {
            self.outlet.send(&to, Channel::Blocks, Message::Want(block).to_bytes());
        }
        let urgent = self.engine.is_none();
        let height = self.chain.tip().height;
        if let Some(asked) = self.catch_up.due(height, urgent, now_ms) {
            let message = Message::WantRange { from: asked.from };
            self.outlet.send(&asked.peer, Channel::Blocks, message.to_bytes());
        }
        if self.announce_ms <= now_ms {
            self.announce_ms = now_ms + self.settings.announce_ms;
            self.announce();
        }
        if self.sample_ms <= now_ms {
            self.sample_ms = now_ms + SAMPLE_MS;
            for validator in self.inbox.heard() {
                self.attendance.heard(validator, now_ms);
            }
            self.tend_waiters(now_ms);
            self.look_for_a_gap();
        }
        Ok(())
    }

    fn look_again(&mut self) {
        let later = self.now_ms() + LATER_MS;
        self.later_ms = Some(self.later_ms.map_or(later, |known| known.min(later)));
    }

    fn listener(&self) -> Listener {
        Listener::new(self.reports.0.clone(), Arc::clone(&self.reports_lost))
    }

    fn reports_lost(&self) -> u64 {
        self.reports_lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
