//! One turn of the bare loop, in the worker's order: take everything that has arrived, act on timers, move
//! bytes between program and streams, send up to eight trains, sleep. One connection, one thread, no session.

use std::net::{SocketAddr, SocketAddrV6};
use std::time::Instant;

use quiche::RecvInfo;
use stoq_transport::tls::PeerSlot;
use stoq_udp::{DatagramIo, MAX_TRAIN_BYTES, Transmit, Wait};

use super::quic::{Quic, accept};
use crate::sink::Failure;

/// Trains sent before what has arrived is looked at again: as the worker
const TRAINS_PER_TURN: usize = 8;
/// Room for one datagram that may not fit the slab any more
const SCRATCH_BYTES: usize = 65_536;
/// Packets one AES-GCM key may protect (RFC 9001 section 6.6), less the margin that the product keeps
const PACKETS_PER_KEY: u64 = (1 << 23) / 8 * 7;

/// What a program does with a connection once per turn
pub trait Program {
    /// Reads and writes streams; whether anything moved
    ///
    /// # Errors
    /// What ends the run.
    fn act(&mut self, quic: &mut Quic) -> Result<bool, Failure>;

    /// Whether the run is over
    fn is_over(&self, quic: &Quic) -> bool;
}

/// A connection with what judged its peer
pub struct Bare {
    quic: Quic,
    slot: PeerSlot,
    kept: Option<(Vec<u8>, SocketAddrV6)>,
    packets_sent: u64,
    packets_received: u64,
}

/// One end: its ring and, once there is one, its connection
pub struct Loop {
    io: Box<dyn DatagramIo>,
    local: SocketAddrV6,
    config: quiche::Config,
    bare: Option<Bare>,
    scratch: Vec<u8>,
    /// The connection may have something to send
    wants_transmit: bool,
}

impl Bare {
    /// A connection at its start
    pub fn new((quic, slot): (Quic, PeerSlot)) -> Self {
        Self { quic, slot, kept: None, packets_sent: 0, packets_received: 0 }
    }

    fn take(
        &mut self,
        bytes: &mut [u8],
        from: SocketAddrV6,
        to: SocketAddrV6,
    ) -> Result<(), Failure> {
        self.packets_received += 1;
        let info = RecvInfo { from: SocketAddr::V6(from), to: SocketAddr::V6(to) };
        match self.quic.recv(bytes, info) {
            Ok(_) | Err(quiche::Error::Done) => Ok(()),
            Err(quiche::Error::TlsFail) => {
                let refusal = self.slot.conclude();
                Err(format!("the bare handshake failed: {refusal:?}").into())
            }
            Err(error) => Err(format!("the bare connection refused a datagram: {error}").into()),
        }
    }

    fn next_datagram(&mut self, out: &mut [u8]) -> Option<(usize, SocketAddrV6)> {
        let (length, info) = self.quic.send(out).ok()?;
        let SocketAddr::V6(to) = info.to else { return None };
        self.packets_sent += 1;
        Some((length, to))
    }

    /// Fills a slab with datagrams of one size, as the transport does. Returns the train and whether there may
    /// be more.
    fn fill_train(
        &mut self,
        scratch: &mut [u8],
        slab: &mut [u8],
        segments: usize,
    ) -> (Option<Transmit>, bool) {
        let mut train: Option<Transmit> = None;
        if let Some((bytes, to)) = self.kept.take() {
            slab[..bytes.len()].copy_from_slice(&bytes);
            train =
                Some(Transmit { bytes: bytes.len(), segment_bytes: bytes.len(), to, from: None });
        }
        let mut count = usize::from(train.is_some());
        loop {
            let filled = train.map_or(0, |train| train.bytes);
            let segment = train.map_or(0, |train| train.segment_bytes);
            let room = slab.len() - filled;
            if count >= segments || (count > 0 && room < segment) {
                return (train, true);
            }
            let direct = room >= 16_384 || count == 0;
            let target = if direct { &mut slab[filled..] } else { &mut scratch[..] };
            let Some((length, to)) = self.next_datagram(target) else { return (train, false) };
            match &mut train {
                None => {
                    train = Some(Transmit { bytes: length, segment_bytes: length, to, from: None });
                }
                Some(train) if length <= segment && to == train.to => {
                    if !direct {
                        slab[filled..filled + length].copy_from_slice(&scratch[..length]);
                    }
                    train.bytes += length;
                    if length < segment {
                        return (Some(*train), true);
                    }
                }
                Some(_) => {
                    let bytes = if direct { &slab[filled..] } else { &scratch[..] };
                    self.kept = Some((bytes[..length].to_vec(), to));
                    return (train, true);
                }
            }
            count += 1;
        }
    }

