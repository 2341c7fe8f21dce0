//! From [`Config`] back to text: the effective configuration, which parses to the same values.

use toml::Value;

use crate::Config;
use crate::rows::SECTIONS;
use crate::schema::{KEYS, split};

/// A value as it is written in a file
pub(crate) fn render(value: &Value) -> String {
    value.to_string()
}

pub(crate) fn effective_toml(config: &Config) -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        let (of, last) = split(key.name);
        if of != section {
            text.push_str(&format!("{}[{of}]\n", if section.is_empty() { "" } else { "\n" }));
            section = of;
        }
        text.push_str(&format!("{last} = {}\n", render(&(key.get)(config))));
    }
    for section in SECTIONS {
        for (_, row) in (section.rows)(config) {
            text.push_str(&format!("\n[[{}]]\n", section.name));
            for key in section.keys {
                if let Some(value) = row.get(key.name) {
                    text.push_str(&format!("{} = {}\n", key.name, render(value)));
                }
            }
        }
    }
    text
}
