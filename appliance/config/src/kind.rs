//! The kinds of value a key can hold, as data: the same entry checks a value, words the refusal and makes the
//! JSON Schema. What a text means (an address, a path, a name) is decided by the key's setter, not here.

use serde_json::{Value as Json, json};
use toml::Value;

use crate::error::Refusal;

/// The shape of a key's value
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A whole number within limits, both included
    Integer { minimum: u64, maximum: u64 },
    /// `true` or `false`
    Boolean,
    /// One of these words
    Choice(&'static [&'static str]),
    /// A text that the setter parses
    Text { example: &'static str },
    /// Between none and `items_max` texts
    Texts { items_max: usize, example: &'static str },
    /// One of these words, or a list of texts
    WordOrTexts { words: &'static [&'static str], items_max: usize, example: &'static str },
    /// A word, or a list of whole numbers
    WordOrIntegers { word: &'static str, maximum: u64, items_max: usize },
}

impl Kind {
    /// Refuses a value of the wrong shape or outside the limits
    pub(crate) fn check(self, value: &Value) -> Result<(), Refusal> {
        match (self, value) {
            (Self::Integer { minimum, maximum }, Value::Integer(given)) => {
                in_range(*given, minimum, maximum)
            }
            (Self::Choice(words), Value::String(given)) if !words.contains(&given.as_str()) => {
                Err(Refusal::new(format!("{given:?} is not a choice"), one_of(words)))
            }
            (Self::WordOrTexts { words, example, .. }, Value::String(given))
                if !words.contains(&given.as_str()) =>
            {
                let remedy = format!("{}, or a list such as {example}", one_of(words));
                Err(Refusal::new(format!("{given:?} is not a choice"), remedy))
            }
            (Self::WordOrIntegers { maximum, items_max, .. }, Value::Array(items)) => {
                few(items, items_max)?;
                items.iter().try_for_each(|item| match item {
                    Value::Integer(given) => in_range(*given, 0, maximum),
                    other => Err(self.wrong_type(other)),
                })
            }
            (Self::WordOrIntegers { word, .. }, Value::String(given)) if given != word => {
                Err(self.refuse(format!("{given:?} is not a choice")))
            }
            (
                Self::Texts { items_max, .. } | Self::WordOrTexts { items_max, .. },
                Value::Array(items),
            ) => {
                few(items, items_max)?;
                match items.iter().find(|item| !item.is_str()) {
                    Some(other) => Err(self.wrong_type(other)),
                    None => Ok(()),
                }
            }
            (Self::Boolean, Value::Boolean(_))
            | (
                Self::Choice(_)
                | Self::Text { .. }
                | Self::WordOrTexts { .. }
                | Self::WordOrIntegers { .. },
                Value::String(_),
            ) => Ok(()),
            (_, other) => Err(self.wrong_type(other)),
        }
    }

    fn wrong_type(self, value: &Value) -> Refusal {
        self.refuse(format!("a value of type {} does not belong here", value.type_str()))
    }

    fn refuse(self, reason: String) -> Refusal {
        Refusal::new(reason, self.remedy())
    }

    /// What to write instead
    pub(crate) fn remedy(self) -> String {
        match self {
            Self::Integer { minimum, maximum } => {
                format!("write a whole number from {minimum} to {maximum}, without quotes")
            }
            Self::Boolean => "write true or false, without quotes".to_owned(),
            Self::Choice(words) => one_of(words),
            Self::Text { example } => format!("write a text such as \"{example}\""),
            Self::Texts { example, .. } => format!("write a list of texts such as {example}"),
            Self::WordOrTexts { words, example, .. } => {
                format!("{}, or a list such as {example}", one_of(words))
            }
            Self::WordOrIntegers { word, .. } => {
                format!("write \"{word}\" or a list of numbers such as [0, 1]")
            }
        }
    }

    /// The kind as JSON Schema
    pub(crate) fn json_schema(self) -> Json {
        match self {
            Self::Integer { minimum, maximum } => {
                json!({"type": "integer", "minimum": minimum, "maximum": maximum})
            }
            Self::Boolean => json!({"type": "boolean"}),
            Self::Choice(words) => json!({"enum": words}),
            Self::Text { example } => json!({"type": "string", "examples": [example]}),
            Self::Texts { items_max, .. } => texts(items_max),
            Self::WordOrTexts { words, items_max, .. } => {
                json!({"anyOf": [{"enum": words}, texts(items_max)]})
            }
            Self::WordOrIntegers { word, maximum, items_max } => json!({"anyOf": [
                {"const": word},
                {"type": "array", "maxItems": items_max, "uniqueItems": true,
                 "items": {"type": "integer", "minimum": 0, "maximum": maximum}},
            ]}),
        }
    }
}

fn texts(items_max: usize) -> Json {
    json!({"type": "array", "maxItems": items_max, "uniqueItems": true, "items": {"type": "string"}})
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    format!("write {}", quoted.join(" or "))
}

fn in_range(given: i64, minimum: u64, maximum: u64) -> Result<(), Refusal> {
    match u64::try_from(given) {
        Ok(number) if (minimum..=maximum).contains(&number) => Ok(()),
        _ => Err(Refusal::new(
            format!("{given} lies outside the limits"),
            format!("write a whole number from {minimum} to {maximum}"),
        )),
    }
}

fn few(items: &[Value], items_max: usize) -> Result<(), Refusal> {
    if items.len() <= items_max {
        return Ok(());
    }
    Err(Refusal::new(
        format!("the list has {} entries", items.len()),
        format!("write at most {items_max}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_inclusive_and_negative_numbers_are_outside() {
        let kind = Kind::Integer { minimum: 2, maximum: 9 };
        for (number, fits) in [(1, false), (2, true), (9, true), (10, false), (-3, false)] {
            assert_eq!(kind.check(&Value::Integer(number)).is_ok(), fits, "{number}");
        }
    }

    #[test]
    fn a_list_is_refused_for_its_length_and_for_one_wrong_item() {
        let kind = Kind::Texts { items_max: 2, example: "[]" };
        let text = |n| Value::Array(vec![Value::String("x".into()); n]);
        assert!(kind.check(&text(2)).is_ok());
        assert!(kind.check(&text(3)).is_err());
        let mixed = Value::Array(vec![Value::String("x".into()), Value::Integer(1)]);
        assert!(kind.check(&mixed).unwrap_err().reason.contains("integer"));
    }
}
