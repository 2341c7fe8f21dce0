//! What runs with very many connections set apart from a node's defaults: how much a worker takes, how long a
//! silent connection lives, which key exchange is offered. Limits that protect a node from strangers are raised
//! here on purpose, so that they are not what is measured.

use std::time::Duration;

use clap::{Args, ValueEnum};
use stoq::{Limits, TransportSettings};

use crate::units::duration;

/// Key exchanges
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum KeyShare {
    /// Post-quantum hybrid
    X25519mlkem768,
    /// Without the post-quantum part
    X25519,
}

impl KeyShare {
    /// As TLS names the group
    pub const fn group(self) -> &'static str {
        match self {
            Self::X25519mlkem768 => "X25519MLKEM768",
            Self::X25519 => "X25519",
        }
    }
}

/// Bounds and lifetimes of both ends
#[derive(Args, Clone, Debug, Default)]
pub struct BoundsArgs {
    /// Connections, sessions and handshakes under way that a worker takes before it refuses one or demands a Retry
    #[arg(long, value_name = "COUNT")]
    pub hold: Option<usize>,
    /// Silence after which a connection ends
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub idle_timeout: Option<Duration>,
    /// Time between pings on a silent connection
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub keep_alive: Option<Duration>,
    /// Key exchange that is offered and accepted
    #[arg(long, value_enum)]
    pub key_exchange: Option<KeyShare>,
}

impl BoundsArgs {
    /// Raises the limits
    pub fn raise(&self, limits: &mut Limits) {
        if let Some(count) = self.hold {
            limits.connections_per_worker = count;
            limits.sessions_per_worker = count;
            limits.half_open_per_worker = count;
            limits.half_open_per_prefix = count;
            limits.retry_above_half_open = count;
        }
    }

    /// Puts the lifetimes and the key exchange into `settings`
    pub fn settle(&self, settings: &mut TransportSettings) {
        if let Some(time) = self.idle_timeout {
            settings.idle_timeout = time;
        }
        if let Some(time) = self.keep_alive {
            settings.keep_alive = time;
        }
        if let Some(share) = self.key_exchange {
            settings.post_quantum = share == KeyShare::X25519mlkem768;
        }
    }

    /// These bounds as arguments of another process
    pub fn arguments(&self) -> Vec<String> {
        let time = |name: &str, time: Duration| format!("--{name}={}ms", time.as_millis());
        let share = self.key_exchange.and_then(|share| share.to_possible_value());
        [
            self.hold.map(|count| format!("--hold={count}")),
            self.idle_timeout.map(|t| time("idle-timeout", t)),
            self.keep_alive.map(|t| time("keep-alive", t)),
            share.map(|share| format!("--key-exchange={}", share.get_name())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bounds: BoundsArgs,
    }

    #[test]
    fn bounds_survive_being_passed_on_and_are_applied() {
        let bounds = BoundsArgs {
            hold: Some(100_000),
            idle_timeout: Some(Duration::from_secs(3_600)),
            keep_alive: Some(Duration::from_millis(1_500)),
            key_exchange: Some(KeyShare::X25519),
        };
        let words = std::iter::once("line".to_owned()).chain(bounds.arguments());
        let passed = Line::try_parse_from(words).unwrap().bounds;
        assert_eq!(format!("{passed:?}"), format!("{bounds:?}"));
        let (mut limits, mut settings) = (Limits::default(), TransportSettings::default());
        passed.raise(&mut limits);
        passed.settle(&mut settings);
        assert_eq!((limits.sessions_per_worker, limits.retry_above_half_open), (100_000, 100_000));
        assert_eq!((settings.keep_alive.as_millis(), settings.post_quantum), (1_500, false));
    }

    #[test]
    fn without_bounds_the_defaults_stay() {
        let bounds = BoundsArgs::default();
        assert!(bounds.arguments().is_empty());
        let (mut limits, mut settings) = (Limits::default(), TransportSettings::default());
        bounds.raise(&mut limits);
        bounds.settle(&mut settings);
        assert_eq!(limits, Limits::default());
        assert_eq!(settings, TransportSettings::default());
    }
}
