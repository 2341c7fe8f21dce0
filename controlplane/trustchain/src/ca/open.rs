//! Making an authority's journal and log, and opening them: everything is read from the beginning, checked against
//! the published files and the keys, and whatever does not fit is refused with its own reason. Nothing is repaired.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::UNIX_EPOCH;

use stoq_store::journal::{self, Disk, Journal, NewEntry, OpenError, Opened, Options, UringDisk};
use stoq_store::{Records, StartThread};
use tokio::sync::mpsc;

use super::admission::Admission;
use super::api::Ca;
use super::authority::{IssuingAuthority, IssuingError};
use super::commit::Committer;
use super::entry::{Entry, EntryError};
use super::inventory_feed::Feed;
use super::journal::LogJournal;
use super::publish::{self, PublishTask};
use super::service::{Counters, Issuer, Service, Tasks};
use super::settings::{CaSettings, Mode};
use super::shared::{Follower, Shared};
use super::state::State;
use crate::certificate::unix_seconds;
use crate::log::key::LogKeyError;
use crate::log::publisher::PublishError;
use crate::log::record::Record;
use crate::log::recovery::{Recovered, StartError, check_identity};
use crate::log::store::{CHECKPOINT_PATH, Published};
use crate::log::submission::SubmissionError;
use crate::log::{
    Directory, DurableEntry, IssuerChain, Log, LogSigner, LogVerifier, Publisher, Recovery,
    Sequencer,
};
use crate::signer::{KeyName, KeyPurpose, NamedKey, Signer, SignerError, block_on};
use crate::token::TokenStore;

/// Octets of one group of the journal: a batch of the log, what it is about, and what other parts append
const GROUP_BYTES: usize = 6 << 20;
const GROUP_RECORDS: usize = 8_192;
const QUEUE_BYTES: usize = 16 << 20;
/// Messages to the commit task that may wait beyond the requests that are under way
const MESSAGES_EXTRA: usize = 1_024;

/// What an authority is opened with
pub struct Parts {
    /// The issuing authority
    pub authority: IssuingAuthority,
    /// What signs for the log
    pub log_signer: Arc<dyn Signer>,
    /// With which key
    pub log_key: KeyName,
    /// The join tokens
    pub tokens: Arc<TokenStore>,
    /// The inventory, which follows the journal
    pub records: Option<Arc<dyn Records>>,
    /// Whoever keeps what the journal says about them: revocations, audit
    pub followers: Vec<Box<dyn Follower>>,
}

/// Why an authority was not made or does not start. None is repaired by itself.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The settings cannot work, or the mode refuses them
    #[error("the authority's settings: {0}")]
    Settings(String),
    /// The root's key is here
    #[error(
        "the root's key lies on this host, which production refuses; make an offline root \
         (`stoqctl root init --offline`) and have it sign this authority's request"
    )]
    RootAtHand,
    /// The issuing authority
    #[error(transparent)]
    Issuing(#[from] IssuingError),
    /// The log's key
    #[error(transparent)]
    LogKey(#[from] LogKeyError),
    /// The signer
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The issuing key is not the one the journal says
    #[error(
        "the authority was opened with another issuing key than `{expected}`, which its journal says is in force"
    )]
    NotInForce {
        /// The key in force
        expected: KeyName,
    },
    /// The name is of a key for something else
    #[error("key `{0}` is not a log key")]
    Purpose(KeyName),
    /// The chain cannot be logged
    #[error(transparent)]
    Chain(#[from] SubmissionError),
    /// The journal
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The log
    #[error(transparent)]
    Log(#[from] StartError),
    /// An entry does not parse
    #[error("entry {sequence} of the journal: {source}")]
    Entry {
        /// Which
        sequence: u64,
        /// What is wrong
        source: EntryError,
    },
    /// An entry does not fit what was before it
    #[error("entry {sequence} of the journal: {reason}; restore the journal from a backup")]
    Misfit {
        /// Which
        sequence: u64,
        /// What does not fit
        reason: String,
    },
    /// The log's files are there and the journal is not
    #[error(
        "{log} holds a published log and {journal} no journal; the journal is the truth and was lost: \
         restore it, never begin anew in the place of another log"
    )]
    JournalLost {
        /// Published files
        log: PathBuf,
        /// Where the journal should be
        journal: PathBuf,
    },
    /// Publishing at the start
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The file system refused
    #[error("{path}: {source}")]
    Io {
        /// The directory
        path: PathBuf,
        /// What it said
        source: std::io::Error,
    },
    /// It is not opened within a runtime
    #[error("an authority is opened within a tokio runtime")]
    NoRuntime,
}

