//! What a reload would change: the difference of two configurations, key by key, with what each change needs.

use std::collections::BTreeMap;

use toml::Value;

use crate::rows::{Row, SECTIONS};
use crate::schema::{Effect, KEYS};
use crate::{Config, write};

/// One key that differs
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// The dotted key; a row is named by what identifies it, such as `service.web`
    pub key: String,
    /// The value before, as it is written in a file; `None` for a row that is new
    pub before: Option<String>,
    /// The value after; `None` for a row that is gone
    pub after: Option<String>,
    /// Whether a reload suffices; otherwise the daemon must be started again
    pub reloadable: bool,
}

pub(crate) fn diff(before: &Config, after: &Config) -> Vec<Change> {
    let mut changes: Vec<Change> = KEYS
        .iter()
        .filter_map(|key| {
            let (old, new) = ((key.get)(before), (key.get)(after));
            (old != new).then(|| Change {
                key: key.name.to_owned(),
                before: Some(write::render(&old)),
                after: Some(write::render(&new)),
                reloadable: key.effect == Effect::Reload,
            })
        })
        .collect();
    for section in SECTIONS {
        diff_rows(section.name, (section.rows)(before), (section.rows)(after), &mut changes);
    }
    changes
}

fn diff_rows(
    section: &str,
    before: Vec<(String, Row)>,
    after: Vec<(String, Row)>,
    changes: &mut Vec<Change>,
) {
    let render = |row: Row| {
        let table = row.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        write::render(&Value::Table(table))
    };
    let mut rows: BTreeMap<String, (Option<Row>, Option<Row>)> = BTreeMap::new();
    for (identity, row) in before {
        rows.entry(identity).or_default().0 = Some(row);
    }
    for (identity, row) in after {
        rows.entry(identity).or_default().1 = Some(row);
    }
    changes.extend(rows.into_iter().filter(|(_, (old, new))| old != new).map(
        |(identity, (old, new))| Change {
            key: format!("{section}.{identity}"),
            before: old.map(render),
            after: new.map(render),
            reloadable: true,
        },
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse("test", text).unwrap()
    }

    #[test]
    fn equal_configurations_do_not_differ() {
        assert_eq!(parse("").diff(&Config::default()), []);
    }

    #[test]
    fn each_change_says_whether_a_reload_suffices() {
        let after = parse("[transport]\npacing = true\n[workers]\ncores = [0]\n");
        let changes = Config::default().diff(&after);
        let seen: Vec<_> = changes.iter().map(|c| (c.key.as_str(), c.reloadable)).collect();
        assert_eq!(seen, [("workers.cores", false), ("transport.pacing", true)]);
        assert_eq!(changes[0].before.as_deref(), Some("\"auto\""));
        assert_eq!(changes[0].after.as_deref(), Some("[0]"));
    }

    #[test]
    fn rows_are_added_removed_and_changed_by_identity() {
        let web = "[[service]]\nname = \"web\"\nto = \"[::1]:80\"\n";
        let ssh = "[[service]]\nname = \"ssh\"\nto = \"[::1]:22\"\n";
        let moved = "[[service]]\nname = \"web\"\nto = \"[::1]:81\"\n";
        let keys = |from: &str, to: &str| {
            let changes = parse(from).diff(&parse(to));
            changes
                .into_iter()
                .map(|c| (c.key, c.before.is_some(), c.after.is_some()))
                .collect::<Vec<_>>()
        };
        assert_eq!(keys("", web), [("service.web".to_owned(), false, true)]);
        assert_eq!(keys(web, ""), [("service.web".to_owned(), true, false)]);
        assert_eq!(keys(web, moved), [("service.web".to_owned(), true, true)]);
        let (both, swapped) = (format!("{web}{ssh}"), format!("{ssh}{web}"));
        assert_eq!(keys(&both, &swapped), []);
    }
}
