//! Variable-length integers of RFC 9000 section 16, and nothing else: the only number format of the copy
//! protocol.

use bytes::BufMut;

/// The largest number a varint can carry, 2^62 - 1
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// Appends `value` in the shortest form; false, with nothing written, when it exceeds [`VARINT_MAX`]
#[must_use]
pub(super) fn put(out: &mut impl BufMut, value: u64) -> bool {
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(0x4000 | value as u16),
        0x4000..=0x3fff_ffff => out.put_u32(0x8000_0000 | value as u32),
        0x4000_0000..=VARINT_MAX => out.put_u64(0xc000_0000_0000_0000 | value),
        _ => return false,
    }
    true
}

/// The octets a varint occupies, told by its first one
pub(super) fn length(first: u8) -> usize {
    1 << (first >> 6)
}

/// Reads one varint from the front of `bytes` and returns it with its length, or `None` when `bytes` ends
/// inside it
pub(super) fn get(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = length(first);
    let rest = bytes.get(1..length)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |sum, byte| sum << 8 | u64::from(*byte));
    Some((value, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_9000_appendix_a_1_decode() {
        let eight = [0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c];
        assert_eq!(get(&eight), Some((151_288_809_941_952_652, 8)));
        assert_eq!(get(&[0x9d, 0x7f, 0x3e, 0x7d]), Some((494_878_333, 4)));
        assert_eq!(get(&[0x7b, 0xbd]), Some((15_293, 2)));
        assert_eq!(get(&[0x40, 0x25]), Some((37, 2)));
        assert_eq!(get(&[0x25]), Some((37, 1)));
        assert_eq!(get(&eight[..7]), None);
        assert_eq!(get(&[]), None);
    }

    #[test]
    fn every_boundary_round_trips_in_the_shortest_form() {
        for (value, octets) in [
            (0, 1),
            (63, 1),
            (64, 2),
            (16_383, 2),
            (16_384, 4),
            ((1 << 30) - 1, 4),
            (1 << 30, 8),
            (VARINT_MAX, 8),
        ] {
            let mut out = Vec::new();
            assert!(put(&mut out, value));
            assert_eq!(out.len(), octets, "{value}");
            assert_eq!(get(&out), Some((value, octets)));
        }
        let mut out = Vec::new();
        assert!(!put(&mut out, VARINT_MAX + 1));
        assert!(out.is_empty());
    }
}
