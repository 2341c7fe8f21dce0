//! The sans-IO core of the data plane: endpoint, connections, sessions, flows and calls of `stoq/1.0`.
//! Datagrams and commands go in by `handle_*`, datagrams and events come out by `poll_*`, `now` is passed
//! in. It opens no socket, starts no thread and reads no file; quiche is named in one module only.

#![forbid(unsafe_code)]

mod connection;
pub mod connection_id;
pub mod copy;
pub mod endpoint;
mod read_buffers;
pub mod session;
pub mod tls;
pub mod wire;

pub use connection::{ConfigsError, configure};
pub use endpoint::{
    Endpoint, EndpointSecrets, EndpointSetup, Event, Message, SessionKey, Transmit,
};
pub use session::{CallKind, LinkId};
