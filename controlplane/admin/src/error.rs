//! The one error shape of the admin interface: a stable code, a sentence with the cause, a sentence with
//! the remedy, and the exit code with which `stoqctl` ends. Not for the data plane's own reasons.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How `stoqctl` ends; the numbers are part of the interface
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(into = "u8", try_from = "u8")]
#[repr(u8)]
pub enum ExitCode {
    /// Done, or conforming
    Done = 0,
    /// The operation failed
    Failed = 1,
    /// The request makes no sense
    Usage = 2,
    /// Unhealthy, or different from what it should be
    Unhealthy = 3,
    /// A restart, a reboot or another act of the operator is needed
    OperatorNeeded = 4,
    /// The caller or the daemon lacks a permission
    Permission = 5,
    /// `stoqd` cannot be reached
    Unreachable = 6,
    /// Time ran out
    TimedOut = 7,
    /// Somebody else changed or holds the thing
    Conflict = 8,
}

impl ExitCode {
    /// Every exit code, by number
    pub const ALL: [Self; 9] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Unhealthy,
        Self::OperatorNeeded,
        Self::Permission,
        Self::Unreachable,
        Self::TimedOut,
        Self::Conflict,
    ];
}

impl From<ExitCode> for u8 {
    fn from(code: ExitCode) -> Self {
        code as Self
    }
}

impl TryFrom<u8> for ExitCode {
    type Error = String;
    fn try_from(number: u8) -> Result<Self, String> {
        Self::ALL
            .get(usize::from(number))
            .copied()
            .ok_or_else(|| format!("{number} is not an exit code"))
    }
}

/// Why an operation was not done
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ApiError {
    /// Stable, kebab-case: for programs
    pub code: Cow<'static, str>,
    /// The cause, one sentence: for people
    pub message: String,
    /// What to do about it, one sentence; empty where nothing can be done
    pub remedy: String,
    /// How `stoqctl` ends
    pub exit_code: ExitCode,
}

impl ApiError {
    /// An error with every part given
    pub fn new(
        exit_code: ExitCode,
        code: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            code: Cow::Borrowed(code),
            message: message.into(),
            remedy: remedy.into(),
            exit_code,
        }
    }

    /// The operation was tried and failed
    pub fn failed(
        code: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(ExitCode::Failed, code, message, remedy)
    }

    /// The request makes no sense
    pub fn usage(
        code: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(ExitCode::Usage, code, message, remedy)
    }

    /// Somebody else holds or changed the thing
    pub fn conflict(
        code: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(ExitCode::Conflict, code, message, remedy)
    }

    /// A permission is missing
    pub fn permission(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(ExitCode::Permission, "permission-denied", message, remedy)
    }

    /// Time ran out
    pub fn timed_out(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(ExitCode::TimedOut, "timed-out", message, remedy)
    }

    /// The named thing does not exist: `not_found("session", "1f", "stoqctl session list")`
    pub fn not_found(what: &str, name: impl fmt::Display, list_command: &str) -> Self {
        Self::new(
            ExitCode::Failed,
            "not-found",
            format!("there is no {what} {name}"),
            format!("`{list_command}` shows what there is"),
        )
    }

    /// The HTTP status that goes with the error
    pub(crate) fn http_status(&self) -> hyper::StatusCode {
        use hyper::StatusCode;
        match (self.exit_code, self.code.as_ref()) {
            (_, "not-found" | "no-such-operation") => StatusCode::NOT_FOUND,
            (_, "method-not-allowed") => StatusCode::METHOD_NOT_ALLOWED,
            (_, "request-too-large") => StatusCode::PAYLOAD_TOO_LARGE,
            (ExitCode::Usage, _) => StatusCode::BAD_REQUEST,
            (ExitCode::Permission, _) => StatusCode::FORBIDDEN,
            (ExitCode::Conflict, _) => StatusCode::CONFLICT,
            (ExitCode::TimedOut, _) => StatusCode::GATEWAY_TIMEOUT,
            (ExitCode::Unhealthy | ExitCode::OperatorNeeded, _) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " ({})", self.remedy) }
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_their_position() {
        for (number, code) in ExitCode::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(u8::from(code)), number);
            assert_eq!(ExitCode::try_from(u8::from(code)), Ok(code));
        }
        assert!(ExitCode::try_from(9).is_err());
    }

    #[test]
    fn an_error_survives_json_with_a_number_for_its_exit_code() {
        let error = ApiError::conflict("service-exists", "web is published", "remove it first");
        let json = serde_json::to_value(&error).unwrap();
        assert_eq!(json["exit_code"], 8);
        assert_eq!(serde_json::from_value::<ApiError>(json).unwrap(), error);
    }
}
