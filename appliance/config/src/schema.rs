//! The table of keys: name, kind, limits, effect, and how each reads and writes its field. A new key is one row
//! here, one field in `sections`, and one commented line in `defaults/stoqd.toml`; tests demand all three.

use std::time::Duration;

use stoq_interface::CongestionControl;
use toml::Value;

use crate::address::{parse_absolute_path, parse_listen_address, parse_socket_path};
use crate::error::Refusal;
use crate::kind::Kind;
use crate::value::{
    allow_value, as_boolean, as_integer, as_text, auto_or, choice, congestion_label, cores_value,
    list, operators_value, or_word, parse_allow, parse_cores, parse_dns_name, parse_endpoints,
    parse_file, parse_filter, parse_name, parse_names, parse_operators, parse_pins, parse_prefix,
    parse_roles, parse_roots, pin_text, string, unless,
};
use crate::{Config, HypermeshPolicy, IoChoice, Issuance, LogFormat, Role};

/// When a change of a key takes effect
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Effect {
    /// On `stoqctl config reload` or SIGHUP, without touching connections
    Reload,
    /// When the daemon is started again
    Restart,
}

/// One key of a section that occurs once
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) effect: Effect,
    pub(crate) get: fn(&Config) -> Value,
    pub(crate) set: fn(&mut Config, &Value) -> Result<(), Refusal>,
}

/// Workers at most: a session may hold one connection per worker, and 128 is what `limits` allows it by default
pub(crate) const WORKERS_MAX: usize = 128;
const PROCESSOR_MAX: u64 = 4_095;
const ROOTS_MAX: usize = 64;
const PLOTS_MAX: usize = 16;
const AUTHORITIES_MAX: usize = 64;
const OPERATORS_MAX: usize = 4_096;
const ENDPOINTS_MAX: usize = 16;
const PINS_MAX: usize = 64;
const ALLOWED_NODES_MAX: usize = 4_096;
/// What a list of pins looks like
pub(crate) const PINS_EXAMPLE: &str = "[\"spki-sha256:<64 digits>\", \"spki-sha256:<64 digits>\"]";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Who may attach
pub(crate) const ALLOW: Kind = Kind::WordOrTexts {
    words: &["nobody", "any-enrolled"],
    items_max: ALLOWED_NODES_MAX,
    example: "[\"alpha\", \"beta\"]",
};

macro_rules! integer {
    ($name:literal, $min:expr, $max:expr, $effect:ident, $($field:ident).+) => {
        Key {
            name: $name,
            kind: Kind::Integer { minimum: $min, maximum: $max },
            effect: Effect::$effect,
            get: |config| Value::Integer(i64::try_from(config.$($field).+).unwrap_or(i64::MAX)),
            set: |config, value| {
                config.$($field).+ = as_integer(value)?;
                Ok(())
            },
        }
    };
}

macro_rules! milliseconds {
    ($name:literal, $min:expr, $max:expr, $($field:ident).+) => {
        Key {
            name: $name,
            kind: Kind::Integer { minimum: $min, maximum: $max },
            effect: Effect::Reload,
            get: |config| {
                Value::Integer(i64::try_from(config.$($field).+.as_millis()).unwrap_or(i64::MAX))
            },
            set: |config, value| {
                config.$($field).+ = Duration::from_millis(as_integer(value)?);
                Ok(())
            },
        }
    };
}

macro_rules! boolean {
    ($name:literal, $effect:ident, $($field:ident).+) => {
        Key {
            name: $name,
            kind: Kind::Boolean,
            effect: Effect::$effect,
            get: |config| Value::Boolean(config.$($field).+),
            set: |config, value| {
                config.$($field).+ = as_boolean(value)?;
                Ok(())
            },
        }
    };
}

macro_rules! file {
    ($name:literal, $example:literal, $($field:ident).+) => {
        Key {
            name: $name,
            kind: text($example),
            effect: Effect::Restart,
            get: |config| or_word("off", config.$($field).+.as_ref().map(|path| path.display())),
            set: |config, value| {
                config.$($field).+ = unless("off", value, parse_file)?;
                Ok(())
            },
        }
    };
}

macro_rules! parsed {
    ($name:literal, $kind:expr, $effect:ident, $get:expr, $set:expr) => {
        Key { name: $name, kind: $kind, effect: Effect::$effect, get: $get, set: $set }
    };
}

const fn text(example: &'static str) -> Kind {
    Kind::Text { example }
}

