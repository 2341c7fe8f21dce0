//! How an authority is set up: values the composition root reads from configuration and passes in. Nothing here
//! reads a file or the environment.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stoq_interface::NodeId;

use super::api::Clock;
use super::profile::Profiles;
use crate::log::{Start, TreeHead};
use crate::revocation::crl::Sharding;

/// How strict an authority is: the value of `TRUSTCHAIN_MODE`, read by the composition root
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// A root beside the authority and profiles for tests are accepted
    #[default]
    Development,
    /// They are refused
    Production,
}

impl Mode {
    /// The label used in configuration and status
    pub const fn label(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Production => "production",
        }
    }
}

/// The text names no mode
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("TRUSTCHAIN_MODE is `production` or `development`")]
pub struct ModeError;

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        [Self::Development, Self::Production]
            .into_iter()
            .find(|mode| mode.label() == text)
            .ok_or(ModeError)
    }
}

/// What the validators shall have agreed to
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ToAgree {
    /// [`consensus_statement`](super::consensus_statement): this key, these names, this profile, at this authority
    pub statement: [u8; 32],
    /// The request, PKCS #10 in DER
    pub csr_der: Vec<u8>,
    /// Name of the profile
    pub profile: String,
    /// Whom the certificate shall name
    pub subject: String,
    /// What shows their agreement, as whoever asks has it
    pub proof: Option<Vec<u8>>,
    /// The operator of this very host asks
    pub at_hand: bool,
}

/// Why a certificate is not agreed to
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NotAgreed {
    /// It is not, or something else is. Shown to whoever asked.
    Refused(String),
    /// That cannot be known now: the validators do not answer
    Unavailable(String),
}

/// What a judge's answer comes in
pub type Agreeing = Pin<Box<dyn Future<Output = Result<(), NotAgreed>> + Send>>;

/// Judges whether the validators have agreed to a certificate
pub trait ConsensusProof: Send + Sync {
    /// Whether they have agreed to this, now. It may wait for them as long as it was set up to.
    fn verify(&self, asked: ToAgree, now: SystemTime) -> Agreeing;
}

/// Whether certificates need the validators' agreement
#[derive(Clone, Default)]
pub enum Consensus {
    /// They do not; a proof that is shown is not looked at
    #[default]
    NotRequired,
    /// Every certificate does, other than those of the operator of this host
    Required(Arc<dyn ConsensusProof>),
}

impl fmt::Debug for Consensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRequired => "not required",
            Self::Required(_) => "required",
        })
    }
}

/// How much an authority holds and accepts
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Requests under way at one time; the next is told when to come again
    pub in_flight: usize,
    /// Longest a request waits for its group to be durable
    pub commit_patience: Duration,
    /// Requests one identity may make at once
    pub identity_burst: u32,
    /// One more for each such time
    pub identity_interval: Duration,
    /// Identities whose requests are counted
    pub identities: usize,
    /// Certificates of one batch of the log
    pub batch_entries: usize,
    /// Answered requests that are remembered, so that the same again gets the same certificate
    pub remembered_requests: usize,
    /// Certificates that are remembered until they end
    pub live_certificates: usize,
    /// Registrations
    pub registrations: usize,
    /// Log entries that wait for a checkpoint; more means that publishing fails, and nothing is issued
    pub unpublished_entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight: 1_024,
            commit_patience: Duration::from_secs(10),
            identity_burst: 32,
            identity_interval: Duration::from_millis(250),
            identities: 65_536,
            batch_entries: 256,
            remembered_requests: 32_768,
            live_certificates: 4_000_000,
            registrations: 262_144,
            unpublished_entries: 262_144,
        }
    }
}

/// How an authority is set up
#[derive(Clone)]
pub struct CaSettings {
    /// Where its journal (`journal/`) and the log's public files (`log/`) are
    pub directory: PathBuf,
    /// Its name among the authorities of the mesh; the name of the node it runs on does
    pub instance: NodeId,
    /// How strict it is
    pub mode: Mode,
    /// First line of the log's checkpoints: a host and a path, without scheme
    pub log_origin: String,
    /// What the addresses in certificates begin with: `http://[2001:db8::1]:8080/`, ending in a slash
    pub public_base_uri: String,
    /// What is issued
    pub profiles: Profiles,
    /// How certificates are spread over CRLs
    pub sharding: Sharding,
    /// How much it holds
    pub limits: Limits,
    /// Whether certificates need agreement
    pub consensus: Consensus,
    /// Where its time comes from
    pub clock: Clock,
    /// Heads of this log that witnesses and peers have seen; the published checkpoint counts without being named
    pub known_heads: Vec<TreeHead>,
    /// Whether published files may be missing at the start
    pub published_files: Start,
    /// Longest time from an entry to a checkpoint that covers it, without the writing
    pub checkpoint_interval: Duration,
    /// How long after the end of its last certificate a node may come back with its enrolled key
    pub enrolled_key_grace: Duration,
    /// Certificates of the other authorities under the same root, whose nodes are served here as well; at the start
    pub siblings: Vec<Vec<u8>>,
}

