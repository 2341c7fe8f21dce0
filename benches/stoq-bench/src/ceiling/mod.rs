//! What this host's cores could carry at one packet size if nothing but the kernel and the AEAD cost anything:
//! measured with the product's own I/O provider and the product's own BoringSSL, combined by a stated model.

mod cipher;
mod memory;
mod parts;
mod tsc;
mod wire;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use cipher::Cipher;
pub use memory::Memory;
pub use parts::Part;
pub use tsc::Tsc;
pub use wire::Wire;

use crate::command_line::Io;

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.ceiling/1";

/// Below this round trip of a cache line the two processors count as near
const NEAR_NS: f64 = 200.0;
/// No hardware takes this long: other work had one of the processors
const DISTURBED_NS: f64 = 2_000.0;

/// What to measure
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Processor of the sender
    pub sender_core: usize,
    /// Processor of the receiver
    pub receiver_core: usize,
    /// UDP payload of a packet
    pub payload_bytes: usize,
    /// Time of each measurement
    pub time: Duration,
    /// How raw packets reach the kernel
    pub io: Io,
}

/// Why a ceiling could not be measured
#[derive(Debug, thiserror::Error)]
pub enum CeilingError {
    /// The packet size makes no train
    #[error("a payload of {0} octets cannot be measured; use 64 to 65,487")]
    Payload(usize),
    /// A processor could not be had
    #[error(transparent)]
    Core(#[from] stoq_memory::TopologyError),
    /// No socket
    #[error(transparent)]
    Socket(#[from] stoq_udp::SocketError),
    /// No provider
    #[error(transparent)]
    Provider(#[from] stoq_uring::OpenError),
    /// The kernel
    #[error("the raw measurement failed: {0}")]
    Io(#[from] std::io::Error),
    /// BoringSSL
    #[error("BoringSSL refused: {0}")]
    Cipher(#[from] boring::error::ErrorStack),
    /// A measuring thread panicked
    #[error("a measuring thread ended early")]
    Thread,
}

/// One stage of the model
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelStage {
    /// The sender's kernel
    SenderKernel,
    /// Sealing
    SenderAead,
    /// The receiver's kernel
    ReceiverKernel,
    /// Opening
    ReceiverAead,
}

/// What the parts allow together: each side does its kernel work and its AEAD work on one core, one after
/// the other; the slower side decides
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Model {
    /// One core of the sender
    pub sender_gbps: f64,
    /// One core of the receiver
    pub receiver_gbps: f64,
    /// The smaller of the two
    pub gbps: f64,
    /// The dearest stage of the slower side
    pub binding_stage: ModelStage,
    /// The smaller of the two where each side also copies every octet once inside the cache and masks every
    /// header: no QUIC does without. Not what fractions refer to. Absent in records of earlier versions.
    #[serde(default)]
    pub gbps_with_copies: Option<f64>,
}

impl Model {
    /// Combines the parts
    pub fn of(
        wire: &Wire,
        cipher: &Cipher,
        copy_gigabytes_per_second: f64,
        payload_bytes: usize,
    ) -> Self {
        let send = [
            (ModelStage::SenderKernel, wire.sender_ns_per_byte),
            (ModelStage::SenderAead, cipher.seal_ns_per_byte),
        ];
        let receive = [
            (ModelStage::ReceiverKernel, wire.receiver_ns_per_byte),
            (ModelStage::ReceiverAead, cipher.open_ns_per_byte),
        ];
        let gbps = |stages: &[(ModelStage, f64); 2]| 8.0 / (stages[0].1 + stages[1].1);
        let (sender_gbps, receiver_gbps) = (gbps(&send), gbps(&receive));
        let slower = if sender_gbps <= receiver_gbps { send } else { receive };
        let dearest = if slower[0].1 >= slower[1].1 { slower[0] } else { slower[1] };
        Self {
            sender_gbps,
            receiver_gbps,
            gbps: sender_gbps.min(receiver_gbps),
            binding_stage: dearest.0,
            gbps_with_copies: cipher.header_protection_ns_per_packet.map(|masks| {
                let with = |stages: &[(ModelStage, f64); 2], mask: f64| {
                    let copy = 1.0 / copy_gigabytes_per_second;
                    8.0 / (stages[0].1 + stages[1].1 + copy + mask / payload_bytes as f64)
                };
                with(&send, masks[0]).min(with(&receive, masks[1]))
            }),
        }
    }
}

/// Everything measured at one packet size on one pair of cores
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Ceiling {
    /// [`SCHEMA`]
    pub schema: String,
    /// UDP payload of a packet
    pub payload_bytes: usize,
    /// Processor of the sender
    pub sender_core: usize,
    /// Processor of the receiver
    pub receiver_core: usize,
    /// A cache line there and back, before and after; absent where both are one processor
    pub round_trip_ns: Option<[f64; 2]>,
    /// `near`, `far`, or `disturbed` by other work; absent where it changed during the measurement
    pub placement: Option<String>,
    /// Raw UDP
    pub wire: Wire,
    /// AES-128-GCM
    pub aead: Cipher,
    /// Memory
    pub memory: Memory,
    /// What the parts allow together
    pub model: Model,
    /// How fast the processor's time stamp counter runs; absent in records of earlier versions
    #[serde(default)]
    pub tsc: Option<Tsc>,
    /// Every part in the same units; empty in records of earlier versions
    #[serde(default)]
    pub parts: Vec<Part>,
}

/// Measures everything
///
/// # Errors
/// [`CeilingError`].
pub fn measure(plan: &Plan) -> Result<Ceiling, CeilingError> {
    if !(64..=stoq_udp::MAX_TRAIN_BYTES).contains(&plan.payload_bytes) {
        return Err(CeilingError::Payload(plan.payload_bytes));
    }
    let cores = (plan.sender_core, plan.receiver_core);
    let before = memory::round_trip_ns(cores)?;
    let wire = wire::measure(plan)?;
    let aead = measure_cipher(cores, plan.payload_bytes, plan.time)?;
    let memory = on_core(plan.sender_core, || Ok(memory::measure(plan.time)))?;
    let after = memory::round_trip_ns(cores)?;
    let round_trip_ns = before.zip(after).map(|(before, after)| [before, after]);
    let copy = memory.copy_cached_gigabytes_per_second;
    let model = Model::of(&wire, &aead, copy, plan.payload_bytes);
    let tsc = Tsc::of_this_host();
    Ok(Ceiling {
        schema: SCHEMA.to_owned(),
        payload_bytes: plan.payload_bytes,
        sender_core: plan.sender_core,
        receiver_core: plan.receiver_core,
        round_trip_ns,
        placement: round_trip_ns.and_then(placement),
        parts: parts::of(&wire, &aead, &memory, plan.payload_bytes, model.gbps, &tsc),
        tsc: Some(tsc),
        model,
        wire,
        aead,
        memory,
    })
}

/// Measures the ciphers alone: sealing at the first processor, opening at the second
///
/// # Errors
/// [`CeilingError`].
pub fn measure_cipher(
    (sender, receiver): (usize, usize),
    payload_bytes: usize,
    time: Duration,
) -> Result<Cipher, CeilingError> {
    if !(64..=stoq_udp::MAX_TRAIN_BYTES).contains(&payload_bytes) {
        return Err(CeilingError::Payload(payload_bytes));
    }
    let at = |core| on_core(core, || cipher::measure(payload_bytes, time));
    let sealing = at(sender)?;
    let opening = if sender == receiver { sealing } else { at(receiver)? };
    Ok(Cipher::of_both(sealing, opening))
}

fn placement(round_trips: [f64; 2]) -> Option<String> {
    if round_trips.iter().any(|ns| *ns > DISTURBED_NS) {
        return Some("disturbed".to_owned());
    }
    match round_trips.map(|ns| ns < NEAR_NS) {
        [true, true] => Some("near".to_owned()),
        [false, false] => Some("far".to_owned()),
        _ => None,
    }
}

/// Runs `work` on a thread of its own, bound to `core`
fn on_core<T: Send>(
    core: usize,
    work: impl FnOnce() -> Result<T, CeilingError> + Send,
) -> Result<T, CeilingError> {
    std::thread::scope(|scope| {
        let bound = || {
            stoq_memory::bind_current_thread(core)?;
            work()
        };
        scope.spawn(bound).join().map_err(|_| CeilingError::Thread)?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(sender: f64, receiver: f64) -> Wire {
        Wire { sender_ns_per_byte: sender, receiver_ns_per_byte: receiver, ..Wire::default() }
    }

    fn cipher(seal: f64, open: f64) -> Cipher {
        Cipher { seal_ns_per_byte: seal, open_ns_per_byte: open, ..Cipher::default() }
    }

    #[test]
    fn the_slower_side_and_its_dearest_stage_bind() {
        let of = |wire: &Wire, cipher: &Cipher| Model::of(wire, cipher, 10.0, 1_000);
        let model = of(&wire(0.3, 0.1), &cipher(0.1, 0.1));
        assert!((model.gbps - 20.0).abs() < 1e-9);
        assert_eq!(model.binding_stage, ModelStage::SenderKernel);
        assert_eq!(model.gbps_with_copies, None);
        let model = of(&wire(0.1, 0.2), &cipher(0.1, 0.3));
        assert!((model.receiver_gbps - 16.0).abs() < 1e-9);
        assert!((model.gbps - 16.0).abs() < 1e-9 && model.sender_gbps > 39.0);
        assert_eq!(model.binding_stage, ModelStage::ReceiverAead);
        // A tenth of a nanosecond for the copy, as much for a mask of 100 ns per 1,000 octets.
        let masks = Some([100.0, 200.0]);
        let cipher = Cipher { header_protection_ns_per_packet: masks, ..cipher(0.1, 0.1) };
        let model = of(&wire(0.3, 0.1), &cipher);
        assert!((model.gbps_with_copies.unwrap() - 8.0 / 0.6).abs() < 1e-9);
    }

    #[test]
    fn sealing_and_opening_come_from_their_own_processors() {
        let one = |ns: f64| Cipher {
            header_protection_ns_per_packet: Some([ns; 2]),
            ..cipher(ns, ns + 1.0)
        };
        let both = Cipher::of_both(one(1.0), one(5.0));
        assert_eq!((both.seal_ns_per_byte, both.open_ns_per_byte), (1.0, 6.0));
        assert_eq!(both.header_protection_ns_per_packet, Some([1.0, 5.0]));
    }

    #[test]
    fn a_pair_that_moved_has_no_placement() {
        assert_eq!(placement([50.0, 60.0]).as_deref(), Some("near"));
        assert_eq!(placement([430.0, 400.0]).as_deref(), Some("far"));
        assert_eq!(placement([50.0, 430.0]), None);
        assert_eq!(placement([50.0, 26_000.0]).as_deref(), Some("disturbed"));
    }

    #[test]
    fn a_measurement_yields_figures() {
        let cores = &stoq_memory::host_topology().unwrap().cores;
        let (first, last) = (cores[0].index, cores[cores.len() - 1].index);
        let plan = Plan {
            sender_core: first,
            receiver_core: last,
            payload_bytes: 1_452,
            time: Duration::from_millis(50),
            io: Io::Auto,
        };
        let ceiling = measure(&plan).unwrap();
        assert!(ceiling.wire.received_gbps > 0.0 && ceiling.wire.bytes_received > 0);
        assert!(
            ceiling.model.gbps > 0.0 && ceiling.model.gbps < 8.0 / ceiling.aead.seal_ns_per_byte
        );
        assert_eq!(ceiling.round_trip_ns.is_some(), first != last);
        let masks = ceiling.aead.header_protection_ns_per_packet.unwrap();
        assert!(masks.iter().all(|ns| *ns > 0.0));
        assert!(ceiling.model.gbps_with_copies.unwrap() < ceiling.model.gbps);
        let tsc = ceiling.tsc.unwrap();
        assert_eq!(ceiling.parts.len(), 7);
        for part in &ceiling.parts {
            assert!(part.ns_per_byte > 0.0, "{}", part.name);
            assert!((part.gbps_per_core * part.ns_per_byte - 8.0).abs() < 1e-6, "{}", part.name);
            assert_eq!(part.cycles_per_byte.is_some(), tsc.gigahertz.is_some());
        }
        let too_big = Plan { payload_bytes: 70_000, ..plan };
        assert!(matches!(measure(&too_big), Err(CeilingError::Payload(70_000))));
    }
}
