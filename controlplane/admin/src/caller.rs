//! Who asks: the user at the other end of the Unix socket, as the kernel tells it. What that user may do was decided
//! by the socket's mode when the connection was made; this is for whoever writes down who did what.

use std::fmt;
use std::io;

use tokio::net::UnixStream;

/// A user of this host
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Caller {
    uid: u32,
}

impl Caller {
    /// A user by number
    pub fn user(uid: u32) -> Self {
        Self { uid }
    }

    /// The user at the other end (SO_PEERCRED): who made the connection, whatever became of the descriptor since
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        Ok(Self { uid: stream.peer_cred()?.uid() })
    }

    /// The number
    pub fn uid(self) -> u32 {
        self.uid
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid={}", self.uid)
    }
}
