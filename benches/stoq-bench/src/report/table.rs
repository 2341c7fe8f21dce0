//! Tables of recorded figures, as aligned text and as Markdown. Every figure is printed as
//! recorded; a row without figures is printed with its reason.

use super::LoadRecord;
use crate::peers::record::{PeersRecord, Row};

const HEADERS: [&str; 9] = [
    "payload",
    "peer",
    "peer, Gb/s (quartiles)",
    "ours, Gb/s (quartiles)",
    "ours over theirs (quartiles)",
    "pairs",
    "peer, cores busy (s/GB) sender; receiver",
    "ours, cores busy (s/GB) sender; receiver",
    "path",
];

fn spread(median: Option<f64>, quartiles: Option<[f64; 2]>) -> String {
    match median.zip(quartiles) {
        Some((median, [lower, upper])) => format!("{median:.2} ({lower:.2} to {upper:.2})"),
        None => "unknown".to_owned(),
    }
}

fn cpu(cores: Option<f64>, seconds_per_gigabyte: Option<f64>) -> String {
    match cores.zip(seconds_per_gigabyte) {
        Some((cores, seconds)) => format!("{cores:.2} ({seconds:.2})"),
        None => "unknown".to_owned(),
    }
}

/// The peer with its version
pub fn label(row: &Row) -> String {
    format!("{} {}", row.peer, row.version).trim_end().to_owned()
}

/// The cells of a row; of one without figures, the first two and the reason
fn cells(row: &Row) -> Result<[String; 9], [String; 3]> {
    let payload = row.payload.to_string();
    if let Some(reason) = &row.skipped {
        return Err([payload, label(row), format!("not measured: {reason}")]);
    }
    Ok([
        payload,
        label(row),
        spread(row.gbps_median, row.gbps_quartiles),
        spread(row.ours_gbps_median, row.ours_gbps_quartiles),
        spread(row.ratio_median, row.ratio_quartiles),
        row.pairs.to_string(),
        [
            cpu(row.cpu_sender, row.cpu_sender_s_per_gb),
            cpu(row.cpu_receiver, row.cpu_receiver_s_per_gb),
        ]
        .join("; "),
        [
            cpu(row.ours_cpu_sender, row.ours_cpu_sender_s_per_gb),
            cpu(row.ours_cpu_receiver, row.ours_cpu_receiver_s_per_gb),
        ]
        .join("; "),
        row.path.clone(),
    ])
}

/// Where and how it was measured, in one sentence
fn setting(record: &PeersRecord) -> String {
    let (host, how) = (&record.fingerprint, &record.conditions);
    format!(
        "{}, {} processors, kernel {}, {}; one connection, {} s after {} s of warm-up, sender on \
         core {}, receiver on core {}; every octet verified at the receiver",
        host.cpu_model.as_deref().unwrap_or("unknown processor"),
        host.cpus,
        host.kernel.as_deref().unwrap_or("unknown"),
        how.date,
        how.duration_s,
        how.omit_s,
        how.cores[0],
        how.cores[1],
    )
}

/// What readers must know, one line per note
fn notes(record: &PeersRecord) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for row in &record.rows {
        for note in &row.notes {
            let line = format!("{}: {note}", row.peer);
            if !all.contains(&line) {
                all.push(line);
            }
        }
    }
    all
}

