//! What was certified and is refused all the same: the signed deny-list that is pushed to nodes, and CRLs for
//! everyone else. Pure: bytes and times come in, bytes and decisions go out; nothing is sent or stored here.
//! The schema of the deny-list is `proto/deny_list.proto`.

pub mod crl;
mod deny_list;
mod document;
mod entry;
mod held;
mod high_water;
mod issuer;
mod refusal;
mod wire;

#[cfg(test)]
mod tests;

pub use deny_list::{
    Applied, DenyList, DenyListAction, DenyListSettings, Match, NewConnections, StoreForm,
};
pub use document::{
    DOCUMENT_LIMIT_BYTES, DenyListDocument, ENTRIES_LIMIT, Form, INSTANCES_LIMIT, KEYS_LIMIT,
    ListSigner, SignerError, Signers, VALIDITY_LIMIT, decode, open,
};
pub use entry::{
    Entry, EntryError, KeyId, RETAIN_AFTER_END, Reason, SerialNumber, SpkiHash, Target,
};
pub use high_water::HighWaterMark;
pub use issuer::{
    DenyListIssuer, IssuerSettings, IssuerState, Publication, PublishError, RestoreError,
    RevokeError,
};
pub use refusal::Refusal;
