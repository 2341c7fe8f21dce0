//! Keeping the mirror at the cluster's side: everything is listed once at one revision and then watched from
//! there. Where the cluster has forgotten what was missed (compaction), everything is listed anew. Never ends
//! on an error; what cannot be understood is shown to whoever asks.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::super::RecordsError;
use super::keys::{KINDS, Keys};
use super::messages::{
    EVENT_DELETE, Event, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest,
    WatchResponse,
};
use super::mirror::Mirror;
use super::rpc::{CallError, Cluster, OUT_OF_RANGE};

const RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// Between two attempts to watch
const PAUSE: Duration = Duration::from_millis(100);
/// Events of one revision in several messages; a transaction has no more than this
const EVENTS_LIMIT: usize = 1 << 20;

/// How far the mirror is
#[derive(Clone, Debug, Default)]
pub(super) struct Position {
    /// Everything up to this revision is in it
    pub(super) revision: i64,
    /// How often everything was listed
    pub(super) listings: u64,
    /// Why it is not to be asked
    pub(super) problem: Option<RecordsError>,
}

/// The mirror, and how far it is
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) mirror: Arc<RwLock<Mirror>>,
    pub(super) position: watch::Sender<Position>,
    /// The revision again, for whoever waits for what others write
    pub(super) changes: watch::Sender<u64>,
}

/// Why watching stopped
enum Stopped {
    Connection(CallError),
    /// What was missed is no longer there
    Compacted,
    Records(RecordsError),
}

impl From<CallError> for Stopped {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Status { code: OUT_OF_RANGE, .. } => Self::Compacted,
            error => Self::Connection(error),
        }
    }
}

impl From<RecordsError> for Stopped {
    fn from(error: RecordsError) -> Self {
        Self::Records(error)
    }
}

impl View {
    pub(super) fn new() -> Self {
        let mirror = Arc::new(RwLock::new(Mirror::default()));
        Self {
            mirror,
            position: watch::Sender::new(Position::default()),
            changes: watch::Sender::new(0),
        }
    }

    /// Reads the mirror
    pub(super) fn read<T>(&self, read: impl FnOnce(&Mirror) -> T) -> T {
        // A panic while writing leaves nothing half-done that matters: the position was not moved.
        let mirror = self.mirror.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        read(&mirror)
    }

    fn replace(&self, mirror: Mirror, revision: i64) {
        *self.mirror.write().unwrap_or_else(std::sync::PoisonError::into_inner) = mirror;
        self.position.send_modify(|position| {
            position.revision = revision;
            position.listings += 1;
            position.problem = None;
        });
        self.changed(revision);
    }

    fn changed(&self, revision: i64) {
        self.changes.send_replace(u64::try_from(revision).unwrap_or(0));
    }

    fn take(&self, keys: &Keys, events: Vec<Event>) -> Result<(), RecordsError> {
        let mut mirror = self.mirror.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut revision = 0;
        for event in events {
            let Some(pair) = event.kv else { continue };
            revision = revision.max(pair.mod_revision);
            match event.kind {
                EVENT_DELETE => mirror.delete(keys, &pair.key)?,
                _ => mirror.put(keys, &pair.key, &pair.value, pair.mod_revision)?,
            }
        }
        drop(mirror);
        self.position.send_modify(|position| position.revision = position.revision.max(revision));
        self.changed(revision);
        Ok(())
    }

    fn fail(&self, problem: RecordsError) {
        self.position.send_modify(|position| position.problem = Some(problem));
    }
}

/// Lists everything into the view
pub(super) async fn list(cluster: &Cluster, keys: &Keys, view: &View) -> Result<(), RecordsError> {
    loop {
        match list_once(cluster, keys).await {
            Ok((mirror, revision)) => {
                view.replace(mirror, revision);
                return Ok(());
            }
            Err(Stopped::Compacted) => tracing::info!("compacted while listing; listed anew"),
            Err(Stopped::Connection(error)) => {
                return Err(RecordsError::Unavailable(error.to_string()));
            }
            Err(Stopped::Records(error)) => return Err(error),
        }
    }
}

