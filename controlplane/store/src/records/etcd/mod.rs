//! Records in an etcd cluster, shared by several authority instances. What is written goes through transactions
//! that compare and swap the writing journal's place, so that a write whose answer was lost is applied once.
//! What is asked is answered from memory, which follows the cluster by a watch, once it has everything that was
//! written before the question: answers are linearizable, and without a quorum there are none.

mod apply;
mod dial;
mod follow;
mod keys;
mod messages;
mod mirror;
mod rpc;
mod tls;

use std::collections::BTreeSet;
use std::net::SocketAddrV6;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use dial::{Dial, Dialling, EtcdStream, LoopbackDial};
pub use tls::{TlsDial, TlsMaterial, TlsSource};

use super::{
    Answer, Batch, CertificateQuery, CertificateRecord, ChangeKind, IdempotentResult, Page,
    PageToken, PolicyDocument, PolicyVersion, Records, RecordsError, Revocation, RevocationQuery,
    Serial,
};
use crate::journal::JournalId;
use apply::Run;
use follow::View;
use keys::{JournalValue, Keys, Place};
use messages::{Compare, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse};
use mirror::Mirror;
use rpc::{CallError, Cluster, Patience};

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
/// Most members that can be named
const MEMBERS_LIMIT: usize = 16;
/// Longest prefix
const PREFIX_LIMIT_BYTES: usize = 256;
/// Results forgotten by one transaction
const FORGET_CHANGES: usize = 100;
/// Revocations that another instance was quicker with, before a transaction is given up
const ROUNDS_LIMIT: usize = 16;

/// Where the records are
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EtcdOptions {
    /// The members' client addresses, 1 to 16; they are tried in this order
    pub members: Vec<SocketAddrV6>,
    /// What all keys begin with, ending in a slash; instances that share records have the same
    pub prefix: String,
    /// How long one member may take
    pub attempt: Duration,
    /// How long a question or a transaction may take, whichever members it takes; more than an election
    pub patience: Duration,
}

impl EtcdOptions {
    /// The usual values, for these members
    pub fn new(members: Vec<SocketAddrV6>) -> Self {
        Self {
            members,
            prefix: "stoq/records/".into(),
            attempt: Duration::from_secs(2),
            patience: Duration::from_secs(20),
        }
    }

    fn check(&self) -> Result<(), RecordsError> {
        let fits = (1..=MEMBERS_LIMIT).contains(&self.members.len())
            && self.prefix.ends_with('/')
            && self.prefix.len() <= PREFIX_LIMIT_BYTES
            && self.attempt > Duration::ZERO
            && self.attempt <= self.patience;
        if fits {
            return Ok(());
        }
        Err(RecordsError::Invalid(format!(
            "1 to {MEMBERS_LIMIT} members, a prefix of at most {PREFIX_LIMIT_BYTES} bytes that ends in a \
             slash, and an attempt no longer than patience are needed"
        )))
    }
}

/// Records in an etcd cluster
#[derive(Debug)]
pub struct EtcdRecords {
    cluster: Cluster,
    keys: Keys,
    view: View,
    follower: JoinHandle<()>,
    /// One batch at a time: each begins where the one before ended
    turn: Mutex<()>,
}

impl Drop for EtcdRecords {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

fn parts(
    options: &EtcdOptions,
    dial: Arc<dyn Dial>,
) -> Result<(Cluster, Keys, View), RecordsError> {
    options.check()?;
    let patience = Patience { attempt: options.attempt, whole: options.patience };
    let cluster = Cluster::new(&options.members, dial, patience);
    Ok((cluster, Keys::new(&options.prefix), View::new()))
}

fn failed(error: CallError) -> RecordsError {
    if error.is_no_space() {
        RecordsError::NoSpace(error.to_string())
    } else if error.is_transient() {
        RecordsError::Unavailable(error.to_string())
    } else {
        RecordsError::Failed(error.to_string())
    }
}

impl EtcdRecords {
    /// Reads everything there is and begins to follow the cluster, in a task of the current runtime
    pub async fn open(options: EtcdOptions, dial: Arc<dyn Dial>) -> Result<Self, RecordsError> {
        let (cluster, keys, view) = parts(&options, dial)?;
        follow::list(&cluster, &keys, &view).await?;
        Ok(Self::following(cluster, keys, view))
    }

    /// The same without waiting: everything is read as soon as the cluster answers, and until then nothing is
    /// answered here. Call it where a runtime is.
    pub fn begin(options: &EtcdOptions, dial: Arc<dyn Dial>) -> Result<Self, RecordsError> {
        let (cluster, keys, view) = parts(options, dial)?;
        Ok(Self::following(cluster, keys, view))
    }

