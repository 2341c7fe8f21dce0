//! The comparison as a picture: grouped horizontal bars, medians with quartile whiskers, as SVG
//! written by hand. It draws recorded figures and computes none.

use std::fmt::Write as _;

use super::ReportError;
use super::table::label;
use crate::peers::record::{PeersRecord, Row};

/// Width of the picture, in pixels, as all that follows
const WIDTH: f64 = 900.0;
/// Where bars begin
const LEFT: f64 = 200.0;
/// What stays free behind the longest bar, for its figures
const RIGHT: f64 = 190.0;
const TOP: f64 = 78.0;
const BAR: f64 = 12.0;
const ROW: f64 = 36.0;
const GROUP_HEAD: f64 = 30.0;
const AXIS: f64 = 40.0;
/// Characters of a reason that fit
const REASON_CHARACTERS: usize = 92;
/// Gridlines at most
const TICKS: f64 = 8.0;

const STYLE: &str = "\
.back{fill:#ffffff}.text{fill:#1f2328}.faint{fill:#59636e}.grid{stroke:#d1d9e0}\
.whisker{stroke:#1f2328}.ours{fill:#2f81f7}.theirs{fill:#9198a1}text{font:13px sans-serif}\
.title{font-size:16px;font-weight:bold}.head{font-weight:bold}.small{font-size:11px}\
@media(prefers-color-scheme:dark){.back{fill:#0d1117}\
.text{fill:#e6edf3}.faint{fill:#9198a1}.grid{stroke:#3d444d}.whisker{stroke:#e6edf3}}";

/// Text that cannot be taken for markup
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&apos;",
            // XML 1.0 has no way to write them.
            character if character.is_control() => out.push(' '),
            character => out.push(character),
        }
    }
    out
}

struct Canvas {
    out: String,
    /// Pixels per Gb/s
    scale: f64,
}

impl Canvas {
    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // A string takes everything.
        let _infallible = self.out.write_fmt(element);
        self.out.push('\n');
    }

    fn text(&mut self, at: [f64; 2], class: &str, anchor: &str, text: &str) {
        let ([x, y], text) = (at, escape(text));
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{text}\
             </text>"
        ));
    }

    fn line(&mut self, from: [f64; 2], to: [f64; 2], class: &str) {
        let ([x1, y1], [x2, y2]) = (from, to);
        self.put(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        ));
    }

    fn x(&self, gbps: f64) -> f64 {
        LEFT + gbps * self.scale
    }

    /// A bar to the median, a whisker from quartile to quartile, and the median in figures
    fn bar(&mut self, y: f64, class: &str, median: f64, [lower, upper]: [f64; 2], more: &str) {
        let width = median * self.scale;
        self.put(format_args!(
            "<rect x=\"{LEFT:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR:.1}\" \
             class=\"{class}\"/>"
        ));
        let middle = y + BAR / 2.0;
        let (from, to) = (self.x(lower), self.x(upper));
        self.line([from, middle], [to, middle], "whisker");
        for end in [from, to] {
            self.line([end, y + 3.0], [end, y + BAR - 3.0], "whisker");
        }
        let after = to.max(self.x(median)) + 6.0;
        self.text([after, y + BAR - 2.0], "small text", "start", &format!("{median:.2}{more}"));
    }

    fn row(&mut self, y: f64, row: &Row) {
        self.text([LEFT - 8.0, y + BAR + 4.0], "text", "end", &label(row));
        let figures = row.ours_gbps_median.zip(row.gbps_median).zip(row.ratio_median);
        let quartiles = row.ours_gbps_quartiles.zip(row.gbps_quartiles);
        let (Some(((ours, theirs), ratio)), Some((ours_ends, ends))) = (figures, quartiles) else {
            let reason = format!("not measured: {}", row.skipped.as_deref().unwrap_or("unknown"));
            let mut shown: String = reason.chars().take(REASON_CHARACTERS).collect();
            if shown.len() < reason.len() {
                shown.push('…');
            }
            self.text([LEFT + 4.0, y + BAR + 4.0], "small faint", "start", &shown);
            return;
        };
        let more = format!("  ({ratio:.2} times)");
        self.bar(y, "ours", ours, ours_ends, &more);
        self.bar(y + BAR + 2.0, "theirs", theirs, ends, "");
    }

    fn axis(&mut self, top: f64, bottom: f64, most: f64) {
        let step = tick(most);
        let mut at = 0.0;
        while at <= most {
            let x = self.x(at);
            self.line([x, top], [x, bottom], "grid");
            self.text([x, bottom + 15.0], "small faint", "middle", &format!("{at}"));
            at += step;
        }
        let caption = "goodput verified at the receiver, Gb/s (median; whiskers: quartiles)";
        self.text([LEFT, bottom + 32.0], "small faint", "start", caption);
    }
}

