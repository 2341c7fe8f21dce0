//! The authority of this node, for the operator's commands: what they need of it, and its refusals as `stoqctl` says
//! them.

use std::borrow::Cow;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use stoq::NodeId;
use stoq_admin::{ApiError, ExitCode};
use stoq_trustchain::audit::{AuditEvent, AuditLog};
use stoq_trustchain::ca::keys::IssuingKeys;
use stoq_trustchain::ca::revoke::Revocations;
use stoq_trustchain::ca::{Blame, Ca, Refusal, Registration};
use stoq_trustchain::signer::Signer;

use super::Admin;
use crate::identity::{OwnAuthority, Source};

/// What the commands about the authority need; the composition root fills it in
pub struct Desk {
    /// Issues
    pub ca: Ca,
    /// Writes what was done
    pub audit: AuditLog,
    /// Revokes
    pub revocations: Revocations,
    /// Takes its issuing keys from state to state
    pub issuing_keys: IssuingKeys,
    /// The keys themselves
    pub keys: Arc<dyn Signer>,
    /// Its directory: certificates, keys where they are in files, and its state
    pub home: PathBuf,
    /// Where its journal (`journal/`) and the log's published files (`log/`) are
    pub directory: PathBuf,
    /// The file that remembers what was published
    pub high_water: PathBuf,
}

impl Desk {
    /// The journal's directory
    pub fn journal_directory(&self) -> PathBuf {
        self.directory.join("journal")
    }

    /// The transparency log's published files
    pub fn log_directory(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Makes an asset known to the authority as a node's, unless it is that already. Who owns it is the validators' to say:
    /// without their receipt nothing is issued for it.
    pub async fn register_asset(&self, asset: &str, node: &NodeId) -> Result<(), ApiError> {
        let registration = Registration {
            profile: "asset".to_owned(),
            subject: asset.to_owned(),
            owner: Some(node.clone()),
            addresses: Vec::new(),
            alternative_names: false,
        };
        self.ca.register(registration).await.map_err(|error| refused(&error))
    }

    /// Writes down what an operator did. It is done by then: an audit log that fails is said, and not hidden
    /// behind a command that seems to have failed.
    pub async fn record(&self, event: AuditEvent) {
        if let Err(error) = self.audit.record(event).await {
            tracing::error!(%error, "an operator's command is not in the audit log");
        }
    }
}

/// The books of this node's own authority
pub fn own(admin: &Admin) -> Result<OwnAuthority, ApiError> {
    match admin.0.identities().source {
        Source::Own(own) => Ok(own),
        Source::Joined => Err(ApiError::conflict(
            "no-authority",
            "this node has joined another and issues no certificates",
            "give the command on the node it joined: `stoqctl node show` names it",
        )),
    }
}

/// The authority of this node, where it runs one
pub fn desk(admin: &Admin) -> Result<Arc<Desk>, ApiError> {
    own(admin)?;
    admin.1.clone().ok_or_else(|| {
        ApiError::conflict(
            "no-authority",
            "the certificate authority of this node does not run as a service",
            "name the role trustchain in node.roles of stoqd.toml and restart",
        )
    })
}

/// A refusal of the authority
pub fn refused(refusal: &Refusal) -> ApiError {
    let (exit_code, remedy) = match refusal.blame() {
        Blame::Caller => (ExitCode::Usage, "correct the command".to_owned()),
        Blame::Credential => {
            (ExitCode::Permission, "`stoqctl ca status` shows what the authority knows".to_owned())
        }
        Blame::Later => {
            let wait = refusal.retry_after().map_or(30, |wait| wait.as_secs().max(1));
            (ExitCode::TimedOut, format!("try again in {wait} s"))
        }
        Blame::Host => (
            ExitCode::Failed,
            "`stoqctl doctor` looks for the cause; the log of stoqd has more".to_owned(),
        ),
    };
    let code = Cow::Owned(refusal.code().replace('_', "-"));
    ApiError { code, message: refusal.to_string(), remedy, exit_code }
}

/// Something of this host failed
pub fn broken(code: &'static str, error: impl Display) -> ApiError {
    ApiError::failed(code, error.to_string(), "`stoqctl doctor` looks for the cause")
}

/// Octets, hexadecimal
pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn whose_turn_it_is_decides_the_exit_code() {
        let busy = refused(&Refusal::Busy { retry_after: Duration::from_millis(2_500) });
        assert_eq!(
            (busy.exit_code, busy.remedy.as_str()),
            (ExitCode::TimedOut, "try again in 2 s")
        );
        let unknown = refused(&Refusal::UnknownProfile("x".into()));
        assert_eq!((unknown.exit_code, &*unknown.code), (ExitCode::Usage, "unknown-profile"));
        assert_eq!(refused(&Refusal::TokenUsed).exit_code, ExitCode::Permission);
        assert_eq!(refused(&Refusal::Stopped("disk".into())).exit_code, ExitCode::Failed);
        assert_eq!(refused(&Refusal::NoSpace).remedy, "try again in 30 s");
    }
}
