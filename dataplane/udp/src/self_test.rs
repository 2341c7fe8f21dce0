//! Tries the offloads before anything relies on them: a patterned train is sent over `::1` and compared octet
//! by octet. Kernels exist that corrupt segmented sends, and devices that claim what they cannot do. What
//! fails here is not used, and the reason is told.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::{
    DatagramIo, IoSettings, IoSetupError, Socket, SocketError, SocketOptions, SystemCallIo,
    Transmit, Wait, gso,
};

/// What the kernel can do, found by trying
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Offloads {
    /// Datagrams one send may carry; 1 without segmentation offload
    pub segments: usize,
    /// Whether receive offload can be trusted
    pub gro: bool,
    /// What failed, in words
    pub notes: Vec<String>,
}

impl Offloads {
    /// These, less what the settings switch off
    pub fn within(mut self, settings: &IoSettings) -> Self {
        if self.segments > 1 && !settings.gso {
            self.segments = 1;
            self.notes.push("segmentation offload (UDP_SEGMENT) is switched off".to_owned());
        }
        if self.gro && !settings.gro {
            self.gro = false;
            self.notes.push("receive offload (UDP_GRO) is switched off".to_owned());
        }
        self
    }
}

/// Why a self-test did not pass
#[derive(Debug, thiserror::Error)]
pub enum SelfTestFailure {
    /// Not even a socket on `::1`
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The provider could not be made
    #[error(transparent)]
    Setup(#[from] IoSetupError),
    /// The provider failed
    #[error("the self-test could not move a train over [::1]: {0}")]
    Io(#[from] io::Error),
    /// Nothing, or too little, arrived
    #[error("of {sent} self-test datagrams only {arrived} arrived on [::1] within {seconds} s")]
    Lost {
        /// Datagrams sent
        sent: usize,
        /// Datagrams that arrived
        arrived: usize,
        /// Time waited
        seconds: u64,
    },
    /// Something else arrived than was sent
    #[error(
        "self-test datagram {index} arrived changed: the kernel corrupts trains (segmentation or \
         receive offload); use another kernel"
    )]
    Corrupted {
        /// Position in the train
        index: usize,
    },
}

const TRAIN_SEGMENTS: usize = 20;
const SEGMENT_BYTES: usize = 1_199;
const LAST_BYTES: usize = 333;
const PATIENCE: Duration = Duration::from_secs(2);

/// Deterministic octets that repeat neither with the segment nor with the page
fn pattern(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 11) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn loopback(gro: bool) -> Result<Socket, SocketError> {
    let options = SocketOptions {
        receive_buffer_bytes: 256 << 10,
        send_buffer_bytes: 256 << 10,
        reuse_port: false,
        gro,
    };
    Socket::bind(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0), &options)
}

/// A socket for a self-test, on a free port of `::1`
pub fn socket(offloads: &Offloads) -> Result<Socket, SocketError> {
    loopback(offloads.gro)
}

/// Settings that make a provider just large enough for a self-test
pub fn settings() -> IoSettings {
    IoSettings { send_slabs: 4, receive_buffers: 4, prefer_huge: false, ..IoSettings::default() }
}

/// Sends a patterned train, last segment odd, from one provider to another and compares every octet and
/// every boundary
pub fn exchange(
    sender: &mut dyn DatagramIo,
    receiver: &mut dyn DatagramIo,
) -> Result<(), SelfTestFailure> {
    let segments = sender.segment_limit().min(TRAIN_SEGMENTS);
    let last = if segments == 1 { SEGMENT_BYTES } else { LAST_BYTES };
    let sent = pattern((segments - 1) * SEGMENT_BYTES + last);
    let to = receiver.local_address();
    // Arms a receiver that needs arming before anything is sent.
    receiver.receive(&mut |_| {})?;
    receiver.submit(Wait::No)?;
    let slab = sender.slab().ok_or_else(|| io::Error::other("no free slab"))?;
    sender.slab_bytes(&slab)[..sent.len()].copy_from_slice(&sent);
    let transmit = Transmit { bytes: sent.len(), segment_bytes: SEGMENT_BYTES, to, from: None };
    sender.send(slab, transmit);
    sender.submit(Wait::No)?;
    sender.receive(&mut |_| {})?;

    let (mut arrived, mut corrupted) = (0, None);
    let deadline = Instant::now() + PATIENCE;
    loop {
        receiver.receive(&mut |mut train| {
            for datagram in train.datagrams() {
                if sent.chunks(SEGMENT_BYTES).nth(arrived) != Some(&*datagram) {
                    corrupted = corrupted.or(Some(arrived));
                }
                arrived += 1;
            }
        })?;
        if let Some(index) = corrupted {
            return Err(SelfTestFailure::Corrupted { index });
        }
        if arrived == segments {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seconds = PATIENCE.as_secs();
            return Err(SelfTestFailure::Lost { sent: segments, arrived, seconds });
        }
        receiver.submit(Wait::Until(Some(left)))?;
    }
}

