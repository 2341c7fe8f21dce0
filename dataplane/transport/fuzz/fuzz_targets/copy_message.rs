//! Copy messages: the same events however the flow is cut, and messages the same after being written again.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use stoq_transport::copy::{DecodeError, Decoder, Event};

/// Events with adjoining content joined, and how the flow ended
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, Result<(), DecodeError>) {
    let mut decoder = Decoder::new();
    let mut events: Vec<Event> = Vec::new();
    for piece in pieces {
        let mut bytes = Bytes::copy_from_slice(piece);
        loop {
            match decoder.decode(&mut bytes) {
                Ok(None) => break,
                Ok(Some(Event::Data(new))) => match events.last_mut() {
                    Some(Event::Data(held)) => *held = Bytes::from([&held[..], &new[..]].concat()),
                    _ => events.push(Event::Data(new)),
                },
                Ok(Some(message)) => events.push(message),
                Err(error) => return (events, Err(error)),
            }
        }
    }
    (events, decoder.finish())
}

fuzz_target!(|data: &[u8]| {
    let whole = read(std::iter::once(data));
    assert_eq!(whole, read(data.chunks(1)));
    for event in whole.0 {
        let Event::Message(message) = event else { continue };
        let mut wire = BytesMut::new();
        message.encode(&mut wire).expect("what was read can be written");
        assert_eq!(read(std::iter::once(&wire[..])), (vec![Event::Message(message)], Ok(())));
    }
});
