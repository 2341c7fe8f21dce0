//! Enrolment over HTTPS, the node's side: a node with a join token turns its own key into a certificate. The
//! authority's side is `http`. The one exchange in
//! the system in which a side is not yet authenticated; it trusts a pinned root one way, a secret the other.

pub mod client;
pub mod protocol;
mod tls;

pub use client::{
    AuthorityAt, EnrollError, EnrolledIdentity, IssuedOverHttps, deny_list, enroll, issuing_keys,
    renew_with_enrolled_key,
};
