//! The projection to a port that has not been measured: a model, printed as one, with its inputs
//! and its formula. Nothing it prints is a result.

use std::fmt::Write as _;

use super::{LoadRecord, ReportError};

/// Octets of an IPv6 and a UDP header
const HEADERS_BYTES: u64 = 48;
/// Octets of Ethernet per packet: preamble 8, header 14, check sequence 4, gap 12
const ETHERNET_BYTES: u64 = 38;
/// Octets of a short header's first octet and packet number (4), of a STREAM frame's type, id,
/// offset and length (1, 1, 8, 2) and of the tag (16): the largest that a full packet carries in
/// bulk
const QUIC_BYTES: u64 = 1 + 4 + 12 + 16;
/// MTUs that are projected, octets
const MTUS: [u64; 2] = [1_500, 9_000];

/// One MTU of the model
#[derive(Clone, Copy, Debug, PartialEq)]
struct Projection {
    goodput_fraction: f64,
    goodput_gbps: f64,
    /// Processor time per flow octet, sender and receiver
    ns_per_byte: [f64; 2],
    /// Cores, sender and receiver
    cores: [f64; 2],
}

impl Projection {
    /// Of a port of `line_gbps` at `mtu`, from a load of full packets of that MTU
    fn of(line_gbps: f64, mtu: u64, load: &LoadRecord) -> Self {
        let header = QUIC_BYTES + stoq_udp::CONNECTION_ID_BYTES as u64;
        let flow = mtu - HEADERS_BYTES - header;
        let goodput_fraction = flow as f64 / (mtu + ETHERNET_BYTES) as f64;
        let goodput_gbps = line_gbps * goodput_fraction;
        let per_byte =
            [&load.sender, &load.receiver].map(|side| side.cores() * 8.0 / load.goodput_gbps);
        Self {
            goodput_fraction,
            goodput_gbps,
            ns_per_byte: per_byte,
            cores: per_byte.map(|ns| goodput_gbps / 8.0 * ns),
        }
    }
}

fn usable(load: &LoadRecord) -> bool {
    let positive = |figure: f64| figure.is_finite() && figure > 0.0;
    load.verified
        && positive(load.goodput_gbps)
        && [&load.sender, &load.receiver].iter().all(|side| positive(side.cores()))
}

/// The model in text
///
/// # Errors
/// Where no record can feed it.
pub fn text(line_gbps: f64, loads: &[LoadRecord]) -> Result<String, ReportError> {
    if !(line_gbps.is_finite() && line_gbps > 0.0) {
        return Err(ReportError::Nothing("--project takes a port's Gb/s, above zero"));
    }
    let mut out = format!(
        "PROJECTED, not measured: cores per side for a port of {line_gbps} Gb/s\n\
         formula: cores = port x flow octets / octets on the line x processor time per flow octet\n\
         assumed: work spreads over cores linearly, the cost per octet stays as measured, and the \
         NIC segments as the measured path did; none of this has been shown\n"
    );
    let mut any = false;
    for mtu in MTUS {
        let payload = mtu - HEADERS_BYTES;
        let fitting: Vec<&LoadRecord> =
            loads.iter().filter(|l| l.start.payload_bytes == payload && usable(l)).collect();
        for load in &fitting {
            line(&mut out, line_gbps, mtu, load);
            any = true;
        }
        if fitting.is_empty() {
            out += &format!("MTU {mtu}: no verified load record at payload {payload} was given\n");
        }
    }
    if any {
        Ok(out)
    } else {
        Err(ReportError::Nothing(
            "--project needs a verified load record at payload 1452 or 8952, from `stoq-bench load \
             --json FILE`",
        ))
    }
}

fn line(out: &mut String, line_gbps: f64, mtu: u64, load: &LoadRecord) {
    let model = Projection::of(line_gbps, mtu, load);
    let [sender, receiver] = model.cores;
    // A string takes everything.
    let _infallible = writeln!(
        out,
        "MTU {mtu}: PROJECTED {} cores for sending ({sender:.2}), {} for receiving \
         ({receiver:.2})\n  inputs: {}, path {}, {:.2} Gb/s measured; {:.3} ns of processor time \
         per flow octet at the sender, {:.3} at the receiver; {:.2} % of the line is flow octets, \
         {:.2} Gb/s",
        sender.ceil(),
        receiver.ceil(),
        load.file,
        load.start.path.as_deref().unwrap_or("unknown"),
        load.goodput_gbps,
        model.ns_per_byte[0],
        model.ns_per_byte[1],
        model.goodput_fraction * 100.0,
        model.goodput_gbps,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::report::CpuUse;

    fn load(payload: u64, gbps: f64, cores: f64) -> LoadRecord {
        let value = serde_json::to_value(crate::load::report::example()).unwrap();
        let mut load: LoadRecord = serde_json::from_value(value).unwrap();
        load.file = "load.json".into();
        load.verified = true;
        load.goodput_gbps = gbps;
        load.start.payload_bytes = payload;
        for side in [&mut load.sender, &mut load.receiver] {
            let busy = CpuUse { user_cores: cores / 2.0, system_cores: cores / 2.0 };
            side.cpu = [("workers".to_owned(), busy)].into();
        }
        load
    }

    #[test]
    fn the_model_is_the_formula() {
        // One core carries 8 Gb/s, 1 ns per octet; of 1,538 octets on the line 1,407 are flow
        // octets.
        let model = Projection::of(40.0, 1_500, &load(1_452, 8.0, 1.0));
        assert_eq!(model.ns_per_byte, [1.0, 1.0]);
        assert!((model.goodput_fraction - 1_407.0 / 1_538.0).abs() < 1e-12);
        assert!((model.cores[0] - 40.0 * 1_407.0 / 1_538.0 / 8.0).abs() < 1e-12);
        // Half the work for an octet takes half the cores; twice the port twice as many.
        assert!(
            (Projection::of(40.0, 1_500, &load(1_452, 16.0, 1.0)).cores[0] * 2.0 - model.cores[0])
                .abs()
                < 1e-9
        );
        assert!(
            (Projection::of(80.0, 1_500, &load(1_452, 8.0, 1.0)).cores[0] - model.cores[0] * 2.0)
                .abs()
                < 1e-9
        );
    }

    #[test]
    fn it_is_labelled_and_says_what_is_missing() {
        let text = text(40.0, &[load(1_452, 8.0, 1.0)]).unwrap();
        assert!(text.starts_with("PROJECTED, not measured"));
        assert!(text.contains("MTU 1500: PROJECTED 5 cores for sending"));
        assert!(text.contains("MTU 9000: no verified load record at payload 8952"));
        assert!(text.contains("load.json") && text.contains("linearly"));
    }

    #[test]
    fn without_a_verified_record_there_is_no_projection() {
        let unverified = LoadRecord { verified: false, ..load(1_452, 8.0, 1.0) };
        for wrong in
            [vec![], vec![unverified], vec![load(1_400, 8.0, 1.0)], vec![load(1_452, 8.0, 0.0)]]
        {
            assert!(text(40.0, &wrong).is_err());
        }
        assert!(text(f64::NAN, &[load(1_452, 8.0, 1.0)]).is_err());
    }
}
