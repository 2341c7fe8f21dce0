//! The audit log: who did what to the authority and what came of it. Append-only and chained by hash, each record
//! over the one before; the records lie in the authority's journal, so they are durable with what they speak
//! of. The chain's head is anchored in the transparency log. What is recorded is said by whoever does it.

mod anchor;
mod chain;
mod event;
mod writer;

pub use anchor::{
    ANCHOR_INTERVAL, AnchorError, Anchored, Anchoring, anchor, anchor_name, check_anchor,
    verify_anchors,
};
pub use chain::{AuditError, AuditRecord, Chain, Head, RECORD_LIMIT_BYTES, export, verify_lines};
pub use event::{AuditEvent, AuditKind, DETAILS_LIMIT, Outcome, TEXT_LIMIT_BYTES};
pub use writer::{AuditLog, RECENT_RECORDS, RecordError};
