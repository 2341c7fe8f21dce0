//! From plain values to typed ones and back: what a text in the file means. Each refusal carries its remedy;
//! where the text stands is known to `read` alone.

use std::collections::BTreeSet;
use std::net::SocketAddrV6;
use std::path::PathBuf;
use std::str::FromStr;

use stoq_interface::{Allow, CongestionControl, NameError, NodeId, SpkiSha256};
use toml::Value;

use crate::address::{AddressError, parse_absolute_path, parse_remote_address};
use crate::error::Refusal;
use crate::{Cores, Operators, Role};

const PIN_PREFIX: &str = "spki-sha256:";
const FILTER_BYTES_MAX: usize = 1_024;
const PREFIX_BYTES_MAX: usize = 256;

impl From<AddressError> for Refusal {
    fn from(error: AddressError) -> Self {
        let sentence = error.to_string();
        // The remedy is what follows the last "; ": no remedy holds one, a quoted text may.
        match sentence.rsplit_once("; ") {
            Some((reason, remedy)) => Self::new(reason, remedy),
            None => Self::new(sentence.clone(), "write another value"),
        }
    }
}

pub(crate) fn string(value: impl ToString) -> Value {
    Value::String(value.to_string())
}

pub(crate) fn or_word(word: &str, value: Option<impl ToString>) -> Value {
    value.map_or_else(|| string(word), string)
}

pub(crate) fn auto_or(value: Option<impl ToString>) -> Value {
    or_word("auto", value)
}

pub(crate) fn list<'a, T: 'a>(
    items: impl IntoIterator<Item = &'a T>,
    render: fn(&T) -> String,
) -> Value {
    Value::Array(items.into_iter().map(|item| Value::String(render(item))).collect())
}

fn wrong_type(value: &Value) -> Refusal {
    Refusal::new(
        format!("a value of type {} does not belong here", value.type_str()),
        "see `stoqctl config explain`",
    )
}

pub(crate) fn as_integer<T: TryFrom<i64>>(value: &Value) -> Result<T, Refusal> {
    let number = value.as_integer().ok_or_else(|| wrong_type(value))?;
    T::try_from(number).map_err(|_| {
        Refusal::new(format!("{number} does not fit this machine"), "write a smaller number")
    })
}

pub(crate) fn as_boolean(value: &Value) -> Result<bool, Refusal> {
    value.as_bool().ok_or_else(|| wrong_type(value))
}

pub(crate) fn as_text(value: &Value) -> Result<&str, Refusal> {
    value.as_str().ok_or_else(|| wrong_type(value))
}

/// `None` for the word, the parsed text otherwise
pub(crate) fn unless<T>(
    word: &str,
    value: &Value,
    parse: impl FnOnce(&str) -> Result<T, Refusal>,
) -> Result<Option<T>, Refusal> {
    let text = as_text(value)?;
    if text == word { Ok(None) } else { parse(text).map(Some) }
}

pub(crate) fn choice<T: Copy, const N: usize>(
    value: &Value,
    all: [T; N],
    label: fn(T) -> &'static str,
) -> Result<T, Refusal> {
    let text = as_text(value)?;
    all.into_iter().find(|item| label(*item) == text).ok_or_else(|| {
        let words: Vec<&str> = all.into_iter().map(label).collect();
        Refusal::new(format!("{text:?} is not a choice"), format!("write {}", words.join(" or ")))
    })
}

pub(crate) const fn congestion_label(algorithm: CongestionControl) -> &'static str {
    match algorithm {
        CongestionControl::Cubic => "cubic",
        CongestionControl::Bbr2 => "bbr2",
        CongestionControl::Reno => "reno",
    }
}

/// Parses a node's or a service's name
pub(crate) fn parse_name<T: FromStr<Err = NameError>>(text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error: NameError| {
        Refusal::new(format!("{text:?} is not a name: {error}"), "write one word such as \"alpha\"")
    })
}

pub(crate) fn parse_allow(value: &Value) -> Result<Allow, Refusal> {
    match value {
        Value::String(word) if word == "nobody" => Ok(Allow::Nobody),
        Value::String(word) if word == "any-enrolled" => Ok(Allow::AnyEnrolled),
        // An empty list names nobody: one meaning, one value.
        Value::Array(items) if items.is_empty() => Ok(Allow::Nobody),
        Value::Array(items) => {
            let nodes: BTreeSet<NodeId> =
                items.iter().map(|item| parse_name(as_text(item)?)).collect::<Result<_, _>>()?;
            Ok(Allow::Nodes(nodes))
        }
        other => Err(wrong_type(other)),
    }
}

