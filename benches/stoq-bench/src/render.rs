//! The only place that writes to the terminal: records in, text out. No figure is computed here.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use stoq_interface::{TRAIN_LENGTHS, TrainEnd};

use crate::ceiling::Ceiling;
use crate::compare::Comparison;
use crate::compare::statistics::Spread;
use crate::load::report::{Interval, LoadReport, Side, Start};

/// One line of output, flushed: whoever reads lines waits for them
///
/// # Errors
/// Where nobody reads any more.
pub fn line(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// One line of complaint
pub fn warn(text: &str) {
    eprintln!("stoq-bench: {text}");
}

fn known<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

fn gbps(value: Option<f64>) -> String {
    value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.2} Gb/s"))
}

/// A ceiling
pub fn ceiling(ceiling: &Ceiling) {
    let (wire, aead, memory) = (&ceiling.wire, &ceiling.aead, &ceiling.memory);
    println!(
        "ceiling at {} octets, core {} to core {}",
        ceiling.payload_bytes, ceiling.sender_core, ceiling.receiver_core
    );
    println!(
        "  raw UDP     {:.2} Gb/s received ({}, {} segments per send, GRO {}); {:.3} ns/B sender, \
         {:.3} ns/B receiver; {} dropped at the socket",
        wire.received_gbps,
        wire.io,
        wire.gso_segments,
        if wire.gro { "on" } else { "off" },
        wire.sender_ns_per_byte,
        wire.receiver_ns_per_byte,
        wire.socket_overflows,
    );
    println!(
        "  AES-128-GCM {:.3} ns/B seal, {:.3} ns/B open ({:.2} and {:.2} GB/s)",
        aead.seal_ns_per_byte,
        aead.open_ns_per_byte,
        aead.seal_gigabytes_per_second,
        aead.open_gigabytes_per_second,
    );
    println!(
        "  memory      {:.1} GB/s copied in cache, {:.1} GB/s out of it; cache line round trip {}",
        memory.copy_cached_gigabytes_per_second,
        memory.copy_uncached_gigabytes_per_second,
        ceiling.round_trip_ns.map_or_else(
            || "not applicable".to_owned(),
            |[before, after]| format!(
                "{before:.0} ns before, {after:.0} ns after ({})",
                ceiling.placement.as_deref().unwrap_or("moved")
            )
        ),
    );
    println!(
        "  model       {:.2} Gb/s with one core per side (sender {:.2}, receiver {:.2}); {:?} binds",
        ceiling.model.gbps,
        ceiling.model.sender_gbps,
        ceiling.model.receiver_gbps,
        ceiling.model.binding_stage,
    );
    if let Some(gbps) = ceiling.model.gbps_with_copies {
        println!("              {gbps:.2} Gb/s with one copy and the header's mask on each side");
    }
    if let Some(tsc) = &ceiling.tsc {
        println!(
            "  per core    {:>26} {:>8} {:>8} {:>8} {:>11}  (time stamp counter {}, {})",
            "part",
            "Gb/s",
            "ns/B",
            "cycles/B",
            "of ceiling",
            known(tsc.gigahertz.map(|gigahertz| format!("{gigahertz:.3} GHz"))),
            tsc.origin,
        );
    }
    for part in &ceiling.parts {
        println!(
            "              {:>26} {:>8.2} {:>8.4} {:>8} {:>10.1} %",
            part.name,
            part.gbps_per_core,
            part.ns_per_byte,
            known(part.cycles_per_byte.map(|cycles| format!("{cycles:.3}"))),
            part.share_of_ceiling * 100.0,
        );
    }
}

