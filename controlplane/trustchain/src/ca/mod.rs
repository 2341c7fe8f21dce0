//! The certificate authority as a service: one journal that is the truth, one transparency log, one issuing key
//! behind a signer. Requests go through one pipeline in one order (admission, authentication, key, consensus,
//! policy, build and lint, precertificate, commit, SCT, final certificate). What travels over which wire is
//! elsewhere; so is what an operator sees.

mod admission;
pub mod api;
pub mod append;
mod authenticate;
pub mod authority;
mod build;
mod commit;
mod crl;
pub mod entry;
pub mod inventory;
mod inventory_feed;
mod issuing_keys;
pub mod journal;
pub mod keys;
pub mod open;
mod pipeline;
pub mod profile;
mod publish;
pub mod replay;
pub mod revoke;
mod service;
pub mod settings;
mod shared;
mod state;
mod statement;

pub use api::{
    Activation, Blame, CONSENSUS_PROOF_LIMIT_BYTES, Ca, CaStatus, Clock, Credential, EnrolledNode,
    Holder, IssueRequest, IssuedCertificate, Refusal, Registration, RenewalInformation,
    enrolled_key_statement,
};
pub use authority::{IssuingAuthority, IssuingError};
pub use entry::Entry;
pub use issuing_keys::{IssuingKey, KeyRegister};
pub use journal::LogJournal;
pub use open::{CaError, CaOpened, Parts, fsck};
pub use pipeline::consensus_statement;
pub use profile::{Names, Profile, Profiles, ProfilesError};
pub use settings::{
    Agreeing, CaSettings, Consensus, ConsensusProof, Limits, Mode, ModeError, NotAgreed, ToAgree,
};
pub use shared::Follower;
