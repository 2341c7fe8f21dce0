//! The bodies of enrolment, in both directions: any octets are judged, what parses is written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _accepted = stoq_trustchain_fuzz::enrollment(data);
});
