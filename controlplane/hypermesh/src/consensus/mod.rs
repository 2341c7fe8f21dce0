//! Agreement: validators put operations, which are mere octets here, into one order, and nobody can undo it. What is
//! final is shown by certificates that anyone can verify with the genesis; who breaks the protocol is named by evidence
//! that anyone can verify too. The engine is `commonware-consensus` simplex; this room feeds it and keeps what it says.
//!
//! ```text
//! genesis, header, validators, vote, certificate, evidence   what is written down and signed; no engine, no clock
//! application                                                the seam to what is agreed on
//! network                                                    the seam to what carries frames
//! node, validator                                            runs it: on any runtime, or on a thread of its own
//! engine, core, store, chain, witness, ...                   how
//! ```
//!
//! With n validators, `(n - 1) / 3` may be faulty in any way: they cannot make two blocks of one height final, nor stop
//! the others for long. With more faulty ones, nothing can be promised of a network in which messages may be late; what
//! is done is to look for contradictions before a block that was contested is called final, and to halt once more
//! validators are convicted than may be faulty.

pub mod application;
pub mod certificate;
pub mod evidence;
pub mod genesis;
pub mod genesis_file;
pub mod header;
pub mod judge;
pub mod message;
pub mod quorum;
pub mod validators;
pub mod vote;

#[cfg(feature = "consensus")]
mod attendance;
#[cfg(feature = "consensus")]
mod catch_up;
#[cfg(feature = "consensus")]
mod chain;
#[cfg(feature = "consensus")]
mod convert;
#[cfg(feature = "consensus")]
mod core;
#[cfg(feature = "consensus")]
mod docket;
#[cfg(feature = "consensus")]
mod engine;
#[cfg(feature = "consensus")]
pub mod network;
#[cfg(feature = "consensus")]
pub mod node;
#[cfg(feature = "consensus")]
mod peers;
#[cfg(feature = "consensus")]
mod ports;
#[cfg(test)]
mod seeds;
pub mod settings;
#[cfg(feature = "consensus")]
mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(feature = "consensus")]
pub mod validator;
#[cfg(feature = "consensus")]
mod wants;
#[cfg(feature = "consensus")]
mod witness;

pub use application::{Application, Dropped, Invalidity, Offer, Proposal, Validity};
#[cfg(feature = "consensus")]
pub use attendance::Suspicion;
#[cfg(feature = "consensus")]
pub use docket::Case;
pub use evidence::{Evidence, EvidenceFile, Finding, Offence};
pub use genesis::Genesis;
pub use header::{Block, Header};
pub use message::FinalBlock;
#[cfg(feature = "consensus")]
pub use network::{Channel, Delivered, Inbox, Sent, Wire};
#[cfg(feature = "consensus")]
pub use node::{Client, Finalised, NodeConfig, NodeError, Status, SubmitError, ValidatorStatus};
pub use settings::{Settings, Timing};
#[cfg(feature = "consensus")]
pub use validator::{Validator, ValidatorConfig};
pub use validators::ValidatorSet;
