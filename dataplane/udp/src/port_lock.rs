//! Keeps two processes from joining one reuseport group: an abstract Unix socket named after the port. It
//! exists once per network namespace, needs no file, and vanishes with the process however that ends.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::SocketError;

/// The exclusive right of this process to a UDP port, among STOQ processes; given up on drop
#[derive(Debug)]
pub struct PortLock {
    port: u16,
    _name: UnixDatagram,
}

impl PortLock {
    /// Takes the lock of `port`
    ///
    /// # Errors
    /// [`SocketError::PortHeld`] if another process, or another part of this one, has it.
    pub fn take(port: u16) -> Result<Self, SocketError> {
        let name = SocketAddr::from_abstract_name(format!("stoq-port-{port}").as_bytes())
            .and_then(|name| UnixDatagram::bind_addr(&name));
        match name {
            Ok(name) => Ok(Self { port, _name: name }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(SocketError::PortHeld { port })
            }
            Err(source) => Err(SocketError::Lock { port, source }),
        }
    }

    /// The port
    pub fn port(&self) -> u16 {
        self.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_port_is_refused_until_it_is_given_up() {
        // Nothing is bound, so any number will do; one that test runs side by side do not share.
        let port = 1 + (std::process::id() % 60_000) as u16;
        let lock = PortLock::take(port).unwrap();
        let error = PortLock::take(port).unwrap_err();
        assert!(matches!(error, SocketError::PortHeld { port: held } if held == port));
        assert!(error.to_string().contains(&format!("port {port} is held by another stoqd")));
        let other = PortLock::take(port + 1).unwrap();
        assert_eq!(other.port(), port + 1);
        drop(lock);
        PortLock::take(port).unwrap();
    }
}
