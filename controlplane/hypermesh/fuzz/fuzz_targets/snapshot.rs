//! Snapshots as a peer may send them: any octets are judged, and none but that of the state itself is taken.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_hypermesh::registry::Registry;

fuzz_target!(|data: &[u8]| {
    // Without the root that was agreed on, nothing is taken.
    assert!(Registry::restore(data, &[0; 32]).is_err());
});
