//! The calls `hypermesh/...` that nodes make over STOQ: their names, limits and messages. Who answers them and how they
//! travel is the business of programs. The schema is `proto/hypermesh.proto`.

pub mod wire;

/// What every method begins with
pub const PREFIX: &str = "hypermesh/";
/// Hands in operations
pub const SUBMIT: &str = "hypermesh/submit";
/// The receipt of an operation
pub const RECEIPT: &str = "hypermesh/receipt";
/// What proofs are made from
pub const GROUND: &str = "hypermesh/ground";
/// How agreement stands
pub const STATUS: &str = "hypermesh/status";
/// Final operations, as they become so
pub const FOLLOW: &str = "hypermesh/follow";
/// Operations of one [`SUBMIT`]
pub const SUBMIT_LIMIT: usize = 1_024;
/// Operations of one reply to [`FOLLOW`], beyond the block that passes it
pub const FOLLOW_LIMIT: usize = 4_096;
/// Octets of one reply about what became final: a peer takes a reply of a mebibyte where nothing else is configured
pub const FOLLOW_LIMIT_BYTES: usize = 512 << 10;