fn try_offloads(segments: usize, gro: bool) -> Result<(), SelfTestFailure> {
    let offloads = Offloads { segments, gro, notes: Vec::new() };
    let provider = |gro| -> Result<SystemCallIo, SelfTestFailure> {
        Ok(SystemCallIo::with_offloads(loopback(gro)?, &settings(), offloads.clone())?)
    };
    exchange(&mut provider(false)?, &mut provider(gro)?)
}

fn measure() -> Result<Offloads, SelfTestFailure> {
    // Without any offload first: if this fails, nothing else can be concluded.
    try_offloads(1, false)?;
    let mut notes = Vec::new();
    let (mut segments, refusal) = gso::probe_limit(&loopback(false)?);
    if let Some(refusal) = refusal {
        notes.push(format!("segmentation offload (UDP_SEGMENT) is refused: {refusal}"));
    }
    if let (true, Err(failure)) = (segments > 1, try_offloads(segments, false)) {
        notes.push(format!("segmentation offload (UDP_SEGMENT) is not used: {failure}"));
        segments = 1;
    }
    let mut gro = loopback(true)?.gro();
    if !gro {
        notes.push("receive offload (UDP_GRO) is refused".to_owned());
    } else if let Err(failure) = try_offloads(segments, true) {
        notes.push(format!("receive offload (UDP_GRO) is not used: {failure}"));
        gro = false;
    }
    Ok(Offloads { segments, gro, notes })
}

/// What the kernel can do, tried on first use and kept for the life of the process
///
/// # Errors
/// When datagrams cannot even be exchanged without offloads, in words.
pub fn offloads() -> Result<&'static Offloads, String> {
    static OFFLOADS: OnceLock<Result<Offloads, String>> = OnceLock::new();
    OFFLOADS
        .get_or_init(|| measure().map_err(|failure| failure.to_string()))
        .as_ref()
        .map_err(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_pass_on_this_kernel() {
        let found = offloads().unwrap();
        assert!(gso::LIMITS.contains(&found.segments), "{found:?}");
        assert!(found.gro, "{found:?}");
        assert!(found.notes.is_empty(), "{found:?}");
    }

    #[test]
    fn settings_switch_off_but_never_on() {
        let all = Offloads { segments: 64, gro: true, notes: Vec::new() };
        assert_eq!(all.clone().within(&IoSettings::default()), all);
        let neither = IoSettings { gso: false, gro: false, ..IoSettings::default() };
        let off = all.within(&neither);
        assert_eq!((off.segments, off.gro, off.notes.len()), (1, false, 2), "{off:?}");
        let none = Offloads { segments: 1, gro: false, notes: vec!["refused".to_owned()] };
        assert_eq!(none.clone().within(&IoSettings::default()), none);
        assert_eq!(none.clone().within(&neither), none);
    }

    #[test]
    fn one_changed_octet_is_noticed() {
        let plain = Offloads { segments: 64, gro: true, notes: Vec::new() };
        let provider = || {
            let socket = socket(&plain).unwrap();
            SystemCallIo::with_offloads(socket, &settings(), plain.clone()).unwrap()
        };
        let (mut sender, mut receiver) = (provider(), provider());
        exchange(&mut sender, &mut receiver).unwrap();
        let error = exchange(&mut sender, &mut Swapped(receiver)).unwrap_err();
        assert!(matches!(error, SelfTestFailure::Corrupted { index: 3 }), "{error}");
    }

    /// Changes one octet of every train on the way
    struct Swapped(SystemCallIo);

    impl DatagramIo for Swapped {
        fn slab(&mut self) -> Option<crate::Slab> {
            self.0.slab()
        }
        fn slab_bytes(&mut self, slab: &crate::Slab) -> &mut [u8] {
            self.0.slab_bytes(slab)
        }
        fn send(&mut self, slab: crate::Slab, transmit: Transmit) {
            self.0.send(slab, transmit);
        }
        fn release(&mut self, slab: crate::Slab) {
            self.0.release(slab);
        }
        fn segment_limit(&self) -> usize {
            self.0.segment_limit()
        }
        fn receive(&mut self, on_train: &mut dyn FnMut(crate::Train<'_>)) -> io::Result<usize> {
            self.0.receive(&mut |train| {
                train.bytes[3 * SEGMENT_BYTES] ^= 1;
                on_train(train);
            })
        }
        fn submit(&mut self, wait: Wait) -> io::Result<()> {
            self.0.submit(wait)
        }
        fn waker(&self) -> crate::Waker {
            self.0.waker()
        }
        fn notify(&mut self, bell: &crate::Waker) {
            self.0.notify(bell);
        }
        fn wake_peer(&mut self, peer: &crate::PeerRing) {
            self.0.wake_peer(peer);
        }
        fn peer_ring(&self) -> crate::PeerRing {
            self.0.peer_ring()
        }
        fn counters(&self) -> &crate::IoCounters {
            self.0.counters()
        }
        fn local_address(&self) -> SocketAddrV6 {
            self.0.local_address()
        }
        fn describe(&self) -> crate::IoDescription {
            self.0.describe()
        }
    }
}
