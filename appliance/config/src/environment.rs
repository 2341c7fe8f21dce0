//! The environment variables of the integration plan that mean something in this version. A variable that means
//! nothing yet is an error, not a silence: whoever set it expects an effect.

use std::fmt;
use std::str::FromStr;

/// What the environment asks for
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Environment {
    /// `STOQ_TARGET_THROUGHPUT`: shown beside the measured rate, never a limit
    pub target_throughput: Option<Throughput>,
    /// `TRUSTCHAIN_MODE=production`: the authority refuses weak keys, a root on this host and test profiles
    pub trustchain_production: bool,
}

/// Why an environment variable is refused
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{variable}={value:?}: {reason}; {remedy}")]
pub struct EnvironmentError {
    /// The variable
    pub variable: String,
    /// Its value
    pub value: String,
    /// What is wrong
    pub reason: String,
    /// What to do about it
    pub remedy: String,
}

/// Variables of the plan that belong to parts which this version does not have
const WITHOUT_MEANING: [(&str, &str); 8] = [
    ("HSM_CLUSTER_ID", "this version signs with keys in files and has no HSM driver"),
    (
        "HYPERMESH_CONSENSUS_MODE",
        "there is one way to agree here; [hypermesh] of the file says whether",
    ),
    ("HYPERMESH_ENDPOINT", "all roles of a node run in one process here"),
    ("HYPERMESH_STOQ_TRANSPORT", "validators always talk over STOQ"),
    ("HYPERMESH_TRUSTCHAIN_CA", "a node learns its CA when it is enrolled with a join token"),
    ("STOQ_ENDPOINT", "all roles of a node run in one process here"),
    ("STOQ_TRUSTCHAIN_CA", "a node learns its CA when it is enrolled with a join token"),
    ("TRUSTCHAIN_ENDPOINT", "all roles of a node run in one process here"),
];

impl Environment {
    /// Reads the variables it knows and leaves all others alone; the first wrong one is reported
    pub fn parse<K, V>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, EnvironmentError>
    where
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let mut environment = Self::default();
        for (name, value) in variables {
            environment.variable(name.as_ref(), value.as_ref())?;
        }
        Ok(environment)
    }

    fn variable(&mut self, name: &str, value: &str) -> Result<(), EnvironmentError> {
        let refuse = |reason: &str, remedy: &str| {
            Err(EnvironmentError {
                variable: name.to_owned(),
                value: value.to_owned(),
                reason: reason.to_owned(),
                remedy: remedy.to_owned(),
            })
        };
        match name {
            "IPV6_ONLY" | "STOQ_IPV6_ONLY" => match value {
                "true" => Ok(()),
                "false" => refuse(
                    "this product has no IPv4 code, so there is nothing to switch on",
                    "set it to true or unset it",
                ),
                _ => refuse("this is neither true nor false", "set it to true or unset it"),
            },
            "TRUSTCHAIN_MODE" if value == "production" => {
                self.trustchain_production = true;
                Ok(())
            }
            "TRUSTCHAIN_MODE" => refuse(
                "the mode is production, or it is left out",
                "set it to production or unset it",
            ),
            "STOQ_TARGET_THROUGHPUT" => match value.parse() {
                Ok(target) => {
                    self.target_throughput = Some(target);
                    Ok(())
                }
                Err(ThroughputError) => refuse(
                    "this is not a rate",
                    "write a number above 0 and one of bps, kbps, mbps, gbps, tbps, such as 40gbps",
                ),
            },
            _ => match WITHOUT_MEANING.iter().find(|(known, _)| *known == name) {
                Some((_, reason)) => refuse(reason, "unset it"),
                None => Ok(()),
            },
        }
    }
}

/// A rate, kept in whole bits per second; never zero
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Throughput {
    bits_per_second: u64,
}

/// A text that is no rate
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ThroughputError;

impl fmt::Display for ThroughputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a rate such as 40gbps")
    }
}

impl std::error::Error for ThroughputError {}

const UNITS: [(&str, u32, &str); 5] = [
    ("tbps", 12, "Tb/s"),
    ("gbps", 9, "Gb/s"),
    ("mbps", 6, "Mb/s"),
    ("kbps", 3, "kb/s"),
    ("bps", 0, "b/s"),
];

