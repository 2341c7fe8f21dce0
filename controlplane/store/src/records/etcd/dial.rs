//! How a connection to a member of the cluster is made. Over TCP in the clear only within this host; anything
//! else goes through `tls`. Which of them is used is the composition root's choice.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddrV6;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A connection, encrypted or not
pub trait EtcdStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> EtcdStream for S {}

/// What is to come of dialling
pub type Dialling<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn EtcdStream>>> + Send + 'a>>;

/// Makes connections to members of the cluster
pub trait Dial: Debug + Send + Sync {
    /// Connects to the member at an address. With TLS, ALPN must have settled on `h2`.
    fn dial(&self, member: SocketAddrV6) -> Dialling<'_>;
}

/// TCP in the clear, refused beyond the loopback: whoever can write to the cluster writes the inventory
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopbackDial;

impl Dial for LoopbackDial {
    fn dial(&self, member: SocketAddrV6) -> Dialling<'_> {
        Box::pin(async move {
            if !member.ip().is_loopback() {
                let text = format!("{member} is not of this host; connect to it with TLS");
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
            }
            let stream = TcpStream::connect(member).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn EtcdStream>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_said_in_the_clear_beyond_this_host() {
        let beyond = "[2001:db8::1]:2379".parse().unwrap();
        let refused = LoopbackDial.dial(beyond).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}