/// What opening has found
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaOpened {
    /// Of the journal
    pub journal: Opened,
    /// Certificates issued, ever
    pub issued: u64,
    /// Entries of the log
    pub log_entries: u64,
    /// Signed heads of the log
    pub log_heads: u64,
}

impl Ca {
    /// Whether there is an authority in the directory of these settings, or what is left of one
    pub fn exists(settings: &CaSettings) -> bool {
        settings.journal_directory().join("manifest").exists()
            || settings.journal_directory().is_dir()
            || settings.log_directory().join(CHECKPOINT_PATH).exists()
    }

    /// Makes the journal and the log, once in the life of an authority; interrupted, it can be called again. Where
    /// an authority is already, it is refused: a lost log is never begun again in silence. Blocks.
    pub fn create(
        settings: &CaSettings,
        log_signer: &Arc<dyn Signer>,
        log_key: &KeyName,
        start: StartThread<'_>,
    ) -> Result<(), CaError> {
        settings.check().map_err(CaError::Settings)?;
        let signer = log_signer_of(settings, log_signer.clone(), log_key)?;
        let directory = settings.journal_directory();
        let files = open_files(settings)?;
        let checkpoint = files.read(CHECKPOINT_PATH);
        if checkpoint.map_err(|source| io_error(settings.log_directory(), source))?.is_some() {
            return Err(StartError::Exists.into());
        }
        match Journal::create(&directory) {
            // Begun before, or there: an entry tells which.
            Ok(_) | Err(OpenError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let mut entries = 0;
        let (journal, _) = Journal::open(&directory, options(), start, |_entry| {
            entries += 1;
            Ok(())
        })?;
        let now_ms = now_ms(settings);
        let created = match entries {
            0 => {
                Log::create(LogJournal::new(&journal), files, signer, log_limits(settings), now_ms)
                    .map(drop)
            }
            _ => Err(StartError::Exists),
        };
        let closed = block_on(journal.close());
        created?;
        closed.map_err(|failure| io_error(directory, std::io::Error::other(failure)))
    }

    /// Opens an authority: reads its journal from the beginning, checks it against the published files and the
    /// keys, and starts to serve. Call it within a tokio runtime; it blocks for as long as reading takes.
    pub fn open(
        settings: CaSettings,
        parts: Parts,
        start: StartThread<'_>,
    ) -> Result<(Self, CaOpened), CaError> {
        Self::open_on(UringDisk, settings, parts, start)
    }

    /// Like [`Self::open`], with every later write of the journal through `disk`: a test's, that fails when told to
    pub fn open_on<D: Disk>(
        disk: D,
        settings: CaSettings,
        parts: Parts,
        start: StartThread<'_>,
    ) -> Result<(Self, CaOpened), CaError> {
        tokio::runtime::Handle::try_current().map_err(|_| CaError::NoRuntime)?;
        settings.check().map_err(CaError::Settings)?;
        if settings.mode == Mode::Production && parts.authority.root_at_hand() {
            return Err(CaError::RootAtHand);
        }
        let Parts { authority, log_signer, log_key, tokens, records, followers } = parts;
        let signer = log_signer_of(&settings, log_signer.clone(), &log_key)?;
        let issuer = Issuer::new(&settings, authority)?;
        let directory = settings.journal_directory();
        if !directory.is_dir() && settings.log_directory().join(CHECKPOINT_PATH).exists() {
            let (log, journal) = (settings.log_directory(), directory);
            return Err(CaError::JournalLost { log, journal });
        }
        let verifier = signer.verifier().clone();
        let mut replay = Replay::new(&settings, verifier.clone(), followers);
        let opened = Journal::open_on(disk, &directory, options(), start, |entry| {
            replay.take(entry).map_err(Into::into)
        });
        let (journal, journal_opened) = opened.map_err(reason_of)?;
        let replayed = replay.finish(now_ms(&settings)).and_then(|mut replayed| {
            let Replayed { publisher, sequencer, .. } = &mut replayed;
            publish::publish_last(publisher, sequencer.last_head(), &verifier)?;
            replayed.register_chain(&journal, &issuer.chain)?;
            Ok(replayed)
        });
        let replayed = match replayed {
            Ok(replayed) => replayed,
            Err(error) => {
                // So that whoever has put it right can open it at once; what closing says is of no interest.
                drop(block_on(journal.close()));
                return Err(error);
            }
        };
        let Replayed { mut state, publisher, sequencer, followers, heads } = replayed;
        if let Some(expected) = state.issuing_keys().in_force()
            && expected.key_id != issuer.authority.key_id()
        {
            let expected = expected.name.clone();
            drop(block_on(journal.close()));
            return Err(CaError::NotInForce { expected });
        }
        settle_tokens(&mut state, &tokens, unix_seconds((settings.clock)()));
        let found = CaOpened {
            journal: journal_opened,
            issued: state.issued(),
            log_entries: sequencer.head().size,
            log_heads: heads,
        };
        let ca = assemble(Assembly {
            settings,
            issuer,
            log_signer,
            log_key,
            signer,
            tokens,
            records,
            journal,
            state,
            sequencer,
            publisher,
            followers,
        });
        Ok((ca, found))
    }
}

/// Everything a running authority is made of
struct Assembly {
    settings: CaSettings,
    issuer: Issuer,
    log_signer: Arc<dyn Signer>,
    log_key: KeyName,
    signer: LogSigner<NamedKey>,
    tokens: Arc<TokenStore>,
    records: Option<Arc<dyn Records>>,
    journal: Journal,
    state: State,
    sequencer: Sequencer,
    publisher: Publisher<Directory>,
    followers: Vec<Box<dyn Follower>>,
}

fn assemble(assembly: Assembly) -> Ca {
    let Assembly { settings, issuer, signer, journal, records, publisher, sequencer, .. } =
        assembly;
    let (messages, receiver) = mpsc::channel(settings.limits.in_flight + MESSAGES_EXTRA);
    let journal = Arc::new(journal);
    let feed = records.as_ref().map(|_| Arc::new(Feed::new(0)));
    let last_head = sequencer.last_head().cloned();
    let shared = Arc::new(Shared::new(
        settings.clock.clone(),
        settings.limits,
        assembly.state,
        sequencer,
        journal.durable_sequence(),
        feed.clone(),
    ));
    let published = publisher.published().map(|checkpoint| checkpoint.head);
    let current = last_head.filter(|head| published == Some(head.head()));
    publish::announce(&shared, &publisher, current);
    let files = publisher.store().reader();
    let committer =
        Committer::new(shared.clone(), journal.appender(), assembly.followers, receiver);
    let log = signer.verifier().clone();
    let publishing = PublishTask::new(
        shared.clone(),
        messages.downgrade(),
        Arc::new(signer),
        publisher,
        settings.checkpoint_interval,
    );
    let tasks = Tasks {
        commit: Some(tokio::spawn(committer.run())),
        publish: Some(tokio::spawn(publishing.run())),
        feed: feed
            .zip(records.clone())
            .map(|(feed, records)| tokio::spawn(feed.run(journal.clone(), records))),
    };
    let service = Service {
        siblings: Mutex::new(Arc::new(settings.siblings.clone())),
        admission: Admission::new(settings.limits),
        settings,
        issuer: RwLock::new(Arc::new(issuer)),
        turnover: tokio::sync::RwLock::default(),
        log,
        log_signer: assembly.log_signer,
        log_key: assembly.log_key,
        files,
        tokens: assembly.tokens,
        records,
        shared,
        counters: Counters::default(),
        turns: Mutex::default(),
        not_issuing: Mutex::default(),
        messages: Mutex::new(Some(messages)),
        journal: Mutex::new(Some(journal)),
        tasks: Mutex::new(tasks),
    };
    Ca { service: Arc::new(service) }
}

/// Reads the journal's entries in order
struct Replay<'a> {
    settings: &'a CaSettings,
    verifier: LogVerifier,
    state: State,
    followers: Vec<Box<dyn Follower>>,
    log: Option<(Publisher<Directory>, Recovery)>,
    /// Log entries of the group that is being read, until their certificates claim them
    unclaimed: HashMap<u64, DurableEntry>,
}

struct Replayed {
    state: State,
    publisher: Publisher<Directory>,
    sequencer: Sequencer,
    followers: Vec<Box<dyn Follower>>,
    heads: u64,
}

impl<'a> Replay<'a> {
    fn new(
        settings: &'a CaSettings,
        verifier: LogVerifier,
        followers: Vec<Box<dyn Follower>>,
    ) -> Self {
        let enrolment = settings.profiles.enrolment().map(|profile| profile.name.clone());
        let state = State::new(settings.limits, enrolment);
        Self { settings, verifier, state, followers, log: None, unclaimed: HashMap::new() }
    }

