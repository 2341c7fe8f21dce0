//! quinn's own socket with one thing changed: how many segments a send may have. quinn always takes ten, which
//! at 8,952 octets is more than a UDP datagram holds; quinn-udp drops such a send without a word, and the
//! connection creeps from one probe to the next.

use std::fmt::Debug;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use peer_harness::socket::segments_that_fit;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// A socket that sends and expects as many segments as fit
#[derive(Debug)]
pub struct Bounded {
    /// quinn's own
    pub inner: Arc<dyn AsyncUdpSocket>,
    /// UDP payload of a full packet
    pub payload: usize,
    /// Most segments of a send
    pub segments: usize,
}

impl AsyncUdpSocket for Bounded {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments().min(self.segments)
    }

    fn max_receive_segments(&self) -> usize {
        // quinn reserves this many times the payload for each datagram: beyond 64 KiB that is never filled.
        self.inner.max_receive_segments().min(segments_that_fit(self.payload) + 1)
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
