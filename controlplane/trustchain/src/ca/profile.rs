//! Certificate profiles as data: read from TOML, checked as a whole, and turned into the names of one
//! certificate. The file `profiles.toml` is compiled in; where another one lies is known to the composition root.

use std::net::Ipv6Addr;
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use serde::Deserialize;
use stoq_interface::NodeId;

use super::api::Registration;
use crate::profile::{ADDRESSES_PER_SUBJECT, ZONES};

/// Octets of the longest profile file
pub const PROFILES_LIMIT_BYTES: usize = 64 << 10;
/// Profiles one file may have
pub const PROFILES_LIMIT: usize = 32;
/// Alternative names one profile may have
const ALTERNATIVE_NAMES_LIMIT: usize = 8;
/// Lifetimes in production
const PRODUCTION_LIFETIME_SECONDS: u64 = 24 * 3_600;
const COMPILED_IN: &str = include_str!("profiles.toml");
const VERSION: u32 = 1;
const SUBJECT: &str = "{subject}";
const SPIFFE: &str = "spiffe://hypermesh/";
/// Names with a meaning in the zones, which nobody may be called
const RESERVED: [&str; 16] = [
    "api",
    "asset",
    "assets",
    "ca",
    "caesar",
    "hypermesh",
    "localhost",
    "node",
    "nodes",
    "operators",
    "root",
    "service",
    "services",
    "trust",
    "wpad",
    "www",
];

/// Why profiles cannot be used
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("certificate profiles: {0}")]
pub struct ProfilesError(String);

/// An extended key usage
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Usage {
    /// serverAuth
    Server,
    /// clientAuth
    Client,
}

/// One kind of certificate; the fields are described in `profiles.schema.json`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name
    pub name: String,
    /// From the first to the last second of validity, both included
    pub lifetime_seconds: u64,
    /// How far validity begins before issuing
    pub backdate_seconds: u64,
    /// Extended key usages
    pub usages: Vec<Usage>,
    /// The DNS name
    pub dns_name: String,
    /// Further DNS names
    #[serde(default)]
    pub alternative_dns_names: Vec<String>,
    /// What a registered name begins with
    #[serde(default)]
    pub subject_prefix: String,
    /// The SPIFFE URI
    #[serde(default)]
    pub uri: Option<String>,
    /// Whether addresses are carried
    #[serde(default)]
    pub addresses: bool,
    /// Issued for join tokens
    #[serde(default)]
    pub enrolment: bool,
    /// For tests only
    #[serde(default)]
    pub test: bool,
    /// Age at which renewal may begin
    pub renew_from_seconds: u64,
    /// Age at which renewal should have begun
    pub renew_until_seconds: u64,
    /// Age at which the successor takes over
    pub activate_at_seconds: u64,
    /// How far ahead a successor may begin
    pub stage_ahead_limit_seconds: u64,
}

/// The names of one certificate
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Names {
    /// DNS names
    pub dns: Vec<String>,
    /// Addresses
    pub addresses: Vec<Ipv6Addr>,
    /// The URI
    pub uri: Option<String>,
}

/// The profiles of one authority
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Profiles(Vec<Profile>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    profile: Vec<Profile>,
}

