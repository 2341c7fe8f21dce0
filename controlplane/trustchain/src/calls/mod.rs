//! The calls `trustchain/...` that nodes make over STOQ: what each asks, who may ask it, and the reply. Octets
//! in, octets out: how they travel, and the handshake that proved the asker, are the transport's business.
//! The schema is `proto/trustchain.proto`.

mod answer;
mod certify;
mod client;
mod desk;
mod reads;
pub mod wire;

pub use answer::{Answer, Status, retry_after};
pub use client::{CallProblem, Channel, ChannelError, Client};
pub use desk::{CallDesk, CallPolicy, PREFIX, REQUEST_LIMIT_BYTES};
