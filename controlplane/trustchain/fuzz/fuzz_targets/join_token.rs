//! Join tokens as an operator may paste them: what parses is printed as the same token.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_trustchain::JoinToken;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(token) = text.parse::<JoinToken>()
    {
        let printed = token.to_string();
        let again: JoinToken = printed.parse().expect("a printed token parses");
        assert_eq!(again.to_string(), printed);
    }
});