    fn take(&mut self, entry: journal::Entry<'_>) -> Result<(), CaError> {
        let sequence = entry.sequence;
        let entry = Entry::decode(entry.kind, entry.payload)
            .map_err(|source| CaError::Entry { sequence, source })?;
        let misfit = |reason: String| CaError::Misfit { sequence, reason };
        match &entry {
            Entry::Log(record) => self.take_record(record)?,
            Entry::Issued(issued) => {
                let durable = self.unclaimed.remove(&issued.leaf_index);
                let missing = || misfit("a certificate without its log entry".into());
                let durable = durable.ok_or_else(missing)?;
                self.state
                    .apply_issued(issued, durable, sequence)
                    .map_err(|reason| misfit(reason.into()))?;
            }
            other => self.state.apply(other).map_err(|reason| misfit(reason.into()))?,
        }
        for follower in &mut self.followers {
            follower.follow(sequence, &entry).map_err(misfit)?;
        }
        Ok(())
    }

    fn take_record(&mut self, record: &[u8]) -> Result<(), CaError> {
        if self.log.is_none() {
            // First of all, so that a wrong key is called a wrong key.
            check_identity(record, &self.verifier)?;
            let files = open_files(self.settings)?;
            let publisher = Publisher::new(files, &self.verifier, self.settings.published_files)?;
            let mut known = self.settings.known_heads.clone();
            known.extend(publisher.published().map(|checkpoint| checkpoint.head));
            let limits = log_limits(self.settings);
            let recovery = Recovery::new(self.verifier.clone(), limits, &known)?;
            self.log = Some((publisher, recovery));
        }
        let Some((publisher, recovery)) = &mut self.log else { return Ok(()) };
        match recovery.record(record)? {
            Recovered::Issuer(der) => publisher.issuer(&der).map_err(StartError::from)?,
            Recovered::Entries(entries) => {
                // Whatever nobody claimed is of no certificate: it was handed in by somebody else.
                self.unclaimed.clear();
                let first = recovery.entries() - entries.len() as u64;
                for (index, entry) in (first..).zip(entries) {
                    let malformed = |reason| StartError::Damaged { record: index, reason };
                    self.unclaimed.insert(index, entry.durable().map_err(malformed)?);
                    publisher.entry(entry.leaf_hash, &entry.tile_leaf).map_err(StartError::from)?;
                }
            }
            Recovered::Created | Recovered::Head => {}
        }
        Ok(())
    }