/// One aligned table for a terminal
pub fn text(record: &PeersRecord) -> String {
    let rows: Vec<_> = record.rows.iter().map(cells).collect();
    let mut widths = HEADERS.map(str::len);
    for row in rows.iter().flatten() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    for row in rows.iter().filter_map(|row| row.as_ref().err()) {
        widths[1] = widths[1].max(row[1].len());
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut out = setting(record) + "\n" + &line(&mut HEADERS.into_iter());
    for row in &rows {
        out += &match row {
            Ok(cells) => line(&mut cells.iter().map(String::as_str)),
            Err(cells) => line(&mut cells.iter().map(String::as_str)),
        };
    }
    notes(record).iter().for_each(|note| out += &format!("note: {note}\n"));
    out.trim_end().to_owned()
}

fn markdown_line(cells: &[String]) -> String {
    let escaped = cells.iter().map(|cell| cell.replace('|', "\\|").replace(['\n', '\r'], " "));
    format!("| {} |\n", escaped.collect::<Vec<_>>().join(" | "))
}

fn markdown_head(headers: &[&str]) -> String {
    let names: Vec<String> = headers.iter().map(|name| (*name).to_owned()).collect();
    markdown_line(&names) + &format!("|{}\n", "---|".repeat(headers.len()))
}

/// The table of the README
pub fn markdown(record: &PeersRecord) -> String {
    let mut out = setting(record) + ".\n\n" + &markdown_head(&HEADERS);
    for row in &record.rows {
        out += &match cells(row) {
            Ok(cells) => markdown_line(&cells),
            Err(cells) => {
                let empty = std::iter::repeat_n(String::new(), HEADERS.len() - cells.len());
                markdown_line(&cells.into_iter().chain(empty).collect::<Vec<_>>())
            }
        };
    }
    let notes = notes(record);
    if !notes.is_empty() {
        out += "\n";
        notes.iter().for_each(|note| out += &format!("* {note}\n"));
    }
    out
}

/// A table of loads
pub fn loads_markdown(loads: &[LoadRecord]) -> String {
    let mut out = markdown_head(&[
        "record",
        "host",
        "path",
        "payload",
        "goodput, Gb/s",
        "of the ceiling, Gb/s",
        "cores busy sender; receiver",
        "binding stage",
        "verified; octets lost",
    ]);
    let unknown = || "unknown".to_owned();
    for load in loads {
        let ceiling = load.fraction_of_ceiling.zip(load.ceiling_gbps);
        let ceiling = ceiling.map(|(part, gbps)| format!("{:.0} % of {gbps:.1}", part * 100.0));
        let lost = load.lost_bytes.map_or_else(unknown, |bytes| bytes.to_string());
        out += &markdown_line(&[
            load.file.clone(),
            format!(
                "{} {}",
                load.start.host.cpu_model.as_deref().unwrap_or_default(),
                load.start.host.id
            ),
            load.start.path.clone().unwrap_or_else(unknown),
            load.start.payload_bytes.to_string(),
            format!("{:.2}", load.goodput_gbps),
            ceiling.unwrap_or_else(|| "not measured".to_owned()),
            format!("{:.2}; {:.2}", load.sender.cores(), load.receiver.cores()),
            load.binding_stage.clone(),
            format!("{}; {lost}", if load.verified { "yes" } else { "NO" }),
        ]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::record::example;

    #[test]
    fn the_markdown_table_holds_the_recorded_figures_and_the_reason_of_a_gap() {
        let text = markdown(&example());
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 2 + 4);
        let columns = |line: &str| line.matches('|').count();
        assert!(rows.iter().all(|row| columns(row) == columns(rows[0])), "{text}");
        let quinn = rows[2];
        for part in ["1452", "quinn 1.2", "4.00 (3.50 to 4.00)", "8.00 (7.00 to 8.50)", "loopback"]
        {
            assert!(quinn.contains(part), "{part} is not in {quinn}");
        }
        assert!(quinn.contains("| 2.00 (1.75 to 2.50) | 3 |"));
        assert!(rows[3].contains("wireguard") && rows[3].contains("not measured: no such <link>"));
        assert!(text.contains("2026-11-22"));
    }

    #[test]
    fn the_terminal_table_is_aligned_and_tells_the_notes_once() {
        let mut record = example();
        for row in &mut record.rows {
            row.notes.push("segments off".into());
        }
        let text = text(&record);
        let lines: Vec<&str> = text.lines().collect();
        let column = lines[1].find("peer, Gb/s").unwrap();
        assert_eq!(lines[2].find("4.00 (3.50"), Some(column));
        assert_eq!(lines[3].find("not measured"), Some(column));
        assert_eq!(lines.iter().filter(|line| line.contains("segments off")).count(), 2);
    }

    #[test]
    fn a_cell_cannot_break_the_table() {
        assert_eq!(markdown_line(&["a|b\nc".to_owned()]), "| a\\|b c |\n");
        let load = serde_json::to_value(crate::load::report::example()).unwrap();
        let mut load: LoadRecord = serde_json::from_value(load).unwrap();
        load.file = "load-1.json".into();
        load.fraction_of_ceiling = Some(0.5);
        load.ceiling_gbps = Some(20.0);
        let text = loads_markdown(&[load]);
        assert!(text.contains("| load-1.json |") && text.contains("50 % of 20.0"));
    }
}
