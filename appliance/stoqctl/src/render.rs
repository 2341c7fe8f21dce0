//! All output of `stoqctl`. Data goes to the standard output, talk to the error stream; a report is printed
//! as JSON or as text, never as a mixture.

use std::env;
use std::io::{self, IsTerminal, Write};

use stoq_admin::api::{Envelope, ErrorBody};
use stoq_admin::{ApiError, ExitCode};

use crate::command_line::Flags;
use crate::human::printable;

mod progress;
mod stages;

pub(crate) use progress::Progress;
pub(crate) use stages::{Stage, Stages};

/// What a cell means; shown as colour on a terminal
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

/// One piece of text with its meaning
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    pub(crate) fn toned(text: impl ToString, tone: Tone) -> Self {
        Self { text: printable(&text.to_string()), tone, right: false }
    }

    /// A figure: aligned to the right
    pub(crate) fn figure(text: impl ToString) -> Self {
        Self { text: printable(&text.to_string()), tone: Tone::Plain, right: true }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// Plain text, aligned to the left
pub(crate) fn cell(text: impl ToString) -> Cell {
    Cell::toned(text, Tone::Plain)
}

/// Part of what people read
#[derive(Debug)]
enum Block {
    Fields(Vec<(&'static str, Cell)>),
    Table { head: Vec<&'static str>, rows: Vec<Vec<Cell>> },
    Text(String),
}

/// The outcome of a command: its JSON, its text, what to say beside it, and how to end
#[derive(Debug)]
pub(crate) struct Report {
    json: String,
    blocks: Vec<Block>,
    notes: Vec<String>,
    failure: Option<ApiError>,
    exit: ExitCode,
}

impl Report {
    pub(crate) fn new(json: String) -> Self {
        let (blocks, notes) = (Vec::new(), Vec::new());
        Self { json, blocks, notes, failure: None, exit: ExitCode::Done }
    }

    /// The report is of a failure whose JSON is not the usual one
    pub(crate) fn failure(mut self, error: ApiError) -> Self {
        self.exit = error.exit_code;
        self.failure = Some(error);
        self
    }

    /// Names and values, one per line
    pub(crate) fn fields(mut self, fields: Vec<(&'static str, Cell)>) -> Self {
        self.blocks.push(Block::Fields(fields));
        self
    }

    /// Aligned columns; without rows only the note is said
    pub(crate) fn table(
        mut self,
        head: &[&'static str],
        rows: Vec<Vec<Cell>>,
        when_empty: &str,
    ) -> Self {
        if rows.is_empty() {
            return self.note(when_empty);
        }
        self.blocks.push(Block::Table { head: head.to_vec(), rows });
        self
    }

    /// Text that is the data itself, such as a file; printed as it is
    pub(crate) fn text(mut self, text: impl Into<String>) -> Self {
        self.blocks.push(Block::Text(text.into()));
        self
    }

    /// A sentence for the error stream
    pub(crate) fn note(mut self, note: impl AsRef<str>) -> Self {
        self.notes.push(printable(note.as_ref()));
        self
    }

    /// How `stoqctl` ends
    pub(crate) fn exit(mut self, exit: ExitCode) -> Self {
        self.exit = exit;
        self
    }
}

/// Where and how everything is printed
#[derive(Clone, Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    color: bool,
}

impl Output {
    pub(crate) fn new(flags: &Flags) -> Self {
        // https://no-color.org: set and not empty
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = !flags.no_color && !unwanted && io::stdout().is_terminal();
        Self { json: flags.json, quiet: flags.quiet, color }
    }

    /// Prints the outcome; the exit code says also when printing failed
    pub(crate) fn finish(&self, schema: &str, result: Result<Report, ApiError>) -> ExitCode {
        match result {
            Ok(report) => {
                if !self.json && !self.quiet {
                    report.notes.iter().for_each(|note| talk(note));
                }
                if let Some(error) = report.failure.filter(|_| !(self.json && self.quiet)) {
                    show_error(&error);
                }
                let text = if self.json { report.json } else { self.render(&report.blocks) };
                if write_data(&text).is_err() { ExitCode::Failed } else { report.exit }
            }
            Err(error) => {
                let exit = error.exit_code;
                if !(self.json && self.quiet) {
                    show_error(&error);
                }
                if self.json {
                    json_error(schema, error);
                }
                exit
            }
        }
    }

    /// A sentence about something long that goes on; not for data
    pub(crate) fn say(&self, sentence: &str) {
        if !(self.json || self.quiet) {
            talk(sentence);
        }
    }

    /// Shows how something long goes on
    pub(crate) fn progress(&self, schema: &str) -> Progress {
        if self.json {
            Progress::json_lines(schema)
        } else if self.quiet {
            Progress::silent()
        } else if io::stderr().is_terminal() {
            Progress::bar()
        } else {
            Progress::lines()
        }
    }

    /// Shows at which stage something long is
    pub(crate) fn stages(&self, schema: &str) -> Stages {
        if self.json {
            Stages::json_lines(schema)
        } else if self.quiet {
            Stages::silent()
        } else if io::stderr().is_terminal() {
            Stages::bar()
        } else {
            Stages::lines()
        }
    }

    fn render(&self, blocks: &[Block]) -> String {
        let mut text = String::new();
        for (index, block) in blocks.iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            match block {
                Block::Fields(fields) => self.render_fields(fields, &mut text),
                Block::Table { head, rows } => self.render_table(head, rows, &mut text),
                Block::Text(raw) => text.push_str(raw),
            }
        }
        text
    }

    fn render_fields(&self, fields: &[(&'static str, Cell)], text: &mut String) {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in fields {
            text.push_str(&format!("{name:width$}  {}\n", self.painted(value)));
        }
    }

    fn render_table(&self, head: &[&'static str], rows: &[Vec<Cell>], text: &mut String) {
        let width_of = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(Cell::width);
            cells.chain([head[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width_of).collect();
        let right = |column: usize| {
            rows.first().and_then(|row| row.get(column)).is_some_and(|cell| cell.right)
        };
        let mut line = |cells: Vec<(String, usize)>| {
            let mut built = String::new();
            for (column, (painted, width)) in cells.into_iter().enumerate() {
                let padding = " ".repeat(widths[column].saturating_sub(width));
                if column > 0 {
                    built.push_str("  ");
                }
                if right(column) {
                    built.push_str(&padding);
                    built.push_str(&painted);
                } else {
                    built.push_str(&painted);
                    built.push_str(&padding);
                }
            }
            text.push_str(built.trim_end());
            text.push('\n');
        };
        line(head.iter().map(|name| (name.to_uppercase(), name.len())).collect());
        for row in rows {
            line(row.iter().map(|cell| (self.painted(cell), cell.width())).collect());
        }
    }

    fn painted(&self, cell: &Cell) -> String {
        let code = match cell.tone {
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Plain => return cell.text.clone(),
        };
        if self.color { format!("\x1b[{code}m{}\x1b[0m", cell.text) } else { cell.text.clone() }
    }
}

fn write_data(text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}

/// Says something on the error stream; where even that is closed there is nobody left to tell
fn talk(sentence: &str) {
    let _nobody_listens = writeln!(io::stderr().lock(), "{sentence}");
}

fn show_error(error: &ApiError) {
    // A message may hold several lines, such as every mistake of a file.
    for (index, line) in error.message.lines().enumerate() {
        let lead = if index == 0 { "error: " } else { "       " };
        talk(&format!("{lead}{}", printable(line)));
    }
    if !error.remedy.is_empty() {
        talk(&format!("remedy: {}", printable(&error.remedy)));
    }
}

/// Prints an error as the JSON that was asked for
pub(crate) fn json_error(schema: &str, error: ApiError) {
    let envelope = Envelope { schema: schema.to_owned(), body: ErrorBody { error } };
    let printed = serde_json::to_string(&envelope)
        .map_err(io::Error::from)
        .and_then(|json| write_data(&json));
    if let Err(error) = printed {
        talk(&format!("error: cannot print the error as JSON: {error}"));
    }
}

/// Prints clap's own text to the stream it belongs to
pub(crate) fn show_clap(error: &clap::Error) {
    if let Err(failed) = error.print() {
        talk(&format!("error: {failed}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(color: bool) -> Output {
        Output { json: false, quiet: false, color }
    }

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec![cell("a"), Cell::figure("5"), Cell::toned("up", Tone::Good)],
            vec![cell("longer"), Cell::figure("1234"), Cell::toned("down", Tone::Bad)],
        ]
    }

    #[test]
    fn columns_are_aligned_and_figures_to_the_right() {
        let report = Report::new(String::new()).table(&["name", "n", "state"], rows(), "none");
        assert_eq!(
            output(false).render(&report.blocks),
            "NAME       N  STATE\na          5  up\nlonger  1234  down\n"
        );
    }

    #[test]
    fn colours_do_not_shift_columns_and_stay_away_when_unwanted() {
        let report = Report::new(String::new()).table(&["name", "n", "state"], rows(), "none");
        let painted = output(true).render(&report.blocks);
        assert!(painted.contains("\x1b[32mup\x1b[0m"));
        let stripped =
            painted.replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[0m", "");
        assert_eq!(stripped, output(false).render(&report.blocks));
        assert!(!output(false).render(&report.blocks).contains('\x1b'));
    }

    #[test]
    fn an_empty_table_is_a_sentence_and_no_data() {
        let report = Report::new(String::new()).table(&["name"], Vec::new(), "nothing here");
        assert!(output(false).render(&report.blocks).is_empty());
        assert_eq!(report.notes, ["nothing here"]);
    }
}
