//! Why io_uring is not used here: each reason by name, with what an operator can do about it.

use std::io;

/// Why there is no ring, or why it is not trusted
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProbeFailure {
    /// Switched off by configuration
    #[error("io_uring is switched off by configuration")]
    NotWanted,
    /// The kernel has none
    #[error("this kernel has no io_uring (ENOSYS); use Linux 6.1 or newer, built with it")]
    Absent,
    /// Not for this process
    #[error(
        "io_uring is forbidden to this process (EPERM): see sysctl kernel.io_uring_disabled and \
         the container's seccomp profile"
    )]
    Forbidden,
    /// Not enough memory may be locked
    #[error(
        "io_uring may not lock enough memory (ENOMEM): raise the limit (LimitMEMLOCK=, ulimit -l)"
    )]
    Memory,
    /// Not enough descriptors
    #[error("no file descriptor is left for io_uring: raise the limit (LimitNOFILE=, ulimit -n)")]
    Descriptors,
    /// Something this kernel's io_uring cannot do
    #[error("this kernel's io_uring lacks {what}; use Linux 6.1 or newer")]
    Lacks {
        /// What it lacks
        what: &'static str,
    },
    /// Something else was refused
    #[error("the kernel refused {what}: {reason}")]
    Refused {
        /// What was asked for
        what: &'static str,
        /// What the kernel said
        reason: String,
    },
    /// The memory around the ring could not be had
    #[error("{0}")]
    Setup(String),
    /// A train sent through the ring did not arrive as it was
    #[error("{0}")]
    SelfTest(String),
}

impl ProbeFailure {
    /// Names a refusal of `io_uring_setup(2)`, asked for with the flags this crate needs
    pub(crate) fn of_setup(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EINVAL) => {
                Self::Lacks { what: "single issuer with deferred task running (IORING_SETUP_*)" }
            }
            _ => Self::of("io_uring_setup", error),
        }
    }

    /// Names any other refusal
    pub(crate) fn of(what: &'static str, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::Absent,
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(libc::ENOMEM) => Self::Memory,
            Some(libc::EMFILE | libc::ENFILE) => Self::Descriptors,
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Self::Lacks { what },
            _ => Self::Refused { what, reason: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_name() {
        let named = |errno| ProbeFailure::of_setup(&io::Error::from_raw_os_error(errno));
        assert_eq!(named(libc::ENOSYS), ProbeFailure::Absent);
        assert_eq!(named(libc::EPERM), ProbeFailure::Forbidden);
        assert_eq!(named(libc::ENOMEM), ProbeFailure::Memory);
        assert_eq!(named(libc::EMFILE), ProbeFailure::Descriptors);
        assert!(matches!(named(libc::EINVAL), ProbeFailure::Lacks { .. }));
        assert!(matches!(named(libc::EIO), ProbeFailure::Refused { .. }));
        assert!(named(libc::EPERM).to_string().contains("kernel.io_uring_disabled"));
    }
}
