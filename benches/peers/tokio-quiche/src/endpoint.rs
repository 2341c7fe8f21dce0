//! Settings and sockets of tokio-quiche, the same for both ends.

use std::net::SocketAddrV6;
use std::sync::Arc;

use peer_harness::command_line::{Common, KeyShare};
use peer_harness::identity::Identity;
use peer_harness::{
    ALPN, Failure, IDLE_TIMEOUT, INITIAL_WINDOW_PACKETS, STREAM_WINDOW_BYTES, STREAMS_MAX, socket,
};
use tokio::net::UdpSocket;
use tokio_quiche::settings::{CertificateKind, Hooks, QuicSettings, TlsCertificatePaths};

use crate::Extra;
use crate::tls::Hook;

/// Files that are never opened: the hook makes the context, but tokio-quiche asks it only if there are paths
pub const NO_FILES: TlsCertificatePaths<'static> =
    TlsCertificatePaths { cert: "", private_key: "", kind: CertificateKind::X509 };

/// The tuning
pub fn settings(common: &Common<Extra>) -> Result<QuicSettings, Failure> {
    let windows = common.windows(STREAM_WINDOW_BYTES);
    let mut settings = QuicSettings::default();
    settings.alpn = vec![ALPN.to_vec()];
    settings.enable_dgram = false;
    settings.max_idle_timeout = Some(IDLE_TIMEOUT);
    settings.handshake_timeout = Some(IDLE_TIMEOUT);
    settings.max_recv_udp_payload_size = usize::from(common.payload);
    settings.max_send_udp_payload_size = usize::from(common.payload);
    settings.discover_path_mtu = false;
    settings.initial_max_data = u64::from(windows.connection);
    settings.max_connection_window = u64::from(windows.connection);
    settings.initial_max_stream_data_bidi_local = u64::from(windows.stream);
    settings.initial_max_stream_data_bidi_remote = u64::from(windows.stream);
    settings.max_stream_window = u64::from(windows.stream);
    settings.initial_max_streams_bidi = u64::from(STREAMS_MAX);
    settings.initial_congestion_window_packets = usize::try_from(INITIAL_WINDOW_PACKETS)?;
    settings.cc_algorithm = common.extra.congestion.clone();
    settings.enable_pacing = common.extra.pacing;
    settings.enable_hystart = false;
    settings.send_capacity_factor = common.extra.send_capacity_factor;
    settings.grease = false;
    // No retry before a handshake: the other peers make none either.
    settings.disable_client_ip_validation = true;
    // The hook's callback verifies; quiche's own switch would make the client's certificate optional.
    settings.verify_peer = false;
    Ok(settings)
}

/// The hook that makes the TLS context
pub fn hooks(identity: &Identity, key_share: Option<KeyShare>) -> Result<Hooks, Failure> {
    Ok(Hooks { connection_hook: Some(Arc::new(Hook::new(identity, key_share)?)) })
}

/// A bound socket in the runtime's hands, and what there is to say about it
pub fn bind(address: SocketAddrV6) -> Result<(UdpSocket, Vec<String>), Failure> {
    let socket = socket::udp(address)?;
    let notes = socket::note(&socket)?.into_iter().collect();
    Ok((UdpSocket::from_std(socket)?, notes))
}
