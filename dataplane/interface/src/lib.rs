//! The plain types the data plane and the control plane exchange: names, the immutable
//! [`ControlSnapshot`] that flows down, counters and status that flow up. No logic beyond
//! validation, no I/O, and no dependency on either plane.

#![forbid(unsafe_code)]

mod call;
mod counters;
mod name;
mod reason;
mod settings;
mod snapshot;
mod status;
mod verification;

pub use call::{CallChannel, CallEnd, CallStatus, PeerCertificate};
pub use counters::{
    Counter, KEY_PACKETS, SMALL_DATAGRAM_BYTES, STAGES, StageClock, Switch, TRAIN_LENGTHS, Table,
    TrainEnd, TrainLengths, TransportStage, WorkerCounters, train_length_index,
};
pub use name::{NameError, NodeId, ServiceName};
pub use reason::{CloseReason, DropReason, FlowError, PeerRefusal};
pub use settings::{CongestionControl, Limits, TransportSettings};
pub use snapshot::{Allow, ControlSnapshot, Identity, PrivateKey, ServiceTable, TrustAnchor};
pub use status::{
    ConnectionStatus, FlowStatus, IoProvider, ListenerStatus, SessionStatus, WorkerStatus,
};
pub use verification::{
    Denied, Freshness, IssuerKeyId, LogKey, Pins, SpkiSha256, Transparency, WallClock,
};

/// The ALPN identifier of the protocol written down in `dataplane/transport/PROTOCOL.md`.
pub const ALPN_STOQ: &[u8] = b"stoq/1.0";

/// The ALPN identifier of draft-banks-quic-performance-00, offered only where switched on.
pub const ALPN_PERF: &[u8] = b"perf";

/// The SPIFFE trust domain of node identities: `spiffe://hypermesh/node/<node id>`.
pub const SPIFFE_NODE_PREFIX: &str = "spiffe://hypermesh/node/";
