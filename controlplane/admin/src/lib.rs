//! The admin interface between `stoqd` and whoever operates it: the JSON types of every operation, the
//! server on a Unix socket, the client that `stoqctl` uses, and `/metrics`, `/healthz` and `/readyz` on a
//! TCP listener. Not the operations themselves: `stoqd` implements [`Backend`].

#![forbid(unsafe_code)]

pub mod api;
mod caller;
mod client;
mod error;
mod listen;
mod metrics;
mod pem;
mod server;
mod text;

pub use api::Backend;
pub use caller::Caller;
pub use client::{Client, ClientError};
pub use error::{ApiError, ExitCode};
pub use listen::{AdminSocket, BindError, bind_metrics};
pub use metrics::{
    ConsensusGauges, ControlGauges, DenyListGauges, MetricsError, NodeGauges,
    render as render_metrics,
};
pub use pem::{PemError, decode_pem, encode_pem};
pub use server::{ServerLimits, serve, serve_metrics};
pub use text::{
    ANY_ENROLLED, Id, parse_allow, parse_duration, parse_remote_address, show_allow, show_time,
};