/// What a run starts with
pub fn start(start: &Start) {
    let host = &start.host;
    println!(
        "host {}: {}, {} processors, kernel {}, caches {}",
        host.id,
        known(host.cpu_model.as_ref()),
        host.cpus,
        known(host.kernel.as_ref()),
        host.caches.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join(", "),
    );
    println!(
        "path {}; payload {} octets; {} flow(s) over {} session(s){}; {} at the receiver{}; commit {}",
        start.path.map_or_else(|| "unknown".to_owned(), |path| format!("{path:?}").to_lowercase()),
        start.payload_bytes,
        start.flows,
        start.sessions,
        if start.striped { ", striped" } else { "" },
        match start.verify {
            crate::digest::Verify::None => "NOT VERIFIED".to_owned(),
            verify => format!("{verify:?} verified").to_lowercase(),
        },
        if start.reverse { "; reverse: the sink sends" } else { "" },
        known(start.commit.as_ref()),
    );
    println!("transport {}", start.transport);
    for worker in &start.workers {
        println!(
            "  {} worker on core {} node {}: {}, {} segments per send, GRO {}, huge pages {}, zero \
             copy {}, socket buffer {} octets{}",
            worker.side.label(),
            known(worker.about.core),
            known(worker.about.node),
            worker.about.io,
            worker.about.gso_segments,
            if worker.about.gro { "on" } else { "off" },
            worker.about.huge_pages,
            worker.about.zero_copy,
            worker.about.receive_buffer_bytes,
            worker.about.io_fallback.as_ref().map_or_else(String::new, |why| format!("; {why}")),
        );
    }
}

/// One interval
pub fn interval(interval: &Interval) {
    println!(
        "{:7.2} to {:7.2} s  {:8.3} Gb/s{}",
        interval.start_s,
        interval.end_s,
        interval.gbps,
        if interval.omitted { "  (warm-up)" } else { "" }
    );
}

fn side(name: &str, side: &Side) {
    let cpu: Vec<String> = side
        .cpu
        .iter()
        .map(|(class, time)| {
            format!("{class} {:.2} user {:.2} system", time.user_cores, time.system_cores)
        })
        .collect();
    println!("{name}: cores used: {}", cpu.join("; "));
    println!(
        "  {} datagrams sent in trains of {}, {} received in trains of {}, {} datagrams per system \
         call, {} system calls",
        side.datagrams_sent,
        known(side.tx_train_mean.map(|mean| format!("{mean:.1}"))),
        side.datagrams_received,
        known(side.rx_train_mean.map(|mean| format!("{mean:.1}"))),
        known(side.datagrams_per_system_call.map(|mean| format!("{mean:.1}"))),
        side.system_calls,
    );
    let stages: Vec<String> =
        side.ns_per_byte.iter().map(|(name, ns)| format!("{name} {ns:.3}")).collect();
    println!("  ns per octet: {}", stages.join(", "));
}

/// What a flow octet costs at both ends, stage by stage
fn costs(report: &LoadReport) {
    println!(
        "{:18} {:>10} {:>10} {:11} {:>10} {:>10} {:11}",
        "cost per octet", "sender ns", "cycles", "from", "receiver", "cycles", "from"
    );
    let ends = ["sender", "receiver"].map(|end| report.ns_per_byte.get(end));
    let names: BTreeSet<&String> = ends.iter().flatten().flat_map(|stages| stages.keys()).collect();
    for name in names {
        let cells = ends.map(|stages| {
            let Some(stage) = stages.and_then(|stages| stages.get(name)) else {
                return format!("{:>10} {:>10} {:11}", "", "", "");
            };
            let figure = |value: Option<f64>| known(value.map(|value| format!("{value:.4}")));
            let source = format!("{:?}", stage.source).to_lowercase();
            let mark = if stage.reason.is_some() { "*" } else { "" };
            let (ns, cycles) = (figure(stage.ns_per_byte), figure(stage.cycles_per_byte));
            format!("{ns:>10} {cycles:>10} {:11}", source + mark)
        });
        println!("{name:18} {}", cells.join(" "));
    }
    for end in ["sender", "receiver"] {
        let of = |figures: &BTreeMap<String, f64>| {
            known(figures.get(end).map(|value| format!("{value:.3}")))
        };
        println!(
            "{end}: {} ns and {} cycles per octet in all, {} Gb/s per busy core",
            of(&report.busy_ns_per_byte),
            of(&report.busy_cycles_per_byte),
            of(&report.gbps_per_core),
        );
    }
    let stages = ends.iter().flatten().flat_map(|stages| stages.iter());
    let notes = stages.filter_map(|(name, stage)| Some((stage.reason.as_ref()?, name)));
    let mut by_reason: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
    for (reason, name) in notes {
        by_reason.entry(reason).or_default().insert(name);
    }
    for (reason, names) in by_reason {
        let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
        println!("* {}: {reason}", names.join(", "));
    }
}