/// Every key of the sections that occur once, in the order of the manual
pub(crate) const KEYS: &[Key] = &[
    parsed!("node.name", text("alpha"), Restart, |c| auto_or(c.node.name.as_ref()), |c, v| {
        c.node.name = unless("auto", v, parse_name)?;
        Ok(())
    }),
    parsed!(
        "node.state_directory",
        text("/var/lib/stoq"),
        Restart,
        |c| auto_or(c.node.state_directory.as_ref().map(|p| p.display())),
        |c, v| {
            c.node.state_directory = unless("auto", v, |t| Ok(parse_absolute_path(t)?))?;
            Ok(())
        }
    ),
    parsed!(
        "node.roles",
        Kind::Texts { items_max: Role::ALL.len(), example: "[\"stoq\"]" },
        Restart,
        |c| list(&c.node.roles, |role| role.label().to_owned()),
        |c, v| {
            c.node.roles = parse_roles(v)?;
            Ok(())
        }
    ),
    parsed!("listen.stoq", text("[::]:8444"), Restart, |c| string(c.listen.stoq), |c, v| {
        c.listen.stoq = parse_listen_address(as_text(v)?)?;
        Ok(())
    }),
    parsed!(
        "listen.enrollment",
        text("[::]:8443"),
        Restart,
        |c| or_word("off", c.listen.enrollment),
        |c, v| {
            c.listen.enrollment = unless("off", v, |t| Ok(parse_listen_address(t)?))?;
            Ok(())
        }
    ),
    parsed!(
        "listen.admin_socket",
        text("/run/stoq/stoqd.sock"),
        Restart,
        |c| auto_or(c.listen.admin_socket.as_ref().map(|p| p.display())),
        |c, v| {
            c.listen.admin_socket = unless("auto", v, |t| Ok(parse_socket_path(t)?))?;
            Ok(())
        }
    ),
    parsed!(
        "listen.metrics",
        text("[::1]:8446"),
        Restart,
        |c| or_word("off", c.listen.metrics),
        |c, v| {
            c.listen.metrics = unless("off", v, |t| Ok(parse_listen_address(t)?))?;
            Ok(())
        }
    ),
    parsed!(
        "workers.cores",
        Kind::WordOrIntegers { word: "auto", maximum: PROCESSOR_MAX, items_max: WORKERS_MAX },
        Restart,
        |c| cores_value(&c.workers.cores),
        |c, v| {
            c.workers.cores = parse_cores(v)?;
            Ok(())
        }
    ),
    parsed!(
        "workers.io",
        Kind::Choice(&["auto", "io_uring", "system_calls"]),
        Restart,
        |c| string(c.workers.io.label()),
        |c, v| {
            c.workers.io = choice(v, IoChoice::ALL, IoChoice::label)?;
            Ok(())
        }
    ),
    boolean!("workers.huge_pages", Restart, workers.huge_pages),
    boolean!("workers.busy_poll", Restart, workers.busy_poll),
    integer!("workers.receive_buffers", 8, 4_096, Restart, workers.receive_buffers),
    integer!("workers.receive_buffer_bytes", 64 * KIB, GIB, Restart, workers.receive_buffer_bytes),
    integer!("workers.send_slabs", 2, 1_024, Restart, workers.send_slabs),
    integer!(
        "transport.max_udp_payload_bytes",
        1_200,
        16_383,
        Reload,
        transport.max_udp_payload_bytes
    ),
    boolean!("transport.discover_path_mtu", Reload, transport.discover_path_mtu),
    parsed!(
        "transport.congestion_control",
        Kind::Choice(&["cubic", "bbr2", "reno"]),
        Reload,
        |c| string(congestion_label(c.transport.congestion_control)),
        |c, v| {
            let all = [CongestionControl::Cubic, CongestionControl::Bbr2, CongestionControl::Reno];
            c.transport.congestion_control = choice(v, all, congestion_label)?;
            Ok(())
        }
    ),
    boolean!("transport.pacing", Reload, transport.pacing),
    integer!(
        "transport.initial_window_packets",
        2,
        10_000,
        Reload,
        transport.initial_window_packets
    ),
    milliseconds!("transport.initial_rtt_ms", 1, 10_000, transport.initial_rtt),
    milliseconds!("transport.idle_timeout_ms", 1_000, 600_000, transport.idle_timeout),
    milliseconds!("transport.keep_alive_ms", 100, 300_000, transport.keep_alive),
    milliseconds!("transport.handshake_timeout_ms", 500, 60_000, transport.handshake_timeout),
    boolean!("transport.post_quantum", Reload, transport.post_quantum),
    integer!(
        "transport.connection_window_bytes",
        64 * KIB,
        4 * GIB,
        Reload,
        transport.connection_window_bytes
    ),
    integer!(
        "transport.stream_window_bytes",
        16 * KIB,
        4 * GIB,
        Reload,
        transport.stream_window_bytes
    ),
    integer!(
        "transport.replace_after_packets",
        256,
        (1 << 23) / 8 * 7,
        Reload,
        transport.replace_after_packets
    ),
    milliseconds!("transport.drain_timeout_ms", 100, 600_000, transport.drain_timeout),
    milliseconds!("transport.session_linger_ms", 0, 3_600_000, transport.session_linger),
    integer!("transport.stripe_above_bytes", 0, GIB, Reload, transport.stripe_above_bytes),
    integer!("transport.stripe_connections", 0, 1_024, Reload, transport.stripe_connections),
    boolean!("transport.perf", Reload, transport.perf),
    integer!("limits.connections_per_worker", 1, MIB, Reload, limits.connections_per_worker),
    integer!("limits.half_open_per_worker", 1, 65_536, Reload, limits.half_open_per_worker),
    integer!("limits.half_open_per_prefix", 1, 65_536, Reload, limits.half_open_per_prefix),
    integer!("limits.retry_above_half_open", 0, 65_536, Reload, limits.retry_above_half_open),
    integer!("limits.flows_per_session", 1, MIB, Reload, limits.flows_per_session),
    integer!("limits.sessions_per_worker", 1, MIB, Reload, limits.sessions_per_worker),
    integer!("limits.connections_per_session", 1, 1_024, Reload, limits.connections_per_session),
    integer!("limits.calls_per_connection", 1, 65_536, Reload, limits.calls_per_connection),
    integer!("limits.call_body_bytes", KIB, 64 * MIB, Reload, limits.call_body_bytes),
    integer!(
        "limits.flow_window_initial_bytes",
        4 * KIB,
        GIB,
        Reload,
        limits.flow_window_initial_bytes
    ),
    integer!("limits.flow_window_bytes", 4 * KIB, GIB, Reload, limits.flow_window_bytes),
    integer!(
        "limits.session_buffer_bytes",
        64 * KIB,
        64 * GIB,
        Reload,
        limits.session_buffer_bytes
    ),
    integer!("limits.flow_fragments", 16, MIB, Reload, limits.flow_fragments),
    integer!("limits.control_frame_bytes", KIB, 64 * KIB, Reload, limits.control_frame_bytes),
    integer!("limits.accept_backlog", 1, 65_536, Reload, limits.accept_backlog),
    parsed!(
        "copy.roots",
        Kind::Texts { items_max: ROOTS_MAX, example: "[\"/srv/data\"]" },
        Reload,
        |c| list(&c.copy.roots, |root| root.display().to_string()),
        |c, v| {
            c.copy.roots = parse_roots(v)?;
            Ok(())
        }
    ),
    parsed!("copy.allow", ALLOW, Reload, |c| allow_value(&c.copy.allow), |c, v| {
        c.copy.allow = parse_allow(v)?;
        Ok(())
    }),
    parsed!(
        "trust.authorities",
        Kind::Texts { items_max: AUTHORITIES_MAX, example: "[\"alpha\", \"beta\"]" },
        Restart,
        |c| list(&c.trust.authorities, ToString::to_string),
        |c, v| {
            c.trust.authorities = parse_names(v)?;
            Ok(())
        }
    ),
    parsed!(
        "trust.deny_list_max_age_ms",
        Kind::Integer { minimum: 60_000, maximum: 604_800_000 },
        Restart,
        |c| {
            let age = c.trust.deny_list_max_age.as_millis();
            Value::Integer(i64::try_from(age).unwrap_or(i64::MAX))
        },
        |c, v| {
            c.trust.deny_list_max_age = Duration::from_millis(as_integer(v)?);
            Ok(())
        }
    ),
    boolean!("trust.fail_closed", Restart, trust.fail_closed),
    parsed!(
        "trust.signer_socket",
        text("/run/stoq-signer/signer.sock"),
        Restart,
        |c| or_word("off", c.trust.signer_socket.as_ref().map(|p| p.display())),
        |c, v| {
            c.trust.signer_socket = unless("off", v, |t| Ok(parse_socket_path(t)?))?;
            Ok(())
        }
    ),
    parsed!(
        "trust.operators",
        Kind::WordOrTexts {
            words: &["certified", "nobody"],
            items_max: OPERATORS_MAX,
            example: "[\"ana\", \"ben\"]",
        },
        Restart,
        |c| operators_value(&c.trust.operators),
        |c, v| {
            c.trust.operators = parse_operators(v)?;
            Ok(())
        }
    ),
    parsed!(
        "trust.root_pins",
        Kind::Texts { items_max: PINS_MAX, example: PINS_EXAMPLE },
        Reload,
        |c| list(&c.trust.root_pins, pin_text),
        |c, v| {
            c.trust.root_pins = parse_pins(v)?;
            Ok(())
        }
    ),
    parsed!(
        "trust.issuing_pins",
        Kind::Texts { items_max: PINS_MAX, example: PINS_EXAMPLE },
        Reload,
        |c| list(&c.trust.issuing_pins, pin_text),
        |c, v| {
            c.trust.issuing_pins = parse_pins(v)?;
            Ok(())
        }
    ),
    boolean!("hypermesh.enabled", Restart, hypermesh.enabled),
    file!("hypermesh.genesis", "/etc/stoq/genesis.json", hypermesh.genesis),
    file!("hypermesh.key", "/etc/stoq/hypermesh.key", hypermesh.key),
    parsed!(
        "hypermesh.plots",
        Kind::Texts { items_max: PLOTS_MAX, example: "[\"/srv/plots/first.plot\"]" },
        Restart,
        |c| list(&c.hypermesh.plots, |plot| plot.display().to_string()),
        |c, v| {
            c.hypermesh.plots = parse_roots(v)?;
            Ok(())
        }
    ),
    parsed!(
        "hypermesh.data_directory",
        text("/srv/hypermesh"),
        Restart,
        |c| auto_or(c.hypermesh.data_directory.as_ref().map(|p| p.display())),
        |c, v| {
            c.hypermesh.data_directory = unless("auto", v, |t| Ok(parse_absolute_path(t)?))?;
            Ok(())
        }
    ),
    parsed!(
        "hypermesh.policy",
        Kind::Choice(&["default", "test", "production"]),
        Restart,
        |c| string(c.hypermesh.policy.label()),
        |c, v| {
            c.hypermesh.policy = choice(v, HypermeshPolicy::ALL, HypermeshPolicy::label)?;
            Ok(())
        }
    ),
    parsed!(
        "hypermesh.issuance",
        Kind::Choice(&["off", "wait", "refuse"]),
        Restart,
        |c| string(c.hypermesh.issuance.label()),
        |c, v| {
            c.hypermesh.issuance = choice(v, Issuance::ALL, Issuance::label)?;
            Ok(())
        }
    ),
    parsed!(
        "hypermesh.wait_ms",
        Kind::Integer { minimum: 100, maximum: 600_000 },
        Restart,
        |c| {
            let wait = c.hypermesh.wait.as_millis();
            Value::Integer(i64::try_from(wait).unwrap_or(i64::MAX))
        },
        |c, v| {
            c.hypermesh.wait = Duration::from_millis(as_integer(v)?);
            Ok(())
        }
    ),
    parsed!("hypermesh.clients", ALLOW, Restart, |c| allow_value(&c.hypermesh.clients), |c, v| {
        c.hypermesh.clients = parse_allow(v)?;
        Ok(())
    }),
    parsed!(
        "store.etcd.endpoints",
        Kind::Texts { items_max: ENDPOINTS_MAX, example: "[\"[2001:db8::1]:2379\"]" },
        Restart,
        |c| list(&c.store.etcd.endpoints, ToString::to_string),
        |c, v| {
            c.store.etcd.endpoints = parse_endpoints(v)?;
            Ok(())
        }
    ),
    parsed!(
        "store.etcd.prefix",
        text("stoq/records/"),
        Restart,
        |c| string(&c.store.etcd.prefix),
        |c, v| {
            c.store.etcd.prefix = parse_prefix(as_text(v)?)?;
            Ok(())
        }
    ),
    file!("store.etcd.ca", "/etc/stoq/etcd-ca.pem", store.etcd.ca),
    file!("store.etcd.certificate", "/etc/stoq/etcd.pem", store.etcd.certificate),
    file!("store.etcd.key", "/etc/stoq/etcd.key", store.etcd.key),
    parsed!(
        "store.etcd.server_name",
        text("etcd.example"),
        Restart,
        |c| or_word("off", c.store.etcd.server_name.as_ref()),
        |c, v| {
            c.store.etcd.server_name = unless("off", v, parse_dns_name)?;
            Ok(())
        }
    ),
    parsed!(
        "log.format",
        Kind::Choice(&["human", "json"]),
        Restart,
        |c| string(c.log.format.label()),
        |c, v| {
            c.log.format = choice(v, LogFormat::ALL, LogFormat::label)?;
            Ok(())
        }
    ),
    parsed!(
        "log.filter",
        text("info,stoq_transport=debug"),
        Reload,
        |c| string(&c.log.filter),
        |c, v| {
            c.log.filter = parse_filter(as_text(v)?)?;
            Ok(())
        }
    ),
];

