//! The I/O provider over io_uring: one ring per worker thread, multishot receive into provided buffers, one
//! SENDMSG per train from registered memory, zero copy where the kernel says that it is none in name only,
//! ring-to-ring wake-ups. Sockets and their options come from `stoq-udp`; what the datagrams mean is nobody's
//! business here.

mod completion;
mod drain;
mod failure;
mod open;
mod provided;
mod provider;
mod ring;
mod single;
mod tag;
mod zero_copy;

pub use failure::ProbeFailure;
pub use open::{OpenError, Opened, open, probe};
pub use provider::{Refused, UringIo};
pub use zero_copy::ZeroCopyPolicy;
