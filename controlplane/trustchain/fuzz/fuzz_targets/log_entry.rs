//! Data tiles and journal records: any octets are judged, what is read is written as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _accepted = stoq_trustchain_fuzz::log_entry(data);
});
