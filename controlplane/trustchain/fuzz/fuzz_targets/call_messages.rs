//! Requests of nodes and replies of authorities: any octets are judged, what parses is written and read again,
//! and none panic. The first octet chooses the message.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _accepted = stoq_trustchain_fuzz::call_messages(data);
});
