//! The switches of the ablation: what each turns, in whose favour it counts, and how a report shows that it
//! was turned. A switch that did nothing is not a result.

use serde::{Deserialize, Serialize};

use crate::allocator;
use crate::exchange::WorkerDescription;
use crate::load::report::LoadReport;

/// Which of the two settings holds the thing whose worth is asked for
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// The default: it returns what is lost without it
    Default,
    /// The variant: it returns what is gained with it
    Variant,
}

/// Why two runs do not differ in what a switch turns
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unturned {
    /// There is nothing to turn on this host
    #[error("the default runs without {0} on this host")]
    Absent(String),
    /// The variant is as the default: a defect
    #[error("{0}")]
    Stuck(String),
}

/// Whether two reports, of the default and of the variant, differ in what the switch turns
type Check = fn(&LoadReport, &LoadReport) -> Result<(), Unturned>;

/// One thing to turn
#[derive(Clone, Debug)]
pub struct Switch {
    /// Its name, for `--only`
    pub name: &'static str,
    /// The default, in words
    pub default: String,
    /// The variant, in words
    pub variant: String,
    /// Which of the two holds the thing
    pub holder: Holder,
    /// Arguments of both
    pub common: Vec<String>,
    /// Arguments of the variant alone
    pub turned: Vec<String>,
    /// Shows that it was turned
    pub check: Check,
    /// Whether the variant runs another executable
    pub other_executable: bool,
}

impl Switch {
    fn of(
        name: &'static str,
        [default, variant]: [&str; 2],
        holder: Holder,
        turned: &[&str],
        check: Check,
    ) -> Self {
        Self {
            name,
            default: default.to_owned(),
            variant: variant.to_owned(),
            holder,
            common: Vec::new(),
            turned: turned.iter().map(|word| (*word).to_owned()).collect(),
            check,
            other_executable: false,
        }
    }
}

fn all(report: &LoadReport, is: impl Fn(&WorkerDescription) -> bool) -> bool {
    !report.start.workers.is_empty() && report.start.workers.iter().all(|worker| is(&worker.about))
}

/// `Ok` where every worker of the default is one thing and every worker of the variant the other
fn differ(
    [default, variant]: [&LoadReport; 2],
    what: &str,
    is: impl Fn(&WorkerDescription) -> bool,
) -> Result<(), Unturned> {
    match (all(default, &is), all(variant, |worker| !is(worker))) {
        (true, true) => Ok(()),
        (false, _) => Err(Unturned::Absent(what.to_owned())),
        (_, false) => Err(Unturned::Stuck(format!("{what} could not be switched"))),
    }
}

fn by_io(default: &LoadReport, variant: &LoadReport) -> Result<(), Unturned> {
    differ([default, variant], "io_uring", |worker| worker.io == "io_uring")
}

fn by_gso(default: &LoadReport, variant: &LoadReport) -> Result<(), Unturned> {
    differ([default, variant], "segmentation offload", |worker| worker.gso_segments > 1)
}

fn by_gro(default: &LoadReport, variant: &LoadReport) -> Result<(), Unturned> {
    differ([default, variant], "receive offload", |worker| worker.gro)
}

fn by_multishot(default: &LoadReport, variant: &LoadReport) -> Result<(), Unturned> {
    differ([default, variant], "multishot receive", |worker| worker.multishot == Some(true))
}

fn by_registration(default: &LoadReport, variant: &LoadReport) -> Result<(), Unturned> {
    let registered = |worker: &WorkerDescription| worker.registered_buffers == Some(true);
    differ([default, variant], "registered buffers", registered)
}

fn by_zero_copy(default: &LoadReport, variant: &LoadReport) -> Result<(), Unturned> {
    let on = |worker: &WorkerDescription| worker.zero_copy == "on";
    match (all(default, on), all(variant, on)) {
        (false, true) => Ok(()),
        (true, _) => Err(Unturned::Stuck("zero copy is always on".to_owned())),
        // Without a ring there is none.
        (false, false) => Err(Unturned::Absent("a way to send without a copy".to_owned())),
    }
}

