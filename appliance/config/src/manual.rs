//! Finds the text on a key in the commented default file, which is the manual. Its layout is law and tested:
//! prose lines start with `# `, settings that are only shown start with `#` and a letter or bracket.

use crate::DEFAULT_FILE;

pub(crate) fn explain(wanted: &str) -> Option<String> {
    let mut section = String::new();
    let mut prose: Vec<&str> = Vec::new();
    for line in DEFAULT_FILE.lines() {
        if line.is_empty() {
            prose.clear();
        } else if let Some(text) = prose_of(line) {
            prose.push(text);
        } else {
            let setting = line.trim_start_matches('#');
            let name = match setting.strip_prefix('[') {
                Some(header) => {
                    section = header.trim_matches(['[', ']']).to_owned();
                    section.clone()
                }
                None => format!("{section}.{}", setting.split(' ').next().unwrap_or_default()),
            };
            if name == wanted {
                return Some(prose.join("\n"));
            }
            prose.clear();
        }
    }
    None
}

/// The text of a prose line
fn prose_of(line: &str) -> Option<&str> {
    if line == "#" { Some("") } else { line.strip_prefix("# ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;
    use crate::rows::SECTIONS;
    use crate::schema::{Effect, KEYS, sections};
    use crate::{Config, write};

    #[test]
    fn every_key_and_section_is_explained() {
        let names = sections().into_iter().map(str::to_owned);
        let rows = SECTIONS.iter().map(|section| section.name.to_owned());
        for name in Config::keys().into_iter().chain(names).chain(rows) {
            let text = explain(&name).unwrap_or_else(|| panic!("{name} is not in the manual"));
            assert!(text.len() > 20, "{name}: {text:?}");
        }
        assert_eq!(explain("transport.no_such_key"), None);
        assert_eq!(explain(""), None);
    }

    #[test]
    fn the_manual_states_default_limits_and_effect_as_the_code_has_them() {
        for key in KEYS {
            let text = explain(key.name).unwrap();
            let default = write::render(&(key.get)(&Config::default()));
            let says = |sentence: String| {
                assert!(text.contains(&sentence), "{}: {sentence:?} not in {text:?}", key.name);
            };
            says(format!("Default {default}."));
            if let Kind::Integer { minimum, maximum } = key.kind {
                says(format!("Limits {minimum} to {maximum}."));
            }
            if let Kind::Choice(words) = key.kind {
                words.iter().for_each(|word| says(format!("\"{word}\"")));
            }
            says(match key.effect {
                Effect::Reload => "Reloadable.".to_owned(),
                Effect::Restart => "Restart.".to_owned(),
            });
        }
        for section in SECTIONS {
            for key in section.keys {
                let text = explain(&format!("{}.{}", section.name, key.name)).unwrap();
                assert!(text.contains("Reloadable."), "{}.{}", section.name, key.name);
                let need = if key.required { "Required." } else { "Default" };
                assert!(text.contains(need), "{}.{}", section.name, key.name);
            }
        }
    }

    #[test]
    fn the_manual_holds_no_key_that_is_not_in_the_schema() {
        let uncommented: String = DEFAULT_FILE
            .lines()
            .map(|line| if prose_of(line).is_some() { "" } else { line.trim_start_matches('#') })
            .collect::<Vec<_>>()
            .join("\n");
        let config = Config::parse("uncommented", &uncommented).unwrap();
        assert_eq!(config.services.len(), 2);
        assert_eq!(config.attachments.len(), 1);
        assert_eq!(config.peers.len(), 1);
        assert_eq!(config.pins.len(), 1);
    }
}
