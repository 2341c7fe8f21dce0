//! The pinned loop: ring to transport to ring. A [`WorkerGroup`] is one UDP address served by one thread per
//! chosen core; each thread owns its ring, its connections and its timers and shares none of them. Programs
//! reach it through bounded queues: [`Command`]s and, per flow, a [`FlowPort`]. What bytes mean is
//! `stoq-transport`'s; how they reach the kernel is `stoq-udp`'s and `stoq-uring`'s.

#![forbid(unsafe_code)]

mod command;
mod group;
mod peers;
mod port;
mod registry;
mod turn;
mod wakes;

pub use command::{CallFailure, Command, ConnectError, Connected, WorkerHandle};
pub use group::{GroupSetup, StartError, WorkerGroup};
pub use port::{FlowPort, ReadState, WriteState};
pub use registry::{Acceptor, IncomingCall, Registry, ServiceTaken};
pub use wakes::WakeListener;