pub(crate) fn allow_value(allow: &Allow) -> Value {
    match allow {
        Allow::Nobody => string("nobody"),
        Allow::AnyEnrolled => string("any-enrolled"),
        Allow::Nodes(nodes) => list(nodes, ToString::to_string),
    }
}

pub(crate) fn parse_roles(value: &Value) -> Result<BTreeSet<Role>, Refusal> {
    let items = value.as_array().ok_or_else(|| wrong_type(value))?;
    if items.is_empty() {
        let remedy = "name at least one of \"stoq\", \"trustchain\" and \"integration\"";
        return Err(Refusal::new("a node without a role does nothing", remedy));
    }
    items.iter().map(|item| choice(item, Role::ALL, Role::label)).collect()
}

pub(crate) fn cores_value(cores: &Cores) -> Value {
    match cores {
        Cores::Auto => string("auto"),
        Cores::These(indices) => Value::Array(
            indices
                .iter()
                .map(|index| Value::Integer(i64::try_from(*index).unwrap_or(i64::MAX)))
                .collect(),
        ),
    }
}

pub(crate) fn parse_cores(value: &Value) -> Result<Cores, Refusal> {
    let Some(items) = value.as_array() else {
        return Ok(Cores::Auto);
    };
    let indices: Vec<usize> = items.iter().map(as_integer).collect::<Result<_, _>>()?;
    let mut seen = BTreeSet::new();
    match indices.iter().find(|index| !seen.insert(**index)) {
        Some(twice) => Err(Refusal::new(
            format!("processor {twice} is named twice"),
            "name each processor once: two workers on one only take turns",
        )),
        None => Ok(Cores::These(indices)),
    }
}

pub(crate) fn parse_roots(value: &Value) -> Result<Vec<PathBuf>, Refusal> {
    let items = value.as_array().ok_or_else(|| wrong_type(value))?;
    items
        .iter()
        .map(|item| {
            let text = as_text(item)?;
            parse_absolute_path(text).map_err(|_| {
                Refusal::new(
                    format!("{text:?} is not an absolute path without \"..\""),
                    "write every directory from the root, such as \"/srv/data\"",
                )
            })
        })
        .collect()
}

/// Node names, each once
pub(crate) fn parse_names(value: &Value) -> Result<Vec<NodeId>, Refusal> {
    let items = value.as_array().ok_or_else(|| wrong_type(value))?;
    let mut names = Vec::new();
    for item in items {
        let name: NodeId = parse_name(as_text(item)?)?;
        if names.contains(&name) {
            let reason = format!("\"{name}\" stands there twice");
            return Err(Refusal::new(reason, "name each node once"));
        }
        names.push(name);
    }
    Ok(names)
}

pub(crate) fn parse_operators(value: &Value) -> Result<Operators, Refusal> {
    match value {
        Value::String(word) if word == "certified" => Ok(Operators::Certified),
        Value::String(word) if word == "nobody" => Ok(Operators::Nobody),
        // An empty list names nobody: one meaning, one value.
        Value::Array(items) if items.is_empty() => Ok(Operators::Nobody),
        Value::Array(_) => Ok(Operators::Named(parse_names(value)?.into_iter().collect())),
        other => Err(wrong_type(other)),
    }
}

pub(crate) fn operators_value(operators: &Operators) -> Value {
    match operators {
        Operators::Certified => string("certified"),
        Operators::Nobody => string("nobody"),
        Operators::Named(names) => list(names, ToString::to_string),
    }
}

