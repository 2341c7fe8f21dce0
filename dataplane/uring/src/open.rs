//! Which provider a socket gets: the ring where it exists, is allowed and passes its self-test, plain system
//! calls elsewhere, and in that case why.

use std::sync::OnceLock;

use stoq_udp::self_test::{exchange, settings, socket};
use stoq_udp::{DatagramIo, IoSettings, IoSetupError, Offloads, Socket, SystemCallIo, offloads};

use crate::provider::Refused;
use crate::{ProbeFailure, UringIo};

/// A provider, and why it is not the ring
pub struct Opened {
    /// The provider; it belongs to the thread that opened it
    pub io: Box<dyn DatagramIo>,
    /// Why io_uring is not in use, where it is not
    pub fallback: Option<ProbeFailure>,
}

/// Why there is no provider at all
#[derive(Debug, thiserror::Error)]
#[error("no I/O is possible: {0}")]
pub struct OpenError(#[from] IoSetupError);

/// Tries io_uring: set-up, features, operations, and trains with and without offloads over `::1`, compared
/// octet by octet
///
/// # Errors
/// The first thing that did not work, by name.
pub fn probe() -> Result<(), ProbeFailure> {
    let tried = offloads().map_err(|reason| ProbeFailure::SelfTest(reason.clone()))?;
    let plain = Offloads { segments: 1, gro: false, notes: Vec::new() };
    for offloads in [&plain, tried] {
        let provider = || -> Result<UringIo, ProbeFailure> {
            let socket =
                socket(offloads).map_err(|error| ProbeFailure::Setup(error.to_string()))?;
            UringIo::with_offloads(socket, &settings(), offloads.clone())
                .map_err(|refused| refused.failure)
        };
        exchange(&mut provider()?, &mut provider()?)
            .map_err(|failure| ProbeFailure::SelfTest(failure.to_string()))?;
    }
    Ok(())
}

/// The outcome of [`probe`], once per process
fn probed() -> Result<(), ProbeFailure> {
    static PROBED: OnceLock<Result<(), ProbeFailure>> = OnceLock::new();
    PROBED.get_or_init(probe).clone()
}

/// Opens the best provider for `socket`, on the thread that will use it
///
/// # Errors
/// Only when not even plain system calls are possible.
pub fn open(socket: Socket, settings: &IoSettings) -> Result<Opened, OpenError> {
    let allowed = if settings.system_calls_only { Err(ProbeFailure::NotWanted) } else { probed() };
    let (socket, failure) = match allowed {
        Err(failure) => (socket, failure),
        Ok(()) => match UringIo::new(socket, settings) {
            Ok(io) => return Ok(Opened { io: Box::new(io), fallback: None }),
            Err(Refused { socket, failure }) => (*socket, failure),
        },
    };
    tracing::warn!(reason = %failure, "plain system calls are used instead of io_uring");
    let io = Box::new(SystemCallIo::new(socket, settings)?);
    Ok(Opened { io, fallback: Some(failure) })
}
