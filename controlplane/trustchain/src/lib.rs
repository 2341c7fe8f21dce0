//! Identity: roots, issuing authorities, node certificates and the enrolment of a node with a one-time join
//! token; rotation, revocation, pins and the transparency log. Time is passed in; configuration and
//! environment are read elsewhere. Keys may be in a token or in a process of their own (`signer`).

#![forbid(unsafe_code)]

pub mod audit;
pub mod authority;
pub mod backup;
pub mod ca;
pub mod calls;
pub mod certificate;
pub mod chain;
pub mod csr;
pub mod enrollment;
mod files;
pub mod http;
pub mod key_slots;
pub mod keys;
pub mod log;
pub mod mesh;
pub mod node_identity;
pub mod pinning;
pub mod profile;
pub mod revocation;
pub mod root;
pub mod rotation;
mod sealing;
pub mod signer;
#[cfg(test)]
mod testing;
pub mod token;

pub use authority::{Authority, install_issuing, issuing_csr, sign_issuing};
pub use ca::EnrolledNode;
pub use certificate::Fingerprint;
pub use keys::{KeyKind, KeyPair};
pub use node_identity::NodeIdentity;
pub use profile::{Ipv6Subtree, Subject};
pub use root::{Root, init_root};
pub use token::{JoinToken, TokenGrant, TokenStore};