impl Default for Profiles {
    /// The compiled-in ones
    fn default() -> Self {
        // A test holds the file to this.
        Self::parse(COMPILED_IN).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Profiles {
    /// Reads a profile file
    pub fn parse(text: &str) -> Result<Self, ProfilesError> {
        if text.len() > PROFILES_LIMIT_BYTES {
            return Err(ProfilesError(format!("more than {PROFILES_LIMIT_BYTES} bytes")));
        }
        let document: Document =
            toml::from_str(text).map_err(|error| ProfilesError(error.to_string()))?;
        if document.version != VERSION {
            let found = document.version;
            return Err(ProfilesError(format!("version {found} is not {VERSION}")));
        }
        let profiles = document.profile;
        if profiles.is_empty() || profiles.len() > PROFILES_LIMIT {
            return Err(ProfilesError(format!("a file has 1 to {PROFILES_LIMIT} profiles")));
        }
        for (at, profile) in profiles.iter().enumerate() {
            profile
                .check()
                .map_err(|reason| ProfilesError(format!("`{}`: {reason}", profile.name)))?;
            if profiles[..at].iter().any(|other| other.name == profile.name) {
                return Err(ProfilesError(format!("`{}` stands there twice", profile.name)));
            }
        }
        if profiles.iter().filter(|profile| profile.enrolment).count() > 1 {
            return Err(ProfilesError("more than one profile is for enrolment".into()));
        }
        Ok(Self(profiles))
    }

    /// The text that is compiled in, for an operator who wants to start from it
    pub const fn compiled_in() -> &'static str {
        COMPILED_IN
    }

    /// One profile
    pub fn get(&self, name: &str) -> Option<&Profile> {
        self.0.iter().find(|profile| profile.name == name)
    }

    /// The profile for join tokens
    pub fn enrolment(&self) -> Option<&Profile> {
        self.0.iter().find(|profile| profile.enrolment)
    }

    /// All of them
    pub fn all(&self) -> &[Profile] {
        &self.0
    }

    /// What production refuses, as a sentence
    pub(super) fn check_production(&self) -> Result<(), String> {
        for profile in &self.0 {
            let name = &profile.name;
            if profile.test {
                return Err(format!("profile `{name}` is for tests; production refuses it"));
            }
            if profile.lifetime_seconds > PRODUCTION_LIFETIME_SECONDS {
                return Err(format!(
                    "profile `{name}` lives more than 24 h; production refuses it"
                ));
            }
        }
        Ok(())
    }
}

impl Profile {
    /// How far validity begins before issuing
    pub fn backdate(&self) -> Duration {
        Duration::from_secs(self.backdate_seconds)
    }

    /// Age at which the successor takes over
    pub fn activate_at(&self) -> Duration {
        Duration::from_secs(self.activate_at_seconds)
    }

    /// Whether holders can be TLS servers
    pub fn is_server(&self) -> bool {
        self.usages.contains(&Usage::Server)
    }

    /// Whether holders can be TLS clients
    pub fn is_client(&self) -> bool {
        self.usages.contains(&Usage::Client)
    }

    /// What a certificate of a registration names, or why it can name nothing
    pub fn names(&self, registration: &Registration) -> Result<Names, String> {
        let subject = registration.subject.as_str();
        NodeId::new(subject).map_err(|error| error.to_string())?;
        if RESERVED.contains(&subject) {
            return Err(format!("`{subject}` has a meaning of its own and names nobody"));
        }
        if !subject.starts_with(&self.subject_prefix) {
            return Err(format!("names of this profile begin with `{}`", self.subject_prefix));
        }
        let with_subject = |template: &String| template.replace(SUBJECT, subject);
        let mut dns = vec![with_subject(&self.dns_name)];
        if registration.alternative_names {
            dns.extend(self.alternative_dns_names.iter().map(with_subject));
        }
        if let Some(name) = dns.iter().find(|name| !is_dns_name(name)) {
            return Err(format!("`{name}` is no DNS name: too long"));
        }
        if !self.addresses && !registration.addresses.is_empty() {
            return Err("certificates of this profile carry no addresses".into());
        }
        if registration.addresses.len() > ADDRESSES_PER_SUBJECT {
            return Err(format!("a certificate carries at most {ADDRESSES_PER_SUBJECT} addresses"));
        }
        let addresses = registration.addresses.clone();
        for (at, address) in addresses.iter().enumerate() {
            let mapped = address.to_ipv4_mapped().is_some();
            if address.is_unspecified() || address.is_multicast() || mapped {
                return Err(format!("{address} is no IPv6 address of one host"));
            }
            if addresses[..at].contains(address) {
                return Err(format!("{address} is given twice"));
            }
        }
        Ok(Names { dns, addresses, uri: self.uri.as_ref().map(with_subject) })
    }

