//! How single values are written in the admin interface and on the command line: identifiers, addresses to
//! be reached, allow-lists, durations, and the serde modules that go with them. Addresses in general are
//! parsed by `stoq-config`, so that a file and a command accept the same.

use std::fmt;
use std::net::SocketAddrV6;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use stoq_config::{AddressError, parse_listen_address};
use stoq_interface::{Allow, NodeId};

/// The word that stands for "every node with a valid certificate" in an allow-list
pub const ANY_ENROLLED: &str = "any-enrolled";

/// Nodes one allow-list may name
pub const ALLOWED_NODES_MAX: usize = 4_096;

/// An identifier of a session or connection: written in hexadecimal, because JSON numbers lose bits
/// beyond 2^53
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Id(pub u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for Id {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not an identifier: up to 16 hexadecimal digits");
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| wrong())
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Parses the address of something that is to be reached: IPv6, neither `::` nor port 0
pub fn parse_remote_address(text: &str) -> Result<SocketAddrV6, AddressError> {
    let address = parse_listen_address(text)?;
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(AddressError::Unreachable(text.to_owned()));
    }
    Ok(address)
}

/// Reads an allow-list: nothing is nobody, `any-enrolled` stands alone, everything else is a node
pub fn parse_allow<T: AsRef<str>>(words: &[T]) -> Result<Allow, String> {
    if words.len() > ALLOWED_NODES_MAX {
        return Err(format!("an allow-list names at most {ALLOWED_NODES_MAX} nodes"));
    }
    match words {
        [] => Ok(Allow::Nobody),
        [only] if only.as_ref() == ANY_ENROLLED => Ok(Allow::AnyEnrolled),
        _ if words.iter().any(|word| word.as_ref() == ANY_ENROLLED) => {
            Err(format!("'{ANY_ENROLLED}' already allows every node: name it alone"))
        }
        _ => words
            .iter()
            .map(|word| {
                NodeId::new(word.as_ref())
                    .map_err(|error| format!("'{}' is not a node: {error}", word.as_ref()))
            })
            .collect::<Result<_, _>>()
            .map(Allow::Nodes),
    }
}

/// Writes an allow-list as [`parse_allow`] reads it
pub fn show_allow(allow: &Allow) -> Vec<String> {
    match allow {
        Allow::Nobody => Vec::new(),
        Allow::AnyEnrolled => vec![ANY_ENROLLED.to_owned()],
        Allow::Nodes(nodes) => nodes.iter().map(ToString::to_string).collect(),
    }
}

/// Reads `250ms`, `30s`, `10m`, `24h` or `7d`; a number alone is refused, so that nobody guesses the unit
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a duration: write it like 250ms, 30s, 10m, 24h or 7d");
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(milliseconds_per_unit).map(Duration::from_millis).ok_or_else(wrong)
}

/// Writes a point in time as the admin interface does: RFC 3339, whole seconds, UTC
pub fn show_time(time: std::time::SystemTime) -> String {
    timestamp::show(time).unwrap_or_else(|problem| problem)
}

/// Serde for a value by its `Display` and `FromStr`
pub(crate) mod plain {
    use super::*;

    pub(crate) fn serialize<T: fmt::Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Serde for an optional value by its `Display` and `FromStr`
pub(crate) mod plain_option {
    use super::*;

    pub(crate) fn serialize<T: fmt::Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        Option::<String>::deserialize(deserializer)?
            .map(|text| text.parse().map_err(serde::de::Error::custom))
            .transpose()
    }
}

/// Serde for the address of something that is to be reached
pub(crate) mod address {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &SocketAddrV6,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SocketAddrV6, D::Error> {
        parse_remote_address(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Serde for an allow-list as a list of words
pub(crate) mod allow {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &Allow, s: S) -> Result<S::Ok, S::Error> {
        show_allow(value).serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Allow, D::Error> {
        parse_allow(&Vec::<String>::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Serde for a point in time as RFC 3339, whole seconds, UTC
pub(crate) mod timestamp {
    use std::time::{SystemTime, UNIX_EPOCH};

    use serde::de::Error as _;
    use serde::ser::Error as _;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    pub(crate) fn show(value: SystemTime) -> Result<String, String> {
        let seconds = value
            .duration_since(UNIX_EPOCH)
            .map_err(|_| "a time before 1970".to_owned())?
            .as_secs();
        let seconds = i64::try_from(seconds).map_err(|error| error.to_string())?;
        OffsetDateTime::from_unix_timestamp(seconds)
            .map_err(|error| error.to_string())?
            .format(&Rfc3339)
            .map_err(|error| error.to_string())
    }

    pub(crate) fn parse(text: &str) -> Result<SystemTime, String> {
        let seconds = OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|error| format!("'{text}' is not an RFC 3339 time: {error}"))?
            .unix_timestamp();
        let seconds = u64::try_from(seconds).map_err(|_| format!("'{text}' is before 1970"))?;
        Ok(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    pub(crate) fn serialize<S: Serializer>(value: &SystemTime, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&show(*value).map_err(S::Error::custom)?)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SystemTime, D::Error> {
        parse(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

/// Serde for an optional point in time
pub(crate) mod timestamp_option {
    use std::time::SystemTime;

    use serde::de::Error as _;
    use serde::ser::Error as _;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<SystemTime>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => s.serialize_str(&timestamp::show(*value).map_err(S::Error::custom)?),
            None => s.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        Option::<String>::deserialize(d)?
            .map(|text| timestamp::parse(&text).map_err(D::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn an_address_to_be_reached_is_ipv6_and_has_a_host_and_a_port() {
        assert!(parse_remote_address("[::1]:80").is_ok());
        assert!(matches!(parse_remote_address("127.0.0.1:80"), Err(AddressError::NotIpv6(_))));
        for text in ["[::1]:0", "[::]:80"] {
            assert!(
                matches!(parse_remote_address(text), Err(AddressError::Unreachable(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn identifiers_are_hexadecimal() {
        assert_eq!("1000000000001".parse(), Ok(Id(0x1_0000_0000_0001)));
        assert_eq!(Id(u64::MAX).to_string().parse(), Ok(Id(u64::MAX)));
        for text in ["", "-1", "+1", "x", "10000000000000000"] {
            assert!(text.parse::<Id>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_allow_list_defaults_to_nobody_and_any_stands_alone() {
        assert_eq!(parse_allow::<&str>(&[]), Ok(Allow::Nobody));
        assert_eq!(parse_allow(&[ANY_ENROLLED]), Ok(Allow::AnyEnrolled));
        assert!(parse_allow(&[ANY_ENROLLED, "beta"]).is_err());
        assert!(parse_allow(&["be.ta"]).is_err());
        let nodes = parse_allow(&["beta", "alpha", "beta"]).unwrap();
        assert_eq!(show_allow(&nodes), ["alpha", "beta"]);
    }

    #[test]
    fn durations_need_a_unit_and_do_not_overflow() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
        for text in ["", "10", "s", "1.5s", "-1s", "1w", "18446744073709551615d", "1s1"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        assert_eq!(timestamp::show(time).unwrap(), "2023-11-14T22:13:20Z");
        assert_eq!(
            timestamp::parse("2023-11-14T23:13:20+01:00").unwrap(),
            UNIX_EPOCH + Duration::from_secs(1_700_000_000)
        );
        assert!(timestamp::show(UNIX_EPOCH + Duration::from_secs(u64::MAX >> 2)).is_err());
        assert!(timestamp::parse("1960-01-01T00:00:00Z").is_err());
    }
}