/// How long trains were, and why not longer
fn trains(report: &LoadReport) {
    let Some(trains) = &report.trains else { return };
    for (end, trains) in [("sender", &trains.sender), ("receiver", &trains.receiver)] {
        let list = |table: &BTreeMap<String, u64>, order: &[&str]| -> String {
            let all = order.iter().filter_map(|label| Some((label, table.get(*label)?)));
            let some = all.filter(|(_, count)| **count > 0);
            let texts: Vec<String> =
                some.map(|(label, count)| format!("{label}: {count}")).collect();
            if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
        };
        println!(
            "{end} trains sent by length: {}; ended by {}; held back by {}; received by length: {}",
            list(&trains.sent.by_length, &TRAIN_LENGTHS),
            list(&trains.sent.ended, &TrainEnd::ALL.map(TrainEnd::label)),
            list(&trains.sent.held_back, &["pacing", "pool"]),
            list(&trains.received.by_length, &TRAIN_LENGTHS),
        );
    }
}

/// What a run ends with
pub fn end(report: &LoadReport) {
    side("sender", &report.sender);
    side("receiver", &report.receiver);
    costs(report);
    trains(report);
    let loss = &report.loss;
    println!(
        "loss: {} QUIC packets declared lost by the sender: {} socket ({} buffers), {} network, {} \
         spurious; ACK ratio {}; {} flow octets sent again; {} connection replacement(s)",
        loss.packets_lost,
        known(loss.socket),
        loss.socket_overflow_buffers,
        known(loss.network),
        loss.spurious,
        known(report.ack_ratio.map(|ratio| format!("{ratio:.4}"))),
        report.flow_bytes_resent,
        report.connection_replacements,
    );
    println!(
        "congestion window {} octets, round trip {} us, at most {} packets on one key{}",
        known(report.congestion_window_bytes),
        known(report.rtt_us.map(|us| format!("{us:.0}"))),
        known(report.packets_per_key_max),
        report.packets_per_key.map_or_else(String::new, |keys| format!(
            " now, {} during the run: {:.1} % of what it may protect",
            keys.most,
            keys.share * 100.0
        )),
    );
    if let Some(losses) = &report.losses {
        println!(
            "{} octets of streams sent again; {} small datagrams (acknowledgements, control) sent by \
             the receiver, {} arrived",
            losses.stream_bytes_retransmitted,
            losses.small_datagrams_sent_by_receiver,
            losses.small_datagrams_received_by_sender,
        );
    }
    for part in report.ceilings.iter().flatten() {
        ceiling(part);
    }
    println!(
        "{} over {:.3} s; {} octets, {}, {} lost; {} of the ceiling of {}; binding stage {}",
        gbps(Some(report.goodput_gbps)),
        report.seconds,
        report.bytes,
        if report.verified { "every octet verified" } else { "NOT VERIFIED" },
        known(report.lost_bytes),
        known(report.fraction_of_ceiling.map(|part| format!("{:.1} %", part * 100.0))),
        gbps(report.ceiling_gbps),
        report.binding_stage,
    );
}

/// One pair of an interleaved comparison
pub fn pair(index: usize, a: &LoadReport, b: &LoadReport) {
    println!(
        "pair {:2}: A {:.3} Gb/s, B {:.3} Gb/s, B over A {:.3}",
        index + 1,
        a.goodput_gbps,
        b.goodput_gbps,
        b.goodput_gbps / a.goodput_gbps
    );
}

/// A comparison
pub fn comparison(comparison: &Comparison) {
    if comparison.hosts[0] != comparison.hosts[1] {
        println!("DIFFERENT HOSTS {} and {}", comparison.hosts[0], comparison.hosts[1]);
    }
    println!("{:24} {:>28} {:>28} {:>30}", "median (least to most)", "A", "B", "B over A");
    for figure in &comparison.figures {
        let spread = |s: &Spread| format!("{:.4} ({:.4} to {:.4})", s.median, s.least, s.most);
        println!(
            "{:24} {:>28} {:>28} {:>30}",
            figure.name,
            spread(&figure.a),
            spread(&figure.b),
            spread(&figure.ratio)
        );
    }
    println!(
        "{} run(s) of A, {} of B; ratios {}",
        comparison.figures.first().map_or(0, |figure| figure.a.count),
        comparison.figures.first().map_or(0, |figure| figure.b.count),
        if comparison.paired { "pair by pair" } else { "of medians" }
    );
}
