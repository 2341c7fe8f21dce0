//! When a node's certificate is renewed, activated and retired, and when connections have to be replaced for
//! it: a state machine without clock, sockets, files or keys. Whoever drives it passes the time in, carries
//! its actions out and reports what came of them. It never ends, whatever it is told.
//!
//! A certificate lives 24 hours. Its successor is fetched from the sixteenth hour on, which leaves a working
//! day of outage, and takes over at the twenty-third; see [`RotationSettings`].

mod acquire;
mod certificates;
mod clock;
mod connections;
mod event;
mod failure;
mod machine;
mod schedule;
mod settings;
#[cfg(test)]
mod tests;

pub use clock::{CLOCK_JUMP_TOLERANCE, CLOCK_REREAD_LIMIT, CLOCK_SKEW_WARNING, Now};
pub use connections::{CONNECTIONS_LIMIT, Connection, TooManyConnections};
pub use event::{
    Action, Activation, ActivationReason, CertificateFacts, Event, KeySlot, Request, RequestKind,
    Role,
};
pub use failure::{CertificateRefusal, Failure};
pub use machine::{
    AUTHORITIES_LIMIT, BeginError, Beginning, DRAINING_LIMIT, EVENTS_LIMIT, Held, NoAuthority,
    Rotation,
};
pub use schedule::{
    INFORMATION_INTERVAL_LONGEST, INFORMATION_INTERVAL_SHORTEST, RETRY_AFTER_LIMIT, RenewalWindow,
    URGENT_SPREAD,
};
pub use settings::{RotationSettings, RotationSettingsError};
