//! Legs: the bytes and their places are the same however the stream is cut, and nothing is made up.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use stoq_transport::wire::{LegHeader, LegItem, LegReader, WireError};

type Octet = (u64, u8);

/// The header, every octet with its offset, the ends, and how it came out
type Content = (Option<LegHeader>, Vec<Octet>, Vec<u64>, Result<bool, WireError>);

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Content {
    let mut reader = LegReader::default();
    let (mut header, mut octets, mut ends) = (None, Vec::new(), Vec::new());
    for piece in pieces {
        let mut bytes = Bytes::copy_from_slice(piece);
        loop {
            match reader.next_item(&mut bytes) {
                Ok(None) => break,
                Ok(Some(LegItem::Header(seen))) => {
                    assert!(header.is_none(), "a second header");
                    header = Some(seen);
                }
                Ok(Some(LegItem::Data { offset, bytes, end })) => {
                    octets.extend((offset..).zip(bytes.iter().copied()));
                    if end {
                        ends.push(offset + bytes.len() as u64);
                    }
                }
                Err(error) => return (header, octets, ends, Err(error)),
            }
        }
        assert!(bytes.is_empty(), "input was left behind");
    }
    (header, octets, ends, Ok(reader.at_boundary()))
}

fuzz_target!(|data: &[u8]| {
    let whole = read(std::iter::once(data));
    assert!(whole.1.len() <= data.len());
    assert_eq!(whole, read(data.chunks(1)));
    assert_eq!(whole, read(data.chunks(7)));
});
