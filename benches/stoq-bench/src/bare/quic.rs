//! The bare connection: quiche with the settings, the TLS context and the buffers that the transport gives it,
//! and nothing around it. What each setting means is the transport's to say; a test holds the two together.

use std::net::{SocketAddr, SocketAddrV6};
use std::time::SystemTime;

use bytes::Bytes;
use rand::RngCore;
use stoq::{ControlSnapshot, NodeId};
use stoq_interface::CongestionControl;
use stoq_transport::connection_id::CONNECTION_ID_BYTES;
use stoq_transport::tls::{self, PeerSlot, Role};

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

/// The configuration of one end under a snapshot: as the transport's, but for the protocol's name
///
/// # Errors
/// Where the identity or a setting is refused.
pub fn configure(role: Role, snapshot: &ControlSnapshot) -> Result<quiche::Config, Failure> {
    let context = tls::context(role, snapshot)?;
    let mut config =
        quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, context)?;
    config.set_application_protos(&[ALPN])?;
    let settings = &snapshot.transport;
    let limits = &snapshot.limits;
    config.set_max_idle_timeout(settings.idle_timeout.as_millis() as u64);
    config.set_initial_rtt(settings.initial_rtt);
    config.set_max_recv_udp_payload_size(65_527);
    config.set_max_send_udp_payload_size(settings.max_udp_payload_bytes);
    config.discover_pmtu(settings.discover_path_mtu);
    config.set_initial_max_data(settings.connection_window_bytes);
    config.set_max_connection_window(settings.connection_window_bytes);
    config.set_max_stream_window(settings.stream_window_bytes);
    config.set_initial_max_stream_data_uni(settings.stream_window_bytes);
    let call_bytes = (limits.call_body_bytes + limits.control_frame_bytes) as u64;
    config.set_initial_max_stream_data_bidi_local(call_bytes);
    config.set_initial_max_stream_data_bidi_remote(call_bytes);
    config.set_initial_max_streams_uni(limits.flows_per_session as u64);
    config.set_initial_max_streams_bidi(limits.calls_per_connection as u64 + 1);
    config.set_cc_algorithm(match settings.congestion_control {
        CongestionControl::Cubic => quiche::CongestionControlAlgorithm::CUBIC,
        CongestionControl::Reno => quiche::CongestionControlAlgorithm::Reno,
        CongestionControl::Bbr2 => quiche::CongestionControlAlgorithm::Bbr2Gcongestion,
    });
    config.enable_hystart(false);
    config.enable_pacing(settings.pacing);
    config.set_initial_congestion_window_packets(settings.initial_window_packets);
    config.set_disable_active_migration(true);
    config.set_active_connection_id_limit(2);
    config.grease(false);
    Ok(config)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// The settings a source makes in its `configure`
    fn settings(source: &str) -> BTreeSet<String> {
        let start = source.find("fn configure(").expect("a function that configures");
        let body = &source[start..];
        let body = &body[..body.find("Ok(config)").expect("its end")];
        let calls = body.lines().filter_map(|line| line.trim().strip_prefix("config."));
        calls.map(|call| call.split('(').next().unwrap_or(call).to_owned()).collect()
    }

    #[test]
    fn every_setting_of_the_transport_is_made_here_and_no_other() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../dataplane/transport/src/connection.rs");
        let theirs = settings(&std::fs::read_to_string(path).unwrap());
        assert!(theirs.len() > 15, "{theirs:?}");
        assert_eq!(settings(include_str!("quic.rs")), theirs);
    }
}