impl Throughput {
    /// The rate in bits per second
    pub const fn bits_per_second(self) -> u64 {
        self.bits_per_second
    }
}

impl FromStr for Throughput {
    type Err = ThroughputError;

    /// Parses `40gbps` or `2.95 Gbps`; exact, so digits below one bit per second are refused
    fn from_str(text: &str) -> Result<Self, ThroughputError> {
        let lower = text.to_ascii_lowercase();
        let (number, exponent) = UNITS
            .iter()
            .find_map(|(unit, exponent, _)| lower.strip_suffix(unit).map(|n| (n, *exponent)))
            .ok_or(ThroughputError)?;
        let number = number.trim_end();
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(ThroughputError);
        }
        let fraction = fraction.trim_end_matches('0');
        let places = u32::try_from(fraction.len()).map_err(|_| ThroughputError)?;
        let scale = exponent.checked_sub(places).ok_or(ThroughputError)?;
        let digits: u64 = format!("{whole}{fraction}").parse().map_err(|_| ThroughputError)?;
        match digits.checked_mul(10u64.pow(scale)) {
            None | Some(0) => Err(ThroughputError),
            Some(bits_per_second) => Ok(Self { bits_per_second }),
        }
    }
}

impl fmt::Display for Throughput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (_, exponent, unit) in UNITS {
            let one = 10u64.pow(exponent);
            if self.bits_per_second >= one {
                let (whole, rest) = (self.bits_per_second / one, self.bits_per_second % one);
                let fraction = format!("{rest:0width$}", width = exponent as usize);
                let fraction = fraction.trim_end_matches('0');
                return if fraction.is_empty() {
                    write!(f, "{whole} {unit}")
                } else {
                    write!(f, "{whole}.{fraction} {unit}")
                };
            }
        }
        write!(f, "{} b/s", self.bits_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_exact() {
        for (text, bits, shown) in [
            ("40gbps", 40_000_000_000, "40 Gb/s"),
            ("2.95 Gbps", 2_950_000_000, "2.95 Gb/s"),
            ("1.5kbps", 1_500, "1.5 kb/s"),
            ("7bps", 7, "7 b/s"),
            ("1000000 mbps", 1_000_000_000_000, "1 Tb/s"),
            ("1.50bps", 0, ""),
        ] {
            match text.parse::<Throughput>() {
                Ok(rate) => {
                    assert_eq!((rate.bits_per_second(), rate.to_string().as_str()), (bits, shown));
                }
                Err(ThroughputError) => assert_eq!(bits, 0, "{text}"),
            }
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        let long = format!("0.{}gbps", "1".repeat(4_000));
        for text in [
            "",
            "40",
            "gbps",
            "-1gbps",
            "+1gbps",
            "0gbps",
            "0.0gbps",
            "1e9bps",
            ".5gbps",
            "5.gbps",
            "1.2.3gbps",
            "40gibps",
            "18446744073709551616bps",
            "99999999999tbps",
            "١gbps",
            &long,
        ] {
            assert_eq!(text.parse::<Throughput>(), Err(ThroughputError), "{text}");
        }
    }

    #[test]
    fn the_plan_s_variables_are_obeyed_or_refused() {
        let environment = Environment::parse([
            ("IPV6_ONLY", "true"),
            ("STOQ_IPV6_ONLY", "true"),
            ("TRUSTCHAIN_MODE", "production"),
            ("STOQ_TARGET_THROUGHPUT", "40gbps"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert!(environment.trustchain_production);
        assert!(!Environment::default().trustchain_production);
        let target = environment.target_throughput.unwrap();
        assert_eq!(target.bits_per_second(), 40_000_000_000);
        for (variable, value) in [
            ("IPV6_ONLY", "false"),
            ("STOQ_IPV6_ONLY", "1"),
            ("TRUSTCHAIN_MODE", "test"),
            ("STOQ_TARGET_THROUGHPUT", "fast"),
            ("HSM_CLUSTER_ID", "cluster-1"),
        ] {
            let error = Environment::parse([(variable, value)]).unwrap_err();
            assert_eq!((error.variable.as_str(), error.value.as_str()), (variable, value));
            assert!(error.to_string().contains("; "), "{error}");
        }
    }
}
