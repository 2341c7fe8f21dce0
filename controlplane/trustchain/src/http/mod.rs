//! The HTTPS interface of an authority: enrolment and renewal for nodes, EST (RFC 7030) for everybody else, and
//! what anybody may read: certificates of the authorities, CRLs, the deny-list, the transparency log and its
//! proofs. It bounds what strangers can make this host hold; what is issued to whom is decided in `ca`.

mod certify;
mod credentials;
pub mod est;
mod guard;
pub mod pkcs7;
mod reads;
mod reply;
pub mod route;
mod server;
mod settings;
mod tls;

pub use credentials::{CREDENTIALS_LIMIT_BYTES, Credentials, CredentialsError};
pub use route::Route;
pub use server::{HttpsServer, ServerError};
pub use settings::HttpsSettings;
