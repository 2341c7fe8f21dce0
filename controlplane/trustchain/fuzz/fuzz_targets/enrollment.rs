//! The bodies of enrolment, in both directions: any octets are judged, what parses is written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_trustchain::enrollment::protocol::{
    EnrollRequest, EnrollResponse, ErrorResponse, RootResponse,
};

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<EnrollRequest>(data) {
        let written = serde_json::to_vec(&request).expect("a request can be written");
        serde_json::from_slice::<EnrollRequest>(&written).expect("what was written can be read");
    }
    if let Ok(response) = serde_json::from_slice::<EnrollResponse>(data) {
        let written = serde_json::to_vec(&response).expect("a response can be written");
        serde_json::from_slice::<EnrollResponse>(&written).expect("what was written can be read");
    }
    let _judged = serde_json::from_slice::<RootResponse>(data);
    let _judged = serde_json::from_slice::<ErrorResponse>(data);
});