    /// The extended key usages
    pub(super) fn extended_key_usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        let purpose = |usage: &Usage| match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        };
        self.usages.iter().map(purpose).collect()
    }

    fn check(&self) -> Result<(), String> {
        let ensure = |holds: bool, text: &str| if holds { Ok(()) } else { Err(text.to_owned()) };
        NodeId::new(&self.name).map_err(|error| error.to_string())?;
        ensure(
            (60..=90 * 24 * 3_600).contains(&self.lifetime_seconds),
            "lifetime_seconds must be between a minute and 90 days",
        )?;
        ensure(
            self.backdate_seconds <= 3_600 && self.backdate_seconds < self.lifetime_seconds,
            "backdate_seconds must be at most an hour and below the lifetime",
        )?;
        let usages = [Usage::Server, Usage::Client];
        let known = usages.iter().filter(|usage| self.usages.contains(usage)).count();
        ensure(
            known == self.usages.len() && known > 0,
            "usages must be `server`, `client` or both, each once",
        )?;
        let ages = [self.renew_from_seconds, self.renew_until_seconds, self.activate_at_seconds];
        ensure(
            ages.is_sorted() && ages[0] > 0 && self.activate_at_seconds < self.lifetime_seconds,
            "renew_from, renew_until, activate_at and lifetime must grow in this order",
        )?;
        ensure(
            self.stage_ahead_limit_seconds <= 24 * 3_600,
            "stage_ahead_limit_seconds must be at most a day",
        )?;
        ensure(
            self.alternative_dns_names.len() <= ALTERNATIVE_NAMES_LIMIT,
            "too many alternative_dns_names",
        )?;
        for name in [&self.dns_name].into_iter().chain(&self.alternative_dns_names) {
            let zone = name.rsplit('.').next();
            ensure(
                zone.is_some_and(|zone| ZONES.contains(&zone) && zone.len() < name.len()),
                "DNS names must be below one of the zones hypermesh, caesar, trust, assets",
            )?;
            ensure(
                name.matches(SUBJECT).count() == 1 && is_dns_name(&name.replace(SUBJECT, "x")),
                "DNS names must have {subject} once and be DNS names",
            )?;
        }
        ensure(
            self.uri.as_ref().is_none_or(|uri| {
                uri.strip_prefix(SPIFFE).and_then(|rest| rest.strip_suffix(SUBJECT)).is_some_and(
                    |kind| kind.strip_suffix('/').is_some_and(|kind| NodeId::new(kind).is_ok()),
                )
            }),
            "uri must be spiffe://hypermesh/KIND/{subject}",
        )
    }
}

