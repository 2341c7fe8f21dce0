//! `stoqctl measure`: how fast and whether whole, between this node and another, through both daemons.

use std::time::Duration;

use clap::Args;
use stoq_admin::ApiError;
use stoq_admin::api::{MeasureShow, MeasureShown, MeasureStart};
use stoq_interface::NodeId;

use crate::context::Context;
use crate::human;
use crate::render::{Report, cell};

/// Interval between two looks at a running measurement
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks between two lines
const LOOKS_PER_LINE: u32 = 4;

/// Measures a bulk flow to another node, counted and verified by whoever receives
#[derive(Args, Debug)]
#[command(after_help = "\
The other node answers where its transport.perf is on. Every octet is digested with BLAKE3 on both
sides; the rate is taken at the receiver, from the first octet to the last.

Examples:
  stoqctl measure beta --bytes 8GiB
  stoqctl measure beta --bytes 1GiB --reverse --json")]
pub(crate) struct Measure {
    /// The other node
    node: NodeId,
    /// How much: 500MB, 8GiB
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size)]
    bytes: u64,
    /// From the other node to this one
    #[arg(long)]
    reverse: bool,
}

/// `8GiB`, `500MB`, `4096`
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(format!("'{unit}' is no unit: use B, kB, MB, GB, KiB, MiB, GiB or TiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("'{text}' is no size: write 8GiB"))?;
    number
        .checked_mul(factor)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("'{text}' is out of range: from 1 octet to 16 EiB"))
}

impl Measure {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        super::name_of::<MeasureShow>()
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let request = MeasureStart { node: self.node, bytes: self.bytes, reverse: self.reverse };
        let started = context.call(request).await?;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.tick().await;
        let mut before = (0, 0.0);
        for look in 1.. {
            looks.tick().await;
            let request = MeasureShow { measurement: started.measurement };
            let shown: MeasureShown = context.call(request).await?;
            if shown.done {
                return ended(context, &shown);
            }
            if look % LOOKS_PER_LINE == 0 {
                context.output().say(&line(&shown, before));
                before = (shown.bytes_done, shown.seconds);
            }
        }
        Err(ApiError::failed("no-end", "the measurement did not end", "see the log of stoqd"))
    }
}

/// `3.0 s  2.9 GiB of 8.0 GiB  8.11 Gb/s`
fn line(shown: &MeasureShown, (bytes, seconds): (u64, f64)) -> String {
    let span = shown.seconds - seconds;
    let gbps = if span > 0.0 {
        shown.bytes_done.saturating_sub(bytes) as f64 * 8.0 / span / 1e9
    } else {
        0.0
    };
    format!(
        "{:5.1} s  {} of {}  {gbps:.2} Gb/s",
        shown.seconds,
        human::bytes(shown.bytes_done),
        human::bytes(shown.bytes)
    )
}

fn ended(context: &Context, shown: &MeasureShown) -> Result<Report, ApiError> {
    let report = context.report(shown)?;
    if let Some(failure) = &shown.failure {
        let remedy = "the other node answers where transport.perf = true in its stoqd.toml";
        return Ok(report.failure(ApiError::failed("measure-failed", failure, remedy)));
    }
    let gbps = shown.bits_per_second.map_or_else(|| "-".into(), |b| format!("{:.2} Gb/s", b / 1e9));
    let verified = match shown.verified {
        Some(true) => "every octet, by BLAKE3 at the receiver",
        Some(false) => "NO: the digests differ",
        None => "-",
    };
    let report = report.fields(vec![
        ("moved", cell(human::bytes(shown.bytes_done))),
        ("time", cell(human::duration(shown.seconds))),
        ("goodput", cell(gbps)),
        ("verified", cell(verified)),
        ("lost", cell(human::bytes(shown.lost_bytes.unwrap_or_default()))),
        ("replaced", cell(human::count(shown.connection_replacements, "connection"))),
        ("lost on the way", cell(human::count(shown.connection_losses, "connection"))),
        ("sent again", cell(human::bytes(shown.bytes_resent))),
    ]);
    if shown.verified == Some(true) {
        return Ok(report);
    }
    let error = ApiError::failed("not-verified", "the data arrived changed", "report this");
    Ok(report.failure(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_limits() {
        assert_eq!(size("8GiB"), Ok(8 << 30));
        assert_eq!(size("500MB"), Ok(500_000_000));
        assert_eq!(size("7"), Ok(7));
        for bad in ["", "0", "GiB", "1 GiB", "1gib", "-1", "99999999TiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
