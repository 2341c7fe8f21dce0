//! The harness of the end to end tests: real daemons in temporary directories on `[::1]`, the programs behind and
//! before their services, and a relay that loses packets on demand. No test of its own is here, and nothing that
//! looks inside a daemon: what a test knows, it learns through `stoqctl`, sockets, files and /proc.

#![forbid(unsafe_code)]

mod host;
mod local;
mod node;
mod options;
mod pattern;
mod relay;
mod secret;
mod turn;

pub use host::{raise_descriptor_limit, resident_bytes, say, wait_until};
pub use local::{EchoProcess, Server, Stream};
pub use node::{Answer, Node, enrol, program, stoqctl};
pub use options::Options;
pub use pattern::{DigestSink, digest_of, exchange_digest, exchange_until, fill};
pub use relay::Relay;
pub use secret::{Secret, Sought, files_below, files_of};
pub use turn::{alone, shared};