    fn following(cluster: Cluster, keys: Keys, view: View) -> Self {
        let follower = tokio::spawn(follow::follow(cluster.clone(), keys.clone(), view.clone()));
        Self { cluster, keys, view, follower, turn: Mutex::new(()) }
    }

    /// How often everything was read from the cluster: once, and once more after each compaction that went
    /// past what this instance had seen
    pub fn listings(&self) -> u64 {
        self.view.position.borrow().listings
    }

    /// Waits until the memory has everything that was written before this was called
    async fn settle(&self) -> Result<(), RecordsError> {
        let head = RangeRequest { key: self.keys.head(), ..RangeRequest::default() };
        let found: RangeResponse = self.cluster.call(RANGE, &head).await.map_err(failed)?;
        let needed = found.kvs.first().map_or(0, |pair| pair.mod_revision);
        let mut position = self.view.position.subscribe();
        let reached = position.wait_for(|at| at.revision >= needed || at.problem.is_some());
        let reached = timeout(self.cluster.patience().whole, reached).await;
        match reached {
            Ok(Ok(at)) => at.problem.clone().map_or(Ok(()), Err),
            Ok(Err(_gone)) => Err(RecordsError::Closed),
            Err(_elapsed) => {
                Err(RecordsError::Unavailable("the watch does not come forward".into()))
            }
        }
    }

    async fn ask<T>(&self, read: impl FnOnce(&Mirror) -> T + Send) -> Result<T, RecordsError> {
        self.settle().await?;
        Ok(self.view.read(read))
    }

    /// Where a journal stands, and the revision that says so
    async fn place(&self, journal: &JournalId) -> Result<(JournalValue, i64), RecordsError> {
        let request = RangeRequest { key: self.keys.journal(journal), ..RangeRequest::default() };
        let found: RangeResponse = self.cluster.call(RANGE, &request).await.map_err(failed)?;
        match found.kvs.first() {
            Some(pair) => Ok((keys::read_journal(&pair.value)?, pair.mod_revision)),
            None => Ok((JournalValue::default(), 0)),
        }
    }

    async fn apply_batch(&self, batch: Batch) -> Result<(), RecordsError> {
        apply::check(&batch)?;
        let _turn = self.turn.lock().await;
        self.settle().await?;
        let (place, mut revision) = self.place(&batch.journal).await?;
        let expected = place.applied_through + 1;
        if batch.first != expected {
            return Err(RecordsError::Gap { expected, found: batch.first });
        }
        let runs = apply::runs(&batch, &place)?;
        self.view.read(|mirror| refuse_repeats(mirror, &runs))?;
        for run in &runs {
            revision = self.commit(&batch, run, revision).await?;
        }
        Ok(())
    }

    /// Writes a run; returns the revision of the journal's place
    async fn commit(
        &self,
        batch: &Batch,
        run: &Run<'_>,
        place_revision: i64,
    ) -> Result<i64, RecordsError> {
        let write: [u8; 16] = rand::random();
        let mut revoked = BTreeSet::new();
        for _round in 0..ROUNDS_LIMIT {
            let request =
                apply::transaction(&self.keys, batch, run, place_revision, &write, &revoked);
            let answer: TxnResponse = self.cluster.call(TXN, &request).await.map_err(failed)?;
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            if answer.succeeded {
                return Ok(revision);
            }
            if let Some(done) = self.judge(batch, place_revision, &write, answer, &mut revoked)? {
                return Ok(done);
            }
        }
        Err(RecordsError::Busy)
    }

    /// Why a transaction was not carried out: it was before and the answer was lost (its revision), or
    /// something stands where it should not (an error), or revocations came first (`None`: try without them)
    fn judge(
        &self,
        batch: &Batch,
        place_revision: i64,
        write: &[u8],
        answer: TxnResponse,
        revoked: &mut BTreeSet<Serial>,
    ) -> Result<Option<i64>, RecordsError> {
        let mut repeats = None;
        let mut place = (JournalValue::default(), 0);
        for pair in answer.found() {
            match self.keys.place(&pair.key)? {
                Place::Journal(_) => place = (keys::read_journal(&pair.value)?, pair.mod_revision),
                Place::Certificate(serial) => repeats = Some(RecordsError::SerialRepeats(serial)),
                Place::Policy(name, version) => {
                    repeats = Some(RecordsError::PolicyRepeats { name, version });
                }
                Place::Revocation(serial) => {
                    revoked.insert(serial);
                }
                Place::Head | Place::Result(_) => {}
            }
        }
        let (place, now) = place;
        if place.write == write {
            return Ok(Some(now));
        }
        if now != place_revision {
            let expected = place.applied_through + 1;
            return Err(RecordsError::Gap { expected, found: batch.first });
        }
        repeats.map_or(Ok(None), Err)
    }

