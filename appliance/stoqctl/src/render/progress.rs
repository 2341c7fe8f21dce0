//! How a copy shows itself while it runs: a bar on a terminal, a line now and then elsewhere, JSON lines
//! where they were asked for.

use std::io;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use stoq_admin::api::{CopyEvent, CopyProgress, Envelope};

use super::{talk, write_data};
use crate::human;

/// Plain lines are at least this far apart
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// Frames of the bar per second
const FRAMES_PER_SECOND: u8 = 10;

/// Longest name of a file beside the bar
const NAME_CHARACTERS_MAX: usize = 40;

pub(crate) enum Progress {
    Silent,
    Bar(ProgressBar),
    Lines { last: Option<Instant> },
    JsonLines { schema: String, broken: Option<io::Error> },
}

impl Progress {
    pub(super) fn silent() -> Self {
        Self::Silent
    }

    pub(super) fn bar() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(FRAMES_PER_SECOND);
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let template = "{wide_bar} {percent:>3}%  {prefix}  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self::Bar(bar)
    }

    pub(super) fn lines() -> Self {
        Self::Lines { last: None }
    }

    pub(super) fn json_lines(schema: &str) -> Self {
        Self::JsonLines { schema: schema.to_owned(), broken: None }
    }

    /// Shows the newest report
    pub(crate) fn show(&mut self, report: CopyProgress) {
        match self {
            Self::Silent => {}
            Self::Bar(bar) => {
                bar.set_length(report.bytes_total);
                bar.set_position(report.bytes_done);
                bar.set_prefix(figures(&report));
                bar.set_message(current(&report));
            }
            Self::Lines { last } => {
                if last.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) {
                    *last = Some(Instant::now());
                    talk(&format!("{}  {}", figures(&report), current(&report)));
                }
            }
            Self::JsonLines { schema, broken } => {
                let body = CopyEvent::Progress(report);
                let line = serde_json::to_string(&Envelope { schema: schema.clone(), body });
                let printed = line.map_err(io::Error::from).and_then(|line| write_data(&line));
                if let Err(error) = printed {
                    broken.get_or_insert(error);
                }
            }
        }
    }

    /// Clears the bar; says whether a line could not be printed
    pub(crate) fn end(self) -> io::Result<()> {
        match self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::JsonLines { broken: Some(error), .. } => return Err(error),
            _ => {}
        }
        Ok(())
    }
}

/// `1.0 MiB of 4.0 MiB, 1 of 3 files, 350.0 KiB/s, 9.0 s left`
fn figures(report: &CopyProgress) -> String {
    let left = report.bytes_total.saturating_sub(report.bytes_done);
    let left = match human::time_left(left, report.bytes_per_second) {
        Some(left) => format!(", {} left", human::duration(left.as_secs_f64())),
        None => String::new(),
    };
    format!(
        "{} of {}, {} of {}, {}{left}",
        human::bytes(report.bytes_done),
        human::bytes(report.bytes_total),
        report.files_done,
        human::count(report.files_total, "file"),
        human::rate(report.bytes_per_second),
    )
}

/// The end of the current file's name: the part that differs from the last one's
fn current(report: &CopyProgress) -> String {
    let name = human::printable(report.current.as_deref().unwrap_or_default());
    let length = name.chars().count();
    if length <= NAME_CHARACTERS_MAX {
        return name;
    }
    name.chars().skip(length - NAME_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_say_bytes_files_rate_and_time_left() {
        let report = CopyProgress {
            bytes_done: 1 << 20,
            bytes_total: 4 << 20,
            files_done: 1,
            files_total: 3,
            current: None,
            bytes_per_second: f64::from(1 << 20),
        };
        assert_eq!(figures(&report), "1.0 MiB of 4.0 MiB, 1 of 3 files, 1.0 MiB/s, 3.0 s left");
    }

    #[test]
    fn a_long_or_hostile_name_is_cut_and_escaped() {
        let report = CopyProgress {
            current: Some(format!("{}\u{1b}end", "a".repeat(100))),
            ..CopyProgress::default()
        };
        let shown = current(&report);
        assert_eq!(shown.chars().count(), NAME_CHARACTERS_MAX);
        assert!(shown.ends_with("\\u{1b}end"));
    }
}
