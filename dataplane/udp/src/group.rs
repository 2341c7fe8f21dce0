//! A reuseport group: one socket per worker on one address, made once, in order, under the port lock. The
//! order is the index by which the steering program chooses, so a group never grows or shrinks.

use std::net::SocketAddrV6;

use crate::{PortLock, Socket, SocketError, SocketOptions, Steering};

/// Most sockets of one group; the steering hash has 16 bits
const SOCKETS_MAX: usize = 65_536;

/// Tries to find a free port that no other STOQ process has locked on another address
const FREE_PORT_ATTEMPTS: usize = 16;

/// The sockets of one address, in worker order
#[derive(Debug)]
pub struct SocketGroup {
    sockets: Vec<Socket>,
    lock: PortLock,
    steered: bool,
}

impl SocketGroup {
    /// Binds `sockets` sockets to `address` (port 0: one free port for all) and, if there are several,
    /// attaches the steering program after the last.
    ///
    /// # Errors
    /// [`SocketError::PortHeld`] and [`SocketError::PortInUse`] when anybody else has the port; see there.
    pub fn bind(
        address: SocketAddrV6,
        sockets: usize,
        options: &SocketOptions,
        steering: Option<&Steering>,
    ) -> Result<Self, SocketError> {
        if !(1..=SOCKETS_MAX).contains(&sockets) {
            return Err(SocketError::GroupSize { sockets });
        }
        let options = SocketOptions { reuse_port: false, ..options.clone() };
        let (lock, first) = Self::first(address, &options)?;
        let bound = first.local_address();
        let mut members = vec![first];
        let shared = SocketOptions { reuse_port: true, ..options };
        if sockets > 1 {
            members[0].allow_sharing()?;
            for _ in 1..sockets {
                members.push(Socket::bind(bound, &shared)?);
            }
        }
        let mut steered = false;
        if let (Some(steering), true) = (steering, sockets > 1) {
            steering.attach(&members[0])?;
            steered = true;
        }
        Ok(Self { sockets: members, lock, steered })
    }

    /// The first socket is bound without sharing: that finds every other holder of the port, and a kernel
    /// that picks a free port for a sharing socket may pick one that shares already. Sharing is allowed
    /// afterwards, so at no moment is the port free for others.
    fn first(
        address: SocketAddrV6,
        options: &SocketOptions,
    ) -> Result<(PortLock, Socket), SocketError> {
        if address.port() != 0 {
            let lock = PortLock::take(address.port())?;
            return Ok((lock, Socket::bind(address, options)?));
        }
        // Sockets whose port is locked elsewhere are kept until the search ends, so that it moves on.
        let mut taken = Vec::new();
        loop {
            let socket = Socket::bind(address, options)?;
            match PortLock::take(socket.local_address().port()) {
                Ok(lock) => return Ok((lock, socket)),
                Err(SocketError::PortHeld { .. }) if taken.len() < FREE_PORT_ATTEMPTS => {
                    taken.push(socket);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The bound address
    pub fn address(&self) -> SocketAddrV6 {
        self.sockets[0].local_address()
    }

    /// Whether the steering program is attached
    pub fn steered(&self) -> bool {
        self.steered
    }

    /// The sockets in worker order, and the lock, which must live as long as any of them
    pub fn into_parts(self) -> (Vec<Socket>, PortLock) {
        (self.sockets, self.lock)
    }
}