    /// Why the connection ended, where it should not have
    fn end(&self) -> String {
        format!(
            "timed out: {}; here: {:?}; peer: {:?}; peer's certificate: {:?}",
            self.quic.is_timed_out(),
            self.quic.local_error(),
            self.quic.peer_error(),
            self.slot.refusal()
        )
    }
}

impl Loop {
    /// A loop over this ring; the accepting end has no connection yet
    pub fn new(io: Box<dyn DatagramIo>, config: quiche::Config, bare: Option<Bare>) -> Self {
        let local = io.local_address();
        let scratch = vec![0; SCRATCH_BYTES];
        Self { io, local, config, bare, scratch, wants_transmit: true }
    }

    /// The ring
    pub fn io(&self) -> &dyn DatagramIo {
        self.io.as_ref()
    }

    /// Turns until the program is done, then sends what is left to send; `stop` ends it early
    ///
    /// # Errors
    /// Where I/O fails, the handshake fails, the connection ends too early, or a key is used up.
    pub fn run(
        &mut self,
        program: &mut impl Program,
        stop: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        loop {
            if stop() {
                return Err("the other end has gone".into());
            }
            if self.turn(program)? {
                break;
            }
        }
        // A farewell is among what is queued.
        self.io.submit(Wait::No)?;
        Ok(())
    }

    /// One turn; whether the run is over
    fn turn(&mut self, program: &mut impl Program) -> Result<bool, Failure> {
        let received = self.receive()?;
        let mut moved = false;
        if let Some(bare) = &mut self.bare {
            let now = Instant::now();
            let due = bare.quic.timeout_instant().is_some_and(|at| at <= now);
            if due {
                bare.quic.on_timeout();
            }
            if bare.quic.is_established() {
                moved = program.act(&mut bare.quic)?;
            }
            self.wants_transmit |= received > 0 || due || moved;
        }
        let more = self.transmit();
        let Some(bare) = &self.bare else {
            self.io.submit(Wait::Until(None))?;
            return Ok(false);
        };
        if program.is_over(&bare.quic) {
            return Ok(true);
        }
        if bare.quic.is_closed() || bare.quic.is_draining() {
            return Err(format!("the bare connection ended early: {}", bare.end()).into());
        }
        if bare.packets_sent.max(bare.packets_received) > PACKETS_PER_KEY {
            return Err("the bare connection has used up its key: make the run shorter".into());
        }
        let idle = received == 0 && !moved && !more;
        let wait = if idle { Wait::Until(bare.quic.timeout()) } else { Wait::No };
        self.io.submit(wait)?;
        Ok(false)
    }

    fn receive(&mut self) -> Result<usize, Failure> {
        let Self { io, local, config, bare, .. } = self;
        let mut outcome = Ok(());
        let received = io.receive(&mut |mut train| {
            if train.truncated {
                outcome = Err(Failure::from("a train was cut off on its way in"));
            }
            let from = train.from;
            for datagram in train.datagrams() {
                if outcome.is_ok() {
                    outcome = feed(bare, config, datagram, from, *local);
                }
            }
        })?;
        outcome.map(|()| received)
    }

    /// Sends trains; whether more may be ready
    fn transmit(&mut self) -> bool {
        let Some(bare) = &mut self.bare else { return false };
        let segments = self.io.segment_limit();
        for _ in 0..TRAINS_PER_TURN {
            if !self.wants_transmit {
                return false;
            }
            // Without a free slab the completions of those in flight end the sleep.
            let Some(slab) = self.io.slab() else { return false };
            let bytes = self.io.slab_bytes(&slab);
            let most = bytes.len().min(MAX_TRAIN_BYTES);
            let (train, more) = bare.fill_train(&mut self.scratch, &mut bytes[..most], segments);
            match train {
                Some(train) => self.io.send(slab, train),
                None => self.io.release(slab),
            }
            self.wants_transmit = more;
        }
        self.wants_transmit
    }
}

/// Gives a datagram to the connection; the first one that comes to an accepting end opens it
fn feed(
    bare: &mut Option<Bare>,
    config: &mut quiche::Config,
    datagram: &mut [u8],
    from: SocketAddrV6,
    local: SocketAddrV6,
) -> Result<(), Failure> {
    if bare.is_none() {
        *bare = Some(Bare::new(accept(config, local, from)?));
    }
    match bare {
        Some(bare) => bare.take(datagram, from, local),
        None => Ok(()),
    }
}
