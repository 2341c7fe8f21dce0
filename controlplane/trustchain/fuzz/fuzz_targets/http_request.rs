//! What strangers send over HTTPS: paths, credentials, EST bodies. Any octets are judged, none panic, and what
//! is accepted is what it seems.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_trustchain::csr::CSR_LIMIT_BYTES;
use stoq_trustchain::enrollment::protocol::RenewRequest;
use stoq_trustchain::http::{Credentials, Route, est};

fuzz_target!(|data: &[u8]| {
    if let Ok(der) = est::request_der(data) {
        assert!(!der.is_empty() && der.len() < 2 * CSR_LIMIT_BYTES);
        assert_eq!(est::request_der(&est::lines(&der)).as_deref(), Ok(&der[..]));
    }
    if let Ok(request) = serde_json::from_slice::<RenewRequest>(data) {
        let written = serde_json::to_vec(&request).expect("a request can be written");
        serde_json::from_slice::<RenewRequest>(&written).expect("what was written can be read");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(Route::Crl(key, _) | Route::Authority(key)) = Route::parse(text) {
        assert!(key.len() == 40 && key.bytes().all(|octet| octet.is_ascii_hexdigit()));
    }
    if let Ok(credentials) = Credentials::parse(text) {
        assert!(credentials.token_id.bytes().all(|octet| octet.is_ascii_hexdigit()));
    }
});
