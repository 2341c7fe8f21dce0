//! The parts of a ceiling in the same units, so that they can be put beside a result: rate of one core that does
//! nothing else, time and cycles per octet, and the share of the ceiling's own time that the part takes.

use serde::{Deserialize, Serialize};

use super::{Cipher, Memory, Tsc, Wire};

/// One part
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Part {
    /// Side and work, as `sender_kernel`
    pub name: String,
    /// What one core carries that does nothing else
    pub gbps_per_core: f64,
    /// Per octet of UDP payload
    pub ns_per_byte: f64,
    /// Ticks of the time stamp counter; absent where its frequency is unknown
    pub cycles_per_byte: Option<f64>,
    /// The part's time over that of an octet at the ceiling
    pub share_of_ceiling: f64,
}

/// Every part
pub(super) fn of(
    wire: &Wire,
    cipher: &Cipher,
    memory: &Memory,
    payload_bytes: usize,
    ceiling_gbps: f64,
    tsc: &Tsc,
) -> Vec<Part> {
    let masks = cipher.header_protection_ns_per_packet.into_iter().flatten();
    let masks = ["sender_header_protection", "receiver_header_protection"]
        .into_iter()
        .zip(masks.map(|ns| ns / payload_bytes as f64));
    let all = [
        ("sender_kernel", wire.sender_ns_per_byte),
        ("sender_aead", cipher.seal_ns_per_byte),
        ("receiver_kernel", wire.receiver_ns_per_byte),
        ("receiver_aead", cipher.open_ns_per_byte),
        ("copy_in_cache", 1.0 / memory.copy_cached_gigabytes_per_second),
    ];
    let part = |(name, ns_per_byte): (&str, f64)| Part {
        name: name.to_owned(),
        gbps_per_core: 8.0 / ns_per_byte,
        ns_per_byte,
        cycles_per_byte: tsc.cycles(ns_per_byte),
        share_of_ceiling: ns_per_byte * ceiling_gbps / 8.0,
    };
    all.into_iter().chain(masks).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_the_same_in_every_unit() {
        let wire = Wire { sender_ns_per_byte: 0.5, receiver_ns_per_byte: 0.25, ..Wire::default() };
        let cipher = Cipher {
            seal_ns_per_byte: 0.5,
            open_ns_per_byte: 0.25,
            header_protection_ns_per_packet: Some([10.0, 20.0]),
            ..Cipher::default()
        };
        let memory = Memory { copy_cached_gigabytes_per_second: 10.0, ..Memory::default() };
        let known = Tsc { gigahertz: Some(2.0), origin: "by hand".into() };
        let parts = of(&wire, &cipher, &memory, 1_000, 8.0, &known);
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(
            names[4..],
            ["copy_in_cache", "sender_header_protection", "receiver_header_protection"]
        );
        let kernel = &parts[0];
        assert_eq!((kernel.gbps_per_core, kernel.cycles_per_byte), (16.0, Some(1.0)));
        assert!((kernel.share_of_ceiling - 0.5).abs() < 1e-12);
        assert!((parts[4].ns_per_byte - 0.1).abs() < 1e-12);
        assert!((parts[6].ns_per_byte - 0.02).abs() < 1e-12);
        let unknown = Tsc { gigahertz: None, origin: "unknown".into() };
        let parts = of(&wire, &cipher, &memory, 1_000, 8.0, &unknown);
        assert!(parts.iter().all(|part| part.cycles_per_byte.is_none()));
    }
}
