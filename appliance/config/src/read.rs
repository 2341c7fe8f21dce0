//! From text to [`Config`]: walks the parsed document key by key, so that every value keeps its place in the
//! file and one mistake does not hide the next. Says where; what is wrong is said by `kind`, `schema`, `check`.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::Value;
use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, ConfigErrors, LoadError, Refusal};
use crate::rows::{Row, RowSection, SECTIONS};
use crate::{Config, FILE_BYTES_MAX, ROWS_MAX, check, schema};

/// Where in the text each key stands that the file sets, as an offset in octets
pub(crate) type Places = BTreeMap<String, usize>;

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    errors: Vec<ConfigError>,
    places: Places,
    config: Config,
}

pub(crate) fn read(path: &Path) -> Result<Config, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut octets = Vec::new();
    // One octet more than allowed, so that `parse` sees a file that is too long as such.
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut octets).map_err(failed)?;
    let name = path.display().to_string();
    match std::str::from_utf8(&octets) {
        Ok(text) => Ok(parse(&name, text)?),
        Err(error) => {
            let (line, column) = position(&octets, error.valid_up_to());
            Err(LoadError::Invalid(ConfigErrors::new(vec![ConfigError {
                file: name,
                line,
                column,
                key: "file".to_owned(),
                reason: "this is not UTF-8".to_owned(),
                remedy: "save the file as UTF-8".to_owned(),
            }])))
        }
    }
}

pub(crate) fn parse(file: &str, text: &str) -> Result<Config, ConfigErrors> {
    let mut reader =
        Reader { file, text, errors: Vec::new(), places: Places::new(), config: Config::default() };
    reader.document();
    if reader.errors.is_empty() {
        for (key, refusal) in check::check(&reader.config, &reader.places) {
            let place = reader.places.get(&key).copied().unwrap_or(0);
            // The line says which row; the key is shown as the manual spells it, without the row's index.
            let shown: Vec<&str> =
                key.split('.').filter(|part| part.parse::<usize>().is_err()).collect();
            reader.refuse(place, shown.join("."), refusal);
        }
    }
    if reader.errors.is_empty() { Ok(reader.config) } else { Err(ConfigErrors::new(reader.errors)) }
}

impl Reader<'_> {
    fn refuse(&mut self, place: usize, key: impl Into<String>, refusal: Refusal) {
        // Beyond the maximum a mistake is neither kept nor shown: memory stays bounded.
        if self.errors.len() < ConfigErrors::MAX {
            let (line, column) = position(self.text.as_bytes(), place);
            let Refusal { reason, remedy } = refusal;
            let file = self.file.to_owned();
            self.errors.push(ConfigError { file, line, column, key: key.into(), reason, remedy });
        }
    }

    fn document(&mut self) {
        let text = self.text;
        if text.len() > FILE_BYTES_MAX {
            let reason = format!("the file is longer than {FILE_BYTES_MAX} octets");
            let remedy = "this is not the file that was meant; check the path";
            return self.refuse(0, "file", Refusal::new(reason, remedy));
        }
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let place = error.span().map_or(0, |span| span.start);
                let reason = error.message().lines().collect::<Vec<_>>().join(", ");
                let remedy = "see https://toml.io/en/v1.0.0 for how a file is written";
                return self.refuse(place, "syntax", Refusal::new(reason, remedy));
            }
        };
        for (name, value) in table.get_ref() {
            self.section(name.get_ref(), name.span(), value);
        }
    }

    fn section(&mut self, name: &str, span: Range<usize>, value: &Spanned<DeValue<'_>>) {
        if let Some(rows) = SECTIONS.iter().find(|section| section.name == name) {
            return self.rows(rows, span, value);
        }
        let inner = format!("{name}.");
        let is_outer = schema::sections().iter().any(|section| section.starts_with(&inner));
        if let (true, Some(table)) = (is_outer, value.get_ref().as_table()) {
            for (key, value) in table {
                self.section(&format!("{inner}{}", key.get_ref()), key.span(), value);
            }
            return;
        }
        if !is_outer && !schema::sections().contains(&name) {
            let known: Vec<&str> =
                schema::sections().into_iter().chain(SECTIONS.iter().map(|s| s.name)).collect();
            return self.refuse(span.start, printable(name), unknown("section", name, &known));
        }
        let Some(table) = value.get_ref().as_table() else {
            let reason = format!("a value of type {} stands here", value.get_ref().type_str());
            let remedy = format!("write a section that starts with [{name}]");
            return self.refuse(span.start, name, Refusal::new(reason, remedy));
        };
        for (key, value) in table {
            self.value(name, key.get_ref(), key.span(), value);
        }
    }

    fn value(
        &mut self,
        section: &str,
        key: &str,
        span: Range<usize>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let name = format!("{section}.{key}");
        let Some(row) = schema::find(&name) else {
            let known: Vec<&str> = schema::KEYS
                .iter()
                .map(|key| schema::split(key.name))
                .filter(|(of, _)| *of == section)
                .map(|(_, last)| last)
                .collect();
            let refusal = unknown("key", key, &known);
            return self.refuse(span.start, printable(&name), refusal);
        };
        self.places.insert(name.clone(), span.start);
        let result = plain(value.get_ref()).and_then(|value| {
            row.kind.check(&value)?;
            (row.set)(&mut self.config, &value)
        });
        if let Err(refusal) = result {
            self.refuse(value.span().start, name, refusal);
        }
    }

    fn rows(&mut self, section: &RowSection, span: Range<usize>, value: &Spanned<DeValue<'_>>) {
        let name = section.name;
        let Some(rows) = value.get_ref().as_array() else {
            let reason = "this section may occur several times and is written as a list";
            let remedy = format!("write [[{name}]] with two brackets on each side");
            return self.refuse(span.start, name, Refusal::new(reason, remedy));
        };
        for (index, row) in rows.iter().enumerate() {
            let place = row.span().start;
            if index == ROWS_MAX {
                let reason = format!("there are more than {ROWS_MAX} rows");
                return self.refuse(place, name, Refusal::new(reason, "write fewer"));
            }
            match row.get_ref().as_table() {
                Some(table) => self.row(section, index, place, table),
                None => {
                    let remedy = format!("write each row as a section that starts with [[{name}]]");
                    self.refuse(place, name, Refusal::new("this row is not a section", remedy));
                }
            }
        }
    }

    fn row(&mut self, section: &RowSection, index: usize, place: usize, table: &DeTable<'_>) {
        let mut row = Row::new();
        let before = self.errors.len();
        self.places.insert(format!("{}.{index}", section.name), place);
        for (key, value) in table {
            let name = format!("{}.{}", section.name, key.get_ref());
            let Some(found) = section.keys.iter().find(|row_key| row_key.name == key.get_ref())
            else {
                let known: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
                let refusal = unknown("key", key.get_ref(), &known);
                self.refuse(key.span().start, printable(&name), refusal);
                continue;
            };
            self.places
                .insert(format!("{}.{index}.{}", section.name, found.name), key.span().start);
            match plain(value.get_ref()).and_then(|v| found.kind.check(&v).map(|()| v)) {
                Ok(value) => drop(row.insert(found.name, value)),
                Err(refusal) => self.refuse(value.span().start, name, refusal),
            }
        }
        if self.errors.len() > before {
            return;
        }
        for key in section.keys.iter().filter(|key| key.required && !row.contains_key(key.name)) {
            let reason = format!("this [[{}]] has no {:?}", section.name, key.name);
            let refusal = Refusal::new(reason, key.kind.remedy());
            self.refuse(place, format!("{}.{}", section.name, key.name), refusal);
        }
        if self.errors.len() == before
            && let Err((key, refusal)) = (section.push)(&mut self.config, &row)
        {
            let place = self
                .places
                .get(&format!("{}.{index}.{key}", section.name))
                .copied()
                .unwrap_or(place);
            self.refuse(place, format!("{}.{key}", section.name), refusal);
        }
    }
}