fn by_pin(default: &LoadReport, variant: &LoadReport) -> Result<(), Unturned> {
    differ([default, variant], "pinned threads", |worker| worker.core.is_some())
}

fn by_pages(default: &LoadReport, variant: &LoadReport) -> Result<(), Unturned> {
    differ([default, variant], "huge pages", |worker| !worker.huge_pages.starts_with("ordinary"))
}

fn by_sleeps(_: &LoadReport, variant: &LoadReport) -> Result<(), Unturned> {
    match variant.sender.sleeps + variant.receiver.sleeps {
        0 => Ok(()),
        sleeps => Err(Unturned::Stuck(format!("workers that poll slept {sleeps} times"))),
    }
}

fn by_payload(default: &LoadReport, variant: &LoadReport) -> Result<(), Unturned> {
    if default.start.payload_bytes == variant.start.payload_bytes {
        return Err(Unturned::Stuck("both runs have the same payload".to_owned()));
    }
    Ok(())
}

/// A number that no report tells of: the sink and the load would have refused an argument they do not know
fn by_number(_: &LoadReport, _: &LoadReport) -> Result<(), Unturned> {
    Ok(())
}

/// Numbers other than the default, fewest first
fn numbers(name: &'static str, argument: &str, default: &str, others: &[u64]) -> Vec<Switch> {
    let one = |other: &u64| {
        let turned = format!("--{argument}={other}");
        let words = [default, &other.to_string()];
        Switch::of(name, words, Holder::Default, &[&turned], by_number)
    };
    others.iter().map(one).collect()
}