fn is_dns_name(name: &str) -> bool {
    // One label is what a node name is.
    name.len() <= 253 && name.split('.').all(|label| NodeId::new(label).is_ok())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn registration(profile: &str, subject: &str) -> Registration {
        Registration {
            profile: profile.into(),
            subject: subject.into(),
            owner: None,
            addresses: Vec::new(),
            alternative_names: true,
        }
    }

    #[test]
    fn the_compiled_in_profiles_are_those_that_were_promised() {
        let profiles = Profiles::default();
        let names: Vec<_> = profiles.all().iter().map(|profile| profile.name.as_str()).collect();
        assert_eq!(names, ["node", "service", "asset", "dns-server", "operator", "server"]);
        profiles.check_production().unwrap();
        let named = |profile: &str, subject: &str| {
            profiles.get(profile).unwrap().names(&registration(profile, subject)).unwrap()
        };
        assert_eq!(named("node", "alpha").dns, ["alpha.nodes.hypermesh"]);
        let service = named("service", "shop");
        assert_eq!(service.dns, ["shop.services.hypermesh", "api.shop.services.hypermesh"]);
        assert_eq!(service.uri.as_deref(), Some("spiffe://hypermesh/service/shop"));
        assert_eq!(named("asset", "7").dns, ["asset-7.assets.hypermesh"]);
        assert_eq!(named("dns-server", "ns1").dns, ["ns1.trust"]);
        assert_eq!(named("server", "alpha").uri, None);
        assert!(!profiles.get("asset").unwrap().is_server());
        assert_eq!(profiles.get("operator").unwrap().lifetime_seconds, 8 * 3_600);
        assert_eq!(profiles.enrolment().unwrap().name, "node");
    }

    #[test]
    fn nobody_is_called_what_has_a_meaning_or_does_not_fit() {
        let profiles = Profiles::default();
        let refused = |registration: Registration| {
            profiles.get(&registration.profile).unwrap().names(&registration).unwrap_err()
        };
        for subject in ["services", "API", "a.b", "*", "", "x".repeat(64).as_str()] {
            refused(registration("service", subject));
        }
        assert!(refused(registration("dns-server", "mail")).contains("`ns`"));
        // `asset-` and 60 characters are one label too long.
        assert!(refused(registration("asset", &"x".repeat(60))).contains("too long"));
        let mut asset = registration("asset", "7");
        asset.addresses = vec![Ipv6Addr::LOCALHOST];
        assert!(refused(asset).contains("no addresses"));
        let mut node = registration("node", "alpha");
        for wrong in ["::", "ff02::1", "::ffff:1.2.3.4"] {
            node.addresses = vec![wrong.parse().unwrap()];
            assert!(refused(node.clone()).contains("one host"), "{wrong}");
        }
        node.addresses = vec![Ipv6Addr::LOCALHOST; 2];
        assert!(refused(node).contains("twice"));
    }

    #[test]
    fn each_mistake_in_a_file_has_its_own_message() {
        let changed = |from: &str, to: &str| {
            assert!(COMPILED_IN.contains(from), "{from}");
            Profiles::parse(&COMPILED_IN.replacen(from, to, 1)).unwrap_err().to_string()
        };
        for (from, to, word) in [
            ("version = 1", "version = 2", "version 2"),
            ("name = \"service\"", "name = \"node\"", "twice"),
            ("name = \"node\"", "name = \"No de\"", "only a-z"),
            ("lifetime_seconds = 86400", "lifetime_seconds = 10", "90 days"),
            ("backdate_seconds = 300", "backdate_seconds = 4000", "an hour"),
            ("usages = [\"client\"]", "usages = []", "each once"),
            ("usages = [\"client\"]", "usages = [\"signing\"]", "unknown variant"),
            ("renew_from_seconds = 57600", "renew_from_seconds = 70000", "in this order"),
            ("{subject}.nodes.hypermesh", "{subject}.example.com", "zones"),
            ("{subject}.nodes.hypermesh", "nodes.hypermesh", "{subject} once"),
            ("{subject}.nodes.hypermesh", "*.{subject}.nodes.hypermesh", "be DNS names"),
            ("spiffe://hypermesh/node/", "spiffe://elsewhere/node/", "KIND"),
            ("spiffe://hypermesh/node/", "spiffe://hypermesh/node/x/", "KIND"),
            ("addresses = true", "adresses = true", "unknown field"),
        ] {
            let message = changed(from, to);
            assert!(message.contains(word), "{to}: {message}");
        }
        assert!(Profiles::parse("version = 1\nprofile = []").is_err());
        assert!(Profiles::parse(&"#".repeat(PROFILES_LIMIT_BYTES + 1)).is_err());
    }

    #[test]
    fn production_refuses_what_is_for_tests_and_what_lives_long() {
        let with = |line: &str| {
            let text = COMPILED_IN.replacen("lifetime_seconds = 86400", line, 1);
            Profiles::parse(&text).unwrap().check_production().unwrap_err()
        };
        assert!(with("lifetime_seconds = 86401").contains("24 h"));
        assert!(with("test = true\nlifetime_seconds = 86400").contains("for tests"));
    }

    #[test]
    fn the_schema_names_exactly_the_fields_that_are_read() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("profiles.schema.json")).unwrap();
        let items = &schema["properties"]["profile"]["items"];
        let names = |value: &serde_json::Value| -> BTreeSet<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let described = names(&items["properties"]);
        // What the reader knows, in its own words
        let unknown = Profiles::parse("version = 1\n[[profile]]\nzzz = 1").unwrap_err().to_string();
        let list = unknown.split_once("expected one of ").unwrap().1;
        let read: BTreeSet<String> =
            list.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        assert_eq!(described, read);
        // Every field it demands is one without which nothing is read.
        let whole: toml::Table = COMPILED_IN.parse().unwrap();
        let node = whole["profile"].as_array().unwrap()[0].as_table().unwrap().clone();
        for field in items["required"].as_array().unwrap() {
            let mut less = node.clone();
            less.remove(field.as_str().unwrap()).unwrap();
            let mut document = toml::Table::new();
            document.insert("version".into(), toml::Value::Integer(1));
            document.insert("profile".into(), toml::Value::Array(vec![less.into()]));
            assert!(Profiles::parse(&document.to_string()).is_err(), "{field}");
        }
    }
}