impl CaSettings {
    /// The defaults: development, the compiled-in profiles, the host's clock
    pub fn new(directory: PathBuf, instance: NodeId, public_base_uri: String) -> Self {
        let log_origin = format!("{instance}.nodes.hypermesh/log");
        Self {
            directory,
            instance,
            mode: Mode::default(),
            log_origin,
            public_base_uri,
            profiles: Profiles::default(),
            sharding: Sharding::DEFAULT,
            limits: Limits::default(),
            consensus: Consensus::default(),
            clock: Arc::new(SystemTime::now),
            known_heads: Vec::new(),
            published_files: Start::default(),
            checkpoint_interval: Duration::from_millis(250),
            enrolled_key_grace: Duration::from_secs(7 * 24 * 3_600),
            siblings: Vec::new(),
        }
    }

    /// Where the journal is
    pub fn journal_directory(&self) -> PathBuf {
        self.directory.join("journal")
    }

    /// Where the log's public files are
    pub fn log_directory(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// What the addresses of CRLs begin with
    pub fn crl_base_uri(&self) -> String {
        format!("{}crl/", self.public_base_uri)
    }

    /// Where a certificate names the CRL of its shard
    pub fn crl_uri(&self, issuer: &crate::revocation::KeyId, shard: u8) -> String {
        format!("{}{issuer}-{shard}.crl", self.crl_base_uri())
    }

    /// Where a certificate names its issuer's certificate
    pub fn authority_uri(&self, issuer: &crate::revocation::KeyId) -> String {
        format!("{}ca/{issuer}.crt", self.public_base_uri)
    }

    /// What cannot work, as a sentence
    pub(super) fn check(&self) -> Result<(), String> {
        let ensure = |holds: bool, text: &str| if holds { Ok(()) } else { Err(text.to_owned()) };
        let base = ["http://", "https://"].iter().any(|scheme| {
            self.public_base_uri.strip_prefix(scheme).is_some_and(|rest| rest.len() > 1)
        });
        ensure(
            base && self.public_base_uri.is_ascii() && self.public_base_uri.ends_with('/'),
            "the public base address must be an http or https URI that ends in a slash",
        )?;
        let limits = &self.limits;
        let counted = [
            limits.in_flight,
            limits.identities,
            limits.batch_entries,
            limits.live_certificates,
            limits.registrations,
            limits.unpublished_entries,
        ];
        ensure(
            counted.iter().all(|limit| *limit > 0) && limits.identity_burst > 0,
            "no limit of the authority may be zero, other than remembered_requests",
        )?;
        ensure(limits.batch_entries <= 1_024, "a batch of the log has at most 1,024 entries")?;
        ensure(
            (Duration::from_millis(10)..=Duration::from_millis(900))
                .contains(&self.checkpoint_interval),
            "the checkpoint interval must be between 10 and 900 ms",
        )?;
        if self.mode == Mode::Production {
            self.profiles.check_production()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> CaSettings {
        let instance = NodeId::new("alpha").unwrap();
        CaSettings::new("/nowhere".into(), instance, "http://[::1]:8080/".into())
    }

    #[test]
    fn the_defaults_work_and_each_mistake_is_named() {
        settings().check().unwrap();
        type Spoil = fn(&mut CaSettings);
        let mistakes: [(Spoil, &str); 5] = [
            (|s| s.public_base_uri = "ftp://host/".into(), "http"),
            (|s| s.public_base_uri = "http://host".into(), "slash"),
            (|s| s.limits.in_flight = 0, "zero"),
            (|s| s.limits.batch_entries = 5_000, "1,024"),
            (|s| s.checkpoint_interval = Duration::from_secs(2), "900 ms"),
        ];
        for (spoil, word) in mistakes {
            let mut settings = settings();
            spoil(&mut settings);
            let refused = settings.check().unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn modes_are_named_as_the_environment_names_them() {
        assert_eq!("production".parse(), Ok(Mode::Production));
        assert_eq!("development".parse(), Ok(Mode::Development));
        assert_eq!("Production".parse::<Mode>(), Err(ModeError));
    }
}