async fn list_once(cluster: &Cluster, keys: &Keys) -> Result<(Mirror, i64), Stopped> {
    let mut mirror = Mirror::default();
    let mut revision = 0;
    for (kind, page) in KINDS {
        let (mut key, range_end) = keys.of_kind(kind);
        loop {
            let request = RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                limit: page,
                revision,
                keys_only: false,
            };
            let found: RangeResponse = cluster.call(RANGE, &request).await?;
            if revision == 0 {
                // All later pages are of the revision of the first.
                revision = found.header.map_or(0, |header| header.revision);
            }
            for pair in &found.kvs {
                mirror.put(keys, &pair.key, &pair.value, pair.mod_revision)?;
            }
            match found.kvs.last() {
                // The next key in order is this one with a zero behind it.
                Some(last) if found.more => key = [&last.key[..], &[0]].concat(),
                _ => break,
            }
        }
    }
    Ok((mirror, revision))
}

/// Follows until it is dropped; where nothing was listed yet, that comes first
pub(super) async fn follow(cluster: Cluster, keys: Keys, view: View) {
    let mut told = false;
    loop {
        let Position { revision, listings, .. } = view.position.borrow().clone();
        if listings == 0 {
            match list(&cluster, &keys, &view).await {
                Ok(()) => tracing::info!("the records' cluster answers; everything was listed"),
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "the records are not there yet; tried again and again");
                    }
                    if !matches!(error, RecordsError::Unavailable(_)) {
                        view.fail(error);
                    }
                    sleep(PAUSE).await;
                }
            }
            continue;
        }
        match watch_from(&cluster, &keys, &view, revision).await {
            Stopped::Connection(error) => {
                tracing::debug!(%error, revision, "the watch on the records is begun again");
            }
            Stopped::Compacted => {
                tracing::warn!(
                    revision,
                    "the cluster forgot what was missed; everything is listed anew"
                );
                if let Err(error) = list(&cluster, &keys, &view).await {
                    tracing::warn!(%error, "the records could not be listed; tried again");
                }
            }
            Stopped::Records(problem) => {
                tracing::error!(%problem, "the records in the cluster make no sense");
                view.fail(problem);
                // Whoever repairs the cluster changes it; then everything is read again.
                if let Err(error) = list(&cluster, &keys, &view).await {
                    view.fail(error);
                }
            }
        }
        sleep(PAUSE).await;
    }
}

async fn watch_from(cluster: &Cluster, keys: &Keys, view: &View, revision: i64) -> Stopped {
    let (generation, outcome) = watch_once(cluster, keys, view, revision).await;
    if matches!(outcome, Stopped::Connection(_)) {
        cluster.give_up(generation).await;
    }
    outcome
}

async fn watch_once(cluster: &Cluster, keys: &Keys, view: &View, revision: i64) -> (u64, Stopped) {
    let (key, range_end) = keys.everything();
    let create =
        WatchCreateRequest { key, range_end, start_revision: revision + 1, fragment: true };
    let request = WatchRequest { create_request: Some(create) };
    let (generation, opened) = cluster.stream(WATCH, &request).await;
    let mut answers = match opened {
        Ok(answers) => answers,
        Err(error) => return (generation, error.into()),
    };
    let mut waiting: Vec<Event> = Vec::new();
    loop {
        let answer = match answers.next::<WatchResponse>().await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                let text = "the watch ended".to_owned();
                return (generation, Stopped::Connection(CallError::Connection(text)));
            }
            Err(error) => return (generation, error.into()),
        };
        if answer.compact_revision > 0 {
            return (generation, Stopped::Compacted);
        }
        if answer.canceled {
            let error = CallError::Connection(format!("cancelled: {}", answer.cancel_reason));
            return (generation, Stopped::Connection(error));
        }
        waiting.extend(answer.events);
        if waiting.len() > EVENTS_LIMIT {
            let text = "one change of the cluster has more than a million parts".to_owned();
            return (generation, Stopped::Records(RecordsError::Damaged(text)));
        }
        // Parts of one revision count together.
        if !answer.fragment
            && !waiting.is_empty()
            && let Err(error) = view.take(keys, std::mem::take(&mut waiting))
        {
            return (generation, error.into());
        }
    }
}