/// A document value without its places; nothing in the schema holds the kinds that have no counterpart
fn plain(value: &DeValue<'_>) -> Result<Value, Refusal> {
    match value {
        DeValue::String(text) => Ok(Value::String(text.to_string())),
        DeValue::Boolean(truth) => Ok(Value::Boolean(*truth)),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::Integer)
            .map_err(|_| Refusal::new("the number does not fit 64 bits", "write a smaller number")),
        DeValue::Array(items) => {
            let items: Result<Vec<Value>, Refusal> =
                items.iter().map(|item| plain(item.get_ref())).collect();
            items.map(Value::Array)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => Err(Refusal::new(
            format!("no key holds a value of type {}", value.type_str()),
            "see `stoqctl config explain` for what the key holds",
        )),
    }
}

/// Refuses a name that is not in the schema, and offers the nearest that is
fn unknown(what: &str, name: &str, known: &[&str]) -> Refusal {
    let nearest = known
        .iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min();
    let remedy = match nearest {
        Some((_, candidate)) => format!("did you mean {candidate:?}?"),
        None => format!("known here: {}", known.join(", ")),
    };
    Refusal::new(format!("unknown {what}"), remedy)
}

/// Edit distance, for names of a length that occurs in the schema
fn distance(left: &str, right: &str) -> usize {
    const NAME_BYTES_MAX: usize = 64;
    if left.len() > NAME_BYTES_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.bytes().enumerate() {
            let replace = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

/// A name from the file as it may be shown on a terminal: control characters escaped, length limited
fn printable(name: &str) -> String {
    const SHOWN_MAX: usize = 128;
    let shown: String = name.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if name.chars().nth(SHOWN_MAX).is_some() { format!("{shown}...") } else { shown }
}

/// Line and column, both from 1, of an offset; columns count characters
fn position(text: &[u8], offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |index| index + 1);
    let line = 1 + before.iter().filter(|b| **b == b'\n').count();
    // Octets 0b10xxxxxx continue a character.
    let column = 1 + before[line_start..].iter().filter(|b| **b & 0xc0 != 0x80).count();
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let text = "a\nß = é!".as_bytes();
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 2), (2, 1));
        assert_eq!(position(text, text.len() - 1), (2, 6));
        assert_eq!(position(text, usize::MAX), (2, 7));
    }

    #[test]
    fn distances() {
        for (left, right, expected) in [("", "abc", 3), ("abc", "abc", 0), ("pacin", "pacing", 1)] {
            assert_eq!(distance(left, right), expected);
        }
        assert_eq!(distance(&"x".repeat(65), "x"), usize::MAX);
    }
}
