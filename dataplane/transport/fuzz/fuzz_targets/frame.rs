//! Control frames: whatever is read is the same in one piece and in many, and survives being written again.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use stoq_transport::wire::{Frame, FrameReader, WireError};

const LIMIT: usize = 4_096;

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<WireError>) {
    let mut reader = FrameReader::new(LIMIT);
    let mut frames = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fuzz_target!(|data: &[u8]| {
    let whole = read(std::iter::once(data));
    assert_eq!(whole, read(data.chunks(1)));
    let mut wire = BytesMut::new();
    for frame in &whole.0 {
        frame.encode(&mut wire);
    }
    assert_eq!(read(std::iter::once(&wire[..])), (whole.0, None));
});
