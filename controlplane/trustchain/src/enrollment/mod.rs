//! Enrolment over HTTPS: a node with a join token turns its own key into a certificate. The one exchange in
//! the system in which a side is not yet authenticated; it trusts a pinned root one way, a secret the other.

pub mod client;
mod desk;
mod guard;
pub mod protocol;
pub mod server;
mod tls;

pub use client::{EnrollError, EnrolledIdentity, enroll};
pub use server::{Clock, EnrollmentServer, EnrollmentSettings, ServerError};
