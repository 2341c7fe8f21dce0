//! Paths as anyone may ask for them: one resource has one path, and no path leaves the log.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _accepted = stoq_trustchain_fuzz::log_tile_path(data);
});
