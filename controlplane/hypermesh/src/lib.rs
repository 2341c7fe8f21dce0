//! Every operation on an asset is proven four ways by who asks for it and agreed on by a Byzantine quorum of
//! validators: statements and proofs, the registry they change, blocks, receipts and evidence. How messages travel
//! between validators is the caller's business, and so is what a node does with an asset it was given.

#![forbid(unsafe_code)]

pub mod calls;
#[cfg(feature = "consensus")]
pub mod consensus;
pub mod digest;
#[cfg(feature = "consensus")]
pub mod ledger;
pub mod merkle;
pub mod operation;
pub mod proof;
pub mod readings;
#[cfg(feature = "consensus")]
pub mod receipt;
pub mod registry;
pub mod requester;
pub mod wire;
