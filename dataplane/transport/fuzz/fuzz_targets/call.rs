//! Calls: requests and replies within their limits, and the same after being written again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_transport::wire::CallReader;

const BODY_BYTES: usize = 1_024;

fuzz_target!(|data: &[u8]| {
    let mut reader = CallReader::new(BODY_BYTES);
    for piece in data.chunks(100) {
        if reader.push(piece).is_err() {
            return;
        }
    }
    if let Ok(Some(request)) = reader.request() {
        assert!(request.body.len() <= BODY_BYTES && request.method.len() <= 128);
        let mut again = CallReader::new(BODY_BYTES);
        again.push(&request.encode()).expect("what was read can be read again");
        assert_eq!(again.request(), Ok(Some(request)));
    }
    if let Ok(Some(reply)) = reader.reply() {
        assert!(reply.body.len() <= BODY_BYTES);
        let mut again = CallReader::new(BODY_BYTES);
        again.push(&reply.encode()).expect("what was read can be read again");
        assert_eq!(again.reply(), Ok(Some(reply)));
    }
});
