//! What nodes agree on: assets, certificates and receipts, alone and among four of which one and then two are killed.

#![forbid(unsafe_code)]

mod alone;
mod calls;
mod four;
mod members;
mod proofs;
mod scene;
