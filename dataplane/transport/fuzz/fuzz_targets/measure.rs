//! Requests and verdicts of the measure service: what parses is written back octet by octet.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_transport::wire::measure::{MeasureRequest, MeasureVerdict};

fuzz_target!(|data: &[u8]| {
    if let Ok(wire) = data.try_into()
        && let Ok(request) = MeasureRequest::parse(wire)
    {
        assert_eq!(&request.encode(), wire);
    }
    if let Ok(wire) = data.try_into()
        && let Ok(verdict) = MeasureVerdict::parse(wire)
    {
        assert_eq!(&verdict.encode(), wire);
    }
});
