//! The authorities under one root, as a node or another authority knows them: what each says of itself, signed with
//! its issuing key, and the table of what was learned. From where statements come, and what is trusted because of
//! them, is the business of whoever asks.

mod known;
mod statement;

pub use known::KnownAuthorities;
pub use statement::{AuthorityStatement, STATEMENT_LIMIT_BYTES, StatementRefusal};

/// What the names of policy documents begin with that hold an authority's statement
pub const POLICY_PREFIX: &str = "authority/";
