//! AES-128-GCM at one packet size, in place, and the mask of header protection, through the same BoringSSL that
//! QUIC uses here. Sealing is the sender's processor's, opening the receiver's.

use std::time::{Duration, Instant};

use boring::aead::{AeadCtx, Algorithm};
use boring::symm::{Cipher as BlockCipher, Crypter, Mode};
use serde::{Deserialize, Serialize};

use super::CeilingError;
use crate::compare::statistics::Spread;

/// Octets that are not AEAD payload: a short header with a 12-octet connection ID and a 4-octet packet number
const HEADER_BYTES: usize = 17;
const TAG_BYTES: usize = 16;
/// Octets of a packet that the mask of header protection is made of (RFC 9001 section 5.4.3)
const SAMPLE_BYTES: usize = 16;
/// Packets between two looks at the clock
const BATCH: usize = 64;

/// What sealing and opening cost
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Cipher {
    /// Octets of one packet's payload
    pub plaintext_bytes: usize,
    /// Sealing, per octet of UDP payload
    pub seal_ns_per_byte: f64,
    /// Opening, per octet of UDP payload
    pub open_ns_per_byte: f64,
    /// Sealing
    pub seal_gigabytes_per_second: f64,
    /// Opening
    pub open_gigabytes_per_second: f64,
    /// The mask of header protection, one AES block per packet, at the sender and at the receiver; absent in
    /// records of earlier versions
    #[serde(default)]
    pub header_protection_ns_per_packet: Option<[f64; 2]>,
}

impl Cipher {
    /// Sealing from one processor's figures, opening from another's
    pub(super) fn of_both(sender: Self, receiver: Self) -> Self {
        let mask = |cipher: Self| cipher.header_protection_ns_per_packet.map(|[mask, _]| mask);
        Self {
            open_ns_per_byte: receiver.open_ns_per_byte,
            open_gigabytes_per_second: receiver.open_gigabytes_per_second,
            header_protection_ns_per_packet: mask(sender)
                .zip(mask(receiver))
                .map(|(sender, receiver)| [sender, receiver]),
            ..sender
        }
    }
}

/// Measures on the calling thread
pub(super) fn measure(payload_bytes: usize, time: Duration) -> Result<Cipher, CeilingError> {
    let plaintext_bytes = payload_bytes - HEADER_BYTES - TAG_BYTES;
    let algorithm = Algorithm::aes_128_gcm();
    let key: Vec<u8> = (0..algorithm.key_length()).map(|octet| octet as u8).collect();
    let mut context = AeadCtx::new_default_tag(&algorithm, &key)?;
    let header = [0x40; HEADER_BYTES];
    let mut number = 0u64;
    let mut nonce = || {
        number += 1;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        nonce
    };
    let mut packets = vec![vec![0u8; plaintext_bytes]; BATCH];
    let mut sealed = Vec::with_capacity(BATCH);
    let mut block = Crypter::new(BlockCipher::aes_128_ecb(), Mode::Encrypt, &key, None)?;
    block.pad(false);
    let (mut seals, mut opens, mut masks) = (Vec::new(), Vec::new(), Vec::new());
    let bytes = (BATCH * payload_bytes) as f64;
    let begun = Instant::now();
    while begun.elapsed() < time || seals.is_empty() {
        sealed.clear();
        let start = Instant::now();
        for packet in &mut packets {
            let (nonce, mut tag) = (nonce(), [0; TAG_BYTES]);
            context.seal_in_place_mut(&nonce, packet, &mut tag, &header)?;
            sealed.push((nonce, tag));
        }
        let between = Instant::now();
        for packet in &packets {
            // The output has room for two blocks, as the interface demands.
            let mut mask = [0; 2 * SAMPLE_BYTES];
            block.update(&packet[..SAMPLE_BYTES], &mut mask)?;
            std::hint::black_box(mask);
        }
        let masked = Instant::now();
        for (packet, (nonce, tag)) in packets.iter_mut().zip(&sealed) {
            context.open_in_place_mut(nonce, packet, tag, &header)?;
        }
        opens.push(masked.elapsed().as_nanos() as f64 / bytes);
        seals.push((between - start).as_nanos() as f64 / bytes);
        masks.push((masked - between).as_nanos() as f64 / BATCH as f64);
    }
    // The median of the batches is not moved by those during which another thread had the processor.
    let median = |all: &[f64]| Spread::of(all).map_or(f64::NAN, |spread| spread.median);
    let (seal, open) = (median(&seals), median(&opens));
    Ok(Cipher {
        plaintext_bytes,
        seal_ns_per_byte: seal,
        open_ns_per_byte: open,
        seal_gigabytes_per_second: 1.0 / seal,
        open_gigabytes_per_second: 1.0 / open,
        header_protection_ns_per_packet: Some([median(&masks); 2]),
    })
}