/// A step of 1, 2 or 5 times a power of ten that gives few lines up to `most`
fn tick(most: f64) -> f64 {
    let power = 10_f64.powf((most / TICKS).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps.into_iter().find(|step| most / step <= TICKS).unwrap_or(10.0 * power)
}

fn title(record: &PeersRecord) -> [String; 2] {
    let (host, how) = (&record.fingerprint, &record.conditions);
    let mut paths: Vec<&str> = Vec::new();
    for row in record.rows.iter().filter(|row| row.skipped.is_none()) {
        if !paths.contains(&row.path.as_str()) {
            paths.push(&row.path);
        }
    }
    let noisy = record.rows.iter().any(Row::is_noisy);
    let pairs = record.rows.iter().map(|row| row.pairs).filter(|pairs| *pairs > 0).min();
    [
        format!("stoq {} beside its peers, one connection, one core per side", how.stoq_version),
        format!(
            "{}, kernel {}; {}; path {}; {} or more interleaved pairs{}",
            host.cpu_model.as_deref().unwrap_or("unknown processor"),
            host.kernel.as_deref().unwrap_or("unknown"),
            how.date,
            paths.join(" and "),
            pairs.unwrap_or(0),
            if noisy { "; HOST NOT QUIET, other work ran beside" } else { "" },
        ),
    ]
}

/// The picture
///
/// # Errors
/// [`ReportError::Nothing`] where no row has figures.
pub fn svg(record: &PeersRecord) -> Result<String, ReportError> {
    let ends = record.rows.iter().flat_map(|row| [row.gbps_quartiles, row.ours_gbps_quartiles]);
    let most = ends.flatten().flatten().fold(0.0, f64::max);
    if most <= 0.0 {
        return Err(ReportError::Nothing("no row has figures, so there is nothing to draw"));
    }
    let mut payloads: Vec<u64> = record.rows.iter().map(|row| row.payload).collect();
    payloads.sort_unstable();
    payloads.dedup();
    let height = TOP + payloads.len() as f64 * GROUP_HEAD + record.rows.len() as f64 * ROW + AXIS;
    let mut canvas = Canvas { out: String::new(), scale: (WIDTH - LEFT - RIGHT) / most };
    canvas.put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\">"
    ));
    let [head, below] = title(record);
    canvas.put(format_args!("<title>{}</title>", escape(&head)));
    canvas.put(format_args!("<style>{STYLE}</style>"));
    canvas.put(format_args!("<rect width=\"{WIDTH:.0}\" height=\"{height:.0}\" class=\"back\"/>"));
    canvas.text([16.0, 24.0], "title text", "start", &head);
    canvas.text([16.0, 43.0], "small faint", "start", &below);
    for (x, class, name) in [(16.0, "ours", "stoq"), (80.0, "theirs", "the peer in the same pairs")]
    {
        canvas.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"54.0\" width=\"12.0\" height=\"12.0\" class=\"{class}\"/>"
        ));
        canvas.text([x + 17.0, 64.0], "small text", "start", name);
    }
    canvas.axis(TOP, height - AXIS, most);
    let mut y = TOP;
    for payload in payloads {
        let name = format!("UDP payload {payload} octets");
        canvas.text([16.0, y + GROUP_HEAD - 10.0], "head text", "start", &name);
        y += GROUP_HEAD;
        for row in record.rows.iter().filter(|row| row.payload == payload) {
            canvas.row(y, row);
            y += ROW;
        }
    }
    canvas.put(format_args!("</svg>"));
    Ok(canvas.out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::record::example;

    /// Every element opened is closed in order, attributes are quoted, text holds no bare markup;
    /// returns the elements' count by name
    fn elements(text: &str) -> std::collections::BTreeMap<String, usize> {
        let (mut open, mut found) = (Vec::new(), std::collections::BTreeMap::new());
        let mut rest = text.trim();
        while let Some(start) = rest.find('<') {
            for entity in rest[..start].split('&').skip(1) {
                let name = entity.split_once(';').expect("an entity ends").0;
                assert!(["amp", "lt", "gt", "quot", "apos"].contains(&name), "{name}");
            }
            assert!(!rest[..start].contains('>'), "bare > in {}", &rest[..start]);
            let end = start + rest[start..].find('>').expect("a tag ends");
            let tag = &rest[start + 1..end];
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
            } else {
                let name = tag.split([' ', '/']).next().unwrap().to_owned();
                *found.entry(name.clone()).or_insert(0) += 1;
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
            rest = &rest[end + 1..];
            if open.is_empty() {
                break;
            }
        }
        assert!(open.is_empty() && rest.is_empty(), "{open:?} {rest}");
        found
    }

    #[test]
    fn the_picture_is_well_formed_and_draws_every_measured_bar() {
        let text = svg(&example()).unwrap();
        let found = elements(&text);
        // Background, two of the legend, two for each of two measured rows.
        assert_eq!(found["rect"], 3 + 4);
        assert_eq!(found["svg"], 1);
        for part in
            ["2026-11-22", "path loopback", "Gb/s", "payload 1452", "payload 8952", "2.00 times"]
        {
            assert!(text.contains(part), "{part}");
        }
        assert!(text.contains("not measured: no such &lt;link&gt; here"));
        assert!(text.contains("prefers-color-scheme:dark") && !text.contains("NOT QUIET"));
        let mut noisy = example();
        noisy.rows[0].other_cpu = Some(0.8);
        assert!(svg(&noisy).unwrap().contains("HOST NOT QUIET"));
    }

    #[test]
    fn labels_cannot_become_markup() {
        let mut record = example();
        record.rows[0].peer = "<b>\"q\" & 'r'\u{7}".into();
        let text = svg(&record).unwrap();
        elements(&text);
        assert!(text.contains("&lt;b&gt;&quot;q&quot; &amp; &apos;r&apos;"));
    }

    #[test]
    fn without_figures_nothing_is_drawn() {
        let mut record = example();
        record.rows.retain(|row| row.skipped.is_some());
        assert!(matches!(svg(&record), Err(ReportError::Nothing(_))));
    }

    #[test]
    fn gridlines_are_few_and_round() {
        for (most, step) in [(8.0, 1.0), (9.0, 2.0), (22.0, 5.0), (0.7, 0.1), (75.0, 10.0)] {
            assert!((tick(most) - step).abs() < 1e-9, "{most}: {}", tick(most));
        }
    }
}