/// Everything that can be turned, at this payload
pub fn switches(payload_bytes: u64) -> Vec<Switch> {
    use Holder::{Default, Variant};
    let on_off = ["on", "off"];
    let off_on = ["off", "on"];
    let plain = ["io_uring", "plain calls"];
    let mut all = vec![
        Switch::of("io", plain, Default, &["--io=system-calls"], by_io),
        Switch::of("gso", on_off, Default, &["--no-gso"], by_gso),
        Switch::of("gro", on_off, Default, &["--no-gro"], by_gro),
        Switch::of("multishot", on_off, Default, &["--no-multishot"], by_multishot),
        Switch::of(
            "zero-copy",
            ["measured", "always"],
            Variant,
            &["--zero-copy=always"],
            by_zero_copy,
        ),
    ];
    let unregistered = ["--no-registered-buffers"];
    all.push(Switch::of("registered-buffers", on_off, Default, &unregistered, by_registration));
    // Plain sends do not use the registration: what it returns to those that do is a row of its own.
    let words = ["on, zero copy always", "off, zero copy always"];
    let forced = Switch::of("registered-buffers", words, Default, &unregistered, by_registration);
    all.push(Switch { common: vec!["--zero-copy=always".to_owned()], ..forced });
    all.push(Switch::of("pinning", on_off, Default, &["--unpinned"], by_pin));
    all.push(Switch::of("busy-poll", off_on, Variant, &["--busy-poll"], by_sleeps));
    for other in [1_452, 8_952, 16_336].into_iter().filter(|other| *other != payload_bytes) {
        let turned = format!("--payload={other}");
        let words = [payload_bytes.to_string(), other.to_string()];
        let words = [words[0].as_str(), words[1].as_str()];
        all.push(Switch::of("payload", words, Variant, &[&turned], by_payload));
    }
    all.extend(numbers("ack-batching", "trains-per-receive", "all that came", &[1, 4]));
    let default = stoq::WorkerPlan::default();
    let counts = |default: u64, others: &[u64]| -> Vec<u64> {
        others.iter().copied().filter(|other| *other != default).collect()
    };
    let (buffers, slabs) = (u64::from(default.receive_buffers), u64::from(default.send_slabs));
    let others = counts(buffers, &[8, 16, 64]);
    all.extend(numbers("receive-buffers", "receive-buffers", &buffers.to_string(), &others));
    let others = counts(slabs, &[4, 16]);
    all.extend(numbers("send-slabs", "send-slabs", &slabs.to_string(), &others));
    all.push(Switch::of("huge-pages", on_off, Default, &["--no-huge-pages"], by_pages));
    let words = [allocator::NAME, allocator::OTHER];
    let allocator = Switch::of("allocator", words, Default, &[], by_number);
    all.push(Switch { other_executable: true, ..allocator });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::{Command, CommandLine};
    use crate::load::report::{PlacedWorker, SideName, example};
    use clap::Parser;

    fn turned(edit: impl Fn(&mut WorkerDescription)) -> LoadReport {
        let mut report = example();
        for side in [SideName::Sender, SideName::Receiver] {
            let mut about = WorkerDescription {
                core: Some(0),
                node: None,
                io: "io_uring".into(),
                io_fallback: None,
                gso_segments: 64,
                gro: true,
                multishot: Some(true),
                registered_buffers: Some(true),
                page_bytes: 4_096,
                huge_pages: "transparent 2 MiB pages".into(),
                zero_copy: "being tried".into(),
                receive_buffer_bytes: 1 << 25,
            };
            edit(&mut about);
            report.start.workers.push(PlacedWorker { side, about });
        }
        report
    }

    #[test]
    fn every_switch_is_an_argument_of_a_load_and_changes_it() {
        let parse = |arguments: &[String]| {
            let words = ["stoq-bench", "load"].map(str::to_owned);
            let all = words.iter().chain(arguments);
            match CommandLine::try_parse_from(all).unwrap().command {
                Command::Load(load) => format!("{:?}", load.tuning),
                other => panic!("not a load: {other:?}"),
            }
        };
        for switch in switches(1_452) {
            let mut variant = switch.common.clone();
            variant.extend(switch.turned.iter().cloned());
            let changed = parse(&switch.common) != parse(&variant);
            assert_eq!(changed, !switch.other_executable, "{switch:?}");
        }
        let names: Vec<_> = switches(8_952).iter().map(|switch| switch.variant.clone()).collect();
        assert!(names.contains(&"1452".to_owned()) && !names.contains(&"8952".to_owned()));
    }

    #[test]
    fn a_switch_that_turned_nothing_is_found() {
        let (with, without) = (turned(|w| w.gro = true), turned(|w| w.gro = false));
        assert_eq!(by_gro(&with, &without), Ok(()));
        // One worker that was not switched is enough.
        let mut half = turned(|w| w.gro = false);
        half.start.workers[1].about.gro = true;
        assert!(matches!(by_gro(&with, &half), Err(Unturned::Stuck(_))));
        assert!(matches!(by_gro(&with, &with), Err(Unturned::Stuck(_))));
        assert!(matches!(by_gro(&without, &without), Err(Unturned::Absent(_))));
        let (ring, plain) =
            (turned(|w| w.io = "io_uring".into()), turned(|w| w.io = "system_calls".into()));
        assert_eq!(by_io(&ring, &plain), Ok(()));
        assert!(by_io(&plain, &plain).is_err());
        let (off, on) = (turned(|_| {}), turned(|w| w.zero_copy = "on".into()));
        assert_eq!(by_zero_copy(&off, &on), Ok(()));
        assert!(by_zero_copy(&off, &off).is_err());
        assert!(by_payload(&off, &on).is_err());
        let mut polling = example();
        (polling.sender.sleeps, polling.receiver.sleeps) = (0, 0);
        assert_eq!(by_sleeps(&off, &polling), Ok(()));
        polling.receiver.sleeps = 3;
        assert!(by_sleeps(&off, &polling).is_err());
    }
}
