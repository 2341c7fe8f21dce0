//! The calls `trustchain/...` that nodes make over STOQ: what each asks, who may ask it, and the reply. Octets
//! in, octets out: how they travel, and the handshake that proved the asker, are the transport's business.
//! The schema is `proto/trustchain.proto`.

mod answer;
mod certify;
mod client;
mod desk;
mod operate;
mod order;
mod reads;
pub mod wire;

pub use answer::{Answer, retry_after};
pub use certify::OTHER_CERTIFICATE;
pub use client::{CallProblem, Client};
pub use desk::{Asker, CallDesk, CallParts, CallPolicy, PREFIX, REQUEST_LIMIT_BYTES};
pub use operate::{OPERATOR_PROFILE, Operators};
pub use order::{Operator, OrderError};
