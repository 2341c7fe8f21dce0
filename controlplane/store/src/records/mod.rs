//! Records: what the journal's entries amount to, in a form that can be asked: the certificate inventory,
//! revocations, results by idempotency key, policy documents. Every record stems from a journal entry, so all
//! of them can be made again from the journal. Which entry means what is the caller's business.

mod catch_up;
pub mod etcd;
mod sqlite;
mod types;

use std::future::Future;
use std::pin::Pin;

use tokio::sync::watch;

pub use catch_up::{CatchUpError, CaughtUp, catch_up};
pub use etcd::{EtcdOptions, EtcdRecords};
pub use sqlite::{SqliteOptions, SqliteRecords};
pub use types::{
    BATCH_LIMIT_CHANGES, Batch, CertificateQuery, CertificateRecord, CertificateState, Change,
    ChangeKind, IDEMPOTENCY_KEY_LIMIT_BYTES, IDEMPOTENCY_RESULT_LIMIT_BYTES, IdempotentResult,
    IssuedCertificate, NAME_LIMIT_BYTES, NAMES_LIMIT, PAGE_LIMIT, POLICY_LIMIT_BYTES, Page,
    PageToken, PolicyDocument, PolicyVersion, Revocation, RevocationQuery, RevocationReason,
    SERIAL_LIMIT_BYTES, Serial,
};

use crate::journal::JournalId;

/// What is to come of a question
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, RecordsError>> + Send + 'a>>;

/// Why a question was not answered or a batch not applied
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordsError {
    /// Too many questions wait; nothing was done, ask again later
    #[error("the records are behind; try again later")]
    Busy,
    /// The records were closed
    #[error("the records are closed")]
    Closed,
    /// A value is not one that can be recorded; the text says which limit it breaks
    #[error("cannot be recorded: {0}")]
    Invalid(String),
    /// The batch does not go on where the records end
    #[error("the records expect entry {expected} of the journal next, not {found}")]
    Gap {
        /// The next entry in order
        expected: u64,
        /// The first of the batch
        found: u64,
    },
    /// A certificate with this serial is recorded already
    #[error("serial {0} was issued before; two certificates of one serial must not exist")]
    SerialRepeats(Serial),
    /// This version of a policy document is recorded already
    #[error("policy `{name}` has a version {version} already; documents are never changed")]
    PolicyRepeats {
        /// Name of the document
        name: String,
        /// The version
        version: u64,
    },
    /// No space is left. Nothing of the batch was recorded.
    #[error("no space is left for the records ({0}); free some, nothing is lost")]
    NoSpace(String),
    /// The store is damaged or of another program or version
    #[error("{0}; the records can be made again from the journal")]
    Damaged(String),
    /// The cluster that holds the records does not answer. Whether a batch was applied is known when
    /// [`Records::applied_through`] answers again.
    #[error("the records' cluster does not answer: {0}; look at its members and at the network")]
    Unavailable(String),
    /// The store failed and is not used any more until it is opened again
    #[error("the records failed: {0}; restart the daemon and look at the disk (kernel log)")]
    Failed(String),
}

/// A store of records. Nothing of how it stores them shows here.
///
/// A page is ordered by the end of validity and then by serial, revocations by serial, documents by name.
pub trait Records: Send + Sync {
    /// The last entry of a journal that the records reflect; zero for a journal never seen
    fn applied_through(&self, journal: JournalId) -> Answer<'_, u64>;

    /// Records a batch, all or nothing; durable when this returns
    fn apply(&self, batch: Batch) -> Answer<'_, ()>;

    /// Forgets everything, to be made again from the journal
    fn clear(&self) -> Answer<'_, ()>;

    /// One certificate
    fn certificate(&self, serial: Serial) -> Answer<'_, Option<CertificateRecord>>;

    /// Certificates, a page at a time
    fn certificates(&self, query: CertificateQuery) -> Answer<'_, Page<CertificateRecord>>;

    /// Revocations, a page at a time; also of serials that are not in the inventory
    fn revocations(&self, query: RevocationQuery) -> Answer<'_, Page<Revocation>>;

    /// The result recorded for a key, unless it ended before `now`, in seconds since 1970
    fn idempotent_result(&self, key: Vec<u8>, now: u64) -> Answer<'_, Option<IdempotentResult>>;

    /// Forgets results that ended before `now`, in seconds since 1970; returns how many
    fn forget_idempotent_results(&self, now: u64) -> Answer<'_, u64>;

    /// A policy document: one version, or else the highest
    fn policy(&self, name: String, version: Option<u64>) -> Answer<'_, Option<PolicyDocument>>;

    /// The versions of all policy documents, a page at a time
    fn policies(&self, limit: usize, page: Option<PageToken>) -> Answer<'_, Page<PolicyVersion>>;

    /// Changes whenever something that any instance wrote can be asked for here; `None` where nobody else
    /// writes
    fn changes(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}