    async fn clear_all(&self) -> Result<(), RecordsError> {
        let _turn = self.turn.lock().await;
        let write: [u8; 16] = rand::random();
        let (first, end) = self.keys.everything();
        let head = self.keys.head();
        let behind_head = [&head[..], &[0]].concat();
        // The head is not deleted: a key is changed once in a transaction.
        let request = TxnRequest {
            success: vec![
                RequestOp::delete(first, head.clone()),
                RequestOp::delete(behind_head, end),
                RequestOp::put(head, write.to_vec()),
            ],
            ..TxnRequest::default()
        };
        let _: TxnResponse = self.cluster.call(TXN, &request).await.map_err(failed)?;
        Ok(())
    }

    async fn forget(&self, now: u64) -> Result<u64, RecordsError> {
        let _turn = self.turn.lock().await;
        let mut forgotten = 0;
        loop {
            let ended = self.ask(|mirror| mirror.ended_results(now, FORGET_CHANGES)).await?;
            if ended.is_empty() {
                return Ok(forgotten);
            }
            let mut request = TxnRequest::default();
            for (key, revision) in &ended {
                let key = self.keys.result(key);
                // One that was answered anew meanwhile stays.
                request.compare.push(Compare::unchanged(key.clone(), *revision));
                request.success.push(RequestOp::delete(key, Vec::new()));
            }
            let write: [u8; 16] = rand::random();
            request.success.push(RequestOp::put(self.keys.head(), write.to_vec()));
            let answer: TxnResponse = self.cluster.call(TXN, &request).await.map_err(failed)?;
            if answer.succeeded {
                forgotten += ended.len() as u64;
            }
        }
    }
}

/// What would make a batch fail half-way is found before any of it is written
fn refuse_repeats(mirror: &Mirror, runs: &[Run<'_>]) -> Result<(), RecordsError> {
    for change in runs.iter().flat_map(|run| &run.changes) {
        match &change.kind {
            ChangeKind::Issued(it) if mirror.certificate(&it.serial).is_some() => {
                return Err(RecordsError::SerialRepeats(it.serial.clone()));
            }
            ChangeKind::PolicyStored(it) if mirror.has_policy(&it.name, it.version) => {
                let (name, version) = (it.name.clone(), it.version);
                return Err(RecordsError::PolicyRepeats { name, version });
            }
            _ => {}
        }
    }
    Ok(())
}

/// A batch beyond one transaction (a hundred changes, 1.2 MB) is applied in runs of whole entries: when the
/// cluster fails in between, [`Records::applied_through`] says how far it came, and the rest is applied by
/// catching up. [`Records::clear`] is for all instances; each catches up again.
impl Records for EtcdRecords {
    fn applied_through(&self, journal: JournalId) -> Answer<'_, u64> {
        Box::pin(self.ask(move |mirror| mirror.applied_through(&journal)))
    }

    fn apply(&self, batch: Batch) -> Answer<'_, ()> {
        Box::pin(self.apply_batch(batch))
    }

    fn clear(&self) -> Answer<'_, ()> {
        Box::pin(self.clear_all())
    }

    fn certificate(&self, serial: Serial) -> Answer<'_, Option<CertificateRecord>> {
        Box::pin(self.ask(move |mirror| mirror.certificate(&serial)))
    }

    fn certificates(&self, query: CertificateQuery) -> Answer<'_, Page<CertificateRecord>> {
        Box::pin(async move { self.ask(|mirror| mirror.certificates(&query)).await? })
    }

    fn revocations(&self, query: RevocationQuery) -> Answer<'_, Page<Revocation>> {
        Box::pin(self.ask(move |mirror| mirror.revocations(&query)))
    }

    fn idempotent_result(&self, key: Vec<u8>, now: u64) -> Answer<'_, Option<IdempotentResult>> {
        Box::pin(self.ask(move |mirror| mirror.result(&key, now)))
    }

    fn forget_idempotent_results(&self, now: u64) -> Answer<'_, u64> {
        Box::pin(self.forget(now))
    }

    fn policy(&self, name: String, version: Option<u64>) -> Answer<'_, Option<PolicyDocument>> {
        Box::pin(self.ask(move |mirror| mirror.policy(&name, version)))
    }

    fn policies(&self, limit: usize, page: Option<PageToken>) -> Answer<'_, Page<PolicyVersion>> {
        Box::pin(async move { self.ask(|mirror| mirror.policies(limit, page.as_ref())).await? })
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        Some(self.view.changes.subscribe())
    }
}
