//! The four proofs of an operation: space, work, time and stake, chained so that each commits to those before it and
//! all to one statement. What a statement is, how proofs are made and how they are judged is here; what an operation
//! may do, and where statements that were seen are kept, is the registry's.
//!
//! ```text
//! S       = H(statement)                       binds network, epoch, operation, requester, beacon, sequence, policy
//! c_space = H(S, attempt)                      -> space: a proof over a plot that only this requester can use here
//! c_work  = H(S, space)                        -> work:  a nonce under which the keyed hash starts with zero bits
//! c_time  = H(c_work, work)                    -> time:  a finalised block that is young, and a claimed time
//! c_stake = H(c_time, time, leaf)              -> stake: a leaf under the epoch's stake root, a signature over c_stake
//! ```
//!
//! A proof taken from elsewhere answers another challenge, and whoever makes the later ones anew has still not made
//! the one that was taken.

pub mod challenge;
mod four;
pub mod plot;
pub mod plotting;
pub mod policy;
pub mod prover;
pub mod refusal;
pub mod replay;
pub mod space;
pub mod stake;
pub mod statement;
#[cfg(test)]
mod testing;
pub mod ticket;
pub mod time;
pub mod verify;
pub mod view;
pub mod work;

pub use four::{FOUR_PROOF_LIMIT_BYTES, FourProof};
pub use plot::{Plot, PlotError};
pub use plotting::{PlotOrder, PlotProgress, PlotStage};
pub use policy::{Policy, PolicyError};
pub use prover::{ProveError, ProveStep, Prover};
pub use refusal::{ProofName, ProofRefusal};
pub use replay::{SequenceRefusal, SequenceWindow};
pub use space::SpaceProof;
pub use stake::{StakeHolding, StakeLeaf, StakeProof};
pub use statement::Statement;
pub use ticket::{TicketState, TicketUse, verify_ticket};
pub use time::TimeProof;
pub use verify::{Verified, verify};
pub use view::ChainView;
pub use work::WorkProof;