    fn finish(self, now_ms: u64) -> Result<Replayed, CaError> {
        let Some((mut publisher, recovery)) = self.log else {
            return Err(StartError::NotCreated.into());
        };
        let heads = recovery.heads();
        let sequencer = recovery.finish(now_ms)?;
        publisher.settle_full().map_err(StartError::from)?;
        let (mut state, followers) = (self.state, self.followers);
        state.forget_ended(now_ms / 1_000);
        Ok(Replayed { state, publisher, sequencer, followers, heads })
    }
}

impl Replayed {
    /// The chain's certificates, known to the log before anything refers to them
    fn register_chain(&mut self, journal: &Journal, chain: &IssuerChain) -> Result<(), CaError> {
        for (der, fingerprint) in chain.certificates().iter().zip(chain.fingerprints()) {
            if self.sequencer.knows_issuer(fingerprint) {
                continue;
            }
            let refused = |error: &dyn std::error::Error| CaError::Settings(error.to_string());
            self.sequencer.check_issuers().map_err(|error| refused(&error))?;
            let record = Record::Issuer { der: der.clone() };
            let entry = Entry::Log(record.encode().map_err(|error| refused(&error))?);
            let NewEntry { kind, payload } = entry.encode();
            let failed = |error| StartError::Journal(std::io::Error::other(error));
            let sequence = block_on(journal.appender().append(kind, payload)).map_err(failed)?;
            self.sequencer.issuer_durable(*fingerprint);
            self.publisher.issuer(der).map_err(StartError::from)?;
            for follower in &mut self.followers {
                let followed = follower.follow(sequence, &entry);
                followed.map_err(|reason| CaError::Misfit { sequence, reason })?;
            }
        }
        Ok(())
    }
}

/// Puts away the tokens that the journal calls used
fn settle_tokens(state: &mut State, tokens: &TokenStore, now: u64) {
    state.forget_ended(now);
    for id in state.used_tokens() {
        if let Err(error) = tokens.settle_used(&id) {
            // The journal is asked in any case.
            tracing::warn!(%error, token = id, "a used token was not put away");
        }
    }
}

fn log_signer_of(
    settings: &CaSettings,
    signer: Arc<dyn Signer>,
    key: &KeyName,
) -> Result<LogSigner<NamedKey>, CaError> {
    if key.purpose() != KeyPurpose::Log {
        return Err(CaError::Purpose(key.clone()));
    }
    Ok(LogSigner::new(&settings.log_origin, NamedKey::new(signer, key)?)?)
}

fn open_files(settings: &CaSettings) -> Result<Directory, CaError> {
    let directory = settings.log_directory();
    Directory::open(&directory).map_err(|source| io_error(directory, source))
}

fn io_error(path: PathBuf, source: std::io::Error) -> CaError {
    CaError::Io { path, source }
}

fn options() -> Options {
    Options {
        group_bytes: GROUP_BYTES,
        group_records: GROUP_RECORDS,
        queue_bytes: QUEUE_BYTES,
        ..Options::default()
    }
}

fn log_limits(settings: &CaSettings) -> crate::log::sequencer::Limits {
    crate::log::sequencer::Limits {
        pool_entries: settings.limits.in_flight + MESSAGES_EXTRA,
        batch_entries: settings.limits.batch_entries,
        // Every precertificate here has a serial number of its own, so none comes twice.
        remembered_entries: 0,
    }
}

fn now_ms(settings: &CaSettings) -> u64 {
    let since = (settings.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What was refused while the journal was read, in its own words
fn reason_of(error: OpenError) -> CaError {
    match error {
        OpenError::Refused { sequence, reason } => match reason.downcast::<CaError>() {
            Ok(own) => *own,
            Err(reason) => OpenError::Refused { sequence, reason }.into(),
        },
        other => other.into(),
    }
}

/// Checks an authority's log from outside, while it runs or not: the published files, and the journal where it is
/// given (a running authority's is in use, so then it is not)
pub fn fsck(
    log_directory: &Path,
    verifier: &LogVerifier,
    journal: Option<&Journal>,
) -> crate::log::FsckReport {
    let files = crate::log::directory::DirectoryReader::new(log_directory);
    match journal {
        Some(journal) => {
            let mut records = LogJournal::new(journal);
            crate::log::fsck(&files, verifier, Some(&mut records))
        }
        None => crate::log::fsck(&files, verifier, None),
    }
}
