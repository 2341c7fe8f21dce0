//! How something computed on this host shows itself while it runs: a bar on a terminal, a line for each stage
//! elsewhere, JSON lines where they were asked for.

use std::io;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use stoq_admin::api::Envelope;

use super::{talk, write_data};

/// Plain and JSON lines of one stage are at least this far apart
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// Frames of the bar per second
const FRAMES_PER_SECOND: u8 = 10;

/// Steps of the bar
const BAR_STEPS: u64 = 1_000;

/// At what it is
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Stage {
    /// Its name, for programs
    pub(crate) stage: &'static str,
    /// What is done of it all, 0 to 1; none where that cannot be told
    pub(crate) fraction: Option<f64>,
    /// Since the stage began
    pub(crate) elapsed_seconds: f64,
    /// In words
    #[serde(skip)]
    pub(crate) text: String,
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    #[serde(flatten)]
    stage: &'a Stage,
}

pub(crate) enum Stages {
    Silent,
    Bar(ProgressBar),
    Lines { last: Last },
    JsonLines { schema: String, last: Last, broken: Option<io::Error> },
}

/// When which stage was printed last
#[derive(Default)]
pub(crate) struct Last(Option<(Instant, &'static str)>);

impl Last {
    fn is_due(&mut self, stage: &'static str) -> bool {
        let due = self.0.is_none_or(|(at, of)| of != stage || at.elapsed() >= LINE_INTERVAL);
        if due {
            self.0 = Some((Instant::now(), stage));
        }
        due
    }
}

impl Stages {
    pub(super) fn silent() -> Self {
        Self::Silent
    }

    pub(super) fn bar() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(FRAMES_PER_SECOND);
        let bar = ProgressBar::with_draw_target(Some(BAR_STEPS), target);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent:>3}%  {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self::Bar(bar)
    }

    pub(super) fn lines() -> Self {
        Self::Lines { last: Last::default() }
    }

    pub(super) fn json_lines(schema: &str) -> Self {
        Self::JsonLines { schema: schema.to_owned(), last: Last::default(), broken: None }
    }

    /// Shows the newest report
    pub(crate) fn show(&mut self, stage: &Stage) {
        match self {
            Self::Silent => {}
            Self::Bar(bar) => {
                let fraction = stage.fraction.unwrap_or(0.0).clamp(0.0, 1.0);
                bar.set_position((fraction * BAR_STEPS as f64) as u64);
                bar.set_message(stage.text.clone());
            }
            Self::Lines { last } => {
                if last.is_due(stage.stage) {
                    talk(&stage.text);
                }
            }
            Self::JsonLines { schema, last, broken } => {
                if !last.is_due(stage.stage) {
                    return;
                }
                let body = Line { event: "progress", stage };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_said_once_and_then_now_and_then() {
        let mut last = Last::default();
        assert!(last.is_due("computing"));
        assert!(!last.is_due("computing"));
        assert!(last.is_due("checking"));
        last.0 = Instant::now().checked_sub(LINE_INTERVAL).map(|at| (at, "checking"));
        assert!(last.is_due("checking"));
    }

    #[test]
    fn a_line_is_flat() {
        let stage = Stage {
            stage: "computing",
            fraction: Some(0.5),
            elapsed_seconds: 2.0,
            text: "not for programs".into(),
        };
        assert_eq!(
            serde_json::to_value(Line { event: "progress", stage: &stage }).unwrap(),
            serde_json::json!({
                "event": "progress", "stage": "computing", "fraction": 0.5, "elapsed_seconds": 2.0
            })
        );
    }
}