/// Addresses that are dialled, each once
pub(crate) fn parse_endpoints(value: &Value) -> Result<Vec<SocketAddrV6>, Refusal> {
    let items = value.as_array().ok_or_else(|| wrong_type(value))?;
    let mut endpoints = Vec::new();
    for item in items {
        let endpoint = parse_remote_address(as_text(item)?)?;
        if endpoints.contains(&endpoint) {
            let reason = format!("\"{endpoint}\" stands there twice");
            return Err(Refusal::new(reason, "name each member once"));
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

/// What keys in the cluster begin with
pub(crate) fn parse_prefix(text: &str) -> Result<String, Refusal> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"/_.-".contains(&b);
    if text.len() <= PREFIX_BYTES_MAX && text.ends_with('/') && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(
        format!("{text:?} is no prefix of keys"),
        "write letters, digits and slashes, with a slash at the end, such as \"stoq/records/\"",
    ))
}

pub(crate) fn parse_dns_name(text: &str) -> Result<String, Refusal> {
    let fits = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if text.len() <= 253 && text.split('.').all(fits) && text.parse::<std::net::IpAddr>().is_err() {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(
        format!("{text:?} is no DNS name"),
        "write the name that stands in the members' certificates, such as \"etcd.example\"",
    ))
}

/// A file by its whole path
pub(crate) fn parse_file(text: &str) -> Result<PathBuf, Refusal> {
    parse_absolute_path(text).map_err(|_| {
        Refusal::new(
            format!("{text:?} is not an absolute path without \"..\""),
            "write every directory from the root, such as \"/etc/stoq/etcd.pem\"",
        )
    })
}

/// The hash of a public key as pins write it
pub(crate) fn pin_text(pin: &SpkiSha256) -> String {
    let digits: String = pin.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("{PIN_PREFIX}{digits}")
}

/// One way to write each: lower-case digits, and all 64 of them
fn parse_pin(text: &str) -> Result<SpkiSha256, Refusal> {
    let refused = || {
        let remedy = "write \"spki-sha256:\" and 64 hexadecimal digits in lower case, as `stoqctl certificate pin \
                      FILE` prints them: the hash of a public key, not a certificate's fingerprint";
        Refusal::new(format!("{text:?} is no pin"), remedy)
    };
    let digits = text.strip_prefix(PIN_PREFIX).ok_or_else(refused)?.as_bytes();
    let digit = |octet: &u8| match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'a'..=b'f' => Some(octet - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = digits.as_chunks::<2>() else { return Err(refused()) };
    let octets: Option<Vec<u8>> =
        pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
    octets.and_then(|octets| octets.try_into().ok()).ok_or_else(refused)
}

/// Pins, each once; none at all, or one more than is in use
pub(crate) fn parse_pins(value: &Value) -> Result<BTreeSet<SpkiSha256>, Refusal> {
    let items = value.as_array().ok_or_else(|| wrong_type(value))?;
    let mut pins = BTreeSet::new();
    for item in items {
        let text = as_text(item)?;
        if !pins.insert(parse_pin(text)?) {
            let reason = format!("{text:?} stands there twice");
            return Err(Refusal::new(reason, "write each pin once"));
        }
    }
    if pins.len() == 1 {
        let reason = "there is no backup: when the one key is lost or stolen, no node could follow to another";
        let remedy = "make the next key now, keep it offline, and pin it too";
        return Err(Refusal::new(reason, remedy));
    }
    Ok(pins)
}

/// Accepts a level, or comma-separated `target=level`; the logger's richer syntax stays closed so that a
/// mistake is found here and not swallowed there
pub(crate) fn parse_filter(text: &str) -> Result<String, Refusal> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let target = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:-".contains(&b))
    };
    let valid = |directive: &str| match directive.split_once('=') {
        Some((name, level)) => target(name) && LEVELS.contains(&level),
        None => LEVELS.contains(&directive),
    };
    if text.len() <= FILTER_BYTES_MAX && text.split(',').all(|directive| valid(directive.trim())) {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(
        "this is not a log filter",
        format!("write {}, or pairs such as \"info,stoq_transport=debug\"", LEVELS.join(", ")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_written_one_way_and_never_alone() {
        let pins: BTreeSet<SpkiSha256> = [[0x0a; 32], [0xff; 32]].into();
        let texts: Vec<String> = pins.iter().map(pin_text).collect();
        assert_eq!(texts[0], format!("spki-sha256:{}", "0a".repeat(32)));
        let of = |texts: &[&str]| parse_pins(&list(texts, ToString::to_string));
        assert_eq!(of(&[&texts[0], &texts[1]]), Ok(pins));
        assert_eq!(of(&[]), Ok(BTreeSet::new()));
        assert!(of(&[&texts[0]]).unwrap_err().reason.contains("no backup"));
        assert!(of(&[&texts[0], &texts[0]]).unwrap_err().reason.contains("twice"));
        let capitals = texts[0].replace('a', "A");
        let short = &texts[0][..texts[0].len() - 1];
        let fingerprint = &texts[0]["spki-".len()..];
        for wrong in ["", "spki-sha256:", short, fingerprint, &capitals, &format!("{}0", texts[0])]
        {
            assert!(of(&[wrong, &texts[1]]).unwrap_err().reason.contains("is no pin"), "{wrong}");
        }
    }

    #[test]
    fn filters() {
        for good in ["info", "off", "info, stoq=debug", "stoq_transport::session=trace"] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["", "inof", "stoq", "=debug", "a b=info", "info,,debug", "[span]=info"] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
        let long = vec!["info"; 400].join(",");
        assert!(parse_filter(&long).is_err());
    }
}
