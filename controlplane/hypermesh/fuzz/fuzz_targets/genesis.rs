//! The genesis as somebody may hand it over: any text is read or refused, and what reads is the same network when it is
//! written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_hypermesh::consensus::Genesis;

fuzz_target!(|data: &[u8]| {
    let Ok(genesis) = Genesis::read(data) else { return };
    let again = Genesis::read(genesis.write().as_bytes()).expect("what it wrote itself");
    assert_eq!(again.network(), genesis.network());
});
