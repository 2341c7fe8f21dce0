//! The bare connection: quiche with the settings, the TLS context and the buffers that the transport gives it,
//! and nothing around it.

use std::net::{SocketAddr, SocketAddrV6};
use std::time::SystemTime;

use bytes::Bytes;
use rand::RngCore;
use stoq::{ControlSnapshot, NodeId};
use stoq_transport::connection_id::CONNECTION_ID_BYTES;
use stoq_transport::tls::{PeerSlot, Role};

use crate::identity::SINK;
use crate::sink::Failure;

/// A protocol of its own: no product answers it
const ALPN: &[u8] = b"stoq-bench-bare";

/// Application bytes on their way into packets: shared, never copied before the packet
#[derive(Clone, Debug, Default)]
pub struct Payload(pub Bytes);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl quiche::BufSplit for Payload {
    fn split_at(&mut self, at: usize) -> Self {
        Self(self.0.split_off(at))
    }
}

/// Makes quiche's own buffers
#[derive(Clone, Debug, Default)]
pub struct PayloadFactory;

impl quiche::BufFactory for PayloadFactory {
    type Buf = Payload;
    type DgramBuf = Vec<u8>;

    fn buf_from_slice(buf: &[u8]) -> Payload {
        Payload(Bytes::copy_from_slice(buf))
    }

    fn dgram_buf_from_slice(buf: &[u8]) -> Vec<u8> {
        buf.to_vec()
    }
}

/// A quiche connection with those buffers
pub type Quic = quiche::Connection<PayloadFactory>;

/// The configuration of one end under a snapshot: the transport's, under another protocol's name
///
/// # Errors
/// Where the identity or a setting is refused.
pub fn configure(role: Role, snapshot: &ControlSnapshot) -> Result<quiche::Config, Failure> {
    Ok(stoq_transport::configure(role, snapshot, &[ALPN])?)
}

fn random_id() -> [u8; CONNECTION_ID_BYTES] {
    let mut id = [0; CONNECTION_ID_BYTES];
    rand::rng().fill_bytes(&mut id);
    id
}

/// The dialling end's connection, with the peer's certificate judged as the product judges it
///
/// # Errors
/// Where quiche or TLS refuses.
pub fn dial(
    config: &mut quiche::Config,
    local: SocketAddrV6,
    to: SocketAddrV6,
) -> Result<(Quic, PeerSlot), Failure> {
    let id = random_id();
    let id = quiche::ConnectionId::from_ref(&id);
    let (local, to) = (SocketAddr::V6(local), SocketAddr::V6(to));
    let mut quic = quiche::connect_with_buffer_factory(None, &id, local, to, config)?;
    let slot = PeerSlot::install(quic.as_mut(), Some(NodeId::new(SINK)?), SystemTime::now)?;
    Ok((quic, slot))
}

/// The accepting end's connection
///
/// # Errors
/// Where quiche or TLS refuses.
pub fn accept(
    config: &mut quiche::Config,
    local: SocketAddrV6,
    from: SocketAddrV6,
) -> Result<(Quic, PeerSlot), Failure> {
    let id = random_id();
    let id = quiche::ConnectionId::from_ref(&id);
    config.set_stateless_reset_token(Some(rand::random()));
    let (local, from) = (SocketAddr::V6(local), SocketAddr::V6(from));
    let mut quic = quiche::accept_with_buf_factory(&id, None, local, from, config)?;
    let slot = PeerSlot::install(quic.as_mut(), None, SystemTime::now)?;
    Ok((quic, slot))
}