/// The row of a key
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Names of the sections that occur once, in the order of the manual
pub(crate) fn sections() -> Vec<&'static str> {
    let mut names: Vec<&str> = KEYS.iter().map(|key| split(key.name).0).collect();
    names.dedup();
    names
}

/// Section and last part of a dotted name; a section may lie within another
pub(crate) fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoq_interface::{Limits, TransportSettings};

    fn keys_of(section: &str) -> usize {
        KEYS.iter().filter(|key| split(key.name).0 == section).count()
    }

    /// The destructuring fails to compile when a field is added, so that nobody forgets its key
    #[test]
    fn every_field_of_the_shared_settings_has_a_key() {
        let TransportSettings {
            max_udp_payload_bytes: _,
            discover_path_mtu: _,
            congestion_control: _,
            pacing: _,
            initial_window_packets: _,
            initial_rtt: _,
            idle_timeout: _,
            keep_alive: _,
            handshake_timeout: _,
            post_quantum: _,
            connection_window_bytes: _,
            stream_window_bytes: _,
            replace_after_packets: _,
            drain_timeout: _,
            session_linger: _,
            stripe_above_bytes: _,
            stripe_connections: _,
            perf: _,
        } = TransportSettings::default();
        assert_eq!(keys_of("transport"), 18);
        let Limits {
            connections_per_worker: _,
            half_open_per_worker: _,
            half_open_per_prefix: _,
            retry_above_half_open: _,
            flows_per_session: _,
            sessions_per_worker: _,
            connections_per_session: _,
            calls_per_connection: _,
            call_body_bytes: _,
            flow_window_initial_bytes: _,
            flow_window_bytes: _,
            session_buffer_bytes: _,
            flow_fragments: _,
            control_frame_bytes: _,
            accept_backlog: _,
        } = Limits::default();
        assert_eq!(keys_of("limits"), 15);
    }

    /// A key wired to another key's field would change that one instead, or two at once
    #[test]
    fn setting_a_key_changes_that_key_alone() {
        for key in KEYS {
            let changed = match key.kind {
                Kind::Integer { minimum, maximum } => {
                    let now = (key.get)(&Config::default()).as_integer().unwrap();
                    let other = if now == minimum as i64 { maximum } else { minimum };
                    Value::Integer(other as i64)
                }
                Kind::Boolean => Value::Boolean(!(key.get)(&Config::default()).as_bool().unwrap()),
                Kind::Choice(words) => {
                    let now = (key.get)(&Config::default());
                    string(words.iter().find(|word| now.as_str() != Some(word)).unwrap())
                }
                Kind::Texts { .. } if key.name == "node.roles" => {
                    list(&["stoq"], ToString::to_string)
                }
                Kind::Texts { .. } if key.name == "trust.authorities" => {
                    list(&["beta"], ToString::to_string)
                }
                Kind::Texts { .. } if key.name == "store.etcd.endpoints" => {
                    list(&["[::1]:2379"], ToString::to_string)
                }
                Kind::Texts { .. } if key.name.ends_with("_pins") => {
                    list(&[[1; 32], [2; 32]], pin_text)
                }
                Kind::Texts { .. } => list(&["/srv"], ToString::to_string),
                Kind::WordOrTexts { words, .. } => string(words[1]),
                Kind::WordOrIntegers { .. } => Value::Array(vec![Value::Integer(1)]),
                Kind::Text { .. } => string(match key.name {
                    "node.name" => "beta",
                    "node.state_directory" | "listen.admin_socket" | "trust.signer_socket" => {
                        "/tmp/x"
                    }
                    "log.filter" => "debug",
                    "store.etcd.prefix" => "other/",
                    "store.etcd.server_name" => "etcd.example",
                    name if name.starts_with("store.etcd.") => "/tmp/x",
                    name if name.starts_with("hypermesh.") => "/tmp/x",
                    _ => "[::1]:1",
                }),
            };
            let mut config = Config::default();
            key.kind.check(&changed).unwrap();
            (key.set)(&mut config, &changed).unwrap();
            let differing: Vec<&str> = KEYS
                .iter()
                .filter(|k| (k.get)(&config) != (k.get)(&Config::default()))
                .map(|k| k.name)
                .collect();
            assert_eq!(differing, [key.name]);
            assert_eq!((key.get)(&config), changed);
        }
    }

    #[test]
    fn defaults_lie_within_their_own_limits() {
        for key in KEYS {
            let value = (key.get)(&Config::default());
            key.kind.check(&value).unwrap_or_else(|e| panic!("{}: {e:?}", key.name));
        }
    }
}
